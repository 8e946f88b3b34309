"""Tools on AnnData: splits of cells, observed effects, trees of mechanisms."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "alignment_evaluation": ["evaluate_alignment"],
        "calibration_curves": ["Calibration", "calibration"],
        "cell_alignment": ["align"],
        "feature_imputation": ["impute"],
        "label_transfer": ["transfer_labels"],
        "pair_sampling": ["sample_pairs"],
        "evaluation": ["evaluate"],
        "evaluation_result": ["EvaluationResult"],
        "energy_distances": ["edistance"],
        "energy_testing": ["etest"],
        "learning_curves": ["learning_curve"],
        "intervention_transfer": ["transfer_interventions"],
        "latent_alignment": ["align_latents"],
        "gene_set_testing": ["latent_enrichment"],
        "loading_estimates": ["latent_loadings"],
        "latent_rotation": ["sparse_rotation"],
        "mechanism_tree": ["clade_of", "mechanisms"],
        "observed_effects": ["effects"],
        "predictive_checks": ["PredictiveCheck", "posterior_predictive_check"],
        "nested_splitting": ["nested_splits"],
        "self_consistency": ["consistency"],
        "split_checking": ["check_split", "seen_members"],
        "responder_calling": ["responders"],
        "splitting": ["split"],
        "perturbation_aggregation": ["aggregate_perturbations"],
        "map_relations": ["perturbation_neighbors", "relate"],
        "block_probing": ["block_search"],
        "block_capture": ["block_representations"],
    },
)
