"""Block search finds what was planted, says what it is worth on groups that took no part, and reads any form of data."""

from __future__ import annotations

import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import KFold, cross_val_score

from perturbia.errors import ControlError, FeatureMismatch, LabelError, SplitError, UnsupportedQuery
from perturbia.stats.probe_validation import earliest_good
from perturbia.tl import block_search

STRENGTH = (0.1, 0.3, 1.0, 0.4, 0.1)
BLOCKS = [f"X_{depth}" for depth in range(len(STRENGTH))]
SEARCH = {"label_key": "gene", "group_key": "plate"}


def wells(
    seed: int = 0, *, n_genes: int = 6, n_plates: int = 8, n_each: int = 4, d: int = 12, strength=STRENGTH
) -> ad.AnnData:
    """Wells of genes on plates with an offset each; the signal of genes peaks within the depth."""
    rng = np.random.default_rng(seed)
    gene = np.tile(np.arange(n_genes), n_plates * n_each)
    plate = np.repeat(np.arange(n_plates), n_genes * n_each)
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical([f"G{i}" for i in gene]),
            "plate": pd.Categorical([f"P{i}" for i in plate]),
            "complex": [f"C{i // 2}" for i in gene],
        },
        index=[f"w{i}" for i in range(len(gene))],
    )
    adata = ad.AnnData(rng.poisson(2.0, (len(gene), 5)).astype(np.float32), obs=obs)
    means, offsets = rng.normal(size=(n_genes, d)), rng.normal(size=(n_plates, d))
    for depth, scale in enumerate(strength):
        noise = rng.normal(size=(len(gene), d))
        adata.obsm[f"X_{depth}"] = (scale * means[gene] + offsets[plate] + noise).astype(np.float32)
    return adata


