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
_N_FOLDS = 5

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
    lead
        By how much the best is ahead of all axes at a shrinkage of 1, and the standard error of that, for perturbations
        that took no part in finding the best; NaN where replicates were not asked, or this pair was no candidate.
    """

    rank: int
    shrinkage: float
    chosen_by: str
    candidates: pd.DataFrame
    lead: tuple[float, float] = (float("nan"), float("nan"))


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
        perturbations that took no part in finding it; then, of the pairs within one standard error of the best, the one
        that changes least: most axes, then most shrinkage. The others choose shrinkage from the controls alone, and keep all axes.
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
        return WhiteningChoice(_usable(rank, whitening), shrinkage, "user", nothing)
    if choose_by == "replicates":
        pairs, scores = _tried(whitening, _ranks(whitening, rank), _shrinkages(shrinkage), rows, score)
        if scores.size:
            return _most_cautious(pairs, scores, n_features)
        choose_by = "ledoit_wolf"
    if shrinkage == "auto":
        if choose_by == "likelihood":
            shrinkage = likely_shrinkage(controls, control_folds, np.array(_SHRINKAGES))
        else:
            shrinkage = ledoit_wolf_shrinkage(controls)
    kept = n_features if rank == "auto" else _usable(rank, whitening)
    return WhiteningChoice(kept, shrinkage, choose_by, nothing)


def _usable(rank: int, whitening: Whitening) -> int:
    """Axes that there are: all directions, or at most those along which controls vary."""
    n_features, n_axes = whitening.axes.shape
    return n_features if rank >= n_features else min(rank, n_axes)


def _most_cautious(pairs: list[tuple[int, float]], scores: np.ndarray, n_features: int) -> WhiteningChoice:
    """The pair that changes least of those that are as good as the best; scores are (n_pairs, n_perturbations)."""
    table = pd.DataFrame(pairs, columns=["rank", "shrinkage"])
    table["score"] = scores.mean(axis=1)
    below = scores[int(table["score"].argmax())] - scores
    table["below"] = below.mean(axis=1)
    table["standard_error"] = _standard_error(below)
    lead = (float("nan"), float("nan"))
    if (n_features, 1.0) in pairs:
        plain = pairs.index((n_features, 1.0))
        lead = _held_out_lead(scores, plain)
        if not lead[0] > _LEAD * lead[1]:
            return WhiteningChoice(n_features, 1.0, "replicates", table, lead)
    as_good = table[table["below"] <= table["standard_error"]]
    best = as_good.sort_values(["rank", "shrinkage"]).iloc[-1]
    return WhiteningChoice(int(best["rank"]), float(best["shrinkage"]), "replicates", table, lead)


def _held_out_lead(scores: np.ndarray, plain: int) -> tuple[float, float]:
    """How far the best pair is ahead of `plain`, and its standard error: the best of many is ahead by luck where it was found.

    Each fifth of the perturbations is judged under the pair that is best for the others.
    """
    n_scores = scores.shape[1]
    folds = np.random.default_rng(0).permutation(np.arange(n_scores) % _N_FOLDS)
    lead = np.zeros(n_scores)
    for fold in range(min(_N_FOLDS, n_scores)):
        judged = folds == fold
        if not judged.all():
            best = int(scores[:, ~judged].mean(axis=1).argmax())
            lead[judged] = scores[best, judged] - scores[plain, judged]
    return float(lead.mean()), float(_standard_error(lead))


def _standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of means over the last axis; infinite for one value, which says nothing of the spread."""
    n_values = values.shape[-1]
    if n_values < 2:
        return np.full(values.shape[:-1], np.inf)
    return np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(n_values))


def _ranks(whitening: Whitening, rank: int | Literal["auto"]) -> list[int]:
    n_features, n_axes = whitening.axes.shape
    if rank != "auto":
        return [_usable(rank, whitening)]
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
) -> tuple[list[tuple[int, float]], np.ndarray]:
    """All pairs, and the scores of perturbations under each, (n_pairs, n_perturbations).

    Scores depend on cosines alone, so that axes do in place of features.
    """
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
            pairs.append((rank, float(shrinkage)))
            scores.append(found[~np.isnan(found)])
    return pairs, np.array(scores)


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
