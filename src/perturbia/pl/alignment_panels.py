"""How far matches of two modalities can be trusted, perturbation by perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from perturbia.model.alignment._alignment_diagnostics import DIFFERENT, HUB, LARGE
from perturbia.pl._aligned_cells import SOURCE, TARGET
from perturbia.pl._methods import check_names
from perturbia.pl._style import ACCENT, FAINT, INK, MUTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from perturbia.model import PropensityAligner

__all__ = ["alignment_diagnostics"]

_Order = Literal["auroc", "relative_distance", "n_effective", "max_hubness", "table"]
_NEEDED = ("auroc_source", "auroc_target", "relative_distance", "p_adjusted")
_MATCHES = ("n_effective", "max_hubness")
_SMALLEST = 5.0  # points, of letters
_TALLEST = 11.0  # inches
_LONGEST = 24  # letters of a name


def alignment_diagnostics(
    data: pd.DataFrame | PropensityAligner,
    *,
    perturbations: Sequence[str] | None = None,
    sort_by: _Order = "auroc",
    names: tuple[str, str] | None = None,
    title: str | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw what speaks for and against the matches of every perturbation, side by side.

    Parameters
    ----------
    data
        Result of :meth:`perturbia.model.PropensityAligner.diagnose`; or the model, which is asked for it.
    perturbations
        Perturbations to draw; by default all.
    sort_by
        Most trusted perturbations come first: by the lower AUROC of the two modalities, the distance of their scores, the
        effective number of matches, or the largest hubness; ``"table"`` keeps the order of the table.
    names
        Names of the modalities; by default those of the model, or ``"source"`` and ``"target"``.
    title
        Title; by default numbers of perturbations and of what is flagged. Not drawn above axes that were passed.
    ax
        As many axes as there are panels.

    Returns
    -------
    Array of axes with one ordinate, of perturbations:

    - how well held-out cells are told from those of other perturbations, 0.5 by chance (dashed), in both modalities;
    - how far apart the scores of both modalities are, from 0 to 1 (energy distance relative to its largest value): hollow
      where they may be the same (adjusted p-value of 0.05 and above), coloured where they are not, and farther apart than
      unequal classifiers make them (dashed);
    - where cells were matched: median effective number of matches of a source cell, with the number of target cells as a grey
      bar, which would be no information at all; and
    - largest mass of a target cell relative to an even share, 1 for matches that spread evenly; coloured above 10 (dashed).

    A perturbation without a value has no point.

    Raises
    ------
    TypeError
        If `data` is something else.
    ValueError
        If the table lacks a column or is empty, one of `perturbations` is not in it, it can not be sorted so, or `ax` has
        another number of axes.

    Examples
    --------
    >>> import pandas as pd, perturbia as pb
    >>> table = pd.DataFrame(
    ...     {
    ...         "auroc_source": [0.7, 0.9],
    ...         "auroc_target": [0.8, 0.9],
    ...         "relative_distance": [0.2, 0.0],
    ...         "p_adjusted": 0.01,
    ...     },
    ...     index=["KLF1", "CEBPA"],
    ... )
    >>> axes = pb.pl.alignment_diagnostics(table)
    >>> [tick.get_text() for tick in axes[0].get_yticklabels()]
    ['CEBPA', 'KLF1']
    """
    if not isinstance(data, pd.DataFrame) and hasattr(data, "diagnose"):
        names = tuple(data.modalities.values()) if names is None else names
        data = data.diagnose()
    table = _sorted(_checked(data, perturbations), sort_by)
    names = ("source", "target") if names is None else names
    panels = ["auroc", "relative_distance", *(name for name in _MATCHES if name in table)]
    axes = _axes(ax, len(panels), len(table))
    for panel, one in zip(panels, axes, strict=True):
        one.hlines(range(len(table)), 0, 1, transform=one.get_yaxis_transform(), color=FAINT, linewidth=0.4, zorder=0)
        if panel == "auroc":
            _draw_auroc(one, table, names)
        else:
            _DRAWN[panel](one, table)
        one.spines[["top", "right", "left"]].set_visible(False)
        one.tick_params(axis="x", labelsize=7)
        one.xaxis.label.set_fontsize(8)
        one.tick_params(axis="y", length=0)
        one.set_ylim(len(table) - 0.4, -0.6)
    _name_rows(axes, list(map(str, table.index)))
    if ax is None:
        axes[0].figure.suptitle(_summary(table) if title is None else title, fontsize=10, color=INK)
    return axes


