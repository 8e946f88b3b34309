from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu

from perturbia.stats import set_enrichment


@pytest.fixture
def values() -> np.ndarray:
    """Rows without ties, with many, and of one value."""
    rng = np.random.default_rng(0)
    return np.stack([rng.normal(size=60), rng.integers(0, 4, 60), np.full(60, 0.1)])


@pytest.fixture
def members() -> np.ndarray:
    rng = np.random.default_rng(1)
    sets = rng.random((5, 60)) < np.array([[0.1], [0.2], [0.5], [0.8], [0.9]])
    sets[:, :2] = [True, False]
    return sets


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_matches_scipy(values, members, container):
    test = set_enrichment(values, container(members))
    for j, chosen in enumerate(members):
        for i in (0, 1):
            expected = mannwhitneyu(values[i, chosen], values[i, ~chosen], method="asymptotic")
            np.testing.assert_allclose(test.p_value[i, j], expected.pvalue, rtol=1e-10)
            pairs = chosen.sum() * (~chosen).sum()
            np.testing.assert_allclose(test.statistic[i, j], 2 * expected.statistic / pairs - 1, atol=1e-12)
    np.testing.assert_array_equal(test.statistic[2], 0)
    np.testing.assert_array_equal(test.p_value[2], 1)


def test_a_member_stored_twice_is_one_member(values, members):
    once = sp.csr_matrix(members)
    twice = sp.csr_matrix((np.ones(2 * once.nnz, dtype=bool), np.repeat(once.indices, 2), 2 * once.indptr))
    np.testing.assert_array_equal(set_enrichment(values, twice), set_enrichment(values, members))
    assert twice.nnz == 2 * once.nnz  # what was passed is left alone


def test_sign_and_scale(values, members):
    test = set_enrichment(values, members)
    turned = set_enrichment(-3 * values + 1, members)
    np.testing.assert_allclose(turned.statistic, -test.statistic, atol=1e-12)
    np.testing.assert_allclose(turned.p_value, test.p_value)
    outside = set_enrichment(values, ~members)
    np.testing.assert_allclose(outside.statistic, -test.statistic, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v, m: (v[:, 1:], m), "members: expected a column for each"),
        (lambda v, m: (v[0], m), r"members: expected a column for each of those of values \(60,\)"),
        (lambda v, m: (np.where(v > 2, np.nan, v), m), "values: expected finite"),
        (lambda v, m: (v, np.zeros_like(m)), r"members: expected sets of 1 to 59 of the 60 columns, got sizes \[0"),
        (lambda v, m: (v, np.ones_like(m)), "got sizes"),
        (lambda v, m: (v, 2 * m), "members: expected True and False, got dtype int.*Pass such as members != 0"),
        (lambda v, m: (v, sp.csr_matrix(m, dtype=float)), "members: expected True and False, got dtype float64"),
        (lambda v, m: (v, np.where(m, "yes", "no")), "members: expected True and False, got dtype <U3"),
    ],
)
def test_bad_input(values, members, change, match):
    with pytest.raises(ValueError, match=match):
        set_enrichment(*change(values, members))
