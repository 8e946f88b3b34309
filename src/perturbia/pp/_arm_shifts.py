"""What genes of a chromosome arm have in common, and how much of it to take off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from perturbia.stats.group_moments import group_means
from perturbia.stats.row_cosines import unit_rows
from perturbia.stats.spatial_median import geometric_median

__all__ = ["ArmMethod", "ArmShifts", "arm_shifts"]

ArmMethod = Literal["balanced", "arm_mean"]

_HALVINGS = 30  # of the interval that holds a share


@dataclass(frozen=True)
class ArmShifts:
    """Shifts of genes by their arms.

    Attributes
    ----------
    shift
        What to subtract from the rows of every gene, (n_genes, n_features).
    share
        Share of the centre of every arm that is subtracted from the genes it is the centre of, (n_arms,).
    length
        Norm of the centre of every arm, (n_arms,); 0 where there are too few genes.
    count
        Genes behind it, (n_arms,).
    """

    shift: np.ndarray
    share: np.ndarray
    length: np.ndarray
    count: np.ndarray


def arm_shifts(
    means: np.ndarray,
    arms: np.ndarray,
    reference: np.ndarray,
    *,
    method: ArmMethod,
    leave_one_out: bool,
    keep_common: bool,
    min_genes: int,
) -> ArmShifts:
    r"""Shifts of genes by their arms.

    With deviations :math:`y_g` of the profiles of genes from the centre of all reference genes, and the centre :math:`m` of
    those of an arm, reference genes of the arm are shifted by :math:`w m` and others by :math:`w' m`.

    ``"arm_mean"``: centres are means, w = w' = 1. ``"balanced"``: centres are geometric medians, and w is the share at which
    the cosines of the n reference genes are 0 on average,

    .. math:: \sum_{i \ne j} \cos(y_i - w m,\; y_j - w m) = 0 .

    At w = 1 that sum is -n, because unit vectors around a geometric median add up to 0; so there is a solution between 0
    and 1 wherever genes are alike at w = 0, and w = 0 elsewhere. Genes that are no part of m get :math:`w' = 1 - (1 - w)^2`: for a
    mean m with variance :math:`s^2 / n`, of genes with spread s and inner products in place of cosines, w is
    :math:`1 - s / (\sqrt n\, |m|)` and the share that makes products of a reference gene and another 0 is that of James and
    Stein, :math:`1 - s^2 / (n |m|^2)`.

    Leaving a gene out of its own mean, with :math:`w (n - 1) / (n - w)` in place of w, gives the same directions and
    another length: :math:`y_i - \tilde w\, m_{-i} = \tfrac{n}{n - w} (y_i - w m)`.

    Parameters
    ----------
    means
        Mean profile of every gene, (n_genes, n_features), float64.
    arms
        Arm of every gene, (n_genes,), whole numbers from 0, all used.
    reference
        Genes that centres are taken over, bool (n_genes,), at least one.
    method
        ``"balanced"`` or ``"arm_mean"``.
    leave_one_out
        Whether reference genes get that length.
    keep_common
        Whether the centre of all reference genes stays in the profiles.
    min_genes
        Reference genes that an arm needs; genes of other arms keep their deviations.
    """
    common = geometric_median(means[reference]) if method == "balanced" else means[reference].mean(axis=0)
    deviation = means - common
    n_arms = int(arms.max()) + 1
    count = np.bincount(arms[reference], minlength=n_arms)
    corrected = np.flatnonzero(count >= min_genes)
    centre, share = np.zeros((n_arms, means.shape[1])), np.zeros(n_arms)
    if method == "balanced":
        for arm in corrected:
            own = deviation[reference & (arms == arm)]
            centre[arm] = geometric_median(own)
            share[arm] = _balancing_share(own, centre[arm])
    elif len(corrected):
        used = reference & np.isin(arms, corrected)
        centre[corrected] = group_means(
            deviation[used], arms[used], groups=corrected.tolist(), with_variance=False
        ).mean
        share[corrected] = 1.0

    shift = np.where(reference, share[arms], 1 - (1 - share[arms]) ** 2)[:, None] * centre[arms]
    if leave_one_out:
        own = reference & (share[arms] > 0)
        n, w = count[arms[own], None], share[arms[own], None]
        shift[own] = w / (n - w) * (n * centre[arms[own]] - deviation[own])
    return ArmShifts(
        shift=shift if keep_common else shift + common,
        share=share,
        length=np.linalg.norm(centre, axis=1),
        count=count,
    )


def _balancing_share(rows: np.ndarray, centre: np.ndarray) -> float:
    """Share of the centre to subtract so that the cosines of rows are 0 on average, by bisection."""

    def excess(share: float) -> float:
        units, length = unit_rows(rows - share * centre)
        total = units.sum(axis=0)
        return float(total @ total) - np.count_nonzero(length)

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2
