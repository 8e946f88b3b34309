"""Mechanisms of nearest other compounds."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.metrics import mechanism_accuracy


def library(seed=0, *, n_mechanisms=5, per_mechanism=3, n_rows=4, d=8, n_batches=3, scale=2.0):
    """Profiles of compounds at some doses, spread over plates."""
    rng = np.random.default_rng(seed)
    n_compounds = n_mechanisms * per_mechanism
    compound = np.repeat(np.arange(n_compounds), n_rows)
    values = rng.normal(size=(len(compound), d)) + scale * rng.normal(size=(n_mechanisms, d))[compound // per_mechanism]
    batches = rng.integers(n_batches, size=len(compound))
    order = rng.permutation(len(compound))
    names = [np.char.add(letter, part.astype(str))[order]
             for letter, part in (("M", compound // per_mechanism), ("c", compound), ("p", batches))]  # fmt: skip
    return values[order], *names


def row_by_row(values, mechanisms, compounds, batches=None):
    """Match and chance of every row, from the list of its neighbours."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    match, chance = [], []
    for i in range(len(values)):
        others = [
            j
            for j in range(len(values))
            if compounds[j] != compounds[i] and (batches is None or batches[j] != batches[i])
        ]
        same = np.array([mechanisms[j] == mechanisms[i] for j in others], dtype=float)
        chance.append(same.mean() if len(same) else 0.0)
        match.append(same[np.argmax([unit[j] @ unit[i] for j in others])] if len(same) else 0.0)
    return np.array(match), np.array(chance)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_matches_the_list_of_neighbours(batched, scale):
    values, mechanisms, compounds, batches = library(1, scale=scale)
    match, chance = row_by_row(values, mechanisms, compounds, batches if batched else None)
    result = mechanism_accuracy(values, mechanisms, compound_key=compounds, batch_key=batches if batched else None)
    scored = chance > 0
    assert result.accuracy == pytest.approx(match[scored].mean())
    assert result.chance == pytest.approx(chance[scored].mean())
    assert (result.n_rows, result.n_compounds) == (scored.sum(), len(set(compounds[scored])))
    np.testing.assert_array_equal(result.rows["match"], match[scored])
    assert result.rows["compound"].tolist() == compounds[scored].tolist()
    table = result.table
    for name in np.unique(mechanisms):
        own = scored & (mechanisms == name)
        assert table.loc[name, "accuracy"] == pytest.approx(match[own].mean())
        assert table.loc[name, "chance"] == pytest.approx(chance[own].mean())
        assert table.loc[name, "n_rows"] == own.sum()
        assert table.loc[name, "n_compounds"] == len(set(compounds[own]))


def test_chance_without_signal_and_one_with_it():
    shuffled = [
        mechanism_accuracy(
            *library(seed, scale=0.0, n_mechanisms=8)[:2], compound_key=library(seed, scale=0.0, n_mechanisms=8)[2]
        )
        for seed in range(20)
    ]
    assert np.mean([r.accuracy for r in shuffled]) == pytest.approx(shuffled[0].chance, abs=0.03)
    assert shuffled[0].majority == pytest.approx(1 / 8)
    values, mechanisms, compounds, _ = library(2, scale=30.0)
    assert mechanism_accuracy(values, mechanisms, compound_key=compounds).accuracy == 1.0


def test_own_compound_and_batch_do_not_count():
    """Rows of one compound, and of one plate, are the same point; mechanisms are noise."""
    rng = np.random.default_rng(0)
    values, mechanisms, compounds, batches = library(3, scale=0.0, n_mechanisms=10, n_rows=6, d=30)
    own = np.unique(compounds, return_inverse=True)[1]
    values = values + 20 * rng.normal(size=(own.max() + 1, 30))[own]
    assert mechanism_accuracy(values, mechanisms, compound_key=compounds).accuracy < 0.25
    # plates by mechanism: neighbours of the plate give the mechanism away, unless plates are left out
    plates = np.where(rng.random(len(mechanisms)) < 0.7, mechanisms, batches)
    at = np.unique(plates, return_inverse=True)[1]
    values = rng.normal(size=values.shape) + 3 * rng.normal(size=(at.max() + 1, 30))[at]
    naive = mechanism_accuracy(values, mechanisms, compound_key=compounds)
    aware = mechanism_accuracy(values, mechanisms, compound_key=compounds, batch_key=plates)
    assert naive.accuracy > 0.5
    assert aware.accuracy < 0.25


