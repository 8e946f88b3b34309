"""Scores of predicted effects by those of cells that no model saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import perturbia as pb
from perturbia.metrics import effect_correlation, effect_r2, top_gene_correlation
from perturbia.stats import half_split

if TYPE_CHECKING:
    from anndata import AnnData


class Judge:
    """Observed effects of the held-out cells, whole and in halves; `options` are those of `pb.tl.effects`."""

    def __init__(self, adata: AnnData, seed: int, **options: Any) -> None:
        options = {"layer": "counts", **options}
        held_out = adata[adata.obs["pb_split"] == "test"]
        first = half_split(held_out.obs["perturbation"].to_numpy().astype(str), seed=seed)
        self.whole = pb.tl.effects(held_out.copy(), **options)
        self.names = list(self.whole.obs_names)
        self.halves = [pb.tl.effects(held_out[part].copy(), **options)[self.names].X for part in (first, ~first)]

    def score(self, predicted: np.ndarray) -> dict[str, float]:
        """Pearson r, R2 and r over top genes, all perturbations together."""
        one, two = self.halves
        top = [top_gene_correlation(a, predicted, selection=b) for a, b in ((one, two), (two, one))]
        return {
            "r": effect_correlation(self.whole.X, predicted),
            "R2": effect_r2(self.whole.X, predicted),
            "top20_r": float(np.mean(top)),
        }
