"""From AnnData to the design that tools and metrics group cells by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbia.errors import LabelError, shorten
from perturbia.perturbation.design import Design, design_from_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["design_of"]


def design_of(
    adata: AnnData, *, perturbation_key: str, control: str | Sequence[str], sep: str, require_control: bool = True
) -> Design:
    """Read the labels of the cells, so that every spelling of one perturbation is one group."""
    if perturbation_key not in adata.obs:
        columns = shorten(adata.obs.columns) or "none"
        msg = f"perturbation_key: expected a column of adata.obs, got {perturbation_key!r}; columns are {columns}."
        raise LabelError(msg)
    return design_from_labels(
        adata.obs[perturbation_key],
        control=control,
        sep=sep,
        require_control=require_control,
        argument=f"adata.obs[{perturbation_key!r}]",
    )
