from __future__ import annotations

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import chi2_contingency, kstest, multivariate_normal

from perturbia.datasets import simulate_modalities
from perturbia.perturbation import as_perturbation

SMALL = {"n_cells": 10, "n_perturbations": 4, "n_latent": 3, "n_noise": 2, "n_features": (12, 8)}
MANY = {"n_cells": 4000}


def small(**changes: object) -> mudata.MuData:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return simulate_modalities(**{**SMALL, **changes})


def outputs(mdata: mudata.MuData, name: str) -> np.ndarray:
    """What the stored mixing makes of stored latents and noise."""
    adata = mdata[name]
    decoder = adata.uns["truth"]["decoder"]
    latent = adata.obsm["truth_latent"].astype(float)
    if mdata.uns["truth"]["scene"] == "interventions":
        latent = 4 * latent - 2
    hidden = np.hstack([latent, adata.obsm["truth_noise"]])
    n_layers = sum(key.startswith("layer_") for key in decoder)
    for i in range(1, n_layers):
        hidden = hidden @ decoder[f"layer_{i}"]
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    return hidden @ decoder[f"layer_{n_layers}"] / decoder["scale"]


def twins(mdata: mudata.MuData) -> np.ndarray:
    """Row of the source that is the twin of each row of the target."""
    rows = pd.Series(np.arange(mdata["source"].n_obs), index=mdata["source"].obs["pair"])
    return rows.loc[mdata["target"].obs["pair"]].to_numpy()


def share_matched(scores: dict[str, np.ndarray], mdata: mudata.MuData) -> float:
    """Share of true pairs in the best one-to-one match within treatments, by squared distance of scores."""
    found = 0
    labels = {name: mdata[name].obs["perturbation"].to_numpy() for name in scores}
    for treatment in mdata.uns["truth"]["names"]:
        source, target = (np.flatnonzero(labels[name] == treatment) for name in ("source", "target"))
        cost = cdist(scores["source"][source], scores["target"][target], "sqeuclidean")
        row, column = linear_sum_assignment(cost)
        pairs = [
            mdata[name].obs["pair"].to_numpy()[rows]
            for name, rows in (("source", source[row]), ("target", target[column]))
        ]
        found += (pairs[0] == pairs[1]).sum()
    return found / mdata["source"].n_obs


@pytest.mark.parametrize("scene", ["shifts", "interventions"])
def test_contents(scene: str) -> None:
    mdata = small(scene=scene)
    n_groups, n_latent = (5, 3) if scene == "shifts" else (12, 4)
    assert list(mdata.mod) == ["source", "target"]
    assert mdata.shape == (20 * n_groups, 20)
    assert mdata.obs_names.is_unique
    assert mdata.var_names.is_unique
    assert mdata["source"].obs_names[0] == "source_1"
    assert mdata["target"].obs_names[-1] == f"target_{10 * n_groups}"
    truth = mdata.uns["truth"]
    assert truth["scene"] == scene
    for name, n_features in (("source", 12), ("target", 8)):
        adata = mdata[name]
        assert adata.shape == (10 * n_groups, n_features)
        assert isinstance(adata.X, np.ndarray)
        assert adata.X.dtype == np.float32
        assert list(adata.obs) == ["perturbation", "pair"]
        assert (
            list(adata.obs["perturbation"].cat.categories) == list(truth["names"]) == list(adata.uns["truth"]["names"])
        )
        assert set(adata.obs["perturbation"].value_counts()) == {10}
        assert {key: values.shape[1] for key, values in adata.obsm.items()} == {
            "truth_latent": n_latent,
            "truth_noise": 2,
            **({"truth_log_ratio": 5} if scene == "shifts" else {}),
        }
        assert {values.dtype for values in adata.obsm.values()} == {np.dtype(np.float32)}
    for label in truth["names"][scene == "shifts" :]:
        assert str(as_perturbation(label)) == label


def test_shifts_go_up_each_latent_and_then_down() -> None:
    truth = small(n_perturbations=5, effect_scale=2.0).uns["truth"]
    assert list(truth["names"]) == ["control", "P01", "P02", "P03", "P04", "P05"]
    expected = [[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2], [-2, 0, 0], [0, -2, 0]]
    np.testing.assert_array_equal(truth["effects"], expected)


