"""Figures of what models and tools stored; nothing here computes more than an axis needs."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "calibration_plot": ["calibration"],
        "effect_agreement": ["scatter_effects"],
        "latent_space": ["latent"],
        "stability_points": ["latent_stability"],
        "shared_salient_panels": ["shared_salient"],
        "mechanism_map": ["mechanisms"],
        "predictive_check_plot": ["ppc"],
        "report_page": ["report"],
        "retrieval_grid": ["retrieval_matrix"],
        "score_strip": ["metric_strip"],
        "stratum_lines": ["strata"],
        "training_curve": ["training"],
    },
)
