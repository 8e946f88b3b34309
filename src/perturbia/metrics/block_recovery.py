"""Which blocks of true latents each block of estimated ones holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from perturbia.metrics.latent_recovery import linear_r2

if TYPE_CHECKING:
    import numpy as np

__all__ = ["block_r2"]


def block_r2(
    truth: Mapping[str, np.ndarray],
    estimate: Mapping[str, np.ndarray],
    *,
    n_folds: int | None = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """R² of every block of true latents from every block of estimated ones: recovery, and leaks between blocks.

    The protocol of comparative models on simulated data: shared latents should give back what is shared, salient ones what is
    salient, and neither the other. Blocks are compared as subspaces, up to a linear map within each (:func:`linear_r2`).

    **Range** up to 1, best where a block meets its own, worst where it meets another. **Chance** is 0 or a little below.
    **Not seen**: axes within a block, curvature, and how a leak splits over cells of two groups: score target cells.

    Parameters
    ----------
    truth, estimate
        Blocks of latents of the same cells by name, each `(n_cells, n_dimensions)`.
    n_folds
        Folds of the regression, as in :func:`linear_r2`.
    seed
        Seed that assigns cells to folds.

    Returns
    -------
    float64 data frame, true blocks × estimated blocks.

    Raises
    ------
    TypeError
        If `truth` or `estimate` is no mapping.
    ValueError
        If there are no blocks, or as :func:`linear_r2`.

    Examples
    --------
    >>> import numpy as np
    >>> z, s = np.random.default_rng(0).normal(size=(2, 300, 2))
    >>> block_r2({"shared": z, "salient": s}, {"z": z[:, ::-1], "s": s + 0.5 * z}).round(1).abs().values.tolist()
    [[1.0, 0.2], [0.0, 0.8]]

    References
    ----------
    Lopez, R., Huetter, J.-C., Hajiramezanali, E., Pritchard, J. and Regev, A. (2024). Toward the identifiability of
    comparative deep generative models. CLeaR.
    """
    for name, blocks in (("truth", truth), ("estimate", estimate)):
        if not isinstance(blocks, Mapping) or not blocks:
            error = ValueError if isinstance(blocks, Mapping) else TypeError
            got = "none" if isinstance(blocks, Mapping) else type(blocks).__name__
            msg = f"{name}: expected blocks of latents by name, got {got}. Pass such as {{'shared': z, 'salient': s}}."
            raise error(msg)
    return pd.DataFrame(
        {
            found: {block: linear_r2(true, values, n_folds=n_folds, seed=seed) for block, true in truth.items()}
            for found, values in estimate.items()
        }
    ).loc[list(truth)]
