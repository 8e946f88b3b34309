"""Shrinkage of measured effects by their standard errors: one factor a row, or an adaptive normal mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
import scipy.optimize

from perturbia.stats._arrays import check_nonnegative, check_same_shape, dense_matrix

_ROW_BLOCK = 200_000  # entries (effects x mixture components) are handled for about this many effects at a time


def _checked(effects: Any, standard_errors: Any, *, min_columns: int = 1) -> tuple[np.ndarray, np.ndarray]:
    effects = dense_matrix(effects, "effects", min_columns=min_columns)
    errors = dense_matrix(standard_errors, "standard_errors", min_columns=min_columns)
    check_same_shape(effects, errors, ("effects", "standard_errors"))
    check_nonnegative(errors, "standard_errors")
    return effects, errors


def james_stein_factor(effects: np.ndarray, standard_errors: np.ndarray) -> np.ndarray:
    r"""Positive-part James-Stein factor of every row.

    .. math:: c_p = \max\left(0,\; 1 - \frac{G - 2}{G} \frac{\sum_g s_{pg}^2}{\sum_g \delta_{pg}^2}\right)

    With equal standard errors in a row this is the classical estimator of James and Stein (1961). With unequal ones it
    is the moment estimate of the single factor of least expected squared error; correlated genes do not bias it.

    Parameters
    ----------
    effects, standard_errors
        Measured effects and their standard errors, shape (n_perturbations, n_genes), at least three genes. A standard
        error of 0 is allowed (a gene that no cell expresses).

    Returns
    -------
    Factors in [0, 1], shape (n_perturbations,). A row without any effect gets 0.

    Raises
    ------
    ValueError
        Shapes differ, fewer than three genes, negative standard errors, missing or infinite entries.

    Examples
    --------
    >>> import numpy as np
    >>> james_stein_factor(np.full((1, 4), 2.0), np.ones((1, 4)))
    array([0.875])
    """
    effects, errors = _checked(effects, standard_errors, min_columns=3)
    n_genes = effects.shape[1]
    signal = np.einsum("ij,ij->i", effects, effects)
    noise = (n_genes - 2) / n_genes * np.einsum("ij,ij->i", errors, errors)
    ratio = np.divide(noise, signal, out=np.ones_like(signal), where=signal > 0)
    return np.maximum(0.0, 1.0 - ratio)


def james_stein(effects: np.ndarray, standard_errors: np.ndarray) -> np.ndarray:
    """Shrink every row of effects towards zero by its positive-part James-Stein factor.

    To shrink towards a prediction instead, shrink the residual: `prediction + james_stein(effects - prediction, se)`.

    Parameters
    ----------
    effects, standard_errors
        As in :func:`james_stein_factor`.

    Returns
    -------
    Shrunken effects, shape (n_perturbations, n_genes), float64.

    Raises
    ------
    ValueError
        As :func:`james_stein_factor`.

    Examples
    --------
    >>> import numpy as np
    >>> james_stein(np.full((1, 4), 2.0), np.ones((1, 4)))
    array([[1.75, 1.75, 1.75, 1.75]])
    """
    return james_stein_factor(effects, standard_errors)[:, None] * np.asarray(effects, dtype=np.float64)


@dataclass(frozen=True)
class ShrunkenEffects:
    """Posterior of effects under a zero-centred scale mixture of normals.

    Attributes
    ----------
    mean, sd
        Posterior mean and standard deviation, shape (n_perturbations, n_genes).
    null_probability
        Posterior probability that the effect is zero (local false discovery rate), same shape.
    grid
        Standard deviations of the mixture components, shape (n_components,), the first is 0.
    weights
        Mixture weights, shape (n_components,), or (n_perturbations, n_components) if fitted by row.
    log_likelihood
        Marginal log-likelihood of the effects with standard error > 0 at these weights.
    """

    mean: np.ndarray
    sd: np.ndarray
    null_probability: np.ndarray
    grid: np.ndarray
    weights: np.ndarray
    log_likelihood: float

    def __repr__(self) -> str:
        shape, null = " x ".join(map(str, self.mean.shape)), float(np.mean(self.weights[..., 0]))
        return f"ShrunkenEffects: {shape} effects, {len(self.grid)} components, {null:.0%} of the prior at zero"


def limited_translation(effects: np.ndarray, standard_errors: np.ndarray, *, bound: float = 2.0) -> np.ndarray:
    r"""James-Stein shrinkage that moves no effect by more than `bound` standard errors.

    .. math:: \hat\delta_{pg} = x_{pg} - \operatorname{clip}\big(x_{pg} - c_p x_{pg},\ \pm b\, s_{pg}\big)

    with :math:`c_p` the factor of :func:`james_stein_factor`. A row of many small effects and a few large ones, such as
    the target gene of a knock-out, has one small factor; the bound keeps it from erasing the large ones.

    Parameters
    ----------
    effects
        Effects :math:`x`, shape (n_perturbations, n_genes).
    standard_errors
        Their standard errors :math:`s`, same shape.
    bound
        Largest move in standard errors; infinity gives :func:`james_stein`, 0 the effects themselves.

    Returns
    -------
    Shrunken effects, float64, same shape.

    Raises
    ------
    ValueError
        Not two matrices of one shape and finite numbers, negative standard errors, or a negative bound.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import limited_translation
    >>> limited_translation(np.array([[8.0, 0.1, 0.2, -0.1]]), np.full((1, 4), 4.0), bound=0.5).round(2).tolist()
    [[6.0, 0.05, 0.1, -0.05]]

    References
    ----------
    Efron, B. and Morris, C. (1972). Limiting the risk of Bayes and empirical Bayes estimators, part II. JASA 67.
    """
    if not bound >= 0:
        msg = f"bound: expected zero or a positive number of standard errors, got {bound}."
        raise ValueError(msg)
    effects, errors = _checked(effects, standard_errors)
    move = effects - james_stein(effects, errors)
    return effects - np.clip(move, -bound * errors, bound * errors) if np.isfinite(bound) else effects - move


def adaptive_shrinkage(
    effects: np.ndarray,
    standard_errors: np.ndarray,
    *,
    grid: np.ndarray | None = None,
    by: Literal["all", "row"] = "all",
    null_prior: float = 10.0,
    prior_strength: float = 50.0,
    max_iterations: int = 100,
    tolerance: float = 1e-7,
) -> ShrunkenEffects:
    r"""Empirical-Bayes shrinkage with a scale mixture of normals fitted to the effects themselves (Stephens, 2017).

    .. math:: \hat\delta \sim N(\delta, s^2), \qquad \delta \sim \pi_0 \, \mathbf 1_0 + \sum_{k \ge 1} \pi_k N(0, \tau_k^2)

    The scales are a fixed geometric grid. Their weights maximise the marginal likelihood, a convex problem that is solved
    by Newton steps (the fixed point of EM, which needs thousands of steps to get there; compare Kim et al., 2020);
    posterior moments are in closed form. Small effects shrink to zero while large ones stay, unlike under one normal.

    Parameters
    ----------
    effects, standard_errors
        Measured effects and their standard errors, shape (n_perturbations, n_genes). Effects with standard error 0 are
        taken as known: they keep their value, get sd 0, and do not enter the fit.
    grid
        Scales of the components, non-negative; 0 (the point mass) is added if missing. Default: factors of √2 from a
        tenth of the 1 % quantile of the standard errors to twice the largest effect beyond its noise.
    by
        `"all"` fits one set of weights. `"row"` fits weights for each row, drawn towards the pooled weights by a Dirichlet
        prior: use it when some perturbations act on everything and others on nothing.
    null_prior
        Dirichlet parameter of the point mass in the pooled fit, the others have 1; larger is more conservative.
    prior_strength
        For `by="row"`: how many effects the pooled weights count for.
    max_iterations, tolerance
        Limits of the fit: Newton steps, and the distance from the largest penalised log-likelihood, an effect.

    Returns
    -------
    :class:`ShrunkenEffects`.

    Raises
    ------
    ValueError
        Shapes differ, negative standard errors or all of them 0, missing entries, an invalid grid or prior.

    Notes
    -----
    Memory O(n_perturbations n_genes n_components), time that times n_components. Effects are treated as independent given the weights; errors
    that all effects share (one control mean) are not modelled.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = np.where(rng.random((5, 400)) < 0.1, rng.normal(0, 3, (5, 400)), 0.0)
    >>> noisy = truth + rng.normal(size=truth.shape)
    >>> shrunken = adaptive_shrinkage(noisy, np.ones_like(noisy))
    >>> bool(((shrunken.mean - truth) ** 2).mean() < 0.5 * ((noisy - truth) ** 2).mean())
    True
    """
    effects, errors = _checked(effects, standard_errors)
    if by not in ("all", "row"):
        msg = f"by: expected 'all' or 'row', got {by!r}."
        raise ValueError(msg)
    if not null_prior >= 1 or not prior_strength >= 0:
        msg = f"null_prior, prior_strength: expected >= 1 and >= 0, got {null_prior} and {prior_strength}."
        raise ValueError(msg)
    known = errors == 0
    if known.all():
        msg = "standard_errors: expected positive entries, got only zeros. There is nothing to shrink by."
        raise ValueError(msg)
    scales = _default_grid(effects[~known], errors[~known]) if grid is None else _checked_grid(grid)
    prior = np.zeros(len(scales))
    prior[0] = null_prior - 1
    limits = (max_iterations, tolerance)
    likelihood, _ = _component_likelihood(effects[~known], errors[~known], scales)
    pooled = _mixture_weights(likelihood, prior, np.full(len(scales), 1 / len(scales)), *limits)
    if by == "all":
        return _posterior(effects, errors, scales, pooled)
    rows = np.nonzero(~known)[0]
    starts = np.searchsorted(rows, np.arange(len(effects) + 1))
    weights = np.array(
        [
            _mixture_weights(likelihood[a:b], prior_strength * pooled, pooled, *limits)
            for a, b in zip(starts, starts[1:], strict=False)
        ]
    )
    return _posterior(effects, errors, scales, weights)


def _default_grid(effects: np.ndarray, errors: np.ndarray) -> np.ndarray:
    smallest = np.quantile(errors, 0.01) / 10
    excess = np.max(effects**2 - errors**2)
    largest = max(2 * np.sqrt(max(excess, 0.0)), 8 * smallest)
    n_steps = int(np.ceil(2 * np.log2(largest / smallest)))
    return np.r_[0.0, largest * 2.0 ** (-0.5 * np.arange(n_steps, -1, -1))]


def _checked_grid(grid: Any) -> np.ndarray:
    scales = np.unique(np.asarray(grid, dtype=np.float64))
    if scales.size == 0 or not np.isfinite(scales).all() or scales[0] < 0 or scales[-1] == 0:
        msg = f"grid: expected finite standard deviations >= 0, one of them positive, got {grid!r}."
        raise ValueError(msg)
    return scales if scales[0] == 0 else np.r_[0.0, scales]


def _component_likelihood(effects: np.ndarray, errors: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Likelihood of each effect under each component over the effect's largest, and the logarithm of that largest."""
    variance = errors[:, None] ** 2 + scales**2
    log_density = -0.5 * (np.log(2 * np.pi * variance) + effects[:, None] ** 2 / variance)
    largest = log_density.max(axis=1)
    log_density -= largest[:, None]
    return np.exp(log_density, out=log_density), largest


