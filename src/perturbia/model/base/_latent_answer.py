"""Latent coordinates of cells in the form that was asked for."""

from __future__ import annotations

import numpy as np

__all__ = ["latent_answer"]


def latent_answer(
    mean: np.ndarray, sd: np.ndarray, *, give_mean: bool, return_dist: bool, seed: int
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Posterior means, one draw, or means and variances, as scvi-tools offers them; all `(n_cells, n_latent)` float32."""
    if return_dist:
        return mean, sd**2
    if give_mean:
        return mean
    return mean + sd * np.random.default_rng(seed).standard_normal(mean.shape, dtype=np.float32)
