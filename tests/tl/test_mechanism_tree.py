"""The tree of mechanisms, on shifts chosen by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbia.errors import UnknownPerturbation
from perturbia.tl import clade_of, mechanisms


class FakeModel:
    """Two near pairs far from one another, and one perturbation of no effect."""

    shifts = pd.DataFrame(
        [[2.0, 0.0], [2.1, 0.0], [0.0, 3.0], [0.0, 3.2], [0.0, 0.0]],
        index=["A", "B", "C", "D", "E"],
        columns=["z0", "z1"],
    )

    def get_treatment_masks(self):
        return (self.shifts != 0).astype(float).iloc[::-1]  # another order of rows

    def get_treatment_embeddings(self, *, masked=True):
        assert masked
        return self.shifts


def test_rows_and_masks_belong_together():
    tree = mechanisms(FakeModel())
    np.testing.assert_allclose(tree["C"].X, [[0.0, 3.0]])
    np.testing.assert_array_equal(tree.layers["mask"], (FakeModel.shifts != 0).to_numpy())
    assert tree.obs["n_moved"].tolist() == [1, 1, 1, 1, 0]
    assert sorted(tree.obs["order"]) == list(range(5))
    assert abs(tree.obs["order"]["A"] - tree.obs["order"]["B"]) == 1


def test_clades():
    tree = mechanisms(FakeModel())
    assert clade_of(tree, ["A", "B"]) == ["A", "B"]
    assert clade_of(tree, ["D", "C"]) == ["C", "D"]
    assert clade_of(tree, ["A", "E"]) == ["A", "B", "E"]
    assert clade_of(tree, ["A", "C"]) == ["A", "B", "C", "D", "E"]
    with pytest.raises(UnknownPerturbation, match="Z"):
        clade_of(tree, ["A", "Z"])


def test_it_survives_a_file(tmp_path):
    import anndata as ad

    tree = mechanisms(FakeModel())
    tree.write_h5ad(tmp_path / "tree.h5ad")
    assert clade_of(ad.read_h5ad(tmp_path / "tree.h5ad"), ["A", "B"]) == ["A", "B"]


def test_two_perturbations_have_no_tree():
    model = FakeModel()
    model.shifts = model.shifts.iloc[:2]
    tree = mechanisms(model)
    assert "linkage" not in tree.uns
    assert clade_of(tree, ["A", "B"]) == ["A", "B"]


@pytest.mark.parametrize("rows", [["D", "C", "B", "A", "E"], ["C", "D", "E"]])
def test_a_tree_with_rows_moved_is_refused(rows):
    tree = mechanisms(FakeModel())
    with pytest.raises(ValueError, match="left out or moved"):
        clade_of(tree[rows], ["C", "D"])
    with pytest.raises(ValueError, match="members"):
        clade_of(tree, [])
