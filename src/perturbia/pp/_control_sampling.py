"""A share of the controls of every batch, drawn by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import ControlError, shorten
from perturbia.perturbation._row_order import rank_by_name
from perturbia.perturbation.labels import CONTROL
from perturbia.stats._membership import place_within
from perturbia.stats._settings import is_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perturbia.perturbation.design import Design

__all__ = ["control_classes", "draw_shares"]

# a share of 0.1 of 30 rows is 3 rows, though 0.1 * 30 is a little more than 3
_ROUNDING = 1e-9


def control_classes(
    fraction: float | Mapping[str, float], labels: np.ndarray, design: Design
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of classes of controls, the share of each that is kept, and the class of every row, -1 for perturbations.

    Parameters
    ----------
    fraction
        One share, of each label of controls, or one for each label. Labels may be those of perturbations that every plate holds.
        Controls without a share of their own take that of ``control``, else 1.
    labels
        Labels as the data spell them, text (n_rows,).
    design
        The same rows, read.

    Raises
    ------
    ControlError
        If no row has one of the labels.
    ValueError
        If a share is not a number from 0 to 1.
    """
    if not hasattr(fraction, "items"):
        share = _share(fraction, "control_fraction")
        names = np.unique(labels[design.is_control]).tolist()
        classes = np.full(len(labels), -1)
        classes[design.is_control] = np.searchsorted(names, labels[design.is_control])
        return names, np.full(len(names), share), classes
    given = {str(label): _share(value, f"control_fraction[{label!r}]") for label, value in fraction.items()}
    canonical = design.labels().astype(str)
    classes = np.full(len(labels), -1)
    names = sorted(given)
    for k, name in enumerate(names):
        classes[(labels == name) | ((canonical == name) & ~design.is_control)] = k
    rest = design.is_control & (classes < 0)
    if rest.any() and CONTROL not in given:
        names, given = [*names, CONTROL], given | {CONTROL: 1.0}
    if rest.any():
        classes[rest] = names.index(CONTROL)
    absent = [name for k, name in enumerate(names) if not (classes == k).any()]
    if absent:
        msg = (
            f"control_fraction: expected labels that rows have, got {shorten(absent)}. Labels seen: "
            f"{shorten(np.unique(labels).tolist())}."
        )
        raise ControlError(msg)
    return names, np.array([given[name] for name in names]), classes


def draw_shares(
    classes: np.ndarray, shares: np.ndarray, batches: np.ndarray, names: np.ndarray, *, seed: int
) -> np.ndarray:
    """Draw a share of the rows of every class from each batch, rounded up, so that no batch loses all its controls.

    Parameters
    ----------
    classes
        Class of every row, (n_rows,); rows of -1 are not drawn.
    shares
        Share of each class, (n_classes,).
    batches
        Batch of every row, whole numbers (n_rows,).
    names
        Names of the rows, which alone decide who is drawn; rows of one name by their order.
    seed
        Seed of the draw.

    Returns
    -------
    Which rows are drawn, bool (n_rows,).
    """
    rows = np.flatnonzero(classes >= 0)
    drawn = np.zeros(len(classes), dtype=bool)
    if not len(rows):
        return drawn
    _, stratum, size = np.unique(
        classes[rows] * (batches.max() + 1) + batches[rows], return_inverse=True, return_counts=True
    )
    luck = np.random.default_rng(seed).random(len(rows))[rank_by_name(names[rows])]
    wanted = np.ceil(shares[classes[rows]] * size[stratum] - _ROUNDING)
    drawn[rows] = place_within(stratum, luck) < wanted
    return drawn


def _share(value: Any, argument: str) -> float:
    if not is_number(value) or not 0 <= value <= 1:
        msg = f"{argument}: expected a share from 0 to 1, got {value!r}. Pass 1 to keep all controls."
        raise ValueError(msg)
    return float(value)
