"""Closed-form variational spike-and-slab regression of latents on a dosage matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit, logit

__all__ = ["SpikeSlab", "dosage_blocks", "estimate_spike_sd", "update_spike_slab"]


@dataclass(frozen=True)
class SpikeSlab:
    """Posterior of masked effects, all of shape `(n_treatments, n_latent)`, float64.

    Attributes
    ----------
    inclusion
        Probability that the treatment moves the latent.
    mean
        Mean of the effect given that it is included.
    sd
        Standard deviation of the effect given that it is included.
    """

    inclusion: np.ndarray
    mean: np.ndarray
    sd: np.ndarray

    @property
    def effect(self) -> np.ndarray:
        """Posterior mean of the masked effect."""
        return self.inclusion * self.mean

    @property
    def variance(self) -> np.ndarray:
        """Posterior variance of the masked effect."""
        return self.inclusion * (self.sd**2 + self.mean**2) - self.effect**2


def dosage_blocks(gram: sparse.csr_matrix) -> list[np.ndarray]:
    """Groups of treatments of which no two were ever given to the same cell.

    The coordinates of a group do not see one another in the regression, so one update may move them all at once:
    a screen of single treatments has one group, a screen of pairs a few.

    Parameters
    ----------
    gram
        Sparse `(n_treatments, n_treatments)` matrix `D.T @ D` of the dosage matrix.

    Returns
    -------
    List of integer arrays that partition the treatments.

    Examples
    --------
    >>> from scipy import sparse
    >>> from perturbia.stats import dosage_blocks
    >>> [block.tolist() for block in dosage_blocks(sparse.csr_matrix([[2.0, 1, 0], [1, 2, 0], [0, 0, 3]]))]
    [[0, 2], [1]]
    """
    import networkx as nx

    pairs = sparse.triu(gram, k=1).tocoo()
    graph = nx.Graph()
    graph.add_nodes_from(range(gram.shape[0]))
    graph.add_edges_from(zip(pairs.row[pairs.data != 0].tolist(), pairs.col[pairs.data != 0].tolist(), strict=True))
    colors = nx.greedy_color(graph, strategy="largest_first")
    order = np.fromiter((colors[t] for t in range(gram.shape[0])), dtype=np.int64, count=gram.shape[0])
    return [np.flatnonzero(order == color) for color in range(order.max() + 1)]


def update_spike_slab(
    posterior: SpikeSlab,
    cross: np.ndarray,
    gram: sparse.csr_matrix,
    *,
    prior_inclusion: float | np.ndarray,
    slab_sd: float,
    slab_mean: float | np.ndarray = 0.0,
    spike_sd: float = 0.0,
    blocks: list[np.ndarray] | None = None,
    n_sweeps: int = 2,
    logit_bound: float = 8.0,
) -> SpikeSlab:
    r"""Coordinate-ascent update of masks and effects given the latents of the cells.

    With cell latents :math:`f_i` of unit residual variance and :math:`f_i \approx \sum_t d_{it} m_t e_t`,
    the factorised posterior of :math:`(m_{tl}, e_{tl})` that maximises the evidence bound, others held fixed, is

    .. math::
        \tau_t = \sum_i d_{it}^2 + s^{-2}, \quad
        \mu_{tl} = (R_{tl} + m / s^2) / \tau_t, \quad
        \mathrm{logit}\, p_{tl} = \mathrm{logit}\,\alpha - \tfrac12 \log(s^2 \tau_t) + \tfrac12 \mu_{tl}^2 \tau_t
        - \tfrac12 m^2 / s^2

    with the prior :math:`N(m, s^2)` of included effects, and where :math:`R_{tl}` sums, over cells, the dose times the residual without treatment :math:`t`. Only
    `cross` and `gram` enter, so the cost does not depend on the number of cells.

    Parameters
    ----------
    posterior
        State to start from.
    cross
        `D.T @ F`, shape `(n_treatments, n_latent)`.
    gram
        `D.T @ D`, sparse, shape `(n_treatments, n_treatments)`.
    prior_inclusion
        Prior probability of inclusion: one number, or an array that broadcasts to `(n_treatments, n_latent)`. What
        has probability zero or one is left out or included whatever the cells say.
    slab_sd
        Prior standard deviation :math:`s` of included effects, positive.
    slab_mean
        Prior mean :math:`m` of included effects: one number, or an array that broadcasts as above.
    spike_sd
        Standard deviation :math:`s_0` of effects that count as none. No number of cells then makes a smaller effect
        certain: in the evidence, :math:`n` cells count as :math:`n / (1 + n s_0^2)`. See :func:`estimate_spike_sd`.
    blocks
        Result of :func:`dosage_blocks`; computed when missing.
    n_sweeps
        Passes over the treatments.
    logit_bound
        Largest absolute logit of an inclusion probability.

    Returns
    -------
    Updated posterior. A treatment without cells returns to the prior.

    Raises
    ------
    ValueError
        If `prior_inclusion`, `slab_sd` or `spike_sd` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from perturbia.stats import SpikeSlab, update_spike_slab
    >>> zero = np.zeros((2, 1))
    >>> start = SpikeSlab(zero + 0.5, zero, zero + 1.0)
    >>> fit = update_spike_slab(
    ...     start,
    ...     np.array([[200.0], [0.0]]),
    ...     sparse.diags([100.0, 0.0]).tocsr(),
    ...     prior_inclusion=0.1,
    ...     slab_sd=1.0,
    ... )
    >>> fit.effect.round(2).ravel().tolist(), fit.inclusion.round(2).ravel().tolist()
    ([1.98, 0.0], [1.0, 0.1])
    """
    prior = np.asarray(prior_inclusion, dtype=np.float64)
    if not ((prior >= 0) & (prior <= 1)).all():
        msg = f"prior_inclusion: expected probabilities, between 0 and 1, got {prior_inclusion}."
        raise ValueError(msg)
    if not slab_sd > 0:
        msg = f"slab_sd: expected a positive number, got {slab_sd}."
        raise ValueError(msg)
    if not spike_sd >= 0:
        msg = f"spike_sd: expected zero or a positive number, got {spike_sd}."
        raise ValueError(msg)
    n_treated = gram.diagonal()
    pull = np.broadcast_to(np.asarray(slab_mean, dtype=np.float64) / slab_sd**2, cross.shape)
    precision = (n_treated + slab_sd**-2)[:, None]
    counted = 1 / (1 + n_treated * spike_sd**2)[:, None]
    evidence_precision = n_treated[:, None] * counted + slab_sd**-2
    prior_logit = np.broadcast_to(logit(prior), cross.shape) - 0.5 * np.log(slab_sd**2 * evidence_precision)
    prior_logit = prior_logit - 0.5 * (pull * slab_sd) ** 2
    inclusion, mean = posterior.inclusion.copy(), posterior.mean.copy()
    effect = inclusion * mean
    for _ in range(n_sweeps):
        for block in dosage_blocks(gram) if blocks is None else blocks:
            others = gram[block] @ effect - n_treated[block, None] * effect[block]
            residual = cross[block] - others
            mean[block] = (residual + pull[block]) / precision[block]
            weighed = residual * counted[block] + pull[block]
            evidence = prior_logit[block] + 0.5 * weighed**2 / evidence_precision[block]
            inclusion[block] = np.where(
                np.isinf(evidence), evidence > 0, expit(np.clip(evidence, -logit_bound, logit_bound))
            )
            effect[block] = inclusion[block] * mean[block]
    return SpikeSlab(inclusion, mean, np.broadcast_to(precision**-0.5, mean.shape).copy())


def estimate_spike_sd(posterior: SpikeSlab, n_treated: np.ndarray) -> float:
    r"""Standard deviation of the effects that are not included, beyond their sampling error.

    An encoder that bends the latent space leaks a little of a strong shift into latents that the treatment does not
    move, and many cells make the leak significant. Its size shows in the excluded entries,

    .. math:: s_0^2 = \sum_{l \in U} \sum_t (1 - p_{tl}) (x_{tl}^2 - 1 / n_t) \Big/ \sum_{l \in U} \sum_t (1 - p_{tl})

    with :math:`x` the least-squares effects and :math:`U` the latents whose inner sum is positive: one that the encoder
    does not use varies less than the sampling error says, and has no say. Alternated with :func:`update_spike_slab` this is an EM algorithm.

    Parameters
    ----------
    posterior
        Result of :func:`update_spike_slab`.
    n_treated
        Sum of squared doses of each treatment, shape `(n_treatments,)`; treatments without cells do not count.

    Returns
    -------
    The standard deviation, zero if sampling error explains all.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import SpikeSlab, estimate_spike_sd
    >>> rng = np.random.default_rng(0)
    >>> n = np.full(500, 100.0)
    >>> effects = rng.normal(0, 0.3, (500, 4)) + rng.normal(0, 0.1, (500, 4))
    >>> posterior = SpikeSlab(np.zeros((500, 4)), effects * 100 / 101, np.full((500, 4), 101**-0.5))
    >>> round(estimate_spike_sd(posterior, n), 1)
    0.3
    """
    seen = n_treated > 0
    n = np.asarray(n_treated, dtype=np.float64)[seen, None]
    least_squares = posterior.mean[seen] / posterior.sd[seen] ** 2 / n
    excluded = 1 - posterior.inclusion[seen]
    surplus = (excluded * (least_squares**2 - 1 / n)).sum(0)
    used = surplus > 0
    return float(np.sqrt(surplus[used].sum() / excluded[:, used].sum())) if used.any() else 0.0
