"""What solvers of entropic transport compute from the costs of one block, a tile of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import PairCost

__all__ = ["PlanSums", "column_logsumexp", "exponential_", "kernel", "plan_sums", "row_logsumexp"]

_SMALLEST = {torch.float32: -87.0, torch.float64: -708.0}  # exponents of the smallest normal numbers


def exponential_(tile: torch.Tensor) -> torch.Tensor:
    """Exponential in place, zero where it would be subnormal: such numbers take four times as long.

    Parameters
    ----------
    tile
        Exponents.

    Returns
    -------
    The same memory.
    """
    return torch.threshold_(tile, _SMALLEST[tile.dtype], -torch.inf).exp_()


def kernel(
    pairs: PairCost, epsilon: float, f: torch.Tensor, g: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """exp(f + g - C / epsilon).

    Parameters
    ----------
    pairs
        Costs of n x m pairs.
    epsilon
        Strength of the entropy.
    f, g
        Duals in units of epsilon, shapes (n,) and (m,).
    out
        Memory to write to; new memory by default.

    Returns
    -------
    Shape (n, m).
    """
    out = torch.empty(pairs.shape, dtype=f.dtype, device=f.device) if out is None else out
    for rows in pairs.bounds():
        tile = pairs.tile(rows, out=out[rows])
        exponential_(tile.mul_(-1 / epsilon).add_(g).add_(f[rows, None]))
    return out


def row_logsumexp(pairs: PairCost, epsilon: float, g: torch.Tensor) -> torch.Tensor:
    """Logarithm of the sum of exp(g - C / epsilon) over the columns.

    Parameters
    ----------
    pairs, epsilon, g
        As in :func:`kernel`.

    Returns
    -------
    Shape (n,).
    """
    found = torch.empty(pairs.shape[0], dtype=g.dtype, device=g.device)
    for rows in pairs.bounds():
        tile = pairs.tile(rows).mul_(-1 / epsilon).add_(g)
        top = tile.amax(1)
        found[rows] = top + torch.log(exponential_(tile.sub_(top[:, None])).sum(1))
    return found


def column_logsumexp(pairs: PairCost, epsilon: float, f: torch.Tensor) -> torch.Tensor:
    """Logarithm of the sum of exp(f - C / epsilon) over the rows.

    Parameters
    ----------
    pairs, epsilon, f
        As in :func:`kernel`.

    Returns
    -------
    Shape (m,).
    """
    highest = torch.full((pairs.shape[1],), -torch.inf, dtype=f.dtype, device=f.device)
    total = torch.zeros_like(highest)
    for rows in pairs.bounds():
        tile = pairs.tile(rows).mul_(-1 / epsilon).add_(f[rows, None])
        top = torch.maximum(highest, tile.amax(0))
        total = total * (highest - top).exp() + exponential_(tile.sub_(top)).sum(0)
        highest = top
    return highest + torch.log(total)


@dataclass(frozen=True)
class PlanSums:
    """Sums of a plan.

    Attributes
    ----------
    rows, columns
        Its marginals, float64, shapes (n,) and (m,).
    mean_cost
        Cost of its pairs, weighted by their mass.
    """

    rows: np.ndarray
    columns: np.ndarray
    mean_cost: float


def plan_sums(pairs: PairCost, epsilon: float, f: np.ndarray, g: np.ndarray) -> PlanSums:
    """Sums of the plan exp(f + g - C / epsilon) in the arithmetic in which it will be read.

    Parameters
    ----------
    pairs, epsilon
        As in :func:`kernel`.
    f, g
        Duals in units of epsilon, float64, shapes (n,) and (m,).

    Returns
    -------
    :class:`PlanSums`.
    """
    n, m = pairs.shape
    first, second = (torch.as_tensor(one, dtype=pairs.dtype, device=pairs.device) for one in (f, g))
    marginals, cost = (np.empty(n), np.zeros(m)), 0.0
    for rows in pairs.bounds():
        costs = pairs.tile(rows)
        tile = exponential_(costs.mul(-1 / epsilon).add_(second).add_(first[rows, None]))
        marginals[0][rows] = tile.sum(1).double().cpu().numpy()
        marginals[1][:] += tile.sum(0).double().cpu().numpy()
        cost += float(tile.mul_(costs).sum())
    mass = float(marginals[0].sum())
    return PlanSums(*marginals, cost / mass if mass > 0 else float("nan"))
