"""The vocabulary: perturbations as values, their labels, their dosage matrices, and the field that registers them."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "design": ["Design", "design_from_labels", "design_from_matrix"],
        "dosage": ["dosage_labels", "dosage_matrix", "unique_dosages"],
        "field": ["PerturbationField", "registered_perturbations"],
        "value": ["Perturbation", "as_perturbation"],
    },
)
