"""Which cells, or which labels, a coupling joins: as an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.metrics import coupling_trace, label_confusion
from perturbia.model.alignment._modalities import true_partners
from perturbia.model.alignment.coupling_storage import read_coupling
from perturbia.pl._aligned_cells import column_of, coordinates, members_of
from perturbia.pl._plan_image import plan_image
from perturbia.pl._style import ACCENT, FAINT, INK, MUTED, new_axes
from perturbia.stats import principal_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from mudata import MuData

    from perturbia.model.alignment.coupling_storage import StoredCoupling
    from perturbia.pl._plan_image import PlanImage

__all__ = ["alignment_heatmap"]

#: Least multiple of an even share that has a colour of its own, and least upper end of the scale.
_LEAST, _TOP = 0.1, 10.0
#: Labels up to which their mass is written into the image.
_NUMBERED = 12
_MISSING = "no label"
_SMALLEST = 5.0  # points, of letters
_LONGEST = 22  # letters of a name


def alignment_heatmap(
    mdata: MuData,
    *,
    coupling: str = "coupling",
    perturbation: str | None = None,
    label: str | None = None,
    pairs: str | None = None,
    use_rep: str | Mapping[str, str] | None = None,
    source: str | None = None,
    target: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the matches of the cells of one perturbation, or the labels that matches of all cells join.

    Parameters
    ----------
    mdata
        Data with a stored coupling.
    coupling
        Its key.
    perturbation
        The perturbation whose cells are drawn; None draws the labels of all cells.
    label
        Column of `obs` of both modalities, such as a cell type that was not used to align. With `perturbation`, cells are
        sorted by it.
    pairs
        With `perturbation`: column of `obs` of both modalities that is the same for true partners. Source cells are in the
        order of their partners, so that right matches lie on the diagonal.
    use_rep
        With `perturbation`: key of `obsm` of the target modality (or modality → key) along whose first principal axis target
        cells are sorted; by default what was matched by. Source cells lie where their matches do on average, unless `pairs`
        says where they belong.
    source, target
        Modalities of rows and columns; as stored by default.
    title
        Title; by default what is drawn and how much of it is right, as far as that is known.
    ax
        Axes to draw into.

    Returns
    -------
    The axes. With `perturbation`: mass of each match relative to an even share among the target cells of the perturbation, on
    a logarithmic scale; white is no mass, and more than 160 cells are averaged with their neighbours. Without: share of the
    matches of the cells of a source label (row) that have each target label (column); the same label is outlined. The title
    then says how often labels agree, and how often they would without a choice within perturbations.

    Raises
    ------
    KeyError, ModalityError
        If there is no such coupling.
    LabelError
        If `label` or `pairs` are no columns of both modalities, or pairs are not unique.
    FeatureMismatch
        If a representation does not exist.
    ValueError
        If neither a perturbation nor a label is named, or the perturbation was not matched.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> _ = pb.tl.align(mdata, use_rep="truth_log_ratio")
    >>> ax = pb.pl.alignment_heatmap(mdata, perturbation="P01", pairs="pair")
    >>> ax.get_xlabel()
    '20 target cells'
    """
    stored = read_coupling(mdata, coupling, source=source, target=target)
    if perturbation is not None:
        return _draw_plan(stored, perturbation, label, pairs, use_rep, title, ax)
    if label is None:
        msg = (
            "perturbation, label: expected a perturbation whose cells to draw, or a column of obs whose labels to compare, "
            "got neither. Cells of different perturbations are never matched: name a label that the alignment did not use."
        )
        raise ValueError(msg)
    if pairs is not None:
        msg = (
            f"pairs: expected None without a perturbation, got {pairs!r}. Pass perturbation, too, to see single cells."
        )
        raise ValueError(msg)
    return _draw_labels(stored, label, title, ax)


