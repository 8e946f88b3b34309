from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from perturbia.stats import energy_distance, pairwise_energy_distance


def oracle(X, Y, metric, unbiased):
    """Energy distance from full distance matrices."""
    n, m = len(X), len(Y)
    within_x, within_y = (n * (n - 1), m * (m - 1)) if unbiased else (n * n, m * m)
    return 2 * cdist(X, Y, metric).mean() - cdist(X, X, metric).sum() / within_x - cdist(Y, Y, metric).sum() / within_y


@pytest.fixture
def populations():
    rng = np.random.default_rng(0)
    return rng.normal(size=(53, 6)), rng.normal(0.3, 1.5, size=(38, 6))


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("block_size", [1, 7, 38, 1000])
def test_matches_cdist(populations, metric, unbiased, block_size):
    result = energy_distance(*populations, metric=metric, unbiased=unbiased, block_size=block_size)
    assert result == pytest.approx(oracle(*populations, metric, unbiased), abs=1e-10)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_pairs_and_reference_match_two_sample_form(metric, unbiased, container):
    rng = np.random.default_rng(1)
    labels = rng.choice(["d", "a", "c", "b"], size=120, p=[0.4, 0.3, 0.2, 0.1])
    X = rng.poisson(1.0, size=(120, 5)) + (labels == "c")[:, None]
    options = {"metric": metric, "unbiased": unbiased, "block_size": 16}
    pairs = pairwise_energy_distance(container(X), labels, **options)
    assert list(pairs.groups) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(pairs.count, [np.sum(labels == g) for g in "abcd"])
    np.testing.assert_array_equal(np.diag(pairs.values), 0)
    for i, g in enumerate("abcd"):
        against = pairwise_energy_distance(container(X), labels, reference=g, **options)
        np.testing.assert_allclose(against.values, pairs.values[i], atol=1e-8)
        for j, h in enumerate("abcd"):
            if i != j:
                expected = oracle(X[labels == g], X[labels == h], metric, unbiased)
                assert pairs.values[i, j] == pytest.approx(expected, abs=1e-8)  # some cells coincide


