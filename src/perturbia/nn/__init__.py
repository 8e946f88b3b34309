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
        "given_treatments": ["GivenTreatments"],
        "mask_prior": ["MaskPrior"],
        "masked_effects": ["MaskedEffects"],
        "straight_through_effects": ["Sparsity", "StraightThroughEffects"],
        "target_shift": ["TargetShift"],
        "treatment_code": ["TreatmentCode"],
        "treatment_design": ["TreatmentDesign"],
        "negative_binomial": ["negative_binomial_log_prob"],
    },
)
