"""Relations of maps against scikit-learn and loops over pairs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics.pairwise import cosine_similarity

import perturbia as pb
from perturbia.errors import FeatureMismatch, LabelError, UnknownPerturbation
from perturbia.tl import perturbation_neighbors, relate

NAMES = [f"G{i:02d}" for i in range(28)] + ["A+B", "control"]


def genes(seed: int = 0) -> ad.AnnData:
    """29 perturbations in pairs that are alike, and a control."""
    rng = np.random.default_rng(seed)
    values = 0.4 * rng.normal(size=(30, 6)) + np.repeat(rng.normal(size=(15, 6)), 2, axis=0)
    obs = pd.DataFrame({"is_control": [name == "control" for name in NAMES]}, index=NAMES)
    adata_map = ad.AnnData(values.astype(np.float32), obs=obs)
    adata_map.layers["sem"] = rng.uniform(0.1, 0.3, size=values.shape).astype(np.float32)
    adata_map.obsm["X_other"] = rng.normal(size=(30, 4))
    return adata_map


@pytest.mark.parametrize("use_rep", [None, "X", "X_other"])
@pytest.mark.parametrize(("metric", "oracle"), [("cosine", cosine_similarity), ("pearson", np.corrcoef)])
def test_all_relations(metric, oracle, use_rep):
    adata_map = genes()
    values = adata_map.obsm["X_other"] if use_rep == "X_other" else adata_map.X
    assert relate(adata_map, use_rep=use_rep, metric=metric, block_size=7) is None
    found = adata_map.obsp[metric]
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, oracle(values), atol=1e-6)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 1)
    assert adata_map.uns[metric] == {"metric": metric, "use_rep": use_rep or "X", "n_top": -1}


def test_the_largest_relations_are_those_of_all():
    adata_map = genes()
    relate(adata_map)
    relate(adata_map, n_top=3, key_added="near")
    found = adata_map.obsp["near"]
    assert isinstance(found, sp.csr_matrix)
    assert found.dtype == np.float32
    assert (np.diff(found.indptr) >= 3).all()
    assert (found != found.T).nnz == 0
    every = adata_map.obsp["cosine"] * (1 - np.eye(30))
    last = np.sort(np.abs(every), axis=1)[:, -3]
    kept = np.abs(every) >= np.minimum(last[:, None], last[None, :])
    np.testing.assert_array_equal(found.toarray() != 0, kept)
    np.testing.assert_allclose(found.toarray(), every * kept, atol=1e-6)
    assert adata_map.uns["near"]["n_top"] == 3


def test_a_copy_leaves_the_map_alone_and_round_trips(tmp_path):
    adata_map = genes()
    out = relate(adata_map, copy=True, n_top=2)
    assert not adata_map.obsp
    assert not adata_map.uns
    out.write_h5ad(tmp_path / "map.h5ad")
    again = ad.read_h5ad(tmp_path / "map.h5ad")
    assert again.uns["cosine"] == out.uns["cosine"]
    assert (again.obsp["cosine"] != out.obsp["cosine"]).nnz == 0


def test_controls_that_alignment_made_zeros_are_related_to_nothing():
    adata_map = genes()
    adata_map.X[-1] = 0
    relate(adata_map)
    np.testing.assert_array_equal(adata_map.obsp["cosine"][-1], np.eye(30)[-1])
    assert len(perturbation_neighbors(adata_map)) == 290


def by_loop(adata_map, name, n, sign):
    """Neighbours of one perturbation, with shares of all pairs, from the full matrix."""
    treated = adata_map[adata_map.obs_names != "control"]
    every = cosine_similarity(treated.X.astype(np.float64))
    pairs = every[np.triu_indices(len(every), 1)]
    own = treated.obs_names.get_loc(name)
    score = {"both": np.abs, "alike": np.positive, "opposite": np.negative}[sign]
    rows = []
    for j in np.argsort(-score(every[own])):
        if j != own and len(rows) < n and (sign == "both" or score(every[own, j]) > 0):
            c = every[own, j]
            share = (pairs <= c + 1e-9).mean(), (score(pairs) >= score(c) - 1e-9).mean()
            rows.append((name, treated.obs_names[j], c, len(rows) + 1, *share))
    return pd.DataFrame(rows, columns=["perturbation", "neighbor", "cosine", "rank", "percentile", "tail"])


@pytest.mark.parametrize("block_size", [None, 1, 8])
@pytest.mark.parametrize("sign", ["both", "alike", "opposite"])
def test_neighbors_match_a_loop_over_all_pairs(sign, block_size):
    adata_map = genes()
    names = ["G07", "A+B"]
    found = perturbation_neighbors(adata_map, names, n=4, sign=sign, block_size=block_size)
    expected = pd.concat([by_loop(adata_map, name, 4, sign) for name in names], ignore_index=True)
    pd.testing.assert_frame_equal(found.drop(columns="se"), expected, check_dtype=False, rtol=1e-6, atol=1e-6)


def test_all_perturbations_find_their_partners():
    found = perturbation_neighbors(genes(), n=1, sign="alike")
    assert found["perturbation"].tolist() == sorted(NAMES[:-1])
    partner = {NAMES[i]: NAMES[i ^ 1] for i in range(28)}
    right = [partner.get(one) == other for one, other in zip(found["perturbation"], found["neighbor"], strict=True)]
    assert np.mean(right) > 0.5  # chance is 1 / 28


def test_the_most_extreme_pair_has_the_least_tail_and_none_has_zero():
    table = perturbation_neighbors(genes(), n=28)
    assert table["tail"].min() == pytest.approx(1 / (29 * 28 / 2))
    assert table["tail"].max() == 1.0
    assert table["percentile"].min() == pytest.approx(1 / (29 * 28 / 2))
    assert table["percentile"].max() == 1.0
    assert len(table) == 29 * 28


@pytest.mark.parametrize("sign", ["both", "alike", "opposite"])
def test_rows_that_are_copies_share_their_ranks_among_pairs(sign):
    adata_map = genes()
    adata_map.X[2] = adata_map.X[0] * 3
    adata_map.X[4] = adata_map.X[0] / 7
    table = perturbation_neighbors(adata_map, ["G00", "G02", "G04"], n=2, sign="alike" if sign == "both" else sign)
    if sign == "opposite":
        assert (table["tail"].to_numpy().reshape(3, 2) == table["tail"].to_numpy()[:2]).all()
    else:
        assert table["neighbor"].tolist() == ["G02", "G04", "G00", "G04", "G00", "G02"]
        np.testing.assert_allclose(table["tail"], 3 / 406)
        np.testing.assert_allclose(table["percentile"], 1.0)


def test_every_spelling_is_found():
    pd.testing.assert_frame_equal(perturbation_neighbors(genes(), "B+A"), perturbation_neighbors(genes(), ["A+B"]))


def test_controls_take_no_part_even_where_they_are_nearest():
    adata_map = genes()
    adata_map.X[-1] = adata_map.X[0]
    assert "control" not in set(perturbation_neighbors(adata_map)["neighbor"])
    adata_map.obs["is_control"] = adata_map.obs["is_control"].astype(str)  # no longer boolean: a column like others
    assert perturbation_neighbors(adata_map, "G00", n=1)["neighbor"].tolist() == ["control"]


def test_errors_only_for_the_values_they_belong_to():
    adata_map = genes()
    adata_map.layers["sem"][1] = np.nan
    table = perturbation_neighbors(adata_map, ["G00"], n=28)
    np.testing.assert_array_equal(table["se"].isna(), table["neighbor"] == "G01")
    doubled = adata_map.copy()
    doubled.layers["sem"] = 2 * doubled.layers["sem"]
    np.testing.assert_allclose(perturbation_neighbors(doubled, ["G00"], n=28)["se"], 2 * table["se"], rtol=1e-6)
    assert "se" not in perturbation_neighbors(adata_map, use_rep="X_other")
    del adata_map.layers["sem"]
    assert "se" not in perturbation_neighbors(adata_map)


def in_a_file(adata_map, folder):
    adata_map.write_h5ad(folder / "map.h5ad")
    return ad.read_h5ad(folder / "map.h5ad", backed="r")


def with_more_rows(adata_map):
    more = adata_map[:2].copy()
    more.obs_names = ["x", "y"]
    return ad.concat([adata_map, more], merge="same")


def as_a_view(adata_map, folder):
    return with_more_rows(adata_map)[:30]


def as_a_view_of_a_file(adata_map, folder):
    return in_a_file(with_more_rows(adata_map), folder)[:30]


def in_another_order(adata_map, folder):
    return adata_map[np.random.default_rng(1).permutation(30)].copy()


def sparse_by_columns(adata_map, folder):
    adata_map.X = sp.csc_matrix(adata_map.X)
    return adata_map


def as_float64(adata_map, folder):
    adata_map.X = adata_map.X.astype(np.float64)
    return adata_map


FORMS = [in_a_file, as_a_view_of_a_file, as_a_view, in_another_order, sparse_by_columns, as_float64]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_form_of_data_does_not_matter(form, tmp_path):
    expected = relate(genes(), copy=True).obsp["cosine"]
    adata_map = form(genes(), tmp_path)
    table = perturbation_neighbors(adata_map, n=3)
    pd.testing.assert_frame_equal(table, perturbation_neighbors(genes(), n=3), rtol=1e-5)
    for n_top in (None, 29):
        out = relate(adata_map, copy=True, n_top=n_top)
        found = out.obsp["cosine"] if n_top is None else out.obsp["cosine"].toarray() + np.eye(30, dtype=np.float32)
        at = out.obs_names.get_indexer(NAMES)
        np.testing.assert_allclose(found[np.ix_(at, at)], expected, atol=1e-6)


def test_views_become_data_of_their_own_and_files_are_written_to(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.ImplicitModificationWarning)
        view = genes()[:10]
        relate(view)
    assert view.obsp["cosine"].shape == (10, 10)
    stored = in_a_file(genes(), tmp_path)
    relate(stored)
    assert stored.obsp["cosine"].shape == (30, 30)
    with pytest.raises(ValueError, match="adata_map: expected data that can be written to, got a view of a backed"):
        relate(stored[:10])


def test_the_order_of_rows_changes_no_digit():
    moved = genes()[np.random.default_rng(3).permutation(30)].copy()
    pd.testing.assert_frame_equal(perturbation_neighbors(moved), perturbation_neighbors(genes()), check_exact=True)


def test_a_pathway_is_found_in_a_real_screen():
    adata = pb.datasets.papalexi()
    counts = adata.X.toarray()
    adata.obsm["X_log"] = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    found = pb.tl.aggregate_perturbations(adata, use_rep="X_log", keep_control=True)
    found.X -= found["control"].X
    table = perturbation_neighbors(found, "STAT1", n=3)
    assert set(table["neighbor"]) == {"IFNGR1", "IFNGR2", "JAK2"}
    assert (table["cosine"] > 0.8).all()
    assert (table["tail"] < 0.05).all()
    assert (table["se"] < 0.1).all()


@pytest.mark.slow
def test_a_whole_genome_needs_less_than_a_gigabyte():
    code = """
        import resource, sys
        import anndata as ad, numpy as np, perturbia as pb
        adata = ad.AnnData(np.random.default_rng(0).normal(size=(18_000, 64)).astype(np.float32))
        pb.tl.relate(adata, n_top=50)
        assert (np.diff(adata.obsp["cosine"].indptr) >= 50).all()
        assert len(pb.tl.perturbation_neighbors(adata, n=10)) == 180_000
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1000  # MB, libraries included


