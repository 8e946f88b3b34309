"""Curation: every rule by hand, how controls are drawn, and what is written."""

from __future__ import annotations

import logging
import math
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.errors import ControlError, FeatureMismatch, LabelError, UnsupportedQuery
from perturbia.metrics.replicate_cosine import replicate_consistency

PLATES = [f"plate {k}" for k in range(4)]


def screen(
    sizes: dict[str, list[int]], *, strong: set[str] = frozenset(), n_features: int = 20, seed: int = 0
) -> ad.AnnData:
    """Wells with given numbers of each label on each plate; strong ones have an effect."""
    rng = np.random.default_rng(seed)
    labels = np.array([label for label, counts in sizes.items() for count in counts for _ in range(count)])
    plates = np.array([PLATES[k] for counts in sizes.values() for k, count in enumerate(counts) for _ in range(count)])
    x = rng.normal(size=(len(labels), n_features))
    for label in sorted(strong):
        x[labels == label] += 1.5 * rng.normal(size=n_features)
    obs = pd.DataFrame({"perturbation": labels, "plate": plates}, index=[f"w{i:04d}" for i in range(len(labels))])
    return ad.AnnData(x, obs=obs)


def curated(adata: ad.AnnData, **options) -> ad.AnnData:
    return pb.pp.curate_perturbations(
        adata, **{"batch_key": "plate", "min_batches": 3, "min_wells": 8, "n_null": 199, "copy": True} | options
    )


def table_of(adata: ad.AnnData, **options) -> pd.DataFrame:
    return curated(adata, **options).uns["curated"]["table"]


SIZES = {
    "control": [10, 10, 11, 3],
    "A": [3, 3, 3, 0],
    "B": [2, 2, 2, 2],
    "two plates": [9, 9, 0, 0],
    "few wells": [2, 2, 2, 0],
    "D": [4, 4, 4, 0],
    "E": [5, 5, 5, 5],
}


def test_every_rule_has_its_reason():
    adata = screen(SIZES, strong={"A", "B", "two plates", "few wells"})
    out = curated(adata)
    table = out.uns["curated"]["table"]
    assert table["reason"].to_dict() == {
        "control": "control",
        "A": "kept",
        "B": "kept",
        "D": "not consistent",
        "E": "not consistent",
        "few wells": "too few rows",
        "two plates": "too few batches",
    }
    kept = out.obs["curated"].groupby(out.obs["perturbation"]).sum()
    assert kept.to_dict() == table["n_kept"].to_dict()
    assert table["kept"].to_dict() == (kept > 0).to_dict()
    for label, counts in SIZES.items():
        assert table.loc[label, ["n_obs", "n_batches"]].tolist() == [sum(counts), sum(count > 0 for count in counts)]
    assert kept[["A", "B", "D"]].tolist() == [9, 8, 0]
    # no row is dropped, and nothing but the column and its notes is changed
    assert out.obs_names.equals(adata.obs_names)
    np.testing.assert_array_equal(out.X, adata.X)
    assert out.obs["curated"].dtype == bool
    assert "curated" not in adata.obs


def test_p_values_are_those_of_the_metric():
    adata = screen(SIZES, strong={"A", "E"}, seed=1)
    table = table_of(adata, seed=3)
    scores = replicate_consistency(adata, "perturbation", batch_key="plate", n_null=199, seed=3).table
    tested = ["A", "B", "D", "E"]
    np.testing.assert_allclose(table.loc[tested, "p_value_X"], scores.loc[tested, "p_value"])
    np.testing.assert_allclose(table.loc[tested, "consistency_X"], scores.loc[tested, "consistency"])
    untested = table.index.difference(tested)
    assert table.loc[untested, ["consistency_X", "p_value_X", "q_value_X"]].isna().to_numpy().all()
    # q-values count the tested alone: the k-th smallest of n is multiplied by n / k, and no larger than the next
    p = table.loc[tested, "p_value_X"].sort_values()
    by_hand = (p * 4 / np.arange(1, 5))[::-1].cummin()
    np.testing.assert_allclose(table.loc[by_hand.index, "q_value_X"], by_hand)


