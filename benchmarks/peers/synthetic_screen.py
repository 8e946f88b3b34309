"""A screen of known make-up, the same on every machine, for timing tools side by side.

40 single perturbations, 10 pairs and controls (15 % of the cells) in 2 contexts and 3 batches. Cells have a latent of 12
dimensions; each perturbation shifts one to three of them. Counts are gamma-Poisson at about 3,000 a cell.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

N_SINGLES, N_PAIRS, N_LATENT = 40, 10, 12


def synthetic_screen(n_cells: int = 3_000, n_genes: int = 500, *, n_pcs: int = 50, seed: int = 0) -> AnnData:
    """Draw the screen: `X` log1p of counts per 10,000 (float32 CSR), `layers["counts"]`, `obsm["X_pca"]` float32."""
    rng = np.random.default_rng(seed)
    names = np.array(["control", *(f"gene{i}" for i in range(N_SINGLES))])
    pairs = rng.choice(N_SINGLES, size=(N_PAIRS, 2), replace=False) if 2 * N_PAIRS <= N_SINGLES else None
    labels = np.r_[names, [f"gene{i}+gene{j}" for i, j in pairs]]
    weight = rng.gamma(4.0, size=len(labels) - 1)
    share = np.r_[0.15, 0.85 * weight / weight.sum()]
    code = rng.choice(len(labels), size=n_cells, p=share)
    shift = np.zeros((N_SINGLES, N_LATENT))
    for row in shift:
        row[rng.choice(N_LATENT, size=rng.integers(1, 4), replace=False)] = rng.normal(0, 2, size=1)
    target = np.zeros((len(labels), N_SINGLES))
    target[np.arange(1, N_SINGLES + 1), np.arange(N_SINGLES)] = 1
    target[np.arange(N_SINGLES + 1, len(labels))[:, None], pairs] = 1
    context, batch = rng.integers(0, 2, n_cells), rng.integers(0, 3, n_cells)
    latent = rng.normal(size=(n_cells, N_LATENT)) + target[code] @ shift
    loading = rng.normal(0, 0.2, size=(N_LATENT, n_genes))
    level = (
        rng.normal(0, 1.0, n_genes)
        + rng.normal(0, 0.3, (2, n_genes))[context]
        + rng.normal(0, 0.1, (3, n_genes))[batch]
    )
    log_rate = level + latent @ loading
    log_rate[:, :N_SINGLES] -= 2.5 * target[code]  # what a perturbation targets goes down
    rate = np.exp(log_rate)
    rate *= rng.lognormal(np.log(3_000), 0.3, size=(n_cells, 1)) / rate.sum(axis=1, keepdims=True)
    counts = rng.poisson(rate * rng.gamma(2.0, 0.5, size=rate.shape)).astype(np.float32)
    counts[:, 0] += counts.sum(axis=1) == 0
    log = np.log1p(counts * (1e4 / counts.sum(axis=1, keepdims=True)))
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(labels[code]),
            "context": pd.Categorical(np.array(["rest", "stimulated"])[context]),
            "batch": pd.Categorical(np.array(["batch0", "batch1", "batch2"])[batch]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    adata = AnnData(sp.csr_matrix(log), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))
    adata.layers["counts"] = sp.csr_matrix(counts)
    centred = log - log.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    leading = vectors[:, ::-1][:, :n_pcs]
    leading = leading * np.sign(
        leading[np.abs(leading).argmax(axis=0), np.arange(n_pcs)]
    )  # a sign that is reproducible
    adata.obsm["X_pca"] = (centred @ leading).astype(np.float32)
    return adata
