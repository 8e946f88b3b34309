"""Splits: shares, nesting, reproducibility, and what must never leak."""

from __future__ import annotations

import hashlib

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbia.errors import ControlError, LabelError, SplitError, UnknownPerturbation
from perturbia.tl import check_split, split


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
    table = shares(adata).drop("control")
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
        ({"fraction": None}, SplitError, "fraction: expected a share"),
        ({"valid": None}, SplitError, "valid: expected a share"),
        ({"few_shot": "0.1"}, SplitError, "few_shot: expected a share"),
        ({"control_fraction": None}, SplitError, "control_fraction: expected a share"),
        ({"seed": None}, ValueError, "seed: expected a whole number"),
        ({"seed": -1}, ValueError, "seed: expected a whole number"),
        ({"seed": 0.5}, ValueError, "seed: expected a whole number"),
        ({"axis": "combination", "fraction": 1.0}, SplitError, "fraction"),
        ({"valid": 1.0}, SplitError, "valid"),
        ({"valid": -0.1}, SplitError, "valid"),
        ({"control_fraction": 0}, SplitError, "control_fraction"),
        ({"control_fraction": 1.1}, SplitError, "control_fraction"),
        ({"axis": "dose", "doses": "middle"}, ValueError, "doses"),
        ({"axis": "context"}, SplitError, "context_key"),
        ({"axis": "context", "context_key": "cell_line"}, LabelError, "cell_line"),
        ({"axis": "context", "context_key": "only"}, SplitError, "two contexts"),
        ({"axis": "context", "context_key": "line", "fraction": 0}, SplitError, "none that train"),
        ({"axis": "dose", "dose_key": "dose"}, LabelError, "dose_key"),
        ({"axis": "dose"}, SplitError, "three doses"),
        ({"axis": "dose", "doses": "outer"}, SplitError, "two doses"),
        ({"axis": "perturbation", "fraction": 0}, SplitError, "fraction"),
        ({"axis": "perturbation", "hold_out": ["A", "B", "C"]}, SplitError, "train"),
        ({"axis": "perturbation", "hold_out": ["AA"]}, UnknownPerturbation, "hold_out.*nearest: A"),
        ({"axis": "perturbation", "hold_out": ["A+B"]}, UnknownPerturbation, "A\\+B"),
        ({"axis": "combination", "hold_out": ["A+D"]}, UnknownPerturbation, "nearest: A\\+"),
        ({"axis": "combination", "hold_out": "A"}, UnknownPerturbation, "nearest: A\\+"),
        ({"axis": "combination", "hold_out": []}, SplitError, "hold_out"),
        ({"axis": "dose", "hold_out": ["A@3"]}, UnknownPerturbation, "nearest: A"),
        ({"axis": "dose", "hold_out": ["A@3+B"]}, SplitError, "one target"),
        ({"hold_out": ["A"]}, SplitError, "hold_out"),
        ({"axis": "combination", "few_shot": 0.2}, SplitError, "few_shot"),
        ({"axis": "combination", "context_key": "only", "key_added": "only"}, SplitError, "key_added"),
        ({"perturbation_key": "guide"}, LabelError, "guide"),
        ({"control": "NT"}, ControlError, "NT"),
    ],
)
def test_bad_arguments_write_nothing(arguments, error, text):
    adata = screen(SIZES)
    adata.obs["only"] = "K562"
    adata.obs["line"] = np.where(np.arange(adata.n_obs) % 2, "K562", "RPE1")
    before = adata.obs.copy()
    with pytest.raises(error, match=text):
        split(adata, **arguments)
    pd.testing.assert_frame_equal(adata.obs, before)
    assert "pb_split" not in adata.uns


def test_no_combinations_is_an_error():
    with pytest.raises(SplitError, match="random"):
        split(screen({"control": 20, "A": 20, "B": 20}), axis="combination")


def test_labels_are_not_overwritten():
    adata = screen(SIZES)
    with pytest.raises(SplitError, match="key_added.*'perturbation'"):
        split(adata, key_added="perturbation")
    assert set(adata.obs["perturbation"]) == set(SIZES)


# seeds of earlier releases give the same splits --------------------------------------------------------------------

FINGERPRINTS = {
    ("random", 0.3, 0): "a4eb3961a43c",
    ("random", 0.3, 1): "a2780464b444",
    ("combination", 0.5, 0): "3a60c0f7ef47",
    ("combination", 0.25, 7): "0df8c13ff1c9",
}


@pytest.mark.parametrize(("axis", "fraction", "seed"), FINGERPRINTS)
def test_a_seed_keeps_its_split(axis, fraction, seed):
    adata = screen(SIZES)
    split(adata, axis=axis, fraction=fraction, seed=seed, control_fraction=1.0)
    text = "".join(adata.obs["pb_split"].astype(str))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == FINGERPRINTS[axis, fraction, seed]


