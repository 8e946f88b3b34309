"""Rows of a screen that say what they received and in which batch, and which of them are controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import LabelError
from perturbia.perturbation._profiles import label_design, obs_column
from perturbia.perturbation.labels import UNASSIGNED, check_control
from perturbia.pp._control_sampling import control_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["LabelledRows", "read_labelled_rows"]


@dataclass(frozen=True)
class LabelledRows:
    """Rows with a label and a batch.

    Attributes
    ----------
    rows
        Their positions in the data, (n_rows,).
    perturbations
        Canonical labels, sorted (n_perturbations,).
    codes
        Perturbation of every row, -1 for controls.
    batches
        Batch of every row, whole numbers.
    is_control
        Rows without a target, bool: positive controls have one.
    class_names, shares, classes
        Classes of controls, the share of each that is kept, and the class of every row, -1 for perturbations.
    n_unlabelled, n_without_batch
        Rows that are left out.
    """

    rows: np.ndarray
    perturbations: np.ndarray
    codes: np.ndarray
    batches: np.ndarray
    is_control: np.ndarray
    class_names: list[str]
    shares: np.ndarray
    classes: np.ndarray
    n_unlabelled: int
    n_without_batch: int


def read_labelled_rows(
    adata: AnnData,
    perturbation_key: str,
    batch_key: str,
    control: str | Sequence[str] | None,
    sep: str,
    control_fraction: float | Mapping[str, float],
) -> LabelledRows:
    """Read labels, batches and classes of controls, and leave out rows that lack one.

    Raises
    ------
    LabelError
        If a column does not exist, no row has both, labels can not be read, or all rows are controls.
    ControlError
        If no row has a label of `control` or `control_fraction`.
    """
    labels, batch = (
        pd.Series(obs_column(adata, key, argument=argument).to_numpy(dtype=object))
        for argument, key in (("perturbation_key", perturbation_key), ("batch_key", batch_key))
    )
    spelled = labels.astype(str).str.strip()
    named = set() if control is None else set(check_control(control))
    if isinstance(control_fraction, Mapping):
        named |= set(control_fraction)
    unknown = spelled.str.casefold().isin(UNASSIGNED) & ~spelled.isin(list(map(str, named)))
    unlabelled = (labels.isna() | (spelled == "") | unknown).to_numpy()
    homeless = batch.isna().to_numpy()
    rows = np.flatnonzero(~unlabelled & ~homeless)
    if not len(rows):
        msg = (
            f"perturbation_key, batch_key: expected rows with both, got {unlabelled.sum()} without a label and "
            f"{homeless.sum()} without a batch among {len(labels)}. Name other columns."
        )
        raise LabelError(msg)
    text = spelled.to_numpy(dtype=object)[rows].astype(str)
    design = label_design(text, text, control=control, sep=sep)
    class_names, shares, classes = control_classes(control_fraction, text, design)
    codes = np.full(len(rows), -1)
    perturbations, codes[classes < 0] = np.unique(design.labels().astype(str)[classes < 0], return_inverse=True)
    if not len(perturbations):
        msg = f"perturbation_key: expected a perturbation besides controls, got none in {len(rows)} rows. Add treated rows."
        raise LabelError(msg)
    return LabelledRows(
        rows=rows,
        perturbations=perturbations,
        codes=codes,
        batches=pd.factorize(batch.to_numpy()[rows].astype(str), sort=True)[0],
        is_control=design.is_control,
        class_names=class_names,
        shares=shares,
        classes=classes,
        n_unlabelled=int(unlabelled.sum()),
        n_without_batch=int((homeless & ~unlabelled).sum()),
    )
