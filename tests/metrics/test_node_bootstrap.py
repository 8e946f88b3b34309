"""Intervals of shares of pairs from resampled nodes, against a loop over resamples."""

from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics._node_bootstrap import bootstrap_shares


def shares_by_loop(first, second, hits, n_boot: int, seed: int) -> np.ndarray:
    """Resampled shares, pair by pair, with the same draws."""
    nodes = sorted({*first, *second})
    rng = np.random.default_rng(seed)
    shares = []
    for draw in rng.integers(0, len(nodes), size=(n_boot, len(nodes))):
        times = {node: int((draw == k).sum()) for k, node in enumerate(nodes)}
        weight = np.array([times[a] * times[b] for a, b in zip(first, second, strict=True)])
        shares.append((weight @ hits) / weight.sum() if weight.sum() else np.full(hits.shape[1], np.nan))
    return np.array(shares)


@pytest.mark.parametrize("n_pairs", [2, 30])
def test_intervals_are_those_of_a_loop_over_resamples(n_pairs):
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 12, n_pairs), rng.integers(12, 25, n_pairs)
    hits = rng.random((n_pairs, 3)) < 0.4
    shares = shares_by_loop(first, second, hits, 100, 5)
    expected = np.nanquantile(shares, [0.05, 0.95], axis=0)
    limits = bootstrap_shares(first, second, hits, n_boot=100, confidence=0.9, seed=5)
    np.testing.assert_allclose(limits, expected, rtol=1e-6)


def test_many_pairs_are_resampled_in_parts(monkeypatch):
    rng = np.random.default_rng(2)
    first, second, hits = rng.integers(0, 50, 500), rng.integers(50, 99, 500), rng.random((500, 2)) < 0.2
    once = bootstrap_shares(first, second, hits, n_boot=60, confidence=0.95, seed=0)
    monkeypatch.setattr("perturbia.metrics._node_bootstrap._PAIRS", 7)
    np.testing.assert_allclose(bootstrap_shares(first, second, hits, n_boot=60, confidence=0.95, seed=0), once)


def test_intervals_know_that_pairs_share_genes():
    """A few hubs own all pairs and decide the recall together: resampled pairs would be far too sure."""
    rng = np.random.default_rng(0)
    first, second = np.repeat(np.arange(10), 100), rng.integers(10, 400, size=1000)
    hits = (first < 4)[:, None]
    low, high = bootstrap_shares(first, second, hits, n_boot=400, confidence=0.95, seed=0)[:, 0]
    by_pairs = 2 * 1.96 * np.sqrt(0.4 * 0.6 / 1000)
    assert high - low > 5 * by_pairs
    wide = bootstrap_shares(first, second, rng.permuted(hits, axis=0), n_boot=400, confidence=0.95, seed=0)[:, 0]
    assert wide[1] - wide[0] < 2.5 * by_pairs


@pytest.mark.parametrize(("n_pairs", "n_boot"), [(1, 50), (0, 50), (5, 0)])
def test_nothing_to_resample_has_no_limits(n_pairs, n_boot):
    nodes = np.arange(n_pairs)
    limits = bootstrap_shares(nodes, nodes + 9, np.ones((n_pairs, 2), bool), n_boot=n_boot, confidence=0.9, seed=0)
    assert limits.shape == (2, 2)
    assert np.isnan(limits).all()