def test_q_values_keep_fewer():
    sizes = {"control": [4] * 4} | {f"N{i:03d}": [2] * 4 for i in range(150)} | {f"S{i}": [2] * 4 for i in range(10)}
    adata = screen(sizes, strong={f"S{i}" for i in range(10)}, seed=5)
    by_p, by_q = (table_of(adata, consistency=kind, alpha=0.05, n_null=999) for kind in ("pval", "qval"))
    strong = [f"S{i}" for i in range(10)]
    assert by_q.loc[strong, "kept"].all()
    assert by_p.loc[strong, "kept"].all()
    null = by_p.index[by_p.index.str.startswith("N")]
    # of those that do nothing, p-values keep their share
    assert abs(by_p.loc[null, "kept"].mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 150)
    assert by_q.loc[null, "kept"].sum() <= 3
    assert (by_q["kept"] <= by_p["kept"]).all()


def test_either_representation_will_do():
    adata = screen(SIZES, seed=4)
    for key, label, seed in (("X_one", "A", 1), ("X_two", "E", 2)):
        adata.obsm[key] = screen(SIZES, strong={label}, seed=seed).X
    one, two = (table_of(adata, use_rep=key) for key in ("X_one", "X_two"))
    both = table_of(adata, use_rep=["X_one", "X_two"])
    assert both["kept"].to_dict() == (one["kept"] | two["kept"]).to_dict()
    assert (one["kept"]["A"], one["kept"]["E"]) == (True, False)
    assert (two["kept"]["A"], two["kept"]["E"]) == (False, True)
    pd.testing.assert_series_equal(both["p_value_X_one"], one["p_value_X_one"])
    pd.testing.assert_series_equal(both["p_value_X_two"], two["p_value_X_two"])


def test_without_a_test_values_are_not_read():
    adata = screen(SIZES)
    adata.X[:] = np.nan
    table = table_of(adata, consistency=None)
    assert table["reason"].value_counts().to_dict() == {
        "kept": 4,
        "control": 1,
        "too few rows": 1,
        "too few batches": 1,
    }
    assert not any(column.startswith("p_value") for column in table)


def test_null_of_controls():
    adata = screen(SIZES | {"control": [30] * 4}, strong={"A"}, seed=5)
    table = table_of(adata, null="controls")
    expected = replicate_consistency(adata, "perturbation", batch_key="plate", null="controls", n_null=199).table
    assert table.loc["A", "p_value_X"] == 1 / 200 == expected.loc["A", "p_value"]
    assert table.loc["D", "p_value_X"] > 0.01


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 1.0])
def test_a_share_of_the_controls_of_every_plate(fraction):
    adata = screen({"control": [30, 10, 1, 0], "A": [3] * 4, "B": [3] * 4})
    out = curated(adata, control_fraction=fraction, consistency=None)
    kept = out.obs["curated"] & (out.obs["perturbation"] == "control")
    expected = {0.0: [0, 0, 0], 0.1: [3, 1, 1], 0.3: [9, 3, 1], 1.0: [30, 10, 1]}[fraction]
    assert kept.groupby(out.obs["plate"]).sum().tolist() == [*expected, 0]
    assert out.uns["curated"]["table"].loc["control", "n_kept"] == sum(expected)


def test_shares_by_label():
    sizes = {"negative": [10] * 4, "mock": [6] * 4, "PLK1": [20, 20, 20, 5], "A": [3] * 4, "B": [3] * 4}
    adata = screen(sizes, strong={"PLK1", "A"}, seed=6)
    out = curated(adata, control=["negative", "mock"], control_fraction={"PLK1": 0.1, "negative": 0.3})
    kept = out.obs.groupby(["perturbation", "plate"])["curated"].sum().unstack()
    assert kept.loc["negative"].tolist() == [3] * 4
    assert kept.loc["PLK1"].tolist() == [2, 2, 2, 1]
    assert kept.loc["mock"].tolist() == [6] * 4  # not named, so all are kept
    table = out.uns["curated"]["table"]
    assert table.loc[["PLK1", "negative", "control"], "reason"].tolist() == ["control"] * 3
    assert out.uns["curated"]["control_fraction"]["fraction"].to_dict() == {
        "PLK1": 0.1,
        "negative": 0.3,
        "control": 1.0,
    }
    for label, counts in sizes.items():
        name = "control" if label == "mock" else label
        assert table.loc[name, "n_obs"] == sum(counts)
        assert table.loc[name, "n_kept"] == math.fsum(kept.loc[label])
    # positive controls are not tested, and not in the null
    assert math.isnan(table.loc["PLK1", "p_value_X"])
    without = replicate_consistency(
        adata[adata.obs["perturbation"] != "PLK1"],
        "perturbation",
        batch_key="plate",
        control=["negative", "mock"],
        n_null=199,
    )
    assert table.loc["A", "p_value_X"] == without.table.loc["A", "p_value"]


