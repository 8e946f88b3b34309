"""Random graphs in which every node keeps its number of edges: the probability of each edge, in closed form."""

from __future__ import annotations

import numpy as np

from perturbia.metrics._pair_similarities import PairWeights

__all__ = ["edge_probabilities"]

_MAX_ITERATIONS = 2000
_TOLERANCE = 1e-8  # of expected degrees, relative


def edge_probabilities(degrees: np.ndarray) -> PairWeights:
    r"""Probability of each edge in the largest-entropy random graph with these expected degrees.

    .. math:: p_{ij} = \frac{x_i x_j}{1 + x_i x_j}, \qquad \sum_{j \ne i} p_{ij} = k_i

    It is what rewiring a graph at random, with degrees kept, gives on average (the soft configuration model), without
    drawing a graph. No pair counts more than once, however many edges its two nodes have.

    Parameters
    ----------
    degrees
        Edges of every node, at least 1, shape (n_nodes,); those of a graph without loops and double edges.

    Returns
    -------
    Probabilities by classes of nodes, those of equal degree.

    Notes
    -----
    Fixed-point iteration of Chatterjee, Diaconis and Sly (2011), over distinct degrees and so without a loop or a matrix
    over nodes. Where a node has an edge to every other, or a graph is a star, no finite solution exists; the iteration
    tends to the limit, in which those edges are certain, and is stopped near it.
    """
    distinct, classes, sizes = np.unique(degrees, return_inverse=True, return_counts=True)
    x = distinct / np.sqrt(max(float(np.sum(degrees)), 1.0))
    for _ in range(_MAX_ITERATIONS):
        product = np.outer(x, x)
        # of an edge to another node, without x of the node itself; a node is no neighbour of its own
        share = (x / (1.0 + product)) @ sizes - x / (1.0 + x * x)
        if np.all(np.abs(x * share - distinct) <= _TOLERANCE * distinct):
            break
        x = np.where(share > 0, distinct / np.where(share > 0, share, 1.0), x)
    product = np.outer(x, x)
    return PairWeights(classes.reshape(-1), product / (1.0 + product))