def test_latents_are_normal_around_the_effects() -> None:
    mdata = small(**MANY)
    adata, truth = mdata["source"], mdata.uns["truth"]
    rest = adata.obsm["truth_latent"] - truth["effects"][adata.obs["perturbation"].cat.codes]
    for values in rest.reshape(5, 4000, 3).transpose(0, 2, 1).reshape(15, 4000):
        assert kstest(values, "norm").pvalue > 1e-4
    np.testing.assert_allclose(np.corrcoef(rest.T), np.eye(3), atol=0.04)


def test_log_ratios_are_those_of_normal_densities() -> None:
    mdata = small(n_perturbations=6)
    for adata in mdata.mod.values():
        effects = mdata.uns["truth"]["effects"]
        density = np.column_stack(
            [multivariate_normal(mean).logpdf(adata.obsm["truth_latent"].astype(float)) for mean in effects]
        )
        expected = density - density.mean(1, keepdims=True)
        np.testing.assert_allclose(adata.obsm["truth_log_ratio"], expected, atol=1e-5)


def test_log_ratios_find_the_twins_and_need_as_many_treatments_as_latents() -> None:
    """Without noise the best match is the truth; with noise of 0.3, far from it for few treatments."""
    found = {}
    for n_perturbations in (12, 2, 1):
        mdata = simulate_modalities(n_perturbations=n_perturbations)
        scores = {name: adata.obsm["truth_log_ratio"].astype(float) for name, adata in mdata.mod.items()}
        assert share_matched(scores, mdata) == 1
        rng = np.random.default_rng(0)
        noisy = {name: values + rng.normal(0, 0.3, values.shape) for name, values in scores.items()}
        found[n_perturbations] = share_matched(noisy, mdata)
    assert found[12] > 0.95
    assert found[2] < 0.2
    assert found[1] < 0.08


def test_interventions_set_a_coordinate_and_leave_the_model_else() -> None:
    mdata = small(**MANY, scene="interventions")
    adata, truth = mdata["source"], mdata.uns["truth"]
    z = adata.obsm["truth_latent"].astype(float)
    treatment = adata.obs["perturbation"].astype(str).to_numpy()
    assert len(truth["names"]) == 12
    coordinates = ["x1", "y1", "x2", "y2"]
    for name, values in zip(truth["names"], truth["values"], strict=True):
        coordinate, value = name.split("@")
        which = coordinates.index(coordinate)
        assert np.flatnonzero(~np.isnan(values)).tolist() == [which]
        assert values[which] == float(value)
        cells = z[treatment == name]
        assert (cells[:, which] == float(value)).all()
        outside = 1.25 * (cells[:, 0] ** 2 + cells[:, 1] ** 2) >= 1
        assert 0.02 < outside.mean() < 0.98
        for free in set(range(4)) - {which}:
            if free < 2:
                assert kstest(cells[:, free], "uniform", args=(0.1, 0.8)).pvalue > 1e-4
            else:
                is_low = outside if free == 2 else ~outside
                for part, lowest in ((cells[is_low, free], 0.1), (cells[~is_low, free], 0.5)):
                    assert kstest(part, "uniform", args=(lowest, 0.4)).pvalue > 1e-4


@pytest.mark.parametrize("scene", ["shifts", "interventions"])
def test_features_follow_from_the_stored_mixing_and_noise(scene: str) -> None:
    mdata = small(scene=scene, n_cells=400, noise_scale=(0.0, 0.5))
    for name, scale in (("source", 0.0), ("target", 0.5)):
        mean = mdata[name].layers["truth_mean"]
        np.testing.assert_allclose(mean, outputs(mdata, name), atol=1e-4)
        np.testing.assert_allclose(mean.std(0), 1, atol=1e-3)
        np.testing.assert_allclose((mdata[name].X - mean).std(0), scale, atol=0.04)
    both = small(noise_scale=0.5)
    assert all((adata.layers["truth_mean"] != adata.X).all() for adata in both.mod.values())


def test_features_determine_latents_and_noise() -> None:
    """Injective: on the cells themselves no direction of the input leaves all features as they are."""
    mdata = small(n_cells=1)
    for name, adata in mdata.mod.items():
        decoder = {
            key: np.asarray(value, float) for key, value in adata.uns["truth"]["decoder"].items() if key != "activation"
        }
        for row in np.hstack([adata.obsm["truth_latent"], adata.obsm["truth_noise"]]).astype(float):
            slope, hidden = np.eye(5), row
            for i in (1, 2):
                hidden, slope = hidden @ decoder[f"layer_{i}"], slope @ decoder[f"layer_{i}"]
                if i == 1:
                    gain = np.where(hidden > 0, 1, 0.2)
                    hidden, slope = hidden * gain, slope * gain
            assert np.linalg.svd(slope, compute_uv=False).min() > 0.03, name


