"""What aligning profiles by their controls reads from AnnData, checked, and how its result is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia.errors import ControlError, UnsupportedQuery, shorten
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._profiles import profile_matrix, row_labels
from perturbia.perturbation._row_order import rank_by_name
from perturbia.stats._arrays import group_codes
from perturbia.stats.control_scaling import ControlScaling, fit_control_scaling
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["ControlProfiles", "check_not_negative", "check_option", "read_control_profiles", "write_profiles"]

logger = logging.getLogger("perturbia.pp")

_SLOTS = 4  # profiles of a perturbation and batch, at most


@dataclass(frozen=True)
class ControlProfiles:
    """Profiles with what tells controls, batches and perturbations apart.

    Attributes
    ----------
    values
        (n_obs, n_features), finite; memory of the user's.
    is_control
        bool (n_obs,).
    batches
        Position of the batch of every row, all 0 without batches.
    batch_names
        Names of the batches.
    groups
        Canonical perturbation of every row as text.
    names
        Names of the rows.
    """

    values: np.ndarray
    is_control: np.ndarray
    batches: np.ndarray
    batch_names: list[str]
    groups: np.ndarray
    names: np.ndarray

    @property
    def control_counts(self) -> np.ndarray:
        """Controls of every batch."""
        return np.bincount(self.batches[self.is_control], minlength=len(self.batch_names))

    def control_table(self) -> pd.DataFrame:
        """Number of controls by batch, for `uns`."""
        return pd.DataFrame({"n_controls": self.control_counts}, index=pd.Index(self.batch_names, name="batch"))

    def control_folds(self, n_folds: int, seed: int) -> np.ndarray:
        """Fold of every control, drawn by name."""
        controls = np.flatnonzero(self.is_control)
        rank = rank_by_name(self.names[controls])
        return np.random.default_rng(seed).permutation(np.arange(len(controls)) % n_folds)[rank]

    def replicates(self, rows: np.ndarray, max_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At most `max_rows` profiles of perturbations that have two or more, their perturbations and their batches.

        Where a perturbation has many rows in a batch, as cells are, a profile is the mean of about a fourth of them: maps are
        made of means. Which rows go together, and who is left out, is drawn by name.
        """
        treated = np.flatnonzero(~self.is_control)
        shuffled = np.random.default_rng(seed).random(len(treated))[rank_by_name(self.names[treated])]
        group, found = pd.factorize(self.groups[treated], sort=True)
        cell = pd.factorize(group * len(self.batch_names) + self.batches[treated])[0]
        slot = _place_within(cell, shuffled) % _SLOTS
        unit = pd.DataFrame({"group": group, "batch": self.batches[treated], "slot": slot, "order": shuffled})
        which = unit.groupby(["group", "slot", "batch"], sort=True).ngroup().to_numpy()
        table = (
            unit.assign(which=which)
            .groupby("which")
            .agg({"group": "first", "batch": "first", "slot": "first", "order": "min"})
        )
        # a batch after the other, so that few profiles of a perturbation lie in many batches
        place = _place_within(table["group"].to_numpy(), table["slot"].to_numpy() + table["order"].to_numpy())
        size = np.bincount(table["group"], minlength=len(found))
        several = np.flatnonzero(size > 1)
        if 2 * len(several) > max_rows:
            several = np.random.default_rng(seed).choice(several, size=max_rows // 2, replace=False)
        most = max(2, max_rows // max(len(several), 1))
        kept = np.isin(table["group"], several) & (place < most)
        if not kept.any():
            return np.empty((0, rows.shape[1])), np.empty(0, dtype=int), np.empty(0, dtype=int)
        number = np.where(kept, np.cumsum(kept) - 1, -1)[which]
        taken = number >= 0
        means = group_means(rows[treated[taken]], number[taken], with_variance=False).mean
        return means, table["group"].to_numpy()[kept], table["batch"].to_numpy()[kept]

    def require(self, min_controls: int, *, missing: str) -> np.ndarray:
        """Which batches have fewer controls than they need: an error, unless they are to take those of all."""
        counts = self.control_counts
        short = counts < min_controls
        if short.any() and missing == "raise":
            lacking = [f"{self.batch_names[i]} ({counts[i]})" for i in np.flatnonzero(short)]
            msg = (
                f"batch_key: expected {min_controls} control rows or more in every batch, got fewer in "
                f"{short.sum()} of {len(short)}: {shorten(lacking, limit=5)}. Drop these batches, or pass "
                "missing='pool' to give them the centre and scale of all controls."
            )
            raise ControlError(msg)
        return short

    def scaling(self, *, min_controls: int, missing: str, **options: Any) -> ControlScaling:
        """Centres and scales by batch, once every batch has the controls it needs.

        Batches with fewer controls than `min_controls` are an error, or take the centre and scale of all controls.
        """
        short = self.require(min_controls, missing=missing)
        usable = self.is_control & ~short[self.batches]
        freedom = usable.sum() - np.count_nonzero(~short) * options.get("center_per_batch", True)
        if usable.sum() < 2 or freedom < 1:
            msg = (
                f"control: expected a batch with two control rows, to know how far they vary, got {usable.sum()} controls "
                f"in {np.count_nonzero(~short)} batches that have enough. Name other controls, or no batch_key."
            )
            raise ControlError(msg)
        if short.any():
            logger.warning(
                "%d of %d batches have fewer than %d controls and take the centre and scale of all controls: %s.",
                short.sum(), len(short), min_controls, shorten([self.batch_names[i] for i in np.flatnonzero(short)], limit=5),
            )  # fmt: skip
        found = fit_control_scaling(self.values, usable, self.batches, **options)
        if found.n_constant:
            logger.warning(
                "%d of %d features do not vary among controls; they are centred and not scaled.",
                found.n_constant, self.values.shape[1],
            )  # fmt: skip
        return found


def read_control_profiles(
    adata: AnnData,
    *,
    use_rep: str | None,
    perturbation_key: str,
    control: str | Sequence[str],
    sep: str,
    batch_key: str | None,
    copy: bool,
) -> ControlProfiles:
    """Read and check rows, controls and batches, and that there is something to write to."""
    if adata.isbacked and adata.is_view and not copy:
        msg = (
            "adata: expected data that can be written to, got a view of a backed file. Use copy=True, or .to_memory()."
        )
        raise UnsupportedQuery(msg)
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    values = profile_matrix(adata, use_rep=use_rep)
    names, codes = ["all"], np.zeros(adata.n_obs, dtype=int)
    if batch_key is not None:
        labels = row_labels(adata, batch_key, argument="batch_key")
        found, codes = group_codes(labels, adata.n_obs, name="batch_key")
        names = found.astype(str).tolist()
    return ControlProfiles(
        values=values,
        is_control=design.is_control,
        batches=codes,
        batch_names=names,
        groups=design.labels().astype(str),
        names=adata.obs_names.to_numpy().astype(str),
    )


def _place_within(groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Place of every row among those of its group, by `order`."""
    sorted_rows = np.lexsort((order, groups))
    begins = (
        np.r_[True, groups[sorted_rows][1:] != groups[sorted_rows][:-1]] if len(groups) else np.empty(0, dtype=bool)
    )
    start = np.maximum.accumulate(np.where(begins, np.arange(len(groups)), 0))
    place = np.empty(len(groups), dtype=int)
    place[sorted_rows] = np.arange(len(groups)) - start
    return place


def check_option(name: str, value: Any, options: tuple[str, ...]) -> None:
    """Refuse a choice that is not among the options."""
    if value not in options:
        msg = f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}."
        raise ValueError(msg)


def check_not_negative(name: str, value: Any, *, whole: bool = False, least: float = 0) -> None:
    """Refuse anything but a finite number of at least `least`."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not np.isfinite(value) or value < least:
        msg = f"{name}: expected {'a whole' if whole else 'a finite'} number of {least} or more, got {value!r}."
        raise ValueError(msg)


def write_profiles(
    adata: AnnData, values: np.ndarray, parameters: dict[str, Any], *, key_added: str, copy: bool
) -> AnnData | None:
    """Write float32 rows to `obsm` and what they were made with to `uns`, under one key."""
    out = adata if not copy else adata.to_memory() if adata.isbacked else adata.copy()
    out.obsm[key_added] = values.astype(np.float32)
    out.uns[key_added] = {key: value for key, value in parameters.items() if value is not None}
    return out if copy else None


Missing = Literal["raise", "pool"]
