"""Seeds of parts of a computation, so that each part draws the same whatever surrounds it."""

from __future__ import annotations

import numpy as np

__all__ = ["mixed_seed"]


def mixed_seed(*parts: int) -> int:
    """One seed from several numbers, without the collisions of their sum."""
    return int(np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(1)[0])
