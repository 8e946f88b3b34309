from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from perturbia.metrics import (
    _nearest_rows,
    centroid_accuracy,
    mean_reciprocal_rank,
    retrieval,
    retrieval_accuracy,
    retrieval_ranks,
)

SCIPY = {"l1": "cityblock", "l2": "euclidean", "rmse": "euclidean", "cosine": "cosine", "pearson": "correlation"}
METRICS = list(SCIPY)


@pytest.fixture
def effects():
    rng = np.random.default_rng(0)
    truth = rng.normal(0.3, 1.0, size=(23, 15))
    return truth, 0.4 * truth + rng.normal(size=truth.shape), rng.normal(size=(6, 15))


def brute_force(truth, prediction, *, query, metric, exclude, candidates):
    queries, rows = (prediction, truth) if query == "prediction" else (truth, prediction)
    rows = np.vstack([rows, candidates])
    ranks = []
    for i, asked in enumerate(queries):
        kept = np.arange(len(asked)) != exclude[i]
        distance = [getattr(scipy.spatial.distance, SCIPY[metric])(asked[kept], row[kept]) for row in rows]
        ranks.append(sum(d < distance[i] for d in distance))
    return ranks


@pytest.mark.parametrize(("query", "metric"), list(itertools.product(["prediction", "reference"], METRICS)))
def test_ranks_match_brute_force(effects, query, metric):
    truth, prediction, candidates = effects
    exclude = np.random.default_rng(1).integers(-1, 15, size=23)
    ours = retrieval_ranks(truth, prediction, query=query, metric=metric, candidates=candidates, exclude=exclude)
    theirs = brute_force(truth, prediction, query=query, metric=metric, exclude=exclude, candidates=candidates)
    np.testing.assert_array_equal(ours, theirs)
    assert len(set(theirs)) > 5


@pytest.mark.parametrize("metric", METRICS)
def test_a_knocked_down_gene_that_dominates_can_be_left_out(effects, metric):
    truth, prediction, _ = effects
    loud = truth.copy()
    loud[np.arange(15), np.arange(15)] = -1e4  # each of the first 15 gives itself away by its own gene
    shouted = prediction.copy()
    shouted[np.arange(15), np.arange(15)] = -1e4
    exclude = np.where(np.arange(23) < 15, np.arange(23), -1)
    assert retrieval(loud, shouted, metric=metric, per_perturbation=True)[:15] == pytest.approx(1.0)
    silenced = brute_force(loud, shouted, query="prediction", metric=metric, exclude=exclude, candidates=loud[:0])
    ours = retrieval_ranks(loud, shouted, metric=metric, exclude=exclude)
    np.testing.assert_array_equal(ours, silenced)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_do_not_matter(effects, metric, monkeypatch):
    truth, prediction, _ = effects
    whole = retrieval_ranks(truth, prediction, metric=metric, exclude=np.arange(23) % 15)
    monkeypatch.setattr(_nearest_rows, "_BLOCK", 50)
    np.testing.assert_array_equal(retrieval_ranks(truth, prediction, metric=metric, exclude=np.arange(23) % 15), whole)


@pytest.mark.parametrize("query", ["prediction", "reference"])
@pytest.mark.parametrize("metric", METRICS)
def test_constant_prediction_is_chance(effects, query, metric):
    truth, prediction, _ = effects
    constant = np.tile(prediction[3], (len(truth), 1))
    options = {"query": query, "metric": metric}
    assert retrieval(truth, constant, **options) == pytest.approx(0.5, abs=1e-15)
    assert retrieval(truth, constant, normalize="vcc", **options) == pytest.approx(0.5 + 1 / 46, abs=1e-15)
    in_order = retrieval(truth, constant, normalize="vcc", ties="first", **options)
    assert in_order == pytest.approx(0.5 + 1 / 46, abs=1e-15)
    assert retrieval_accuracy(truth, constant, top=3, **options) == pytest.approx(3 / 23)
    assert mean_reciprocal_rank(truth, constant, **options) == pytest.approx((1 / np.arange(1, 24)).mean())


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
@pytest.mark.parametrize("metric", ["cosine", "pearson"])
def test_a_prediction_without_direction_ties_with_everything(effects, value, metric):
    truth, _, _ = effects
    flat = np.full_like(truth, value if metric == "pearson" else 0.0)
    np.testing.assert_array_equal(retrieval_ranks(truth, flat, metric=metric), 11.0)
    np.testing.assert_array_equal(retrieval_ranks(truth, flat, metric=metric, ties="first"), np.arange(23))


