"""Outputs of layers equal those of a forward pass by hand, and the model is left as it was."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager

import anndata as ad
import numpy as np
import pytest
import scvi
import torch
from scipy import sparse
from torch import nn

import perturbia as pb
from perturbia.errors import FeatureMismatch, UnsupportedQuery
from perturbia.tl import block_representations, block_search

QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}
KEYS = ["X_z_encoder_1", "X_z_encoder_2", "X_z_encoder_mean"]


def make_cells() -> ad.AnnData:
    adata = pb.datasets.simulate_screen(
        n_perturbations=4,
        n_combinations=0,
        n_genes=30,
        n_latent=2,
        n_controls=60,
        cells_per_perturbation=25,
        n_batches=3,
    )
    adata.X = sparse.csr_matrix(adata.X)
    adata.layers.clear()
    adata.uns.clear()
    return adata


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def trained() -> scvi.model.SCVI:
    adata = make_cells()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, n_layers=2, n_hidden=16, n_latent=4, encode_covariates=True, dropout_rate=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_epochs=2, **QUIET)
    return model


@pytest.fixture
def model(trained):
    for key in list(trained.adata.obsm):
        del trained.adata.obsm[key]
    return trained


def by_hand(model: scvi.model.SCVI) -> list[np.ndarray]:
    """Hidden layers and latent mean, step by step."""
    encoder = model.module.z_encoder
    batch = torch.nn.functional.one_hot(torch.as_tensor(model.adata.obs["_scvi_batch"].to_numpy(copy=True)).long(), 3)
    hidden = torch.log1p(torch.as_tensor(model.adata.X.toarray()))
    found = []
    with torch.no_grad():
        for layer in encoder.encoder.fc_layers:
            linear, norm = layer[0], layer[1]
            hidden = torch.cat([hidden, batch], 1) @ linear.weight.T + linear.bias
            hidden = (hidden - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias
            hidden = hidden.clamp(min=0)
            found.append(hidden.numpy())
        found.append(encoder.mean_encoder(hidden).numpy())
    return found


def n_hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_layers_of_the_encoder_are_those_of_a_pass_by_hand(model):
    keys = block_representations(model)
    assert keys == KEYS
    for key, expected in zip(keys, by_hand(model), strict=True):
        found = model.adata.obsm[key]
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert found.std() > 0
    np.testing.assert_allclose(model.adata.obsm[KEYS[2]], model.get_latent_representation(), rtol=1e-5, atol=1e-6)


def test_one_pass_gives_what_a_pass_for_each_layer_gives(model):
    names = [f"z_encoder.encoder.fc_layers.Layer {i}" for i in range(2)] + ["z_encoder.mean_encoder", "z_encoder"]
    keys = block_representations(model, layers=names[::-1])
    assert keys == [f"X_{name}" for name in names]  # by depth, not as named
    together = {key: model.adata.obsm[key].copy() for key in keys}
    for name in names:
        del model.adata.obsm[f"X_{name}"]
        assert block_representations(model, layers=[name], batch_size=7) == [f"X_{name}"]
        np.testing.assert_allclose(model.adata.obsm[f"X_{name}"], together[f"X_{name}"], rtol=1e-4, atol=1e-6)
    block_representations(model)
    np.testing.assert_array_equal(model.adata.obsm[KEYS[1]], together[f"X_{names[1]}"])
    np.testing.assert_array_equal(model.adata.obsm[KEYS[2]], together["X_z_encoder"])


def test_layers_can_be_named_by_the_user(model):
    layers = {"deep": "z_encoder.encoder.fc_layers", "first linear": "z_encoder.encoder.fc_layers.Layer 0.0"}
    assert block_representations(model, layers=layers, prefix="H_") == ["H_first linear", "H_deep"]
    assert block_representations(model, layers="z_encoder.encoder", prefix="") == ["z_encoder.encoder"]
    np.testing.assert_array_equal(model.adata.obsm["H_deep"], model.adata.obsm["z_encoder.encoder"])
    assert (model.adata.obsm["H_first linear"] < 0).any()


def test_model_and_random_numbers_are_left_alone(model):
    module = model.module
    module.z_encoder.train()
    module.decoder.eval()
    modes = [part.training for part in module.modules()]
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(5)
    state, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    block_representations(model)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], drawn)  # noqa: NPY002
    assert [part.training for part in module.modules()] == modes
    assert True in modes
    assert False in modes
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert n_hooks(module) == 0
    assert torch.is_grad_enabled()
    module.eval()


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        (["z_encoder.encodr"], r"got 'z_encoder.encodr' \(nearest: 'z_encoder.encoder'"),
        ([""], "expected names of model.module.named_modules"),
        (["decoder"], "got 'decoder', which does not run"),
        (["z_encoder.encoder", "decoder.px_decoder"], "got 'decoder.px_decoder', which does not run"),
        (
            ["z_encoder.encoder", "z_encoder.encoder.fc_layers"],
            "every module once, got 'z_encoder.encoder', 'z_encoder.encoder.fc_layers', which are one",
        ),
    ],
)
def test_layers_that_do_not_exist_or_do_not_run(model, layers, match):
    training = [part.training for part in model.module.modules()]
    with pytest.raises(FeatureMismatch, match=match):
        block_representations(model, layers=layers)
    assert n_hooks(model.module) == 0
    assert [part.training for part in model.module.modules()] == training
    assert not model.adata.obsm


def test_hooks_are_removed_when_the_model_fails(model, monkeypatch):
    def fail(*_args, **_options):
        assert n_hooks(model.module) > 0
        raise MemoryError

    model.module.train()
    monkeypatch.setattr(model.module, "inference", fail)
    state = torch.get_rng_state()
    with pytest.raises(MemoryError):
        block_representations(model)
    assert n_hooks(model.module) == 0
    assert all(part.training for part in model.module.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert not model.adata.obsm
    model.module.eval()


class Tokens(nn.Module):
    """Three tokens of a cell, in place of hidden layers; the parts serve tests of what can be recorded."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(n_genes, 12), nn.Unflatten(1, (3, 4)))
        self.again = nn.Identity()
        self.scalar = nn.Identity()
        self.broken = nn.Identity()
        self.inplace = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 16)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        tokens = self.again(self.again(self.tokens(x)))
        self.scalar(tokens.mean())
        self.broken(torch.log(-tokens[:, 0].abs()))
        return self.head(self.inplace(tokens.clone()).mean(dim=1))


