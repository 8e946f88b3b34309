"""What each option of the model does, on screens whose truth has what the option is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import perturbia as pb
from perturbia.errors import LabelError, UnsupportedQuery

from .conftest import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable

N_GENES, N_LATENT = 40, 3


def screen_of(latent: np.ndarray, labels: list[str], *, own: np.ndarray | None = None, seed: int = 0) -> ad.AnnData:
    """Counts of cells with known total latents, a log-linear decoder, and shifts of log expression besides."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=N_GENES) * 0.5 + latent @ rng.normal(0, 0.6, (N_LATENT, N_GENES))
    if own is not None:
        logits = logits + own
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = rng.poisson(share * 800 * rng.gamma(8, 1 / 8, share.shape)).astype(np.float32)
    names = [f"g{i}" for i in range(N_GENES)]
    obs = pd.DataFrame({"perturbation": labels}, index=[str(i) for i in range(len(labels))])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=names))


def trained_on(adata: ad.AnnData, *, setup: dict | None = None, steps: int = 600, **init: Any) -> pb.model.SAMSVAE:
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", **(setup or {}))
    model = pb.model.SAMSVAE(adata, n_latent=N_LATENT, n_hidden=32, **init)
    model.train(max_steps=steps, batch_size=128, train_size=1.0, **QUIET)
    return model


def test_exponents_of_doses_are_found() -> None:
    rng = np.random.default_rng(1)
    doses, n = np.array([0.1, 0.3, 1.0, 3.0]), 150
    truth = {"A": 0.4, "B": 1.0}
    shift = {"A": np.array([2.0, 0, 0]), "B": np.array([0, 1.2, 0])}
    blocks, labels = [rng.normal(size=(400, N_LATENT))], ["control"] * 400
    for name, exponent in truth.items():
        for dose in doses:
            blocks.append(rng.normal(size=(n, N_LATENT)) + shift[name] * dose**exponent)
            labels += [f"{name}@{dose:g}"] * n
    adata = screen_of(np.concatenate(blocks), labels)
    model = trained_on(adata.copy(), dose_response="power", steps=800)
    found = model.get_dose_exponents()
    assert abs(found["A"] - 0.4) < 0.15
    assert abs(found["B"] - 1.0) < 0.3
    linear = trained_on(adata.copy(), steps=800)
    assert (linear.get_dose_exponents() == 1).all()

    def error(one: pb.model.SAMSVAE) -> float:
        observed = pb.tl.effects(adata)[["A@0.1", "A@3"]]
        return float(((one.estimate_ate(["A@0.1", "A@3"], n_draws=0).X - observed.X) ** 2).mean())

    assert error(model) < 0.7 * error(linear)
    # the shift of a dose is the exponent's power of it
    latents = [
        model.get_latent_representation(
            kind="perturbation", indices=np.flatnonzero(adata.obs["perturbation"] == f"A@{d:g}")[:1]
        )
        for d in (0.1, 1.0)
    ]
    np.testing.assert_allclose(latents[0], latents[1] * 0.1 ** found["A"], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def pairs() -> ad.AnnData:
    """A and B add up, A and C cancel beyond their sum."""
    rng = np.random.default_rng(2)
    shift = {"A": [1.5, 0, 0], "B": [0, 1.5, 0], "C": [0, 0, 1.5], "A+B": [1.5, 1.5, 0], "A+C": [1.5, -2.0, 1.5]}
    labels = ["control"] * 400 + [name for name in shift for _ in range(250)]
    latent = rng.normal(size=(len(labels), N_LATENT)) + np.array([shift.get(label, [0, 0, 0]) for label in labels])
    return screen_of(latent, labels)


def test_interactions_are_found_where_they_are(pairs: ad.AnnData) -> None:
    model = trained_on(pairs.copy(), interactions="observed", steps=800)
    size = np.linalg.norm(model.get_interactions(), axis=1)
    assert model.get_interactions().index.tolist() == ["A+B", "A+C"]
    assert size[1] > 1
    assert size[1] > 3 * size[0]  # what bends in the encoder leaks a little
    assert (model.get_interactions(kind="prob").loc["A+C"] > 0.9).any()
    assert model.get_treatment_masks().index.tolist() == ["A", "B", "C"]
    additive = trained_on(pairs.copy(), steps=800)
    assert additive.get_interactions().shape == (0, N_LATENT)
    observed = pb.tl.effects(pairs)[["A+C"]].X
    errors = [float(((m.estimate_ate(["A+C"], n_draws=0).X - observed) ** 2).mean()) for m in (model, additive)]
    assert errors[0] < 0.5 * errors[1]


def test_a_pair_without_cells_does_not_interact(pairs: ad.AnnData, tmp_path) -> None:
    model = trained_on(pairs.copy(), interactions=["B+C", "C+A"], steps=100)
    assert model.get_interactions().index.tolist() == ["A+C", "B+C"]
    np.testing.assert_array_equal(model.get_interactions().loc["B+C"], 0)
    np.testing.assert_allclose(model.get_interactions(kind="prob").loc["B+C"], 0.01, rtol=1e-4)
    model.save(tmp_path / "model")
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=False)
    pd.testing.assert_frame_equal(loaded.get_interactions(), model.get_interactions())


