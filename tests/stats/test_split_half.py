from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from perturbia.stats import half_split, spearman_brown, split_half_correlation

LABELS = np.repeat(["ctrl", "a", "b", "c"], [301, 100, 57, 40])


def screen(seed, *, strength=1.0, labels=LABELS, n_genes=200):
    rng = np.random.default_rng(seed)
    effects = {label: strength * rng.normal(size=n_genes) * (label != "ctrl") for label in np.unique(labels)}
    return np.array([effects[label] for label in labels]) + 3 * rng.normal(size=(len(labels), n_genes))


def brute_force(X, labels, reference, first):
    rows = []
    for half in (first, ~first):
        means = {g: X[half & (labels == g)].mean(axis=0) for g in np.unique(labels)}
        rows.append([means[g] - means[reference] for g in np.unique(labels) if g != reference])
    by_group = [np.corrcoef(a, b)[0, 1] for a, b in zip(*rows, strict=True)]
    return np.array(by_group), np.corrcoef(np.ravel(rows[0]), np.ravel(rows[1]))[0, 1]


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_matches_brute_force(container):
    X = screen(0)
    seed = int(np.random.SeedSequence(5).generate_state(1)[0])
    codes = np.searchsorted(["a", "b", "c", "ctrl"], LABELS)
    by_group, overall = brute_force(X, LABELS, "ctrl", half_split(codes, seed=seed))
    result = split_half_correlation(container(X), LABELS, reference="ctrl", n_splits=1, correct=False, seed=5)
    np.testing.assert_allclose(result.by_group, by_group, atol=1e-10)
    assert result.overall == pytest.approx(overall, abs=1e-10)
    assert list(result.groups) == ["a", "b", "c"]


def test_corrected_value_is_what_a_second_experiment_scores():
    labels = np.repeat(["ctrl", "p"], 200)
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        effect = 0.3 * rng.normal(size=1000)
        first, second = (labels == "p")[:, None] * effect + 3 * rng.normal(size=(2, 400, 1000))
        result = split_half_correlation(first, labels, reference="ctrl", n_splits=5)
        d1, d2 = (X[200:].mean(0) - X[:200].mean(0) for X in (first, second))
        ratios.append(result.overall - np.corrcoef(d1, d2)[0, 1])
    assert abs(np.mean(ratios)) < 0.03


def test_no_effect_has_no_reliability_and_strong_effects_do():
    assert abs(split_half_correlation(screen(1, strength=0), LABELS, reference="ctrl").overall) < 0.2
    assert split_half_correlation(screen(2, strength=20), LABELS, reference="ctrl").overall > 0.99


def test_seed_decides():
    X = screen(3)
    first, again, other = (split_half_correlation(X, LABELS, reference="ctrl", n_splits=2, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.by_group, again.by_group)
    assert (first.by_group != other.by_group).all()


def test_half_split_balances_every_group():
    first = half_split(LABELS, seed=0)
    for group in np.unique(LABELS):
        member = group == LABELS
        assert first[member].sum() in (member.sum() // 2, -(-member.sum() // 2))
    assert (half_split(LABELS, seed=0) == first).all()
    assert (half_split(LABELS, seed=1) != first).any()


def test_half_split_is_uniform_over_rows():
    share = np.mean([half_split(["a"] * 5 + ["b"], seed=seed) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_spearman_brown_values():
    np.testing.assert_allclose(spearman_brown(np.array([0.0, 0.5, 1.0, -0.5, -1.0])), [0, 2 / 3, 1, -2 / 3, -1])
    assert spearman_brown(0.8, factor=0.5) == pytest.approx(0.8 / (2 - 0.8))
    assert np.isnan(spearman_brown(np.nan))


def test_repr_says_what_it_holds():
    result = split_half_correlation(screen(4, strength=20), LABELS, reference="ctrl", n_splits=2)
    assert repr(result) == f"SplitHalfReliability: overall {result.overall:.3f}, 3 groups, 2 splits"


X = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("values", "labels", "options", "match"),
    [
        (X, ["a", "a", "b"], {}, "labels: expected one label a row"),
        (X, ["a", "a", None, "b"], {}, "1 missing"),
        (X, ["a", "a", "a", "b"], {}, "1 of them of one cell"),
        (X, ["a"] * 4, {}, "got 1 groups"),
        (X, ["a", "a", "b", "b"], {"reference": "z"}, "reference: expected one of"),
        (X, ["a", "a", "b", "b"], {"n_splits": 0}, "n_splits=0"),
        (X[:, :1], ["a", "a", "b", "b"], {}, "2 column"),
        (np.full_like(X, np.nan), ["a", "a", "b", "b"], {}, "X: expected finite"),
    ],
)
def test_bad_input(values, labels, options, match):
    with pytest.raises(ValueError, match=match):
        split_half_correlation(values, labels, **{"reference": "a", **options})


def test_bad_corrections():
    with pytest.raises(ValueError, match="correlation: expected values in"):
        spearman_brown(1.5)
    with pytest.raises(ValueError, match="factor: expected > 0"):
        spearman_brown(0.5, factor=0)
    with pytest.raises(ValueError, match="labels: expected at least one row"):
        half_split([], seed=0)
