"""Perturbation labels of any ecosystem, read once into one canonical design."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import ControlError, LabelError, UnsupportedQuery, shorten
from perturbia.perturbation._copies import in_memory, require_writable
from perturbia.perturbation.design import Design, design_from_labels
from perturbia.perturbation.labels import CONTROL, check_control
from perturbia.pp.guides import cells_without_guide, design_from_guides

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

logger = logging.getLogger("perturbia.pp")

Style = Literal["auto", "arc", "cellcap", "cellflow", "cpa", "gears", "pertpy", "scperturb"]
STYLES: tuple[str, ...] = ("auto", "arc", "cellcap", "cellflow", "cpa", "gears", "pertpy", "scperturb")
_GENE_COLUMNS = ("gene_name", "gene_names", "gene_symbol", "gene_symbols", "feature_name", "symbol")


def encode_perturbations(
    adata: AnnData,
    perturbation_key: str | None = None,
    *,
    control: str | Sequence[str],
    dose_key: str | None = None,
    sep: str = "+",
    guide_key: str | None = None,
    guide_targets: Mapping[str, str] | pd.Series | None = None,
    guide_names: str | Sequence[str] | None = None,
    guide_threshold: float = 1,
    style: Style = "auto",
    key_added: str = _keys.OBSM_DESIGN,
    copy: bool = False,
) -> AnnData | None:
    """Read who received what, however the data set spells it, into one canonical design.

    Reads the labels of GEARS (`A+ctrl`, `ctrl+A`, `ctrl`), CPA (doses `"0.5+1.0"` in the written order), scPerturb
    (doses as numbers or text), pertpy, Arc (`non-targeting`), CellFlow (a boolean column marks controls), CellCap
    (`A_B`), and guide matrices. Refuses what would be silently wrong, before anything is written.

    Parameters
    ----------
    adata
        Cells in rows. Views, backed files and duplicate obs_names are fine.
    perturbation_key
        Column of `adata.obs` with labels. May be left out where `guide_key` is given.
    control
        Label or labels of the control cells; or the name of a boolean column of `adata.obs` that marks them.
    dose_key
        Column of `adata.obs` with doses: numbers, or text such as `"0.5+1.0"` in the written order of the label.
        Doses of control cells are not read.
    sep
        Text between targets in a label; `""` reads each label as one name. `A_B` is split at `_` only if `sep="_"`,
        `style="cellcap"`, or no label has a `+` and every part of every such label is a gene of `adata.var`.
    guide_key
        Key of `adata.obsm` with a guide matrix (cells x guides: counts or 0/1), or column of `adata.obs` with guide
        labels. Alone, it defines the perturbations: a target is hit, at dose 1, if any of its guides is called. Beside
        `perturbation_key` it only checks that cells labelled control have a guide.
    guide_targets
        Target of each guide, such as `{"IFNGR1g1": "IFNGR1", "NTg1": "control"}`. None: each guide is a target.
    guide_names
        Guides of the columns of a bare guide matrix, or the key of `adata.uns` that holds them.
    guide_threshold
        Lowest count at which a guide is called.
    style
        Check for the rules of one ecosystem: `gears` at most two targets and no doses, `arc` labels are never split,
        `cellcap` splits at `_`, `cellflow` needs a boolean `control` column. `cpa`, `pertpy`, `scperturb` are `auto`
        with `_` never split.
    key_added
        Name of the design in `obsm` and `uns`.
    copy
        Return a changed copy instead of changing `adata`.

    Returns
    -------
    The copy where `copy`, otherwise None. Written are

    - `obsm[key_added]`: float32 CSR (n_obs, n_targets) of doses, names sorted, control cells are zero rows;
    - `uns[key_added]`: `names`, `control` (arrays of text), `sep`, `n_perturbations`, `params`;
    - `obs["perturbation_n"]`: number of targets (int64), and `obs["is_control"]` (bool). With another `key_added`
      these are `obs[key_added + "_n"]` and `obs[key_added + "_is_control"]`.

    Raises
    ------
    LabelError
        If labels are missing (NaN), empty, unassigned, real numbers or unreadable, a name comes twice in a label, or
        over half of the cells have targets of their own (100 cells or more).
    ControlError
        If no cell has the control label, or cells labelled control have no guide or an unassigned label.
    DoseError
        If a treated cell has no dose, a dose is not a finite number above 0, or doses and targets differ in number.
    UnsupportedQuery
        If labels break the rules of `style`, or `adata` is a view of a backed file and `copy` is False.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> obs = pd.DataFrame({"condition": ["KLF1+ctrl", "ctrl", "CEBPA+KLF1"]}, index=list("xyz"))
    >>> adata = ad.AnnData(np.ones((3, 2), dtype="float32"), obs=obs)
    >>> pb.pp.encode_perturbations(adata, "condition", control="ctrl")
    >>> list(adata.uns["perturbation"]["names"]), adata.obsm["perturbation"].toarray().tolist()
    (['CEBPA', 'KLF1'], [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    """
    if style not in STYLES:
        msg = f"style: expected one of {shorten(STYLES)}, got {style!r}. Use 'auto' when in doubt."
        raise LabelError(msg)
    if not copy:
        require_writable(adata)
    if perturbation_key is None:
        if guide_key is None:
            msg = (
                "perturbation_key, guide_key: expected at least one of them, got neither. Name the column of labels; "
                f"adata.obs has {shorten(adata.obs.columns)}."
            )
            raise LabelError(msg)
        if dose_key is not None:
            msg = f"dose_key: expected None with guides alone, got {dose_key!r}. Guides have no dose."
            raise LabelError(msg)
        design = design_from_guides(
            adata,
            guide_key,
            control=control,
            guide_targets=guide_targets,
            guide_names=guide_names,
            guide_threshold=guide_threshold,
            sep=sep,
        )
    else:
        design = _design_from_obs(adata, perturbation_key, control, dose_key, sep, style)
        if guide_key is not None:
            _check_controls_have_guides(adata, design, guide_key, guide_threshold)
    _check_style(design, style)

    params = {
        "perturbation_key": perturbation_key,
        "dose_key": dose_key,
        "guide_key": guide_key,
        "guide_threshold": None if guide_key is None else float(guide_threshold),
        "style": style,
    }
    out = in_memory(adata) if copy else adata
    _write(out, design, key_added, {key: value for key, value in params.items() if value is not None})
    return out if copy else None


def _design_from_obs(
    adata: AnnData, key: str, control: str | Sequence[str], dose_key: str | None, sep: str, style: str
) -> Design:
    labels = _column(adata, key, "perturbation_key")
    doses = None if dose_key is None else _column(adata, dose_key, "dose_key")
    flag = _control_flag(adata, labels, control)
    if style == "cellflow" and flag is None:
        msg = (
            f"control: expected a boolean column of adata.obs with style='cellflow', got {control!r}. Name the column."
        )
        raise ControlError(msg)
    controls: Sequence[str] = check_control(control)
    if flag is not None:
        labels, controls = _apply_flag(labels, flag, str(control))
    sep = _resolve_sep(adata, labels, controls, sep, style)
    return design_from_labels(
        labels,
        control=controls,
        doses=doses,
        sep=sep,
        argument=f"adata.obs[{key!r}]",
        dose_argument=f"adata.obs[{dose_key!r}]",
    )


def _column(adata: AnnData, key: str, argument: str) -> pd.Series:
    if key not in adata.obs:
        msg = f"{argument}: expected a column of adata.obs, got {key!r}; columns are {shorten(adata.obs.columns)}. Choose one."
        raise LabelError(msg)
    return pd.Series(adata.obs[key])


def _control_flag(adata: AnnData, labels: pd.Series, control: str | Sequence[str]) -> np.ndarray | None:
    """Return which cells are controls if `control` names a boolean column, None if it is a label."""
    if not isinstance(control, str) or control not in adata.obs or labels.eq(control).any():
        return None
    column = pd.Series(adata.obs[control])
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column.dropna().unique()
    if not set(values) <= {True, False} or pd.api.types.is_float_dtype(column.dtype):
        msg = (
            f"control: expected a label of the perturbation column or a boolean column, got {control!r}, a column with "
            f"values {shorten(np.asarray(values).tolist(), limit=5)}. Convert it to bool, or name the control label."
        )
        raise ControlError(msg)
    if column.isna().any():
        msg = f"control: expected True or False in every cell of adata.obs[{control!r}], got missing values. Fill them."
        raise ControlError(msg)
    return column.to_numpy().astype(bool)


def _apply_flag(labels: pd.Series, flag: np.ndarray, column: str) -> tuple[pd.Series, list[str]]:
    """Turn a boolean mark into control labels; a label must be on one side of the mark only."""
    if not flag.any():
        msg = f"control: expected True in some cells of adata.obs[{column!r}], got none. Mark the control cells."
        raise ControlError(msg)
    marked = pd.unique(labels[flag].dropna())
    both = sorted(map(str, set(marked) & set(pd.unique(labels[~flag].dropna()))))
    if both:
        msg = (
            f"control: expected each label either in control cells or in treated ones, got {shorten(both)} in both sides "
            f"of adata.obs[{column!r}]. Relabel the cells, or correct the column."
        )
        raise ControlError(msg)
    text = labels.astype(object)
    return text.where(text.notna() | ~flag, CONTROL), [*dict.fromkeys([CONTROL, *map(str, marked)])]


def _resolve_sep(adata: AnnData, labels: pd.Series, controls: Sequence[str], sep: str, style: str) -> str:
    """Return the separator; `_` is taken from the data only where every part of every label is a known gene."""
    if sep != "+" or style not in ("auto", "arc", "cellcap"):
        return sep
    if style != "auto":
        return "" if style == "arc" else "_"
    levels = [str(one) for one in pd.unique(labels.dropna()) if str(one) not in controls]
    joined = [level for level in levels if "_" in level]
    if not joined or any("+" in level for level in levels):
        return sep
    genes = set(map(str, adata.var_names)).union(
        *(set(adata.var[name].astype(str)) for name in _GENE_COLUMNS if name in adata.var)
    )
    known = genes.union(controls)
    if all(level not in genes and known.issuperset(level.split("_")) for level in joined):
        logger.info("%d labels such as %r are read as combinations: every part is a gene.", len(joined), joined[0])
        return "_"
    logger.info("%d labels such as %r are read as single names; pass sep='_' to split them.", len(joined), joined[0])
    return sep


def _check_controls_have_guides(adata: AnnData, design: Design, guide_key: str, guide_threshold: float) -> None:
    if guide_key not in adata.obsm and guide_key not in adata.obs:
        msg = f"guide_key: expected a key of adata.obsm or a column of adata.obs, got {guide_key!r}. Name the guides."
        raise LabelError(msg)
    empty = cells_without_guide(adata, guide_key, guide_threshold=guide_threshold) & design.is_control
    if empty.any():
        msg = (
            f"control: expected a guide in every control cell, got {int(empty.sum())} of {int(design.is_control.sum())} "
            f"control cells without one in {guide_key!r}. Drop them: they are unassigned, not controls."
        )
        raise ControlError(msg)


def _check_style(design: Design, style: str) -> None:
    if style == "gears" and (design.has_doses or design.n_targets.max() > 2):
        what = "doses" if design.has_doses else f"{int(design.n_targets.max())} targets in a cell"
        msg = f"style: expected at most two targets and no doses with 'gears', got {what}. Use style='auto'."
        raise UnsupportedQuery(msg)


def _write(adata: AnnData, design: Design, key: str, params: dict[str, str | float]) -> None:
    default = key == _keys.OBSM_DESIGN
    adata.obsm[key] = design.matrix
    adata.uns[key] = {
        "names": np.array(design.names, dtype=object),
        "control": np.array(design.control, dtype=object),
        "sep": design.sep,
        "n_perturbations": len(design.names),
        "params": params,
    }
    adata.obs[_keys.OBS_N if default else f"{key}_n"] = design.n_targets
    adata.obs[_keys.OBS_CONTROL if default else f"{key}_{_keys.OBS_CONTROL}"] = design.is_control
