"""Judging: known answers first, then what must not matter, then what must be refused."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import (
    ControlError,
    FeatureMismatch,
    LabelError,
    LeakageError,
    ScaleError,
    SplitError,
    UnsupportedQuery,
)
from perturbia.tl._evaluation.measures import MEASURES
from perturbia.tl._evaluation.protocols import PROTOCOLS

BASELINES = ["NoChange", "Mean", "Additive", "MatchingMean", "Ridge"]
ON_EFFECTS = [name for name, measure in MEASURES.items() if measure.reads == "effects" and "interaction" not in name]
EXACT_ONLY = {name for name, measure in MEASURES.items() if measure.noise == "correlation of halves"}


def make_screen(**changes) -> ad.AnnData:
    options = {
        "n_perturbations": 8,
        "n_combinations": 10,
        "n_genes": 40,
        "n_latent": 3,
        "cells_per_perturbation": 40,
        "n_controls": 200,
        "n_batches": 2,
        **changes,
    }
    adata = pb.datasets.simulate_screen(**options)
    pb.tl.split(adata, axis="combination", fraction=0.4, valid=0.25)
    return adata


@pytest.fixture(scope="module")
def screen() -> ad.AnnData:
    """Doubles held out; tests must leave it as it is."""
    return make_screen()


@pytest.fixture(scope="module")
def result(screen) -> pb.tl.EvaluationResult:
    return pb.tl.evaluate(fit("LowRank", screen), screen, baselines=BASELINES)


def fit(name: str, adata: ad.AnnData, **setup) -> object:
    model_class = getattr(pb.model, name)
    setup.setdefault("perturbation_key", "perturbation")
    model_class.setup_anndata(adata, **setup)
    model = model_class(adata)
    model.train()
    return model


def judge(adata: ad.AnnData, prediction: object, **options) -> pb.tl.EvaluationResult:
    options = {"baselines": None, "batch_key": "batch", **options}
    return pb.tl.evaluate(prediction, adata, **options)


def observed_effects(adata: ad.AnnData) -> pd.DataFrame:
    """The truth itself, as a prediction."""
    observed = judge(adata, pd.DataFrame(0.0, index=labels_of(adata), columns=adata.var_names)).observed
    return observed.to_df()


def means_of_held_out_cells(adata: ad.AnnData) -> ad.AnnData:
    log = pb.stats.log1p_cp10k(adata.layers["counts"])
    log = log.toarray() if sparse.issparse(log) else log
    rows = [
        log[((adata.obs["perturbation"] == name) & (adata.obs["pb_split"] == "test")).to_numpy()].mean(0)
        for name in labels_of(adata)
    ]
    return ad.AnnData(
        np.asarray(rows, np.float32), obs=pd.DataFrame(index=labels_of(adata)), var=pd.DataFrame(index=adata.var_names)
    )


def labels_of(adata: ad.AnnData) -> list[str]:
    labels = adata.obs.loc[adata.obs["pb_split"] == "test", "perturbation"].astype(str)
    return sorted(set(labels) - {"control"})


# known answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ON_EFFECTS if name not in EXACT_ONLY])
def test_the_truth_itself_scores_best(screen, name):
    """As means of the held-out cells where controls are to cancel, as effects of these cells elsewhere."""
    truth, options = observed_effects(screen), {}
    if MEASURES[name].reference == "perturbed centroid":
        truth, options = (
            means_of_held_out_cells(screen),
            {"prediction_kind": "means", "prediction_scale": "log1p_cp10k", "batch_key": None},
        )
    value = judge(screen, truth, protocol=[name], **options).summary()["value"].loc["prediction", name]
    assert value == pytest.approx(MEASURES[name].best, abs=1e-5)


def test_known_truth_is_the_truth(screen):
    known = screen.uns["truth"]["ate"]
    found = judge(screen, known, truth=known, protocol=["core"]).summary()["value"]
    for name in ON_EFFECTS:
        if name in found:
            assert found.loc["prediction", name] == pytest.approx(MEASURES[name].best, abs=1e-6), name
            assert found.loc["true effects", name] == MEASURES[name].best


def test_shuffled_labels_are_found_by_chance(screen):
    truth = observed_effects(screen)
    values = []
    for shift in range(len(truth)):  # over all cyclic shifts every effect meets every label once: chance, exactly
        shuffled = pd.DataFrame(np.roll(truth.to_numpy(), shift, axis=0), index=truth.index, columns=truth.columns)
        scores = judge(screen, shuffled, protocol=["retrieval_cosine", "retrieval_l1", "rmse_rank"]).summary()["value"]
        values.append(scores.loc["prediction"])
    assert (values[0] == 1).all()
    np.testing.assert_allclose(np.mean(values, axis=0), 0.5, atol=1e-9)


def test_a_constant_prediction_is_found_by_chance_exactly(screen, result):
    constant = pd.DataFrame(
        np.tile(np.linspace(-1, 1, screen.n_vars), (len(labels_of(screen)), 1)),
        index=labels_of(screen),
        columns=screen.var_names,
    )
    found = judge(screen, constant, protocol=["retrieval_cosine", "retrieval_l1", "cosine_rank"]).summary()["value"]
    assert found.loc["prediction"].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert result.summary()["value"].loc[["Mean", "NoChange"], "retrieval_cosine"].tolist() == pytest.approx([0.5, 0.5])


def test_the_mean_baseline_has_nothing_specific(result):
    assert (result.values("correlation_systema")["Mean"] == 0).all()


def test_half_the_sum_has_the_same_direction_and_another_size(result):
    found = result.summary()["value"].loc[["Additive", "MatchingMean"]]
    assert found["correlation"].diff().iloc[-1] == pytest.approx(0, abs=1e-6)
    assert found["cosine"].diff().iloc[-1] == pytest.approx(0, abs=1e-6)
    assert abs(found["r2"].diff().iloc[-1]) > 0.02
    assert abs(found["rmse"].diff().iloc[-1]) > 0.02


def test_additive_predictions_have_no_interaction(result):
    found = result.summary()["value"]
    assert found.loc["Additive", "interaction_r"] == 0
    assert found.loc["Additive", "interaction_r2"] == pytest.approx(0, abs=1e-6)
    assert found.loc["Ridge", "interaction_r"] == 0
    assert found.loc["MatchingMean", "interaction_r"] != 0


def test_scores_of_cell_eval_are_those_of_means(screen):
    """Means of all cells against means of all cells; controls cancel from absolute distances."""
    rng = np.random.default_rng(0)
    test = np.flatnonzero(
        (screen.obs["pb_split"] == "test").to_numpy() & (screen.obs["perturbation"] != "control").to_numpy()
    )
    cells = screen[rng.permutation(test)].copy()
    cells.obs["pb_perturbation"] = np.roll(cells.obs["perturbation"].astype(str).to_numpy(), 7)
    names = ["mae_means", "mse_means", "mae_delta", "discrimination_l1"]
    found = judge(screen, cells, protocol=names, prediction_kind="cells", prediction_scale="counts", batch_key=None)
    log = pb.stats.log1p_cp10k(screen.layers["counts"])
    log = log.toarray() if sparse.issparse(log) else log
    order = screen.obs_names.get_indexer(cells.obs_names)
    true, predicted = [], []
    for name in labels_of(screen):
        true.append(log[test[(screen.obs["perturbation"].astype(str) == name).to_numpy()[test]]].mean(0))
        predicted.append(log[order[(cells.obs["pb_perturbation"] == name).to_numpy()]].mean(0))
    gap = np.abs(np.stack(predicted)[:, None] - np.stack(true)[None])
    np.testing.assert_allclose(found.values("mae_means")["prediction"], gap.mean(-1).diagonal(), atol=1e-5)
    np.testing.assert_allclose(found.values("mse_means")["prediction"], (gap**2).mean(-1).diagonal(), atol=1e-5)
    assert (found.values("mae_delta")["prediction"] != found.values("mae_means")["prediction"]).all()
    distance = gap.sum(-1)
    closer = (distance < distance.diagonal()[:, None]).sum(1)
    np.testing.assert_allclose(found.values("discrimination_l1")["prediction"], 1 - closer / len(closer), atol=1e-9)


def test_interactions_need_members_that_no_method_is_fitted_to(screen):
    adata = screen.copy()
    pb.tl.split(adata, axis="combination", fraction=0.4, valid=0.0)
    found = pb.tl.evaluate(fit("Ridge", adata), adata, baselines=["MatchingMean"])
    assert found.summary()["value"]["interaction_r"].isna().all()
    assert "Interactions are not judged" in repr(found)
    # known effects of the members serve as well
    known = pb.tl.evaluate(fit("Ridge", adata), adata, baselines=["MatchingMean"], truth=adata.uns["truth"]["ate"])
    assert known.summary()["value"].loc[["Ridge", "MatchingMean"], "interaction_r"].notna().all()


def test_noise_of_the_members_is_no_interaction():
    """Without any interaction, half the sum is right about nothing; measured by its own cells it would seem to be."""
    rng = np.random.default_rng(0)
    names = ["control", "A", "B", "A+B", "C", "A+C", "B+C", "D", "A+D", "B+D", "C+D"]
    labels = np.repeat(names, [400, *[80] * 10])
    adata = ad.AnnData(
        rng.normal(size=(len(labels), 60)).astype(np.float32),
        obs=pd.DataFrame({"perturbation": labels}, index=map(str, range(len(labels)))),
    )
    pb.tl.split(adata, axis="combination", fraction=0.0, valid=0.3)
    model = fit("MatchingMean", adata, scale="embedding")
    found = pb.tl.evaluate(model, adata, baselines=None).summary()["value"]
    assert abs(found.loc["MatchingMean", "interaction_r"]) < 0.15
    judged = pb.tl.evaluate(model, adata, baselines=None)
    own = pb.tl.effects(
        adata, scale="registered", cells=np.flatnonzero((adata.obs["pb_split"] == "train").to_numpy())
    ).to_df()
    sums = np.stack([own.loc[name.split("+")].sum().to_numpy() for name in judged.observed.obs_names])
    biased = pb.metrics.interaction_correlation(
        judged.observed.X, judged.effects["MatchingMean"].X, truth_additive=sums, prediction_additive=sums
    )
    assert biased > 0.4


def test_scores_are_those_of_the_metrics(screen, result):
    true, predicted = result.observed.X, result.effects["LowRank"].X
    found = result.summary()["value"].loc["LowRank"]
    assert found["correlation_all"] == pytest.approx(pb.metrics.effect_correlation(true, predicted))
    assert found["r2_all"] == pytest.approx(pb.metrics.effect_r2(true, predicted))
    each = pb.metrics.effect_correlation(true, predicted, per_perturbation=True)
    np.testing.assert_allclose(result.values("correlation")["LowRank"], each)
    stated = fit("LowRank", screen).estimate_ate(list(result.observed.obs_names)).X
    np.testing.assert_allclose(predicted, stated)


def test_truth_is_measured_on_held_out_cells_alone(screen):
    test = np.flatnonzero((screen.obs["pb_split"] == "test").to_numpy())
    direct = pb.tl.effects(screen, layer="counts", batch_key="batch", cells=test)
    found = judge(screen, observed_effects(screen))
    np.testing.assert_allclose(found.observed.X, direct[found.observed.obs_names].X, atol=1e-6)
    assert not found.info["controls_shared"]
    changed = screen.copy()
    changed.X = changed.X.copy()
    train = np.flatnonzero((screen.obs["pb_split"] == "train").to_numpy())
    changed.X[train[:200]] = changed.X[train[:200]] * 3
    np.testing.assert_array_equal(judge(changed, observed_effects(changed)).observed.X, found.observed.X)


def test_ceiling_is_what_true_effects_score():
    adata = make_screen(
        n_genes=120, n_perturbations=10, n_combinations=20, cells_per_perturbation=30, n_controls=2000, n_batches=1
    )
    found = judge(adata, adata.uns["truth"]["ate"], protocol=["core"], batch_key=None).summary()["value"]
    for name, tolerance in (("correlation_all", 0.02), ("r2_all", 0.04), ("correlation", 0.03), ("rmse", 0.02)):
        assert found.loc["true effects", name] == pytest.approx(found.loc["prediction", name], abs=tolerance), name
    assert found.loc["second experiment", "correlation_all"] < found.loc["true effects", "correlation_all"]


def test_populations_of_the_same_distribution_have_no_distance(screen):
    held_out = screen[(screen.obs["pb_split"] == "test").to_numpy()].copy()
    held_out.obs["pb_perturbation"] = held_out.obs["perturbation"].astype(str)
    kind = {"prediction_kind": "cells", "prediction_scale": "counts"}
    same = judge(screen, held_out, protocol=["edistance"], **kind).summary()["value"]
    baselines = judge(screen, held_out, protocol=["edistance"], baselines=["NoChange"], **kind).summary()["value"]
    assert abs(same.loc["prediction", "edistance"]) < 0.1 * baselines.loc["NoChange", "edistance"]


def test_predicted_means_and_cells_say_the_same(screen):
    rng = np.random.default_rng(0)
    names = labels_of(screen)
    cells = ad.AnnData(
        rng.random((10 * len(names), screen.n_vars), dtype=np.float32),
        obs=pd.DataFrame({"pb_perturbation": np.repeat(names, 10)}, index=[str(i) for i in range(10 * len(names))]),
        var=pd.DataFrame(index=screen.var_names),
    )
    means = ad.AnnData(
        cells.X.reshape(len(names), 10, -1).mean(1),
        obs=pd.DataFrame(index=names),
        var=pd.DataFrame(index=screen.var_names),
    )
    scale = {"prediction_scale": "log1p_cp10k"}
    one = judge(screen, cells, prediction_kind="cells", **scale).effects["prediction"].X
    other = judge(screen, means[::-1].copy(), prediction_kind="means", **scale).effects["prediction"].X
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_judges_every_method(screen, protocol):
    found = pb.tl.evaluate(fit("Ridge", screen), screen, protocol=protocol, baselines=["NoChange", "Mean"])
    table = found.summary()["value"]
    assert list(table.columns) == list(PROTOCOLS[protocol].measures)
    undefined = {"iwelbo", "clustering"}  # no likelihood; too few effects to form clusters
    assert table.loc["Ridge"].drop(undefined, errors="ignore").notna().all()
    assert found.info["truth"] == ("every cell" if protocol == "sams-vae" else "held-out cells")


# what must not matter ------------------------------------------------------------------------------------------------


def test_order_of_cells_genes_and_labels_does_not_matter(screen, result):
    rng = np.random.default_rng(1)
    moved = screen[rng.permutation(screen.n_obs), rng.permutation(screen.n_vars)].copy()
    moved.obs["perturbation"] = moved.obs["perturbation"].cat.reorder_categories(
        rng.permutation(moved.obs["perturbation"].cat.categories)
    )
    found = pb.tl.evaluate(fit("LowRank", moved), moved, baselines=BASELINES)
    pd.testing.assert_frame_equal(found.summary()["value"], result.summary()["value"], rtol=0, atol=2e-6)


def test_order_of_cells_alone_changes_nothing(screen, result):
    moved = screen[np.random.default_rng(1).permutation(screen.n_obs)].copy()
    found = pb.tl.evaluate(fit("LowRank", moved), moved, baselines=BASELINES)
    pd.testing.assert_frame_equal(found.table, result.table, rtol=0, atol=2e-6)


def test_dense_and_sparse_data_agree(screen, result):
    other = screen.copy()
    other.X = sparse.csr_matrix(screen.X) if not sparse.issparse(screen.X) else screen.X.toarray()
    found = pb.tl.evaluate(fit("LowRank", other), other, baselines=BASELINES)
    np.testing.assert_allclose(found.summary()["value"], result.summary()["value"], atol=1e-4)


def test_same_seed_same_result(screen, result):
    again = pb.tl.evaluate(fit("LowRank", screen), screen, baselines=BASELINES)
    pd.testing.assert_frame_equal(again.table, result.table)


def test_measures_do_not_depend_on_one_another(screen, result):
    alone = pb.tl.evaluate(fit("LowRank", screen), screen, baselines=["Mean"], protocol=["rmse", "retrieval_l1"])
    both = alone.summary()["value"]
    pd.testing.assert_frame_equal(
        both.loc[["LowRank", "Mean"]], result.summary()["value"].loc[["LowRank", "Mean"], both.columns]
    )


def test_data_are_not_written_to(screen):
    model = fit("Ridge", screen)
    before = (
        list(screen.obs),
        list(screen.obsm),
        list(screen.uns),
        list(screen.layers),
        screen.obs.copy(),
        screen.X.copy(),
    )
    pb.tl.evaluate(model, screen)
    assert before[:4] == (list(screen.obs), list(screen.obsm), list(screen.uns), list(screen.layers))
    pd.testing.assert_frame_equal(before[4], screen.obs)
    assert abs(before[5] - screen.X).sum() == 0


# the result ----------------------------------------------------------------------------------------------------------


def test_table_is_long_and_complete(screen, result):
    names = labels_of(screen)
    one = result.table.query("model == 'Ridge' and metric == 'correlation'")
    assert one["perturbation"].tolist() == names
    assert (one["n_targets"] == 2).all()
    assert (one["seen_members"] == 2).all()
    assert one["role"].eq("baseline").all()
    assert one["axis"].eq("combination").all()
    assert set(one["stratum"]) <= {"weakest", "weak", "strong", "strongest", "weaker", "stronger"}
    strongest = one.sort_values("strength")["stratum"].iloc[-1]
    assert strongest in {"strongest", "stronger"}
    assert len(result.table.query("model == 'Ridge' and metric == 'r2_all'")) == 1


def test_summary_ranks_and_rescales(result):
    summary = result.summary()
    value, rank = summary["value"], summary["rank"]
    ranked = result.names("model", "baseline")
    assert rank.loc[ranked, "rmse"].idxmin() == value.loc[ranked, "rmse"].idxmin()
    assert rank.loc[ranked, "r2"].idxmin() == value.loc[ranked, "r2"].idxmax()
    assert rank.loc[["second experiment", "true effects"]].isna().all(axis=None)
    rescaled = summary["rescaled"]
    assert rescaled.loc["Mean", "rmse"] == 0
    assert rescaled.loc["true effects", "rmse"] == 1
    inside = summary["low"].le(value) & summary["high"].ge(value)
    assert inside.loc[ranked, ["correlation", "r2", "rmse", "correlation_all", "r2_all"]].all(axis=None)
    means = result.values("r2")["Ridge"].mean()
    assert value.loc["Ridge", "r2"] == pytest.approx(means)


def test_groups_are_summarised_apart(result):
    groups = result.summary(by="stratum", metrics=["correlation", "correlation_all"])
    assert "correlation_all" not in groups["value"]
    sizes = groups["n"]["correlation"].xs("Ridge", level="model")
    assert sizes.sum() == result.summary()["n"].loc["Ridge", "correlation"]
    with pytest.raises(ValueError, match="by: expected one of"):
        result.summary(by="strata")


def test_comparison_is_paired(result):
    found = result.compare("Ridge", "NoChange", metrics=["rmse", "correlation", "r2_all"])
    values = result.values("rmse")
    assert found.loc["rmse", "difference"] == pytest.approx((values["Ridge"] - values["NoChange"]).mean())
    assert found.loc["rmse", "difference"] < 0
    assert found.loc["rmse", "share_better"] == (values["Ridge"] < values["NoChange"]).mean()
    assert found.loc["rmse", "low"] <= found.loc["rmse", "difference"] <= found.loc["rmse", "high"]
    assert np.isnan(found.loc["r2_all", "p_value"])
    against_best = result.compare()
    best = result.summary()["value"].loc[BASELINES, "rmse"].idxmin()
    assert against_best.loc["rmse", "other"] == best


def test_unknown_names_are_refused(result):
    with pytest.raises(ValueError, match=r"nearest: correlation"):
        result.summary(metrics=["corelation"])
    with pytest.raises(ValueError, match="model: expected one of"):
        result.compare("nobody")
    with pytest.raises(ValueError, match="metrics: expected measures"):
        result.values("nothing")


def test_result_survives_the_disk(result, tmp_path):
    result.save(tmp_path / "evaluation")
    back = pb.tl.EvaluationResult.load(tmp_path / "evaluation")
    pd.testing.assert_frame_equal(back.table, result.table)
    pd.testing.assert_frame_equal(back.summary(), result.summary())
    assert back.info == result.info
    np.testing.assert_array_equal(back.effects["Ridge"].X, result.effects["Ridge"].X)
    np.testing.assert_array_equal(back.observed.layers["se"], result.observed.layers["se"])
    with pytest.raises(FileNotFoundError, match="folder: expected the result"):
        pb.tl.EvaluationResult.load(tmp_path / "nowhere")


def test_result_shows_itself(result):
    text, page = repr(result), result._repr_html_()
    for name in ("LowRank", "Additive", "true effects", "protocol 'core'"):
        assert name in text
        assert name.replace("'", "&#x27;") in page
    assert "<b>" in page
    assert "Not applicable" not in text


def test_baselines_that_can_not_answer_are_named(screen):
    found = pb.tl.evaluate(fit("Ridge", screen), screen, baselines=["Empirical", "Mean"])
    assert list(found.info["left_out"]) == ["Empirical"]
    assert "Not applicable: Empirical" in repr(found)
    assert found.names() == ["Ridge", "Mean", "second experiment", "true effects"]


def test_few_cells_are_listed_with_nan(screen):
    few = screen.copy()
    name = labels_of(few)[0]
    rows = np.flatnonzero(few.obs["perturbation"].astype(str) == name)
    few = few[np.setdiff1d(np.arange(few.n_obs), rows[1:])].copy()
    with pytest.warns(RuntimeWarning, match="fewer than 8 held-out cells"):
        found = judge(few, pd.DataFrame(0.0, index=labels_of(few), columns=few.var_names))
    assert found.info["too_few_cells"] == {name: 1}
    row = found.table.query("perturbation == @name and metric == 'correlation'")
    assert row["value"].isna().all()
    assert found.summary()["n_undefined"].loc["prediction", "correlation"] == 1
    assert "not judged" in repr(found)


# contexts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts() -> ad.AnnData:
    """Two cell lines; in the second, perturbed cells judge."""
    adata = make_screen(n_combinations=0 + 1, n_batches=2)
    adata.obs["line"] = pd.Categorical(
        np.where(adata.obs["batch"].astype(str) == adata.obs["batch"].astype(str).iloc[0], "A", "B")
    )
    rng = np.random.default_rng(0)
    second = (adata.obs["line"] == "B").to_numpy()
    control = (adata.obs["perturbation"] == "control").to_numpy()
    judges = second & (~control | (rng.random(adata.n_obs) < 0.5))
    adata.obs["pb_split"] = pd.Categorical(np.where(judges, "test", "train"))
    adata.uns["pb_split"] = {"axis": "context"}
    return adata


def test_contexts_are_judged_against_their_own_controls(contexts):
    zero = pd.DataFrame(0.0, index=labels_of(contexts), columns=contexts.var_names)
    found = judge(
        contexts, zero, batch_key=None, context_key="line", protocol=["correlation", "rmse", "discrimination_l1"]
    )
    assert set(found.table.loc[found.table["perturbation"] != "", "context"]) == {"B"}
    test = np.flatnonzero((contexts.obs["pb_split"] == "test").to_numpy())
    direct = pb.tl.effects(contexts, layer="counts", cells=test)
    np.testing.assert_allclose(found.observed.X, direct.X, atol=1e-6)
    assert found.observed.obs_names.str.endswith(" in B").all()
    with pytest.raises(LeakageError, match="got 9 that do both"):
        judge(contexts, zero, batch_key=None)


# what must be refused ------------------------------------------------------------------------------------------------


def test_leakage_is_an_error(screen):
    leaky = screen.copy()
    rows = np.flatnonzero(leaky.obs["perturbation"].astype(str) == labels_of(leaky)[0])
    part = leaky.obs["pb_split"].astype(str).to_numpy()
    part[rows[:3]] = "train"
    leaky.obs["pb_split"] = pd.Categorical(part)
    zero = pd.DataFrame(0.0, index=labels_of(screen), columns=screen.var_names)
    with pytest.raises(LeakageError, match=labels_of(screen)[0].replace("+", r"\+")):
        judge(leaky, zero)
    assert judge(leaky, zero, allow_seen=True).names("model") == ["prediction"]


def test_a_model_that_saw_the_test_cells_is_refused(screen):
    cheat = pb.model.Empirical
    cheat.setup_anndata(screen, perturbation_key="perturbation")
    model = cheat(screen)
    model.train(split_key=None)
    with pytest.raises(LeakageError, match="expected Empirical to be trained without the held-out cells"):
        pb.tl.evaluate(model, screen)


def test_random_splits_say_what_they_test(screen):
    adata = screen.copy()
    pb.tl.split(adata, axis="random", fraction=0.5)
    found = pb.tl.evaluate(fit("Empirical", adata), adata, baselines=["Mean"])
    assert "not generalisation" in repr(found)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda p: p.iloc[1:], LabelError, "expected a row of prediction for every judged perturbation"),
        (lambda p: p.iloc[:, 1:], FeatureMismatch, "expected every gene of adata"),
        (lambda p: p.assign(**{p.columns[0]: np.nan}), ValueError, "expected finite predictions"),
        (lambda p: pd.concat([p, p.iloc[:1]]), LabelError, "with some twice"),
        (lambda p: p.to_numpy(), TypeError, "expected a trained model, AnnData or a table"),
        (ad.AnnData, ScaleError, "expected an AnnData that says what it holds"),
    ],
)
def test_bad_predictions_are_refused(screen, change, error, match):
    good = pd.DataFrame(0.0, index=labels_of(screen), columns=screen.var_names)
    with pytest.raises(error, match=match):
        judge(screen, change(good))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"protocol": "coer"}, ValueError, "protocol: expected 'core'"),
        ({"protocol": ["core", "sams-vae"]}, ValueError, "agree on the cells that judge"),
        ({"protocol": []}, ValueError, "an empty list"),
        ({"split_key": "nowhere"}, SplitError, "split_key: expected a column"),
        ({"batch_key": "nowhere"}, LabelError, "batch_key: expected a complete column"),
        ({"perturbations": ["P01"]}, LabelError, "expected perturbations with held-out cells"),
        ({"min_cells": 10_000}, SplitError, "min_cells: expected perturbations"),
        ({"min_cells": 0}, ValueError, "min_cells"),
        ({"confidence": 1.5}, ValueError, "confidence"),
        ({"baselines": ["Meen"]}, ValueError, "baselines: expected names among"),
        ({"prediction_kind": "effects", "prediction_scale": "zscore"}, None, ""),
    ],
)
def test_bad_arguments_are_refused(screen, options, error, match):
    good = pd.DataFrame(0.0, index=labels_of(screen), columns=screen.var_names)
    if error is None:
        assert judge(screen, good, **options).names("model") == ["prediction"]  # a table of effects needs no scale
        return
    with pytest.raises(error, match=match):
        judge(screen, good, **options)


def test_wrong_scale_is_refused(screen):
    cells = screen[:50].copy()
    cells.obs["pb_perturbation"] = labels_of(screen)[0]
    with pytest.raises(ScaleError, match="expected 'log1p_cp10k'"):
        judge(screen, cells, prediction_kind="cells", prediction_scale="zscore")


def test_a_model_that_can_not_answer_says_so(screen):
    with pytest.raises(UnsupportedQuery):
        pb.tl.evaluate(fit("Empirical", screen), screen)


def test_no_warning_of_our_own(screen):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        pb.tl.evaluate(fit("Ridge", screen), screen, baselines=BASELINES).summary()


def test_cells_are_found_by_place_where_names_repeat(screen):
    adata = screen.copy()
    adata.obs_names = ["cell"] * adata.n_obs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pb.tl.split(adata, axis="combination", fraction=0.4, valid=0.25)
        found = pb.tl.evaluate(fit("Ridge", adata), adata, baselines=None)
    ours = pb.tl.evaluate(fit("Ridge", screen), screen, baselines=None)
    np.testing.assert_allclose(found.values("correlation"), ours.values("correlation"), atol=0.05)


# what reviewers found -------------------------------------------------------------------------------------------------


def gaussian_screen(
    rng: np.random.Generator, *, strength: float = 0.0, shift: float = 0.0, n_controls: int = 200
) -> ad.AnnData:
    """Cells of 12 perturbations, half of which judge; batches that are unevenly spread."""
    names = [f"P{i:02d}" for i in range(12)]
    labels = np.repeat(["control", *names], [n_controls, *[40] * 12])
    batch = rng.random(len(labels)) < np.where(labels == "control", 0.5, np.where(labels < "P06", 0.8, 0.2))
    effects = {name: strength * rng.normal(size=60) for name in names} | {"control": np.zeros(60)}
    cells = rng.normal(size=(len(labels), 60)) + np.stack([effects[one] for one in labels])
    cells += shift * batch[:, None] * rng.normal(size=60)
    obs = pd.DataFrame(
        {"perturbation": labels, "batch": np.where(batch, "one", "two")}, index=map(str, range(len(labels)))
    )
    adata = ad.AnnData(cells.astype(np.float32), obs=obs)
    pb.tl.split(adata, axis="perturbation", fraction=0.5, seed=int(rng.integers(1000)))
    adata.uns["effects"] = pd.DataFrame({name: effects[name] for name in names}, index=adata.var_names).T
    return adata


def over_screens(n: int, protocol: list[str], *, baselines=("NoChange",), **changes) -> pd.DataFrame:
    """Mean scores over screens, methods × measures, the true effects among them."""
    tables = []
    for seed in range(n):
        adata = gaussian_screen(np.random.default_rng(seed), **changes)
        truth = adata.uns.pop("effects")
        found = pb.tl.evaluate(
            truth,
            adata,
            scale="embedding",
            batch_key="batch",
            protocol=protocol,
            baselines=list(baselines),
            n_resamples=10,
        )
        tables.append(found.summary()["value"])
    return (
        pd.concat(tables)
        .groupby(level=0, sort=False)
        .agg(lambda column: column.mean() if column.notna().mean() > 0.3 else np.nan)
    )


def test_saying_nothing_is_not_specific_on_a_null():
    """The difference of held-out and seen controls is no effect, although it is the same for all perturbations."""
    found = over_screens(12, ["correlation", "correlation_systema", "centroid_accuracy"])
    assert abs(found.loc["NoChange", "correlation"]) < 0.05
    assert abs(found.loc["NoChange", "correlation_systema"]) < 0.2  # noise of the centroid itself is left
    assert 0.35 < found.loc["NoChange", "centroid_accuracy"] < 0.65


def test_ceilings_of_no_effect_are_nothing():
    found = over_screens(12, ["correlation", "top20", "r2"])
    assert np.isnan(found.loc["true effects", "correlation"])
    assert np.isnan(found.loc["true effects", "top20"])
    assert abs(found.loc["second experiment", "correlation"]) < 0.06


def test_ceilings_hold_on_average():
    found = over_screens(10, ["correlation", "cosine", "rmse", "top20", "top20_all", "correlation_all"], strength=0.25)
    for name in found:
        assert found.loc["true effects", name] == pytest.approx(found.loc["prediction", name], abs=0.05), name


def test_equal_batches_do_not_make_populations_closer():
    found = over_screens(10, ["edistance"], strength=0.3, shift=1.0)
    assert abs(found.loc["second experiment", "edistance"]) < 0.05


def test_a_batch_for_all_changes_nothing(screen):
    adata = screen.copy()
    adata.obs["all"] = "x"
    model = fit("Ridge", screen)
    options = {"protocol": ["core", "cell-eval"], "baselines": ["Mean"]}
    one = pb.tl.evaluate(model, screen, **options).summary()["value"]
    other = pb.tl.evaluate(model, adata, batch_key="all", **options).summary()["value"]
    pd.testing.assert_frame_equal(one, other, rtol=1e-5, atol=1e-6)


def test_given_cells_are_compared_with_controls_of_their_batches():
    adata = gaussian_screen(np.random.default_rng(0), strength=0.3, shift=2.0, n_controls=4000)
    adata.uns.pop("effects")
    test = adata[((adata.obs["pb_split"] == "test") & (adata.obs["perturbation"] != "control")).to_numpy()].copy()
    options = {"scale": "embedding", "batch_key": "batch", "baselines": None, "protocol": ["correlation", "rmse"]}
    found = pb.tl.evaluate(
        test, adata, prediction_kind="cells", prediction_scale="embedding", perturbation_key="perturbation", **options
    )
    assert found.summary()["value"].loc["prediction", "correlation"] > 0.95
    assert found.summary()["value"].loc["prediction", "rmse"] < 0.15


def test_labels_are_read_as_they_are_registered(screen):
    """By the registration, by a copy of the data, and by explicit arguments: all the same; wrong arguments are refused."""
    adata = screen.copy()
    adata.obs["other"] = np.random.default_rng(0).permutation(adata.obs["perturbation"].astype(str))
    model = fit("Ridge", adata)
    options = {"baselines": None, "protocol": ["correlation"]}
    one = pb.tl.evaluate(model, adata, **options).values("correlation")
    pd.testing.assert_frame_equal(one, pb.tl.evaluate(model, adata.copy(), **options).values("correlation"))
    with pytest.raises(LabelError, match="perturbation_key"):
        pb.tl.evaluate(model, adata, perturbation_key="nowhere", **options)
    with pytest.raises(LeakageError):
        pb.tl.evaluate(model, adata, perturbation_key="other", **options)


def test_doses_of_a_registration_are_kept():
    adata = make_screen(n_combinations=1)
    rng = np.random.default_rng(0)
    adata.obs["dose"] = np.where(rng.random(adata.n_obs) < 0.5, 1.0, 0.5).astype(str)
    double = adata.obs["perturbation"].astype(str).str.contains(r"\+").to_numpy()
    adata = adata[~double].copy()
    pb.tl.split(adata, axis="random", dose_key="dose", fraction=0.5)
    model = fit("Ridge", adata, dose_key="dose")
    options = {"baselines": None, "protocol": ["correlation"], "min_cells": 2}
    one = pb.tl.evaluate(model, adata, **options)
    assert one.info["n_perturbations"] == 16
    pd.testing.assert_frame_equal(one.table, pb.tl.evaluate(model, adata.copy(), **options).table)


def test_names_are_of_one_method_each(screen):
    zero = pd.DataFrame(0.0, index=labels_of(screen), columns=screen.var_names)
    for options in (
        {"model": {"Mean": zero}, "baselines": ["Mean"]},
        {"model": {"A": zero}, "references": {"A": zero}},
        {"model": {"A": zero}, "references": {"true effects": zero}},
        {"model": {"second experiment": zero}},
    ):
        model = options.pop("model")
        with pytest.raises(ValueError, match="Rename it"):
            pb.tl.evaluate(model, screen, **{"baselines": None, **options})


def test_a_model_without_its_data_is_marked(screen, tmp_path):
    fit("Ridge", screen).save(str(tmp_path / "model"))
    model = pb.model.Ridge.load(str(tmp_path / "model"), adata=False)
    found = pb.tl.evaluate(model, screen, baselines=None, protocol=["correlation"])
    assert "No record of training cells" in repr(found)


def test_published_protocol_judges_what_was_held_out(screen):
    model = fit("Ridge", screen)
    found = pb.tl.evaluate(model, screen, protocol="sams-vae", baselines=None)
    assert list(found.observed.obs_names) == labels_of(screen)
    with pytest.raises(LabelError, match="expected perturbations with held-out cells"):
        pb.tl.evaluate(model, screen, protocol="sams-vae", perturbations=["P01"])


def test_one_cell_is_too_few(screen):
    few = screen.copy()
    rows = np.flatnonzero(few.obs["perturbation"].astype(str) == labels_of(few)[0])
    few = few[np.setdiff1d(np.arange(few.n_obs), rows[1:])].copy()
    for protocol in ("core", "systema", "cell-eval"):
        with pytest.warns(RuntimeWarning, match="fewer than 2 held-out cells"):
            found = pb.tl.evaluate(fit("Ridge", few), few, baselines=None, protocol=protocol, min_cells=1)
        assert found.info["too_few_cells"] == {labels_of(few)[0]: 1}


def test_few_controls_leave_ceilings_open():
    adata = make_screen(n_controls=60, n_batches=4)
    pb.tl.split(adata, axis="combination", fraction=0.4, control_fraction=0.8)
    with pytest.warns(RuntimeWarning, match="in batches without controls"):
        found = pb.tl.evaluate(fit("Ridge", adata, batch_key="batch"), adata, baselines=None)
    assert found.summary()["value"].loc["Ridge", "correlation"] > 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.iloc[1:], "without"),
        (lambda t: t.where(t > -np.inf).mask(t == t.iloc[0, 0]), "expected finite effects"),
        (lambda t: t.to_numpy(), "expected a table or AnnData"),
    ],
)
def test_bad_known_effects_are_refused(screen, change, match):
    known = screen.uns["truth"]["ate"].loc[labels_of(screen)]
    with pytest.raises((LabelError, TypeError), match=match):
        judge(screen, known, truth=change(known))


def test_predictions_that_contradict_their_scale_are_refused(screen):
    cells = screen[(screen.obs["pb_split"] == "test").to_numpy()].copy()
    cells = cells[(cells.obs["perturbation"] != "control").to_numpy()].copy()
    cells.obs["pb_perturbation"] = cells.obs["perturbation"]
    cells.X = cells.X * 50
    with pytest.raises(ScaleError, match="log1p of counts per 10,000"):
        judge(screen, cells, prediction_kind="cells", prediction_scale="log1p_cp10k")
    counts = cells.X.toarray() if sparse.issparse(cells.X) else cells.X.copy()
    counts[0] = 0
    cells.X = counts
    with pytest.raises(ScaleError, match="1 rows without any"):
        judge(screen, cells, prediction_kind="cells", prediction_scale="counts")


# what an audit found --------------------------------------------------------------------------------------------------


def some_with_few_cells(screen, *, n_few: int, n_cells: int) -> ad.AnnData:
    """The screen with a few cells left of the first held-out perturbations."""
    labels = screen.obs["perturbation"].astype(str).to_numpy()
    drop = np.zeros(len(labels), dtype=bool)
    for name in labels_of(screen)[:n_few]:
        drop[np.flatnonzero(labels == name)[n_cells:]] = True
    return screen[~drop].copy()


def test_scores_over_all_say_what_they_are_made_of(screen):
    adata = some_with_few_cells(screen, n_few=3, n_cells=3)  # halves of three cells are too small
    found = pb.tl.evaluate(fit("Ridge", adata), adata, baselines=["Mean"], min_cells=2, protocol=["core", "cell-eval"])
    n_all = len(labels_of(screen))
    summary = found.summary()
    assert (summary["n"] + summary["n_undefined"] == n_all).all(axis=None)
    row = found.table.query("model == 'Ridge' and metric == 'top20_all'").iloc[0]
    each = found.table.query("model == 'Ridge' and metric == 'top20'")
    assert (row["n"], row["n_undefined"]) == (n_all - 3, 3)
    assert row["n_cells"] == each.loc[each["n"] == 1, "n_cells"].sum() < found.info["n_judging_cells"]
    assert summary["n"].loc["Ridge", "correlation_all"] == n_all
    assert summary["n"].loc["Ridge", "de_spearman_significant"] == summary["n"].loc["Ridge", "de_recall"]
    (text,) = [text for text in found.cautions() if "without a score are left out" in text]
    assert f"r, top 20 of each (3 of {n_all})" in text
    assert "No score of any method: agreement of clusters." in found.cautions()


def test_every_side_of_a_test_has_as_many_cells(monkeypatch):
    """The number of significant genes follows the number of cells; shifted controls are fewer than held-out cells."""
    from perturbia.tl._evaluation import differential

    adata = make_screen(n_controls=60, cells_per_perturbation=150, n_perturbations=5, n_combinations=4)
    rng = np.random.default_rng(0)
    held_out = (adata.obs["pb_split"] == "test").to_numpy() & (adata.obs["perturbation"] != "control").to_numpy()
    cells = adata[rng.permutation(np.flatnonzero(held_out))].copy()
    cells.obs["pb_perturbation"] = cells.obs["perturbation"].astype(str)
    sizes = []
    run = differential._test

    def spy(truth, parts, **options):
        sizes.append([len(part) for part in parts])
        return run(truth, parts, **options)

    monkeypatch.setattr(differential, "_test", spy)
    options = {"protocol": ["overlap_at_n"], "prediction_kind": "cells", "prediction_scale": "counts"}
    found = judge(adata, cells, baselines=["Mean", "NoChange"], **options)
    truth, *predicted = sizes[:4]
    assert truth == predicted[0] == predicted[1] == predicted[2]
    assert max(truth) < 50 < found.observed.obs["n_cells"].min()
    assert found.table.query("model == 'Mean' and metric == 'overlap_at_n'")["n_cells"].tolist() == truth
    few = cells[cells.obs.groupby("pb_perturbation", observed=True).cumcount() < 20].copy()
    sizes.clear()
    found = judge(adata, {"few": few, "all": cells}, baselines=["Mean"], **options)
    assert all(part == [20] * len(labels_of(adata)) for part in sizes[:4])
    assert any("fewer than 30 for" in text for text in found.cautions())


def test_contexts_need_two_controls(contexts):
    """They are named."""
    zero = pd.DataFrame(0.0, index=labels_of(contexts), columns=contexts.var_names)
    controls = np.flatnonzero((contexts.obs["perturbation"] == "control") & (contexts.obs["line"] == "B"))
    for left in (0, 1):
        adata = contexts[np.setdiff1d(np.arange(contexts.n_obs), controls[left:])].copy()
        with pytest.raises(ControlError, match=f"2 control cells or more in context 'B', got {left}"):
            judge(adata, zero, batch_key=None, context_key="line")
    adata = contexts[np.setdiff1d(np.arange(contexts.n_obs), controls[2:])].copy()
    assert judge(adata, zero, batch_key=None, context_key="line").info["controls_shared"]


def test_batches_without_controls_are_counted(screen):
    batch, label = (screen.obs[key].astype(str) for key in ("batch", "perturbation"))
    first = batch.iloc[0]
    adata = screen[~((label == "control") & (batch == first)).to_numpy()].copy()
    with pytest.warns(
        RuntimeWarning, match=r"batch_key: \d+ perturbations have held-out cells in batches without controls"
    ):
        found = judge(adata, pd.DataFrame(0.0, index=labels_of(adata), columns=adata.var_names), protocol=["rmse"])
    alone = (adata.obs["batch"] == first) & (adata.obs["pb_split"] == "test")
    assert found.info["n_unmatched_cells"] == int(alone.sum())
    assert found.info["n_unmatched_perturbations"] == len(labels_of(adata))
    assert any("batches without controls" in text for text in found.cautions())
    train = (adata.obs["batch"] == first) & (adata.obs["pb_split"] == "train")
    assert found.info["n_unmatched_training_cells"] == int(train.sum())
    assert any("training cells are in batches without training controls" in text for text in found.cautions())
    quiet = judge(screen, pd.DataFrame(0.0, index=labels_of(screen), columns=screen.var_names), protocol=["rmse"])
    assert quiet.info["n_unmatched_cells"] == 0


def test_the_digest_is_that_of_the_split(screen, result):
    assert result.info["split_digest"] == screen.uns["pb_split"]["guarantee"]["digest"]
    moved = screen[np.random.default_rng(0).permutation(screen.n_obs)].copy()
    zero = pd.DataFrame(0.0, index=labels_of(screen), columns=screen.var_names)
    assert judge(moved, zero, protocol=["rmse"]).info["split_digest"] == result.info["split_digest"]


@pytest.mark.parametrize("n_genes", [2, 3])
def test_baselines_that_need_more_features_are_left_out(screen, n_genes):
    adata = screen[:, :n_genes].copy()
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    pb.tl.split(adata, axis="random", fraction=0.5)
    found = pb.tl.evaluate(fit("Ridge", adata), adata, n_resamples=20)
    assert ("JamesStein" in found.info["left_out"]) == (n_genes < 3)
    assert found.info["left_out"].get("JamesStein", "three features").count("three features") == 1


def test_too_little_is_refused_by_name(screen):
    zero = pd.DataFrame(0.0, index=labels_of(screen), columns=screen.var_names)
    with pytest.raises(FeatureMismatch, match="adata: expected cells and two features or more, got 0 × 40"):
        judge(screen[:0].copy(), zero)
    with pytest.raises(FeatureMismatch, match="× 1"):
        judge(screen[:, :1].copy(), zero.iloc[:, :1])
    control, train = screen.obs["perturbation"] == "control", screen.obs["pb_split"] != "test"
    rows = np.flatnonzero(control & train)
    for left in (0, 1):
        few = screen[np.setdiff1d(np.arange(screen.n_obs), rows[left:])].copy()
        with pytest.raises(ControlError, match=f"adata: expected at least 2 control cells that train, got {left}"):
            judge(few, zero)


def test_genes_that_repeat_have_to_be_in_order(screen):
    adata = screen.copy()
    adata.var_names = ["g"] * 5 + list(screen.var_names[5:])
    zero = pd.DataFrame(0.0, index=labels_of(screen), columns=adata.var_names)
    assert judge(adata, zero, protocol=["rmse"]).names("model") == ["prediction"]
    with pytest.raises(FeatureMismatch, match="with 'g' more than once"):
        judge(adata, zero.iloc[:, ::-1])


# perfect cells, published formulae --------------------------------------------------------------------------------------


def held_out_cells(adata: ad.AnnData) -> ad.AnnData:
    """The held-out cells themselves as a prediction, in another order."""
    judges = (adata.obs["pb_split"] == "test").to_numpy() & (adata.obs["perturbation"] != "control").to_numpy()
    cells = adata[np.random.default_rng(3).permutation(np.flatnonzero(judges))].copy()
    cells.obs["pb_perturbation"] = cells.obs["perturbation"].astype(str)
    return cells


@pytest.fixture(scope="module")
def perfect() -> pb.tl.EvaluationResult:
    """Held-out cells judged by every measure that reads cells, beside baselines."""
    adata = make_screen(n_combinations=60, n_perturbations=14, n_genes=60, n_controls=400)
    names = [name for name, measure in MEASURES.items() if measure.reads == "cells"]
    return judge(
        adata,
        held_out_cells(adata),
        protocol=names,
        baselines=BASELINES,
        prediction_kind="cells",
        prediction_scale="counts",
        n_resamples=50,
    )


@pytest.mark.parametrize("name", [name for name, measure in MEASURES.items() if measure.reads == "cells"])
def test_held_out_cells_rank_first(perfect, name):
    summary = perfect.summary()
    assert summary["rank"].loc["prediction", name] == 1
    value, best = summary["value"].loc["prediction", name], MEASURES[name].best
    if name == "edistance":  # cells that are the same are nearer than two samples of one distribution
        assert value < best
    elif not np.isclose(value, best, atol=1e-6):
        text = MEASURES[name].description
        group = MEASURES["overlap_at_n"].description if MEASURES[name].tests else text
        assert "short of the best value" in group or name == "clustering"


def test_normalized_scores_do_not_exceed_what_is_perfect(perfect):
    normalized = perfect.summary()["normalized"]
    assert normalized.loc["prediction", "edistance"] == 1
    assert normalized.max().max() <= 1
    assert (normalized.loc["Mean"].dropna() == 0).all()


def test_nothing_is_normalized_by_a_baseline_that_is_perfect_up_to_noise():
    from perturbia.tl._evaluation.summary import _scaled

    values = pd.Series({"model": 0.3, "Mean": -0.05})
    assert _scaled(values, best=0.0, higher=False).isna().all()
    assert _scaled(values, best=0.0, higher=True)["model"] == pytest.approx(7.0)


def perturbench(means: pd.DataFrame, control: np.ndarray) -> pd.DataFrame:
    """Log fold changes as PerturBench aggregates them: of means of log1p values."""
    change = np.log2(means + 0.1) - np.log2(control + 0.1)
    return change.fillna(0.0).replace([np.inf, -np.inf], 0)


def test_perturbench_by_its_formulae(screen):
    cells = held_out_cells(screen)
    names = labels_of(screen)
    following = dict(zip(names, np.roll(names, 1), strict=True))
    cells.obs["pb_perturbation"] = [following[name] for name in cells.obs["pb_perturbation"]]  # cells of another
    found = judge(
        screen, cells, protocol="perturbench", prediction_kind="cells", prediction_scale="counts", baselines=["Mean"]
    )
    log = pd.DataFrame(pb.stats.log1p_cp10k(screen.X).toarray().astype(float), index=screen.obs_names)
    true = log.loc[cells.obs_names].groupby(cells.obs["perturbation"].astype(str).to_numpy()).mean().loc[names]
    predicted = log.loc[cells.obs_names].groupby(cells.obs["pb_perturbation"].to_numpy()).mean().loc[names]
    control, part = screen.obs["perturbation"] == "control", screen.obs["pb_split"]
    one = perturbench(true, log[(control & (part == "test")).to_numpy()].mean().to_numpy())
    other = perturbench(predicted, log[(control & (part == "train")).to_numpy()].mean().to_numpy())
    cosine = np.array(
        [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in one.to_numpy()] for x in other.to_numpy()]
    )
    rmse = np.sqrt(((predicted.to_numpy()[:, None] - true.to_numpy()[None]) ** 2).mean(-1))
    n = len(names)
    for name, expected in (
        ("rmse_means", rmse.diagonal()),
        ("cosine_logfc", cosine.diagonal()),
        ("rmse_means_rank", 1 - (rmse < rmse.diagonal()).sum(0) / (n - 1)),
        ("cosine_logfc_rank", 1 - (cosine > cosine.diagonal()).sum(0) / (n - 1)),
    ):
        np.testing.assert_allclose(found.values(name)["prediction"], expected, atol=2e-5, err_msg=name)
    assert found.values("rmse_means_rank")["Mean"].to_numpy() == pytest.approx(0.5, abs=0.5)


def test_log_fold_changes_need_counts():
    adata = gaussian_screen(np.random.default_rng(0), strength=0.3)
    truth = adata.uns.pop("effects")
    found = pb.tl.evaluate(truth, adata, scale="embedding", protocol="perturbench", baselines=["NoChange"])
    assert found.summary()["value"][["cosine_logfc", "cosine_logfc_rank"]].isna().all(axis=None)
    assert any("No score of any method: cosine of log fold changes" in text for text in found.cautions())


def test_the_challenge_has_three_scores(screen):
    found = pb.tl.evaluate(fit("Ridge", screen), screen, protocol="vcc", baselines=["Mean"])
    assert list(found.metrics.index) == ["mae_means", "discrimination_l1", "overlap_at_n"]


def test_other_numbers_of_genes(screen):
    found = pb.tl.evaluate(fit("Ridge", screen), screen, protocol=["top20", "top50", "jaccard50"], baselines=None)
    value = found.summary()["value"].loc["Ridge"]
    whole = pb.tl.evaluate(fit("Ridge", screen), screen, protocol=["top100"], baselines=None).summary()["value"]
    assert value["top50"] == pytest.approx(whole.loc["Ridge", "top100"])  # there are 40 genes
    assert value["top20"] != value["top50"]
    assert found.summary()["value"].loc["true effects", "top20"] > 0


def test_spread_over_perturbations_and_the_split_are_told(result):
    summary, values = result.summary(), result.values("rmse")["Ridge"]
    for statistic, quantile in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
        assert summary[statistic].loc["Ridge", "rmse"] == pytest.approx(values.quantile(quantile))
    assert summary["median"]["r2_all"].isna().all()
    assert (result.table["split"] == "pb_split").all()