def _draw_plan(
    stored: StoredCoupling,
    perturbation: str,
    label: str | None,
    pairs: str | None,
    use_rep: str | Mapping[str, str] | None,
    title: str | None,
    ax: Axes | None,
) -> Axes:
    from matplotlib.colors import LogNorm

    rows, columns = members_of(stored, perturbation)
    plan = stored.conditional()[rows][:, columns]
    names = (stored.source_name, stored.target_name)
    labels = (
        None
        if label is None
        else [one.iloc[at] for one, at in zip(column_of(stored, label, argument="label"), (rows, columns), strict=True)]
    )
    partners = None
    if pairs is not None:
        own = [
            one.iloc[at] for one, at in zip(column_of(stored, pairs, argument="pairs"), (rows, columns), strict=True)
        ]
        partners = true_partners(*own, key=pairs, names=names, distinct=True)
    cells = coordinates(stored, use_rep)[1][columns]
    axis = principal_axes(cells, 1).coordinates(cells)[:, 0]
    codes, known = _label_codes(labels) if labels is not None else (None, [])
    image = plan_image(plan, axis, partners=partners, labels=codes)
    ax = new_axes(ax, size=(4.9, 4.0))
    top = max(_TOP, float(image.values.max(initial=0.0)))
    values = np.ma.masked_less_equal(image.values, 0.0)
    drawn = ax.imshow(
        values, cmap="magma_r", norm=LogNorm(_LEAST, top), interpolation="nearest", aspect="auto",
        extent=(0, len(columns), len(rows), 0),
    )  # fmt: skip
    ax.set_box_aspect(1)
    if codes is not None:
        _mark_labels(ax, codes, image, known)
    else:
        ax.set(xticks=[], yticks=[])
    ax.set_xlabel(f"{len(columns)} {names[1]} cells", fontsize=8)
    ax.set_ylabel(f"{len(rows)} {names[0]} cells", fontsize=8)
    _bar(ax, drawn, "mass of a match / even share")
    if title is None:
        title = f"matches of {perturbation}"
        if partners is not None and (partners >= 0).any():
            right = coupling_trace(plan, partners).macro["trace"]
            title += f"\n{_percent(right)} with true partners (chance: {_percent(1 / len(columns))})"
    ax.set_title(title, fontsize=10, color=INK)
    return ax


def _label_codes(labels: list[pd.Series]) -> tuple[tuple[np.ndarray, np.ndarray], list[str]]:
    """Numbers of the labels of both sides, and the labels in their order."""
    names = _ordered(labels)
    first, second = (pd.Index(names).get_indexer(_as_text(one)) for one in labels)
    return (first, second), names


def _as_text(labels: pd.Series) -> pd.Series:
    return labels.astype(object).where(labels.notna(), _MISSING).astype(str)


def _ordered(labels: list[pd.Series]) -> list[str]:
    """All labels: categories in their own order, else sorted; cells without a label last."""
    found = {one for column in labels for one in _as_text(column).unique()}
    orders = [
        column.cat.categories.astype(str) if isinstance(column.dtype, pd.CategoricalDtype) else [] for column in labels
    ]
    order = list(dict.fromkeys([*orders[0], *orders[1], *sorted(found - {_MISSING}), _MISSING]))
    order.append(order.pop(order.index(_MISSING)))
    return [name for name in order if name in found]


def _mark_labels(ax: Axes, codes: tuple[np.ndarray, np.ndarray], image: PlanImage, names: list[str]) -> None:
    """Lines between labels, and their names where there is room."""
    for which, (own, order) in enumerate(zip(codes, (image.rows, image.columns), strict=True)):
        counts = np.bincount(own[order], minlength=len(names))
        ends = np.cumsum(counts)
        for end in ends[:-1]:
            (ax.axhline if which == 0 else ax.axvline)(end, color=MUTED, linewidth=0.5)
        share = counts / max(counts.sum(), 1)
        shown = [i for i in range(len(names)) if share[i] >= 0.035]
        middle = (ends - counts / 2)[shown]
        text = [_short(names[i]) for i in shown]
        if which == 0:
            ax.set_yticks(middle, text, fontsize=7)
        else:
            ax.set_xticks(middle, text, fontsize=7, rotation=90 if len(text) > 3 else 0)
    ax.tick_params(length=0, pad=2)


