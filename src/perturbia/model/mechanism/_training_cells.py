"""Where the cells of a training come from: splits of registered data, or a data module."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden

from perturbia.model.mechanism._encoded_cells import EncodedCells, RememberedCells, RunningCells, Statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import lightning.pytorch as pl

    from perturbia.model.mechanism._training import MechanismTraining
    from perturbia.nn import GivenTreatments

__all__ = ["ModuleCells", "SplitCells"]

_MIN_WINDOW = 20_000


class SplitCells:
    """Training cells of registered data.

    Parameters
    ----------
    model
        The model, which has data.
    splits
        Positions of the cells that train, validate and test.
    batch_size
        Cells per step and process.
    n_processes
        Processes that share the cells.
    """

    def __init__(
        self, model: MechanismTraining, splits: list[np.ndarray], batch_size: int, n_processes: int = 1
    ) -> None:
        self.model, self.indices = model, splits[0]
        self.validates = len(splits[1]) > 0
        self.n_batches = math.ceil(math.ceil(len(splits[0]) / n_processes) / batch_size)
        self.splits = splits

    def batches(self) -> Iterable[dict[str, torch.Tensor]]:
        """One pass, in order."""
        return self.model._make_data_loader(adata=self.model.adata, indices=self.indices, batch_size=2048)

    def encoded(self, statistics: Statistics, max_cells: int) -> EncodedCells:
        """The encoded cells, as closed-form updates ask for them."""
        if statistics == "remembered":
            # a closure could not be pickled with the model
            return RememberedCells(partial(_encode_chosen, self.model, self.indices), max_cells=max_cells)
        window = max(len(self.indices), _MIN_WINDOW)
        return RunningCells(partial(_encode_batches, self.model, self.batches), window=window)


class ModuleCells:
    """Training cells of a data module.

    Parameters
    ----------
    model
        The model, which has no data.
    datamodule
        Source of minibatches.
    """

    splits: list[np.ndarray] | None = None

    def __init__(self, model: MechanismTraining, datamodule: pl.LightningDataModule) -> None:
        if model.adata is not None:
            msg = (
                "datamodule: expected None for a model that has data. Make the model with registry= and without adata."
            )
            raise ValueError(msg)
        self.model, self.datamodule = model, datamodule
        datamodule.setup("fit")
        self.n_batches = sum(1 for _ in self.batches())
        self.validates = is_overridden("val_dataloader", datamodule) and datamodule.val_dataloader() is not None

    def batches(self) -> Iterable[dict[str, torch.Tensor]]:
        """One pass, in the order of the data module."""
        return self.datamodule.train_dataloader()

    def encoded(self, statistics: Statistics, max_cells: int) -> EncodedCells:
        """Running sums, whatever is asked for: cells have no positions here."""
        del statistics, max_cells
        return RunningCells(partial(_encode_batches, self.model, self.batches), window=_MIN_WINDOW)


@torch.inference_mode()
def _encode_chosen(model: MechanismTraining, indices: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Encoder means of the cells `indices[chosen]`, with the encoder of the moment."""
    loader = model._make_data_loader(adata=model.adata, indices=indices[chosen], batch_size=4096)
    means = [means.cpu() for _, means in _encode_batches(model, lambda: loader)]
    return torch.cat(means).numpy() if means else np.zeros((0, model.module.n_latent), np.float32)


@torch.inference_mode()
def _encode_batches(model: MechanismTraining, batches: Any) -> Iterator[tuple[GivenTreatments, torch.Tensor]]:
    """Treatments, as rows of effects, and encoder means of every minibatch."""
    for tensors in batches():
        own = model._on_device(tensors)
        yield model.module.design(model.module.given(own)), model.module.guide(own).loc
