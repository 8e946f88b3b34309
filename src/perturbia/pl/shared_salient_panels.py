"""Shared and salient latents of a background and its targets, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import shorten
from perturbia.pl._cell_groups import groups_to_colour, legend_beside, panel, point_size
from perturbia.pl._style import FAINT, INK, MUTED, colours_of
from perturbia.stats import principal_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from perturbia.model import ComparativeVAE

__all__ = ["shared_salient"]

#: Most that the area of a point grows where its group has few cells.
_LARGEST = 2.0


def shared_salient(
    data: AnnData | ComparativeVAE,
    *,
    color: str | None = None,
    highlight: Sequence[str] = (),
    group_key: str | None = None,
    background: str | None = None,
    shared: str = "X_shared",
    salient: str = "X_salient",
    columns: tuple[int, int] | None = None,
    size: float | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Figure:
    """Scatter of cells by what a background and its targets share, beside one by what is salient in targets.

    What a comparative model should show: background and targets mixed in the left panel, perturbations apart in the right
    one. All cells are drawn in random order, so that no group hides another, and those of
    small groups with larger points.

    Parameters
    ----------
    data
        Annotated data with both representations in `obsm`, or a trained :class:`~perturbia.model.ComparativeVAE`, whose
        own data are encoded.
    color
        Column of `obs` to colour cells by, a category such as the perturbation, or numbers; by default the group. The
        background is grey under categories.
    highlight
        Categories to colour, all other cells being light grey; by default all of them up to eight, beyond that the
        eight of most cells.
    group_key
        Column of `obs` with background and targets; by default ``"group"``, and for a model what it was registered with.
    background
        Label of the background in that column; by default ``"background"``, and for a model what it was registered with.
    shared, salient
        Keys of `obsm` with latents, `(n_cells, n_latent)`; not read for a model. Cells with NaN in one of them are not
        drawn.
    columns
        Two columns of both representations to draw; by default their first two principal components, those of salient
        latents over the targets alone.
    size
        Area of a point in square points; by default it shrinks with the number of cells.
    title
        Title of the figure; by default what colours mean.
    seed
        Seed of the order in which points are drawn.

    Returns
    -------
    The figure; its first two axes hold the shared and the salient latents.

    Raises
    ------
    KeyError
        If a representation or column does not exist.
    ValueError
        If `background` is no label of the group, one of `highlight` no category, or `columns` do not exist.
    NotTrainedError
        If the model is not trained.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_comparative(n_background=100, n_target=100, n_genes=50)
    >>> figure = pb.pl.shared_salient(adata, shared="truth_shared", salient="truth_salient", color="perturbation")
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['shared', 'salient']
    """
    import matplotlib.pyplot as plt

    if not hasattr(data, "obsm"):
        data, group_key, background = _of_model(data, group_key, background)
        shared, salient = "X_shared", "X_salient"
    group_key = _keys.OBS_GROUP if group_key is None else group_key
    background = _keys.GROUP_VALUES[0] if background is None else background
    color = group_key if color is None else color
    _check(data, {"shared": shared, "salient": salient}, {"group_key": group_key, "color": color})
    groups = data.obs[group_key].astype(str).to_numpy()
    if background not in groups:
        have = shorten(np.unique(groups)) or "none"
        msg = f"background: expected a label of obs[{group_key!r}], got {background!r}; labels are {have}."
        raise ValueError(msg)
    spaces = {
        name: np.asarray(data.obsm[key], dtype=np.float64) for name, key in (("shared", shared), ("salient", salient))
    }
    drawn = np.flatnonzero(np.isfinite(np.hstack(list(spaces.values()))).all(axis=1))
    is_background = groups == background
    paint = _paint(data.obs[color], is_background, drawn, background, highlight)
    targets = drawn[~is_background[drawn]]
    fitted = {"shared": drawn, "salient": targets if len(targets) else drawn}
    planes = {name: _plane(space, fitted[name], columns, name, seed) for name, space in spaces.items()}
    rows = np.random.default_rng(seed).permutation(drawn)
    rows = rows[np.argsort(paint.layer[rows], kind="stable")]
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
    area = paint.area[rows] * (point_size(len(drawn)) if size is None else size)
    style: dict[str, Any] = {"linewidths": 0, "rasterized": True, "alpha": 0.8, **paint.scale}
    for ax, (name, (points, labels)) in zip(axes, planes.items(), strict=True):
        image = ax.scatter(points[rows, 0], points[rows, 1], s=area, c=paint.values[rows], **style)
        ax.set(xlabel=labels[0], ylabel=labels[1])
        ax.set_title(name, color=INK, fontsize=11)
        panel(ax)
        _mark_single_place(ax, points[drawn[is_background[drawn]]], background)
    _explain(figure, axes[1], image, paint, color)
    figure.suptitle(f"latents by {color}" if title is None else title, fontsize=11, color=INK)
    return figure


@dataclass(frozen=True)
class _Paint:
    """Colours of cells: names with their legend, or numbers with a scale.

    Higher layers lie above, and groups of few cells have points of a larger `area` to be seen among many.
    """

    values: np.ndarray
    layer: np.ndarray
    area: np.ndarray
    legend: dict[str, str]
    scale: dict[str, Any]


def _paint(
    column: pd.Series, is_background: np.ndarray, drawn: np.ndarray, background: str, highlight: Sequence[str]
) -> _Paint:
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        if len(highlight):
            msg = f"highlight: expected none for numbers, got {list(highlight)[:5]}. Name a column of categories as color."
            raise ValueError(msg)
        values = column.to_numpy(dtype=np.float64)
        limits = np.nanquantile(values[drawn], [0.01, 0.99]) if np.isfinite(values[drawn]).any() else (0.0, 1.0)
        scale = {"cmap": "viridis", "vmin": limits[0], "vmax": limits[1], "plotnonfinite": True}
        return _Paint(values, np.zeros(len(values)), np.ones(len(values)), {}, scale)
    labels = column.astype(str).to_numpy(dtype=object)
    labels[is_background] = background
    asked = list(highlight) if len(highlight) else None
    named = groups_to_colour(
        labels.astype(str),
        asked,
        drawn=drawn,
        greys={background},
        argument="highlight",
        of=f"categories of {column.name!r}",
    )
    colours = colours_of([name for name in named if name != background])
    legend = {background: MUTED, **colours}
    known = np.isin(labels.astype(str), list(legend))
    values = np.array([legend.get(label, FAINT) for label in labels], dtype=object)
    if not known[drawn].all():
        legend["other"] = FAINT
    shown = pd.Series(np.where(known, labels, "")).iloc[drawn].value_counts()
    area = np.clip(np.sqrt(shown.max() / shown), 1, _LARGEST)
    sizes = np.array([area.get(label, 1.0) if own else 1.0 for label, own in zip(labels, known, strict=True)])
    return _Paint(values, known.astype(float), sizes, legend, {})


def _plane(
    space: np.ndarray, fitted: np.ndarray, columns: tuple[int, int] | None, name: str, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Coordinates of all cells in two dimensions, and what the axes are."""
    if columns is not None:
        if len(columns) != 2 or not all(0 <= column < space.shape[1] for column in columns):
            msg = f"columns: expected two columns of the {space.shape[1]} {name} latents, counted from 0, got {columns!r}."
            raise ValueError(msg)
        return space[:, list(columns)], [f"{name} latent {column}" for column in columns]
    if space.shape[1] == 1:
        # one latent has no second axis: points are spread so that they can be seen
        spread = np.random.default_rng(seed).uniform(size=len(space))
        return np.column_stack([space[:, 0], spread]), [f"{name} latent 0", "spread at random"]
    found = principal_axes(space[fitted], 2)
    return found.coordinates(space), [f"{name} PC {i + 1} ({_percent(part)})" for i, part in enumerate(found.shares)]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "below 1 %"


