from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import ControlError, ScaleError, SplitError, UnsupportedQuery
from perturbia.model.baseline._closed_form_module import ClosedFormModule
from perturbia.stats import effects_against, group_means, log1p_cp10k

NAMES = (
    "NoChange",
    "Mean",
    "MeanSameOrder",
    "Empirical",
    "JamesStein",
    "Additive",
    "MatchingMean",
    "MaxEffect",
    "Ridge",
    "LowRank",
)


def make(labels: list[str], *, seed: int = 0, n_genes: int = 6, **obs: Any) -> ad.AnnData:
    counts = np.random.default_rng(seed).poisson(5, (len(labels), n_genes)).astype(np.float32) + 1
    index = [f"cell{i}" for i in range(len(labels))]
    return ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame({"perturbation": labels, **obs}, index=index))


def fit(name: str, adata: ad.AnnData, *, init: dict | None = None, **setup: Any) -> Any:
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, perturbation_key="perturbation", **setup)
    model = cls(adata, **(init or {}))
    model.train()
    return model


LABELS = ["control"] * 8 + ["A"] * 6 + ["B"] * 7 + ["C"] * 5 + ["A+B"] * 4


@pytest.fixture(scope="module")
def measured() -> dict[str, np.ndarray]:
    """Effects by an independent route."""
    adata = make(LABELS)
    effects = effects_against(group_means(log1p_cp10k(adata.X), LABELS), reference="control")
    return dict(zip(effects.groups, effects.effects, strict=True))


# the formula of each ---------------------------------------------------------------------------------------------


def ates(name: str, queries: list[str], **init: Any) -> np.ndarray:
    return fit(name, make(LABELS), init=init).estimate_ate(queries).X


def test_no_change_is_zero() -> None:
    assert not ates("NoChange", ["A", "A+C", "B@3"]).any()


def test_mean_counts_perturbations_alike(measured) -> None:
    expected = np.mean([measured[label] for label in ("A", "B", "C", "A+B")], axis=0)
    for row in ates("Mean", ["A", "A+C", "B@3"]):
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_mean_may_count_cells(measured) -> None:
    cells = {"A": 6, "B": 7, "C": 5, "A+B": 4}
    expected = sum(n * measured[label] for label, n in cells.items()) / 22
    for row in ates("Mean", ["A", "A+C"], weighted=True):
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)
    assert "weighted" in repr(fit("Mean", make(LABELS), init={"weighted": True}))
    assert not ates("Mean", ["control"], weighted=True).any()


