"""Predicted against observed effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import _keys
from perturbia.errors import FeatureMismatch, ScaleError
from perturbia.pl._style import FAINT, INK, MUTED, bare, colours_of, new_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["effect_scatter"]

_UNITS = {"log1p_cp10k": "log1p CP10K", "perturbseq": "log2(CP10K + 1)", "counts": "counts"}
_COUNT_SCALES = frozenset(_UNITS)


def effect_scatter(
    predicted: AnnData,
    observed: AnnData,
    *,
    highlight: Sequence[str] = (),
    legend: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Scatter of predicted against observed effects, one point for each perturbation and feature.

    Parameters
    ----------
    predicted
        Effects of a model, such as the result of `estimate_ate`.
    observed
        Effects of cells, :func:`perturbia.tl.effects`, of the same features. Perturbations of both are drawn.
    highlight
        Perturbations to colour, eight at the most, the most important first.
    legend
        Name them in a legend.
    title
        Title; by default the name of the model.
    ax
        Axes to draw into.

    Returns
    -------
    The axes, with Pearson's r and R² over all points written into them.

    Raises
    ------
    FeatureMismatch
        If features differ, or no perturbation is in both.
    ScaleError
        If the two are effects on different scales of counts.

    Examples
    --------
    >>> import perturbia as pb
    >>> observed = pb.tl.effects(pb.datasets.papalexi(), layer="counts")
    >>> ax = pb.pl.effect_scatter(observed, observed, highlight=["STAT1"])
    >>> ax.texts[0].get_text().splitlines()[0]
    'r = 1.000'
    """
    from perturbia.metrics import effect_correlation, effect_r2

    both = [name for name in observed.obs_names if name in set(predicted.obs_names)]
    if not both or list(predicted.var_names) != list(observed.var_names):
        msg = (
            f"predicted, observed: expected the same features and shared perturbations, got {predicted.shape} and "
            f"{observed.shape} with {len(both)} shared perturbations."
        )
        raise FeatureMismatch(msg)
    scales = [effects.uns.get(_keys.UNS_RESULT, {}).get("scale") for effects in (predicted, observed)]
    if set(scales) <= _COUNT_SCALES and scales[0] != scales[1]:
        msg = f"predicted, observed: expected effects of one scale, got {scales[0]!r} and {scales[1]!r}. Ask for one scale."
        raise ScaleError(msg)
    x, y = np.asarray(predicted[both].X, np.float64), np.asarray(observed[both].X, np.float64)
    ax = new_axes(ax, size=(4.4, 4.4))
    low, high = min(x.min(), y.min(), 0.0), max(x.max(), y.max(), 1e-6)
    limits = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.plot(limits, limits, color=MUTED, linewidth=0.8, zorder=1)
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    ax.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    coloured = np.isin(both, list(highlight))
    style: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    ax.scatter(x[~coloured].ravel(), y[~coloured].ravel(), s=5, c="#b0b0b0", alpha=0.6, zorder=2, **style)
    colours = colours_of([name for name in highlight if name in both])
    for name, colour in colours.items():
        row = both.index(name)
        # the first of them is the one to see: it lies on top
        ax.scatter(
            x[row], y[row], s=9, c=colour, alpha=0.85, zorder=4 - list(colours).index(name) / len(colours), **style
        )
        if legend:
            ax.scatter([], [], s=16, c=colour, label=name)
    scores = f"r = {effect_correlation(y, x):.3f}\nR² = {effect_r2(y, x):.3f}"
    ax.text(0.04, 0.96, scores, transform=ax.transAxes, va="top", fontsize=9, color=INK)
    metadata = predicted.uns.get(_keys.UNS_RESULT, {})
    scale = metadata.get("scale", "")
    unit = f" ({_UNITS.get(scale, scale)})" if scale else ""
    ax.set(xlim=limits, ylim=limits, xlabel=f"predicted effect{unit}", ylabel=f"observed effect{unit}")
    ax.set_title(title or metadata.get("model", "prediction"), fontsize=10, color=INK)
    ax.set_aspect("equal")
    bare(ax)
    if coloured.any() and legend:
        ax.legend(loc="lower right", fontsize=7, frameon=False, handletextpad=0.1, borderpad=0)
    return ax
