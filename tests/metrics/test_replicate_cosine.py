"""Consistency of replicates: closed form, nulls, and distributions of cosines."""

from __future__ import annotations

import itertools
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.metrics import ReplicateConsistency, replicate_consistency
from perturbia.metrics._distribution_gap import distribution_gap
from perturbia.metrics._replicate_pairs import different_pairs
from perturbia.metrics._row_order import content_order


def screen(seed=0, *, n=20, d=15, low=2, high=6, n_batches=3, n_controls=30, scale=0.0, offset=0.0):
    """Values, labels and batches of a screen with unequal replicates; half of the perturbations have an effect."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(low, high + 1, n)
    codes = np.repeat(np.arange(n), sizes)
    labels = np.concatenate([np.array([f"g{i:03d}" for i in range(n)])[codes], np.full(n_controls, "control")])
    batches = rng.integers(n_batches, size=len(labels))
    effects = rng.normal(size=(n, d)) * scale * (np.arange(n) < n // 2)[:, None]
    values = rng.normal(size=(len(labels), d)) + offset * rng.normal(size=(n_batches, d))[batches]
    values[: len(codes)] += effects[codes]
    order = rng.permutation(len(labels))
    return values[order], labels[order], np.char.add("p", batches.astype(str))[order]


def by_pairs(values, labels, batches, *, across):
    """Mean cosine and number of pairs of every perturbation, pair by pair."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    found = {}
    for label in sorted(set(labels) - {"control"}):
        pairs = itertools.combinations(np.flatnonzero(labels == label), 2)
        cosines = [unit[i] @ unit[j] for i, j in pairs if not across or batches[i] != batches[j]]
        found[label] = (np.mean(cosines) if cosines else np.nan, len(cosines))
    return found


def scored(*args, **kwargs) -> ReplicateConsistency:
    """The result, with warnings of perturbations without a score left aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return replicate_consistency(*args, **kwargs)


@pytest.mark.parametrize(("given", "across"), [(True, True), (True, False), (False, True)])
def test_matches_the_mean_over_pairs(given, across):
    values, labels, batches = screen(1, scale=1.0)
    result = scored(values, labels, batch_key=batches if given else None, across=across, n_null=10)
    truth = by_pairs(values, labels, batches, across=given and across)
    assert result.table.index.tolist() == list(truth)
    np.testing.assert_allclose(result.table["consistency"], [mean for mean, _ in truth.values()], atol=1e-13)
    np.testing.assert_array_equal(result.table["n_pairs"], [number for _, number in truth.values()])
    for label, row in result.table.iterrows():
        assert row["n_obs"] == (labels == label).sum()
        assert row["n_batches"] == (len(set(batches[labels == label])) if given else 1)
    assert result.across == (given and across)


def exact_null(values, labels, batches, label, *, pool) -> np.ndarray:
    """The statistic of every set of rows of `pool` with the batches of a perturbation."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    need = {b: int(((labels == label) & (batches == b)).sum()) for b in sorted(set(batches[labels == label]))}
    parts = [itertools.combinations([i for i in pool if batches[i] == b], k) for b, k in need.items()]
    null = []
    for chosen in itertools.product(*parts):
        rows = list(itertools.chain(*chosen))
        pairs = [(i, j) for i, j in itertools.combinations(rows, 2) if batches[i] != batches[j] or len(need) == 1]
        null.append(np.mean([unit[i] @ unit[j] for i, j in pairs]))
    return np.array(null)


@pytest.mark.parametrize("kind", ["mismatched", "controls"])
@pytest.mark.parametrize("n_batches", [1, 2])
def test_null_matches_the_enumeration_of_all_sets(kind, n_batches):
    values, labels, batches = screen(4, n=4, d=4, low=3, high=4, n_batches=n_batches, n_controls=18, scale=1.5)
    n_null = 20_000
    batch_key = batches if n_batches > 1 else None
    table = replicate_consistency(values, labels, batch_key=batch_key, null=kind, n_null=n_null).table
    pool = np.flatnonzero((labels == "control") == (kind == "controls"))
    for label, row in table.iterrows():
        null = exact_null(values, labels, batches, label, pool=pool)
        share = (null >= row["consistency"] - 1e-10).mean()
        assert row["null_mean"] == pytest.approx(null.mean(), abs=5 * null.std() / np.sqrt(n_null))
        assert row["p_value"] == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / n_null) + 2 / n_null)
    assert (table["n_pairs"] > 1).all()


