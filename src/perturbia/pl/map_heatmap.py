"""Cosines of the perturbations of a map as a heat map, those that act alike beside one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from perturbia import _keys
from perturbia.errors import LabelError, shorten
from perturbia.perturbation._profiles import marked_controls
from perturbia.perturbation.labels import UNASSIGNED
from perturbia.pl._style import FAINT, INK, MUTED, PALETTE, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["perturbation_map"]

_MOST = 2000  # rows of which a screen can show each
_OPTIMAL = 500  # leaves up to which the best order of a tree is found within a second
_SMALLEST = 5.0  # points, of letters
_LONGEST = 24  # letters of a name
_WIDTH = 0.6 / 72  # inches that a letter of one point is wide
_STRIP = 0.1  # inches that the strip of groups is high,
_BAR = 1.9  # the bar of colours is high at most,
_GAP = 0.14  # and lies beside the map
_OTHER, _MISSING = "other", "no label"
_UNITS = {"cosine": "cosine", "pearson": "Pearson correlation"}


def perturbation_map(
    adata_map: Any,
    *,
    key: str = _keys.OBSP_COSINE,
    groups: str | None = None,
    cluster: bool = True,
    vmax: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how alike the perturbations of a map act: a heat map of their cosines, in the order of a tree.

    Parameters
    ----------
    adata_map
        A map with relations, as :func:`perturbia.tl.relate` writes them, or some rows of it: 2,000 at most. Rows whose
        `obs["is_control"]` is True are not drawn.
    key
        Key of `obsp`, of all cosines.
    groups
        Column of `obs`, such as a complex or a pathway, that a strip above the map shows. The eight largest groups of two
        perturbations or more are coloured; missing values and words such as ``none`` are no group.
    cluster
        Sort rows by average linkage of 1 - cosine, up to 500 with the best order of leaves; False leaves them as they are.
    vmax
        Cosine at which colours end on either side of 0; by default what 99.5 % of pairs do not exceed, rounded up to a tenth.
    title
        Title; by default what is drawn and, with groups, how alike members are beside others.
    ax
        Axes to draw into.

    Returns
    -------
    The axes. Names are written where there is room for them.

    Raises
    ------
    KeyError
        If there are no such relations.
    LabelError
        If `groups` is no column.
    ValueError
        If relations are the largest of each row only, are missing or infinite, there are fewer than two perturbations or
        more than 2,000, or `vmax` is not positive.

    Examples
    --------
    >>> import perturbia as pb
    >>> genes = pb.tl.aggregate_perturbations(pb.datasets.tapseq(), keep_control=True)
    >>> genes.X -= genes["control"].X
    >>> pb.tl.relate(genes)
    >>> pb.pl.perturbation_map(genes).get_title()
    'cosines of 14 perturbations'
    """
    cosines, names, labels = _read(adata_map, key, groups)
    if vmax is not None and not vmax > 0:
        msg = f"vmax: expected a number above 0, or None, got {vmax!r}."
        raise ValueError(msg)
    order = _tree_order(cosines) if cluster else np.arange(len(names))
    cosines, names = cosines[np.ix_(order, order)], names[order]
    labels = None if labels is None else labels[order]
    side = float(np.clip(0.17 * len(names), 2.4, 8.5))
    given, ax = ax, new_axes(ax, size=_figure_size(side, names, labels))
    side = side if given is None else _side(ax)
    limit = _limit(cosines) if vmax is None else float(vmax)
    image = ax.imshow(cosines, cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest")
    _name_rows(ax, names, side)
    unit = _unit(adata_map, key)
    bar = min(_BAR, 0.4 * side)
    _bar(ax, image, unit, cosines, (1 + _GAP / side, 1 - bar / side, 0.14 / side, bar / side))
    if labels is not None:
        _strip(ax, labels, str(groups), _STRIP / side, (1 + (_GAP - 0.05) / side, 1 - (bar + 0.25) / side))
    if title is None:
        what = "perturbations" if _is_gene_level(adata_map) else "profiles"
        title = f"{unit}s of {len(names)} {what}"
        title += "" if labels is None else _likeness(cosines, labels, str(groups))
    ax.set_title(title, fontsize=10, color=INK, pad=6 if labels is None else 8 + 72 * _STRIP)
    return ax


def _read(adata_map: Any, key: str, groups: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Cosines, names and groups of the perturbations, controls left out."""
    if key not in adata_map.obsp:
        found = shorten(adata_map.obsp) or "none"
        msg = f"key: expected a key of adata_map.obsp, got {key!r}; keys are {found}. Run perturbia.tl.relate first."
        raise KeyError(msg)
    if groups is not None and groups not in adata_map.obs:
        columns = shorten(adata_map.obs.columns) or "none"
        msg = f"groups: expected a column of adata_map.obs, got {groups!r}; columns are {columns}."
        raise LabelError(msg)
    drawn = ~marked_controls(adata_map)
    if not 2 <= drawn.sum() <= _MOST:
        msg = f"adata_map: expected 2 to {_MOST} perturbations, got {drawn.sum()}. Pass the rows to draw, adata_map[names]."
        raise ValueError(msg)
    values = adata_map.obsp[key]
    if sparse.issparse(values):
        msg = (
            f"key: expected all relations in adata_map.obsp[{key!r}], got the largest of each row. Run perturbia.tl.relate "
            "without n_top, on the rows to draw."
        )
        raise ValueError(msg)
    values = np.asarray(values, dtype=np.float64)[np.ix_(drawn, drawn)]
    if not np.isfinite(values).all():
        msg = f"key: expected finite numbers in adata_map.obsp[{key!r}], got NaN or infinity. Run perturbia.tl.relate again."
        raise ValueError(msg)
    labels = None
    if groups is not None:
        column = adata_map.obs[groups].astype(object)
        known = column.notna() & ~column.astype(str).str.strip().str.casefold().isin(UNASSIGNED)
        labels = column.where(known, _MISSING).astype(str).to_numpy()[drawn]
    return values, adata_map.obs_names.to_numpy().astype(str)[drawn], labels


def _tree_order(cosines: np.ndarray) -> np.ndarray:
    from scipy.cluster import hierarchy

    if len(cosines) < 3:
        return np.arange(len(cosines))
    above = np.triu_indices(len(cosines), 1)
    distance = np.clip(1.0 - cosines[above], 0.0, None)
    return hierarchy.leaves_list(hierarchy.linkage(distance, "average", optimal_ordering=len(cosines) <= _OPTIMAL))


def _limit(cosines: np.ndarray) -> float:
    """Where colours end: what nearly all pairs stay below, so that small cosines are seen, too."""
    size = np.abs(cosines[np.triu_indices(len(cosines), 1)])
    return float(np.clip(np.ceil(10 * np.quantile(size, 0.995) - 1e-6) / 10, 0.1, 1.0))


def _is_gene_level(adata_map: Any) -> bool:
    """Whether every perturbation is one row, not parted by guides or the like."""
    labels = adata_map.obs.get(_keys.OBS_PERTURBATION)
    return labels is None or not labels.duplicated().any()


def _letters(names: np.ndarray, side: float) -> float:
    """Size of letters of the names of rows in points, 0 where there is no room for them."""
    room = 72 * side / len(names)
    return float(np.clip(0.8 * room, _SMALLEST, 8.0)) if 0.9 * room >= _SMALLEST else 0.0


def _figure_size(side: float, names: np.ndarray, labels: np.ndarray | None) -> tuple[float, float]:
    """Inches, so that names, colour bar and legend fit around a map of this side."""
    beside = _WIDTH * _letters(names, side) * max(len(_short(name)) for name in names)
    legend = 0.0 if labels is None else 0.4 + _WIDTH * 8 * max(len(_short(name)) for name in [*labels, _MISSING])
    return side + beside + max(1.1, legend) + 0.4, side + beside + 0.8


def _side(ax: Axes) -> float:
    """Side of axes in inches, what names and legends will take off."""
    box, figure = ax.get_position(), ax.figure
    return 0.85 * min(box.width * figure.bbox.width, box.height * figure.bbox.height) / figure.dpi


def _name_rows(ax: Axes, names: np.ndarray, side: float) -> None:
    """Names where there is room for all of them."""
    ax.set(xticks=[], yticks=[])
    if size := _letters(names, side):
        text = [_short(name) for name in names]
        ax.set_xticks(range(len(names)), text, rotation=90, fontsize=size)
        ax.set_yticks(range(len(names)), text, fontsize=size)
        ax.tick_params(length=0, pad=2)
    for spine in ax.spines.values():
        spine.set_color(FAINT)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _unit(adata_map: Any, key: str) -> str:
    about = adata_map.uns.get(key)
    metric = about.get("metric", key) if hasattr(about, "get") else key
    return _UNITS.get(str(metric), str(metric))


def _bar(ax: Axes, image: AxesImage, unit: str, cosines: np.ndarray, frame: tuple[float, float, float, float]) -> None:
    beside = cosines[~np.eye(len(cosines), dtype=bool)]
    over, under = beside.max() > image.norm.vmax, beside.min() < image.norm.vmin
    extend = {(True, True): "both", (True, False): "max", (False, True): "min"}.get(
        (bool(over), bool(under)), "neither"
    )
    bar = ax.figure.colorbar(image, cax=ax.inset_axes(frame), extend=extend, extendfrac=0.03)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)


def _strip(ax: Axes, labels: np.ndarray, title: str, height: float, corner: tuple[float, float]) -> None:
    """Groups of the columns above the map, and their legend."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    names, count = np.unique(labels[labels != _MISSING], return_counts=True)
    largest = names[np.argsort(-count, kind="stable")][: min(len(PALETTE), int((count > 1).sum()))]
    colours = dict(zip(sorted(largest), PALETTE, strict=False))
    shown = [name if name in colours or name == _MISSING else _OTHER for name in labels]
    colours |= {name: shade for name, shade in ((_OTHER, MUTED), (_MISSING, FAINT)) if name in shown}
    strip = ax.inset_axes((0.0, 1.0 + height / 3, 1.0, height))
    strip.imshow([[to_rgb(colours[name]) for name in shown]], aspect="auto", interpolation="nearest")
    strip.set_axis_off()
    handles = [Patch(color=shade, label=_short(name)) for name, shade in colours.items()]
    legend = ax.legend(
        handles=handles, title=title, loc="upper left", bbox_to_anchor=corner, frameon=False, fontsize=7.5,
        title_fontsize=8, handlelength=1.0, handleheight=1.0,
    )  # fmt: skip
    legend.set_alignment("left")


def _likeness(cosines: np.ndarray, labels: np.ndarray, groups: str) -> str:
    """Mean within groups and between them, as a second line."""
    above = np.triu_indices(len(labels), 1)
    same = (labels[above[0]] == labels[above[1]]) & (labels[above[0]] != _MISSING)
    if same.all() or not same.any():
        return ""
    values = cosines[above]
    return f"\nmean {values[same].mean():.2f} within the same {groups}, {values[~same].mean():.2f} otherwise"
