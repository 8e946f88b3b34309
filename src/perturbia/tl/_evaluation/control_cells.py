"""Observed control cells that models may have seen: what an effect shifts, and what predicted means are relative to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["base_cells", "observed_controls", "shifted"]

N_BASE = 500


def shifted(base: np.ndarray, effect: np.ndarray, truth: Truth) -> np.ndarray:
    """Cells plus an effect, inside the bounds of the scale."""
    cells = base + effect.astype(np.float32)
    return np.maximum(cells, 0.0, out=cells) if truth.screen.scale == "log1p_cp10k" else cells


def base_cells(truth: Truth, condition: int) -> np.ndarray:
    """Observed control cells that models may have seen, in the batches of the condition: the same for every method."""
    pool, batch = control_pool(truth, truth.contexts[condition])
    if batch is None:
        return pool
    cache = truth.__dict__.setdefault("_base_rows", {})
    if condition not in cache:
        cache[condition] = _rows_like(truth, condition, batch)
    return pool[cache[condition]]


def observed_controls(truth: Truth) -> np.ndarray:
    """Mean of the observed controls that models may have seen, one row a condition."""
    means = {context: control_pool(truth, context)[0].mean(axis=0, dtype=np.float64) for context in set(truth.contexts)}
    return np.stack([means[context] for context in truth.contexts])


def _rows_like(truth: Truth, condition: int, batch: np.ndarray) -> np.ndarray:
    """Rows of the pool, drawn so that batches have the shares that they have among the cells of the condition."""
    rows = truth.populations[condition]
    own = truth.screen.adata.obs[truth.screen.batch_key].astype(str).to_numpy()[rows]
    rng = np.random.default_rng([truth.seed, condition])
    names, counts = np.unique(own[np.isin(own, batch)], return_counts=True)
    if len(names) == 0:
        return np.arange(len(batch))
    chosen = [
        rng.choice(np.flatnonzero(batch == name), round(len(batch) * count / counts.sum()) or 1)
        for name, count in zip(names, counts, strict=True)
    ]
    return rng.permutation(np.concatenate(chosen))


def control_pool(truth: Truth, context: str) -> tuple[np.ndarray, np.ndarray | None]:
    cache = truth.__dict__.setdefault("control_pools", {})
    if context not in cache:
        rows = truth.control_rows(held_out=False, context=context, limit=N_BASE)
        if len(rows) == 0:
            rows = truth.control_rows(held_out=True, context=context, limit=N_BASE)
        key = truth.screen.batch_key
        batch = None if key is None else truth.screen.adata.obs[key].astype(str).to_numpy()[rows]
        cache[context] = truth.screen.cells(rows), batch
    return cache[context]
