"""Maps of perturbations against pandas, from every form of data, in one step and in two."""

from __future__ import annotations

import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.tl import aggregate_perturbations

LABELS = ["ctrl"] * 12 + ["A+ctrl"] * 7 + ["B+A"] * 4 + ["A+B"] * 5 + ["B"] * 6
CANONICAL = np.array(["control"] * 12 + ["A"] * 7 + ["A+B"] * 9 + ["B"] * 6)
OPTIONS = {"control": "ctrl"}


def screen() -> ad.AnnData:
    rng = np.random.default_rng(0)
    n = len(LABELS)
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(LABELS),
            "guide": pd.Categorical([f"{name}.{i % 2}" for i, name in enumerate(CANONICAL)]),
            "dose": np.arange(n) % 2 * 9.0 + 1.0,
            "plate": [f"p{i % 3}" for i in range(n)],
            "complex": pd.Categorical([{"control": "x", "A": "c1", "A+B": "c2", "B": "c1"}[one] for one in CANONICAL]),
            "arm": np.where(CANONICAL == "B", None, "1p"),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    counts = rng.poisson(1.0, (n, 8)).astype(np.float32)
    counts[:, 0] += 1  # every row has a direction
    adata = ad.AnnData(sp.csr_matrix(counts), obs=obs)
    adata.var_names = [f"gene{i}" for i in range(8)]
    adata.obsm["X_tvn"] = rng.normal(size=(n, 3))
    adata.obsm["frame"] = pd.DataFrame(adata.obsm["X_tvn"], index=obs.index, columns=["one", "two", "three"])
    return adata


@pytest.mark.parametrize("use_rep", [None, "X", "X_tvn", "frame"])
def test_means_match_pandas(use_rep):
    adata = screen()
    values = adata.X.toarray() if use_rep in (None, "X") else adata.obsm["X_tvn"]
    found = aggregate_perturbations(adata, use_rep=use_rep, batch_key="plate", **OPTIONS)
    table = pd.DataFrame(values).groupby(CANONICAL)
    kept = ["A", "A+B", "B"]
    assert found.obs_names.tolist() == found.obs["pb_perturbation"].tolist() == kept
    assert found.obs["perturbation"].tolist() == kept
    np.testing.assert_allclose(found.X, table.mean().loc[kept], rtol=1e-6)
    np.testing.assert_allclose(found.layers["sem"], table.sem().loc[kept], rtol=1e-5)
    assert found.X.dtype == found.layers["sem"].dtype == np.float32
    assert found.obs["n_obs"].tolist() == [7, 9, 6]
    assert found.obs["n_batches"].tolist() == [3, 3, 3]
    assert found.obs["is_control"].tolist() == [False] * 3
    names = {"X_tvn": ["X_tvn_1", "X_tvn_2", "X_tvn_3"], "frame": ["one", "two", "three"]}
    assert found.var_names.tolist() == names.get(use_rep, [f"gene{i}" for i in range(8)])


@pytest.mark.parametrize("func", ["median", "trimmed", "spherical"])
def test_other_locations_are_those_of_their_groups(func):
    adata = screen()
    found = aggregate_perturbations(adata, use_rep="X_tvn", func=func, trim=0.2, **OPTIONS)
    expected = pb.stats.group_locations.locate_groups(adata.obsm["X_tvn"], CANONICAL, func=func, trim=0.2)
    np.testing.assert_allclose(found.X, expected.location[:3], rtol=1e-6)
    np.testing.assert_allclose(found.layers["sem"], expected.standard_error[:3], rtol=1e-6)


def test_controls_are_kept_when_asked_for():
    found = aggregate_perturbations(screen(), keep_control=True, **OPTIONS)
    assert found.obs_names.tolist() == ["A", "A+B", "B", "control"]
    assert found.obs["is_control"].dtype == bool
    assert found.obs["is_control"].tolist() == [False, False, False, True]
    assert found.obs["pb_perturbation"].tolist()[-1] == "control"
    assert found.obs["perturbation"].tolist()[-1] == "ctrl"


def test_further_columns_part_rows():
    adata = screen()
    found = aggregate_perturbations(adata, by=["dose", "guide"], batch_key="plate", **OPTIONS)
    table = pd.DataFrame(adata.X.toarray()).groupby(
        [CANONICAL, adata.obs["dose"].array, adata.obs["guide"].astype(str).to_numpy()]
    )
    means, sizes = (one[one.index.get_level_values(0) != "control"] for one in (table.mean(), table.size()))
    assert list(zip(found.obs["pb_perturbation"], found.obs["dose"], found.obs["guide"], strict=True)) == list(
        means.index
    )
    assert found.obs_names[0] == "A|1.0|A.0"
    assert found.obs["dose"].dtype == np.float64
    assert isinstance(found.obs["guide"].dtype, pd.CategoricalDtype)
    np.testing.assert_allclose(found.X, means, rtol=1e-6)
    np.testing.assert_array_equal(found.obs["n_obs"], sizes)
    batches = pd.Series(adata.obs["plate"].to_numpy()).groupby([CANONICAL, adata.obs["dose"].to_numpy()]).nunique()
    np.testing.assert_array_equal(found.obs["n_batches"], batches.drop("control"))
    assert aggregate_perturbations(adata, by="guide", **OPTIONS).n_obs == 6