def test_own_targets_are_found(tmp_path) -> None:
    rng = np.random.default_rng(3)
    labels = ["control"] * 500 + [f"g{i}" for i in range(4) for _ in range(150)]
    latent = rng.normal(size=(len(labels), N_LATENT))
    latent[500:650] += [1.5, 0, 0]
    own = np.zeros((len(labels), N_GENES))
    for i in range(4):
        own[500 + 150 * i : 650 + 150 * i, i] = -2.0 if i < 3 else 0.0
    adata = screen_of(latent, labels, own=own)
    model, plain = trained_on(adata.copy()), trained_on(adata.copy(), target_effect=False)
    found = model.get_target_effects()
    assert found["feature"].tolist() == found.index.tolist() == ["g0", "g1", "g2", "g3"]
    np.testing.assert_allclose(found["shift"], [-2, -2, -2, 0], atol=0.5)
    assert len(plain.get_target_effects()) == 0
    observed = pb.tl.effects(adata)[["g1"]].X[0]
    assert abs(model.estimate_ate(["g1"], n_draws=0).X[0, 1] - observed[1]) < 0.15
    assert abs(plain.estimate_ate(["g1"], n_draws=0).X[0, 1] - observed[1]) > 0.3
    # every way to cells under the perturbation knows of it
    controls = np.flatnonzero(adata.obs["perturbation"] == "control")
    latents = model.encode(indices=controls)
    assert "pb_dosage" not in latents.obsm
    changed = model.decode(model.perturb(latents, "g1")).X.mean(0) - model.decode(latents).X.mean(0)
    np.testing.assert_allclose(changed[1], observed[1], atol=0.2)
    sampled = np.log1p(1e4 * model.sample("g1", 3000).X / model.sample("g1", 3000).X.sum(1, keepdims=True)).mean(0)
    assert sampled[1] < np.log1p(1e4 * model.sample("control", 3000).X / 800).mean(0)[1] - 0.5
    # back at the control, nothing is left of it
    np.testing.assert_allclose(model.decode(model.perturb(latents, "control")).X, model.decode(latents).X, atol=1e-5)
    model.save(tmp_path / "model")
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(
        loaded.decode(loaded.perturb(latents, "g1")).X, model.decode(model.perturb(latents, "g1")).X
    )


