"""Couplings of two sets of cells: block diagonal over groups, held as duals or sparse, read in tiles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbia.stats._arrays import any_matrix, check_nonnegative
from perturbia.stats._coupling_blocks import (
    CouplingBlock,
    blocks_of_matrix,
    conditional,
    row_steps,
    sparse_block,
    truncated_block,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Coupling", "CouplingBlock", "MatchStatistics"]


@dataclass(frozen=True)
class MatchStatistics:
    r"""How certain matches are, and how evenly they fall.

    Attributes
    ----------
    n_effective
        Effective number of matches of each source cell, :math:`\exp H(M_{i\cdot})`, float64; NaN where unmatched.
    hubness
        Mass of each target cell relative to that of an even share within its group, float64; NaN in groups without match.
    cost
        Expected cost of the matches of each source cell, float64; NaN where unmatched.
    """

    n_effective: np.ndarray
    hubness: np.ndarray
    cost: np.ndarray


@dataclass(frozen=True, repr=False, eq=False)
class Coupling:
    r"""Coupling of source and target cells, block diagonal over groups.

    Entry (i, j) is a joint mass. A group holds the share of its source cells among those that are matched, and all entries
    sum to one; with loosened marginals or `partial_mass`, to what was matched. Plans stay as they were solved, as duals or
    sparse, and are read in tiles, so that no method needs memory for all pairs.

    Attributes
    ----------
    shape
        Numbers of source and target cells.
    blocks
        One a group.
    parameters
        How it was made.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import Coupling
    >>> coupling = Coupling.from_matrix(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    >>> coupling.pull(np.array([[1.0], [3.0], [7.0]])).ravel()
    array([2., 7.])
    """

    shape: tuple[int, int]
    blocks: tuple[CouplingBlock, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_matrix(
        cls,
        matrix: np.ndarray | sp.spmatrix,
        *,
        source_groups: Sequence[Any] | np.ndarray | None = None,
        target_groups: Sequence[Any] | np.ndarray | None = None,
    ) -> Coupling:
        """Wrap a matrix of masses.

        Parameters
        ----------
        matrix
            Non-negative, shape (n_source, n_target), dense or sparse; it is divided by its sum.
        source_groups, target_groups
            Label of every cell; no mass may join cells of different labels. One group by default.

        Returns
        -------
        The coupling.

        Raises
        ------
        ValueError
            Negative or missing values, no mass at all, or mass between groups.
        """
        held = sp.csr_matrix(any_matrix(matrix, "matrix"), dtype=np.float64)
        check_nonnegative(held.data, "matrix")
        held.eliminate_zeros()
        if (total := held.sum()) <= 0:
            msg = "matrix: expected some mass, got none. Nothing is coupled."
            raise ValueError(msg)
        held = held / total
        if (source_groups is None) != (target_groups is None):
            given = "target_groups" if source_groups is None else "source_groups"
            msg = f"source_groups, target_groups: expected both or neither, got {given} alone."
            raise ValueError(msg)
        if source_groups is None or target_groups is None:
            blocks = [sparse_block("all", np.arange(held.shape[0]), np.arange(held.shape[1]), held)]
        else:
            blocks = blocks_of_matrix(held, source_groups, target_groups)
        return cls(held.shape, tuple(blocks))

    @property
    def groups(self) -> list[Any]:
        """Names of the groups."""
        return [block.name for block in self.blocks]

    @property
    def table(self) -> pd.DataFrame:
        """One row a group: `n_source`, `n_target`, `mass`, and what its solver reported."""
        rows = [{"n_source": len(b.rows), "n_target": len(b.columns), "mass": b.mass, **b.report} for b in self.blocks]
        return pd.DataFrame(rows, index=pd.Index([str(name) for name in self.groups], name="group"))

    @property
    def row_mass(self) -> np.ndarray:
        """Mass of every source cell, float64; zero where unmatched."""
        return self._masses()[0]

    @property
    def column_mass(self) -> np.ndarray:
        """Mass of every target cell, float64; zero where unmatched."""
        return self._masses()[1]

    def _masses(self) -> tuple[np.ndarray, np.ndarray]:
        masses = np.zeros(self.shape[0]), np.zeros(self.shape[1])
        for rows, columns, tile in self.tiles():
            masses[0][rows] += tile.sum(1)
            masses[1][columns] += tile.sum(0)
        return masses

    def tiles(self, max_rows: int = 1024) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Joint mass, some rows of one group at a time.

        Parameters
        ----------
        max_rows
            Rows of a tile at most; fewer where a group has many target cells.

        Yields
        ------
        Positions of source cells, positions of the target cells of their group, and the masses between them, float64.
        """
        for block in self.blocks:
            for local in row_steps(block, max_rows=max_rows):
                yield block.rows[local], block.columns, block.tile(local).astype(np.float64)

    def rows(self, index: Sequence[int] | np.ndarray | None = None) -> sp.csr_matrix:
        """Conditional masses of some source cells.

        Parameters
        ----------
        index
            Their positions, or a mask; all by default.

        Returns
        -------
        Shape (len(index), n_target), float64, rows that sum to one; empty rows for cells without match.
        """
        wanted = _positions(index, self.shape[0], "index")
        place = np.full(self.shape[0], -1)
        unique = np.unique(wanted)
        place[unique] = np.arange(len(unique))
        data, where = [np.empty(0)], [np.empty((2, 0), dtype=np.int64)]
        for block in self.blocks:
            (local,) = np.nonzero(place[block.rows] >= 0)
            for some in row_steps(block, local):
                found = sp.coo_matrix(np.nan_to_num(conditional(block.tile(some))))
                data.append(found.data)
                where.append(np.stack([place[block.rows[some]][found.row], block.columns[found.col]]))
        at = np.concatenate(where, axis=1)
        matrix = sp.csr_matrix((np.concatenate(data), (at[0], at[1])), shape=(len(unique), self.shape[1]))
        return matrix[place[wanted]] if len(unique) else matrix

    def pull(self, X: Any) -> np.ndarray:
        r"""Expected target features of each source cell, :math:`\sum_j M_{ij} x_j / \sum_j M_{ij}`.

        Parameters
        ----------
        X
            Features of target cells, shape (n_target, n_features), dense or sparse.

        Returns
        -------
        Shape (n_source, n_features), of the floating-point type of `X`; NaN for cells without match.
        """
        X = any_matrix(X, "X")
        self._check_features(X, 1)
        pulled = np.full((self.shape[0], X.shape[1]), np.nan, dtype=_float_type(X))
        for block in self.blocks:
            features = X[block.columns].astype(pulled.dtype)
            for local in row_steps(block):
                weights = conditional(block.tile(local)).astype(pulled.dtype, copy=False)
                product = _product(weights, features)
                product[np.isnan(weights[:, 0])] = np.nan  # what a product with a sparse matrix forgets
                pulled[block.rows[local]] = product
        return pulled

    def push(self, X: Any) -> np.ndarray:
        r"""Expected source features of each target cell, :math:`\sum_i M_{ij} x_i / \sum_i M_{ij}`.

        Parameters
        ----------
        X
            Features of source cells, shape (n_source, n_features), dense or sparse.

        Returns
        -------
        Shape (n_target, n_features), of the floating-point type of `X`; NaN for cells without match.
        """
        X = any_matrix(X, "X")
        self._check_features(X, 0)
        pushed = np.full((self.shape[1], X.shape[1]), np.nan, dtype=_float_type(X))
        for block in self.blocks:
            total, mass = np.zeros((len(block.columns), X.shape[1])), np.zeros(len(block.columns))
            for local in row_steps(block):
                tile = block.tile(local)
                features = X[block.rows[local]].astype(pushed.dtype)
                total += _product(tile.T.astype(pushed.dtype, copy=False), features)
                mass += tile.sum(0, dtype=np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                pushed[block.columns] = np.where(mass[:, None] > 0, total / mass[:, None], np.nan)
        return pushed

    def _check_features(self, X: Any, side: int) -> None:
        if X.shape[0] != self.shape[side]:
            name = ("source", "target")[side]
            msg = f"X: expected a row for each of the {self.shape[side]} {name} cells, got {X.shape[0]}."
            raise ValueError(msg)

    def sample(self, n_draws: int = 1, *, rows: Sequence[int] | np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """Draw matches of source cells, with replacement.

        Parameters
        ----------
        n_draws
            Draws for each cell.
        rows
            Positions of source cells, or a mask; all by default.
        seed
            Seed of the draws. The draws of a cell do not depend on which others are asked for.

        Returns
        -------
        Positions of target cells, int64, shape (len(rows), n_draws); -1 for cells without match.
        """
        if not (isinstance(n_draws, int | np.integer) and n_draws >= 1):
            msg = f"n_draws: expected a positive whole number, got {n_draws!r}."
            raise ValueError(msg)
        wanted = _positions(rows, self.shape[0], "rows")
        uniform = np.random.default_rng(seed).random((self.shape[0], n_draws))
        asked = np.zeros(self.shape[0], dtype=bool)
        asked[wanted] = True
        drawn = np.full((self.shape[0], n_draws), -1, dtype=np.int64)
        for block in self.blocks:
            for local in row_steps(block, np.flatnonzero(asked[block.rows])):
                cumulative = np.cumsum(block.tile(local), axis=1, dtype=np.float64)
                matched = cumulative[:, -1] > 0
                cells, cumulative = block.rows[local[matched]], cumulative[matched]
                # one search for all rows: row r covers the interval from r to r + 1
                at = np.arange(len(cells))[:, None]
                ladder = (cumulative / cumulative[:, -1:] + at).ravel()
                found = np.searchsorted(ladder, uniform[cells] + at, side="right")
                found = np.minimum(found - at * len(block.columns), len(block.columns) - 1)
                drawn[cells] = block.columns[found]
        return drawn[wanted]

    def truncate(self, mass: float = 0.99, max_entries: int = 100) -> Coupling:
        """Keep the largest entries of each row, and give the row its mass again.

        Parameters
        ----------
        mass
            Share of the mass of a row that is kept: the fewest entries that reach it.
        max_entries
            Entries of a row at most. Plans that are sparse already are kept whole.

        Returns
        -------
        A coupling of sparse plans; `table["kept_mass"]` says what was kept.
        """
        if not 0 < mass <= 1:
            msg = f"mass: expected a share in (0, 1], got {mass!r}."
            raise ValueError(msg)
        if not (isinstance(max_entries, int | np.integer) and max_entries >= 1):
            msg = f"max_entries: expected a positive whole number, got {max_entries!r}."
            raise ValueError(msg)
        rng = np.random.default_rng(self.parameters.get("seed", 0))
        return replace(self, blocks=tuple(truncated_block(block, mass, max_entries, rng) for block in self.blocks))

    def to_sparse(self, mass: float = 0.99, max_entries: int = 100) -> sp.csr_matrix:
        """Joint masses as one sparse matrix.

        Parameters
        ----------
        mass, max_entries
            As in :meth:`truncate`.

        Returns
        -------
        Shape (n_source, n_target), float64.
        """
        data, rows, columns = [np.empty(0)], [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for block in self.truncate(mass, max_entries).blocks:
            held = block.matrix().tocoo()
            data.append(held.data)
            rows.append(block.rows[held.row])
            columns.append(block.columns[held.col])
        at = (np.concatenate(rows), np.concatenate(columns))
        return sp.csr_matrix((np.concatenate(data), at), shape=self.shape)

    def transpose(self) -> Coupling:
        """The coupling seen from the target cells.

        Returns
        -------
        A coupling of shape (n_target, n_source) with the same masses.
        """
        blocks = tuple(
            replace(b, rows=b.columns, columns=b.rows, parts=tuple(part.transpose() for part in b.parts))
            for b in self.blocks
        )
        return replace(self, shape=self.shape[::-1], blocks=blocks)

    def statistics(self, cost: Any = None) -> MatchStatistics:
        """Certainty, hubness and cost of matches, in one pass.

        Parameters
        ----------
        cost
            Function of positions of source and target cells that gives the costs between them; without it, costs are NaN.

        Returns
        -------
        :class:`MatchStatistics`.
        """
        from scipy.special import xlogy

        effective, costs = np.full(self.shape[0], np.nan), np.full(self.shape[0], np.nan)
        hubness = np.full(self.shape[1], np.nan)
        for block in self.blocks:
            hubness[block.columns] = 0
            for local in row_steps(block):
                tile = block.tile(local)
                hubness[block.columns] += tile.sum(0, dtype=np.float64) * len(block.columns) / block.mass
                tile = conditional(tile)
                effective[block.rows[local]] = np.exp(-xlogy(tile, tile).sum(1, dtype=np.float64))
                if cost is not None:
                    costs[block.rows[local]] = (tile * cost(block.rows[local], block.columns)).sum(1, dtype=np.float64)
        return MatchStatistics(effective, hubness, costs)

    def __repr__(self) -> str:
        n, m = self.shape
        method = self.parameters.get("method")
        loose = sum(not block.report.get("converged", True) for block in self.blocks)
        return (
            f"Coupling: {n:,} source x {m:,} target cells in {len(self.blocks):,} group(s)"
            f"{f', method={method!r}' if method else ''}{f', {loose} not converged' if loose else ''}"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.table.head(10).to_html()}"


def _product(left: np.ndarray, right: Any) -> np.ndarray:
    return np.asarray((right.T @ left.T).T) if sp.issparse(right) else left @ right


def _positions(index: Any, n: int, name: str) -> np.ndarray:
    """Positions of cells, from positions or a mask."""
    if index is None:
        return np.arange(n)
    given = np.atleast_1d(np.asarray(index))
    if given.dtype == bool and given.shape == (n,):
        return np.flatnonzero(given)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        msg = (
            f"{name}: expected positions of cells or a mask of shape ({n},), got {given.dtype} of shape {given.shape}."
        )
        raise ValueError(msg)
    if given.size and not -n <= given.min() <= given.max() < n:
        msg = f"{name}: expected positions of the {n} cells, got {given.min()} to {given.max()}."
        raise ValueError(msg)
    return given.astype(np.int64) % n


def _float_type(X: Any) -> np.dtype:
    return X.dtype if X.dtype in (np.float32, np.float64) else np.dtype(np.float64)
