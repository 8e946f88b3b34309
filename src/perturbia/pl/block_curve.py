"""How well every block of a model tells labels apart, by depth."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import FeatureMismatch, shorten
from perturbia.pl._style import ACCENT, BASELINE, FAINT, INK, MUTED, bare, colours_of, new_axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["block_search"]

_COLUMNS = ("task", "block", "mean", "se", "seconds", "selected")
_SCORES = ("nested_score", "nested_se", "chance")
_METRICS = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}
_MANY = 16  # blocks whose names can stand side by side
_LETTERS = 11  # letters of a title in an inch
_LONGEST = 26  # letters of a name below the axes


def block_search(
    adata_or_table: AnnData | pd.DataFrame,
    *,
    key: str = _keys.UNS_BLOCK_SEARCH,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Scores of the blocks of a model by depth, the block that was chosen, and what choosing it is worth.

    Parameters
    ----------
    adata_or_table
        Data that :func:`perturbia.tl.block_search` wrote to, or the table that it returned.
    key
        Key of `uns`, for data.
    title
        Title of the axes; by default the nested score of the search, the block that was chosen, and in how many folds.
    ax
        Axes to draw into.

    Returns
    -------
    The axes: a point a block, its mean with a bar of one standard error; dashed, the level of guessing; filled in red, the
    chosen block, and the diamond beside it, the nested score of the whole search with its standard error, which is what to
    report: that of the blocks chosen while each fold was held out, which need not be this one; grey columns below, CPU
    seconds a block, the highest with its number. Several tasks have a line each, the chosen block of each filled, and a
    grey band at the block for all of them.

    Raises
    ------
    FeatureMismatch
        If nothing is stored under `key`.
    TypeError
        If it is something else than data or a table.
    ValueError
        If it is no result of that tool.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"gene": list("AB") * 30, "plate": np.repeat(list("xyz"), 20)}, index=map(str, range(60)))
    >>> adata = ad.AnnData(np.zeros((60, 1), np.float32), obs=obs)
    >>> for depth in range(3):
    ...     adata.obsm[f"X_{depth}"] = depth * (obs[["gene"]] == "A").to_numpy() + rng.normal(size=(60, 4))
    >>> _ = pb.tl.block_search(adata, ["X_0", "X_1", "X_2"], label_key="gene", group_key="plate", n_splits=3)
    >>> [label.get_text() for label in pb.pl.block_search(adata).get_xticklabels()]
    ['X_0', 'X_1', 'X_2']
    """
    table, summary = _read(adata_or_table, key)
    blocks = list(dict.fromkeys(table["block"]))
    tasks = list(dict.fromkeys(table["task"]))
    given, ax = ax, new_axes(ax, size=(float(np.clip(0.42 * len(blocks) + 2.4, 4.4, 13)), 3.4))
    colours = {tasks[0]: BASELINE} if len(tasks) == 1 else colours_of(tasks)
    chosen = blocks.index(summary["selected"])
    if len(tasks) > 1:
        ax.axvspan(chosen - 0.4, chosen + 0.4, color=FAINT, alpha=0.6, lw=0, zorder=0.5, label="chosen for all")
    for task in tasks:
        rows = table[table["task"] == task].set_index("block").loc[blocks]
        scores = {name: _of_task(summary[name], task) for name in _SCORES}
        _draw_task(ax, rows, scores, colours[task], label=task if len(tasks) > 1 else None)
    _draw_cost(ax, table.groupby("block", sort=False)["seconds"].sum().loc[blocks].to_numpy())
    metric = str(summary["metric"])
    ax.set_ylabel(f"{_METRICS.get(metric, metric)}, groups held out", fontsize=9)
    # names of layers differ at their end
    names = [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in blocks]
    crowded = len(blocks) > _MANY or max(map(len, names)) * len(blocks) > 60
    step = -(-len(blocks) // 40)
    ax.set_xticks(range(0, len(blocks), step), names[::step], rotation=90 if crowded else 0, fontsize=8)
    ax.tick_params(axis="x", length=0)
    ax.tick_params(axis="y", labelsize=8)
    ax.set_xlim(-0.6, len(blocks) - 0.4)
    bare(ax)
    _legend(ax, several=len(tasks) > 1)
    # over the legend, too: the axes alone are narrow where blocks are few
    inches = (ax.figure.bbox if given is None else ax.get_window_extent()).width / ax.figure.dpi
    width = int(_LETTERS * max(inches, 2))
    ax.set_title(_title(summary, tasks, width) if title is None else title, x=0, ha="left", fontsize=10, color=INK)
    return ax


def _legend(ax: Axes, *, several: bool) -> None:
    """Tasks and marks; those of several tasks in grey, since each task has its own colour."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = ax.get_legend_handles_labels()[0]
    if several:
        handles += [
            Line2D([], [], color=MUTED, marker="o", ls="", label="chosen in a task"),
            Line2D([], [], color=MUTED, marker="D", mfc="white", ms=5, ls="", label="nested score"),
            Line2D([], [], color=MUTED, lw=0.9, ls="--", label="chance"),
        ]
    handles.append(Patch(color=FAINT, label="CPU seconds"))
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _draw_task(ax: Axes, rows: pd.DataFrame, scores: dict[str, float], colour: str, *, label: str | None) -> None:
    """Line, bars and chosen block of one task, its nested score and the level of guessing."""
    x, mean = np.arange(len(rows)), rows["mean"].to_numpy()
    (place,) = np.flatnonzero(rows["selected"].to_numpy(bool))
    own = ACCENT if label is None else colour
    ax.plot(x, mean, color=colour, lw=1, alpha=0.6, zorder=2)
    bars: dict[str, Any] = {"ms": 5, "mfc": "white", "elinewidth": 1}
    ax.errorbar(
        x,
        mean,
        rows["se"],
        fmt="o",
        mec=colour,
        ecolor=colour,
        zorder=3,
        label=label or "block, mean ± se",
        **bars,
    )
    chosen, nested, chance = (
        "chosen block",
        f"nested score of the\nsearch, {scores['nested_score']:.3f}",
        f"chance {scores['chance']:.3g}",
    )
    if label is not None:
        chosen = nested = chance = "_nolegend_"
    ax.plot([x[place]], [mean[place]], "o", ms=7, color=own, zorder=5, label=chosen)
    ax.errorbar(
        np.array([place + 0.25]),
        np.array([scores["nested_score"]]),
        scores["nested_se"],
        fmt="D",
        mec=own,
        ecolor=own,
        zorder=4,
        label=nested,
        **bars,
    )
    ax.axhline(scores["chance"], color=MUTED if label is None else colour, lw=0.9, ls="--", zorder=1, label=chance)


def _draw_cost(ax: Axes, seconds: np.ndarray) -> None:
    """CPU seconds of blocks as low columns behind the scores."""
    cost = ax.twinx()
    cost.set_zorder(ax.get_zorder() - 1)
    ax.patch.set_visible(False)
    top = float(seconds.max())
    cost.bar(np.arange(len(seconds)), seconds, width=0.5, color=FAINT, zorder=0)
    cost.set_ylim(0, 6 * max(top, np.finfo(float).tiny))
    most = int(seconds.argmax())
    cost.annotate(
        f"{top:.2g} s", (most, top), (0, 2), textcoords="offset points", ha="center", fontsize=6.5, color=MUTED
    )
    cost.set_yticks([])
    cost.spines[:].set_visible(False)
    # room for the columns below the lowest score
    low, high = ax.get_ylim()
    ax.set_ylim(low - (high - low) * 0.22, high)


def _title(summary: dict[str, Any], tasks: list[str], width: int) -> str:
    """The score, which is that of the search, and the block, in lines of at most `width` letters."""
    selected = summary["selected"]
    if len(tasks) > 1:
        lines = [f"{selected}: least mean rank in {len(tasks)} tasks"]
    else:
        score, error = (_of_task(summary[name], tasks[0]) for name in ("nested_score", "nested_se"))
        chosen = summary.get("nested_blocks", [])
        chosen = list(chosen[tasks[0]] if isinstance(chosen, dict) else chosen)
        folds = f", chosen in {chosen.count(selected)} of {len(chosen)} folds" if chosen else ""
        lines = [
            f"search: nested score {score:.3f} ± {error:.3f} ({summary['probe']} probe)",
            f"selected {selected}{folds}",
        ]
    return "\n".join(fill(line, width) for line in lines)


def _of_task(value: Any, task: str) -> float:
    return float(value[task] if isinstance(value, dict) else value)


def _read(given: Any, key: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and scores of the search, from either form."""
    fix = "Make one with perturbia.tl.block_search."
    table: Any
    if isinstance(given, pd.DataFrame):
        table, summary = given, {str(name): value for name, value in given.attrs.items()}
    elif hasattr(given, "uns"):
        if key not in given.uns:
            msg = f"key: expected a key of adata.uns, got {key!r}; keys are {shorten(given.uns) or 'none'}. {fix}"
            raise FeatureMismatch(msg)
        stored = given.uns[key]
        summary = dict(stored) if isinstance(stored, dict) else {}
        table = summary.get("table")
    else:
        msg = f"adata_or_table: expected AnnData or the result of perturbia.tl.block_search, got {type(given).__name__}. {fix}"
        raise TypeError(msg)
    columns: Any = table.columns if isinstance(table, pd.DataFrame) else []
    missing = [name for name in _COLUMNS if name not in columns]
    missing += [name for name in (*_SCORES, "selected", "metric", "probe") if name not in summary]
    if missing or not len(table):
        got = f"no {', '.join(dict.fromkeys(missing))}" if missing else "no rows"
        msg = f"adata_or_table: expected the result of perturbia.tl.block_search, got {got}. {fix}"
        raise ValueError(msg)
    return table, summary