def test_numbers_are_sorted_as_numbers():
    adata = screen()
    adata.obs["dose"] = np.where(adata.obs["dose"] == 1, 9, 10)
    assert aggregate_perturbations(adata, by="dose", **OPTIONS).obs["dose"].tolist() == [9, 10] * 3


def test_what_all_rows_of_a_perturbation_share_is_kept():
    found = aggregate_perturbations(screen(), **OPTIONS)
    assert list(found.obs) == ["pb_perturbation", "perturbation", "n_obs", "is_control", "complex", "arm"]
    assert found.obs["complex"].tolist() == ["c1", "c2", "c1"]
    assert list(found.obs["complex"].cat.categories) == ["c1", "c2"]  # without the controls' own
    assert found.obs["arm"].isna().tolist() == [False, False, True]


def test_two_steps_weigh_guides_alike_by_the_same_call():
    adata = screen()
    guides = aggregate_perturbations(adata, by="guide", keep_control=True, **OPTIONS)
    genes = aggregate_perturbations(guides, **OPTIONS)
    table = pd.DataFrame(guides.X.astype(np.float64)).groupby(guides.obs["pb_perturbation"].to_numpy())
    np.testing.assert_allclose(genes.X, table.mean().drop("control"), rtol=1e-6)
    np.testing.assert_allclose(genes.layers["sem"], table.sem().drop("control"), rtol=1e-5)
    assert genes.obs["n_obs"].tolist() == [2, 2, 2]
    assert genes.obs["complex"].tolist() == ["c1", "c2", "c1"]
    # also when the controls went in the first step, and under the canonical labels
    without = aggregate_perturbations(adata, by="guide", **OPTIONS)
    for again in (
        aggregate_perturbations(without, **OPTIONS),
        aggregate_perturbations(guides, perturbation_key="pb_perturbation"),
    ):
        np.testing.assert_array_equal(again.X, genes.X)


@pytest.mark.parametrize("sep", ["_", ""])
def test_labels_of_other_separators_read_back(sep):
    adata = screen()
    names = {"control": "ctrl", "A": "A", "B": "B", "A+B": "B_A" if sep else "B+A"}
    adata.obs["perturbation"] = [names[one] for one in CANONICAL]
    guides = aggregate_perturbations(adata, by="guide", sep=sep, **OPTIONS)
    genes = aggregate_perturbations(guides, sep=sep, **OPTIONS)
    assert genes.obs["n_obs"].tolist() == [2, 2, 2]
    assert set(genes.obs["pb_perturbation"]) == set(guides.obs["pb_perturbation"])


def test_small_groups_are_left_out_and_counted(caplog):
    caplog.set_level(logging.INFO, logger="perturbia")
    found = aggregate_perturbations(screen(), min_replicates=7, **OPTIONS)
    assert found.obs_names.tolist() == ["A", "A+B"]
    assert found.uns["perturbia"]["n_left_out"] == 1
    assert "1 groups have fewer than 7 rows and are left out: 'B'." in caplog.text


def test_single_rows_have_no_standard_error_and_say_so():
    adata = screen()[:-5]
    with pytest.warns(RuntimeWarning, match="1 of 3 groups have too few rows") as record:
        found = aggregate_perturbations(adata, **OPTIONS)
    assert len(record) == 1
    assert record[0].filename == __file__
    np.testing.assert_array_equal(np.isnan(found.layers["sem"]).all(axis=1), [False, False, True])
    assert np.isfinite(found.X).all()


def test_metadata_and_files(tmp_path):
    found = aggregate_perturbations(screen(), use_rep="X_tvn", by="guide", func="spherical", **OPTIONS)
    about = found.uns["perturbia"]
    assert {key: about[key] for key in ("kind", "scale", "use_rep", "func", "by", "n_left_out")} == {
        "kind": "map",
        "scale": "embedding",
        "use_rep": "X_tvn",
        "func": "spherical",
        "by": "guide",
        "n_left_out": 0,
    }
    found.write_h5ad(tmp_path / "map.h5ad")
    again = ad.read_h5ad(tmp_path / "map.h5ad")
    pd.testing.assert_frame_equal(again.obs, found.obs, check_dtype=False, check_categorical=False)
    assert again.uns["perturbia"] == about