def without_time(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("probe", ["ridge", "logistic", "knn"])
def test_the_planted_block_is_found(probe, seed):
    table = block_search(wells(seed), BLOCKS, **SEARCH, probe=probe)
    assert table.attrs["selected"] == "X_2"
    assert table.loc[table["selected"], "block"].tolist() == ["X_2"]
    assert table["block"].tolist() == BLOCKS
    assert table["rank"].iloc[2] == 1
    assert table["mean"].iloc[2] > 0.6 > 3 * table.attrs["chance"]
    assert table.attrs["chance"] == pytest.approx(1 / 6)
    assert (table["seconds"] > 0).all()
    assert (table["mean"] <= table["naive_mean"]).all()
    assert table.attrs["nested_score"] <= table.attrs["naive_score"]
    assert table.attrs["nested_score"] > 0.6
    assert (table["n_features"] == 12).all()
    assert table["n_neighbors" if probe == "knn" else "penalty"].gt(0).all()


def score(X, y, train, test, penalty):
    """Balanced accuracy of the ridge classifier of scikit-learn; labels are on every plate."""
    counts = y[train].value_counts()
    weights = (train.sum() / (len(counts) * counts))[y[train]].to_numpy()
    rows = X[train] - np.average(X[train], axis=0, weights=weights)
    eigenvalues = np.linalg.eigvalsh((rows * weights[:, None]).T @ rows)
    alpha = penalty * (eigenvalues**2).sum() / eigenvalues.sum()
    model = RidgeClassifier(alpha=alpha, class_weight="balanced", solver="svd")
    guess = model.fit(X[train], y[train]).predict(X[test])
    return (guess == y[test]).groupby(y[test].astype(str)).mean().mean()


def test_table_is_that_of_nested_loops_with_scikit_learn():
    adata = wells(strength=(0.25, 0.3, 0.3))
    penalties = [10.0, 0.01]
    table = block_search(adata, BLOCKS[:3], **SEARCH, n_splits=4, penalties=penalties)
    stored = adata.uns["block_search"]["folds"]
    assert sorted(stored["group"]) == sorted(adata.obs["plate"].cat.categories)
    fold = adata.obs["plate"].astype(str).map(stored.set_index("group")["fold"]).to_numpy()
    y = adata.obs["gene"]
    nested = []
    outer, naive, chosen = (np.zeros((3, 4)) for _ in range(3))
    for k in range(4):
        inner = np.zeros((3, 3))
        for b, block in enumerate(BLOCKS[:3]):
            X = adata.obsm[block].astype(float)
            scores = np.array(
                [
                    [score(X, y, (fold != k) & (fold != j), fold == j, penalty) for j in range(4) if j != k]
                    for penalty in penalties
                ]
            )
            best = scores.mean(axis=1).argmax()
            inner[b], chosen[b, k] = scores[best], penalties[best]
            held_out = [score(X, y, fold != k, fold == k, penalty) for penalty in penalties]
            outer[b, k], naive[b, k] = held_out[best], max(held_out)
        nested.append(outer[earliest_good(inner, "one_se"), k])
    np.testing.assert_allclose(table["mean"], outer.mean(axis=1))
    np.testing.assert_allclose(table["se"], outer.std(axis=1, ddof=1) / 2)
    np.testing.assert_allclose(table["naive_mean"], naive.mean(axis=1))
    np.testing.assert_allclose(table["penalty"], np.sort(chosen, axis=1)[:, 1])
    assert table.attrs["nested_score"] == pytest.approx(np.mean(nested))
    assert table.attrs["nested_se"] == pytest.approx(np.std(nested, ddof=1) / 2)


@pytest.mark.parametrize("probe", ["ridge", "knn"])
def test_what_plates_alone_tell_scores_at_chance(probe):
    """Each gene has plates of its own: random rows recognise the plate, held-out plates do not."""
    scores = []
    for seed in range(8):
        adata = wells(seed, n_plates=9, n_genes=9, d=40, strength=(0.0,))
        adata.obs["gene"] = adata.obs["plate"].cat.codes.map(lambda code: f"G{code % 3}").astype(str)
        table = block_search(adata, ["X_0"], **SEARCH, n_splits=3, probe=probe)
        scores.append(table.attrs["nested_score"])
    random_rows = cross_val_score(
        RidgeClassifier(), adata.obsm["X_0"], adata.obs["gene"], cv=KFold(5, shuffle=True, random_state=0)
    )
    assert random_rows.mean() > 0.9
    assert np.mean(scores) < 1 / 3 + 3 * np.std(scores, ddof=1) / np.sqrt(8)
    assert np.mean(scores) < 0.5


def test_the_earliest_of_equals_is_chosen_unless_the_best_is_asked_for():
    adata = wells(strength=(0.1, 1.0, 0.1))
    adata.obsm["late"] = adata.obsm["X_1"] + np.float32(0)
    adata.obsm["better"] = np.hstack([adata.obsm["X_1"], adata.obs[["gene"]].eq("G0") * 3]).astype(np.float32)
    names = ["X_0", "X_1", "late", "better"]
    table = block_search(adata, names, **SEARCH)
    assert table["mean"].iloc[1] == table["mean"].iloc[2]
    assert table["rank"].iloc[1] == table["rank"].iloc[2]
    best, early = table["mean"].argmax(), table["selected"].argmax()
    limit = table["mean"].iloc[best] - table["se"].iloc[best]
    assert early == np.flatnonzero(table["mean"] >= limit)[0]
    assert block_search(adata, names, **SEARCH, rule="best").attrs["selected"] == names[best]
    assert block_search(adata, ["late", "X_1"], **SEARCH, rule="best").attrs["selected"] == "late"


def test_several_tasks_average_their_ranks():
    adata = wells()
    table = block_search(adata, BLOCKS, label_key=["gene", "complex"], group_key="plate")
    assert table["task"].tolist() == ["gene"] * 5 + ["complex"] * 5
    for task in ("gene", "complex"):
        own = block_search(adata, BLOCKS, label_key=task, group_key="plate", key_added=None)
        rows = table[table["task"] == task].reset_index(drop=True)
        same = ["mean", "se", "naive_mean", "penalty", "rank", "selected"]
        pd.testing.assert_frame_equal(rows[same], own[same])
        assert table.attrs["nested_score"][task] == own.attrs["nested_score"]
    assert table.attrs["chance"] == {"gene": pytest.approx(1 / 6), "complex": pytest.approx(1 / 3)}
    ranks = table["rank"].to_numpy().reshape(2, 5).mean(axis=0)
    np.testing.assert_array_equal(table["mean_rank"], np.tile(ranks, 2))
    assert table.attrs["selected"] == BLOCKS[int(ranks.argmin())]


def test_rows_of_controls_and_without_label_are_left_out():
    adata = wells()
    adata.obs["group"] = adata.obs["gene"].astype(object).where(adata.obs["gene"] != "G1", np.nan)
    options = {"label_key": "group", "group_key": "plate"}
    with pytest.raises(LabelError, match=r"label in every row of 'group', got 32 of 192 without one \('w1', 'w7'"):
        block_search(adata, BLOCKS, **options)
    assert not adata.uns
    table = block_search(adata, BLOCKS, **options, nan="omit", control="G0")
    counts = adata.uns["block_search"]["counts"].loc["group"]
    assert counts[["n_rows", "n_labels", "n_unlabelled", "n_control", "n_dropped"]].tolist() == [128, 4, 32, 32, 0]
    assert table.attrs["chance"] == 0.25
    kept = adata[~adata.obs["gene"].isin(["G0", "G1"])].copy()
    own = block_search(kept, BLOCKS, **SEARCH)
    np.testing.assert_allclose(own["mean"], table["mean"])


def test_labels_of_one_group_are_dropped_with_a_count():
    adata = wells()
    adata.obs["gene"] = adata.obs["gene"].astype(str)
    lone = (adata.obs["plate"] == "P0") & (adata.obs["gene"] == "G5")
    adata.obs.loc[lone, "gene"] = "only here"
    with pytest.warns(
        RuntimeWarning, match=r"1 of 7 labels of 'gene' occur in one group of 'plate' only .* 4 rows .*'only here'"
    ):
        block_search(adata, BLOCKS, **SEARCH)
    counts = adata.uns["block_search"]["counts"].loc["gene"]
    assert counts[["n_rows", "n_labels", "n_groups", "n_dropped"]].tolist() == [188, 6, 8, 4]
    adata.obs.loc[~lone & adata.obs["plate"].isin([f"P{i}" for i in range(1, 8)]), "plate"] = "P1"
    assert adata.obs["plate"].nunique() == 2
    with (
        pytest.warns(RuntimeWarning, match="2 of 7 labels"),
        pytest.raises(SplitError, match="group_key: expected 3 groups or more"),
    ):
        block_search(adata, BLOCKS, **SEARCH)


def test_replicates_of_few_plates():
    """Every gene on 2 of 12 plates: rows whose label is nowhere else are counted, the rest is scored."""
    rng = np.random.default_rng(0)
    plate = np.concatenate([rng.choice(12, 2, replace=False) for _ in range(60)])
    gene = np.repeat(np.arange(60), 2)
    obs = pd.DataFrame({"gene": gene.astype(str), "plate": plate.astype(str)}, index=map(str, range(120)))
    adata = ad.AnnData(np.zeros((120, 1), np.float32), obs=obs)
    signal = rng.normal(size=(60, 20))[gene]
    blocks = {"weak": 0.1 * signal + rng.normal(size=(120, 20)), "strong": 2 * signal + rng.normal(size=(120, 20))}
    table = block_search(adata, blocks, **SEARCH, n_splits=4)
    assert table.attrs["selected"] == "strong"
    assert table["mean"].iloc[1] > 0.7
    folds = adata.uns["block_search"]["folds"].set_index("group")["fold"]
    fold = adata.obs["plate"].map(folds)
    n_lost = fold.groupby(adata.obs["gene"]).transform("nunique").eq(1).sum()
    assert adata.uns["block_search"]["counts"].loc["gene", "n_unscored"] == n_lost < 30


def test_fewer_groups_than_splits_make_fewer_folds(caplog):
    adata = wells(n_plates=4)
    block_search(adata, BLOCKS, **SEARCH)
    assert "n_splits: 4 groups of 'plate' make 4 folds, not 5" in caplog.text
    assert adata.uns["block_search"]["counts"].loc["gene", "n_splits"] == 4


@pytest.mark.parametrize("tasks", ["gene", ["gene", "complex"]])
def test_what_is_stored_comes_back_from_a_file(tmp_path, tasks):
    adata = wells()
    table = block_search(adata, BLOCKS, label_key=tasks, group_key="plate", control="G5", nan="omit", n_components=None)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        stored = back.uns["block_search"]
        found = stored["table"].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, table, check_dtype=False, check_index_type=False)
        for name in ("selected", "nested_score", "nested_se", "naive_score", "chance", "rule", "metric", "probe"):
            assert stored[name] == table.attrs[name]
        own, given = stored["nested_blocks"], table.attrs["nested_blocks"]
        for one, other in [(own, given)] if tasks == "gene" else [(own[task], given[task]) for task in tasks]:
            assert list(one) == other
        assert stored["params"]["group_key"] == "plate"
        assert list(stored["params"]["label_key"]) == ([tasks] if isinstance(tasks, str) else tasks)
        pd.testing.assert_frame_equal(stored["counts"], adata.uns["block_search"]["counts"])


