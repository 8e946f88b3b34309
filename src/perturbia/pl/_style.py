"""What all figures share: colours that colour-blind readers can tell apart, units, and axes made where none were given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = [
    "ACCENT",
    "BASELINE",
    "COUNT_SCALES",
    "FAINT",
    "INK",
    "MODELS",
    "MUTED",
    "PALETTE",
    "bare",
    "colours_of",
    "new_axes",
    "unit_of",
]

# Okabe and Ito's palette, its yellow and black last because they are hard to see on white and among text.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
ACCENT = "#D55E00"
MODELS = (ACCENT, "#CC79A7", "#009E73", "#E69F00")
BASELINE = "#0072B2"
INK = "#222222"
MUTED = "#8a8a8a"
FAINT = "#d9d9d9"

_UNITS = {"log1p_cp10k": "log1p CP10K", "perturbseq": "log2(CP10K + 1)", "counts": "counts"}
COUNT_SCALES = frozenset(_UNITS)


def new_axes(ax: Axes | None, *, size: tuple[float, float]) -> Axes:
    """Return `ax`, or the axes of a new figure of `size` inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def bare(ax: Axes) -> None:
    """Take away the upper and right frame."""
    ax.spines[["top", "right"]].set_visible(False)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """One colour a name, in turn; more names than colours start over."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def unit_of(scale: str) -> str:
    """The unit of a declared scale as an axis states it."""
    return _UNITS.get(scale, scale)
