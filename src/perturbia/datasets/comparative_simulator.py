"""Simulated background and target populations that share some latents, with others in the target alone."""

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

__all__ = ["simulate_comparative"]

_ACTIVATIONS: dict[str, Literal["leaky_relu", "tanh"]] = {"piecewise_affine": "leaky_relu", "smooth": "tanh"}
# the shift of a target population, one latent after the other; further latents stay
_SHIFT_SCALE = (0.5, 1.0, 0.5)
_SHIFT_OFFSET = (1.5, -1.0, 0.0)


def simulate_comparative(
    *,
    n_background: int = 3000,
    n_target: int = 3000,
    n_genes: int = 150,
    n_shared: int = 5,
    n_salient: int = 3,
    n_perturbations: int = 12,
    effect_scale: float = 1.0,
    salient_scale: float = 0.5,
    shifted_target: bool = False,
    dependence: float = 0.0,
    mixing: Literal["piecewise_affine", "smooth"] = "piecewise_affine",
    n_hidden: int = 50,
    n_layers: int = 2,
    gene_likelihood: Literal["nb", "poisson", "normal"] = "nb",
    library_size: float = 600.0,
    concentration: float = 5.0,
    noise_scale: float = 0.5,
    seed: int = 0,
) -> AnnData:
    r"""Simulate a background and a target population for comparative (contrastive) models.

    .. math::
        \text{background: } x \sim p\big(x \mid f(z, 0)\big), \qquad
        \text{target: } x \sim p\big(x \mid f(z, s)\big), \quad
        z \sim N(0, I), \quad s \sim N(e_t, \sigma_s^2 I)

    with shared latents :math:`z`, salient latents :math:`s` around the effect :math:`e_t` of the perturbation of the
    cell, and one mixing :math:`f` and one noise for both populations. :math:`f` is injective, and each gene of its
    output is divided by its standard deviation over all cells.

    Parameters
    ----------
    n_background
        Cells of the background, which are the controls.
    n_target
        Cells of the target. Far from `n_background`, as in 300 against 6,000, the data are imbalanced.
    n_genes
        Number of genes, at least `n_hidden`.
    n_shared
        Number of shared latents.
    n_salient
        Number of salient latents.
    n_perturbations
        Number of perturbations of the target, ``P01``, ``P02``, …, with as many cells each, up to one.
    effect_scale
        Standard deviation of the effects :math:`e_t` of perturbations on salient latents.
    salient_scale
        Standard deviation :math:`\sigma_s` of salient latents within a perturbation.
    shifted_target
        Whether the shared latents of the target have another distribution: the first is halved and moved by 1.5, the
        second moved by −1, the third halved.
    dependence
        How far the salient latents depend on the shared ones, :math:`d` in
        :math:`s = \sqrt{1 - d^2}\,s_0 + d\,z A` with unit columns in :math:`A`. Models assume 0.
    mixing
        ``"piecewise_affine"``: leaky ReLU (slope 0.2), for which blocks of latents are identifiable; ``"smooth"``:
        tanh, for which the theorem says nothing.
    n_hidden
        Width of the hidden layers, from the number of all latents to `n_genes`.
    n_layers
        Number of hidden layers.
    gene_likelihood
        ``"nb"`` and ``"poisson"``: counts around `library_size` times the softmax of the output; ``"normal"``: the
        output and Gaussian noise.
    library_size
        Expected counts of every cell; for counts only.
    concentration
        Inverse dispersion of the negative binomial, common to all genes.
    noise_scale
        Standard deviation of Gaussian noise, in units of the standard deviation of a gene.
    seed
        Seed of the generator.

    Returns
    -------
    AnnData with background cells first, then the perturbations in order. Counts are CSR float32 in `X` and
    `layers["counts"]`; Gaussian features are dense float32 in `X` alone.

    - `obs["group"]`: ``background`` or ``target``; `obs["perturbation"]`: ``control`` for the background, else the
      perturbation;
    - `obsm["truth_shared"]` `(n_obs, n_shared)` and `obsm["truth_salient"]` `(n_obs, n_salient)`, exactly 0 in the
      background; `obsm["truth_latent"]` holds both side by side; all float32;
    - `layers["truth_mean"]`: expected counts, or features without noise, dense float32;
    - `uns["truth"]`: `names`; `effects`, mean of :math:`s_0` times :math:`\sqrt{1 - d^2}` by perturbation
      `(n_perturbations, n_salient)`; `shared_scale` and `shared_offset` `(n_shared,)`, the distribution of shared
      latents in the target; `shared_to_salient` :math:`dA` `(n_shared, n_salient)`, all float32; `decoder` with the
      weights `layer_1`, …, the `activation` and the `scale` `(n_genes,)` of its outputs.

    Raises
    ------
    ValueError
        If a size, scale, share or choice is out of range, or the mixing would not be injective.

    Notes
    -----
    The model is that of the paper. Its simulation code was not published: sizes, scales and the shift of the target are
    our choice, and the numbers of the paper can not be expected. The softmax behind counts lies outside its theorem.

    References
    ----------
    Lopez, R., Huetter, J.-C., Hajiramezanali, E., Pritchard, J. and Regev, A. (2024). Toward the identifiability of
    comparative deep generative models. CLeaR.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_comparative(n_background=60, n_target=120)
    >>> adata.obs["group"].value_counts().to_dict()
    {'target': 120, 'background': 60}
    >>> float(abs(adata[adata.obs["group"] == "background"].obsm["truth_salient"]).max())
    0.0
    >>> pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    """
    _check(locals())
    rng = np.random.default_rng(seed)
    scale, offset = np.ones(n_shared), np.zeros(n_shared)
    if shifted_target:
        n_moved = min(n_shared, len(_SHIFT_SCALE))
        scale[:n_moved], offset[:n_moved] = _SHIFT_SCALE[:n_moved], _SHIFT_OFFSET[:n_moved]
    effects = np.sqrt(1 - dependence**2) * rng.normal(0, effect_scale, (n_perturbations, n_salient))
    directions = rng.normal(size=(n_shared, n_salient))
    shared_to_salient = dependence * directions / np.linalg.norm(directions, axis=0)

    is_target = np.arange(n_background + n_target) >= n_background
    shared = rng.normal(size=(len(is_target), n_shared))
    shared[is_target] = offset + scale * shared[is_target]
    which = np.arange(n_target) * n_perturbations // n_target
    salient = np.zeros((len(is_target), n_salient))
    salient[is_target] = (
        effects[which]
        + np.sqrt(1 - dependence**2) * rng.normal(0, salient_scale, (n_target, n_salient))
        + shared[is_target] @ shared_to_salient
    )
    latent = np.hstack([shared, salient])
    decoder = LayeredMixing.draw(
        rng, [n_shared + n_salient, *[n_hidden] * n_layers, n_genes], activation=_ACTIVATIONS[mixing]
    )
    output = decoder(latent)
    output_scale = output.std(0)
    output /= output_scale

    mean = output
    if gene_likelihood == "normal":
        features = output + rng.normal(0, noise_scale, output.shape)
    else:
        weight = np.exp(output - output.max(1, keepdims=True))
        mean = library_size * weight / weight.sum(1, keepdims=True)
        rate = mean
        if gene_likelihood == "nb":
            rate = mean * rng.gamma(concentration, 1 / concentration, mean.shape)
        features = rng.poisson(rate)

    names = perturbation_names(n_perturbations)
    labels = np.concatenate([np.full(n_background, "control"), np.array(names)[which]])
    groups = np.array(_keys.GROUP_VALUES)[is_target.astype(int)]
    return simulated_anndata(
        features,
        counts=gene_likelihood != "normal",
        obs={
            _keys.OBS_GROUP: pd.Categorical(groups, categories=list(_keys.GROUP_VALUES)),
            "perturbation": pd.Categorical(labels),
        },
        mean=mean,
        latents={
            _keys.OBSM_TRUTH_SHARED: shared,
            _keys.OBSM_TRUTH_SALIENT: salient,
            _keys.OBSM_TRUTH_LATENT: latent,
        },
        truth={
            "names": np.array(names),
            "effects": effects.astype(np.float32),
            "shared_scale": scale.astype(np.float32),
            "shared_offset": offset.astype(np.float32),
            "shared_to_salient": shared_to_salient.astype(np.float32),
            "decoder": decoder.as_arrays(output_scale),
        },
    )


def _check(arguments: dict) -> None:
    sizes = ("n_background", "n_target", "n_genes", "n_shared", "n_salient", "n_perturbations", "n_hidden", "n_layers")
    for name in sizes:
        check_count(name, arguments[name])
    check_count("seed", arguments["seed"], least=0)
    check_injective(arguments["n_shared"] + arguments["n_salient"], arguments["n_hidden"], arguments["n_genes"])
    if arguments["n_perturbations"] > arguments["n_target"]:
        msg = (
            f"n_perturbations: expected at most one for each of the {arguments['n_target']} target cells, "
            f"got {arguments['n_perturbations']!r}. Pass fewer, or a larger n_target."
        )
        raise ValueError(msg)
    check_choice("mixing", arguments["mixing"], _ACTIVATIONS)
    check_choice("gene_likelihood", arguments["gene_likelihood"], ("nb", "poisson", "normal"))
    for name in ("effect_scale", "salient_scale", "noise_scale"):
        check_not_negative(name, arguments[name])
    check_positive("concentration", arguments["concentration"])
    check_library_size(arguments["library_size"])
    check_share("dependence", arguments["dependence"], with_one=False)
