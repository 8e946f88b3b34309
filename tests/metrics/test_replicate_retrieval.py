"""Retrieval of replicates, against copairs and against lists sorted one by one."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.metrics import mean_average_precision
from perturbia.metrics._ranked_positives import chance_precision, random_precision
from perturbia.stats._false_discovery import q_values

FIXTURE = Path(__file__).parent / "fixtures" / "copairs_average_precision.json"

# our options, and what copairs calls them; rows of controls are dropped for it where they are no negatives
CASES = {
    "all_rows": (
        {},
        {"pos_sameby": ["gene"], "pos_diffby": [], "neg_sameby": [], "neg_diffby": ["gene"]},
    ),
    "other_batches": (
        {"batched": True},
        {"pos_sameby": ["gene"], "pos_diffby": ["plate"], "neg_sameby": [], "neg_diffby": ["gene", "plate"]},
    ),
    "negatives_of_any_batch": (
        {"batched": True, "negative_batches": "any"},
        {"pos_sameby": ["gene"], "pos_diffby": ["plate"], "neg_sameby": [], "neg_diffby": ["gene"]},
    ),
    "negatives_of_the_same_batch": (
        {"batched": True, "negative_batches": "same"},
        {"pos_sameby": ["gene"], "pos_diffby": ["plate"], "neg_sameby": ["plate"], "neg_diffby": ["gene"]},
    ),
    "controls": (
        {"negatives": "controls"},
        {"pos_sameby": ["gene"], "pos_diffby": [], "neg_sameby": [], "neg_diffby": ["is_control"]},
    ),
    "controls_of_the_same_batch": (
        {"batched": True, "negatives": "controls", "negative_batches": "same"},
        {"pos_sameby": ["gene"], "pos_diffby": ["plate"], "neg_sameby": ["plate"], "neg_diffby": ["is_control"]},
    ),
}


def screen(seed=0, *, n=8, d=5, n_batches=3, n_controls=12, scale=1.0, low=3, high=5):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n), rng.integers(low, high + 1, n))
    labels = np.concatenate([np.array([f"g{i}" for i in range(n)])[codes], np.full(n_controls, "control")])
    batches = np.array([f"p{i}" for i in range(n_batches)])[np.arange(len(labels)) % n_batches]
    values = rng.normal(size=(len(labels), d))
    values[: len(codes)] += scale * rng.normal(size=(n, d))[codes] * (codes < n // 2)[:, None]
    order = rng.permutation(len(labels))
    return values[order].round(4), labels[order], batches[order]


def with_copairs(values, labels, batches, case, *, n_null=10_000) -> dict[str, dict]:
    """Scores of copairs: average precision by position of the row, mAP and p-value by perturbation."""
    from copairs import map as copairs_map

    options, pairs = CASES[case]
    meta = pd.DataFrame(
        {"gene": labels, "plate": batches, "is_control": labels == "control", "row": range(len(labels))}
    )
    kept = np.flatnonzero(labels != "control") if options.get("negatives") != "controls" else np.arange(len(labels))
    table = copairs_map.average_precision(meta.iloc[kept], values[kept], progress_bar=False, **pairs)
    table = table[~table["is_control"]]
    means = copairs_map.mean_average_precision(
        table, ["gene"], null_size=n_null, threshold=0.05, seed=0, progress_bar=False
    ).set_index("gene")
    return {
        "average_precision": {str(k): float(v) for k, v in zip(table["row"], table["average_precision"], strict=True)},
        "normalized": {
            str(k): float(v) for k, v in zip(table["row"], table["normalized_average_precision"], strict=True)
        },
        "mean_average_precision": means["mean_average_precision"].to_dict(),
        "p_value": means["p_value"].to_dict(),
        "q_value": means["corrected_p_value"].to_dict(),
    }


def ours(values, labels, batches, case, **kwargs) -> pd.DataFrame:
    options = dict(CASES[case][0])
    batch_key = batches if options.pop("batched", False) else None
    return mean_average_precision(values, labels, batch_key=batch_key, **options, **kwargs)


def assert_same_as_copairs(values, labels, batches, case, expected) -> None:
    rows = ours(values, labels, batches, case, per_row=True)
    at = np.array([int(k) for k in expected["average_precision"]])
    assert set(np.flatnonzero(rows["average_precision"].notna())) == set(at)
    for name in ("average_precision", "normalized"):
        np.testing.assert_allclose(rows[name].to_numpy()[at], list(expected[name].values()), atol=1e-6)
    table = ours(values, labels, batches, case)
    means = pd.Series(expected["mean_average_precision"])
    pd.testing.assert_series_equal(
        table["mean_average_precision"], means, check_names=False, atol=1e-6, check_index_type=False
    )
    # Both have 10,000 random rankings. A random score that equals the observed one counts for us; for copairs, which keeps
    # float32, it may or may not: its p-values lie between ours and those of larger scores alone.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perturbia.metrics.replicate_retrieval._ROUNDING", -1e-6)
        larger = ours(values, labels, batches, case)
    theirs = pd.Series(expected["p_value"])[table.index]
    assert (theirs >= larger["p_value"] - 0.025).all()
    assert (theirs <= table["p_value"] + 0.025).all()
    assert (table["p_value"] - larger["p_value"] < 0.025).any()
    np.testing.assert_allclose(q_values(theirs.to_numpy()), pd.Series(expected["q_value"])[table.index], rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_matches_what_copairs_gave(case):
    stored = json.loads(FIXTURE.read_text("utf-8"))
    data = (np.array(stored["values"]), np.array(stored["labels"]), np.array(stored["batches"]))
    assert_same_as_copairs(*data, case, stored["cases"][case])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_matches_copairs(case, seed, monkeypatch, tmp_path):
    pytest.importorskip("copairs")
    monkeypatch.setenv("HOME", str(tmp_path))  # where it keeps its random rankings
    data = screen(seed)
    assert_same_as_copairs(*data, case, with_copairs(*data, case))


def by_orders(similarity: np.ndarray, positive: np.ndarray) -> float:
    """Mean of the average precision over all orders of the candidates that sort by similarity."""
    scores = []
    for order in itertools.permutations(range(len(similarity))):
        ranked = similarity[list(order)]
        if (np.diff(ranked) <= 0).all():
            hits = positive[list(order)]
            scores.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(scores))


@pytest.mark.parametrize("seed", range(4))
def test_ties_count_as_the_mean_over_their_orders(seed):
    rng = np.random.default_rng(seed)
    directions = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    values, labels = directions[rng.integers(3, size=8)] * rng.integers(1, 4, (8, 1)), np.array([*"aaaabbcc"])
    rows = mean_average_precision(values, labels, per_row=True)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    for i in range(8):
        others = np.delete(np.arange(8), i)
        similarity = np.round(unit[others] @ unit[i], 9)
        expected = by_orders(similarity, labels[others] == labels[i])
        assert rows["average_precision"].iloc[i] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_perturbations", [3, 40])
def test_constant_rows_score_chance(n_perturbations):
    labels = np.repeat(np.arange(n_perturbations), 4)
    table = mean_average_precision(np.ones((len(labels), 3)), labels, n_null=100)
    np.testing.assert_allclose(table["mean_average_precision"], table["chance"], rtol=1e-12)
    np.testing.assert_allclose(table["normalized"], 0, atol=1e-12)
    # by the formula: (M - 1) / (L - 1) * (L - H_L) + H_L, over L
    total = len(labels) - 1
    harmonic = (1 / np.arange(1, total + 1)).sum()
    np.testing.assert_allclose(table["chance"], (2 / (total - 1) * (total - harmonic) + harmonic) / total)


@pytest.mark.parametrize(("n_positive", "n_total"), [(1, 6), (3, 7), (2, 200), (20, 60), (5, 6)])
def test_random_rankings(n_positive, n_total):
    scores = random_precision(n_positive, n_total, 20_000, np.random.default_rng(0))
    chance = chance_precision(np.array([n_positive]), np.array([n_total - n_positive]))[0]
    assert scores.mean() == pytest.approx(chance, abs=5 * scores.std() / np.sqrt(20_000))
    if n_total < 10:
        ranks = [np.array(r) for r in itertools.combinations(range(1, n_total + 1), n_positive)]
        exact = [(np.arange(1, n_positive + 1) / r).mean() for r in ranks]
        values, count = np.unique(np.round(exact, 9), return_counts=True)
        drawn = np.array([(np.abs(scores - value) < 1e-8).sum() for value in values])
        assert drawn.sum() == 20_000
        assert stats.chisquare(drawn, count / count.sum() * 20_000).pvalue > 1e-3


def test_p_values_follow_from_random_rankings():
    """One perturbation of two rows: its score is the mean of two reciprocal ranks."""
    values, labels, _ = screen(3, n=12, low=2, high=2, scale=0.0)
    table = mean_average_precision(values, labels, n_null=4000)
    ranks = 1 / np.arange(1, 23)  # the other 23 rows without controls, one of them the positive
    for score, p_value in zip(table["mean_average_precision"], table["p_value"], strict=True):
        share = np.append(ranks, 1 / 23)
        share = (share >= score - 1e-9).mean()
        assert p_value == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 4000) + 1 / 4000)
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("negatives", ["perturbations", "controls"])
def test_small_p_values_are_about_right_or_too_large(negatives, batched):
    found = []
    for seed in range(3):
        values, labels, batches = screen(seed, n=150, d=20, low=4, high=4, n_batches=4, n_controls=80, scale=0.0)
        options = {"negatives": negatives, "batch_key": batches if batched else None}
        found.append(mean_average_precision(values, labels, n_null=1000, **options)["p_value"])
    assert (np.concatenate(found) <= 0.05).mean() < 0.08


def test_effects_are_found():
    values, labels, batches = screen(4, n=20, d=20, low=6, high=6, n_controls=60, scale=2.0)
    for options in ({}, {"negatives": "controls"}):
        table = mean_average_precision(values, labels, batch_key=batches, n_null=2000, **options)
        effective = np.array([int(name[1:]) < 10 for name in table.index])
        assert (table.loc[effective, "normalized"] > 0.7).all()
        assert (table.loc[effective, "q_value"] < 0.01).all()
        assert table.loc[~effective, "normalized"].abs().max() < 0.3
        assert (table["mean_average_precision"].between(0, 1)).all()


def test_batches_lower_the_score_only_if_negatives_come_from_them():
    """With strong plates and weak effects, neighbours are rows of the same plate: they must not count."""
    values, labels, batches = screen(5, n=30, d=20, low=4, high=4, n_batches=4, scale=2.0)
    offsets = 6.0 * np.random.default_rng(1).normal(size=(4, 20))
    moved = values + offsets[np.unique(batches, return_inverse=True)[1]]
    score = {
        where: mean_average_precision(moved, labels, batch_key=batches, negative_batches=where, n_null=100)[
            "normalized"
        ].mean()
        for where in ("other", "any", "same")
    }
    assert score["other"] > score["any"] > score["same"]
    assert score["same"] < 0  # below chance


def test_order_of_rows_does_not_matter_and_blocks_neither(monkeypatch):
    values, labels, batches = screen(6)
    first = mean_average_precision(values, labels, batch_key=batches, n_null=500)
    rows = mean_average_precision(values, labels, batch_key=batches, per_row=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pd.testing.assert_frame_equal(
        mean_average_precision(values[order], labels[order], batch_key=batches[order], n_null=500), first
    )
    again = mean_average_precision(values[order], labels[order], batch_key=batches[order], per_row=True)
    np.testing.assert_allclose(again["average_precision"], rows["average_precision"].iloc[order])
    monkeypatch.setattr("perturbia.metrics._ranked_positives._LEAST_ROWS", 1)
    monkeypatch.setattr("perturbia.metrics._ranked_positives._COSINES", 3 * len(labels))
    pd.testing.assert_frame_equal(mean_average_precision(values, labels, batch_key=batches, per_row=True), rows)


def test_what_a_perturbation_gets_does_not_depend_on_the_draws_of_others():
    values, labels, batches = screen(7, n=10, low=3, high=6)
    first = mean_average_precision(values, labels, n_null=1500)
    kept = labels != "g4"
    kept &= ~((labels == "g5") & (batches == "p0"))
    assert first["p_value"].between(1 / 1501, 1).all()
    again = mean_average_precision(values, labels, n_null=1500, seed=0)
    pd.testing.assert_frame_equal(first, again)
    assert not first["p_value"].equals(mean_average_precision(values, labels, n_null=1500, seed=1)["p_value"])


def test_rows_are_returned_in_the_order_of_the_data():
    values, labels, _ = screen(8)
    frame = pd.DataFrame(values, index=[f"w{i}" for i in range(len(labels))])
    rows = mean_average_precision(frame, labels, per_row=True)
    assert rows.index.tolist() == frame.index.tolist()
    assert rows["perturbation"].tolist() == labels.tolist()
    is_control = labels == "control"
    assert rows.loc[is_control, ["average_precision", "chance", "normalized"]].isna().all(axis=None)
    assert rows.loc[~is_control, "average_precision"].notna().all()
    size = pd.Series(labels).map(pd.Series(labels).value_counts()).to_numpy()
    np.testing.assert_array_equal(rows.loc[~is_control, "n_positives"], size[~is_control] - 1)
    np.testing.assert_array_equal(rows.loc[~is_control, "n_negatives"], (~is_control).sum() - size[~is_control])
    table = mean_average_precision(frame, labels, n_null=10)
    means = rows[~is_control].groupby("perturbation")[["average_precision", "chance", "normalized"]].mean()
    np.testing.assert_allclose(table[["mean_average_precision", "chance", "normalized"]], means)


def test_perturbations_without_a_query_are_named():
    values, labels, batches = screen(9)
    labels = labels.astype(object)
    labels[np.flatnonzero(labels == "g0")[1:]] = "control"
    batches[labels == "g1"] = "p0"
    with pytest.warns(
        RuntimeWarning, match=r"2 perturbations have no row with both positives and negatives.*'g0', 'g1'"
    ):
        table = mean_average_precision(values, labels, batch_key=batches, n_null=10)
    assert table.loc[["g0", "g1"], "p_value"].isna().all()
    assert table.loc[["g0", "g1"], "n_queries"].tolist() == [0, 0]
    assert table.drop(["g0", "g1"]).notna().all(axis=None)


def test_rows_without_direction():
    values, labels, _ = screen(10)
    values[np.flatnonzero(labels == "g1")[0]] = 0.0
    with pytest.warns(RuntimeWarning, match="1 of .* rows are zero"):
        table = mean_average_precision(values, labels, n_null=10)
    assert table.notna().all(axis=None)


def test_forms_of_data(in_form):
    values, labels, batches = screen(11)
    values = np.rint(8 * values)
    data, keys = in_form(values, perturbation_key=labels, batch_key=batches)
    table = mean_average_precision(data, n_null=50, **keys)
    pd.testing.assert_frame_equal(table, mean_average_precision(values, labels, batch_key=batches, n_null=50))


VALUES, LABELS, BATCHES = screen(12, n=4, n_controls=5)
NAN = VALUES.copy()
NAN[0, 0] = np.inf


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((NAN, LABELS), {}, ValueError, "data: expected finite numbers"),
        ((VALUES, LABELS[1:]), {}, LabelError, "perturbation_key: expected one label for each"),
        ((VALUES, "gene"), {}, LabelError, "perturbation_key: expected one label a row"),
        ((VALUES, np.where(LABELS == "control", "control", "a")), {}, LabelError, "expected 2 perturbations or more"),
        ((VALUES, np.full(len(LABELS), "control")), {"negatives": "controls"}, LabelError, "expected 1 perturbations"),
        ((VALUES, np.char.replace(LABELS, "control", "x")), {"negatives": "controls"}, ControlError, "control rows"),
        ((VALUES, LABELS), {"batch_key": BATCHES[1:]}, LabelError, "batch_key: expected one label"),
        ((VALUES, LABELS), {"batch_key": np.full(len(LABELS), "p")}, ValueError, "a replicate in another batch"),
        ((VALUES, np.arange(len(LABELS))), {}, ValueError, "Pass replicates, not their means"),
        ((VALUES, LABELS), {"use_rep": "X_pca"}, FeatureMismatch, "use_rep"),
        ((VALUES, LABELS), {"negatives": "all"}, ValueError, "negatives: expected"),
        ((VALUES, LABELS), {"negative_batches": "all"}, ValueError, "negative_batches: expected"),
        ((VALUES, LABELS), {"n_null": True}, ValueError, "n_null: expected a whole number"),
        ((VALUES, LABELS), {"seed": -3}, ValueError, "seed: expected"),
        ((VALUES, LABELS), {"seed": None}, ValueError, "seed: expected"),
    ],
)
def test_bad_input(arguments, options, error, match):
    with pytest.raises(error, match=match):
        mean_average_precision(*arguments, **options)


def test_one_perturbation_can_be_compared_with_controls():
    labels = np.where(LABELS == "control", "control", "a")
    table = mean_average_precision(VALUES, labels, negatives="controls", n_null=20)
    assert table.index.tolist() == ["a"]
    assert table.notna().all(axis=None)


def test_marked_rows_are_controls():
    values, labels, batches = screen(9)
    is_control = labels == "control"
    named = np.where(is_control, np.resize(["NTC", "WT"], len(labels)), labels)
    adata = ad.AnnData(
        values, obs=pd.DataFrame({"gene": named, "is_control": is_control}, index=map(str, range(len(labels))))
    )
    for negatives in ("perturbations", "controls"):
        expected = mean_average_precision(values, labels, negatives=negatives, n_null=50)
        found = mean_average_precision(adata, "gene", negatives=negatives, n_null=50)
        pd.testing.assert_frame_equal(found, expected)


def test_controls_that_whitening_was_fitted_to(fitted_screen):
    options = {"perturbation_key": "perturbation", "use_rep": "X_white", "n_null": 20}
    with pytest.warns(
        RuntimeWarning, match=r"by 20 of the 20 controls .* leave those rows out here, or use negatives="
    ):
        mean_average_precision(fitted_screen, negatives="controls", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean_average_precision(fitted_screen, **options)
