"""Propensity aligners: what they learn on simulated truth, what must not change it, and how they refuse."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import perturbia as pb
from perturbia.errors import ModalityError, NotTrainedError, SplitError
from perturbia.stats import propensity_scores

ROLES = ("source", "target")
QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}


def trace(model, **options) -> float:
    model.align(key_added=None, **options)
    return pb.tl.evaluate_alignment(model.adata, coupling=model.coupling, pairs="pair")["trace_macro"]


def matrix(coupling) -> np.ndarray:
    return coupling.to_sparse(1.0, 10**6).toarray()


def label_means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.stack([values[codes == code].mean(0) for code in np.unique(codes)])


# what is learnt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_cells_find_their_twins(fit, simulate, seed):
    mdata = simulate(n_cells=150, n_perturbations=12, n_latent=6, seed=seed)
    model = fit(mdata, init={"n_hidden": 256, "seed": seed}, max_epochs=None)
    held_out = model.classification_
    assert (held_out["cross_entropy"] < 2.1).all()
    assert held_out["chance"].tolist() == pytest.approx([np.log(13)] * 2)
    assert trace(model, method="emd") > 0.6  # by chance 1 / 150
    model.align(key_added=None)
    scores = pb.tl.evaluate_alignment(mdata, coupling=model.coupling, pairs="pair", use_rep="truth_latent")
    assert scores["barycentric_mse_macro"] < 0.08


def test_scores_are_log_ratios_of_densities(trained):
    for role in ROLES:
        scores = trained.get_propensity(role)
        truth = trained.adata[role].obsm["truth_log_ratio"]
        names = trained.adata[role].uns["truth"]["names"].tolist()
        truth = truth[:, [names.index(label) for label in trained.labels]]
        assert scores.shape == truth.shape
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores.sum(1), 0, atol=1e-9)
        assert np.corrcoef(scores.ravel(), truth.ravel())[0, 1] > 0.7


def test_a_constant_of_each_cell_ruins_raw_logits_alone(trained, monkeypatch):
    """Networks give logits up to a constant of each cell; here it is as large as it may be."""
    before = {kind: trace(trained, method="emd", kind=kind) for kind in ("log_ratio", "clr", "logits")}
    original = type(trained)._logits

    def with_gauge(self, role, *args, **kwargs):
        logits = original(self, role, *args, **kwargs)
        rng = np.random.default_rng(ROLES.index(role))
        return [one + rng.normal(0, 3, (len(one), 1)) for one in logits]

    monkeypatch.setattr(type(trained), "_logits", with_gauge)
    after = {kind: trace(trained, method="emd", kind=kind) for kind in before}
    assert before["log_ratio"] > 10 / 60
    assert after["log_ratio"] == pytest.approx(before["log_ratio"], abs=0.01)  # float32 rounds otherwise
    assert after["clr"] == pytest.approx(before["clr"], abs=0.01)
    assert after["logits"] < before["logits"] / 2


def test_class_frequencies_of_a_modality_leave_no_trace(fit, simulate):
    """Where target frequencies differ, log-probabilities move with them, one to one, and log-ratios do not.

    Log-ratios of Gaussians are linear in latents, so that a linear classifier of these can learn them exactly.
    """
    mdata = simulate(n_cells=600, n_perturbations=3, prior_shift=8.0)
    linear = {role: torch.nn.Identity() for role in ROLES}
    latents = {"source_rep": "truth_latent", "target_rep": "truth_latent"}
    model = fit(mdata, setup=latents, init={"encoders": linear}, max_epochs=60, lr=0.03, weight_decay=0.0)
    frequency = np.log(np.bincount(model._codes_of("target")))
    slope = {}
    for kind in ("clr", "log_ratio"):
        means = {role: label_means(model.get_propensity(role, kind=kind), model._codes_of(role)) for role in ROLES}
        slope[kind] = np.polyfit(frequency, (means["target"] - means["source"]).mean(0), 1)[0]
    assert slope["clr"] == pytest.approx(1, abs=0.2)
    assert slope["log_ratio"] == pytest.approx(0, abs=0.2)
    names = mdata.uns["truth"]["names"].tolist()
    truth = mdata["target"].obsm["truth_log_ratio"][:, [names.index(label) for label in model.labels]]
    error = model.get_propensity("target") - truth
    assert (error**2).mean() < 0.1 * (truth**2).mean()


# seeds ------------------------------------------------------------------------------------------------------------


def test_a_seed_is_a_seed_and_global_generators_stay_as_they_are(fit, simulate):
    torch.manual_seed(3)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, same, other = (
        fit(simulate(), init={"seed": seed, "n_folds": 2}).get_propensity("target") for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


# temperature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", ["auto", True, False])
def test_temperature(fit, simulate, temperature):
    model = fit(simulate(), temperature=temperature)
    low, high = sorted(model.temperatures_.values())
    assert model.use_temperature_ == (high / low > 1.25 if temperature == "auto" else temperature)
    logits = model.get_propensity("source", kind="logits")
    by = model.temperatures_["source"] if model.use_temperature_ else 1.0
    expected = propensity_scores(logits, kind="clr", temperature=by)
    np.testing.assert_allclose(model.get_propensity("source", kind="clr"), expected)
    assert model.classification_["temperature"].to_dict() == model.temperatures_


# splits and folds -------------------------------------------------------------------------------------------------


def test_marked_cells_train_stop_and_judge(fit, simulate):
    mdata = simulate()
    rng = np.random.default_rng(0)
    parts = rng.permutation(np.repeat(["train", "valid", "test"], [50, 20, 30]))
    mdata["source"].obs["pb_split"] = pd.Categorical(parts)
    model = fit(mdata)
    codes = model._codes_of("source")
    (classifier,) = model._classifiers("source")
    np.testing.assert_array_equal(classifier.class_counts.numpy(), np.bincount(codes[parts == "train"]))
    trained_on = mdata["source"].X[parts == "train"]
    np.testing.assert_allclose(classifier.mean.numpy(), trained_on.mean(0), atol=1e-5)
    np.testing.assert_allclose(classifier.scale.numpy(), trained_on.std(0), rtol=1e-4)
    assert model.classification_.loc["source", "n_cells"] == 30
    assert model.classification_.loc["target", "n_cells"] == 10  # not marked: a tenth of the cells
    mdata["source"].obs["pb_split"] = np.where(parts == "test", "test", "train")
    unstopped = fit(mdata)  # no cell is marked to say when to stop: a tenth of those that train are
    assert unstopped._classifiers("source")[0].class_counts.sum() == pytest.approx(63, abs=3)
    assert len(unstopped.splits_["source"][1]) == pytest.approx(7, abs=3)
    assert unstopped.classification_.loc["source", "n_cells"] == 30
    ignoring = fit(mdata, split_key=None)
    assert ignoring._classifiers("source")[0].class_counts.sum() == 90


def test_scores_of_folds_are_those_of_the_classifier_that_did_not_see_them(fit, simulate):
    mdata = simulate(n_cells=30)
    model = fit(mdata, init={"n_folds": 3})
    folds, codes = model.folds_["source"], model._codes_of("source")
    table = pd.crosstab(codes, folds)
    assert (table == 10).all(axis=None)  # the same share of every label
    scores = model.get_propensity("source", kind="logits")
    x = torch.as_tensor(mdata["source"].X)
    for k, classifier in enumerate(model._classifiers("source")):
        assert classifier.class_counts.sum() == 90  # nine tenths of the other two folds
        seen = mdata["source"].X[folds != k]
        assert not np.allclose(classifier.mean.numpy(), mdata["source"].X.mean(0), atol=1e-4)
        np.testing.assert_allclose(classifier.mean.numpy(), seen.mean(0), atol=0.3)
        with torch.no_grad():
            np.testing.assert_allclose(scores[folds == k], classifier(x).numpy()[folds == k], rtol=1e-5, atol=1e-5)
    assert model.classification_["held_out"].all()
    assert model.classification_["n_cells"].tolist() == [150, 150]


def test_groups_stay_in_one_fold(fit, simulate):
    mdata = simulate(n_cells=24)
    for role in ROLES:
        mdata[role].obs["plate"] = np.tile(["p1", "p2", "p3", "p4"], 30)
    by_argument = fit(mdata, init={"n_folds": 2}, group_key="plate")
    by_registration = fit(mdata, setup={"batch_key": "plate"}, init={"n_folds": 2})
    for model in (by_argument, by_registration):
        for role in ROLES:
            assert (pd.crosstab(mdata[role].obs["plate"], model.folds_[role]) > 0).sum(1).eq(1).all()
            assert set(model.folds_[role]) == {0, 1}
    with pytest.raises(SplitError, match="at least n_folds=5 groups, got 4"):
        fit(mdata, init={"n_folds": 5}, group_key="plate")
    with pytest.raises(KeyError, match="donor"):
        fit(mdata, init={"n_folds": 2}, group_key="donor")


# encoders ---------------------------------------------------------------------------------------------------------


class Convolution(torch.nn.Module):
    """A small network for images, with batch norm, which cannot take a batch of one cell."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(1, 3, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Flatten()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x[:, None])


