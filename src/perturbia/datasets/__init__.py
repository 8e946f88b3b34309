"""Real screens that come with the package, and simulated screens with known truth."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "bundled_screens": ["datlinger", "norman", "papalexi", "tapseq"],
        "screen_simulator": ["simulate_screen"],
    },
)
