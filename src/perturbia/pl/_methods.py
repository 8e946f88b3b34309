"""Which methods and measures of an evaluation a figure shows, in what order and colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.errors import nearest_names
from perturbia.pl._results import check_result
from perturbia.pl._style import BASELINE, INK, MODELS, MUTED, unit_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perturbia.tl import EvaluationResult

__all__ = [
    "best_baselines",
    "check_names",
    "first_model",
    "measure_title",
    "method_colours",
    "per_perturbation",
    "unit_of_measure",
]

# a share of the larger score: methods closer than this on every perturbation say the same
_EQUAL = 1e-9


def check_names(names: str | Sequence[str], known: Iterable[str], *, argument: str, of: str) -> list[str]:
    """The names as a list.

    Parameters
    ----------
    names
        What a user asked for.
    known
        What there is.
    argument
        The argument it was given to.
    of
        What the names are, in words.

    Returns
    -------
    The names.

    Raises
    ------
    ValueError
        If there are none, or one is unknown; the nearest known names are in the message.
    """
    names = [names] if isinstance(names, str) else list(names)
    known = [str(name) for name in known]
    if not names:
        msg = f"{argument}: expected at least one of the {of}, got none. Leave it out for the default."
        raise ValueError(msg)
    for name in names:
        if name not in known:
            near = ", ".join(nearest_names(str(name), known)) or "none"
            msg = f"{argument}: expected {of}, got {name!r} (nearest: {near})."
            raise ValueError(msg)
    return names


def first_model(result: EvaluationResult, model: str | None) -> str:
    """The model of that name; by default the first."""
    check_result(result, "EvaluationResult")
    if model is None:
        return result.names("model")[0]
    return check_names(model, result.effects, argument="model", of="methods of this evaluation")[0]


def method_colours(result: EvaluationResult) -> dict[str, str]:
    """Models in the accent and colours that stand out beside it, baselines blue, references and ceilings grey."""
    colours = dict.fromkeys(result.names("baseline"), BASELINE)
    colours |= dict.fromkeys(result.names("reference"), MUTED)
    colours |= dict.fromkeys(result.names("repeat", "ceiling"), INK)
    return colours | {name: MODELS[i % len(MODELS)] for i, name in enumerate(result.names("model"))}


def per_perturbation(result: EvaluationResult, metric: str | None, *, preferred: str = "correlation") -> str:
    """A measure that has one score a perturbation.

    Parameters
    ----------
    result
        The evaluation.
    metric
        The measure; None takes `preferred`, or the first where that was not evaluated.
    preferred
        The default.

    Returns
    -------
    Its name.

    Raises
    ------
    ValueError
        If it is unknown, has one score over all perturbations, or there is none.
    """
    check_result(result, "EvaluationResult")
    fitting = result.metrics.index[result.metrics["level"] == "perturbation"]
    if not len(fitting):
        msg = "result: expected a measure with one score a perturbation, got none. Evaluate with protocol='core'."
        raise ValueError(msg)
    if metric is None:
        return preferred if preferred in fitting else str(fitting[0])
    check_names(metric, result.metrics.index, argument="metric", of="measures of this evaluation")
    return check_names(metric, fitting, argument="metric", of="measures with one score a perturbation")[0]


def best_baselines(result: EvaluationResult, metric: str, *, n: int) -> list[str]:
    """At most `n` baselines by mean score, best first; of those with equal scores on every perturbation, the first."""
    names = result.names("baseline")
    mean = result.summary(metrics=[metric]).loc[names, ("value", metric)].dropna()
    order = mean.sort_values(ascending=not result.metrics.loc[metric, "higher_is_better"], kind="stable").index
    values = result.values(metric)
    chosen: list[str] = []
    for name in order:
        one = values[name].to_numpy(dtype=float)
        if not any(np.allclose(one, values[other], rtol=_EQUAL, atol=_EQUAL, equal_nan=True) for other in chosen):
            chosen.append(str(name))
    return chosen[:n]


def measure_title(result: EvaluationResult, metric: str) -> str:
    """The short title of a measure, with an arrow where lower is better."""
    row = result.metrics.loc[metric]
    return f"{row['title']}{'' if row['higher_is_better'] else ' ↓'}"


def unit_of_measure(result: EvaluationResult, metric: str) -> str:
    """The unit of a measure, empty for pure numbers."""
    unit = str(result.metrics.loc[metric, "unit"])
    return unit_of(str(result.info["scale"])) if unit == "scale of effects" else unit
