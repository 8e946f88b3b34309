"""Splits: shares, nesting, reproducibility, and what must never leak."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbia.errors import ControlError, LabelError, SplitError
from perturbia.tl import split


def screen(sizes: dict[str, int]) -> ad.AnnData:
    labels = np.repeat(list(sizes), list(sizes.values()))
    rng = np.random.default_rng(0)
    labels = rng.permutation(labels)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    return ad.AnnData(rng.poisson(2.0, (len(labels), 3)).astype(np.float32), obs=obs)


def shares(adata: ad.AnnData) -> pd.DataFrame:
    return pd.crosstab(adata.obs["perturbation"], adata.obs["pb_split"], normalize="index")


SIZES = {"control": 200, "A": 100, "B": 60, "C": 40, "A+B": 50, "B+C": 30, "A+C": 20, "A+B+C": 20}


def test_random_split_has_the_shares_in_every_perturbation():
    adata = screen(SIZES)
    split(adata, fraction=0.3, valid=0.1)
    table = shares(adata)
    np.testing.assert_allclose(table["test"], 0.7, atol=0.01)
    count = pd.crosstab(adata.obs["perturbation"], adata.obs["pb_split"])
    seen = count["train"] + count["valid"]
    np.testing.assert_array_equal(count["valid"], np.rint(0.1 * seen))
    assert adata.obs["pb_split"].cat.categories.tolist() == ["train", "valid", "test"]
    assert "not generalisation" in adata.uns["pb_split"]["tests"]


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_perturbation_of_two_cells_has_one_on_either_side(fraction):
    adata = screen({"control": 50, "A": 2, "B": 30})
    split(adata, fraction=fraction, valid=0)
    parts = adata.obs.loc[adata.obs["perturbation"] == "A", "pb_split"].astype(str)
    assert sorted(parts) == ["test", "train"]


@pytest.mark.parametrize(("fraction", "n_held_out"), [(0.0, 4), (0.25, 3), (0.5, 2), (0.9, 1)])
def test_combinations_are_held_out_whole(fraction, n_held_out):
    adata = screen(SIZES)
    split(adata, axis="combination", fraction=fraction)
    table = shares(adata)
    held_out = table.index[table["test"] > 0]
    assert len(held_out) == n_held_out
    assert (table.loc[held_out, "test"] == 1).all()
    assert all("+" in name for name in held_out)


def test_spellings_and_doses_of_one_combination_stay_together():
    adata = screen({"control": 50, "A": 20, "B": 20, "C": 20, "A+B": 20, "B+A": 20, "A@0.5+B": 20, "B+C": 20})
    for seed in range(8):
        split(adata, axis="combination", fraction=0.5, seed=seed)
        parts = adata.obs.groupby("perturbation", observed=True)["pb_split"].agg(lambda p: (p == "test").mean())
        assert parts["A+B"] == parts["B+A"] == parts["A@0.5+B"] == 1 - parts["B+C"]


def test_same_seed_same_split_and_another_seed_another():
    one, two, three = screen(SIZES), screen(SIZES), screen(SIZES)
    for adata, seed in ((one, 1), (two, 1), (three, 2)):
        split(adata, seed=seed)
    assert (one.obs["pb_split"] == two.obs["pb_split"]).all()
    assert (one.obs["pb_split"] != three.obs["pb_split"]).any()


def test_copy_leaves_the_input_as_it_is():
    adata = screen(SIZES)
    out = split(adata, copy=True, key_added="mine")
    assert "mine" in out.obs
    assert "mine" in out.uns
    assert "mine" not in adata.obs
    assert "mine" not in adata.uns
    assert split(adata) is None


def test_split_survives_a_file(tmp_path):
    adata = screen(SIZES)
    split(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert (back.obs["pb_split"] == adata.obs["pb_split"]).all()
    assert back.uns["pb_split"]["axis"] == "random"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"axis": "cells"}, ValueError, "axis"),
        ({"fraction": 0}, SplitError, "fraction"),
        ({"fraction": 1.0}, SplitError, "fraction"),
        ({"fraction": float("nan")}, SplitError, "fraction"),
        ({"axis": "combination", "fraction": 1.0}, SplitError, "fraction"),
        ({"valid": 1.0}, SplitError, "valid"),
        ({"valid": -0.1}, SplitError, "valid"),
        ({"perturbation_key": "guide"}, LabelError, "guide"),
        ({"control": "NT"}, ControlError, "NT"),
    ],
)
def test_bad_arguments_write_nothing(arguments, error, text):
    adata = screen(SIZES)
    with pytest.raises(error, match=text):
        split(adata, **arguments)
    assert "pb_split" not in adata.obs


def test_no_combinations_is_an_error():
    with pytest.raises(SplitError, match="random"):
        split(screen({"control": 20, "A": 20, "B": 20}), axis="combination")


def test_labels_are_not_overwritten():
    adata = screen(SIZES)
    with pytest.raises(SplitError, match="key_added.*'perturbation'"):
        split(adata, key_added="perturbation")
    assert set(adata.obs["perturbation"]) == set(SIZES)
