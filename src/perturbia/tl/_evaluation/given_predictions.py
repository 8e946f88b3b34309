"""Predictions that were given as data: cells, means or effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import FeatureMismatch, LabelError, ScaleError, shorten
from perturbia.stats import group_means, log1p_cp10k
from perturbia.tl._evaluation.control_cells import observed_controls
from perturbia.tl._evaluation.predictions import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.tl._evaluation.predictions import Role
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["align", "columns", "from_anndata", "from_table", "on_scale"]

IN = " in context "
LARGEST = np.log1p(1e4) + 0.01  # all counts of a cell in one gene


def from_table(source: pd.DataFrame, truth: Truth, *, name: str, role: Role) -> Prediction:
    """A table of effects, perturbations × genes."""
    try:
        values = source.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"model: expected numbers in the table of {name}, got {error}. Drop columns of text."
        raise LabelError(msg) from error
    labels = [truth.screen.canonical(label) for label in source.index.astype(str)]
    return Prediction(name, role, align(values, labels, list(source.columns), truth, name, "its index"), truth)


def from_anndata(
    given: AnnData, truth: Truth, *, name: str, role: Role, kind: str | None, scale: str | None, label_key: str
) -> Prediction:
    """AnnData of cells, means or effects; what it holds is said in its metadata or by `kind` and `scale`."""
    metadata = dict(given.uns.get(_keys.UNS_RESULT, {}))
    kind = kind or {"readout": "cells", "effect": "effects"}.get(str(metadata.get("kind")))
    scale = scale or metadata.get("scale")
    if kind not in {"cells", "means", "effects"} or scale is None:
        msg = (
            f"model: expected an AnnData that says what it holds, got kind {kind!r} and scale {scale!r} for {name}. Pass "
            "prediction_kind='cells', 'means' or 'effects' and prediction_scale='log1p_cp10k', 'counts' or the scale of "
            "the features."
        )
        raise ScaleError(msg)
    labels, where = _labels_of(given, label_key, truth, name)
    if kind == "effects":
        if scale != truth.screen.scale:
            _refuse_scale(scale, truth, name)
        return Prediction(name, role, align(given.X, labels, list(given.var_names), truth, name, where), truth)
    if scale == "counts" and truth.screen.scale == "log1p_cp10k":
        empty = np.asarray(given.X.sum(axis=1)).ravel() <= 0
        if empty.any():
            msg = f"model: expected counts in every row of {name}, got {int(empty.sum())} rows without any. Drop them."
            raise ScaleError(msg)
    values = on_scale(given, truth, name, scale=scale)
    control = observed_controls(truth)
    if kind == "means":
        means = align(values, labels, list(truth.screen.adata.var_names), truth, name, where)
        return Prediction(name, role, means - control, truth, means=(means, means - control))
    moments = group_means(values, labels, with_variance=False)
    genes = list(truth.screen.adata.var_names)
    means = align(moments.mean, [str(group) for group in moments.groups], genes, truth, name, where)
    rows_of = {str(group): np.flatnonzero(np.asarray(labels) == group) for group in moments.groups}
    rows = [rows_of[label] for label in _wanted(truth, labels)]

    def draw(condition: int, n: int) -> np.ndarray:
        return values[np.random.default_rng([truth.seed, condition]).permutation(rows[condition])[:n]]

    n_cells = np.array([len(part) for part in rows])
    return Prediction(name, role, means - control, truth, draw=draw, means=(means, means - control), n_cells=n_cells)


def _labels_of(given: AnnData, label_key: str, truth: Truth, name: str) -> tuple[list[str], str]:
    """Canonical label of each row, followed by its context where rows say so; and where they were read."""
    own = next((key for key in (_keys.OBS_PERTURBATION, label_key) if key in given.obs), None)
    if own is None:
        labels, where = pd.Series(given.obs_names.astype(str), index=given.obs_names), "obs_names"
    else:
        labels, where = given.obs[own].astype(str), f"obs[{own!r}]"
    try:
        canonical = labels.map({label: truth.screen.canonical(label) for label in labels.unique()})
    except LabelError as error:
        msg = f"model: expected perturbations in {where} of {name}. {error} Name the column with perturbation_key."
        raise LabelError(msg) from error
    key = truth.screen.context_key
    if key is not None and key in given.obs:
        canonical = canonical + IN + given.obs[key].astype(str)
    return canonical.tolist(), where


def _wanted(truth: Truth, labels: Sequence[str]) -> list[str]:
    """The judged conditions in the spelling of `labels`: with contexts if those have them."""
    if any(IN in label for label in labels):
        return [f"{name}{IN}{context}" for name, context in zip(truth.perturbations, truth.contexts, strict=True)]
    return truth.perturbations


def on_scale(given: AnnData, truth: Truth, name: str, *, scale: str | None = None) -> np.ndarray:
    """Cells of an AnnData on the scale of effects, dense float32, genes in the order of the screen."""
    scale = scale or str(dict(given.uns.get(_keys.UNS_RESULT, {})).get("scale"))
    values = given.X
    if scale == "counts" and truth.screen.scale == "log1p_cp10k":
        total = np.asarray(values.sum(axis=1)).ravel()
        if (total <= 0).any():
            given = given[total > 0]
            values = given.X
        values = log1p_cp10k(values)
    elif scale != truth.screen.scale:
        _refuse_scale(scale, truth, name)
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if scale == "log1p_cp10k" and dense.size and dense.max() > LARGEST:
        msg = (
            f"prediction_scale: expected log1p of counts per 10,000 in {name}, at most {LARGEST:.2f}, got {dense.max():.4g}. "
            "Say prediction_scale='counts' if these are counts."
        )
        raise ScaleError(msg)
    return columns(dense.astype(np.float32, copy=False), list(given.var_names), truth, name)


def _refuse_scale(scale: str, truth: Truth, name: str) -> None:
    msg = f"prediction_scale: expected {truth.screen.scale!r} for {name}, as the effects that judge it, got {scale!r}."
    raise ScaleError(msg)


def align(values: Any, labels: Sequence[str], genes: list[str], truth: Truth, name: str, where: str) -> np.ndarray:
    """Rows of the judged conditions and columns of the screen; nothing may be missing."""
    wanted, position = _wanted(truth, labels), {label: i for i, label in enumerate(labels)}
    absent = sorted({label for label in wanted if label not in position})
    if absent or len(position) < len(labels):
        problem = f"without {shorten(absent, limit=5)}" if absent else "with some twice"
        msg = (
            f"model: expected a row of {name} for every judged perturbation, got {len(labels)} rows {problem}; labels are "
            f"those of {where}. Add or drop rows, or name the column with perturbation_key."
        )
        raise LabelError(msg)
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    rows = dense[[position[label] for label in wanted]].astype(np.float64)
    return columns(rows, genes, truth, name)


def columns(values: np.ndarray, genes: list[str], truth: Truth, name: str) -> np.ndarray:
    """Columns of the screen in its order; refuses missing genes and values that are not finite."""
    wanted = list(truth.screen.adata.var_names)
    if not np.isfinite(values).all():
        msg = f"model: expected finite predictions of {name}, got NaN or infinity. No score is defined for them."
        raise ValueError(msg)
    if genes == wanted:
        return values
    twice = sorted({gene for gene in genes if genes.count(gene) > 1}) if len(set(genes)) < len(genes) else []
    if twice:
        msg = (
            f"model: expected genes of {name} in the order of adata.var_names, or every gene once, got another order with "
            f"{shorten(twice, limit=3)} more than once. Make names unique on both sides (var_names_make_unique), or sort "
            "the columns."
        )
        raise FeatureMismatch(msg)
    position = pd.Index(genes).get_indexer(wanted)
    if (position < 0).any():
        absent = [gene for gene in wanted if gene not in set(genes)]
        msg = (
            f"model: expected every gene of adata in {name}, got {len(genes)} genes without {shorten(absent, limit=5)}."
        )
        raise FeatureMismatch(msg)
    return values[:, position]
