"""Cells of two modalities in one plane, and lines between those that are matched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import LabelError, shorten
from perturbia.model.alignment.coupling_storage import read_coupling
from perturbia.pl._aligned_cells import SOURCE, TARGET, coordinates
from perturbia.pl._cell_groups import groups_to_colour, legend_beside, panel, point_size
from perturbia.pl._style import FAINT, INK, MUTED, colours_of, new_axes
from perturbia.stats import principal_axes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from mudata import MuData

    from perturbia.model.alignment.coupling_storage import StoredCoupling

__all__ = ["alignment_embedding"]


def alignment_embedding(
    mdata: MuData,
    *,
    coupling: str = "coupling",
    use_rep: str | Mapping[str, str] | None = None,
    color: str | None = None,
    groups: Sequence[str] | None = None,
    n_lines: int = 100,
    size: float | None = None,
    source: str | None = None,
    target: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """Scatter the cells of both modalities in one plane and join some of them with their best match.

    Parameters
    ----------
    mdata
        Data with a stored coupling.
    coupling
        Its key.
    use_rep
        Key of `obsm` of both modalities, or modality → key, with coordinates in one space: two columns, such as a UMAP, are
        drawn as they are, more on their first two joint principal axes. By default the scores that were matched by, such as
        ``"X_psa"``.
    color
        Column of `obs` with a category; cells of a modality without the column are grey. By default the perturbation.
    groups
        Categories to colour; by default all of them up to eight, beyond that the eight of most cells. The control is never
        among the default ones and is drawn in a darker grey.
    n_lines
        Source cells to join with the target cell of most mass, drawn at random, but not among those of other categories; the
        fainter a line, the smaller the share of the mass of the cell that this match has.
    size
        Area of a point in square points; by default it shrinks with the number of cells.
    source, target
        Modalities; as stored by default.
    title
        Title; by default what colours mean.
    ax
        Axes to draw into.
    seed
        Seed of the cells that are joined, and of the order in which points are drawn.

    Returns
    -------
    The axes. Circles are source cells, triangles target cells.

    Raises
    ------
    KeyError, ModalityError
        If there is no such coupling.
    LabelError
        If no modality has the column.
    FeatureMismatch
        If a representation does not exist.
    ValueError
        If the modalities have different numbers of coordinates or only one, one of `groups` is no category, or `n_lines` is
        negative.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> _ = pb.tl.align(mdata, use_rep="truth_log_ratio")
    >>> ax = pb.pl.alignment_embedding(mdata, use_rep="truth_latent")
    >>> ax.get_xlabel()
    'truth latent 1'
    """
    if isinstance(n_lines, bool) or not isinstance(n_lines, int | np.integer) or n_lines < 0:
        msg = f"n_lines: expected a number of lines, 0 for none, got {n_lines!r}."
        raise ValueError(msg)
    stored = read_coupling(mdata, coupling, source=source, target=target)
    color = str(stored.metadata["perturbation_key"]) if color is None else color
    labels = _labels(stored, color)
    points, names = _plane(stored, use_rep)
    n_source = stored.source.n_obs
    controls = {str(one) for one in np.atleast_1d(stored.metadata.get("control", []))}
    coloured = groups_to_colour(
        labels, groups, drawn=labels != "", greys={*controls, ""}, argument="groups", of=f"categories of obs[{color!r}]"
    )
    rng = np.random.default_rng(seed)
    ax = new_axes(ax, size=(5.6, 4.4))
    colours = colours_of(coloured)
    shades = np.array([colours.get(label, MUTED if label in controls else FAINT) for label in labels], dtype=object)
    joined = np.isin(labels[:n_source], [*coloured, *(controls if groups is None else ()), ""])
    _draw_lines(ax, stored, points, joined, n_lines, rng)
    size = size if size is not None else 1.6 * point_size(len(points))
    _draw_points(ax, points, shades, n_source, size, rng)
    _explain(ax, stored, labels, colours, controls, (size, color))
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title(title if title is not None else color, fontsize=11, color=INK)
    panel(ax)
    legend_beside(ax)
    return ax


def _labels(stored: StoredCoupling, color: str) -> np.ndarray:
    """Category of every cell, source first; empty for cells without one."""
    parts = []
    for adata in (stored.source, stored.target):
        if color not in adata.obs:
            parts.append(np.full(adata.n_obs, "", dtype=object))
            continue
        column = adata.obs[color]
        parts.append(column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=object))
    if all(color not in adata.obs for adata in (stored.source, stored.target)):
        msg = (
            f"color: expected a column of obs of {stored.source_name!r} or {stored.target_name!r}, got {color!r}; they are "
            f"{shorten(stored.source.obs.columns)} and {shorten(stored.target.obs.columns)}."
        )
        raise LabelError(msg)
    return np.concatenate(parts).astype(str)


def _plane(stored: StoredCoupling, use_rep: str | Mapping[str, str] | None) -> tuple[np.ndarray, list[str]]:
    """Coordinates of all cells, source first, and what the axes are."""
    first, second, keys = coordinates(stored, use_rep)
    if first.shape[1] != second.shape[1] or first.shape[1] < 2:
        msg = (
            f"use_rep: expected two or more coordinates in one space, got {keys[0]!r} of {stored.source_name!r} with "
            f"{first.shape[1]} and {keys[1]!r} of {stored.target_name!r} with {second.shape[1]}. Name a representation that "
            "both have in common."
        )
        raise ValueError(msg)
    both = np.concatenate([first, second])
    name = keys[0].removeprefix("X_").replace("_", " ")
    name = name.upper() if name in {"umap", "pca", "tsne", "psa"} else name
    if both.shape[1] == 2:
        return both, [f"{name} 1", f"{name} 2"]
    found = principal_axes(both, 2)
    points, shares = found.coordinates(both), found.shares
    return points, [f"{name} PC {i + 1} ({100 * share:.0f} %)" for i, share in enumerate(shares)]


def _draw_lines(
    ax: Axes, stored: StoredCoupling, points: np.ndarray, joined: np.ndarray, n_lines: int, rng: np.random.Generator
) -> None:
    """A line from source cells drawn at random to the target cell of most mass."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    plan = stored.conditional()
    cells = np.flatnonzero((np.diff(plan.indptr) > 0) & joined)
    cells = rng.choice(cells, size=min(n_lines, len(cells)), replace=False)
    if not len(cells):
        return
    best = np.asarray(plan[cells].argmax(axis=1)).ravel()
    share = np.asarray(plan[cells, best]).ravel()
    ends = np.stack([points[cells], points[len(joined) + best]], axis=1)
    colours = [(*to_rgb(INK), 0.3 + 0.5 * one) for one in share]
    ax.add_collection(LineCollection(list(ends), colors=colours, linewidths=0.6, zorder=3))


