"""How much mass a coupling puts on the true pairs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from perturbia.metrics._cell_groups import true_partners
from perturbia.metrics._coupling_tiles import as_tiles
from perturbia.metrics.matching_scores import mean_by_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics._coupling_tiles import Tile
    from perturbia.metrics.matching_scores import MatchingScores


def _mass_of(tile: Tile, partner: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Weight of one target cell for each row of a tile; `position` is scratch space of all target cells, -1 throughout."""
    position[tile.columns] = np.arange(len(tile.columns))
    wanted = np.where(partner >= 0, position[partner], -1)
    position[tile.columns] = -1
    mass = np.zeros(len(partner))
    if sp.issparse(tile.weights):
        entries = tile.weights.tocoo()
        held = entries.col == wanted[entries.row]
        mass[entries.row[held]] = entries.data[held]
    else:
        (held,) = np.nonzero(wanted >= 0)
        mass[held] = tile.weights[held, wanted[held]]
    return mass


def coupling_trace(
    coupling: Any,
    pairs: Sequence[int] | np.ndarray,
    *,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
) -> MatchingScores:
    r"""Mass that a coupling puts on the true partner of each cell, and how many times that of a random plan it is.

    .. math:: \mathrm{trace}_t = \frac{1}{n} \sum_{i \in t} \frac{M_{i\,p(i)}}{\sum_j M_{ij}}, \qquad
              \mathrm{fold}_t = m_t \, \mathrm{trace}_t

    over the scored source cells i of group t, with true partners p(i) and m_t target cells. (With partners in order, the
    sum is the trace of the plan.)

    **Range** trace [0, 1], fold [0, m_t], the upper end best. **Chance**: trace 1 / m_t, so that means of it over groups of
    unequal size have no level; fold 1, exactly so for the uniform plan. **Not seen**: how near a miss is
    (:func:`soft_foscttm`, :func:`matched_mse`).

    Parameters
    ----------
    coupling
        Non-negative matrix (n_source, n_target), dense or sparse, or an object that yields its plan in tiles, such as
        :class:`perturbia.stats.Coupling`. Rows are normalised here; joint and conditional mass score alike.
    pairs
        Position of the true partner of every source cell among target cells, integers, shape (n_source,); -1 where it is
        not known.
    source_groups, target_groups
        Group (perturbation) of every cell, shapes (n_source,) and (n_target,); None or NaN leaves a cell unmatched. Default:
        the blocks of a coupling that has some, or one group.

    Returns
    -------
    :class:`MatchingScores` with `trace` and `fold`. Cells without a partner, with a partner in another group, or without
    mass are left out and counted. A partner without mass in the row of its cell scores 0.

    Raises
    ------
    ValueError
        Negative, missing or no mass, mass between groups, labels or pairs of wrong length, or no cell to score.

    Warns
    -----
    RuntimeWarning
        True partners that belong to another group: usually a mistake in labels or pairs.

    References
    ----------
    Xi, Osea, Xu and Hartford, Propensity score alignment of unpaired multimodal data, NeurIPS (2024).

    Examples
    --------
    >>> import numpy as np
    >>> scores = coupling_trace(np.array([[0.9, 0.1], [0.3, 0.3]]), [0, 1])
    >>> scores.macro.round(3).to_dict()
    {'trace': 0.7, 'fold': 1.4}
    """
    plan = as_tiles(coupling, source_groups, target_groups)
    partners = true_partners(pairs, plan.groups)
    if (n_elsewhere := partners.left_out["partner_in_other_group"]) > 0:
        warnings.warn(
            f"pairs: {n_elsewhere} true partners belong to another group; these cells are left out.",
            RuntimeWarning,
            stacklevel=2,
        )
    trace = np.full(plan.shape[0], np.nan)
    scratch = np.full(plan.shape[1], -1)
    for tile in plan.tiles():
        trace[tile.rows] = _mass_of(tile, partners.position[tile.rows], scratch)
    trace[partners.position < 0] = np.nan
    fold = trace * plan.groups.n_target[plan.groups.source]
    return mean_by_group(plan.groups, {"trace": trace, "fold": fold}, partners.left_out)
