"""Preprocessing: perturbation labels into one design, and from it into the columns of other tools."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "encode": ["encode_perturbations"],
        "export": ["to_cell_eval", "to_cpa", "to_gears", "to_scperturb"],
        "screen_files": ["ScreenFiles", "open_files"],
        "control_standardization": ["standardize_by_controls"],
        "typical_variation": ["typical_variation_normalization"],
        "spherizing": ["spherize"],
        "proximity_correction": ["correct_proximity_bias"],
        "curation": ["curate_perturbations"],
    },
)
