"""Which cells differential expression compares, as the arguments of scvi-tools or a perturbation name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import ControlError, LabelError, UnsupportedQuery, shorten
from perturbia.model.base._positions import read_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.perturbation.value import Query

__all__ = ["Comparison", "comparisons_of_groups", "counterfactual_comparison", "observed_comparison"]


@dataclass(frozen=True)
class Comparison:
    """Two populations of cells, as rising positions, their names, and the perturbation to put each of them under."""

    first: np.ndarray
    second: np.ndarray
    names: tuple[str, str]
    perturbations: tuple[Query | None, Query | None] = (None, None)
    #: Cells whose counts describe the first population, where these are not its own.
    described: np.ndarray | None = field(default=None)

    @property
    def is_paired(self) -> bool:
        """Whether both populations are the same cells under two perturbations."""
        return self.perturbations != (None, None)


def observed_comparison(model: LatentShiftModel, adata: AnnData, perturbation: Query, control: Query) -> Comparison:
    """Cells that received exactly one perturbation against those that received exactly another.

    Raises
    ------
    UnsupportedQuery, ControlError
        If there are none of either.
    """
    names = tuple(str(model._read_query(query)) for query in (perturbation, control))
    first, second = (cells_given(model, adata, query) for query in (perturbation, control))
    if not len(first):
        msg = f"perturbation: expected cells with {names[0]!r}, found none. Pass counterfactual=True to compare control cells with and without it."
        raise UnsupportedQuery(msg)
    if not len(second):
        msg = f"control: expected cells with {names[1]!r} to compare with, found none. Pass data that have some."
        raise ControlError(msg)
    return Comparison(first, second, (names[0], names[1]))


def counterfactual_comparison(
    model: LatentShiftModel, adata: AnnData, perturbation: Query, control: Query, start: Any
) -> Comparison:
    """The same cells, controls unless `start` names others, under two perturbations."""
    names = tuple(str(model._read_query(query)) for query in (perturbation, control))
    cells = model._control_cells(adata, np.arange(adata.n_obs)) if start is None else _read_cells(adata, start, "idx1")
    described = cells_given(model, adata, perturbation)
    return Comparison(cells, cells, (names[0], names[1]), (perturbation, control), described)


def comparisons_of_groups(
    adata: AnnData,
    *,
    groupby: str | None,
    group1: Sequence[str] | str | None,
    group2: str | None,
    idx1: Any,
    idx2: Any,
) -> list[Comparison]:
    """Comparisons as scvi-tools reads them: groups of a column of `obs`, or two sets of cells; all others by default.

    Raises
    ------
    KeyError, LabelError, ValueError
        If the column, a group or a set of cells is not there.
    """
    every = np.arange(adata.n_obs)
    if idx1 is not None:
        first = _read_cells(adata, idx1, "idx1")
        second = np.setdiff1d(every, first) if idx2 is None else _read_cells(adata, idx2, "idx2")
        return [_checked(Comparison(first, second, ("one", "Rest" if idx2 is None else "two")), "idx2")]
    if groupby not in adata.obs:
        msg = f"groupby: expected a column of obs, got {groupby!r}. Columns are {shorten(adata.obs.columns, limit=20)}."
        raise KeyError(msg)
    values = adata.obs[groupby].astype(str).to_numpy()
    known = sorted(set(values))
    wanted = known if group1 is None else [group1] if isinstance(group1, str) else [str(group) for group in group1]
    if group1 is None and group2 is not None:
        wanted = [group for group in known if group != group2]
    absent = [group for group in [*wanted, *([] if group2 is None else [str(group2)])] if group not in known]
    if absent:
        msg = (
            f"group1, group2: expected groups of obs[{groupby!r}], got {shorten(absent)}. Groups are {shorten(known)}."
        )
        raise LabelError(msg)
    out = []
    for group in wanted:
        is_first = values == group
        second = np.flatnonzero(~is_first if group2 is None else values == str(group2))
        out.append(Comparison(np.flatnonzero(is_first), second, (group, "Rest" if group2 is None else str(group2))))
    return [_checked(one, "groupby") for one in out]


def cells_given(model: LatentShiftModel, adata: AnnData, query: Query) -> np.ndarray:
    """Positions of the cells that were given exactly a perturbation."""
    dosage = model._registered_dosage(adata, np.arange(adata.n_obs))
    wanted = model._query_matrix([query])[np.zeros(adata.n_obs, dtype=np.int64)]
    return np.flatnonzero(np.asarray(abs(dosage - wanted).sum(1)).ravel() == 0)


def _read_cells(adata: AnnData, chosen: Any, argument: str) -> np.ndarray:
    """Rising positions of cells: positions, a mask, or an expression on the columns of `obs`."""
    if isinstance(chosen, str):
        chosen = adata.obs.reset_index(drop=True).query(chosen).index.to_numpy()
    return np.unique(read_positions(chosen, adata.n_obs, argument=argument) % adata.n_obs)


def _checked(comparison: Comparison, argument: str) -> Comparison:
    if not len(comparison.first) or not len(comparison.second):
        msg = f"{argument}: expected cells on both sides of {' vs '.join(comparison.names)}, got none on one. Name another group."
        raise ValueError(msg)
    return comparison
