"""Copies of data that may lie in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["for_models", "in_memory"]


def in_memory(adata: AnnData) -> AnnData:
    """A copy in memory, also of data or of a view that are backed by a file, which `.copy()` refuses."""
    return adata.to_memory() if adata.isbacked else adata.copy()


def for_models(adata: AnnData | None) -> AnnData | None:
    """The data as they are, but views of a file in memory: scvi-tools copies views, and fails on these."""
    return adata.to_memory() if adata is not None and adata.isbacked and adata.is_view else adata
