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
        "given_treatments": ["GivenTreatments"],
        "mask_prior": ["MaskPrior"],
        "masked_effects": ["MaskedEffects"],
        "target_shift": ["TargetShift"],
        "treatment_design": ["TreatmentDesign"],
        "negative_binomial": ["negative_binomial_log_prob"],
    },
)
