"""What a method says of the judged conditions: effects, population means, and cells."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import FeatureMismatch, LabelError, LeakageError, ScaleError, UnsupportedQuery, shorten
from perturbia.model.baseline._closed_form import ClosedFormModel
from perturbia.perturbation import Perturbation, as_perturbation
from perturbia.stats import energy_distance, group_means, log1p_cp10k

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from perturbia.tl._evaluation.truth import Truth

__all__ = ["Prediction", "Role", "predict_from"]

Role = Literal["model", "baseline", "reference"]
PredictionKind = Literal["cells", "means", "effects"]

N_BASE = 500
IN = " in context "
MIN_DRAWS = 50


@dataclass
class Prediction:
    """What one method says.

    Attributes
    ----------
    name, role
        Name in the tables; `"reference"` rows are neither models nor baselines and are not ranked.
    effects
        Stated effects, float64 `(n_conditions, n_genes)`.
    truth
        The judged conditions.
    draw
        Cells of a condition, `(condition, number) -> (number, n_genes)`; None where the effect shifts control cells.
    means
        Means of predicted cells, and the same minus means of observed controls, where the method predicts means itself.
    effects_of
        Effects that the method states for any labels, None if it states no more than the conditions.
    model
        The model, None for a prediction that was given.
    """

    name: str
    role: Role
    effects: np.ndarray
    truth: Truth
    draw: Callable[[int, int], np.ndarray] | None = None
    means: tuple[np.ndarray, np.ndarray] | None = None
    effects_of: Callable[[Sequence[str]], np.ndarray] | None = None
    model: Any = None
    notes: list[str] = field(default_factory=list)

    def cells(self, condition: int, n: int) -> np.ndarray:
        """Predicted cells of a condition on the scale of effects, float32 `(n, n_genes)`."""
        if self.draw is not None:
            return self.draw(condition, n)
        base = base_cells(self.truth, condition)[:n]
        return shifted(base, self.effects[condition], self.truth)

    @cached_property
    def distances(self) -> np.ndarray:
        """Energy distance from predicted to held-out cells of each condition, NaN where either is a single cell."""
        found = []
        for i, held_out in enumerate(self.truth.coordinates):
            predicted = self.truth.basis.project(self.cells(i, max(len(held_out), MIN_DRAWS)))
            enough = len(held_out) > 1 and len(predicted) > 1
            found.append(energy_distance(predicted, held_out) if enough else np.nan)
        return np.array(found)

    @cached_property
    def control_distances(self) -> np.ndarray:
        """Energy distance from predicted cells to held-out controls of each condition, NaN for a single cell."""
        controls = self.truth.control_coordinates
        found = []
        for i, context in enumerate(self.truth.contexts):
            predicted = self.truth.basis.project(self.cells(i, max(len(self.truth.populations[i]), MIN_DRAWS)))
            found.append(energy_distance(predicted, controls[context]) if len(predicted) > 1 else np.nan)
        return np.array(found)

    @cached_property
    def populations(self) -> tuple[np.ndarray, np.ndarray]:
        """Means of predicted cells, and the same minus the means of observed controls that models may have seen."""
        if self.means is not None:
            return self.means
        means, effects = np.empty_like(self.effects), np.empty_like(self.effects)
        for i, effect in enumerate(self.effects):
            base = base_cells(self.truth, i)
            means[i] = shifted(base, effect, self.truth).mean(axis=0, dtype=np.float64)
            effects[i] = means[i] - base.mean(axis=0, dtype=np.float64)
        return means, effects


def shifted(base: np.ndarray, effect: np.ndarray, truth: Truth) -> np.ndarray:
    """Cells plus an effect, inside the bounds of the scale."""
    cells = base + effect.astype(np.float32)
    return np.maximum(cells, 0.0, out=cells) if truth.screen.scale == "log1p_cp10k" else cells


def base_cells(truth: Truth, condition: int) -> np.ndarray:
    """Observed control cells that models may have seen, in the batches of the condition: the same for every method."""
    pool, batch = _control_pool(truth, truth.contexts[condition])
    if batch is None:
        return pool
    cache = truth.__dict__.setdefault("_base_rows", {})
    if condition not in cache:
        cache[condition] = _rows_like(truth, condition, batch)
    return pool[cache[condition]]


def _rows_like(truth: Truth, condition: int, batch: np.ndarray) -> np.ndarray:
    """Rows of the pool, drawn so that batches have the shares that they have among the cells of the condition."""
    rows = truth.populations[condition]
    own = truth.screen.adata.obs[truth.screen.batch_key].astype(str).to_numpy()[rows]
    rng = np.random.default_rng([truth.seed, condition])
    names, counts = np.unique(own[np.isin(own, batch)], return_counts=True)
    if len(names) == 0:
        return np.arange(len(batch))
    chosen = [
        rng.choice(np.flatnonzero(batch == name), round(len(batch) * count / counts.sum()) or 1)
        for name, count in zip(names, counts, strict=True)
    ]
    return rng.permutation(np.concatenate(chosen))


def _control_pool(truth: Truth, context: str) -> tuple[np.ndarray, np.ndarray | None]:
    cache = truth.__dict__.setdefault("_control_pools", {})
    if context not in cache:
        rows = truth.control_rows(held_out=False, context=context, limit=N_BASE)
        if len(rows) == 0:
            rows = truth.control_rows(held_out=True, context=context, limit=N_BASE)
        key = truth.screen.batch_key
        batch = None if key is None else truth.screen.adata.obs[key].astype(str).to_numpy()[rows]
        cache[context] = truth.screen.cells(rows), batch
    return cache[context]


# from whatever was given ---------------------------------------------------------------------------------------------


def predict_from(
    source: Any,
    truth: Truth,
    *,
    name: str,
    role: Role,
    kind: PredictionKind | None = None,
    scale: str | None = None,
    label_key: str = _keys.OBS_PERTURBATION,
    seed: int = 0,
) -> Prediction:
    """Ask a model, or read an AnnData or a table of effects.

    Parameters
    ----------
    source
        A trained model; or AnnData of cells, means or effects; or a table of effects, perturbations × genes.
    truth
        The judged conditions.
    name, role
        How to list it.
    kind, scale
        What an AnnData holds that does not say so itself.
    label_key
        Column of its `obs` with the perturbation of each row.
    seed
        Seed of draws.

    Returns
    -------
    The prediction.

    Raises
    ------
    TypeError
        If it is nothing of that.
    LabelError, FeatureMismatch, ScaleError
        If perturbations or genes are missing, or the scale is not known or another one.
    LeakageError
        If the model has trained on held-out cells.
    UnsupportedQuery
        If the model can not answer.
    """
    from anndata import AnnData

    if isinstance(source, pd.DataFrame):
        labels = [str(as_perturbation(label)) for label in source.index.astype(str)]
        rows = _align(source.to_numpy(), labels, list(source.columns), truth, name)
        return Prediction(name, role, rows, truth)
    if isinstance(source, AnnData):
        return _from_anndata(source, truth, name=name, role=role, kind=kind, scale=scale, label_key=label_key)
    if not (hasattr(source, "estimate_ate") or all(hasattr(source, verb) for verb in ("encode", "perturb", "decode"))):
        msg = (
            f"model: expected a trained model, AnnData or a table of effects, got {type(source).__name__}. Models have "
            "estimate_ate, or encode, perturb and decode."
        )
        raise TypeError(msg)
    _check_unseen(source, truth, name)
    if hasattr(source, "estimate_ate"):
        return _from_effects_of(source, truth, name=name, role=role, seed=seed)
    return _from_protocol(source, truth, name=name, role=role, seed=seed)


def _check_unseen(model: Any, truth: Truth, name: str) -> None:
    """Refuse a model whose own record says that it has trained on cells that judge it."""
    adata, trained = getattr(model, "adata", None), getattr(model, "train_indices_", None)
    if adata is None or trained is None:
        return
    judges = truth.screen.adata.obs_names[truth.screen.part == "test"]
    both = adata.obs_names[np.asarray(trained, dtype=int)].isin(judges)
    if both.any():
        msg = (
            f"model: expected {name} to be trained without the held-out cells, got {int(both.sum())} of "
            f"{len(judges)} among its training cells. Split with perturbia.tl.split before .train()."
        )
        raise LeakageError(msg)


def _queries(truth: Truth, model: Any) -> list[Perturbation]:
    """One query a condition; with its context where the model reads contexts."""
    key = getattr(model, "context_key", truth.screen.context_key)
    reads = truth.screen.context_key is not None and "unseen_context" in getattr(model, "capabilities", ())
    return [
        Perturbation(as_perturbation(name), context={key: context} if reads and key else None)
        for name, context in zip(truth.perturbations, truth.contexts, strict=True)
    ]


def _from_effects_of(model: Any, truth: Truth, *, name: str, role: Role, seed: int) -> Prediction:
    queries = _queries(truth, model)
    distinct = list(dict.fromkeys(queries))
    stated = _stated(model, distinct, truth, seed)
    effects = stated[[distinct.index(query) for query in queries]]

    def effects_of(labels: Sequence[str]) -> np.ndarray:
        return _stated(model, [as_perturbation(label) for label in labels], truth, seed)

    prediction = Prediction(name, role, effects, truth, effects_of=effects_of, model=model)
    if isinstance(model, ClosedFormModel) or not hasattr(model, "sample"):
        return prediction  # an effect shifts control cells, the same for all methods

    def draw(condition: int, n: int) -> np.ndarray:
        return _on_scale(model.sample(truth.perturbations[condition], n, seed=seed + condition), truth, name)

    prediction.draw = draw
    prediction.means = _predicted_means(model, truth, seed)
    return prediction


def _stated(model: Any, queries: Sequence[Perturbation], truth: Truth, seed: int) -> np.ndarray:
    scale = truth.screen.scale
    options: dict[str, Any] = {} if isinstance(model, ClosedFormModel) else {"seed": seed}
    answer = model.estimate_ate(list(queries), scale=scale if scale == "log1p_cp10k" else None, **options)
    return _columns(np.asarray(answer.X, dtype=np.float64), list(answer.var_names), truth, type(model).__name__)


def _predicted_means(model: Any, truth: Truth, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected features of observed control cells under each condition, also minus what those cells were observed to be."""
    means, effects = np.empty((2, *truth.effects.shape))
    cache: dict[str, tuple[Any, np.ndarray]] = {}
    for i, query in enumerate(_queries(truth, model)):
        context = truth.contexts[i]
        if context not in cache:
            rows = np.sort(truth.control_rows(held_out=False, context=context))
            cache[context] = _latent_of(model, truth, rows), truth.screen.cells(rows).mean(axis=0, dtype=np.float64)
        latent, control = cache[context]
        readout = model.decode(model.perturb(latent, query, seed=seed), scale=truth.screen.scale)
        mean = np.asarray(readout.X, dtype=np.float64).mean(axis=0)
        means[i] = _columns(mean[None], list(readout.var_names), truth, type(model).__name__)[0]
        effects[i] = means[i] - control
    return means, effects


