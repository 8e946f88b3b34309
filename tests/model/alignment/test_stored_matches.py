"""What a model stores of its matches can be read again, whatever the score."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from perturbia import datasets, model, tl
from perturbia.model.alignment._alignment_diagnostics import held_out_reliability
from perturbia.model.alignment.coupling_storage import read_coupling


@pytest.fixture(scope="module")
def aligner():
    mdata = datasets.simulate_modalities(n_cells=30, n_perturbations=4, n_latent=3, seed=0)
    rng = np.random.default_rng(0)
    for name in ("source", "target"):
        parts = rng.choice(["train", "valid", "test"], mdata[name].n_obs, p=[0.6, 0.1, 0.3])
        mdata[name].obs["pb_split"] = parts
    model.PropensityAligner.setup_mudata(mdata, perturbation_key="perturbation", control="control")
    trained = model.PropensityAligner(mdata, n_hidden=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # five epochs tell nothing apart
        trained.train(max_epochs=5, enable_progress_bar=False)
    return trained


@pytest.mark.parametrize(
    ("options", "kind"), [({}, None), ({"preset": "paper"}, "logits"), ({"kind": "probs", "floor": 1e-4}, "probs")]
)
def test_the_score_does_not_hide_that_a_coupling_is_stored(aligner, options, kind):
    aligner.align(key_added="matches", **options)
    mdata = aligner.adata
    stored = read_coupling(mdata, "matches")
    assert stored.matrix.sum() == pytest.approx(1, abs=1e-4)
    assert stored.metadata["use_rep"] == {"source": "X_psa", "target": "X_psa"}
    assert stored.metadata.get("score_kind") == kind
    tl.impute(mdata, coupling="matches", key_added="imputed")


def test_cells_that_no_training_saw_are_those_that_are_judged(aligner):
    """Validation cells chose the epoch; test cells, where there are some, say how good it is."""
    obs = {role: aligner.adata[role].obs["pb_split"] for role in ("source", "target")}
    curves = held_out_reliability(aligner)
    for role, parts in obs.items():
        np.testing.assert_array_equal(aligner.held_out_[role], np.flatnonzero(parts == "test"))
        own = curves[curves["modality"] == role]
        assert own["n_cells"].sum() == (parts == "test").sum()
        accuracy = np.average(own["accuracy"], weights=own["n_cells"])
        assert accuracy == pytest.approx(aligner.classification_.loc[role, "accuracy"])


def test_temperatures_pull_confidence_towards_accuracy_or_leave_its_order(aligner):
    aligner.temperatures_["source"], before = 4.0, aligner.temperatures_["source"]
    plain, flat = (held_out_reliability(aligner, n_bins=1, temperature=on) for on in (False, True))
    aligner.temperatures_["source"] = before
    assert flat["confidence"][0] < plain["confidence"][0]
    assert flat["accuracy"][0] == plain["accuracy"][0]
