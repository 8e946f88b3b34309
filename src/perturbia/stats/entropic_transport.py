"""Entropic optimal transport of one block in float32: kernel updates that are absorbed into the duals."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from perturbia.stats._arrays import dense_matrix, positive_vector
from perturbia.stats._kernel_tiles import column_logsumexp, kernel, plan_sums, row_logsumexp
from perturbia.stats.transport_cost import PairCost, exact_type

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import Cost

__all__ = ["SinkhornSolution", "sinkhorn"]

logger = logging.getLogger(__name__)

_CHECK_EVERY = 10
_ANNEALING = (256, 64, 16, 4)  # multiples of epsilon to start from where epsilon is very small
_MAX_OMEGA = 1.98
_ABSORB_AT = 10.0  # |log| of a scaling at which it is absorbed into the duals
_STOP_AT = 0.8  # share of the tolerance at which updates stop: the marginals are then summed with other rounding


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
        L1 distance of the marginals of the plan from what they should be, of the side where it is larger; where a
        marginal is loosened, the mass that the next update would move. Computed from the plan itself.
    converged
        Whether that is at most the tolerance.
    mean_cost
        Cost of the pairs, weighted by their mass.
    dtype
        Type in which the costs have to be computed for the plan to be this one.
    """

    f: np.ndarray
    g: np.ndarray
    iterations: int
    marginal_error: float
    converged: bool
    mean_cost: float
    dtype: torch.dtype


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
    and small :math:`\varepsilon` suffice; should that fail, epsilon is lowered to its value in steps, then in float64, and
    at last the updates are made in the log domain.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d).
    epsilon
        Strength of the entropy, in the unit of the cost.
    cost
        As in :func:`perturbia.stats.couple`.
    source_weights, target_weights
        Positive masses, shapes (n,) and (m,); uniform with sum one by default.
    unbalanced
        :math:`\tau` of both sides in (0, 1]; 1 keeps the marginal, smaller values loosen it.
    tolerance
        L1 error of the marginals, relative to the mass, at which to stop. Below about 1e-6 takes float64.
    max_iterations
        Most updates of both sides at a time.
    dtype
        Type of the kernel.
    device
        Where to solve.

    Returns
    -------
    :class:`SinkhornSolution`. One that did not converge says so; the caller has to.

    Raises
    ------
    ValueError
        Missing values, different numbers of features, weights that are not positive or of unequal sums, or impossible
        settings.

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
    x, y = (dense_matrix(points, name, min_columns=0) for points, name in ((x, "x"), (y, "y")))
    weights = [
        np.full(len(points), 1 / len(points)) if given is None else positive_vector(given, name, len(points))
        for points, given, name in ((x, source_weights, "source_weights"), (y, target_weights, "target_weights"))
    ]
    _check(x, y, weights, epsilon, unbalanced)

    def problem(precision: torch.dtype) -> _Problem:
        a, b = (torch.as_tensor(one, dtype=precision, device=device) for one in weights)
        pairs = PairCost(x, y, cost, dtype=precision, device=device)
        return _Problem(pairs, a, b, epsilon, (unbalanced[0], unbalanced[1]), tolerance, max_iterations)

    first = problem(dtype)
    duals = _scaled(first, *_first_duals(first))
    if not duals.finite:
        logger.debug("epsilon=%g: the kernel lost its numbers; starting from larger ones", epsilon)
        duals = _annealed(first, duals.iterations)
    solution = _solution(first, duals)
    if duals.finite and (solution.converged or duals.error > first.goal):
        return solution
    second = problem(exact_type(device))
    if duals.finite:
        logger.debug("epsilon=%g: the marginals lost their digits; again in %s", epsilon, exact_type(device))
        f, g = (torch.as_tensor(one, dtype=second.a.dtype, device=device) for one in (solution.f, solution.g))
        duals = _scaled(second, f, g, duals.iterations)
    else:
        duals = _annealed(second, duals.iterations)
    if not duals.finite:
        logger.debug("epsilon=%g: updates in the log domain", epsilon)
        duals = _logarithmic(second, duals.iterations)
    return _solution(second, duals)


