"""Copies of data that may lie in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["in_memory"]


def in_memory(adata: AnnData) -> AnnData:
    """A copy in memory, also of data or of a view that are backed by a file, which `.copy()` refuses."""
    return adata.to_memory() if adata.isbacked else adata.copy()
