"""Do predicted effects group perturbations as true effects do?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.metrics._paired_effects import paired_effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    import networkx as nx


def _neighbour_graph(effects: np.ndarray, n_neighbors: int) -> nx.Graph:
    """Graph of shared nearest neighbours by Euclidean distance; rows are nodes."""
    import networkx as nx
    from sklearn.neighbors import kneighbors_graph

    directed = kneighbors_graph(effects, min(n_neighbors, len(effects) - 1))
    return nx.from_scipy_sparse_array(directed + directed.T)


def _visiting_order(effects: np.ndarray, seed: int) -> np.ndarray:
    """Rows by length, equal ones at random: the order that rows come in decides nothing."""
    ties = np.random.default_rng(seed).permutation(len(effects))
    return np.lexsort((ties, np.linalg.norm(effects, axis=1)))


def _communities(graph: nx.Graph, order: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """Label of each row; node i of the graph is row order[i]."""
    import networkx as nx

    labels = np.empty(len(order), dtype=np.intp)
    found = nx.community.louvain_communities(graph, weight="weight", resolution=resolution, seed=seed)
    for label, members in enumerate(found):
        labels[order[list(members)]] = label
    return labels


def clustering_agreement(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    resolutions: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0),
    truth_resolution: float = 1.0,
    n_neighbors: int = 15,
    seed: int = 0,
) -> float:
    """Adjusted mutual information of clusters of perturbations, true and predicted, at the best predicted resolution.

    The clusters are communities of the nearest-neighbour graph. `clustering_agreement` of cell-eval takes Leiden
    communities of a UMAP-weighted graph; these are Louvain communities of the unweighted one (edges found from both sides
    count twice), so that values are comparable in kind, not digit by digit.

    **Range** up to 1, best; never below 0, because predicted clusters that agree less than chance count 0. **Chance** is a
    little above 0, since the best of several resolutions is taken. **Not seen**: what the clusters do. It needs more than
    about three times `n_neighbors` perturbations to say anything.

    Parameters
    ----------
    truth, prediction
        Effects or mean profiles, shape (n_perturbations, n_genes), same order.
    resolutions
        Resolutions of the predicted clusters; the best counts.
    truth_resolution
        Resolution of the true clusters.
    n_neighbors
        Neighbours of each perturbation in the graph, at most n_perturbations - 1.
    seed
        Seed of the community search, which visits nodes at random.

    Returns
    -------
    A float. The same prediction for everything scores 0.

    Raises
    ------
    ValueError
        Bad arrays, fewer than three perturbations, a resolution that is not positive, `n_neighbors` below 1, or true
        clusters that are one for all or one for each.

    Examples
    --------
    >>> import numpy as np
    >>> centres = np.repeat(10 * np.eye(3), 10, axis=0)
    >>> truth = centres + np.random.default_rng(0).normal(size=centres.shape)
    >>> round(clustering_agreement(truth, centres + truth / 2, n_neighbors=5), 6)
    1.0
    """
    from sklearn.metrics import adjusted_mutual_info_score

    true, predicted = paired_effects(truth, prediction)
    if len(true) < 3:
        msg = f"truth: expected at least three perturbations to cluster, got {len(true)}."
        raise ValueError(msg)
    if len(resolutions) == 0 or min(*resolutions, truth_resolution) <= 0:
        msg = f"resolutions: expected numbers > 0, got {tuple(resolutions)} and truth_resolution={truth_resolution}."
        raise ValueError(msg)
    if n_neighbors < 1:
        msg = f"n_neighbors: expected at least 1, got {n_neighbors}."
        raise ValueError(msg)
    order = _visiting_order(true, seed)
    labels = _communities(_neighbour_graph(true[order], n_neighbors), order, truth_resolution, seed)
    if (n_clusters := len(np.unique(labels))) in (1, len(labels)):
        msg = (
            f"truth: expected effects that form clusters, got {n_clusters} for {len(labels)} perturbations. "
            "Change truth_resolution or n_neighbors."
        )
        raise ValueError(msg)
    if (predicted == predicted[0]).all():  # neighbours among equals are arbitrary
        return 0.0
    order = _visiting_order(predicted, seed)
    graph = _neighbour_graph(predicted[order], n_neighbors)
    scores = [adjusted_mutual_info_score(labels, _communities(graph, order, value, seed)) for value in resolutions]
    return float(max(0.0, *scores))