def _mixture_weights(
    likelihood: np.ndarray, prior: np.ndarray, start: np.ndarray, max_iterations: int, tolerance: float
) -> np.ndarray:
    """Weights that maximise sum_i log(likelihood_i . w) + prior . log w on the simplex: Newton steps with w >= 0.

    Dropping the constraint sum(w) = 1 and adding sum(w) to the loss leaves the optimum where it is.
    """
    (favoured,) = np.nonzero(prior)
    rows = np.vstack([likelihood, np.eye(len(prior))[favoured]])  # a Dirichlet prior is data seen in one component
    share = np.r_[np.ones(len(likelihood)), prior[favoured]]
    share /= max(share.sum(), 1e-300)

    def loss(w: np.ndarray) -> float:
        density = rows @ w
        return float(w.sum() - share @ np.log(density)) if (density > 0).all() else np.inf

    weights, value = start, loss(start)
    for _ in range(max_iterations if len(rows) else 0):
        scaled = rows / (rows @ weights)[:, None]
        gradient = 1.0 - share @ scaled
        if -gradient.min() < tolerance:  # a bound on the distance from the optimum
            break
        hessian = (scaled * share[:, None]).T @ scaled
        size, basis = scipy.linalg.eigh(hessian)
        size = np.sqrt(np.maximum(size, 1e-10 * size[-1]))  # neighbouring components are nearly alike
        aim = size * (basis.T @ weights) - (basis.T @ gradient) / size
        direction = scipy.optimize.nnls(size[:, None] * basis.T, aim)[0] - weights
        length, slope = 1.0, float(gradient @ direction)
        while (proposed := loss(weights + length * direction)) > value + 1e-4 * length * slope and length > 1e-8:
            length /= 2
        if not proposed < value:
            break
        weights, value = weights + length * direction, proposed
    return weights / weights.sum()


