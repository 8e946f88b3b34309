"""The long table of an evaluation: one row for each method, measure and judged condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.tl._evaluation.ceiling import CEILING, REPEAT, ceilings
from perturbia.tl._evaluation.flattened import flattened_intervals, moments_of, summed
from perturbia.tl._evaluation.matched_cells import match_cells, matched_sizes
from perturbia.tl._evaluation.measure import Overall
from perturbia.tl._evaluation.strata import strata_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.tl._evaluation.measure import Measure
    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["COLUMNS", "describe_measures", "score_table"]

COLUMNS = (
    "model", "axis", "split", "role", "metric", "reference", "perturbation", "context", "value", "low", "high", "n", "n_undefined",
    "n_cells", "n_targets", "seen_members", "strength", "stratum",
)  # fmt: skip


def score_table(
    predictions: Sequence[Prediction],
    measures: Sequence[Measure],
    judged: Truth,
    n_resamples: int,
    confidence: float,
    seed: int,
    *,
    progress: bool,
) -> pd.DataFrame:
    """The long table."""
    from rich.progress import track

    match_cells(judged, predictions)
    scores: list[tuple[str, str, Measure, Any, tuple[float, float]]] = []
    nothing = (np.nan, np.nan)
    codes = pd.factorize(np.array(judged.perturbations))[0]
    moments = [summed(moments_of(judged.effects, one.effects), codes) for one in predictions]
    intervals = {
        kind: flattened_intervals(moments, kind=kind, n_resamples=n_resamples, confidence=confidence, seed=seed)
        for kind in {measure.flattened for measure in measures} - {""}
    }
    for i, one in enumerate(track(predictions, "Scores", disable=not progress, transient=True)):
        for measure in measures:
            interval = intervals[measure.flattened][i] if measure.flattened else nothing
            scores.append((one.name, one.role, measure, measure.score(judged, one), interval))
    for measure in track(measures, "Ceilings", disable=not progress, transient=True):
        repeat, ceiling = ceilings(measure, judged)
        scores.append((REPEAT, "repeat", measure, repeat, nothing))
        scores.append((CEILING, "ceiling", measure, ceiling, nothing))
    order = {name: i for i, name in enumerate(dict.fromkeys(score[0] for score in scores))}
    scores.sort(key=lambda score: order[score[0]])
    return _long_table(scores, judged)


def _long_table(scores: Sequence[tuple[str, str, Measure, Any, tuple[float, float]]], judged: Truth) -> pd.DataFrame:
    """One row for each method, measure and condition."""
    conditions = _conditions(judged)
    n_few = len(conditions) - len(judged)
    overall = [_n_cells(value, conditions) for *_, value, _ in scores if isinstance(value, Overall)]
    described = conditions.reindex(range(len(conditions) + len(overall)))
    described.loc[len(conditions) :, ["perturbation", "context", "stratum"]] = ""
    described.loc[len(conditions) :, "n_cells"] = overall
    each, last = np.arange(len(conditions)), iter(range(len(conditions), len(described)))
    rows = [np.array([next(last)]) if isinstance(value, Overall) else each for *_, value, _ in scores]
    values = [
        [value.value] if isinstance(value, Overall) else np.concatenate([value, np.full(n_few, np.nan)])
        for *_, value, _ in scores
    ]
    used = [
        [value.used.sum()] if isinstance(value, Overall) else np.isfinite(found)
        for (*_, value, _), found in zip(scores, values, strict=True)
    ]
    lengths = [len(part) for part in rows]

    def repeated(column: Sequence[Any]) -> np.ndarray:
        return np.repeat(np.array(column), lengths)

    out = described.take(np.concatenate(rows)).reset_index(drop=True)
    n = np.concatenate(used).astype(np.int64)
    out = out.assign(
        model=repeated([score[0] for score in scores]),
        axis=judged.screen.axis,
        split=judged.screen.split_key,
        role=repeated([score[1] for score in scores]),
        metric=repeated([score[2].name for score in scores]),
        reference=repeated([score[2].reference for score in scores]),
        value=np.concatenate(values).astype(float),
        low=repeated([score[4][0] for score in scores]),
        high=repeated([score[4][1] for score in scores]),
        n=n,
        n_undefined=np.where(out["perturbation"] == "", len(conditions), 1) - n,
    )
    tested = [score[2].tests and not isinstance(score[3], Overall) for score in scores]
    if any(tested):  # no more than any side has
        sizes = np.append(matched_sizes(judged), conditions["n_cells"].iloc[len(judged) :].to_numpy())
        out.loc[repeated(tested), "n_cells"] = np.tile(sizes.astype(np.int64), sum(tested))
    return out[list(COLUMNS)]


def _conditions(judged: Truth) -> pd.DataFrame:
    """The judged conditions, and after them those with too few cells: listed, without a score."""
    table = judged.conditions.copy()
    table["stratum"] = strata_of(table["strength"].to_numpy())
    few = pd.DataFrame(
        [
            {"perturbation": label, "context": context, "n_cells": n, "strength": np.nan, "stratum": ""}
            for (label, context), n in judged.left_out.items()
        ]
    )
    table = pd.concat([table, few], ignore_index=True) if len(few) else table
    integers = dict.fromkeys(("n_cells", "n_targets", "seen_members"), "Int64")
    return table.astype(integers)[["perturbation", "context", *integers, "strength", "stratum"]]


def _n_cells(value: Overall, conditions: pd.DataFrame) -> int:
    """Held-out cells of the conditions that a score over all is made of."""
    if value.n_cells is not None:
        return value.n_cells
    return int(conditions["n_cells"].iloc[: len(value.used)][value.used].sum())


def describe_measures(measures: Sequence[Measure]) -> pd.DataFrame:
    """What the measures are, one row each."""
    fields = (
        "title",
        "description",
        "level",
        "reads",
        "higher_is_better",
        "best",
        "chance",
        "unit",
        "reference",
        "tests",
    )
    rows = {measure.name: [getattr(measure, name) for name in fields] for measure in measures}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(fields))
