"""Scores in groups of perturbations: strong and weak ones, with seen and with unseen members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbia.pl._methods import (
    best_baselines,
    check_names,
    measure_title,
    method_colours,
    per_perturbation,
    unit_of_measure,
)
from perturbia.pl._score_axis import score_limits
from perturbia.pl._style import FAINT, INK, MODELS, MUTED, bare, new_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from perturbia.tl import EvaluationResult

__all__ = ["strata"]

_TITLES = {
    "stratum": "by strength of the observed effect",
    "seen_members": "by members that training cells carry",
    "n_targets": "by number of targets",
    "context": "by context",
}
_BASELINE_COLOURS = ("#0072B2", "#56B4E9", "#6f6f6f", "#a8a8a8")
_MARKERS = "osD^vPX"
_LINES = {"ceiling": "--", "repeat": ":"}
_N_BASELINES = 2


def strata(
    result: EvaluationResult,
    *,
    metric: str | None = None,
    models: Sequence[str] | None = None,
    by: Literal["stratum", "seen_members", "n_targets", "context"] = "stratum",
    legend: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Mean scores in groups of perturbations, with their intervals.

    Most perturbations are weak, and weak ones decide an average: this shows for which a method works.

    Parameters
    ----------
    result
        Result of :func:`perturbia.tl.evaluate`.
    metric
        A measure with one score a perturbation; by default ``"correlation"``, or the first.
    models
        Methods, by default the models and the two best baselines (of baselines with equal scores, one).
    by
        The grouping: strength of the observed effect (energy distance to controls), members that training cells carry,
        number of targets, or context.
    legend
        Name the methods.
    title
        Title of the axes.
    ax
        Axes to draw into.

    Returns
    -------
    The axes: points are means with bootstrap intervals over the perturbations of a group, whose number stands below it;
    dashed is what the true effects would score in that group, dotted a second experiment, the thin line chance. As in
    :func:`metric_strip`, the axis reaches no further below chance than the best score lies above it; triangles at the edge
    mark what lies beyond.

    Raises
    ------
    TypeError
        If `result` is something else.
    ValueError
        If a name is unknown (the message has the nearest ones), or the measure has no score for single perturbations.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=8, n_genes=30, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Ridge(adata)
    >>> model.train()
    >>> result = pb.tl.evaluate(model, adata, baselines=["Mean", "Additive"])
    >>> [label.get_text().split()[0] for label in pb.pl.strata(result).get_xticklabels()]
    ['weaker', 'stronger']
    """
    metric = per_perturbation(result, metric)
    check_names(by, _TITLES, argument="by", of="groupings")
    if all(group == "" for group in result.table[by].dropna().unique()):
        msg = f"by: expected a grouping that perturbations of this evaluation have, got {by!r}, which none has."
        raise ValueError(msg)
    summary = result.summary(metrics=[metric], by=by)
    groups = list(dict.fromkeys(summary.index.get_level_values(0)))
    names = _shown(result, metric, models)
    ax = new_axes(ax, size=(1.0 * max(len(groups), 3) + 1.6, 2.9))
    columns = {key: summary[key][metric] for key in ("value", "low", "high", "n")}
    limits = _limits(result, metric, columns, names)
    _draw_lines(ax, result, columns["value"], groups, names)
    styles = _styles(result, names)
    positions = np.arange(len(groups))
    offsets = (np.arange(len(names)) - (len(names) - 1) / 2) * min(0.14, 0.6 / len(names))
    for name, offset in zip(names, offsets, strict=True):
        value, low, high = (_column(columns[key], groups, name) for key in ("value", "low", "high"))
        x = positions + offset
        _draw_method(ax, x, value, low, high, limits, {**styles[name], "label": name})
    n = [columns["n"].xs(group, level=0).reindex(names).max() for group in groups]
    labels = [f"{_name(group, by)}\nn = {number:.0f}" for group, number in zip(groups, n, strict=True)]
    ax.set_xticks(positions, labels, fontsize=7.5)
    chance = float(result.metrics.loc[metric, "chance"])
    if np.isfinite(chance):
        ax.axhline(chance, color=MUTED, linewidth=0.6, zorder=0)
    unit = unit_of_measure(result, metric)
    ax.set_ylabel(f"{measure_title(result, metric)}{f' ({unit})' if unit else ''}", fontsize=8)
    ax.set(xlim=(-0.6, len(groups) - 0.4), ylim=limits)
    ax.set_title(title or ("all perturbations" if groups == ["all"] else _TITLES[by]), fontsize=9, color=INK)
    ax.tick_params(axis="y", labelsize=7.5)
    ax.tick_params(axis="x", length=0)
    for edge in positions[:-1] + 0.5:
        ax.axvline(edge, color=FAINT, linewidth=0.6, zorder=0)
    bare(ax)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, frameon=False, handlelength=1.6)
    return ax