def _checked(data: object, perturbations: Sequence[str] | None) -> pd.DataFrame:
    fix = "Make one with perturbia.model.PropensityAligner.diagnose."
    if not isinstance(data, pd.DataFrame):
        msg = f"data: expected the table of an alignment or a PropensityAligner, got {type(data).__name__}. {fix}"
        raise TypeError(msg)
    missing = [name for name in _NEEDED if name not in data]
    if missing or not len(data):
        got = f"no {', '.join(missing)}" if missing else "no rows"
        msg = f"data: expected a table with columns {', '.join(_NEEDED)} and a row a perturbation, got {got}. {fix}"
        raise ValueError(msg)
    if perturbations is None:
        return data
    asked = check_names(perturbations, data.index, argument="perturbations", of="perturbations of the table")
    return data.loc[[name for name in data.index if str(name) in set(map(str, asked))]]


def _sorted(table: pd.DataFrame, sort_by: str) -> pd.DataFrame:
    if sort_by not in get_args(_Order) or (sort_by in _MATCHES and sort_by not in table):
        able = [name for name in get_args(_Order) if name not in _MATCHES or name in table]
        msg = f"sort_by: expected one of {', '.join(map(repr, able))}, got {sort_by!r}."
        raise ValueError(msg)
    if sort_by == "table":
        return table
    worse = table[["auroc_source", "auroc_target"]].min(axis=1)
    key = -worse if sort_by == "auroc" else table[sort_by]
    return table.iloc[np.argsort(key.to_numpy(dtype=float), kind="stable")]


def _axes(ax: Any, n_panels: int, n_rows: int) -> np.ndarray:
    if ax is not None:
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) != n_panels:
            msg = f"ax: expected {n_panels} axes, one a panel, got {len(axes)}."
            raise ValueError(msg)
        return axes
    import matplotlib.pyplot as plt

    height = float(np.clip(0.21 * n_rows, 1.0, _TALLEST)) + 1.3
    return plt.subplots(1, n_panels, figsize=(2.1 * n_panels + 0.9, height), sharey=True, layout="constrained")[1]


def _draw_auroc(ax: Axes, table: pd.DataFrame, names: tuple[str, str]) -> None:
    y = np.arange(len(table))
    columns = ("auroc_source", "auroc_target")
    ends = table[list(columns)].to_numpy(dtype=float)
    ax.hlines(y, ends.min(axis=1), ends.max(axis=1), color=MUTED, linewidth=1.0, zorder=1)
    for column, name, style in zip(columns, names, (SOURCE, TARGET), strict=True):
        ax.scatter(
            table[column], y, s=_area(len(table)), c=style["color"], marker=style["marker"], label=name, **_POINT
        )
    ax.axvline(0.5, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
    ax.set(xlim=(min(0.4, np.nanmin(ends, initial=1.0) - 0.03), 1.02), xlabel="AUROC")
    ax.set_title("told from others", fontsize=8.5, color=INK)
    above = 1.0 + 0.26 / max(ax.get_window_extent().height / ax.figure.dpi, 1.0)
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, above), ncols=2, frameon=False, fontsize=7.5, handletextpad=0.1,
        columnspacing=0.8, borderpad=0,
    )  # fmt: skip


