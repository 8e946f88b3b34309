"""What every score of effects owes its reader, checked on all of them at once."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import perturbia.metrics
from perturbia.metrics import (
    centroid_accuracy,
    clustering_agreement,
    coverage_curve,
    crps_gaussian,
    crps_samples,
    de_precision_recall_auc,
    de_recall,
    de_roc_auc,
    de_spearman_lfc,
    de_spearman_significant,
    direction_match,
    edistance_correlation,
    effect_correlation,
    effect_cosine,
    effect_r2,
    effect_rank_correlation,
    interaction_correlation,
    interaction_r2,
    interval_coverage,
    latent_mcc,
    linear_r2,
    mae,
    mean_reciprocal_rank,
    mse,
    overlap_at_n,
    paired_iwelbo,
    reference_correlation,
    retrieval,
    retrieval_accuracy,
    rmse,
    top_gene_correlation,
    top_gene_jaccard,
)

N, G = 14, 30
_rng = np.random.default_rng(7)
SHARED = _rng.normal(size=G)
TRUTH = SHARED + _rng.normal(size=(N, G)) * _rng.uniform(0.5, 2.0, size=(N, 1))
GUESS = SHARED + 0.4 * (TRUTH - SHARED) + 1.3 * _rng.normal(size=(N, G))
SIDE = _rng.normal(size=(N, G))  # selection, additive part, or one reference a row


def rates(effects):
    """False discovery rates that fall with the size of an effect; about a third is significant."""
    return np.exp(-2.2 * np.abs(effects)).clip(0.0, 1.0)


def by_rates(score):
    return lambda truth, prediction, side, **how: score(rates(truth), rates(prediction), **how)


# Score of (truth, prediction, side), where side is an array that belongs to the truth's rows and genes.
BY_ROW = {
    "effect_correlation": lambda t, p, s, **how: effect_correlation(t, p, **how),
    "effect_rank_correlation": lambda t, p, s, **how: effect_rank_correlation(t, p, **how),
    "effect_cosine": lambda t, p, s, **how: effect_cosine(t, p, **how),
    "effect_r2": lambda t, p, s, **how: effect_r2(t, p, **how),
    "top_gene_correlation": lambda t, p, s, **how: top_gene_correlation(t, p, selection=s, k=8, **how),
    "reference_correlation": lambda t, p, s, **how: reference_correlation(t, p, reference=s, **how),
    "interaction_correlation": lambda t, p, s, **how: interaction_correlation(
        t, p, truth_additive=s, prediction_additive=s, **how
    ),
    "interaction_r2": lambda t, p, s, **how: interaction_r2(t, p, truth_additive=s, prediction_additive=s, **how),
    "top_gene_jaccard": lambda t, p, s, **how: top_gene_jaccard(t, p, k=8, **how),
    "top_gene_jaccard_signed": lambda t, p, s, **how: top_gene_jaccard(t, p, k=8, signed=True, **how),
    "direction_match": lambda t, p, s, **how: direction_match(t, p, significant=s > 0, **how),
    "de_spearman_lfc": lambda t, p, s, **how: de_spearman_lfc(t, rates(t), p, **how),
    "overlap_at_n": lambda t, p, s, **how: overlap_at_n(t, rates(t), p, rates(p), **how),
    "precision_at_n": lambda t, p, s, **how: overlap_at_n(t, rates(t), p, rates(p), size="prediction", **how),
    "de_recall": by_rates(de_recall),
    "de_precision_recall_auc": by_rates(de_precision_recall_auc),
    "de_roc_auc": by_rates(de_roc_auc),
    "centroid_accuracy": lambda t, p, s, **how: centroid_accuracy(t, p, **how),
    "mean_reciprocal_rank": lambda t, p, s, **how: mean_reciprocal_rank(t, p, **how),
    "retrieval_accuracy": lambda t, p, s, **how: retrieval_accuracy(t, p, top=2, **how),
    **{
        f"retrieval_{query}_{metric}": lambda t, p, s, q=query, m=metric, **how: retrieval(
            t, p, query=q, metric=m, **how
        )
        for query in ("prediction", "reference")
        for metric in ("l1", "l2", "cosine", "pearson")
    },
    "mae": lambda t, p, s, **how: mae(t, p, **how),
    "mse": lambda t, p, s, **how: mse(t, p, **how),
    "rmse": lambda t, p, s, **how: rmse(t, p, **how),
    "crps_gaussian": lambda t, p, s, **how: crps_gaussian(t, p, np.full(p.shape, 1e-3), **how),
    "crps_samples": lambda t, p, s, **how: crps_samples(t, np.stack([p - 1e-3, p + 1e-3]), **how),
    "interval_coverage": lambda t, p, s, **how: interval_coverage(t, p - 0.5, p + 0.5, **how),
}
WHOLE = {
    "de_spearman_significant": lambda t, p, s: de_spearman_significant(rates(t), rates(p)),
    "edistance_correlation": lambda t, p, s: edistance_correlation((t**2).sum(axis=1), (p**2).sum(axis=1)),
    "clustering_agreement": lambda t, p, s: clustering_agreement(t, p, n_neighbors=3),
    "coverage_error": lambda t, p, s: coverage_curve(t, np.stack([p + d for d in np.linspace(-1, 1, 9)])).error,
}
ALL = {**BY_ROW, **WHOLE}
ERRORS = {"mae", "mse", "rmse", "crps_gaussian", "crps_samples"}
# A gene that one side does not express has an infinite fold change, and a rate of 0.
OF_TABLES = {
    "direction_match",
    "overlap_at_n",
    "precision_at_n",
    *(name for name in BY_ROW if name.startswith("de_")),
}
CONSTANT_SCORES_ZERO = [
    "effect_correlation",
    "effect_rank_correlation",
    "top_gene_correlation",
    "de_spearman_lfc",
    "de_spearman_significant",
    "edistance_correlation",
    "clustering_agreement",
]


@pytest.mark.parametrize("name", sorted(set(ALL) - {"coverage_error"}))
def test_the_truth_scores_best(name):
    perfect, guessed = ALL[name](TRUTH, TRUTH, SIDE), ALL[name](TRUTH, GUESS, SIDE)
    if name in ERRORS:
        assert perfect == pytest.approx(0.0, abs=2e-3)
        assert guessed > 0.3
    else:
        assert perfect == pytest.approx(1.0, abs=1e-12)
        assert guessed < 0.99


@pytest.mark.parametrize("name", sorted(ALL))
def test_order_of_genes_does_not_matter(name):
    genes = np.random.default_rng(0).permutation(G)
    first = ALL[name](TRUTH, GUESS, SIDE)
    assert ALL[name](TRUTH[:, genes], GUESS[:, genes], SIDE[:, genes]) == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("name", sorted(ALL))
def test_order_of_perturbations_does_not_matter(name):
    rows = np.random.default_rng(1).permutation(N)
    first = ALL[name](TRUTH, GUESS, SIDE)
    assert ALL[name](TRUTH[rows], GUESS[rows], SIDE[rows]) == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("name", sorted(BY_ROW))
def test_rows_of_scores_follow_the_rows_of_effects(name):
    rows = np.random.default_rng(2).permutation(N)
    by_row = BY_ROW[name](TRUTH, GUESS, SIDE, per_perturbation=True)
    moved = BY_ROW[name](TRUTH[rows], GUESS[rows], SIDE[rows], per_perturbation=True)
    assert by_row.shape == (N,)
    assert len(np.unique(by_row.round(9))) > 1
    np.testing.assert_allclose(moved, by_row[rows], atol=1e-12)


@pytest.mark.parametrize("name", sorted(ALL))
def test_inputs_are_left_alone_and_scores_repeat(name):
    truth, guess, side = TRUTH.copy(), GUESS.copy(), SIDE.copy()
    for array in (truth, guess, side):
        array.setflags(write=False)
    assert ALL[name](truth, guess, side) == ALL[name](truth, guess, side)


@pytest.mark.parametrize("name", sorted(ALL))
def test_float32_is_float64_up_to_rounding(name):
    single = ALL[name](*(array.astype(np.float32) for array in (TRUTH, GUESS, SIDE)))
    assert isinstance(single, float)
    assert single == pytest.approx(ALL[name](TRUTH, GUESS, SIDE), abs=1e-4)


@pytest.mark.parametrize("name", CONSTANT_SCORES_ZERO)
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e5])
def test_a_constant_prediction_scores_zero(name, value):
    assert ALL[name](TRUTH, np.full_like(TRUTH, value), SIDE) == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, np.nan) for name in sorted(BY_ROW)] + [(name, np.inf) for name in sorted(set(BY_ROW) - OF_TABLES)],
)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("per_perturbation", [False, True])
def test_missing_and_infinite_values_are_errors(name, value, side, per_perturbation):
    pair = [TRUTH.copy(), GUESS.copy()]
    pair[side][3, 4] = value
    with pytest.raises(ValueError, match="expected finite numbers"):
        BY_ROW[name](*pair, SIDE, per_perturbation=per_perturbation)


@pytest.mark.parametrize("name", sorted(WHOLE))
@pytest.mark.parametrize("side", [0, 1])
def test_missing_values_are_errors_in_whole_scores(name, side):
    pair = [TRUTH.copy(), GUESS.copy()]
    pair[side][3, 4] = np.nan
    with pytest.raises(ValueError, match="expected finite numbers"):
        WHOLE[name](*pair, SIDE)


@pytest.mark.parametrize("name", sorted(BY_ROW))
@pytest.mark.parametrize("cut", [(slice(None, -1), slice(None)), (slice(None), slice(None, -1))])
def test_shapes_that_differ_are_errors(name, cut):
    with pytest.raises(ValueError, match=r"expected (the shape of|at least 2 draws)"):
        BY_ROW[name](TRUTH, GUESS[cut], SIDE)


def test_mean_baseline_scores_in_pearson_and_not_against_the_mean():
    baseline = np.tile(TRUTH.mean(axis=0), (N, 1))
    assert effect_correlation(TRUTH, baseline, per_perturbation=True).mean() > 0.3
    beyond = partial(reference_correlation, TRUTH, baseline, reference=TRUTH.mean(axis=0))
    assert beyond() == 0.0
    np.testing.assert_array_equal(beyond(per_perturbation=True), 0.0)


def test_matching_mean_is_additive_to_pearson_and_not_to_r2():
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=(2, 20, G))
    truth = first + second + 0.5 * rng.normal(size=(20, G))
    additive, matching = first + second, (first + second) / 2
    for score in (effect_correlation, effect_rank_correlation, effect_cosine):
        assert score(truth, additive) == pytest.approx(score(truth, matching), abs=1e-12)
    assert retrieval(truth, additive, metric="cosine") == retrieval(truth, matching, metric="cosine")
    assert effect_r2(truth, additive) > effect_r2(truth, matching) + 0.1
    assert rmse(truth, additive) < 0.8 * rmse(truth, matching)


def test_every_public_score_is_covered():
    """A new score of effects belongs into the tables above."""
    elsewhere = {
        "baseline": ["scale_to_baseline"],
        "profiles": ["log_fold_change"],
        "ranks and genes": ["retrieval_ranks", "top_genes"],
        "latents and masks": [
            "block_r2",
            "dci",
            "dci_from_importance",
            "latent_mcc",
            "linear_r2",
            "match_latents",
            "mask_scores",
        ],
        "likelihoods": ["paired_iwelbo"],
        "alignments": ["alignment", "coupling_trace", "feature_r2", "foscttm", "matched_distribution"]
        + [
            "label_confusion",
            "matched_label_accuracy",
            "matched_mse",
            "matched_r2",
            "projected_foscttm",
            "soft_foscttm",
        ],
        "screens and maps": [
            "mean_average_precision",
            "mechanism_accuracy",
            "perturbation_magnitude",
            "proximity_bias",
            "relationship_recall",
            "replicate_consistency",
        ],
    }
    functions = {name for name in perturbia.metrics.__all__ if name[0].islower()}
    tabled = {name for name in functions if any(key.startswith(name) for key in ALL)}
    tabled |= {"coverage_curve"}
    assert functions - tabled == {name for names in elsewhere.values() for name in names}


def test_order_of_cells_does_not_matter_to_scores_of_cells():
    rng = np.random.default_rng(9)
    truth, latents = rng.normal(size=(60, 2)), rng.normal(size=(60, 3))
    cells = rng.permutation(60)
    assert latent_mcc(truth[cells], latents[cells]) == pytest.approx(latent_mcc(truth, latents), abs=1e-12)
    whole = linear_r2(truth, latents, n_folds=None)
    assert linear_r2(truth[cells], latents[cells], n_folds=None) == pytest.approx(whole, abs=1e-12)
    first, second = rng.normal(size=(2, 60))
    moved, found = paired_iwelbo(first[cells], second[cells]), paired_iwelbo(first, second)
    assert moved.mean_difference == pytest.approx(found.mean_difference)
    assert moved.standard_error == pytest.approx(found.standard_error, rel=0.05)  # resamples are drawn by position


def test_scores_do_not_depend_on_what_was_scored_before():
    forward = {name: score(TRUTH, GUESS, SIDE) for name, score in ALL.items()}
    assert {name: ALL[name](TRUTH, GUESS, SIDE) for name in reversed(ALL)} == forward