def test_an_encoder_of_ones_own(fit, simulate):
    mdata, encoder = simulate(), Convolution()
    weights = encoder.layers[0].weight.detach().clone()
    model = fit(mdata, init={"encoders": {"target": encoder}, "n_folds": 2}, batch_size=44)  # 45 cells: 44 and 1
    assert torch.equal(encoder.layers[0].weight, weights)  # a copy was trained
    first, second = model._classifiers("target")
    assert not torch.equal(first.encoder.layers[0].weight, second.encoder.layers[0].weight)
    assert first.head.in_features == 3 * 28
    assert np.isfinite(model.get_propensity("target")).all()
    assert matrix(model.align()).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoders": {"rna": torch.nn.Identity()}}, ModalityError, "modality: expected one of"),
        ({"encoders": {"source": torch.nn.Flatten(0)}}, ValueError, "encoders: expected a module"),
        ({"n_hidden": 0}, ValueError, "n_hidden"),
        ({"n_layers": 1.5}, ValueError, "n_layers"),
        ({"n_folds": 0}, ValueError, "n_folds"),
        ({"dropout_rate": 1.0}, ValueError, "dropout_rate"),
    ],
)
def test_impossible_models(simulate, options, error, message):
    mdata = simulate()
    pb.model.PropensityAligner.setup_mudata(mdata)
    with pytest.raises(error, match=message):
        pb.model.PropensityAligner(mdata, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs"),
        ({"batch_size": 2.5}, ValueError, "batch_size"),
        ({"patience": 0}, ValueError, "patience"),
        ({"train_size": 0.0}, ValueError, "train_size"),
        ({"train_size": 1.2}, ValueError, "train_size"),
        ({"temperature": "yes"}, ValueError, "temperature"),
        ({"split_key": "fold"}, SplitError, "split_key: expected a column"),
    ],
)
def test_impossible_training_leaves_the_model_untrained(fit, simulate, options, error, message):
    mdata = simulate()
    pb.model.PropensityAligner.setup_mudata(mdata)
    model = pb.model.PropensityAligner(mdata, n_hidden=16)
    with pytest.raises(error, match=message):
        model.train(**QUIET, **options)
    assert not model.is_trained_
    for use in (lambda: model.get_propensity("source"), model.align, model.diagnose, model.check_batches):
        with pytest.raises(NotTrainedError, match="train"):
            use()


