"""Checks of settings: the numbers and choices that say how something is computed, before anything is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "check_choice",
    "check_count",
    "check_number",
    "check_positive_integer",
    "check_seed",
    "is_number",
    "is_whole",
]


def is_whole(value: Any, *, least: int = 0) -> bool:
    """Whether a value is a whole number of `least` or more; True and False are no numbers."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def is_number(value: Any, *, least: float = -math.inf) -> bool:
    """Whether a value is a finite number of `least` or more; True and False are no numbers."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return real and math.isfinite(value) and bool(value >= least)


def check_choice(argument: str, value: Any, options: Iterable[Any]) -> None:
    """Refuse a `value` that is not among `options`, so that a misspelt switch does not act as some default."""
    options = tuple(options)
    if value not in options:
        msg = f"{argument}: expected one of {', '.join(map(repr, options))}, got {value!r}."
        raise ValueError(msg)


def check_count(argument: str, value: Any, *, least: int = 1) -> None:
    """Refuse anything but a whole number of `least` or more."""
    if not is_whole(value, least=least):
        msg = f"{argument}: expected a whole number of {least} or more, got {value!r}."
        raise ValueError(msg)


def check_positive_integer(argument: str, value: Any) -> None:
    """Refuse anything but a whole number above zero, in the words of models."""
    if not is_whole(value, least=1):
        msg = f"{argument}: expected a positive integer, got {value!r}."
        raise ValueError(msg)


def check_seed(value: Any) -> None:
    """Refuse anything but a whole number of 0 or more."""
    if not is_whole(value):
        msg = f"seed: expected a whole number of 0 or more, got {value!r}. Results repeat for the same seed."
        raise ValueError(msg)


def check_number(argument: str, value: Any, *, least: float = 0) -> None:
    """Refuse anything but a finite number of `least` or more."""
    if not is_number(value, least=least):
        msg = f"{argument}: expected a finite number of {least} or more, got {value!r}."
        raise ValueError(msg)