def test_ties_are_shared_whatever_the_order():
    truth = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 3.0]])
    np.testing.assert_array_equal(retrieval_ranks(truth, truth), [0.5, 0.0, 0.5, 0.0])
    np.testing.assert_array_equal(retrieval_ranks(truth, truth, ties="first"), [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(retrieval_accuracy(truth, truth, per_perturbation=True), [0.5, 1.0, 0.5, 1.0])
    np.testing.assert_allclose(mean_reciprocal_rank(truth, truth, per_perturbation=True), [0.75, 1.0, 0.75, 1.0])


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_distances_that_differ_by_rounding_are_ties(metric):
    rng = np.random.default_rng(6)
    row = rng.normal(size=50)
    truth = np.stack([rng.permutation(row) for _ in range(9)])  # equally far from zero, summed in another order
    np.testing.assert_array_equal(retrieval_ranks(truth, np.zeros_like(truth), metric=metric), 4.0)


@pytest.mark.parametrize("metric", ["cosine", "pearson"])
def test_no_direction_is_left_without_the_only_gene_that_moves(effects, metric):
    truth, _, _ = effects
    prediction = np.full_like(truth, 0.1 if metric == "pearson" else 0.0)
    genes = np.arange(23) % 15
    prediction[np.arange(23), genes] = -3.3
    assert retrieval(truth, prediction, metric=metric) != 0.5
    np.testing.assert_array_equal(retrieval_ranks(truth, prediction, metric=metric, exclude=genes), 11.0)


def test_permuted_labels_score_chance():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(40, 30))
    scores = {metric: [] for metric in METRICS}
    for _ in range(60):
        shuffled = truth[rng.permutation(40)]
        for metric, values in scores.items():
            values.append(retrieval(truth, shuffled, metric=metric))
    for values in scores.values():
        assert abs(np.mean(values) - 0.5) < 3 * np.std(values, ddof=1) / np.sqrt(60)


def test_rescaling_moves_l1_but_not_cosine():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(60, 40)) * rng.lognormal(size=(60, 1))
    prediction = truth + 2 * rng.normal(size=truth.shape)
    assert retrieval(truth, 5 * prediction) != pytest.approx(retrieval(truth, prediction), abs=1e-3)
    assert retrieval(truth, 5 * prediction, metric="cosine") == retrieval(truth, prediction, metric="cosine")


def test_accuracy_and_reciprocal_rank_follow_from_ranks(effects):
    truth, prediction, candidates = effects
    ranks = retrieval_ranks(truth, prediction, candidates=candidates)
    assert retrieval_accuracy(truth, prediction, top=5, candidates=candidates) == np.mean(ranks < 5)
    assert retrieval_accuracy(truth, prediction, top=29, candidates=candidates) == 1.0
    assert mean_reciprocal_rank(truth, prediction, candidates=candidates) == pytest.approx(np.mean(1 / (ranks + 1)))
    assert retrieval(truth, prediction, candidates=candidates) == pytest.approx(1 - ranks.mean() / 28)


def test_centroid_accuracy_counts_farther_centroids(effects):
    truth, prediction, candidates = effects
    rows = np.vstack([truth, candidates])
    distance = scipy.spatial.distance.cdist(prediction, rows)
    expected = [(np.delete(d, i) > d[i]).mean() for i, d in enumerate(distance)]
    ours = centroid_accuracy(truth, prediction, candidates=candidates, per_perturbation=True)
    np.testing.assert_allclose(ours, expected)
    control = np.random.default_rng(4).normal(size=15)
    means = centroid_accuracy(truth + control, prediction + control, candidates=candidates + control)
    assert means == pytest.approx(ours.mean())


E = np.random.default_rng(5).normal(size=(4, 3))


@pytest.mark.parametrize("score", [retrieval, retrieval_ranks, retrieval_accuracy, mean_reciprocal_rank])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"query": "both"}, "query: expected one of 'prediction', 'reference'"),
        ({"metric": "euclid"}, "metric: expected one of 'l1'"),
        ({"ties": "random"}, "ties: expected one of"),
        ({"exclude": np.array([0, 1, 2])}, r"exclude: .* shape \(4,\)"),
        ({"exclude": np.array([0, 1, 2, 3])}, "exclude: expected -1 .none. or gene indices below 3"),
        ({"exclude": np.array([0, 1, 2, -2])}, "exclude: expected -1"),
        ({"exclude": np.zeros(4)}, "exclude: .*got dtype float64"),
        ({"candidates": E[:, :2]}, "candidates: expected the 3 genes"),
        ({"candidates": E * np.nan}, "candidates: expected finite"),
    ],
)
def test_bad_options(score, options, match):
    with pytest.raises(ValueError, match=match):
        score(E, E, **options)


@pytest.mark.parametrize("top", [0, 5, 1.5, True])
def test_bad_top(top):
    with pytest.raises(ValueError, match="top: expected an integer from 1 to 4"):
        retrieval_accuracy(E, E, top=top)


def test_bad_normalize_and_size():
    with pytest.raises(ValueError, match="normalize: expected one of"):
        retrieval(E, E, normalize="max")
    with pytest.raises(ValueError, match="at least two perturbations"):
        retrieval(E[:1], E[:1])
    assert retrieval(E[:1], E[:1], candidates=E[1:]) == 1.0
    with pytest.raises(ValueError, match="at least two genes to correlate"):
        retrieval(E[:, :1], E[:, :1], metric="pearson")
    with pytest.raises(ValueError, match="a gene besides the one left out"):
        retrieval(E[:, :1], E[:, :1], exclude=np.zeros(4, dtype=int))
