"""Folds of whole groups: nothing is in two, labels are spread, and what can be scored is counted as a loop would."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from perturbia.stats.grouped_folds import fold_support, groups_of_labels, spread_folds


def layout(
    seed: int, *, n_groups: int = 12, n_labels: int = 40, n_replicates: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Every label on a few groups drawn at random, one row each."""
    rng = np.random.default_rng(seed)
    groups = np.concatenate([rng.choice(n_groups, n_replicates, replace=False) for _ in range(n_labels)])
    codes = np.repeat(np.arange(n_labels), n_replicates)
    return codes, np.unique(groups, return_inverse=True)[1]


def together(codes: np.ndarray, groups: np.ndarray, folds: np.ndarray) -> int:
    """Pairs of groups of one label that share a fold."""
    total = 0
    for code in np.unique(codes):
        own = {int(group): int(fold) for group, fold in zip(groups[codes == code], folds[codes == code], strict=True)}
        total += sum(n * (n - 1) // 2 for n in np.bincount(list(own.values())))
    return total


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_folds", [1, 3, 5, 12])
def test_groups_stay_whole_and_no_fold_is_empty(seed, n_folds):
    codes, groups = layout(seed)
    folds = spread_folds(codes, groups, n_folds=n_folds, seed=seed)
    assert sorted(set(folds)) == list(range(n_folds))
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1


def test_folds_do_not_depend_on_the_order_of_rows_and_repeat_by_seed():
    codes, groups = layout(0)
    order = np.random.default_rng(1).permutation(len(codes))
    folds = spread_folds(codes, groups, n_folds=4, seed=3)
    np.testing.assert_array_equal(spread_folds(codes[order], groups[order], n_folds=4, seed=3), folds[order])
    assert any((spread_folds(codes, groups, n_folds=4, seed=seed) != folds).any() for seed in range(4, 8))


def test_replicates_of_a_label_are_kept_apart_as_by_stratified_folds_and_better_than_by_chance():
    own, stratified, chance = [], [], []
    for seed in range(20):
        codes, groups = layout(seed)
        own.append(together(codes, groups, spread_folds(codes, groups, n_folds=4, seed=seed)))
        splitter = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
        repeated = np.repeat(np.arange(len(codes)), 4)  # it refuses labels of fewer rows than folds
        folds = np.empty(len(repeated), dtype=int)
        for k, (_, test) in enumerate(splitter.split(repeated, codes[repeated], groups[repeated])):
            folds[test] = k
        stratified.append(together(codes, groups, folds[::4]))
        drawn = np.random.default_rng(seed).permutation(np.arange(12) % 4)
        chance.append(together(codes, groups, drawn[groups]))
    assert np.mean(own) < 1.1 * np.mean(stratified)
    assert np.mean(own) < 0.7 * np.mean(chance)


def test_equal_plates_make_equal_folds():
    codes, groups = np.tile(np.arange(7), 10), np.repeat(np.arange(10), 7)
    assert np.bincount(spread_folds(codes, groups, n_folds=5)).tolist() == [14] * 5


def test_more_folds_than_groups():
    with pytest.raises(ValueError, match="n_folds: expected 1 to 2, the number of groups, got 3"):
        spread_folds(np.array([0, 1]), np.array([0, 1]), n_folds=3)


def test_groups_of_labels():
    assert groups_of_labels(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 2])).tolist() == [2, 1]


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_support_is_what_a_loop_counts(balanced, seed):
    rng = np.random.default_rng(seed)
    n_folds, n = int(rng.integers(3, 6)), int(rng.integers(6, 25))
    folds = np.concatenate([np.arange(n_folds), rng.integers(0, n_folds, n)])
    codes = np.unique(rng.integers(0, 6, len(folds)), return_inverse=True)[1]
    found = fold_support(codes, folds, balanced=balanced)
    levels, unscored = [], 0
    for k in range(n_folds):
        for j in range(n_folds):
            train = codes[(folds != k) & (folds != j)]
            test = [code for code in codes[folds == j] if code in train]
            assert found.inner[k, j] == (len(set(train)) > 1 and len(test) > 0)
        train, own = codes[folds != k], codes[folds == k]
        test = own[np.isin(own, train)]
        unscored += len(own) - len(test)
        if found.outer[k]:
            frequent = np.bincount(train).argmax()
            levels.append(1 / len(set(train)) if balanced else (test == frequent).mean())
    np.testing.assert_array_equal(found.outer, np.diag(found.inner))
    assert found.n_unscored == unscored
    assert found.chance == pytest.approx(np.mean(levels)) if levels else np.isnan(found.chance)
