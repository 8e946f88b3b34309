"""Models in which perturbations shift latents of a variational autoencoder."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submod_attrs={"samsvae": ["SAMSVAE"]})
