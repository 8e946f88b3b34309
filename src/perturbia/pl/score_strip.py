"""Scores of many methods side by side, with their spread, their uncertainty and what noise allows."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.pl._methods import check_names, measure_title, method_colours, unit_of_measure
from perturbia.pl._results import check_result
from perturbia.pl._score_axis import score_limits
from perturbia.pl._style import ACCENT, BASELINE, FAINT, INK, MUTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from perturbia.tl import EvaluationResult

__all__ = ["metric_strip"]

_N_LEADING = 8
_LINES: dict[str, Any] = {"true effects": "--", "second experiment": ":"}
_TITLE_WIDTH = 19
_LEGEND_INCHES = 1.4  # of one entry


@dataclass(frozen=True)
class Panel:
    """One measure of all rows; NaN where a row has none."""

    title: str
    note: str
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    points: list[np.ndarray]
    lines: dict[str, float]
    chance: float = 0.0
    higher_is_better: bool = True


@dataclass(frozen=True)
class Rows:
    """The methods from top to bottom, their colours, and which of them stand out."""

    names: list[str]
    colours: list[str]
    highlighted: set[str] = field(default_factory=set)


def metric_strip(
    result: EvaluationResult | pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    highlight: Sequence[str] | None = None,
    ceiling: str | None = None,
    show_perturbations: bool = True,
    n_columns: int = 4,
    title: str | None = None,
) -> Figure:
    """Strip of scores: one row a method, one panel a measure.

    Parameters
    ----------
    result
        Result of :func:`perturbia.tl.evaluate`, or a plain table of methods × scores (missing scores, NaN, leave their
        place empty).
    metrics
        Measures, or columns of the table. By default the first eight measures that have a score, or all columns.
    models
        Methods to draw, in this order; by default models, baselines and references.
    highlight
        Methods in the accent; by default the models of the result, and none of a table.
    ceiling
        Row of a table to draw as a dashed line instead of points. A result knows its own.
    show_perturbations
        Draw the scores of single perturbations as faint points.
    n_columns
        Panels in a row.
    title
        Title of the figure.

    Returns
    -------
    The figure. Points are means over perturbations with their bootstrap intervals, numbers beside them; the thin line is
    chance, the dashed one what the true effects would score and the dotted one a second experiment. An axis reaches no
    further below chance than the best score lies above it; where lower is better (↓ in the title), no further than two
    and a half times the median method. What lies beyond is a triangle at the edge. Measures that are not defined for every
    perturbation say for how many they are.

    Raises
    ------
    ValueError
        If a measure, column or method is unknown (the message has the nearest ones), or `n_columns` is not positive.

    Examples
    --------
    >>> import pandas as pd, perturbia as pb
    >>> table = pd.DataFrame({"r": [0.7, 0.6]}, index=["model", "baseline"])
    >>> len(pb.pl.metric_strip(table, highlight=["model"]).axes)
    1
    """
    import matplotlib.pyplot as plt

    if n_columns < 1:
        msg = f"n_columns: expected a positive number, got {n_columns}."
        raise ValueError(msg)
    if hasattr(result, "metrics"):
        rows, panels = panels_of_result(
            result, metrics=metrics, models=models, highlight=highlight, points=show_perturbations
        )
    else:
        if not hasattr(result, "columns"):
            check_result(result, "EvaluationResult")
        rows, panels = _panels_of_table(result, metrics, models, highlight, ceiling)
    n_columns = min(n_columns, len(panels))
    n_rows = -(-len(panels) // n_columns)
    height = (0.19 * len(rows.names) + 0.75) * n_rows + 0.4
    figure = plt.figure(figsize=(1.45 * n_columns + 1.4, height), layout="constrained")
    draw_strip(figure, rows, panels, n_columns=n_columns)
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    return figure


def leading_measures(result: EvaluationResult, *, n: int = _N_LEADING) -> list[str]:
    """The first measures that a model or baseline has a score of."""
    value = result.summary()["value"].loc[result.names("model", "baseline")]
    return [str(name) for name in result.metrics.index if value[name].notna().any()][:n]


def panels_of_result(
    result: EvaluationResult,
    *,
    metrics: Sequence[str] | None,
    models: Sequence[str] | None,
    highlight: Sequence[str] | None = None,
    points: bool = True,
) -> tuple[Rows, list[Panel]]:
    """Rows and panels of an evaluation."""
    of = "methods of this evaluation"
    ranked = result.names("model", "baseline", "reference")
    names = ranked if models is None else check_names(models, result.names(), argument="models", of=of)
    if metrics is None:
        metrics = leading_measures(result)
    else:
        metrics = check_names(metrics, result.metrics.index, argument="metrics", of="measures of this evaluation")
    colours = method_colours(result)
    standing_out = set(result.names("model"))
    if highlight is not None:
        standing_out = set(check_names(highlight, names, argument="highlight", of=of)) if len(highlight) else set()
        colours |= {name: ACCENT if name in standing_out else BASELINE for name in ranked}
    rows = Rows(names, [colours[name] for name in names], standing_out)
    summary = result.summary(metrics=metrics)
    lines = result.names("ceiling", "repeat")
    return rows, [_panel(result, summary, metric, names, lines, points=points) for metric in metrics]


def _panel(
    result: EvaluationResult,
    summary: pd.DataFrame,
    metric: str,
    names: list[str],
    lines: list[str],
    *,
    points: bool,
) -> Panel:
    numbers = {key: summary[key][metric] for key in ("value", "low", "high", "n", "n_undefined")}
    single = points and result.metrics.loc[metric, "level"] == "perturbation"
    values = result.values(metric) if single else None
    n, undefined = (float(numbers[key][names].max()) for key in ("n", "n_undefined"))
    undefined -= len(result.info["too_few_cells"])  # those are not judged at all
    notes = [unit_of_measure(result, metric), f"{n:.0f} of {n + undefined:.0f} judged" if undefined > 0 else ""]
    return Panel(
        title=measure_title(result, metric),
        note=", ".join(filter(None, notes)),
        value=numbers["value"][names].to_numpy(dtype=float),
        low=numbers["low"][names].to_numpy(dtype=float),
        high=numbers["high"][names].to_numpy(dtype=float),
        points=[np.empty(0) if values is None else values[name].dropna().to_numpy() for name in names],
        lines={name: float(numbers["value"][name]) for name in lines if name not in names},
        chance=float(result.metrics.loc[metric, "chance"]),
        higher_is_better=bool(result.metrics.loc[metric, "higher_is_better"]),
    )


def _panels_of_table(
    table: pd.DataFrame,
    metrics: Sequence[str] | None,
    models: Sequence[str] | None,
    highlight: Sequence[str] | None,
    ceiling: str | None,
) -> tuple[Rows, list[Panel]]:
    of = "rows of the table"
    columns = check_names(
        list(table.columns) if metrics is None else metrics, table.columns, argument="metrics", of="columns"
    )
    if ceiling is not None:
        check_names(ceiling, table.index, argument="ceiling", of=of)
    shown = table.index.drop(ceiling) if ceiling is not None else table.index
    names = check_names(list(shown) if models is None else models, shown, argument="models", of=of)
    standing_out = set(check_names(highlight, names, argument="highlight", of=of) if highlight else ())
    missing = np.full(len(names), np.nan)
    panels = [
        Panel(
            title=str(column),
            note="",
            value=table.loc[names, column].to_numpy(dtype=float),
            low=missing,
            high=missing,
            points=[np.empty(0)] * len(names),
            lines={} if ceiling is None else {ceiling: float(table.loc[ceiling, column])},
        )
        for column in columns
    ]
    return Rows(names, [ACCENT if name in standing_out else BASELINE for name in names], standing_out), panels


def draw_strip(figure: Figure | SubFigure, rows: Rows, panels: list[Panel], *, n_columns: int) -> np.ndarray:
    """Draw panels into a figure and say in its lower margin what the lines are; returns the axes."""
    from matplotlib.lines import Line2D

    n_rows = -(-len(panels) // n_columns)
    axes = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    for panel, ax in zip(panels, axes.flat, strict=False):
        _draw_panel(ax, rows, panel)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax in axes[:, 0]:
        ax.set_yticks(np.arange(len(rows.names)), rows.names)
        ax.set_ylim(len(rows.names) - 0.4, -0.6)  # the first at the top
        for tick in ax.get_yticklabels():
            if tick.get_text() in rows.highlighted:
                tick.set(color=rows.colours[rows.names.index(tick.get_text())], fontweight="bold")
    drawn = dict.fromkeys(name for panel in panels for name, value in panel.lines.items() if np.isfinite(value))
    line: dict[str, Any] = {"color": INK, "linewidth": 1}
    handles = [Line2D([], [], linestyle=_LINES.get(name, "--"), label=name, **line) for name in drawn]
    if any(len(points) for panel in panels for points in panel.points):
        dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 3, "markeredgewidth": 0}
        handles.append(Line2D([], [], color=MUTED, alpha=0.6, label="one perturbation", **dot))
    if any(not panel.higher_is_better for panel in panels):
        handles.append(Line2D([], [], linestyle="", label="↓ lower is better"))
    if handles:
        room = int(figure.bbox.width / figure.dpi / _LEGEND_INCHES)
        n_entries = min(len(handles), max(room, 1))
        figure.legend(handles=handles, loc="outside lower center", ncols=n_entries, frameon=False, fontsize=7)
    return axes


def _draw_panel(ax: Axes, rows: Rows, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = _limits(panel)
    position = [float(i) for i in range(len(rows.names))]
    ax.hlines(position, low, high, color=FAINT, linewidth=0.5, zorder=0)
    if np.isfinite(panel.chance) and low <= panel.chance <= high:
        ax.axvline(panel.chance, color=MUTED, linewidth=0.6, zorder=0)
    for name, value in panel.lines.items():
        if np.isfinite(value):
            ax.axvline(value, color=INK, linestyle=_LINES.get(name, "--"), linewidth=1, zorder=1)
    rng = np.random.default_rng(0)
    for y, values, colour in zip(position, panel.points, rows.colours, strict=True):
        inside = values[(values >= low) & (values <= high)]
        jitter = rng.uniform(-0.22, 0.22, len(inside))
        ax.scatter(inside, y + jitter, s=5, color=colour, alpha=0.28, linewidths=0, rasterized=True, zorder=2)
    for y, value, start, end, colour in zip(position, panel.value, panel.low, panel.high, rows.colours, strict=True):
        if not np.isfinite(value):
            continue
        if np.isfinite(start) and np.isfinite(end) and start < high and end > low:
            ax.plot(np.clip([start, end], low, high), [y, y], color=colour, linewidth=1.6, zorder=3)
        beyond = value < low or value > high
        marker = "<" if value < low else ">" if value > high else "o"
        style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6, "clip_on": False, "zorder": 4}
        ax.scatter(np.clip(value, low, high), y, marker=marker, s=26 if beyond else 20, color=colour, **style)
        place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "left", "va": "center", "fontsize": 6.5}
        ax.text(1.06, y, _number(value), color=colour, **place)
    ax.set_xlim(low, high)
    ax.set_title("\n".join(textwrap.wrap(panel.title, _TITLE_WIDTH)), fontsize=8, color=INK)
    ax.set_xlabel(panel.note, fontsize=7, color=INK)
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # as many as have room
    ax.tick_params(axis="x", labelsize=7, length=2)
    ax.tick_params(axis="y", labelsize=7.5, length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _number(value: float) -> str:
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return text.replace("-0.00", "0.00").replace("-", "−")  # as the axes write it


def _limits(panel: Panel) -> tuple[float, float]:
    lines = np.array([value for value in panel.lines.values() if np.isfinite(value)])
    return score_limits(
        panel.value,
        np.concatenate([panel.low, panel.high, lines]),
        points=np.concatenate(panel.points),
        chance=panel.chance,
        higher_is_better=panel.higher_is_better,
        ceiling=float(lines.max(initial=0.0)),
    )
