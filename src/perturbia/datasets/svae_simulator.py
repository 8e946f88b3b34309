"""The simulated screen of sVAE+: strong shifts of a few latents, seen through a leaky decoder and Poisson counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.datasets._layered_mixing import LayeredMixing
from perturbia.datasets._simulated_anndata import perturbation_names, simulated_anndata
from perturbia.datasets._simulation_arguments import (
    check_choice,
    check_count,
    check_injective,
    check_library_size,
    check_not_negative,
    check_positive,
    check_share,
)

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["simulate_svae"]


def simulate_svae(
    *,
    n_perturbations: int = 100,
    n_genes: int = 100,
    n_latent: int = 15,
    n_targets: tuple[int, int] = (1, 3),
    effect_shape: Literal["strong", "normal"] = "strong",
    effect_scale: float = 5.0,
    effect_spread: float = 0.5,
    cells_per_perturbation: int = 250,
    n_controls: int = 0,
    held_out_fraction: float = 0.2,
    n_hidden: int = 40,
    library_size: float = 1e6,
    normalize: Literal["cell", "gene_legacy"] = "cell",
    seed: int = 0,
) -> AnnData:
    r"""Simulate the screen of the sVAE+ paper: every intervention moves one to three latents by a lot.

    .. math::
        z_i \sim N(m_t \odot e_t, I), \quad x_i \sim \mathrm{Poisson}\big(l\,\mathrm{softmax}(f(z_i) / \sigma)\big)

    with the intervention :math:`t` of the cell, :math:`f` three hidden layers with orthonormal weights and leaky ReLU
    (slope 0.2), and :math:`\sigma` the standard deviation of all its outputs, over cells and genes.

    Parameters
    ----------
    n_perturbations
        Number of interventions, named ``P01``, ``P02``, …
    n_genes
        Number of genes, at least `n_hidden`.
    n_latent
        Number of latent dimensions.
    n_targets
        Fewest and most draws of targets. Each intervention draws a number in between, and as many targets with
        replacement: of three draws, fewer latents may be hit.
    effect_shape
        ``"strong"``: the size of a shift is normal with mean `effect_scale` and standard deviation `effect_spread`, up or
        down; ``"normal"``: shifts are normal with mean 0 and standard deviation `effect_scale`, so that many are too weak
        to be seen.
    effect_scale
        Scale of shifts, in units of the standard deviation of a latent within an intervention.
    effect_spread
        Standard deviation of the size of strong shifts; normal shifts do without it.
    cells_per_perturbation
        Cells of every intervention.
    n_controls
        Number of control cells, with :math:`z \sim N(0, I)`. The paper has none.
    held_out_fraction
        Share of the interventions, the last ones, that are marked as held out.
    n_hidden
        Width of the hidden layers, from `n_latent` to `n_genes`.
    library_size
        Expected counts of a cell (`normalize="cell"`), or of a gene over all cells (`normalize="gene_legacy"`).
    normalize
        ``"cell"``: the softmax runs over the genes, as the paper writes it. ``"gene_legacy"``: it runs over the cells,
        as the published code does, so that every gene and no cell has the same total; with the other defaults the
        median cell then has some 3,800 counts. At small `library_size` cells may be empty, which models refuse.
    seed
        Seed of the generator.

    Returns
    -------
    AnnData with counts (CSR float32) in `X` and `layers["counts"]`, controls first, then the interventions in order:

    - `obs["perturbation"]`: intervention, controls ``control``; `obs["held_out"]` (bool): cells of those held out;
    - `obsm["truth_basal"]`, `obsm["truth_latent"]`: float32 `(n_obs, n_latent)`, the latents without and with shift;
    - `layers["truth_mean"]`: expected counts, dense float32;
    - `uns["truth"]`: `names`; `masks` (bool) and `effects` (float32, already masked), both
      `(n_perturbations, n_latent)`; `held_out` (bool, `(n_perturbations,)`); `decoder` with the weights `layer_1` to
      `layer_4`, the `activation` and the `scale` :math:`\sigma`.

    Raises
    ------
    ValueError
        If a size, scale, share or choice is out of range, or the decoder would not be injective.

    Notes
    -----
    Without control cells, registration refuses the data (:class:`~perturbia.errors.ControlError`), as the origin of
    effects is not defined. Set `n_controls` for models of effects.

    The text of the paper gives 500 cells an intervention in one place and 100,000 in total in another, its code 500;
    250 keep the screen small.

    References
    ----------
    Lopez, R., Tagasovska, N., Ra, S., Cho, K., Pritchard, J. K. and Regev, A. (2023). Learning causal representations
    of single cells via sparse mechanism shift modeling. CLeaR, pp. 662-691: simulated data, in the details of the
    published code (function ``sparse_shift``).

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_svae(n_perturbations=5, cells_per_perturbation=20, n_controls=30)
    >>> adata.shape
    (130, 100)
    >>> adata.uns["truth"]["masks"].shape
    (5, 15)
    >>> pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    """
    _check(locals())
    rng = np.random.default_rng(seed)
    masks = _draw_masks(rng, n_perturbations, n_latent, n_targets)
    if effect_shape == "strong":
        sizes = rng.normal(effect_scale, effect_spread, masks.shape) * rng.choice([-1.0, 1.0], masks.shape)
    else:
        sizes = rng.normal(0, effect_scale, masks.shape)
    effects = masks * sizes

    # the row after the last is that of controls
    which = np.repeat([n_perturbations, *range(n_perturbations)], [n_controls] + [cells_per_perturbation] * len(masks))
    basal = rng.normal(size=(len(which), n_latent))
    latent = basal + np.vstack([effects, np.zeros(n_latent)])[which]
    # without biases the output is proportional to the gains of the layers, so that dividing by sigma undoes them
    decoder = LayeredMixing.draw(rng, [n_latent, n_hidden, n_hidden, n_hidden, n_genes])
    logits = decoder(latent)
    scale = logits.std()
    mean = library_size * _softmax(logits / scale, axis=1 if normalize == "cell" else 0)

    names = perturbation_names(n_perturbations)
    held_out = np.arange(n_perturbations) >= n_perturbations - round(held_out_fraction * n_perturbations)
    return simulated_anndata(
        rng.poisson(mean),
        counts=True,
        obs={
            "perturbation": pd.Categorical(np.array([*names, "control"])[which]),
            _keys.OBS_HELD_OUT: np.append(held_out, False)[which],
        },
        mean=mean,
        latents={_keys.OBSM_TRUTH_BASAL: basal, _keys.OBSM_TRUTH_LATENT: latent},
        truth={
            "names": np.array(names),
            "masks": masks,
            "effects": effects.astype(np.float32),
            "held_out": held_out,
            "decoder": decoder.as_arrays(scale),
        },
    )


def _check(arguments: dict) -> None:
    for name in ("n_perturbations", "n_genes", "n_latent", "cells_per_perturbation", "n_hidden"):
        check_count(name, arguments[name])
    for name in ("n_controls", "seed"):
        check_count(name, arguments[name], least=0)
    check_injective(arguments["n_latent"], arguments["n_hidden"], arguments["n_genes"])
    check_choice("effect_shape", arguments["effect_shape"], ("strong", "normal"))
    check_choice("normalize", arguments["normalize"], ("cell", "gene_legacy"))
    check_positive("effect_scale", arguments["effect_scale"])
    check_not_negative("effect_spread", arguments["effect_spread"])
    check_share("held_out_fraction", arguments["held_out_fraction"], with_one=False)
    check_library_size(arguments["library_size"])
    span = arguments["n_targets"]
    whole = isinstance(span, tuple | list) and all(isinstance(n, int | np.integer) for n in span)
    if not (whole and len(span) == 2 and 1 <= span[0] <= span[1]):
        msg = f"n_targets: expected two whole numbers from 1 up, fewest and most, got {span!r}. Pass such as (1, 3)."
        raise ValueError(msg)


def _draw_masks(
    rng: np.random.Generator, n_perturbations: int, n_latent: int, n_targets: tuple[int, int]
) -> np.ndarray:
    """Latents hit by each intervention, bool; a latent drawn twice counts once."""
    fewest, most = n_targets
    n_draws = rng.integers(fewest, most, n_perturbations, endpoint=True)
    row, draw = np.nonzero(np.arange(most) < n_draws[:, None])
    masks = np.zeros((n_perturbations, n_latent), dtype=bool)
    masks[row, rng.integers(0, n_latent, (n_perturbations, most))[row, draw]] = True
    return masks


def _softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    weight = np.exp(logits - logits.max(axis, keepdims=True))
    return weight / weight.sum(axis, keepdims=True)