def test_features_tell_what_unseen_perturbations_do() -> None:
    """Shifts are linear in features: held-out targets are predicted, without features they do nothing."""
    rng = np.random.default_rng(4)
    names = [f"p{i:02d}" for i in range(24)]
    features = rng.normal(size=(24, 4))
    shifts = features @ rng.normal(0, 0.8, (4, N_LATENT))
    labels = ["control"] * 400 + [name for name in names for _ in range(60)]
    latent = rng.normal(size=(len(labels), N_LATENT))
    latent[400:] += np.repeat(shifts, 60, axis=0)
    adata = screen_of(latent, labels)
    held_out = names[-6:]
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"].isin(held_out), "test", "train")
    embedding = pd.DataFrame(features, index=names)
    informed, blind = trained_on(adata.copy(), perturbation_embedding=embedding), trained_on(adata.copy())
    observed = pb.tl.effects(adata)[held_out].X
    predicted = informed.estimate_ate(held_out, n_draws=0).X
    assert np.corrcoef(predicted.ravel(), observed.ravel())[0, 1] > 0.8
    assert ((predicted - observed) ** 2).sum() < 0.5 * (observed**2).sum()
    assert np.abs(blind.estimate_ate(held_out, n_draws=0).X).max() < 1e-5
    assert "unseen_perturbation" in informed.capabilities
    assert "unseen_perturbation" not in blind.capabilities
    # seen ones lose nothing
    seen = names[:6]
    truth = pb.tl.effects(adata)[seen].X
    for model in (informed, blind):
        assert np.corrcoef(model.estimate_ate(seen, n_draws=0).X.ravel(), truth.ravel())[0, 1] > 0.95


def test_features_without_meaning_predict_little() -> None:
    rng = np.random.default_rng(5)
    names = [f"p{i:02d}" for i in range(24)]
    labels = ["control"] * 300 + [name for name in names for _ in range(40)]
    latent = rng.normal(size=(len(labels), N_LATENT))
    latent[300:] += np.repeat(rng.normal(0, 1.5, (24, N_LATENT)), 40, axis=0)
    adata = screen_of(latent, labels)
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"].isin(names[-6:]), "test", "train")
    noise = pd.DataFrame(rng.normal(size=(24, 3)), index=names)
    model = trained_on(adata.copy(), perturbation_embedding=noise, steps=400)
    observed = pb.tl.effects(adata)[names[-6:]].X
    predicted = model.estimate_ate(names[-6:], n_draws=0).X
    assert (predicted**2).sum() < 0.25 * (observed**2).sum()


@pytest.mark.parametrize("kind", ["learned", "beta"])
def test_rates_of_masks_follow_the_screen(kind: str) -> None:
    """Sparse and dense perturbations in one screen."""
    rng = np.random.default_rng(6)
    labels = ["control"] * 400 + [f"p{i}" for i in range(8) for _ in range(150)]
    latent = rng.normal(size=(len(labels), N_LATENT))
    latent[400:1000] += np.repeat(rng.choice([-1.5, 1.5], (4, N_LATENT)), 150, axis=0)  # p0 to p3 move everything
    model = trained_on(screen_of(latent, labels), mask_prior=kind, mask_prior_prob=0.2)
    rates = model.module.effects.mask_prior.log_open.exp()[:, 0].numpy()
    if kind == "learned":
        assert np.ptp(rates) == 0
        inclusion = model.module.effects.inclusion.detach().numpy()
        np.testing.assert_allclose(rates[0], (inclusion.sum() + 2) / (inclusion.size + 10), atol=0.02)
    else:
        assert rates[:4].min() > rates[4:].max()
    assert (model.get_treatment_masks().iloc[:4] > 0.9).any(axis=1).all()
    # what leaks into perturbations that do nothing is small
    assert (model.get_treatment_embeddings().iloc[4:].abs() < 0.3).all(axis=None)


