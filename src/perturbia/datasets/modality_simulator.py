"""Simulated cells of two modalities that share latents and treatments, not features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.datasets._latent_scenes import InterventionScene, ShiftScene
from perturbia.datasets._layered_mixing import LayeredMixing
from perturbia.datasets._simulated_anndata import simulated_anndata
from perturbia.datasets._simulated_mudata import ModalityCells, draw_cells, joined
from perturbia.datasets._simulation_arguments import (
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_share,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

__all__ = ["simulate_modalities"]

_WIDTH = 64  # of the hidden layer, where there are so many features
_N_BATCHES = 4
_BATCH_SCALE = 2.0  # standard deviation of what a batch adds to noise of unit variance


def simulate_modalities(
    *,
    scene: Literal["shifts", "interventions"] = "shifts",
    n_cells: int = 150,
    n_perturbations: int = 12,
    n_latent: int = 6,
    n_noise: int = 4,
    n_features: tuple[int, int] = (40, 30),
    noise_scale: float | tuple[float, float] = 0.0,
    effect_scale: float = 1.5,
    prior_shift: float = 1.0,
    batch_leak: float = 0.0,
    paired: bool = True,
    seed: int = 0,
) -> MuData:
    r"""Simulate two modalities of treated cells, for alignment of unpaired data whose truth is known.

    .. math::
        z \mid t \sim p_t(z), \qquad u^{(m)} \sim N(0, I), \qquad x^{(m)} = f_m(z, u^{(m)}) + \sigma_m \epsilon

    with latents :math:`z` that the treatment :math:`t` changes, noise :math:`u^{(m)}` that one modality alone has, and
    for each modality its own random :math:`f_m`: one hidden layer of leaky ReLU (slope 0.2), injective, each feature of
    the output divided by its standard deviation over the cells.

    Parameters
    ----------
    scene
        ``"shifts"``: :math:`z \sim N(e_t, I)`; ``control`` stays, ``P01``, ``P02``, … move up each latent in turn by
        `effect_scale`, the next ones down. ``"interventions"``: :math:`z` holds the coordinates x1, y1, x2, y2 of two
        objects. x1 and y1 are uniform on 0.1 to 0.9. Where :math:`1.25\,(x_1^2 + y_1^2) \ge 1`, x2 is uniform on 0.1 to
        0.5 and y2 on 0.5 to 0.9, elsewhere the reverse. Each of 12 treatments sets one coordinate to 0.25, 0.5 or 0.75
        (``x1@0.25``, …), before the second object is drawn. No cell is a control.
    n_cells
        Cells of each treatment in the source, and at most so many in the target.
    n_perturbations
        Number of treatments beside the control, up to twice `n_latent`; for shifts only.
    n_latent
        Number of latents; for shifts only.
    n_noise
        Number of noise dimensions that each modality has to itself.
    n_features
        Features of the source and of the target, each at least all latents and noise dimensions.
    noise_scale
        Standard deviation of Gaussian noise on features, in units of the standard deviation of a feature; one number,
        or one for the source and one for the target.
    effect_scale
        Distance by which a treatment shifts; for shifts only.
    prior_shift
        How many times rarer than in the source the rarest treatment is in the target. Sizes of the others lie between,
        evenly on the log scale, in random order. Source sizes are equal.
    batch_leak
        Above 0, target cells come from 4 batches, each of which shifts :math:`u`; this share of the cells lies in the
        batch that belongs to its treatment, the rest in any. The treatment then tells of noise, against what
        propensity scores assume.
    paired
        Whether the cells of the target are twins of source cells, with the same :math:`z`, else independent draws.
    seed
        Seed of the generator.

    Returns
    -------
    MuData of ``"source"`` and ``"target"``. No name of a cell or feature comes twice; target cells are in random order.
    Each modality has

    - `X`: dense float32; `layers["truth_mean"]`: features without :math:`\epsilon`;
    - `obs["perturbation"]`; with `paired`, `obs["pair"]`, the same for twins; with `batch_leak`, `obs["batch"]` in
      the target. Source cells without a twin, as under `prior_shift`, have a pair of their own;
    - `obsm["truth_latent"]` :math:`z` `(n_obs, n_latent)` and `obsm["truth_noise"]` :math:`u` `(n_obs, n_noise)`;
    - for shifts, `obsm["truth_log_ratio"]` `(n_obs, K)`: :math:`\log p_t(z)` less its mean over the `K` treatments,
      control included, columns as in `uns["truth"]["names"]`. All float32;
    - `uns["truth"]`: `names`, and `decoder` with the weights `layer_1` and `layer_2`, the `activation` and the `scale` of
      outputs. Its input is :math:`(z, u)` for shifts and :math:`(4z - 2, u)` for interventions.

    `uns["truth"]` of the whole holds `scene`, `names`, and `effects` :math:`e_t` `(K, n_latent)` or `values` `(12, 4)`,
    what a treatment sets, NaN where it sets nothing.

    Raises
    ------
    ValueError
        If a size, scale, share or choice is out of range, or the mixing would not be injective.

    See Also
    --------
    simulate_scene_images : The scene of interventions as images.

    Notes
    -----
    Twins without noise on features are easy: a single coordinate that both modalities know without error already sorts
    them. With noise it takes as many treatments as there are latents.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.
    The scene of interventions is theirs; shifts, mixing and violations are ours.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20)
    >>> mdata["source"].shape, mdata["target"].shape
    ((260, 40), (260, 30))
    >>> mdata["target"].obsm["truth_log_ratio"].shape
    (260, 13)
    """
    _check(locals())
    space: ShiftScene | InterventionScene = InterventionScene()
    if scene == "shifts":
        space = ShiftScene.on_axes(n_perturbations, n_latent, effect_scale)
    rng, *rng_modality = np.random.default_rng(seed).spawn(3)
    rarity = rng.permutation(len(space.names)) / max(1, len(space.names) - 1)
    sizes = np.maximum(1, np.round(n_cells * prior_shift**-rarity)).astype(int)
    cells = draw_cells(rng, space, n_cells=n_cells, target_sizes=sizes, paired=paired)
    modalities = {
        name: _observe(
            rng_modality[i],
            space,
            cells[i],
            n_noise=n_noise,
            n_features=n_features[i],
            noise_scale=_pair(noise_scale)[i],
            batch_leak=batch_leak if name == "target" else 0.0,
        )
        for i, name in enumerate(("source", "target"))
    }
    return joined(modalities, {"scene": scene, **space.truth()})


def _observe(
    rng: np.random.Generator,
    scene: ShiftScene | InterventionScene,
    cells: ModalityCells,
    *,
    n_noise: int,
    n_features: int,
    noise_scale: float,
    batch_leak: float,
) -> AnnData:
    """Features of the cells of one modality."""
    n = len(cells.treatment)
    n_input = scene.n_latent + n_noise
    n_hidden = min(max(n_input, _WIDTH), n_features)
    decoder = LayeredMixing.draw(rng, [n_input, n_hidden, n_features])
    noise = rng.normal(size=(n, n_noise))
    error = noise_scale * rng.normal(size=(n, n_features))
    obs = cells.obs(scene.names)
    if batch_leak > 0:
        is_own = rng.random(n) < batch_leak
        batch = np.where(is_own, cells.treatment % _N_BATCHES, rng.integers(_N_BATCHES, size=n))
        noise += rng.normal(0, _BATCH_SCALE, (_N_BATCHES, n_noise))[batch]
        names = [f"batch_{i + 1}" for i in range(_N_BATCHES)]
        obs["batch"] = pd.Categorical.from_codes(batch, categories=names)
    mean = decoder(np.hstack([scene.centred(cells.latent), noise]))
    scale = mean.std(0)
    mean /= scale
    latents = {_keys.OBSM_TRUTH_LATENT: cells.latent, _keys.OBSM_TRUTH_NOISE: noise}
    if isinstance(scene, ShiftScene):
        latents[_keys.OBSM_TRUTH_LOG_RATIO] = scene.log_ratio(cells.latent)
    return simulated_anndata(
        mean + error,
        counts=False,
        obs=obs,
        mean=mean,
        latents=latents,
        truth={"names": np.array(scene.names), "decoder": decoder.as_arrays(scale)},
    )


def _pair(value: Any) -> tuple[Any, Any]:
    """One value for each modality."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _check(arguments: dict) -> None:
    check_choice("scene", arguments["scene"], ("shifts", "interventions"))
    for name in ("n_cells", "n_perturbations", "n_latent"):
        check_count(name, arguments[name])
    for name in ("n_noise", "seed"):
        check_count(name, arguments[name], least=0)
    check_not_negative("effect_scale", arguments["effect_scale"])
    _check_scales(arguments["noise_scale"])
    check_positive("prior_shift", arguments["prior_shift"])
    if arguments["prior_shift"] < 1:
        msg = f"prior_shift: expected a number of at least 1, got {arguments['prior_shift']!r}. Pass 5 for a fifth."
        raise ValueError(msg)
    check_share("batch_leak", arguments["batch_leak"], with_one=True)
    if arguments["batch_leak"] > 0 and not arguments["n_noise"]:
        msg = (
            f"batch_leak: expected 0 without noise dimensions, got {arguments['batch_leak']!r}. Batches shift noise: "
            "pass an n_noise of 1 or more."
        )
        raise ValueError(msg)
    is_shift = arguments["scene"] == "shifts"
    if is_shift and arguments["n_perturbations"] > 2 * arguments["n_latent"]:
        msg = (
            f"n_perturbations: expected at most {2 * arguments['n_latent']}, up and down each of the "
            f"{arguments['n_latent']} latents, got {arguments['n_perturbations']!r}. Pass fewer, or a larger n_latent."
        )
        raise ValueError(msg)
    n_latent = arguments["n_latent"] if is_shift else InterventionScene().n_latent
    _check_features(arguments["n_features"], n_latent + arguments["n_noise"])


def _check_scales(value: Any) -> None:
    if isinstance(value, tuple | list) and len(value) != 2:
        msg = f"noise_scale: expected one number or two, got {value!r}. Pass one for the source and one for the target."
        raise ValueError(msg)
    for one in _pair(value):
        check_not_negative("noise_scale", one)


def _check_features(value: Any, n_input: int) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2:
        msg = f"n_features: expected two whole numbers, got {value!r}. Pass one for the source and one for the target."
        raise ValueError(msg)
    for one in value:
        check_count("n_features", one)
    if min(value) < n_input:
        msg = (
            f"n_features: expected at least the {n_input} latents and noise dimensions in each modality, got {value!r}. "
            "Fewer would lose some: pass more features, or a smaller n_latent or n_noise."
        )
        raise ValueError(msg)