def _posterior(effects: np.ndarray, errors: np.ndarray, scales: np.ndarray, weights: np.ndarray) -> ShrunkenEffects:
    """Closed-form moments of the mixture posterior, in blocks of rows."""
    mean, sd, null = effects.copy(), np.zeros_like(effects), (effects == 0).astype(np.float64)
    log_likelihood = 0.0
    block = max(1, _ROW_BLOCK // effects.shape[1])
    for start in range(0, len(effects), block):
        rows = slice(start, start + block)
        noisy = errors[rows] > 0
        effect, error = effects[rows][noisy], errors[rows][noisy]
        likelihood, largest = _component_likelihood(effect, error, scales)
        posterior = likelihood * (weights if weights.ndim == 1 else weights[rows][np.nonzero(noisy)[0]])
        density = posterior.sum(axis=1)
        log_likelihood += float((np.log(density) + largest).sum())
        posterior /= density[:, None]
        shrink = scales**2 / (scales**2 + error[:, None] ** 2)
        factor = (posterior * shrink).sum(axis=1)
        spread = (posterior * shrink**2).sum(axis=1) - factor**2
        mean[rows][noisy] = factor * effect
        sd[rows][noisy] = np.sqrt(np.maximum(factor * error**2 + spread * effect**2, 0.0))
        null[rows][noisy] = posterior[:, 0]
    return ShrunkenEffects(mean, sd, null, scales, weights, log_likelihood)