@pytest.mark.parametrize("control_fraction", [0.2, 0.8, 1.0])
def test_what_is_held_out_does_not_depend_on_controls(control_fraction):
    adata = screen(SIZES)
    split(adata, axis="combination", fraction=0.5, seed=1, control_fraction=control_fraction)
    assert list(adata.uns["pb_split"]["held_out"]) == ["A+B+C", "B+C"]
    controls = adata.obs["perturbation"] == "control"
    assert (adata.obs.loc[controls, "pb_split"] == "test").mean() == pytest.approx(1 - control_fraction)


def test_controls_of_a_random_split_are_as_all_cells():
    one, two = screen(SIZES), screen(SIZES)
    split(one, control_fraction=0.1)
    split(two)
    assert (one.obs["pb_split"] == two.obs["pb_split"]).all()


# every axis against a count of the labels --------------------------------------------------------------------------

DOSES = (0.1, 1, 10, 100)


def wide_screen(seed: int = 0, *, cells: int = 6) -> ad.AnnData:
    """Four targets at four doses, pairs of them, three contexts; controls in each."""
    labels = ["control"] * 5 + [f"{a}@{d:g}" for a in "ABCD" for d in DOSES]
    labels += [f"{a}@{d:g}+{b}@{d:g}" for a, b in ("AB", "BC", "CD") for d in DOSES]
    rows = [(label, context) for label in labels for context in ("K562", "RPE1", "HepG2") for _ in range(cells)]
    obs = pd.DataFrame(rows, columns=["perturbation", "line"]).sample(frac=1, random_state=seed)
    obs.index = [f"c{i}" for i in range(len(obs))]
    return ad.AnnData(np.ones((len(obs), 1), np.float32), obs=obs)


def units(axis: str, label: str, context: str) -> set:
    """What the axis must not show twice: read with string operations, no code of the package."""
    if label == "control":
        return set()
    tokens = [token.split("@") for token in label.split("+")]
    return {
        "combination": {"+".join(sorted(name for name, _ in tokens))},
        "perturbation": {name for name, _ in tokens},
        "context": {("+".join(sorted(name for name, _ in tokens)), context)},
        "dose": {(name, dose) for name, dose in tokens},
    }[axis]


def leaking(axis: str, adata: ad.AnnData) -> list:
    """Test cells of which nothing is new."""
    obs = adata.obs
    seen = set()
    for label, context, part in zip(obs["perturbation"], obs["line"], obs["pb_split"], strict=True):
        if part != "test":
            seen |= units(axis, label, context)
    rows = zip(obs["perturbation"], obs["line"], obs["pb_split"], strict=True)
    return [
        label
        for label, context, part in rows
        if part == "test" and label != "control" and not units(axis, label, context) - seen
    ]


@pytest.mark.parametrize("axis", ["combination", "perturbation", "context", "dose"])
@given(fraction=st.floats(0.05, 0.95), seed=st.integers(0, 2**32 - 1), valid=st.floats(0, 0.5))
@settings(max_examples=25)
def test_no_test_perturbation_is_seen(axis, fraction, seed, valid):
    adata = wide_screen()
    options = {"context_key": "line"} if axis == "context" else {}
    split(adata, axis=axis, fraction=fraction, seed=seed, valid=valid, **options)
    assert leaking(axis, adata) == []
    judged = adata.obs.loc[(adata.obs["pb_split"] == "test") & (adata.obs["perturbation"] != "control")]
    assert len(judged)
    guarantee = adata.uns["pb_split"]["guarantee"]
    assert guarantee["checked"] is True
    what = {
        "combination": lambda label, line: label.replace("@", "").translate({ord(c): None for c in "0123456789."}),
        "context": lambda label, line: (label.translate({ord(c): None for c in "@0123456789."}), line),
        "dose": lambda label, line: label,
    }
    what["perturbation"] = what["combination"]
    distinct = {what[axis](label, line) for label, line in zip(judged["perturbation"], judged["line"], strict=True)}
    assert guarantee["n_test_perturbations"] == len(distinct)


@pytest.mark.parametrize("axis", ["combination", "perturbation", "context", "dose"])
def test_the_order_of_cells_is_irrelevant(axis):
    options = {"axis": axis, "context_key": "line", "few_shot": 0.4 if axis == "context" else 0.0, "seed": 3}
    one, two = wide_screen(0), wide_screen(1)
    two.obs["perturbation"] = pd.Categorical(
        two.obs["perturbation"], categories=["unused", *set(two.obs["perturbation"])]
    )
    split(one, **options)
    split(two, **options)
    held = [
        {
            pair
            for pair in zip(a.obs["perturbation"], a.obs["line"], a.obs["pb_split"], strict=True)
            if pair[2] == "test"
        }
        for a in (one, two)
    ]
    perturbed = [{pair for pair in one_held if pair[0] != "control"} for one_held in held]
    assert perturbed[0] == perturbed[1]
    assert list(one.uns["pb_split"]["held_out"]) == list(two.uns["pb_split"]["held_out"])


@pytest.mark.parametrize("axis", ["combination", "perturbation", "context", "dose"])
def test_a_smaller_fraction_holds_out_more(axis):
    held = []
    for fraction in (0.1, 0.4, 0.7):
        adata = wide_screen()
        split(adata, axis=axis, fraction=fraction, context_key="line", seed=5, doses="outer")
        held.append(set(adata.uns["pb_split"]["held_out"]))
    assert held[0] >= held[1] >= held[2]
    assert len(held[0]) > len(held[2])


