"""Cross-modal autoencoders: closed forms of the losses, the sign of the game, training, matching, saving, new cells."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anndata as ad
import mudata as md
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.spatial.distance import pdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import perturbia as pb
from perturbia.errors import FeatureMismatch, ModalityError, NotTrainedError, ScaleError, SplitError
from perturbia.model.alignment._cross_modal_module import CrossModalModule
from perturbia.stats import couple

if TYPE_CHECKING:
    from pathlib import Path

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
SMALL = {"n_latent": 6, "n_hidden": 32}
ROLES = ("source", "target")


def simulated(**changes: Any) -> md.MuData:
    options = {"n_cells": 40, "n_perturbations": 6, "n_latent": 3, "n_noise": 2, "n_features": (14, 10)}
    return pb.datasets.simulate_modalities(**{**options, "noise_scale": 0.2, **changes})


def fitted(
    mdata: md.MuData, *, setup: dict | None = None, train: dict | None = None, **init: Any
) -> pb.model.CrossModalVAE:
    pb.model.CrossModalVAE.setup_mudata(mdata, control="control", **(setup or {}))
    model = pb.model.CrossModalVAE(mdata, **{**SMALL, **init})
    model.train(**{"max_epochs": 30, "batch_size": 64, **QUIET, **(train or {})})
    return model


def curve(model: pb.model.CrossModalVAE, name: str) -> np.ndarray:
    return model.history[name].iloc[:, 0].to_numpy(dtype=float)


@pytest.fixture(scope="module")
def vae() -> pb.model.CrossModalVAE:
    """Tests leave it and its data as they are."""
    return fitted(simulated())


@pytest.fixture
def module() -> CrossModalModule:
    torch.manual_seed(0)
    return CrossModalModule({"source": 5, "target": 3}, 4, n_latent=2, n_hidden=8, kl_weight=0.3, label_weight=0.7)


def minibatch(n: int, n_features: int, role: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return {
        f"X_{role}": torch.randn(n, n_features, generator=generator),
        f"labels_{role}": torch.randint(4, (n, 1), generator=generator),
    }


# losses ---------------------------------------------------------------------------------------------------------------


def test_loss_is_its_closed_form(module: CrossModalModule) -> None:
    module.eval()
    vae = module.vae("target")
    vae.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    vae.scale.copy_(torch.tensor([2.0, 1.0, 0.5]))
    batch = minibatch(7, 3, "target")
    _, _, output = module(batch)
    x = (batch["X_target"] - vae.mean) / vae.scale
    posterior = vae.encode(batch["X_target"])
    mu, variance = posterior.mean, posterior.variance
    error = ((vae.decode(mu) - x) ** 2).sum(1) / 3
    divergence = 0.5 * (variance + mu**2 - 1 - variance.log()).sum(1)
    log_p = torch.log_softmax(mu @ module.label_head.weight.T + module.label_head.bias, dim=1)
    label = -log_p[torch.arange(7), batch["labels_target"][:, 0]].mean()
    torch.testing.assert_close(output.loss, error.mean() + 0.3 * divergence.mean() + 0.7 * label)
    torch.testing.assert_close(output.reconstruction_loss_sum, error.sum())


def test_draws_only_while_training(module: CrossModalModule) -> None:
    x = minibatch(5, 5, "source")["X_source"]
    module.eval()
    still = module.inference(x, "source")
    torch.testing.assert_close(still["z"], still["posterior"].mean)
    module.train()
    assert not torch.equal(module.inference(x, "source")["z"], module.inference(x, "source")["z"])


def test_each_player_moves_itself_alone(module: CrossModalModule) -> None:
    z = {role: torch.randn(6, 2, requires_grad=True) for role in ROLES}
    weights = list(module.discriminator.parameters())
    for output in module.adversary(z, gradient_penalty=10.0).values():
        own = torch.autograd.grad(output.own_loss + output.penalty, [*weights, *z.values()], allow_unused=True)
        assert any(gradient.abs().max() > 0 for gradient in own[:-2])
        assert own[-2:] == (None, None)
        fooling = torch.autograd.grad(output.fooling_loss, [*weights, *z.values()], allow_unused=True)
        assert all(gradient is None for gradient in fooling[:-2])
    with torch.no_grad():
        assert all(output.penalty == 0 for output in module.adversary(z, gradient_penalty=10.0).values())


def test_encoders_move_latents_to_where_the_adversary_takes_them_for_the_other(module: CrossModalModule) -> None:
    """A step down the fooling loss makes the adversary's own loss larger: the sign that the published comparison lost."""
    z = {role: torch.randn(6, 2, requires_grad=True) for role in ROLES}
    before = module.adversary(z)
    moved = {}
    for role in ROLES:
        (gradient,) = torch.autograd.grad(before[role].fooling_loss, z[role])
        moved[role] = z[role] - 0.1 * gradient / gradient.norm()
    after = module.adversary(moved)
    for role in ROLES:
        assert after[role].fooling_loss < before[role].fooling_loss
        assert after[role].own_loss > before[role].own_loss
        # log odds of both losses are the same number: softplus(-a) and softplus(a)
    odds = module.discriminator(z["target"]).squeeze(-1)
    torch.testing.assert_close(before["target"].own_loss, torch.log1p(torch.exp(-odds)).mean())
    torch.testing.assert_close(before["source"].accuracy, (module.discriminator(z["source"]) < 0).float().mean())