@pytest.mark.parametrize(
    ("options", "batched", "kind"),
    [
        ({}, False, "mismatched"),
        ({"n_batches": 6}, True, "mismatched"),
        ({"n_batches": 6, "offset": 2.0}, True, "mismatched"),
        ({"n_batches": 40, "offset": 1.0}, True, "mismatched"),
        ({"n_batches": 4, "offset": 1.0, "n_controls": 4000}, True, "controls"),
    ],
)
def test_p_values_are_uniform_without_effects(options, batched, kind):
    tests = []
    for seed in range(3):
        values, labels, batches = screen(seed, n=500, low=2, high=8, **options)
        table = scored(values, labels, batch_key=batches if batched else None, null=kind, max_pairs=10, seed=seed).table
        p_value = table["p_value"].dropna()
        assert table["n_obs"].nunique() == 7
        assert len(p_value) > 400
        assert (table["q_value"].dropna() > 0.05).all()
        tests.append(stats.kstest(p_value, "uniform").pvalue)
    assert stats.combine_pvalues(tests).pvalue > 0.01


def test_p_values_are_uniform_where_all_share_one_layout():
    """Draws that 3,000 perturbations had in common would move all their p-values together."""
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(9000, 4)), np.repeat(np.arange(3000), 3)
    table = replicate_consistency(values, labels, batch_key=np.tile(["a", "b", "c"], 3000), max_pairs=10).table
    assert stats.kstest(table["p_value"], "uniform").pvalue > 0.01


def test_batches_are_no_consistency():
    """Perturbations that lie in one half of the plates each look alike for their plates alone."""
    values, labels, batches = screen(2, n=100, low=6, high=6, n_batches=8, n_controls=0, offset=2.0)
    half = np.array([hash_of % 2 for hash_of in (int(label[1:]) for label in labels)])
    rng = np.random.default_rng(0)
    offsets = np.repeat(rng.normal(size=(2, values.shape[1])), 4, axis=0) * 2.0
    batches = rng.integers(4, size=len(labels)) + 4 * half
    values = rng.normal(size=values.shape) + offsets[batches]
    naive = replicate_consistency(values, labels)
    aware = scored(values, labels, batch_key=batches)
    assert naive.share_significant["p_value"] > 0.9
    assert aware.share_significant["p_value"] < 0.12
    # also the global statistics compare pairs from the same batches
    assert naive.ks > 0.3
    assert aware.ks < 0.05


@pytest.mark.parametrize("kind", ["mismatched", "controls"])
def test_effects_are_found(kind):
    values, labels, batches = screen(3, n=60, low=4, high=8, n_batches=4, n_controls=200, scale=1.5)
    result = replicate_consistency(values, labels, batch_key=batches, null=kind)
    table = result.table
    effective = table.index < "g030"
    assert (table.loc[effective, "q_value"] < 0.05).mean() > 0.9
    assert (table.loc[~effective, "p_value"] < 0.05).mean() < 0.15
    assert result.ks > 0.3
    assert table["p_value"].min() == pytest.approx(1 / 1001)
    share = result.share_significant
    assert (
        share["p_value"] == (table["p_value"] <= 0.05).mean() >= share["q_value"] == (table["q_value"] <= 0.05).mean()
    )
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))


