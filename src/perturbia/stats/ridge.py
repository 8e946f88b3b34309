"""Ridge regression of responses on a dosage matrix, from group means or from cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from perturbia.stats._arrays import any_matrix, positive_vector


@dataclass(frozen=True)
class DosageFit:
    """Linear response to doses.

    Attributes
    ----------
    coefficients
        Response to one unit of each target, shape (n_targets, n_genes).
    intercept
        Response at dose zero, shape (n_genes,); zeros if none was fitted.
    penalty
        Ridge penalty.
    rank
        Rank to which fitted values were reduced, or `None`.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    penalty: float
    rank: int | None = None

    def __repr__(self) -> str:
        shape = " targets x ".join(map(str, self.coefficients.shape))
        return f"DosageFit: {shape} genes, penalty {self.penalty:g}" + (
            f", rank {self.rank}" if self.rank is not None else ""
        )

    def predict(self, dosage: np.ndarray | sp.spmatrix) -> np.ndarray:
        """Predict responses.

        Parameters
        ----------
        dosage
            Doses, shape (n, n_targets), dense or sparse, columns as in the fit.

        Returns
        -------
        Responses, shape (n, n_genes).

        Raises
        ------
        ValueError
            The number of targets differs from the fit.
        """
        doses = any_matrix(dosage, "dosage")
        if doses.shape[1] != len(self.coefficients):
            msg = f"dosage: expected {len(self.coefficients)} targets as in the fit, got {doses.shape[1]}."
            raise ValueError(msg)
        return np.asarray(doses @ self.coefficients) + self.intercept


def checked_regression(dosage: Any, responses: Any, weights: Any, penalty: float) -> tuple[Any, Any, np.ndarray]:
    """Check the inputs of a regression on doses; returns dosage, responses (dense or CSR) and float64 weights."""
    doses, values = any_matrix(dosage, "dosage"), any_matrix(responses, "responses")
    if doses.shape[0] != values.shape[0]:
        msg = f"responses: expected the {doses.shape[0]} rows of dosage, got {values.shape[0]}."
        raise ValueError(msg)
    if not penalty >= 0 or not np.isfinite(penalty):
        msg = f"penalty: expected a finite number >= 0, got {penalty}."
        raise ValueError(msg)
    row_weights = np.ones(doses.shape[0]) if weights is None else positive_vector(weights, "weights", doses.shape[0])
    return doses, values, row_weights


def _dense(product: Any) -> np.ndarray:
    return product.toarray() if sp.issparse(product) else np.asarray(product)


def solve_ridge(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    """Solve (gram + penalty I) B = cross for B by Cholesky, or say why it cannot be solved."""
    system = gram + penalty * np.eye(len(gram))
    rank = np.linalg.matrix_rank(system, hermitian=True)
    if rank < len(system):
        msg = f"penalty: expected > 0, because the doses of {len(system)} targets have rank {rank}; got {penalty:g}."
        raise ValueError(msg)
    return scipy.linalg.solve(system, cross, assume_a="pos")


def dosage_ridge(
    dosage: np.ndarray | sp.spmatrix,
    responses: np.ndarray | sp.spmatrix,
    *,
    penalty: float = 0.1,
    weights: np.ndarray | None = None,
    fit_intercept: bool = False,
) -> DosageFit:
    r"""Ridge regression of responses on doses, for all genes at once.

    .. math:: \min_{B, b} \sum_i w_i \lVert y_i - b - B^\top d_i \rVert^2 + \lambda \lVert B \rVert^2

    Rows may be cells or groups of cells: the fit depends on cells only through D'D and D'Y, so group means weighted by
    group sizes give exactly the fit of the cells.

    Parameters
    ----------
    dosage
        Doses, shape (n_rows, n_targets), dense or sparse.
    responses
        Effects against control, or expression of cells, shape (n_rows, n_genes), dense or sparse (stays sparse).
    penalty
        λ, in units of (squared dose) x weight, on the same scale as D'WD. Needed > 0 if targets are collinear.
    weights
        Positive weight of each row, e.g. the number of cells; default 1.
    fit_intercept
        Whether to fit an unpenalised intercept b: `True` for expression of cells with controls among them, `False` for
        effects.

    Returns
    -------
    :class:`DosageFit`. A target without any dose gets coefficients 0.

    Raises
    ------
    ValueError
        Numbers of rows differ, non-positive weights, negative penalty, penalty 0 with collinear targets, missing values.

    Notes
    -----
    O(nnz(D) n_genes + n_targets³); no array of the size of the cells is made besides a weighted copy of the doses.

    Examples
    --------
    >>> import numpy as np
    >>> fit = dosage_ridge(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0], [4.0]]), penalty=1.0)
    >>> fit.predict(np.array([[1.0, 1.0]]))
    array([[3.]])
    """
    doses, values, row_weights = checked_regression(dosage, responses, weights, penalty)
    weighted = sp.csr_matrix(doses, dtype=np.float64).multiply(row_weights[:, None]).T.tocsr()
    gram, cross = _dense(weighted @ doses), _dense(weighted @ values)
    intercept = np.zeros(values.shape[1])
    if not fit_intercept:
        return DosageFit(solve_ridge(gram, cross, penalty), intercept, float(penalty))
    total = row_weights.sum()
    mean_dose = np.asarray(weighted.sum(axis=1)).ravel() / total
    mean_response = _dense(sp.csr_matrix(row_weights) @ values).ravel() / total
    gram -= total * np.outer(mean_dose, mean_dose)
    cross -= total * np.outer(mean_dose, mean_response)
    coefficients = solve_ridge(gram, cross, penalty)
    return DosageFit(coefficients, mean_response - mean_dose @ coefficients, float(penalty))
