"""Exact optimal transport of one block, whole or in part, by POT's network simplex."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from perturbia.stats.transport_cost import PairCost

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import Cost

__all__ = ["DENSE_PAIRS", "exact_plan", "partial_plan"]

_MAX_ITERATIONS = 10_000_000
DENSE_PAIRS = 16_000_000  # beyond, costs are not held: a tenth of the memory, and up to four times the time
_SPARE = 20  # cells for what is not moved: with one, the simplex is degenerate and takes twice the time


def exact_plan(
    x: np.ndarray,
    y: np.ndarray,
    *,
    cost: Cost = "sqeuclidean",
    source_weights: np.ndarray | None = None,
    target_weights: np.ndarray | None = None,
) -> tuple[sp.csr_matrix, dict[str, Any]]:
    r"""Optimal plan, :math:`\min_P \langle C, P \rangle` with :math:`P 1 = a`, :math:`P^\top 1 = b`.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d).
    cost
        As in :func:`perturbia.stats.couple`.
    source_weights, target_weights
        Masses of equal sum; uniform by default.

    Returns
    -------
    The plan, CSR float64 of sum one with at most n + m - 1 entries, and a report: `converged`, `mean_cost`.

    Notes
    -----
    About O((n + m)^3) time at worst and much less as a rule. Memory is that of costs and plan in float64 up to 16 million
    pairs; beyond, POT (0.9.7 or later) computes (squared) Euclidean costs when it asks for them, and memory is O(n + m).

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats.exact_transport import exact_plan
    >>> plan, report = exact_plan(np.array([[0.0], [1.0]]), np.array([[1.1], [0.2]]))
    >>> plan.toarray(), round(report["mean_cost"], 3)
    (array([[0. , 0.5],
           [0.5, 0. ]]), 0.025)
    """
    import ot

    a, b = _weights(x, source_weights), _weights(y, target_weights)
    if len(x) * len(y) > DENSE_PAIRS and cost in ("sqeuclidean", "euclidean") and hasattr(ot.lp, "emd2_lazy"):
        left, right = (np.ascontiguousarray(one, dtype=np.float64) for one in (x, y))
        _, log = ot.lp.emd2_lazy(left, right, a, b, metric=cost, numItermax=_MAX_ITERATIONS, log=True)
        held = sp.csr_matrix(log["G"])
    else:
        # weights have one sum by then, and potentials are not used
        options = {"center_dual": False, "check_marginals": False}
        plan, log = ot.emd(a, b, _costs(x, y, cost), numItermax=_MAX_ITERATIONS, log=True, **options)
        held = _nonzero(plan)
    held.data[held.data < 1e-12 * min(a.min(), b.min())] = 0  # what rounding leaves where sizes have a common divisor
    held.eliminate_zeros()
    return held, {"converged": not log.get("warning"), "mean_cost": float(log["cost"])}


def partial_plan(
    x: np.ndarray, y: np.ndarray, *, mass: float, cost: Cost = "sqeuclidean"
) -> tuple[sp.csr_matrix, dict[str, Any]]:
    """Optimal plan that moves a share of the mass and leaves the rest where it is.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d), with uniform weights.
    mass
        Share to move, in (0, 1].
    cost
        As in :func:`perturbia.stats.couple`.

    Returns
    -------
    The plan, CSR float64 of sum `mass`, and a report: `converged`, `mean_cost`.

    References
    ----------
    Chapel, L., Alaya, M. Z. and Gasso, G. (2020). Partial optimal transport with applications on positive-unlabeled
    learning. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats.exact_transport import partial_plan
    >>> partial_plan(np.array([[0.0], [9.0]]), np.array([[-9.0], [0.1]]), mass=0.5)[0].toarray()
    array([[0. , 0.5],
           [0. , 0. ]])
    """
    import ot

    n, m = len(x), len(y)
    # what is not moved goes to more cells on either side, for nothing; these are never joined
    costs = np.zeros((n + _SPARE, m + _SPARE))
    costs[:n, :m] = _costs(x, y, cost)
    costs[n:, m:] = 2 * np.abs(costs).max() or 1.0
    rest = np.full(_SPARE, max(0.0, 1 - mass) / _SPARE)
    a, b = np.append(_weights(x), rest), np.append(_weights(y), rest)
    plan, log = ot.emd(a, b, costs, numItermax=_MAX_ITERATIONS, log=True)
    held = sp.csr_matrix(plan[:n, :m])
    moved = float(held.sum())
    converged = not log.get("warning") and abs(moved - mass) <= 1e-6
    return held, {"converged": converged, "mean_cost": float((plan[:n, :m] * costs[:n, :m]).sum()) / moved}


def _nonzero(plan: np.ndarray) -> sp.csr_matrix:
    """A dense plan as CSR. Equal numbers of equal cells make a permutation, which is found in half the time."""
    n, m = plan.shape
    if n == m:
        columns = plan.argmax(1)
        values = plan[np.arange(n), columns]
        if np.abs(n * values - 1).max() < 1e-9:
            return sp.csr_matrix((values, columns, np.arange(n + 1)), shape=plan.shape)
    at = np.flatnonzero(plan.ravel() > 0)
    return sp.csr_matrix((plan.ravel()[at], (at // m, at % m)), shape=plan.shape)


def _weights(points: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    return np.full(len(points), 1 / len(points)) if given is None else np.asarray(given, dtype=np.float64)


def _costs(x: np.ndarray, y: np.ndarray, cost: Cost) -> np.ndarray:
    return PairCost(x, y, cost, dtype=torch.float64).tile(slice(None)).numpy()
