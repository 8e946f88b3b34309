"""Agreement with cell-eval on a pair that benchmarks/peers/cell_eval_fixture.py drew and scored with it."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from perturbia.metrics import (
    de_precision_recall_auc,
    de_recall,
    de_roc_auc,
    de_spearman_lfc,
    de_spearman_significant,
    direction_match,
    effect_correlation,
    mae,
    mse,
    overlap_at_n,
    retrieval,
)

with np.load(Path(__file__).parent / "fixtures" / "cell_eval_agreement.npz") as stored:
    PAIR = dict(stored)

MEANS = PAIR["real_mean"], PAIR["pred_mean"]
EFFECTS = tuple(PAIR[f"{side}_mean"] - PAIR[f"{side}_control"] for side in ("real", "pred"))
LFC, FDR = ((PAIR[f"real_{kind}"], PAIR[f"pred_{kind}"]) for kind in ("lfc", "fdr"))
TABLES = LFC[0], FDR[0], LFC[1], FDR[1]

pds = partial(retrieval, *EFFECTS, normalize="vcc", per_perturbation=True)
overlap = partial(overlap_at_n, *TABLES, per_perturbation=True)
OURS = {
    "mae": lambda: mae(*MEANS, per_perturbation=True),
    "mse": lambda: mse(*MEANS, per_perturbation=True),
    "mae_delta": lambda: mae(*EFFECTS, per_perturbation=True),
    "pearson_delta": lambda: effect_correlation(*EFFECTS, per_perturbation=True),
    "discrimination_score_l1": lambda: pds(metric="l1", exclude=PAIR["exclude"]),
    "discrimination_score_l2": lambda: pds(metric="l2", exclude=PAIR["exclude"]),
    "discrimination_score_cosine": lambda: pds(metric="cosine", exclude=PAIR["exclude"]),
    "overlap_at_N": overlap,
    "overlap_at_5": lambda: overlap(n=5),
    "precision_at_N": lambda: overlap(size="prediction"),
    "precision_at_5": lambda: overlap(n=5, size="prediction"),
    "de_direction_match": lambda: direction_match(*LFC, significant=FDR[0] < 0.05, per_perturbation=True),
    "de_spearman_lfc_sig": lambda: de_spearman_lfc(LFC[0], FDR[0], LFC[1], per_perturbation=True),
    "de_sig_genes_recall": lambda: de_recall(*FDR, per_perturbation=True),
    "pr_auc": lambda: de_precision_recall_auc(*FDR, per_perturbation=True),
    "roc_auc": lambda: de_roc_auc(*FDR, per_perturbation=True),
}


def test_every_stored_score_is_compared():
    assert {name.removeprefix("score_") for name in PAIR if name.startswith("score_")} == set(OURS)
    assert str(PAIR["cell_eval"]) == "0.8.2"


@pytest.mark.parametrize("name", list(OURS))
def test_agrees_with_cell_eval(name):
    theirs = PAIR[f"score_{name}"]
    assert np.nanstd(theirs) > 0.01  # a score that could be wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # perturbations without significant genes
        ours = OURS[name]()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_number_of_significant_genes_agrees_with_cell_eval():
    assert de_spearman_significant(*FDR) == pytest.approx(float(PAIR["de_spearman_sig"]), abs=1e-6)
