"""Differential expression against scvi-tools' own function, enumeration of masks, and simulated truth."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from scvi.model._utils import scrna_raw_counts_properties
from scvi.model.base._de_core import _de_core
from sklearn.metrics import roc_auc_score

import perturbia as pb
from perturbia.errors import (
    ControlError,
    LabelError,
    NotTrainedError,
    ScaleError,
    UnknownPerturbation,
    UnsupportedQuery,
)

from .conftest import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from perturbia.model import SAMSVAE

COLUMNS = ["proba_de", "proba_not_de", "bayes_factor", "scale1", "scale2", "pseudocounts", "delta", "lfc_mean"]
QUICK = {"n_samples_overall": 400}


def by_scvi_tools(model: SAMSVAE, seed: int = 0, **arguments: object) -> pd.DataFrame:
    """`RNASeqMixin.differential_expression` with the seeds of our two sides."""
    sides = np.random.SeedSequence(seed).generate_state(2).tolist()
    calls = iter(range(10**6))
    n_batches = 1 if not arguments.get("batch_correction") else 2

    def model_fn(adata: AnnData, **options: object) -> np.ndarray:
        side = next(calls) // n_batches % 2
        return model.get_normalized_expression(adata, return_numpy=True, seed=sides[side], **options)

    defaults = {
        "groupby": None,
        "group1": None,
        "group2": None,
        "idx1": None,
        "idx2": None,
        "mode": "change",
        "batchid1": None,
        "batchid2": None,
        "delta": 0.25,
        "batch_correction": False,
    }
    adata = model.adata
    found = _de_core(
        adata_manager=model.adata_manager,
        model_fn=model_fn,
        representation_fn=None,
        all_stats=True,
        all_stats_fn=scrna_raw_counts_properties,
        col_names=adata.var_names,
        fdr=0.05,
        silent=True,
        **{**defaults, **arguments},
        **QUICK,
    )
    del adata.obs["_scvi_raw_norm_scaling"]
    return found


WAYS = {
    "group": {"groupby": "perturbation", "group1": "P01", "group2": "control"},
    "groups": {"groupby": "perturbation", "group1": ["P01", "P02"]},
    "all groups": {"groupby": "perturbation"},
    "masks": {"idx1": "perturbation == 'P01'", "idx2": np.arange(5, 60)},
    "vanilla": {"groupby": "batch", "group1": "batch_1", "mode": "vanilla"},
    "batches": {"groupby": "perturbation", "group1": "P01", "group2": "control", "batch_correction": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_tables_are_those_of_scvi_tools(trained: SAMSVAE, way: str) -> None:
    before = trained.adata.obs.copy()
    ours = trained.differential_expression(**WAYS[way], **QUICK)
    pd.testing.assert_frame_equal(trained.adata.obs, before)
    theirs = by_scvi_tools(trained, **WAYS[way])
    names = ["comparison", "group1", "group2"]
    if way == "masks":
        assert (ours["comparison"] == "one vs two").all()
        names = []
    order = ["comparison"] if "comparison" in theirs else []
    for table in (ours, theirs):  # scvi-tools' sort is not stable, and many genes tie
        table.insert(0, "gene", table.index)
    ours, theirs = (table.sort_values([*order, "gene"]).reset_index(drop=True) for table in (ours, theirs))
    pd.testing.assert_frame_equal(ours[list(theirs)], theirs, rtol=1e-5, check_dtype=False)
    assert set(ours) - set(theirs) == set() if names else {"comparison", "group1", "group2"}


def test_a_perturbation_is_its_cells_against_controls(trained: SAMSVAE) -> None:
    pair = next(label for label in trained.adata.obs["perturbation"].unique() if "+" in label)
    named = trained.differential_expression(perturbation="+".join(reversed(pair.split("+"))), **QUICK)
    grouped = trained.differential_expression(groupby="perturbation", group1=pair, group2="control", **QUICK)
    pd.testing.assert_frame_equal(named, grouped)
    assert set(COLUMNS) < set(named)
    assert named["proba_de"].is_monotonic_decreasing
    other = trained.differential_expression(perturbation="P01", control="P02", **QUICK)
    assert other["comparison"].unique().tolist() == ["P01 vs P02"]
    seeds = [trained.differential_expression(perturbation="P01", seed=s, **QUICK)["lfc_mean"] for s in (0, 0, 1)]
    pd.testing.assert_series_equal(*seeds[:2])
    assert not np.allclose(seeds[0].sort_index(), seeds[2].sort_index())


def test_global_generators_are_left_alone(trained: SAMSVAE) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"use_permutation": True, "m_permutation": 300, "filter_outlier_cells": True, "delta": None}
    one, same = (trained.differential_expression(perturbation="P01", **options, **QUICK) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# the same cells under two perturbations ---------------------------------------------------------------------------


def test_counterfactual_probabilities_are_sums_over_masks(screen, fit: Callable) -> None:
    """With masks alone uncertain, the probability of a fold change is a sum over them and an average over cells."""
    model = fit(screen, init={"n_latent": 2}, max_steps=60)
    module, effects = model.module, model.module.effects
    with torch.no_grad():
        effects.mask_logit.copy_(torch.randn(effects.mask_logit.shape, generator=torch.Generator().manual_seed(0)))
        effects.mean.copy_(torch.randn(effects.mean.shape, generator=torch.Generator().manual_seed(1)))
        effects.log_sd.fill_(-12.0)
        module.encoder.log_variance_head.weight.zero_()
        module.encoder.log_variance_head.bias.fill_(-12.0)
    cells = np.flatnonzero(screen.obs["perturbation"] == "control")
    basal = torch.from_numpy(model.get_latent_representation(indices=cells))
    batch = torch.zeros(len(cells), 1, dtype=torch.long)
    up, down, mean = 0.0, 0.0, 0.0
    with torch.inference_mode():
        control = module.generative(basal, torch.ones(len(cells), 1), batch)["px"].scale.numpy()
        for bits in product([0.0, 1.0], repeat=4):
            mask = torch.tensor(bits).reshape(2, 2)
            weight = float(torch.where(mask > 0, effects.inclusion[:2], 1 - effects.inclusion[:2]).prod())
            z = basal + (mask * effects.mean[:2]).sum(0)
            lfc = np.log2(module.generative(z, torch.ones(len(cells), 1), batch)["px"].scale.numpy()) - np.log2(control)
            up, down = up + weight * (lfc >= 0.25).mean(0), down + weight * (lfc < -0.25).mean(0)
            mean = mean + weight * lfc.mean(0)
    n = 4000
    table = model.differential_expression(
        perturbation="P01+P02", counterfactual=True, pseudocounts=1e-9, n_samples_overall=n
    ).loc[screen.var_names]
    expected = np.maximum(up, down)
    # the guide's spread of 0.0025 moves a fold change across the threshold now and then
    assert np.abs(table["proba_de"] - expected).max() < 4.5 * 0.5 / n**0.5 + 0.02
    assert np.abs(table["lfc_mean"] - mean).max() < 5 * table["lfc_std"].max() / n**0.5 + 0.01
    both = model.differential_expression(
        perturbation="P01+P02", counterfactual=True, pseudocounts=1e-9, test_mode="two", n_samples_overall=n
    ).loc[screen.var_names]
    assert np.abs(both["proba_de"] - (up + down)).max() < 4.5 * 0.5 / n**0.5 + 0.02


def test_what_both_sides_share_cancels(trained: SAMSVAE) -> None:
    same = trained.differential_expression(perturbation="P01", control="P01", counterfactual=True, **QUICK)
    assert (same[["lfc_min", "lfc_max", "proba_de"]] == 0).all(None)
    nothing = trained.differential_expression(perturbation="control", counterfactual=True, **QUICK)
    assert (nothing[["lfc_min", "lfc_max"]] == 0).all(None)
    # what P02 does beyond P01 is P02 alone but for the bend of the decoder, and P01's uncertainty is on both sides
    one = trained.differential_expression(perturbation="P01", control="control", counterfactual=True, **QUICK)
    back = trained.differential_expression(perturbation="control", control="P01", counterfactual=True, **QUICK)
    np.testing.assert_allclose(back.loc[one.index, "lfc_mean"], -one["lfc_mean"], rtol=1e-3, atol=1e-5)


def test_composition_plays_no_part(trained: SAMSVAE) -> None:
    """P01's cells from one batch alone: observed means differ by batch, counterfactual ones do not."""
    obs = trained.adata.obs
    keep = ~((obs["perturbation"] == "P01") & (obs["batch"] == "batch_1"))
    lopsided = trained.adata[keep.to_numpy()].copy()
    whole, part = (
        trained.differential_expression(data, perturbation="P01", counterfactual=True, all_stats=False, **QUICK)
        for data in (None, lopsided)
    )
    pd.testing.assert_frame_equal(whole, part)
    none = trained.adata[(obs["perturbation"] != "P01").to_numpy()].copy()
    without = trained.differential_expression(none, perturbation="P01", counterfactual=True, **QUICK)
    assert without["raw_mean1"].isna().all()
    assert without["raw_mean2"].notna().all()
    np.testing.assert_allclose(without["lfc_mean"], whole.loc[without.index, "lfc_mean"])
    # cells of P02 as they would be under P01, and without either
    treated = trained.differential_expression(
        perturbation="P01", counterfactual=True, idx1="perturbation == 'P02'", filter_outlier_cells=True, **QUICK
    )
    assert np.corrcoef(treated["lfc_mean"], whole.loc[treated.index, "lfc_mean"])[0, 1] > 0.8
    wide = trained.differential_expression(perturbation="P01", counterfactual=True, batch_correction=True, **QUICK)
    assert np.corrcoef(wide["lfc_mean"], whole.loc[wide.index, "lfc_mean"])[0, 1] > 0.9


