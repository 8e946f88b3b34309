"""Closed-form baselines behind the protocol of every model: whoever claims to predict has to beat them."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "additive": ["Additive"],
        "context_mean": ["ContextMean"],
        "empirical": ["Empirical"],
        "james_stein": ["JamesStein"],
        "linear_pca": ["LinearPCA"],
        "low_rank": ["LowRank"],
        "matching_mean": ["MatchingMean"],
        "max_effect": ["MaxEffect"],
        "mean": ["Mean"],
        "mean_same_order": ["MeanSameOrder"],
        "nearest": ["Nearest"],
        "no_change": ["NoChange"],
        "ridge": ["Ridge"],
    },
)
