"""Training of comparative models: restarts, of which the one that explains held-out cells best is kept."""

from __future__ import annotations

import logging
import math
import warnings
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import SplitError
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.comparative._balanced_cells import BalancedSplitter, group_codes
from perturbia.model.comparative._comparative_plan import ComparativeTrainingPlan, Objective, Schedule
from perturbia.model.comparative._regularization import Constraint, Regularizer
from perturbia.model.mechanism._reference_statistics import ReferenceStatistics
from perturbia.model.mechanism._seeds import mixed_seed
from perturbia.model.mechanism._training import MechanismTraining, identity_of
from perturbia.model.mechanism._training_cells import SplitCells

if TYPE_CHECKING:
    from perturbia.model.comparative._comparative_module import ComparativeModule

__all__ = ["ComparativeTraining"]

logger = logging.getLogger(__name__)

#: Nats of salient information per target cell below which nothing is left of the block.
_NO_INFORMATION = 0.5
#: Share of the information of the best run, and nats of the background, that tell a block lost to the shared one.
_LESS, _WORSE = 0.7, 0.5


class ComparativeTraining(MechanismTraining):
    """`train` of comparative models; cells, splits and the run itself are those of mechanism models."""

    seed: int
    trainer: Any
    _training_plan_cls = ComparativeTrainingPlan  # type: ignore[assignment]
    _data_splitter_cls = BalancedSplitter
    restarts_: pd.DataFrame | None = None

    def train(
        self,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        n_restarts: int = 3,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        split_key: str | None = _keys.OBS_SPLIT,
        train_size: float = 0.9,
        batch_size: int = 256,
        background_first: float = 0.25,
        regularizer: Regularizer = "hsic",
        constraint: Constraint | None = "statistic",
        level: float | None = None,
        regularizer_weight: float = 10.0,
        regularize_at: float | None = None,
        objective: Objective = "sum",
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model from its beginning, several times, and keep the run that explains held-out cells best.

        A run can lose the salient block to the shared one, and no regulariser brings it back. It shows in the bound of
        held-out background cells: that is what restarts are compared by, together with the bound of target cells.

        Parameters
        ----------
        max_epochs
            Passes through as many cells as train; by default as many as `max_steps` needs.
        max_steps
            Optimiser steps of a run, 1,500 by default; ignored if `max_epochs` is given.
        n_restarts
            Runs, each with initial weights and noise of its own.
        accelerator, devices
            Where to train, as in scvi-tools.
        split_key
            Column of `obs` with ``train``, ``valid`` and ``test``; the default is used if it exists, ``None`` ignores it.
        train_size
            Share of cells that train when there is no such column; the rest is held out.
        batch_size
            Cells per step, all groups together. Every group has an equal share of them, whatever its size.
        background_first
            Share of the steps, at the beginning, that see background cells alone: shared latents settle before
            salient ones compete with them.
        regularizer
            ``"hsic"``: dependence of shared and salient latents in target cells; ``"wasserstein"``: distance of salient
            latents to 0 in background cells, where the decoder does not see them; ``"mmd"``: discrepancy between
            the shared latents of background and target, harmful where these differ in truth; ``"none"``.
        constraint
            ``"statistic"``: the weight rises and falls until the regulariser is at its `level`; ``"elbo"``: until it
            costs `level` nats for a background and a target cell together; ``None``: `regularizer_weight` is fixed.
        level
            By default what chance brings for ``"hsic"`` and ``"mmd"``, the 95 % quantile under shuffling; 0.5 for
            ``"wasserstein"``, the mean square of salient latents in background cells; 1 nat for ``"elbo"``.
        regularizer_weight
            Fixed weight where there is no constraint.
        regularize_at
            Share of the steps from which the regulariser acts, 0.6 by default (0.4 with ``"elbo"``). From the beginning
            on, any of them can destroy the salient block.
        objective
            ``"sum"`` of the bounds of all groups; ``"multi"``: of the gradients of background and target, shared weights
            follow the shortest combination. It brought nothing where we measured it.
        plan_kwargs
            Arguments of the training plan, such as ``lr``.
        datasplitter_kwargs
            Arguments of :class:`scvi.dataloaders.DataSplitter`.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``enable_progress_bar``.

        Returns
        -------
        Nothing; the model is trained in place. `history` has the curves of the run that was kept: bounds of background
        and target, and ``regularizer``, ``lambda``, ``level`` and ``a_star`` where they act; `restarts_` has a row for
        each run.

        Raises
        ------
        SplitError
            If a group has no training cells, or none are held out to compare restarts by.
        ValueError
            If an option is out of range, or `level` is below what shuffled cells score.

        Warns
        -----
        UserWarning
            If the salient block of the run that was kept holds next to nothing.
        """
        constraint = None if regularizer == "none" else constraint
        counts = {"max_epochs": max_epochs, "max_steps": max_steps, "n_restarts": n_restarts, "batch_size": batch_size}
        _check_options(
            counts,
            {"background_first": background_first, "regularize_at": regularize_at},
            {"level": level, "regularizer_weight": regularizer_weight},
        )
        for name, value, options in (
            ("regularizer", regularizer, get_args(Regularizer)),
            ("constraint", constraint, (*get_args(Constraint), None)),
            ("objective", objective, get_args(Objective)),
        ):
            check_choice(name, value, options)
        splits = self._split_indices(split_key, train_size)
        self._check_groups(splits, n_restarts, batch_size)
        source = SplitCells(self, splits, batch_size)
        n_steps = max_epochs * source.n_batches if max_epochs is not None else (max_steps or 1500)
        max_epochs = math.ceil(n_steps / source.n_batches)
        if regularize_at is None:
            regularize_at = 0.4 if constraint == "elbo" else 0.6
        schedule = Schedule(
            n_background=round(background_first * n_steps),
            first=round(regularize_at * n_steps),
            regularizer=regularizer,
            constraint=constraint,
            level=level,
            weight=regularizer_weight,
            objective=objective,
        )
        trainer_kwargs.setdefault("check_val_every_n_epoch", max(1, max_epochs // 20) if source.validates else None)
        trainer_kwargs.setdefault("gradient_clip_val", 200.0)
        self._restart(
            n_restarts,
            ReferenceStatistics.gather(source.batches(), self.module),
            max_epochs=max_epochs,
            max_steps=n_steps,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            splits=splits,
            datasplitter_kwargs={"n_groups": self.module.n_groups, **(datasplitter_kwargs or {})},
            plan_kwargs={"n_steps": n_steps, "schedule": schedule, **(plan_kwargs or {})},
            **trainer_kwargs,
        )
        self.trained_on_ = identity_of(self.adata)

    def _make_module(self, seed: int) -> ComparativeModule:
        """The module with fresh weights."""
        raise NotImplementedError

    def _restart(self, n_restarts: int, statistics: ReferenceStatistics, **options: Any) -> None:
        """Fit several times; keep weights, curves and trainer of the best."""
        seed, rows, best = self.seed, [], None
        held_out = options["splits"][1] if len(options["splits"][1]) else options["splits"][0]
        try:
            for i in range(n_restarts):
                self.seed = seed if i == 0 else mixed_seed(seed, i)
                self.module = self._make_module(self.seed)
                self.is_trained_, self.history_ = False, None
                statistics.write(self.module)
                self.module.train()
                self._fit(**options)
                rows.append({"seed": self.seed, **self._held_out(held_out)})
                logger.info("Restart %d of %d: %s.", i + 1, n_restarts, _in_words(rows[-1]))
                if best is None or rows[-1]["elbo"] > rows[best[0]]["elbo"]:
                    best = i, self.module, self.history_, self.trainer
        finally:
            self.seed = seed
        kept, self.module, self.history_, self.trainer = best  # type: ignore[misc]
        self.restarts_ = _judged(pd.DataFrame(rows), kept)
        if self.restarts_["lost"].iloc[kept]:
            msg = (
                f"ComparativeVAE: the salient latents hold {rows[kept]['kl_salient']:.2f} nats per target cell, next to "
                "nothing, in the best run. Train with more restarts, fewer shared latents, or a longer background_first; "
                "or background and target do not differ."
            )
            warnings.warn(msg, UserWarning, stacklevel=3)

    def _held_out(self, indices: np.ndarray) -> dict[str, float]:
        """Bounds of held-out cells of both populations, and what the salient block holds."""
        bounds = self._bounds(self.adata, indices, n_samples=5, batch_size=None, seed=0)
        means = bounds.groupby("group")[["elbo", "kl_salient"]].mean()
        background, target = means["elbo"].get(0, np.nan), means["elbo"].drop(0, errors="ignore").mean()
        information = means["kl_salient"].drop(0, errors="ignore").mean()
        return {
            "elbo_background": background,
            "elbo_target": target,
            "elbo": np.nansum([background, target]),
            "kl_salient": information,
        }

    def _check_groups(self, splits: list[np.ndarray], n_restarts: int, batch_size: int) -> None:
        """Check that all groups train, and are held out where restarts are compared."""
        n_groups = self.module.n_groups
        dosage = self.adata_manager.get_from_registry(_keys.PERTURBATION)
        groups = group_codes(dosage, n_groups)
        names = self.groups
        parts = {"train": splits[0], **({"held out": splits[1]} if n_restarts > 1 else {})}
        for part, indices in parts.items():
            missing = sorted(set(range(n_groups + 1)) - set(groups[indices].tolist()))
            if missing:
                fix = (
                    "Move some there"
                    if part == "train"
                    else "Hold some out, as by train_size=0.9, or pass n_restarts=1"
                )
                msg = (
                    f"split_key: expected cells of every group among those that {'train' if part == 'train' else 'are held out'}, "
                    f"found none of {names[missing[0]]!r}. {fix}."
                )
                raise SplitError(msg)
        if batch_size <= n_groups:
            msg = f"batch_size: expected more cells than the {n_groups + 1} groups, got {batch_size}."
            raise ValueError(msg)


def _judged(runs: pd.DataFrame, kept: int) -> pd.DataFrame:
    """Which run was kept, and which have lost their salient block.

    A block is lost that holds next to nothing, or so much less than that of another run as to cost the background.
    """
    little = runs["kl_salient"] < _NO_INFORMATION
    less = runs["kl_salient"] < _LESS * runs["kl_salient"].max()
    worse = runs["elbo_background"] < runs["elbo_background"].max() - _WORSE
    return runs.assign(lost=little | (less & worse), kept=np.arange(len(runs)) == kept).rename_axis("restart")


def _in_words(run: dict[str, float]) -> str:
    return (
        f"held-out bound {run['elbo_background']:.2f} nats (background) and {run['elbo_target']:.2f} (target), "
        f"{run['kl_salient']:.2f} nats in the salient block"
    )


def _check_options(
    counts: dict[str, int | None], shares: dict[str, float | None], positive: dict[str, float | None]
) -> None:
    for name, count in counts.items():
        if count is not None:
            check_positive_integer(name, count)
    for name, share in shares.items():
        if share is not None and not 0 <= share < 1:
            msg = f"{name}: expected a share of the training in [0, 1), got {share!r}."
            raise ValueError(msg)
    for name, number in positive.items():
        if number is not None and not (np.isfinite(number) and number > 0):
            msg = f"{name}: expected a positive number, got {number!r}."
            raise ValueError(msg)