@pytest.fixture(scope="module")
def judged() -> tuple[SAMSVAE, pd.DataFrame]:
    """A model of a screen whose true effects are known."""
    adata = pb.datasets.simulate_screen(
        n_perturbations=8,
        n_combinations=2,
        n_genes=120,
        n_latent=4,
        mask_prob=0.3,
        cells_per_perturbation=80,
        n_controls=400,
        seed=3,
    )
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.SAMSVAE(adata, n_latent=6, n_hidden=64)
    model.train(max_steps=800, **QUIET)
    return model, adata.uns["truth"]["ate"]


@pytest.mark.parametrize("counterfactual", [False, True])
def test_true_changes_are_found(judged: tuple, *, counterfactual: bool) -> None:
    model, truth = judged
    scores, signs, n_called, n_false = [], [], 0, 0
    for label in truth.index:
        effect = truth.loc[label]
        table = model.differential_expression(perturbation=label, counterfactual=counterfactual).loc[effect.index]
        strong, none = effect.abs() > 0.3, effect.abs() < 0.05
        if strong.sum() < 5 or none.sum() < 5:
            continue
        chosen = strong | none
        scores.append(roc_auc_score(strong[chosen], table["proba_de"][chosen]))
        signs.append((np.sign(table["lfc_mean"]) == np.sign(effect))[strong].mean())
        n_called += int(table["is_de_fdr_0.05"].sum())
        n_false += int((table["is_de_fdr_0.05"] & none).sum())
    assert len(scores) >= 5
    assert np.mean(scores) > 0.9
    assert np.mean(signs) > 0.95
    assert n_false <= 0.05 * max(n_called, 20)
    if counterfactual:
        assert n_called > 100


