"""The labels that the cells of two modalities share."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, PerturbiaError, shorten
from perturbia.perturbation import as_perturbation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

__all__ = ["SharedLabels", "canonical_label", "read_labels", "shared_labels"]


@dataclass(frozen=True)
class SharedLabels:
    """Labels of the cells of two modalities.

    Attributes
    ----------
    names
        Labels that both modalities have, sorted.
    codes
        Modality → position of the label of each cell in `names`, int64; -1 where the other modality lacks it.
    alone
        Modality → labels that it alone has.
    """

    names: list[str]
    codes: dict[str, np.ndarray]
    alone: dict[str, list[str]]

    def groups(self, modality: str) -> np.ndarray:
        """Label of each cell; None where the other modality lacks it.

        Parameters
        ----------
        modality
            Name of the modality.

        Returns
        -------
        Object array, shape (n_cells,).
        """
        names = np.array([*self.names, None], dtype=object)
        return names[self.codes[modality]]


def shared_labels(
    modalities: Mapping[str, AnnData],
    key: str,
    *,
    control: str | Sequence[str] | None = None,
    sep: str | None = "+",
    min_cells: int = 10,
) -> SharedLabels:
    """Read a column of labels from two modalities and find those that both have.

    Two spellings of one perturbation, ``"B+A"`` and ``"A+B"``, are one label; so are all labels of controls. Labels that
    can not be read as perturbations, such as ``"CD14+ monocyte"``, are what they say.

    Parameters
    ----------
    modalities
        Name → data.
    key
        Column of `obs` of both.
    control
        Label or labels of control cells.
    sep
        What separates the members of a combination; None takes every label as it is.
    min_cells
        Labels with fewer cells in a modality are named in a warning.

    Returns
    -------
    The labels.

    Raises
    ------
    LabelError
        Column missing, cells without label, or no common label.

    Warns
    -----
    UserWarning
        Labels of one modality alone, whose cells are left out; labels with few cells; a control that no cell has.
    """
    spelled = {name: read_labels(adata, key, modality=name) for name, adata in modalities.items()}
    known = {one for labels in spelled.values() for one in labels.unique()}
    shown: dict[str, str] = {}
    canonical = {one: canonical_label(one, control, sep) for one in sorted(known)}
    for one, same in canonical.items():
        shown.setdefault(same, one)
    read = {name: labels.map(lambda one: shown[canonical[one]]) for name, labels in spelled.items()}
    first, second = read
    common = sorted(set(read[first]) & set(read[second]))
    if not common:
        msg = (
            f"perturbation_key: expected labels in obs[{key!r}] that both modalities have, got "
            f"{shorten(sorted(set(read[first])), limit=3)} in {first!r} and {shorten(sorted(set(read[second])), limit=3)} "
            f"in {second!r}. Spell them alike."
        )
        raise LabelError(msg)
    alone = {name: sorted(set(labels) - set(common)) for name, labels in read.items()}
    codes = {name: pd.Index(common).get_indexer(labels) for name, labels in read.items()}
    found = SharedLabels(common, codes, alone)
    _warn_of_control(known, control, sep)
    _warn(found, min_cells)
    return found


def read_labels(adata: AnnData, key: str, *, modality: str) -> pd.Series:
    """Labels of the cells of a modality, as text.

    Parameters
    ----------
    adata
        Data of the modality.
    key
        Column of `obs`.
    modality
        Its name, for messages.

    Returns
    -------
    One label a cell.

    Raises
    ------
    LabelError
        Column missing, or cells without label.
    """
    where = f"mdata[{modality!r}].obs[{key!r}]"
    if key not in adata.obs:
        msg = (
            f"perturbation_key: expected a column {key!r} in the obs of modality {modality!r}, whose columns are "
            f"{shorten(adata.obs.columns) or 'none'}. Add the column to each modality: it is what they share."
        )
        raise LabelError(msg)
    column = adata.obs[key]
    if isinstance(column, pd.DataFrame):
        msg = f"perturbation_key: expected one column {key!r} in {where}, got {column.shape[1]}. Rename the others."
        raise LabelError(msg)
    if n_missing := int(column.isna().sum()):
        msg = f"{where}: expected a label for every cell, got {n_missing} missing. Label these cells, or drop them."
        raise LabelError(msg)
    labels = column.astype(str)
    if n_empty := int((labels.str.strip() == "").sum()):
        msg = f"{where}: expected a label for every cell, got {n_empty} empty. Label these cells, or drop them."
        raise LabelError(msg)
    return labels


def canonical_label(label: str, control: str | Sequence[str] | None, sep: str | None) -> str:
    """One spelling of a label, by which labels of two modalities are compared.

    Parameters
    ----------
    label
        As it is written.
    control
        Label or labels of control cells.
    sep
        What separates the members of a combination; None takes every label as it is.

    Returns
    -------
    Empty for controls; members in order for a combination; anything else as it is.
    """
    controls = () if control is None else (control,) if isinstance(control, str) else tuple(control)
    if label in controls:
        return ""
    if sep is None or sep not in label:
        return label
    try:
        return str(as_perturbation(label, control=controls or "control", sep=sep))
    except PerturbiaError:
        return label


def _warn_of_control(known: set[str], control: str | Sequence[str] | None, sep: str | None) -> None:
    controls = set() if control is None else {control} if isinstance(control, str) else set(control)
    members = known if sep is None else known.union(*(label.split(sep) for label in known))
    if controls and not controls & members:
        msg = (
            f"control: expected labels of control cells, got {shorten(sorted(controls))}, which no cell has; labels are "
            f"{shorten(sorted(known), limit=5)}. Pass None if there are no controls."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)


def _warn(found: SharedLabels, min_cells: int) -> None:
    for name, labels in found.alone.items():
        if labels:
            n_cells = int((found.codes[name] < 0).sum())
            msg = (
                f"perturbation_key: {len(labels)} label(s) of {name!r} that the other modality lacks: "
                f"{shorten(labels, limit=5)}. Their {n_cells} cells are not matched."
            )
            warnings.warn(msg, UserWarning, stacklevel=4)
        counts = np.bincount(found.codes[name][found.codes[name] >= 0], minlength=len(found.names))
        few = [label for label, n in zip(found.names, counts, strict=True) if n < min_cells]
        if few:
            msg = (
                f"perturbation_key: {len(few)} label(s) with fewer than {min_cells} cells in {name!r}: "
                f"{shorten(few, limit=5)}. Their matches are little more than chance."
            )
            warnings.warn(msg, UserWarning, stacklevel=4)
