"""Numbers that say how often and from which seed a metric draws."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_count", "check_seed"]


def check_count(value: Any, name: str, *, least: int = 1) -> None:
    """Raise a `ValueError` for anything but a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        msg = f"{name}: expected a whole number of {least} or more, got {value!r}."
        raise ValueError(msg)


def check_seed(value: Any) -> None:
    """Raise a `ValueError` for anything but a whole number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        msg = f"seed: expected a whole number of 0 or more, got {value!r}. Results repeat for the same seed."
        raise ValueError(msg)