def test_other_controls_may_be_named_together():
    adata = screen({"negative": [10] * 4, "mock": [10] * 4, "A": [3] * 4, "B": [3] * 4})
    out = curated(
        adata, control=["negative", "mock"], control_fraction={"negative": 1.0, "control": 0.2}, consistency=None
    )
    kept = out.obs.groupby("perturbation")["curated"].sum()
    assert kept.to_dict() == {"A": 12, "B": 12, "mock": 8, "negative": 40}


def test_the_draw_goes_by_name_and_seed():
    adata = screen({"control": [40] * 4, "A": [3] * 4, "B": [3] * 4}, strong={"A"})
    first = curated(adata).obs["curated"]
    order = np.random.default_rng(0).permutation(adata.n_obs)
    again = curated(adata[order].copy())
    pd.testing.assert_series_equal(again.obs["curated"].loc[adata.obs_names], first)
    pd.testing.assert_frame_equal(again.uns["curated"]["table"], table_of(adata))
    pd.testing.assert_series_equal(curated(adata).obs["curated"], first)
    other = curated(adata, seed=1).obs["curated"]
    assert other.sum() == first.sum()
    assert not other.equals(first)


def test_every_control_is_as_likely_to_be_kept():
    adata = screen({"control": [10, 5, 0, 0], "A": [3] * 4, "B": [3] * 4})
    is_control = (adata.obs["perturbation"] == "control").to_numpy()
    times = sum(
        curated(adata, consistency=None, control_fraction=0.4, seed=seed).obs["curated"].to_numpy(dtype=int)
        for seed in range(200)
    )
    assert (np.abs(times[is_control] / 200 - 0.4) < 4 * np.sqrt(0.24 / 200)).all()
    assert (times[~is_control] == 200).all()


# --- labels and data --------------------------------------------------------------------------------------------------


def test_rows_without_label_or_batch_are_not_kept():
    adata = screen(SIZES, strong={"A", "B"})
    expected = curated(adata)
    names = [f"u{i}" for i in range(8)]
    labels, plates = (
        [None, "", "unassigned", "Doublet", "A", "A", "control", np.nan],
        ["plate 0"] * 4 + [None, np.nan, None, None],
    )
    odd = ad.AnnData(np.ones((8, 20)), obs=pd.DataFrame({"perturbation": labels, "plate": plates}, index=names))
    both = ad.concat([odd, adata])
    out = curated(both)
    assert not out.obs["curated"].iloc[:8].any()
    pd.testing.assert_series_equal(out.obs["curated"].iloc[8:], expected.obs["curated"])
    pd.testing.assert_frame_equal(out.uns["curated"]["table"], expected.uns["curated"]["table"])
    assert (out.uns["curated"]["n_unlabelled"], out.uns["curated"]["n_without_batch"]) == (5, 3)


def test_a_word_for_unknown_may_be_the_control():
    adata = screen(SIZES, strong={"A"})
    adata.obs["perturbation"] = adata.obs["perturbation"].replace("control", "none")
    out = curated(adata, control="none")
    pd.testing.assert_series_equal(out.obs["curated"], curated(screen(SIZES, strong={"A"})).obs["curated"])


