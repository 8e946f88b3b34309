"""Scores on arrays: predicted effects against true ones, latents, masks and couplings against a known truth."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "alignment_summary": ["alignment"],
        "baseline_scaling": ["scale_to_baseline"],
        "block_recovery": ["block_r2"],
        "centroid_ranking": ["centroid_accuracy"],
        "closer_cells": ["foscttm", "projected_foscttm", "soft_foscttm"],
        "cluster_agreement": ["clustering_agreement"],
        "correlation": ["effect_correlation", "top_gene_correlation", "top_genes"],
        "cosine": ["effect_cosine"],
        "determination": ["effect_r2"],
        "disentanglement": ["DCIScores", "dci", "dci_from_importance"],
        "effect_error": ["mae", "mse", "rmse"],
        "fold_change": ["log_fold_change"],
        "gene_overlap": ["top_gene_jaccard"],
        "interaction_residual": ["interaction_correlation", "interaction_r2"],
        "interval_calibration": ["CoverageCurve", "coverage_curve", "interval_coverage"],
        "joined_labels": ["LabelConfusion", "label_confusion"],
        "latent_recovery": ["LatentMatching", "latent_mcc", "linear_r2", "match_latents"],
        "likelihood_comparison": ["LikelihoodComparison", "paired_iwelbo"],
        "mask_recovery": ["MaskScores", "mask_scores"],
        "matched_error": ["FeatureR2", "feature_r2", "matched_mse", "matched_r2"],
        "matched_labels": ["matched_label_accuracy"],
        "matching_scores": ["MatchingScores"],
        "population_distance": ["matched_distribution"],
        "probability_scores": ["crps_gaussian", "crps_samples"],
        "rank_agreement": ["effect_rank_correlation"],
        "reference_shift": ["reference_correlation"],
        "retrieval_scores": ["mean_reciprocal_rank", "retrieval", "retrieval_accuracy", "retrieval_ranks"],
        "significance_ranking": ["de_precision_recall_auc", "de_roc_auc"],
        "significant_effects": ["de_spearman_lfc", "direction_match"],
        "significant_genes": ["de_recall", "de_spearman_significant", "overlap_at_n"],
        "strength_agreement": ["edistance_correlation"],
        "true_pair_mass": ["coupling_trace"],
        "known_relations": ["RelationshipRecall", "relationship_recall"],
        "replicate_cosine": ["ReplicateConsistency", "replicate_consistency"],
        "replicate_retrieval": ["mean_average_precision"],
        "mechanism_match": ["MechanismAccuracy", "mechanism_accuracy"],
        "effect_magnitude": ["perturbation_magnitude"],
        "arm_proximity": ["ProximityBias", "proximity_bias"],
    },
)
