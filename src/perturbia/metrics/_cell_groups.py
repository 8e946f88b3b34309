"""Which source and target cells compete with one another: groups of both sides, and true partners between them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from perturbia.stats._arrays import dense_matrix, group_codes, group_positions


class CellGroups:
    """Groups that source and target cells share; only cells of one group are candidates for one another.

    Parameters
    ----------
    names
        Names of the groups, (n_groups,).
    source, target
        Code of the group of every cell, (n_source,) and (n_target,); -1 for none.
    """

    def __init__(self, names: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
        self.names = names
        self.source = source
        self.target = target

    @classmethod
    def from_labels(
        cls,
        n_source: int,
        n_target: int,
        source_groups: Any,
        target_groups: Any,
        names: tuple[str, str] = ("source_groups", "target_groups"),
    ) -> CellGroups:
        """Groups by label, or one group of all cells where both labels are `None`."""
        if source_groups is None and target_groups is None:
            return cls(np.array(["all"]), np.zeros(n_source, dtype=np.intp), np.zeros(n_target, dtype=np.intp))
        if source_groups is None or target_groups is None:
            absent, given = names if source_groups is None else names[::-1]
            msg = f"{absent}: expected labels, as {given} has them, got None. Pass both or neither."
            raise ValueError(msg)
        found, source, target = shared_codes(source_groups, target_groups, n_source, n_target, names, missing=True)
        if not np.isin(source[source >= 0], target).any():
            msg = f"{names[1]}: expected groups of {names[0]}, got none in common. Use the same labels on both sides."
            raise ValueError(msg)
        return cls(found, source, target)

    @property
    def n_source(self) -> np.ndarray:
        """Source cells of every group, (n_groups,)."""
        return np.bincount(self.source[self.source >= 0], minlength=len(self.names))

    @property
    def n_target(self) -> np.ndarray:
        """Target cells of every group, (n_groups,)."""
        return np.bincount(self.target[self.target >= 0], minlength=len(self.names))

    @cached_property
    def source_members(self) -> list[np.ndarray]:
        """Positions of the source cells of every group, ascending."""
        return group_positions(self.source, len(self.names))

    @cached_property
    def target_members(self) -> list[np.ndarray]:
        """Positions of the target cells of every group, ascending."""
        return group_positions(self.target, len(self.names))


def shared_codes(
    source_labels: Any,
    target_labels: Any,
    n_source: int,
    n_target: int,
    names: tuple[str, str],
    *,
    missing: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of either side, those of the source first, and their codes for the cells of both; -1 if `missing` may be."""
    found, source = _codes(source_labels, n_source, names[0], missing=missing)
    other, target = _codes(target_labels, n_target, names[1], missing=missing)
    position = {label: code for code, label in enumerate(found.tolist())}
    codes = [position.setdefault(label, len(position)) for label in other.tolist()]
    return named(list(position)), source, np.array([*codes, -1])[target]


def _codes(labels: Any, n_cells: int, name: str, *, missing: bool) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(labels)
    absent = pd.isna(values)
    if not missing or values.shape != (n_cells,) or not absent.any():
        return group_codes(values, n_cells, name=name)
    codes = np.full(n_cells, -1, dtype=np.intp)
    found, codes[~absent] = group_codes(values[~absent], int((~absent).sum()), name=name)
    return found, codes


def named(labels: list[Any]) -> np.ndarray:
    """Labels as a vector of objects, whatever they are."""
    names = np.empty(len(labels), dtype=object)
    names[:] = labels
    return names


class Partners(NamedTuple):
    """The true partner of every source cell, -1 where none counts, and how many do not count, by reason."""

    position: np.ndarray
    left_out: dict[str, int]


def true_partners(pairs: Any, groups: CellGroups, *, distinct: bool = False) -> Partners:
    """Check the positions of true partners, and leave out those that another group holds."""
    n_source, n_target = len(groups.source), len(groups.target)
    position = np.asarray(pairs)
    if position.shape != (n_source,) or position.dtype.kind not in "iu":
        msg = (
            f"pairs: expected the position of a target cell for each source cell, integers of shape ({n_source},), "
            f"got dtype {position.dtype} and shape {position.shape}. Use -1 where there is none."
        )
        raise ValueError(msg)
    if position.min() < -1 or position.max() >= n_target:
        msg = (
            f"pairs: expected -1 (none) or positions below {n_target}, the number of target cells, "
            f"got {position.min()} to {position.max()}."
        )
        raise ValueError(msg)
    known = position >= 0
    if distinct and len(np.unique(position[known])) < known.sum():
        msg = "pairs: expected one source cell for each target cell, got several that share a partner. Leave these out."
        raise ValueError(msg)
    elsewhere = known & (groups.source >= 0) & (groups.source != groups.target[position])
    left_out = {"unpaired": int((~known).sum()), "partner_in_other_group": int(elsewhere.sum())}
    return Partners(np.where(elsewhere, -1, position).astype(np.intp), left_out)


def true_positions(
    x_source: Any, x_target: Any, pairs: Any, groups: CellGroups
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Where source cells truly lie in the space of target features.

    Returns
    -------
    Their own features `x_source`, or those of their true partners (NaN where there is none), (n_source, n_features);
    `x_target` as float64; and how many source cells have no position, by reason.
    """
    if (x_source is None) == (pairs is None):
        got = "neither" if pairs is None else "both"
        msg = f"x_source, pairs: expected either features of source cells or their true partners, got {got}."
        raise ValueError(msg)
    target = features(x_target, "x_target", len(groups.target))
    if x_source is not None:
        source = features(x_source, "x_source", len(groups.source))
        if source.shape[1] != target.shape[1]:
            msg = (
                f"x_target: expected the {source.shape[1]} features (columns) of x_source, got {target.shape[1]}. "
                "Both sides need one space; without it, pass pairs in place of x_source."
            )
            raise ValueError(msg)
        return source, target, {}
    partners = true_partners(pairs, groups)
    known = partners.position >= 0
    return np.where(known[:, None], target[partners.position], np.nan), target, partners.left_out


def features(value: Any, name: str, n_cells: int) -> np.ndarray:
    """Return finite float64 features of `n_cells` cells."""
    matrix = dense_matrix(value, name)
    if len(matrix) != n_cells:
        msg = f"{name}: expected {n_cells} cells (rows), got {len(matrix)}. Align the cells first."
        raise ValueError(msg)
    return matrix
