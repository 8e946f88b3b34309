"""Statistics on arrays: energy distances, shrinkage, group moments, regression on doses, split halves, scales, couplings."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "batch_matching": ["matched_effects"],
        "block_matching": ["couple"],
        "bootstrap": ["BootstrapMean", "bootstrap_mean"],
        "correlation": ["centre_rows", "row_correlation"],
        "coupling": ["Coupling", "CouplingBlock", "MatchStatistics"],
        "energy": ["EnergyDistances", "energy_distance", "pairwise_energy_distance"],
        "energy_permutation": ["EnergyTest", "energy_test", "holm_sidak"],
        "gaussian_distance": ["mean_variance_distance", "symmetric_kl"],
        "group_distances": ["group_distance_tests"],
        "group_moments": ["GroupEffects", "GroupMoments", "effects_against", "group_means"],
        "kernel_discrepancy": ["KernelDiscrepancies", "median_distance", "mmd", "pairwise_mmd"],
        "log_ratios": ["cross_entropy", "fit_temperature", "propensity_scores"],
        "low_rank": ["low_rank_ridge"],
        "mixture": ["ShiftedMixture", "shifted_mixture"],
        "normalization": ["log1p_cp10k"],
        "paired_samples": ["PairedComparison", "paired_comparison"],
        "rank_sum_test": ["RankSumTest", "rank_sum"],
        "ridge": ["DosageFit", "dosage_ridge"],
        "rotation": ["sparse_rotation", "varimax"],
        "set_rank_test": ["SetEnrichment", "set_enrichment"],
        "shrinkage": [
            "ShrunkenEffects",
            "adaptive_shrinkage",
            "james_stein",
            "james_stein_factor",
            "limited_translation",
        ],
        "entropic_transport": ["SinkhornSolution", "sinkhorn"],
        "spike_slab": ["SpikeSlab", "dosage_blocks", "estimate_spike_sd", "update_spike_slab"],
        "spatial_median": ["geometric_median"],
        "split_half": ["SplitHalfReliability", "half_split", "spearman_brown", "split_half_correlation"],
        "transport_distance": ["sliced_wasserstein", "wasserstein2"],
        "variance_axes": ["PrincipalAxes", "principal_axes"],
        "control_scaling": ["ControlScaling", "fit_control_scaling"],
        "whitening": ["Whitening", "fit_whitening", "ledoit_wolf_shrinkage", "likely_shrinkage"],
        "group_locations": ["GroupLocations", "locate_groups"],
    },
)