def test_distributions_match_scipy():
    values, labels, batches = screen(5, scale=1.0)
    for max_pairs in (700, 100_000):
        result = scored(values, labels, n_null=5, max_pairs=max_pairs)
        same, different = result.same_cosines, result.different_cosines
        test = stats.ks_2samp(same, different)
        assert (result.ks, result.ks_location) == (pytest.approx(test.statistic), test.statistic_location)
        cvm = stats.cramervonmises_2samp(same, different, method="asymptotic").statistic
        assert result.cvm == pytest.approx(cvm, rel=1e-9)
        n, m = len(same), len(different)
        assert result.cvm_scaled == pytest.approx(result.cvm * (n + m) / (n * m))


def integral(same, different, weights) -> float:
    """Of the squared difference of both distribution functions by the distribution of both, number by number."""
    n, m = len(same), len(different)
    mass = np.r_[np.ones(n), m * weights] / (n + m)
    points = np.r_[same, different]
    return float(sum(mass[i] * ((same <= z).mean() - weights[different <= z].sum()) ** 2 for i, z in enumerate(points)))


@pytest.mark.parametrize(("n", "n_replicates"), [(3, 3), (5, 3), (10, 3), (20, 4), (25, 4)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0])
def test_small_screens_have_all_pairs_once_and_their_integral(n, n_replicates, scale):
    rng = np.random.default_rng(n)
    labels, plates = np.repeat([f"g{i}" for i in range(n)], n_replicates), np.tile(np.arange(n_replicates), n)
    values = rng.normal(size=(n, 20)).repeat(n_replicates, axis=0) * scale + rng.normal(size=(len(labels), 20))
    for batch_key, partners in ((None, n_replicates), (plates, n_replicates - 1)):
        result = replicate_consistency(values, labels, batch_key=batch_key, n_null=5)
        different, weights = result.different_cosines, result.different_weights
        assert len(different) == len(np.unique(different)) == n * (n - 1) // 2 * n_replicates * partners
        np.testing.assert_allclose(weights, 1 / len(different))
        assert result.cvm_scaled == pytest.approx(integral(result.same_cosines, different, weights))
        most = 1 / 3 + 1 / (6 * len(different) * len(result.same_cosines))
        assert 0 <= result.cvm_scaled <= most + 1e-12
        if scale == 40.0:
            assert result.cvm_scaled == pytest.approx(most)
            assert result.ks == 1.0


def test_ties_are_no_special_case():
    rng = np.random.default_rng(0)
    x, y = rng.integers(4, size=30).astype(float), rng.integers(5, size=50).astype(float)
    weights = rng.random(50)
    weights /= weights.sum()
    assert distribution_gap(x, y).cvm_scaled == pytest.approx(integral(x, y, np.full(50, 1 / 50)))
    assert distribution_gap(x, y).ks == pytest.approx(stats.ks_2samp(x, y).statistic)
    assert distribution_gap(x, y, weights).cvm_scaled == pytest.approx(integral(x, y, weights))
    # a weight is a number of times
    assert distribution_gap(x, y, np.arange(50)).ks == pytest.approx(distribution_gap(x, y.repeat(np.arange(50))).ks)
    assert distribution_gap(np.ones(9), np.ones(4))[2:] == (0.0, 0.0)


@pytest.mark.parametrize("max_pairs", [1_000_000, 1000, 700, 300, 50])
@pytest.mark.parametrize("across", [False, True])
def test_different_pairs_come_once_and_weigh_like_the_same(across, max_pairs):
    rng = np.random.default_rng(0)
    codes, batches = rng.integers(-1, 5, 60), rng.integers(0, 4, 60)
    pairs = [(i, j) for i, j in itertools.combinations(range(60), 2) if not across or batches[i] != batches[j]]
    like = np.array([(i, j) for i, j in pairs if codes[i] == codes[j] >= 0])
    every = {(i, j) for i, j in pairs if codes[i] != codes[j] and min(codes[i], codes[j]) >= 0}
    found, weights = different_pairs(like, codes, batches, max_pairs=max_pairs, rng=rng)
    drawn = {tuple(sorted(pair)) for pair in found.tolist()}
    assert len(drawn) == len(found) <= max(max_pairs, len(like))
    assert drawn <= every
    assert (drawn == every) == (len(every) <= max_pairs)
    kinds = [pd.Series([str(sorted(batches[list(pair)])) for pair in some]) for some in (like, found)]
    expected = kinds[0].value_counts(normalize=True).sort_index()
    np.testing.assert_allclose(pd.Series(weights).groupby(kinds[1]).sum().sort_index(), expected)


