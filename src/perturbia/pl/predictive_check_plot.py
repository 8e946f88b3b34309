"""Statistics of the data against the same statistics of replicated data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import shorten
from perturbia.pl._results import check_result
from perturbia.pl._style import ACCENT, FAINT, INK, MUTED, PALETTE, bare

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from perturbia.tl import PredictiveCheck

__all__ = ["ppc"]

# name → (title, unit of both axes)
_NAMES = {
    "ate": ("average treatment effect", "log1p CP10K"),
    "variance_mean_ratio": ("variance / mean", "counts"),
    "zero_fraction": ("cells without the gene", "share"),
    "library_size": ("library size", "counts per cell"),
    "library_spread": ("spread of library sizes", "sd / mean"),
    "gene_correlation": ("gene-gene correlation", "Pearson's r"),
    "n_de_genes": ("genes that differ from control", "number at FDR .05"),
    "edistance": ("energy distance to control", "on PCs of log1p CP10K"),
}
_LOGARITHMIC = {"variance_mean_ratio"}
_BARS = 60  # more entries than this are drawn without their bands


def ppc(
    result: PredictiveCheck,
    *,
    statistics: Sequence[str] | None = None,
    n_columns: int = 3,
    title: str | None = None,
) -> Figure:
    """Draw a posterior predictive check: one panel a statistic, and the coverage of them all.

    Parameters
    ----------
    result
        Result of :func:`perturbia.tl.posterior_predictive_check`.
    statistics
        Statistics to draw, all by default.
    n_columns
        Panels in a row.
    title
        Title of the figure; by default the model and what was replicated.

    Returns
    -------
    The figure. Points are the entries of a statistic, observed against the mean of the replicates, on the diagonal where
    they agree; coloured where the data lie outside of the 90 % band of the replicates, which is drawn where entries are
    few. The last panel has the share of entries inside the band: 90 % of them if the model is right.

    Raises
    ------
    TypeError
        If `result` is something else.
    KeyError
        If the result has no such statistic.
    ValueError
        If `n_columns` is not positive.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> check = pb.tl.posterior_predictive_check(model, statistics=["ate", "library_size"], n_replicates=19)
    >>> len(pb.pl.ppc(check).axes)
    3
    """
    import matplotlib.pyplot as plt

    check_result(result, "PredictiveCheck")
    summary = result.summary
    names = list(summary.index) if statistics is None else list(statistics)
    if absent := [name for name in names if name not in summary.index]:
        msg = f"statistics: expected names among {shorten(summary.index)}, got {shorten(absent)}."
        raise KeyError(msg)
    if n_columns < 1 or not names:
        msg = f"n_columns, statistics: expected at least one of each, got {n_columns} and {names}."
        raise ValueError(msg)
    n_columns = min(n_columns, len(names) + 1)
    n_rows = -(-(len(names) + 1) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(2.9 * n_columns, 2.9 * n_rows + 0.5), layout="constrained", squeeze=False
    )
    for name, ax in zip(names, axes.flat, strict=False):
        _agreement(ax, result.table[result.table["statistic"] == name], str(name), float(summary.loc[name, "coverage"]))
    _coverage(axes.flat[len(names)], summary.loc[names])
    for ax in axes.flat[len(names) + 1 :]:
        ax.remove()
    states = {"prior": "new cells of the same design", "posterior": "each drawn from its own posterior"}[result.basal]
    default = f"{result.model}: {result.n_replicates} replicates of {result.n_cells:,} cells, {states}"
    figure.suptitle(title or default, fontsize=11, color=INK)
    return figure


def _agreement(ax: Axes, table: pd.DataFrame, name: str, coverage: float) -> None:
    """Observed against replicated entries of one statistic."""
    x, y, low, high = (table[column].to_numpy() for column in ("rep_mean", "observed", "rep_low", "rep_high"))
    outside = (y < low) | (y > high)
    title, unit = _NAMES.get(name, (name, ""))
    lowest, highest = min(x.min(), y.min(), low.min()), max(x.max(), y.max(), high.max())
    if name in _LOGARITHMIC and lowest > 0:
        limits = (lowest / 1.3, highest * 1.3)
        ax.set(xscale="log", yscale="log")
    else:
        pad = 0.05 * (highest - lowest) or 0.5
        limits = (lowest - pad, highest + pad)
    ax.plot(limits, limits, color=MUTED, linewidth=0.8, zorder=1)
    few = len(table) <= _BARS
    # in one cloud: neither colour may hide the other
    colours = np.where(outside, ACCENT, PALETTE[0])
    if few:
        ax.hlines(y, low, high, colors=colours.tolist(), linewidth=1.2, alpha=0.5, zorder=2)
    style: dict[str, Any] = {"linewidths": 0, "rasterized": True, "zorder": 3}
    ax.scatter(x, y, s=16 if few else 5, c=colours, alpha=0.9 if few else 0.5, **style)
    ax.set(xlim=limits, ylim=limits, xlabel="replicates", ylabel="data")
    ax.set_title(f"{title}\n{unit}" if unit else title, fontsize=9, color=INK)
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)
    if ax.get_xscale() == "linear":
        ax.locator_params(nbins=5)
    text = f"{coverage:.0%} of {len(table):,}\nin the band"
    font: dict[str, Any] = {"transform": ax.transAxes, "fontsize": 8, "color": INK, "linespacing": 1.3}
    if np.mean(y > x) > 0.5:  # points fill the upper left
        ax.text(0.97, 0.04, text, ha="right", va="bottom", **font)
    else:
        ax.text(0.04, 0.96, text, ha="left", va="top", **font)
    ax.set_box_aspect(1)
    ax.tick_params(labelsize=8)
    bare(ax)


def _coverage(ax: Axes, summary: pd.DataFrame) -> None:
    """Share of entries inside the 90 % band, statistic by statistic."""
    rows = np.arange(len(summary))[::-1]
    coverage = summary["coverage"].to_numpy()
    ax.axvline(90, color=MUTED, linewidth=0.8, linestyle="--", zorder=1)
    ax.hlines(rows, 0, 100, color=FAINT, linewidth=0.6, zorder=0)
    ax.scatter(100 * coverage, rows, s=22, color=INK, zorder=3, clip_on=False)
    ax.set(xlim=(0, 100), ylim=(-0.6, len(summary) - 0.2), xlabel="% of entries in the 90 % band", xticks=[0, 50, 90])
    # inside, for labels beside the axis would push the panels of its column away from the others
    for row, name in zip(rows, summary.index.astype(str), strict=True):
        ax.text(0, row + 0.1, name.replace("_", " "), va="bottom", fontsize=7.5, color=INK)
    ax.set_yticks([])
    ax.xaxis.label.set_fontsize(9)
    ax.set_title("coverage\n90 % if the model is right", fontsize=9, color=INK)
    ax.set_box_aspect(1)
    ax.tick_params(axis="x", labelsize=8)
    bare(ax)
    ax.spines["left"].set_visible(False)