# errors -------------------------------------------------------------------------------------------------------------

BAD = [
    ({}, ValueError, "exactly one of them, got none"),
    ({"perturbation": "P01", "groupby": "batch"}, ValueError, "got perturbation and groupby"),
    ({"counterfactual": True}, ValueError, "counterfactual: expected a perturbation"),
    ({"perturbation": "P01", "idx2": [1]}, ValueError, "idx2: expected None with perturbation"),
    ({"perturbation": "P9"}, UnknownPerturbation, "nearest"),
    ({"perturbation": "P01", "control": "P9"}, UnknownPerturbation, "nearest"),
    ({"perturbation": "P01@0.5"}, UnsupportedQuery, "expected cells with 'P01@0.5'.*counterfactual=True"),
    ({"perturbation": "P01", "control": "P01@0.5"}, ControlError, "expected cells with 'P01@0.5'"),
    ({"groupby": "clone"}, KeyError, "groupby: expected a column of obs, got 'clone'"),
    ({"groupby": "batch", "group1": "b9"}, LabelError, "expected groups of obs.'batch'., got 'b9'"),
    ({"groupby": "batch", "group1": "batch_1", "group2": "b9"}, LabelError, "got 'b9'"),
    ({"idx1": []}, ValueError, "idx1: expected at least one cell"),
    ({"idx1": "perturbation == 'nobody'"}, ValueError, "idx1: expected at least one cell"),
    ({"idx1": [0], "idx2": [10**6]}, IndexError, "idx2: expected positions below"),
    ({"idx1": np.ones(235, dtype=bool)}, ValueError, "idx2: expected cells on both sides of one vs Rest"),
    ({"perturbation": "P01", "mode": "bayes"}, ValueError, "mode: expected one of 'change', 'vanilla'"),
    ({"perturbation": "P01", "fdr_target": 5}, ValueError, "fdr_target: expected a share"),
    ({"perturbation": "P01", "weights": "importance"}, TypeError, "weights: expected one of the options"),
    ({"perturbation": "P01", "batchid1": ["batch_1"]}, ValueError, "batchid1: expected None without batch_correction"),
    ({"perturbation": "P01", "batch_correction": True, "batchid1": ["b9"]}, UnsupportedQuery, "registered batches"),
    (
        {"perturbation": "P01", "counterfactual": True, "use_permutation": True},
        ValueError,
        "use_permutation: expected False",
    ),
]


@pytest.mark.filterwarnings("ignore::perturbia.errors.ExtrapolationWarning")
@pytest.mark.parametrize(("arguments", "error", "match"), BAD)
def test_bad_input(trained: SAMSVAE, arguments: dict, error: type, match: str) -> None:
    before = trained.adata.obs.copy()
    with pytest.raises(error, match=match):
        trained.differential_expression(**arguments)
    pd.testing.assert_frame_equal(trained.adata.obs, before)


def test_other_scales_and_untrained_models(screen, fit: Callable) -> None:
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    with pytest.raises(NotTrainedError):
        pb.model.SAMSVAE(screen).differential_expression(perturbation="P01")
    logs = screen.copy()
    logs.X = np.log1p(logs.X.toarray())
    model = fit(logs, setup={"scale": "log1p_cp10k"}, init={"gene_likelihood": "normal"})
    with pytest.raises(ScaleError, match="expected a model of counts.*estimate_ate"):
        model.differential_expression(perturbation="P01")