def test_the_informed_guide_reads_the_shift(screen: ad.AnnData, fit: Callable) -> None:
    """Counts alone do not decide its latents: the same counts under another label encode elsewhere."""
    model = fit(screen, init={"basal_encoder": "informed"}, max_steps=200)
    module = model.module
    tensors = next(iter(model._make_data_loader(adata=model.adata, indices=np.arange(30), batch_size=30)))
    inputs = module._get_inference_input(tensors)
    given, _ = inputs.pop("given"), inputs.pop("size_factor")
    with torch.no_grad():
        offset = module.effects.offset(module.design(given))[0]
        here, there = (module.encode(offset=shift, **inputs).loc for shift in (offset, offset + 1))
    assert (here - there).abs().max() > 1e-3
    total = model.get_latent_representation(indices=np.arange(30))
    np.testing.assert_allclose(total, here, atol=1e-5)
    assert np.isfinite(model.get_iwelbo(indices=range(30), n_particles=4)).all()


def test_running_sums_find_what_remembered_encodings_find(screen: ad.AnnData, fit: Callable) -> None:
    options = {"max_steps": 500, "train_size": 1.0}
    remembered = fit(screen.copy(), **options)
    running = fit(screen.copy(), statistics="running", **options)
    one, other = (model.estimate_ate(n_draws=0).X for model in (remembered, running))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97


def test_running_sums_are_exact_when_nothing_changes() -> None:
    """With one encoder and a window of many epochs they are the sums over the cells."""
    from scipy import sparse

    from perturbia.model.mechanism._encoded_cells import RunningCells
    from perturbia.nn import GivenTreatments

    rng = np.random.default_rng(0)
    dosage = rng.choice([0.0, 0.5, 1.0], (120, 4), p=[0.6, 0.2, 0.2])
    means = rng.normal(size=(120, 2))
    batches = [
        (GivenTreatments.of_doses(torch.from_numpy(dosage[rows])), torch.from_numpy(means[rows]))
        for rows in np.array_split(np.arange(120), 7)
    ]
    cells, turned = (RunningCells(lambda: iter(batches), window=1e9) for _ in range(2))
    design = sparse.csr_matrix(dosage)
    for one in (cells, turned):
        for batch in batches * 2:
            one.observe(*batch)
        np.testing.assert_allclose(one.cross(design), dosage.T @ means, rtol=1e-6)
        one.observe(*batches[0])
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    turned.rotate(turn)
    np.testing.assert_allclose(turned.cross(design), cells.cross(design) @ turn, rtol=1e-6)
    np.testing.assert_allclose(cells.exact(design), dosage.T @ means, rtol=1e-6)
    fading = RunningCells(lambda: iter(batches), window=10.0)
    fading.observe(batches[0][0], batches[0][1] + 100)
    fading.cross(design)
    for batch in batches:
        fading.observe(*batch)
    np.testing.assert_allclose(fading.cross(design), dosage.T @ means, atol=0.05)


def test_the_best_networks_are_kept(screen: ad.AnnData, fit: Callable) -> None:
    """A training that overfits ends at a lower validation bound with `keep="best"`, on converged masks."""
    options = {"max_epochs": 300, "train_size": 0.15, "check_val_every_n_epoch": 3, "plan_kwargs": {"lr": 0.02}}
    last, best = (fit(screen.copy(), keep=keep, init={"n_hidden": 128}, **options) for keep in ("last", "best"))
    curve = last.history["elbo_validation"]["elbo_validation"].astype(float)
    assert curve.min() < curve.iloc[-1] - 0.5

    def bound(model: pb.model.SAMSVAE) -> float:
        return float(model.get_iwelbo(indices=model.validation_indices, n_particles=30, return_mean=True))

    assert bound(best) > bound(last) + 0.05