def test_penalty_is_the_squared_slope(module: CrossModalModule) -> None:
    """Of a linear adversary, the squared norm of its weights."""
    module.discriminator = torch.nn.Sequential(torch.nn.Linear(2, 1))
    weight = module.discriminator[0].weight
    output = module.adversary({"target": torch.randn(6, 2)}, gradient_penalty=3.0)["target"]
    torch.testing.assert_close(output.penalty, 1.5 * weight.square().sum())


# training -------------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_learns_labels(vae: pb.model.CrossModalVAE) -> None:
    for part in ("train_loss", "validation_loss"):
        assert curve(vae, part).min() < 0.8 * curve(vae, part)[0]
    assert curve(vae, "reconstruction_loss_validation").min() < 0.6  # 1 would be the variance of the features
    assert curve(vae, "label_accuracy_validation").max() > 2 / 7
    names = {"reconstruction_loss", "kl_local", "classification_loss", "label_accuracy"}
    names |= {"modality_loss", "modality_accuracy"}
    parts = {f"{name}_{part}" for name in names for part in ("train", "validation")}
    assert set(vae.history) == parts | {"train_loss", "validation_loss"}


def test_the_best_epoch_is_kept(vae: pb.model.CrossModalVAE) -> None:
    losses = []
    for role in ROLES:
        cells = vae.splits_[role][1]
        x = vae._features_of(role)[cells]
        batch = {f"X_{role}": torch.tensor(x), f"labels_{role}": torch.tensor(vae._codes_of(role)[cells])}
        with torch.no_grad():
            losses.append(vae.module(batch)[2].loss.item())
    assert np.mean(losses) == pytest.approx(curve(vae, "validation_loss").min(), rel=1e-5)


def test_training_stops_early() -> None:
    model = fitted(simulated(), train={"max_epochs": 100, "patience": 2, "plan_kwargs": {"lr": 0.02}})
    assert len(curve(model, "validation_loss")) < 100


def test_adversary_makes_modalities_harder_to_tell_apart() -> None:
    """With the wrong sign it would be easier: for the adversary itself, and for a judge that never played."""
    options = {"early_stopping": False, "check_val_every_n_epoch": 4, "train_size": 0.8, "batch_size": 32}
    adversary, judge = {}, {}
    for weight in (0.0, 0.5):
        # without the classifier of labels nothing else brings modalities together
        model = fitted(
            simulated(n_cells=64, n_perturbations=2),
            modality_weight=weight,
            label_weight=0.0,
            dropout_rate=0.0,
            train={"max_epochs": 30, "plan_kwargs": {"lr": 5e-3}, **options},
        )
        adversary[weight] = curve(model, "modality_accuracy_validation")[-5:].mean()
        judge[weight] = accuracy_of_a_judge(model)
    assert adversary[0.0] > 0.8
    assert adversary[0.5] < adversary[0.0] - 0.15
    assert judge[0.0] > 0.85
    assert judge[0.5] < 0.65