def test_standard_error_is_that_of_resampled_compounds():
    values, mechanisms, compounds, _ = library(4, n_mechanisms=12, scale=2.0, n_rows=6)
    own = np.unique(compounds, return_inverse=True)[1]
    values = values + 1.5 * np.random.default_rng(1).normal(size=(36, 8))[own]
    result = mechanism_accuracy(values, mechanisms, compound_key=compounds)
    by_compound = result.rows.groupby("compound")["match"].agg(["sum", "size"]).to_numpy()
    rng = np.random.default_rng(0)
    draws = by_compound[rng.integers(len(by_compound), size=(4000, len(by_compound)))].sum(axis=1)
    assert 0.2 < result.accuracy < 0.9
    assert result.standard_error == pytest.approx((draws[:, 0] / draws[:, 1]).std(), rel=0.05)
    # rows of one compound go together: more than the error of independent rows
    assert result.standard_error > 1.1 * np.sqrt(result.accuracy * (1 - result.accuracy) / result.n_rows)


def test_ties_share_the_match():
    values = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    result = mechanism_accuracy(values, [*"MMNN"], compound_key=[*"abcd"])
    # a: b (M) and c (N) are as near; c: a and b, both M; d: all are as far
    assert result.rows["match"].tolist() == [0.5, 0.5, 0.0, pytest.approx(1 / 3)]
    ones = mechanism_accuracy(np.ones((12, 2)), np.repeat([*"MNO"], 4), compound_key=np.arange(12))
    assert ones.accuracy == pytest.approx(ones.chance)


def test_mechanisms_of_one_compound_are_counted_and_remain_neighbours():
    values, mechanisms, compounds, _ = library(5)
    mechanisms = np.where(compounds == "c0", "alone", mechanisms)
    with pytest.warns(RuntimeWarning, match="4 rows have no row of another compound .* they are of 'alone'"):
        result = mechanism_accuracy(values, mechanisms, compound_key=compounds)
    assert result.n_left_out == 4
    assert result.table.loc["alone", ["n_compounds", "n_rows", "n_left_out"]].tolist() == [0, 0, 4]
    assert np.isnan(result.table.loc["alone", "accuracy"])
    assert "alone" not in set(result.rows["mechanism"])
    match, chance = row_by_row(values, mechanisms, compounds)
    assert result.accuracy == pytest.approx(match[chance > 0].mean())


def test_controls_are_left_out_altogether():
    values, mechanisms, compounds, _ = library(6)
    control = np.random.default_rng(0).normal(size=(10, values.shape[1]))
    extended = mechanism_accuracy(
        np.vstack([control, values]),
        np.r_[np.full(10, "none"), mechanisms],
        compound_key=np.r_[np.full(10, "DMSO"), compounds],
        control="DMSO",
    )
    pd.testing.assert_frame_equal(extended.table, mechanism_accuracy(values, mechanisms, compound_key=compounds).table)


def test_controls_by_default_and_by_mark():
    values, mechanisms, compounds, _ = library(6)
    control = np.random.default_rng(0).normal(size=(10, values.shape[1]))
    expected = mechanism_accuracy(values, mechanisms, compound_key=compounds)
    both = np.vstack([control, values])
    moa = [*[None] * 10, *mechanisms]  # controls need none
    by_default = mechanism_accuracy(both, moa, compound_key=np.r_[np.full(10, "control"), compounds])
    obs = pd.DataFrame({"moa": moa, "compound": np.r_[np.full(10, "NTC"), compounds], "is_control": np.arange(70) < 10})
    marked = mechanism_accuracy(ad.AnnData(both, obs=obs.set_axis(map(str, range(70)))), "moa", compound_key="compound")
    numbers = np.r_[np.zeros(10, dtype=int), 1 + np.unique(compounds, return_inverse=True)[1]]
    by_number = mechanism_accuracy(both, moa, compound_key=numbers, control=0)
    for found in (by_default, marked, by_number):
        pd.testing.assert_frame_equal(found.table, expected.table)
        assert found.standard_error == pytest.approx(expected.standard_error)


