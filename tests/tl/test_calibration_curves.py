"""Calibration of effects: a right model is calibrated, a wrong one is told, cells that trained do not judge."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import perturbia as pb
from perturbia.errors import ControlError, LabelError, LeakageError, NotTrainedError, ScaleError, SplitError
from perturbia.metrics import crps_gaussian
from perturbia.stats import log1p_cp10k
from perturbia.tl import Calibration, calibration, effects
from perturbia.tl._effect_freedom import freedom_of_sum, gaussian_equivalent, welch_freedom
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


def welch(adata):
    """Degrees of freedom of the held-out effects, as the t test of scipy has them."""
    held = adata[adata.obs["pb_split"] == "test"]
    logs, labels = log1p_cp10k(held.X).toarray(), held.obs["perturbation"].to_numpy()
    rows = [
        stats.ttest_ind(logs[labels == name], logs[labels == "control"], equal_var=False).df for name in names_of(held)
    ]
    return np.stack(rows)


def names_of(adata):
    return sorted(set(adata.obs["perturbation"]) - {"control"})


def test_numbers_are_those_written_out(screen, empirical):
    result = calibration(empirical)
    observed, mean, stated, noise = by_hand(empirical, screen)
    truth, total = np.asarray(observed.X, float), np.hypot(stated, noise)
    z, of_noise = np.abs(truth - mean) / total, welch(screen)
    freedom = of_noise * (total / noise) ** 4  # what is stated counts as known
    for _, row in result.coverage.iterrows():
        limit, own = (stats.t.ppf((1 + row["nominal"]) / 2, nu) for nu in (freedom, of_noise))
        assert row["empirical"] == pytest.approx((z <= limit).mean(), abs=1e-3)
        assert row["noise_only"] == pytest.approx((np.abs(truth - mean) <= own * noise).mean(), abs=1e-3)
        assert row["lower"] <= row["empirical"] <= row["upper"]
    table = result.perturbations
    assert list(table.index) == list(observed.obs_names)
    np.testing.assert_allclose(table["rmse"], np.sqrt(((truth - mean) ** 2).mean(1)), rtol=1e-4)
    np.testing.assert_allclose(table["crps"], crps_gaussian(truth, mean, total, per_perturbation=True), rtol=1e-4)
    np.testing.assert_allclose(table["coverage_90"], (z <= stats.t.ppf(0.95, freedom)).mean(1), atol=1e-3)
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


def gaussian_screen(n_test, n_test_controls, *, seed):
    """Training cells by which the effects are all but known, few test cells."""
    rng = np.random.default_rng(seed)
    size = np.array([[2000, n_test_controls], *[[1000, n_test]] * 12])
    group = np.repeat(np.arange(13), size.sum(1))
    part = np.concatenate([np.repeat(["train", "test"], pair) for pair in size])
    effect = np.r_[np.zeros((1, 40)), 0.3 * rng.normal(size=(12, 40))]
    obs = pd.DataFrame(
        {"perturbation": np.r_[["control"], [f"P{i:02d}" for i in range(12)]][group], "pb_split": part},
        index=np.arange(len(group)).astype(str),
    )
    return ad.AnnData((effect[group] + rng.normal(size=(len(group), 40))).astype(np.float32), obs=obs)


@pytest.mark.parametrize(("n_test", "n_test_controls"), [(5, 400), (10, 400), (40, 10)])
def test_few_cells_do_not_make_a_right_model_overconfident(n_test, n_test_controls):
    rows = []
    for seed in range(4):
        model = fit("Empirical", gaussian_screen(n_test, n_test_controls, seed=seed), scale="embedding")
        rows.append(calibration(model, min_cells=2).coverage.set_index("nominal")["empirical"])
    coverage = pd.concat(rows, axis=1).mean(axis=1)
    # the controls are shared: that part of the error does not average out over perturbations
    slack = 0.02 if n_test_controls == 400 else 0.03
    assert coverage[0.9] == pytest.approx(0.9, abs=slack)
    assert coverage[0.99] == pytest.approx(0.99, abs=0.01)


def test_degrees_of_freedom_within_batches():
    """Written out for one perturbation in two batches, with controls in both and in one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    dosage = sparse.csr_matrix((np.arange(40) < 12).astype(np.float32)[:, None])
    batch = np.r_[np.repeat([0, 1], 6), np.repeat([0, 1], [20, 8])]
    found, freedom = welch_freedom(X, dosage, batch)
    assert found.shape == (1, 1)
    own = sum(6 * X[:12][batch[:12] == b].var(0, ddof=1) for b in (0, 1)) / 12**2
    control = [0.25 * X[12:][batch[12:] == b].var(0, ddof=1) / n for b, n in ((0, 20), (1, 8))]
    by_hand = (own + sum(control)) ** 2 / (own**2 / 10 + control[0] ** 2 / 19 + control[1] ** 2 / 7)
    np.testing.assert_allclose(freedom[0], by_hand, rtol=1e-5)
    constant = welch_freedom(np.ones((40, 3)), dosage, batch)[1]
    assert np.isfinite(constant).all()


def test_errors_without_spread_are_inside_every_interval_or_none():
    z = gaussian_equivalent(np.array([0.0, -1.0, 2.0]), np.array([0.0, 0.0, 1.0]), np.array([3.0, 3.0, 1e6]))
    np.testing.assert_allclose(z, [0.0, 38.0, 2.0], atol=1e-4)
    known = freedom_of_sum(np.array([4.0, 4.0, 4.0]), np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0]))
    np.testing.assert_allclose(known, [4.0, 16.0, 1e6])


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
    assert "error of the control means, which they share, is not in it" in repr(result)
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


def test_the_registered_batch_is_used_as_in_evaluate():
    adata = make_screen(n_batches=3)
    model = fit("JamesStein", adata, batch_key="batch")
    by_default, by_name = calibration(model), calibration(model, batch_key="batch")
    pd.testing.assert_frame_equal(by_default.perturbations, by_name.perturbations)
    held = np.flatnonzero(adata.obs["pb_split"] == "test")
    observed = effects(adata, cells=held, batch_key="batch", min_cells=10)
    np.testing.assert_allclose(
        by_default.perturbations["se_observed"], np.sqrt((observed.layers["se"].astype(float) ** 2).mean(1)), rtol=1e-5
    )
    judged = pb.tl.evaluate(model, baselines=None, protocol=["rmse"], min_cells=10)
    np.testing.assert_allclose(judged.values("rmse")["JamesStein"], by_default.perturbations["rmse"], rtol=1e-4)
    with pytest.raises(LabelError, match="batch_key: expected a complete column"):
        calibration(model, batch_key="nowhere")
