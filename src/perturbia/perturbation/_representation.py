"""The coordinates of cells that a tool works in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbia.errors import FeatureMismatch, shorten

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["read_representation"]


def read_representation(adata: AnnData, use_rep: str) -> Any:
    """Return `adata.obsm[use_rep]`, or `adata.X` for `"X"`, as an array or a sparse matrix (n_obs, n_dimensions)."""
    if use_rep == "X":
        if adata.X is None:
            msg = "use_rep: expected values in adata.X, got None. Name a key of adata.obsm."
            raise FeatureMismatch(msg)
        return adata.X[:] if adata.isbacked else adata.X
    if use_rep not in adata.obsm:
        fix = "Run scanpy.pp.pca first." if use_rep == "X_pca" else "Name one of them, or 'X'."
        msg = f"use_rep: expected a key of adata.obsm, got {use_rep!r}; keys are {shorten(adata.obsm) or 'none'}. {fix}"
        raise FeatureMismatch(msg)
    values = adata.obsm[use_rep]
    return values.to_numpy() if hasattr(values, "to_numpy") else values