def _mark_single_place(ax: Axes, points: np.ndarray, background: str) -> None:
    """Mark a background that is one point, as it is in salient latents: targets would hide it."""
    if len(points) > 1 and np.allclose(points, points[0], rtol=0, atol=1e-9):
        ax.scatter(points[:1, 0], points[:1, 1], marker="+", s=110, c=INK, linewidths=1.6, zorder=4)
        # towards the middle, so that the words stay within the panel
        side = 1 if points[0, 0] < np.mean(ax.get_xlim()) else -1
        style: dict[str, Any] = {"fontsize": 8, "color": INK, "zorder": 4, "ha": "left" if side > 0 else "right"}
        frame: dict[str, Any] = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        ax.annotate(
            f"{background}, all cells", points[0], xytext=(9 * side, 6), textcoords="offset points", bbox=frame, **style
        )


def _explain(figure: Figure, ax: Axes, image: Any, paint: _Paint, color: str) -> None:
    if paint.scale:
        bar = figure.colorbar(image, ax=ax, shrink=0.7, aspect=20)
        bar.set_label(color, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        return
    for name, colour in paint.legend.items():
        ax.scatter([], [], s=25, c=colour, label=name)
    legend_beside(ax)


def _check(data: AnnData, keys: dict[str, str], columns: dict[str, str]) -> None:
    for argument, key in keys.items():
        if key not in data.obsm:
            msg = (
                f"{argument}: expected a key of obsm, got {key!r}; keys are {shorten(data.obsm) or 'none'}. Store what "
                f"ComparativeVAE.get_latent_representation(kind={argument!r}) returns, or pass the model."
            )
            raise KeyError(msg)
    for argument, key in columns.items():
        if key not in data.obs:
            known = shorten(data.obs.columns) or "none"
            msg = f"{argument}: expected a column of obs, got {key!r}; columns are {known}. Name one."
            raise KeyError(msg)


def _of_model(model: Any, group_key: str | None, background: str | None) -> tuple[AnnData, str | None, str | None]:
    """Data of a model with its latents; its groups stand in for a column that was not named."""
    from anndata import AnnData

    from perturbia.model import ComparativeVAE
    from perturbia.model.comparative._balanced_cells import group_codes

    if not isinstance(model, ComparativeVAE):
        msg = f"data: expected AnnData or a ComparativeVAE, got {type(model).__name__}. Pass data with both latents in obsm."
        raise TypeError(msg)
    if model.adata is None:
        msg = "data: expected a model with data, got one that was loaded without. Pass data with both latents in obsm."
        raise ValueError(msg)
    out = AnnData(obs=model.adata.obs.copy())
    for kind in ("shared", "salient"):
        out.obsm[f"X_{kind}"] = model.get_latent_representation(kind=kind)
    if group_key is None:
        # no column of the user's is read for it, nor hidden by it
        group_key = model.registry["setup_args"].get("group_key") or "background or target"
        background = background or model.groups[0]
        dosage = model._registered_dosage(model.adata, np.arange(out.n_obs))
        out.obs[group_key] = np.asarray(model.groups)[group_codes(dosage, len(model.groups) - 1)]
    return out, group_key, background
