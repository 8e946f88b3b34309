"""Simulated plates of wells: genes in complexes, guides, doses, plates that shift and scale, correlated features."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.datasets._simulation_arguments import (
    check_count,
    check_not_negative,
    check_positive,
    check_share,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["simulate_plates"]

# spread of the standard deviations of features' own noise: factors of e^sd
_NOISE_SPREAD = 0.5
# length of a direction that has none
_ZERO = 1e-12


def simulate_plates(
    *,
    n_complexes: int = 20,
    genes_per_complex: int = 4,
    n_single_genes: int = 40,
    n_guides: int = 2,
    doses: Sequence[float] = (1.0,),
    n_plates: int = 8,
    n_replicates: int = 2,
    n_controls: int = 12,
    n_features: int = 120,
    n_effects: int = 15,
    n_nuisances: int = 8,
    n_factors: int = 40,
    feature_noise: float = 0.3,
    effect_scale: float = 4.0,
    likeness: float = 0.7,
    guide_spread: float = 0.3,
    nuisance_scale: float = 4.0,
    overlap: float = 0.3,
    plate_offset: float = 1.0,
    plate_scale: float = 0.2,
    seed: int = 0,
) -> AnnData:
    r"""Simulate wells of an arrayed screen: what genes do, what all wells vary by anyway, and what plates add.

    .. math::
        x_w = \mu_p + \sigma_p \odot \left(y_w L + \psi \odot \varepsilon_w\right), \qquad
        y_w = h_w\, g_w\, u_w A + t_w C + \eta_w

    with :math:`y` on few factors that many features measure, so that features are correlated; :math:`u` the effect of
    the gene, on `n_effects` axes, :math:`g` the strength of its guide, :math:`h` the share of the effect at the dose of
    the well; :math:`t \sim N(0, I)` nuisances that every well has, controls too (density, staining, position);
    :math:`\eta, \varepsilon \sim N(0, I)` what differs from well to well, and errors of features. Offsets
    :math:`\mu_p` and scales :math:`\sigma_p` belong to the plate.

    Parameters
    ----------
    n_complexes
        Number of complexes, ``C01``, ``C02``, …; they are mechanisms, too, with genes as their compounds.
    genes_per_complex
        Genes of each.
    n_single_genes
        Genes in no complex, each with an effect of its own.
    n_guides
        Guides of each gene.
    doses
        Doses that every guide is given at. The share of the full effect is :math:`2h/(1+h)`, 1 at dose 1.
    n_plates
        Number of plates.
    n_replicates
        Wells of each guide and dose, each on another plate; at most `n_plates`.
    n_controls
        Control wells of each plate.
    n_features
        Number of features.
    n_effects
        Axes along which genes act.
    n_nuisances
        Axes along which all wells vary; fewer than `n_factors`, unless `overlap` is 1.
    n_factors
        Factors that features measure; at most `n_features`. Directions of features beyond them hold error alone.
    feature_noise
        Standard deviation of the error of a feature, in units of what differs from well to well.
    effect_scale
        Norm of the effect of a gene on the factors, in units of the standard deviation of :math:`\eta` in one of them.
    likeness
        Cosine, expected, of the effects of two genes of a complex, from 0 to 1.
    guide_spread
        Standard deviation of the logarithm of the strength of guides.
    nuisance_scale
        Standard deviation of the strongest nuisance, in the same units; the k-th has :math:`1/\sqrt{k}` of it.
    overlap
        Share of the variance of effects that lies in the span of the nuisances, where whitening dims it.
    plate_offset
        Standard deviation of :math:`\mu_p`, in the same units.
    plate_scale
        Standard deviation of the logarithm of :math:`\sigma_p`.
    seed
        Seed of the generator.

    Returns
    -------
    AnnData, wells × features, float32 in `X`, wells of one plate together:

    - `obs["perturbation"]`: gene, ``G001``, …, or ``"control"``; `obs["guide"]`: ``G001-1``, …, or ``"control"``;
    - `obs["replicate"]`: ``"1"``, ``"2"``, … within guide and dose, ``"control"`` for controls; `obs["dose"]`, 0 for controls;
    - `obs["complex"]`: complex of the gene, ``"none"`` for single genes, ``"control"``;
    - `obs["plate"]`: ``plate_01``, …; `obs["well"]`: number within the plate;
    - `layers["truth_mean"]`: effects alone, without plates, nuisances and noise;
    - `uns["truth"]`: `relationships`, DataFrame ``entity1``, ``entity2`` of all pairs within complexes; `genes`, their
      `complexes` and `effects` (n_genes, n_features); `nuisances` (n_nuisances, n_features); `errors` (n_features,),
      `plate_offset` and `plate_scale` (n_plates, n_features).

    Raises
    ------
    ValueError
        If a size, scale or share is out of range.

    Notes
    -----
    Plates hold other genes, and equal numbers of treated wells up to one, so that a plate is no gene's own. Memory and
    time are those of the wells × features.

    Examples
    --------
    >>> import perturbia as pb
    >>> wells = pb.datasets.simulate_plates(n_complexes=3, n_single_genes=2, n_plates=2, n_features=60)
    >>> wells.shape, wells.obs["complex"].nunique()
    ((80, 60), 5)
    >>> len(wells.uns["truth"]["relationships"])
    18
    """
    _check(locals())
    rng = np.random.default_rng(seed)
    genes, complex_of, member_of = _library(n_complexes, genes_per_complex, n_single_genes)
    nuisances = _unit(rng.normal(size=(n_nuisances, n_factors))) / np.sqrt(1 + np.arange(n_nuisances))[:, None]
    axes = _effect_axes(rng, n_effects, nuisances, overlap)
    loadings = rng.normal(size=(n_factors, n_features))
    loadings /= np.linalg.norm(loadings, axis=0)
    effects = effect_scale * _gene_directions(rng, axes, len(genes), member_of, likeness)
    strength = np.exp(rng.normal(0, guide_spread, (len(genes), n_guides)))

    gene, guide, dose, replicate, plate = _layout(rng, len(genes), n_guides, len(doses), n_replicates, n_plates)
    given = np.asarray(doses, dtype=np.float64)
    share = 2 * given / (1 + given)
    mean = effects[gene] * (strength[gene, guide] * share[dose])[:, None]
    n_control_wells = n_plates * n_controls
    mean = np.vstack([mean, np.zeros((n_control_wells, n_factors))])
    plate = np.r_[plate, np.repeat(np.arange(n_plates), n_controls)]
    offsets = rng.normal(0, plate_offset, (n_plates, n_features))
    scales = np.exp(rng.normal(0, plate_scale, (n_plates, n_features)))
    errors = feature_noise * np.exp(rng.normal(0, _NOISE_SPREAD, n_features))
    factors = (
        mean + nuisance_scale * rng.normal(size=(len(mean), n_nuisances)) @ nuisances + rng.normal(size=mean.shape)
    )
    values = factors @ loadings + errors * rng.normal(size=(len(mean), n_features))
    values = offsets[plate] + scales[plate] * values

    obs = _described(genes, complex_of, gene, guide, replicate, n_control_wells)
    obs["plate"] = pd.Categorical(_numbered("plate_", n_plates, width=2)[plate])
    obs["dose"] = np.r_[given[dose], np.zeros(n_control_wells)]
    order = np.lexsort((rng.random(len(plate)), plate))
    return _as_anndata(
        values[order],
        obs.iloc[order],
        mean[order] @ loadings,
        {
            "relationships": _pairs(genes.tolist(), member_of),
            "genes": genes,
            "complexes": complex_of,
            "effects": (effects @ loadings).astype(np.float32),
            "nuisances": (nuisance_scale * nuisances @ loadings).astype(np.float32),
            "errors": errors.astype(np.float32),
            "plate_offset": offsets.astype(np.float32),
            "plate_scale": scales.astype(np.float32),
        },
    )


def _numbered(prefix: str, n: int, *, width: int) -> np.ndarray:
    """Names that sort as their numbers do, from 1."""
    width = max(width, len(str(n)))
    return np.array([f"{prefix}{i + 1:0{width}d}" for i in range(n)], dtype=str)


def _library(
    n_complexes: int, genes_per_complex: int, n_single_genes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names of genes, the complex of each, and its number for those in one, which come first."""
    member_of = np.repeat(np.arange(n_complexes), genes_per_complex)
    genes = _numbered("G", len(member_of) + n_single_genes, width=3)
    return genes, np.r_[_numbered("C", n_complexes, width=2)[member_of], np.full(n_single_genes, "none")], member_of


