"""Predicted against observed effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import _keys
from perturbia.errors import FeatureMismatch, ScaleError
from perturbia.pl._methods import first_model
from perturbia.pl._style import COUNT_SCALES, FAINT, INK, MUTED, bare, colours_of, new_axes, unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

    from perturbia.tl import EvaluationResult

__all__ = ["scatter_effects"]


def scatter_effects(
    predicted: EvaluationResult | AnnData,
    observed: AnnData | None = None,
    *,
    model: str | None = None,
    highlight: Sequence[str] = (),
    legend: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Scatter of predicted against observed effects, one point for each perturbation and feature.

    Parameters
    ----------
    predicted
        Result of :func:`perturbia.tl.evaluate`, or effects of a model, such as the result of `estimate_ate`.
    observed
        Effects of cells, :func:`perturbia.tl.effects`, of the same features; perturbations of both are drawn. Not with a
        result, which has its own.
    model
        Method of the result, by default its first model.
    highlight
        Perturbations to colour, eight at the most, the most important first; names that are not drawn are passed over.
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
    ValueError
        If the result has no such method.
    TypeError
        If `observed` is missing, or given beside a result.

    Examples
    --------
    >>> import perturbia as pb
    >>> observed = pb.tl.effects(pb.datasets.papalexi(), layer="counts")
    >>> ax = pb.pl.scatter_effects(observed, observed, highlight=["STAT1"])
    >>> ax.texts[0].get_text().splitlines()[0]
    'r = 1.000'
    """
    from perturbia.metrics import effect_correlation, effect_r2

    name, predicted, observed = _pair(predicted, observed, model)
    x, y, labels, n_left_out = _aligned(predicted, observed)
    ax = new_axes(ax, size=(3.6, 3.6))
    low, high = min(x.min(), y.min(), 0.0), max(x.max(), y.max(), 1e-6)
    limits = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.plot(limits, limits, color=MUTED, linewidth=0.8, zorder=1)
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    ax.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    colours = colours_of([one for one in dict.fromkeys(highlight) if (labels == one).any()])
    coloured = np.isin(labels, list(colours))
    style: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    ax.scatter(x[~coloured].ravel(), y[~coloured].ravel(), s=5, c="#b0b0b0", alpha=0.6, zorder=2, **style)
    for i, (one, colour) in enumerate(colours.items()):
        rows = labels == one
        # the first of them is the one to see: it lies on top
        ax.scatter(x[rows].ravel(), y[rows].ravel(), s=9, c=colour, alpha=0.85, zorder=4 - i / len(colours), **style)
        if legend:
            ax.scatter([], [], s=16, c=colour, label=one)
    text = f"r = {effect_correlation(y, x):.3f}\nR² = {effect_r2(y, x):.3f}".replace("-", "−")  # as the axes write it
    if n_left_out:
        text += f"\n{n_left_out} without effects left out"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1}
    ax.text(0.04, 0.97, text, transform=ax.transAxes, va="top", fontsize=8, color=INK, bbox=box, zorder=6)
    scale = predicted.uns.get(_keys.UNS_RESULT, {}).get("scale", "")
    unit = f" ({unit_of(scale)})" if scale else ""
    ax.set(xlim=limits, ylim=limits)
    ax.set_xlabel(f"predicted effect{unit}", fontsize=8)
    ax.set_ylabel(f"observed effect{unit}", fontsize=8)
    ax.set_title(title or name, fontsize=9, color=INK)
    ax.locator_params(nbins=5)
    ax.tick_params(labelsize=7.5)
    ax.set_box_aspect(1)
    bare(ax)
    if colours and legend:
        ax.legend(loc="lower right", fontsize=7, frameon=False, handletextpad=0.1, borderpad=0)
    return ax


def _pair(
    predicted: EvaluationResult | AnnData, observed: AnnData | None, model: str | None
) -> tuple[str, AnnData, AnnData]:
    """Name of the method, its effects, observed effects."""
    if hasattr(predicted, "effects") and hasattr(predicted, "observed"):
        if observed is not None:
            msg = "observed: expected none beside an evaluation, which has observed effects, got some. Leave it out."
            raise TypeError(msg)
        name = first_model(predicted, model)
        return name, predicted.effects[name], predicted.observed
    if observed is None or model is not None:
        msg = (
            f"observed, model: expected observed effects and no model beside predicted effects, got {observed!r} and "
            f"{model!r}. Pass the result of an evaluation, or two AnnData."
        )
        raise TypeError(msg)
    return predicted.uns.get(_keys.UNS_RESULT, {}).get("model", "prediction"), predicted, observed


def _aligned(predicted: AnnData, observed: AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Effects of the perturbations that both have, their names, and how many have none."""
    known = set(predicted.obs_names)
    both = [name for name in observed.obs_names if name in known]
    if not both or list(predicted.var_names) != list(observed.var_names):
        msg = (
            f"predicted, observed: expected the same features and shared perturbations, got {predicted.shape} and "
            f"{observed.shape} with {len(both)} shared perturbations."
        )
        raise FeatureMismatch(msg)
    scales = [effects.uns.get(_keys.UNS_RESULT, {}).get("scale") for effects in (predicted, observed)]
    if set(scales) <= COUNT_SCALES and scales[0] != scales[1]:
        msg = f"predicted, observed: expected effects of one scale, got {scales[0]!r} and {scales[1]!r}. Ask for one scale."
        raise ScaleError(msg)
    x, y = np.asarray(predicted[both].X, np.float64), np.asarray(observed[both].X, np.float64)
    # a perturbation judged in several contexts has several rows
    obs = observed.obs.loc[both]
    labels = obs[_keys.OBS_PERTURBATION] if "context" in obs and _keys.OBS_PERTURBATION in obs else obs.index
    finite = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    if not finite.any():
        msg = "predicted, observed: expected finite effects, got none of any perturbation."
        raise ValueError(msg)
    return x[finite], y[finite], np.asarray(labels, dtype=str)[finite], int((~finite).sum())
