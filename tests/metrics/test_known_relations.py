"""Recall of known relations against a loop over pairs, on maps with ties, hubs and complexes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from itertools import combinations

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import average_precision_score, roc_auc_score

from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.metrics import _pair_similarities, relationship_recall
from perturbia.metrics._degree_matching import edge_probabilities
from perturbia.metrics._pair_similarities import count_cosines
from perturbia.stats.row_cosines import unit_rows

PERCENTILES = ((0.05, 0.95), (0.1, 0.9), (0.0, 0.8), (0.25, 0.5), (0.3, 1.0))


def named(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, index=[f"G{i:03d}" for i in range(len(values))])


def cosine_table(features: pd.DataFrame) -> pd.DataFrame:
    """Cosines of all pairs; what rounding makes of equal ones is made equal again."""
    units = features.to_numpy(dtype=float) / np.linalg.norm(features.to_numpy(dtype=float), axis=1, keepdims=True)
    return pd.DataFrame((units @ units.T).round(11), index=features.index, columns=features.index)


def clean(pairs, names) -> list[tuple[str, str]]:
    return sorted({tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1] and set(pair) <= set(names)})


def recall_by_hand(features: pd.DataFrame, pairs, low: float, high: float, *, null: str = "all") -> dict[str, float]:
    """The definition: a loop over known pairs, each compared with the sorted cosines of all."""
    table, known = cosine_table(features), clean(pairs, features.index)
    others = [
        pair for pair in combinations(features.index, 2) if null == "all" or tuple(sorted(pair)) not in set(known)
    ]
    ordered = np.sort([table.loc[a, b] for a, b in others])
    below = above = either = 0
    for a, b in known:
        smaller = np.searchsorted(ordered, table.loc[a, b], side="right") / len(ordered) <= low
        larger = np.searchsorted(ordered, table.loc[a, b], side="left") / len(ordered) >= high
        below, above, either = below + smaller, above + larger, either + (smaller or larger)
    return {"recall": either / len(known), "recall_right": above / len(known)}


def random_pairs(names, n: int, seed: int = 0) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in np.random.default_rng(seed).choice(np.asarray(names), size=(n, 2))]


def maps() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(3)
    twins = rng.normal(size=(30, 7))
    return {
        "random": named(rng.normal(size=(70, 9))),
        "signs": named(rng.choice([-1.0, 1.0], size=(60, 4))),  # five values of the cosine
        "counts": named(rng.poisson(1.0, size=(50, 5)) + np.eye(5)[rng.integers(5, size=50)]),
        "one-hot": named(np.eye(8)[rng.integers(8, size=60)]),  # 0 and 1
        "twins": named(np.concatenate([twins, twins, 3 * twins[:10], -twins[:5]])),
        "alike": named(1.0 + 1e-2 * rng.normal(size=(50, 6))),  # all cosines in few bins
    }


@pytest.fixture(params=list(maps()))
def features(request) -> pd.DataFrame:
    return maps()[request.param]


@pytest.fixture(params=[(256, 2048), (16, 11)])
def _blocks(request, monkeypatch):
    """All pairs in one block, and in blocks of unequal sizes."""
    monkeypatch.setattr(_pair_similarities, "_ROWS", request.param[0])
    monkeypatch.setattr(_pair_similarities, "_COLUMNS", request.param[1])


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("null", ["all", "excluding_known"])
def test_equals_the_loop_over_pairs_ties_included(features, null):
    pairs = random_pairs(features.index, 90)
    result = relationship_recall(features, pairs, percentiles=PERCENTILES, null=null, n_boot=0)
    for row, (low, high) in zip(result.table.itertuples(), PERCENTILES, strict=True):
        expected = recall_by_hand(features, pairs, low, high, null=null)
        assert (row.percentile_low, row.percentile_high) == (low, high)
        assert {"recall": row.recall, "recall_right": row.recall_right} == expected
        assert row.chance == pytest.approx(low + 1 - high)
    for row in result.curve.iloc[[0, 1, 5, 10, 25]].itertuples():
        assert row.recall == recall_by_hand(features, pairs, row.tail, 1 - row.tail, null=null)["recall"]
        assert row.chance == pytest.approx(2 * row.tail)


def test_ties_at_a_threshold_never_help():
    """Four of ten pairs are equal and largest: they are no smaller tail than 40 %."""
    features = named(np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1]]))
    pairs = [("G000", "G001"), ("G002", "G003")]
    result = relationship_recall(features, pairs, percentiles=[(0.0, 0.6), (0.0, 0.601), (0.6, 1), (0.59, 1)], n_boot=0)
    assert result.table["recall"].tolist() == [1.0, 0.0, 0.0, 0.0]
    low = relationship_recall(features, [("G000", "G002")], percentiles=[(0.6, 1), (0.59, 1)], n_boot=0)
    assert low.table["recall"].tolist() == [1.0, 0.0]


def test_equal_profiles_are_tied_wherever_they_are():
    """One profile at many places, of different length: its cosines to another are rounded differently in blocks."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(40, 37))
    features = named(np.concatenate([base, *[base * factor for factor in (3.0, 0.7, 1e-200, 1e200)]]))
    table = relationship_recall(
        features, random_pairs(features.index, 3000), percentiles=((0.05, 0.95), (0.2, 0.8)), n_boot=0
    ).table
    scaled = named(np.concatenate([base] * 5))
    same = relationship_recall(
        scaled, random_pairs(scaled.index, 3000), percentiles=((0.05, 0.95), (0.2, 0.8)), n_boot=0
    ).table
    assert table["recall"].tolist() == same["recall"].tolist()
    for row in table.itertuples():
        by_hand = recall_by_hand(scaled, random_pairs(scaled.index, 3000), row.percentile_low, row.percentile_high)
        assert row.recall == by_hand["recall"]


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("weighted", [False, True])
def test_ranks_are_those_of_the_sorted_cosines(features, weighted):
    rng = np.random.default_rng(1)
    units, _ = unit_rows(features.to_numpy(dtype=float))
    first, second = np.triu_indices(len(units), 1)
    weights = edge_probabilities(rng.integers(1, 6, size=len(units))) if weighted else None
    share = weights.of(first, second) if weighted else np.ones(len(first))
    cosines = cosine_table(features).to_numpy()[first, second]
    counts = count_cosines(units, weights)
    assert counts.total == pytest.approx(share.sum())
    asked = np.einsum("ij,ij->i", units[first], units[second])[::7]
    expected = np.array([[share[cosines < c].sum(), share[cosines <= c].sum()] for c in cosines[::7]]).T
    np.testing.assert_allclose(counts.ranks(asked), expected, rtol=1e-12, atol=1e-12)
    bounds = counts.rank_bounds(asked)
    assert (bounds[:, 0] <= expected + 1e-9).all()
    assert (bounds[:, 1] >= expected - 1e-9).all()