def test_spellings_and_doses_are_one_compound():
    values, mechanisms, compounds, _ = library(13, scale=0.5)
    spelt = compounds.astype(object)
    (own,) = np.nonzero(compounds == "c1")
    spelt[own] = ["c1+z", "z+c1", "c1@0.5+z", "z@2+c1"]
    found = mechanism_accuracy(values, mechanisms, compound_key=spelt)
    expected = mechanism_accuracy(values, mechanisms, compound_key=np.where(compounds == "c1", "c1z", compounds))
    pd.testing.assert_frame_equal(found.table, expected.table)
    assert set(found.rows["compound"].iloc[own]) == {"c1+z"}
    spelt[own] = ["c1+z", "z+c1"] * 2
    assert mechanism_accuracy(values, mechanisms, compound_key=spelt).n_compounds == 15
    assert mechanism_accuracy(values, mechanisms, compound_key=spelt, sep="").n_compounds == 16


def test_rows_without_a_mechanism_are_wrong_neighbours_alone():
    values, mechanisms, compounds, batches = library(14, scale=1.0)
    lost = np.isin(compounds, ["c0", "c4", "c8"])
    match, chance = row_by_row(values, np.where(lost, compounds, mechanisms), compounds)
    for label, option in (("none", "none"), ("unknown", "unknown"), ("unknown", ["unknown", "none"])):
        given = np.where(lost, label, mechanisms)
        result = mechanism_accuracy(values, given, compound_key=compounds, no_mechanism=option)
        assert result.accuracy == pytest.approx(match[~lost].mean())
        assert result.chance == pytest.approx(chance[~lost].mean())
        assert (result.n_rows, result.n_without, result.n_left_out) == ((~lost).sum(), 12, 0)
        assert result.table.index.tolist() == [f"M{i}" for i in range(5)]
        assert result.table["n_rows"].sum() == (~lost).sum()
        assert repr(result).endswith("0 left out, 12 without a mechanism)")
    as_one = mechanism_accuracy(values, given, compound_key=compounds, no_mechanism=None)
    assert "unknown" in as_one.table.index
    assert as_one.n_without == 0


def test_order_length_and_blocks_do_not_matter(monkeypatch):
    values, mechanisms, compounds, batches = library(7, scale=1.0)
    first = mechanism_accuracy(values, mechanisms, compound_key=compounds, batch_key=batches)
    order = np.random.default_rng(0).permutation(len(values))
    lengths = np.random.default_rng(1).gamma(1, 1, (len(values), 1))
    monkeypatch.setattr("perturbia.metrics._ranked_positives._LEAST_ROWS", 1)
    monkeypatch.setattr("perturbia.metrics._ranked_positives._COSINES", 7 * len(values))
    again = mechanism_accuracy(
        (values * lengths)[order], mechanisms[order], compound_key=compounds[order], batch_key=batches[order]
    )
    pd.testing.assert_frame_equal(again.table, first.table)
    assert again.standard_error == pytest.approx(first.standard_error)


def test_rows_without_direction():
    values, mechanisms, compounds, _ = library(8)
    values[3] = 0
    with pytest.warns(RuntimeWarning, match="1 of 60 rows are zero"):
        result = mechanism_accuracy(values, mechanisms, compound_key=compounds)
    row = result.rows.iloc[3]
    assert row["match"] == pytest.approx(row["chance"])  # all neighbours are as far