def in_a_file(adata, folder):
    adata.write_h5ad(folder / "screen.h5ad")
    return ad.read_h5ad(folder / "screen.h5ad", backed="r")


def dense_in_a_file(adata, folder):
    adata.X = adata.X.toarray()
    return in_a_file(adata, folder)


def as_a_view(adata, folder):
    order = np.random.default_rng(1).permutation(adata.n_obs)
    return adata[order].copy()[np.argsort(order)]


def as_a_view_of_a_file(adata, folder):
    more = ad.concat([adata, adata[:3]], index_unique="-")
    return in_a_file(more, folder)[: adata.n_obs]


def in_another_order(adata, folder):
    return adata[np.random.default_rng(2).permutation(adata.n_obs)].copy()


def by_columns(adata, folder):
    adata.X = sp.csc_matrix(adata.X)
    return adata


def as_integers(adata, folder):
    adata.X = adata.X.toarray().astype(np.int64)
    return adata


def with_unused_categories(adata, folder):
    for name in ("perturbation", "guide"):
        adata.obs[name] = adata.obs[name].cat.add_categories(["nobody+nowhere"])
    return adata


FORMS = [in_a_file, dense_in_a_file, as_a_view, as_a_view_of_a_file, in_another_order, by_columns, as_integers,
         with_unused_categories]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("func", ["mean", "median", "trimmed", "spherical"])
