"""First table: every method on held-out cells of the perturbations that it has seen."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import UnsupportedQuery
from perturbia.stats import log1p_cp10k

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from perturbia.demo.held_out import HeldOut
    from perturbia.demo.screen import Screen
    from perturbia.model import SAMSVAE
    from perturbia.model.base import PerturbationModel

__all__ = ["BASELINES", "CEILING", "COMBINED", "MODEL", "REPEAT", "answer", "fit_baselines", "register", "score_seen"]

logger = logging.getLogger(__name__)

MODEL = "SAMS-VAE"
COMBINED = "SAMS-VAE + shrunken residual"
REPEAT = "a second experiment of this size"
CEILING = "ceiling: the true effects"
BASELINES = ("NoChange", "Mean", "Empirical", "JamesStein", "Additive", "MatchingMean", "Ridge", "LowRank")
LIKELIHOOD = "log likelihood"
DISTANCE = "e-distance"


def register(model_class: type[PerturbationModel], screen: Screen) -> None:
    """Register the screen for a model class."""
    model_class.setup_anndata(screen.adata, layer=screen.layer, batch_key=screen.batch_key, **screen.labels)


def fit_baselines(screen: Screen) -> dict[str, PerturbationModel]:
    """Fit every baseline to the training cells."""
    import perturbia.model

    fitted = {}
    for name in BASELINES:
        model_class = getattr(perturbia.model, name)
        register(model_class, screen)
        fitted[name] = model_class(screen.adata)
        fitted[name].train()
    return fitted


def score_seen(
    model: SAMSVAE,
    baselines: dict[str, PerturbationModel],
    held_out: HeldOut,
    *,
    likelihood_budget: tuple[int, int],
    seed: int,
) -> tuple[pd.DataFrame, dict[str, AnnData]]:
    """Judge all methods by the held-out cells.

    Parameters
    ----------
    model
        The trained model.
    baselines
        Fitted baselines by name.
    held_out
        What the held-out cells show.
    likelihood_budget
        Held-out cells and draws a cell of the likelihood.
    seed
        Seed of draws.

    Returns
    -------
    Table (methods × scores, NaN where a score is not defined), and predicted effects of every method.
    """
    names = held_out.perturbations
    basis = held_out.basis()
    controls = held_out.train[held_out.labels[held_out.train] == "control"]
    predicted = {
        MODEL: model.estimate_ate(names, seed=seed),
        COMBINED: model.estimate_ate(names, combine="shrunk_residual", seed=seed),
    }
    cells = {
        MODEL: _sampled_cells(model, seed),
        COMBINED: _shifted_cells(held_out, controls, predicted[COMBINED]),
    }
    for name, baseline in baselines.items():
        effect = answer(baseline, names)
        if effect is not None:
            predicted[name] = effect
            cells[name] = _shifted_cells(held_out, controls, effect)
    rows: dict[str, dict[str, float]] = {}
    for name, effect in predicted.items():
        rows[name] = {**held_out.scores(effect.X), DISTANCE: _mean(held_out.distances(cells[name], basis))}
    rows[REPEAT] = {**held_out.repeat(), DISTANCE: _mean(basis.between_halves())}
    # the truth itself, correlated with what noisy cells show of it
    reliability, strongest = rows[REPEAT]["r"], rows[REPEAT]["top-20 r"]
    rows[CEILING] = {"r": np.sqrt(reliability), "R2": reliability, "top-20 r": np.sqrt(strongest)}
    rows[CEILING][DISTANCE] = 0.0 if basis.held_out else np.nan
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    table.insert(0, LIKELIHOOD, np.nan)
    table.loc[MODEL, LIKELIHOOD] = _likelihood(model, held_out, likelihood_budget, seed)
    return table, predicted


def _mean(distances: dict[str, float]) -> float:
    """Mean over perturbations, NaN if none has enough held-out cells for a distance."""
    return float(np.mean(list(distances.values()))) if distances else np.nan


def answer(model: PerturbationModel, names: list[str]) -> AnnData | None:
    """Effects of the perturbations, None if the method can not tell all of them."""
    try:
        return model.estimate_ate(names)
    except UnsupportedQuery as error:
        logger.info("%s is left out: %s", type(model).__name__, error)
        return None


def _likelihood(model: SAMSVAE, held_out: HeldOut, budget: tuple[int, int], seed: int) -> float:
    n_cells, n_particles = budget
    cells = np.sort(np.random.default_rng(seed).permutation(held_out.test)[:n_cells])
    return model.get_iwelbo(indices=cells, n_particles=n_particles, return_mean=True, seed=seed)


def _sampled_cells(model: SAMSVAE, seed: int) -> Callable[[str, int], np.ndarray]:
    """Cells drawn from the model, counts and all."""

    def draw(name: str, n: int) -> np.ndarray:
        counts = np.asarray(model.sample(name, n, seed=seed).X)
        return log1p_cp10k(counts[counts.sum(axis=1) > 0])

    return draw


def _shifted_cells(held_out: HeldOut, controls: np.ndarray, effect: AnnData) -> Callable[[str, int], np.ndarray]:
    """Training control cells plus the effect: what a method of effects alone says about cells."""
    from perturbia.demo.held_out import dense_rows

    chosen = np.random.default_rng(held_out.seed).permutation(controls)[:500]
    base = dense_rows(held_out.screen, chosen)
    position = {name: i for i, name in enumerate(effect.obs_names)}

    def shift(name: str, n: int) -> np.ndarray:
        return np.clip(base[:n] + effect.X[position[name]], 0.0, None)

    return shift
