"""Whether a predicted effect is nearest to the observed effect of its own perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbia import _keys
from perturbia.pl._methods import check_names, first_model
from perturbia.pl._style import ACCENT, FAINT, INK, MUTED, new_axes, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from perturbia.tl import EvaluationResult

__all__ = ["retrieval_matrix"]

_METRICS = {
    "cosine": "cosine",
    "pearson": "Pearson's r",
    "l1": "mean absolute difference",
    "l2": "root mean squared difference",
}
_SIMILARITIES = ("cosine", "pearson")
_LONGEST = 20  # letters of a name
_SMALLEST = 5.0  # points, of letters


def retrieval_matrix(
    result: EvaluationResult,
    *,
    model: str | None = None,
    metric: Literal["cosine", "pearson", "l1", "l2"] = "cosine",
    context: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Matrix of predicted (rows) against observed effects (columns), and the rank of the own one.

    Parameters
    ----------
    result
        Result of :func:`perturbia.tl.evaluate`.
    model
        Method, by default the first model.
    metric
        Similarity (``"cosine"``, ``"pearson"``: 0 for a prediction without direction) or distance over genes.
    context
        The context to draw, by default the first: perturbations compete within their context.
    title
        Title; by default the method and how many of its predictions are nearest to their own observed effect.
    ax
        Axes to draw into.

    Returns
    -------
    The axes. Perturbations are in the order of a clustering of observed effects (average linkage), names thin out when
    there are many. The own column is outlined, and the strip to the right has its rank among all columns: 1 is the
    nearest, chance is the dashed middle.

    Raises
    ------
    ValueError
        If method, metric or context is unknown, or fewer than two perturbations have effects.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=6, n_genes=30, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Ridge(adata)
    >>> model.train()
    >>> result = pb.tl.evaluate(model, adata, baselines=["Mean"])
    >>> ax = pb.pl.retrieval_matrix(result)
    >>> ax.get_xlabel()
    'observed effect'
    """
    from perturbia.metrics import retrieval_ranks

    name = first_model(result, model)
    check_names(metric, _METRICS, argument="metric", of="similarities or distances")
    context, names, observed, predicted = _effects(result, name, context)
    similar = metric in _SIMILARITIES
    order = _clustered(1 - _between(observed, observed, metric) if similar else _between(observed, observed, metric))
    names, observed, predicted = names[order], observed[order], predicted[order]
    ranks = 1 + retrieval_ranks(observed, predicted, query="prediction", metric=metric)
    ax = new_axes(ax, size=(5.0, 4.0))
    values = _between(predicted, observed, metric)
    if similar:
        bound = float(np.ceil(10 * np.abs(values).max(initial=0.0)) / 10) or 1.0
        image = ax.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest", aspect="auto")
    else:
        image = ax.imshow(values, cmap="cividis", vmin=0, interpolation="nearest", aspect="auto")
    ax.set_box_aspect(1)
    ax.set_anchor("W")  # constrained layout measures labels from the left of the room, not from where a square begins
    _outline_diagonal(ax, len(names), colour=INK if similar else "white")
    _label(ax, names)
    strip = ax.inset_axes((1.03, 0.0, 0.13, 1.0))
    strip.set_in_layout(False)  # its room is in the pad of the colour bar
    _draw_ranks(strip, ranks)
    figure = ax.figure
    bar = figure.colorbar(image, ax=ax, shrink=0.6, aspect=25, pad=0.19, panchor=False)
    unit = "" if similar else f" ({unit_of(str(result.info['scale']))})"
    bar.set_label(f"{_METRICS[metric]}{unit}", fontsize=7.5)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    place = f" in {context}" if context else ""
    first = int((ranks == 1).sum())
    ax.set_title(title or f"{name}{place}: own effect nearest for {first} of {len(names)}", fontsize=9, color=INK)
    return ax


