"""Second table: combinations that nobody has measured, in a simulated screen whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.demo.scoring import MODEL, register
from perturbia.demo.screen import Screen
from perturbia.metrics import effect_r2, latent_mcc, mask_scores
from perturbia.perturbation import dosage_matrix
from perturbia.stats import low_rank_ridge
from perturbia.tl import effects, evaluate, split

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.demo.options import DemoOptions
    from perturbia.tl import EvaluationResult

__all__ = ["ADDED_TRUTH", "ORACLE", "Doubles", "score_unseen"]

ORACLE = "best-rank ridge (rank chosen by the truth)"
ADDED_TRUTH = "true effects of the members, added"


@dataclass(frozen=True)
class Doubles:
    """Scores on unseen doubles, and how well the model found the simulated mechanisms.

    Attributes
    ----------
    result
        The evaluation against the true effects.
    n_unseen, n_singles, n_cells
        Unseen doubles, single perturbations, cells of the screen.
    latent_mcc, mask_f1
        Mean correlation of matched latents, and F1 of the masks, against the simulated ones.
    """

    result: EvaluationResult
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
    # the truth is known, so that no control cell has to judge
    split(adata, axis="combination", fraction=0.5, control_fraction=1.0, seed=options.seed)
    screen = Screen(adata, "simulated screen", "perturbation", "control", "counts", None)
    register(SAMSVAE, screen)
    model = SAMSVAE(adata, seed=options.seed)
    model.train(enable_progress_bar=progress, **options.train_options)
    truth = adata.uns[_keys.UNS_TRUTH]
    unseen = sorted(adata.obs.loc[adata.obs[_keys.OBS_SPLIT] == "test", "perturbation"].astype(str).unique())
    references = {ORACLE: _best_rank(adata, truth["ate"].loc[unseen]), ADDED_TRUTH: _added(truth["ate"], unseen)}
    result = evaluate({MODEL: model}, adata, truth=truth["ate"], references=references, seed=options.seed)
    masks = model.get_treatment_masks().loc[list(truth["names"])].to_numpy()
    matching = latent_mcc(adata.obsm["truth_latent"], model.get_latent_representation())
    f1 = mask_scores(truth["masks"], masks > 0.5).f1
    return Doubles(result, len(unseen), len(truth["names"]), adata.n_obs, float(matching), float(f1))


def _best_rank(adata: AnnData, true: pd.DataFrame) -> pd.DataFrame:
    """Reduced-rank ridge of the rank that predicts best: a bound on what choosing the rank can give."""
    seen = effects(adata, layer="counts", cells=(adata.obs[_keys.OBS_SPLIT] == "train").to_numpy())
    names = [str(name) for name in adata.uns[_keys.UNS_TRUTH]["names"]]
    design, queries = dosage_matrix(seen.obs_names, names), dosage_matrix(true.index, names)
    fits = [
        low_rank_ridge(design, seen.X, rank=rank, standard_errors=seen.layers[_keys.LAYER_SE])
        for rank in range(1, min(len(names), 20) + 1)
    ]
    predictions = [np.asarray(queries @ fit.coefficients) for fit in fits]
    best = max(predictions, key=lambda prediction: effect_r2(true.to_numpy(), prediction))
    return pd.DataFrame(best, index=true.index, columns=adata.var_names)


def _added(true: pd.DataFrame, unseen: list[str]) -> pd.DataFrame:
    """Sum of the exact effects of the members: additivity without noise."""
    sums = np.stack([true.loc[name.split("+")].sum(axis=0).to_numpy() for name in unseen])
    return pd.DataFrame(sums, index=unseen, columns=true.columns)