@pytest.mark.parametrize("coarse", [0.0, None])
def test_ranking_scores_are_those_of_sklearn(features, coarse, monkeypatch):
    if coarse is not None:  # always exact, as where bins are crowded
        monkeypatch.setattr("perturbia.metrics._tail_ranks._COARSE", coarse)
    accuracy = 1e-3 if coarse is None else 1e-12
    pairs = random_pairs(features.index, 60)
    known = set(clean(pairs, features.index))
    both = list(combinations(features.index, 2))
    labels = np.array([pair in known for pair in both])
    sizes = np.abs([cosine_table(features).loc[pair] for pair in both])
    (row,) = relationship_recall(features, pairs, n_boot=0).table.itertuples()
    assert row.auroc == pytest.approx(roc_auc_score(labels, sizes), abs=accuracy)
    assert row.average_precision == pytest.approx(average_precision_score(labels, sizes), abs=accuracy)
    assert row.average_precision_chance == pytest.approx(labels.mean())
    assert row.n_pairs == labels.sum()


def degrees_of(pairs) -> pd.Series:
    return pd.Series(np.ravel(pairs)).value_counts().sort_index()


def test_degree_matched_equals_the_loop_over_weighted_pairs(features):
    pairs = random_pairs(features.index[:30], 60)
    known = clean(pairs, features.index)
    degrees = degrees_of(known)
    weights = edge_probabilities(degrees.to_numpy())
    place = {name: i for i, name in enumerate(degrees.index)}
    both = [(a, b) for a, b in combinations(degrees.index, 2)]
    share = np.array([weights.of(place[a], place[b]) for a, b in both])
    table = cosine_table(features)
    cosines = np.array([table.loc[pair] for pair in both])
    result = relationship_recall(features, pairs, percentiles=PERCENTILES[:3], null="degree_matched", n_boot=0)
    for row in result.table.itertuples():
        hits = 0
        for pair in known:
            right = share[cosines <= table.loc[pair]].sum() / share.sum() <= row.percentile_low + 1e-12
            left = share[cosines < table.loc[pair]].sum() / share.sum() >= row.percentile_high - 1e-12
            hits += right or left
        assert row.recall == hits / len(known)
    labels = np.array([pair in set(known) for pair in both])
    # known pairs are among those that they are ranked against
    twice = np.r_[np.ones(labels.sum()), np.zeros(len(both))]
    sizes, weights = np.abs(np.r_[cosines[labels], cosines]), np.r_[np.ones(labels.sum()), share]
    assert result.table["auroc"][0] == pytest.approx(roc_auc_score(twice, sizes, sample_weight=weights), abs=1e-3)
    weights[labels.sum() :] *= (len(features) * (len(features) - 1) / 2 - len(known)) / share.sum()
    precision = average_precision_score(twice, sizes, sample_weight=weights)
    assert result.table["average_precision"][0] == pytest.approx(precision, abs=1e-3)