def _effects(
    result: EvaluationResult, model: str, context: str | None
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Context, names, observed and predicted effects of those perturbations that have both."""
    obs = result.observed.obs
    contexts = list(dict.fromkeys(obs["context"].astype(str)))
    context = check_names(context or contexts[0], contexts, argument="context", of="contexts of this evaluation")[0]
    observed, predicted = (np.asarray(one.X, dtype=np.float64) for one in (result.observed, result.effects[model]))
    rows = (obs["context"].astype(str) == context).to_numpy()
    rows &= np.isfinite(observed).all(axis=1) & np.isfinite(predicted).all(axis=1)
    if rows.sum() < 2:
        msg = (
            f"result: expected at least two perturbations with effects to tell apart, got {int(rows.sum())}. "
            "Evaluate more of them."
        )
        raise ValueError(msg)
    return context, obs.loc[rows, _keys.OBS_PERTURBATION].astype(str).to_numpy(), observed[rows], predicted[rows]


def _between(rows: np.ndarray, columns: np.ndarray, metric: str) -> np.ndarray:
    """Similarity or distance of every row to every column."""
    from scipy.spatial.distance import cdist

    if metric in _SIMILARITIES:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 1 - cdist(rows, columns, "cosine" if metric == "cosine" else "correlation")
        return np.nan_to_num(found, nan=0.0)  # no direction
    if metric == "l1":
        return cdist(rows, columns, "cityblock") / rows.shape[1]
    return cdist(rows, columns, "euclidean") / np.sqrt(rows.shape[1])


def _clustered(distance: np.ndarray) -> np.ndarray:
    """Order of the leaves of a clustering."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if len(distance) < 3:
        return np.arange(len(distance))
    condensed = squareform(np.clip((distance + distance.T) / 2, 0, None), checks=False)
    return hierarchy.leaves_list(hierarchy.linkage(condensed, "average", optimal_ordering=True))


def _outline_diagonal(ax: Axes, n: int, *, colour: str) -> None:
    """A frame around the own column of every row."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    frames = [Rectangle((i - 0.5, i - 0.5), 1, 1) for i in range(n)]
    width = float(np.clip(20 / n, 0.12, 1.2))
    ax.add_collection(
        PatchCollection(frames, facecolor="none", edgecolor=colour, linewidth=width, clip_on=False, zorder=3)
    )


def _label(ax: Axes, names: np.ndarray) -> None:
    """Names of rows and columns, each k-th of them if there is no room for all."""
    box = ax.get_position()
    width, height = ax.figure.bbox.width / ax.figure.dpi, ax.figure.bbox.height / ax.figure.dpi
    room = 72 * 0.75 * min(box.width * width, box.height * height) / len(names)  # points for each
    step = int(np.ceil(_SMALLEST * 1.1 / room))
    size = float(np.clip(0.85 * room * step, _SMALLEST, 7.5))
    shown = np.arange(0, len(names), step)
    longest = _LONGEST if step == 1 else _LONGEST // 2 + 2
    names = np.array([name if len(name) <= longest else f"{name[: longest - 1]}…" for name in names])
    ax.set_xticks(shown, names[shown], rotation=90 if len(shown) > 4 else 0, fontsize=size)
    ax.set_yticks(shown, names[shown], fontsize=size)
    ax.set_xlabel("observed effect", fontsize=8)
    ax.set_ylabel("predicted effect", fontsize=8)
    ax.tick_params(length=0 if step == 1 else 2, pad=2)
    for spine in ax.spines.values():
        spine.set_color(FAINT)


def _draw_ranks(strip: Axes, ranks: np.ndarray) -> None:
    """One point a row: how far down the list its own effect is."""
    n = len(ranks)
    position = np.arange(n)
    style: dict[str, Any] = {"linewidths": 0, "clip_on": False, "zorder": 3}
    strip.hlines(position, 1, ranks, color=FAINT, linewidth=float(np.clip(60 / n, 0.3, 1.5)), zorder=1)
    colours = np.where(ranks == 1, ACCENT, INK)
    strip.scatter(ranks, position, s=float(np.clip(300 / n, 3, 14)), c=colours, **style)
    strip.axvline((n + 1) / 2, color=MUTED, linewidth=0.7, linestyle="--", zorder=0)
    strip.set(xlim=(1, n), ylim=(n - 0.5, -0.5), yticks=[])
    strip.set_xticks([1, n], ["1", str(n)], fontsize=6.5)
    strip.set_xlabel("rank", fontsize=7, labelpad=0)
    strip.tick_params(length=2, pad=2)
    strip.spines[["top", "right", "left"]].set_visible(False)
