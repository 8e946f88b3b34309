"""Comparative models: what a target population shares with a background, and what is its own."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submod_attrs={"comparative_vae": ["ComparativeVAE"]})