def test_hubs_with_strong_profiles_raise_nothing_under_the_matched_null():
    """Hubs lie along one axis that every gene has a part in; relations are rewired at random, degrees kept."""
    matched, plain, areas = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n, n_hubs = 400, 12
        part = rng.choice([-1.0, 1.0], size=n) * np.r_[np.full(n_hubs, 60.0), np.full(n - n_hubs, 2.5)]
        features = named(rng.normal(size=(n, 40)) + part[:, None] * np.eye(40)[0])
        graph = nx.expected_degree_graph(np.r_[np.full(n_hubs, 60), np.full(n - n_hubs, 3)], seed=seed, selfloops=False)
        nx.double_edge_swap(graph, nswap=1000, max_tries=10**6, seed=seed)
        known = [(f"G{i:03d}", f"G{j:03d}") for i, j in graph.edges]
        (one,) = relationship_recall(features, known, n_boot=0).table.itertuples()
        (other,) = relationship_recall(features, known, null="degree_matched", n_boot=0).table.itertuples()
        plain.append(one.recall)
        matched.append(other.recall)
        areas.append((one.auroc, other.auroc))
    assert min(plain) > 0.3
    assert abs(np.mean(matched) - 0.1) < 3 * np.std(matched, ddof=1) / np.sqrt(8)
    assert np.mean(areas, axis=0)[0] > 0.7
    assert np.mean(areas, axis=0)[1] == pytest.approx(0.5, abs=0.03)


def test_the_matched_null_keeps_what_complexes_show():
    features, pairs = planted(seed=1)
    hubs = [(f"G{h:03d}", f"G{g:03d}") for h in range(3) for g in range(20, 60)]
    plain = relationship_recall(features, pairs + hubs, n_boot=0).table["recall"][0]
    matched = relationship_recall(features, pairs + hubs, null="degree_matched", n_boot=0).table["recall"][0]
    assert matched > 0.6 * plain > 0.3


def planted(*, seed: int, n_complexes: int = 60, size: int = 4) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    rng = np.random.default_rng(seed)
    complexes = np.repeat(np.arange(n_complexes), size)
    features = named(1.3 * rng.normal(size=(n_complexes, 20))[complexes] + rng.normal(size=(len(complexes), 20)))
    names = features.index
    return features, [
        (names[i], names[j]) for i, j in combinations(range(len(names)), 2) if complexes[i] == complexes[j]
    ]


@pytest.mark.parametrize("null", ["all", "excluding_known", "degree_matched"])
def test_random_maps_are_at_chance(null):
    tables = []
    for seed in range(20):
        features = named(np.random.default_rng(seed).normal(size=(150, 30)))
        pairs = random_pairs(features.index, 400, seed)
        tables.append(
            relationship_recall(features, pairs, percentiles=((0.05, 0.95), (0.1, 0.9)), null=null, n_boot=0).table
        )
    table = pd.concat(tables)
    for low, rows in table.groupby("percentile_low"):
        error = rows["recall"].std() / np.sqrt(len(rows))
        assert abs(rows["recall"].mean() - 2 * low) < 3 * error
        assert abs(rows["recall_right"].mean() - low) < 3 * rows["recall_right"].std() / np.sqrt(len(rows))
    assert table["auroc"].mean() == pytest.approx(0.5, abs=0.01)
    assert table["average_precision"].mean() == pytest.approx(table["average_precision_chance"].mean(), abs=0.005)