def with_value(value):
    def change(adata_map):
        adata_map.X[3] = value

    return change


def twice(adata_map):
    adata_map.obs_names = ["G01", *NAMES[1:]]


BOTH = [
    (with_value(np.nan), {}, ValueError, r"adata_map.X: expected finite numbers, got NaN .* \('G03'\)"),
    (with_value(0.0), {}, ValueError, r"adata_map: expected rows with a direction, got 1 of zeros only \('G03'\)"),
    (with_value(0.7), {"metric": "pearson"}, ValueError, r"got 1 that are constant \('G03'\)"),
    (twice, {}, LabelError, "adata_map: expected one row a perturbation, got 'G01' more than once"),
    (None, {"use_rep": "X_pca"}, FeatureMismatch, "use_rep: expected a key of adata.obsm, got 'X_pca'"),
    (None, {"metric": "l2"}, ValueError, "metric: expected one of 'cosine', 'pearson', got 'l2'"),
    (None, {"block_size": 0}, ValueError, "block_size: expected a positive integer, got 0"),
]


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        *BOTH,
        (None, {"n_top": 0}, ValueError, "n_top: expected a positive integer, got 0"),
        (None, {"key_added": 5}, ValueError, "key_added: expected the key to write to as text, or None .* got 5"),
        (None, {"key_added": ""}, ValueError, "key_added: expected the key to write to as text"),
    ],
)
def test_bad_relations_write_nothing(change, options, error, match):
    adata_map = genes()
    if change is not None:
        change(adata_map)
    with pytest.raises(error, match=match):
        relate(adata_map, **options)
    assert not adata_map.obsp
    assert not adata_map.uns


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        *BOTH,
        (None, {"n": 0}, ValueError, "n: expected a positive integer, got 0"),
        (None, {"sign": "up"}, ValueError, "sign: expected one of 'both', 'alike', 'opposite', got 'up'"),
        (None, {"perturbation": "G1"}, UnknownPerturbation, r"got 'G1' \(nearest: G01"),
        (None, {"perturbation": ["G01", "???+"]}, UnknownPerturbation, r"got '\?\?\?\+'"),
        (None, {"perturbation": "control"}, UnknownPerturbation, r"Controls \('control'\) are left out of the map"),
        (None, {"perturbation": []}, LabelError, "perturbation: expected distinct names, got none"),
        (None, {"perturbation": ["A+B", "B+A"]}, LabelError, "perturbation: expected distinct names, got 'A.B', 'A.B'"),
    ],
)
def test_bad_neighbors(change, options, error, match):
    adata_map = genes()
    if change is not None:
        change(adata_map)
    with pytest.raises(error, match=match):
        perturbation_neighbors(adata_map, **options)