def test_targets_are_held_out_in_combinations_too():
    adata = screen(SIZES)
    split(adata, axis="perturbation", hold_out=["B"], seed=0, control_fraction=1.0)
    test = set(adata.obs.loc[adata.obs["pb_split"] == "test", "perturbation"])
    assert test == {"B", "A+B", "B+C", "A+B+C"}
    assert adata.uns["pb_split"]["fraction"] == pytest.approx(2 / 3)


def test_named_combinations_in_any_spelling():
    adata = screen(SIZES)
    split(adata, axis="combination", hold_out=["C+B", "A+C"], control_fraction=1.0)
    assert set(adata.obs.loc[adata.obs["pb_split"] == "test", "perturbation"]) == {"B+C", "A+C"}
    assert list(adata.uns["pb_split"]["held_out"]) == ["A+C", "B+C"]


def test_zero_shot_contexts_keep_their_controls_alone():
    adata = wide_screen()
    split(adata, axis="context", context_key="line", hold_out=["RPE1"], valid=0.2)
    obs = adata.obs
    inside = obs["line"] == "RPE1"
    control = obs["perturbation"] == "control"
    assert (obs.loc[inside & ~control, "pb_split"] == "test").all()
    assert (obs.loc[~inside & ~control, "pb_split"] != "test").all()
    seen = obs.loc[control].groupby("line", observed=True)["pb_split"].agg(lambda part: (part != "test").mean())
    np.testing.assert_allclose(seen, 0.8)
    assert adata.uns["pb_split"]["guarantee"]["n_unseen_everywhere"] == 0


def test_few_shots_show_whole_perturbations():
    adata = wide_screen()
    split(adata, axis="context", context_key="line", hold_out="RPE1", few_shot=0.4, control_fraction=1.0)
    inside = adata.obs.loc[adata.obs["line"] == "RPE1"]
    name = inside["perturbation"].str.replace(r"@[0-9.]+", "", regex=True)
    share = (inside["pb_split"] == "test").groupby(name).mean()
    assert set(share) == {0.0, 1.0}
    assert (share.drop("control") == 0).sum() == round(0.4 * 7)


def test_a_held_out_context_without_controls_is_an_error():
    adata = wide_screen()
    adata = adata[(adata.obs["line"] != "RPE1") | (adata.obs["perturbation"] != "control")]
    with pytest.raises(SplitError, match="RPE1"):
        split(adata, axis="context", context_key="line", hold_out=["RPE1"])
    with pytest.raises(LabelError, match="nearest: RPE1"):
        split(adata, axis="context", context_key="line", hold_out=["RPE2"])


@pytest.mark.parametrize("doses", ["inner", "outer"])
def test_doses_lie_where_they_were_asked_for(doses):
    sizes = {"control": 30} | {f"{a}@{d:g}": 8 for a in "ABC" for d in (0.1, 0.5, 1, 5, 10)}
    for seed in range(5):
        adata = screen(sizes)
        split(adata, axis="dose", doses=doses, fraction=0.6, seed=seed)
        table = adata.obs.loc[adata.obs["perturbation"] != "control"]
        dose = table["perturbation"].str.split("@").str[1].astype(float)
        for _, rows in dose.groupby(table["perturbation"].str[0]):
            test = rows[table.loc[rows.index, "pb_split"] == "test"].unique()
            seen = rows[table.loc[rows.index, "pb_split"] != "test"].unique()
            assert len(test) == 2
            inside = (test > seen.min()) & (test < seen.max())
            assert inside.all() if doses == "inner" else not inside.any()
        guarantee = adata.uns["pb_split"]["guarantee"]
        assert (guarantee["n_inside"], guarantee["n_outside"]) == ((6, 0) if doses == "inner" else (0, 6))


def test_doses_may_be_a_column_and_be_named():
    adata = screen({"control": 30, "A": 60, "A+B": 40})
    rng = np.random.default_rng(1)
    adata.obs["dose"] = [
        "0" if label == "control" else "+".join([rng.choice(["1", "2", "4"])] * (label.count("+") + 1))
        for label in adata.obs["perturbation"]
    ]
    split(adata, axis="dose", dose_key="dose", hold_out=["A@2"], control_fraction=1.0)
    assert set(adata.obs.loc[adata.obs["pb_split"] == "test", "dose"]) == {"2", "2+2"}
    assert (adata.obs.loc[adata.obs["dose"].isin(["2", "2+2"]), "pb_split"] == "test").all()
    assert list(adata.uns["pb_split"]["held_out"]) == ["A@2"]


def test_views_and_many_control_labels(tmp_path):
    adata = screen(SIZES | {"NT": 40})
    view = adata[adata.obs["perturbation"] != "C"]
    with pytest.warns(ad.ImplicitModificationWarning):  # AnnData makes a copy of a view that is written to
        split(view, axis="perturbation", control=["control", "NT"])
    assert "pb_split" not in adata.obs
    view.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert check_split(back) == check_split(view) == dict(view.uns["pb_split"]["guarantee"])
