"""Match two sets of cells group by group, with any of several aligners."""

from __future__ import annotations

import logging
import math
import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from perturbia.errors import ConvergenceWarning, shorten
from perturbia.stats._arrays import any_matrix, group_positions
from perturbia.stats._block_solvers import SOLVERS, Aligner, MatchingOptions
from perturbia.stats._coupling_blocks import CouplingBlock, label_array
from perturbia.stats._settings import check_choice
from perturbia.stats.coupling import Coupling

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from perturbia.stats.transport_cost import Cost

__all__ = ["Aligner", "couple", "paired_groups"]

logger = logging.getLogger(__name__)


def couple(
    X_source: np.ndarray | sp.spmatrix,
    X_target: np.ndarray | sp.spmatrix,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
    *,
    method: Aligner = "ot",
    cost: Cost = "sqeuclidean",
    epsilon: float | None = None,
    scale_cost: Literal["mean"] | float | None = "mean",
    unbalanced: tuple[float, float] | None = None,
    partial_mass: float | None = None,
    n_neighbors: int | None = None,
    max_block_size: int = 20_000,
    tolerance: float = 1e-4,
    max_iterations: int = 5000,
    dtype: Literal["float32", "float64"] = "float32",
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Coupling:
    r"""Couple the source and target cells of every group that has both.

    Groups are matched one by one: their number divides time and memory. Cells of groups that one side lacks stay
    unmatched.

    Parameters
    ----------
    X_source, X_target
        Cells in rows, shapes (n, d) and (m, d), dense or sparse, in one space (`method="gw"`: in any two).
    source_groups, target_groups
        Label of every cell, usually its perturbation; None or NaN leaves a cell unmatched. One group by default.
    method
        ``"ot"``: entropic optimal transport, whose soft matches average out noise; ``"emd"``: exact optimal transport;
        ``"snn"``: shared nearest neighbours; ``"gw"``: Gromov-Wasserstein after SCOT; ``"random"``: every pair alike.
    cost
        Cost of a pair, for ``"ot"``, ``"emd"`` and ``"snn"``: ``"sqeuclidean"``, ``"euclidean"``, ``"cosine"``,
        ``"hellinger"``, or a function of two matrices.
    epsilon
        Strength of the entropy; 0.01 times the scale for ``"ot"``, 0.001 for ``"gw"``, whose distances have maximum one.
    scale_cost
        What `epsilon` is relative to: ``"mean"``, the mean cost of the pairs within groups, the same for all groups; a
        number; None for absolute.
    unbalanced
        For ``"ot"``: how strictly source and target marginals are kept, in (0, 1]; 1 is balanced.
    partial_mass
        For ``"ot"`` and ``"emd"``: share of the mass of a group to match; groups are not cut then.
    n_neighbors
        Neighbours for ``"snn"`` (1 by default) and ``"gw"`` (50, at most a fifth of the cells).
    max_block_size
        Groups with more cells on a side are cut along their first principal axis into parts of equal mass. An
        approximation; marginals stay exact. For ``"ot"`` and ``"emd"``.
    tolerance
        L1 error of the marginals of a group, relative to its mass, at which ``"ot"`` stops.
    max_iterations
        Most updates of ``"ot"`` and ``"gw"``.
    dtype
        Type in which ``"ot"`` computes; groups that need more digits get float64 by themselves.
    device
        Where ``"ot"`` computes: ``"cpu"``, ``"cuda"``, ``"auto"`` for a GPU if there is one.
    seed
        Seed of what is drawn when a ``"random"`` coupling is made sparse.
    progress
        Whether to show a progress bar over groups.

    Returns
    -------
    :class:`Coupling`. `table` holds, a group: `n_source`, `n_target`, `mass`, `converged`, `mean_cost` of matched pairs
    (for ``"gw"``, the distortion of distances), and for ``"ot"`` `iterations` and `marginal_error`.

    Raises
    ------
    ValueError
        Missing values, different numbers of features, no common group, or impossible settings.

    Warns
    -----
    ConvergenceWarning
        Groups whose solver stopped early, by name.

    Notes
    -----
    ``"ot"`` and ``"emd"`` are O(n_t m_t) in memory for the largest group: ``"ot"`` needs one float32 matrix of that size,
    ``"emd"`` the tenfold of it, up to 16 million pairs; beyond, costs are computed when they are asked for.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import couple
    >>> x = np.array([[0.0], [1.0], [0.0], [1.0]])
    >>> coupling = couple(x, x[::-1], list("AABB"), list("BBAA"))
    >>> coupling
    Coupling: 4 source x 4 target cells in 2 group(s), method='ot'
    >>> np.round(4 * coupling.to_sparse().toarray(), 2)
    array([[0., 0., 0., 1.],
           [0., 0., 1., 0.],
           [0., 1., 0., 0.],
           [1., 0., 0., 0.]])
    """
    x, y = _points(X_source, "X_source"), _points(X_target, "X_target")
    if method != "gw" and x.shape[1] != y.shape[1]:
        msg = (
            f"X_target: expected the {x.shape[1]} columns of X_source, got {y.shape[1]}. Pass representations in one "
            "space, or use method='gw'."
        )
        raise ValueError(msg)
    settings = dict(locals())
    _check(settings)
    if (source_groups is None) != (target_groups is None):
        given = "target_groups" if source_groups is None else "source_groups"
        msg = f"source_groups, target_groups: expected both or neither, got {given} alone."
        raise ValueError(msg)
    groups = paired_groups(
        np.full(len(x), "all") if source_groups is None else source_groups,
        np.full(len(y), "all") if target_groups is None else target_groups,
        shape=(len(x), len(y)),
    )
    device = _device(device)
    scale = _scale(x, y, groups, scale_cost, cost, method)
    default = 1e-3 if method == "gw" else 1e-2
    options = MatchingOptions(
        method=method,
        cost=cost,
        epsilon=(default if epsilon is None else epsilon) * scale,
        unbalanced=(1.0, 1.0) if unbalanced is None else (float(unbalanced[0]), float(unbalanced[1])),
        partial_mass=partial_mass,
        n_neighbors=n_neighbors,
        max_block_size=max_block_size,
        tolerance=tolerance,
        max_iterations=max_iterations,
        dtype=dtype,
        device=device,
    )
    _log_size(groups, options)
    blocks = _solve_all(x, y, groups, options, progress=progress)
    loose = [str(block.name) for block in blocks if not block.report.get("converged", True)]
    if loose:
        advice = {
            "ot": f"Pass a larger epsilon than {default if epsilon is None else epsilon:g}, or more max_iterations.",
            "emd": "Use method='ot', or a smaller max_block_size.",
            "gw": "Pass a larger epsilon, or more max_iterations.",
        }
        msg = (
            f"method={method!r}: {len(loose)} of {len(blocks)} groups did not converge: {shorten(loose, limit=5)}. Their "
            f"matches are approximate. {advice[method]}"
        )
        warnings.warn(msg, ConvergenceWarning, stacklevel=2)
    parameters = {
        "method": method,
        "cost": cost if isinstance(cost, str) else getattr(cost, "__name__", "function"),
        "epsilon": float(options.epsilon) if method in {"ot", "gw"} else 0.0,
        "cost_scale": float(scale),
        "unbalanced": list(options.unbalanced),
        "partial_mass": -1.0 if partial_mass is None else float(partial_mass),
        "tolerance": float(tolerance),
        "seed": int(seed),
    }
    return Coupling((len(x), len(y)), tuple(blocks), parameters)


def paired_groups(
    source_groups: Sequence[Any] | np.ndarray, target_groups: Sequence[Any] | np.ndarray, *, shape: tuple[int, int]
) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """Positions of the cells of every group that both sides have.

    Parameters
    ----------
    source_groups, target_groups
        Label of every cell; None or NaN for no group.
    shape
        Numbers of source and target cells.

    Returns
    -------
    Name, positions of source cells, positions of target cells; sorted by name.

    Raises
    ------
    ValueError
        Labels of the wrong number, or no common group.
    """
    import pandas as pd

    sides: list[dict[Any, np.ndarray]] = []
    for name, labels, n in zip(("source_groups", "target_groups"), (source_groups, target_groups), shape, strict=True):
        values = label_array(labels)
        if values.shape != (n,):
            msg = f"{name}: expected one label a cell, shape ({n},), got shape {values.shape}."
            raise ValueError(msg)
        codes, names = pd.factorize(values)
        plain = names.tolist() if np.asarray(names).dtype.kind in "biufU" else names
        sides.append(dict(zip(plain, group_positions(codes, len(names)), strict=True)))
    common = [name for name in sides[0] if name in sides[1]]
    if not common:
        shown = [shorten(_in_order(list(side)), limit=3) or "none" for side in sides]
        msg = (
            f"source_groups, target_groups: expected a group that both have, got {shown[0]} and {shown[1]}. Spell the "
            "labels of both modalities alike."
        )
        raise ValueError(msg)
    if alone := len(sides[0]) + len(sides[1]) - 2 * len(common):
        logger.info("%d groups are on one side only: their cells stay unmatched.", alone)
    return [(name, sides[0][name], sides[1][name]) for name in _in_order(common)]


def _in_order(names: list[Any]) -> list[Any]:
    try:
        return sorted(names)
    except TypeError:  # labels of several types
        return sorted(names, key=lambda name: (type(name).__name__, str(name)))


def _points(X: np.ndarray | sp.spmatrix, name: str) -> np.ndarray:
    matrix = any_matrix(X, name, min_columns=0)
    dense = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    return dense if dense.dtype in (np.float32, np.float64) else dense.astype(np.float64)


def _check(given: dict[str, Any]) -> None:
    from perturbia.stats.transport_cost import check_cost

    check_choice("method", given["method"], get_args(Aligner))
    check_cost(given["cost"])
    scale = given["scale_cost"]
    if scale is not None and scale != "mean" and not _positive(scale):
        msg = f"scale_cost: expected 'mean', a positive number or None, got {scale!r}."
        raise ValueError(msg)
    for name in ("epsilon", "tolerance"):
        if not (_positive(given[name]) or (name == "epsilon" and given[name] is None)):
            msg = f"{name}: expected a positive number, got {given[name]!r}. Use method='emd' for no entropy at all."
            raise ValueError(msg)
    for name in ("max_iterations", "max_block_size"):
        if not (isinstance(given[name], int | np.integer) and given[name] >= 1):
            msg = f"{name}: expected a positive whole number, got {given[name]!r}."
            raise ValueError(msg)
    if given["dtype"] not in {"float32", "float64"}:
        msg = f"dtype: expected 'float32' or 'float64', got {given['dtype']!r}."
        raise ValueError(msg)
    taus, method = given["unbalanced"], given["method"]
    if taus is not None and not (np.shape(taus) == (2,) and all(_positive(tau) and tau <= 1 for tau in taus)):
        msg = f"unbalanced: expected two numbers in (0, 1], got {taus!r}. 1 keeps a marginal, smaller values loosen it."
        raise ValueError(msg)
    if taus is not None and method != "ot":
        msg = f"unbalanced: expected None with method={method!r}, got {taus!r}. Use method='ot'."
        raise ValueError(msg)
    mass = given["partial_mass"]
    if mass is not None and not (_positive(mass) and mass <= 1 and method in {"ot", "emd"} and taus is None):
        msg = f"partial_mass: expected a share in (0, 1] with method='ot' or 'emd' and no unbalanced, got {mass!r}."
        raise ValueError(msg)
    if (k := given["n_neighbors"]) is not None and not (isinstance(k, int | np.integer) and k >= 1):
        msg = f"n_neighbors: expected a positive whole number, got {k!r}."
        raise ValueError(msg)
    if not (isinstance(given["seed"], int | np.integer) and given["seed"] >= 0):
        msg = f"seed: expected a whole number >= 0, got {given['seed']!r}."
        raise ValueError(msg)


def _positive(value: object) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        msg = f"device: expected one that torch can use here, got {device!r}. Pass 'auto' for a GPU if there is one."
        raise ValueError(msg) from error
    return str(device)


def _scale(x: np.ndarray, y: np.ndarray, groups: list, scale_cost: object, cost: Cost, method: Aligner) -> float:
    """What epsilon is relative to: the mean over all pairs within groups, so that it means the same in each."""
    from perturbia.stats.transport_cost import PairCost

    if scale_cost != "mean" or method != "ot":
        return float(scale_cost) if isinstance(scale_cost, Real) else 1.0
    total = sum(PairCost(x[rows], y[columns], cost).total() for _, rows, columns in groups)
    mean = total / sum(len(rows) * len(columns) for _, rows, columns in groups)
    return mean if mean > 0 else 1.0  # all cells alike: any plan is optimal


def _log_size(groups: list, options: MatchingOptions) -> None:
    from perturbia.stats.exact_transport import DENSE_PAIRS

    largest = max(
        min(len(rows), options.max_block_size) * min(len(columns), options.max_block_size)
        for _, rows, columns in groups
    )
    if options.method == "emd":
        largest = min(largest, DENSE_PAIRS)
    bytes_each = {"ot": 4 if options.dtype == "float32" else 8, "emd": 41, "gw": 48}.get(options.method, 1)
    logger.info("%d groups; the largest needs about %.1f MB.", len(groups), largest * bytes_each / 1e6)


def _solve_all(
    x: np.ndarray, y: np.ndarray, groups: list, options: MatchingOptions, *, progress: bool
) -> list[CouplingBlock]:
    from rich.progress import track

    n_matched = sum(len(rows) for _, rows, _ in groups)
    blocks = []
    for name, rows, columns in track(groups, "Matching groups", transient=True) if progress else groups:
        parts, report = SOLVERS[options.method](x[rows], y[columns], options)
        blocks.append(CouplingBlock(name, rows, columns, len(rows) / n_matched, parts, report))
    return blocks
