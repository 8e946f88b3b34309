"""Fraction of cells closer than the true match (FOSCTTM), on embeddings, on projections, and on the plan itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.stats
from scipy.spatial.distance import cdist

from perturbia.metrics._cell_groups import CellGroups, true_partners, true_positions
from perturbia.metrics._coupling_tiles import as_tiles
from perturbia.metrics._nearest_rows import compete
from perturbia.metrics.matching_scores import mean_by_group
from perturbia.stats._arrays import dense_matrix
from perturbia.stats._settings import check_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics.matching_scores import MatchingScores

Convention = Literal["strict", "midrank", "scot", "glue"]


def _fraction(queries: np.ndarray, partners: np.ndarray, others: np.ndarray, convention: Convention) -> np.ndarray:
    """Fraction of the candidates (partners and others) that are closer to each query than its partner, in the same row."""
    rows = np.vstack([partners, others])
    competition = compete(queries, rows, metric="l2", exclude=np.full(len(queries), -1))
    closer = competition.closer + (competition.tied / 2.0 if convention == "midrank" else 0.0)
    return closer / (len(rows) if convention == "glue" else len(rows) - 1)


def _both_directions(
    first: np.ndarray, second: np.ndarray, groups: CellGroups, partner: np.ndarray, convention: Convention
) -> tuple[dict[str, np.ndarray], int]:
    """Scores of the first side's cells, NaN where there is none, and how many have a partner but no competitor.

    `first` may have rows of NaN, which neither ask nor compete.
    """
    usable = ~np.isnan(first[:, 0])
    forward, backward = np.full(len(first), np.nan), np.full(len(first), np.nan)
    offset = second.mean(axis=0)  # distances are differences of squares: the common offset would cost their digits
    for sources, targets in zip(groups.source_members, groups.target_members, strict=True):
        present = sources[usable[sources]]
        asked = present[partner[present] >= 0]
        if not len(asked) or len(targets) < 2 or len(present) < 2:
            continue
        matched = partner[asked]
        pair = first[asked] - offset, second[matched] - offset
        others = np.setdiff1d(present, asked, assume_unique=True), np.setdiff1d(targets, matched, assume_unique=True)
        forward[asked] = _fraction(*pair, second[others[1]] - offset, convention)
        backward[asked] = _fraction(*pair[::-1], first[others[0]] - offset, convention)
    scores = {"foscttm": (forward + backward) / 2.0, "foscttm_source": forward, "foscttm_target": backward}
    in_group = usable & (groups.source >= 0) & (partner >= 0)
    return scores, int((in_group & np.isnan(forward)).sum())


def foscttm(
    x: np.ndarray,
    y: np.ndarray,
    *,
    pairs: Sequence[int] | np.ndarray | None = None,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
    convention: Convention = "strict",
) -> MatchingScores:
    r"""Fraction of cells closer than the true match, between two embeddings in one space.

    For source cell i with true partner p(i) among the m target cells of its group,

    .. math:: f_i = \frac{1}{m - 1} \, \#\{ j \ne p(i) : \|x_i - y_j\| < \|x_i - y_{p(i)}\| \}

    and in the same way for partner p(i) among the source cells; the score is the mean of both directions.

    **Range** [0, 1], 0 best. **Chance** is 0.5. **Not seen**: mass; and, except under `"midrank"`, collapse: cells of equal
    position tie, and a tie counts for the partner, so that an embedding of one point scores 0, perfect.

    Parameters
    ----------
    x, y
        Embeddings of source and target cells, shapes (n_source, n_features) and (n_target, n_features).
    pairs
        Position of the true partner of every source cell, distinct integers, shape (n_source,), -1 for none. Default: cells
        are in the same order.
    source_groups, target_groups
        Group of every cell; only cells of one group compete. Default: one group.
    convention
        `"strict"`: as above. `"scot"`: the same number; SCOT sorts the distances and takes the first index of the true one
        over n - 1, which counts the smaller ones. `"glue"`: the strict count, over m in place of m - 1, as the mean over all
        cells in scglue. `"midrank"`: as strict, with one half for each tie, so that 0.5 is chance for collapsed embeddings,
        too. Distances within rounding of one another tie.

    Returns
    -------
    :class:`MatchingScores` with `foscttm` and its two directions, `foscttm_source` (source cells ask) and `foscttm_target`.
    Cells without a partner, or with a partner in another group, are left out of the mean and still compete. Groups of one
    cell on either side have no score.

    Raises
    ------
    ValueError
        Missing values, different numbers of features, of cells without `pairs`, partners that are shared or out of range,
        labels of wrong length, an unknown convention, or no cell to score.

    Notes
    -----
    All distances of a group are computed once in each direction, in blocks of fixed memory.

    References
    ----------
    Liu, Huang, Singh, Vert and Noble, WABI (2019); Demetci et al. (SCOT), Journal of Computational Biology 29 (2022); Cao
    and Gao (GLUE), Nature Biotechnology 40 (2022).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [5.0]])
    >>> [round(float(foscttm(x, y).macro["foscttm"]), 3) for y in (x, x[::-1])]
    [0.0, 0.667]
    """
    check_choice("convention", convention, ("strict", "midrank", "scot", "glue"))
    first, second = dense_matrix(x, "x"), dense_matrix(y, "y")
    if first.shape[1] != second.shape[1]:
        msg = f"y: expected the {first.shape[1]} features (columns) of x, got {second.shape[1]}. Use one common space."
        raise ValueError(msg)
    if pairs is None:
        if len(first) != len(second):
            msg = f"y: expected the {len(first)} cells of x in the same order, got {len(second)}. Or pass pairs."
            raise ValueError(msg)
        pairs = np.arange(len(first))
    groups = CellGroups.from_labels(len(first), len(second), source_groups, target_groups)
    partners = true_partners(pairs, groups, distinct=True)
    scores, alone = _both_directions(first, second, groups, partners.position, convention)
    return mean_by_group(groups, scores, {**partners.left_out, "alone": alone})


def projected_foscttm(
    coupling: Any,
    x_source: np.ndarray | None,
    x_target: np.ndarray,
    *,
    pairs: Sequence[int] | np.ndarray | None = None,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
    convention: Convention = "midrank",
) -> MatchingScores:
    r"""FOSCTTM of what a coupling predicts for source cells, :math:`\hat x_i = \sum_j w_{ij} x_j`, against the truth.

    With `x_source`, features of both sides in one space, :math:`\hat x_i` should be nearer to :math:`x_i` than to other
    source cells (Xi et al., 2024). With `pairs`, no common space is needed: :math:`\hat x_i` should be nearer to its true
    partner than to other target cells. Both directions are averaged, as in :func:`foscttm`.

    **Range** [0, 1], 0 best. **Chance** is 0.5: the uniform plan scores exactly that under `"midrank"`, and about 0.25 under
    the others, where its equal predictions tie. **Not seen**: how sure the plan is.

    Parameters
    ----------
    coupling, x_source, x_target, pairs, source_groups, target_groups
        As in :func:`matched_mse`; partners have to be distinct.
    convention
        As in :func:`foscttm`.

    Returns
    -------
    :class:`MatchingScores`, as :func:`foscttm`. Cells without mass have no prediction and do not compete.

    Raises
    ------
    ValueError
        As :func:`matched_mse` and :func:`foscttm`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [5.0]])
    >>> projected_foscttm(np.eye(3), x, x).macro.tolist()
    [0.0, 0.0, 0.0]
    >>> projected_foscttm(np.ones((3, 3)), None, x, pairs=[0, 1, 2]).macro.tolist()
    [0.5, 0.5, 0.5]
    """
    check_choice("convention", convention, ("strict", "midrank", "scot", "glue"))
    plan = as_tiles(coupling, source_groups, target_groups)
    truth, target, left_out = true_positions(x_source, x_target, pairs, plan.groups)
    predicted = plan.expectation(target)
    if pairs is None:
        competing = CellGroups(plan.groups.names, plan.groups.source, plan.groups.source)
        scores, alone = _both_directions(predicted, truth, competing, np.arange(len(truth)), convention)
    else:
        partner = true_partners(pairs, plan.groups, distinct=True).position
        scores, alone = _both_directions(predicted, target, plan.groups, partner, convention)
    return mean_by_group(plan.groups, scores, {**left_out, "alone": alone})


def soft_foscttm(
    coupling: Any,
    x_source: np.ndarray | None,
    x_target: np.ndarray,
    *,
    pairs: Sequence[int] | np.ndarray | None = None,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
) -> MatchingScores:
    r"""Fraction of cells closer to the truth than the match, averaged over the plan: a FOSCTTM without projection.

    With :math:`w_{ij} = M_{ij} / \sum_k M_{ik}`, the true position :math:`z_i` of source cell i, and the m target cells of
    its group,

    .. math:: \mathrm{soft} = \frac{1}{n} \sum_i \sum_j w_{ij} \, r_i(j), \qquad
              r_i(j) = \frac{1}{m - 1} \Big[ \#\{k : \|z_i - x_k\| < \|z_i - x_j\|\}
                       + \tfrac12 \#\{k \ne j : \|z_i - x_k\| = \|z_i - x_j\|\} \Big]

    so that :math:`r_i` is 0 for the nearest target cell and 1 for the farthest. The true position is that of the true
    partner (`pairs`), whose own rank is 0, or one in a common space (`x_source`), such as the true latents of a simulation.

    **Range** [0, 1], 0 best. **Chance** is 0.5, exactly so for the uniform plan. A match drawn from the plan has this rank in
    expectation, which neither the error of its mean nor the mass on the one true partner tells. **Not seen**: distances,
    only their order.

    Parameters
    ----------
    coupling, x_source, x_target, pairs, source_groups, target_groups
        As in :func:`matched_mse`.

    Returns
    -------
    :class:`MatchingScores` with `soft_foscttm`. Groups with one target cell have no score. A partner that has an equal twin
    shares the first rank with it.

    Raises
    ------
    ValueError
        As :func:`matched_mse`.

    Notes
    -----
    Distances of a group are ranked in blocks of rows, of fixed memory.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [5.0]])
    >>> plan = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> soft_foscttm(plan, None, x, pairs=[0, 1, 2]).macro.round(4).tolist()
    [0.0833]
    """
    plan = as_tiles(coupling, source_groups, target_groups)
    truth, target, left_out = true_positions(x_source, x_target, pairs, plan.groups)
    score = np.full(plan.shape[0], np.nan)
    alone = 0
    known = ~np.isnan(truth[:, 0])
    for tile in plan.tiles(dense=True):
        inside = known[tile.rows]
        rows, n_candidates = tile.rows[inside], len(tile.columns)
        if n_candidates < 2:
            alone += len(rows)
        if n_candidates < 2 or not len(rows):
            continue
        distance = cdist(truth[rows], target[tile.columns], "sqeuclidean")
        rank = scipy.stats.rankdata(distance, axis=1) - 1.0
        score[rows] = (tile.weights[inside] * rank).sum(axis=1) / (n_candidates - 1)
    return mean_by_group(plan.groups, {"soft_foscttm": score}, {**left_out, "alone": alone})
