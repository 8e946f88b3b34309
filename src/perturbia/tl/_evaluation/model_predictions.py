"""Predictions that models are asked for, and baselines fitted to the training cells of the screen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import LeakageError, UnsupportedQuery
from perturbia.model.baseline._closed_form import ClosedFormModel
from perturbia.perturbation import Perturbation, as_perturbation
from perturbia.tl._evaluation.given_predictions import columns, on_scale
from perturbia.tl._evaluation.predictions import Prediction
from perturbia.tl._evaluation.screen import CONTEXT, LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.tl._evaluation.predictions import Role
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["check_unseen", "fit_baseline", "from_effects_of", "from_protocol"]


def check_unseen(model: Any, truth: Truth, name: str) -> bool:
    """Refuse a model whose own record says that it has trained on cells that judge it; False if there is no record."""
    adata, trained = getattr(model, "adata", None), getattr(model, "train_indices_", None)
    if adata is None or trained is None:
        return False
    screen, trained = truth.screen, np.asarray(trained, dtype=int)
    judges = np.flatnonzero(screen.part == "test")
    if adata is screen.source or adata is screen.adata:
        both = np.isin(trained, judges)
    elif adata.obs_names.is_unique and screen.adata.obs_names.is_unique:
        both = adata.obs_names[trained].isin(screen.adata.obs_names[judges])
        if not both.any() and not adata.obs_names.isin(screen.adata.obs_names).any():
            return False  # other names: cells can not be recognised
    else:
        return False
    if both.any():
        msg = (
            f"model: expected {name} to be trained without the held-out cells, got {int(both.sum())} of "
            f"{len(judges)} among its training cells. Split with perturbia.tl.split before .train()."
        )
        raise LeakageError(msg)
    return True


def _queries(truth: Truth, model: Any) -> list[Perturbation]:
    """One query a condition; with its context where the model reads contexts."""
    key = getattr(model, "context_key", truth.screen.context_key)
    reads = truth.screen.context_key is not None and "unseen_context" in getattr(model, "capabilities", ())
    return [
        Perturbation(as_perturbation(name), context={key: context} if reads and key else None)
        for name, context in zip(truth.perturbations, truth.contexts, strict=True)
    ]


def from_effects_of(model: Any, truth: Truth, *, name: str, role: Role, seed: int) -> Prediction:
    """A model that states effects; one that samples draws its own cells, others shift control cells."""
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
        return on_scale(model.sample(truth.perturbations[condition], n, seed=seed + condition), truth, name)

    prediction.draw = draw
    prediction.means = _predicted_means(model, truth, seed)
    return prediction


def _stated(model: Any, queries: Sequence[Perturbation], truth: Truth, seed: int) -> np.ndarray:
    scale = truth.screen.scale
    options: dict[str, Any] = {} if isinstance(model, ClosedFormModel) else {"seed": seed}
    answer = model.estimate_ate(list(queries), scale=scale if scale == "log1p_cp10k" else None, **options)
    return columns(np.asarray(answer.X, dtype=np.float64), list(answer.var_names), truth, type(model).__name__)


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
        means[i] = columns(mean[None], list(readout.var_names), truth, type(model).__name__)[0]
        effects[i] = means[i] - control
    return means, effects


def _latent_of(model: Any, truth: Truth, rows: np.ndarray) -> AnnData:
    """Basal coordinates of cells of the screen, by the data that the model holds, or by a copy of these cells."""
    positions = truth.screen.positions_in(getattr(model, "adata", None), rows)
    if positions is not None:
        return model.encode(indices=positions)
    return model.encode(truth.screen.copy_of(rows))


def from_protocol(model: Any, truth: Truth, *, name: str, role: Role, seed: int) -> Prediction:
    """Means and cells of a model that only encodes, perturbs and decodes: they shift observed control cells."""
    cells: dict[int, np.ndarray] = {}
    means, effects = np.empty((2, *truth.effects.shape))
    for i, query in enumerate(_queries(truth, model)):
        rows = np.sort(truth.control_rows(held_out=False, context=truth.contexts[i]))
        readout = model.decode(
            model.perturb(_latent_of(model, truth, rows), query, seed=seed), scale=truth.screen.scale
        )
        values = columns(np.asarray(readout.X, dtype=np.float32), list(readout.var_names), truth, name)
        cells[i] = values
        means[i] = values.mean(axis=0, dtype=np.float64)
        effects[i] = means[i] - truth.screen.cells(rows).mean(axis=0, dtype=np.float64)

    def draw(condition: int, n: int) -> np.ndarray:
        return cells[condition][np.random.default_rng([seed, condition]).permutation(len(cells[condition]))[:n]]

    n_cells = np.array([len(cells[i]) for i in range(len(truth))])
    return Prediction(name, role, effects, truth, draw=draw, means=(means, effects), n_cells=n_cells, model=model)


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
            batch_key=screen.stratum_key,  # as the truth is measured
            categorical_covariate_keys=[CONTEXT] if screen.context_key else None,
            scale=screen.registered_scale,
        )
    model = model_class(screen.adata, **options)
    model.train()
    return model
