"""From the long table to a mean with its interval, a rank and a rescaled score for each method and measure."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.metrics import scale_to_baseline
from perturbia.stats import bootstrap_mean, paired_comparison
from perturbia.tl._evaluation.ceiling import CEILING
from perturbia.tl._evaluation.strata import HALVES, STRATA

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GROUPINGS", "RANKED", "compare", "summarize"]

RANKED = ("model", "baseline")
GROUPINGS = ("stratum", "seen_members", "n_targets", "context")
STATISTICS = ("value", "low", "high", "median", "q25", "q75", "n", "n_undefined", "rank", "rescaled", "normalized")
NEGATIVES = ("Mean", "NoChange")
LEAST_ROOM = 0.1  # of the larger of the two ends: less is noise, and dividing by it says nothing


def summarize(
    table: pd.DataFrame, metrics: pd.DataFrame, *, n_resamples: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Summary of a long table, or of a part of it.

    Parameters
    ----------
    table, metrics
        As in :class:`perturbia.tl.EvaluationResult`.
    n_resamples, confidence, seed
        Bootstrap over perturbations.

    Returns
    -------
    Methods × (statistic, measure).
    """
    order = list(dict.fromkeys(table["model"]))
    roles = table.drop_duplicates("model").set_index("model")["role"]
    frames = {name: pd.DataFrame(index=order, columns=list(metrics.index), dtype=float) for name in STATISTICS}
    levels = table["metric"].map(metrics["level"])
    for level in ("perturbation", "all"):
        part = table[levels == level]
        if part.empty:
            continue
        if level == "all":
            for statistic in ("value", "low", "high", "n", "n_undefined"):
                wide = part.pivot(index="model", columns="metric", values=statistic)
                frames[statistic].loc[wide.index, wide.columns] = wide
            continue
        wide = _wide(part)
        clusters = wide.groupby(level="perturbation", sort=False).mean()  # contexts of one perturbation are no repeats
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # columns without values are counted
            found = bootstrap_mean(
                clusters.to_numpy(), n_resamples=n_resamples, confidence=confidence, nan="omit", seed=seed
            )
            quartiles = np.nanquantile(clusters.to_numpy(), [0.25, 0.5, 0.75], axis=0)
        numbers_of = {
            "value": found.mean,
            "low": found.lower,
            "high": found.upper,
            **dict(zip(("q25", "median", "q75"), quartiles, strict=True)),
            "n": wide.notna().sum().to_numpy(),
            "n_undefined": wide.isna().sum().to_numpy(),
        }
        for statistic, numbers in numbers_of.items():
            series = pd.Series(numbers, index=wide.columns).unstack("metric")
            frames[statistic].loc[series.index, series.columns] = series
    ranked = roles[roles.isin(RANKED)].index
    for metric in metrics.index:
        column = frames["value"][metric]
        frames["rank"].loc[ranked, metric] = (
            column[ranked]
            .round(12)
            .rank(  # sums in another order are no difference
                ascending=not metrics.loc[metric, "higher_is_better"], method="min"
            )
        )
        judged = table[table["metric"] == metric]
        common = _common_means(judged).reindex(order) if metrics.loc[metric, "level"] == "perturbation" else column
        higher = bool(metrics.loc[metric, "higher_is_better"])
        ceiling = _first(common, (CEILING,))
        frames["rescaled"][metric] = _scaled(common, best=ceiling, higher=higher, least=LEAST_ROOM)
        # what is better than perfect is so by noise, as a distance below 0 is
        frames["normalized"][metric] = _scaled(column, best=metrics.loc[metric, "best"], higher=higher).clip(upper=1.0)
    out = pd.concat(frames, axis=1, names=["statistic", "metric"])
    out.index.name = "model"
    return out


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """Conditions × (method, measure)."""
    return part.pivot(index=["perturbation", "context"], columns=["model", "metric"], values="value")


def _common_means(part: pd.DataFrame) -> pd.Series:
    """Means over those conditions whose ceiling is known, so that all methods are measured on the same scale."""
    wide = _wide(part).droplevel("metric", axis=1)
    if CEILING in wide:
        wide = wide[wide[CEILING].notna()]
    return wide.mean()


def _first(values: pd.Series, names: Sequence[str]) -> float:
    """The first of these rows that has a value."""
    return next((float(values[name]) for name in names if np.isfinite(values.get(name, np.nan))), np.nan)


def _scaled(values: pd.Series, *, best: float, higher: bool, least: float = 0.0) -> pd.Series:
    """0 at the mean baseline, 1 at `best`; NaN where either is not known, or the baseline is as good up to noise."""
    negative = _first(values, NEGATIVES)
    known = values[np.isfinite(values)]
    room = best - negative if higher else negative - best
    if not (np.isfinite(room) and room > least * max(abs(best), abs(negative))):
        return pd.Series(np.nan, index=values.index)
    return pd.Series(scale_to_baseline(known.to_numpy(), baseline=negative, best=best), index=known.index).reindex(
        values.index
    )


def groups_of(table: pd.DataFrame, by: str) -> list[Any]:
    """Values of a grouping that occur, in their natural order."""
    found = [value for value in table[by].dropna().unique() if value != ""]
    known = [*STRATA, *HALVES, "all"]
    return sorted(found, key=known.index) if by == "stratum" else sorted(found)


def compare(
    table: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    model: str,
    others: dict[str, str],
    n_resamples: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Paired comparison of a method with another, for each measure.

    Parameters
    ----------
    table, metrics
        As in :class:`perturbia.tl.EvaluationResult`.
    model
        The method.
    others
        Whom it is compared with, by measure.
    n_resamples, confidence, seed
        Bootstrap over perturbations.

    Returns
    -------
    One row a measure.
    """
    rows = {}
    for metric, other in others.items():
        part = table[table["metric"] == metric]
        higher = bool(metrics.loc[metric, "higher_is_better"])
        if metrics.loc[metric, "level"] == "all":
            mine, theirs = (float(part.loc[part["model"] == name, "value"].iloc[0]) for name in (model, other))
            rows[metric] = [mine, other, theirs, mine - theirs, *[np.nan] * 4, np.nan]
            continue
        wide = _wide(part).droplevel("metric", axis=1)
        wide = wide.groupby(level="perturbation", sort=False).mean()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = paired_comparison(
                wide[model].to_numpy(),
                wide[other].to_numpy(),
                higher_is_better=higher,
                n_resamples=n_resamples,
                confidence=confidence,
                nan="omit",
                seed=seed,
            )
        rows[metric] = [
            wide[model].mean(), other, wide[other].mean(), found.mean_difference, found.lower, found.upper,
            found.p_value, found.share_better, found.count,
        ]  # fmt: skip
    columns = ["value", "other", "other_value", "difference", "low", "high", "p_value", "share_better", "n"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("metric")


def best_of(summary: pd.DataFrame, metrics: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """The best of some methods on each measure; measures that none has are left out."""
    out = {}
    for metric in metrics.index:
        column = summary["value"][metric].reindex(list(names)).dropna()
        if len(column):
            out[metric] = str(column.idxmax() if metrics.loc[metric, "higher_is_better"] else column.idxmin())
    return out
