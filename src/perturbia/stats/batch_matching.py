"""Mean effects of groups against a reference group of the same batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbia.stats._arrays import any_matrix, group_codes, position_of


def matched_effects(X: np.ndarray | sp.spmatrix, labels: Any, batch: Any, *, reference: Any) -> np.ndarray:
    r"""Mean of each group minus the mean of the reference group in the same batches.

    .. math:: \delta_p = \bar x_p - \sum_b w_{pb}\, \bar x_{cb}

    with :math:`w_{pb}` the share of the rows of group p that are in batch b. Rows in batches without reference rows are
    compared with all reference rows. The effects alone, where many are wanted; :func:`perturbia.tl.effects` has their
    standard errors.

    Parameters
    ----------
    X
        Values, shape (n_rows, n_columns), dense or sparse, finite.
    labels
        Group of each row, shape (n_rows,).
    batch
        Batch of each row, shape (n_rows,).
    reference
        Label of the reference group.

    Returns
    -------
    Effects of the other groups in sorted order, float64, shape (n_groups - 1, n_columns).

    Raises
    ------
    ValueError
        Missing labels, no row of the reference group, or missing or infinite values.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [10.0], [1.0], [12.0], [12.0]])
    >>> matched_effects(X, ["c", "c", "p", "p", "p"], [0, 1, 0, 1, 1], reference="c").round(3)
    array([[1.667]])
    """
    matrix = any_matrix(X, "X")
    groups, codes = group_codes(labels, matrix.shape[0])
    batches, of_row = group_codes(batch, matrix.shape[0], name="batch")
    control = position_of(groups, reference, "reference")
    n_groups, n_batches = len(groups), len(batches)
    size = np.bincount(codes * n_batches + of_row, minlength=n_groups * n_batches).reshape(n_groups, n_batches)
    n_control = size[control]
    share = size / size.sum(axis=1, keepdims=True)
    elsewhere = (share * (n_control == 0)).sum(axis=1, keepdims=True)
    weight = share * (n_control > 0) + elsewhere * n_control / n_control.sum()
    # one pass: rows of other groups by their group, reference rows by their batch
    row = np.where(codes == control, n_groups + of_row, codes)
    shape = (n_groups + n_batches, matrix.shape[0])
    sums = sp.csr_matrix((np.ones(len(row)), (row, np.arange(len(row)))), shape=shape) @ matrix
    sums = sums.toarray() if sp.issparse(sums) else np.asarray(sums)
    count = np.maximum(np.bincount(row, minlength=shape[0]), 1)[:, None]
    means = sums / count
    others = np.arange(n_groups) != control
    return means[:n_groups][others] - weight[others] @ means[n_groups:]