def _draw_labels(stored: StoredCoupling, label: str, title: str | None, ax: Axes | None) -> Axes:
    labels = list(column_of(stored, label, argument="label"))
    source_groups, target_groups = stored.codes()
    confusion = label_confusion(
        stored.matrix, *(_as_text(one) for one in labels), source_groups=source_groups, target_groups=target_groups
    )
    order = _ordered(labels)
    rows = [name for name in order if name in confusion.mass.index]
    columns = [name for name in order if name in confusion.mass.columns]
    mass = confusion.mass.loc[rows, columns].to_numpy()
    total = mass.sum(axis=1, keepdims=True)
    share = np.divide(mass, total, out=np.full_like(mass, np.nan), where=total > 0)
    side = float(np.clip(0.36 * max(len(rows), len(columns)), 2.4, 6.5))
    ax = new_axes(ax, size=(side + 2.4, side + 1.4))
    ax.set_facecolor(FAINT)  # labels without a match
    drawn = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if max(len(rows), len(columns)) <= _NUMBERED:
        _write_shares(ax, share)
    _outline_same(ax, rows, columns)
    _name_ticks(ax, rows, columns)
    ax.set_xlabel(f"{label} of {stored.target_name} cells", fontsize=8)
    ax.set_ylabel(f"{label} of {stored.source_name} cells", fontsize=8)
    _bar(ax, drawn, "share of the matches of a row")
    if title is None:
        title = f"same {label}: {_percent(confusion.agreement)} of matches"
        title += f"\n(by chance within perturbations: {_percent(confusion.even_agreement)})"
    ax.set_title(title, fontsize=10, color=INK)
    return ax


def _write_shares(ax: Axes, share: np.ndarray) -> None:
    for (i, j), value in np.ndenumerate(share):
        if np.isfinite(value) and value >= 0.005:
            text = f"{value:.2f}"[1:] if value < 0.995 else "1"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if value > 0.55 else INK)


def _outline_same(ax: Axes, rows: list[str], columns: list[str]) -> None:
    """Frames around pairs of the same label."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    frames = [Rectangle((columns.index(name) - 0.5, i - 0.5), 1, 1) for i, name in enumerate(rows) if name in columns]
    width = float(np.clip(12 / len(rows), 0.3, 1.2))
    ax.add_collection(
        PatchCollection(frames, facecolor="none", edgecolor=ACCENT, linewidth=width, clip_on=False, zorder=3)
    )


def _name_ticks(ax: Axes, rows: list[str], columns: list[str]) -> None:
    """Names of rows and columns, each k-th of them if there is no room for all."""
    box, figure = ax.get_position(), ax.figure
    inches = min(box.width * figure.bbox.width, box.height * figure.bbox.height) / figure.dpi
    room = 72 * 0.75 * inches / max(len(rows), len(columns))  # points for each
    step = int(np.ceil(1.1 * _SMALLEST / room))
    size = float(np.clip(0.85 * room * step, _SMALLEST, 7.5))
    across, down = (range(0, len(names), step) for names in (columns, rows))
    ax.set_xticks(across, [_short(columns[i]) for i in across], rotation=90, fontsize=size)
    ax.set_yticks(down, [_short(rows[i]) for i in down], fontsize=size)
    ax.tick_params(length=0 if step == 1 else 2, pad=2)
    for spine in ax.spines.values():
        spine.set_color(FAINT)


def _bar(ax: Axes, image: AxesImage, text: str) -> None:
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, aspect=25, pad=0.02)
    bar.set_label(text, fontsize=7.5)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    if image.norm.vmin == _LEAST:
        bar.ax.yaxis.set_major_formatter("{x:g}")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