def _gene_directions(
    rng: np.random.Generator, axes: np.ndarray, n_genes: int, member_of: np.ndarray, likeness: float
) -> np.ndarray:
    """Effects of length 1, (n_genes, n_factors), alike in genes of a complex."""
    shared = _unit(rng.normal(size=(member_of.max(initial=-1) + 1, len(axes))))[member_of]
    own = _unit(rng.normal(size=(n_genes, len(axes))))
    mixed = np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own[: len(shared)]
    # on a single axis the two may cancel
    own[: len(shared)] = np.where(np.linalg.norm(mixed, axis=1, keepdims=True) > _ZERO, mixed, shared)
    return _unit(_unit(own) @ axes)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _effect_axes(rng: np.random.Generator, n_effects: int, nuisances: np.ndarray, overlap: float) -> np.ndarray:
    """Unit axes (n_effects, n_factors) with a share of their variance in the span of the nuisances."""
    basis = np.linalg.qr(nuisances.T)[0]
    free = rng.normal(size=(n_effects, nuisances.shape[1]))
    inside = _unit(rng.normal(size=(n_effects, basis.shape[1]))) @ basis.T
    if overlap == 1:  # there may be nothing outside
        return inside
    outside = free - free @ basis @ basis.T
    return np.sqrt(overlap) * inside + np.sqrt(1 - overlap) * _unit(outside)