def test_planted_complexes_are_found():
    features, pairs = planted(seed=0)
    (row,) = relationship_recall(features, pairs, n_boot=200).table.itertuples()
    assert row.recall > 0.5
    assert row.recall_lower < row.recall < row.recall_upper
    assert row.recall_lower > row.chance
    assert row.recall_right > 0.5
    assert row.auroc > 0.8
    assert row.average_precision > 5 * row.average_precision_chance


def test_opposed_partners_count_in_two_tails_and_not_in_the_right_one():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(50, 20))
    features = named(np.concatenate([half, -half + 0.3 * rng.normal(size=half.shape)]))
    pairs = [(f"G{i:03d}", f"G{i + 50:03d}") for i in range(50)]
    (row,) = relationship_recall(features, pairs, n_boot=0).table.itertuples()
    assert row.recall == 1.0
    assert row.recall_right == 0.0
    assert row.auroc > 0.99


def test_curves_rise_and_have_bands():
    features, pairs = planted(seed=0)
    result = relationship_recall(features, {"a": pairs, "b": pairs[:100]}, percentiles=((0.1, 0.9),), n_boot=100)
    for database, curve in result.curve.groupby("database"):
        assert curve["tail"].tolist() == pytest.approx(np.arange(26) / 100)
        assert curve["recall"].iloc[0] == 0
        assert (np.diff(curve["recall"]) >= 0).all()
        assert (curve["recall_lower"] <= curve["recall"]).all()
        assert (curve["recall_upper"] >= curve["recall"]).all()
        row = result.table.set_index("database").loc[database]
        same = curve.set_index("tail").loc[0.1]
        assert same["recall"] == row["recall"]
        assert same["recall_lower"] == row["recall_lower"]


def test_pairs_are_cleaned_and_databases_scored_apart():
    features, pairs = planted(seed=0)
    turned = [pair[::-1] for pair in pairs]
    strange = [("G000", "other"), ("other", "G000"), ("x", "y"), ("G000", "G000"), ("x", "x")]
    result = relationship_recall(
        features, {"a": pairs, "b": pairs + turned + strange + pairs[:5], "c": pairs[:40]}, n_boot=50
    )
    table = result.table.set_index("database")
    pd.testing.assert_series_equal(
        table.loc["a"].drop("n_missing"), table.loc["b"].drop("n_missing"), check_names=False
    )
    assert table["n_missing"].tolist() == [0, 2, 0]
    assert table["n_pairs"].tolist() == [len(pairs), len(pairs), 40]
    assert table.loc["a", "n_genes"] == len(set(np.ravel(pairs)))
    alone = relationship_recall(features, {"c": pairs[:40]}, n_boot=50).table.set_index("database")
    pd.testing.assert_frame_equal(alone, table.loc[["c"]])


@pytest.mark.parametrize("null", ["all", "excluding_known", "degree_matched"])
def test_order_of_rows_and_pairs_does_not_matter(null):
    features, pairs = planted(seed=0)
    rng = np.random.default_rng(1)
    first = relationship_recall(features, pairs, null=null, n_boot=50)
    moved = features.iloc[rng.permutation(len(features))]
    mixed = [pairs[i][:: rng.choice([-1, 1])] for i in rng.permutation(len(pairs))]
    again = relationship_recall(moved, mixed, null=null, n_boot=50)
    pd.testing.assert_frame_equal(first.table, again.table, rtol=1e-12)
    pd.testing.assert_frame_equal(first.curve, again.curve, rtol=1e-12)