def _latent_of(model: Any, truth: Truth, rows: np.ndarray) -> AnnData:
    """Basal coordinates of cells of the screen, by the data that the model holds or by a copy of these cells."""
    own = getattr(model, "adata", None)
    names = truth.screen.adata.obs_names[rows]
    if own is None or not names.isin(own.obs_names).all() or not own.obs_names.is_unique:
        msg = (
            f"model: expected {type(model).__name__} to hold the control cells of adata, got other data. Load it with "
            "adata=adata."
        )
        raise LabelError(msg)
    return model.encode(indices=own.obs_names.get_indexer(names))


def _from_protocol(model: Any, truth: Truth, *, name: str, role: Role, seed: int) -> Prediction:
    """Means and cells of a model that only encodes, perturbs and decodes: they shift observed control cells."""
    cells: dict[int, np.ndarray] = {}
    means, effects = np.empty((2, *truth.effects.shape))
    for i, query in enumerate(_queries(truth, model)):
        rows = np.sort(truth.control_rows(held_out=False, context=truth.contexts[i]))
        readout = model.decode(
            model.perturb(_latent_of(model, truth, rows), query, seed=seed), scale=truth.screen.scale
        )
        values = _columns(np.asarray(readout.X, dtype=np.float32), list(readout.var_names), truth, name)
        cells[i] = values
        means[i] = values.mean(axis=0, dtype=np.float64)
        effects[i] = means[i] - truth.screen.cells(rows).mean(axis=0, dtype=np.float64)

    def draw(condition: int, n: int) -> np.ndarray:
        return cells[condition][np.random.default_rng([seed, condition]).permutation(len(cells[condition]))[:n]]

    return Prediction(name, role, effects, truth, draw=draw, means=(means, effects), model=model)