@contextmanager
def encoding_by(model: scvi.model.SCVI, encoder: nn.Module):
    """The model with other hidden layers, for a while; monkeypatch does not know where torch keeps modules."""
    usual = model.module.z_encoder.encoder
    model.module.z_encoder.encoder = encoder
    yield model
    model.module.z_encoder.encoder = usual


@pytest.fixture
def tokens(model):
    torch.manual_seed(0)
    with encoding_by(model, Tokens(30)):
        yield model


def test_tokens_are_pooled(tokens):
    with torch.no_grad():
        expected = tokens.module.z_encoder.encoder.tokens(torch.log1p(torch.as_tensor(tokens.adata.X.toarray())))
    name = "z_encoder.encoder.tokens"
    for pool, own in (("mean", expected.mean(dim=1)), ("first", expected[:, 0])):
        assert block_representations(tokens, layers={pool: name}, pool=pool) == [f"X_{pool}"]
        np.testing.assert_allclose(tokens.adata.obsm[f"X_{pool}"], own.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("part", "error", "match"),
    [
        ("again", FeatureMismatch, "got 'z_encoder.encoder.again', which runs 2 times"),
        ("scalar", FeatureMismatch, r"expected features \(n_cells, d\) or tokens .* of 160 cells, got \(\)"),
        ("broken", ValueError, "expected finite outputs of layers, got NaN or infinity"),
    ],
)
def test_outputs_that_are_no_features_of_cells(tokens, part, error, match):
    with pytest.raises(error, match=match):
        block_representations(tokens, layers=[f"z_encoder.encoder.{part}"])
    assert n_hooks(tokens.module) == 0
    assert not tokens.adata.obsm


