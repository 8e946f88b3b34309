"""Simulated perturbation screens with known masks, effects and treatment effects."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys
from perturbia.datasets._simulated_anndata import gene_names, perturbation_names
from perturbia.perturbation import Perturbation, dosage_labels, dosage_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["simulate_screen"]


@dataclass(frozen=True)
class _Decoder:
    """Latent to log-abundance: a hidden layer that saturates, then a linear map to genes."""

    hidden: np.ndarray
    output: np.ndarray
    base: np.ndarray
    saturation: float

    @classmethod
    def draw(cls, rng: np.random.Generator, n_latent: int, n_genes: int, saturation: float) -> _Decoder:
        n_hidden = 3 * n_latent
        return cls(
            hidden=rng.normal(0, n_latent**-0.5, (n_latent, n_hidden)),
            output=rng.normal(0, 1.2 * n_hidden**-0.5, (n_hidden, n_genes)),
            base=rng.normal(0, 1, n_genes),
            saturation=saturation,
        )

    def proportions(self, latent: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
        hidden = latent @ self.hidden
        if self.saturation > 0:
            hidden = np.tanh(self.saturation * hidden) / self.saturation
        logits = self.base + hidden @ self.output + shift
        logits -= logits.max(-1, keepdims=True)
        weight = np.exp(logits)
        return weight / weight.sum(-1, keepdims=True)


def simulate_screen(
    *,
    n_perturbations: int = 40,
    n_combinations: int = 40,
    n_genes: int = 300,
    n_latent: int = 10,
    mask_prob: float = 0.2,
    effect_scale: float = 1.5,
    effect_shape: Literal["normal", "sign"] = "normal",
    saturation: float = 0.6,
    cells_per_perturbation: int = 60,
    n_controls: int = 600,
    group_size_dispersion: float = 0.0,
    doses: Sequence[float] = (1.0,),
    n_batches: int = 1,
    batch_scale: float = 0.3,
    library_size: float = 3000.0,
    library_log_sd: float = 0.3,
    concentration: float = 5.0,
    n_truth_cells: int = 1000,
    seed: int = 0,
) -> AnnData:
    r"""Simulate a screen in which perturbations shift a few latents each, sparsely and additively.

    .. math::
        z_i = z_i^b + \sum_t d_{it}\, m_t \odot e_t, \quad z_i^b \sim N(0, I), \quad
        x_i \sim \mathrm{NB}\big(l_i\,\mathrm{softmax}(b + W_2 \tanh(\kappa W_1 z_i)/\kappa + s_{\mathrm{batch}})\big)

    With `saturation` (:math:`\kappa`) at 0 the decoder is log-linear, and effects on log-abundance add up exactly; the
    larger it is, the earlier strong shifts saturate. Effects on the log-normalised scale depart from additivity in any
    case, through the softmax and the logarithm.

    Parameters
    ----------
    n_perturbations
        Number of single perturbations, named ``P01``, ``P02``, …
    n_combinations
        Number of distinct pairs of them.
    n_genes
        Number of genes.
    n_latent
        Number of latent dimensions.
    mask_prob
        Probability that a perturbation moves a latent; every perturbation moves at least one.
    effect_scale
        Standard deviation of the shift of a moved latent, in units of the basal standard deviation.
    effect_shape
        ``"normal"``: shifts are normal, so that many are too weak to be seen; ``"sign"``: all are as strong as
        `effect_scale`, up or down.
    saturation
        Strength of the decoder's non-linearity, 0 for none.
    cells_per_perturbation
        Mean number of cells of each single perturbation and each pair.
    n_controls
        Number of control cells.
    group_size_dispersion
        Standard deviation of the log of the group sizes; 0 makes all groups equal. No group has fewer than 5 cells.
    doses
        Doses from which each treated cell draws one for each member; label ``P01@0.5`` for other doses than 1.
    n_batches
        Number of batches, balanced at random, with gene-wise shifts of log-abundance.
    batch_scale
        Standard deviation of these shifts.
    library_size
        Median counts per cell.
    library_log_sd
        Standard deviation of the log library size.
    concentration
        Inverse dispersion of the negative binomial, common to all genes.
    n_truth_cells
        Number of basal latents over which true treatment effects are averaged.
    seed
        Seed of the generator.

    Returns
    -------
    AnnData with counts (CSR float32) in `X` and `layers["counts"]`, `obs["perturbation"]` (canonical label, controls
    ``control``), `obs["batch"]`, and the truth:

    - `obsm["truth_basal"]`, `obsm["truth_latent"]`: float32 `(n_obs, n_latent)`;
    - `uns["truth"]`: `names`; `masks` (bool) and `effects` (float32, already masked), both
      `(n_perturbations, n_latent)`; `ate`, a data frame (label × gene) of
      :math:`E[\log(1 + 10^4 x / l)]` under the perturbation minus control, with the same basal latents and batches on
      both sides.

    Raises
    ------
    ValueError
        If a size or scale is out of range, or more pairs are asked for than exist.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=2, n_genes=20, n_latent=3)
    >>> adata.uns["truth"]["masks"].shape
    (4, 3)
    """
    _check(locals())
    rng = np.random.default_rng(seed)
    names = perturbation_names(n_perturbations)
    masks = rng.random((n_perturbations, n_latent)) < mask_prob
    masks[np.arange(n_perturbations), rng.integers(0, n_latent, n_perturbations)] = True
    effects = masks * rng.normal(0, effect_scale, masks.shape)
    if effect_shape == "sign":
        effects = effect_scale * np.sign(effects)
    decoder = _Decoder.draw(rng, n_latent, n_genes, saturation)

    dosage = _draw_dosage(
        rng, n_perturbations, n_combinations, cells_per_perturbation, group_size_dispersion, n_controls, np.array(doses)
    )
    n_obs = dosage.shape[0]
    basal = rng.normal(size=(n_obs, n_latent))
    latent = basal + dosage @ effects
    batch = rng.integers(0, n_batches, n_obs)
    shifts = rng.normal(0, batch_scale, (n_batches, n_genes)) * (n_batches > 1)
    library = library_size * np.exp(rng.normal(0, library_log_sd, n_obs))
    mean = library[:, None] * decoder.proportions(latent, shifts[batch])
    counts = rng.poisson(mean * rng.gamma(concentration, 1 / concentration, mean.shape)).astype(np.float32)

    labels = dosage_labels(dosage, names)
    true_ate = _true_effects(
        rng, decoder, effects, shifts, names, labels, library_size, library_log_sd, concentration, n_truth_cells
    )
    return _as_anndata(counts, labels, batch, basal, latent, names, masks, effects, true_ate)


def _check(arguments: dict) -> None:
    sizes = ("n_perturbations", "n_genes", "n_latent", "cells_per_perturbation", "n_controls", "n_batches")
    for name in (*sizes, "n_truth_cells"):
        if not (isinstance(arguments[name], int | np.integer) and arguments[name] >= 1):
            msg = f"{name}: expected a positive integer, got {arguments[name]!r}."
            raise ValueError(msg)
    if arguments["effect_shape"] not in {"normal", "sign"}:
        msg = f"effect_shape: expected 'normal' or 'sign', got {arguments['effect_shape']!r}."
        raise ValueError(msg)
    most = arguments["n_perturbations"] * (arguments["n_perturbations"] - 1) // 2
    pairs = arguments["n_combinations"]
    if not (isinstance(pairs, int | np.integer) and 0 <= pairs <= most):
        msg = f"n_combinations: expected 0 to {most} pairs of the perturbations, got {pairs!r}."
        raise ValueError(msg)
    for name in ("effect_scale", "library_size", "concentration"):
        if not arguments[name] > 0:
            msg = f"{name}: expected a positive number, got {arguments[name]!r}."
            raise ValueError(msg)
    for name in ("saturation", "group_size_dispersion", "batch_scale", "library_log_sd"):
        if not arguments[name] >= 0:
            msg = f"{name}: expected zero or a positive number, got {arguments[name]!r}."
            raise ValueError(msg)
    if not 0 <= arguments["mask_prob"] <= 1:
        msg = f"mask_prob: expected a probability, got {arguments['mask_prob']!r}."
        raise ValueError(msg)
    if len(arguments["doses"]) == 0 or not all(np.isfinite(dose) and dose > 0 for dose in arguments["doses"]):
        msg = f"doses: expected positive finite numbers, got {arguments['doses']!r}."
        raise ValueError(msg)


def _draw_dosage(
    rng: np.random.Generator,
    n_perturbations: int,
    n_combinations: int,
    cells: int,
    dispersion: float,
    n_controls: int,
    doses: np.ndarray,
) -> sparse.csr_matrix:
    """Dosage matrix of all cells: controls first, then singles, then pairs."""
    every_pair = np.array(list(combinations(range(n_perturbations), 2)), dtype=int).reshape(-1, 2)
    pairs = every_pair[rng.choice(len(every_pair), n_combinations, replace=False)] if n_combinations else every_pair[:0]
    members = [np.array([t]) for t in range(n_perturbations)] + list(pairs)
    spread = np.exp(rng.normal(0, dispersion, len(members)) - dispersion**2 / 2)
    sizes = np.maximum(5, np.rint(cells * spread)).astype(int)
    n_treated = int(sizes.sum())
    group = np.repeat(np.arange(len(members)), sizes)
    rows = np.concatenate([np.arange(n_treated), np.flatnonzero(group >= n_perturbations)])
    columns = np.concatenate(
        [np.array([m[0] for m in members])[group], np.array([m[-1] for m in members])[group[group >= n_perturbations]]]
    )
    values = rng.choice(doses, len(rows)).astype(np.float32)
    treated = sparse.csr_matrix((values, (rows, columns)), shape=(n_treated, n_perturbations))
    return sparse.vstack([sparse.csr_matrix((n_controls, n_perturbations), dtype=np.float32), treated], format="csr")


def _true_effects(
    rng: np.random.Generator,
    decoder: _Decoder,
    effects: np.ndarray,
    shifts: np.ndarray,
    names: list[str],
    labels: np.ndarray,
    library_size: float,
    library_log_sd: float,
    concentration: float,
    n_cells: int,
) -> pd.DataFrame:
    """Exact average treatment effects: one basal population over all batches, one set of Gamma factors, exact counts."""
    import torch

    from perturbia.nn import ExpectedLogCounts, gamma_quantile_draws

    observed = [label for label in pd.unique(labels) if label != "control"]
    offsets = dosage_matrix([Perturbation(label) for label in observed], names) @ effects
    basal = rng.normal(size=(n_cells, effects.shape[1]))
    library = library_size * np.exp(rng.normal(0, library_log_sd, n_cells))
    n_genes = len(decoder.base)
    noise = gamma_quantile_draws(
        torch.full((n_genes,), concentration),
        n_cells,
        generator=torch.Generator().manual_seed(int(rng.integers(2**31))),
    )
    shift = shifts[rng.integers(0, len(shifts), n_cells)]
    layer = ExpectedLogCounts(torch.from_numpy(library), max_rate=float(library.max() * noise.max()))

    def expected(offset: np.ndarray) -> np.ndarray:
        rate = torch.from_numpy(library[:, None] * decoder.proportions(basal + offset, shift)).float()
        return layer.mean(rate * noise).double().mean(0).numpy()

    control = expected(np.zeros(effects.shape[1]))
    ate = np.stack([expected(offset) - control for offset in offsets])
    return pd.DataFrame(ate, index=pd.Index(observed, name=None), columns=gene_names(n_genes))


def _as_anndata(
    counts: np.ndarray,
    labels: np.ndarray,
    batch: np.ndarray,
    basal: np.ndarray,
    latent: np.ndarray,
    names: list[str],
    masks: np.ndarray,
    effects: np.ndarray,
    true_ate: pd.DataFrame,
) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame(
        {"perturbation": pd.Categorical(labels), "batch": pd.Categorical([f"batch_{b + 1}" for b in batch])},
        index=[f"cell_{i + 1}" for i in range(len(labels))],
    )
    matrix = sparse.csr_matrix(counts)
    adata = AnnData(matrix, obs=obs, var=pd.DataFrame(index=gene_names(counts.shape[1])))
    adata.layers["counts"] = matrix.copy()
    adata.obsm[_keys.OBSM_TRUTH_BASAL] = basal.astype(np.float32)
    adata.obsm[_keys.OBSM_TRUTH_LATENT] = latent.astype(np.float32)
    adata.uns[_keys.UNS_TRUTH] = {
        "names": np.array(names),
        "masks": masks,
        "effects": effects.astype(np.float32),
        "ate": true_ate,
    }
    return adata
