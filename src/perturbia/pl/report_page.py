"""An evaluation on one page."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.pl._methods import (
    best_baselines,
    check_names,
    first_model,
    per_perturbation,
)
from perturbia.pl._paired_scores import draw_pairs
from perturbia.pl._style import INK
from perturbia.pl.effect_agreement import scatter_effects
from perturbia.pl.retrieval_grid import retrieval_matrix
from perturbia.pl.score_strip import draw_strip, leading_measures, panels_of_result
from perturbia.pl.stratum_lines import strata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from perturbia.tl import EvaluationResult

__all__ = ["report"]

LEGEND_WIDTH = 36  # letters
_HEADLINE = ("correlation", "correlation_systema", "r2", "rmse", "retrieval_cosine", "edistance")
_N_HEADLINE = 5
_WIDTH = 11.0
_LETTERS_A_LINE = 190
_TITLE_WIDTH = 22


def report(
    result: EvaluationResult,
    *,
    model: str | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    metrics: Sequence[str] | None = None,
    context: str | None = None,
    title: str | None = None,
) -> Figure:
    """One page on how a model was judged: scores, effects, retrieval, strata, and the comparison that matters.

    Parameters
    ----------
    result
        Result of :func:`perturbia.tl.evaluate`.
    model
        The method to look at, by default the first model.
    baseline
        Whom it is compared with, by default the baseline of the best mean `metric`, the hardest to beat; where no baseline
        was evaluated, the next method, if there is one.
    metric
        Measure of strata and comparison, one with a score for each perturbation; by default ``"correlation"``, or the
        first.
    metrics
        Measures of the strip; by default five that show pattern, size and identity of effects.
    context
        Context of the retrieval matrix, by default the first.
    title
        Title; by default what was judged.

    Returns
    -------
    The figure. Panels: **a** scores of every method (:func:`metric_strip`); **b** groups of perturbations
    (:func:`strata`); **c**, **d** predicted against observed effects of the model and of its rival
    (:func:`scatter_effects`); **e** both on the same perturbations, with the names of the largest differences; **f**
    whether predictions are nearest to their own observed effect (:func:`retrieval_matrix`). Panels that have nothing to
    show, such as **d** and **e** without a rival or **f** with one perturbation, are left out. The foot of the page says
    what to know before quoting it.

    Raises
    ------
    ValueError
        If a method, measure or context is unknown; the message has the nearest names.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=8, n_genes=30, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Ridge(adata)
    >>> model.train()
    >>> result = pb.tl.evaluate(model, adata, baselines=["Mean", "Additive"])
    >>> figure = pb.pl.report(result)
    >>> figure.get_suptitle().split(":")[0]
    'Ridge'
    """
    import matplotlib.pyplot as plt

    name = first_model(result, model)
    metric = per_perturbation(result, metric)
    rival = _rival(result, name, baseline, metric)
    if context is not None:
        contexts = result.observed.obs["context"].astype(str).unique()
        check_names(context, contexts, argument="context", of="contexts of this evaluation")
    rows, panels = panels_of_result(result, metrics=_headline(result) if metrics is None else metrics, models=None)
    n_columns = min(len(panels), _N_HEADLINE)
    strip_height = (0.16 * len(rows.names) + 0.95) * -(-len(panels) // n_columns) + 0.3
    foot = _foot(result, chosen=rival if rival in result.names("baseline") and baseline is None else None)
    heights = [max(strip_height, 2.4), 3.1, 0.13 * (1 + foot.count("\n")) + 0.06]
    figure = plt.figure(figsize=(_WIDTH, sum(heights) + 0.3), layout="constrained")
    above, below, end = figure.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]
    left, right = above.subfigures(1, 2, width_ratios=[0.68, 0.32], squeeze=False)[0]
    first = draw_strip(left, rows, panels, n_columns=n_columns)[0, 0]
    strata_axes = right.subplots()
    own = [one for one in result.names("model") if one != name]
    shown = [one for one in [name, *own, rival, *best_baselines(result, metric, n=2)] if one is not None]
    shown = list(dict.fromkeys(shown))[: max(len(own) + 3, 2)]
    strata(result, metric=metric, models=shown, legend=False, ax=strata_axes)
    _legend_below(right, strata_axes)
    lettered = [first, strata_axes, *_draw_below(below, result, name, rival, metric, context)]
    for letter, ax in zip("abcdef", lettered, strict=False):
        _letter(ax, letter)
    figure.suptitle(title or _what_was_judged(result, name), fontsize=10.5, color=INK)
    end.text(0.01, 0.95, foot, fontsize=7, color=INK, va="top")
    return figure


def _draw_below(
    figure: SubFigure, result: EvaluationResult, name: str, rival: str | None, metric: str, context: str | None
) -> list[Axes]:
    """The lower row: as many panels as have something to show."""
    observed = np.asarray(result.observed.X, dtype=float)
    finite = np.isfinite(observed).all(axis=1) & np.isfinite(np.asarray(result.effects[name].X, float)).all(axis=1)
    where = result.observed.obs["context"].astype(str)
    enough = finite & (where == (context if context is not None else where.iloc[0])).to_numpy()
    panels = ["scatter"] if finite.any() else []
    panels += ["rival", "pairs"] if rival is not None else []
    panels += ["retrieval"] if enough.sum() >= 2 else []
    ratios = [1.45 if panel == "retrieval" else 1.0 for panel in panels]
    # a page of one or two panels does not stretch them
    ratios += [max(4.4 - sum(ratios), 0.0)] if sum(ratios) < 4 else []
    axes = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for panel, ax in zip(panels, axes, strict=False):
        if panel == "retrieval":
            retrieval_matrix(result, model=name, context=context, ax=ax)
            ax.set_title(ax.get_title().replace(": ", ":\n"), fontsize=8, color=INK)
        elif panel == "pairs":
            draw_pairs(ax, result, model=name, other=str(rival), metric=metric)
        else:
            one = name if panel == "scatter" else str(rival)
            scatter_effects(result, model=one, title=textwrap.fill(one, _TITLE_WIDTH), ax=ax)
    _share_limits([ax for panel, ax in zip(panels, axes, strict=False) if panel in {"scatter", "rival"}])
    return list(axes[: len(panels)])


def _share_limits(axes: list[Axes]) -> None:
    """Equal effects look equal in all of them."""
    if axes:
        low, high = min(ax.get_xlim()[0] for ax in axes), max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set(xlim=(low, high), ylim=(low, high))
        ax.lines[0].set_data([low, high], [low, high])


def _letter(ax: Axes, letter: str) -> None:
    """The name of a panel, above its left corner and clear of its title."""
    style: dict[str, Any] = {
        "fontsize": 11,
        "fontweight": "bold",
        "color": INK,
        "ha": "right",
        "annotation_clip": False,
    }
    ax.annotate(letter, (0, 1), (-22, 9), xycoords="axes fraction", textcoords="offset points", **style)


def _legend_below(figure: SubFigure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    # ceilings are in the legend of the strip
    own = [
        (handle, label) for handle, label in zip(handles, labels, strict=True) if not hasattr(handle, "get_segments")
    ]
    # a row of them fits the panel only if names are short
    ncols = len(own) if sum(len(label) for _, label in own) <= LEGEND_WIDTH else 2
    figure.legend(
        *zip(*own, strict=True), loc="outside lower center", ncols=ncols, frameon=False, fontsize=7, handlelength=1.2
    )


def _rival(result: EvaluationResult, name: str, baseline: str | None, metric: str) -> str | None:
    if baseline is not None:
        return check_names(baseline, result.effects, argument="baseline", of="methods of this evaluation")[0]
    others = [one for one in best_baselines(result, metric, n=2) if one != name]
    others += [one for one in result.effects if one != name]
    return others[0] if others else None


def _headline(result: EvaluationResult) -> list[str]:
    known = leading_measures(result, n=len(result.metrics))
    chosen = [metric for metric in _HEADLINE if metric in known]
    chosen += [metric for metric in known if metric not in chosen]
    return chosen[:_N_HEADLINE]


def _what_was_judged(result: EvaluationResult, name: str) -> str:
    info = result.info
    n = info["n_perturbations"]
    contexts = f" in {info['n_contexts']} contexts" if info["n_contexts"] else ""
    return (
        f"{name}: {n} perturbation{'' if n == 1 else 's'}{contexts} × {info['n_genes']:,} genes, "
        f"{info['n_judging_cells']:,} held-out cells (protocol {info['protocol']}, split {info['axis']})"
    )


def _foot(result: EvaluationResult, *, chosen: str | None) -> str:
    from perturbia.tl._evaluation.display import cautions

    confidence = f"{result.info['confidence']:.0%}"
    sentences = [f"Means over perturbations with {confidence} bootstrap intervals."]
    if chosen:
        sentences.append(f"{chosen} was chosen because it scores best here: the comparison is the hardest there is.")
    sentences += cautions(result)
    return "\n".join(textwrap.wrap(" ".join(sentences), _LETTERS_A_LINE))