def test_intervals_hold_the_draws(trained: pb.model.SAMSVAE) -> None:
    wide = trained.estimate_ate(["P01", "P01+P02"], n_draws=400, interval=0.9)
    narrow = trained.estimate_ate(["P01", "P01+P02"], n_draws=400, interval=0.5)
    assert (wide.layers["lower"] <= narrow.layers["lower"] + 1e-6).all()
    assert (wide.layers["upper"] >= narrow.layers["upper"] - 1e-6).all()
    normal = (wide.layers["upper"] - wide.layers["lower"]) / wide.layers["sd"].clip(1e-9) / (2 * 1.645)
    assert 0.6 < np.median(normal) < 1.3
    # a perturbation alone has the interval that it has among others
    alone = trained.estimate_ate(["P01"], n_draws=400, interval=0.9)
    np.testing.assert_array_equal(alone.layers["lower"][0], wide.layers["lower"][0])
    combined = trained.estimate_ate(["P01"], n_draws=400, interval=0.9, combine="shrunk_residual")
    moved = combined.X - alone.X
    np.testing.assert_allclose(combined.layers["upper"], alone.layers["upper"] + moved, atol=1e-5)
    for options, match in (
        ({"interval": 1.0}, "interval: expected a probability"),
        ({"interval": 0.9}, "n_draws: expected at least 20 draws for an interval of 0.9, got 10"),
    ):
        with pytest.raises(ValueError, match=match):
            trained.estimate_ate(["P01"], **options)


def test_many_basal_states_come_in_blocks(trained: pb.model.SAMSVAE, monkeypatch) -> None:
    """Blocks change the noise, not the estimate nor its standard error."""
    from perturbia.model.mechanism import _ate

    whole = trained.estimate_ate(base="prior", n_cells=512, n_draws=0)
    monkeypatch.setattr(_ate, "_BLOCK", 128)
    blocks = trained.estimate_ate(base="prior", n_cells=512, n_draws=0)
    difference = np.abs(blocks.X - whole.X) / np.maximum(whole.layers["se"], 1e-6)
    assert np.median(difference) < 1
    np.testing.assert_allclose(np.median(blocks.layers["se"]), np.median(whole.layers["se"]), rtol=0.1)


PUBLISHED = {"basal_encoder": "correlated", "global_kl": "plated", "embedding_guide": "correlated"}


def test_the_published_guide_finds_effects(pairs: ad.AnnData, tmp_path) -> None:
    """They are those of the cells, expectations agree with draws, and a saved model answers the same."""
    adata = pairs[pairs.obs["perturbation"] != "A+C"].copy()  # effects that add up
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.SAMSVAE(adata, n_latent=5, n_hidden=32, n_particles=5, **PUBLISHED)
    model.train(max_steps=1500, batch_size=128, plan_kwargs={"lr": 5e-3, "global_lr_factor": 3.0}, **QUIET)
    ate = model.estimate_ate(["A", "B", "C"], n_draws=0)
    assert np.corrcoef(ate.X.ravel(), pb.tl.effects(adata)[["A", "B", "C"]].X.ravel())[0, 1] > 0.9
    drawn = model.estimate_ate(["A", "B", "C"], n_draws=200)
    assert np.corrcoef(ate.X.ravel(), drawn.X.ravel())[0, 1] > 0.95
    assert np.isfinite(drawn.layers["sd"]).all()
    assert np.isfinite(model.history["kl_global_train"].to_numpy(dtype=float)).all()
    model.save(tmp_path / "model")
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=adata)
    np.testing.assert_array_equal(loaded.estimate_ate(["A", "B", "C"], n_draws=0).X, ate.X)
    with pytest.raises(ValueError, match="rotation: expected 'none' with embedding_guide='correlated'"):
        model.train(max_steps=5, rotation="l1", **QUIET)


