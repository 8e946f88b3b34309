"""The argument `seed`, which every tool that draws takes."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_seed"]


def check_seed(seed: Any) -> None:
    """Refuse anything but a whole number of 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"seed: expected a whole number of 0 or more, got {seed!r}. Results repeat for the same seed."
        raise ValueError(msg)
