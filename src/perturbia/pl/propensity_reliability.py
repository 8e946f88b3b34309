"""Whether a classifier of perturbations is right as often as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import NotTrainedError
from perturbia.model.alignment._alignment_diagnostics import held_out_reliability
from perturbia.pl._aligned_cells import SOURCE, TARGET
from perturbia.pl._style import INK, MUTED, bare, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from perturbia.model import PropensityAligner

__all__ = ["propensity_calibration"]


def propensity_calibration(
    model: PropensityAligner, *, n_bins: int | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how often the most probable perturbation is the right one, against its probability.

    Only cells that were not trained on count. Scores of two modalities are comparable where both curves follow the diagonal;
    a modality below it is too sure of itself, and its scores are too far apart.

    Parameters
    ----------
    model
        A trained model.
    n_bins
        Bins of as many cells each; by default as many as have 20, two to ten.
    title
        Title; by default what the cells are.
    ax
        Axes to draw into.

    Returns
    -------
    The axes: mean confidence and accuracy of each bin, with the 95 % Wilson interval of the accuracy. The legend has the
    cross-entropy of the cells beside that of label frequencies, and numbers of cells. Where the model divides logits by
    temperatures, hollow points are the probabilities before that.

    Raises
    ------
    TypeError
        If `model` is something else.
    NotTrainedError
        Before training.
    ValueError
        If `n_bins` is no positive integer.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=40, n_perturbations=4, n_latent=2)
    >>> pb.model.PropensityAligner.setup_mudata(mdata, perturbation_key="perturbation", control="control")
    >>> model = pb.model.PropensityAligner(mdata, n_hidden=16)
    >>> model.train(max_epochs=20, enable_progress_bar=False)
    >>> pb.pl.propensity_calibration(model).get_ylabel()
    'accuracy'
    """
    _check(model, n_bins)
    scores = model.classification_
    curves = held_out_reliability(model, n_bins=n_bins, temperature=model.use_temperature_)
    ax = new_axes(ax, size=(4.0, 4.6))
    highest = float(curves[["confidence", "accuracy"]].to_numpy().max())
    top = 1.0 if highest > 0.5 else 1.5 * highest  # of many perturbations, none is sure
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, zorder=1)
    for name, style in zip(model.modalities.values(), (SOURCE, TARGET), strict=True):
        curve = curves[curves["modality"] == name]
        _draw(ax, curve, style, _describe(name, scores.loc[name], curve), clip_on=top < 1)
    if model.use_temperature_:
        _draw_before(ax, model, n_bins)
    ax.set(xlim=(0, top), ylim=(0, top), xlabel="confidence", ylabel="accuracy")
    ax.set_box_aspect(1)
    ax.locator_params(nbins=6)
    held_out = bool(scores["held_out"].all())
    default = f"{len(model.labels)} perturbations, {'held-out' if held_out else 'training'} cells"
    ax.set_title(title if title is not None else default, fontsize=10, color=INK)
    bare(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=7.5, handlelength=1.6)
    return ax


def _draw(ax: Axes, curve: pd.DataFrame, style: dict, label: str, *, clip_on: bool) -> None:
    ends = curve["accuracy"] - curve["lower"], curve["upper"] - curve["accuracy"]
    ax.errorbar(
        curve["confidence"], curve["accuracy"], yerr=np.clip(ends, 0, None), color=style["color"], marker=style["marker"],
        markersize=5, linewidth=1.4, elinewidth=0.8, label=label, zorder=3, clip_on=clip_on,
    )  # fmt: skip


def _draw_before(ax: Axes, model: PropensityAligner, n_bins: int | None) -> None:
    """The same for probabilities as the classifiers gave them."""
    before = held_out_reliability(model, n_bins=n_bins)
    look: dict[str, Any] = {"markerfacecolor": "white", "markersize": 5, "linewidth": 0.8, "linestyle": ":"}
    for name, style in zip(model.modalities.values(), (SOURCE, TARGET), strict=True):
        curve = before[before["modality"] == name]
        ax.plot(curve["confidence"], curve["accuracy"], **style, **look, zorder=2)
    # an empty bar, as legends name lines first
    ax.errorbar([], [], yerr=[], color=MUTED, marker="o", label="before temperatures", **look)


def _describe(name: str, scores: pd.Series, curve: pd.DataFrame) -> str:
    sizes = curve["n_cells"]
    size = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()}–{sizes.max()}"
    return (
        f"{name}: cross-entropy {scores['cross_entropy']:.2f} nats, chance {scores['chance']:.2f}\n"
        f"{len(curve)} bins of {size} cells"
    )


def _check(model: object, n_bins: int | None) -> None:
    from perturbia.model import PropensityAligner

    if not isinstance(model, PropensityAligner):
        msg = (
            f"model: expected a PropensityAligner, got {type(model).__name__}. Only its classifiers have probabilities."
        )
        raise TypeError(msg)
    if model.classification_ is None:
        msg = "model: expected a trained PropensityAligner, got one without scores. Call .train() first."
        raise NotTrainedError(msg)
    if n_bins is not None and (isinstance(n_bins, bool) or not isinstance(n_bins, int | np.integer) or n_bins < 1):
        msg = f"n_bins: expected a positive integer, or None, got {n_bins!r}."
        raise ValueError(msg)