def test_the_form_of_data_does_not_matter(form, func, tmp_path):
    options = OPTIONS | {"func": func, "trim": 0.2, "by": "guide", "batch_key": "plate", "keep_control": True}
    expected = aggregate_perturbations(screen(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # anndata has something to say of names
        found = aggregate_perturbations(form(screen(), tmp_path), **options)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-6)
    np.testing.assert_allclose(found.layers["sem"], expected.layers["sem"], rtol=1e-5, atol=1e-7)
    columns = ["pb_perturbation", "perturbation", "guide", "n_obs", "n_batches", "is_control", "complex"]
    for name in columns:
        assert found.obs[name].tolist() == expected.obs[name].tolist()
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert list(found.obs["guide"].astype("category").cat.categories) == list(expected.obs["guide"].cat.categories)


def test_data_are_left_alone():
    adata = screen()
    before = adata.copy()
    aggregate_perturbations(adata, by="guide", func="spherical", **OPTIONS)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0
    assert not adata.uns


def test_one_batch_one_perturbation_and_no_controls():
    adata = screen()[12:19].copy()
    adata.obs["plate"] = "only"
    found = aggregate_perturbations(adata, control=None, perturbation_key="complex", batch_key="plate")
    assert found.obs_names.tolist() == ["c1"]
    assert found.obs["n_batches"].tolist() == [1]


def test_guides_of_a_real_screen():
    adata = pb.datasets.papalexi()
    found = aggregate_perturbations(adata, by="guide", keep_control=True, batch_key="replicate", min_replicates=2)
    table = pd.DataFrame(adata.X.toarray().astype(np.float64)).groupby(adata.obs["guide"].astype(str).to_numpy())
    means = table.mean().loc[found.obs["guide"].astype(str)]
    np.testing.assert_allclose(found.X, means, rtol=1e-5)
    assert found.obs["n_obs"].sum() == adata.n_obs - found.uns["perturbia"]["n_left_out"]


def two_columns(adata):
    adata.obs["a|b"] = np.where(adata.obs["guide"].astype(str).str.endswith("0"), "x|y", "x")
    adata.obs["c"] = np.where(adata.obs["a|b"] == "x", "y|z", "z")


BROKEN = [
    (None, {"perturbation_key": "gene"}, LabelError, "perturbation_key: expected a column of adata.obs, got 'gene'"),
    (None, {"control": "DMSO"}, ControlError, "control: expected rows labelled 'DMSO' in .* got none.*Labels seen: 'A"),
    (None, {"use_rep": "X_umap"}, FeatureMismatch, "use_rep: expected a key of adata.obsm, got 'X_umap'"),
    (None, {"by": ["plate", "well"]}, LabelError, "by: expected columns of adata.obs, got 'well'"),
    (None, {"by": ["arm"]}, LabelError, "by: expected a value of 'arm' in every row, got 6 of 34 without one"),
    (None, {"by": ["guide", "guide"]}, LabelError, "by: expected distinct columns besides perturbation_key, got 'guide'"),
    (None, {"by": ["perturbation"]}, LabelError, "by: expected distinct columns besides perturbation_key"),
    (lambda a: a.obs.insert(0, "n_obs", 1), {"by": ["n_obs"]}, LabelError, "by: expected another column than 'n_obs'"),
    (two_columns, {"by": ["a|b", "c"]}, LabelError, "by: expected groups whose joined names differ, got 'A.x.y.z'"),
    (None, {"batch_key": "well"}, LabelError, "batch_key: expected a column of adata.obs, got 'well'"),
    (None, {"batch_key": "arm"}, LabelError, "batch_key: expected a label in every row, got 6 of 34"),
    (None, {"func": "mode"}, ValueError, "func: expected one of 'mean'"),
    (None, {"trim": 0.5}, ValueError, "trim: expected a share"),
    (None, {"min_replicates": 0}, ValueError, "min_replicates: expected a positive integer, got 0"),
    (None, {"min_replicates": 10}, LabelError, "min_replicates: expected a perturbation of 10 rows or more, got at most 9"),
    (lambda a: a.obs.__setitem__("perturbation", "ctrl"), {}, LabelError, "expected a perturbation besides the control"),
    (lambda a: a.obsm["X_tvn"].__setitem__((3, 1), np.nan), {"use_rep": "X_tvn"}, ValueError,
     r"adata.obsm\['X_tvn'\]: expected finite numbers, got NaN or infinity in 1 of 34 rows \('cell3'\)"),
    (lambda a: a.X.data.__setitem__(0, np.inf), {}, ValueError, r"adata.X: expected finite .* \('cell0'\)"),
    (lambda a: a.obsm["X_tvn"].__setitem__(5, 0), {"use_rep": "X_tvn", "func": "spherical"}, ValueError,
     r"X: expected rows of positive length, got 1 of zeros only \(rows 5\)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "options", "error", "match"), BROKEN)
def test_bad_input(change, options, error, match):
    adata = screen()
    if change is not None:
        change(adata)
    with pytest.raises(error, match=match):
        aggregate_perturbations(adata, **{**OPTIONS, **options})


def test_controls_of_a_map_are_not_forgotten_in_the_second_step():
    guides = aggregate_perturbations(screen(), by="guide", keep_control=True, **OPTIONS)
    with pytest.raises(ControlError, match="control: expected rows labelled 'NT'"):
        aggregate_perturbations(guides, control="NT")


def test_missing_labels_are_refused():
    adata = screen()
    adata.obs["perturbation"] = adata.obs["perturbation"].where(np.arange(adata.n_obs) != 4)
    with pytest.raises(LabelError, match="expected a label in every cell, got 1 of 34 without one"):
        aggregate_perturbations(adata, **OPTIONS)


@pytest.mark.parametrize(("sep", "expected"), [("", ["HLA+A", "HLA+B", "TP53"]), ("_", ["A_B", "HLA+A"])])
def test_names_with_other_separators_are_left_alone(sep, expected, tmp_path):
    names = {"": ["HLA+A", "HLA+B", "TP53"], "_": ["B_A", "A_B", "HLA+A"]}[sep]
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"perturbation": ["control"] * 3 + names * 3}, index=[f"w{i}" for i in range(12)])
    genes = aggregate_perturbations(ad.AnnData(rng.normal(size=(12, 4)), obs=obs), sep=sep)
    assert genes.obs_names.tolist() == genes.obs["pb_perturbation"].tolist() == expected
    assert genes.uns["perturbia"]["sep"] == sep
    genes.write_h5ad(tmp_path / "genes.h5ad")
    back = ad.read_h5ad(tmp_path / "genes.h5ad")
    assert back.uns["perturbia"]["sep"] == sep
    again = aggregate_perturbations(back, sep=sep)
    assert again.obs_names.tolist() == expected
    asked = names[0]
    found = pb.tl.perturbation_neighbors(back, asked, n=1)
    assert found["perturbation"].tolist() == [expected[0]]


def test_known_relations_of_names_with_a_plus_are_in_the_map():
    rng = np.random.default_rng(0)
    names = ["HLA+A", "HLA+B", *[f"G{i}" for i in range(18)]]
    obs = pd.DataFrame({"perturbation": names * 2}, index=[f"w{i}" for i in range(40)])
    genes = aggregate_perturbations(ad.AnnData(rng.normal(size=(40, 6)), obs=obs), sep="", control=None)
    found = pb.metrics.relationship_recall(genes, [("HLA+A", "HLA+B"), ("G1", "G2")], n_boot=2)
    assert found.table["n_pairs"].iloc[0] == 2


def test_something_else_than_data():
    with pytest.raises(TypeError, match="adata: expected AnnData, got DataFrame"):
        aggregate_perturbations(pd.DataFrame({"a": [1.0]}))


def test_codes_of_registered_models_are_not_carried_along():
    wells = pb.datasets.simulate_plates(n_complexes=2, n_single_genes=2, n_plates=2)
    wells.obs["_scvi_batch"] = 0
    wells.obs["day"] = "one"
    genes = pb.tl.aggregate_perturbations(wells)
    assert "_scvi_batch" not in genes.obs
    assert (genes.obs["day"] == "one").all()
