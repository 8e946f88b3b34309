"""The demo: a screen from registration to a judged model, with a report."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "options": ["DemoInputError", "DemoOptions"],
        "pipeline": ["run_demo"],
    },
)
