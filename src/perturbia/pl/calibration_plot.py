"""Stated uncertainty of effects against their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from perturbia.pl._results import check_result
from perturbia.pl._style import ACCENT, INK, MUTED, PALETTE, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from perturbia.tl import Calibration

__all__ = ["calibration"]

_UNITS = {"log1p_cp10k": "log1p CP10K"}
_MOST = 8  # as many colours can be told apart


def calibration(
    result: Calibration | Mapping[str, Calibration], *, n_labels: int = 5, title: str | None = None
) -> Figure:
    """Draw the calibration of one model, or of some beside one another.

    Parameters
    ----------
    result
        Result of :func:`perturbia.tl.calibration`, or several under their names, eight at the most.
    n_labels
        Perturbations to name in the last panel, those with the largest errors; none for several models.
    title
        Title of the figure.

    Returns
    -------
    The figure, with three panels: coverage of intervals (shaded: 95 % bootstrap interval over perturbations; dotted: the
    measuring error alone), the error of the most certain effects (dotted: the best choice that could be made), and the
    error of each perturbation against the error to expect from stated uncertainty and measuring error.

    Raises
    ------
    TypeError
        If `result` is something else.
    ValueError
        If there are no results, more than eight, or effects on different scales.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.tl.split(adata, axis="random", fraction=0.5)
    >>> pb.model.JamesStein.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.JamesStein(adata)
    >>> model.train()
    >>> len(pb.pl.calibration(pb.tl.calibration(model)).axes)
    3
    """
    import matplotlib.pyplot as plt

    for one in result.values() if isinstance(result, Mapping) else [result]:
        check_result(one, "Calibration")
    results = dict(result) if isinstance(result, Mapping) else {result.model: result}
    if not 1 <= len(results) <= _MOST:
        msg = f"result: expected one to {_MOST} results, got {len(results)}."
        raise ValueError(msg)
    scales = {one.scale for one in results.values()}
    if len(scales) > 1:
        msg = f"result: expected effects of one scale, got {sorted(scales)}."
        raise ValueError(msg)
    scale = scales.pop()
    unit = _UNITS.get(scale, scale)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.5 if title or len(results) == 1 else 3.3), layout="constrained")
    shades = [ACCENT, *(colour for colour in PALETTE if colour != ACCENT)]  # the first is the model, as elsewhere
    colours = dict(zip(results, shades, strict=False))
    for name, one in results.items():
        _coverage(axes[0], one, name, colours[name])
        _selection(axes[1], one, name, colours[name])
        _errors(axes[2], one, name, colours[name])
    axes[0].plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, zorder=1)
    axes[0].set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal coverage", ylabel="share of held-out effects inside")
    axes[0].set_title("intervals", fontsize=10, color=INK)
    axes[1].set(xlim=(0, 1), xlabel="share of effects kept, most certain first", ylabel=f"RMSE of the kept ({unit})")
    axes[1].set_ylim(0, 1.25 * axes[1].get_ylim()[1])  # room for the legend
    axes[1].set_title("selection", fontsize=10, color=INK)
    axes[2].set(xlabel=f"expected RMSE ({unit})", ylabel=f"RMSE ({unit})")
    axes[2].set_title("perturbations", fontsize=10, color=INK)
    _name_worst(axes[2], next(iter(results.values())), n_labels if len(results) == 1 else 0)
    for ax in axes:
        ax.set_box_aspect(1)
        ax.tick_params(labelsize=8)
        ax.xaxis.label.set_fontsize(9)
        ax.yaxis.label.set_fontsize(9)
        bare(ax)
    axes[0].plot([], [], color=MUTED, linewidth=1.0, linestyle=":", label="measuring error alone")
    axes[1].plot([], [], color=MUTED, linewidth=1.4, label="by stated uncertainty")
    axes[1].plot([], [], color=MUTED, linewidth=1.0, linestyle=":", label="by true error")
    handles = axes[1].get_legend_handles_labels()
    axes[0].legend(loc="upper left", fontsize=7.5, frameon=False, handlelength=1.4)
    axes[1].legend(*(part[-2:] for part in handles), loc="upper left", fontsize=7.5, frameon=False, handlelength=1.4)
    if title or len(results) == 1:
        figure.suptitle(title or next(iter(results)), fontsize=11, color=INK)
    return figure


def _coverage(ax: Axes, result: Calibration, name: str, colour: str) -> None:
    table = result.coverage.sort_values("nominal")
    nominal = table["nominal"].to_numpy()
    ax.plot(nominal, table["noise_only"], color=colour, linewidth=1.0, linestyle=":", zorder=2)
    if table["lower"].notna().all():
        ax.fill_between(nominal, table["lower"], table["upper"], color=colour, alpha=0.15, linewidth=0, zorder=1)
    ax.plot(nominal, table["empirical"], color=colour, linewidth=1.4, marker="o", markersize=3, label=name, zorder=3)


def _selection(ax: Axes, result: Calibration, name: str, colour: str) -> None:
    table = result.selection[result.selection["unit"] == "entry"]
    ax.plot(table["kept"], table["best"], color=colour, linewidth=1.0, linestyle=":", zorder=2)
    ax.plot(table["kept"], table["rmse"], color=colour, linewidth=1.4, label=name, zorder=3)


def _errors(ax: Axes, result: Calibration, name: str, colour: str) -> None:
    table = result.perturbations
    ax.scatter(_expected(result), table["rmse"], s=18, color=colour, alpha=0.85, linewidths=0, label=name, zorder=3)


def _expected(result: Calibration) -> np.ndarray:
    return np.hypot(result.perturbations["sd"], result.perturbations["se_observed"]).to_numpy()


def _name_worst(ax: Axes, result: Calibration, n_labels: int) -> None:
    """Diagonal and limits of the last panel, and the names of the largest errors."""
    points = np.concatenate([np.asarray(part.get_offsets()) for part in ax.collections])
    low, high = points.min(), points.max()
    limits = (max(0.0, low - 0.08 * (high - low)), high + 0.08 * (high - low) or 1.0)
    ax.plot(limits, limits, color=MUTED, linewidth=0.8, zorder=1)
    ax.set(xlim=limits, ylim=limits)
    ax.locator_params(nbins=5)
    table = result.perturbations
    expected = _expected(result)
    for i in np.argsort(-table["rmse"].to_numpy(), kind="stable")[: max(n_labels, 0)]:
        place = (expected[i], table["rmse"].iloc[i])
        ax.annotate(
            str(table.index[i]), place, xytext=(4, 0), textcoords="offset points", va="center", fontsize=7, color=INK
        )
