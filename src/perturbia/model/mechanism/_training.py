"""Training of latent-shift models: splits, closed-form updates, and a schedule in steps."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import scvi
import torch
from scvi.model._utils import parse_device_args, use_distributed_sampler
from scvi.model.base import UnsupervisedTrainingMixin

from perturbia import _keys
from perturbia.errors import SplitError, UnsupportedQuery
from perturbia.model.base._arguments import check_choice, check_positive_integer, check_train_size
from perturbia.model.base._minified import is_minified
from perturbia.model.base._third_party_notices import quiet_third_parties
from perturbia.model.base._training_plan import PerturbationTrainingPlan
from perturbia.model.mechanism._best_networks import BestNetworks
from perturbia.model.mechanism._encoded_cells import Statistics
from perturbia.model.mechanism._global_updates import ClosedFormUpdates, Rotation
from perturbia.model.mechanism._reference_statistics import ReferenceStatistics
from perturbia.model.mechanism._training_cells import ModuleCells, SplitCells
from perturbia.model.mechanism._update_schedule import UpdateSchedule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import lightning.pytorch as pl
    from anndata import AnnData
    from scipy import sparse

    from perturbia.model.mechanism._feature_prior import FeaturePrior

__all__ = ["MechanismTraining", "identity_of"]

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
        statistics: Statistics = "remembered",
        max_update_cells: int = 20_000,
        keep: Literal["last", "best"] = "last",
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        datamodule: pl.LightningDataModule | None = None,
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
        statistics
            What closed-form updates know of the cells. ``"remembered"``: the encodings of all training cells, some of
            them renewed for each update. ``"running"``: fading sums over the minibatches, which cost no encoding of
            their own and hold nothing of the size of the cells, for data that never sit in memory. The last update
            encodes all cells anew under both.
        max_update_cells
            Training cells, drawn anew each time, that a closed-form update encodes; of the others it remembers the last
            encoding. The first update and the last encode all.
        keep
            ``"best"`` returns to the networks of the lowest validation bound, and finds masks and embeddings anew
            for them; ``"last"`` keeps those of the last step.
        plan_kwargs
            Arguments of :class:`~perturbia.model.base.PerturbationTrainingPlan`, such as ``lr``.
        datasplitter_kwargs
            Arguments of :class:`scvi.dataloaders.DataSplitter`.
        datamodule
            Source of minibatches in place of registered data, for a model made from a registry: `train_dataloader`
            and, for validation, `val_dataloader` yield the registered tensors, with ``"perturbation"`` a dense dosage
            matrix or ``"treatment_index"`` and ``"treatment_dose"``. Implies ``statistics="running"``.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``enable_progress_bar``, ``early_stopping`` or
            ``strategy="ddp_find_unused_parameters_true"`` with several `devices`.

        Returns
        -------
        Nothing; the model is trained in place, curves are in `history`.

        Raises
        ------
        SplitError
            If `split_key` names a column that does not exist or holds no training cells.
        ValueError
            If the length of the training, the size of batches or the schedule of updates is out of range.
        UnsupportedQuery
            If the data of the model are minified.
        """
        if self.adata is not None and is_minified(self.adata):
            msg = "train: expected data with features, got minified data. Make a model of the original data."
            raise UnsupportedQuery(msg)
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
        check_choice("statistics", statistics, get_args(Statistics))
        check_choice("keep", keep, ("last", "best"))
        strategy = trainer_kwargs.get("strategy")
        source = (
            SplitCells(self, self._split_indices(split_key, train_size), batch_size, _n_processes(devices, strategy))
            if datamodule is None
            else ModuleCells(self, datamodule)
        )
        if keep == "best" and not source.validates:
            msg = "keep: expected 'last' without validation cells, got 'best'. Hold some out, as by train_size=0.9."
            raise SplitError(msg)
        n_steps = (
            max_epochs * source.n_batches if max_epochs is not None else (4000 if max_steps is None else max_steps)
        )
        max_epochs = math.ceil(n_steps / source.n_batches) if max_epochs is None else max_epochs
        gathered = ReferenceStatistics.gather(source.batches(), self.module)
        gathered.write(self.module, restart=not self.is_trained_)
        self.module.train()
        if rotation not in {None, "none"} and not self.module.effects.has_closed_kl:
            msg = f"rotation: expected 'none' with embedding_guide='correlated', whose network reads the axes, got {rotation!r}."
            raise ValueError(msg)
        rotation = rotation or ("l1" if self.global_update == "closed_form" else "none")
        schedule = UpdateSchedule(
            n_steps,
            first=min(200, n_steps // 10),
            every=update_every,
            rotate_at=tuple(rotate_at),
            sparsify_at=sparsify_at,
        )
        cells = source.encoded(statistics, max_update_cells)
        updates = ClosedFormUpdates(
            self.module,
            cells,
            gathered.dosage,
            schedule=schedule,
            closed_form=self.global_update == "closed_form",
            rotation=rotation,
            spike_width=spike_width,
            centre=self._centres(gathered.dosage),
            feature_prior=self._feature_prior(),
        )
        callbacks = list(trainer_kwargs.pop("callbacks", None) or [])
        callbacks += [BestNetworks(self.module, updates)] if keep == "best" else []
        callbacks.append(updates)
        trainer_kwargs.setdefault("check_val_every_n_epoch", max(1, max_epochs // 20) if source.validates else None)
        self._fit(
            max_epochs=max_epochs,
            max_steps=n_steps,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            splits=source.splits,
            datasplitter_kwargs=datasplitter_kwargs,
            datamodule=datamodule,
            plan_kwargs={"n_steps": n_steps, **(plan_kwargs or {})},
            callbacks=callbacks,
            **trainer_kwargs,
        )
        self.trained_on_ = None if self.adata is None else identity_of(self.adata)
        if self.global_update == "gradient":
            self.module.settle_effects()

    def _fit(self, *, splits: list[np.ndarray] | None, datasplitter_kwargs: dict | None = None, **options: Any) -> None:
        """scvi-tools' training, seeded and without notices that our users can do nothing about."""
        options["datasplitter_kwargs"] = dict(datasplitter_kwargs or {})
        if splits is not None:
            # scvi-tools wants every cell in some part: those that a split leaves out stand among the test cells for it
            left_out = np.setdiff1d(np.arange(self.adata.n_obs), np.concatenate(splits[:2]))
            options["datasplitter_kwargs"]["external_indexing"] = [*splits[:2], left_out]
        with self._features_held(**options), quiet_third_parties(), torch.random.fork_rng():
            # processes of a distributed training draw noise of their own
            torch.manual_seed(self.seed + int(os.environ.get("LOCAL_RANK", "0")))
            super().train(**options)
        if splits is not None:
            self.test_indices = splits[2]

    def _features_held(
        self,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        strategy: object = None,
        datasplitter_kwargs: dict,
        **_: object,
    ) -> AbstractContextManager:
        """Features where they train, if they fit there; in main memory if workers or several processes read them."""
        if self.adata is None:
            return nullcontext()
        device = parse_device_args(accelerator, devices, return_device="torch")[2]
        reads_itself = not (use_distributed_sampler(strategy) or scvi.settings.dl_num_workers)
        if device.type != "cuda" or not reads_itself or datasplitter_kwargs.keys() & {"pin_memory", "num_workers"}:
            device = torch.device("cpu")
        return self.adata_manager.holding(device)

    def _train_steps(
        self,
        splits: list[np.ndarray],
        *,
        max_steps: int,
        batch_size: int = 256,
        plan_kwargs: dict | None = None,
        **trainer: Any,
    ) -> None:
        """Optimiser steps on some cells, without any update between them."""
        n_batches = math.ceil(len(splits[0]) / batch_size)
        self.module.train()
        self._fit(
            max_epochs=math.ceil(max_steps / n_batches),
            max_steps=max_steps,
            batch_size=batch_size,
            splits=[splits[0], np.array([], dtype=int), np.array([], dtype=int)],
            plan_kwargs={"n_steps": max_steps, **(plan_kwargs or {})},
            check_val_every_n_epoch=None,
            **trainer,
        )

    def _centres(self, dosage: sparse.csr_matrix) -> bool:
        """Whether the origin of the latent space is to be found, given the dosage matrix of the training cells."""
        del dosage
        return False

    def _feature_prior(self) -> FeaturePrior | None:
        """What features of treatments say of their effects; None for models without."""
        return None

    def _split_indices(self, split_key: str | None, train_size: float) -> list[np.ndarray]:
        marked = self._marked_splits(split_key)
        if marked is not None:
            return marked
        check_train_size(train_size)
        n_obs = self.adata.n_obs
        order = np.random.default_rng(self.seed).permutation(n_obs)
        n_train = math.ceil(train_size * n_obs)
        return [np.sort(order[:n_train]), np.sort(order[n_train:]), np.array([], dtype=int)]

    def _training_cells(self) -> np.ndarray | None:
        """Positions of the training cells; None if the data of the model are not those it was trained on."""
        if self.adata is None or self.train_indices is None or self.trained_on_ != identity_of(self.adata):
            return None
        return np.sort(np.asarray(self.train_indices))


def identity_of(adata: AnnData) -> str:
    """Identity of data by the names of their cells."""
    return hashlib.sha256("\n".join(adata.obs_names.astype(str)).encode()).hexdigest()[:12]


def _n_processes(devices: int | list[int] | str, strategy: object) -> int:
    """Processes that share the cells of an epoch."""
    if not use_distributed_sampler(strategy):
        return 1
    return (
        len(devices)
        if isinstance(devices, list)
        else int(devices)
        if str(devices).isdigit()
        else torch.cuda.device_count() or 1
    )


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
