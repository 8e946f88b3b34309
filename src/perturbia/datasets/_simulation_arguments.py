"""Checks of the arguments of simulators, before anything is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbia.stats._settings import is_number, is_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "check_choice",
    "check_count",
    "check_injective",
    "check_library_size",
    "check_not_negative",
    "check_positive",
    "check_share",
]

# the largest power of two up to which float32 holds every whole number
_WHOLE_IN_FLOAT32 = 2**24


def check_count(name: str, value: Any, *, least: int = 1) -> None:
    """Refuse anything but a whole number of at least `least`."""
    if not is_whole(value, least=least):
        msg = f"{name}: expected a whole number of at least {least}, got {value!r}. Pass an int of {least} or more."
        raise ValueError(msg)


def check_positive(name: str, value: Any) -> None:
    """Refuse anything but a finite number above zero."""
    if not (is_number(value) and value > 0):
        msg = f"{name}: expected a positive finite number, got {value!r}. Pass a number above 0."
        raise ValueError(msg)


def check_not_negative(name: str, value: Any) -> None:
    """Refuse anything but a finite number of at least zero."""
    if not is_number(value, least=0):
        msg = f"{name}: expected zero or a positive finite number, got {value!r}. Pass 0 or more."
        raise ValueError(msg)


def check_share(name: str, value: Any, *, with_one: bool) -> None:
    """Refuse anything but a number from 0 to 1, the upper end in or out."""
    if not (is_number(value, least=0) and (value < 1 or (with_one and value == 1))):
        span = "from 0 to 1" if with_one else "from 0 to below 1"
        msg = f"{name}: expected a number {span}, got {value!r}. Pass a share, such as 0.2 for 20 %."
        raise ValueError(msg)


def check_choice(name: str, value: Any, options: Iterable[str]) -> None:
    """Refuse a value that is not among `options`."""
    options = tuple(options)
    if value not in options:
        shown = ", ".join(map(repr, options))
        msg = f"{name}: expected one of {shown}, got {value!r}. Choose one of these."
        raise ValueError(msg)


def check_library_size(value: Any) -> None:
    """Refuse depths at which float32 counts would no longer be whole."""
    check_positive("library_size", value)
    if value > _WHOLE_IN_FLOAT32:
        msg = (
            f"library_size: expected at most {_WHOLE_IN_FLOAT32:,}, up to which float32 holds whole counts, "
            f"got {value!r}. Pass a smaller depth."
        )
        raise ValueError(msg)


def check_injective(n_latent: int, n_hidden: int, n_genes: int) -> None:
    """Refuse layers that narrow: two latents could then give the same genes, and no model could tell them apart."""
    if not n_latent <= n_hidden <= n_genes:
        msg = (
            f"n_hidden: expected at least the {n_latent} latents and at most the {n_genes} genes, so that the decoder "
            f"is injective, got {n_hidden!r}. Change n_hidden, the latents or n_genes."
        )
        raise ValueError(msg)
