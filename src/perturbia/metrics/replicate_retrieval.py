"""Are the replicates of a perturbation the rows most alike to each of them?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbia.metrics._ranked_positives import average_precision, chance_precision, random_precision
from perturbia.metrics._row_directions import unit_or_zero_rows
from perturbia.metrics._screen_rows import read_screen, warn_left_out, warn_of_fitted_controls
from perturbia.perturbation._profiles import row_names
from perturbia.stats._false_discovery import q_values
from perturbia.stats._settings import check_choice, check_count, check_seed
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics._screen_rows import ScreenRows

Negatives = Literal["perturbations", "controls"]
Batches = Literal["other", "any", "same"]

_DRAWS = 1000  # random rankings of every kind held at a time
_ROUNDING = 1e-12


def mean_average_precision(
    data: Any,
    perturbation_key: Any,
    *,
    use_rep: str | None = None,
    control: str | Sequence[str] | None = None,
    batch_key: Any = None,
    sep: str = "+",
    negatives: Negatives = "perturbations",
    negative_batches: Batches = "other",
    per_row: bool = False,
    n_null: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Mean average precision of retrieving the replicates of each perturbation by cosine, with p-values.

    Each row of a perturbation is a query that ranks its positives, the other rows of its perturbation, and its negatives.
    With the positives at ranks :math:`r_1 < \cdots < r_M`,

    .. math:: AP = \frac{1}{M} \sum_{k=1}^{M} \frac{k}{r_k}

    and the score of a perturbation is the mean over its queries.

    **Range** (0, 1], 1 best: all positives before all negatives. **Chance** is the column `chance`, which depends on the
    numbers M of positives and N of negatives, with L = M + N and harmonic number :math:`H_L`:
    :math:`\frac{1}{L}\big[\frac{M-1}{L-1}(L - H_L) + H_L\big]`. `normalized` is (AP - chance) / (1 - chance): 0 by
    chance, 1 best, comparable between perturbations. **Not seen**: the size of effects, and how alike replicates are beyond
    their rank. Against other perturbations it falls where several do the same.

    Parameters
    ----------
    data
        Profiles (wells, cells, guides): AnnData, or a DataFrame or array, (n_rows, n_features).
    perturbation_key
        Column of `obs` with the labels, or one label a row.
    use_rep
        Key of `obsm`; by default `X`.
    control
        Label or labels of control rows, which are never queries. `None`: rows labelled ``control``, if there are any. Rows
        that `obs["is_control"]` marks are controls in any case.
    batch_key
        Column of `obs` with the batch, or one a row: positives are then rows of other batches alone.
    sep
        Text between the members of a combination.
    negatives
        ``"perturbations"``: rows of all other perturbations (is it unlike the others?). ``"controls"``: control rows (is it
        unlike controls, phenotypic activity?).
    negative_batches
        With batches, where negatives come from: ``"other"`` batches than the query, as positives do; ``"any"``; or the
        ``"same"`` batch. Rows of one batch look alike for their batch alone, so that the last two lower the score wherever
        batches differ.
    per_row
        Return the average precision of each row instead.
    n_null
        Random rankings of every number of positives and negatives. The smallest p-value is 1 / (1 + n_null).
    seed
        Seed of random rankings.

    Returns
    -------
    DataFrame, one row a perturbation: `n_obs`, its rows; `n_queries`, those with a positive and a negative;
    `mean_average_precision`, `chance`, `normalized`, `p_value`, and `q_value` by Benjamini and Hochberg. With `per_row`,
    one row a row of `data`, in its order: `perturbation`, `n_positives`, `n_negatives`, `average_precision`, `chance` and
    `normalized`; NaN where it is no query.

    Raises
    ------
    LabelError
        If labels or batches are missing or can not be read, or there are too few perturbations.
    ControlError
        If no row is labelled `control`, or there are no controls with ``negatives="controls"``.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If values are missing, no row has both positives and negatives, or a number or choice is impossible.

    Warns
    -----
    RuntimeWarning
        Perturbations without a query, whose score is NaN; rows that are zero; with ``negatives="controls"`` a representation
        whitened by these controls.

    Notes
    -----
    As copairs (Kalinin et al., 2025), with these differences. Ties (cosines within 1e-12) count as the mean over their
    orders; copairs puts positives first and has ties at the precision of float32. A random score that equals the observed
    one counts as one that reaches it; copairs counts larger ones only, so that a perfect score always has the smallest
    p-value. Rows without a negative are no queries.
    As in copairs, rows with the same numbers of positives and negatives share their random rankings: the score of a
    perturbation is compared with that of one random ranking, although it is a mean over queries, which are not independent,
    since replicates retrieve each other. P-values are therefore approximate. In screens without effects, 0 to 7 % of
    perturbations had p <= 0.05, fewer the more replicates there were, but up to 25 % had p <= 0.2.
    :func:`replicate_consistency` has exact ones. Against controls that whitening was fitted to p-values are too small, since
    it makes those unlike all other rows (85 % of genes without effect had p <= 0.05 with six controls a plate): fit to some controls (``fit_on`` of
    :func:`perturbia.pp.typical_variation_normalization` and :func:`perturbia.pp.spherize`) and leave those rows out here.
    O(n_rows² n_features) time, in blocks of rows.

    References
    ----------
    Kalinin, A. A. et al. A versatile information retrieval framework for evaluating profile strength and similarity.
    Nature Communications 16 (2025).

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> genes = np.repeat(["A", "B", "C", "D"], 5)
    >>> effects = np.repeat(rng.normal(size=(4, 30)) * [[2], [2], [0], [0]], 5, axis=0)
    >>> table = pb.metrics.mean_average_precision(effects + rng.normal(size=(20, 30)), genes)
    >>> table["mean_average_precision"].round(1).tolist(), (table["q_value"] < 0.05).tolist()
    ([1.0, 1.0, 0.4, 0.5], [True, True, False, False])
    """
    check_choice("negatives", negatives, ("perturbations", "controls"))
    check_choice("negative_batches", negative_batches, ("other", "any", "same"))
    check_count("n_null", n_null)
    check_seed(seed)
    needs_controls = negatives == "controls"
    screen = read_screen(
        data,
        perturbation_key,
        use_rep=use_rep,
        control=control,
        batch_key=batch_key,
        sep=sep,
        least=1 if needs_controls else 2,
        require_control=needs_controls,
    )
    if needs_controls:
        warn_of_fitted_controls(data, use_rep, screen, instead=", or use negatives='perturbations'")
    where = "any" if batch_key is None else negative_batches
    queries = _Candidates(screen, controls=needs_controls, where=where, across=batch_key is not None)
    score, n_positive, n_negative = average_precision(unit_or_zero_rows(screen.values)[0], queries)
    chance = chance_precision(n_positive, n_negative)
    asks = ~np.isnan(score)
    if not asks.any():
        msg = (
            f"perturbation_key: expected rows with a replicate{'' if batch_key is None else ' in another batch'} and with "
            f"negatives ({negatives}, {where} batch), got none. Pass replicates, not their means, or other negatives."
        )
        raise ValueError(msg)
    rows = pd.DataFrame(
        {"n_positives": n_positive, "n_negatives": n_negative, "average_precision": score, "chance": chance}
    )
    rows["normalized"] = (score - chance) / (1.0 - chance)
    if per_row:
        labels = np.append(screen.names, "control")[screen.codes]  # -1 is the last
        rows.insert(0, "perturbation", labels)
        rows.index = pd.Index(np.array(row_names(data), dtype=object)[screen.order])
        return rows.iloc[np.argsort(screen.order)]
    return _by_perturbation(screen, rows, asks, n_null=n_null, seed=seed)