def in_a_file(adata, folder):
    adata.write_h5ad(folder / "a.h5ad")
    return ad.read_h5ad(folder / "a.h5ad", backed="r")


def as_a_view(adata, folder):
    more = ad.concat([adata, adata[:9].copy()])
    more.obs_names_make_unique()
    return more[: adata.n_obs]


def by_columns(adata, folder):
    adata.X = sparse.csc_matrix(adata.X)
    return adata


def by_rows(adata, folder):
    adata.X = sparse.csr_matrix(adata.X)
    return adata


def as_float64(adata, folder):
    adata.X = adata.X.astype(np.float64)
    adata.obsm["X_2"] = adata.obsm["X_2"].astype(np.float64)
    return adata


def as_integers(adata, folder):
    adata.X = adata.X.astype(np.int64)
    return adata


def as_frames(adata, folder):
    adata.obsm["X_2"] = pd.DataFrame(adata.obsm["X_2"], index=adata.obs_names, columns=[f"f{i}" for i in range(12)])
    return adata


def with_unused_categories(adata, folder):
    for key in ("gene", "plate"):
        adata.obs[key] = adata.obs[key].cat.add_categories(["ZZZ"])
    return adata


@pytest.mark.parametrize(
    "form", [in_a_file, as_a_view, by_columns, by_rows, as_float64, as_integers, as_frames, with_unused_categories]
)
def test_any_form_of_data(form, tmp_path):
    names = ["X", "X_2"]
    expected = block_search(wells(), names, **SEARCH)
    given = form(wells(), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.ImplicitModificationWarning)
        table = block_search(given, names, **SEARCH)
    pd.testing.assert_frame_equal(without_time(table), without_time(expected))
    assert given.uns["block_search"]["selected"] == "X_2"
    assert not given.is_view