def _from_anndata(
    given: AnnData, truth: Truth, *, name: str, role: Role, kind: str | None, scale: str | None, label_key: str
) -> Prediction:
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
    labels = _labels_of(given, label_key, truth)
    if kind == "effects":
        if scale != truth.screen.scale:
            _refuse_scale(scale, truth, name)
        return Prediction(name, role, _align(given.X, labels, list(given.var_names), truth, name), truth)
    values = _on_scale(given, truth, name, scale=scale)
    control = _observed_controls(truth)
    if kind == "means":
        means = _align(values, labels, list(truth.screen.adata.var_names), truth, name)
        return Prediction(name, role, means - control, truth, means=(means, means - control))
    moments = group_means(values, labels, with_variance=False)
    genes = list(truth.screen.adata.var_names)
    means = _align(moments.mean, [str(group) for group in moments.groups], genes, truth, name)
    rows_of = {str(group): np.flatnonzero(np.asarray(labels) == group) for group in moments.groups}

    def draw(condition: int, n: int) -> np.ndarray:
        rows = rows_of[_wanted(truth, labels)[condition]]
        return values[np.random.default_rng([truth.seed, condition]).permutation(rows)[:n]]

    return Prediction(name, role, means - control, truth, draw=draw, means=(means, means - control))


def _observed_controls(truth: Truth) -> np.ndarray:
    """Mean of the observed controls that models may have seen, one row a condition."""
    means = {
        context: _control_pool(truth, context)[0].mean(axis=0, dtype=np.float64) for context in set(truth.contexts)
    }
    return np.stack([means[context] for context in truth.contexts])


