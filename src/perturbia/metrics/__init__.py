"""Scores on arrays: predicted effects against true ones, latents and masks against a known truth."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "centroid_ranking": ["centroid_accuracy"],
        "correlation": ["effect_correlation", "top_gene_correlation", "top_genes"],
        "cosine": ["effect_cosine"],
        "determination": ["effect_r2"],
        "effect_error": ["mae", "rmse"],
        "gene_overlap": ["top_gene_jaccard"],
        "interaction_residual": ["interaction_correlation", "interaction_r2"],
        "latent_recovery": ["LatentMatching", "latent_mcc", "linear_r2", "match_latents"],
        "mask_recovery": ["MaskScores", "mask_scores"],
        "reference_shift": ["reference_correlation"],
        "retrieval_scores": ["mean_reciprocal_rank", "retrieval", "retrieval_accuracy", "retrieval_ranks"],
        "significant_effects": ["de_spearman_lfc", "direction_match"],
        "significant_genes": ["de_recall", "de_spearman_significant", "overlap_at_n"],
    },
)
