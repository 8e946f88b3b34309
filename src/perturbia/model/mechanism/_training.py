"""Training of latent-shift models: splits, closed-form updates, and a schedule in steps."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from scvi.model.base import UnsupervisedTrainingMixin

from perturbia import _keys
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._training_plan import PerturbationTrainingPlan
from perturbia.model.mechanism._global_updates import ClosedFormUpdates, Rotation, UpdateSchedule
from perturbia.model.mechanism._reference_statistics import ReferenceStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

__all__ = ["MechanismTraining"]

logger = logging.getLogger(__name__)


class MechanismTraining(UnsupervisedTrainingMixin):
    """`train` of models whose perturbations shift latents."""

    _training_plan_cls = PerturbationTrainingPlan
    # identity of the data that `train_indices` refers to, saved with the model
    trained_on_: str | None = None

    def train(
        self,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        split_key: str | None = _keys.OBS_SPLIT,
        train_size: float = 0.9,
        batch_size: int = 256,
        rotation: Rotation | None = None,
        rotate_at: Sequence[float] = (0.3, 0.5, 0.8),
        update_every: int = 25,
        sparsify_at: float = 0.3,
        spike_width: float | Literal["em"] = 0.0,
        max_update_cells: int = 20_000,
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model; a trained one goes on from where it is, on a schedule of its own.

        Parameters
        ----------
        max_epochs
            Passes through the training cells; by default as many as `max_steps` needs.
        max_steps
            Optimiser steps, 4,000 by default; ignored if `max_epochs` is given.
        accelerator, devices
            Where to train, as in scvi-tools; ``accelerator="gpu"`` for one GPU.
        split_key
            Column of `obs` with ``train``, ``valid`` and ``test``; the default is used if it exists, ``None`` ignores it.
        train_size
            Share of cells that train when there is no such column; the rest validates.
        batch_size
            Cells per step.
        rotation
            Turning of the latent basis towards sparse effects; ``"l1"`` by default, ``"none"`` under the published
            guides.
        rotate_at
            Fractions of the training at which to turn it.
        update_every
            Steps between closed-form updates of masks and embeddings.
        sparsify_at
            Fraction of the training from which masks feel their prior; before, the prior probability is one half.
        spike_width
            Standard deviation of shifts that count as none, in basal standard deviations; ``"em"`` estimates it from
            the closed entries. Strong shifts leak into other latents where the encoder bends, and many cells make a
            leak significant; a width keeps such masks closed, at the price of weak shifts that are real. Acts in the
            last closed-form update.
        max_update_cells
            Training cells, drawn anew each time, that a closed-form update encodes; of the others it remembers the last
            encoding. The first update and the last encode all.
        plan_kwargs
            Arguments of :class:`~perturbia.model.base.PerturbationTrainingPlan`, such as ``lr``.
        datasplitter_kwargs
            Arguments of :class:`scvi.dataloaders.DataSplitter`.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``enable_progress_bar`` or ``early_stopping``.

        Returns
        -------
        Nothing; the model is trained in place, curves are in `history`.

        Raises
        ------
        SplitError
            If `split_key` names a column that does not exist or holds no training cells.
        ValueError
            If the length of the training, the size of batches or the schedule of updates is out of range.
        """
        _check_schedule(
            max_epochs,
            max_steps,
            batch_size,
            update_every,
            max_update_cells,
            rotation,
            rotate_at,
            sparsify_at,
            spike_width,
        )
        splits = self._split_indices(split_key, train_size)
        n_batches = math.ceil(len(splits[0]) / batch_size)
        n_steps = max_epochs * n_batches if max_epochs is not None else (4000 if max_steps is None else max_steps)
        max_epochs = math.ceil(n_steps / n_batches) if max_epochs is None else max_epochs
        self._gather_statistics(splits[0])
        self.module.train()
        callbacks = list(trainer_kwargs.pop("callbacks", None) or [])
        rotation = rotation or ("l1" if self.global_update == "closed_form" else "none")
        if self.global_update == "closed_form" or rotation != "none":
            schedule = UpdateSchedule(
                n_steps,
                first=min(200, n_steps // 10),
                every=update_every,
                rotate_at=tuple(rotate_at),
                sparsify_at=sparsify_at,
            )
            options = {"rotation": rotation, "max_cells": max_update_cells, "spike_width": spike_width}
            callbacks.append(self._global_updates(splits[0], schedule, **options))
        trainer_kwargs.setdefault("check_val_every_n_epoch", max(1, max_epochs // 20) if len(splits[1]) else None)
        with _quiet_third_parties(), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            super().train(
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                batch_size=batch_size,
                datasplitter_kwargs={"external_indexing": splits, **(datasplitter_kwargs or {})},
                plan_kwargs={"n_steps": n_steps, **(plan_kwargs or {})},
                callbacks=callbacks,
                max_steps=n_steps,
                **trainer_kwargs,
            )
        self.trained_on_ = _identity(self.adata)
        if self.global_update == "gradient":
            # no gradient has ever reached them: the prior is what we know
            self.module.effects.reset_to_prior(self.module.n_treated == 0)

    def _split_indices(self, split_key: str | None, train_size: float) -> list[np.ndarray]:
        marked = self._marked_splits(split_key)
        if marked is not None:
            return marked
        if not 0 < train_size <= 1:
            msg = f"train_size: expected a share in (0, 1], got {train_size}."
            raise ValueError(msg)
        n_obs = self.adata.n_obs
        order = np.random.default_rng(self.seed).permutation(n_obs)
        n_train = math.ceil(train_size * n_obs)
        return [np.sort(order[:n_train]), np.sort(order[n_train:]), np.array([], dtype=int)]

    def _training_cells(self) -> np.ndarray | None:
        """Positions of the training cells; None if the data of the model are not those it was trained on."""
        if self.adata is None or self.train_indices is None or self.trained_on_ != _identity(self.adata):
            return None
        return np.sort(np.asarray(self.train_indices))

    def _gather_statistics(self, indices: np.ndarray) -> None:
        loader = self._make_data_loader(adata=self.adata, indices=indices, batch_size=2048)
        ReferenceStatistics.gather(loader, counts=self.module.is_count_model).write(
            self.module, restart=not self.is_trained_
        )

    def _global_updates(self, indices: np.ndarray, schedule: UpdateSchedule, **options: Any) -> ClosedFormUpdates:
        effects = self.module.effects
        return ClosedFormUpdates(
            self.module,
            partial(self._encoder_means, self.adata, indices),  # a closure could not be pickled with the model
            self._registered_dosage(self.adata, indices),
            schedule=schedule,
            mask_prior_prob=1 / (1 + math.exp(-effects.mask_prior_logit)),
            embedding_prior_scale=effects.embedding_prior_scale,
            closed_form=self.global_update == "closed_form",
            **options,
        )

    @torch.inference_mode()
    def _encoder_means(self, adata: AnnData, indices: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Encode `indices[chosen]` with the encoder of the moment."""
        means = []
        for tensors in self._make_data_loader(adata=adata, indices=indices[chosen], batch_size=4096):
            inputs = self.module._get_inference_input(self._on_device(tensors))
            inputs.pop("size_factor"), inputs.pop("dosage")
            means.append(self.module.encode(offset=None, **inputs).loc.cpu())
        return torch.cat(means).numpy()


def _identity(adata: AnnData) -> str:
    return hashlib.sha256("\n".join(adata.obs_names.astype(str)).encode()).hexdigest()[:12]


def _check_schedule(
    max_epochs: int | None,
    max_steps: int | None,
    batch_size: int,
    update_every: int,
    max_update_cells: int,
    rotation: str | None,
    rotate_at: Sequence[float],
    sparsify_at: float,
    spike_width: float | str,
) -> None:
    counts = {
        "max_epochs": max_epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "update_every": update_every,
        "max_update_cells": max_update_cells,
    }
    for name, count in counts.items():
        if count is not None:
            check_positive_integer(name, count)
    check_choice("rotation", rotation, (*get_args(Rotation), None))
    if not all(0 <= fraction <= 1 for fraction in rotate_at):
        msg = f"rotate_at: expected fractions of the training between 0 and 1, got {tuple(rotate_at)}."
        raise ValueError(msg)
    if not 0 <= sparsify_at <= 1:
        msg = f"sparsify_at: expected a fraction of the training between 0 and 1, got {sparsify_at}."
        raise ValueError(msg)
    if spike_width != "em" and not (isinstance(spike_width, int | float) and spike_width >= 0):
        msg = f"spike_width: expected zero, a positive number or 'em', got {spike_width!r}."
        raise ValueError(msg)


@contextmanager
def _quiet_third_parties() -> Iterator[None]:
    """Silence notices that our users can do nothing about, for the time of the training."""
    names = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [third_party.level for third_party in loggers]
    with warnings.catch_warnings():
        for pattern in (".*does not have many workers.*", ".*number of training batches.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", message=pattern)
        try:
            for third_party in loggers:
                third_party.setLevel(logging.WARNING)
            yield
        finally:
            for third_party, level in zip(loggers, levels, strict=True):
                third_party.setLevel(level)
