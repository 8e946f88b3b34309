"""Nested splits: one test set, training sets that grow, and the shares of the published protocol."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbia.errors import ControlError, SplitError
from perturbia.tl import check_split, nested_splits

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


def screen(n_combinations: int = 16, n_cells: int = 50) -> ad.AnnData:
    pairs = [f"{a}+{b}" for i, a in enumerate("ABCDEFGH") for b in "ABCDEFGH"[i + 1 :]][:n_combinations]
    labels = np.repeat(["control", *"ABCDEFGH", *pairs], n_cells)
    obs = pd.DataFrame({"perturbation": np.random.default_rng(0).permutation(labels)})
    obs.index = [f"c{i}" for i in range(len(obs))]
    return ad.AnnData(np.ones((len(obs), 1), np.float32), obs=obs)


def column(adata: ad.AnnData, fraction: float) -> pd.Series:
    return adata.obs[f"pb_split_{fraction:g}"].astype(object)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_test_set_stays_and_training_grows(seed):
    adata = screen()
    nested_splits(adata, seed=seed)
    test = column(adata, 0) == "test"
    for one, more in zip(FRACTIONS, FRACTIONS[1:], strict=False):
        for part in ("train", "valid"):
            smaller, larger = column(adata, one) == part, column(adata, more) == part
            assert (larger | ~smaller).all()
            assert larger.sum() > smaller.sum()
        assert (test == (column(adata, more) == "test")).all()


def test_shares_are_those_of_the_protocol():
    adata = screen()
    nested_splits(adata, control_fraction=1.0)
    label = adata.obs["perturbation"]
    combined = label.str.contains("+", regex=False)
    test = set(label[combined & (column(adata, 0) == "test")])
    assert len(test) == 4
    assert test == set(adata.uns["pb_split_0"]["held_out"])
    for fraction in FRACTIONS:
        parts = column(adata, fraction)
        seen = set(label[combined & parts.isin(["train", "valid"])])
        assert len(seen) == 16 * fraction
        assert (seen & test) == (test if fraction == 1 else set())
        count = pd.crosstab(label, parts)
        assert (count.loc[list(test), "test"] == 10).all()
        for name in seen:
            assert (count.loc[name, "train"], count.loc[name, "valid"]) == (32, 8)
        alone = count.loc[~count.index.str.contains("+", regex=False)]
        assert (alone[["train", "valid", "test"]].to_numpy() == [40, 10, 0]).all()


def test_controls_judge_unless_the_model_may_see_all():
    adata = screen()
    nested_splits(adata)
    controls = adata.obs["perturbation"] == "control"
    assert (column(adata, 0)[controls] == "test").sum() == 10
    assert (column(adata, 1)[controls] == "test").sum() == 10


def test_guarantees_are_stored_and_hold():
    adata = screen()
    nested_splits(adata, fractions=(0, 0.5, 1), key_added="mine")
    for fraction in (0, 0.5):
        guarantee = check_split(adata, key=f"mine_{fraction:g}")
        assert guarantee == adata.uns[f"mine_{fraction:g}"]["guarantee"]
        assert guarantee["unseen"] == "combination"
    assert adata.uns["mine_1"]["axis"] == "random"
    assert check_split(adata, key="mine_1")["unseen"] == "nothing"


def test_rounding_never_shows_a_test_combination():
    for n in (2, 3, 5, 7, 9):
        adata = screen(n)
        nested_splits(adata)
        for fraction in FRACTIONS[:-1]:
            assert check_split(adata, key=f"pb_split_{fraction:g}")["n_test_perturbations"] >= 1


def test_same_seed_same_splits_and_copies_and_files(tmp_path):
    adata = screen()
    out = nested_splits(adata, copy=True, seed=4)
    assert not any(name.startswith("pb_split") for name in [*adata.obs, *adata.uns])
    nested_splits(adata, seed=4)
    pd.testing.assert_frame_equal(adata.obs, out.obs)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_series_equal(column(back, 0.25), column(adata, 0.25), check_dtype=False)
    check_split(back, key="pb_split_0.25")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"fractions": (0.5, 0.8)}, SplitError, "fractions.*0.8"),
        ({"fractions": (-0.1,)}, SplitError, "fractions"),
        ({"fractions": ()}, SplitError, "fractions"),
        ({"fractions": (0.5, 0.5)}, SplitError, "different"),
        ({"test_fraction": 0}, SplitError, "test_fraction"),
        ({"test_fraction": 0.99, "fractions": (0,)}, SplitError, "test_fraction"),
        ({"test_cells": 1}, SplitError, "test_cells"),
        ({"valid": 1}, SplitError, "valid"),
        ({"control_fraction": 0}, SplitError, "control_fraction"),
        ({"control": "NT"}, ControlError, "NT"),
    ],
)
def test_bad_arguments_write_nothing(arguments, error, text):
    adata = screen()
    with pytest.raises(error, match=text):
        nested_splits(adata, **arguments)
    assert list(adata.obs) == ["perturbation"]
    assert not adata.uns


def test_no_combinations_is_an_error():
    with pytest.raises(SplitError, match="two targets"):
        nested_splits(screen(0))
