"""Two modalities of simulated cells: which cells each has, and the MuData of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData

    from perturbia.datasets._latent_scenes import InterventionScene, ShiftScene

__all__ = ["ModalityCells", "draw_cells", "joined"]


@dataclass(frozen=True)
class ModalityCells:
    """Cells of one modality.

    Attributes
    ----------
    treatment
        Position of the treatment among the names of the scene `(n,)`.
    latent
        `(n, n_latent)`.
    pair
        Name of the pair `(n,)`, or `None` without pairs.
    """

    treatment: np.ndarray
    latent: np.ndarray
    pair: np.ndarray | None

    def obs(self, names: list[str]) -> dict[str, Any]:
        """Columns of `obs`."""
        columns: dict[str, Any] = {_keys.PERTURBATION: pd.Categorical.from_codes(self.treatment, categories=names)}
        return columns if self.pair is None else columns | {_keys.OBS_PAIR: self.pair}


def draw_cells(
    rng: np.random.Generator,
    scene: ShiftScene | InterventionScene,
    *,
    n_cells: int,
    target_sizes: np.ndarray,
    paired: bool,
) -> tuple[ModalityCells, ModalityCells]:
    """Draw the cells of both modalities.

    Parameters
    ----------
    rng
        Generator.
    scene
        Where latents come from.
    n_cells
        Source cells of each treatment.
    target_sizes
        Target cells of each treatment `(K,)`, at most `n_cells`.
    paired
        Whether target cells are twins of source cells.

    Returns
    -------
    Source cells in order of treatments, and target cells in random order.
    """
    treatment = np.repeat(np.arange(len(target_sizes)), n_cells)
    latent = scene.draw(rng, treatment)
    if not paired:
        answer = rng.permutation(np.repeat(np.arange(len(target_sizes)), target_sizes))
        return ModalityCells(treatment, latent, None), ModalityCells(answer, scene.draw(rng, answer), None)
    width = len(str(len(treatment)))
    pair = np.array([f"pair_{i + 1:0{width}d}" for i in range(len(treatment))])
    # cells of a treatment are exchangeable: the first ones are as good a sample as any
    is_kept = np.arange(len(treatment)) % n_cells < target_sizes[treatment]
    twin = rng.permutation(np.flatnonzero(is_kept))
    return ModalityCells(treatment, latent, pair), ModalityCells(treatment[twin], latent[twin], pair[twin])


def joined(modalities: Mapping[str, AnnData], truth: Mapping[str, Any]) -> MuData:
    """MuData of modalities, whose cells and features get names that no other modality has."""
    import mudata

    for name, adata in modalities.items():
        adata.obs_names = [f"{name}_{i + 1}" for i in range(adata.n_obs)]
        width = len(str(adata.n_vars))
        adata.var_names = [f"{name}_feature_{i + 1:0{width}d}" for i in range(adata.n_vars)]
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData(dict(modalities))
    mdata.uns[_keys.UNS_TRUTH] = dict(truth)
    return mdata