def test_spellings_of_one_perturbation_are_one():
    adata = screen({"control": [5] * 4, "B+A": [1] * 4, "A+B": [1] * 4, "C": [3] * 4}, strong={"C"})
    table = table_of(adata, consistency=None, min_batches=2)
    assert table.loc["A+B", ["n_obs", "n_kept"]].tolist() == [8, 8]
    apart = table_of(adata, consistency=None, min_batches=2, sep="")
    assert apart["n_obs"].tolist() == [20, 4, 4, 12]


@pytest.mark.parametrize("sep", ["+", "", "_"])
def test_odd_labels_are_tested_under_their_names(sep):
    names = {"B+A": [3] * 4, "A_C": [3] * 4, "C@0.5": [3] * 4, "D": [3] * 4}
    table = table_of(screen({"control": [5] * 4} | names, strong={"B+A", "A_C", "C@0.5"}, seed=7), sep=sep)
    assert len(table) == 5
    assert (table["reason"] == "kept").sum() == 3
    assert table.loc["D", "reason"] == "not consistent"


def test_one_batch():
    adata = screen({"control": [20], "A": [12], "B": [12], "C": [12]}, strong={"A"})
    assert table_of(adata)["reason"].tolist() == ["control"] + ["too few batches"] * 3
    table = table_of(adata, min_batches=1)
    assert table["reason"].to_dict() == {
        "control": "control",
        "A": "kept",
        "B": "not consistent",
        "C": "not consistent",
    }


def test_a_perturbation_of_one_batch_among_several():
    adata = screen({"control": [5] * 4, "A": [12], "B": [3] * 4, "C": [3] * 4}, strong={"A", "B"})
    table = table_of(adata, min_batches=1)
    assert table["reason"].to_dict() == {"control": "control", "A": "not testable", "B": "kept", "C": "not consistent"}


def test_no_controls_and_batches_without_controls():
    without = screen({"A": [3] * 4, "B": [3] * 4}, strong={"A"})
    table = table_of(without, control=None)
    assert table.index.tolist() == ["A", "B"]
    some = screen({"control": [10, 0, 0, 10], "A": [3] * 4, "B": [3] * 4}, strong={"A"})
    out = curated(some)
    assert out.obs["curated"][out.obs["perturbation"] == "control"].sum() == 6
    assert out.uns["curated"]["table"].loc["A", "kept"]


def test_nothing_kept_is_said(caplog):
    with caplog.at_level(logging.WARNING, logger="perturbia.pp"):
        out = curated(screen(SIZES), min_wells=1000)
    assert "no perturbation is kept" in caplog.text
    assert out.obs["curated"].sum() == math.fsum(math.ceil(0.3 * count) for count in SIZES["control"])