class _Candidates:
    """Positives and negatives of rows.

    Parameters
    ----------
    screen
        All rows.
    controls
        Whether negatives are controls, and not rows of other perturbations.
    where
        Batches of negatives.
    across
        Whether positives must be of another batch.
    """

    def __init__(self, screen: ScreenRows, *, controls: bool, where: Batches, across: bool) -> None:
        # small numbers, which are faster to compare
        self.codes, self.batches = screen.codes.astype(np.int32), screen.batches.astype(np.int32)
        self.controls, self.where, self.across = controls, where, across

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives of some rows, both boolean (n, n_rows)."""
        code = self.codes[rows][:, None]
        query = code >= 0
        same = code == self.codes
        positive = same & query
        positive[np.arange(len(rows)), rows] = False
        negative = query & ((self.codes < 0) if self.controls else ~same & (self.codes >= 0))
        if self.across:
            together = self.batches[rows][:, None] == self.batches
            positive &= ~together
            if self.where != "any":
                negative &= together if self.where == "same" else ~together
        return positive, negative


def _by_perturbation(
    screen: ScreenRows, rows: pd.DataFrame, asks: np.ndarray, *, n_null: int, seed: int
) -> pd.DataFrame:
    """Means over the queries of every perturbation, and their p-values."""
    codes = screen.codes[asks]
    scored = np.unique(codes)
    names = ["average_precision", "chance", "normalized"]
    means = group_means(rows.loc[asks, names].to_numpy(), codes, with_variance=False).mean
    table = pd.DataFrame(
        {"n_obs": screen.n_rows, "n_queries": np.bincount(codes, minlength=len(screen.names))},
        index=pd.Index(screen.names, name="perturbation"),
    )
    p_value = np.full(len(table), np.nan)
    p_value[scored] = _p_values(rows.loc[asks], np.searchsorted(scored, codes), means[:, 0], n_null=n_null, seed=seed)
    columns = np.full((len(table), 3), np.nan)
    columns[scored] = means
    table[["mean_average_precision", "chance", "normalized"]] = columns
    table["p_value"], table["q_value"] = p_value, q_values(p_value)
    warn_left_out(screen.names[table["n_queries"] == 0], "no row with both positives and negatives")
    return table


def _p_values(queries: pd.DataFrame, group: np.ndarray, observed: np.ndarray, *, n_null: int, seed: int) -> np.ndarray:
    """Compare the mean of each group with those of random rankings, one for each number of positives and negatives."""
    sizes, kind = np.unique(queries[["n_positives", "n_negatives"]].to_numpy(), axis=0, return_inverse=True)
    n_groups = len(observed)
    weight = sp.csr_matrix((np.ones(len(group)), (group, kind.ravel())), shape=(n_groups, len(sizes)))
    weight = sp.diags(1.0 / np.asarray(weight.sum(axis=1)).ravel()) @ weight
    at_least = np.zeros(n_groups, dtype=np.int64)
    # the draws of a kind follow from its numbers, so that what a perturbation gets does not depend on the others
    streams = [np.random.default_rng([seed, m, n]) for m, n in sizes.tolist()]
    for start in range(0, n_null, _DRAWS):
        size = min(_DRAWS, n_null - start)
        draws = [random_precision(m, m + n, size, rng) for (m, n), rng in zip(sizes.tolist(), streams, strict=True)]
        at_least += (weight @ np.array(draws) >= observed[:, None] - _ROUNDING).sum(axis=1)
    return (1 + at_least) / (1 + n_null)
