"""Can a predicted effect be told from those of other perturbations? Ranks, and the scores made from them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.special

from perturbia.metrics._nearest_rows import Competition, compete
from perturbia.metrics._paired_effects import paired_effects
from perturbia.stats._arrays import dense_matrix
from perturbia.stats._settings import check_choice

Query = Literal["prediction", "reference"]
Metric = Literal["l1", "l2", "cosine", "pearson", "rmse"]
Ties = Literal["average", "first"]


def _checked_exclude(exclude: Any, n_perturbations: int, n_genes: int) -> np.ndarray:
    if exclude is None:
        return np.full(n_perturbations, -1)
    genes = np.asarray(exclude)
    if genes.shape != (n_perturbations,) or genes.dtype.kind not in "iu":
        msg = (
            f"exclude: expected one gene index a perturbation, integers of shape ({n_perturbations},), "
            f"got dtype {genes.dtype} and shape {genes.shape}. Use -1 where no gene is left out."
        )
        raise ValueError(msg)
    if genes.min() < -1 or genes.max() >= n_genes:
        msg = f"exclude: expected -1 (none) or gene indices below {n_genes}, got {genes.min()} to {genes.max()}."
        raise ValueError(msg)
    if n_genes < 2 and (genes >= 0).any():
        msg = "exclude: expected a gene besides the one left out, got effects on a single gene."
        raise ValueError(msg)
    return genes.astype(np.intp)


def _competition(
    truth: Any, prediction: Any, *, query: Any, metric: Any, candidates: Any, exclude: Any
) -> tuple[Competition, int]:
    """What happens to each query, and how many rows it is compared with (its own among them)."""
    true, predicted = paired_effects(truth, prediction)
    check_choice("query", query, ("prediction", "reference"))
    check_choice("metric", metric, ("l1", "l2", "cosine", "pearson", "rmse"))
    if metric == "pearson" and true.shape[1] < 2 + (exclude is not None):
        msg = f"truth: expected at least two genes to correlate, got {true.shape[1]}. Use another metric."
        raise ValueError(msg)
    genes = _checked_exclude(exclude, *true.shape)
    queries, rows = (predicted, true) if query == "prediction" else (true, predicted)
    if candidates is not None:
        extra = dense_matrix(candidates, "candidates")
        if extra.shape[1] != true.shape[1]:
            msg = f"candidates: expected the {true.shape[1]} genes (columns) of truth, got {extra.shape[1]}."
            raise ValueError(msg)
        rows = np.vstack([rows, extra])
    if len(rows) < 2:
        msg = "truth: expected at least two perturbations to tell apart, got one. Add rows, or candidates."
        raise ValueError(msg)
    return compete(queries, rows, metric=metric, exclude=genes), len(rows)


def _ranks(competition: Competition, ties: Any) -> np.ndarray:
    check_choice("ties", ties, ("average", "first"))
    return competition.closer + (competition.tied_before if ties == "first" else competition.tied / 2.0)


def retrieval_ranks(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    query: Query = "prediction",
    metric: Metric = "l1",
    ties: Ties = "average",
    candidates: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
) -> np.ndarray:
    """Rank of each perturbation's partner among all of them, by distance to its query; 0 is the nearest.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    query
        `"prediction"`: rank all **true** effects by their distance to each prediction. `"reference"`: rank all
        **predictions** by their distance to each true effect. The two are different questions: under the first a model
        that predicts one strong effect for everything is compared with varied truths, under the second it is all ties.
    metric
        Distance: sum of absolute (`"l1"`) or squared (`"l2"`, `"rmse"`: the same order) differences, or one minus cosine
        or Pearson correlation, in which a row without direction has similarity 0 to everything.
    ties
        `"average"`: equal distances share their ranks. `"first"`: in order of rows, which depends on that order.
        Distances that differ by rounding alone (a share of 1e-12) are equal.
    candidates
        Further rows that compete, shape (n_candidates, n_genes): true effects (those of training perturbations, say) if
        `query="prediction"`, predictions if `query="reference"`.
    exclude
        Gene that each query leaves out of its distances, integers of shape (n_perturbations,), -1 for none: the target
        of a knock-down gives the perturbation away.

    Returns
    -------
    Ranks from 0 to n_perturbations + n_candidates - 1, float64, shape (n_perturbations,). Chance is the middle.

    Raises
    ------
    ValueError
        Bad arrays, unknown choices, `exclude` out of range, or nothing to compete with.

    Notes
    -----
    Distances are computed in blocks of about 10^6 and never stored. L1 costs n_perturbations² n_genes additions that
    no matrix product can do; the others are matrix products.

    Examples
    --------
    >>> import numpy as np
    >>> retrieval_ranks(np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]), np.array([[0.9, 1.0], [1.2, 1.0], [4.0, 5.0]]))
    array([1., 0., 0.])
    """
    competition, _ = _competition(truth, prediction, query=query, metric=metric, candidates=candidates, exclude=exclude)
    return np.asarray(_ranks(competition, ties), dtype=np.float64)


def retrieval(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    query: Query = "prediction",
    metric: Metric = "l1",
    normalize: Literal["unit", "vcc"] = "unit",
    ties: Ties = "average",
    candidates: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Perturbation discrimination: one minus the normalised rank of the true partner.

    .. math:: s_p = 1 - \frac{r_p}{n - 1} \;\text{(unit)}, \qquad s_p = 1 - \frac{r_p}{n} \;\text{(vcc)}

    with :math:`r_p` of :func:`retrieval_ranks` and n the number of rows that compete, the partner included.

    - `query="prediction", metric="l1", normalize="vcc", ties="first", exclude=` target genes is the
      `discrimination_score_l1` of cell-eval (the PDS of the Virtual Cell Challenge).
    - `query="reference", metric="rmse"` or `"cosine"`, `normalize="vcc"`, is one minus the rank score of PerturBench.

    **Range** [0, 1] (`"vcc"`: from 1/n), 1 best. **Chance** is 0.5 (`"vcc"`: 0.5 + 1/(2n)), and so is one constant
    prediction for everything: 0.5 is the floor of this score, not half of the way. **Not seen**: anything that leaves the
    order of distances alone. L1 and L2 rank by size as well as by pattern, so that rescaling a prediction can raise them:
    report `metric="cosine"` beside them.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    query, metric, ties, candidates, exclude
        As in :func:`retrieval_ranks`.
    normalize
        Denominator: n - 1 (`"unit"`, chance is exactly 0.5) or n (`"vcc"`).
    per_perturbation
        The score of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        As :func:`retrieval_ranks`.

    References
    ----------
    Roohani et al., Virtual Cell Challenge, Cell 188 (2025); Wu et al., PerturBench, arXiv:2408.10609 (2024).

    Examples
    --------
    >>> import numpy as np
    >>> effects = np.random.default_rng(0).normal(size=(5, 20))
    >>> retrieval(effects, effects)
    1.0
    >>> retrieval(effects, np.ones((5, 20)))
    0.5
    """
    check_choice("normalize", normalize, ("unit", "vcc"))
    competition, n_rows = _competition(
        truth, prediction, query=query, metric=metric, candidates=candidates, exclude=exclude
    )
    scores = 1.0 - _ranks(competition, ties) / (n_rows - 1 if normalize == "unit" else n_rows)
    return scores if per_perturbation else float(scores.mean())


