"""Cells in two dimensions, coloured by a category."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.pl._cell_groups import groups_to_colour, legend_beside, panel, point_size
from perturbia.pl._style import FAINT, INK, MUTED, colours_of, new_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["latent"]


def latent(
    adata: AnnData,
    *,
    color: str,
    basis: str = "X_umap",
    groups: Sequence[str] | None = None,
    control: str | Sequence[str] = "control",
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """Scatter of cells in a two-dimensional representation.

    More categories than eyes can tell apart are not all coloured: `groups` are, and all other cells are grey.

    Parameters
    ----------
    adata
        Annotated data with `obsm[basis]`.
    color
        Column of `obs` with a category, such as the perturbation or the batch.
    basis
        Key of `obsm`; its first two columns are drawn, cells without coordinates (NaN) are not.
    groups
        Categories to colour; by default all of them up to eight, beyond that the eight of most cells. The control is
        never among the default ones and is drawn in a darker grey.
    control
        Label or labels of control cells.
    size
        Area of a point in square points; by default it shrinks with the number of cells.
    title
        Title; by default `color`.
    ax
        Axes to draw into.
    seed
        Seed of the order in which points are drawn, which must not favour a group.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If the representation or the column does not exist.
    ValueError
        If one of `groups` is no category; the message has the nearest ones.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=20, n_latent=2)
    >>> pb.pl.latent(adata, basis="truth_latent", color="perturbation").get_title()
    'perturbation'
    """
    if basis not in adata.obsm or color not in adata.obs:
        kind, have = ("obsm", list(adata.obsm)) if basis not in adata.obsm else ("obs", list(adata.obs))
        msg = f"basis, color: expected keys of obsm and obs, got {basis!r} and {color!r}; {kind} holds {have[:10]}."
        raise KeyError(msg)
    points = np.asarray(adata.obsm[basis])[:, :2]
    labels = adata.obs[color].astype(str).to_numpy()
    controls = {control} if isinstance(control, str) else set(control)
    drawn = np.isfinite(points).all(axis=1)
    groups = groups_to_colour(
        labels, groups, drawn=drawn, greys=controls, argument="groups", of=f"categories of obs[{color!r}]"
    )
    ax = new_axes(ax, size=(5.2, 4.4))
    colours = colours_of(groups)
    size = size if size is not None else point_size(drawn.sum())
    grey = drawn & ~np.isin(labels, list(colours))
    is_control = np.isin(labels, list(controls - set(colours)))
    style: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    _layer(ax, points[grey & ~is_control], FAINT, size, "other" if (grey & ~is_control).any() else None, style)
    _layer(ax, points[grey & is_control], MUTED, size, "/".join(sorted(controls)), style)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(drawn & ~grey))
    ax.scatter(
        points[rows, 0], points[rows, 1], s=1.6 * size, c=[colours[name] for name in labels[rows]], alpha=0.8, **style
    )
    present = set(labels[drawn])
    for name, colour in colours.items():
        if name in present:
            ax.scatter([], [], s=25, c=colour, label=name)
    axis = basis.removeprefix("X_").replace("_", " ")
    axis = axis.upper() if axis in {"umap", "pca", "tsne"} else axis
    ax.set(title=title or color, xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    ax.title.set_color(INK)
    panel(ax)
    legend_beside(ax)
    return ax


def _layer(ax: Axes, points: np.ndarray, colour: str, size: float, label: str | None, style: dict[str, Any]) -> None:
    if len(points):
        ax.scatter(points[:, 0], points[:, 1], s=size, c=colour, **style)
        ax.scatter([], [], s=25, c=colour, label=label)
