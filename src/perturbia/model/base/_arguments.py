"""Checks of arguments that several models take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_choice", "check_positive_integer", "check_train_size"]


def check_choice(argument: str, value: Any, options: Iterable[Any]) -> None:
    """Refuse a `value` that is not among `options`, so that a misspelt switch does not act as some default."""
    options = tuple(options)
    if value not in options:
        msg = f"{argument}: expected one of {', '.join(map(repr, options))}, got {value!r}."
        raise ValueError(msg)


def check_positive_integer(argument: str, value: Any) -> None:
    """Refuse anything but a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"{argument}: expected a positive integer, got {value!r}."
        raise ValueError(msg)


def check_train_size(value: float) -> None:
    """Refuse anything but a share of the cells above zero."""
    if not 0 < value <= 1:
        msg = f"train_size: expected a share in (0, 1], got {value!r}."
        raise ValueError(msg)
