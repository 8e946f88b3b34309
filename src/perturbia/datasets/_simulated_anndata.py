"""Names and AnnData that all simulators write alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

__all__ = ["gene_names", "perturbation_names", "simulated_anndata"]


def perturbation_names(n_perturbations: int) -> list[str]:
    """``P01``, ``P02``, …, as wide as the last needs."""
    width = max(2, len(str(n_perturbations)))
    return [f"P{i + 1:0{width}d}" for i in range(n_perturbations)]


def gene_names(n_genes: int) -> list[str]:
    """``gene_001``, ``gene_002``, …, as wide as the last needs."""
    return [f"gene_{i + 1:0{len(str(n_genes))}d}" for i in range(n_genes)]


def simulated_anndata(
    features: np.ndarray,
    *,
    counts: bool,
    obs: Mapping[str, Any],
    mean: np.ndarray,
    latents: Mapping[str, np.ndarray],
    truth: Mapping[str, Any],
) -> AnnData:
    """AnnData of simulated cells.

    Parameters
    ----------
    features
        Cells × genes.
    counts
        Whether they are counts: CSR in `X` and in `layers["counts"]`; else dense in `X` alone.
    obs
        Columns of `obs`.
    mean
        Features without measurement noise, for `layers["truth_mean"]`.
    latents
        Key → `(n_obs, n)`, for `obsm`.
    truth
        What `uns["truth"]` holds.

    Returns
    -------
    The data, all matrices float32.
    """
    from anndata import AnnData

    matrix = sparse.csr_matrix(features.astype(np.float32)) if counts else features.astype(np.float32)
    names = pd.Index([f"cell_{i + 1}" for i in range(len(features))])
    adata = AnnData(
        matrix, obs=pd.DataFrame(dict(obs), index=names), var=pd.DataFrame(index=gene_names(features.shape[1]))
    )
    if counts:
        adata.layers["counts"] = matrix.copy()
    adata.layers[_keys.LAYER_TRUTH_MEAN] = mean.astype(np.float32)
    for key, values in latents.items():
        adata.obsm[key] = values.astype(np.float32)
    adata.uns[_keys.UNS_TRUTH] = dict(truth)
    return adata
