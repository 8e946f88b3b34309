"""Notices of other libraries that are silenced while a model trains, and only then."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet_third_parties"]


@contextmanager
def quiet_third_parties() -> Iterator[None]:
    """Silence notices that our users can do nothing about, for the time of the training.

    Yields
    ------
    Nothing.
    """
    names = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [third_party.level for third_party in loggers]
    with warnings.catch_warnings():
        for pattern in (".*does not have many workers.*", ".*number of training batches.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", message=pattern)
        try:
            for third_party in loggers:
                third_party.setLevel(logging.WARNING)
            yield
        finally:
            for third_party, level in zip(loggers, levels, strict=True):
                third_party.setLevel(level)
