"""Observed control cells that trained: what an effect shifts, and what predicted means are relative to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.stats import group_means
from perturbia.tl._evaluation.truth import N_BASE

if TYPE_CHECKING:
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["base_cells", "observed_controls", "shifted"]

MIN_BASE = 50


def shifted(base: np.ndarray, effect: np.ndarray, truth: Truth) -> np.ndarray:
    """Cells plus an effect, inside the bounds of the scale."""
    cells = base + effect.astype(np.float32)
    return np.maximum(cells, 0.0, out=cells) if truth.screen.scale == "log1p_cp10k" else cells


def base_cells(truth: Truth, condition: int) -> np.ndarray:
    """Observed control cells that trained, in the batches of the condition: the same for every method."""
    pool, batch = control_pool(truth, truth.contexts[condition])
    if batch is None:
        return pool
    cache = truth.__dict__.setdefault("_base_rows", {})
    if condition not in cache:
        cache[condition] = _rows_like(truth, condition, batch)
    return pool[cache[condition]]


def observed_controls(truth: Truth) -> np.ndarray:
    """Mean of the controls that trained, in the batches of the cells of each condition: one row a condition."""
    screen = truth.screen
    strata = screen.strata
    out = np.empty((len(truth), screen.adata.n_vars))
    for context in set(truth.contexts):
        inside = screen.contexts == context
        rows = np.flatnonzero(screen.is_control & (screen.part == "train") & inside)
        if len(rows) == 0:
            rows = np.flatnonzero(screen.is_control & inside)
        moments = group_means(screen.normalized(rows), strata[rows], with_variance=False)
        overall = moments.count @ moments.mean / moments.count.sum()
        mean_of = dict(zip(moments.groups, moments.mean, strict=True))
        for i in np.flatnonzero(np.array(truth.contexts) == context):
            own, counts = np.unique(strata[truth.cells_of(int(i))], return_counts=True)
            out[i] = sum(n * mean_of.get(one, overall) for one, n in zip(own, counts, strict=True)) / counts.sum()
    return out


def _rows_like(truth: Truth, condition: int, batch: np.ndarray) -> np.ndarray:
    """Rows of the pool, each at most once, in the shares that batches have among the cells of the condition.

    Any first rows of them have these shares, too; cells that come twice would be at no distance from themselves.
    """
    own = truth.screen.adata.obs[truth.screen.batch_key].astype(str).to_numpy()[truth.populations[condition]]
    names, counts = np.unique(own[np.isin(own, batch)], return_counts=True)
    if len(names) == 0:
        return np.arange(len(batch))
    available = [np.flatnonzero(batch == name) for name in names]
    share = counts / counts.sum()
    size = min(len(rows) / part for rows, part in zip(available, share, strict=True))
    size = max(size, min(MIN_BASE, sum(map(len, available))))  # rather a few cells off the shares than too few cells
    chosen = [rows[: max(round(size * part), 1)] for rows, part in zip(available, share, strict=True)]
    place = np.concatenate([(np.arange(len(rows)) + 0.5) / len(rows) for rows in chosen])
    return np.concatenate(chosen)[np.argsort(place, kind="stable")]


def control_pool(truth: Truth, context: str) -> tuple[np.ndarray, np.ndarray | None]:
    """At most 500 control cells of a context that trained, on the scale of effects, and their batches."""
    cache = truth.__dict__.setdefault("control_pools", {})
    if context not in cache:
        rows = truth.control_rows(held_out=False, context=context, limit=N_BASE)
        if len(rows) == 0:
            rows = truth.control_rows(held_out=True, context=context, limit=N_BASE)
        key = truth.screen.batch_key
        batch = None if key is None else truth.screen.adata.obs[key].astype(str).to_numpy()[rows]
        cache[context] = truth.screen.cells(rows), batch
    return cache[context]