def test_a_control_and_one_perturbation_are_no_map():
    with pytest.raises(ValueError, match="expected 2 perturbations or more besides controls, got 1"):
        perturbation_neighbors(genes()[-2:].copy())


@pytest.mark.parametrize("tool", [relate, perturbation_neighbors])
def test_one_row_is_no_map(tool):
    with pytest.raises(ValueError, match="expected 2 rows or more, got 1"):
        tool(genes()[:1].copy())


@pytest.mark.parametrize("tool", [relate, perturbation_neighbors])
def test_something_else_than_a_map(tool):
    with pytest.raises(TypeError, match="adata_map: expected AnnData, got DataFrame"):
        tool(genes().to_df())


@pytest.mark.parametrize("column", ["perturbation", "pb_perturbation"])
def test_wells_are_no_map_to_find_neighbors_in(column):
    wells = genes()
    wells.obs[column] = pd.Categorical([*NAMES[:2] * 14, "A", "control"])
    with pytest.raises(LabelError, match=rf"got several in obs\['{column}'\] for 'G00', 'G01'. Aggregate them first"):
        perturbation_neighbors(wells)
    relate(wells)  # cosines of wells are what they are
    guides = pb.tl.aggregate_perturbations(pb.datasets.tapseq(), by="guide")
    assert len(perturbation_neighbors(guides, n=1)) == guides.n_obs


@pytest.mark.parametrize(("sep", "name"), [("_", "B_A"), ("_", "A_B@1"), ("+", "B+A")])
def test_every_spelling_is_found_with_the_separator_of_the_map(sep, name):
    labels = [f"A{sep}B" if one == "A+B" else one for one in NAMES]
    wells = genes()
    wells.obs["perturbation"] = labels
    adata_map = pb.tl.aggregate_perturbations(wells, sep=sep)
    assert set(perturbation_neighbors(adata_map, name)["perturbation"]) == {f"A{sep}B"}
