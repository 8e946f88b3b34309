"""Models that align cells of unpaired modalities."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "cross_modal_vae": ["CrossModalVAE"],
        "feature_translator": ["FeatureTranslator", "fit_translator"],
        "propensity_aligner": ["PropensityAligner"],
    },
)
