"""Torch blocks that several models share."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "correlated_effects": ["CorrelatedEffects"],
        "count_layer": ["ExpectedLogCounts", "gamma_quantile_draws"],
        "encoder": ["DiagonalGaussianEncoder"],
        "decoder": ["LikelihoodDecoder"],
        "fixed_mask_effects": ["FixedMaskEffects"],
        "discrepancy_penalty": ["multiscale_mmd"],
        "distance_to_zero": ["squared_distance_to_zero"],
        "given_treatments": ["GivenTreatments"],
        "independence_penalty": ["normalized_hsic"],
        "label_means": ["LabelMeans"],
        "mask_prior": ["MaskPrior"],
        "match_loss": ["exact_plain_loss", "exact_projected_loss", "plain_match_loss", "projected_match_loss"],
        "masked_effects": ["MaskedEffects"],
        "straight_through_effects": ["Sparsity", "StraightThroughEffects"],
        "minimum_norm": ["minimum_norm_share"],
        "target_shift": ["TargetShift"],
        "treatment_code": ["TreatmentCode"],
        "treatment_design": ["TreatmentDesign"],
        "negative_binomial": ["negative_binomial_log_prob"],
    },
)
