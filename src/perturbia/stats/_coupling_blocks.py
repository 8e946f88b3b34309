"""Couplings of the cells of one group, and how they are read, shortened and made from a matrix."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbia.stats._arrays import group_codes, group_positions
from perturbia.stats._coupling_plans import Part, SparsePlan, UniformPlan, random_matches, truncated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "CouplingBlock",
    "blocks_of_matrix",
    "conditional",
    "label_array",
    "row_steps",
    "sparse_block",
    "truncated_block",
]

_TILE = 2_000_000  # entries of a tile


@dataclass(frozen=True)
class CouplingBlock:
    """The part of a coupling that belongs to one group.

    Attributes
    ----------
    name
        The group.
    rows, columns
        Positions of its source and target cells, int64.
    mass
        Share of all mass that it holds.
    parts
        Plans of mass one over all parts; a large group may be cut into several, which share cells at the cuts.
    report
        What its solver said: `iterations`, `marginal_error`, `converged`, `mean_cost`, `kept_mass`.
    """

    name: Any
    rows: np.ndarray
    columns: np.ndarray
    mass: float
    parts: tuple[Part, ...]
    report: Mapping[str, Any] = field(default_factory=dict)

    def tile(self, local: np.ndarray) -> np.ndarray:
        """Joint mass of some rows of the block.

        Parameters
        ----------
        local
            Sorted positions within `rows`.

        Returns
        -------
        Shape (len(local), len(columns)), float32 or float64 as the plan is held.
        """
        if len(self.parts) == 1 and self.parts[0].rows is None:
            return self.parts[0].plan.tile(local) * self.mass
        tile = np.zeros(
            (len(local), len(self.columns)), dtype=np.result_type(*(part.plan.dtype for part in self.parts))
        )
        for part in self.parts:
            position = part.row_positions(len(self.rows))
            inside = np.searchsorted(position, local)
            inside[inside == len(position)] = 0
            (hit,) = np.nonzero(position[inside] == local)
            if len(hit):
                columns = part.column_positions(len(self.columns))
                tile[np.ix_(hit, columns)] += part.plan.tile(inside[hit]) * self.mass
        return tile

    def matrix(self) -> sp.csr_matrix:
        """Joint mass of a block whose plans are sparse.

        Returns
        -------
        Shape (len(rows), len(columns)), float64.
        """
        shape = (len(self.rows), len(self.columns))
        total = sp.csr_matrix(shape)
        for part in self.parts:
            plan = part.plan.sparse().tocoo()
            at = (part.row_positions(shape[0])[plan.row], part.column_positions(shape[1])[plan.col])
            total += sp.csr_matrix((plan.data * self.mass, at), shape=shape)
        return total


def label_array(labels: Any) -> np.ndarray:
    """Labels as an array that keeps what they are: of a list, NumPy would write None, NaN and numbers as text.

    Parameters
    ----------
    labels
        Array, series, categorical or list.

    Returns
    -------
    One-dimensional array, of objects where a list was given.
    """
    if hasattr(labels, "dtype"):
        return np.asarray(labels)
    labels = list(labels)
    return np.fromiter(labels, dtype=object, count=len(labels))


def row_steps(block: CouplingBlock, local: np.ndarray | None = None, max_rows: int = 1024) -> Iterator[np.ndarray]:
    """Rows of a block whose tiles stay small.

    Parameters
    ----------
    block
        The block.
    local
        Positions within its rows; all by default.
    max_rows
        Rows of a tile at most.

    Yields
    ------
    Positions within the rows of the block.
    """
    local = np.arange(len(block.rows)) if local is None else local
    step = max(1, min(max_rows, _TILE // max(1, len(block.columns))))
    for start in range(0, len(local), step):
        yield local[start : start + step]


def conditional(tile: np.ndarray) -> np.ndarray:
    """Rows divided by their sums.

    Parameters
    ----------
    tile
        Masses.

    Returns
    -------
    The same shape and type; NaN where a row is empty.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return tile / tile.sum(1, keepdims=True, dtype=np.float64).astype(tile.dtype)


def truncated_block(block: CouplingBlock, mass: float, max_entries: int, rng: np.random.Generator) -> CouplingBlock:
    """Keep the largest entries of each row, and give the row its mass again.

    Parameters
    ----------
    block
        The block; one whose plans are sparse is kept whole.
    mass, max_entries
        Share of a row to keep, and entries of a row at most.
    rng
        Source of the matches that stand for a uniform plan.

    Returns
    -------
    A block of sparse plans, whose report says what was kept.
    """
    plans = [part.plan for part in block.parts]
    kept = 1.0
    if all(isinstance(plan, SparsePlan) for plan in plans):
        parts = block.parts
    elif isinstance(plans[0], UniformPlan):
        matrix = random_matches(plans[0].shape, max_entries, rng)
        kept, parts = matrix.nnz / np.prod(matrix.shape), (Part(SparsePlan(matrix)),)
    else:
        pieces = [truncated(block.tile(local), mass, max_entries) for local in row_steps(block)]
        matrix = sp.vstack([piece for piece, _ in pieces]).tocsr() / block.mass
        total = matrix.sum()
        kept = sum(share.sum() for _, share in pieces) / (block.mass * total) if total > 0 else 1.0
        parts = (Part(SparsePlan(matrix)),)
    return replace(block, parts=parts, report={**block.report, "kept_mass": float(kept)})


def sparse_block(name: Any, rows: np.ndarray, columns: np.ndarray, joint: sp.csr_matrix) -> CouplingBlock:
    """A block from its masses.

    Parameters
    ----------
    name, rows, columns
        As in :class:`CouplingBlock`.
    joint
        Its part of all mass, shape (len(rows), len(columns)).

    Returns
    -------
    The block.
    """
    mass = float(joint.sum())
    return CouplingBlock(name, rows, columns, mass, (Part(SparsePlan((joint / mass).tocsr())),))


def blocks_of_matrix(held: sp.csr_matrix, source_groups: Any, target_groups: Any) -> list[CouplingBlock]:
    """Cut a matrix of masses along groups.

    Parameters
    ----------
    held
        Masses of sum one, shape (n_source, n_target).
    source_groups, target_groups
        Label of every cell.

    Returns
    -------
    One block for every group that holds mass.

    Raises
    ------
    ValueError
        Missing labels, or mass between groups.
    """
    names, codes = group_codes(label_array(source_groups), held.shape[0], name="source_groups")
    others, other_codes = group_codes(label_array(target_groups), held.shape[1], name="target_groups")
    position = pd.Index(names).get_indexer(others)[other_codes]
    entries = held.tocoo()
    if (across := codes[entries.row] != position[entries.col]).any():
        msg = f"matrix: expected mass within groups only, got {int(across.sum())} entries between cells of different groups."
        raise ValueError(msg)
    sides = [_places(codes, len(names)), _places(position, len(names))]
    local = [side[1] for side in sides]
    blocks = []
    for code, some in enumerate(group_positions(codes[entries.row], len(names))):
        if not len(some):
            continue
        rows, columns = sides[0][0][code], sides[1][0][code]
        where = (local[0][entries.row[some]], local[1][entries.col[some]])
        joint = sp.csr_matrix((entries.data[some], where), shape=(len(rows), len(columns)))
        blocks.append(sparse_block(names[code], rows, columns, joint))
    return blocks


def _places(codes: np.ndarray, n_groups: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Positions of the cells of every group, and the place of every cell in its group."""
    members = group_positions(codes, n_groups)
    place = np.zeros(len(codes), dtype=np.int64)
    for cells in members:
        place[cells] = np.arange(len(cells))
    return members, place