def _check(
    x: np.ndarray, y: np.ndarray, weights: list[np.ndarray], epsilon: float, unbalanced: tuple[float, float]
) -> None:
    if x.shape[1] != y.shape[1]:
        msg = f"y: expected the {x.shape[1]} columns of x, got {y.shape[1]}. Pass representations in one space."
        raise ValueError(msg)
    if not (math.isfinite(epsilon) and epsilon > 0):
        msg = f"epsilon: expected a positive number, got {epsilon!r}."
        raise ValueError(msg)
    if not (np.shape(unbalanced) == (2,) and all(0 < tau <= 1 for tau in unbalanced)):
        msg = f"unbalanced: expected two numbers in (0, 1], got {unbalanced!r}. 1 keeps a marginal, smaller values loosen it."
        raise ValueError(msg)
    sums = [one.sum() for one in weights]
    if tuple(unbalanced) == (1, 1) and not math.isclose(*sums, rel_tol=1e-6):
        msg = (
            f"source_weights, target_weights: expected equal sums, got {sums[0]:g} and {sums[1]:g}. Divide both by their "
            "sum, or loosen a marginal with unbalanced."
        )
        raise ValueError(msg)


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
    def goal(self) -> float:
        return _STOP_AT * self.tolerance * float(self.a.sum())


@dataclass(frozen=True)
class _Duals:
    f: torch.Tensor
    g: torch.Tensor
    iterations: int
    error: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.error) and bool(torch.isfinite(self.f).all() and torch.isfinite(self.g).all())


def _solution(problem: _Problem, duals: _Duals) -> SinkhornSolution:
    """The duals, and what the marginals of their plan are."""
    f, g = (one.double().cpu().numpy() for one in (duals.f, duals.g))
    sums = plan_sums(problem.pairs, problem.epsilon, f, g)
    error = 0.0
    for masses, weights, dual, tau in (
        (sums.rows, problem.a, f, problem.tau[0]),
        (sums.columns, problem.b, g, problem.tau[1]),
    ):
        wanted = weights.double().cpu().numpy()
        if tau < 1:
            # what the next update would make of the masses; cells that lost all of theirs stay without
            held = masses > 0
            change = np.log(wanted[held]) - tau * (np.log(masses[held]) - dual[held]) - dual[held]
            wanted = np.zeros_like(masses)
            wanted[held] = masses[held] * np.exp(change)
        error = max(error, float(np.abs(masses - wanted).sum()))
    if not duals.finite:
        error = math.inf
    converged = error <= problem.tolerance * float(problem.a.sum())
    return SinkhornSolution(f, g, duals.iterations, error, converged, sums.mean_cost, problem.pairs.dtype)