def _layout(
    rng: np.random.Generator, n_genes: int, n_guides: int, n_doses: int, n_replicates: int, n_plates: int
) -> tuple[np.ndarray, ...]:
    """Gene, guide, dose, replicate and plate of every treated well; replicates lie on different plates."""
    conditions = np.indices((n_genes, n_guides, n_doses)).reshape(3, -1)
    n_conditions = conditions.shape[1]
    # a condition starts on a plate, and its replicates lie on the next ones
    start = rng.permutation(_starts(n_conditions, n_replicates, n_plates))
    gene, guide, dose = np.repeat(conditions, n_replicates, axis=1)
    replicate = np.tile(np.arange(n_replicates), n_conditions)
    return gene, guide, dose, replicate, (np.repeat(start, n_replicates) + replicate) % n_plates


def _starts(n_conditions: int, n_replicates: int, n_plates: int) -> np.ndarray:
    """First plates of the conditions, so that plates hold equal numbers of wells up to one."""
    start = np.arange(n_conditions) % n_plates
    wells = np.bincount((start[:, None] + np.arange(n_replicates)).ravel() % n_plates, minlength=n_plates)
    if np.ptp(wells) > 1:
        # as many as start on every plate equally often; the rest each where the one before ended
        rest = np.arange(n_conditions - n_conditions % n_plates, n_conditions)
        start[rest] = (rest * n_replicates) % n_plates
    return start


def _described(
    genes: np.ndarray,
    complex_of: np.ndarray,
    gene: np.ndarray,
    guide: np.ndarray,
    replicate: np.ndarray,
    n_controls: int,
) -> pd.DataFrame:
    """What treated wells received, and controls after them."""
    guides = [f"{name}-{k + 1}" for name, k in zip(genes[gene], guide, strict=True)]
    treated = {
        "perturbation": genes[gene],
        "guide": np.array(guides),
        "replicate": (replicate + 1).astype(str),
        _keys.OBS_COMPLEX: complex_of[gene],
    }
    controls = np.full(n_controls, "control", dtype=object)
    return pd.DataFrame(
        {name: np.r_[labels.astype(object), controls] for name, labels in treated.items()}, dtype="category"
    )