def test_mean_same_order_keeps_orders_apart(measured) -> None:
    singles = np.mean([measured[label] for label in "ABC"], axis=0)
    expected = [singles, singles, measured["A+B"], measured["A+B"], np.zeros(6)]
    with pytest.warns(pb.errors.ExtrapolationWarning):
        found = ates("MeanSameOrder", ["A", "B@3", "B+C", "A+B+C", "control"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_mean_same_order_falls_back_on_the_nearest_lower_order() -> None:
    labels = ["control"] * 8 + ["A"] * 5 + ["A+B+C"] * 5
    one, two, three = fit("MeanSameOrder", make(labels)).estimate_ate(["B", "A+C", "A+B+C"]).X
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(two, three)
    without_singles = fit("MeanSameOrder", make(["control"] * 8 + ["A+B"] * 5 + ["B+C"] * 5))
    mean = without_singles.estimate_ate(["A+B", "B+C"]).X.mean(0)
    np.testing.assert_allclose(without_singles.estimate_ate(["A"]).X[0], mean, rtol=1e-5)


def test_max_effect_takes_the_strongest_member(measured) -> None:
    queries = ["A+B", "A+C", "B+C", "A+B+C", "B", "control"]
    expected = [
        max((measured[name] for name in query.split("+")), key=np.linalg.norm) if query != "control" else np.zeros(6)
        for query in queries
    ]
    np.testing.assert_allclose(ates("MaxEffect", queries), expected, rtol=1e-4, atol=1e-6)
    assert len({row.tobytes() for row in np.round(expected, 6)}) > 3


def test_max_effect_compares_with_the_mean_for_members_that_were_never_alone() -> None:
    labels = ["control"] * 8 + ["A"] * 30 + ["B"] * 2 + ["A+D"] * 4
    adata = make(labels)
    effects = effects_against(group_means(log1p_cp10k(adata.X), labels), reference="control")
    delta = dict(zip(effects.groups, effects.effects, strict=True))
    mean = np.mean(list(delta.values()), axis=0)
    expected = [max(delta[name], mean, key=np.linalg.norm) for name in ("A", "B")] + [mean]
    assert np.linalg.norm(delta["A"]) < np.linalg.norm(mean) < np.linalg.norm(delta["B"])
    found = fit("MaxEffect", adata).estimate_ate(["A+D", "B+D", "D"]).X
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_empirical_repeats(measured) -> None:
    model = fit("Empirical", make(LABELS))
    effects = model.estimate_ate(["A+B", "C"])
    np.testing.assert_allclose(effects.X, [measured["A+B"], measured["C"]], rtol=1e-4, atol=1e-6)
    assert effects.obs["n_cells"].tolist() == [4, 5]
    with pytest.raises(UnsupportedQuery, match="'A@0.5'.*'dose'"):
        model.estimate_ate(["A@0.5"])


def test_james_stein_shrinks_by_its_factors(measured) -> None:
    adata = make(LABELS)
    model = fit("JamesStein", adata)
    factors = model.get_factors()
    effects = effects_against(group_means(log1p_cp10k(adata.X), LABELS), reference="control")
    expected = pb.stats.james_stein_factor(effects.effects, effects.standard_errors)
    np.testing.assert_allclose(factors[list(effects.groups)], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.estimate_ate(["A"]).X[0], factors["A"] * measured["A"], rtol=1e-4, atol=1e-6)


def test_additive_sums_members_even_of_measured_pairs(measured) -> None:
    expected = [measured["A"] + measured["B"], measured["A"] + measured["B"] + measured["C"]]
    np.testing.assert_allclose(ates("Additive", ["A+B", "A+B+C"]), expected, rtol=1e-4, atol=1e-6)


def test_members_that_were_never_alone() -> None:
    labels = ["control"] * 8 + ["A"] * 6 + ["B"] * 3 + ["A+D"] * 4
    adata = make(labels)
    effects = effects_against(group_means(log1p_cp10k(adata.X), labels), reference="control")
    delta, n_cells = dict(zip(effects.groups, effects.effects, strict=True)), {"A": 6, "A+D": 4, "B": 3}
    mean = np.mean(list(delta.values()), axis=0)
    every_cell = sum(n_cells[label] / 13 * delta[label] for label in delta)
    additive, matching = (fit(name, adata.copy()).estimate_ate(["D", "B+D"]).X for name in ("Additive", "MatchingMean"))
    np.testing.assert_allclose(additive, [mean, delta["B"] + mean], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(matching, [every_cell, (delta["B"] + every_cell) / 2], rtol=1e-4, atol=1e-6)
    with pytest.raises(UnsupportedQuery, match="training cells have"):
        fit("Empirical", adata.copy()).estimate_ate(["D"])


def test_matching_mean_averages(measured) -> None:
    expected = [measured["A"], (measured["A"] + measured["C"]) / 2]
    np.testing.assert_allclose(ates("MatchingMean", ["A", "A+C"]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_ridge_regresses_on_doses(measured, penalty: float) -> None:
    design = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=float)
    responses = np.stack([measured[label] for label in ("A", "B", "C", "A+B")])
    weights = np.linalg.solve(design.T @ design + penalty * np.eye(3), design.T @ responses)
    expected = [weights[0] + weights[2], 0.5 * weights[1]]
    with pytest.warns(pb.errors.ExtrapolationWarning):
        effects = ates("Ridge", ["A+C", "B@0.5"], penalty=penalty)
    np.testing.assert_allclose(effects, expected, rtol=1e-3, atol=1e-5)


def test_low_rank_has_its_rank() -> None:
    model = fit("LowRank", make(LABELS), init={"rank": 1})
    effects = model.estimate_ate(["A", "B", "C"]).X
    assert model.rank_ == 1
    sizes = np.linalg.svd(effects, compute_uv=False)
    assert sizes[1] < 1e-4 * sizes[0]
    full = fit("LowRank", make(LABELS), init={"rank": 3, "penalty": 1e-6}).estimate_ate(["A", "B", "C"])
    assert np.linalg.svd(full.X, compute_uv=False)[2] > 1e-3


@pytest.mark.parametrize("settings", [("Ridge", {"penalty": -1.0}, "penalty"), ("LowRank", {"rank": 9}, "rank")])
def test_bad_settings(settings: tuple) -> None:
    name, init, match = settings
    with pytest.raises(ValueError, match=match):
        fit(name, make(LABELS), init=init)


def test_additive_knows_doses_that_were_measured() -> None:
    adata = make(["control"] * 5 + ["A@0.5"] * 5 + ["B"] * 5)
    model = fit("Additive", adata)
    one, other, both = model.estimate_ate(["A@0.5", "B", "A@0.5+B"]).X
    np.testing.assert_allclose(both, one + other, rtol=1e-4, atol=1e-6)
    with pytest.raises(UnsupportedQuery, match=r"'A@0\.25\+B'.*Ridge"):
        model.estimate_ate(["A@0.25+B"])


def test_better_baselines_are_nearer_the_truth() -> None:
    """On a nearly additive screen of noisy effects, against known effects of unseen pairs."""
    adata = pb.datasets.simulate_screen(
        n_perturbations=20,
        n_combinations=30,
        n_genes=100,
        n_latent=4,
        saturation=0.1,
        cells_per_perturbation=30,
        seed=3,
    )
    truth = adata.uns["truth"]["ate"]
    pairs = [label for label in truth.index if "+" in label][:10]
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"].isin(pairs), "test", "train")
    error = {}
    for name in ("NoChange", "Mean", "MatchingMean", "Additive", "Ridge", "LowRank"):
        effects = fit(name, adata.copy()).estimate_ate(pairs)
        error[name] = float(((effects.X - truth.loc[pairs].to_numpy()) ** 2).mean())
    assert error["LowRank"] < error["Ridge"] < error["Additive"] < error["MatchingMean"] < error["NoChange"]
    assert error["Additive"] < error["Mean"]
    seen = [label for label in truth.index if label not in pairs]
    raw, shrunken = (fit(name, adata.copy()).estimate_ate(seen) for name in ("Empirical", "JamesStein"))
    assert ((shrunken.X - truth.loc[seen]) ** 2).to_numpy().mean() < ((raw.X - truth.loc[seen]) ** 2).to_numpy().mean()


# cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_cells_come_back(name: str) -> None:
    adata = make(LABELS)
    model = fit(name, adata, init={"rank": 2} if name == "LowRank" else {})
    cells = np.flatnonzero(adata.obs["perturbation"] == "A+B")
    latent = model.encode(indices=cells)
    features = log1p_cp10k(adata.X[cells]).toarray()
    np.testing.assert_allclose(
        features - latent.X, np.repeat(model.estimate_ate(["A+B"]).X, 4, 0), rtol=1e-4, atol=1e-5
    )
    back = model.perturb(latent, "A+B")
    np.testing.assert_allclose(model.decode(back).X, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.decode(back, scale="counts").X, adata.X[cells].toarray(), rtol=1e-4, atol=1e-4)


def test_predicted_means_move_by_the_effect() -> None:
    model = fit("Additive", make(LABELS))
    latent = model.encode(indices=np.arange(8))
    moved = model.perturb(latent, "A").X.mean(0) - latent.X.mean(0)
    np.testing.assert_allclose(moved, model.estimate_ate(["A"]).X[0], rtol=1e-4, atol=1e-5)


def test_readouts_stop_at_zero() -> None:
    model = fit("Additive", make(LABELS))
    latent = model.encode(indices=[0])
    latent.X[:] = -0.5
    for scale in ("log1p_cp10k", "counts"):
        assert not model.decode(latent, scale=scale).X.any()


def test_counts_and_logs_are_the_same_readout() -> None:
    model = fit("Additive", make(LABELS))
    latent = model.perturb(model.encode(indices=[0, 1]), "A")
    counts, logs = model.decode(latent, scale="counts"), model.decode(latent)
    library = latent.obs["pb_library"].to_numpy()[:, None]
    np.testing.assert_allclose(np.log1p(1e4 * counts.X / library), logs.X, rtol=1e-4)
    nudged = model.decode(_moved(latent, 1e-2), scale="counts").X - counts.X
    slope = counts.layers["sd"] / np.maximum(logs.layers["sd"], 1e-12)
    np.testing.assert_allclose(nudged / 1e-2, slope, rtol=0.02)


def _moved(latent: ad.AnnData, by: float) -> ad.AnnData:
    latent = latent.copy()
    latent.X = latent.X + np.float32(by)
    return latent


def test_sd_is_the_error_of_the_effect() -> None:
    model = fit("Empirical", make(LABELS))
    shifted = model.perturb(model.encode(indices=[0, 1]), "A")
    error = model.estimate_ate(["A"]).layers["se"]
    np.testing.assert_allclose(shifted.layers["sd"], np.repeat(error, 2, 0), rtol=1e-5)


def test_perturbseq_is_base_two() -> None:
    model = fit("Empirical", make(LABELS))
    natural, binary = (model.estimate_ate(["A"], scale=scale) for scale in ("log1p_cp10k", "perturbseq"))
    np.testing.assert_allclose(binary.X * np.log(2), natural.X, rtol=1e-5)
    np.testing.assert_allclose(binary.layers["se"] * np.log(2), natural.layers["se"], rtol=1e-5)
    with pytest.raises(ScaleError, match="counts"):
        model.estimate_ate(["A"], scale="counts")


def test_size_factors_replace_the_sum() -> None:
    adata = make(LABELS, size=np.linspace(10, 60, len(LABELS)))
    features = np.log1p(1e4 * adata.X.toarray() / adata.obs["size"].to_numpy()[:, None])
    expected = features[8:14].mean(0) - features[:8].mean(0)
    model = fit("Empirical", adata, size_factor_key="size")
    np.testing.assert_allclose(model.estimate_ate(["A"]).X[0], expected, rtol=1e-4, atol=1e-5)
    latent = model.encode(indices=[0, 9])
    np.testing.assert_allclose(model.decode(latent[:1].copy(), scale="counts").X, adata.X[:1].toarray(), rtol=1e-4)


@pytest.mark.parametrize(
    ("scale", "low", "high"), [("zscore", -np.inf, np.inf), ("log1p_cp10k", 0, np.inf), ("probability", 0, 1)]
)
def test_other_scales_are_read_as_they_are(scale: str, low: float, high: float) -> None:
    adata = make(LABELS)
    adata.X = np.random.default_rng(0).random(adata.shape).astype(np.float32)
    model = fit("Additive", adata, scale=scale)
    shifted = model.perturb(model.encode(indices=np.arange(8)), "A+B+C")
    expected = adata.X[:8] + model.estimate_ate(["A+B+C"]).X
    np.testing.assert_allclose(model.decode(shifted).X, np.clip(expected, low, high), rtol=1e-4, atol=1e-5)


def test_cells_without_an_estimate_are_not_encoded() -> None:
    adata = make(LABELS)
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"] == "A+B", "test", "train")
    model = fit("Empirical", adata)
    assert model.encode(indices=np.arange(20)).n_obs == 20
    with pytest.raises(UnsupportedQuery, match=r"'A\+B'.*indices"):
        model.encode()


# training --------------------------------------------------------------------------------------------------------


def test_only_training_cells_count() -> None:
    adata = make(LABELS)
    adata.obs["pb_split"] = np.where(np.arange(len(LABELS)) % 3 == 0, "valid", "train")
    part = fit("Empirical", adata)
    alone = fit("Empirical", adata[adata.obs["pb_split"] == "train"].copy())
    np.testing.assert_array_equal(part.estimate_ate(["A"]).X, alone.estimate_ate(["A"]).X)
    assert len(part.train_indices) + len(part.validation_indices) == adata.n_obs
    part.train(split_key=None)
    assert part.estimate_ate(["A"]).obs["n_cells"].tolist() == [6]


@pytest.mark.parametrize(("trains", "error"), [("A", ControlError), ("control", SplitError)])
def test_training_cells_need_both_sides(trains: str, error: type) -> None:
    adata = make(LABELS)
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"] == trains, "train", "test")
    with pytest.raises(error, match="training cells"):
        fit("Mean", adata)


def test_training_needs_data() -> None:
    model = fit("Mean", make(LABELS))
    with pytest.raises(ValueError, match=r"Mean\(adata\)"):
        pb.model.Mean(registry=model.registry).train()


def test_classes_and_settings_have_coordinates_of_their_own() -> None:
    adata = make(LABELS)
    ids = {fit(name, adata.copy(), init={"rank": 1} if name == "LowRank" else {}).ur_id for name in NAMES}
    ids.add(fit("Ridge", adata.copy(), init={"penalty": 2.0}).ur_id)
    assert len(ids) == len(NAMES) + 1


def test_settings_survive_saving(tmp_path) -> None:
    adata = make(LABELS)
    for name, init in (("Ridge", {"penalty": 2.0}), ("LowRank", {"rank": 1, "penalty": 0.5})):
        model = fit(name, adata.copy(), init=init)
        model.save(tmp_path / name)
        loaded = type(model).load(tmp_path / name, adata=adata.copy(), accelerator="cpu")
        assert {key: getattr(loaded, key) for key in init} == init
        assert getattr(loaded, "rank_", 1) == 1


def test_the_module_is_loaded_whatever_its_size() -> None:
    model = fit("Ridge", make(LABELS))
    fresh = ClosedFormModule(3, 6, 1)
    fresh.load_state_dict(model.module.state_dict())
    np.testing.assert_array_equal(fresh.measured().dosage.toarray(), model.module.measured().dosage.toarray())
    assert fresh.device.type == "cpu"
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict({})