def test_twins_share_latents_and_treatment_in_another_order() -> None:
    mdata = small()
    source, target, rows = mdata["source"], mdata["target"], twins(mdata)
    assert sorted(rows) == list(range(50))
    np.testing.assert_array_equal(target.obsm["truth_latent"], source.obsm["truth_latent"][rows])
    np.testing.assert_array_equal(target.obsm["truth_log_ratio"], source.obsm["truth_log_ratio"][rows])
    assert (target.obs["perturbation"].to_numpy() == source.obs["perturbation"].to_numpy()[rows]).all()
    assert (rows == np.arange(50)).mean() < 0.2
    own = source.obsm["truth_noise"][rows].ravel()
    assert abs(np.corrcoef(own, target.obsm["truth_noise"].ravel())[0, 1]) < 0.4


def test_cells_without_pairs_are_independent() -> None:
    mdata = small(paired=False, n_cells=1000)
    source, target = mdata["source"], mdata["target"]
    assert all("pair" not in adata.obs for adata in mdata.mod.values())
    assert not set(map(bytes, source.obsm["truth_latent"])) & set(map(bytes, target.obsm["truth_latent"]))
    means = [
        pd.DataFrame(adata.obsm["truth_latent"]).groupby(adata.obs["perturbation"].to_numpy(), observed=True).mean()
        for adata in (source, target)
    ]
    np.testing.assert_allclose(means[0], means[1], atol=0.25)


@pytest.mark.parametrize("paired", [True, False])
def test_prior_shift_thins_out_the_target(*, paired: bool) -> None:
    mdata = small(n_cells=500, prior_shift=5, paired=paired)
    assert set(mdata["source"].obs["perturbation"].value_counts()) == {500}
    sizes = np.sort(mdata["target"].obs["perturbation"].value_counts())
    np.testing.assert_array_equal(sizes, np.round([500 / 5, 500 / 5**0.75, 500 / 5**0.5, 500 / 5**0.25, 500]))
    if paired:
        rows = twins(mdata)
        assert len(set(rows)) == sizes.sum()
        np.testing.assert_array_equal(mdata["target"].obsm["truth_latent"], mdata["source"].obsm["truth_latent"][rows])
        assert mdata["source"].obs["pair"].is_unique
    equal = small(n_cells=500, paired=paired)
    np.testing.assert_array_equal(equal["source"].X, mdata["source"].X)
    assert small(n_cells=2, prior_shift=1000)["target"].obs["perturbation"].value_counts().min() == 1


def test_which_treatments_are_rare_depends_on_the_seed() -> None:
    rarest = {small(prior_shift=5, seed=i)["target"].obs["perturbation"].value_counts().idxmin() for i in range(8)}
    assert len(rarest) > 2


@pytest.mark.parametrize("leak", [0.01, 0.5, 1.0])
def test_batches_are_confounded_with_treatments_to_the_degree_asked(leak: float) -> None:
    mdata = small(n_cells=2000, batch_leak=leak)
    assert "batch" not in mdata["source"].obs
    target = mdata["target"]
    table = pd.crosstab(target.obs["perturbation"], target.obs["batch"]).to_numpy()
    own = np.array([row[i % 4] for i, row in enumerate(table)]) / 2000
    np.testing.assert_allclose(own, leak + (1 - leak) / 4, atol=0.05)
    if leak >= 0.5:
        assert chi2_contingency(table[:4]).pvalue < 1e-10
    noise = pd.DataFrame(target.obsm["truth_noise"])
    by_batch = noise.groupby(target.obs["batch"].to_numpy()).mean().to_numpy()
    assert np.abs(by_batch).max() > 1
    rest = noise.to_numpy() - by_batch[target.obs["batch"].cat.codes]
    np.testing.assert_allclose(rest.std(0), 1, atol=0.03)
    np.testing.assert_allclose(target.layers["truth_mean"], outputs(mdata, "target"), atol=1e-4)