def test_drawn_pairs_are_as_likely_as_each_other():
    codes, batches = np.repeat(np.arange(6), 2), np.tile([0, 1], 6)
    like = np.array([(0, 1), (2, 3), (0, 4)])
    drawn = [
        different_pairs(like, codes, batches, max_pairs=most, rng=np.random.default_rng(seed))[0]
        for seed in range(1000)
        for most in (3, 40)
    ]
    counts = pd.Series([tuple(sorted(pair)) for pair in np.concatenate(drawn).tolist()]).value_counts()
    between = np.array([batches[list(pair)].sum() == 1 for pair in counts.index])
    for some in (between, ~between):
        assert stats.chisquare(counts[some]).pvalue > 0.001
    assert (between.sum(), (~between).sum()) == (30, 15)


def test_scaled_statistic_does_not_depend_on_the_numbers_of_pairs():
    rng = np.random.default_rng(0)
    wide = {
        (n, m): distribution_gap(rng.normal(0.5, 1, n), rng.normal(size=m))
        for n, m in [(20_000, 20_000), (20_000, 200_000), (200_000, 20_000), (200_000, 200_000)]
    }
    scaled = [gap.cvm_scaled for gap in wide.values()]
    np.testing.assert_allclose(scaled, np.mean(scaled), rtol=0.05)
    assert wide[200_000, 200_000].cvm > 8 * wide[20_000, 20_000].cvm
    apart = distribution_gap(np.linspace(0, 1, 500), np.linspace(2, 3, 90))
    assert apart.ks == 1.0
    assert apart.cvm_scaled == pytest.approx(1 / 3, rel=1e-4)
    by_chance = distribution_gap(np.arange(0, 400, 2.0), np.arange(1, 401, 2.0))
    assert by_chance.cvm_scaled < 1e-4
    assert np.isnan(distribution_gap(np.ones(3), np.empty(0))).all()


def test_pairs_are_all_pairs_and_their_match():
    values, labels, batches = screen(6, n=12, scale=1.0)
    result = scored(values, labels, batch_key=batches, n_null=5)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    pairs = [
        (i, j) for i, j in itertools.combinations(range(len(labels)), 2) if "control" not in (labels[i], labels[j])
    ]
    same = [(i, j) for i, j in pairs if labels[i] == labels[j] and batches[i] != batches[j]]
    np.testing.assert_allclose(np.sort(result.same_cosines), np.sort([unit[i] @ unit[j] for i, j in same]), atol=1e-14)
    # of different ones every pair of batches counts as often as it does among same ones
    times = pd.Series([frozenset((batches[i], batches[j])) for i, j in same]).value_counts(normalize=True)
    different = [(i, j) for i, j in pairs if labels[i] != labels[j] and batches[i] != batches[j]]
    where = pd.Series([frozenset((batches[i], batches[j])) for i, j in different])
    weight = times[where].to_numpy() / where.value_counts()[where].to_numpy()
    cosine = np.array([unit[i] @ unit[j] for i, j in different])
    order, ours = np.argsort(cosine), np.argsort(result.different_cosines)
    np.testing.assert_allclose(result.different_cosines[ours], cosine[order], atol=1e-14)
    np.testing.assert_allclose(result.different_weights[ours], weight[order])


def test_pairs_are_bounded():
    values, labels, batches = screen(7, n=40)
    full, part = (scored(values, labels, n_null=5, max_pairs=most) for most in (100_000, 100))
    assert (len(part.same_cosines), len(part.different_cosines)) == (100, 100)
    assert np.isin(part.same_cosines.round(9), full.same_cosines.round(9)).all()
    assert len(np.unique(part.same_cosines.round(9))) == 100
    pd.testing.assert_frame_equal(part.table, full.table)


