"""What all perturbation models share."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_training_plan": ["PerturbationTrainingPlan"],
        "perturbation_model": ["PerturbationModel"],
        "protocol": ["Capability", "VirtualCellModel"],
    },
)
