"""What aligning profiles by their controls reads from AnnData, checked, and how its result is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia.errors import ControlError, LabelError, shorten
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._copies import in_memory, require_writable
from perturbia.perturbation._profiles import profile_matrix, row_labels
from perturbia.perturbation._row_order import rank_by_name
from perturbia.stats._arrays import group_codes
from perturbia.stats._membership import place_within
from perturbia.stats.control_scaling import fit_control_scaling
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["ControlProfiles", "Missing", "check_key", "controls_to_fit", "read_control_profiles", "write_profiles"]

logger = logging.getLogger("perturbia.pp")

Missing = Literal["raise", "pool"]

_SLOTS = 4  # profiles of a perturbation and batch, at most


@dataclass(frozen=True)
class ControlProfiles:
    """Profiles with what tells controls, batches and perturbations apart.

    Attributes
    ----------
    values
        (n_obs, n_features), finite; memory of the user's.
    is_control
        The control rows that alignment learns from, bool (n_obs,).
    is_treated
        Rows that are no controls, bool (n_obs,).
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
    is_treated: np.ndarray
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
        treated = np.flatnonzero(self.is_treated)
        rank = rank_by_name(self.names[treated])
        shuffled = np.random.default_rng(seed).random(len(treated))[rank]
        # numbered by the names of rows, so that what perturbations are called decides nothing
        by_name = np.argsort(rank)
        group = np.empty(len(treated), dtype=int)
        group[by_name], found = pd.factorize(self.groups[treated][by_name])
        cell = pd.factorize(group * len(self.batch_names) + self.batches[treated])[0]
        slot = place_within(cell, shuffled) % _SLOTS
        unit = pd.DataFrame({"group": group, "batch": self.batches[treated], "slot": slot, "order": shuffled})
        which = unit.groupby(["group", "slot", "batch"], sort=True).ngroup().to_numpy()
        table = (
            unit.assign(which=which)
            .groupby("which")
            .agg({"group": "first", "batch": "first", "slot": "first", "order": "min"})
        )
        # a batch after the other, so that few profiles of a perturbation lie in many batches
        place = place_within(table["group"].to_numpy(), table["slot"].to_numpy() + table["order"].to_numpy())
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

    def require(self, min_controls: int, *, missing: str, can_pool: bool = True) -> np.ndarray:
        """Which batches have fewer controls than they need: an error, unless they are to take those of all."""
        counts = self.control_counts
        short = counts < min_controls
        if short.any() and missing == "raise":
            lacking = [f"{self.batch_names[i]} ({counts[i]})" for i in np.flatnonzero(short)]
            fix = ", or pass missing='pool' to give them the centre and scale of all controls" if can_pool else ""
            msg = (
                f"batch_key: expected {min_controls} control rows or more in every batch, got fewer in "
                f"{short.sum()} of {len(short)}: {shorten(lacking, limit=5)}. Drop these batches{fix}."
            )
            raise ControlError(msg)
        return short

    def standardized(self, *, min_controls: int, missing: str, scale: bool = True, **options: Any) -> np.ndarray:
        """Rows about the centre and in units of the scale of the controls of their batch, (n_obs, n_features).

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
        if not scale:
            return self.values - found.center[self.batches]
        if found.n_constant:
            logger.warning(
                "%d of %d features do not vary among controls; they are centred and not scaled.",
                found.n_constant, self.values.shape[1],
            )  # fmt: skip
        return found.transform(self.values, self.batches)


def read_control_profiles(
    adata: AnnData,
    *,
    use_rep: str | None,
    perturbation_key: str,
    control: str | Sequence[str],
    sep: str,
    batch_key: str | None,
    fit_on: str | None,
    key_added: str,
    copy: bool,
) -> ControlProfiles:
    """Read and check rows, controls and batches, and that there is something to write to."""
    check_key(key_added)
    if not copy:
        require_writable(adata)
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    values = profile_matrix(adata, use_rep=use_rep)
    names, codes = ["all"], np.zeros(adata.n_obs, dtype=int)
    if batch_key is not None:
        labels = row_labels(adata, batch_key, argument="batch_key")
        found, codes = group_codes(labels, adata.n_obs, name="batch_key")
        names = found.astype(str).tolist()
    return ControlProfiles(
        values=values,
        is_control=controls_to_fit(adata, design.is_control, fit_on),
        is_treated=~design.is_control,
        batches=codes,
        batch_names=names,
        groups=design.labels().astype(str),
        names=adata.obs_names.to_numpy().astype(str),
    )


def controls_to_fit(adata: AnnData, is_control: np.ndarray, fit_on: str | None) -> np.ndarray:
    """The controls that a boolean column of `obs` marks; all of them without one."""
    if fit_on is None:
        return is_control
    if fit_on not in adata.obs:
        columns = shorten(adata.obs.columns) or "none"
        msg = f"fit_on: expected a boolean column of adata.obs, got {fit_on!r}; columns are {columns}."
        raise LabelError(msg)
    marked = adata.obs[fit_on]
    if not pd.api.types.is_bool_dtype(marked.dtype) or marked.isna().any():
        msg = f"fit_on: expected a boolean column of adata.obs without gaps, got dtype {marked.dtype} in {fit_on!r}."
        raise LabelError(msg)
    chosen = is_control & marked.to_numpy(dtype=bool)
    if not chosen.any():
        msg = f"fit_on: expected control rows marked in adata.obs[{fit_on!r}], got none of {is_control.sum()} controls."
        raise ControlError(msg)
    return chosen


def check_key(key_added: Any) -> None:
    """Refuse anything but text as the key to write to."""
    if not isinstance(key_added, str) or not key_added:
        msg = f"key_added: expected the key to write to as text, got {key_added!r}. Results are always written: name a key."
        raise ValueError(msg)


def write_profiles(
    adata: AnnData, values: np.ndarray, parameters: dict[str, Any], *, key_added: str, copy: bool
) -> AnnData | None:
    """Write float32 rows to `obsm` and what they were made with to `uns`, under one key."""
    check_key(key_added)
    if not np.isfinite(values).all():
        msg = f"use_rep: expected profiles that can be aligned, got {np.isnan(values).sum()} undefined entries. Check the scale of features."
        raise ValueError(msg)
    out = in_memory(adata) if copy else adata
    out.obsm[key_added] = values.astype(np.float32)
    out.uns[key_added] = {key: value for key, value in parameters.items() if value is not None}
    return out if copy else None
