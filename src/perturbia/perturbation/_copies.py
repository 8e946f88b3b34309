"""Data that may lie in a file: copies of them in memory, and whether they can be written to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbia.errors import UnsupportedQuery

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["for_models", "in_memory", "require_writable"]


def in_memory(adata: AnnData) -> AnnData:
    """A copy in memory, also of data or of a view that are backed by a file, which `.copy()` refuses."""
    return adata.to_memory() if adata.isbacked else adata.copy()


def for_models(adata: AnnData | None) -> AnnData | None:
    """The data as they are, but views of a file in memory: scvi-tools copies views, and fails on these."""
    return adata.to_memory() if adata is not None and adata.isbacked and adata.is_view else adata


def require_writable(adata: AnnData, *, argument: str = "adata", fix: str = "Use copy=True, or .to_memory().") -> None:
    """Refuse views of a file, which take no result, with an `UnsupportedQuery` that says how to fix it."""
    if adata.isbacked and adata.is_view:
        msg = f"{argument}: expected data that can be written to, got a view of a backed file. {fix}"
        raise UnsupportedQuery(msg)
