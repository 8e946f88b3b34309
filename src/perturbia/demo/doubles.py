"""Second table: combinations that nobody has measured, in a simulated screen whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.demo.scoring import MODEL, answer, fit_baselines, register
from perturbia.demo.screen import Screen
from perturbia.metrics import effect_correlation, effect_r2, latent_mcc, mask_scores, top_gene_correlation
from perturbia.perturbation import dosage_matrix
from perturbia.stats import low_rank_ridge
from perturbia.tl import effects, split

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.demo.options import DemoOptions

__all__ = ["ADDED_TRUTH", "ORACLE", "Doubles", "score_unseen"]

ORACLE = "best-rank ridge (rank chosen by the truth)"
ADDED_TRUTH = "true effects of the members, added"


@dataclass(frozen=True)
class Doubles:
    """Scores on unseen doubles, and how well the model found the simulated mechanisms.

    Attributes
    ----------
    table
        Methods × scores against the true effects.
    n_unseen, n_singles, n_cells
        Unseen doubles, single perturbations, cells of the screen.
    latent_mcc, mask_f1
        Mean correlation of matched latents, and F1 of the masks, against the simulated ones.
    """

    table: pd.DataFrame
    n_unseen: int
    n_singles: int
    n_cells: int
    latent_mcc: float
    mask_f1: float


def score_unseen(options: DemoOptions, *, progress: bool) -> Doubles:
    """Simulate a screen, hold out half of its doubles, and judge all methods by their true effects.

    Parameters
    ----------
    options
        Options of the demo.
    progress
        Show a progress bar of the training.

    Returns
    -------
    The scores.
    """
    from perturbia.datasets import simulate_screen
    from perturbia.model import SAMSVAE

    size = {"n_perturbations": 12, "n_combinations": 8, "n_genes": 60, "n_latent": 4} if options.fast else {}
    adata = simulate_screen(seed=options.seed, **size)
    split(adata, axis="combination", fraction=0.5, seed=options.seed)
    screen = Screen(adata, "simulated screen", "perturbation", "control", "counts", None)
    register(SAMSVAE, screen)
    model = SAMSVAE(adata, seed=options.seed)
    model.train(enable_progress_bar=progress, **options.train_options)
    unseen = sorted(adata.obs.loc[adata.obs[_keys.OBS_SPLIT] == "test", "perturbation"].astype(str).unique())
    truth = adata.uns[_keys.UNS_TRUTH]
    true = truth["ate"].loc[unseen].to_numpy()
    predicted = {MODEL: model.estimate_ate(unseen, seed=options.seed).X}
    for name, baseline in fit_baselines(screen).items():
        effect = answer(baseline, unseen)
        if effect is not None:
            predicted[name] = effect.X
    predicted[ORACLE] = _best_rank(adata, unseen, true)
    predicted[ADDED_TRUTH] = _added(truth["ate"], unseen)
    table = pd.DataFrame.from_dict({name: _scores(true, values) for name, values in predicted.items()}, orient="index")
    latents = model.get_latent_representation()
    masks = model.get_treatment_masks().loc[list(truth["names"])].to_numpy()
    matching = latent_mcc(adata.obsm["truth_latent"], latents)
    f1 = mask_scores(truth["masks"], masks > 0.5).f1
    return Doubles(table, len(unseen), len(truth["names"]), adata.n_obs, float(matching), float(f1))


def _scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    # the truth is exact, so it may choose the genes it scores
    k = min(20, true.shape[1])
    return {
        "r": effect_correlation(true, predicted),
        "R2": effect_r2(true, predicted),
        "top-20 r": top_gene_correlation(true, predicted, selection=true, k=k),
    }


def _best_rank(adata: AnnData, unseen: list[str], true: np.ndarray) -> np.ndarray:
    """Reduced-rank ridge of the rank that predicts best: a bound on what choosing the rank can give."""
    seen = effects(adata, layer="counts", cells=(adata.obs[_keys.OBS_SPLIT] == "train").to_numpy())
    names = [str(name) for name in adata.uns[_keys.UNS_TRUTH]["names"]]
    design, queries = dosage_matrix(seen.obs_names, names), dosage_matrix(unseen, names)
    fits = [
        low_rank_ridge(design, seen.X, rank=rank, standard_errors=seen.layers[_keys.LAYER_SE])
        for rank in range(1, min(len(names), 20) + 1)
    ]
    predictions = [queries @ fit.coefficients for fit in fits]
    return max(predictions, key=lambda prediction: effect_r2(true, prediction))


def _added(true_effects: pd.DataFrame, unseen: list[str]) -> np.ndarray:
    """Sum of the exact effects of the members: additivity without noise."""
    return np.stack([true_effects.loc[name.split("+")].sum(axis=0).to_numpy() for name in unseen])
