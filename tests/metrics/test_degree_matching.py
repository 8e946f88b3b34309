"""Edge probabilities of random graphs with given degrees: what defines them, and graphs rewired at random."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from perturbia.metrics._degree_matching import edge_probabilities


def test_edge_probabilities_have_the_degrees_and_factor():
    """The two properties that define the random graph: expected degrees, and odds that are products of nodes."""
    graph = nx.barabasi_albert_graph(60, 3, seed=0)
    degrees = np.array([d for _, d in sorted(graph.degree)])
    weights = edge_probabilities(degrees)
    nodes = np.arange(60)
    table = weights.of(nodes[:, None], nodes)
    np.testing.assert_allclose(table.sum(axis=1) - np.diag(table), degrees, rtol=1e-7)
    odds = table / (1 - table)
    np.testing.assert_allclose(odds, np.outer(odds[:, 0], odds[0]) / odds[0, 0], rtol=1e-9)
    assert (table < 1).all()


def test_edge_probabilities_are_those_of_rewired_graphs():
    graph = nx.gnm_random_graph(14, 30, seed=1)
    graph.add_edges_from((0, i) for i in range(1, 10))
    nodes = np.arange(14)
    weights = edge_probabilities(np.array([d for _, d in sorted(graph.degree)]))
    met, n_draws = np.zeros((14, 14)), 800
    for draw in range(n_draws):
        nx.double_edge_swap(graph, nswap=30, max_tries=10_000, seed=draw)
        met += nx.to_numpy_array(graph, nodelist=nodes)
    off = ~np.eye(14, dtype=bool)
    # fixed and expected degrees differ a little in a graph of so few nodes
    np.testing.assert_allclose(weights.of(nodes[:, None], nodes)[off], (met / n_draws)[off], atol=0.1)
    assert np.corrcoef(weights.of(nodes[:, None], nodes)[off], met[off])[0, 1] > 0.98


@pytest.mark.parametrize("degrees", [[4, 1, 1, 1, 1], [3, 3, 3, 3], [1, 1], [4, 2, 2, 2, 2]])
def test_edge_probabilities_where_some_edges_are_certain(degrees):
    """Stars, complete graphs, a wheel: no finite solution, yet finite probabilities near the limit."""
    weights = edge_probabilities(np.array(degrees))
    nodes = np.arange(len(degrees))
    table = weights.of(nodes[:, None], nodes)
    assert ((table >= 0) & (table <= 1)).all()
    np.testing.assert_allclose(table.sum(axis=1) - np.diag(table), degrees, rtol=0.1)
