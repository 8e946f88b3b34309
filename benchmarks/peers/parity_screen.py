"""A screen with known effects and the published split of combinations, to train implementations of SAMS-VAE side by side.

20 single perturbations and 16 doubles of 100 cells each and 600 controls. A cell has a latent of 10 dimensions, which
perturbations shift sparsely and additively; a leaky layer and a softmax make proportions of them, and counts are
gamma-Poisson of concentration 5 at about 3,000 a cell.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

N_SINGLES, N_DOUBLES, N_HELD_OUT, N_CELLS, N_CONTROLS = 20, 16, 4, 100, 600
N_LATENT, N_HIDDEN, N_GENES, CONCENTRATION = 10, 64, 500, 5.0


def parity_screen(seed: int = 0, *, n_effect_cells: int = 4_000) -> AnnData:
    """Draw the screen and its split.

    Parameters
    ----------
    seed
        Seed of the truth, of the cells and of the split.
    n_effect_cells
        Simulated cells behind each true effect.

    Returns
    -------
    AnnData of 4,200 cells × 500 genes: counts as `X` and `layers["counts"]` (float32 CSR), ``obs["perturbation"]``,
    ``obs["pb_split"]``, and in `uns` ``"masks"`` (perturbations × latents) and ``"effects"`` (labels × genes), the
    expected differences of ``log2(1 + 1e4 x / l)`` to control.
    """
    rng = np.random.default_rng(seed)
    singles = [f"P{i:02d}" for i in range(N_SINGLES)]
    pairs = [(i, j) for i in range(N_SINGLES) for j in range(i)]
    target = np.zeros((1 + N_SINGLES + N_DOUBLES, N_SINGLES))
    target[1 : N_SINGLES + 1] = np.eye(N_SINGLES)
    for row, place in enumerate(rng.choice(len(pairs), N_DOUBLES, replace=False), start=N_SINGLES + 1):
        target[row, list(pairs[place])] = 1
    labels = ["control", *("+".join(np.array(singles)[row > 0]) for row in target[1:])]
    masks = rng.random((N_SINGLES, N_LATENT)) < 0.2
    masks[np.arange(N_SINGLES), rng.integers(N_LATENT, size=N_SINGLES)] = True
    shift = target @ (masks * rng.normal(0, 1.5, masks.shape))
    hidden = rng.normal(0, N_LATENT**-0.5, (N_LATENT, N_HIDDEN))
    head = rng.normal(0, 1.0 * N_HIDDEN**-0.5, (N_HIDDEN, N_GENES))
    level = rng.normal(0, 1, N_GENES)

    def proportions(latent: np.ndarray) -> np.ndarray:
        layer = latent @ hidden
        output = np.where(layer > 0, layer, 0.01 * layer) @ head + level
        weight = np.exp(output - output.max(1, keepdims=True))
        return weight / weight.sum(1, keepdims=True)

    code = np.repeat(np.arange(len(labels)), [N_CONTROLS] + [N_CELLS] * (len(labels) - 1))
    latent = rng.normal(size=(len(code), N_LATENT)) + shift[code]
    library = rng.lognormal(np.log(3_000), 0.3, (len(code), 1))
    counts = _counts(rng, library * proportions(latent))
    # the same cells under every label: what differs is the effect
    basal = rng.normal(size=(n_effect_cells, N_LATENT))
    size = rng.lognormal(np.log(3_000), 0.3, (n_effect_cells, 1))
    means = np.stack([_log_normalised(_counts(rng, size * proportions(basal + row))).mean(0) for row in shift])
    named = np.array(labels)[code]
    obs = pd.DataFrame(
        {"perturbation": pd.Categorical(named, categories=labels), "pb_split": _split(rng, target[code].sum(1), named)},
        index=[f"cell{i}" for i in range(len(code))],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)])
    adata = AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
    adata.layers["counts"] = adata.X.copy()
    adata.uns["masks"] = pd.DataFrame(masks, index=singles)
    adata.uns["effects"] = pd.DataFrame(means[1:] - means[0], index=labels[1:], columns=var.index)
    return adata


def observed_effects(adata: AnnData) -> pd.DataFrame:
    """Differences of the means of ``log2(1 + 1e4 x / l)`` of all cells of a label to all controls, labels × genes."""
    values = _log_normalised(adata.X.toarray())
    means = pd.DataFrame(values, columns=adata.var_names).groupby(adata.obs["perturbation"].to_numpy()).mean()
    return means.drop(index="control") - means.loc["control"]


def _counts(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return rng.poisson(mean * rng.gamma(CONCENTRATION, 1 / CONCENTRATION, mean.shape))


def _log_normalised(counts: np.ndarray) -> np.ndarray:
    return np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))


def _split(rng: np.random.Generator, n_targets: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Half of the doubles train, four are held out; 64/16/20 % of the cells of doubles, 80/20 % of all others."""
    doubles = rng.permutation(np.unique(label[n_targets == 2]))
    part = np.full(len(label), "unused", dtype=object)
    of_double = rng.permutation(np.flatnonzero(n_targets == 2))
    train, valid, test = np.split(of_double, (len(of_double) * np.array([0.64, 0.8])).astype(int))
    seen, held_out = doubles[: N_DOUBLES // 2], doubles[-N_HELD_OUT:]
    part[train[np.isin(label[train], seen)]] = "train"
    part[valid[np.isin(label[valid], seen)]] = "valid"
    part[test[np.isin(label[test], held_out)]] = "test"
    others = rng.permutation(np.flatnonzero(n_targets < 2))
    first = int(0.8 * len(others))
    part[others[:first]], part[others[first:]] = "train", "valid"
    return part