def _shown(result: EvaluationResult, metric: str, models: Sequence[str] | None) -> list[str]:
    if models is not None:
        return check_names(models, result.names(), argument="models", of="methods of this evaluation")
    own = result.names("model")
    return own + best_baselines(result, metric, n=_N_BASELINES)


def _name(group: Any, by: str) -> str:
    if by == "seen_members":
        return f"{group} seen"
    if by == "n_targets":
        return f"{group} target{'' if group == 1 else 's'}"
    return str(group)


def _column(values: pd.Series, groups: list[Any], name: str) -> np.ndarray:
    return np.array([values.get((group, name), np.nan) for group in groups], dtype=float)


def _styles(result: EvaluationResult, names: list[str]) -> dict[str, dict[str, Any]]:
    """Models in their colours, baselines in blues and greys and with markers of their own."""
    colours = method_colours(result)
    others = [name for name in names if colours[name] not in MODELS]
    colours |= {name: _BASELINE_COLOURS[i % len(_BASELINE_COLOURS)] for i, name in enumerate(others)}
    return {name: {"color": colours[name], "marker": _MARKERS[i % len(_MARKERS)]} for i, name in enumerate(names)}


def _draw_method(
    ax: Axes,
    x: np.ndarray,
    value: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    limits: tuple[float, float],
    style: dict[str, Any],
) -> None:
    """Means with whiskers, and triangles for those beyond the axis."""
    inside = (value >= limits[0]) & (value <= limits[1])
    whiskers = np.isfinite(low) & np.isfinite(high)
    ax.vlines(x[whiskers], low[whiskers], high[whiskers], color=style["color"], linewidth=1.4, zorder=2)
    ax.plot(
        x[inside],
        value[inside],
        linestyle="",
        markersize=4.5,
        markeredgewidth=0.5,
        markeredgecolor="white",
        zorder=3,
        **style,
    )
    for beyond, marker, edge in ((value < limits[0], "v", limits[0]), (value > limits[1], "^", limits[1])):
        ax.scatter(
            x[beyond], np.full(beyond.sum(), edge), marker=marker, s=22, c=style["color"], clip_on=False, zorder=3
        )


def _draw_lines(ax: Axes, result: EvaluationResult, value: pd.Series, groups: list[Any], names: list[str]) -> None:
    """What noise allows, as a step over each group."""
    for role, line in _LINES.items():
        for name in result.names(role):
            found = _column(value, groups, name)
            known = np.isfinite(found)
            if name in names or not known.any():
                continue
            x = np.flatnonzero(known)
            style: dict[str, Any] = {"color": INK, "linestyle": line, "linewidth": 1, "zorder": 1}
            ax.hlines(found[known], x - 0.42, x + 0.42, label=name, **style)


def _limits(
    result: EvaluationResult, metric: str, columns: dict[str, pd.Series], names: list[str]
) -> tuple[float, float]:
    """Room for intervals and lines, but not for scores far below chance."""
    lines = result.names("repeat", "ceiling")
    shown = columns["value"].index.get_level_values(1).isin(names)
    seen = columns["value"].index.get_level_values(1).isin([*names, *lines])
    values = {key: column.to_numpy(dtype=float) for key, column in columns.items()}
    row = result.metrics.loc[metric]
    return score_limits(
        values["value"][shown],
        np.concatenate([values["value"][seen], values["low"][shown], values["high"][shown]]),
        chance=float(row["chance"]),
        higher_is_better=bool(row["higher_is_better"]),
        ceiling=float(np.nanmax([values["value"][shown], values["high"][shown]], initial=0.0)),
    )
