"""Copies of data in memory and in files, and whether they can be written to."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from perturbia.errors import UnsupportedQuery
from perturbia.perturbation._copies import for_models, in_memory, require_writable


@pytest.fixture(params=["memory", "view", "file", "view of a file"])
def form(request) -> str:
    return request.param


@pytest.fixture
def adata(form, tmp_path) -> ad.AnnData:
    whole = ad.AnnData(np.arange(12, dtype=np.float32).reshape(4, 3))
    if "file" in form:
        whole.write_h5ad(tmp_path / "a.h5ad")
        whole = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    return whole[:2] if "view" in form else whole


def test_copies_are_in_memory_and_apart(adata):
    before = np.asarray(adata.X[:]).copy()
    out = in_memory(adata)
    assert not out.isbacked
    assert not out.is_view
    out.X[:] = 0
    np.testing.assert_array_equal(adata.X[:], before)


def test_only_views_of_files_are_read_for_models(adata, form):
    out = for_models(adata)
    assert (out is adata) == (form != "view of a file")
    assert not (out.isbacked and out.is_view)
    assert for_models(None) is None


def test_only_views_of_files_are_refused(adata, form):
    if form != "view of a file":
        require_writable(adata)
        return
    with pytest.raises(UnsupportedQuery, match=r"^adata: .* a view of a backed file\. Use copy=True, or \.to_memory"):
        require_writable(adata)
    with pytest.raises(UnsupportedQuery, match=r"^a_map: .* file\. Pass another\.$"):
        require_writable(adata, argument="a_map", fix="Pass another.")
