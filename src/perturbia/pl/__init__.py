"""Figures of what models and tools stored; nothing here computes more than an axis needs."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "alignment_panels": ["alignment_diagnostics"],
        "calibration_plot": ["calibration"],
        "coupling_heatmap": ["alignment_heatmap"],
        "effect_agreement": ["scatter_effects"],
        "latent_space": ["latent"],
        "matched_cells": ["alignment_embedding"],
        "propensity_reliability": ["propensity_calibration"],
        "stability_points": ["latent_stability"],
        "shared_salient_panels": ["shared_salient"],
        "mechanism_map": ["mechanisms"],
        "predictive_check_plot": ["ppc"],
        "report_page": ["report"],
        "retrieval_grid": ["retrieval_matrix"],
        "score_strip": ["metric_strip"],
        "stratum_lines": ["strata"],
        "training_curve": ["training"],
        "consistency_plot": ["consistency"],
        "recall_lines": ["recall_curve"],
        "block_curve": ["block_search"],
        "map_heatmap": ["perturbation_map"],
    },
)
