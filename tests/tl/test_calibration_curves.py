"""Calibration of effects: a right model is calibrated, a wrong one is told, cells that trained do not judge."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import perturbia as pb
from perturbia.errors import ControlError, LabelError, LeakageError, NotTrainedError, ScaleError, SplitError
from perturbia.metrics import crps_gaussian
from perturbia.tl import Calibration, calibration, effects
from perturbia.tl.calibration_curves import _selection


def make_screen(**changes):
    options = {
        "n_perturbations": 12,
        "n_combinations": 3,
        "n_genes": 60,
        "n_latent": 3,
        "cells_per_perturbation": 80,
        "n_controls": 500,
        "n_truth_cells": 20,
        **changes,
    }
    out = pb.datasets.simulate_screen(**options)
    pb.tl.split(out, axis="random", fraction=0.5, valid=0.0, seed=1)
    return out


def fit(name, adata, **setup):
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, **{"perturbation_key": "perturbation", **setup})
    model = cls(adata)
    model.train()
    return model


@pytest.fixture(scope="module")
def screen():
    return make_screen()


@pytest.fixture(scope="module")
def empirical(screen):
    return fit("Empirical", screen)


def by_hand(model, adata):
    """Observed effects, predictions and the two parts of their uncertainty."""
    held = np.flatnonzero(adata.obs["pb_split"] == "test")
    observed = effects(adata, cells=held, min_cells=10)
    predicted = model.estimate_ate(list(observed.obs_names))
    stated = np.hypot(predicted.layers["sd"].astype(float), predicted.layers["se"])
    return observed, np.asarray(predicted.X, float), stated, observed.layers["se"].astype(float)


def test_numbers_are_those_written_out(screen, empirical):
    result = calibration(empirical)
    observed, mean, stated, noise = by_hand(empirical, screen)
    truth, total = np.asarray(observed.X, float), np.hypot(stated, noise)
    z = np.abs(truth - mean) / total
    for _, row in result.coverage.iterrows():
        limit = stats.norm.ppf((1 + row["nominal"]) / 2)
        assert row["empirical"] == pytest.approx((z <= limit).mean(), abs=1e-3)
        assert row["noise_only"] == pytest.approx((np.abs(truth - mean) <= limit * noise).mean(), abs=1e-3)
        assert row["lower"] <= row["empirical"] <= row["upper"]
    table = result.perturbations
    assert list(table.index) == list(observed.obs_names)
    np.testing.assert_allclose(table["rmse"], np.sqrt(((truth - mean) ** 2).mean(1)), rtol=1e-4)
    np.testing.assert_allclose(table["crps"], crps_gaussian(truth, mean, total, per_perturbation=True), rtol=1e-4)
    np.testing.assert_allclose(table["coverage_90"], (z <= 1.6448536).mean(1), atol=1e-3)
    np.testing.assert_allclose(table["sd"], np.sqrt((stated**2).mean(1)), rtol=1e-4)
    np.testing.assert_allclose(table["se_observed"], np.sqrt((noise**2).mean(1)), rtol=1e-4)
    np.testing.assert_array_equal(table["n_cells"], observed.obs["n_cells"])
    assert result.ranks["entries"] == pytest.approx(
        stats.spearmanr(np.abs(truth - mean).ravel(), stated.ravel()).statistic, abs=1e-3
    )
    assert result.ranks["between"] == pytest.approx(stats.spearmanr(table["rmse"], table["sd"]).statistic, abs=1e-6)


def test_means_of_other_cells_are_calibrated_and_no_effect_is_not(screen, empirical):
    """The empirical effect differs from the held-out one by the two sampling errors and by nothing else."""
    right = calibration(empirical).coverage
    assert np.abs(right["empirical"] - right["nominal"]).max() < 0.05
    # half of the variance of the difference belongs to the training cells
    assert right.set_index("nominal").loc[0.9, "noise_only"] < 0.85
    wrong = calibration(fit("NoChange", make_screen())).coverage.set_index("nominal")
    assert wrong.loc[0.9, "empirical"] < 0.75
    pd.testing.assert_series_equal(wrong["empirical"], wrong["noise_only"], check_names=False)


def test_a_model_that_states_nothing_ranks_nothing():
    result = calibration(fit("NoChange", make_screen(n_perturbations=4)))
    assert (result.ranks == 0).all()
    entries = result.selection.query("unit == 'entry'")
    np.testing.assert_allclose(entries["rmse"], entries["rmse"].iloc[0])
    assert (entries["best"] <= entries["rmse"] + 1e-12).all()


def test_selection_keeps_the_most_certain():
    rng = np.random.default_rng(0)
    error, stated, noise = rng.normal(size=200), rng.random(200), rng.random(200)
    out = _selection("entry", error**2, stated, noise**2)
    order = np.argsort(stated)
    for _, row in out.iterrows():
        n = round(row["kept"] * 200)
        assert row["rmse"] == pytest.approx(np.sqrt((error[order[:n]] ** 2).mean()))
        assert row["noise"] == pytest.approx(np.sqrt((noise[order[:n]] ** 2).mean()))
        assert row["best"] == pytest.approx(np.sqrt((np.sort(error**2)[:n]).mean()))
    assert out["kept"].iloc[-1] == 1.0
    # the equally certain are taken in equal shares, in whatever order they come
    coarse = np.round(stated, 1)
    shuffled = rng.permutation(200)
    again = _selection("entry", error[shuffled] ** 2, coarse[shuffled], noise[shuffled] ** 2)
    np.testing.assert_allclose(_selection("entry", error**2, coarse, noise**2)["rmse"], again["rmse"])
    assert len(_selection("perturbation", error[:3] ** 2, stated[:3], noise[:3] ** 2)) == 3


def test_any_way_to_register_gives_the_same(screen, empirical):
    expected = calibration(empirical)
    other = screen[:, ::-1].copy()
    names = list(empirical.perturbations)
    other.obsm["hot"] = pd.DataFrame(
        [[float(name in label.split("+")) for name in names] for label in other.obs["perturbation"]],
        index=other.obs_names,
        columns=names,
    )
    other.layers["raw"] = other.X.toarray()
    other.X = None
    model = fit("Empirical", other, layer="raw", perturbation_key=None, perturbation_obsm_key="hot")
    result = calibration(model)
    pd.testing.assert_frame_equal(result.perturbations, expected.perturbations, rtol=1e-3)
    # new data with features in another order are read by name
    turned = calibration(model, other[:, ::-1].copy())
    pd.testing.assert_frame_equal(turned.perturbations, expected.perturbations, rtol=1e-3)


def test_repr_and_repeatability(empirical):
    result = calibration(empirical, perturbations=["P01", "P03"], levels=[0.5, 0.9])
    assert isinstance(result, Calibration)
    assert list(result.perturbations.index) == ["P01", "P03"]
    assert "90%" in repr(result)
    assert "Empirical" in repr(result)
    assert "<table" in result._repr_html_()
    pd.testing.assert_frame_equal(
        result.coverage, calibration(empirical, perturbations=["P01", "P03"], levels=[0.5, 0.9]).coverage
    )
    alone = calibration(empirical, perturbations=["P01"])
    assert alone.coverage[["lower", "upper"]].isna().all(axis=None)
    assert np.isnan(alone.ranks["between"])


def test_a_variational_model_with_its_draws():
    adata = make_screen(n_perturbations=4, n_combinations=1, n_genes=30)
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", batch_key="batch")
    model = pb.model.SAMSVAE(adata, n_latent=3, n_hidden=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_steps=60, enable_progress_bar=False, logger=False, accelerator="cpu")
    result = calibration(model, batch_key="batch", estimate_kwargs={"n_draws": 20, "n_cells": 50})
    assert (result.perturbations["sd"] > 0).all()
    assert result.scale == "log1p_cp10k"
    with pytest.raises(ValueError, match="scale"):
        calibration(model, estimate_kwargs={"scale": "counts"})


def test_cells_that_trained_do_not_judge(screen, empirical):
    seen = np.flatnonzero(screen.obs["pb_split"] == "train")
    with pytest.raises(LeakageError, match="trained on"):
        calibration(empirical, indices=seen)
    with pytest.raises(LeakageError, match="trained on"):
        calibration(empirical, screen.copy(), indices=seen)
    held = np.flatnonzero(screen.obs["pb_split"] == "test")
    pd.testing.assert_frame_equal(
        calibration(empirical, indices=held).perturbations, calibration(empirical).perturbations
    )


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"levels": [0.0, 0.5]}, ValueError, "levels"),
        ({"levels": []}, ValueError, "levels"),
        ({"split": "train"}, ValueError, "split"),
        ({"split": "valid"}, SplitError, "valid"),
        ({"batch_key": "plate"}, LabelError, "batch_key"),
        ({"min_cells": 10**4}, LabelError, "min_cells"),
        ({"perturbations": ["P01+P02+P03"]}, (LabelError, ValueError), "P01"),
        ({"perturbations": ["nothing"]}, KeyError, "nothing"),
        ({"indices": []}, ValueError, "indices"),
    ],
)
def test_bad_arguments(empirical, arguments, error, match):
    with pytest.raises(error, match=match):
        calibration(empirical, **arguments)


def test_what_is_missing_is_named(screen, empirical):
    bare = screen.copy()
    del bare.obs["pb_split"]
    with pytest.raises(SplitError, match=r"tl\.split"):
        calibration(empirical, bare)
    perturbed = np.flatnonzero((screen.obs["pb_split"] == "test") & (screen.obs["perturbation"] != "control"))
    with pytest.raises(ControlError):
        calibration(empirical, indices=perturbed)
    fractions = screen.copy()
    fractions.X = fractions.X * 0.5
    with pytest.raises(ScaleError):
        calibration(empirical, fractions)
    pb.model.Empirical.setup_anndata(bare, perturbation_key="perturbation")
    with pytest.raises(NotTrainedError):
        calibration(pb.model.Empirical(bare))