def _labels_of(given: AnnData, label_key: str, truth: Truth) -> list[str]:
    """Canonical label of each row, followed by its context where rows say so."""
    if label_key in given.obs:
        labels = given.obs[label_key].astype(str)
    elif _keys.OBS_PERTURBATION in given.obs:
        labels = given.obs[_keys.OBS_PERTURBATION].astype(str)
    else:
        labels = pd.Series(given.obs_names.astype(str), index=given.obs_names)
    canonical = labels.map({label: str(as_perturbation(label)) for label in labels.unique()})
    key = truth.screen.context_key
    if key is not None and key in given.obs:
        canonical = canonical + IN + given.obs[key].astype(str)
    return canonical.tolist()


def _wanted(truth: Truth, labels: Sequence[str]) -> list[str]:
    """The judged conditions in the spelling of `labels`: with contexts if those have them."""
    if any(IN in label for label in labels):
        return [f"{name}{IN}{context}" for name, context in zip(truth.perturbations, truth.contexts, strict=True)]
    return truth.perturbations


def _on_scale(given: AnnData, truth: Truth, name: str, *, scale: str | None = None) -> np.ndarray:
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
    return _columns(dense.astype(np.float32, copy=False), list(given.var_names), truth, name)


def _refuse_scale(scale: str, truth: Truth, name: str) -> None:
    msg = f"prediction_scale: expected {truth.screen.scale!r} for {name}, as the effects that judge it, got {scale!r}."
    raise ScaleError(msg)


def _align(values: Any, labels: Sequence[str], genes: list[str], truth: Truth, name: str) -> np.ndarray:
    """Rows of the judged conditions and columns of the screen; nothing may be missing."""
    wanted, position = _wanted(truth, labels), {label: i for i, label in enumerate(labels)}
    absent = sorted({label for label in wanted if label not in position})
    if absent or len(position) < len(labels):
        problem = f"without {shorten(absent, limit=5)}" if absent else "with some twice"
        msg = f"model: expected a row of {name} for every judged perturbation, got {len(labels)} rows {problem}. Add or drop."
        raise LabelError(msg)
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    rows = dense[[position[label] for label in wanted]].astype(np.float64)
    return _columns(rows, genes, truth, name)


def _columns(values: np.ndarray, genes: list[str], truth: Truth, name: str) -> np.ndarray:
    wanted = list(truth.screen.adata.var_names)
    if not np.isfinite(values).all():
        msg = f"model: expected finite predictions of {name}, got NaN or infinity. No score is defined for them."
        raise ValueError(msg)
    if genes == wanted:
        return values
    position = pd.Index(genes).get_indexer(wanted) if len(set(genes)) == len(genes) else np.array([-1])
    if (position < 0).any():
        absent = [gene for gene in wanted if gene not in set(genes)]
        msg = (
            f"model: expected every gene of adata in {name}, got {len(genes)} genes without {shorten(absent, limit=5)}."
        )
        raise FeatureMismatch(msg)
    return values[:, position]


def fit_baseline(name: str, truth: Truth) -> Any:
    """Fit a baseline to the training cells of the screen.

    Parameters
    ----------
    name
        Name of a model in :mod:`perturbia.model`.
    truth
        The judged conditions.

    Returns
    -------
    The trained baseline.

    Raises
    ------
    UnsupportedQuery
        If it does not apply to these data.
    """
    import perturbia.model
    from perturbia.tl._evaluation.screen import BATCH, CONTEXT, LABEL

    screen = truth.screen
    model_class = getattr(perturbia.model, name)
    options: dict[str, Any] = {}
    if name == "ContextMean":
        if screen.context_key is None:
            msg = "context_key: expected a column of contexts for ContextMean, got none."
            raise UnsupportedQuery(msg)
        options["context_key"] = CONTEXT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model_class.setup_anndata(
            screen.adata,
            perturbation_key=LABEL,
            batch_key=screen.batch_key and BATCH,
            categorical_covariate_keys=[CONTEXT] if screen.context_key else None,
            scale=screen.registered_scale,
        )
    model = model_class(screen.adata, **options)
    model.train()
    return model