def test_order_and_length_of_rows_do_not_matter():
    values, labels, batches = screen(8, scale=1.0)
    first = scored(values, labels, batch_key=batches)
    order = np.random.default_rng(1).permutation(len(labels))
    again = scored(values[order], labels[order], batch_key=batches[order])
    pd.testing.assert_frame_equal(again.table, first.table, check_exact=True)
    np.testing.assert_array_equal(np.sort(again.same_cosines), np.sort(first.same_cosines))
    assert (again.ks, again.cvm) == (first.ks, first.cvm)
    longer = scored(values * np.random.default_rng(2).gamma(1, 1, (len(labels), 1)), labels, batch_key=batches)
    np.testing.assert_allclose(longer.table["consistency"], first.table["consistency"])
    other = scored(values, labels, batch_key=batches, seed=1)
    np.testing.assert_array_equal(other.table["consistency"], first.table["consistency"])
    assert not other.table["p_value"].equals(first.table["p_value"])


def test_content_gives_the_order():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3))
    values[::7] = values[0]
    codes = rng.integers(3, size=200)
    moved = rng.permutation(200)
    first, again = content_order(values, codes), content_order(values[moved], codes[moved])
    np.testing.assert_array_equal(values[first], values[moved][again])
    np.testing.assert_array_equal(codes[first], np.sort(codes))
    np.testing.assert_array_equal(content_order(np.array([[0.0], [-0.0]])), [0, 1])


def test_spellings_and_controls():
    values, labels, _ = screen(9, n=6)
    spelt = labels.astype(object)
    spelt[labels == "g000"] = np.resize(["A+B", "B+A"], (labels == "g000").sum())
    plain = labels.astype(object)
    plain[labels == "g000"] = "A+B"
    first, again = (scored(values, names, n_null=20).table for names in (plain, spelt))
    pd.testing.assert_frame_equal(first, again)
    named = np.where(labels == "control", "DMSO", labels)
    pd.testing.assert_frame_equal(
        scored(values, named, control="DMSO", n_null=20).table, scored(values, labels, n_null=20).table
    )
    assert "DMSO" in scored(values, named, n_null=20).table.index


def test_marked_rows_are_controls():
    values, labels, batches = screen(20, low=3)
    adata = as_anndata(values, np.where(labels == "control", np.resize(["NTC", "none"], len(labels)), labels), batches)
    adata.obs["is_control"] = labels == "control"
    for null in ("mismatched", "controls"):
        found = scored(adata, "gene", null=null, n_null=20)
        expected = scored(values, labels, null=null, n_null=20)
        pd.testing.assert_frame_equal(found.table, expected.table)
    with pytest.raises(ControlError, match="expected rows labelled 'DMSO', got none"):
        replicate_consistency(adata, "gene", control="DMSO")


