"""Effects of perturbations as the cells show them, with standard errors."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import ControlError, LabelError, ScaleError
from perturbia.model.base._features import check_features
from perturbia.model.base._positions import read_positions
from perturbia.model.base._result import stamp
from perturbia.model.baseline._training_effects import measure_effects
from perturbia.perturbation import dosage_labels, unique_dosages
from perturbia.perturbation._cell_design import design_of
from perturbia.stats import log1p_cp10k

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["effects"]

logger = logging.getLogger(__name__)


def effects(
    adata: AnnData,
    *,
    layer: str | None = None,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    batch_key: str | None = None,
    scale: Literal["log1p_cp10k", "counts", "registered"] = "log1p_cp10k",
    cells: np.ndarray | Sequence[int] | None = None,
    min_cells: int = 2,
) -> AnnData:
    r"""Observed effects of perturbations: mean of their cells minus mean of the control cells of the same batches.

    .. math::
        \delta_p = \bar y_p - \sum_b w_{pb}\, \bar y_{cb}, \qquad
        \operatorname{se}^2(\delta_p) = \sum_b w_{pb}^2 \left(s_{pb}^2/n_{pb} + s_{cb}^2/n_{cb}\right)

    with :math:`w_{pb}` the share of the cells of :math:`p` in batch :math:`b`; one batch unless `batch_key` is given. The
    baselines of Perturbia measure their training cells by the same rule.

    Parameters
    ----------
    adata
        Annotated data with perturbation labels.
    layer
        Layer with the features, ``None`` for `X`.
    perturbation_key
        Column of `obs` with the labels.
    control
        Label or labels of control cells.
    sep
        Text between the members of a combination.
    batch_key
        Column of `obs` with the batch. A batch without control cells is compared with the controls of all, with a warning.
    scale
        ``"log1p_cp10k"`` takes :math:`y = \log(1 + 10^4 x / l)` of counts; ``"counts"`` the counts themselves;
        ``"registered"`` the values as they are, whatever they are.
    cells
        Cells to use, positions or a boolean mask; all by default.
    min_cells
        Perturbations with fewer of these cells are left out, 2 at the least.

    Returns
    -------
    AnnData `(n_perturbations, n_features)`, float32, one row a perturbation under its canonical label, in alphabetical
    order: `X` effects, `layers["se"]` standard errors (all share the error of the control means), `obs["n_cells"]`,
    `obs["n_unmatched"]`, those of them in batches without control cells, `obs["pb_perturbation"]`, metadata in `uns["perturbia"]` with the number of control cells.

    Raises
    ------
    LabelError
        If the labels or batches are missing or can not be read, or no perturbation has enough cells.
    ControlError
        If fewer than two of the cells are controls.
    ScaleError
        If the features are not counts.

    Warns
    -----
    RuntimeWarning
        Perturbations have cells in batches without control cells: with the effect, they show what batches differ by.

    Examples
    --------
    >>> import perturbia as pb
    >>> observed = pb.tl.effects(pb.datasets.papalexi(), layer="counts")
    >>> observed.shape, float(observed["STAT1"].layers["se"].mean()) < 0.1
    ((25, 299), True)
    """
    if scale not in {"log1p_cp10k", "counts", "registered"}:
        msg = f"scale: expected 'log1p_cp10k', 'counts' or 'registered', got {scale!r}."
        raise ScaleError(msg)
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    batch = _batch_codes(adata, batch_key)
    given = read_positions(cells, adata.n_obs, argument="cells")
    chosen = np.unique(given % adata.n_obs)  # in their order, as files want to be read
    if len(chosen) < len(given):
        msg = "cells: expected every cell once, got some twice. Cells that repeat would make effects look more certain."
        raise ValueError(msg)
    check_features(adata, layer, "counts" if scale != "registered" else "embedding")
    _, group = unique_dosages(design.matrix[chosen])
    is_control = design.is_control[chosen]
    count = np.bincount(group)
    if is_control.sum() < 2:
        msg = f"cells: expected at least 2 control cells among them, got {is_control.sum()}. Choose more cells."
        raise ControlError(msg)
    least = max(2, min_cells)
    enough = is_control | (count[group] >= least)
    if not (enough & ~is_control).any():
        msg = f"min_cells: expected a perturbation of {least} cells or more, found none. Choose more cells."
        raise LabelError(msg)
    if not enough.all():
        n_left_out = len(np.unique(group[~enough]))
        logger.info("%d perturbations have fewer than %d cells and are left out.", n_left_out, least)
        chosen = chosen[enough]
    matrix = (adata.X if layer is None else adata.layers[layer])[chosen]
    matrix = log1p_cp10k(matrix) if scale == "log1p_cp10k" else matrix
    measured = measure_effects(matrix, design.matrix[chosen], batch[chosen], int(batch.max()) + 1)
    n_unmatched = _n_unmatched(is_control[enough], group[enough], batch[chosen])
    out = _as_anndata(measured, n_unmatched, dosage_labels(measured.dosage, design.names), adata.var_names, scale)
    out.uns[_keys.UNS_RESULT]["n_control_cells"] = int(is_control.sum())
    return out


def _batch_codes(adata: AnnData, batch_key: str | None) -> np.ndarray:
    if batch_key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    if batch_key not in adata.obs or adata.obs[batch_key].isna().any():
        msg = f"batch_key: expected a complete column of adata.obs, got {batch_key!r}; columns are {list(adata.obs)[:10]}."
        raise LabelError(msg)
    return pd.factorize(adata.obs[batch_key].astype(str))[0]


def _n_unmatched(is_control: np.ndarray, group: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Cells of each perturbation in batches without controls, in the order of their codes; warns if there are any."""
    alone = ~np.isin(batch, batch[is_control])
    found = np.bincount(group[alone], minlength=group.max() + 1)[np.unique(group[~is_control])]
    if found.any():
        warnings.warn(
            f"batch_key: {np.count_nonzero(found)} perturbations have cells in batches without controls, {found.sum()} in "
            "all; they are compared with the controls of all batches.",
            RuntimeWarning,
            stacklevel=3,
        )
    return found


def _as_anndata(
    measured: TrainingEffects, n_unmatched: np.ndarray, labels: np.ndarray, var_names: pd.Index, scale: str
) -> AnnData:
    from anndata import AnnData

    order = np.argsort(labels.astype(str), kind="stable")
    names = pd.Index(labels[order].astype(str))
    obs = pd.DataFrame({_keys.OBS_PERTURBATION: names, "n_cells": measured.n_cells[order]}, index=names)
    obs["n_unmatched"] = n_unmatched[order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicated gene names are the business of the data
        out = AnnData(measured.effects[order], obs=obs, var=pd.DataFrame(index=var_names.copy()))
    out.layers[_keys.LAYER_SE] = measured.standard_errors[order].astype(np.float32)
    return stamp(out, kind="effect", ur_id="observed", model="observed", scale=scale)
