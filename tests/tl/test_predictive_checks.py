"""Posterior predictive checks: a model's own data pass, data of another likelihood fail where they should."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

import perturbia as pb
from perturbia.errors import ControlError, LabelError, NotTrainedError, ScaleError, SplitError, UnsupportedQuery
from perturbia.stats import energy_distance
from perturbia.tl import PredictiveCheck, posterior_predictive_check
from perturbia.tl._predictive_statistics import SHIPPED, StatisticSet
from perturbia.tl._replicate_band import ReplicateBand, least_replicates

QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}


def train(adata, *, likelihood="nb", max_steps=150, **setup):
    setup = {"perturbation_key": "perturbation", "size_factor_key": "size", **setup}
    pb.model.SAMSVAE.setup_anndata(adata, **setup)
    model = pb.model.SAMSVAE(adata, n_latent=3, n_hidden=16, gene_likelihood=likelihood)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_steps=max_steps, batch_size=128, **QUIET)
    return model


def make_screen(**changes):
    options = {
        "n_perturbations": 4,
        "n_combinations": 2,
        "n_genes": 40,
        "n_latent": 2,
        "cells_per_perturbation": 40,
        "n_controls": 100,
        "n_truth_cells": 20,
        **changes,
    }
    screen = pb.datasets.simulate_screen(**options)
    screen.layers.clear()
    screen.obs["size"] = np.asarray(screen.X.sum(1)).ravel()
    return screen


@pytest.fixture(scope="module")
def model():
    """A trained model; its size factors are registered, so that its own draws are exchangeable with its data."""
    return train(make_screen())


def own_data(model, seed, *, basal="prior"):
    """A screen that the model drew."""
    out = make_screen()
    out.X = model.posterior_predictive_sample(basal=basal, seed=seed)
    return out


# the draws ---------------------------------------------------------------------------------------------------------


def test_a_sample_has_the_design_and_the_seed_decides(model):
    first, again, other = (model.posterior_predictive_sample(seed=seed) for seed in (1, 1, 2))
    assert sp.issparse(first)
    assert first.shape == model.adata.shape
    assert first.dtype == np.float32
    assert (first.data == np.floor(first.data)).all()
    assert (first != again).nnz == 0
    assert (first != other).nnz > 0
    # totals follow the size factors
    total, size = np.asarray(first.sum(1)).ravel(), model.adata.obs["size"].to_numpy()
    assert abs(np.log(total / size).mean()) < 0.1


def test_samples_of_several_replicates_and_of_cells_in_any_order(model):
    three = model.posterior_predictive_sample(indices=[7, 3, 5, 4], n_samples=3, basal="prior")
    assert three.shape == (4, 40, 3)
    assert len(np.unique(three.reshape(-1, 3), axis=1).T) == 3
    sizes = model.adata.obs["size"].to_numpy()[[7, 3, 5, 4]]
    many = model.posterior_predictive_sample(indices=[7, 3, 5, 4], n_samples=200)
    ratio = many.sum(1).mean(-1) / sizes
    np.testing.assert_allclose(ratio, 1, atol=0.15)
    with pytest.raises(ValueError, match="once"):
        model.posterior_predictive_sample(indices=[3, 3])
    with pytest.raises(ValueError, match="basal"):
        model.posterior_predictive_sample(basal="guide")
    with pytest.raises(ValueError, match="n_samples"):
        model.posterior_predictive_sample(n_samples=0)


def test_the_random_state_of_the_user_is_left_alone(model):
    import torch

    before = torch.get_rng_state()
    model.posterior_predictive_sample(indices=range(5))
    assert torch.equal(before, torch.get_rng_state())


def test_mean_of_prior_samples_is_that_of_the_prior_effects(model):
    chosen = np.flatnonzero((model.adata.obs["perturbation"] == "P01").to_numpy())
    drawn = np.mean(
        [model.posterior_predictive_sample(indices=chosen, basal="prior", seed=s).mean(0) for s in range(40)], 0
    )
    expected = np.asarray(model.sample("P01", 2000, library_size=1.0, seed=0).X).mean(0)
    drawn = np.asarray(drawn).ravel()
    # `sample` at library size 1 gives proportions, in expectation
    assert np.corrcoef(drawn, expected)[0, 1] > 0.9


# the band ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [19, 50, 99, 100])
def test_band_and_p_value_are_those_of_all_replicates(n):
    rng = np.random.default_rng(n)
    replicates, observed = rng.normal(size=(n, 30)), rng.normal(scale=2, size=30)
    replicates[:, :5] = np.round(replicates[:, :5])
    observed[:5] = np.round(observed[:5])
    band = ReplicateBand(observed, n_replicates=n, level=0.9)
    for one in replicates:
        band.add(one)
    columns = band.columns()
    np.testing.assert_allclose(columns["rep_mean"], replicates.mean(0))
    np.testing.assert_allclose(columns["rep_low"], np.quantile(replicates, 0.05, axis=0, method="weibull"))
    np.testing.assert_allclose(columns["rep_high"], np.quantile(replicates, 0.95, axis=0, method="weibull"))
    upper = (1 + (replicates >= observed).sum(0)) / (n + 1)
    lower = (1 + (replicates <= observed).sum(0)) / (n + 1)
    np.testing.assert_allclose(columns["p_value"], np.minimum(1, 2 * np.minimum(upper, lower)))


def test_an_exchangeable_replicate_lies_in_the_band_at_its_level():
    assert least_replicates(0.9) == 19
    draws = np.random.default_rng(0).normal(size=(40, 40_000))
    band = ReplicateBand(draws[0], n_replicates=39)
    for one in draws[1:]:
        band.add(one)
    columns = band.columns()
    inside = (draws[0] >= columns["rep_low"]) & (draws[0] <= columns["rep_high"])
    assert abs(inside.mean() - 0.9) < 0.006  # four standard errors
    assert abs((columns["p_value"] <= 0.1).mean() - 0.1) < 0.006


# the statistics ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(3)
    counts = rng.negative_binomial(1.0, 0.2, (60, 6)).astype(np.float32)
    counts[:, 5] = 0
    counts[30:50, 4] += 60
    counts[50:, 3] += 80
    counts[0] = 0  # a cell without any count, as a replicate may hold
    return counts, np.repeat([0, 1, 2], [30, 20, 10]), np.array(["control", "A", "B"])


def statistic(small, name, **options):
    counts, codes, groups = small
    options = {"n_top_genes": 3, "n_comps": 2, **options}
    genes = np.array([f"g{i}" for i in range(counts.shape[1])])
    options.setdefault("batch", np.zeros(len(codes), dtype=int))
    out = StatisticSet(
        sp.csr_matrix(counts), codes=codes, groups=groups, genes=genes, statistics=[name], is_counts=True, **options
    )
    return out.observed[name], out.names[name]


def logs_of(counts):
    total = counts.sum(1, keepdims=True)
    return np.log1p(1e4 * np.divide(counts, total, out=np.zeros_like(counts), where=total > 0))


def test_statistics_of_genes_are_those_written_out(small):
    counts, codes, _ = small
    logs = logs_of(counts)
    ate, (perturbation, gene) = statistic(small, "ate")
    np.testing.assert_allclose(
        ate.reshape(2, 6), [logs[codes == i].mean(0) - logs[codes == 0].mean(0) for i in (1, 2)], atol=1e-5
    )
    assert perturbation.tolist() == ["A"] * 6 + ["B"] * 6
    assert gene.tolist()[:3] == ["g0", "g1", "g2"]
    zeros, (groups, _) = statistic(small, "zero_fraction")
    np.testing.assert_allclose(zeros.reshape(3, 6), [(counts[codes == i] == 0).mean(0) for i in range(3)], atol=1e-6)
    assert pd.unique(groups).tolist() == ["control", "A", "B"]
    ratio = statistic(small, "variance_mean_ratio")[0].reshape(3, 6)
    expected = [counts[codes == i, :5].var(0, ddof=1) / counts[codes == i, :5].mean(0) for i in range(3)]
    np.testing.assert_allclose(ratio[:, :5], expected, rtol=1e-5)
    np.testing.assert_array_equal(ratio[:, 5], 1.0)
    one = np.zeros(50)
    one[7] = 1
    assert one.var(ddof=1) / one.mean() == pytest.approx(1.0)  # why an absent gene has the ratio 1


@pytest.mark.filterwarnings("ignore:batch_key")
@pytest.mark.parametrize("blind", [False, True])
def test_effects_are_those_of_tl_effects_within_batches(small, blind):
    counts, codes, groups = small
    batch = np.random.default_rng(0).integers(0, 3, len(codes))
    if blind:
        batch[(codes == 0) & (batch == 2)] = 1  # a batch without controls
    counts = counts[1:]  # the first cell has no counts, which tl.effects refuses
    codes, batch = codes[1:], batch[1:]
    ate = statistic((counts, codes, groups), "ate", batch=batch)[0].reshape(2, 6)
    obs = pd.DataFrame({"perturbation": groups[codes], "batch": batch.astype(str)}, index=map(str, range(len(codes))))
    expected = pb.tl.effects(ad.AnnData(sp.csr_matrix(counts), obs=obs), batch_key="batch")
    np.testing.assert_allclose(ate, expected.X, atol=1e-5)


def test_statistics_of_groups_are_those_written_out(small):
    counts, codes, _ = small
    logs, total = logs_of(counts), counts.sum(1)
    np.testing.assert_allclose(statistic(small, "library_size")[0], [total[codes == i].mean() for i in range(3)])
    spread = [total[codes == i].std(ddof=1) / total[codes == i].mean() for i in range(3)]
    np.testing.assert_allclose(statistic(small, "library_spread")[0], spread, rtol=1e-6)
    expected = []
    for i in (1, 2):
        p = stats.ttest_ind(logs[codes == i, :5], logs[codes == 0, :5], equal_var=False).pvalue
        expected.append((stats.false_discovery_control(np.r_[p, 1.0]) < 0.05).sum())
    np.testing.assert_array_equal(statistic(small, "n_de_genes")[0], expected)
    assert sum(expected) > 0


def test_distances_and_correlations_are_those_written_out(small):
    counts, codes, _ = small
    logs = logs_of(counts).astype(np.float64)
    distance = statistic(small, "edistance", n_comps=5)[0]  # all that vary: a rotation of the data
    np.testing.assert_allclose(
        distance, [energy_distance(logs[codes == i], logs[codes == 0]) for i in (1, 2)], rtol=1e-4
    )
    values, (where, pairs) = statistic(small, "gene_correlation", n_top_genes=6)
    full = np.corrcoef(logs[:, :5].T)
    left, right = np.triu_indices(6, 1)
    expected = [full[i, j] if j < 5 else 0.0 for i, j in zip(left, right, strict=True)]
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert pairs[0] == "g0|g1"
    assert set(where) == {"all"}


# the check ---------------------------------------------------------------------------------------------------------


def test_own_data_pass(model):
    check = posterior_predictive_check(model, own_data(model, 99), n_replicates=59)
    assert list(check.summary.index) == list(SHIPPED)
    coverage = check.summary["coverage"]
    # entries share cells and effects: the exact level needs many data sets, as in the slow test
    assert coverage["ate"] > 0.8
    assert coverage["variance_mean_ratio"] > 0.82
    assert (coverage > 0.6).all()


@pytest.mark.slow
def test_coverage_of_own_data_is_nominal(model):
    """Of new cells only: draws from the guide pass through the guide again and are no equals of what it has seen."""
    runs = [
        posterior_predictive_check(model, own_data(model, seed), n_replicates=39).summary for seed in range(100, 125)
    ]
    coverage = pd.concat([run["coverage"] for run in runs], axis=1).mean(axis=1)
    for name in ("ate", "variance_mean_ratio", "gene_correlation", "edistance"):
        assert abs(coverage[name] - 0.9) < 0.04, (name, coverage[name])
    assert coverage["zero_fraction"] > 0.9  # discrete: ties lie inside


def test_zeros_beyond_the_likelihood_fail_zero_fraction(model):
    inflated = own_data(model, 5)
    keep = np.random.default_rng(0).random(inflated.shape) > 0.3
    inflated.X = sp.csr_matrix(inflated.X.toarray() * keep)
    check = posterior_predictive_check(model, inflated, statistics=["zero_fraction", "variance_mean_ratio"])
    assert check.summary.loc["zero_fraction", "above"] > 0.5
    clean = posterior_predictive_check(model, own_data(model, 5), statistics=["zero_fraction"])
    assert clean.summary.loc["zero_fraction", "above"] < 0.1


def test_dispersion_beyond_the_likelihood_fails_the_variance_only():
    poisson = train(make_screen(concentration=1.0), likelihood="poisson")
    names = ["variance_mean_ratio", "library_size"]
    check = posterior_predictive_check(poisson, statistics=names, n_replicates=39)
    assert check.summary.loc["variance_mean_ratio", "above"] > 0.5
    assert check.summary.loc["library_size", "coverage"] == 1.0


def test_the_posterior_of_a_cell_hides_what_the_prior_shows():
    """Two kinds of cells, which no Gaussian prior has: the guide puts every cell right, new cells are wrong."""
    screen = make_screen()
    X, kind = screen.X.toarray(), np.random.default_rng(0).random(screen.n_obs) < 0.5
    halves = np.array_split(np.arange(screen.n_vars), 2)
    X[np.ix_(kind, halves[0])] *= 20
    X[np.ix_(~kind, halves[1])] *= 20
    screen.X = sp.csr_matrix(X)
    screen.obs["size"] = X.sum(1)
    model = train(screen, max_steps=300)
    share = {
        basal: posterior_predictive_check(
            model, statistics=["gene_correlation"], n_replicates=39, basal=basal
        ).summary.loc["gene_correlation", "coverage"]
        for basal in ("prior", "posterior")
    }
    assert share["posterior"] > share["prior"] + 0.2, share


def test_table_and_repr_say_what_was_done(model):
    check = posterior_predictive_check(model, statistics=["ate", "library_size"], n_replicates=19, seed=4)
    assert isinstance(check, PredictiveCheck)
    table = check.table
    assert list(table) == [
        "statistic",
        "perturbation",
        "gene",
        "observed",
        "rep_mean",
        "rep_low",
        "rep_high",
        "p_value",
    ]
    assert (table["rep_low"] <= table["rep_high"]).all()
    assert table["p_value"].between(0.1, 1).all()
    outside = (table["observed"] < table["rep_low"]) | (table["observed"] > table["rep_high"])
    np.testing.assert_allclose(check.summary["coverage"], 1 - outside.groupby(table["statistic"], observed=True).mean())
    assert "19 replicates" in repr(check)
    assert "ate" in repr(check)
    assert "<table" in check._repr_html_()
    again = posterior_predictive_check(model, statistics=["ate", "library_size"], n_replicates=19, seed=4)
    pd.testing.assert_frame_equal(again.table, table)
    other = posterior_predictive_check(model, statistics=["ate", "library_size"], n_replicates=19, seed=5)
    assert not np.array_equal(other.table["rep_mean"], table["rep_mean"])


def test_it_says_where_a_right_model_does_not_show_the_level(model):
    """Given the totals of the data, replicates hold them, and add the noise of counts to them."""
    given = train(make_screen(), size_factor_key=None)
    names = ["library_size", "library_spread", "zero_fraction", "ate"]
    own = make_screen()
    own.X = given.posterior_predictive_sample(basal="prior", seed=3)
    check = posterior_predictive_check(given, own, statistics=names, n_replicates=39)
    assert check.library_given
    assert check.summary.loc["library_size", "coverage"] == 1
    table = check.table.set_index("statistic")
    spread = table.loc["library_spread"]
    assert (spread["rep_mean"] > spread["observed"]).all()
    for text in (repr(check), check._repr_html_()):
        for name, start in (("library_size", "all"), ("library_spread", "less"), ("zero_fraction", "90 % or more")):
            assert f"{name}: {start}" in text
        assert "(ate:" not in text
    registered = posterior_predictive_check(model, statistics=names, n_replicates=19)
    assert not registered.library_given
    assert "(library" not in repr(registered)
    assert "(zero_fraction: 90 % or more" in repr(registered)


def test_a_function_is_a_statistic(model):
    def top_count(X, labels):
        assert len(labels) == X.shape[0]
        return float(X.max())

    def mean_count(X, labels):
        return np.asarray(X.mean(0)).ravel()

    def group_max(X, labels):
        codes, names = pd.factorize(labels, sort=True)
        return pd.DataFrame(
            [X[codes == i].max(0).toarray().ravel() for i in range(len(names))], index=names, columns=range(X.shape[1])
        )

    check = posterior_predictive_check(model, statistics=[top_count, mean_count, group_max], n_replicates=19)
    assert check.summary["n"].to_dict() == {"top_count": 1, "mean_count": 40, "group_max": 7 * 40}
    row = check.table.set_index(["statistic", "perturbation", "gene"]).loc[("group_max", "P01", "0")]
    cells = model.adata[model.adata.obs["perturbation"] == "P01"]
    assert row["observed"] == cells.X.toarray()[:, 0].max()
    with pytest.raises(ValueError, match="NaN"):
        posterior_predictive_check(model, statistics=[lambda X, labels: np.nan], n_replicates=19)
    with pytest.raises(ValueError, match="shape"):
        posterior_predictive_check(model, statistics=[lambda X, labels: np.zeros(3)], n_replicates=19)
    with pytest.raises(ValueError, match="distinct"):
        posterior_predictive_check(model, statistics=[top_count, top_count])


def test_cells_and_perturbations_can_be_chosen(model):
    names = ["ate"]
    some = posterior_predictive_check(model, statistics=names, perturbations=["P02", "P01"], n_replicates=19)
    assert set(some.table["perturbation"]) == {"P01", "P02"}
    adata = make_screen()
    pb.tl.split(adata, fraction=0.5)
    held = posterior_predictive_check(model, adata, statistics=names, split="test", n_replicates=19)
    by_hand = np.flatnonzero(adata.obs["pb_split"] == "test")
    same = posterior_predictive_check(model, adata, statistics=names, indices=by_hand[::-1], n_replicates=19)
    pd.testing.assert_frame_equal(held.table, same.table)
    assert held.n_cells == len(by_hand)
    assert posterior_predictive_check(
        model, adata, statistics=names, perturbations=["P01"], n_replicates=19
    ).n_cells == int(adata.obs["perturbation"].isin(["control", "P01"]).sum())


def test_features_that_are_no_counts():
    screen = make_screen()
    screen.X = np.log1p(screen.X.toarray())
    model = train(screen, likelihood="normal", scale="log1p_cp10k", size_factor_key=None, max_steps=100)
    check = posterior_predictive_check(model, n_replicates=19)
    assert list(check.summary.index) == ["ate", "gene_correlation", "n_de_genes", "edistance"]
    with pytest.raises(ScaleError, match="counts"):
        posterior_predictive_check(model, statistics=["zero_fraction"])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"statistics": ["variance"]}, ValueError, "statistics"),
        ({"statistics": []}, ValueError, "statistics: expected functions or names among .*, got none"),
        ({"seed": -1}, ValueError, "seed: expected a whole number"),
        ({"n_replicates": 18}, ValueError, "19"),
        ({"n_replicates": 50.0}, ValueError, "n_replicates"),
        ({"n_top_genes": 0}, ValueError, "n_top_genes"),
        ({"basal": "guide"}, ValueError, "basal"),
        ({"split": "test"}, SplitError, "pb_split"),
        ({"split": "train", "indices": [1]}, SplitError, "either"),
        ({"indices": []}, ValueError, "indices"),
        ({"indices": [10**6]}, IndexError, "indices"),
        ({"perturbations": ["nothing"]}, KeyError, "query"),
        ({"perturbations": ["P01+P02+P03"]}, LabelError, "two cells"),
    ],
)
def test_bad_arguments(model, arguments, error, match):
    with pytest.raises(error, match=match):
        posterior_predictive_check(model, **arguments)


def test_cells_that_can_not_be_checked(model):
    labels = model.adata.obs["perturbation"].to_numpy()
    with pytest.raises(ControlError):
        posterior_predictive_check(model, indices=labels != "control")
    with pytest.raises(LabelError):
        posterior_predictive_check(model, indices=labels == "control")


def test_models_that_can_not_be_checked():
    screen = make_screen()
    pb.model.Mean.setup_anndata(screen, perturbation_key="perturbation")
    mean = pb.model.Mean(screen)
    mean.train()
    with pytest.raises(UnsupportedQuery, match="Mean"):
        posterior_predictive_check(mean)
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    with pytest.raises(NotTrainedError):
        posterior_predictive_check(pb.model.SAMSVAE(screen))
