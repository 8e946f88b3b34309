"""The module of a baseline: no networks, only what the training cells have shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from scvi.module.base import BaseModuleClass

from perturbia.model.baseline._training_effects import TrainingEffects

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ClosedFormModule"]


class ClosedFormModule(BaseModuleClass):
    """Buffers with the measured effects, so that saving, loading and moving work as for any module of scvi-tools.

    Parameters
    ----------
    n_perturbations
        Number of registered single perturbations.
    n_features
        Number of features.
    n_batch
        Number of batches.
    """

    def __init__(self, n_perturbations: int, n_features: int, n_batch: int) -> None:
        super().__init__()
        self.n_perturbations = n_perturbations
        integers = {"indptr": (1,), "indices": (0,), "n_cells": (0,)}
        reals = {
            "doses": (0,),
            "effects": (0, n_features),
            "variance": (0, n_features),
            "control_variance": (n_batch, n_features),
            "control_weight": (0, n_batch),
            "solution": (0, 0),
        }
        for names, dtype in ((integers, torch.int64), (reals, torch.float32)):
            for name, shape in names.items():
                self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    @property
    def device(self) -> torch.device:
        """Device of the buffers; the module has no parameters to ask."""
        return self.effects.device

    def remember(self, measured: TrainingEffects, solution: np.ndarray) -> None:
        """Keep measured effects, and what a model has derived from them.

        Parameters
        ----------
        measured
            The effects.
        solution
            Any numbers, such as regression coefficients.
        """
        dosage = measured.dosage
        arrays = {
            "indptr": dosage.indptr,
            "indices": dosage.indices,
            "doses": dosage.data,
            "effects": measured.effects,
            "variance": measured.variance,
            "control_variance": measured.control_variance,
            "control_weight": measured.control_weight,
            "n_cells": measured.n_cells,
            "solution": solution,
        }
        for name, array in arrays.items():
            old = getattr(self, name)
            setattr(self, name, torch.tensor(np.asarray(array), dtype=old.dtype, device=old.device))

    def measured(self) -> TrainingEffects:
        """The effects that were kept; arrays share memory with the buffers on a CPU."""
        arrays = {name: buffer.cpu().numpy() for name, buffer in self.named_buffers()}
        shape = (len(arrays["n_cells"]), self.n_perturbations)
        dosage = sparse.csr_matrix((arrays["doses"], arrays["indices"], arrays["indptr"]), shape=shape)
        names = ("effects", "variance", "control_variance", "control_weight", "n_cells")
        return TrainingEffects(dosage, *(arrays[name] for name in names))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # how many distinct perturbations were measured is known after training only
        for name, buffer in list(self.named_buffers()):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, buffer.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