def test_every_form_of_data_gives_the_same(tmp_path):
    adata = screen(SIZES, strong={"A"})
    adata.X = adata.X.astype(np.float32)
    expected = curated(adata)
    adata.obs["perturbation"] = pd.Categorical(adata.obs["perturbation"], categories=["unused", *SIZES])
    adata.obs["plate"] = pd.Categorical(adata.obs["plate"], categories=["other", *PLATES])
    adata.obsm["X_other"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "screen.h5ad")
    backed = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    double = adata.copy()
    double.X = double.X.astype(np.float64)
    forms = {
        "categories": adata,
        "view": ad.concat([adata, adata], index_unique=None)[: adata.n_obs],
        "backed": backed,
        "view of backed": backed[list(range(adata.n_obs))],
        "csc": ad.AnnData(sp.csc_matrix(adata.X), obs=adata.obs),
        "float64": double,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Observation names are not unique")
        for name, data in forms.items():
            out = curated(data)
            assert out.obs["curated"].tolist() == expected.obs["curated"].tolist(), name
            pd.testing.assert_frame_equal(
                out.uns["curated"]["table"], expected.uns["curated"]["table"], rtol=1e-4, obj=name
            )
    assert curated(backed, copy=False) is None
    assert backed.obs["curated"].tolist() == expected.obs["curated"].tolist()


def test_notes_survive_a_file(tmp_path):
    adata = screen(SIZES, strong={"A"})
    pb.pp.curate_perturbations(
        adata, batch_key="plate", min_wells=8, key_added="good", control_fraction={"control": 0.5}
    )
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    note, written = back.uns["good"], adata.uns["good"]
    pd.testing.assert_frame_equal(note["table"], written["table"], check_dtype=False)
    assert back.obs["good"].tolist() == adata.obs["good"].tolist()
    assert note["use_rep"].tolist() == ["X"]
    assert note["control_fraction"]["fraction"].to_dict() == {"control": 0.5}
    same = {
        "min_batches": 3,
        "min_wells": 8,
        "alpha": 0.01,
        "n_null": 1000,
        "seed": 0,
        "consistency": "pval",
        "null": "mismatched",
    }
    assert {key: note[key] for key in same} == same


def test_simulated_screen():
    """Genes with an effect are kept, wells with none are not."""
    wells = pb.datasets.simulate_plates(n_complexes=6, n_single_genes=0, n_replicates=6, n_plates=6, effect_scale=8.0)
    blank = pb.datasets.simulate_plates(
        n_complexes=6, n_single_genes=0, n_replicates=6, n_plates=6, effect_scale=0.0, n_controls=1, seed=1
    )
    blank = blank[blank.obs["perturbation"] != "control"].copy()
    blank.obs["perturbation"] = "blank " + blank.obs["perturbation"].astype(str)
    both = ad.concat([wells, blank], index_unique="-")
    for plate in np.unique(both.obs["plate"]):  # those of the other simulation lie elsewhere
        for part, origin in (("0", wells), ("1", blank)):
            rows = (both.obs["plate"] == plate).to_numpy() & both.obs_names.str.endswith(f"-{part}")
            where = origin.obs["plate"] == plate
            both.X[rows] -= origin.X[where.to_numpy()].mean(axis=0)
    pb.pp.standardize_by_controls(both, batch_key="plate")
    pb.pp.curate_perturbations(both, batch_key="plate", use_rep="X_standardized", min_wells=12, consistency="qval")
    table = both.uns["curated"]["table"].drop(index="control")
    is_blank = table.index.str.startswith("blank")
    assert table.loc[~is_blank, "kept"].mean() > 0.9
    assert table.loc[is_blank, "kept"].mean() < 0.1


# --- bad input --------------------------------------------------------------------------------------------------------


def changed(**obs: object) -> ad.AnnData:
    adata = screen(SIZES)
    for name, values in obs.items():
        adata.obs[name] = values
    return adata


def with_nan() -> ad.AnnData:
    adata = changed()
    adata.X[4, 2] = np.nan
    return adata


@pytest.mark.parametrize(
    ("adata", "options", "error", "match"),
    [
        (changed(), {"batch_key": "no"}, LabelError, "batch_key: expected a column of adata.obs, got 'no'"),
        (changed(), {"perturbation_key": "no"}, LabelError, "perturbation_key: expected a column of adata.obs, got 'no'"),
        (changed(perturbation=None), {}, LabelError, "expected rows with both, got 107 without a label"),
        (changed(plate=None), {}, LabelError, "expected rows with both.*107 without a batch"),
        (changed(), {"control": "ctrl"}, ControlError, "expected no cells labelled 'control' besides"),
        (screen({"A": [3] * 4, "B": [3] * 4}), {}, ControlError, "control: expected rows labelled 'control', got none"),
        (changed(), {"control_fraction": {"negative": 0.1}}, ControlError, "control_fraction: .*got 'negative'.*'control'"),
        (changed(), {"control_fraction": 1.5}, ValueError, "control_fraction: expected a share from 0 to 1, got 1.5"),
        (changed(), {"control_fraction": {"control": -1}}, ValueError, r"control_fraction\['control'\]: expected a share"),
        (changed(), {"control_fraction": None}, ValueError, "control_fraction: expected a share from 0 to 1, got None"),
        (changed(), {"control_fraction": np.nan}, ValueError, "control_fraction: expected a share from 0 to 1, got nan"),
        (changed(), {"min_batches": 0}, ValueError, "min_batches: expected a whole number of 1 or more, got 0"),
        (changed(), {"min_wells": 1}, ValueError, "min_wells: expected a whole number of 2 or more, got 1"),
        (changed(), {"consistency": "p"}, ValueError, "consistency: expected one of 'pval', 'qval', got 'p'"),
        (changed(), {"null": "random"}, ValueError, "null: expected one of 'mismatched', 'controls', got 'random'"),
        (changed(), {"alpha": 0.0}, ValueError, "alpha: expected a level above 0"),
        (changed(), {"n_null": 99}, ValueError, "n_null: expected more than 99 random sets.*alpha=0.01, got 99"),
        (changed(), {"n_null": 0}, ValueError, "n_null: expected a whole number of 1 or more, got 0"),
        (changed(), {"seed": -1}, ValueError, "seed: expected a whole number of 0 or more, got -1"),
        (changed(), {"seed": None}, ValueError, "seed: expected a whole number of 0 or more, got None"),
        (changed(), {"use_rep": "X_no"}, FeatureMismatch, "use_rep: expected a key of adata.obsm, got 'X_no'"),
        (changed(), {"use_rep": []}, ValueError, "use_rep: expected None, a key"),
        (changed(), {"use_rep": ["X", None]}, ValueError, "use_rep: expected None, a key of adata.obsm, or a list of different"),
        (with_nan(), {}, ValueError, "adata.X: expected finite numbers.*'w0004'"),
        (changed(), {"null": "controls", "min_wells": 20}, ControlError, "control: expected controls to draw.*replicates of 'E'"),
        (screen({"control": [3] * 4, "A": [3] * 4}), {}, LabelError, "expected 2 perturbations or more"),
    ],
)  # fmt: skip
def test_bad_input(adata, options, error, match):
    with pytest.raises(error, match=match):
        curated(adata, **{"copy": False} | options)
    assert "curated" not in adata.obs
    assert "curated" not in adata.uns


def test_views_of_files_need_a_copy(tmp_path):
    changed().write_h5ad(tmp_path / "screen.h5ad")
    view = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")[list(range(107))]
    with pytest.raises(UnsupportedQuery, match="view of a backed file. Use copy=True"):
        curated(view, copy=False)


def test_every_label_of_controls_is_sampled_and_listed():
    wells = pb.datasets.simulate_plates(n_complexes=3, n_single_genes=2, n_plates=4, n_controls=10)
    controls = (wells.obs["perturbation"] == "control").to_numpy()
    spelled = wells.obs["perturbation"].astype(str).to_numpy()
    spelled[controls] = np.where(np.arange(controls.sum()) % 2 == 0, "DMSO", "0")
    wells.obs["perturbation"] = spelled
    options = {"batch_key": "plate", "consistency": None, "min_wells": 2, "min_batches": 2, "control_fraction": 0.5}
    pb.pp.curate_perturbations(wells, control=["DMSO", "0"], **options)
    table = wells.uns["curated"]["table"]
    assert table.loc[["0", "DMSO"], "reason"].tolist() == ["control", "control"]
    assert table.loc[["0", "DMSO"], "n_obs"].tolist() == [20, 20]
    assert wells.obs["curated"][controls].sum() == table.loc[["0", "DMSO"], "n_kept"].sum()
    with pytest.raises(ValueError, match="key_added: expected the key"):
        pb.pp.curate_perturbations(wells, control=["DMSO", "0"], key_added=None, **options)


@pytest.mark.parametrize("consistency", [None, "pval"])
def test_controls_alone_are_refused(consistency):
    wells = pb.datasets.simulate_plates(n_complexes=2, n_single_genes=1, n_plates=3)
    controls = wells[wells.obs["perturbation"] == "control"].copy()
    for rows in (controls, controls[:1].copy()):
        with pytest.raises(LabelError, match="expected a perturbation besides controls, got none"):
            pb.pp.curate_perturbations(rows, batch_key="plate", consistency=consistency)
        assert "curated" not in rows.obs


def test_labels_of_controls_may_be_numbers():
    wells = pb.datasets.simulate_plates(n_complexes=3, n_single_genes=2, n_plates=4)
    wells.obs["perturbation"] = wells.obs["perturbation"].astype(str).replace({"control": "5"})
    done = [
        pb.pp.curate_perturbations(wells, batch_key="plate", consistency=None, control=control, copy=True)
        for control in ("5", 5)
    ]
    assert done[0].obs["curated"].equals(done[1].obs["curated"])
