"""Entropic optimal transport of one block in float32: kernel updates that are absorbed into the duals."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from perturbia.stats.transport_cost import PairCost

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import Cost

__all__ = ["SinkhornSolution", "sinkhorn"]

logger = logging.getLogger(__name__)

_CHECK_EVERY = 10
_ANNEALING = (256, 64, 16, 4)  # multiples of epsilon to start from where epsilon is very small
_MAX_OMEGA = 1.98
_ABSORB_AT = 10.0  # |log| of a scaling at which it is absorbed into the duals


@dataclass(frozen=True)
class SinkhornSolution:
    r"""Duals of an entropic plan, :math:`P_{ij} = \exp(f_i + g_j - C_{ij} / \varepsilon)`.

    Attributes
    ----------
    f, g
        Duals in units of epsilon, float64, shapes (n,) and (m,).
    iterations
        Updates of both sides that were made.
    marginal_error
        L1 distance of the source marginal from what it should be (balanced), or the last change of it (unbalanced).
    converged
        Whether that is at most the tolerance.
    """

    f: np.ndarray
    g: np.ndarray
    iterations: int
    marginal_error: float
    converged: bool


def sinkhorn(
    x: np.ndarray,
    y: np.ndarray,
    *,
    epsilon: float,
    cost: Cost = "sqeuclidean",
    source_weights: np.ndarray | None = None,
    target_weights: np.ndarray | None = None,
    unbalanced: tuple[float, float] = (1.0, 1.0),
    tolerance: float = 1e-4,
    max_iterations: int = 2000,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> SinkhornSolution:
    r"""Entropic optimal transport between two sets of cells.

    .. math::
        \min_P \langle C, P \rangle + \varepsilon \mathrm{KL}(P \,|\, a b^\top)
            + \rho_1 \mathrm{KL}(P 1 \,|\, a) + \rho_2 \mathrm{KL}(P^\top 1 \,|\, b),
        \qquad \tau_e = \frac{\rho_e}{\rho_e + \varepsilon}

    with :math:`\tau = 1` for a balanced problem, whose marginals are exact. Scalings multiply a kernel (two
    matrix-vector products an update) and are absorbed into the duals when they grow (Schmitzer, 2019), so that float32
    and small :math:`\varepsilon` suffice; should that fail, the updates are made in the log domain, at last in float64.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d).
    epsilon
        Strength of the entropy, in the unit of the cost.
    cost
        As in :class:`~perturbia.stats.transport_cost.PairCost`.
    source_weights, target_weights
        Positive masses, shapes (n,) and (m,); uniform with sum one by default.
    unbalanced
        :math:`\tau` of both sides in (0, 1]; 1 keeps the marginal, smaller values loosen it.
    tolerance
        L1 error of the marginal at which to stop.
    max_iterations
        Most updates of both sides.
    dtype
        Type of the kernel.
    device
        Where to solve.

    Returns
    -------
    :class:`SinkhornSolution`. One that did not converge says so; the caller has to.

    Notes
    -----
    O(n m) time an update, and memory of one kernel, n m numbers, besides tiles of fixed size.

    References
    ----------
    Cuturi, M. (2013). Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS.
    Schmitzer, B. (2019). Stabilized sparse scaling algorithms for entropy regularized transport problems. SIAM J. Sci.
    Comput. 41.
    Chizat, L., Peyré, G., Schmitzer, B. and Vialard, F.-X. (2018). Scaling algorithms for unbalanced optimal transport
    problems. Math. Comput. 87.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import sinkhorn
    >>> x = np.arange(4.0)[:, None]
    >>> solution = sinkhorn(x, x[::-1], epsilon=0.05)
    >>> plan = np.exp(solution.f[:, None] + solution.g - (x - x[::-1].T) ** 2 / 0.05)
    >>> np.round(4 * plan, 3) + 0.0
    array([[0., 0., 0., 1.],
           [0., 0., 1., 0.],
           [0., 1., 0., 0.],
           [1., 0., 0., 0.]])
    """
    weights = [
        np.full(len(points), 1 / len(points)) if given is None else np.asarray(given, dtype=np.float64)
        for points, given in ((x, source_weights), (y, target_weights))
    ]

    def problem(precision: torch.dtype) -> _Problem:
        a, b = (torch.as_tensor(one, dtype=precision, device=device) for one in weights)
        pairs = PairCost(x, y, cost, dtype=precision, device=device)
        return _Problem(pairs, a, b, epsilon, unbalanced, tolerance, max_iterations)

    first = problem(dtype)
    solution = _scaled(first, *_first_duals(first))
    if math.isfinite(solution.marginal_error):
        return solution
    logger.debug("epsilon=%g: the kernel lost its numbers; starting from larger ones", epsilon)
    solution = _annealed(first)
    if math.isfinite(solution.marginal_error):
        return solution
    logger.debug("epsilon=%g: updates in the log domain", epsilon)
    return _logarithmic(problem(torch.float64 if device_has_float64(device) else dtype))


def device_has_float64(device: str | torch.device) -> bool:
    """Whether a device computes in float64 (Apple's does not).

    Parameters
    ----------
    device
        The device.

    Returns
    -------
    Whether it does.
    """
    return torch.device(device).type != "mps"


@dataclass(frozen=True)
class _Problem:
    pairs: PairCost
    a: torch.Tensor
    b: torch.Tensor
    epsilon: float
    tau: tuple[float, float]
    tolerance: float
    max_iterations: int

    @property
    def total(self) -> float:
        return float(self.a.sum())

    def solution(self, f: torch.Tensor, g: torch.Tensor, iterations: int, error: float) -> SinkhornSolution:
        finite = math.isfinite(error) and bool(torch.isfinite(f).all() and torch.isfinite(g).all())
        return SinkhornSolution(
            f.double().cpu().numpy(),
            g.double().cpu().numpy(),
            iterations,
            error,
            finite and error <= self.tolerance * self.total,
        )


def _kernel(problem: _Problem, f: torch.Tensor, g: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """exp(f + g - C / epsilon), a tile of rows at a time."""
    for rows in problem.pairs.bounds():
        tile = problem.pairs.tile(rows, out=out[rows])
        tile.mul_(-1 / problem.epsilon).add_(g).add_(f[rows, None]).exp_()
    return out


def _first_duals(problem: _Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """One update of each side in the log domain, after which no row or column of the kernel is empty."""
    f = _row_update(problem, torch.log(problem.b))
    return f, _column_update(problem, f)


def _row_update(problem: _Problem, g: torch.Tensor) -> torch.Tensor:
    f = torch.empty_like(problem.a)
    for rows in problem.pairs.bounds():
        tile = problem.pairs.tile(rows).mul_(-1 / problem.epsilon).add_(g)
        f[rows] = tile.logsumexp(1)
    return torch.log(problem.a) - problem.tau[0] * f


def _column_update(problem: _Problem, f: torch.Tensor) -> torch.Tensor:
    highest = torch.full_like(problem.b, -torch.inf)
    total = torch.zeros_like(problem.b)
    for rows in problem.pairs.bounds():
        tile = problem.pairs.tile(rows).mul_(-1 / problem.epsilon).add_(f[rows, None])
        top = torch.maximum(highest, tile.amax(0))
        total = total * (highest - top).exp() + tile.sub_(top).exp_().sum(0)
        highest = top
    return torch.log(problem.b) - problem.tau[1] * (highest + torch.log(total))


def _annealed(problem: _Problem) -> SinkhornSolution:
    """From a large epsilon to the wanted one, each from the duals of the last."""
    f, g = _first_duals(problem)
    f, g = f / _ANNEALING[0], g / _ANNEALING[0]
    for factor, following in pairwise((*_ANNEALING, 1)):
        easier = replace(problem, epsilon=factor * problem.epsilon, tolerance=max(0.01, problem.tolerance))
        f = _row_update(easier, g)
        solution = _scaled(easier, f, _column_update(easier, f))
        f, g = (
            torch.as_tensor(one, dtype=f.dtype, device=f.device) * (factor / following)
            for one in (solution.f, solution.g)
        )
    f = _row_update(problem, g)
    return _scaled(problem, f, _column_update(problem, f))


def _scaled(problem: _Problem, f: torch.Tensor, g: torch.Tensor) -> SinkhornSolution:
    """Kernel updates; returns with an infinite error where the numbers are no longer finite."""
    a, b, (tau_a, tau_b) = problem.a, problem.b, problem.tau
    goal = problem.tolerance * problem.total
    kernel = _kernel(problem, f, g, torch.empty(problem.pairs.shape, dtype=a.dtype, device=a.device))
    u, v, lift_a, lift_b = _fresh(problem, f, g)
    speed = _Relaxation(balanced=problem.tau == (1, 1))
    error, done = math.inf, 0
    for iteration in range(1, problem.max_iterations + 1):
        checks = iteration % _CHECK_EVERY == 0 or iteration == problem.max_iterations
        omega = 1.0 if checks else speed.omega
        reached = kernel @ v
        renewed = a / reached if tau_a == 1 else lift_a * reached.pow(-tau_a)
        u = renewed if omega == 1 else u * (renewed / u).pow_(omega)
        reached = u @ kernel
        renewed = b / reached if tau_b == 1 else lift_b * reached.pow(-tau_b)
        if not checks:
            v = renewed if omega == 1 else v * (renewed / v).pow_(omega)
            continue
        # rows are exact here; the update of columns moves no more of their mass than it moves itself
        error, v = float(((renewed - v) * reached).abs().sum()), renewed
        size = float(torch.stack([torch.log(u).abs().max(), torch.log(v).abs().max()]).max())
        if not (math.isfinite(size) and math.isfinite(error)):
            return problem.solution(f, g, done, math.inf)
        done = iteration
        if error <= goal:
            break
        speed.observe(error)
        if size > _ABSORB_AT:
            f, g = f + torch.log(u), g + torch.log(v)
            _kernel(problem, f, g, kernel)
            u, v, lift_a, lift_b = _fresh(problem, f, g)
    return problem.solution(f + torch.log(u), g + torch.log(v), done, error)


class _Relaxation:
    """Exponent of the updates: above one it takes the number of updates to about its square root near the optimum.

    With r the factor by which an update shrinks the error, the best exponent is 2 / (1 + sqrt(1 - r)) (Lehmann et al.,
    2022). r is measured under plain updates; an exponent under which the error grows is given up.
    """

    def __init__(self, *, balanced: bool) -> None:
        self.omega = 1.0
        self._balanced = balanced
        self._errors: list[float] = []

    def observe(self, error: float) -> None:
        """Take note of an error, and choose the exponent of the next updates."""
        if not self._balanced:
            return
        self._errors.append(error)
        if len(self._errors) < 3:
            return
        rate = (self._errors[-1] / self._errors[-2]) ** (1 / _CHECK_EVERY)
        if self.omega > 1 and error > 2 * min(self._errors):
            self.omega, self._errors = 1.0, []
        elif self.omega == 1 and 0.5 < rate < 1:
            self.omega = min(2 / (1 + math.sqrt(1 - rate)), _MAX_OMEGA)
        elif self.omega > 1 and rate > self.omega - 1:
            # at the best exponent the error shrinks by omega - 1: slower means that the best one is larger
            self.omega = min(2 - 0.8 * (2 - self.omega), _MAX_OMEGA)


def _fresh(problem: _Problem, f: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Scalings of one, and what the duals contribute to updates of loosened marginals."""
    tau_a, tau_b = problem.tau
    return (
        torch.ones_like(problem.a),
        torch.ones_like(problem.b),
        problem.a * ((tau_a - 1) * f).exp(),
        problem.b * ((tau_b - 1) * g).exp(),
    )


def _logarithmic(problem: _Problem) -> SinkhornSolution:
    """The same updates in the log domain: slower, and safe where kernels are not."""
    f, g = _first_duals(problem)
    error, done = math.inf, 0
    while done < problem.max_iterations:
        renewed = _row_update(problem, g)
        done += 1
        if done % _CHECK_EVERY == 0 or done == problem.max_iterations:
            # the row sums of the plan before this update are a exp(f - renewed) where balanced
            error = float((problem.a * torch.expm1((f - renewed) / problem.tau[0])).abs().sum())
        f = renewed
        g = _column_update(problem, f)
        if error <= problem.tolerance * problem.total:
            break
    return problem.solution(f, g, done, error)