def _pairs(genes: Sequence[str], member_of: np.ndarray) -> pd.DataFrame:
    """All pairs of genes within complexes."""
    pairs = [
        (genes[i], genes[j])
        for one in np.unique(member_of)
        for i, j in combinations(np.flatnonzero(member_of == one).tolist(), 2)
    ]
    return pd.DataFrame(pairs, columns=["entity1", "entity2"], dtype=object)


def _as_anndata(values: np.ndarray, obs: pd.DataFrame, mean: np.ndarray, truth: dict) -> AnnData:
    from anndata import AnnData

    obs = obs.copy()
    obs["well"] = obs.groupby("plate", observed=True).cumcount().to_numpy() + 1
    obs.index = pd.Index([f"{plate}_{well:04d}" for plate, well in zip(obs["plate"], obs["well"], strict=True)])
    width = len(str(values.shape[1]))
    var = pd.DataFrame(index=[f"feature_{i + 1:0{width}d}" for i in range(values.shape[1])])
    adata = AnnData(values.astype(np.float32), obs=obs, var=var)
    adata.layers[_keys.LAYER_TRUTH_MEAN] = mean.astype(np.float32)
    adata.uns[_keys.UNS_TRUTH] = truth
    return adata


def _check(arguments: dict) -> None:
    sizes = (
        "n_guides",
        "n_plates",
        "n_replicates",
        "n_features",
        "n_effects",
        "n_nuisances",
        "n_factors",
        "genes_per_complex",
    )
    for name in sizes:
        check_count(name, arguments[name])
    for name in ("n_complexes", "n_single_genes", "n_controls", "seed"):
        check_count(name, arguments[name], least=0)
    for name in ("likeness", "overlap"):
        check_share(name, arguments[name], with_one=True)
    if arguments["n_complexes"] * arguments["genes_per_complex"] + arguments["n_single_genes"] < 1:
        msg = "n_complexes: expected a gene at least, got none in complexes and n_single_genes=0. Ask for either."
        raise ValueError(msg)
    if arguments["n_replicates"] > arguments["n_plates"]:
        msg = (
            f"n_replicates: expected at most one well a plate, {arguments['n_plates']}, got {arguments['n_replicates']!r}. "
            "Pass fewer, or more plates."
        )
        raise ValueError(msg)
    for name, most in (("n_nuisances", "n_factors"), ("n_factors", "n_features")):
        if arguments[name] > arguments[most]:
            msg = f"{name}: expected at most {most}={arguments[most]!r}, got {arguments[name]!r}. Pass fewer."
            raise ValueError(msg)
    _check_nuisances(arguments["n_nuisances"], arguments["n_factors"], arguments["overlap"])
    _check_doses(arguments["doses"])
    for name in ("effect_scale", "guide_spread", "nuisance_scale", "feature_noise", "plate_offset", "plate_scale"):
        check_not_negative(name, arguments[name])


def _check_nuisances(n_nuisances: int, n_factors: int, overlap: float) -> None:
    """Refuse effects outside the span of the nuisances where there is no outside."""
    if n_nuisances == n_factors and overlap != 1:
        msg = (
            f"n_nuisances: expected fewer than n_factors={n_factors!r} with overlap={overlap!r}, since nuisances along all "
            f"factors leave no room for effects outside them, got {n_nuisances!r}. Pass fewer, or overlap=1."
        )
        raise ValueError(msg)


def _check_doses(doses: Any) -> None:
    given = list(doses) if np.iterable(doses) and not isinstance(doses, str) else []
    for dose in given:
        check_positive("doses", dose)
    if not given or len(set(given)) < len(given):
        got = repr(given) if np.iterable(doses) else repr(doses)
        msg = f"doses: expected distinct doses in a sequence, got {got}. Pass (1.0,) for one."
        raise ValueError(msg)
