"""What training does, repeats, leaves alone and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import sparse

import perturbia as pb
from perturbia.errors import SplitError
from perturbia.model.mechanism._encoded_cells import RememberedCells
from perturbia.model.mechanism._global_updates import ClosedFormUpdates
from perturbia.model.mechanism._update_schedule import UpdateSchedule
from perturbia.nn import TreatmentDesign
from perturbia.stats import SpikeSlab, update_spike_slab

from .conftest import GUIDES, QUIET

if TYPE_CHECKING:
    from collections.abc import Callable


def weights(model: pb.model.SAMSVAE) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize(("basal", "update"), GUIDES)
def test_the_seed_decides_every_bit(screen, fit: Callable, basal: str, update: str) -> None:
    def run(seed: int) -> dict[str, np.ndarray]:
        init = {"basal_encoder": basal, "global_update": update, "seed": seed, "n_particles": 2}
        return weights(fit(screen.copy(), init=init))

    one = run(0)
    np.random.seed(123)  # noqa: NPY002  global state must not matter
    torch.manual_seed(123)
    two, other = run(0), run(1)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    assert not np.array_equal(one["decoder.head.weight"], other["decoder.head.weight"])
    assert not np.array_equal(one["effects.mean"], other["effects.mean"])


@pytest.mark.parametrize(("basal", "update"), GUIDES)
def test_held_out_cells_do_not_train(screen, fit: Callable, basal: str, update: str) -> None:
    """Changed counts of validation and test cells change no bit of any parameter or buffer."""
    screen.obs["pb_split"] = np.resize(["train", "train", "valid", "train", "test"], screen.n_obs)
    init = {"basal_encoder": basal, "global_update": update}
    reference = weights(fit(screen.copy(), init=init))
    changed = screen.copy()
    dense = changed.X.toarray()
    dense[(changed.obs["pb_split"] != "train").to_numpy()] += 7
    changed.X = sparse.csr_matrix(dense)
    model = fit(changed, init=init)
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, reference[name], err_msg=name)
    for indices, part in (
        (model.train_indices, "train"),
        (model.validation_indices, "valid"),
        (model.test_indices, "test"),
    ):
        assert set(changed.obs["pb_split"].iloc[indices]) == {part}
    ignored = fit(screen.copy(), init=init, split_key=None)
    assert len(ignored.test_indices) == 0
    assert not np.array_equal(weights(ignored)["input_mean"], reference["input_mean"])


def test_statistics_are_those_of_the_training_cells(screen, fit: Callable) -> None:
    constant = screen.X.toarray()
    constant[:, 3] = 2
    constant[:, 4] = 0
    screen.X = sparse.csr_matrix(constant)
    model = fit(screen, train_size=0.7)
    train = np.asarray(model.train_indices)
    assert len(train) == int(np.ceil(0.7 * screen.n_obs))
    logs = np.log1p(constant[train])
    buffers = weights(model)
    np.testing.assert_allclose(buffers["input_mean"], logs.mean(0), rtol=1e-5)
    expected = np.where(np.isin(np.arange(25), [3, 4]), 1.0, logs.std(0))
    np.testing.assert_allclose(buffers["input_sd"], expected, rtol=1e-4)
    dosage = screen.obsm["_perturbia_dosage"][train].toarray()
    np.testing.assert_array_equal(buffers["n_treated"], (dosage != 0).sum(0))
    library = constant[train].sum(1)[dosage.sum(1) == 0]
    assert library.min() <= buffers["reference_library"].min() <= buffers["reference_library"].max() <= library.max()
    assert np.isfinite(model.estimate_ate().X).all()


@pytest.mark.parametrize("batch_size", [63, 64, 239, 1000])
@pytest.mark.filterwarnings("ignore:Last batch will have a small size")
@pytest.mark.parametrize("basal", ["residual", "correlated"])
def test_the_last_batch_may_be_smaller(screen, fit: Callable, batch_size: int, basal: str) -> None:
    model = fit(
        screen, init={"basal_encoder": basal, "n_particles": 3}, batch_size=batch_size, train_size=1.0, max_steps=9
    )
    assert np.isfinite(weights(model)["decoder.head.weight"]).all()
    assert np.isfinite(float(model.get_elbo()))


def test_history(screen, fit: Callable) -> None:
    model = fit(screen, max_epochs=12, max_steps=None)
    history = model.history
    for name in ("train_loss", "elbo_train", "reconstruction_loss_train", "kl_local_train", "kl_global_train"):
        assert len(history[f"{name}_epoch" if name not in history else name]) == 12, name
    for name in ("elbo_validation", "reconstruction_loss_validation", "kl_local_validation"):
        assert name in history
        assert np.isfinite(history[name].to_numpy(dtype=float)).all()
    parts = [
        history[name].to_numpy(dtype=float).ravel()
        for name in ("reconstruction_loss_train", "kl_local_train", "kl_global_train")
    ]
    total = parts[0] + parts[1] + parts[2] / len(model.train_indices)
    np.testing.assert_allclose(history["elbo_train"].to_numpy(dtype=float).ravel(), total, rtol=1e-4)
    long = fit(screen.copy(), max_steps=400)
    curve = long.history["reconstruction_loss_train"].to_numpy(dtype=float).ravel()
    assert curve[-5:].mean() < curve[:5].mean()


def test_lengths(screen, fit: Callable) -> None:
    steps = []

    class Count(ClosedFormUpdates):
        def __init__(self) -> None:
            pass

        def on_train_batch_end(self, trainer, *_) -> None:
            steps.append(trainer.global_step)

        def on_train_end(self, *_) -> None:
            pass

    fit(screen, max_steps=17, callbacks=[Count()], train_size=1.0)  # not a multiple of the four batches
    assert steps == list(range(1, 18))
    steps.clear()
    fit(screen.copy(), max_epochs=3, max_steps=500, callbacks=[Count()], train_size=1.0)
    n_batches = -(-screen.n_obs // 64)
    assert steps == list(range(1, 3 * n_batches + 1))


def test_early_stopping(screen, fit: Callable) -> None:
    model = fit(
        screen,
        max_epochs=300,
        early_stopping=True,
        early_stopping_patience=3,
        early_stopping_monitor="elbo_validation",
        check_val_every_n_epoch=1,
        plan_kwargs={"lr": 0.05},
    )
    assert len(model.history["elbo_validation"]) < 300
    assert model.is_trained_
    # stopped or not, globals end on their optimum for the final networks
    assert_converged(model)
    with pytest.raises(ValueError, match=r"[Ee]arly [Ss]topping.*no validation set"):
        fit(screen.copy(), early_stopping=True, train_size=1.0)


def assert_converged(model: pb.model.SAMSVAE) -> None:
    """Another closed-form update of the final model changes nothing."""
    train = np.asarray(model.train_indices)
    dosage = model.adata.obsm["_perturbia_dosage"][train].astype(float)
    effects = model.module.effects
    now = SpikeSlab(*(v.detach().double().numpy() for v in (effects.inclusion, effects.mean, effects.log_sd.exp())))
    means = model.get_latent_representation(indices=train)  # of the residual guide, the total latent
    gram = (dosage.T @ dosage).tocsr()
    again = update_spike_slab(now, dosage.T @ means, gram, prior_inclusion=0.1, slab_sd=1.0, n_sweeps=1)
    np.testing.assert_allclose(again.effect, now.effect, atol=1e-3)
    np.testing.assert_allclose(again.inclusion, now.inclusion, atol=1e-2)


def test_training_goes_on(screen, fit: Callable) -> None:
    model = fit(screen, max_steps=400, train_size=1.0)

    def bound() -> float:
        torch.manual_seed(0)
        return float(np.mean([float(model.get_elbo()) for _ in range(5)]))

    before, first = weights(model), bound()
    model.train(
        max_steps=1,
        batch_size=64,
        train_size=1.0,
        rotation="none",
        plan_kwargs={"lr": 1e-9, "dispersion_lr": 1e-9},
        **QUIET,
    )
    after = weights(model)
    for name in ("decoder.head.bias", "decoder.head.weight", "input_mean", "encoder.mean_head.weight"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-6, err_msg=name)
    assert abs(bound() - first) < 0.05
    model.train(max_steps=400, batch_size=64, train_size=1.0, **QUIET)
    assert bound() > first - 0.2
    assert model.module.effects.inclusion.max() > 0.9


def test_second_training_is_reproducible(screen, fit: Callable) -> None:
    def twice() -> str:
        model = fit(screen.copy())
        first = model.ur_id
        model.train(max_steps=20, batch_size=64, **QUIET)
        assert model.ur_id != first
        return model.ur_id

    assert twice() == twice()


@pytest.mark.parametrize("rotation", ["l1", "varimax"])
@pytest.mark.parametrize("basal", ["residual", "correlated"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_rotation_leaves_the_likelihood(screen, fit: Callable, rotation: str, basal: str, n_layers: int) -> None:
    """Encoder and decoder absorb it: a fixed batch decodes alike to 1e-5, states turn exactly."""
    setup = {"batch_key": "batch", "continuous_covariate_keys": ["age"]}
    model = fit(
        screen, setup=setup, init={"basal_encoder": basal, "n_layers": n_layers}, rotation="none", max_steps=150
    )
    module = model.module.double()  # so that rounding can not hide an error
    module.effects.mean.data.copy_(torch.randn(module.effects.mean.shape, generator=torch.Generator().manual_seed(0)))
    batch = next(iter(model._make_data_loader(adata=model.adata, indices=np.arange(40), batch_size=40)))
    tensors = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    inputs = module._get_inference_input(tensors)
    covariates = {key: inputs[key] for key in ("batch_index", "cat_covs", "cont_covs")}
    library = inputs["x"].sum(-1, keepdim=True)
    effect = module.effects.effect().detach().clone()
    offset = inputs["given"].sum_of(effect)

    def log_prob(shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            guide = module.encode(inputs["x"], shift, **covariates)
            total = guide.loc if basal == "residual" else guide.loc + shift
            return total, module.generative(total, library, **covariates)["px"].log_prob(inputs["x"]).sum(-1)

    before_z, before = log_prob(offset)
    updates = ClosedFormUpdates(
        module,
        RememberedCells(lambda chosen: np.zeros((len(chosen), 3), dtype=np.float32)),
        model.adata.obsm["_perturbia_dosage"],
        schedule=UpdateSchedule(100),
        closed_form=basal == "residual",
        rotation=rotation,
    )
    turned = {}
    original = module.rotate
    module.rotate = lambda matrix: (turned.update(matrix=matrix), original(matrix))
    updates.rotate()
    matrix = turned["matrix"]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-10)
    assert not np.allclose(matrix.abs(), np.eye(3), atol=0.05)
    after_z, after = log_prob(offset @ matrix)
    np.testing.assert_allclose(after_z, before_z @ matrix, atol=1e-10)
    np.testing.assert_allclose(after, before, atol=1e-8)
    # masks restart from Bayes factors that are clipped, embeddings so that strong effects stay
    logits = module.effects.mask_logit.detach().numpy()
    assert np.abs(logits).max() < 3.001
    strong = module.effects.inclusion.detach().numpy() > 0.9
    np.testing.assert_allclose(
        module.effects.effect().detach().numpy()[strong], (effect @ matrix).numpy()[strong], rtol=1e-3
    )


def test_updates_follow_their_schedule() -> None:
    schedule = UpdateSchedule(1000, first=100, every=25, rotate_at=(0.0, 0.3, 0.5, 1.0))
    assert schedule.rotation_steps == {1, 300, 500, 1000}
    assert [step for step in range(1, 1001) if schedule.is_update(step)] == list(range(100, 1001, 25))


@pytest.mark.parametrize("max_cells", [1, 40])
def test_updates_may_encode_a_few_cells(screen, fit: Callable, max_cells: int) -> None:
    """Remembered encodings give nearly the same effects; enough cells give exactly the same."""
    options = {"max_steps": 500, "train_size": 1.0}
    every = fit(screen.copy(), **options)
    exactly = fit(screen.copy(), max_update_cells=screen.n_obs, **options)
    assert exactly.ur_id == every.ur_id
    few = fit(screen.copy(), max_update_cells=max_cells, **options)
    assert few.ur_id != every.ur_id
    assert_converged(few)
    one, other = (model.estimate_ate(n_draws=0).X for model in (every, few))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95


def test_encodings_are_remembered_and_turned() -> None:
    asked = []

    def encode(chosen: np.ndarray) -> np.ndarray:
        asked.append(chosen)
        return np.stack([chosen, 2 * chosen], 1).astype(np.float32) + 100 * (len(asked) > 1)

    class Module:
        effects = pb.nn.MaskedEffects(2, 2)
        design = TreatmentDesign(2)

        @staticmethod
        def rotate(rotation: torch.Tensor) -> None:
            pass

    cells = RememberedCells(encode, max_cells=3)
    updates = ClosedFormUpdates(Module(), cells, sparse.csr_matrix(np.eye(2)[[0, 1] * 5]), schedule=UpdateSchedule(10))
    updates.update()
    updates.update()
    np.testing.assert_array_equal(asked[0], np.arange(10))
    assert len(asked[1]) == 3
    fresh = np.isin(np.arange(10), asked[1])
    np.testing.assert_array_equal(cells.means[:, 0], np.arange(10) + 100 * fresh)
    before = cells.means.copy()
    updates.rotate()
    np.testing.assert_allclose(np.linalg.norm(cells.means, axis=1), np.linalg.norm(before, axis=1), rtol=1e-5)


def test_the_registration_can_be_shown(trained: pb.model.SAMSVAE, capsys) -> None:
    trained.view_anndata_setup()
    shown = capsys.readouterr().out
    assert "perturbation_key" in shown
    assert "Summary Statistics" in shown


@pytest.mark.parametrize(
    ("train", "match"),
    [
        ({"max_steps": 0}, "max_steps: expected a positive integer, got 0"),
        ({"max_steps": -3}, "max_steps: expected a positive integer, got -3"),
        ({"max_epochs": 0}, "max_epochs: expected a positive integer, got 0"),
        ({"batch_size": 0}, "batch_size: expected a positive integer"),
        ({"update_every": 0}, "update_every: expected a positive integer"),
        ({"max_update_cells": 0}, "max_update_cells: expected a positive integer"),
        ({"rotation": "promax"}, "rotation: expected one of 'l1', 'varimax', 'none', None, got 'promax'"),
        ({"sparsify_at": 7}, "sparsify_at: expected a fraction"),
        ({"spike_width": -0.1}, "spike_width: expected"),
        ({"spike_width": "auto"}, "spike_width: expected"),
        ({"rotate_at": (0.3, 50)}, "rotate_at: expected fractions of the training between 0 and 1"),
        ({"train_size": 0.0}, r"train_size: expected a share in \(0, 1\]"),
        ({"split_key": "splt"}, "split_key: expected a column of obs, got 'splt'"),
        ({"split_key": "phase"}, "split_key: expected cells marked 'train'"),
    ],
)
def test_bad_training(screen, train: dict, match: str) -> None:
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    model = pb.model.SAMSVAE(screen, n_latent=2, n_hidden=8)
    before = weights(model)
    error = SplitError if "split_key" in train else ValueError
    with pytest.raises(error, match=match):
        model.train(**train, **QUIET)
    assert not model.is_trained_
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, before[name])
