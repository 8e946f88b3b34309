"""Single-cell perturbation modelling that drops into a scanpy pipeline."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["datasets", "metrics", "model", "pl", "pp", "tl"],
    submod_attrs={"citation": ["cite"], "perturbation": ["Perturbation"]},
)
