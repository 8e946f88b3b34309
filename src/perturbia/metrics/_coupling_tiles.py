"""A coupling as tiles of row-conditionals within groups: what the scores of alignments read, whatever holds the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from perturbia.metrics._cell_groups import CellGroups, named
from perturbia.stats._arrays import any_matrix, check_nonnegative

if TYPE_CHECKING:
    from collections.abc import Iterator

# Entries of a dense tile: 8 MB, and a few temporary arrays of that size.
_BLOCK = 2**20
# Share of the mass that may lie between groups and pass for rounding.
_LEAK = 1e-9


class Tile(NamedTuple):
    """Conditional mass of source cells `rows` of one group over target cells `columns`; each row sums to 1."""

    group: int
    rows: np.ndarray
    columns: np.ndarray
    weights: Any


def as_tiles(coupling: Any, source_groups: Any = None, target_groups: Any = None) -> CouplingTiles:
    """Tiles of a coupling, or those that a caller has made of it and of the groups."""
    if isinstance(coupling, CouplingTiles):
        return coupling
    return CouplingTiles(coupling, source_groups, target_groups)


class CouplingTiles:
    """Row-conditionals of a coupling, group by group.

    Parameters
    ----------
    coupling
        Non-negative matrix (n_source, n_target), dense or sparse; or an object with `.shape` and `.tiles(max_rows)`, which
        yields source positions, target positions, and the mass between them.
    source_groups, target_groups
        Group of every cell. `None`: the blocks of an object with tiles, or one group for a matrix.

    Attributes
    ----------
    matched
        Source cells that have mass, complete after the first pass over tiles.
    """

    def __init__(self, coupling: Any, source_groups: Any = None, target_groups: Any = None) -> None:
        self.streams = hasattr(coupling, "tiles")
        labelled = source_groups is not None or target_groups is not None
        self.coupling: Any = coupling if self.streams else _checked_matrix(coupling)
        n_source, n_target = self.coupling.shape
        self.shape = (int(n_source), int(n_target))
        self.matched = np.zeros(n_source, dtype=bool)
        self.groups = (
            CellGroups.from_labels(n_source, n_target, source_groups, target_groups)
            if labelled or not self.streams
            else _block_groups(coupling)
        )
        if not self.streams:
            _check_leak(self.coupling, self.groups)

    def tiles(self, *, dense: bool = False) -> Iterator[Tile]:
        """Rows that have mass, each in one tile.

        Weights are a CSR array or a dense one; with `dense` always dense, and over all target cells of the group.
        """
        for tile in self._streamed(dense=dense) if self.streams else self._sliced(dense=dense):
            self.matched[tile.rows] = True
            yield tile

    def expectation(self, values: Any) -> np.ndarray:
        """Expected values of the target cell of every source cell, (n_source, n_values); NaN without mass.

        `values` is a dense or CSR matrix (n_target, n_values).
        """
        expected = np.full((self.shape[0], values.shape[1]), np.nan)
        for tile in self.tiles():
            product = tile.weights @ values[tile.columns]
            expected[tile.rows] = product.toarray() if sp.issparse(product) else product
        return expected

    def _sliced(self, *, dense: bool) -> Iterator[Tile]:
        """Tiles of a sparse matrix; in order of groups, a block is a slice of it."""
        sources, targets = self.groups.source_members, self.groups.target_members
        column_of = np.empty(self.shape[1], dtype=self.coupling.indices.dtype)
        # Cells without a group come last, where no block reaches.
        column_of[np.concatenate([*targets, np.flatnonzero(self.groups.target < 0)])] = np.arange(self.shape[1])
        order = np.concatenate([*sources, np.flatnonzero(self.groups.source < 0)])
        rows_in_order = self.coupling[order]
        matrix = sp.csr_array(
            (rows_in_order.data, column_of[rows_in_order.indices], rows_in_order.indptr), shape=self.shape
        )
        row_start = np.r_[0, np.cumsum(self.groups.n_source)]
        column_start = np.r_[0, np.cumsum(self.groups.n_target)]
        for group, (rows, columns) in enumerate(zip(sources, targets, strict=True)):
            if not len(rows) or not len(columns):
                continue
            step = max(1, _BLOCK // len(columns)) if dense else len(rows)
            for start in range(0, len(rows), step):
                stop = min(start + step, len(rows))
                inside = slice(row_start[group] + start, row_start[group] + stop)
                block = matrix[inside, column_start[group] : column_start[group + 1]]
                mass = block.sum(axis=1)
                block = block[mass > 0]
                block.data /= np.repeat(mass[mass > 0], np.diff(block.indptr))
                yield Tile(group, rows[start:stop][mass > 0], columns, block.toarray() if dense else block)

    def _streamed(self, *, dense: bool) -> Iterator[Tile]:
        """Tiles of an object that computes them, checked, and split where the caller's groups are finer."""
        seen = np.zeros(self.shape[0], dtype=bool)
        position = np.full(self.shape[1], -1)
        total = 0.0
        for rows, columns, block in self.coupling.tiles(max_rows=self._max_rows()):
            mass = _checked_tile(block, (len(rows), len(columns)))
            if seen[rows].any():
                msg = "coupling: expected every source cell in one tile, got a cell in several. Yield whole rows."
                raise ValueError(msg)
            seen[rows] = True
            row_codes, column_codes, row_mass = self.groups.source[rows], self.groups.target[columns], mass.sum(axis=1)
            total += row_mass.sum()
            for group in np.unique(row_codes):
                inside, own = row_codes == group, (column_codes == group) & (group >= 0)
                part = mass if inside.all() and own.all() else mass[np.ix_(inside, own)]
                weight = part.sum(axis=1)
                _refuse_leak(float(row_mass[inside].sum() - weight.sum()), float(row_mass.sum()))
                if group < 0:
                    continue
                kept, wanted = weight > 0, columns[own]
                part = part[kept] / weight[kept, None]
                if dense and len(wanted) < len(members := self.groups.target_members[group]):
                    position[members] = np.arange(len(members))
                    part, narrow = np.zeros((len(part), len(members))), part
                    part[:, position[wanted]] = narrow
                    wanted = members
                yield Tile(int(group), rows[inside][kept], wanted, part)
        if not total > 0:
            _refuse_empty()

    def _max_rows(self) -> int:
        table = getattr(self.coupling, "table", None)
        widest = int(table["n_target"].max()) if table is not None and len(table) else self.shape[1]
        return max(1, min(1024, _BLOCK // max(widest, 1)))


def _checked_matrix(coupling: Any) -> sp.csr_array:
    matrix = sp.csr_array(any_matrix(coupling, "coupling"), dtype=np.float64)
    check_nonnegative(matrix.data, "coupling")
    if not matrix.data.sum() > 0:
        _refuse_empty()
    return matrix


def _checked_tile(block: Any, shape: tuple[int, int]) -> np.ndarray:
    mass = np.asarray(block, dtype=np.float64)
    if mass.shape != shape or not np.isfinite(mass).all():
        msg = f"coupling: expected tiles of finite numbers of shape {shape}, got shape {mass.shape} or missing values."
        raise ValueError(msg)
    check_nonnegative(mass, "coupling")
    return mass


def _refuse_empty() -> None:
    msg = "coupling: expected mass between source and target cells, got none. Check that the groups of both sides meet."
    raise ValueError(msg)


def _check_leak(matrix: sp.csr_array, groups: CellGroups) -> None:
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    between = (groups.source[rows] != groups.target[matrix.indices]) | (groups.source[rows] < 0)
    _refuse_leak(float(matrix.data[between].sum()), float(matrix.data.sum()))


def _refuse_leak(between: float, total: float) -> None:
    if between > _LEAK * total:
        msg = (
            f"coupling: expected mass within groups only, got {between / total:.1%} between them. "
            "Match within groups, or score without source_groups and target_groups."
        )
        raise ValueError(msg)


def _block_groups(coupling: Any) -> CellGroups:
    """Groups from the blocks of a coupling: cells that share their candidates."""
    source, target = np.full(coupling.shape[0], -1), np.full(coupling.shape[1], -1)
    names: list[Any] = []
    if (blocks := getattr(coupling, "blocks", None)) is not None:
        for code, block in enumerate(blocks):
            source[block.rows] = target[block.columns] = code
            names.append(block.name)
    else:
        for rows, columns, _ in coupling.tiles():
            if target[columns[0]] < 0:
                target[columns] = len(names)
                names.append(len(names))
            source[rows] = target[columns[0]]
    if not names:
        _refuse_empty()
    return CellGroups(named(names), source, target)