def test_noise_tells_nothing_of_treatments_without_leak() -> None:
    clean, leaking = small(n_cells=2000), small(n_cells=2000, batch_leak=0.5)
    assert "batch" not in clean["target"].obs
    for name, adata in clean.mod.items():
        by_treatment = pd.DataFrame(adata.obsm["truth_noise"]).groupby(adata.obs["perturbation"].to_numpy()).mean()
        np.testing.assert_allclose(by_treatment, 0, atol=5 / 2000**0.5, err_msg=name)
    target = leaking["target"]
    by_treatment = pd.DataFrame(target.obsm["truth_noise"]).groupby(target.obs["perturbation"].to_numpy()).mean()
    assert by_treatment.std().max() > 0.3
    np.testing.assert_array_equal(clean["source"].X, leaking["source"].X)
    np.testing.assert_array_equal(clean["target"].obsm["truth_latent"], target.obsm["truth_latent"])


def test_modalities_mix_in_their_own_way() -> None:
    mdata = small(n_features=(12, 12), n_noise=0)
    layers = [mdata[name].uns["truth"]["decoder"]["layer_1"] for name in ("source", "target")]
    assert not np.allclose(*layers)


@pytest.mark.parametrize("scene", ["shifts", "interventions"])
def test_seeds(scene: str) -> None:
    options = {"scene": scene, "noise_scale": 0.1, "batch_leak": 0.3, "prior_shift": 2.0}
    one, same, other = (small(**options, seed=seed) for seed in (3, 3, 4))
    for name in ("source", "target"):
        np.testing.assert_array_equal(one[name].X, same[name].X)
        pd.testing.assert_frame_equal(one[name].obs, same[name].obs)
    assert not np.array_equal(one["source"].X, other["source"].X)


@pytest.mark.parametrize("scene", ["shifts", "interventions"])
def test_files(scene: str, tmp_path) -> None:
    mdata = small(scene=scene, batch_leak=0.5)
    with mudata.set_options(pull_on_update=False):
        mdata.write_h5mu(tmp_path / "modalities.h5mu")
        back = mudata.read_h5mu(tmp_path / "modalities.h5mu")
    for name, adata in mdata.mod.items():
        np.testing.assert_array_equal(back[name].X, adata.X)
        pd.testing.assert_frame_equal(back[name].obs, adata.obs)
        np.testing.assert_allclose(outputs(back, name), outputs(mdata, name))
    assert list(back.uns["truth"]["names"]) == list(mdata.uns["truth"]["names"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scene": "balls"}, "scene: expected one of 'shifts', 'interventions', got 'balls'. Choose"),
        ({"n_cells": 0}, "n_cells: expected a whole number of at least 1, got 0. Pass"),
        ({"n_latent": 2.0}, "n_latent: expected a whole number of at least 1, got 2.0"),
        ({"n_noise": -1}, "n_noise: expected a whole number of at least 0, got -1"),
        ({"n_perturbations": 7}, "n_perturbations: expected at most 6, up and down each of the 3 latents, got 7. Pass"),
        ({"n_features": 12}, "n_features: expected two whole numbers, got 12. Pass one for the source"),
        ({"n_features": (12, 8, 8)}, r"n_features: expected two whole numbers, got \(12, 8, 8\)"),
        ({"n_features": (12, True)}, "n_features: expected a whole number of at least 1, got True"),
        ({"n_features": (12, 4)}, r"n_features: expected at least the 5 latents and noise .*, got \(12, 4\). Fewer"),
        ({"scene": "interventions", "n_features": (12, 5)}, "n_features: expected at least the 6 latents and noise"),
        ({"noise_scale": -0.1}, "noise_scale: expected zero or a positive finite number, got -0.1"),
        ({"noise_scale": (0.1, np.nan)}, "noise_scale: expected zero or a positive finite number, got nan"),
        ({"noise_scale": (0.1,)}, r"noise_scale: expected one number or two, got \(0.1,\). Pass"),
        ({"effect_scale": np.inf}, "effect_scale: expected zero or a positive finite number, got inf"),
        ({"prior_shift": 0}, "prior_shift: expected a positive finite number, got 0"),
        ({"prior_shift": 0.5}, "prior_shift: expected a number of at least 1, got 0.5. Pass"),
        ({"batch_leak": 1.1}, "batch_leak: expected a number from 0 to 1, got 1.1"),
        ({"batch_leak": 0.1, "n_noise": 0}, "batch_leak: expected 0 without noise dimensions, got 0.1. Batches"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    ],
)
def test_bad_input(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(**changes)