def test_seed_changes_intervals_alone():
    features, pairs = planted(seed=0)
    one, same, other = (relationship_recall(features, pairs, n_boot=50, seed=seed).table for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    limits = ["recall_lower", "recall_upper"]
    pd.testing.assert_frame_equal(one.drop(columns=limits), other.drop(columns=limits))
    assert (one[limits] != other[limits]).all(axis=None)


def as_map(features: pd.DataFrame) -> ad.AnnData:
    return ad.AnnData(features.to_numpy(dtype=np.float32), obs=pd.DataFrame(index=features.index))


@pytest.fixture
def screen() -> ad.AnnData:
    """Integers that every storage holds exactly, with a latent and two controls."""
    features, _ = planted(seed=0)
    adata = as_map((4 * features).round())
    adata.obsm["X_latent"] = adata.X[:, :8]
    adata.obs["is_control"] = False
    adata.obs["perturbation"] = pd.Categorical(adata.obs_names, categories=[*adata.obs_names, "unused"])
    return adata


def replaced(adata: ad.AnnData, values) -> ad.AnnData:
    return ad.AnnData(values, obs=adata.obs, obsm=dict(adata.obsm))


def on_disk(adata: ad.AnnData, folder) -> ad.AnnData:
    adata.write_h5ad(folder / "map.h5ad")
    return ad.read_h5ad(folder / "map.h5ad", backed="r")


FORMS = {
    "view": lambda adata, _: ad.concat([adata, as_map(named(np.ones((250, 20)))[240:])], join="outer")[: adata.n_obs],
    "float64": lambda adata, _: replaced(adata, adata.X.astype(np.float64)),
    "int": lambda adata, _: replaced(adata, adata.X.astype(int)),
    "csr": lambda adata, _: replaced(adata, sp.csr_matrix(adata.X)),
    "csc": lambda adata, _: replaced(adata, sp.csc_array(adata.X)),
    "backed": on_disk,
    "backed csr": lambda adata, folder: on_disk(replaced(adata, sp.csr_matrix(adata.X)), folder),
    "frame": lambda adata, _: adata.to_df(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_map_gives_the_same(form, screen, tmp_path):
    _, pairs = planted(seed=0)
    expected = relationship_recall(screen, pairs, n_boot=20)
    data = FORMS[form](screen, tmp_path)
    result = relationship_recall(data, pairs, n_boot=20)
    pd.testing.assert_frame_equal(result.table, expected.table, check_exact=True)
    pd.testing.assert_frame_equal(result.curve, expected.curve, check_exact=True)


def test_representations_and_arrays(screen):
    _, pairs = planted(seed=0)
    latent = relationship_recall(screen, pairs, use_rep="X_latent", n_boot=0).table
    array = relationship_recall(screen.X[:, :8], pairs, names=screen.obs_names.tolist(), n_boot=0).table
    pd.testing.assert_frame_equal(latent, array)
    by_x = relationship_recall(screen, pairs, use_rep="X", n_boot=0).table
    pd.testing.assert_frame_equal(by_x, relationship_recall(screen, pairs, n_boot=0).table)
    assert by_x["recall"][0] != latent["recall"][0]


PAIRS = {
    "array": np.array,
    "three columns": lambda pairs: pd.DataFrame(pairs, columns=["a", "b"]).assign(score=1.0),
    "categories": lambda pairs: pd.DataFrame(pairs).astype("category"),
    "generator": iter,
    "set": set,
    "lists in a dict": lambda pairs: {"relationships": [list(pair) for pair in pairs]},
    "edges": lambda pairs: nx.Graph(pairs).edges,
}


@pytest.mark.parametrize("form", PAIRS)
def test_every_form_of_pairs_gives_the_same(form):
    features, pairs = planted(seed=0)
    expected = relationship_recall(features, pairs, n_boot=0).table
    pd.testing.assert_frame_equal(relationship_recall(features, PAIRS[form](pairs), n_boot=0).table, expected)


def test_names_may_be_numbers():
    values = np.random.default_rng(0).normal(size=(20, 4))
    pairs = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 99]})
    table = relationship_recall(values, pairs, names=range(20), n_boot=0).table
    assert (table["n_pairs"][0], table["n_missing"][0]) == (2, 1)


@pytest.mark.parametrize("column", [None, "boolean"])
def test_controls_are_left_out(screen, column):
    _, pairs = planted(seed=0)
    expected = relationship_recall(screen, pairs, n_boot=20)
    noise = np.random.default_rng(5).normal(size=(2, 20)) * 1e3
    mixed = ad.concat([screen, as_map(pd.DataFrame(noise, index=["control", "non-targeting"]))], join="outer")
    mixed.obs["is_control"] = np.r_[np.zeros(screen.n_obs, bool), True, False]
    if column:
        mixed.obs["is_control"] = mixed.obs["is_control"].astype(column)
        mixed.obs.loc["G003", "is_control"] = pd.NA
    result = relationship_recall(mixed, [*pairs, ("G000", "control")], control="non-targeting", n_boot=20)
    assert (result.n_controls, result.n_perturbations) == (2, screen.n_obs)
    assert result.table["n_missing"][0] == 1
    pd.testing.assert_frame_equal(result.table.drop(columns="n_missing"), expected.table.drop(columns="n_missing"))
    mixed.obs["is_control"] = "no"  # not boolean: someone else's column
    assert relationship_recall(mixed, pairs, control=["control", "non-targeting"], n_boot=0).n_controls == 2
    assert relationship_recall(mixed, pairs, n_boot=0).n_controls == 0


