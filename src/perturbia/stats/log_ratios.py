"""Scores of cells that two separately trained classifiers give alike: log-ratios without gauge, prior or temperature."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from perturbia.stats._arrays import dense_matrix
from perturbia.stats._settings import check_choice

__all__ = ["ScoreKind", "cross_entropy", "fit_temperature", "propensity_scores"]

ScoreKind = Literal["log_ratio", "clr", "logits", "probs", "sqrt_probs"]


def propensity_scores(
    logits: np.ndarray,
    *,
    kind: ScoreKind = "log_ratio",
    class_counts: np.ndarray | None = None,
    temperature: float = 1.0,
    floor: float = 1e-6,
) -> np.ndarray:
    r"""Scores of cells from the logits of a classifier of perturbations.

    Logits are defined up to a constant for each cell, hold the class frequencies of the cells that trained them, and are
    more or less extreme from one network to the next. None of that is shared by two modalities. What is shared is

    .. math::
        s_t(x) = \log p(t | x) - \log p(t) - \frac{1}{K} \sum_{u} \big[\log p(u | x) - \log p(u)\big]

    the centred log-ratio of the densities of the cell under the perturbations.

    Parameters
    ----------
    logits
        Shape (n_cells, K).
    kind
        ``"log_ratio"``: as above; ``"clr"``: centred log-probabilities; ``"logits"``: as they are; ``"probs"`` and
        ``"sqrt_probs"``: probabilities and their roots.
    class_counts
        Training cells of each class, (K,), whose frequencies ``"log_ratio"`` takes out; equal by default.
    temperature
        Number that logits are divided by; not used for ``"logits"``.
    floor
        Least probability: beyond it, log-probabilities are noise.

    Returns
    -------
    Shape (n_cells, K), float64.

    Raises
    ------
    ValueError
        Missing values, an unknown kind, or settings out of range.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import propensity_scores
    >>> logits = np.log([[0.8, 0.1, 0.1]])
    >>> moved = propensity_scores(logits + 5)
    >>> bool(np.allclose(moved, propensity_scores(logits)))
    True
    """
    values = dense_matrix(logits, "logits")
    check_choice("kind", kind, get_args(ScoreKind))
    if not (np.isfinite(temperature) and temperature > 0) or not 0 < floor < 1:
        msg = f"temperature, floor: expected a positive number and one in (0, 1), got {temperature!r} and {floor!r}."
        raise ValueError(msg)
    if kind == "logits":
        return values
    log_probs = _log_softmax(values / temperature)
    if kind in {"probs", "sqrt_probs"}:
        return np.exp(log_probs if kind == "probs" else log_probs / 2)
    log_probs = np.maximum(log_probs, np.log(floor))
    if kind == "log_ratio" and class_counts is not None:
        counts = np.asarray(class_counts, dtype=np.float64)
        if counts.shape != (values.shape[1],) or not (counts >= 0).all():
            msg = (
                f"class_counts: expected a number of cells for each of {values.shape[1]} classes, got {class_counts!r}."
            )
            raise ValueError(msg)
        log_probs = log_probs - np.log(counts + 0.5)  # half a cell: a class may have none in a fold
    return log_probs - log_probs.mean(1, keepdims=True)


def fit_temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """Number that logits are to be divided by for the least cross-entropy.

    Parameters
    ----------
    logits
        Of held-out cells, shape (n_cells, K).
    codes
        Class of each cell, (n_cells,).

    Returns
    -------
    The temperature, between 0.2 and 5.

    References
    ----------
    Guo, C., Pleiss, G., Sun, Y. and Weinberger, K. Q. (2017). On calibration of modern neural networks. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats.log_ratios import fit_temperature
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(5000, 3))
    >>> codes = np.array([rng.choice(3, p=p) for p in np.exp(logits) / np.exp(logits).sum(1, keepdims=True)])
    >>> round(fit_temperature(3 * logits, codes), 1)
    3.0
    """
    from scipy.optimize import minimize_scalar

    values = dense_matrix(logits, "logits")
    found = minimize_scalar(
        lambda log_temperature: cross_entropy(values / np.exp(log_temperature), codes),
        bounds=(np.log(0.2), np.log(5.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def cross_entropy(logits: np.ndarray, codes: np.ndarray) -> float:
    """Mean negative log-probability of the right class.

    Parameters
    ----------
    logits
        Shape (n_cells, K).
    codes
        Class of each cell, (n_cells,).

    Returns
    -------
    The cross-entropy, in nats.
    """
    return float(-_log_softmax(np.asarray(logits, dtype=np.float64))[np.arange(len(codes)), codes].mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    centred = logits - logits.max(1, keepdims=True)
    return centred - np.log(np.exp(centred).sum(1, keepdims=True))
