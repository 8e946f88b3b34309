"""Heat map of which latents every perturbation moves, beside the tree of their likeness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.pl._style import ACCENT, INK, MUTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["mechanisms"]

MASK_OPEN = 0.5


def mechanisms(
    tree: AnnData,
    *,
    highlight: Sequence[str] = (),
    only_moved: bool = True,
    title: str | None = None,
) -> Figure:
    """Masks and shifts of all perturbations, ordered and joined by the tree of their likeness.

    Parameters
    ----------
    tree
        Result of :func:`perturbia.tl.mechanisms`.
    highlight
        Perturbations to print in colour.
    only_moved
        Leave out latents that no perturbation moves with probability above one half.
    title
        Title of the figure; by default what it shows.

    Returns
    -------
    The figure: tree, probabilities of masks, expected shifts in units of the basal standard deviation.

    Raises
    ------
    ValueError
        If rows of `tree` were left out or moved.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> figure = pb.pl.mechanisms(pb.tl.mechanisms(model))
    >>> [ax.get_title() for ax in figure.axes[1:3]]
    ['probability of moving', 'expected shift']
    """
    import matplotlib.pyplot as plt

    from perturbia.tl.mechanism_tree import linkage_of

    linkage = linkage_of(tree)
    mask, shift = np.asarray(tree.layers["mask"]), np.asarray(tree.X)
    moved = (mask > MASK_OPEN).any(axis=0)
    columns = np.arange(tree.n_vars)
    if only_moved and moved.any():
        columns = np.flatnonzero(moved)
    columns = columns[np.argsort(-np.abs(shift[:, columns]).sum(axis=0), kind="stable")]
    rows = np.argsort(tree.obs["order"].to_numpy())
    n_rows, n_columns = len(rows), len(columns)
    height = np.clip(0.19 * n_rows, 1.6, 20) + 1.5
    width = 2 * np.clip(0.3 * n_columns, 1.8, 7) + 3.4
    figure = plt.figure(figsize=(width, height), layout="constrained")
    panel = (width - 3.4) / 2
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.4, panel, panel])
    _draw_tree(left, linkage, n_rows)
    extent = (-0.5, n_columns - 0.5, 0, 10 * n_rows)
    names = tree.var_names[columns]
    first = middle.imshow(mask[np.ix_(rows, columns)], cmap="Greys", vmin=0, vmax=1, extent=extent, **_IMAGE)
    limit = max(float(np.abs(shift).max()), 1e-6)
    second = right.imshow(shift[np.ix_(rows, columns)], cmap="PuOr_r", vmin=-limit, vmax=limit, extent=extent, **_IMAGE)
    for ax, image, label, text in (
        (middle, first, "probability", "probability of moving"),
        (right, second, "basal standard deviations", "expected shift"),
    ):
        ax.set_title(text, fontsize=10, color=INK)
        ax.set_xticks(range(n_columns), names, rotation=90, fontsize=7)
        ax.tick_params(length=0)
        bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.8, aspect=25, pad=0.02)
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    middle.set_yticks(10 * np.arange(n_rows) + 5, tree.obs_names[rows], fontsize=7)
    for tick in middle.get_yticklabels():
        if tick.get_text() in set(highlight):
            tick.set(color=ACCENT, fontweight="bold")
    right.set_yticks([])
    n_open, n_silent = int(moved.sum()), int((tree.obs["n_moved"] == 0).sum())
    default = f"{n_open} of {tree.n_vars} latents are moved; {n_silent} of {n_rows} perturbations move none"
    figure.suptitle(title or default, fontsize=11, color=INK)
    return figure


# scipy draws leaf i of a tree at height 10 i + 5, so rows are ten high and the first lies at the bottom
_IMAGE = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}


def _draw_tree(ax: Axes, linkage: np.ndarray | None, n_rows: int) -> None:
    from scipy.cluster import hierarchy

    ax.set_ylim(0, 10 * n_rows)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_yticks([])
    if linkage is None:
        ax.set_axis_off()
        return
    hierarchy.dendrogram(
        linkage, orientation="left", ax=ax, no_labels=True, color_threshold=0,
        above_threshold_color=MUTED,
    )  # fmt: skip
    ax.tick_params(axis="x", labelsize=7)
    ax.set_xlabel("distance of shifts", fontsize=8)
    ax.set_title("likeness", fontsize=10, color=INK)
