"""Exact optimal transport of one block, whole or in part, by POT's network simplex."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from perturbia.stats.transport_cost import PairCost

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import Cost

__all__ = ["exact_plan", "partial_plan"]


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
        As in :class:`~perturbia.stats.transport_cost.PairCost`.
    source_weights, target_weights
        Masses of equal sum; uniform by default.

    Returns
    -------
    The plan, CSR float64 of sum one with at most n + m - 1 entries, and a report: `converged`, `mean_cost`.

    Notes
    -----
    O(n m) memory (costs and plan in float64), about O((n + m)^3) time at worst and much less as a rule.

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
    plan, log = ot.emd(a, b, _costs(x, y, cost), numItermax=10_000_000, log=True)
    return sp.csr_matrix(plan), {"converged": not log.get("warning"), "mean_cost": float(log["cost"])}


def partial_plan(
    x: np.ndarray, y: np.ndarray, *, mass: float, epsilon: float | None = None, cost: Cost = "sqeuclidean"
) -> tuple[sp.csr_matrix, dict[str, Any]]:
    """Optimal plan that moves a share of the mass and leaves the rest where it is.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d), with uniform weights.
    mass
        Share to move, in (0, 1].
    epsilon
        Strength of the entropy in the unit of the cost; None for the exact plan.
    cost
        As in :class:`~perturbia.stats.transport_cost.PairCost`.

    Returns
    -------
    The plan, CSR float64 of sum `mass`, and a report: `converged`, `mean_cost`.

    References
    ----------
    Chapel, L., Alaya, M. Z. and Gasso, G. (2020). Partial optimal transport with applications on positive-unlabeled
    learning. NeurIPS.
    Benamou, J.-D., Carlier, G., Cuturi, M., Nenna, L. and Peyré, G. (2015). Iterative Bregman projections for regularized
    transportation problems. SIAM J. Sci. Comput. 37.
    """
    import ot

    a, b = _weights(x), _weights(y)
    costs = _costs(x, y, cost)
    # sums of weights are one up to rounding, which POT takes for infeasible
    mass = min(mass, float(a.sum()), float(b.sum()))
    if epsilon is None:
        plan = ot.partial.partial_wasserstein(a, b, costs, m=mass, numItermax=10_000_000)
    else:
        plan = ot.partial.entropic_partial_wasserstein(a, b, costs, epsilon, m=mass, numItermax=5000, stopThr=1e-8)
    moved = float(plan.sum())
    converged = bool(np.isfinite(plan).all() and abs(moved - mass) < 1e-3 * mass)
    return sp.csr_matrix(np.nan_to_num(plan)), {
        "converged": converged,
        "mean_cost": float((plan * costs).sum() / moved),
    }


def _weights(points: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    return np.full(len(points), 1 / len(points)) if given is None else np.asarray(given, dtype=np.float64)


def _costs(x: np.ndarray, y: np.ndarray, cost: Cost) -> np.ndarray:
    return PairCost(x, y, cost, dtype=torch.float64).tile(slice(None)).numpy()
