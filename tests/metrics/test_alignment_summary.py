"""All scores of an alignment in one series."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp

from perturbia.metrics import (
    alignment as alignment_scores,
)
from perturbia.metrics import (
    coupling_trace,
    matched_distribution,
    matched_label_accuracy,
    matched_mse,
    matched_r2,
    projected_foscttm,
    soft_foscttm,
)

COUNTS = {"n_source": 17, "n_target": 17, "n_unmatched": 4}


def test_every_entry_is_that_of_its_function(alignment, held):
    one = alignment
    scores = alignment_scores(
        held,
        pairs=one.pairs,
        x_source=one.x_source,
        x_target=one.x_target,
        source_labels=one.source_labels,
        target_labels=one.target_labels,
        **one.groups,
    )
    known = (one.x_source, one.x_target)
    parts = [
        coupling_trace(held, one.pairs, **one.groups),
        *(score(held, *known, **one.groups) for score in (matched_mse, projected_foscttm, soft_foscttm)),
        matched_label_accuracy(held, one.source_labels, one.target_labels, **one.groups),
    ]
    for part in parts:
        for name, value in part.flat().items():
            assert scores[name] == pytest.approx(value, nan_ok=True), name
    fit = matched_r2(held, *known, **one.groups)
    assert scores[["r2", "r2_median", "r2_within_groups"]].tolist() == pytest.approx(
        [fit.pooled, fit.median, fit.within_groups]
    )
    assert scores[list(COUNTS)].to_dict() == COUNTS
    assert scores[["n_unpaired", "n_partner_in_other_group"]].tolist() == [5, 0]
    assert scores.index.is_unique
    assert scores.dtype == np.float64
    assert len(scores) == sum(2 * len(part.names) for part in parts) + 3 + 6


def test_blocks_of_a_coupling_are_its_groups(alignment):
    from perturbia.stats import Coupling

    coupling = Coupling.from_matrix(alignment.plan, **alignment.groups)
    scores = alignment_scores(coupling, pairs=alignment.pairs, x_target=alignment.x_target, distribution=True)
    labelled = alignment_scores(
        coupling, pairs=alignment.pairs, x_target=alignment.x_target, distribution=True, **alignment.groups
    )
    assert scores.pop("n_groups") == 3
    assert labelled.pop("n_groups") == 5
    np.testing.assert_allclose(scores, labelled)


def test_only_what_is_known_is_scored(alignment):
    of_labels = alignment_scores(
        alignment.plan, source_labels=alignment.source_labels, target_labels=alignment.target_labels, **alignment.groups
    )
    assert "trace_macro" not in of_labels
    assert "r2" not in of_labels
    assert "n_unpaired" not in of_labels
    assert of_labels["n_unmatched"] == 4
    of_pairs = alignment_scores(alignment.plan, pairs=alignment.pairs, **alignment.groups)
    assert of_pairs.index.tolist()[:4] == ["trace_macro", "trace_micro", "fold_macro", "fold_micro"]
    assert "accuracy_macro" not in of_pairs
    by_partner = alignment_scores(
        alignment.plan, pairs=alignment.pairs, x_target=alignment.x_target, **alignment.groups
    )
    expected = soft_foscttm(alignment.plan, None, alignment.x_target, pairs=alignment.pairs, **alignment.groups)
    assert by_partner["soft_foscttm_macro"] == expected.macro["soft_foscttm"]


@pytest.mark.parametrize("common_space", [True, False])
def test_populations_are_compared_with_real_cells(alignment, common_space):
    known = {"x_source": alignment.x_source} if common_space else {"pairs": alignment.pairs}
    scores = alignment_scores(
        alignment.plan, x_target=alignment.x_target, distribution=True, **known, **alignment.groups
    )
    matched = alignment.plan.sum(axis=1) > 0
    expected = matched_distribution(
        alignment.x_source if common_space else alignment.x_target,
        (alignment.weights @ alignment.x_target)[matched],
        truth_groups=alignment.source_groups if common_space else alignment.target_groups,
        prediction_groups=alignment.source_groups[matched],
    )
    for name in ("mean_distance", "wasserstein2", "gaussian_kl"):
        assert scores[f"{name}_macro"] == pytest.approx(expected.macro[name])


def test_levels_of_the_true_and_the_uniform_plan():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], [10, 20, 30])
    z, labels = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    known = {
        "pairs": np.arange(60),
        "x_source": z,
        "x_target": z,
        "source_labels": labels,
        "target_labels": labels,
        "source_groups": groups,
        "target_groups": groups,
    }
    true = alignment_scores(sp.identity(60), **known)
    uniform = alignment_scores((groups[:, None] == groups) / 60, **known)
    levels = {
        "trace_macro": (1.0, np.mean([1 / 10, 1 / 20, 1 / 30])),
        "fold_macro": (20.0, 1.0),
        "foscttm_macro": (0.0, 0.5),
        "soft_foscttm_micro": (0.0, 0.5),
        "relative_matching_macro": (1.0, 0.0),
        "r2_within_groups": (1.0, 0.0),
        "barycentric_mse_micro": (0.0, np.mean([z[groups == g].var(axis=0).mean() for g in groups])),
    }
    for name, (best, chance) in levels.items():
        assert true[name] == pytest.approx(best, abs=1e-12), name
        assert uniform[name] == pytest.approx(chance, abs=1e-12), name


def test_order_of_cells_does_not_matter(alignment):
    def of(one):
        known = {"pairs": one.pairs, "x_source": one.x_source, "x_target": one.x_target}
        labels = {"source_labels": one.source_labels, "target_labels": one.target_labels}
        return alignment_scores(one.plan, **known, **labels, distribution=True, **one.groups)

    np.testing.assert_allclose(of(alignment.shuffled(5)), of(alignment), atol=1e-12)


def test_the_docstring_names_every_entry(alignment):
    scores = alignment_scores(
        alignment.plan,
        pairs=alignment.pairs,
        x_source=alignment.x_source,
        x_target=alignment.x_target,
        source_labels=alignment.source_labels,
        target_labels=alignment.target_labels,
        distribution=True,
        **alignment.groups,
    )
    named = set(re.findall(r"\w+", alignment_scores.__doc__))
    assert {re.sub("_(macro|micro)$", "", name) for name in scores.index} <= named


Z = np.random.default_rng(1).normal(size=(3, 2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "pairs, x_target, source_labels: expected something to score against"),
        ({"x_source": Z, "pairs": [0, 1, 2]}, "x_target: expected features of target cells"),
        ({"pairs": [0, 1, 2], "distribution": True}, "x_target: expected features of target cells"),
        ({"x_target": Z}, "expected either features of source cells or their true partners"),
        ({"source_labels": list("abc")}, "target_labels: expected a label for every cell"),
        ({"target_labels": list("abc")}, "source_labels: expected a label for every cell"),
        ({"x_source": Z, "x_target": Z[:2]}, "x_target: expected 3 cells"),
        ({"pairs": [0, 1]}, "pairs: expected"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(ValueError, match=match):
        alignment_scores(np.eye(3), **options)
