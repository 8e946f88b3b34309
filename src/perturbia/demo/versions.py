"""Versions of what is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["version_of"]


def version_of(name: str) -> str:
    """Version of a distribution, or ``"not installed"`` (a source tree on the path has none)."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
