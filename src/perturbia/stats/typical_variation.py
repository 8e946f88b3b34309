"""Typical variation normalisation on arrays: how much of the controls' variation to take out, and doing so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia.stats.whitening import Whitening, ledoit_wolf_shrinkage, likely_shrinkage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WhiteningChoice", "choose_whitening", "published_tvn", "recolour_batches"]

_SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
_N_RANKS = 8
_LEAST_RANK = 8
_LEAD = 2  # standard errors by which whitening has to be ahead

ChooseBy = Literal["replicates", "ledoit_wolf", "likelihood"]


@dataclass(frozen=True)
class WhiteningChoice:
    """Rank and shrinkage, and what else was tried.

    Attributes
    ----------
    rank
        Axes kept; the number of features for all of them.
    shrinkage
        From 0 to 1.
    chosen_by
        ``"replicates"``, ``"ledoit_wolf"``, ``"likelihood"``, or ``"user"``.
    candidates
        Columns ``rank``, ``shrinkage``, ``score``, the mean over perturbations, ``below``, how far that is below the best
        on average, and ``standard_error`` of that; empty where replicates were not asked.
    """

    rank: int
    shrinkage: float
    chosen_by: str
    candidates: pd.DataFrame


def choose_whitening(
    whitening: Whitening,
    *,
    rank: int | Literal["auto"],
    shrinkage: float | Literal["auto"],
    choose_by: ChooseBy,
    controls: np.ndarray,
    control_folds: np.ndarray,
    rows: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
) -> WhiteningChoice:
    """Settle what was left open of rank and shrinkage.

    Parameters
    ----------
    whitening
        Axes of the controls.
    rank, shrinkage
        Given, or to be chosen.
    choose_by
        ``"replicates"``: all axes and a shrinkage of 1, unless the best pair is ahead of that by two standard errors over
        perturbations; then, of the pairs within one of the best, the one that changes least: most shrinkage, then most
        axes. The others choose shrinkage from the controls alone, and keep all axes.
    controls
        Centred and scaled control rows, (n_controls, n_features).
    control_folds
        Fold of each of them.
    rows
        Perturbed rows to judge by, (n_rows, n_features).
    score
        Takes such rows, whitened, in any rotation; returns a score of every perturbation, higher is better, NaN where it
        has none.

    Returns
    -------
    :class:`WhiteningChoice`. Where no perturbation has a score, ``"ledoit_wolf"`` chooses.
    """
    n_features = whitening.axes.shape[0]
    nothing = pd.DataFrame({"rank": [], "shrinkage": [], "score": [], "below": [], "standard_error": []})
    if rank != "auto" and shrinkage != "auto":
        return WhiteningChoice(min(rank, n_features), shrinkage, "user", nothing)
    if choose_by == "replicates":
        tried = _tried(whitening, _ranks(whitening, rank), _shrinkages(shrinkage), rows, score)
        if len(tried):
            best = _most_cautious(tried, n_features)
            return WhiteningChoice(int(best["rank"]), float(best["shrinkage"]), "replicates", tried)
        choose_by = "ledoit_wolf"
    if shrinkage == "auto":
        if choose_by == "likelihood":
            shrinkage = likely_shrinkage(controls, control_folds, np.array(_SHRINKAGES))
        else:
            shrinkage = ledoit_wolf_shrinkage(controls)
    return WhiteningChoice(n_features if rank == "auto" else min(rank, n_features), shrinkage, choose_by, nothing)


def _most_cautious(tried: pd.DataFrame, n_features: int) -> pd.Series:
    """The pair that changes least of those that are as good as the best."""
    plain = tried[(tried["rank"] == n_features) & (tried["shrinkage"] == 1)]
    # the best of many pairs is ahead by luck alone, so that one standard error is not enough
    if len(plain) and (plain["below"] <= _LEAD * plain["standard_error"]).all():
        return plain.iloc[0]
    as_good = tried[tried["below"] <= tried["standard_error"]]
    return as_good.sort_values(["shrinkage", "rank"]).iloc[-1]


def _ranks(whitening: Whitening, rank: int | Literal["auto"]) -> list[int]:
    n_features, n_axes = whitening.axes.shape
    if rank != "auto":
        return [min(rank, n_features)]
    steps = np.geomspace(min(_LEAST_RANK, n_axes), max(n_axes, 1), _N_RANKS)
    return sorted({*np.unique(np.round(steps).astype(int)).tolist(), n_features})


def _shrinkages(shrinkage: float | Literal["auto"]) -> tuple[float, ...]:
    return _SHRINKAGES if shrinkage == "auto" else (shrinkage,)


def _tried(
    whitening: Whitening,
    ranks: list[int],
    shrinkages: tuple[float, ...],
    rows: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
) -> pd.DataFrame:
    """Scores under every pair; they depend on cosines alone, so that axes do in place of features. Empty without scores."""
    n_features = whitening.axes.shape[0]
    coordinates = rows @ whitening.axes
    pairs, scores = [], []
    for shrinkage in shrinkages:
        variances = (1 - shrinkage) * whitening.variances + shrinkage * whitening.mean_variance
        scaled = coordinates / np.sqrt(variances)
        for rank in ranks:
            if rank < n_features or len(variances) == n_features or shrinkage == 0:
                kept = scaled[:, :rank]
            else:
                kept = whitening.transform(rows, rank=rank, shrinkage=shrinkage)
            found = score(kept)
            pairs.append((rank, shrinkage))
            scores.append(found[~np.isnan(found)])
    every = np.array(scores)
    if not every.shape[1]:
        return pd.DataFrame()
    table = pd.DataFrame(pairs, columns=["rank", "shrinkage"])
    table["score"] = every.mean(axis=1)
    below = every[int(table["score"].argmax())] - every
    table["below"] = below.mean(axis=1)
    n_scores = every.shape[1]
    table["standard_error"] = below.std(axis=1, ddof=1) / np.sqrt(n_scores) if n_scores > 1 else 0.0
    return table


def recolour_batches(rows: np.ndarray, is_control: np.ndarray, batches: np.ndarray, *, prior: float) -> np.ndarray:
    r"""Give the controls of every batch the covariance of all controls, which is taken to be the identity.

    .. math:: y_b \leftarrow y_b\, C_b^{-1/2}, \qquad C_b = \frac{(n_b - 1)\, S_b + \nu I}{n_b - 1 + \nu}

    Parameters
    ----------
    rows
        Whitened rows, shape (n_rows, n_features).
    is_control, batches
        Shape (n_rows,); positions of batches count from 0.
    prior
        Controls' worth of the identity. With 0, every batch needs more controls than features.

    Returns
    -------
    Rows, same shape.
    """
    out = np.array(rows, dtype=np.float64)
    eye = np.eye(rows.shape[1])
    for batch in np.unique(batches):
        members = batches == batch
        controls = rows[members & is_control]
        if not len(controls):
            continue
        centred = controls - controls.mean(axis=0)
        covariance = (centred.T @ centred + prior * eye) / (len(controls) - 1 + prior)
        out[members] = rows[members] @ _inverse_root(covariance)
    return out


def _inverse_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(values)) @ vectors.T


def published_tvn(
    X: np.ndarray, is_control: np.ndarray, batches: np.ndarray, *, regularizer: float = 0.5
) -> np.ndarray:
    r"""Typical variation normalisation as published in code: nothing is centred by batch, no axis is shrunk.

    All rows are standardised by all controls, turned to all principal axes of the controls, standardised by the controls
    again, and multiplied within each batch by :math:`(C_b + 0.5\, I)^{-1/2}`, with :math:`C_b` the covariance of its controls.

    Parameters
    ----------
    X
        Shape (n_rows, n_features).
    is_control, batches
        Shape (n_rows,); every batch needs two controls.
    regularizer
        What is added to the diagonal of :math:`C_b`.

    Returns
    -------
    float64, shape (n_rows, min(n_controls, n_features)).
    """
    values = _standardized(np.asarray(X, dtype=np.float64), is_control)
    centred = values[is_control] - values[is_control].mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    # the sign that makes the largest loading positive, which is what the original gets from scikit-learn
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    values = _standardized((values - values[is_control].mean(axis=0)) @ (axes * signs[:, None]).T, is_control)
    out = np.empty_like(values)
    for batch in np.unique(batches):
        members = batches == batch
        covariance = np.cov(values[members & is_control], rowvar=False, ddof=1)
        out[members] = values[members] @ _inverse_root(covariance + regularizer * np.eye(values.shape[1]))
    return out


def _standardized(values: np.ndarray, is_control: np.ndarray) -> np.ndarray:
    controls = values[is_control]
    scale = controls.std(axis=0)
    tiny = scale < 10 * np.finfo(np.float64).eps * np.abs(controls).max(axis=0, initial=0.0)
    return (values - controls.mean(axis=0)) / np.where(tiny | (scale == 0), 1.0, scale)
