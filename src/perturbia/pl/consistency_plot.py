"""How alike replicates are: cosines of same and of different perturbations, and the perturbations in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.pl._style import ACCENT, BASELINE, FAINT, INK, MUTED, bare

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from perturbia.metrics import ReplicateConsistency

__all__ = ["consistency"]

_LINE = 0.055  # of the height of the axes, between two names
_STEPS = 2000  # points of a curve, more than an axis can show


def consistency(
    result: ReplicateConsistency,
    *,
    n_labels: int = 5,
    level: float = 0.05,
    title: str | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw the consistency of replicates: distributions of cosines, and every perturbation by rank.

    Parameters
    ----------
    result
        Result of :func:`perturbia.metrics.replicate_consistency`.
    n_labels
        Perturbations to name, those that are most consistent.
    level
        Perturbations with a `q_value` of at most this are coloured.
    title
        Title of the left axes; by default what is compared.
    ax
        Two axes to draw into; by default those of a new figure.

    Returns
    -------
    Both axes. Left: the distribution functions of cosines of pairs of the same and of different perturbations; the vertical
    line is where they are furthest apart, the Kolmogorov-Smirnov distance. Right: the mean cosine of each perturbation, the
    largest first, and as a line what random rows in their place have on average.

    Raises
    ------
    TypeError
        If `result` is something else, or `ax` not two axes.

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> genes = np.repeat([f"G{i}" for i in range(20)], 4)
    >>> profiles = np.repeat(rng.normal(size=(20, 30)), 4, axis=0) + rng.normal(size=(80, 30))
    >>> axes = pb.pl.consistency(pb.metrics.replicate_consistency(profiles, genes))
    >>> [ax.get_xlabel() for ax in axes]
    ['cosine of two rows', 'perturbations, by consistency']
    """
    from perturbia.metrics import ReplicateConsistency

    if not isinstance(result, ReplicateConsistency):
        msg = (
            f"result: expected the result of perturbia.metrics.replicate_consistency, got {type(result).__name__}. "
            "Make one with it."
        )
        raise TypeError(msg)
    left, right = _two_axes(ax)
    _draw_distributions(left, result)
    scored = result.table.dropna(subset="consistency")
    _draw_ranks(right, scored, level, n_labels)
    default = f"replicates of {len(scored):,} perturbations against others"
    for axes, text in ((left, default if title is None else title), (right, "consistency of each")):
        axes.set_title(text, fontsize=10, color=INK, pad=35)  # above the legend
    for axes in (left, right):
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        bare(axes)
    return [left, right]


def _two_axes(ax: Sequence[Axes] | None) -> list[Axes]:
    if ax is None:
        import matplotlib.pyplot as plt

        return list(plt.subplots(1, 2, figsize=(8.2, 3.7), layout="constrained")[1])
    axes = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != 2 or not all(hasattr(one, "plot") for one in axes):
        msg = f"ax: expected two axes, got {len(axes)}. Make them with matplotlib.pyplot.subplots(1, 2)."
        raise TypeError(msg)
    return axes


def _draw_distributions(ax: Axes, result: ReplicateConsistency) -> None:
    """Both distribution functions, and the distance between them."""
    heights = []
    same, different = result.same_cosines, result.different_cosines
    samples = {
        "different perturbations": (different, result.different_weights, MUTED),
        "same perturbation": (same, np.full(len(same), 1.0 / max(len(same), 1)), ACCENT),
    }
    ends = [
        float(limit([limit(cosines) for cosines, *_ in samples.values() if len(cosines)])) for limit in (np.min, np.max)
    ]
    for name, (cosines, weights, colour) in samples.items():
        if not len(cosines):
            continue
        order = np.argsort(cosines, kind="stable")
        ordered, below = cosines[order], np.concatenate([[0.0], np.cumsum(weights[order])])
        shown = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _STEPS)).astype(int))
        share = np.concatenate([[0.0], below[shown + 1], [1.0]])
        style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "drawstyle": "steps-post"}
        ax.plot(np.r_[ends[0], ordered[shown], ends[1]], share, label=f"{name} ({len(ordered):,} pairs)", **style)
        heights.append(below[np.searchsorted(ordered, result.ks_location, side="right")])
    if np.isfinite(result.ks) and len(heights) == 2:
        ax.plot([result.ks_location] * 2, heights, color=INK, linewidth=1.0)
        # above both curves, which only rise
        place: dict[str, Any] = {"xytext": (-4, 2), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        ax.annotate(f"KS {result.ks:.2f}", (result.ks_location, max(heights)), fontsize=8.5, color=INK, **place)
    where = "two rows of different batches" if result.across else "two rows"
    ax.set(xlabel=f"cosine of {where}", ylabel="share of pairs up to it", ylim=(-0.03, 1.1))
    _legend(ax, n_columns=1)


def _legend(ax: Axes, *, n_columns: int) -> None:
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": n_columns}
    ax.legend(**place, fontsize=7.5, frameon=False, handlelength=1.2)


def _draw_ranks(ax: Axes, table: pd.DataFrame, level: float, n_labels: int) -> None:
    """Perturbations by consistency, in colour where it is significant."""
    table = table.sort_values("consistency", ascending=False, kind="stable")
    rank, value = np.arange(1, len(table) + 1), table["consistency"].to_numpy()
    found = (table["q_value"] <= level).to_numpy()
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    ax.axhline(table["null_mean"].mean(), color=INK, linewidth=1.0, linestyle=":", zorder=1, label="random rows, mean")
    size = float(np.clip(2000 / len(table), 4, 20))
    for mask, colour, name in ((found, ACCENT, f"q ≤ {level:g}"), (~found, BASELINE, f"q > {level:g}")):
        if mask.any():
            label = f"{name}: {mask.sum()} of {len(table)}"
            ax.scatter(rank[mask], value[mask], s=size, color=colour, linewidths=0, alpha=0.9, label=label, zorder=3)
    _name_first(ax, value, table.index[: max(n_labels, 0)], reach=0.07 * len(table))
    ax.set(xlabel="perturbations, by consistency", ylabel="mean cosine of replicates")
    _legend(ax, n_columns=2)


def _name_first(ax: Axes, value: np.ndarray, names: pd.Index, *, reach: float) -> None:
    """Names of the first perturbations, one below the other, with lines to their points."""
    low, high = ax.get_ylim()
    place: dict[str, Any] = {"fontsize": 7, "va": "center", "color": INK}
    gap = _LINE * (high - low)
    flat = len(value) and value[0] - value[min(int(3 * reach), len(value) - 1)] < gap  # names would hide other points
    height = value[0] - 0.5 * gap if flat else np.inf
    for i, name in enumerate(names):
        height = min(value[i], height - gap)
        x = reach + (len(names) if flat else i + 1)
        line: dict[str, Any] = {
            "arrowstyle": "-",
            "color": MUTED,
            "linewidth": 0.5,
            "shrinkA": 0,
            "shrinkB": 2,
            "relpos": (0, 0.5),
        }
        ax.annotate(str(name), (i + 1, value[i]), xytext=(x, height), arrowprops=line, **place)
