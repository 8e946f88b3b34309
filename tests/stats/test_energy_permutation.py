from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import binom, kstest
from statsmodels.stats.multitest import multipletests

from perturbia.stats import energy_distance, energy_test, holm_sidak


@pytest.fixture
def screen():
    """Two null groups, one shifted, one with another spread; two batches."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["control", "null", "shifted", "wide"], [70, 40, 30, 35])
    X = rng.normal(size=(175, 5))
    X[labels == "shifted"] += 1
    X[labels == "wide"] *= 2.5
    shuffled = rng.permutation(175)
    return X[shuffled], labels[shuffled], rng.choice(["x", "y"], 175)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("block_size", [13, 512])
@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_statistic_is_the_energy_distance(screen, metric, unbiased, block_size, container):
    X, labels, batch = screen
    options = {"metric": metric, "unbiased": unbiased}
    test = energy_test(
        container(X), labels, reference="control", strata=batch, n_permutations=5, block_size=block_size, **options
    )
    expected = [energy_distance(X[labels == g], X[labels == "control"], **options) for g in test.groups]
    np.testing.assert_allclose(test.statistic, expected, atol=1e-10)


def enumerated(X, n, unbiased):
    """Exact p-value over all ways to choose n of the cells; the observed group comes first."""
    cells = np.arange(len(X))
    values = []
    for chosen in combinations(cells, n):
        inside = np.isin(cells, chosen)
        values.append(energy_distance(X[inside], X[~inside], unbiased=unbiased))
    return np.mean(np.array(values) >= values[0] - 1e-9)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1.2])
def test_p_value_is_that_of_the_enumeration(unbiased, shift):
    rng = np.random.default_rng(4)
    X = rng.normal(size=(9, 2))
    X[:4] += shift
    labels = ["p"] * 4 + ["c"] * 5
    exact = enumerated(X, 4, unbiased)
    for dtype in (np.float64, np.float32):
        test = energy_test(X.astype(dtype), labels, reference="c", unbiased=unbiased, n_permutations=20_000)
        assert test.p_value[0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_permutations_stay_within_strata():
    """Two of three cells of one stratum and one of three of the other: nine permutations, enumerated."""
    X = np.array([[0.0], [1.0], [4.0], [10.0], [11.0], [14.0]])
    chosen = [0, 1, 3]
    labels = np.where(np.isin(np.arange(6), chosen), "p", "c")
    values = [
        energy_distance(X[[*pair, one]], np.delete(X, [*pair, one], axis=0))
        for pair in combinations(range(3), 2)
        for one in (3, 4, 5)
    ]
    observed = energy_distance(X[chosen], np.delete(X, chosen, axis=0))
    exact = np.mean(np.array(values) >= observed - 1e-9)
    test = energy_test(X, labels, reference="c", strata=[0, 0, 0, 1, 1, 1], n_permutations=20_000)
    assert test.p_value[0] == pytest.approx(exact, abs=0.015)
    free = energy_test(X, labels, reference="c", n_permutations=20_000)
    assert abs(free.p_value[0] - exact) > 0.05


def test_finds_shift_and_spread_and_adjusts(screen):
    X, labels, batch = screen
    test = energy_test(X, labels, reference="control", strata=batch)
    assert list(test.groups) == ["null", "shifted", "wide"]
    assert test.p_value[0] > 0.05
    np.testing.assert_allclose(test.p_value[1:], 1 / 1001)
    np.testing.assert_allclose(test.p_adjusted, multipletests(test.p_value, method="holm-sidak")[1])
    np.testing.assert_array_equal(test.count, [40, 30, 35])
    np.testing.assert_array_equal(test.n_reference, 70)
    means_only = energy_test(X, labels, reference="control", metric="sqeuclidean")
    assert means_only.p_value[2] > 0.05
    assert repr(test) == (
        "EnergyTest: 3 groups against 'control', 2 with adjusted p < 0.05, 1000 permutations, unbiased, euclidean"
    )


def test_same_seed_same_result_and_chunks_of_permutations_keep_the_statistic(screen, monkeypatch):
    X, labels, _ = screen
    first, second = (energy_test(X, labels, reference="control", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.p_value, second.p_value)
    assert (energy_test(X, labels, reference="control", seed=4).p_value != first.p_value).any()
    monkeypatch.setattr("perturbia.stats.energy_permutation._ASSIGNMENTS", 5000)
    chunked = energy_test(X, labels, reference="control", seed=3)
    np.testing.assert_allclose(chunked.statistic, first.statistic)
    np.testing.assert_allclose(chunked.p_value, first.p_value, atol=0.06)


def test_scale_of_the_data_does_not_matter(screen):
    X, labels, _ = screen
    first = energy_test(X, labels, reference="control")
    second = energy_test(1000 * X + 7, labels, reference="control")
    np.testing.assert_array_equal(first.p_value, second.p_value)


@pytest.mark.parametrize(("max_reference", "expected"), [("match", [40, 30, 35]), (50, [50] * 3), (500, [70] * 3)])
def test_reference_cells_are_drawn(screen, max_reference, expected):
    X, labels, batch = screen
    test = energy_test(X, labels, reference="control", strata=batch, max_reference=max_reference, n_permutations=200)
    np.testing.assert_array_equal(test.n_reference, expected)
    np.testing.assert_array_equal(test.p_adjusted < 0.05, [False, True, True])


def test_identical_cells_are_no_evidence():
    test = energy_test(np.ones((12, 3), dtype=np.float32), ["p"] * 5 + ["c"] * 7, reference="c", n_permutations=50)
    assert test.p_value[0] == 1


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_distance_is_that_of_strata_that_hold_both(unbiased):
    """Batches alone differ; a third of the group has no control beside it, and some controls have no cell of it."""
    rng = np.random.default_rng(6)
    labels = np.repeat(["p", "q", "c"], [30, 20, 60])
    batch = np.r_[np.repeat(["x", "y"], [20, 10]), np.full(20, "x"), np.repeat(["x", "z"], 30)]
    X = rng.normal(size=(110, 4)) + 4 * (batch == "y")[:, None] - 4 * (batch == "z")[:, None]
    with pytest.warns(RuntimeWarning, match="strata: 1 groups have cells in strata without reference cells, 10 in all"):
        test = energy_test(X, labels, reference="c", strata=batch, unbiased=unbiased, n_permutations=199)
    in_x = batch == "x"
    expected = [
        energy_distance(X[in_x & (labels == g)], X[in_x & (labels == "c")], unbiased=unbiased) for g in test.groups
    ]
    np.testing.assert_allclose(test.statistic, expected, atol=1e-10)
    np.testing.assert_array_equal(test.count, [20, 20])
    np.testing.assert_array_equal(test.n_reference, [30, 30])
    np.testing.assert_array_equal(test.n_unmatched, [10, 0])
    assert (test.p_value > 0.01).all()


def test_one_reference_cell_in_common_has_no_unbiased_distance():
    X = np.random.default_rng(0).normal(size=(9, 2))
    labels, strata = ["p"] * 4 + ["c"] * 5, ["x"] * 5 + ["y"] * 4
    with pytest.warns(RuntimeWarning, match="1 groups have one cell"):
        test = energy_test(X, labels, reference="c", strata=strata, n_permutations=20)
    assert np.isnan([test.statistic[0], test.p_value[0]]).all()
    biased = energy_test(X, labels, reference="c", strata=strata, n_permutations=20, unbiased=False)
    assert biased.statistic[0] == pytest.approx(energy_distance(X[:4], X[4:5], unbiased=False))


def test_groups_that_can_not_be_tested_are_nan_with_warning():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(31, 3))
    labels = np.repeat(["one", "apart", "p", "c"], [1, 5, 10, 15])
    batch = np.where(labels == "apart", "z", "x")
    with (
        pytest.warns(RuntimeWarning, match="2 groups have one cell or share no stratum"),
        pytest.warns(RuntimeWarning, match="strata: 1 groups .* 5 in all"),
    ):
        test = energy_test(X, labels, reference="c", strata=batch, n_permutations=99)
    assert list(test.groups) == ["apart", "one", "p"]
    np.testing.assert_array_equal(np.isnan(test.p_value), [True, True, False])
    np.testing.assert_array_equal(np.isnan(test.statistic), [True, True, False])
    np.testing.assert_array_equal(test.count, [0, 1, 10])
    np.testing.assert_array_equal(test.n_unmatched, [5, 0, 0])
    # the others are no tests to adjust for; 1 - (1 - p) rounds
    assert test.p_adjusted[2] == pytest.approx(test.p_value[2], rel=1e-12)


def test_holm_sidak_by_hand():
    p = np.array([0.03, 0.01, np.nan, 0.02])
    first, second, third = 1 - 0.99**3, 1 - 0.98**2, 0.03
    np.testing.assert_allclose(holm_sidak(p), [max(second, third), first, np.nan, max(first, second)])
    assert np.isnan(holm_sidak(np.array([np.nan]))).all()


CELLS = np.arange(12.0).reshape(6, 2)
PAIR = ["c", "c", "c", "p", "p", "p"]


@pytest.mark.parametrize(
    ("X", "labels", "options", "match"),
    [
        (CELLS, PAIR[:5], {}, "labels: expected one label a row"),
        (CELLS, ["p"] * 6, {}, "reference: expected one of the 1 groups"),
        (CELLS, ["c"] * 6, {}, "labels: expected 2 reference cells and a group besides"),
        (CELLS, ["c", *["p"] * 5], {}, "labels: expected 2 reference cells"),
        (CELLS * np.nan, PAIR, {}, "X: expected finite"),
        (CELLS, PAIR, {"strata": [0, 1]}, "strata: expected one label a row"),
        (CELLS, PAIR, {"strata": [0, 1, None, 0, 1, 1]}, "strata: expected a label for every row"),
        (CELLS, PAIR, {"metric": "cosine"}, "metric: expected 'euclidean' or 'sqeuclidean'"),
        (CELLS, PAIR, {"n_permutations": 0}, "n_permutations, block_size: expected positive"),
        (CELLS, PAIR, {"max_reference": 1}, "max_reference: expected None, 'match' or a number"),
        (CELLS, PAIR, {"max_reference": "all"}, "max_reference: expected None, 'match' or a number"),
    ],
)
def test_bad_input(X, labels, options, match):
    with pytest.raises(ValueError, match=match):
        energy_test(X, labels, **{"reference": "c", **options})


# cells of the perturbation and of the control in each batch; the table in the documentation has the same cases
NULL_CASES = [([40], [40]), ([15], [120]), ([30, 8, 2], [4, 12, 24]), ([10, 4, 1], [20, 40, 60])]


def null_p_values(treated, control, *, replicates, stratified=True):
    """P-values of independent replicates in which only the batch tells cells apart."""
    batch = np.r_[np.repeat(np.arange(len(treated)), treated), np.repeat(np.arange(len(control)), control)]
    labels = np.repeat(["p", "c"], [sum(treated), sum(control)])
    values = np.empty(replicates)
    for k in range(replicates):
        rng = np.random.default_rng([11, k])
        X = rng.standard_t(5, size=(len(batch), 10)) + rng.normal(0, 1.5, size=(len(treated), 10))[batch]
        strata = batch if stratified else None
        test = energy_test(X.astype(np.float32), labels, reference="c", strata=strata, n_permutations=999, seed=k)
        values[k] = test.p_value[0]
    return values


@pytest.mark.slow
@pytest.mark.parametrize(("treated", "control"), NULL_CASES)
def test_type_one_error_is_nominal(treated, control):
    values = null_p_values(treated, control, replicates=1000)
    for level in (0.01, 0.05):
        low, high = binom.ppf([0.005, 0.995], 1000, level) / 1000
        assert low <= (values <= level).mean() <= high
    assert kstest(values, "uniform").pvalue > 0.001


def test_without_strata_batches_are_found_instead():
    ignored = null_p_values(*NULL_CASES[3], replicates=30, stratified=False)
    heeded = null_p_values(*NULL_CASES[3], replicates=30)
    assert (ignored <= 0.05).mean() > 0.5
    assert (heeded <= 0.05).mean() < 0.3