def _first_duals(problem: _Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """One update of each side in the log domain, after which no row or column of the kernel is empty."""
    f = _row_update(problem, torch.log(problem.b))
    return f, _column_update(problem, f)


def _row_update(problem: _Problem, g: torch.Tensor) -> torch.Tensor:
    return torch.log(problem.a) - problem.tau[0] * row_logsumexp(problem.pairs, problem.epsilon, g)


def _column_update(problem: _Problem, f: torch.Tensor) -> torch.Tensor:
    return torch.log(problem.b) - problem.tau[1] * column_logsumexp(problem.pairs, problem.epsilon, f)


def _annealed(problem: _Problem, done: int) -> _Duals:
    """From a large epsilon to the wanted one, each from the duals of the last."""
    f, g = (one / _ANNEALING[0] for one in _first_duals(problem))
    for factor, following in pairwise((*_ANNEALING, 1)):
        easier = replace(problem, epsilon=factor * problem.epsilon, tolerance=max(0.01, problem.tolerance))
        f = _row_update(easier, g)
        duals = _scaled(easier, f, _column_update(easier, f), done)
        done = duals.iterations
        f, g = (one * (factor / following) for one in (duals.f, duals.g))
    f = _row_update(problem, g)
    return _scaled(problem, f, _column_update(problem, f), done)


def _scaled(problem: _Problem, f: torch.Tensor, g: torch.Tensor, done: int = 0) -> _Duals:
    """Kernel updates; returns with an infinite error where the numbers are no longer finite."""
    a, b, (tau_a, tau_b) = problem.a, problem.b, problem.tau
    held = kernel(problem.pairs, problem.epsilon, f, g)
    u, v, lift_a, lift_b = _fresh(problem, f, g)
    speed = _Relaxation(balanced=problem.tau == (1, 1))
    error, last = math.inf, done + problem.max_iterations
    for iteration in range(done + 1, last + 1):
        checks = iteration % _CHECK_EVERY == 0 or iteration == last
        omega = 1.0 if checks else speed.omega
        reached = held @ v
        renewed = _renewed(a, reached, lift_a, tau_a)
        u = renewed if omega == 1 else u * (renewed / u).pow_(omega)
        reached = u @ held
        renewed = _renewed(b, reached, lift_b, tau_b)
        if not checks:
            v = renewed if omega == 1 else v * (renewed / v).pow_(omega)
            continue
        # rows are exact here; the update of columns moves no more of their mass than it moves itself
        error, v = float(((renewed - v) * reached).abs().sum()), renewed
        size = float(torch.stack([torch.log(u).abs().max(), torch.log(v).abs().max()]).max())
        if not (math.isfinite(size) and math.isfinite(error)):
            return _Duals(f, g, done, math.inf)
        done = iteration
        if error <= problem.goal:
            break
        speed.observe(error)
        if max(problem.tau) < 1:
            shift = _translation(problem, f + torch.log(u), g + torch.log(v))
            u, v = u * shift, v / shift
        if size > _ABSORB_AT:
            f, g = f + torch.log(u), g + torch.log(v)
            kernel(problem.pairs, problem.epsilon, f, g, held)
            u, v, lift_a, lift_b = _fresh(problem, f, g)
    return _Duals(f + torch.log(u), g + torch.log(v), done, error)


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
        torch.log(problem.a) + (tau_a - 1) * f,
        torch.log(problem.b) + (tau_b - 1) * g,
    )


def _renewed(weights: torch.Tensor, reached: torch.Tensor, lift: torch.Tensor, tau: float) -> torch.Tensor:
    if tau == 1:
        return weights / reached
    # a loosened marginal may let a far cell lose all of its mass
    return torch.where(reached > 0, (lift - tau * torch.log(reached)).exp(), 1)


def _translation(problem: _Problem, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Factor of the best constant to move from one dual to the other: updates alone take long to find it as tau nears 1.

    Séjourné, T., Vialard, F.-X. and Peyré, G. (2022). Faster unbalanced optimal transport: translation invariant Sinkhorn
    and 1-D Frank-Wolfe. AISTATS.
    """
    looseness = [(1 - tau) / tau for tau in problem.tau]
    slack = [
        torch.logsumexp(torch.log(weights) * (1 + k) - k * dual, 0)
        for k, weights, dual in zip(looseness, (problem.a, problem.b), (f, g), strict=True)
    ]
    return ((slack[0] - slack[1]) / sum(looseness)).exp()


def _logarithmic(problem: _Problem, done: int) -> _Duals:
    """The same updates in the log domain: slower, and safe where kernels are not."""
    f, g = _first_duals(problem)
    error, last = math.inf, done + problem.max_iterations
    for iteration in range(done + 1, last + 1):
        renewed = _row_update(problem, g)
        if iteration % _CHECK_EVERY == 0 or iteration == last:
            # the row sums of the plan before this update are a exp(f - renewed) where balanced
            error = float((problem.a * torch.expm1((f - renewed) / problem.tau[0])).abs().sum())
        f = renewed
        g = _column_update(problem, f)
        done = iteration
        if error <= problem.goal:
            break
    return _Duals(f, g, done, error)
