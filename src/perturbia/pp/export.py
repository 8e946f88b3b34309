"""The canonical design, written in the columns that other tools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import LabelError, UnsupportedQuery, shorten
from perturbia.perturbation._copies import in_memory
from perturbia.perturbation.design import design_from_matrix
from perturbia.perturbation.dosage import unique_dosages
from perturbia.perturbation.labels import format_dose, join_label

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData


def to_gears(
    adata: AnnData, *, key: str = _keys.OBSM_DESIGN, cell_type_key: str | None = None, control: str = "ctrl"
) -> AnnData:
    """Write the columns of GEARS: `A+ctrl`, `A+B`, `ctrl`.

    Parameters
    ----------
    adata
        Data with a design written by :func:`~perturbia.pp.encode_perturbations`; not modified.
    key
        Name of the design in `obsm` and `uns`.
    cell_type_key
        Column of `adata.obs` with cell types. None takes `obs["cell_type"]`, or `unspecified` where there is none.
    control
        The control label.

    Returns
    -------
    A copy with `obs["condition"]`, `obs["cell_type"]`, `obs["dose_val"]` (`1+1` or `1`), `obs["control"]` (1 for
    control cells), `obs["condition_name"]` (cell type, condition and dose joined by `_`), and `var["gene_name"]`
    (var_names where the column was missing).

    Raises
    ------
    UnsupportedQuery
        If a cell has more than two targets, or a dose other than 1: GEARS has neither.
    LabelError
        If there is no design, or a name cannot be written in a GEARS label.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> obs = pd.DataFrame({"target": ["KLF1", "NT", "KLF1+CEBPA"]}, index=list("xyz"))
    >>> adata = ad.AnnData(np.ones((3, 2), dtype="float32"), obs=obs)
    >>> pb.pp.encode_perturbations(adata, "target", control="NT")
    >>> pb.pp.to_gears(adata).obs["condition"].tolist()
    ['KLF1+ctrl', 'ctrl', 'CEBPA+KLF1']
    """
    rows, inverse = _combinations(adata, key, control)
    _check_names([name for names, _ in rows for name in names], "GEARS", forbidden=("+", "@"))
    most = max(len(names) for names, _ in rows)
    if most > 2:
        msg = f"to_gears: expected at most two targets in a cell, got {most}. Leave those cells out, or use pp.to_cpa."
        raise UnsupportedQuery(msg)
    dosed = [join_label(*row) for row in rows if any(dose != 1 for dose in row[1])]
    if dosed:
        msg = f"to_gears: expected no doses, got {shorten(dosed, limit=3)}. Use pp.to_cpa or pp.to_scperturb."
        raise UnsupportedQuery(msg)
    out = in_memory(adata)
    if cell_type_key is not None:
        if cell_type_key not in adata.obs:
            msg = f"cell_type_key: expected a column of adata.obs, got {cell_type_key!r}. Name the cell type column."
            raise LabelError(msg)
        out.obs["cell_type"] = adata.obs[cell_type_key].to_numpy()
    elif "cell_type" not in out.obs:
        out.obs["cell_type"] = _categorical(["unspecified"], np.zeros(out.n_obs, dtype=np.int64))
    out.obs["condition"] = _categorical(
        [control if not names else "+".join(names if len(names) == 2 else (*names, control)) for names, _ in rows],
        inverse,
    )
    out.obs["dose_val"] = _categorical(["1+1" if names else "1" for names, _ in rows], inverse)
    out.obs["control"] = np.array([int(not names) for names, _ in rows])[inverse]
    parts = [out.obs[column].astype(str) for column in ("cell_type", "condition", "dose_val")]
    out.obs["condition_name"] = pd.Categorical(parts[0].str.cat(parts[1:], sep="_"))
    if "gene_name" not in out.var:
        out.var["gene_name"] = out.var_names.to_numpy()
    return out


def to_cpa(
    adata: AnnData,
    *,
    key: str = _keys.OBSM_DESIGN,
    perturbation_key: str = "condition",
    dose_key: str = "dose",
    control: str = "control",
) -> AnnData:
    """Write the columns of CPA: `A+B` with doses `0.5+1.0` in the same order.

    Parameters
    ----------
    adata
        Data with a design written by :func:`~perturbia.pp.encode_perturbations`; not modified.
    key
        Name of the design in `obsm` and `uns`.
    perturbation_key, dose_key
        Columns to write: CPA's arguments of the same names.
    control
        The control label, CPA's `control_group`.

    Returns
    -------
    A copy with the two columns of `obs`; control cells have dose `1.0`.

    Raises
    ------
    LabelError
        If there is no design, or a name cannot be written in a CPA label.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> obs = pd.DataFrame({"drug": ["B@0.5+A", "control"]}, index=list("xy"))
    >>> adata = ad.AnnData(np.ones((2, 2), dtype="float32"), obs=obs)
    >>> pb.pp.encode_perturbations(adata, "drug", control="control")
    >>> pb.pp.to_cpa(adata).obs[["condition", "dose"]].to_numpy().tolist()
    [['A+B', '1.0+0.5'], ['control', '1.0']]
    """
    rows, inverse = _combinations(adata, key, control)
    _check_names([name for names, _ in rows for name in names], "CPA", forbidden=("+", "@"))
    out = in_memory(adata)
    out.obs[perturbation_key] = _categorical(["+".join(names) or control for names, _ in rows], inverse)
    out.obs[dose_key] = _categorical(["+".join(map(_decimal, doses)) or "1.0" for _, doses in rows], inverse)
    return out


def to_cell_eval(
    adata: AnnData, *, key: str = _keys.OBSM_DESIGN, target_key: str = "target", control: str = "non-targeting"
) -> AnnData:
    """Write the column of cell-eval and of Arc's loaders: one label per cell, doses inside the label.

    Parameters
    ----------
    adata
        Data with a design written by :func:`~perturbia.pp.encode_perturbations`; not modified.
    key
        Name of the design in `obsm` and `uns`.
    target_key
        Column to write: cell-eval's `pert_col`.
    control
        The control label: cell-eval's `control_pert`.

    Returns
    -------
    A copy with `obs[target_key]`: canonical labels such as `A`, `A+B`, `A@0.5`.

    Raises
    ------
    LabelError
        If there is no design.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> obs = pd.DataFrame({"drug": ["B@0.5+A", "control"]}, index=list("xy"))
    >>> adata = ad.AnnData(np.ones((2, 2), dtype="float32"), obs=obs)
    >>> pb.pp.encode_perturbations(adata, "drug", control="control")
    >>> pb.pp.to_cell_eval(adata).obs["target"].tolist()
    ['A+B@0.5', 'non-targeting']
    """
    rows, inverse = _combinations(adata, key, control)
    out = in_memory(adata)
    out.obs[target_key] = _categorical([join_label(*row, control=control) for row in rows], inverse)
    return out


def to_scperturb(
    adata: AnnData,
    *,
    key: str = _keys.OBSM_DESIGN,
    perturbation_type: str | None = None,
    dose_unit: str | None = None,
    control: str = "control",
) -> AnnData:
    """Write the columns of the scPerturb collection, combinations joined by `+`.

    Parameters
    ----------
    adata
        Data with a design written by :func:`~perturbia.pp.encode_perturbations`; not modified.
    key
        Name of the design in `obsm` and `uns`.
    perturbation_type
        Written to `obs["perturbation_type"]` where given, such as `CRISPR` or `drug`.
    dose_unit
        Written to `obs["dose_unit"]` where given, such as `uM`.
    control
        The control label.

    Returns
    -------
    A copy with `obs["perturbation"]`, `obs["nperts"]`, and, if a dose differs from 1 or the column was there,
    `obs["dose_value"]`: numbers, or text such as `0.5+1.0` if a cell has two targets; control cells have dose 0.

    Raises
    ------
    LabelError
        If there is no design, or a name cannot be written in an scPerturb label.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> obs = pd.DataFrame({"drug": ["B@0.5", "DMSO"]}, index=list("xy"))
    >>> adata = ad.AnnData(np.ones((2, 2), dtype="float32"), obs=obs)
    >>> pb.pp.encode_perturbations(adata, "drug", control="DMSO")
    >>> pb.pp.to_scperturb(adata).obs[["perturbation", "nperts", "dose_value"]].to_numpy().tolist()
    [['B', 1, 0.5], ['control', 0, 0.0]]
    """
    rows, inverse = _combinations(adata, key, control)
    _check_names([name for names, _ in rows for name in names], "scPerturb", forbidden=("+", "@"))
    out = in_memory(adata)
    out.obs["perturbation"] = _categorical(["+".join(names) or control for names, _ in rows], inverse)
    out.obs["nperts"] = np.array([len(names) for names, _ in rows])[inverse]
    if "dose_value" in out.obs or any(dose != 1 for _, doses in rows for dose in doses):
        if max(len(names) for names, _ in rows) > 1:
            out.obs["dose_value"] = _categorical(["+".join(map(_decimal, doses)) or "0" for _, doses in rows], inverse)
        else:
            out.obs["dose_value"] = np.array([float(_decimal(doses[0])) if doses else 0.0 for _, doses in rows])[
                inverse
            ]
    for column, value in (("perturbation_type", perturbation_type), ("dose_unit", dose_unit)):
        if value is not None:
            out.obs[column] = _categorical([value], np.zeros(out.n_obs, dtype=np.int64))
    return out


Row = tuple[tuple[str, ...], tuple[float, ...]]


def _combinations(adata: AnnData, key: str, control: str) -> tuple[list[Row], np.ndarray]:
    """Return the distinct combinations as sorted (names, doses), and the combination of each cell."""
    stored = adata.uns.get(key)
    if key not in adata.obsm or not isinstance(stored, Mapping) or "names" not in stored:
        msg = f"key: expected a design in adata.obsm[{key!r}] and adata.uns[{key!r}], got none. Run pp.encode_perturbations."
        raise LabelError(msg)
    names = [str(name) for name in np.atleast_1d(stored["names"])]
    if control in names:
        msg = f"control: expected a label that is not a target, got {control!r}. Choose another control label."
        raise LabelError(msg)
    argument = f"adata.obsm[{key!r}]"
    design = design_from_matrix(adata.obsm[key], names=names, require_control=False, argument=argument)
    unique, inverse = unique_dosages(design.matrix)
    return [_row(unique, i, names) for i in range(unique.shape[0])], inverse


def _row(unique: sp.csr_matrix, i: int, names: Sequence[str]) -> Row:
    part = slice(unique.indptr[i], unique.indptr[i + 1])
    pairs = sorted((names[j], float(dose)) for j, dose in zip(unique.indices[part], unique.data[part], strict=True))
    return tuple(name for name, _ in pairs), tuple(dose for _, dose in pairs)


def _check_names(names: Sequence[str], ecosystem: str, *, forbidden: Sequence[str]) -> None:
    bad = sorted({name for name in names if any(mark in name for mark in forbidden)})
    if bad:
        marks = " or ".join(repr(mark) for mark in forbidden)
        msg = f"names: expected targets without {marks} for {ecosystem}, got {shorten(bad, limit=5)}. Rename them."
        raise LabelError(msg)


def _decimal(dose: float) -> str:
    text = format_dose(dose)
    return text if "." in text or "e" in text else f"{text}.0"


def _categorical(labels: Sequence[str], inverse: np.ndarray) -> pd.Categorical:
    """One category per distinct label, sorted, from the label of each combination."""
    categories, codes = np.unique(np.array(labels, dtype=object), return_inverse=True)
    return pd.Categorical.from_codes(codes[inverse], categories=categories)