def retrieval_accuracy(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    top: int = 1,
    query: Query = "prediction",
    metric: Metric = "l1",
    ties: Ties = "average",
    candidates: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    """Share of perturbations whose true partner is among the `top` nearest rows.

    **Range** [0, 1], 1 best. **Chance** is top / n with n rows that compete. **Not seen**: how far off a miss is, and what
    :func:`retrieval` does not see.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    top
        Rows looked at.
    query, metric, candidates, exclude
        As in :func:`retrieval_ranks`.
    ties
        `"average"`: the probability to be among the first when ties are broken at random, so that a constant prediction
        scores chance; `"first"`: in order of rows.
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        As :func:`retrieval_ranks`; `top` is no integer from 1 to the number of rows that compete.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    >>> round(retrieval_accuracy(truth, np.array([[0.9, 1.0], [1.2, 1.0], [4.0, 5.0]])), 3)
    0.667
    """
    competition, n_rows = _competition(
        truth, prediction, query=query, metric=metric, candidates=candidates, exclude=exclude
    )
    if not isinstance(top, (int, np.integer)) or isinstance(top, bool) or not 1 <= top <= n_rows:
        msg = f"top: expected an integer from 1 to {n_rows} (the rows that compete), got {top!r}."
        raise ValueError(msg)
    if ties == "average":
        scores = np.clip((top - competition.closer) / (competition.tied + 1.0), 0.0, 1.0)
    else:
        scores = (_ranks(competition, ties) < top).astype(np.float64)
    return scores if per_perturbation else float(scores.mean())


def mean_reciprocal_rank(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    query: Query = "prediction",
    metric: Metric = "l1",
    ties: Ties = "average",
    candidates: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Mean of one over the rank (counted from 1) of the true partner.

    **Range** [1/n, 1], 1 best. **Chance** with n rows that compete is :math:`\frac{1}{n} \sum_{i=1}^n \frac{1}{i}`, about
    :math:`(\ln n + 0.58)/n`. Nearly all of it is the share of first places. **Not seen**: what :func:`retrieval` does not.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    query, metric, candidates, exclude
        As in :func:`retrieval_ranks`.
    ties
        `"average"`: the expected value when ties are broken at random; `"first"`: in order of rows.
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        As :func:`retrieval_ranks`.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    >>> round(mean_reciprocal_rank(truth, np.array([[0.9, 1.0], [1.2, 1.0], [4.0, 5.0]])), 3)
    0.833
    """
    competition, _ = _competition(truth, prediction, query=query, metric=metric, candidates=candidates, exclude=exclude)
    if ties == "average":
        first, places = competition.closer + 1.0, competition.tied + 1.0
        scores = (scipy.special.digamma(first + places) - scipy.special.digamma(first)) / places
    else:
        scores = 1.0 / (_ranks(competition, ties) + 1.0)
    return scores if per_perturbation else float(scores.mean())