def _draw_difference(ax: Axes, table: pd.DataFrame) -> None:
    values, q = (table[name].to_numpy(dtype=float) for name in ("relative_distance", "p_adjusted"))
    _draw_flagged(ax, values, _differ(table), hollow=~(q < DIFFERENT))
    ax.axvline(LARGE, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
    low, high = np.nanmin(values, initial=0.0), np.nanmax(values, initial=0.0)  # unbiased, so that some are negative
    ax.set(xlim=(1.1 * low, max(1.5 * LARGE, 1.1 * high)), xlabel="relative distance")
    ax.locator_params(axis="x", nbins=4)
    ax.set_title("scores differ", fontsize=8.5, color=INK)


def _differ(table: pd.DataFrame) -> np.ndarray:
    """Whether scores are clearly and by much not the same."""
    return ((table["p_adjusted"] < DIFFERENT) & (table["relative_distance"] > LARGE)).to_numpy()


def _draw_matches(ax: Axes, table: pd.DataFrame) -> None:
    values = _positive(table["n_effective"])
    _draw_flagged(ax, values, np.zeros(len(values), dtype=bool))
    high = np.nanmax(values, initial=2.0)
    if "n_target" in table:
        n_target = table["n_target"].to_numpy(dtype=float)
        ax.scatter(
            n_target, range(len(table)), s=2.5 * _area(len(table)), marker="|", c=MUTED, linewidths=1.2, zorder=2
        )
        high = max(high, np.nanmax(n_target))
    ax.set(xscale="log", xlim=(0.85, 1.4 * high), xlabel="target cells (median)")
    ax.set_title("effective matches", fontsize=8.5, color=INK)
    _plain(ax)


def _draw_hubs(ax: Axes, table: pd.DataFrame) -> None:
    values = _positive(table["max_hubness"])
    _draw_flagged(ax, values, values > HUB)
    high = max(2.0, 1.4 * np.nanmax(values, initial=1.0))
    if high > HUB:
        ax.axvline(HUB, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
    ax.set(xscale="log", xlim=(min(0.8, 0.8 * np.nanmin(values, initial=1.0)), high), xlabel="mass / even share")
    ax.set_title("largest hub", fontsize=8.5, color=INK)
    _plain(ax)


_DRAWN = {"relative_distance": _draw_difference, "n_effective": _draw_matches, "max_hubness": _draw_hubs}
_POINT: dict[str, Any] = {"linewidths": 0.9, "zorder": 3, "clip_on": False}


def _draw_flagged(ax: Axes, values: np.ndarray, flagged: np.ndarray, *, hollow: np.ndarray | None = None) -> None:
    edges = np.where(flagged, ACCENT, INK)
    faces = edges if hollow is None else np.where(hollow, "white", edges)
    area = _area(len(values))
    ax.scatter(values, range(len(values)), s=area, c=list(faces), edgecolors=list(edges), **_POINT)


def _positive(column: pd.Series) -> np.ndarray:
    """Values for a logarithmic axis; perturbations without any mass have none."""
    values = column.to_numpy(dtype=float)
    return np.where(values > 0, values, np.nan)


def _area(n_rows: int) -> float:
    return float(np.clip(900 / n_rows, 12, 32))


def _plain(ax: Axes) -> None:
    """Numbers of a logarithmic axis as they are spoken."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = ax.get_xlim()
    wide = high / low > 30
    ax.xaxis.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def _name_rows(axes: np.ndarray, names: list[str]) -> None:
    """Names of perturbations, each k-th of them if there is no room for all."""
    room = 72 * axes[0].get_window_extent().height / axes[0].figure.dpi / len(names)
    step = int(np.ceil(1.1 * _SMALLEST / max(room, 0.1)))
    shown = range(0, len(names), step)
    text = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
    axes[0].set_yticks(shown, [text[i] for i in shown], fontsize=float(np.clip(0.85 * room * step, _SMALLEST, 8)))
    for other in axes[1:]:
        other.tick_params(labelleft=False)


def _summary(table: pd.DataFrame) -> str:
    n, n_differing = len(table), int(_differ(table).sum())
    parts = [f"{n} perturbation{'' if n == 1 else 's'}", f"scores differ in {n_differing or 'none'}"]
    if "max_hubness" in table and (n_hubs := int((table["max_hubness"] > HUB).sum())):
        parts.append(f"hubs in {n_hubs}")
    return "; ".join(parts)