def test_views_of_files_can_be_searched_but_not_written_to(tmp_path):
    view = in_a_file(wells(), tmp_path)[:96]
    with pytest.raises(UnsupportedQuery, match="key_added=None"):
        block_search(view, BLOCKS, **SEARCH)
    table = block_search(view, BLOCKS, **SEARCH, key_added=None)
    pd.testing.assert_frame_equal(
        without_time(table), without_time(block_search(wells()[:96].copy(), BLOCKS, **SEARCH))
    )


def test_blocks_may_be_given_as_arrays():
    adata = wells()
    expected = block_search(adata, BLOCKS, **SEARCH)
    given = {name: adata.obsm[name] for name in BLOCKS}
    given["X_1"] = pd.DataFrame(given["X_1"], index=adata.obs_names)
    pd.testing.assert_frame_equal(without_time(block_search(adata, given, **SEARCH)), without_time(expected))
    given["X_1"] = given["X_1"].iloc[::-1]
    with pytest.raises(FeatureMismatch, match=r"blocks\['X_1'\]: expected the rows of adata in their order"):
        block_search(adata, given, **SEARCH)


def test_order_of_rows_processes_and_repeats_change_nothing():
    adata = wells()
    expected = without_time(block_search(adata, BLOCKS, **SEARCH, seed=3))
    moved = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    pd.testing.assert_frame_equal(without_time(block_search(moved, BLOCKS, **SEARCH, seed=3)), expected)
    pd.testing.assert_frame_equal(without_time(block_search(adata, BLOCKS, **SEARCH, seed=3, n_jobs=2)), expected)
    means = [block_search(adata, BLOCKS, **SEARCH, seed=seed)["mean"] for seed in (4, 5)]
    assert any((mean != expected["mean"]).any() for mean in means)