def test_the_result_says_what_it_holds():
    features, pairs = planted(seed=0)
    result = relationship_recall(features, {"CORUM": [*pairs, ("a", "b")], "one": pairs[:9]}, n_boot=50)
    text = repr(result)
    assert text.startswith("RelationshipRecall: 240 perturbations, null 'all'\n  CORUM: recall 0.")
    assert f"chance 0.10; {len(pairs)} pairs of 240 genes, 1 not in the map" in text
    assert "<table" in result._repr_html_()
    assert "95% intervals from 50 resamples" in result._repr_html_()
    assert " to " not in repr(relationship_recall(features, pairs, n_boot=0))


def test_one_pair_has_no_interval():
    features, pairs = planted(seed=0)
    with pytest.warns(RuntimeWarning, match="relationships: one known pair in the map in 'b'"):
        table = relationship_recall(features, {"a": pairs, "b": pairs[:1]}, n_boot=20).table
    assert table["recall_lower"].isna().tolist() == [False, True]


def test_maps_of_few_rows_have_tails_without_pairs():
    """5 % of 15 pairs is less than one, and no map reaches chance."""
    rng = np.random.default_rng(0)
    pairs = list(combinations([f"G{i:03d}" for i in range(6)], 2))[:14]
    for _ in range(5):
        with pytest.warns(RuntimeWarning, match="percentiles: a tail of 0.05 of 15 pairs holds none"):
            table = relationship_recall(named(rng.normal(size=(6, 9))), pairs, n_boot=0).table
        assert table["recall"][0] == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relationship_recall(named(rng.normal(size=(6, 9))), pairs, percentiles=[(0, 0.9), (0.1, 1)], n_boot=0)
        relationship_recall(named(rng.normal(size=(7, 9))), pairs, n_boot=0)  # 21 pairs


def test_input_is_not_changed(screen):
    _, pairs = planted(seed=0)
    before, given = screen.copy(), pd.DataFrame(pairs)
    relationship_recall(screen, given, null="degree_matched", n_boot=5)
    np.testing.assert_array_equal(screen.X, before.X)
    pd.testing.assert_frame_equal(given, pd.DataFrame(pairs))
    assert list(screen.uns) == list(before.uns)


def broken_rows(value: float) -> pd.DataFrame:
    features = maps()["random"].copy()
    features.loc["G007"] = value
    return features


