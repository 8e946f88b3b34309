from __future__ import annotations

import numpy as np
import pytest

from perturbia.stats import replicate_signal


def by_pairs(rows, groups, batches):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    other = ~np.eye(len(rows), dtype=bool) if batches is None else batches[:, None] != batches[None]
    same = (groups[:, None] == groups[None]) & other
    means = [cosine[(groups == g)[:, None] & same].mean() for g in np.unique(groups) if ((groups == g)[:, None] & same).any()]
    every = cosine[other]
    return (np.mean(means) - every.mean()) / np.sqrt(np.mean(every**2) - every.mean() ** 2)


@pytest.mark.parametrize("n_batches", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_mean_over_pairs(n_batches, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 9, size=40)
    groups = np.unique(groups, return_inverse=True)[1]
    batches = None if n_batches is None else rng.integers(0, n_batches, size=40)
    rows = rng.normal(size=(9, 6))[groups] + rng.normal(size=(40, 6))
    assert replicate_signal(rows, groups, batches) == pytest.approx(by_pairs(rows, groups, batches), rel=1e-9)


def test_one_row_a_group_has_no_signal():
    assert np.isnan(replicate_signal(np.eye(3), np.arange(3)))
    assert np.isnan(replicate_signal(np.eye(4), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])))


def test_order_and_length_of_rows_do_not_matter():
    rng = np.random.default_rng(0)
    rows, groups, batches = rng.normal(size=(30, 5)), np.arange(30) % 6, np.arange(30) % 4
    order = rng.permutation(30)
    scaled = rows * rng.gamma(2.0, size=(30, 1))
    expected = replicate_signal(rows, groups, batches)
    assert replicate_signal(scaled[order], groups[order], batches[order]) == pytest.approx(expected)
