"""What speaks against matches is found where it is, and not where it is not."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import perturbia as pb
from perturbia.errors import NotTrainedError, SplitError
from perturbia.model.alignment._alignment_diagnostics import LARGE
from perturbia.model.alignment._classification_scores import class_auroc, classification_scores

ROLES = ("source", "target")
QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}


def with_scores(model, monkeypatch, change=lambda role, scores: scores) -> None:
    """Let the classifiers of a model be perfect: their scores are the true log-ratios, changed."""
    true = {role: change(role, model.adata[role].obsm["truth_log_ratio"].astype(float)) for role in ROLES}
    monkeypatch.setattr(model, "get_propensity", lambda role, **_: true[role])


def noise(role: str, scores: np.ndarray) -> np.ndarray:
    return scores + (role == "target") * np.random.default_rng(0).normal(0, 2.5, scores.shape)


def shift(role: str, scores: np.ndarray) -> np.ndarray:
    return scores + (role == "target") * 3 * np.eye(scores.shape[1])[0]


def test_the_table(fit, simulate):
    mdata = simulate(n_cells=30)
    model = fit(mdata)
    plain = model.diagnose(n_permutations=50)
    assert plain.index.tolist() == model.labels
    tests = ["energy_distance", "relative_distance", "p_value", "p_adjusted"]
    assert plain.columns.tolist() == ["n_source", "n_target", "auroc_source", "auroc_target", *tests]
    assert (plain[["n_source", "n_target"]] == 30).all(axis=None)
    cells, codes = model.splits_["source"][1], model._codes_of("source")
    logits = model.get_propensity("source", kind="logits")[cells]
    np.testing.assert_allclose(plain["auroc_source"], class_auroc(logits, codes[cells], 5))
    coupling = model.align(epsilon=0.1)
    table = model.diagnose(n_permutations=50)
    pd.testing.assert_frame_equal(table[plain.columns], plain)
    extra = ["n_effective", "max_hubness", "iterations", "marginal_error", "converged", "kept_mass"]
    assert table.columns.tolist()[len(plain.columns) :] == extra
    rows = coupling.rows().toarray()
    effective = np.exp(-(rows * np.log(np.where(rows > 0, rows, 1))).sum(1))
    expected = [np.median(effective[codes == code]) for code in range(5)]
    np.testing.assert_allclose(table["n_effective"], expected, rtol=1e-4)
    drawn = [model.diagnose(n_permutations=20, max_cells=10, seed=seed)["energy_distance"] for seed in (0, 0, 1)]
    assert drawn[0].equals(drawn[1])
    assert drawn[0].ne(drawn[2]).all()
    pd.testing.assert_frame_equal(model.diagnose(n_permutations=50), table)


def test_no_alarm_where_both_modalities_have_one_distribution(fit, simulate, monkeypatch):
    """Independent cells with perfect scores: 16 data sets of five labels, at a false discovery rate of 0.05."""
    alarms, p_values = 0, []
    for seed in range(16):
        model = fit(simulate(paired=False, n_cells=25, seed=seed), max_epochs=1)
        with_scores(model, monkeypatch)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = model.diagnose(n_permutations=199)
        alarms += (table["p_adjusted"] < 0.05).any()
        p_values += table["p_value"].tolist()
        assert table["relative_distance"].abs().max() < 0.1
    assert alarms <= binom.ppf(0.999, 16, 0.05)
    low, high = binom.ppf([0.001, 0.999], len(p_values), 0.2)
    assert low <= (np.array(p_values) <= 0.2).sum() <= high


@pytest.mark.parametrize("violation", [noise, shift])
def test_alarm_where_one_modality_is_noisier_or_moved(fit, simulate, monkeypatch, violation):
    model = fit(simulate(n_cells=40))
    with_scores(model, monkeypatch)
    assert (model.diagnose(n_permutations=199)["p_adjusted"] > 0.5).all()  # twins
    with_scores(model, monkeypatch, violation)
    with pytest.warns(UserWarning, match="scores of 5 of 5 perturbations are distributed differently"):
        table = model.diagnose(n_permutations=199)
    assert (table["p_adjusted"] < 0.05).all()
    assert (table["relative_distance"] > LARGE).all()


def test_a_difference_that_is_significant_and_small_is_no_alarm(fit, simulate, monkeypatch):
    """Two networks never have the same skill: with many cells that shows, and says little."""
    model = fit(simulate(n_cells=200))
    with_scores(model, monkeypatch, lambda role, scores: scores * (1.25 if role == "target" else 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = model.diagnose(n_permutations=199)
    assert (table["p_adjusted"] < 0.05).any()
    assert table["relative_distance"].max() < LARGE


def test_batches_that_tell_the_treatment_are_an_alarm(fit, simulate):
    """Every label has batches of its own in the target, which shift its noise: the classifier reads those."""
    model = fit(simulate(n_cells=60, batch_leak=1.0), max_epochs=40)
    assert model.classification_.loc["target", "accuracy"] > model.classification_.loc["source", "accuracy"] + 0.1
    with pytest.warns(UserWarning, match="distributed differently"):
        assert (model.diagnose(n_permutations=99)["p_adjusted"] < 0.05).all()


def test_hubs_and_labels_read_off_one_modality_are_said(fit, simulate):
    mdata = simulate(n_cells=40)
    model = fit(mdata)
    model.align()
    mdata["target"].obs.loc[mdata["target"].obs_names[0], "coupling_hubness"] = 25.0
    own = mdata["target"].obs["perturbation"].iloc[0]
    model.classification_.loc["target", "accuracy"] = 0.99
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = model.diagnose(n_permutations=20)
    said = " ".join(str(one.message) for one in caught)
    assert table.loc[own, "max_hubness"] == 25
    assert f"more than 10 times their share in '{own}'." in said
    assert "'target' names the label nearly always, 'source' does not" in said


def test_an_alignment_of_others_does_not_count(fit, simulate):
    """A coupling under the key that joins the modalities the other way round has other columns."""
    mdata = simulate(n_cells=12)
    model = fit(mdata)
    pb.tl.align(mdata, use_rep="truth_log_ratio", modalities={"source": "target", "target": "source"})
    assert "n_effective" not in model.diagnose(n_permutations=20)
    model.align(key_added="psa")
    assert "n_effective" in model.diagnose(key="psa", n_permutations=20)
    with pytest.raises(ValueError, match="max_cells"):
        model.diagnose(max_cells=0)


# batches ----------------------------------------------------------------------------------------------------------


def test_folds_of_batches_show_a_shortcut(fit, simulate):
    mdata = simulate(n_cells=40, batch_leak=1.0)
    mdata["target"].obs["well"] = np.random.default_rng(0).choice(["w1", "w2", "w3", "w4"], mdata["target"].n_obs)
    model = fit(mdata)
    before = {role: model.get_propensity(role) for role in ROLES}
    options = {"n_folds": 2, "max_epochs": 30, **QUIET}
    table = model.check_batches("batch", **options)
    assert table.index.tolist() == [("target", "random"), ("target", "batches")]  # the source has no batches
    assert table.loc[("target", "random"), "accuracy"] > table.loc[("target", "batches"), "accuracy"] + 0.3
    assert table["n_cells"].tolist() == [200, 200]
    harmless = model.check_batches("well", **options)["accuracy"]
    assert harmless[("target", "random")] == pytest.approx(harmless[("target", "batches")], abs=0.1)
    for role in ROLES:
        np.testing.assert_array_equal(model.get_propensity(role), before[role])
    with pytest.raises(SplitError, match="n_folds=5 groups, got 4"):
        model.check_batches("batch", n_folds=5)


def test_batches_of_both_modalities_by_registration(fit, simulate):
    mdata = simulate(n_cells=12)
    for role in ROLES:
        mdata[role].obs["plate"] = np.resize(["p1", "p2", "p3"], mdata[role].n_obs)
    model = fit(mdata, setup={"batch_key": "plate"})
    table = model.check_batches(max_epochs=1)
    assert table.index.tolist() == [(role, folds) for role in ROLES for folds in ("random", "batches")]
    pd.testing.assert_frame_equal(table, model.check_batches("plate", max_epochs=1))
    bare = fit(simulate())
    with pytest.raises(KeyError, match="no batch_key was registered"):
        bare.check_batches()
    with pytest.raises(KeyError, match="got 'plate'"):
        bare.check_batches("plate")
    with pytest.raises(ValueError, match="n_folds"):
        bare.check_batches("perturbation", n_folds=0)


def test_nothing_before_training(simulate):
    mdata = simulate()
    pb.model.PropensityAligner.setup_mudata(mdata)
    with pytest.raises(NotTrainedError):
        pb.model.PropensityAligner(mdata, n_hidden=4).check_batches("batch")


# scores of classifiers --------------------------------------------------------------------------------------------


def test_scores_of_a_classifier_by_hand():
    probability = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1]])
    codes = np.array([0, 0, 1, 1])
    scores = classification_scores(np.log(probability) + 7, codes, 3)
    assert scores["cross_entropy"] == pytest.approx(-np.log([0.7, 0.4, 0.6, 0.7]).mean())
    assert scores["chance"] == pytest.approx(np.log(2))
    assert (scores["accuracy"], scores["majority"], scores["n_cells"]) == (0.75, 0.5, 4)
    assert scores["auroc"] == 1.0
    # with a cell in each bin: confidence against right or wrong
    assert scores["calibration_error"] == pytest.approx(np.mean([0.3, 0.5, 0.4, 0.3]))
    areas = class_auroc(np.log(probability), codes, 3)
    assert areas[:2].tolist() == [1, 1]
    assert np.isnan(areas[2])
    assert np.isnan(classification_scores(np.zeros((3, 2)), np.zeros(3, int), 2)["auroc"])
