"""Perturbation models: scvi-tools model classes on AnnData, and the baselines they are judged against."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "baseline.additive": ["Additive"],
        "baseline.context_mean": ["ContextMean"],
        "baseline.empirical": ["Empirical"],
        "baseline.james_stein": ["JamesStein"],
        "baseline.linear_pca": ["LinearPCA"],
        "baseline.low_rank": ["LowRank"],
        "baseline.matching_mean": ["MatchingMean"],
        "baseline.max_effect": ["MaxEffect"],
        "baseline.mean": ["Mean"],
        "baseline.mean_same_order": ["MeanSameOrder"],
        "baseline.nearest": ["Nearest"],
        "baseline.no_change": ["NoChange"],
        "baseline.ridge": ["Ridge"],
        "mechanism.conditional_vae": ["ConditionalVAE"],
        "mechanism.cpa_vae": ["CPAVAE"],
        "alignment.cross_modal_vae": ["CrossModalVAE"],
        "alignment.propensity_aligner": ["PropensityAligner"],
        "comparative.comparative_vae": ["ComparativeVAE"],
        "mechanism.samsvae": ["SAMSVAE"],
        "mechanism.svae": ["SVAE"],
    },
)
