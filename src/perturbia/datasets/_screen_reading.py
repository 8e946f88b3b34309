"""From a file of scPerturb to the layout that every data set of Perturbia has."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys
from perturbia.errors import DownloadError, LabelError, ScaleError, shorten
from perturbia.perturbation import design_from_labels, dosage_labels

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

__all__ = ["read_counts", "relabel", "require_columns"]

logger = logging.getLogger(__name__)

ROWS = 4096  # of a dense file that are in memory at a time
ENTRIES = 2**24  # of a matrix that are checked at a time


def read_counts(path: Path) -> AnnData:
    """Read a file of raw counts; one that is dense on disk is read in pieces and is never dense in memory.

    Parameters
    ----------
    path
        An h5ad file with raw counts in `X`.

    Returns
    -------
    AnnData with the counts in `X` and in `layers["counts"]`, CSR float32, each a copy of its own; names made unique.

    Raises
    ------
    DownloadError
        If it is no h5ad file.
    ScaleError
        If `X` is missing, or holds anything but whole numbers of 0 or more.
    """
    import anndata

    try:
        backed = anndata.read_h5ad(path, backed="r")
        stored = backed.X
        is_dense = not isinstance(stored, anndata.abc.CSRDataset | anndata.abc.CSCDataset) and stored is not None
        backed.file.close()
        adata = anndata.read_h5ad(path, as_sparse=("X",) if is_dense else (), chunk_size=ROWS)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:  # whatever a broken file makes of h5py
        msg = f"path: expected an h5ad file, got {path.name}, which can not be read ({error}). Fetch it anew."
        raise DownloadError(msg) from error
    adata.X = _counts(adata.X, path.name)
    # A copy, not a reference: normalising X in place must leave the counts as they are.
    adata.layers["counts"] = adata.X.copy()
    for axis, names, make_unique in (
        ("cells", adata.obs_names, adata.obs_names_make_unique),
        ("features", adata.var_names, adata.var_names_make_unique),
    ):
        if not names.is_unique:
            logger.info("%s: %d names of %s come twice and got a suffix.", path.name, names.duplicated().sum(), axis)
            make_unique()
    return adata


def _counts(matrix: Any, name: str) -> sparse.csr_matrix:
    """Raw counts as canonical CSR, checked."""
    if matrix is None:
        msg = f"path: expected raw counts in X of {name}, got none. Use the file as it was published."
        raise ScaleError(msg)
    counts = sparse.csr_matrix(matrix, dtype=np.float32)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    for start in range(0, len(counts.data), ENTRIES):
        part = counts.data[start : start + ENTRIES]
        wrong = ~np.isfinite(part) | (part < 0) | (part != np.floor(part))
        if wrong.any():
            msg = (
                f"path: expected raw counts in X of {name}, whole numbers of 0 or more, got {part[wrong][0]:g}. Use the "
                "file as it was published, not a normalised one."
            )
            raise ScaleError(msg)
    return counts


def require_columns(adata: AnnData, columns: tuple[str, ...], name: str) -> None:
    """Refuse a file without the columns of `obs` that a loader reads.

    Parameters
    ----------
    adata
        What was read.
    columns
        Columns of `obs`.
    name
        Name of the file.

    Raises
    ------
    LabelError
        If one is missing.
    """
    missing = [column for column in columns if column not in adata.obs]
    if missing:
        msg = (
            f"path: expected {name} with obs[{missing[0]!r}], got a file with {shorten(adata.obs.columns) or 'none'}. Use "
            "the file as scPerturb publishes it."
        )
        raise LabelError(msg)


def relabel(adata: AnnData, labels: pd.Series, *, sep: str, control: tuple[str, ...], name: str) -> None:
    """Write `obs["perturbation"]`: canonical labels, the control as first category.

    Parameters
    ----------
    adata
        Where to write.
    labels
        Labels as the file spells them.
    sep
        Text between targets; empty text reads every label as one target.
    control
        Labels of control cells.
    name
        Name of the file.

    Raises
    ------
    LabelError, ControlError
        If labels are missing or can not be read, or no cell is a control.
    """
    design = design_from_labels(labels, control=control, sep=sep, argument=f"{name}: obs[{_keys.PERTURBATION!r}]")
    canonical = dosage_labels(design.matrix, design.names)
    others = sorted(set(canonical) - {"control"})
    adata.obs[_keys.PERTURBATION] = pd.Categorical(canonical, categories=["control", *others])
