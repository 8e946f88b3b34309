"""Draws of rows within batches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from perturbia.metrics._batch_draws import BatchDraws
from perturbia.metrics._replicate_sets import replicate_sets


def layout(seed: int, *, n_sets: int = 12, n_batches: int = 3, extra: int = 6):
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_sets), rng.integers(n_sets, size=40), np.full(extra * n_batches, -1)])
    batches = np.concatenate([rng.integers(n_batches, size=n_sets + 40), np.repeat(np.arange(n_batches), extra)])
    order = rng.permutation(len(codes))
    return codes[order], batches[order], replicate_sets(codes[order], batches[order], n_sets, across=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("controls", [False, True])
def test_draws_have_the_batches_of_the_sets_and_no_row_twice(seed, controls):
    codes, batches, sets = layout(seed, extra=8)
    pool = np.flatnonzero((codes < 0) == controls)
    pool = pool[np.argsort(batches[pool], kind="stable")]
    # controls are fewer than all sets together need
    assert not controls or len(pool) < len(sets.rows)
    drawn = BatchDraws(sets, pool, batches[pool]).draw(np.random.default_rng(0), 20)
    assert drawn.shape == (20, len(sets.rows))
    np.testing.assert_array_equal(batches[drawn], np.tile(batches[sets.rows], (20, 1)))
    assert np.isin(drawn, pool).all()
    for one in drawn:
        for start, stop in zip(sets.set_start[:-1], sets.set_start[1:], strict=True):
            assert len(set(one[start:stop])) == stop - start


@pytest.mark.parametrize("controls", [False, True])
def test_every_set_is_a_simple_random_sample(controls):
    codes, batches, sets = layout(1, n_batches=1, extra=9)
    pool = np.flatnonzero((codes < 0) == controls)
    drawn = BatchDraws(sets, pool, batches[pool]).draw(np.random.default_rng(3), 4000)
    sizes = np.diff(sets.set_start)
    assert sizes.max() > 3
    for k in (int(np.argmax(sizes)), int(np.argmin(sizes)), 5):
        own = drawn[:, sets.set_start[k] : sets.set_start[k + 1]]
        count = np.bincount(np.searchsorted(pool, own.ravel()), minlength=len(pool))
        # hypergeometric counts vary less than multinomial ones, by the share of rows left over
        statistic = ((count - count.mean()) ** 2 / count.mean()).sum() / (1 - own.shape[1] / len(pool))
        assert stats.chi2.sf(statistic * (len(pool) - 1) / len(pool), len(pool) - 1) > 1e-3
    start = sets.set_start[np.argmax(sizes)]
    pairs = np.sort(np.searchsorted(pool, drawn[:, start : start + 2]), axis=1)
    count = np.bincount(pairs[:, 0] * len(pool) + pairs[:, 1], minlength=len(pool) ** 2).reshape(len(pool), -1)
    assert not np.diag(count).any()
    assert stats.chisquare(count[np.triu_indices(len(pool), 1)]).pvalue > 1e-3


def test_sets_of_one_layout_are_grouped():
    codes = np.repeat([0, 1, 2, 3, 4], [3, 3, 3, 2, 3])
    batches = np.array([0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1])
    first, kind = replicate_sets(codes, batches, 5, across=True).kinds(10)
    assert kind[0] == kind[1] == kind[4]
    assert len({kind[0], kind[2], kind[3]}) == len(first) == 3
    np.testing.assert_array_equal(np.sort(first), [0, 2, 3])
    first, kind = replicate_sets(codes, batches, 5, across=True).kinds(2)
    assert kind[0] == kind[1] != kind[4]
    np.testing.assert_array_equal(kind[first], np.arange(4))


def test_sets_can_be_taken_in_any_order():
    codes, batches, sets = layout(2)
    part = sets.take(np.array([7, 2]))
    np.testing.assert_array_equal(np.sort(part.rows[: part.set_start[1]]), np.flatnonzero(codes == 7))
    np.testing.assert_array_equal(np.sort(part.rows[part.set_start[1] :]), np.flatnonzero(codes == 2))
    np.testing.assert_array_equal(part.n_pairs, sets.n_pairs[[7, 2]])
    np.testing.assert_array_equal(batches[part.rows], np.repeat(part.cell_batch, part.cell_size))
    assert part.cell_start[-1] == part.set_start[-1] == len(part.rows)