def test_controls_that_whitening_was_fitted_to(fitted_screen):
    options = {"perturbation_key": "perturbation", "use_rep": "X_white", "n_null": 20}
    with pytest.warns(
        RuntimeWarning, match=r"by 20 of the 20 controls .* leave those rows out here, or use null='mismatched'"
    ):
        replicate_consistency(fitted_screen, null="controls", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replicate_consistency(fitted_screen, **options)


def test_perturbations_without_a_score_are_named():
    values, labels, batches = screen(10, n=8, low=4, high=5)
    labels = labels.astype(object)
    labels[np.flatnonzero(labels == "g000")[1:]] = "control"
    batches[labels == "g001"] = "p0"
    assert all(len(set(batches[labels == label])) > 1 for label in [f"g{i:03d}" for i in range(2, 8)])
    with pytest.warns(RuntimeWarning) as record:
        table = replicate_consistency(values, labels, batch_key=batches, min_replicates=2).table
    text = [str(one.message) for one in record]
    assert any("1 perturbations have fewer than 2 replicates; their scores are NaN ('g000')" in one for one in text)
    assert any("1 perturbations have no two replicates in different batches" in one and "g001" in one for one in text)
    assert table.loc[["g000", "g001"], ["consistency", "null_mean", "p_value", "q_value"]].isna().all(axis=None)
    assert table.loc["g000", "n_pairs"] == 0
    assert table.drop(["g000", "g001"]).notna().all(axis=None)
    with pytest.warns(RuntimeWarning, match="fewer than 5 replicates"):
        more = replicate_consistency(values, labels, min_replicates=5, n_null=5).table
    np.testing.assert_array_equal(more["p_value"].isna(), more["n_obs"] < 5)


def test_perturbations_that_never_meet():
    rng = np.random.default_rng(0)
    values, labels, batches = rng.normal(size=(8, 5)), np.repeat(["a", "b"], 4), [*"ppqqrrss"]
    with pytest.warns(RuntimeWarning) as record:
        result = replicate_consistency(values, labels, batch_key=batches)
    text = [str(one.message) for one in record]
    assert any("no two perturbations are in the batches of each other's replicates" in one for one in text)
    assert any("2 perturbations are alone in their batches" in one and "p-value is 1 ('a', 'b')" in one for one in text)
    assert (result.table["p_value"] == 1).all()
    assert np.isnan([result.ks, result.cvm, result.cvm_scaled]).all()
    assert "KS nan" in repr(result)


def test_rows_without_direction():
    values, labels, _ = screen(12, n=5)
    values[np.flatnonzero(labels == "g001")[0]] = 0.0
    with pytest.warns(RuntimeWarning, match="1 of .* rows are zero"):
        table = replicate_consistency(values, labels, n_null=50).table
    rest = np.flatnonzero(labels == "g001")[1:]
    unit = values[rest] / np.linalg.norm(values[rest], axis=1, keepdims=True)
    n = len(rest) + 1
    assert table.loc["g001", "consistency"] == pytest.approx(((unit @ unit.T).sum() - len(rest)) / (n * (n - 1)))
    assert table.notna().all(axis=None)


def test_tiny_and_huge_rows_have_a_direction():
    values, labels, _ = screen(13, n=5)
    first = scored(values, labels, n_null=5).table["consistency"]
    for factor in (1e-200, 1e200):
        np.testing.assert_allclose(scored(values * factor, labels, n_null=5).table["consistency"], first)


def as_anndata(values, labels, batches) -> ad.AnnData:
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical(labels, categories=[*sorted(set(labels)), "unused"]),
            "plate": pd.Categorical(batches, categories=[*sorted(set(batches)), "empty"]),
        },
        index=[f"w{i}" for i in range(len(labels))],
    )
    return ad.AnnData(values, obs=obs)


def test_forms_of_data(in_form):
    values, labels, batches = screen(14, scale=1.0)
    values = np.rint(values * 8)
    data, keys = in_form(values, perturbation_key=labels, batch_key=batches)
    result = scored(data, n_null=50, **keys)
    expected = scored(values, labels, batch_key=batches, n_null=50)
    pd.testing.assert_frame_equal(result.table, expected.table, check_exact=True)
    assert result.ks == expected.ks


def test_data_are_left_as_they_were():
    values, labels, batches = screen(15)
    adata = as_anndata(values.copy(), labels, batches)
    scored(adata, "gene", batch_key="plate", n_null=5)
    np.testing.assert_array_equal(adata.X, values)
    assert list(adata.obs) == ["gene", "plate"]
    assert not adata.uns


def test_repr():
    values, labels, batches = screen(16, scale=1.5, low=3)
    result = scored(values, labels, batch_key=batches, n_null=100)
    text = repr(result)
    assert text.startswith(
        "ReplicateConsistency: 20 of 20 perturbations, pairs of rows across batches, null of mismatched"
    )
    assert f"KS {result.ks:.3f}" in text
    assert "<table" in result._repr_html_()
    assert "\n" not in result._repr_html_().split("<table")[0]


