"""Curves of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import NotTrainedError
from perturbia.pl._style import ACCENT, INK, PALETTE, bare, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["training"]


def training(model: object, *, curve: str = "elbo", title: str | None = None, ax: Axes | None = None) -> Axes:
    """Loss of training and validation cells over epochs.

    Parameters
    ----------
    model
        A trained model, or its `history`.
    curve
        Name of the curve in `history`, without ``_train`` and ``_validation``.
    title
        Title of the axes.
    ax
        Axes to draw into.

    Returns
    -------
    The axes. The range of the ordinate leaves out the first, steep tenth.

    Raises
    ------
    NotTrainedError
        If there is no such curve.

    Examples
    --------
    >>> import pandas as pd, perturbia as pb
    >>> ax = pb.pl.training({"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2.0, 1.0]})})
    >>> ax.get_xlabel()
    'epoch'
    """
    history: Any = model if hasattr(model, "keys") else (getattr(model, "history", None) or {})
    parts = {part: history[f"{curve}_{part}"] for part in ("train", "validation") if f"{curve}_{part}" in history}
    if not parts:
        msg = f"model: expected a history with the curve {curve!r}, got {sorted(history)}. Train the model first."
        raise NotTrainedError(msg)
    ax = new_axes(ax, size=(5.2, 3.2))
    settled = []
    for (part, frame), colour in zip(parts.items(), (PALETTE[0], ACCENT), strict=False):
        epochs, values = frame.index.to_numpy(), np.asarray(frame, dtype=float).ravel()
        marker = "o" if len(values) < 40 else None
        ax.plot(epochs, values, color=colour, linewidth=1.4, marker=marker, markersize=3, label=part)
        settled.append(values[-(-len(values) // 10) if len(values) > 2 else 0 :])
    low, high = np.nanmin(np.concatenate(settled)), np.nanmax(np.concatenate(settled))
    if high > low:
        ax.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    label = "negative ELBO (nats per cell)" if curve == "elbo" else curve.replace("_", " ")
    ax.set(xlabel="epoch", ylabel=label)
    ax.set_title(title or "training", fontsize=10, color=INK)
    ax.legend(frameon=False, fontsize=8)
    bare(ax)
    return ax
