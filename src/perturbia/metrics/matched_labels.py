"""Do the cells that a coupling matches carry the same label? The score of alignments without known pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.metrics._cell_groups import shared_codes
from perturbia.metrics._coupling_tiles import as_tiles
from perturbia.metrics.matching_scores import MatchingScores, count_table
from perturbia.stats._membership import one_hot

if TYPE_CHECKING:
    from collections.abc import Sequence

# Labels whose mass differs by less share the first place.
_TIE = 1e-12


def _macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over labels that are true or predicted anywhere, from counts (n_true, n_predicted)."""
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    seen = total > 0
    return float((2.0 * np.diag(confusion)[seen] / total[seen]).mean())


def _relative_matching(confusion: np.ndarray, available: np.ndarray) -> float:
    """Agreement beyond that of independent labels, over the most that margins allow.

    `confusion` is the mass of pairs of labels, `available` the share of each label among the target cells.
    """
    row, column = confusion.sum(axis=1), confusion.sum(axis=0)
    if np.minimum(row, available).sum() - row @ available <= _TIE:  # no plan could do better than chance
        return np.nan
    chance = row @ column
    room = np.minimum(row, column).sum() - chance
    return float((np.trace(confusion) - chance) / room) if room > _TIE else 0.0


def _group_scores(share: np.ndarray, labels: np.ndarray, available: np.ndarray) -> tuple[float, float, float, float]:
    """Expected agreement, accuracy, macro-F1 and relative matching of the cells of a group.

    `share` is the mass of each label in the row of each cell, (n_cells, n_labels).
    """
    n_cells, n_labels = share.shape
    own = np.arange(n_cells)
    first = share >= share.max(axis=1, keepdims=True) - _TIE
    vote = first / first.sum(axis=1, keepdims=True)
    truth = one_hot(labels, n_labels).T
    return (
        float(share[own, labels].mean()),
        float(vote[own, labels].mean()),
        _macro_f1(truth @ vote),
        _relative_matching(truth @ share / n_cells, available),
    )


def matched_label_accuracy(
    coupling: Any,
    source_labels: Sequence[Any] | np.ndarray,
    target_labels: Sequence[Any] | np.ndarray,
    *,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
) -> MatchingScores:
    r"""Agreement of labels, such as cell types, between cells and those that a coupling matches them with.

    Labels have to be held out: neither the groups that were matched within, nor anything the matching has seen. With
    :math:`P_i(b)` the mass of target cells of label b in the normalised row of source cell i, of label :math:`a_i`, the scores
    of a group are

    - `expected_agreement`: mean of :math:`P_i(a_i)`, how often a match drawn from the plan has the label;
    - `accuracy`: how often the label of most mass is the right one; labels of equal mass share the vote;
    - `macro_f1`: F1 of these votes, averaged over labels that occur among cells or votes;
    - `relative_matching`: with the confusion mass :math:`C_{ab} = \frac{1}{n} \sum_{i: a_i = a} P_i(b)` and its margins
      :math:`r_a` and :math:`c_b`,

    .. math:: \frac{\sum_a C_{aa} - \sum_a r_a c_a}{\sum_a \min(r_a, c_a) - \sum_a r_a c_a}

    which is Cohen's kappa over its largest value at these margins.

    **Range** up to 1, best; the first three from 0. **Chance**: that of `expected_agreement` and `accuracy` depends on how
    common labels are; relative matching has 0 for any plan that ignores labels, the uniform one among them. **Not seen**:
    what goes on within a label.

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
    :class:`MatchingScores`. Cells without mass are left out and counted. `relative_matching` is NaN in groups where labels
    leave no room above chance, such as a single label on one side. `macro_f1` over groups is the mean of the groups' values.

    Raises
    ------
    ValueError
        As :func:`coupling_trace`; missing labels, or labels of wrong length.

    Notes
    -----
    After Ryu, Bunne, Pinello, Regev and Lopez (2024), who take the agreement of the uniform plan of all groups together as
    chance and that of true pairs as the best; margins need no pairs, and no balanced plan.

    References
    ----------
    Ryu et al., Cross-modality matching and prediction of perturbation responses with labeled Gromov-Wasserstein optimal
    transport, arXiv:2405.00838 (2024). Cohen, Educational and Psychological Measurement 20 (1960), for kappa and its maximum.

    Examples
    --------
    >>> import numpy as np
    >>> plan = np.array([[0.6, 0.4], [0.4, 0.6]])
    >>> matched_label_accuracy(plan, ["T", "B"], ["T", "B"]).macro.round(3).to_dict()
    {'expected_agreement': 0.6, 'accuracy': 1.0, 'macro_f1': 1.0, 'relative_matching': 0.2}
    """
    plan = as_tiles(coupling, source_groups, target_groups)
    found, source, target = shared_codes(source_labels, target_labels, *plan.shape, ("source_labels", "target_labels"))
    n_labels = len(found)
    share = plan.expectation(one_hot(target, n_labels))
    matched = ~np.isnan(share[:, 0])
    groups = plan.groups
    table = count_table(groups, np.bincount(groups.source[matched], minlength=len(groups.names)))
    scores = np.full((len(groups.names), 4), np.nan)
    for group, (cells, candidates) in enumerate(zip(groups.source_members, groups.target_members, strict=True)):
        if len(cells := cells[matched[cells]]):
            available = np.bincount(target[candidates], minlength=n_labels) / len(candidates)
            scores[group] = _group_scores(share[cells], source[cells], available)
    for name, values in zip(("expected_agreement", "accuracy", "macro_f1", "relative_matching"), scores.T, strict=True):
        table[name] = values
    return MatchingScores(table, pd.Series({"unmatched": int((~matched).sum())}, dtype=np.int64))
