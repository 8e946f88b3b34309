"""Permutation test of the energy distance between groups of cells and a reference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbia.stats._arrays import any_matrix, group_codes, position_of
from perturbia.stats._distance_blocks import BLOCK_SIZE, DistanceBlocks, root

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from perturbia.stats.energy import Metric

_ASSIGNMENTS = 16_000_000  # cells times permutations held at a time


@dataclass(frozen=True)
class EnergyTest:
    """Permutation tests of groups against a reference.

    Attributes
    ----------
    groups
        Names of the groups without the reference, shape (n_groups - 1,).
    statistic
        Energy distance of each group to the reference over the cells that were used, shape (n_groups - 1,); NaN where
        these are too few.
    p_value
        (1 + permutations with a distance at least as large) / (1 + permutations); NaN where nothing can be permuted.
    p_adjusted
        Holm-Šidák adjusted over the groups that have a p-value.
    count
        Cells of each group that were used: those in strata with reference cells.
    n_reference
        Reference cells that each group was compared with, shape (n_groups - 1,): those in strata with cells of the group.
    n_unmatched
        Cells of each group that were left out, because no reference cell that was drawn is in their stratum.
    reference
        Name of the reference group.
    n_permutations
        Permutations; the smallest possible p-value is 1 / (1 + n_permutations).
    metric, unbiased
        The variant of the distance.
    """

    groups: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray
    p_adjusted: np.ndarray
    count: np.ndarray
    n_reference: np.ndarray
    n_unmatched: np.ndarray
    reference: Any
    n_permutations: int
    metric: Metric
    unbiased: bool

    def __repr__(self) -> str:
        kind = "unbiased" if self.unbiased else "biased"
        below = int(np.nansum(self.p_adjusted < 0.05))
        return (
            f"EnergyTest: {len(self.groups)} groups against {self.reference!r}, {below} with adjusted p < 0.05, "
            f"{self.n_permutations} permutations, {kind}, {self.metric}"
        )


def energy_test(
    X: np.ndarray | sp.spmatrix,
    labels: Sequence[Any] | np.ndarray,
    *,
    reference: Any,
    strata: Sequence[Any] | np.ndarray | None = None,
    metric: Metric = "euclidean",
    unbiased: bool = True,
    n_permutations: int = 1000,
    max_reference: int | Literal["match"] | None = None,
    block_size: int = BLOCK_SIZE,
    seed: int = 0,
) -> EnergyTest:
    r"""Test whether each group has the distribution of the reference, by permuting who belongs to which.

    .. math:: p = \frac{1 + \#\{E_\text{permuted} \ge E\}}{1 + n_\text{permutations}}

    which is at most its nominal level under exchangeability (Phipson and Smyth, 2010). The energy test is that of Székely
    and Rizzo (2004), used for screens by scPerturb (Peidli et al., 2024).

    Parameters
    ----------
    X
        Cells in rows, shape (n_cells, n_features), dense or sparse, usually principal components.
    labels
        One group label a cell.
    reference
        Label of the control cells.
    strata
        Batch of every cell, or any other label within which cells are exchangeable: permutations stay within them. A group
        and the reference are compared on the strata that hold both. Without strata, a group that was not spread over
        batches as the controls were is found different for its batches alone. With strata, its p-value is valid, but the
        statistic still holds what strata differ by where group and reference have other shares of them.
    metric, unbiased
        Variant of the distance, as in :func:`energy_distance`.
    n_permutations
        Permutations of each group.
    max_reference
        Reference cells that a group is compared with at most, drawn at random for each group: a number, or `"match"` for
        as many as the group has cells. Time grows with the square of the cells of both.
    block_size
        Cells on each side of a block of distances.
    seed
        Seed of permutations and draws.

    Returns
    -------
    :class:`EnergyTest`; groups sorted, the reference left out.

    Raises
    ------
    ValueError
        Missing labels or strata, unknown reference, no other group, fewer than two reference cells, missing values,
        unknown metric, impossible settings.

    Warns
    -----
    RuntimeWarning
        Groups with cells in strata without reference cells, which are left out and counted; groups of one cell under
        `unbiased=True`, and groups that share no stratum with the reference: NaN.

    Notes
    -----
    With s the indicator of a group, its sum of distances is s' D s: all permutations of a group are one matrix product
    with D, and D exists in blocks only. O((n + m)² n_permutations) time for a group of n cells and m reference cells,
    O((n + m) n_permutations) memory up to a bound.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> X[:20] += 2
    >>> test = energy_test(X, ["p"] * 20 + ["q"] * 20 + ["c"] * 20, reference="c")
    >>> test.groups, test.p_value < 0.01
    (array(['p', 'q'], dtype='<U1'), array([ True, False]))
    """
    _check_settings(metric, n_permutations, max_reference, block_size)
    matrix = any_matrix(X, "X")
    groups, codes = group_codes(labels, matrix.shape[0])
    control = position_of(groups, reference, "reference")
    stratum = np.zeros(len(codes), dtype=int) if strata is None else group_codes(strata, len(codes), name="strata")[1]
    controls = np.flatnonzero(codes == control)
    if len(groups) < 2 or len(controls) < 2:
        msg = (
            f"labels: expected 2 reference cells and a group besides the reference, got {len(controls)} cells labelled "
            f"{reference!r} and {len(groups) - 1} other groups."
        )
        raise ValueError(msg)
    others = np.delete(np.arange(len(groups)), control)
    statistic, p_value = np.full(len(others), np.nan), np.full(len(others), np.nan)
    count, n_reference, n_unmatched = np.zeros((3, len(others)), dtype=int)
    streams = np.random.SeedSequence(seed).spawn(len(groups))
    for k, group in enumerate(others):
        rng = np.random.default_rng(streams[group])
        every = np.flatnonzero(codes == group)
        members, chosen = _in_common(every, controls, stratum)
        # a draw may miss a stratum
        members, chosen = _in_common(members, _draw(chosen, len(members), max_reference, rng), stratum)
        count[k], n_reference[k], n_unmatched[k] = len(members), len(chosen), len(every) - len(members)
        if min(len(members), len(chosen)) < 1 + unbiased:
            continue
        # Strata one after the other, so that a permutation within them is one of neighbouring columns.
        rows = np.r_[members, chosen]
        rows = rows[np.argsort(stratum[rows], kind="stable")]
        bounds = np.flatnonzero(np.diff(stratum[rows], prepend=-1, append=-1))
        in_group = codes[rows] == group
        sums = _PairSums(matrix, rows, metric, block_size)
        statistic[k], p_value[k] = _permute(sums, in_group, bounds, n_permutations, rng, unbiased=unbiased)
    if n_unmatched.any():
        warnings.warn(
            f"strata: {np.count_nonzero(n_unmatched)} groups have cells in strata without reference cells, {n_unmatched.sum()} "
            "in all; they are left out of the distance.",
            RuntimeWarning,
            stacklevel=2,
        )
    if (n_lost := int(np.isnan(p_value).sum())) > 0:
        warnings.warn(
            f"labels, strata: {n_lost} groups have one cell or share no stratum with the reference; they have no p-value.",
            RuntimeWarning,
            stacklevel=2,
        )
    return EnergyTest(
        groups=groups[others],
        statistic=statistic,
        p_value=p_value,
        p_adjusted=holm_sidak(p_value),
        count=count,
        n_reference=n_reference,
        n_unmatched=n_unmatched,
        reference=reference,
        n_permutations=n_permutations,
        metric=metric,
        unbiased=unbiased,
    )


def holm_sidak(p_value: np.ndarray) -> np.ndarray:
    """Adjust p-values by Holm's step-down rule with Šidák's levels; NaN stays NaN and does not count as a test.

    Parameters
    ----------
    p_value
        P-values, shape (n_tests,).

    Returns
    -------
    Adjusted p-values, same shape.

    Examples
    --------
    >>> import numpy as np
    >>> holm_sidak(np.array([0.01, np.nan, 0.04])).round(4)
    array([0.0199,    nan, 0.04  ])
    """
    from statsmodels.stats.multitest import multipletests

    adjusted = np.full(np.shape(p_value), np.nan)
    tested = ~np.isnan(p_value)
    if tested.any():
        with np.errstate(divide="ignore"):  # log(1 - p) of p = 1
            adjusted[tested] = multipletests(np.asarray(p_value)[tested], method="holm-sidak")[1]
    return adjusted


def _check_settings(metric: str, n_permutations: int, max_reference: Any, block_size: int) -> None:
    if metric not in ("euclidean", "sqeuclidean"):
        msg = f"metric: expected 'euclidean' or 'sqeuclidean', got {metric!r}."
        raise ValueError(msg)
    if n_permutations < 1 or block_size < 1:
        msg = f"n_permutations, block_size: expected positive numbers, got {n_permutations} and {block_size}."
        raise ValueError(msg)
    if not (
        max_reference is None or max_reference == "match" or (not isinstance(max_reference, str) and max_reference > 1)
    ):
        msg = f"max_reference: expected None, 'match' or a number of cells > 1, got {max_reference!r}."
        raise ValueError(msg)


def _draw(controls: np.ndarray, n_members: int, most: Any, rng: np.random.Generator) -> np.ndarray:
    """The reference cells that a group is compared with."""
    most = len(controls) if most is None else max(2, n_members) if most == "match" else most
    return controls if most >= len(controls) else rng.choice(controls, size=most, replace=False)


def _in_common(members: np.ndarray, controls: np.ndarray, stratum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells of both that lie in strata of both."""
    return (
        members[np.isin(stratum[members], stratum[controls])],
        controls[np.isin(stratum[controls], stratum[members])],
    )


class _PairSums:
    """Sums of distances within sets of cells, for many sets at once."""

    def __init__(self, X: Any, rows: np.ndarray, metric: Metric, block_size: int) -> None:
        self.cells = DistanceBlocks(X, rows, block_size)
        self.n_cells, self.block_size = len(rows), block_size
        self.function = root if metric == "euclidean" else np.asarray

    def within(self, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums over ordered pairs s' D s of each set, (n_sets,), and of each cell to all others, (n_cells,).

        `sets` holds one indicator a column, (n_cells, n_sets), in the precision of the distances.
        """
        inside, total = np.zeros(sets.shape[1]), np.zeros(self.n_cells)
        for row in range(0, self.n_cells, self.block_size):
            rows = slice(row, row + self.block_size)
            left = self.cells.left(row, row + self.block_size)
            reached = np.zeros((len(left), sets.shape[1]), dtype=sets.dtype)
            for start in range(row, self.n_cells, self.block_size):
                columns = slice(start, start + self.block_size)
                distances = self.function(
                    self.cells.squared(left, self.cells.right(start, start + self.block_size), same=start == row)
                )
                total[rows] += distances.sum(axis=1, dtype=np.float64)
                if start == row:
                    reached += distances @ sets[columns] / 2  # holds both orders of its pairs
                else:
                    total[columns] += distances.sum(axis=0, dtype=np.float64)
                    reached += distances @ sets[columns]
            inside += 2 * np.einsum("ij,ij->j", sets[rows], reached, dtype=np.float64)
        return inside, total


def _permute(
    sums: _PairSums,
    in_group: np.ndarray,
    bounds: np.ndarray,
    n_permutations: int,
    rng: np.random.Generator,
    *,
    unbiased: bool,
) -> tuple[float, float]:
    """Energy distance of a group to the other cells, and its p-value; `bounds` delimit the strata."""
    n_cells, n = len(in_group), int(in_group.sum())
    m = n_cells - n
    pairs_n, pairs_m = (n * (n - 1), m * (m - 1)) if unbiased else (n * n, m * m)
    free = [(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if 0 < in_group[a:b].sum() < b - a]
    observed, n_larger, scale = np.nan, 0, 0.0
    width = max(1, _ASSIGNMENTS // n_cells)
    for done in range(0, n_permutations, width):
        size = min(width, n_permutations - done)
        sets = np.repeat(in_group[:, None], size + 1, axis=1)  # the observed groups come first
        for a, b in free:
            sets[a:b, 1:] = rng.permuted(sets[a:b, 1:], axis=0)
        inside, total = sums.within(sets.astype(sums.cells.dtype))
        reach = total @ sets
        between, outside = reach - inside, total.sum() - 2 * reach + inside
        distance = 2 * between / (n * m) - inside / pairs_n - outside / pairs_m
        # The same partition may come out a rounding error apart; it counts as equal.
        observed, scale = float(distance[0]), 2 * between[0] / (n * m) * 4 * np.finfo(sums.cells.dtype).eps
        n_larger += int((distance[1:] >= observed - scale).sum())
    return observed, (1 + n_larger) / (1 + n_permutations) if free else np.nan
