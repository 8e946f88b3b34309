"""Guide calls, one or many per cell, as perturbations of their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbia.errors import ControlError, LabelError, UnknownPerturbation, shorten
from perturbia.perturbation.design import Design, label_levels
from perturbia.perturbation.labels import UNASSIGNED, check_control, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData


def design_from_guides(
    adata: AnnData,
    guide_key: str,
    *,
    control: str | Sequence[str],
    guide_targets: Mapping[str, str] | pd.Series | None = None,
    guide_names: str | Sequence[str] | None = None,
    guide_threshold: float = 1,
    sep: str = "+",
) -> Design:
    """Read the targets of each cell from its guides: a target is hit if any of its guides is there, at dose 1.

    Parameters
    ----------
    adata
        Data with guides as `obsm[guide_key]` (cells x guides: counts or 0/1), or as labels in `obs[guide_key]`.
    guide_key
        Key of `adata.obsm`, or column of `adata.obs`.
    control
        Targets, or guides, that stand for no target (non-targeting).
    guide_targets
        Target of each guide. None takes each guide as its own target.
    guide_names
        Guide of each column of a bare matrix, or the key of `adata.uns` that holds them.
    guide_threshold
        Lowest count at which a guide is called.
    sep
        Text between guides in `obs[guide_key]`.

    Returns
    -------
    The design; names sorted alphabetically.

    Raises
    ------
    LabelError
        If names or targets of guides are missing, entries are not counts, or cells have no guide at all.
    ControlError
        If no cell has only non-targeting guides.
    """
    controls = check_control(control)
    if guide_key in adata.obsm:
        guides, names = _guide_matrix(adata, guide_key, guide_names)
        present = _called(guides, guide_threshold, guide_key)
        argument = f"adata.obsm[{guide_key!r}]"
    elif guide_key in adata.obs:
        argument = f"adata.obs[{guide_key!r}]"
        names, present = _guide_labels(pd.Series(adata.obs[guide_key]), guide_targets, controls, sep, argument)
    else:
        msg = (
            f"guide_key: expected a key of adata.obsm or a column of adata.obs, got {guide_key!r}; obsm has "
            f"{shorten(adata.obsm.keys()) or 'nothing'}. Name the guide matrix."
        )
        raise LabelError(msg)
    return _collapse(present, _targets_of(names, guide_targets, controls), controls, sep, argument)


def cells_without_guide(adata: AnnData, guide_key: str, *, guide_threshold: float = 1) -> np.ndarray:
    """Find the cells in which no guide was called.

    Parameters
    ----------
    adata
        Data with guides as `obsm[guide_key]` or labels in `obs[guide_key]`.
    guide_key
        Where the guides are.
    guide_threshold
        Lowest count at which a guide is called.

    Returns
    -------
    bool (n_obs,).
    """
    if guide_key not in adata.obsm:
        labels = adata.obs[guide_key].astype("string")
        return (labels.isna() | labels.str.strip().str.casefold().isin(UNASSIGNED)).to_numpy(dtype=bool)
    guides = adata.obsm[guide_key]
    values = guides.to_numpy() if isinstance(guides, pd.DataFrame) else guides
    return np.diff(_called(sp.csr_matrix(values), guide_threshold, guide_key).indptr) == 0


def _guide_matrix(
    adata: AnnData, guide_key: str, guide_names: str | Sequence[str] | None
) -> tuple[sp.csr_matrix, list[str]]:
    guides = adata.obsm[guide_key]
    if guide_names is None and isinstance(guides, pd.DataFrame):
        guide_names = list(guides.columns)
    if isinstance(guide_names, str):
        if guide_names not in adata.uns:
            msg = f"guide_names: expected guide names or a key of adata.uns, got {guide_names!r}. Check the spelling."
            raise LabelError(msg)
        guide_names = adata.uns[guide_names]
    if guide_names is None:
        msg = (
            f"guide_names: expected the names of the {guides.shape[1]} columns of adata.obsm[{guide_key!r}], got None. "
            "Pass them, or store the matrix as a DataFrame."
        )
        raise LabelError(msg)
    names = [str(name) for name in guide_names]
    if len(names) != guides.shape[1] or len(set(names)) < len(names):
        msg = (
            f"guide_names: expected {guides.shape[1]} distinct names, got {len(set(names))} of {len(names)}. Fix them."
        )
        raise LabelError(msg)
    return sp.csr_matrix(guides.to_numpy() if isinstance(guides, pd.DataFrame) else guides), names


def _guide_labels(
    labels: pd.Series,
    guide_targets: Mapping[str, str] | pd.Series | None,
    controls: Sequence[str],
    sep: str,
    argument: str,
) -> tuple[list[str], sp.csr_matrix]:
    """Read guide labels; one that is a known guide as a whole is never split, since guide names may hold `+`."""
    codes, levels = label_levels(labels, argument=argument)
    whole = {*controls, *map(str, () if guide_targets is None else guide_targets.keys())}
    parts = [[level] if level in whole or not sep else [part.strip() for part in level.split(sep)] for level in levels]
    unassigned = [
        level for level, guides in zip(levels, parts, strict=True) if UNASSIGNED & {g.casefold() for g in guides}
    ]
    if unassigned:
        msg = f"{argument}: expected guides, got {shorten(unassigned, limit=3)}, which reads as unassigned. Drop those cells."
        raise LabelError(msg)
    guides = sorted({guide for level in parts for guide in level})
    column = {guide: j for j, guide in enumerate(guides)}
    indices = [column[guide] for level in parts for guide in set(level)]
    indptr = np.cumsum([0, *(len(set(level)) for level in parts)])
    table = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(levels), len(guides)))
    return guides, table[codes]


def _called(guides: sp.csr_matrix, threshold: float, guide_key: str) -> sp.csr_matrix:
    if not np.isfinite(guides.data.astype(np.float64)).all() or (guides.data < 0).any():
        msg = f"guide_key: expected counts of 0 or more in adata.obsm[{guide_key!r}], got negative or missing ones. Fix it."
        raise LabelError(msg)
    if not threshold > 0:
        msg = f"guide_threshold: expected a number above 0, got {threshold!r}. Use 1 for any count."
        raise LabelError(msg)
    called = sp.csr_matrix(
        ((guides.data >= threshold).astype(np.float32), guides.indices, guides.indptr), shape=guides.shape, copy=True
    )
    called.sum_duplicates()
    called.eliminate_zeros()
    return called


def _targets_of(
    guides: Sequence[str], guide_targets: Mapping[str, str] | pd.Series | None, controls: Sequence[str]
) -> list[str | None]:
    """Target of each guide, None for non-targeting."""
    table = {guide: guide for guide in guides} if guide_targets is None else dict(guide_targets.items())
    free = [guide for guide in guides if guide not in table and guide not in controls]
    if free:
        fix = "Give the target of every guide."
        raise UnknownPerturbation.among(free, [str(guide) for guide in table], argument="guide_targets", fix=fix)
    targets = [table.get(guide, guide) for guide in guides]
    return [
        None if target in controls or guide in controls else check_name(target)
        for guide, target in zip(guides, targets, strict=True)
    ]


def _collapse(
    present: sp.csr_matrix, targets: list[str | None], controls: Sequence[str], sep: str, argument: str
) -> Design:
    """Sum guides to targets, cap at 1, and check that every cell has a guide and some cells only controls."""
    empty = np.diff(present.indptr) == 0
    if empty.any():
        msg = (
            f"{argument}: expected a guide in every cell, got {int(empty.sum())} of {len(empty)} cells without one. "
            "Drop them: a cell without a guide is unassigned, not a control."
        )
        raise LabelError(msg)
    names = sorted({target for target in targets if target is not None})
    column = {name: j for j, name in enumerate(names)}
    rows = np.array([i for i, target in enumerate(targets) if target is not None], dtype=np.int64)
    cols = np.array([column[target] for target in targets if target is not None], dtype=np.int64)
    to_target = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, cols)), shape=(len(targets), len(names)))
    matrix = sp.csr_matrix(present @ to_target, dtype=np.float32)
    matrix.data[:] = 1
    kept = np.flatnonzero(np.bincount(matrix.indices, minlength=len(names)))
    matrix = matrix[:, kept]
    matrix.sort_indices()
    design = Design(matrix, [names[j] for j in kept], list(controls), sep)
    if not design.is_control.any():
        msg = (
            f"control: expected cells with non-targeting guides only ({shorten(controls)}), got none in {argument}. "
            f"Targets seen: {shorten(design.names)}."
        )
        raise ControlError(msg)
    if design.is_control.all():
        msg = f"{argument}: expected at least one perturbed cell, got only controls. Check guide_targets and control."
        raise LabelError(msg)
    return design
