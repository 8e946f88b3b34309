"""From AnnData to the design that tools and metrics group cells by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbia.perturbation._profiles import obs_column
from perturbia.perturbation.design import Design, design_from_labels
from perturbia.perturbation.labels import CONTROL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["design_of"]


def design_of(
    adata: AnnData,
    *,
    perturbation_key: str,
    control: str | Sequence[str] | None,
    sep: str,
    require_control: bool = True,
) -> Design:
    """Read the labels of the cells, so that every spelling of one perturbation is one group.

    Without the label of `control`, cells called ``control`` are controls, and none is needed.
    """
    return design_from_labels(
        obs_column(adata, perturbation_key, argument="perturbation_key"),
        control=CONTROL if control is None else control,
        sep=sep,
        require_control=require_control and control is not None,
        argument=f"adata.obs[{perturbation_key!r}]",
    )