def _draw_points(
    ax: Axes, points: np.ndarray, shades: np.ndarray, n_source: int, size: float, rng: np.random.Generator
) -> None:
    """Grey cells below coloured ones, each in random order, so that no group hides another."""
    grey = np.isin(shades, [FAINT, MUTED])
    for layer, cells in ((1, np.flatnonzero(grey)), (2, np.flatnonzero(~grey))):
        for part, style in ((cells[cells < n_source], SOURCE), (cells[cells >= n_source], TARGET)):
            rows = rng.permutation(part)
            ax.scatter(
                points[rows, 0], points[rows, 1], s=size, c=list(shades[rows]), marker=style["marker"], alpha=0.8,
                linewidths=0, zorder=layer, rasterized=True,
            )  # fmt: skip


def _explain(
    ax: Axes,
    stored: StoredCoupling,
    labels: np.ndarray,
    colours: dict[str, str],
    controls: set[str],
    of: tuple[float, str],
) -> None:
    """Entries of the legend: shapes, then colours."""
    style: dict[str, Any] = {"linewidths": 0}
    for name, shape in ((stored.source_name, SOURCE), (stored.target_name, TARGET)):
        ax.scatter([], [], s=25, marker=shape["marker"], c=INK, label=name, **style)
    present = set(labels)
    for name, colour in colours.items():
        if name in present:
            ax.scatter([], [], s=32, marker="s", c=colour, label=name, **style)
    rest = present - set(colours)
    if rest & controls:
        ax.scatter([], [], s=32, marker="s", c=MUTED, label="/".join(sorted(rest & controls)), **style)
    if rest - controls - {""}:
        ax.scatter([], [], s=32, marker="s", c=FAINT, label="other", **style)
    if "" in rest:
        ax.scatter([], [], s=32, marker="s", c=FAINT, label="no label", **style)
