"""Mixture of a known null and one unknown Gaussian component: which of these values are not null?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from perturbia.stats._arrays import dense_matrix

_LOG_ROOT_TAU = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True)
class ShiftedMixture:
    r"""Mixture of a null, held fixed, and a Gaussian component above it.

    Attributes
    ----------
    weight
        Share of the shifted component, 0 where the mixture is not better than the null alone.
    mean, sd
        Its mean and standard deviation, as fitted whether or not the mixture is kept.
    probability
        Probability of each value to belong to it, shape (n,), float64, never falling with the value; 0 where the mixture
        is not kept.
    evidence
        Log Bayes factor, as BIC approximates it, of a null with a shifted component over one null for both samples.
    null_weights, null_means, null_sds
        Components of the null, shape (n_null_components,).
    """

    weight: float
    mean: float
    sd: float
    probability: np.ndarray
    evidence: float
    null_weights: np.ndarray
    null_means: np.ndarray
    null_sds: np.ndarray

    def __repr__(self) -> str:
        kept = (
            f"{self.weight:.1%} shifted to {self.mean:.3g} ± {self.sd:.3g}" if self.weight else "no shifted component"
        )
        return f"ShiftedMixture of {len(self.probability)} values: {kept}, evidence {self.evidence:.1f}"


def shifted_mixture(
    values: np.ndarray,
    null: np.ndarray,
    *,
    max_null_components: int = 3,
    min_evidence: float = 3.0,
    min_sd: float = 0.5,
    max_iter: int = 500,
    tol: float = 1e-6,
    seed: int = 0,
) -> ShiftedMixture:
    r"""Fit the share, mean and spread of values that do not follow the null.

    .. math:: y_i \sim (1 - \pi)\, f_0(y) + \pi\, N(y; \mu, \sigma^2), \qquad \mu \ge \operatorname{mean}(f_0)

    with :math:`f_0` estimated from `null` alone, as in Mixscape (Papalexi et al., 2021), and EM for the rest. Where that is
    not clearly better than one null :math:`f` for all :math:`n` values and :math:`m` values of the null by the criterion of
    Schwarz (BIC), nothing is called shifted: the share of a component that lies on top of the null is arbitrary.

    .. math::
        \text{evidence} = \ell(x; \hat f_0) + \ell(y; \hat\pi, \hat\mu, \hat\sigma, \hat f_0) - \ell(x, y; \hat f)
        - \tfrac32 \log n - \tfrac{k_0 - k}{2} \log(n + m)

    with :math:`k_0, k` the parameters of :math:`f_0, f`. A null that is fitted to few values misses others of its kind:
    taken as known, what it misses would be evidence of a shift.

    Parameters
    ----------
    values
        Values, shape (n,).
    null
        Values of the null, shape (m,), at least 3 distinct ones.
    max_null_components
        The null is a mixture of up to so many Gaussians, as BIC decides: its tails must not look like a shift.
    min_evidence
        Log Bayes factor from which the mixture is kept; 3 is called strong (Kass and Raftery, 1995).
    min_sd
        Least standard deviation of the shifted component, in those of the null: without it a few values that happen to lie
        close together are a component.
    max_iter, tol
        Limit of EM steps, and the gain in log likelihood per value at which they end.
    seed
        Seed of the fit of a null of several components.

    Returns
    -------
    :class:`ShiftedMixture`. EM starts at three quantiles of the values and keeps the best end.

    Raises
    ------
    ValueError
        Values that are missing, or a null without spread.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> values = np.concatenate([rng.normal(0, 1, 300), rng.normal(5, 1, 200)])
    >>> round(shifted_mixture(values, rng.normal(0, 1, 500)).weight, 1)
    0.4
    >>> shifted_mixture(rng.normal(0, 1, 400), rng.normal(0, 1, 500)).weight
    0.0
    """
    for name, number, least in (
        ("max_null_components", max_null_components, 1),
        ("max_iter", max_iter, 1),
        ("min_sd", min_sd, 1e-3),
    ):
        if not number >= least:
            msg = f"{name}: expected a number of {least:g} or more, got {number}."
            raise ValueError(msg)
    y, reference = (
        dense_matrix(np.reshape(part, (-1, 1)), name).ravel() for part, name in ((values, "values"), (null, "null"))
    )
    if len(np.unique(reference)) < 3:
        msg = f"null: expected at least 3 distinct values, got {len(np.unique(reference))}. A null needs a spread."
        raise ValueError(msg)
    f0 = _fit_null(reference, max_null_components, seed)
    log_null = _log_mixture(y, *f0)
    lowest, floor = float(f0[0] @ f0[1]), min_sd * float(reference.std())
    ends = [
        _fit_shifted(y, log_null, start, lowest=lowest, floor=floor, max_iter=max_iter, tol=tol)
        for start in np.quantile(y, [0.5, 0.75, 0.95])
    ]
    gain, weight, mean, sd = max(ends)
    both = np.concatenate([reference, y])
    one_null = max(_score(both, f0), _score(both, _fit_null(both, max_null_components, seed)))
    evidence = _score(both, f0) + gain - 1.5 * np.log(len(y)) - one_null
    probability = np.zeros(len(y))
    kept = evidence >= min_evidence
    if kept:
        probability = _rising(y, _responsibility(y, log_null, weight, mean, sd), mean)
    return ShiftedMixture(weight if kept else 0.0, mean, sd, probability, float(evidence), *f0)


def _fit_null(values: np.ndarray, max_components: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and standard deviations of the Gaussians that describe the null best."""
    if max_components == 1:
        return np.ones(1), values.mean(keepdims=True), values.std(keepdims=True)
    from sklearn.mixture import GaussianMixture

    column = values[:, None]
    few = min(max_components, len(np.unique(values)) // 3)
    fits = [GaussianMixture(k, random_state=seed, reg_covar=1e-4 * values.var()).fit(column) for k in range(1, few + 1)]
    best = min(fits, key=lambda fit: fit.bic(column))
    return best.weights_, best.means_.ravel(), np.sqrt(best.covariances_.ravel())


def _score(values: np.ndarray, null: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Log likelihood less half the penalty of BIC."""
    return float(_log_mixture(values, *null).sum()) - 0.5 * (3 * len(null[0]) - 1) * float(np.log(len(values)))


def _log_normal(y: np.ndarray, mean: Any, sd: Any) -> np.ndarray:
    return -0.5 * ((y - mean) / sd) ** 2 - np.log(sd) - _LOG_ROOT_TAU


def _log_mixture(y: np.ndarray, weights: np.ndarray, means: np.ndarray, sds: np.ndarray) -> np.ndarray:
    return logsumexp(np.log(weights) + _log_normal(y[:, None], means, sds), axis=1)


def _responsibility(y: np.ndarray, log_null: np.ndarray, weight: float, mean: float, sd: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        odds = np.log(weight) - np.log1p(-weight)
    return expit(odds + _log_normal(y, mean, sd) - log_null)


def _fit_shifted(
    y: np.ndarray, log_null: np.ndarray, start: float, *, lowest: float, floor: float, max_iter: int, tol: float
) -> tuple[float, float, float, float]:
    """EM from one start: log likelihood gained over the null, weight, mean and standard deviation."""
    weight, mean, sd = 0.5, max(start, lowest), max(float(y.std()) / 2, floor)
    gain = -np.inf
    for _ in range(max_iter):
        with np.errstate(divide="ignore"):
            pair = np.logaddexp(np.log1p(-weight) + log_null, np.log(weight) + _log_normal(y, mean, sd))
        new = float((pair - log_null).sum())
        if new - gain < tol * len(y):
            gain = max(new, gain)
            break
        gain = new
        share = _responsibility(y, log_null, weight, mean, sd)
        total = share.sum()
        if total < 1e-8:  # the component has died out
            return 0.0, 0.0, mean, sd
        weight = float(min(total / len(y), 1 - 1e-9))
        mean = max(float(share @ y / total), lowest)
        sd = max(float(np.sqrt(share @ (y - mean) ** 2 / total)), floor)
    return gain, weight, mean, sd


def _rising(y: np.ndarray, probability: np.ndarray, mean: float) -> np.ndarray:
    """Make probabilities rise with the value: a wider component must not claim what lies on the far side of the null."""
    order = np.argsort(y, kind="stable")
    sorted_ = probability[order]
    middle = int(np.searchsorted(y[order], mean))
    sorted_[:middle] = np.minimum.accumulate(sorted_[:middle][::-1])[::-1]
    sorted_[middle:] = np.maximum.accumulate(sorted_[middle:])
    if 0 < middle < len(y):
        sorted_[:middle] = np.minimum(sorted_[:middle], sorted_[middle])
    out = np.empty_like(probability)
    out[order] = sorted_
    return out