@pytest.mark.parametrize(("peer", "unbiased"), [("1.0.3", False), ("1.2.0", True)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_agrees_with_pertpy_in_both_conventions(peer, unbiased, dtype):
    """Values written by benchmarks/peers/energy_distance_fixture.py with the pertpy of that version."""
    fixture = json.loads((Path(__file__).parent / "pertpy_energy_distance.json").read_text())
    points = np.array(fixture["points"], dtype=dtype)
    pairs = pairwise_energy_distance(points, fixture["labels"], unbiased=unbiased)
    assert list(pairs.groups) == fixture["groups"]
    np.testing.assert_allclose(pairs.values, fixture["values"][peer], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_agrees_with_pertpy_on_squared_distances(dtype):
    """scPerturb's variant, which pertpy has as `cell_wise_metric`; the version at hand counts cells with themselves."""
    fixture = json.loads((Path(__file__).parent / "pertpy_energy_distance.json").read_text())
    points = np.array(fixture["points"], dtype=dtype)
    pairs = pairwise_energy_distance(points, fixture["labels"], unbiased=False, metric="sqeuclidean")
    np.testing.assert_allclose(pairs.values, fixture["squared"]["1.0.3"], rtol=1e-5, atol=1e-6)


def test_sparse_two_sample_form(populations):
    X, Y = (np.where(np.abs(P) > 1, P, 0) for P in populations)
    assert energy_distance(sp.csr_matrix(X), sp.csr_matrix(Y)) == pytest.approx(energy_distance(X, Y), abs=1e-10)


def test_unbiased_is_centred_at_zero_for_equal_distributions_and_biased_is_not():
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(400, 2, 10, 3))
    for metric in ("euclidean", "sqeuclidean"):
        unbiased = np.array([energy_distance(X, Y, metric=metric) for X, Y in draws])
        biased = np.array([energy_distance(X, Y, metric=metric, unbiased=False) for X, Y in draws])
        assert abs(unbiased.mean()) < 4 * unbiased.std() / np.sqrt(len(draws))
        assert biased.min() >= 0
        assert biased.mean() > 10 * unbiased.std() / np.sqrt(len(draws))


def test_symmetry_shift_and_scale(populations):
    X, Y = populations
    value = energy_distance(X, Y)
    assert energy_distance(Y, X) == pytest.approx(value, rel=1e-10)
    assert energy_distance(3 * X + 100, 3 * Y + 100) == pytest.approx(3 * value, rel=1e-9)


def test_copies_of_a_population_have_biased_distance_zero(populations):
    X, _ = populations
    assert energy_distance(X, X[::-1], unbiased=False) == pytest.approx(0.0, abs=1e-7)


def test_float32_is_accurate_far_from_the_origin(populations):
    X, Y = (P + 1000.0 for P in populations)
    expected = oracle(X, Y, "euclidean", True)
    result = energy_distance(X.astype(np.float32), Y.astype(np.float32))
    assert result == pytest.approx(expected, abs=2e-4)


def test_float32_sums_of_many_cells_are_accurate():
    """Blocks are summed in float32, and in float64 from block to block."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(3000, 10))
    labels = np.repeat(["a", "b"], [1000, 2000])
    single = pairwise_energy_distance(X.astype(np.float32), labels, unbiased=False, reference="a").values[1]
    double = pairwise_energy_distance(X, labels, unbiased=False, reference="a").values[1]
    assert single == pytest.approx(double, abs=1e-6)


def test_same_mean_is_seen_by_the_euclidean_distance_only():
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(800, 2)), 3 * rng.normal(size=(800, 2))
    assert energy_distance(X, Y) > 0.5
    assert abs(energy_distance(X, Y, metric="sqeuclidean")) < 0.1


def test_single_cell_groups_are_nan_with_warning():
    X = np.arange(10.0).reshape(5, 2)
    with pytest.warns(RuntimeWarning, match="1 groups have one cell"):
        result = pairwise_energy_distance(X, ["a", "a", "b", "c", "c"])
    np.testing.assert_array_equal(np.isnan(result.values), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    assert np.isfinite(pairwise_energy_distance(X, ["a", "a", "b", "c", "c"], unbiased=False).values).all()


def test_repr_names_the_variant():
    result = pairwise_energy_distance(np.eye(4), ["a", "a", "b", "b"], reference="a", metric="sqeuclidean")
    assert repr(result) == "EnergyDistances: 2 groups, against 'a', unbiased, sqeuclidean"


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("first", "second", "options", "match"),
    [
        (X, X[:, :1], {}, "Y: expected the container and columns of X"),
        (X, sp.csr_matrix(X), {}, "Y: expected the container and columns of X"),
        (X[:1], X, {}, "X: expected at least 2 row"),
        (X, X[:0], {"unbiased": False}, "Y: expected at least 1 row"),
        (X, X * np.nan, {}, "Y: expected finite"),
        (X, X, {"metric": "cityblock"}, "metric: expected 'euclidean' or 'sqeuclidean', got 'cityblock'"),
        (X, X, {"block_size": 0}, "block_size: expected a positive"),
    ],
)
def test_bad_input(first, second, options, match):
    with pytest.raises(ValueError, match=match):
        energy_distance(first, second, **options)


@pytest.mark.parametrize(
    ("labels", "reference", "match"),
    [
        (["a", "a", "b"], None, "labels: expected one label a row"),
        (["a", "a", None, "b"], None, "1 missing"),
        (["a"] * 4, None, "labels: expected at least 2 groups"),
        (["a", "a", "b", "b"], "z", "reference: expected one of the 2 groups"),
    ],
)
def test_bad_labels(labels, reference, match):
    with pytest.raises(ValueError, match=match):
        pairwise_energy_distance(X, labels, reference=reference)


MEMORY = """
import resource, numpy as np
from perturbia.stats import pairwise_energy_distance
rng = np.random.default_rng(0)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
X, labels = rng.normal(size=({n}, 20)).astype(np.float32), np.arange({n}) % 40
pairwise_energy_distance(X[:2000], labels[:2000])  # what libraries take once
before = peak()
pairwise_energy_distance(X, labels)
print(peak() - before)
"""


def test_memory_grows_with_cells_not_with_pairs():
    """20,000 cells have 1.6 GB of float32 distances; a block of 512 has 1 MB, and the cells themselves 1.8 MB."""
    n_cells = 20_000
    out = subprocess.run(
        [sys.executable, "-c", MEMORY.format(n=n_cells)], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(out.stdout) < 64e6 < 4 * n_cells**2 / 20


def test_memory_of_blocks_is_block_by_cells():
    X = np.random.default_rng(0).normal(size=(6000, 10)).astype(np.float32)
    peaks = {}
    for block_size in (128, 512):
        tracemalloc.start()
        pairwise_energy_distance(X, np.arange(len(X)) % 10, block_size=block_size)
        peaks[block_size] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    most = {size: 4 * (3 * len(X) * 12 + 2 * size**2) + 2e6 for size in peaks}
    assert all(peaks[size] < most[size] for size in peaks), (peaks, most)
    assert max(most.values()) < 4 * len(X) ** 2 / 10
