"""Scores on arrays: predicted effects against true ones, latents and masks against a known truth."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "correlation": ["effect_correlation", "top_gene_correlation", "top_genes"],
        "cosine": ["effect_cosine"],
        "determination": ["effect_r2"],
        "effect_error": ["mae", "rmse"],
        "latent_recovery": ["LatentMatching", "latent_mcc", "linear_r2", "match_latents"],
        "mask_recovery": ["MaskScores", "mask_scores"],
    },
)
