"""Scores of stored couplings are those of the metrics on arrays, of what is known of the truth."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import perturbia as pb
from perturbia.errors import FeatureMismatch, LabelError, ModalityError

ROLES = ("source", "target")


def simulate(**changes):
    return pb.datasets.simulate_modalities(
        **{"n_cells": 20, "n_perturbations": 4, "n_latent": 2, "prior_shift": 4.0, **changes}
    )


@pytest.fixture
def mdata():
    """Truth without noise, 56 of 100 source cells have a twin."""
    data = simulate()
    for role in ROLES:
        data[role].obs["high"] = data[role].obsm["truth_latent"][:, 0] > 0
    pb.tl.align(data, use_rep="truth_log_ratio", epsilon=0.1)
    return data


def arrays(data) -> dict:
    twin = pd.Index(data["target"].obs["pair"]).get_indexer(data["source"].obs["pair"])
    given = {"pairs": twin}
    for role in ROLES:
        given[f"{role}_groups"] = data[role].obs["perturbation"].to_numpy()
        given[f"x_{role}"] = data[role].obsm["truth_latent"]
        given[f"{role}_labels"] = data[role].obs["high"].to_numpy().astype(str)
    at = [data.obs_names.get_indexer(data[role].obs_names) for role in ROLES]
    return {"coupling": data.obsp["coupling"].toarray()[np.ix_(*at)], **given}


@pytest.mark.parametrize("distribution", [True, False])
def test_scores_are_those_of_the_function_on_arrays(mdata, distribution):
    scores = pb.tl.evaluate_alignment(
        mdata, pairs="pair", use_rep="truth_latent", labels="high", distribution=distribution
    )
    expected = pb.metrics.alignment(distribution=distribution, **arrays(mdata))
    pd.testing.assert_series_equal(scores, expected, check_exact=False, rtol=1e-6)
    assert scores["n_unpaired"] == 44
    assert ("wasserstein1_macro" in scores) is distribution


def test_a_coupling_in_memory_is_scored_whole(mdata):
    coupling = pb.tl.align(mdata, use_rep="truth_log_ratio", epsilon=0.1, keep=(1.0, 10**6))
    stored = pb.tl.evaluate_alignment(mdata, pairs="pair", use_rep="truth_latent")
    held = pb.tl.evaluate_alignment(mdata, coupling=coupling, pairs="pair", use_rep="truth_latent")
    pd.testing.assert_series_equal(held, stored, check_exact=False, rtol=1e-4)
    turned = pb.tl.evaluate_alignment(
        mdata, coupling=coupling.transpose(), source="target", target="source", pairs="pair"
    )
    back = pb.tl.evaluate_alignment(mdata, source="target", pairs="pair")
    pd.testing.assert_series_equal(turned, back, check_exact=False, rtol=1e-4)
    assert turned["n_unpaired"] == 0


def test_exact_plans_of_true_scores_are_right():
    data = simulate(prior_shift=1.0)
    pb.tl.align(data, use_rep="truth_log_ratio", method="emd")
    scores = pb.tl.evaluate_alignment(data, pairs="pair", use_rep={"target": "truth_latent"})
    assert scores["trace_macro"] == pytest.approx(1, abs=1e-6)
    assert scores["foscttm_macro"] == pytest.approx(0, abs=1e-6)
    pb.tl.align(data, use_rep="truth_log_ratio", method="random", key_added="random")
    chance = pb.tl.evaluate_alignment(data, coupling="random", pairs="pair", use_rep="truth_latent")
    assert chance["fold_macro"] == pytest.approx(1, abs=1e-5)
    assert chance["soft_foscttm_macro"] == pytest.approx(0.5, abs=0.05)


def test_pairs_in_any_order_and_with_gaps(mdata):
    before = pb.tl.evaluate_alignment(mdata, pairs="pair")
    codes, names = pd.factorize(np.concatenate([mdata[role].obs["pair"] for role in ROLES]))
    mdata["source"].obs["barcode"] = codes[:100]  # numbers on one side and text on the other
    mdata["target"].obs["barcode"] = pd.Categorical(codes[100:].astype(str))
    pd.testing.assert_series_equal(pb.tl.evaluate_alignment(mdata, pairs="barcode"), before)
    assert len(names) == 100
    mdata["source"].obs.loc[mdata["source"].obs_names[:20], "pair"] = None
    mdata["target"].obs.loc[mdata["target"].obs_names[:3], "pair"] = np.nan
    fewer = pb.tl.evaluate_alignment(mdata, pairs="pair")
    assert before["n_unpaired"] < fewer["n_unpaired"]


def test_labels_that_one_modality_has_alone_are_no_group(mdata):
    data = simulate()
    for role, name in zip(ROLES, "XY", strict=True):
        data[role].obs["perturbation"] = data[role].obs["perturbation"].cat.rename_categories({"P01": name})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pb.tl.align(data, use_rep="truth_log_ratio", epsilon=0.1)
    scores = pb.tl.evaluate_alignment(data, pairs="pair")
    assert (scores["n_groups"], scores["n_unmatched"]) == (4, 20)
    common = {role: data[role].obs_names[~data[role].obs["perturbation"].isin(["X", "Y"])] for role in ROLES}
    part = data[common["source"].union(common["target"])]
    assert part.is_view  # nothing is written
    alone = pb.tl.evaluate_alignment(part, pairs="pair")
    assert alone["trace_macro"] == pytest.approx(scores["trace_macro"])
    del mdata


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "expected"),
        ({"pairs": "barcode"}, LabelError, "pairs: expected a column of obs of 'source', got 'barcode'"),
        ({"pairs": "perturbation"}, LabelError, "unique among cells of 'target', got duplicates"),
        ({"labels": "cell_type"}, LabelError, "labels: expected a column"),
        ({"use_rep": "X_pca"}, FeatureMismatch, "use_rep: expected a key"),
        ({"use_rep": {"source": "truth_latent"}}, ValueError, "use_rep: expected a key of obsm for 'target'"),
        (
            {"use_rep": {"target": "truth_latent", "rna": "X"}},
            ValueError,
            "use_rep: expected a key of obsm for 'target'",
        ),
        ({"coupling": "psa", "pairs": "pair"}, KeyError, "coupling: expected the key"),
        ({"source": "rna", "pairs": "pair"}, ModalityError, "source, target: expected"),
    ],
)
def test_bad_input(mdata, options, error, message):
    with pytest.raises(error, match=message):
        pb.tl.evaluate_alignment(mdata, **options)


def test_a_coupling_of_other_cells_is_refused(mdata):
    coupling = pb.tl.align(mdata, use_rep="truth_log_ratio")
    with pytest.raises(ValueError, match="expected one of 56 'target' and 100 'source' cells, got 100 and 56"):
        pb.tl.evaluate_alignment(mdata, coupling=coupling, source="target", target="source", pairs="pair")
    with pytest.raises(ModalityError, match="expected names of modalities"):
        pb.tl.evaluate_alignment(mdata, coupling=coupling, source="rna", target="source", pairs="pair")
    with pytest.raises(TypeError, match="expected MuData, got AnnData"):
        pb.tl.evaluate_alignment(mdata["source"], pairs="pair")