class Hidden(nn.Module):
    """A layer whose output the next one changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Sequential(nn.Linear(30, 16), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.steps(x)


def test_what_a_later_module_does_in_place_is_not_recorded(model):
    with encoding_by(model, Hidden()):
        block_representations(
            model, layers={"linear": "z_encoder.encoder.steps.0", "relu": "z_encoder.encoder.steps.1"}
        )
    linear, relu = model.adata.obsm["X_linear"], model.adata.obsm["X_relu"]
    assert (linear < 0).any()
    np.testing.assert_array_equal(relu, linear.clip(min=0))


def in_a_file(adata, folder):
    adata.write_h5ad(folder / "a.h5ad")
    return ad.read_h5ad(folder / "a.h5ad", backed="r")


@pytest.mark.parametrize("form", ["backed", "view", "csc", "float64"])
def test_any_form_of_data(model, form, tmp_path):
    block_representations(model)
    expected = model.adata.obsm[KEYS[1]][:100].copy()
    cells = make_cells()
    if form == "view":
        given = cells[:100]
    else:
        given = cells[:100].copy()
        given.X = {"csc": sparse.csc_matrix, "float64": lambda X: X.astype(np.float64)}.get(form, lambda X: X)(given.X)
    if form == "backed":
        given = in_a_file(given, tmp_path)
    assert block_representations(model, given) == KEYS
    np.testing.assert_allclose(given.obsm[KEYS[1]], expected, rtol=1e-5, atol=1e-6)
    assert not given.is_view


def test_views_of_files_are_refused(model, tmp_path):
    view = in_a_file(make_cells(), tmp_path)[:50]
    with pytest.raises(
        UnsupportedQuery, match="adata: expected data that can be written to, got a view of a backed file"
    ):
        block_representations(model, view)


SAMS = {"n_latent": 3, "n_hidden": 8, "n_layers": 2}


@pytest.mark.parametrize("name", ["SAMSVAE", "ComparativeVAE", "CPAVAE"])
def test_models_of_this_package(name):
    adata = make_cells()
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, perturbation_key="perturbation", batch_key="batch")
    sizes = {"n_hidden": 8, "n_layers": 2}
    model = cls(adata, **sizes)
    model.train(max_steps=3, **QUIET)
    keys = block_representations(model)
    encoders = ["shared_encoder", "salient_encoder"] if name == "ComparativeVAE" else ["encoder"]
    assert keys == [f"X_{encoder}_{part}" for encoder in encoders for part in ("1", "2", "mean")]
    before = {key: adata.obsm[key].copy() for key in keys}
    torch.rand(3)
    block_representations(model, batch_size=11)
    for key in keys:
        np.testing.assert_allclose(adata.obsm[key], before[key], rtol=1e-4, atol=1e-5)
    if name == "SAMSVAE":
        np.testing.assert_allclose(
            adata.obsm["X_encoder_mean"], model.get_latent_representation(), rtol=1e-4, atol=1e-5
        )
    table = block_search(adata, keys, label_key="perturbation", group_key="batch", n_splits=3)
    assert table["block"].tolist() == keys
    assert adata.uns["block_search"]["selected"] in keys


def test_encoders_that_were_told_the_perturbation_are_pointed_out():
    adata = make_cells()
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.SAMSVAE(adata, **SAMS, basal_encoder="correlated")
    model.train(max_steps=3, **QUIET)
    with pytest.warns(RuntimeWarning, match="its encoder reads the perturbation of each cell"):
        keys = block_representations(model)
    first = adata.obsm[keys[0]].copy()
    with pytest.warns(RuntimeWarning, match="its encoder reads"):
        block_representations(model, seed=7)
    np.testing.assert_array_equal(adata.obsm[keys[0]], first)  # effects are expected ones, not drawn


def test_untrained_layers_are_pointed_out():
    adata = make_cells()
    scvi.model.SCVI.setup_anndata(adata)
    with pytest.warns(UserWarning, match="this SCVI is not trained"):
        assert block_representations(scvi.model.SCVI(adata, n_hidden=8)) == [KEYS[0], KEYS[2]]


@pytest.mark.filterwarnings("ignore:model:UserWarning")
@pytest.mark.parametrize(
    ("name", "setup", "encoder", "n_layers"),
    [
        ("TOTALVI", {"protein_expression_obsm_key": "protein"}, "encoder", 2),  # encodes library sizes beside
        ("PEAKVI", {}, "z_encoder", 2),  # and depth
        ("LinearSCVI", {}, "z_encoder", 1),
        ("SCANVI", {"labels_key": "perturbation", "unlabeled_category": "none"}, "z_encoder", 1),
    ],
)
def test_other_models_of_scvi_tools(name, setup, encoder, n_layers):
    adata = make_cells()
    adata.X = adata.X.toarray()
    adata.obsm["protein"] = np.random.default_rng(0).poisson(4.0, (adata.n_obs, 3))
    cls = getattr(scvi.model, name)
    cls.setup_anndata(adata, batch_key="batch", **setup)
    keys = block_representations(cls(adata))
    assert keys == [f"X_{encoder}_{part}" for part in [*range(1, n_layers + 1), "mean"]]
    assert all(adata.obsm[key].std() > 0 for key in keys)


def test_models_without_layers_and_minified_data_are_refused(model):
    adata = make_cells()
    pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    ridge = pb.model.Ridge(adata)
    ridge.train()
    with pytest.raises(
        UnsupportedQuery, match="expected a model that encodes cells, got Ridge|since no FCLayers are in Ridge"
    ):
        block_representations(ridge)
    assert not [key for key in adata.obsm if key.startswith("X_")]
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    sams = pb.model.SAMSVAE(adata, **SAMS)
    sams.train(max_steps=3, **QUIET)
    sams.minify_adata()
    with pytest.raises(UnsupportedQuery, match="got minified data"):
        block_representations(sams)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model": None}, TypeError, "model: expected a model of scvi-tools"),
        ({"pool": "max"}, ValueError, "pool: expected one of 'mean', 'first'"),
        ({"batch_size": 0}, ValueError, "batch_size: expected a positive integer"),
        ({"prefix": None}, ValueError, "prefix: expected text"),
        ({"seed": -1}, ValueError, "seed: expected a whole number"),
        ({"layers": []}, ValueError, "layers: expected names of modules"),
        ({"layers": {}}, ValueError, "layers: expected names of modules"),
        ({"layers": ["z_encoder", "z_encoder"]}, ValueError, "layers: expected every module once"),
        ({"layers": [3]}, FeatureMismatch, "layers: expected names"),
    ],
)
def test_bad_input(model, options, error, match):
    with pytest.raises(error, match=match):
        block_representations(**{"model": model, **options})
    assert not model.adata.obsm


def test_data_without_the_features_are_refused(model):
    cells = make_cells()[:, :20].copy()
    with pytest.raises(ValueError, match="var"):
        block_representations(model, cells)
    assert not [key for key in cells.obsm if key.startswith("X_z")]


def test_layers_can_be_searched(model):
    table = block_search(
        model.adata, block_representations(model), label_key="perturbation", group_key="batch", n_splits=3
    )
    assert table["block"].tolist() == KEYS
    assert table["n_features"].tolist() == [16, 16, 4]