GOOD = [("G000", "G001"), ("G002", "G003"), ("G004", "G010")]
BAD = {
    "NaN rows": (broken_rows(np.nan), GOOD, {}, ValueError, r"1 of 70 rows \('G007'\)"),
    "zero rows": (broken_rows(0.0), GOOD, {}, ValueError, r"1 of 70 rows of zeros \('G007'\). Drop"),
    "array without names": (np.ones((3, 2)), GOOD, {}, LabelError, "names: expected a name for each row"),
    "too few names": (
        np.ones((3, 2)),
        GOOD,
        {"names": ["a"]},
        LabelError,
        "names: expected one for each of the 3 rows",
    ),
    "repeated names": (np.ones((3, 2)), GOOD, {"names": list("aab")}, LabelError, "one row a perturbation"),
    "one row": (np.ones((1, 2)), GOOD, {"names": ["a"]}, ValueError, "2 rows or more"),
    "unknown key": (as_map(maps()["random"]), GOOD, {"use_rep": "X_no"}, FeatureMismatch, "use_rep"),
    "key without AnnData": (None, GOOD, {"use_rep": "X_no"}, FeatureMismatch, "use_rep: expected None"),
    "no names in common": (
        None,
        {"CORUM": [("ENSG1", "ENSG2")]},
        {},
        LabelError,
        r"none among 1 of 'CORUM', which names 'ENSG1', 'ENSG2'; the map has 'G000', 'G001', 'G002' and 67 more",
    ),
    "guides": (None, [("G000", "G001|g1")], {}, LabelError, "which names 'G001|g1'"),
    "self pairs": (None, [("G000", "G000")], {}, LabelError, "self pairs only"),
    "no pairs": (None, [], {}, LabelError, "one pair of names or more, got none"),
    "no databases": (None, {}, {}, LabelError, "got an empty dict"),
    "empty table": (None, pd.DataFrame({"a": [], "b": []}), {}, LabelError, "got none"),
    "one column": (None, pd.DataFrame({"a": ["G000"]}), {}, LabelError, "two columns of names, got columns 'a'"),
    "missing name": (None, [("G000", None)], {}, LabelError, "1 of 1 without"),
    "text": (None, "G000", {}, LabelError, "pairs of names, got str"),
    "names": (None, ["G0", "G1"], {}, LabelError, "pairs of names, got 'G0', 'G1'"),
    "triples": (
        None,
        {"x": [("G000", "G001", 0.4)]},
        {},
        LabelError,
        r"relationships\['x'\]: expected pairs of names, got \(",
    ),
    "number": (None, 3, {}, LabelError, "pairs of names, got int"),
    "all known": (np.eye(3), list(combinations("abc", 2)), {"names": list("abc")}, LabelError, "got all 3 of them"),
    "all matched known": (
        None,
        [("G000", "G001")],
        {"null": "degree_matched"},
        LabelError,
        "2 genes with all pairs known",
    ),
    "unknown control": (
        None,
        GOOD,
        {"control": "ctrl"},
        ControlError,
        "control: expected names of rows of the map, got 'ctrl'",
    ),
    "controls only": (np.eye(3), GOOD, {"names": list("abc"), "control": list("ab")}, ValueError, "no controls, got 1"),
    "percentiles": (
        None,
        GOOD,
        {"percentiles": (0.05, 0.95)},
        ValueError,
        r"percentiles: expected pairs \(low, high\)",
    ),
    "percentiles turned": (None, GOOD, {"percentiles": [(0.95, 0.05)]}, ValueError, "low < high"),
    "percentages": (None, GOOD, {"percentiles": [(5, 95)]}, ValueError, "low < high"),
    "no percentiles": (None, GOOD, {"percentiles": []}, ValueError, "percentiles"),
    "percentile missing": (None, GOOD, {"percentiles": [(np.nan, 0.9)]}, ValueError, "percentiles"),
    "null": (
        None,
        GOOD,
        {"null": "none"},
        ValueError,
        "null: expected one of 'all', 'excluding_known', 'degree_matched'",
    ),
    "negative n_boot": (None, GOOD, {"n_boot": -1}, ValueError, "n_boot: expected a whole number of 0 or more, got -1"),
    "broken n_boot": (None, GOOD, {"n_boot": 10.5}, ValueError, "n_boot"),
    "negative seed": (None, GOOD, {"seed": -1}, ValueError, "seed: expected a whole number of 0 or more"),
    "no seed": (None, GOOD, {"seed": None}, ValueError, "seed"),
    "confidence": (None, GOOD, {"confidence": 95}, ValueError, "confidence: expected a share between 0 and 1, got 95"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    data, pairs, options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        relationship_recall(maps()["random"] if data is None else data, pairs, **options)


LARGE = """
import resource, time
import numpy as np
from perturbia.metrics import relationship_recall
rng = np.random.default_rng(0)
values, names = rng.normal(size=(18_000, 128)).astype(np.float32), [f"G{i}" for i in range(18_000)]
pairs = np.array(names)[rng.integers(0, 18_000, size=(60_000, 2))]
start = time.process_time()
row = relationship_recall(values, pairs, names=names, percentiles=((0.05, 0.95), (0.1, 0.9))).table.iloc[0]
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, row["recall"])
"""


@pytest.mark.slow
def test_a_genome_takes_seconds_and_little_memory():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    seconds, gigabytes, recall = map(float, done.stdout.split())
    assert seconds < 10
    assert gigabytes < 2
    assert recall == pytest.approx(0.1, abs=0.01)


def test_a_degree_matched_null_of_known_pairs_is_told():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 5)), index=[f"g{i}" for i in range(60)])
    few = [(f"g{i}", f"g{j}") for i in range(6) for j in range(i) if (i, j) != (5, 0)]
    with pytest.warns(RuntimeWarning, match=r"14 known pairs of .* are 93% of all pairs of its 6 genes"):
        relationship_recall(table, few, null="degree_matched", n_boot=0)
    many = [(f"g{i}", f"g{(i + 1) % 60}") for i in range(60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relationship_recall(table, many, null="degree_matched", n_boot=0)
