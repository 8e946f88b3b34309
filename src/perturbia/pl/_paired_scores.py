"""Two methods on the same perturbations, one point each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.pl._methods import measure_title, method_colours, unit_of_measure
from perturbia.pl._point_names import name_points
from perturbia.pl._score_axis import score_limits
from perturbia.pl._style import ACCENT, INK, MUTED, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from perturbia.tl import EvaluationResult

__all__ = ["draw_pairs"]

_N_NAMES = 8
_LONGEST = 28  # letters of a label of the axes


def draw_pairs(ax: Axes, result: EvaluationResult, *, model: str, other: str, metric: str) -> None:
    """Scores of `model` against those of `other`; on the diagonal they are equal.

    Parameters
    ----------
    ax
        Axes to draw into.
    result
        The evaluation.
    model, other
        Two methods.
    metric
        A measure with one score a perturbation. Perturbations that it is not defined for are not drawn, and counted.
    """
    values = result.values(metric)[[other, model]]
    defined = values.notna().all(axis=1).to_numpy()
    x, y = values[defined].to_numpy(dtype=float).T
    higher = bool(result.metrics.loc[metric, "higher_is_better"])
    limits = score_limits(
        np.array([x.mean(), y.mean()]) if len(x) else np.empty(0),
        np.concatenate([x, y]),
        chance=float(result.metrics.loc[metric, "chance"]),
        higher_is_better=higher,
        ceiling=float(np.max([*x, *y], initial=0.0)),
        show_chance=False,
    )
    ax.plot(limits, limits, color=MUTED, linewidth=0.8, zorder=1)
    gain = (y - x) if higher else (x - y)
    colours = method_colours(result)
    mine, theirs = colours[model], colours[other] if colours[other] != colours[model] else MUTED
    at = np.clip(np.column_stack([x, y]), *limits)
    shades = np.where(gain > 0, mine, np.where(gain < 0, theirs, MUTED))
    style: dict[str, Any] = {"linewidths": 0.4, "edgecolors": "white", "zorder": 3, "clip_on": False}
    ax.scatter(at[:, 0], at[:, 1], s=18, c=shades, **style)
    ax.set(xlim=limits, ylim=limits)
    _describe(ax, result, metric, model, other, n=len(x), n_undefined=int((~defined).sum()))
    ax.set_box_aspect(1)
    ax.locator_params(nbins=4)
    ax.tick_params(labelsize=7.5)
    bare(ax)
    order = np.argsort(-np.abs(gain), kind="stable")
    index = values.index[defined][order]
    names = [f"{name} in {context}" if context else str(name) for name, context in index]
    n_named = int((np.abs(gain) > 0).sum())
    name_points(ax, at[order, 0], at[order, 1], names[: min(n_named, _N_NAMES)])


def _describe(
    ax: Axes, result: EvaluationResult, metric: str, model: str, other: str, *, n: int, n_undefined: int
) -> None:
    """Names of both axes, and the paired comparison over them."""
    found = result.compare(model, other, metrics=[metric]).loc[metric] if n else None
    unit = unit_of_measure(result, metric)
    what = f"{measure_title(result, metric)}{f', {unit}' if unit else ''}"
    break_at = "\n" if len(what) + max(len(model), len(other)) > _LONGEST else " "
    ax.set_xlabel(f"{other}{break_at}({what})", fontsize=8)
    ax.set_ylabel(f"{model}{break_at}({what})", fontsize=8)
    colours = method_colours(result)
    ax.yaxis.label.set_color(colours.get(model, ACCENT))
    text = "no perturbation with both scores"
    if found is not None:
        p_value = f", p = {found['p_value']:.2g}" if np.isfinite(found["p_value"]) else ""
        interval = f" [{found['low']:.3f}, {found['high']:.3f}]" if np.isfinite(found["low"]) else ""
        text = f"better for {100 * found['share_better']:.0f} % of {n}{p_value}\n"
        text += f"difference {found['difference']:.3f}{interval}".replace("-", "−")  # as the axes write it
    if n_undefined:
        text += f"\n{n_undefined} without a score left out"
    ax.set_title(text, fontsize=7, color=INK)
