"""Single-cell perturbation modelling that drops into a scanpy pipeline."""

from __future__ import annotations

import lazy_loader as _lazy

_lazy_attribute, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["datasets", "metrics", "model", "pl", "pp", "tl"],
    submod_attrs={"citation": ["cite"], "perturbation": ["Perturbation"]},
)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("perturbia")
    return _lazy_attribute(name)
