"""Which labels a coupling joins: mass of every pair of labels, beside that of matches without a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.metrics._cell_groups import shared_codes
from perturbia.metrics._coupling_tiles import as_tiles
from perturbia.stats._membership import one_hot

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class LabelConfusion:
    """Mass of pairs of labels.

    Attributes
    ----------
    mass
        Mass of matches, labels of source cells (rows) × labels of target cells (columns), float64, sums to 1; rows hold the
        share of their label among matched source cells.
    even
        The same, had every cell been matched evenly with all target cells of its group.
    """

    mass: pd.DataFrame
    even: pd.DataFrame

    @property
    def agreement(self) -> float:
        """Mass of pairs of the same label."""
        return _diagonal(self.mass)

    @property
    def even_agreement(self) -> float:
        """Mass of pairs of the same label under even matches."""
        return _diagonal(self.even)


def label_confusion(
    coupling: Any,
    source_labels: Sequence[Any] | np.ndarray,
    target_labels: Sequence[Any] | np.ndarray,
    *,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
) -> LabelConfusion:
    r"""Mass that a coupling puts on every pair of labels, such as cell types.

    .. math:: C_{ab} = \frac{1}{n} \sum_{i: a_i = a} \frac{\sum_{j: b_j = b} M_{ij}}{\sum_j M_{ij}}

    over the n source cells that have mass. **Range** [0, 1], all entries sum to 1. **Chance**: `even`; labels that follow from
    the groups agree there, too, and then say nothing of the matches. **Not seen**: what goes on within a label.

    Parameters
    ----------
    coupling
        Non-negative matrix (n_source, n_target), dense or sparse, or an object with tiles, as in :func:`coupling_trace`.
    source_labels, target_labels
        Label of every cell, shapes (n_source,) and (n_target,).
    source_groups, target_groups
        As in :func:`coupling_trace`.

    Returns
    -------
    :class:`LabelConfusion`. Rows and columns are the labels that occur on either side, sorted, those of the target alone last.

    Raises
    ------
    ValueError
        As :func:`coupling_trace`; missing labels, or labels of wrong length.

    Examples
    --------
    >>> import numpy as np
    >>> confusion = label_confusion(np.array([[0.6, 0.4], [0.4, 0.6]]), ["T", "B"], ["T", "B"])
    >>> confusion.mass.loc["T"].to_dict()
    {'B': 0.2, 'T': 0.3}
    >>> confusion.agreement, confusion.even_agreement
    (0.6, 0.5)
    """
    plan = as_tiles(coupling, source_groups, target_groups)
    names, source, target = shared_codes(source_labels, target_labels, *plan.shape, ("source_labels", "target_labels"))
    expected = plan.expectation(one_hot(target, len(names)))
    matched = ~np.isnan(expected[:, 0])
    members = one_hot(source[matched], len(names)).T
    groups = plan.groups
    in_group = groups.target >= 0
    available = np.zeros((len(groups.names), len(names)))
    np.add.at(available, (groups.target[in_group], target[in_group]), 1.0)
    with np.errstate(invalid="ignore"):
        available /= available.sum(axis=1, keepdims=True)
    n_matched = matched.sum()
    return LabelConfusion(
        _table(members @ expected[matched] / n_matched, names, source, target),
        _table(members @ available[groups.source[matched]] / n_matched, names, source, target),
    )


def _table(mass: np.ndarray, names: np.ndarray, source: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    rows, columns = np.unique(source), np.unique(target)
    return pd.DataFrame(mass[np.ix_(rows, columns)], index=pd.Index(names[rows]), columns=pd.Index(names[columns]))


def _diagonal(table: pd.DataFrame) -> float:
    return float(sum(table.loc[label, label] for label in table.index.intersection(table.columns)))
