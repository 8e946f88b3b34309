from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from perturbia.stats import log1p_cp10k

COUNTS = np.random.default_rng(0).poisson(0.8, size=(30, 20)).astype(np.float32) + np.eye(30, 20, dtype=np.float32)
COUNTS[:, 0] += 1


def test_matches_scanpy():
    adata = AnnData(COUNTS.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(log1p_cp10k(COUNTS), adata.X, rtol=1e-6)


@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csr_array, sp.csc_matrix, sp.coo_matrix])
def test_sparse_equals_dense_and_stays_sparse(container):
    X = container(COUNTS)
    result = log1p_cp10k(X)
    assert result.format == "csr"
    assert isinstance(result, sp.sparray) == isinstance(X, sp.sparray)
    np.testing.assert_allclose(result.toarray(), log1p_cp10k(COUNTS), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.int64, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_dtype_and_input_untouched(dtype, expected):
    dense, sparse = COUNTS.astype(dtype), sp.csr_matrix(COUNTS.astype(dtype))
    assert log1p_cp10k(dense).dtype == log1p_cp10k(sparse).dtype == expected
    np.testing.assert_array_equal(dense, COUNTS)
    np.testing.assert_array_equal(sparse.toarray(), COUNTS)


def test_stored_duplicates_are_added_before_the_logarithm():
    X = sp.csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([0, 0, 1]), np.array([0, 3])), shape=(1, 2))
    np.testing.assert_allclose(log1p_cp10k(X).toarray(), log1p_cp10k(np.array([[3.0, 4.0]])))
    assert X.nnz == 3


def test_depth_does_not_matter_and_target_does():
    np.testing.assert_allclose(log1p_cp10k(7 * COUNTS), log1p_cp10k(COUNTS), rtol=1e-5)
    total = np.expm1(log1p_cp10k(COUNTS.astype(float), target_sum=100.0)).sum(axis=1)
    np.testing.assert_allclose(total, 100.0)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]), "got 2 cells whose counts are all zero"),
        (np.array([[1.0, -2.0]]), "X: expected numbers >= 0, got a minimum of -2"),
        (np.array([[1.0, np.nan]]), "X: expected finite numbers, got 1 NaN"),
        (np.empty((0, 3)), "X: expected at least 1 row"),
    ],
)
def test_bad_input(container, X, match):
    with pytest.raises(ValueError, match=match):
        log1p_cp10k(container(X))


def test_bad_target():
    with pytest.raises(ValueError, match="target_sum: expected a positive"):
        log1p_cp10k(COUNTS, target_sum=0)
