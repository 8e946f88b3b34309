from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from perturbia.errors import FeatureMismatch, ScaleError
from perturbia.model.base._features import check_features, match_features


def make(values: object, **kwargs: object) -> ad.AnnData:
    return ad.AnnData(np.asarray(values, dtype=np.float32), **kwargs)


@pytest.mark.parametrize(
    ("values", "scale", "match"),
    [
        ([[1.0, -2.0]], "counts", "negative value -2"),
        ([[1.0, 0.25]], "counts", r"fraction 0\.25"),
        ([[1.0, 0.0], [0.0, 0.0]], "counts", r"1 empty cell\(s\) of 2"),
        ([[np.nan, 0.0]], "zscore", "finite"),
        ([[np.inf, 1.0]], "counts", "finite"),
        ([[1.0, 2.0]], "log", "expected one of counts"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_features_that_contradict_the_scale(values: list, scale: str, match: str, form: type) -> None:
    adata = make(values)
    adata.X = form(adata.X)
    with pytest.raises(ScaleError, match=match):
        check_features(adata, None, scale)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16])
def test_counts_of_any_type_pass(dtype: type) -> None:
    check_features(ad.AnnData(np.ones((3, 2), dtype=dtype)), None, "counts")


@pytest.mark.parametrize("scale", ["log1p_cp10k", "zscore", "embedding", "probability"])
def test_other_scales_may_hold_fractions_and_empty_cells(scale: str) -> None:
    check_features(make([[0.5, 0.25], [0.0, 0.0]]), None, scale)


def test_the_named_layer_is_read() -> None:
    adata = make([[0.5, 0.5]], layers={"counts": np.ones((1, 2))})
    check_features(adata, "counts", "counts")
    with pytest.raises(ScaleError, match=r"^X: "):
        check_features(adata, None, "counts")
    with pytest.raises(KeyError, match="raw"):
        check_features(adata, "raw", "counts")
    with pytest.raises(ScaleError, match="found none"):
        check_features(ad.AnnData(obs=adata.obs, var=adata.var), None, "counts")


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_a_fault_far_into_a_file_is_found(tmp_path, form: type) -> None:
    values = np.ones((9000, 2), dtype=np.float32)
    values[8999, 1] = 0.5
    ad.AnnData(form(values)).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ScaleError, match=r"fraction 0\.5"):
        check_features(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), None, "counts")


def test_features_are_put_in_order() -> None:
    adata = make([[1.0, 2.0, 3.0]])
    adata.var_names = ["a", "b", "c"]
    assert match_features(adata, ["a", "b", "c"]) is adata
    np.testing.assert_array_equal(match_features(adata, ["c", "a"]).X, [[3.0, 1.0]])
    np.testing.assert_array_equal(adata.X, [[1.0, 2.0, 3.0]])
    with pytest.raises(FeatureMismatch, match="3 features.*1 are missing: 'z'"):
        match_features(adata, ["a", "b", "z"])
    adata.var_names = ["a", "b", "b"]
    with pytest.raises(FeatureMismatch, match="unique"):
        match_features(adata, ["b", "a"])
