"""Whether two sets of cells have one distribution within every group: a testable implication of an alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.stats._arrays import dense_matrix
from perturbia.stats._false_discovery import q_values
from perturbia.stats.block_matching import paired_groups
from perturbia.stats.energy_permutation import energy_test

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["group_distance_tests"]


def group_distance_tests(
    X: np.ndarray,
    Y: np.ndarray,
    x_groups: Sequence[Any] | np.ndarray,
    y_groups: Sequence[Any] | np.ndarray,
    *,
    n_permutations: int = 500,
    max_cells: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Two-sample permutation tests of the energy distance, one a group, with false discovery rates.

    Parameters
    ----------
    X, Y
        Cells in rows, shapes (n, d) and (m, d).
    x_groups, y_groups
        Label of every cell; None or NaN for cells in no group.
    n_permutations
        Permutations of a group.
    max_cells
        Cells of a group on each side at most, drawn at random.
    seed
        Seed of draws and permutations.

    Returns
    -------
    One row a group that both sides have: `energy_distance` (unbiased, Euclidean), `relative_distance`, the same over
    twice the mean distance between cells of the two sides, which is 0 for one distribution and 1 for two far apart points;
    `p_value` and `p_adjusted` (Benjamini and Hochberg, over groups). NaN for groups of one cell.

    Raises
    ------
    ValueError
        Different numbers of columns, missing values, no common group, or bad settings.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import group_distance_tests
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    >>> y[:30] += 2
    >>> tests = group_distance_tests(x, y, ["a"] * 30 + ["b"] * 30, ["a"] * 30 + ["b"] * 30)
    >>> (tests["p_adjusted"] < 0.05).to_dict()
    {'a': True, 'b': False}
    """
    from scipy.spatial.distance import cdist

    X, Y = dense_matrix(X, "X"), dense_matrix(Y, "Y")
    if X.shape[1] != Y.shape[1]:
        msg = f"Y: expected the {X.shape[1]} columns of X, got {Y.shape[1]}. Pass coordinates in one space."
        raise ValueError(msg)
    if not (isinstance(max_cells, int | np.integer) and max_cells >= 2):
        msg = f"max_cells: expected a whole number of at least 2, got {max_cells!r}."
        raise ValueError(msg)
    for name, labels, n in (("x_groups", x_groups, len(X)), ("y_groups", y_groups, len(Y))):
        if len(labels) != n:
            msg = f"{name}: expected one label a cell, {n}, got {len(labels)}."
            raise ValueError(msg)
    groups = paired_groups(x_groups, y_groups, shape=(len(X), len(Y)))
    rng = np.random.default_rng(seed)
    rows = []
    for k, (_, *sides) in enumerate(groups):
        first, second = (
            rng.choice(cells, max_cells, replace=False) if len(cells) > max_cells else cells for cells in sides
        )
        if min(len(first), len(second)) < 2:
            rows.append((np.nan, np.nan, np.nan))
            continue
        test = energy_test(
            np.concatenate([X[first], Y[second]]),
            ["x"] * len(first) + ["y"] * len(second),
            reference="y",
            n_permutations=n_permutations,
            seed=seed + k,
        )
        distance, between = float(test.statistic[0]), 2 * cdist(X[first], Y[second]).mean()
        rows.append((distance, distance / between if between > 0 else 0.0, float(test.p_value[0])))
    columns = ["energy_distance", "relative_distance", "p_value"]
    table = pd.DataFrame(rows, index=[name for name, *_ in groups], columns=columns)
    table["p_adjusted"] = q_values(table["p_value"].to_numpy())
    return table
