"""Known relations between perturbations, as users hold them, as positions in a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["KnownPairs", "locate_pairs", "read_databases"]

_UNNAMED = "relationships"
_FIX = "Pass a DataFrame whose first two columns hold names, an iterable of pairs of names, or a dict of such."


@dataclass(frozen=True)
class KnownPairs:
    """Unordered pairs of rows of a map.

    Attributes
    ----------
    first, second
        Positions in the map, `first` < `second`, each pair once, shape (n_pairs,).
    n_missing
        Distinct pairs that were left out because the map lacks one of their names.
    """

    first: np.ndarray
    second: np.ndarray
    n_missing: int

    def __len__(self) -> int:
        return len(self.first)

    def rows(self) -> np.ndarray:
        """Positions of rows that have a known pair, ascending."""
        return np.unique(np.concatenate([self.first, self.second]))

    def degrees(self) -> np.ndarray:
        """Known pairs of each of :meth:`rows`."""
        return np.unique(np.concatenate([self.first, self.second]), return_counts=True)[1]


def read_databases(relationships: Any) -> dict[str, np.ndarray]:
    """Return pairs of names of every database, text of shape (n_pairs, 2), as they were given.

    Parameters
    ----------
    relationships
        DataFrame whose first two columns hold names, an iterable of pairs, or a mapping from the name of a database to
        either.

    Returns
    -------
    Mapping from the name of a database to its pairs.

    Raises
    ------
    LabelError
        If there are no pairs, or something else than pairs of names.
    """
    # the edges of a networkx graph are a mapping, too, from pairs to attributes
    edges = (
        isinstance(relationships, Mapping) and relationships and all(isinstance(key, tuple) for key in relationships)
    )
    if edges or not isinstance(relationships, Mapping):
        return {_UNNAMED: _read_pairs(relationships, _UNNAMED)}
    if not relationships:
        msg = f"relationships: expected one database or more, got an empty dict. {_FIX}"
        raise LabelError(msg)
    return {str(name): _read_pairs(pairs, _argument(name)) for name, pairs in relationships.items()}


def _argument(database: Hashable) -> str:
    return f"relationships[{database!r}]"


def _read_pairs(pairs: Any, argument: str) -> np.ndarray:
    if isinstance(pairs, pd.DataFrame):
        if pairs.shape[1] < 2:
            msg = f"{argument}: expected two columns of names, got columns {shorten(pairs.columns) or 'none'}. {_FIX}"
            raise LabelError(msg)
        table = pairs.iloc[:, :2].astype(object).to_numpy()
    else:
        table = _stack(pairs, argument)
    if len(table) == 0:
        msg = f"{argument}: expected one pair of names or more, got none. {_FIX}"
        raise LabelError(msg)
    missing = pd.isna(table).any(axis=1)
    if missing.any():
        msg = f"{argument}: expected two names in every pair, got {missing.sum()} of {len(table)} without. Drop these pairs."
        raise LabelError(msg)
    return table.astype(str)


def _stack(pairs: Any, argument: str) -> np.ndarray:
    """Pairs of an iterable one below another; text is refused, whose letters would be taken for names."""
    items = list(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, str) else None
    odd = (
        None if items is None else [x for x in items if isinstance(x, str) or not hasattr(x, "__len__") or len(x) != 2]
    )
    if items is None or odd:
        got = type(pairs).__name__ if items is None else shorten(odd or [], limit=2)
        msg = f"{argument}: expected pairs of names, got {got}. {_FIX}"
        raise LabelError(msg)
    table = np.empty((len(items), 2), dtype=object)
    for column in range(2):
        table[:, column] = [tuple(item)[column] for item in items]
    return table


def locate_pairs(databases: Mapping[str, np.ndarray], names: np.ndarray) -> dict[str, KnownPairs]:
    """Find the pairs of every database in a map: no self pairs, A-B and B-A once.

    Parameters
    ----------
    databases
        Pairs of names, shape (n_pairs, 2) each.
    names
        Distinct names of the rows of the map, shape (n_rows,).

    Returns
    -------
    Pairs of each database as positions; their order does not depend on that in which they were given.

    Raises
    ------
    LabelError
        If the map holds no pair of a database; the message has names of both.
    """
    index = pd.Index(names)
    return {name: _locate(pairs, index, name) for name, pairs in databases.items()}


def _locate(pairs: np.ndarray, index: pd.Index, database: str) -> KnownPairs:
    codes, found = pd.factorize(pairs.ravel())
    low, high = np.sort(codes.reshape(-1, 2), axis=1).T
    once = np.unique((low * len(found) + high)[low != high])
    if len(once) == 0:
        msg = f"relationships: expected pairs of two different names, got self pairs only in {database!r}."
        raise LabelError(msg)
    positions = index.get_indexer(found)[np.stack(np.divmod(once, len(found)))]
    present = (positions >= 0).all(axis=0)
    if not present.any():
        unknown = [name for name in found.tolist() if name not in index][:3]
        msg = (
            f"relationships: expected pairs of names that the map has, got none among {len(once)} of {database!r}, which "
            f"names {shorten(unknown or found.tolist(), limit=3)}; the map has {shorten(index, limit=3)}. Use the same identifiers "
            "(symbols or Ensembl ids) in both, and one row a gene in the map."
        )
        raise LabelError(msg)
    ordered = np.sort(positions[:, present], axis=0)
    first, second = ordered[:, np.lexsort(ordered[::-1])]
    return KnownPairs(first, second, int(len(once) - present.sum()))