@pytest.mark.parametrize(
    ("init", "error", "match"),
    [
        ({"mask_prior": "flat"}, ValueError, "mask_prior: expected one of 'fixed', 'learned', 'beta'"),
        ({"dose_response": "hill"}, ValueError, "dose_response: expected one of 'linear', 'power'"),
        ({"interaction_prior_prob": 0}, ValueError, "interaction_prior_prob: expected a probability"),
        ({"interactions": "all"}, ValueError, "interactions: expected one of 'none', 'observed', got 'all'"),
        ({"interactions": ["P01"]}, LabelError, "interactions: expected pairs of registered perturbations"),
        ({"interactions": ["P01+P99"]}, LabelError, r"interactions: .* got 'P01\+P99'"),
        ({"target_effect": True}, LabelError, "target_effect: expected perturbations that are named after a feature"),
        ({"target_effect": {"P01": "nothing"}}, LabelError, "target_effect: expected registered .* got 'nothing'"),
        ({"target_effect": "yes"}, LabelError, "target_effect: expected 'auto', a truth value or a mapping"),
        ({"perturbation_embedding": np.ones((2, 2))}, LabelError, "perturbation_embedding: expected a data frame"),
        (
            {"perturbation_embedding": np.ones((4, 2)), "mask_prior": "beta"},
            ValueError,
            "mask_prior: expected 'fixed' with perturbation_embedding",
        ),
        (
            {"perturbation_embedding": np.ones((4, 2)), "basal_encoder": "correlated"},
            ValueError,
            "global_update: expected 'closed_form' with perturbation_embedding",
        ),
        (
            {"embedding_guide": "correlated", "global_kl": "plated"},
            ValueError,
            "basal_encoder: expected 'correlated' or 'mean_field' with embedding_guide='correlated', got 'residual'",
        ),
        (
            {"embedding_guide": "correlated", "basal_encoder": "correlated"},
            ValueError,
            "global_kl: expected 'plated' with embedding_guide='correlated', got 'closed'",
        ),
    ],
)
def test_bad_options(screen: ad.AnnData, init: dict, error: type, match: str) -> None:
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    with pytest.raises(error, match=match):
        pb.model.SAMSVAE(screen, n_latent=2, n_hidden=8, **init)


# extension ---------------------------------------------------------------------------------------------------------


ROWS = ("mask_logit", "mean", "log_sd")


@pytest.mark.parametrize(
    "init",
    [
        {},
        {"mask_prior": "beta"},
        {"mask_prior": "learned"},
        {"interactions": ["P01+P02", "P01+P03"]},
        {"basal_encoder": "informed"},
        {"basal_encoder": "correlated"},
        {"basal_encoder": "correlated", "global_kl": "plated", "embedding_guide": "correlated"},
        {"global_update": "gradient"},
        {"dose_response": "power"},
    ],
    ids=str,
)
def test_extension_leaves_what_is_known(screen: ad.AnnData, fit: Callable, init: dict, tmp_path) -> None:
    labels = screen.obs["perturbation"].astype(str)
    new = labels.str.contains("P02|P04")  # one in the middle, one at the end of the names
    known = screen[(~new).to_numpy()].copy()
    kept = {**init, "interactions": ["P01+P03"]} if "interactions" in init else init
    model = fit(known, init=kept, max_steps=300)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    later = screen[(new | (labels == "control")).to_numpy()].copy()
    extended = model.extend_treatments(later, max_steps=50, **QUIET)
    assert extended.perturbations == [*model.perturbations, "P02", "P04"]
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    after, n = extended.module.state_dict(), len(model.perturbations)
    for name, value in before.items():
        mine = after[name] if after[name].shape == value.shape else after[name][:n]
        assert torch.equal(mine, value[: len(mine)] if value.ndim else value), name
    one, other = (m.estimate_ate(["P01"], base="prior", n_draws=0).X for m in (model, extended))
    np.testing.assert_array_equal(one, other)
    effect = pb.tl.effects(screen)[["P02", "P04"]].X
    found = extended.estimate_ate(["P02", "P04"], n_draws=0).X
    if init.get("basal_encoder") != "correlated" and init.get("global_update") != "gradient":
        assert np.corrcoef(found.ravel(), effect.ravel())[0, 1] > 0.5
    assert np.abs(found).max() > 1e-4
    extended.save(tmp_path / "model")
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=later)
    np.testing.assert_array_equal(
        loaded.estimate_ate(["P02"], n_draws=0).X, extended.estimate_ate(["P02"], n_draws=0).X
    )