def accuracy_of_a_judge(model: pb.model.CrossModalVAE) -> float:
    """How well linear discriminants of half of the cells tell the modalities of the others apart."""
    z = np.concatenate([model.get_latent_representation(role) for role in ROLES])
    y = np.repeat([0, 1], len(z) // 2)
    fits = np.arange(len(z)) % 2 == 0
    return LinearDiscriminantAnalysis().fit(z[fits], y[fits]).score(z[~fits], y[~fits])


def test_modalities_are_standardised_by_training_cells(vae: pb.model.CrossModalVAE) -> None:
    for role in ROLES:
        train, valid = vae.splits_[role]
        x = np.asarray(vae.adata.mod[role].X, dtype=np.float64)
        np.testing.assert_allclose(vae.module.vae(role).mean, x[train].mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(vae.module.vae(role).scale, x[train].std(0, ddof=1), rtol=1e-4)
        assert not set(train) & set(valid)
        codes = vae._codes_of(role)
        assert np.bincount(codes[valid], minlength=7).min() >= 1  # every label is held out, in proportion
        assert len(train) + len(valid) == len(codes)


def test_same_seed_same_model_whatever_ran_before() -> None:
    short = {"max_epochs": 3}
    one = fitted(simulated(), train=short)
    torch.randn(17)
    state = torch.random.get_rng_state()
    other = fitted(simulated(), train=short)
    assert torch.equal(state, torch.random.get_rng_state())
    differs = fitted(simulated(), seed=1, train=short)
    for role in ROLES:
        z = one.get_latent_representation(role)
        np.testing.assert_array_equal(other.get_latent_representation(role), z)
        assert not np.allclose(differs.get_latent_representation(role), z)


def test_training_goes_on() -> None:
    model = fitted(simulated(), train={"max_epochs": 3})
    model.train(max_epochs=4, **QUIET)
    assert len(curve(model, "train_loss")) == 7


def test_training_without_validation_keeps_the_last_state() -> None:
    model = fitted(simulated(), train={"max_epochs": 3, "train_size": 1.0})
    assert "validation_loss" not in model.history
    assert np.isfinite(model.get_latent_representation("source")).all()


def test_cells_of_other_labels_do_not_train() -> None:
    """Wild features of such cells change nothing."""
    latents = []
    for scale in (1.0, 1e6):
        mdata = simulated()
        alone = (mdata["target"].obs["perturbation"] == "P01").to_numpy()
        mdata["target"].obs["perturbation"] = np.where(alone, "other", mdata["target"].obs["perturbation"].astype(str))
        mdata["target"].X[alone] *= scale
        with pytest.warns(UserWarning, match="that the other modality lacks"):
            model = fitted(mdata, train={"max_epochs": 3})
        used = np.concatenate(model.splits_["target"])
        assert not alone[used].any()
        assert len(used) == (~alone).sum()
        latents.append(model.get_latent_representation("target")[~alone])
    np.testing.assert_array_equal(*latents)


def test_marked_splits_are_used() -> None:
    mdata = simulated()
    mark = np.resize(["train", "train", "valid", "test"], mdata["source"].n_obs)
    mdata["source"].obs["pb_split"] = mark
    model = fitted(mdata, train={"max_epochs": 2})
    np.testing.assert_array_equal(model.splits_["source"][0], np.flatnonzero(mark == "train"))
    np.testing.assert_array_equal(model.splits_["source"][1], np.flatnonzero(mark == "valid"))
    mdata["source"].obs["pb_split"] = "test"
    with pytest.raises(SplitError, match="marked 'train'"):
        model.train(max_epochs=2, **QUIET)


def test_sparse_constant_and_integer_features() -> None:
    """A CSR layer with a feature that never varies is as good as its dense twin."""
    latents = []
    for form in (np.asarray, sparse.csr_matrix):
        mdata = simulated()
        counts = np.round(2 * np.abs(mdata["source"].X))
        counts[:, 0] = 0
        mdata["source"].layers["counts"] = form(counts.astype(np.int64))
        model = fitted(mdata, setup={"source_layer": "counts"}, train={"max_epochs": 3})
        latents.append(model.get_latent_representation("source"))
    assert np.isfinite(latents[0]).all()
    np.testing.assert_allclose(*latents, rtol=1e-4, atol=1e-5)


# latents --------------------------------------------------------------------------------------------------------------


def test_latents_are_means_of_posteriors(vae: pb.model.CrossModalVAE) -> None:
    z = vae.get_latent_representation("source")
    assert z.dtype == np.float32
    assert z.shape == (280, 6)
    with torch.no_grad():
        expected = vae.module.vae("source").encode(torch.tensor(vae.adata.mod["source"].X)).mean
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vae.get_latent_representation("source", batch_size=33), z, rtol=1e-4, atol=1e-5)
    some = vae.get_latent_representation("source", indices=[5, 2])
    np.testing.assert_allclose(some, z[[5, 2]], rtol=1e-4, atol=1e-5)
    with pytest.raises(IndexError, match="indices: expected"):
        vae.get_latent_representation("source", indices=[280])


def test_modality_may_be_left_out_where_data_tell_it(vae: pb.model.CrossModalVAE) -> None:
    target = vae.adata.mod["target"]
    z = vae.get_latent_representation("target")
    np.testing.assert_array_equal(vae.get_latent_representation(adata=target), z)
    np.testing.assert_array_equal(vae.get_latent_representation(adata=md.MuData({"target": target})), z)
    for ambiguous in (None, vae.adata, target.copy()):
        with pytest.raises(ModalityError, match="may be of either"):
            vae.get_latent_representation(adata=ambiguous)


def test_new_cells_in_any_order_of_features(vae: pb.model.CrossModalVAE) -> None:
    target = vae.adata.mod["target"]
    new = target[::7, ::-1].copy()
    del new.obs["perturbation"]
    z = vae.get_latent_representation("target", new)
    np.testing.assert_allclose(z, vae.get_latent_representation("target")[::7], rtol=1e-4, atol=1e-5)
    with pytest.raises(FeatureMismatch):
        vae.get_latent_representation("target", target[:, :-1].copy())
    with pytest.raises(ModalityError):
        vae.get_latent_representation("protein", new)
    new.X[0, 0] = np.nan
    with pytest.raises(ScaleError, match="finite"):
        vae.get_latent_representation("target", new)


def test_latents_match_cells(vae: pb.model.CrossModalVAE) -> None:
    """Pairs are known: how much more of their mass joins them than at random, and how far off their latents are."""
    cells = [vae.adata.mod[role] for role in ROLES]
    groups = [adata.obs["perturbation"].to_numpy() for adata in cells]
    z = [vae.get_latent_representation(role) for role in ROLES]
    twins = cells[1].obs.set_index("pair").index.get_indexer(cells[0].obs["pair"])
    truth = [adata.obsm["truth_latent"] for adata in cells]
    mass, error = {}, {}
    for method in ("ot", "random"):
        coupling = couple(*z, *groups, method=method)
        mass[method] = np.asarray(coupling.rows()[np.arange(280), twins]).mean()
        error[method] = np.square(coupling.pull(truth[1]) - truth[0]).mean()
    assert mass["random"] == pytest.approx(1 / 40)
    assert mass["ot"] > 5 * mass["random"]
    assert error["ot"] < 0.6 * error["random"]


def test_align_stores_latents_and_coupling() -> None:
    model = fitted(simulated(), train={"max_epochs": 3})
    coupling = model.align()
    assert coupling.shape == (280, 280)
    for role in ROLES:
        stored = model.adata.mod[role].obsm["X_cross_modal"]
        np.testing.assert_array_equal(stored, model.get_latent_representation(role))
    with pytest.raises(ValueError, match="no options of a score"):
        model.align(preset="paper")


def test_saved_models_give_the_same_latents(vae: pb.model.CrossModalVAE, tmp_path: Path) -> None:
    vae.save(tmp_path / "model")
    loaded = pb.model.CrossModalVAE.load(tmp_path / "model", simulated(), accelerator="cpu")
    for role in ROLES:
        expected = vae.get_latent_representation(role)
        np.testing.assert_array_equal(loaded.get_latent_representation(role), expected)
        np.testing.assert_array_equal(loaded.splits_[role][0], vae.splits_[role][0])
    np.testing.assert_array_equal(curve(loaded, "validation_loss"), curve(vae, "validation_loss"))
    assert "CrossModalVAE of 'source' and 'target', 7 shared labels" in repr(loaded)


def test_features_of_obsm() -> None:
    mdata = simulated()
    mdata["target"].obsm["X_pca"] = np.asarray(mdata["target"].X, dtype=np.float64)[:, :4]
    model = fitted(mdata, setup={"target_rep": "X_pca"}, train={"max_epochs": 2})
    new = ad.AnnData(obsm={"X_pca": mdata["target"].obsm["X_pca"][:3]}, shape=(3, 0))
    np.testing.assert_allclose(
        model.get_latent_representation("target", new),
        model.get_latent_representation("target", indices=range(3)),
        rtol=1e-4,
        atol=1e-5,
    )


# several processes ----------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys
import numpy as np
import perturbia as pb

if __name__ == "__main__":
    devices, out = int(sys.argv[1]), sys.argv[2]
    mdata = pb.datasets.simulate_modalities(
        n_cells=40, n_perturbations=6, n_latent=3, n_noise=2, n_features=(14, 10), noise_scale=0.2
    )
    pb.model.CrossModalVAE.setup_mudata(mdata, control="control")
    model = pb.model.CrossModalVAE(mdata, n_latent=6, n_hidden=32)
    several = {} if devices == 1 else {"devices": devices, "strategy": "ddp_find_unused_parameters_true"}
    model.train(max_epochs=30, batch_size=64 // devices, accelerator="cpu", enable_progress_bar=False, **several)
    z = {role: model.get_latent_representation(role) for role in ("source", "target")}
    np.savez(f"{out}.{os.environ.get('LOCAL_RANK', 0)}", **z)
"""


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Both hold the same weights, and distances between cells are about those of one process."""
    (tmp_path / "run.py").write_text(SCRIPT)
    for name, devices in (("one", 1), ("two", 2)):
        subprocess.run([sys.executable, str(tmp_path / "run.py"), str(devices), str(tmp_path / name)], check=True)
    one, first, second = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("one.0", "two.0", "two.1"))
    for role in ROLES:
        np.testing.assert_array_equal(first[role], second[role])
        assert np.corrcoef(pdist(one[role]), pdist(first[role]))[0, 1] > 0.8


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_latent": 0},
        {"n_hidden": 2.5},
        {"n_layers": -1},
        {"dropout_rate": 1.0},
        {"kl_weight": -1e-7},
        {"label_weight": math.nan},
        {"modality_weight": math.inf},
    ],
)
def test_bad_options_of_the_model(vae: pb.model.CrossModalVAE, wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        pb.model.CrossModalVAE(vae.adata, **wrong)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"max_epochs": 0}, ValueError),
        ({"batch_size": 1.5}, ValueError),
        ({"patience": 0}, ValueError),
        ({"train_size": 0}, ValueError),
        ({"train_size": 1.1}, ValueError),
        ({"split_key": "no such column"}, SplitError),
    ],
)
def test_bad_options_of_the_training(vae: pb.model.CrossModalVAE, wrong: dict, error: type) -> None:
    model = pb.model.CrossModalVAE(vae.adata, **SMALL)
    with pytest.raises(error, match=f"{next(iter(wrong))}: expected"):
        model.train(**wrong, **QUIET)


def test_untrained_models_refuse(vae: pb.model.CrossModalVAE) -> None:
    model = pb.model.CrossModalVAE(vae.adata, **SMALL)
    for ask in (lambda: model.get_latent_representation("source"), model.align):
        with pytest.raises(NotTrainedError):
            ask()
