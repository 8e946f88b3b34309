from __future__ import annotations

import warnings

import networkx as nx
import numpy as np
import ot
import pytest

from perturbia.stats import gromov_wasserstein
from perturbia.stats.gromov_wasserstein import geodesic_distances, gromov_plan


def walked(points, k):
    """Steps between cells in the graph of the k best correlated others."""
    similarity = np.corrcoef(points / np.linalg.norm(points, axis=1, keepdims=True))
    np.fill_diagonal(similarity, -np.inf)
    graph = nx.Graph()
    graph.add_nodes_from(range(len(points)))
    graph.add_edges_from((i, j) for i, row in enumerate(similarity) for j in np.argsort(-row)[:k])
    steps = np.full((len(points),) * 2, np.nan)
    for i, lengths in nx.all_pairs_shortest_path_length(graph):
        for j, length in lengths.items():
            steps[i, j] = length
    steps[np.isnan(steps)] = np.nanmax(steps)
    return steps / steps.max()


@pytest.fixture
def populations():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 2))
    return z @ rng.normal(size=(2, 6)), np.tanh(z[:33] @ rng.normal(size=(2, 4)))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_geodesics_are_shortest_walks(populations, k):
    np.testing.assert_allclose(geodesic_distances(populations[0], k), walked(populations[0], k))


def test_neighbours_are_capped_at_a_fifth_of_the_cells(populations):
    x = populations[0]
    np.testing.assert_array_equal(geodesic_distances(x, 1000), geodesic_distances(x, 8))
    np.testing.assert_array_equal(geodesic_distances(x), geodesic_distances(x, 8))
    assert (geodesic_distances(x, 2) != geodesic_distances(x, 8)).any()
    large = np.random.default_rng(0).normal(size=(300, 5))
    np.testing.assert_array_equal(geodesic_distances(large), geodesic_distances(large, 50))


def test_equals_pot_on_the_same_geodesics(populations):
    first, second = (geodesic_distances(points) for points in populations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right, log = ot.gromov.entropic_gromov_wasserstein(
            first, second, np.full(40, 1 / 40), np.full(33, 1 / 33), "square_loss", epsilon=0.01, log=True
        )
    plan, report = gromov_plan(*populations, epsilon=0.01)
    np.testing.assert_allclose(plan, right, atol=1e-12)
    assert report["mean_cost"] == pytest.approx(float(log["gw_dist"]))
    assert report["epsilon"] == 0.01


def test_finds_the_same_population_again():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 4))
    order = rng.permutation(30)
    plan, report = gromov_plan(x, x[order], epsilon=1e-3)
    assert report["converged"]
    assert (order[plan.argmax(1)] == np.arange(30)).mean() > 0.9


def test_epsilon_rises_until_the_plan_is_finite(monkeypatch, populations):
    solve, tried = ot.gromov.entropic_gromov_wasserstein, []

    def failing(*args, epsilon, **kwargs):
        tried.append(epsilon)
        plan, log = solve(*args, epsilon=0.05, **kwargs)
        return (plan if len(tried) > 2 else plan * np.nan), log

    monkeypatch.setattr(ot.gromov, "entropic_gromov_wasserstein", failing)
    plan, report = gromov_plan(*populations, epsilon=0.01)
    assert np.isfinite(plan).all()
    assert tried == pytest.approx([0.01, 0.03, 0.09])
    assert report["epsilon"] == pytest.approx(0.09)
    tried[:] = [0] * -100
    monkeypatch.setattr(ot.gromov, "entropic_gromov_wasserstein", lambda *a, **k: (np.full((40, 33), np.nan), {}))
    with pytest.raises(ValueError, match=r"epsilon: expected one at which .* got 0.01 to 2.43"):
        gromov_plan(*populations, epsilon=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (2, 3)])
def test_few_cells(shape):
    rng = np.random.default_rng(0)
    plan, _ = gromov_plan(rng.normal(size=(shape[0], 4)), rng.normal(size=(shape[1], 3)))
    np.testing.assert_allclose(plan.sum(1), 1 / shape[0])
    np.testing.assert_allclose(plan.sum(0), 1 / shape[1])


def test_one_feature_has_no_correlation():
    with pytest.raises(ValueError, match="at least 2 features, whose correlation is the distance, got 1"):
        geodesic_distances(np.ones((5, 1)))
    assert gromov_wasserstein.__all__ == ["geodesic_distances", "gromov_plan"]