def test_accuracy_weighs_rows_alike():
    adata = wells()
    kept = (adata.obs["gene"] == "G0") | (np.arange(adata.n_obs) % 12 < 6)
    adata = adata[kept].copy()
    table = block_search(adata, ["X_0"], **SEARCH, metric="accuracy")
    frequent = (adata.obs["gene"] == "G0").mean()
    assert table.attrs["chance"] == pytest.approx(frequent)
    assert table["mean"].iloc[0] == pytest.approx(frequent, abs=0.1)


def test_components_are_kept_where_there_are_more():
    """Signal on the axes of most variance survives, signal on the least does not."""
    adata = wells(strength=(1.0,))
    noise = np.random.default_rng(0).normal(size=(adata.n_obs, 30))
    blocks = {"signal leads": np.hstack([adata.obsm["X_0"], 0.01 * noise])}
    blocks["signal trails"] = np.hstack([0.01 * adata.obsm["X_0"], noise])
    few = block_search(adata, blocks, **SEARCH, n_components=12)
    assert few["mean"].iloc[0] > 0.6
    assert few["mean"].iloc[1] < 0.35
    every = block_search(adata, blocks, **SEARCH, n_components=None)
    assert every["mean"].iloc[1] > 0.5


def test_nested_scores_of_noise_are_at_chance():
    scores, naive = [], []
    for seed in range(15):
        table = block_search(wells(seed, strength=(0.0,) * 5), BLOCKS, **SEARCH, rule="best")
        scores.append(table.attrs["nested_score"])
        naive.append(table["naive_mean"].max())
    error = np.std(scores, ddof=1) / np.sqrt(len(scores))
    assert abs(np.mean(scores) - 1 / 6) < 3 * error
    assert np.mean(naive) > 1 / 6 + 3 * error


def test_a_search_takes_few_seconds():
    adata = wells(n_genes=30, n_plates=20, n_each=3, d=256, strength=(0.1,) * 12)
    start = time.process_time()
    table = block_search(adata, [f"X_{i}" for i in range(12)], **SEARCH)
    spent = time.process_time() - start
    assert spent < 12  # 2.5 CPU-seconds on a quiet core
    assert table["seconds"].sum() <= spent


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"blocks": []}, FeatureMismatch, "blocks: expected one block or more"),
        ({"blocks": {}}, FeatureMismatch, "blocks: expected one block or more"),
        ({"blocks": ["X_22"]}, FeatureMismatch, r"got 'X_22' \(nearest: 'X_2'"),
        ({"blocks": ["X_1", "X_1"]}, FeatureMismatch, "every block once, got 'X_1'"),
        ({"blocks": ["nan"]}, ValueError, r"adata.obsm\['nan'\]: expected finite numbers"),
        ({"blocks": ["tokens"]}, FeatureMismatch, r"expected a matrix .* got shape \(192, 2, 3\)"),
        ({"blocks": {"a": np.zeros((5, 2))}}, FeatureMismatch, r"blocks\['a'\]: expected a row for each of 192 rows"),
        ({"label_key": "genes"}, LabelError, "label_key: expected a column of adata.obs, got 'genes'"),
        ({"label_key": []}, ValueError, "label_key: expected distinct columns"),
        ({"label_key": ["gene", "gene"]}, ValueError, "label_key: expected distinct columns"),
        (
            {"label_key": "one"},
            LabelError,
            "label_key: expected two labels or more that occur in several groups, got 1",
        ),
        ({"label_key": "plate"}, LabelError, "got 0 in 'plate', and 8 that have one group"),
        ({"group_key": "plates"}, LabelError, "group_key: expected a column of adata.obs, got 'plates'"),
        ({"group_key": "holes"}, LabelError, "group_key: expected a label in every row"),
        ({"group_key": "half"}, SplitError, "group_key: expected 3 groups or more"),
        ({"group_key": "one"}, LabelError, "label_key: expected two labels or more"),
        ({"control": "DMSO"}, ControlError, "control: expected labels of 'gene', got 'DMSO'"),
        ({"control": [f"G{i}" for i in range(6)]}, LabelError, "label_key: expected two labels or more"),
        ({"probe": "svm"}, ValueError, "probe: expected one of 'ridge'"),
        ({"metric": "f1"}, ValueError, "metric: expected one of"),
        ({"rule": "two_se"}, ValueError, "rule: expected one of"),
        ({"nan": "drop"}, ValueError, "nan: expected one of"),
        ({"n_splits": 2}, ValueError, "n_splits: expected 3 or more"),
        ({"n_splits": 2.5}, ValueError, "n_splits: expected a positive integer"),
        ({"penalties": [0.0]}, ValueError, "penalties: expected numbers above 0"),
        ({"penalties": []}, ValueError, "penalties: expected numbers above 0"),
        ({"penalties": ["a"]}, ValueError, "penalties: expected numbers above 0"),
        ({"n_neighbors": [3]}, ValueError, "n_neighbors: expected None for probe='ridge'"),
        ({"probe": "knn", "penalties": [1.0]}, ValueError, "penalties: expected None for probe='knn'"),
        ({"probe": "knn", "n_neighbors": [1.5]}, ValueError, "n_neighbors: expected whole numbers above 0"),
        ({"n_components": 0}, ValueError, "n_components: expected a positive integer"),
        ({"n_jobs": 0}, ValueError, "n_jobs: expected a positive integer"),
        ({"seed": -1}, ValueError, "seed: expected a whole number"),
        ({"seed": None}, ValueError, "seed: expected a whole number"),
        ({"key_added": 5}, ValueError, "key_added: expected text or None, got 5"),
        ({"sep": 5}, ValueError, "sep: expected text or None, got 5"),
        (
            {"label_key": "unreadable", "sep": "+"},
            LabelError,
            r"adata.obs\['unreadable'\]: label 'A\+\+B' cannot be read",
        ),
    ],
)
def test_bad_input(options, error, match):
    adata = wells()
    adata.obsm["nan"] = np.where(np.arange(12) == 3, np.nan, adata.obsm["X_0"])
    adata.obsm["tokens"] = np.zeros((adata.n_obs, 2, 3))
    adata.obs["one"] = "same"
    adata.obs["unreadable"] = np.where(adata.obs["gene"] == "G1", "A++B", "C")
    adata.obs["half"] = np.where(np.arange(adata.n_obs) < 96, "a", "b")
    adata.obs["holes"] = adata.obs["plate"].astype(object).where(adata.obs["plate"] != "P0", None)
    arguments = {"blocks": BLOCKS, **SEARCH, **options}
    with pytest.raises(error, match=match):
        block_search(adata, **arguments)
    assert not adata.uns


