"""How well every latent of a reference run is found again by other runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.pl._style import FAINT, INK, MUTED, PALETTE, bare, colours_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["latent_stability"]

_COLUMNS = ("latent", "run", "matched", "correlation")


def latent_stability(
    table: pd.DataFrame, *, n_top: int | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Stability of the latents of a reference run, with what each other run makes of them.

    Parameters
    ----------
    table
        Result of :func:`perturbia.tl.align_latents`.
    n_top
        Draw only that many latents, the most stable ones; by default all.
    title
        Title; by default the mean stability over all latents (MCC), the number of runs and the reference.
    ax
        Axes to draw into.

    Returns
    -------
    The axes: latents from the most to the least stable, a line at the stability of each, and a point for the absolute
    correlation with its match in every other run, hollow at 0 where a run has no match left.

    Raises
    ------
    TypeError
        If `table` is no data frame.
    ValueError
        If it lacks a column or is empty, or `n_top` is no positive integer.

    Examples
    --------
    >>> import numpy as np, perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(200, 3))
    >>> runs = {f"seed {i}": z + i * rng.normal(size=z.shape) for i in range(3)}
    >>> ax = pb.pl.latent_stability(pb.tl.align_latents(runs, reference="seed 0"))
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['z1', 'z0', 'z2']
    """
    _check(table, n_top)
    strength = table["correlation"].abs()
    stability = strength.groupby(table["latent"]).mean().sort_values(ascending=False, kind="stable")
    shown = stability.index[:n_top]
    place = pd.Series(np.arange(len(shown)), index=shown)
    runs = list(table["run"].drop_duplicates())
    ax = new_axes(ax, size=(float(np.clip(0.3 * len(shown) + 2.4, 4.2, 14)), 3.4))
    # a stem ties the points of a latent together, so that none is read as its neighbour's
    ends = strength.groupby(table["latent"]).agg(["min", "max"]).loc[shown]
    ax.vlines(place, ends["min"], ends["max"], color=FAINT, lw=3, zorder=1)
    ax.hlines(stability[shown], place - 0.3, place + 0.3, color=INK, lw=1.8, zorder=3)
    ax.plot([], [], color=INK, lw=1.8, label="mean: stability")
    told_apart = len(runs) <= len(PALETTE)
    colours = colours_of(runs) if told_apart else dict.fromkeys(runs, MUTED)
    for run, step in zip(runs, _steps(len(runs)), strict=True):
        rows = (table["run"] == run) & table["latent"].isin(shown)
        x, y = place[table["latent"][rows]].to_numpy() + step, strength[rows].to_numpy()
        found = table["matched"][rows].to_numpy() >= 0
        faces = [colours[run] if one else "white" for one in found]
        ax.scatter(x, y, s=22, c=faces, edgecolors=colours[run], linewidths=0.8, zorder=2, clip_on=False)
        if told_apart:
            ax.scatter([], [], s=22, c=colours[run], label=str(run))
    if not told_apart:
        ax.scatter([], [], s=22, c=MUTED, label=f"each of {len(runs)} runs")
    if (table["matched"][table["latent"].isin(shown)] < 0).any():
        ax.scatter([], [], s=22, c="white", edgecolors=MUTED, linewidths=0.8, label="no match left")
    reference = table.attrs.get("reference")
    against = "the reference" if reference is None else str(reference)
    default = f"MCC {strength.mean():.2f}: {len(runs)} {'run' if len(runs) == 1 else 'runs'} against {against}"
    ax.set_title(default if title is None else title, color=INK, fontsize=11)
    ax.set(
        xlabel=f"latent of {against}", ylabel="|correlation| with its match", ylim=(0, 1), xlim=(-0.6, len(shown) - 0.4)
    )
    names = [f"z{latent}" if isinstance(latent, int | np.integer) else str(latent) for latent in shown]
    ax.set_xticks(range(len(shown)), names, rotation=90 if len(shown) > 12 else 0, fontsize=8)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", color=FAINT, lw=0.6)
    ax.set_axisbelow(True)
    bare(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return ax


def _steps(n_runs: int) -> np.ndarray:
    return np.linspace(-0.16, 0.16, n_runs) if n_runs > 1 else np.zeros(1)


def _check(table: pd.DataFrame, n_top: int | None) -> None:
    fix = "Make one with perturbia.tl.align_latents."
    if not isinstance(table, pd.DataFrame):
        msg = f"table: expected the result of perturbia.tl.align_latents, got {type(table).__name__}. {fix}"
        raise TypeError(msg)
    missing = [name for name in _COLUMNS if name not in table]
    if missing or not len(table):
        got = f"no {', '.join(missing)}" if missing else "no rows"
        msg = f"table: expected the result of perturbia.tl.align_latents with columns {', '.join(_COLUMNS)}, got {got}. {fix}"
        raise ValueError(msg)
    if n_top is not None and (isinstance(n_top, bool) or not isinstance(n_top, int | np.integer) or n_top < 1):
        msg = f"n_top: expected a positive integer, or None for all latents, got {n_top!r}."
        raise ValueError(msg)