def test_one_compound_a_mechanism_and_one_scored_compound():
    values = np.eye(3)
    with pytest.warns(RuntimeWarning, match="1 rows have no row"):
        result = mechanism_accuracy(values, [*"MMN"], compound_key=[*"abc"])
    assert result.n_compounds == 2
    assert np.isfinite(result.standard_error)


def test_forms_of_data(in_form):
    values, mechanisms, compounds, batches = library(9)
    values = np.rint(8 * values)
    data, keys = in_form(values, mechanism_key=mechanisms, compound_key=compounds, batch_key=batches)
    expected = mechanism_accuracy(values, mechanisms, compound_key=compounds, batch_key=batches)
    result = mechanism_accuracy(data, **keys)
    pd.testing.assert_frame_equal(result.table, expected.table)
    assert result.accuracy == expected.accuracy


def test_repr():
    values, mechanisms, compounds, _ = library(10, scale=1.0)
    result = mechanism_accuracy(values, mechanisms, compound_key=compounds)
    assert repr(result).startswith(f"MechanismAccuracy: {result.accuracy:.3f} ± {result.standard_error:.3f} (chance")
    assert "<table" in result._repr_html_()


VALUES, MECHANISMS, COMPOUNDS, BATCHES = library(11)
NAN = VALUES.copy()
NAN[2, 2] = np.nan


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((NAN, MECHANISMS), {}, ValueError, "data: expected finite numbers"),
        ((VALUES, MECHANISMS[1:]), {}, LabelError, "mechanism_key: expected one label for each"),
        ((VALUES, "moa"), {}, LabelError, "mechanism_key: expected one label a row"),
        ((VALUES, np.where(MECHANISMS == "M1", None, MECHANISMS)), {}, LabelError, "mechanism_key: expected a label in every"),
        ((VALUES, MECHANISMS), {"compound_key": COMPOUNDS[1:]}, LabelError, "compound_key: expected one label for each"),
        ((VALUES, MECHANISMS), {"batch_key": BATCHES[1:]}, LabelError, "batch_key: expected one label for each"),
        ((VALUES, MECHANISMS), {"batch_key": np.full(60, "p")}, LabelError, "another compound and batch"),
        ((VALUES, np.arange(60) % 7), {}, LabelError, "mechanism_key: expected one mechanism a compound, got more for"),
        ((VALUES, COMPOUNDS), {}, LabelError, "got none for any of 60 rows"),
        ((VALUES, MECHANISMS), {"control": "DMSO"}, ControlError, "control: expected rows labelled 'DMSO', got none. Labels seen: 'c0'"),
        ((VALUES, MECHANISMS), {"control": ["c1", "typo"]}, ControlError, "control: expected rows labelled 'typo', got none"),
        ((VALUES, MECHANISMS), {"control": 0}, ControlError, "control: expected rows labelled '0', got none"),
        ((VALUES, MECHANISMS), {"control": []}, ControlError, "control: expected one or more control labels"),
        ((VALUES, MECHANISMS), {"no_mechanism": ["none", "M"]}, LabelError, "no_mechanism: expected .* got 'M'; labels are 'M0', 'M1'"),
        ((VALUES, MECHANISMS[:, None]), {}, LabelError, "mechanism_key: expected one label for each of 60 rows, got shape"),
        ((VALUES[COMPOUNDS == "c1"], MECHANISMS[COMPOUNDS == "c1"]),
         {"control": "c1", "compound_key": COMPOUNDS[COMPOUNDS == "c1"]}, LabelError, "expected rows besides controls"),
        ((VALUES, MECHANISMS), {"use_rep": "X_pca"}, FeatureMismatch, "use_rep"),
        ((VALUES[:1], MECHANISMS[:1]), {"compound_key": COMPOUNDS[:1]}, ValueError, "expected 2 rows or more"),
    ],
)  # fmt: skip
def test_bad_input(arguments, options, error, match):
    with pytest.raises(error, match=match):
        mechanism_accuracy(*arguments, **{"compound_key": COMPOUNDS, **options})