def test_the_blocks_that_earn_the_nested_score_are_named():
    strength = (1.0, 0.9, 0.8, 0.9, 1.0)
    table = next(
        one
        for one in (block_search(wells(seed, strength=strength), BLOCKS, **SEARCH, rule="best") for seed in range(20))
        if len(set(one.attrs["nested_blocks"])) > 1
    )
    chosen = table.attrs["nested_blocks"]
    assert len(chosen) == 5
    assert set(chosen) <= set(BLOCKS)
    planted = block_search(wells(), BLOCKS, **SEARCH).attrs
    assert planted["nested_blocks"] == ["X_2"] * 5


def test_spellings_of_one_perturbation_are_one_label_with_sep():
    adata = wells()
    adata.obs["gene"] = adata.obs["gene"].astype(str).replace("G0", "G1+G2")
    expected = block_search(adata, BLOCKS, **SEARCH, control="G5")
    odd = (np.arange(adata.n_obs) // 7 % 2 == 1) & (adata.obs["gene"] == "G1+G2").to_numpy()
    adata.obs.loc[odd, "gene"] = "G2+G1@1"
    assert block_search(adata, BLOCKS, **SEARCH, control="G5").attrs["chance"] == pytest.approx(1 / 6)
    found = block_search(adata, BLOCKS, **SEARCH, control="G5", sep="+")
    pd.testing.assert_frame_equal(without_time(found), without_time(expected))
    assert adata.uns["block_search"]["params"]["sep"] == "+"


def test_without_a_key_nothing_is_written():
    adata = wells()
    block_search(adata, BLOCKS, **SEARCH, key_added=None)
    assert not adata.uns


def test_something_else_than_data():
    with pytest.raises(TypeError, match="adata: expected AnnData, got DataFrame"):
        block_search(wells().to_df(), BLOCKS, **SEARCH)
