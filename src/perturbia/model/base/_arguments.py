"""Checks of arguments that several models take."""

from __future__ import annotations

from perturbia.stats._settings import check_choice, check_positive_integer

__all__ = ["check_choice", "check_positive_integer", "check_train_size"]


def check_train_size(value: float) -> None:
    """Refuse anything but a share of the cells above zero."""
    if not 0 < value <= 1:
        msg = f"train_size: expected a share in (0, 1], got {value!r}."
        raise ValueError(msg)