def test_extension_of_features_and_targets() -> None:
    rng = np.random.default_rng(7)
    names = [f"g{i}" for i in range(10)]
    features = rng.normal(size=(10, 2))
    labels = ["control"] * 300 + [name for name in names for _ in range(80)]
    latent = rng.normal(size=(len(labels), N_LATENT))
    latent[300:] += np.repeat(features @ rng.normal(0, 1, (2, N_LATENT)), 80, axis=0)
    own = np.zeros((len(labels), N_GENES))
    for i in range(10):
        own[300 + 80 * i : 380 + 80 * i, i] = -2.0
    adata = screen_of(latent, labels, own=own)
    new = adata.obs["perturbation"].isin(["g3", "g7"])
    embedding = pd.DataFrame(features, index=names)
    model = trained_on(adata[~new].copy(), target_effect=True, perturbation_embedding=embedding)
    later = adata[new | (adata.obs["perturbation"] == "control")].copy()
    with pytest.raises(UnsupportedQuery, match="perturbation_embedding: expected features of all perturbations"):
        model.extend_treatments(later.copy(), **QUIET)
    extended = model.extend_treatments(later, perturbation_embedding=embedding, max_steps=300, **QUIET)
    targets = extended.get_target_effects()
    np.testing.assert_allclose(targets.loc[["g3", "g7"], "shift"], -2, atol=0.6)
    pd.testing.assert_frame_equal(targets.iloc[:8], model.get_target_effects())
    observed = pb.tl.effects(adata)[["g3", "g7"]].X
    assert np.corrcoef(extended.estimate_ate(["g3", "g7"], n_draws=0).X.ravel(), observed.ravel())[0, 1] > 0.9


def test_only_marked_cells_extend(screen: ad.AnnData, fit: Callable) -> None:
    labels = screen.obs["perturbation"].astype(str)
    new = labels.str.contains("P04")
    model = fit(screen[(~new).to_numpy()].copy(), max_steps=200)
    later = screen[(new | (labels == "control")).to_numpy()].copy()
    later.obs["pb_split"] = np.resize(["train", "test"], later.n_obs)
    changed = later.copy()
    changed.X = changed.X.toarray()
    changed.X[1::2] += 5
    one, other = (model.extend_treatments(data, **QUIET).module.state_dict() for data in (later, changed))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            lambda a: a[a.obs["perturbation"].isin(["control", "P01"])].copy(),
            UnsupportedQuery,
            "adata: expected cells of perturbations that the model does not know",
        ),
        (lambda a: a[:, 1:].copy(), pb.errors.FeatureMismatch, "gene_01"),
        (lambda a: ad.AnnData(a.X * 0.5, obs=a.obs, var=a.var), pb.errors.ScaleError, "expected raw counts"),
        (
            lambda a: ad.AnnData(a.X, obs=a.obs.assign(batch="new"), var=a.var),
            UnsupportedQuery,
            "expected registered categories",
        ),
        (lambda a: ad.AnnData(a.X, obs=a.obs[["batch"]], var=a.var), Exception, "perturbation"),
    ],
)
def test_bad_extensions(screen: ad.AnnData, fit: Callable, change: Callable, error: type, match: str) -> None:
    new = screen.obs["perturbation"].astype(str).str.contains("P04").to_numpy()
    model = fit(screen[~new].copy(), setup={"batch_key": "batch"}, max_steps=5)
    later = change(screen)
    columns, keys = set(later.obs.columns), set(later.obsm)
    with pytest.raises(error, match=match):
        model.extend_treatments(later, **QUIET)
    assert set(later.obs.columns) == columns
    assert set(later.obsm) == keys