def test_a_split_without_training_cells_is_refused(fit, simulate):
    mdata = simulate()
    mdata["target"].obs["pb_split"] = "test"
    with pytest.raises(SplitError, match="marked 'train'"):
        fit(mdata)


# warnings ---------------------------------------------------------------------------------------------------------


def warned(caught) -> str:
    return " ".join(str(one.message) for one in caught if one.category is UserWarning)


def test_what_can_not_be_told_apart_is_said(simulate):
    mdata = simulate()
    mdata["target"].X = np.random.default_rng(0).normal(size=mdata["target"].shape).astype(np.float32)
    pb.model.PropensityAligner.setup_mudata(mdata)
    model = pb.model.PropensityAligner(mdata, n_hidden=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train(max_epochs=20, **QUIET)
    assert "'target' does not tell perturbations apart" in warned(caught)
    assert "'source' does not tell" not in warned(caught)


def test_few_labels_and_features_that_are_targets_are_said(fit, simulate):
    mdata = simulate(n_perturbations=2)
    dosed = {"control": "control", "P01": "P01@0.5", "P02": "P03+P02"}
    for role in ROLES:
        mdata[role].obs["perturbation"] = mdata[role].obs["perturbation"].astype(str).map(dosed)
        mdata[role].var_names = ["P01", "P02", "P03", "other", *mdata[role].var_names[4:]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(mdata)
    said = warned(caught)
    assert "3 shared labels give scores of 2 dimension(s)" in said
    assert said.count("3 feature(s) are targets of perturbations: 'P01', 'P02', 'P03'") == 2
    mdata = simulate()
    mdata["source"].obsm["X_rep"] = mdata["source"].X.copy()
    mdata["source"].var_names = ["P01", *mdata["source"].var_names[1:]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(mdata, setup={"source_rep": "X_rep"})  # what a representation is made of is not known
    assert "targets of perturbations" not in warned(caught)
    assert "shared labels give" not in warned(caught)


# matching ---------------------------------------------------------------------------------------------------------


def test_the_published_settings(trained):
    paper = matrix(trained.align(preset="paper", key_added="paper"))
    spelled = {"kind": "logits", "cost": "euclidean", "scale_cost": None, "epsilon": 0.05, "centre": False}
    np.testing.assert_array_equal(paper, matrix(trained.align(key_added=None, **spelled)))
    stored = trained.adata.uns["paper"]
    assert (stored["preset"], stored["cost"], stored["epsilon"]) == ("paper", "euclidean", 0.05)
    assert not np.allclose(paper, matrix(trained.align(key_added=None)))
    with pytest.raises(ValueError, match="preset: expected 'paper'"):
        trained.align(preset="published")


@pytest.mark.parametrize("method", ["ot", "emd", "snn", "gw", "random"])
def test_every_method_matches_within_labels(fit, simulate, method):
    model = fit(simulate(n_cells=12))
    coupling = model.align(method=method, key_added=None, epsilon=0.1)
    joint = matrix(coupling)
    assert joint.sum() == pytest.approx(1, abs=1e-3)
    source, target = (model._codes_of(role) for role in ROLES)
    assert joint[source[:, None] != target].sum() == 0
    assert coupling.groups == model.labels


def test_centring_leaves_exact_plans_as_they_are(trained):
    plans = [matrix(trained.align(method="emd", centre=centre, key_added=None)) for centre in (True, False)]
    assert (plans[0] != plans[1]).mean() < 1e-3
    assert trace(trained, method="emd", n_components=4) > 5 / 60
    assert trace(trained, method="emd", n_components=None) == trace(trained, method="emd", n_components=9)


def test_what_alignment_writes(trained):
    coupling = trained.align(key_added="psa")
    mdata = trained.adata
    assert mdata.obsp["psa"].dtype == np.float32
    assert mdata.uns["psa"]["model"] == "PropensityAligner"
    for role in ROLES:
        scores = trained.get_propensity(role).astype(np.float32)
        np.testing.assert_array_equal(mdata[role].obsm["X_psa"], scores)
    effective, cost = (mdata["source"].obs[f"psa_{name}"].to_numpy() for name in ("n_eff", "cost"))
    rows = coupling.rows([0, 7]).toarray()
    entropy = -(rows * np.log(np.where(rows > 0, rows, 1))).sum(1)
    np.testing.assert_allclose(effective[[0, 7]], np.exp(entropy), rtol=1e-4)
    assert (cost >= 0).all()
    assert mdata["target"].obs["psa_hubness"].mean() == pytest.approx(1, abs=1e-3)


def test_a_coupling_before_alignment(fit, simulate):
    model = fit(simulate())
    model.align(key_added=None)
    assert model.coupling.shape == (100, 100)
    model.train(max_epochs=1, **QUIET)  # another training, other scores
    assert not hasattr(model, "coupling")
    with pytest.raises(NotTrainedError, match="Call .align"):
        _ = model.coupling
    with pytest.raises(NotTrainedError, match="Call .align"):
        model.translate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gale-shapley"}, "method: expected one of"),
        ({"kind": "softmax"}, "kind: expected one of"),
        ({"floor": 2.0}, "floor"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"cost": "manhattan"}, "cost"),
        ({"keep": (2.0, 100)}, "mass: expected a share"),
        ({"keep": (0.9, 0)}, "max_entries"),
        ({"device": "abacus"}, "device"),
        ({"unbalanced": (0.0, 1.0)}, "unbalanced"),
    ],
)
def test_impossible_alignments_write_nothing(fit, simulate, options, message):
    mdata = simulate()
    model = fit(mdata)
    before = {role: (list(mdata[role].obs), list(mdata[role].obsm), list(mdata[role].uns)) for role in ROLES}
    before["all"] = (list(mdata.obsp), list(mdata.uns))
    with pytest.raises(ValueError, match=message):
        model.align(**options)
    after = {role: (list(mdata[role].obs), list(mdata[role].obsm), list(mdata[role].uns)) for role in ROLES}
    assert {**after, "all": (list(mdata.obsp), list(mdata.uns))} == before


