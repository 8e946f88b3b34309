"""The simulated screen of the SAMS-VAE paper: sparse strong shifts, a deep decoder and Gaussian features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.datasets._layered_mixing import LayeredMixing
from perturbia.datasets._simulated_anndata import perturbation_names, simulated_anndata
from perturbia.datasets._simulation_arguments import (
    check_count,
    check_injective,
    check_not_negative,
    check_positive,
    check_share,
)

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["simulate_sams"]


def simulate_sams(
    *,
    n_perturbations: int = 100,
    n_genes: int = 100,
    n_latent: int = 15,
    mask_prob: float = 2 / 15,
    effect_scale: float = 5.0,
    effect_spread: float = 0.5,
    cells_per_split: tuple[int, int, int] = (500, 100, 100),
    n_controls: int = 0,
    n_hidden: int = 50,
    n_layers: int = 4,
    sparsity: float | None = None,
    exponential: bool = False,
    noise_fraction: float = 0.2,
    seed: int = 0,
) -> AnnData:
    r"""Simulate the screen of the SAMS-VAE paper, with Gaussian features and its own training split.

    .. math::
        z_i = z_i^b + m_t \odot e_t, \quad z_i^b \sim N(0, I), \quad m_{tl} \sim \mathrm{Bernoulli}(\alpha), \quad
        x_{ig} \sim N\big(\mu_{ig}, \tfrac{\phi}{1 - \phi}\mathrm{Var}(\mu_g)\big), \quad
        \mu_{ig} = f_g(z_i) / \mathrm{sd}(f_g)

    with :math:`f` hidden layers with orthonormal weights and leaky ReLU (slope 0.2), and the variance and standard
    deviation of a gene taken over all cells.

    Parameters
    ----------
    n_perturbations
        Number of perturbations, named ``P01``, ``P02``, …
    n_genes
        Number of features, at least `n_hidden`.
    n_latent
        Number of latent dimensions.
    mask_prob
        Probability :math:`\alpha` that a perturbation moves a latent. As in the paper, some move none.
    effect_scale
        Mean size of a shift, up or down, in units of the basal standard deviation.
    effect_spread
        Standard deviation of that size.
    cells_per_split
        Cells of every perturbation for training, validation and test.
    n_controls
        Number of control cells, shared out to the splits in the same proportions. The paper has none.
    n_hidden
        Width of the hidden layers, from `n_latent` to `n_genes`.
    n_layers
        Number of hidden layers.
    sparsity
        `None` for orthonormal weights, else normal ones of which each unit lacks this share: many features then depend
        on few latents, and some may on none.
    exponential
        Take the exponential of :math:`\mu`, which brings strong outliers.
    noise_fraction
        Share :math:`\phi` of the variance of a feature that is measurement noise.
    seed
        Seed of the generator.

    Returns
    -------
    AnnData with dense float32 features in `X` (no counts), controls first, then the perturbations in order, each with
    its training, validation and test cells in turn:

    - `obs["perturbation"]`: perturbation, controls ``control``; `obs["pb_split"]`: ``train``, ``valid`` or ``test``,
      which models train by;
    - `obsm["truth_basal"]`, `obsm["truth_latent"]`: float32 `(n_obs, n_latent)`, the latents without and with shift;
    - `layers["truth_mean"]`: features without noise, float32;
    - `uns["truth"]`: `names`; `masks` (bool) and `effects` (float32, already masked), both
      `(n_perturbations, n_latent)`; `noise_scale` (float32, `(n_genes,)`), the standard deviation of the noise, 1 for a
      feature that no latent moves; `decoder` with the weights `layer_1`, …, the `activation` and the `scale`, the
      standard deviations `(n_genes,)` that its outputs were divided by.

    Raises
    ------
    ValueError
        If a size, scale or share is out of range, or the decoder would not be injective.

    Notes
    -----
    Features are not counts: register them with `scale="embedding"` and fit with `gene_likelihood="normal"`. Without
    control cells, registration refuses the data (:class:`~perturbia.errors.ControlError`): set `n_controls`.

    References
    ----------
    Bereket, M. and Karaletsos, T. (2023). Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder. NeurIPS: simulated data, in the details of the published code (function
    ``simulate_data_sams_vae``).

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_sams(n_perturbations=5, cells_per_split=(20, 5, 5), n_controls=60)
    >>> adata.shape
    (210, 100)
    >>> adata.obs["pb_split"].value_counts().to_dict()
    {'train': 140, 'valid': 35, 'test': 35}
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", scale="embedding")
    """
    _check(locals())
    rng = np.random.default_rng(seed)
    masks = rng.random((n_perturbations, n_latent)) < mask_prob
    sizes = rng.normal(effect_scale, effect_spread, masks.shape) * rng.choice([-1.0, 1.0], masks.shape)
    effects = masks * sizes
    decoder = LayeredMixing.draw(rng, [n_latent, *[n_hidden] * n_layers, n_genes], sparsity=sparsity)

    groups = np.array([_shares_of(n_controls, cells_per_split), *[cells_per_split] * n_perturbations])
    # the row after the last is that of controls
    which = np.repeat([n_perturbations, *range(n_perturbations)], groups.sum(1))
    split = np.repeat(np.tile(_keys.SPLIT_VALUES, len(groups)), groups.ravel())
    basal = rng.normal(size=(len(which), n_latent))
    latent = basal + np.vstack([effects, np.zeros(n_latent)])[which]
    output = decoder(latent)
    spread = output.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    mean = output / scale
    if exponential:
        mean = np.exp(mean)
    signal = mean.var(0)
    noise_scale = np.sqrt(noise_fraction / (1 - noise_fraction) * signal)
    if noise_fraction > 0:
        noise_scale[signal == 0] = 1.0  # else such a feature would be constant
    features = mean + noise_scale * rng.normal(size=mean.shape)

    names = perturbation_names(n_perturbations)
    return simulated_anndata(
        features,
        counts=False,
        obs={
            "perturbation": pd.Categorical(np.array([*names, "control"])[which]),
            _keys.OBS_SPLIT: pd.Categorical(split, categories=list(_keys.SPLIT_VALUES)),
        },
        mean=mean,
        latents={_keys.OBSM_TRUTH_BASAL: basal, _keys.OBSM_TRUTH_LATENT: latent},
        truth={
            "names": np.array(names),
            "masks": masks,
            "effects": effects.astype(np.float32),
            "noise_scale": noise_scale.astype(np.float32),
            "decoder": decoder.as_arrays(scale),
        },
    )


def _check(arguments: dict) -> None:
    for name in ("n_perturbations", "n_genes", "n_latent", "n_hidden", "n_layers"):
        check_count(name, arguments[name])
    for name in ("n_controls", "seed"):
        check_count(name, arguments[name], least=0)
    check_injective(arguments["n_latent"], arguments["n_hidden"], arguments["n_genes"])
    check_share("mask_prob", arguments["mask_prob"], with_one=True)
    check_share("noise_fraction", arguments["noise_fraction"], with_one=False)
    if arguments["sparsity"] is not None:
        check_share("sparsity", arguments["sparsity"], with_one=False)
    check_positive("effect_scale", arguments["effect_scale"])
    check_not_negative("effect_spread", arguments["effect_spread"])
    cells = arguments["cells_per_split"]
    whole = isinstance(cells, tuple | list) and all(isinstance(n, int | np.integer) and n >= 0 for n in cells)
    if not (whole and len(cells) == 3 and cells[0] >= 1):
        msg = (
            "cells_per_split: expected three whole numbers for training (at least 1), validation and test, "
            f"got {cells!r}. Pass such as (500, 100, 100)."
        )
        raise ValueError(msg)


def _shares_of(total: int, ratio: tuple[int, int, int]) -> np.ndarray:
    """`total` cells shared out in a ratio, every one of them."""
    ends = np.rint(total * np.cumsum(ratio) / np.sum(ratio)).astype(int)
    return np.diff(ends, prepend=0)
