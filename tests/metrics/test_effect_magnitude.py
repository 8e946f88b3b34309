"""Energy distances of perturbations to controls."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.spatial.distance import cdist

from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.metrics import perturbation_magnitude
from perturbia.tl import aggregate_perturbations


def screen(seed=0, *, n=6, d=5, low=5, high=9, n_controls=40, n_batches=2, scale=0.0, offset=0.0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n), rng.integers(low, high + 1, n))
    labels = np.concatenate([np.array([f"g{i:03d}" for i in range(n)])[codes], np.full(n_controls, "control")])
    batches = rng.integers(n_batches, size=len(labels))
    values = rng.normal(size=(len(labels), d)) + offset * rng.normal(size=(n_batches, d))[batches]
    values[: len(codes)] += scale * rng.normal(size=(n, d))[codes] * (codes < n // 2)[:, None]
    order = rng.permutation(len(labels))
    return values[order], labels[order], np.char.add("p", batches.astype(str))[order]


def energy(x, y) -> float:
    """Over pairs of different rows."""
    within = [cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return 2 * cdist(x, y).mean() - sum(within)


def test_matches_the_sums_over_pairs():
    values, labels, _ = screen(1, scale=1.0)
    table = perturbation_magnitude(values, labels, n_permutations=50)
    for name, row in table.iterrows():
        expected = energy(values[labels == name], values[labels == "control"])
        assert row["energy_distance"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert (row["n_obs"], row["n_controls"], row["n_unmatched"]) == ((labels == name).sum(), 40, 0)
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))


def test_squared_distances_see_means_only():
    values, labels, _ = screen(2, scale=1.0)
    table = perturbation_magnitude(values, labels, metric="sqeuclidean", n_permutations=10)
    for name, value in table["energy_distance"].items():
        x, y = values[labels == name], values[labels == "control"]
        error = x.var(axis=0, ddof=1).sum() / len(x) + y.var(axis=0, ddof=1).sum() / len(y)
        assert value == pytest.approx(2 * (((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() - error), rel=1e-4, abs=1e-4)


def test_effects_are_found():
    values, labels, _ = screen(3, n=20, scale=1.5)
    table = perturbation_magnitude(values, labels, n_permutations=500)
    effective = table.index < "g010"
    assert (table.loc[effective, "q_value"] < 0.05).mean() > 0.8
    assert table.loc[effective, "energy_distance"].min() > table.loc[~effective, "energy_distance"].median()
    assert table["p_value"].min() == pytest.approx(1 / 501)


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_p_values_are_uniform_without_effects(offset):
    """Also with plates that differ; all perturbations share the controls, so that there are many of those."""
    p_value = []
    for seed in range(6):
        values, labels, batches = screen(seed, n=40, n_controls=300, n_batches=3, offset=offset)
        table = perturbation_magnitude(
            values, labels, batch_key=batches if offset else None, n_permutations=199, max_controls=60, seed=seed
        )
        p_value.append(table["p_value"])
    assert stats.kstest(np.concatenate(p_value), "uniform").pvalue > 0.01


def test_batches_are_no_effect():
    values, labels, batches = screen(4, n=8, low=8, high=8, n_controls=80, n_batches=4)
    at = np.unique(batches, return_inverse=True)[1]
    at[labels != "control"] = np.where(np.random.default_rng(0).random((labels != "control").sum()) < 0.8, 0, 1)
    values = np.random.default_rng(1).normal(size=values.shape) + 3 * np.random.default_rng(2).normal(size=(4, 5))[at]
    naive = perturbation_magnitude(values, labels, n_permutations=300)
    aware = perturbation_magnitude(values, labels, batch_key=at, n_permutations=300)
    assert (naive["q_value"] < 0.05).mean() > 0.5
    assert not (aware["q_value"] < 0.05).any()


def test_controls_are_bounded():
    values, labels, _ = screen(5)
    table = perturbation_magnitude(values, labels, max_controls=12, n_permutations=20)
    assert (table["n_controls"] == 12).all()
    full = perturbation_magnitude(values, labels, n_permutations=20)
    assert not np.allclose(table["energy_distance"], full["energy_distance"])
    other = perturbation_magnitude(values, labels, max_controls=12, n_permutations=20, seed=1)
    assert not np.allclose(table["energy_distance"], other["energy_distance"])


def test_order_of_rows_does_not_matter():
    values, labels, batches = screen(6, scale=0.5)
    options = {"max_controls": 20, "n_permutations": 60}
    first = perturbation_magnitude(values, labels, batch_key=batches, **options)
    order = np.random.default_rng(0).permutation(len(labels))
    again = perturbation_magnitude(values[order], labels[order], batch_key=batches[order], **options)
    pd.testing.assert_frame_equal(again, first)


def test_too_few_replicates_and_batches_without_controls():
    values, labels, batches = screen(7, low=6, high=6)
    batches = batches.astype(object)
    batches[np.flatnonzero(labels == "g001")[:4]] = "new"
    batches[np.flatnonzero(labels == "g002")[:1]] = "new"
    with pytest.warns(RuntimeWarning) as record:
        table = perturbation_magnitude(values, labels, batch_key=batches, n_permutations=20)
    text = [str(one.message) for one in record]
    assert any("5 rows of 2 perturbations are in batches without controls" in one for one in text)
    assert any("fewer than 5 rows in batches with controls; their scores are NaN ('g001')" in one for one in text)
    assert table["n_unmatched"].tolist() == [0, 4, 1, 0, 0, 0]
    assert table["n_obs"].tolist() == [6, 0, 5, 6, 6, 6]
    assert table.loc["g001", ["energy_distance", "p_value", "q_value"]].isna().all()
    assert table.drop("g001").notna().all(axis=None)
    with_fewer = perturbation_magnitude(values, labels, min_replicates=2, n_permutations=20)
    assert with_fewer.notna().all(axis=None)


def test_forms_of_data(in_form):
    values, labels, batches = screen(8)
    values = np.rint(8 * values)
    data, keys = in_form(values, perturbation_key=labels, batch_key=batches)
    expected = perturbation_magnitude(values, labels, batch_key=batches, n_permutations=20)
    pd.testing.assert_frame_equal(perturbation_magnitude(data, n_permutations=20, **keys), expected)


def test_one_perturbation_is_enough():
    values, labels, _ = screen(9, n=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = perturbation_magnitude(values, labels, n_permutations=20)
    assert table.index.tolist() == ["g000"]


def test_marked_rows_are_controls():
    """Control guides that were averaged as such keep the name that they have in the data."""
    values, labels, batches = screen(11)
    names = np.where(labels == "control", "NTC", labels)
    index = [f"w{i}" for i in range(len(labels))]
    obs = pd.DataFrame({"gene": names, "guide": index, "is_control": labels == "control"}, index=index)
    expected = perturbation_magnitude(values, labels, n_permutations=20)
    wells = ad.AnnData(values, obs=obs)
    pd.testing.assert_frame_equal(perturbation_magnitude(wells, "gene", n_permutations=20), expected)
    assert (perturbation_magnitude(wells, "gene", control="NTC", n_permutations=20) == expected).all(axis=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guides = aggregate_perturbations(
            wells[:, :].copy(), perturbation_key="gene", control="NTC", by="guide", keep_control=True
        )
    found = perturbation_magnitude(guides, "gene", n_permutations=20)
    counted = ["energy_distance", "n_obs", "n_controls"]  # values of other bits get other permutations
    np.testing.assert_allclose(found[counted], expected[counted], rtol=1e-4, atol=1e-5)


def test_controls_that_whitening_was_fitted_to(fitted_screen):
    options = {"perturbation_key": "perturbation", "use_rep": "X_white", "n_permutations": 20}
    with pytest.warns(
        RuntimeWarning, match=r"use_rep: 'X_white' was whitened by 20 of the 20 controls .* fit_on="
    ) as record:
        perturbation_magnitude(fitted_screen, **options)
    assert record[0].filename == __file__
    fitted_screen.uns["X_white"]["fit_on"] = "fit"
    with pytest.warns(RuntimeWarning, match=r"by 10 of the 20 controls .* Leave the rows of obs\['fit'\] out here"):
        perturbation_magnitude(fitted_screen, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perturbation_magnitude(fitted_screen[~fitted_screen.obs["fit"].to_numpy()], **options)
        perturbation_magnitude(fitted_screen, **options | {"use_rep": None})
        fitted_screen.uns["X_white"] = {"whitened": False}
        perturbation_magnitude(fitted_screen, **options)


def test_sparse_values_and_two_columns_of_labels():
    values, labels, _ = screen(12)
    expected = perturbation_magnitude(values, labels, n_permutations=20)
    pd.testing.assert_frame_equal(perturbation_magnitude(sp.csr_array(values), labels, n_permutations=20), expected)
    with pytest.raises(LabelError, match=r"perturbation_key: expected one label for each of .* got shape \(\d+, 2\)"):
        perturbation_magnitude(values, np.column_stack([labels, labels]))


VALUES, LABELS, BATCHES = screen(10, n=3)
NAN = VALUES.copy()
NAN[0, 0] = np.nan
ONE_CONTROL = (LABELS != "control") | (np.cumsum(LABELS == "control") == 1)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((NAN, LABELS), {}, ValueError, "data: expected finite numbers"),
        ((VALUES, LABELS[1:]), {}, LabelError, "perturbation_key: expected one label for each"),
        ((VALUES, "gene"), {}, LabelError, "perturbation_key: expected one label a row"),
        ((VALUES, np.full(len(LABELS), "control")), {}, LabelError, "expected 1 perturbations"),
        (
            (VALUES, np.char.replace(LABELS, "control", "x")),
            {},
            ControlError,
            "control: expected control rows, got none",
        ),
        (
            (VALUES, LABELS),
            {"control": ["control", "typo"]},
            ControlError,
            "control: expected rows labelled 'typo', got none. Labels seen: 'control', 'g000'",
        ),
        ((VALUES[ONE_CONTROL], LABELS[ONE_CONTROL]), {}, ControlError, "2 control rows or more"),
        ((VALUES, LABELS), {"batch_key": BATCHES[1:]}, LabelError, "batch_key: expected one label"),
        (
            (VALUES, LABELS),
            {"batch_key": np.where(LABELS == "control", "p", "q")},
            ValueError,
            "in batches with controls",
        ),
        ((VALUES, LABELS), {"min_replicates": 30}, ValueError, "expected a perturbation with 30 rows or more"),
        ((VALUES, LABELS), {"min_replicates": 1}, ValueError, "min_replicates: expected a whole number of 2 or more"),
        ((VALUES, LABELS), {"max_controls": 1}, ValueError, "max_controls: expected a whole number of 2 or more"),
        ((VALUES, LABELS), {"n_permutations": 0}, ValueError, "n_permutations: expected"),
        ((VALUES, LABELS), {"metric": "cosine"}, ValueError, "metric: expected"),
        ((VALUES, LABELS), {"use_rep": "X_pca"}, FeatureMismatch, "use_rep"),
        ((VALUES, LABELS), {"seed": -1}, ValueError, "seed: expected"),
        ((VALUES, LABELS), {"seed": None}, ValueError, "seed: expected"),
    ],
)
def test_bad_input(arguments, options, error, match):
    with pytest.raises(error, match=match):
        perturbation_magnitude(*arguments, **options)
