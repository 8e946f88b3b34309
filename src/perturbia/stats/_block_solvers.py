"""What each aligner makes of one group: parts of a coupling, and a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from perturbia.stats._coupling_plans import DualPlan, Part, SparsePlan, UniformPlan
from perturbia.stats._mass_cuts import cut_in_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from perturbia.stats.transport_cost import Cost

__all__ = ["SOLVERS", "Aligner", "MatchingOptions"]

Aligner = Literal["ot", "emd", "snn", "gw", "random"]
Solved = tuple[tuple[Part, ...], dict[str, Any]]

_MAX_GROMOV_PAIRS = 9_000_000


@dataclass(frozen=True)
class MatchingOptions:
    """Settings that all groups share; see :func:`~perturbia.stats.couple`. `epsilon` is in the unit of the cost."""

    method: Aligner
    cost: Cost
    epsilon: float
    unbalanced: tuple[float, float]
    partial_mass: float | None
    n_neighbors: int | None
    max_block_size: int
    tolerance: float
    max_iterations: int
    dtype: Literal["float32", "float64"]
    device: str


def _entropic(x: np.ndarray, y: np.ndarray, options: MatchingOptions) -> Solved:
    import torch

    from perturbia.stats.entropic_transport import sinkhorn
    from perturbia.stats.partial_sinkhorn import partial_sinkhorn
    from perturbia.stats.transport_cost import PairCost

    shared: dict[str, Any] = {
        "epsilon": options.epsilon,
        "cost": options.cost,
        "tolerance": options.tolerance,
        "max_iterations": options.max_iterations,
        "dtype": getattr(torch, options.dtype),
        "device": options.device,
    }
    whole = options.partial_mass is None
    parts, reports = [], []
    for cut in cut_in_parts(x, y, options.max_block_size if whole else max(len(x), len(y))):
        cells = x[cut.rows], y[cut.columns]
        if options.partial_mass is not None:
            solution = partial_sinkhorn(*cells, mass=options.partial_mass, **shared)
        else:
            shared |= {"source_weights": cut.row_weights, "target_weights": cut.column_weights}
            solution = sinkhorn(*cells, unbalanced=options.unbalanced, **shared)
        # the costs are those of a part about its own centre: the duals belong to them
        pairs = PairCost(*cells, options.cost, dtype=solution.dtype, device=options.device)
        parts.append(cut.part(DualPlan(pairs, solution.f, solution.g, options.epsilon, cut.share)))
        reports.append((cut.share, solution))
    report = {
        "iterations": max(one.iterations for _, one in reports),
        "marginal_error": float(sum(share * one.marginal_error for share, one in reports)),
        "converged": all(one.converged for _, one in reports),
        "mean_cost": float(sum(share * one.mean_cost for share, one in reports)),
    }
    return tuple(parts), report


def _exact(x: np.ndarray, y: np.ndarray, options: MatchingOptions) -> Solved:
    from perturbia.stats.exact_transport import exact_plan, partial_plan

    if options.partial_mass is not None:
        plan, report = partial_plan(x, y, mass=options.partial_mass, cost=options.cost)
        return (Part(SparsePlan(plan)),), report
    parts, reports = [], []
    for cut in cut_in_parts(x, y, options.max_block_size):
        plan, report = exact_plan(
            x[cut.rows],
            y[cut.columns],
            cost=options.cost,
            source_weights=cut.row_weights,
            target_weights=cut.column_weights,
        )
        parts.append(cut.part(SparsePlan(plan if cut.whole else plan * cut.share)))
        reports.append((cut.share * report["mean_cost"], report["converged"]))
    report = {"mean_cost": float(sum(one[0] for one in reports)), "converged": all(one[1] for one in reports)}
    return tuple(parts), report


def _neighbors(x: np.ndarray, y: np.ndarray, options: MatchingOptions) -> Solved:
    from perturbia.stats.shared_neighbors import shared_neighbor_plan
    from perturbia.stats.transport_cost import PairCost

    plan = shared_neighbor_plan(x, y, n_neighbors=options.n_neighbors or 1, cost=options.cost)
    pairs = PairCost(x, y, options.cost)
    total = sum(float(plan[rows].multiply(pairs.tile(rows).numpy()).sum()) for rows in pairs.bounds())
    return (Part(SparsePlan(plan)),), {"converged": True, "mean_cost": total}


def _gromov(x: np.ndarray, y: np.ndarray, options: MatchingOptions) -> Solved:
    import scipy.sparse as sp

    from perturbia.stats.gromov_wasserstein import gromov_plan

    if len(x) * len(y) > _MAX_GROMOV_PAIRS:
        msg = (
            f"method: expected groups of at most {_MAX_GROMOV_PAIRS:,} pairs of cells for 'gw', got {len(x)} x {len(y)}. "
            "Draw fewer cells, or use method='ot'."
        )
        raise ValueError(msg)
    plan, report = gromov_plan(
        x, y, epsilon=options.epsilon, n_neighbors=options.n_neighbors, max_iterations=options.max_iterations
    )
    return (Part(SparsePlan(sp.csr_matrix(plan))),), report


def _uniform(x: np.ndarray, y: np.ndarray, options: MatchingOptions) -> Solved:
    from perturbia.stats.transport_cost import PairCost

    mean = PairCost(x, y, options.cost).total() / (len(x) * len(y))
    return (Part(UniformPlan((len(x), len(y)))),), {"converged": True, "mean_cost": mean}


SOLVERS: dict[str, Callable[[np.ndarray, np.ndarray, MatchingOptions], Solved]] = {
    "ot": _entropic,
    "emd": _exact,
    "snn": _neighbors,
    "gw": _gromov,
    "random": _uniform,
}
