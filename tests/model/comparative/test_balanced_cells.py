"""Balanced minibatches."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from perturbia.model.comparative._balanced_cells import BalancedSampler, group_codes


def batches(groups: np.ndarray, batch_size: int) -> list[np.ndarray]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return list(BalancedSampler(groups, batch_size))


def test_every_group_has_its_share() -> None:
    groups = np.repeat([0, 1, 2], [30, 200, 900])
    drawn = batches(groups, 60)
    assert len(drawn) == 19
    for batch in drawn:
        assert np.bincount(groups[batch]).tolist() == [20, 20, 20]
        assert len(np.unique(batch)) == 60


def test_a_small_group_fills_less_than_its_share() -> None:
    groups = np.repeat([0, 1], [5, 100])
    for batch in batches(groups, 40):
        assert np.bincount(groups[batch]).tolist() == [5, 20]


def test_all_cells_come_in_turn() -> None:
    groups = np.repeat([0, 1], [50, 50])
    drawn = np.concatenate(batches(groups, 20))
    assert np.bincount(drawn, minlength=100).tolist() == [1] * 100


def test_group_codes() -> None:
    dosage = sparse.csr_matrix([[0, 0, 0], [0, 0.5, 0], [1, 0, 0], [0, 0, 2]])
    assert group_codes(dosage, 3).tolist() == [0, 2, 1, 3]
    assert group_codes(dosage, 1).tolist() == [0, 1, 1, 1]