@pytest.mark.parametrize("names", [("source", "target"), ("target", "source"), ("rna", "image"), ("cells", "n_cells")])
def test_modalities_may_have_any_name(fit, simulate, names):
    """Even that of the other role, or what registries call numbers of cells."""
    import mudata

    plain = simulate()
    mdata = mudata.MuData(dict(zip(names, (plain["source"].copy(), plain["target"].copy()), strict=True)))
    roles = dict(zip(ROLES, names, strict=True))
    model = fit(mdata, setup={"modalities": roles})
    assert model.modalities == roles
    assert model.classification_.index.tolist() == list(names)
    reference = fit(plain)
    for role, name in roles.items():
        np.testing.assert_array_equal(model.get_propensity(name), reference.get_propensity(role))
    np.testing.assert_array_equal(matrix(model.align()), matrix(reference.align()))
    np.testing.assert_array_equal(mdata[names[1]].obsm["X_psa"], plain["target"].obsm["X_psa"])
    assert model.diagnose(n_permutations=20)["n_effective"].notna().all()
    training = {"max_epochs": 1, "n_hidden": 4, "accelerator": "cpu", "enable_progress_bar": False}
    widths = {names[0]: 40, names[1]: 30}
    for source, target, known in (
        (None, None, names[0]),
        (names[1], None, names[1]),
        (None, names[0], names[1]),
        (names[0], names[1], names[0]),
    ):
        translator = model.translate(source, target, **training)
        wanted = names[1 - names.index(known)]
        assert translator.predict(np.zeros((2, widths[known]))).shape == (2, widths[wanted])
    with pytest.raises(ValueError, match="target: expected the other modality"):
        model.translate(names[0], names[0])
    with pytest.raises(ModalityError, match="modality: expected one of"):
        model.get_propensity("protein")
