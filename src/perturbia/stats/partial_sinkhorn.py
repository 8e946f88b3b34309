"""Entropic optimal transport of a share of the mass: cells may stay unmatched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from perturbia.stats._kernel_tiles import column_logsumexp, kernel, plan_sums, row_logsumexp
from perturbia.stats.entropic_transport import SinkhornSolution
from perturbia.stats.transport_cost import PairCost, exact_type

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import Cost

__all__ = ["partial_sinkhorn"]

_ABSORB_AT = 10.0  # |log| of a scaling at which it is absorbed into the kernel


def partial_sinkhorn(
    x: np.ndarray,
    y: np.ndarray,
    *,
    mass: float,
    epsilon: float,
    cost: Cost = "sqeuclidean",
    tolerance: float = 1e-4,
    max_iterations: int = 5000,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> SinkhornSolution:
    r"""Entropic plan that moves a share of the mass and leaves the rest where it is.

    .. math::
        \min_P \langle C, P \rangle - \varepsilon H(P) \quad \text{with} \quad P 1 \le a, \; P^\top 1 \le b, \;
        1^\top P 1 = s

    The plan is :math:`\exp(f_i + g_j + l - C_{ij} / \varepsilon)` with :math:`f, g \le 0`. The dual is maximised over
    (f, l) and (g, l) in turn; each is a scalar equation, and takes one product with the kernel.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d), with uniform weights of sum one.
    mass
        Share s to move, in (0, 1).
    epsilon
        Strength of the entropy, in the unit of the cost.
    cost
        As in :func:`perturbia.stats.couple`.
    tolerance
        L1 error, relative to `mass`, at which to stop.
    max_iterations
        Most updates of both sides.
    dtype
        Type of the kernel.
    device
        Where to solve.

    Returns
    -------
    :class:`~perturbia.stats.SinkhornSolution`, whose `f` holds l. Its `marginal_error` is the mass of rows or columns
    beyond their weights, or short of them where the dual says that they are full.

    Notes
    -----
    O(n m) time an update, and memory of one kernel.

    References
    ----------
    Benamou, J.-D., Carlier, G., Cuturi, M., Nenna, L. and Peyré, G. (2015). Iterative Bregman projections for regularized
    transportation problems. SIAM J. Sci. Comput. 37.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats.partial_sinkhorn import partial_sinkhorn
    >>> x, y = np.array([[0.0], [1.0], [9.0]]), np.array([[1.0], [0.0], [-9.0]])
    >>> solution = partial_sinkhorn(x, y, mass=2 / 3, epsilon=0.1)
    >>> plan = np.exp(solution.f[:, None] + solution.g - (x - y.T) ** 2 / 0.1)
    >>> np.round(3 * plan, 2) + 0.0
    array([[0., 1., 0.],
           [1., 0., 0.],
           [0., 0., 0.]])
    """
    weights = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    mass = min(mass, 1 - 1e-6)  # all of it is the balanced problem, whose marginals are equations
    precisions = dict.fromkeys([dtype, exact_type(device)])
    start, done = (np.zeros(len(x)), np.zeros(len(y))), 0
    for precision in precisions:
        pairs = PairCost(x, y, cost, dtype=precision, device=device)
        f, g, level, steps, error = _ascend(pairs, epsilon, weights, mass, start, tolerance * mass, max_iterations)
        done += steps
        sums = plan_sums(pairs, epsilon, f + level, g)
        found = max(_residual(sums.rows, weights[0], f), _residual(sums.columns, weights[1], g))
        found = max(found, abs(sums.rows.sum() - mass))
        converged = found <= tolerance * mass
        if converged or error > tolerance * mass:
            break
        start = f, g  # the marginals lost their digits: again in a longer type
    return SinkhornSolution(f + level, g, done, float(found), bool(converged), sums.mean_cost, precision)


def _ascend(
    pairs: PairCost,
    epsilon: float,
    weights: tuple[np.ndarray, np.ndarray],
    mass: float,
    start: tuple[np.ndarray, np.ndarray],
    goal: float,
    max_iterations: int,
) -> tuple[np.ndarray, np.ndarray, float, int, float]:
    """Duals, level, updates, and error of the rows before the last update."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=pairs.dtype, device=pairs.device)

    def numbers(values: torch.Tensor) -> np.ndarray:
        return values.double().cpu().numpy()

    f, level = _capped(numbers(row_logsumexp(pairs, epsilon, tensor(start[1]))), weights[0], mass)
    g, level = _capped(numbers(column_logsumexp(pairs, epsilon, tensor(f))), weights[1], mass)
    base = f, g, level
    held = kernel(pairs, epsilon, tensor(f + level), tensor(g))
    error, done = math.inf, 0
    while done < max_iterations and error > 0.8 * goal:
        done += 1
        for side in (0, 1):
            # log sums of exp(g - C / epsilon), read off the kernel, which holds the base
            scaling = tensor(np.exp((g - base[1]) if side == 0 else (f - base[0])))
            with np.errstate(divide="ignore"):
                reached = np.log(numbers(held @ scaling if side == 0 else scaling @ held)) - base[side] - base[2]
            seen = np.isfinite(reached)
            if weights[side][seen].sum() < (1 + 1e-9) * mass:  # the kernel lacks numbers for too many cells
                log_sums = (row_logsumexp, column_logsumexp)[side]
                reached = numbers(log_sums(pairs, epsilon, tensor(f if side else g)))
            if side == 0:
                error = _residual(np.exp(np.minimum(f + level + reached, 80)), weights[0], f)
                f, level = _capped(reached, weights[0], mass)
            else:
                g, level = _capped(reached, weights[1], mass)
            if max(np.abs(f - base[0]).max(), np.abs(g - base[1]).max(), abs(level - base[2])) > _ABSORB_AT:
                base = f, g, level
                kernel(pairs, epsilon, tensor(f + level), tensor(g), held)
    return f, g, level, done, error


def _capped(reached: np.ndarray, weights: np.ndarray, mass: float) -> tuple[np.ndarray, float]:
    """Level l at which the cells hold `mass`, the sum of min(weights, exp(l + reached)), and their duals."""
    full_at = np.log(weights) - reached
    order = np.argsort(full_at)
    # of the cells that are not full, when 0, 1, ... are
    rest = np.logaddexp.accumulate(reached[order][::-1])[::-1]
    filled = np.append(0, np.cumsum(weights[order])[:-1])
    with np.errstate(over="ignore", invalid="ignore"):
        held = filled + np.exp(full_at[order] + rest)  # all mass when this cell is just full
    n_full = int(np.argmax(np.nan_to_num(held, nan=np.inf) >= mass))
    level = math.log(max(mass - filled[n_full], 1e-300)) - float(rest[n_full])
    if n_full:  # rounding, where the full cells hold all of the mass
        level = max(level, float(full_at[order[n_full - 1]]))
    return np.minimum(0, full_at - level), level


def _residual(sums: np.ndarray, weights: np.ndarray, dual: np.ndarray) -> float:
    """Mass beyond the weights, or short of them where the dual is negative."""
    excess = sums - weights
    return float(np.abs(np.where(dual < 0, excess, np.maximum(excess, 0))).sum())
