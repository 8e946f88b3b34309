"""Perturbation models: scvi-tools model classes on AnnData, and the baselines they are judged against."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "mechanism.samsvae": ["SAMSVAE"],
    },
)