VALUES, LABELS, BATCHES = screen(17, n=4, low=3, n_controls=6)
NAN = VALUES.copy()
NAN[3, 1] = np.nan


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((NAN, LABELS), {}, ValueError, "data: expected finite numbers, got NaN or infinity in 1 of"),
        ((VALUES, LABELS[:-1]), {}, LabelError, "perturbation_key: expected one label for each of"),
        ((VALUES, "gene"), {}, LabelError, "perturbation_key: expected one label a row"),
        ((VALUES, np.where(LABELS == "g001", None, LABELS)), {}, LabelError, "without one"),
        ((VALUES, np.where(LABELS == "control", "control", "a")), {}, LabelError, "expected 2 perturbations or more"),
        ((VALUES, np.full(len(LABELS), "control")), {}, LabelError, "got 0"),
        ((VALUES, LABELS), {"control": "ntc"}, ControlError, "Add 'control' to `control`"),
        (
            (VALUES, np.char.replace(LABELS, "control", "x")),
            {"control": "ntc"},
            ControlError,
            "rows labelled 'ntc', got none",
        ),
        (
            (VALUES[LABELS != "control"], LABELS[LABELS != "control"]),
            {"null": "controls"},
            ControlError,
            "control rows",
        ),
        ((VALUES, LABELS), {"batch_key": BATCHES, "null": "controls"}, ControlError, "Pass null='mismatched'"),
        ((VALUES, LABELS), {"batch_key": BATCHES[:-1]}, LabelError, "batch_key: expected one label"),
        ((VALUES, LABELS), {"batch_key": np.full(len(LABELS), "p")}, ValueError, "Pass across=False"),
        ((VALUES, LABELS), {"use_rep": "X_pca"}, FeatureMismatch, "use_rep: expected None"),
        ((VALUES, LABELS), {"null": "random"}, ValueError, "null: expected"),
        ((VALUES, LABELS), {"n_null": 0}, ValueError, "n_null: expected a whole number of 1 or more"),
        ((VALUES, LABELS), {"min_replicates": 1}, ValueError, "min_replicates: expected a whole number of 2 or more"),
        ((VALUES, LABELS), {"min_replicates": 50}, ValueError, "50 rows or more, got none among 4"),
        ((VALUES, LABELS), {"max_pairs": 1.5}, ValueError, "max_pairs: expected a whole number"),
        ((VALUES, LABELS), {"seed": -1}, ValueError, "seed: expected a whole number of 0 or more"),
        ((VALUES, LABELS), {"seed": None}, ValueError, "seed: expected"),
        ((VALUES[:0], LABELS[:0]), {}, ValueError, "expected 2 rows or more"),
        ((VALUES, np.arange(len(LABELS))), {}, ValueError, "Pass replicates, not their means"),
    ],
)
def test_bad_input(arguments, options, error, match):
    with pytest.raises(error, match=match):
        replicate_consistency(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"perturbation_key": "guide"}, "perturbation_key: expected a column of adata.obs, got 'guide'"),
        ({"perturbation_key": "gene", "batch_key": "well"}, "batch_key: expected a column of adata.obs, got 'well'"),
    ],
)
def test_unknown_columns(options, match):
    with pytest.raises(LabelError, match=match):
        replicate_consistency(as_anndata(VALUES, LABELS, BATCHES), **options)


def test_a_batch_without_controls():
    values, labels, batches = screen(18, n=6, low=4, high=6, n_controls=40)
    batches[(labels == "control") & (batches == "p1")] = "p0"
    assert scored(values, labels, batch_key=batches).table["p_value"].notna().any()
    with pytest.raises(ControlError, match=r"got 0 controls for \d+ replicates of 'g\d+' in batch 'p1'"):
        scored(values, labels, batch_key=batches, null="controls")


def test_controls_must_leave_a_choice():
    """As many controls as replicates make one set: all draws are the same, and no p-value means anything."""
    values, labels, _ = screen(19, n=4, low=4, high=4, n_controls=4)
    with pytest.raises(
        ControlError, match="20 different sets .* got 4 controls for 4 replicates of .* 4 perturbations"
    ):
        replicate_consistency(values, labels, null="controls")
