"""Rows of a screen as metrics of replicates read them: values, perturbation and batch of each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import ControlError, LabelError, shorten
from perturbia.metrics._row_order import content_order
from perturbia.perturbation._profiles import is_annotated, label_design, profile_matrix, row_labels
from perturbia.stats._membership import distinct_within

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ScreenRows", "read_screen", "warn_left_out", "warn_of_fitted_controls"]


@dataclass(frozen=True)
class ScreenRows:
    """Rows of a screen, in an order that depends on their content alone.

    Attributes
    ----------
    values
        Shape (n_rows, n_features), float64.
    names
        Perturbations, sorted, shape (n_perturbations,).
    codes
        Position of the perturbation of every row in `names`, -1 for controls, shape (n_rows,).
    batch_names
        Batches, sorted; one, without a name, where batches were not given.
    batches
        Position of the batch of every row in `batch_names`, shape (n_rows,).
    order
        Position of every row in the data that were given, shape (n_rows,).
    """

    values: np.ndarray
    names: np.ndarray
    codes: np.ndarray
    batch_names: np.ndarray
    batches: np.ndarray
    order: np.ndarray

    @property
    def n_rows(self) -> np.ndarray:
        """Rows of every perturbation, shape (n_perturbations,)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def n_batches(self) -> np.ndarray:
        """Batches that every perturbation has rows in, shape (n_perturbations,)."""
        return distinct_within(self.codes, self.batches, len(self.names))


def read_screen(
    data: Any,
    perturbation_key: Any,
    *,
    use_rep: str | None,
    control: str | Sequence[str] | None,
    batch_key: Any,
    sep: str,
    least: int = 2,
    require_control: bool = False,
) -> ScreenRows:
    """Read values, perturbations and batches; `least` perturbations are needed.

    Controls are rows labelled so, and those that `obs["is_control"]` of AnnData marks.

    Raises
    ------
    FeatureMismatch, LabelError, ControlError, ValueError
        Whatever is wrong with the representation, labels or controls, or values that are missing.
    """
    values = profile_matrix(data, use_rep=use_rep, argument="data", least_rows=2)
    design = label_design(data, perturbation_key, control=control, sep=sep, with_marked=True)
    labels = design.labels().astype(str)
    is_control = design.is_control
    names, codes = np.unique(labels[~is_control], return_inverse=True)
    if len(names) < least:
        msg = (
            f"perturbation_key: expected {least} perturbations or more besides controls, got {len(names)} "
            f"({shorten(names.tolist()) or 'controls alone'})."
        )
        raise LabelError(msg)
    if require_control and not is_control.any():
        msg = f"control: expected control rows, got none. Name their label; labels are {shorten(names.tolist())}."
        raise ControlError(msg)
    code = np.full(len(labels), -1)
    code[~is_control] = codes
    if batch_key is None:
        batch_names, batches = np.array([""]), np.zeros(len(labels), dtype=np.intp)
    else:
        batch_names, batches = np.unique(row_labels(data, batch_key, argument="batch_key"), return_inverse=True)
    order = content_order(values, code, batches)
    return ScreenRows(
        values[order].astype(np.float64, copy=False), names, code[order], batch_names, batches[order], order
    )


def warn_left_out(names: np.ndarray, reason: str, *, argument: str = "perturbation_key") -> None:
    """Say which perturbations have no score, and why; nothing if there are none."""
    if len(names) > 0:
        warnings.warn(
            f"{argument}: {len(names)} perturbations have {reason}; their scores are NaN ({shorten(names.tolist(), limit=3)}).",
            RuntimeWarning,
            stacklevel=4,  # of the user, beyond a helper of the metric
        )


def warn_of_fitted_controls(data: Any, use_rep: str | None, screen: ScreenRows, *, instead: str = "") -> None:
    """Warn before a test against controls that the alignment of the representation has learnt from.

    Whitening makes the controls that it is fitted to more alike than other controls are, so that anything else is far from
    them. What aligned the representation says so in `uns` under its name: whether it is ``whitened``, and with ``fit_on``
    which column of `obs` holds the rows that it was fitted to.

    Parameters
    ----------
    data
        The profiles.
    use_rep
        The representation.
    screen
        Its rows, controls among them.
    instead
        What else can be done, after a comma.
    """
    record = data.uns.get(use_rep) if is_annotated(data) and use_rep is not None else None
    if not isinstance(record, Mapping) or not record.get("whitened", False):
        return
    column = record.get("fit_on")
    fitted = is_control = screen.codes < 0
    if column is not None:
        if column not in data.obs:
            return
        fitted = is_control & data.obs[column].astype("boolean").fillna(value=False).to_numpy(dtype=bool)[screen.order]
    if fitted.any():
        fix = "Align with fit_on= on some of the controls, and leave those rows out here"
        if column is not None:
            fix = f"Leave the rows of obs[{column!r}] out here"
        warnings.warn(
            f"use_rep: {use_rep!r} was whitened by {int(fitted.sum())} of the {int(is_control.sum())} controls that "
            f"perturbations are compared with, so that p-values are too small. {fix}{instead}.",
            RuntimeWarning,
            stacklevel=3,
        )
