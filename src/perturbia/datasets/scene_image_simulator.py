"""Two cameras on one scene: simulated images whose latents, interventions and pairs are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.datasets._latent_scenes import InterventionScene
from perturbia.datasets._scene_drawing import VIEWS, draw_images
from perturbia.datasets._simulated_mudata import draw_cells, joined
from perturbia.datasets._simulation_arguments import check_count

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

__all__ = ["simulate_scene_images"]

_ANGLE = 0.3 * np.pi
_SMALLEST = 16


def simulate_scene_images(*, n_cells: int = 50, image_size: int = 64, seed: int = 0) -> MuData:
    r"""Simulate images of one scene by two cameras, for alignment of modalities whose truth is known.

    The scene is that of :func:`simulate_modalities` with ``scene="interventions"``: two objects, and 12 treatments
    that each set one coordinate. The first camera sees circles at the coordinates :math:`z`; the second sees squares
    where a warp puts them,

    .. math:: z \mapsto \mathrm{sigmoid}\big(2\,((z - 1/2)\,R + 0.2)\big),

    with a rotation :math:`R` of each object by :math:`0.3\,\pi`. Backgrounds of 25 random discs are noise that each
    image has to itself.

    Parameters
    ----------
    n_cells
        Images of each treatment in each modality.
    image_size
        Pixels of a side, at least 16. At 64, 1,000 images take 49 MB in each modality.
    seed
        Seed of the generator.

    Returns
    -------
    MuData of ``"source"`` and ``"target"``, twins in another order; no name comes twice. Each modality has

    - `X` `(n_obs, 3 * image_size**2)`: dense float32 from 0 to 1 in steps of 1/255, flattened with channels first;
      `uns["image_shape"]`: what to reshape a row to;
    - `obs["perturbation"]`: coordinate and the value that it is set to, ``x1@0.25``, …; `obs["pair"]`: the same for
      twins;
    - `obsm["truth_latent"]` :math:`z` `(n_obs, 4)`: x1, y1, x2, y2; `obsm["truth_position"]` `(n_obs, 4)`: where the
      centres of the objects were drawn, from 0 at the left or top to 1. Both float32;
    - `uns["truth"]`: `names`.

    `uns["truth"]` of the whole holds `scene`, `names`, `values` `(12, 4)`, what a treatment sets, NaN where it sets
    nothing, and `rotation` `(2, 2)`.

    Raises
    ------
    ValueError
        If a size is out of range.

    Notes
    -----
    The objects are twice as large as in the paper, for images of half the size, and may hide one another or lie over
    the edge of a disc. Colours are our own.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_scene_images(n_cells=2, image_size=32)
    >>> mdata["source"].shape
    (24, 3072)
    >>> mdata["source"].X[0].reshape(mdata["source"].uns["image_shape"]).shape
    (3, 32, 32)
    """
    check_count("n_cells", n_cells)
    check_count("image_size", image_size, least=_SMALLEST)
    check_count("seed", seed, least=0)
    rng, *rng_modality = np.random.default_rng(seed).spawn(3)
    scene = InterventionScene()
    sizes = np.full(len(scene.names), n_cells)
    cells = draw_cells(rng, scene, n_cells=n_cells, target_sizes=sizes, paired=True)
    turn = np.array([[np.cos(_ANGLE), -np.sin(_ANGLE)], [np.sin(_ANGLE), np.cos(_ANGLE)]])
    modalities = {}
    for i, (name, view) in enumerate(VIEWS.items()):
        position = cells[i].latent if name == "source" else _warp(cells[i].latent, turn)
        images = draw_images(rng_modality[i], position, view, image_size)
        modalities[name] = _image_anndata(images, cells[i].obs(scene.names))
        modalities[name].obsm[_keys.OBSM_TRUTH_LATENT] = cells[i].latent.astype(np.float32)
        modalities[name].obsm[_keys.OBSM_TRUTH_POSITION] = position.astype(np.float32)
        modalities[name].uns[_keys.UNS_TRUTH] = {"names": np.array(scene.names)}
    return joined(modalities, {"scene": "interventions", **scene.truth(), "rotation": turn.astype(np.float32)})


def _warp(latent: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Coordinates as the second camera sees them."""
    turned = (latent.reshape(-1, 2, 2) - 0.5) @ turn
    return (1 / (1 + np.exp(-2 * (turned + 0.2)))).reshape(latent.shape)


def _image_anndata(images: np.ndarray, obs: dict) -> AnnData:
    """AnnData of uint8 images, one a row."""
    from anndata import AnnData

    features = images.reshape(len(images), -1).astype(np.float32)
    features /= 255
    adata = AnnData(features, obs=pd.DataFrame(obs, index=[str(i) for i in range(len(images))]))
    adata.uns[_keys.UNS_IMAGE_SHAPE] = np.array(images.shape[1:])
    return adata
