"""Loadings against differences taken through the public decoder, whose noise is integrated another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import perturbia as pb
from perturbia.errors import NotTrainedError

if TYPE_CHECKING:
    from anndata import AnnData

# a moment of training leaves little in salient latents
pytestmark = pytest.mark.filterwarnings("ignore:ComparativeVAE")

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
SCREEN = {"n_perturbations": 3, "n_combinations": 0, "n_genes": 25, "n_latent": 2, "n_controls": 60}
SMALL = {"n_latent": 3, "n_hidden": 16}


def screen(scale: str = "counts") -> AnnData:
    adata = pb.datasets.simulate_screen(**SCREEN, cells_per_perturbation=25, n_truth_cells=20, n_batches=2)
    if scale != "counts":
        adata.X = np.log1p(adata.X.toarray())
    return adata


def fitted(model: str, adata: AnnData, *, init: dict | None = None, **setup) -> object:
    kind = getattr(pb.model, model)
    kind.setup_anndata(adata, **{"perturbation_key": "perturbation", "batch_key": "batch", **setup})
    options = {"n_latent_shared": 2, "n_latent_salient": 2, "n_hidden": 16} if model == "ComparativeVAE" else SMALL
    trained = kind(adata, **options, **(init or {}))
    restarts = {"n_restarts": 1} if model == "ComparativeVAE" else {}
    trained.train(max_steps=60, batch_size=64, train_size=1.0, **QUIET, **restarts)
    return trained


def by_decoding(model, *, step: float, seed: int) -> np.ndarray:
    """Differences between two decoded populations of all controls, one draw of each state."""
    controls = np.flatnonzero((model.adata.obs["perturbation"] == "control").to_numpy())
    latent = model.encode(indices=controls)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    states = latent.X + latent.layers["sd"] * noise
    latent.layers["sd"] = np.zeros_like(states)
    rows = []
    for axis in np.eye(latent.n_vars, dtype=np.float32):
        means = []
        for sign in (1, -1):
            latent.X = states + sign * step / 2 * axis
            means.append(model.decode(latent).X.mean(0, dtype=np.float64))
        rows.append((means[0] - means[1]) / step)
    return np.stack(rows)


@pytest.mark.parametrize(
    ("model", "scale", "init"),
    [
        ("SAMSVAE", "counts", {}),
        ("SAMSVAE", "counts", {"gene_likelihood": "poisson"}),
        ("SAMSVAE", "zscore", {"gene_likelihood": "normal"}),
        ("SVAE", "counts", {}),
        ("CPAVAE", "counts", {}),
        ("ConditionalVAE", "counts", {}),
        ("ComparativeVAE", "counts", {}),
    ],
)
def test_loadings_are_differences_of_what_is_decoded(model, scale, init):
    trained = fitted(model, screen(scale), init=init, scale=scale)
    loadings = pb.tl.latent_loadings(trained, n_cells=1000, step=0.5, seed=3)
    assert list(loadings.index) == list(trained.encode(indices=[0]).var_names)
    assert list(loadings.columns) == list(trained.adata.var_names)
    assert (loadings.dtypes == np.float32).all()
    expected = by_decoding(trained, step=0.5, seed=3)
    assert np.abs(expected).max() > 0.01
    # over-dispersion: shared draws here, a quadrature there
    tolerance = 0.05 if scale == "counts" else 1e-4
    np.testing.assert_allclose(loadings, expected, atol=tolerance * np.abs(expected).max())


def test_salient_loadings_start_from_cells_without_anything_salient():
    model = fitted("ComparativeVAE", screen())
    controls = np.flatnonzero((model.adata.obs["perturbation"] == "control").to_numpy())
    np.testing.assert_array_equal(model.encode(indices=controls)[:, ["s0", "s1"]].X, 0)
    assert pb.tl.latent_loadings(model).loc[["s0", "s1"]].abs().to_numpy().max() > 0


def test_without_control_cells_they_start_from_the_prior():
    adata = screen()
    adata = adata[adata.obs["perturbation"] != "control"].copy()
    model = fitted("SVAE", adata, control=None)
    loadings = pb.tl.latent_loadings(model)
    assert loadings.shape == (3, 25)
    assert np.isfinite(loadings.to_numpy()).all()
    assert np.abs(loadings.to_numpy()).max() > 0


def test_minified_data_give_the_same_loadings():
    model = fitted("SAMSVAE", screen())
    whole = pb.tl.latent_loadings(model)
    model.minify_adata()
    np.testing.assert_allclose(pb.tl.latent_loadings(model), whole, atol=1e-4)


def test_small_steps_give_a_derivative_and_seeds_repeat():
    model = fitted("SAMSVAE", screen("zscore"), init={"gene_likelihood": "normal"}, scale="zscore")
    one, two = (pb.tl.latent_loadings(model, step=step) for step in (0.02, 0.04))
    np.testing.assert_allclose(one, two, atol=2e-3)
    again = pb.tl.latent_loadings(model, n_cells=20, seed=1)
    np.testing.assert_array_equal(again, pb.tl.latent_loadings(model, n_cells=20, seed=1))
    assert not np.array_equal(again, pb.tl.latent_loadings(model, n_cells=20, seed=2))


@pytest.fixture(scope="module")
def trained():
    return fitted("SAMSVAE", screen())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_cells": 0}, "n_cells: expected a positive integer, got 0"),
        ({"step": 0}, "step: expected a positive number"),
        ({"step": np.inf}, "step: expected a positive number .* got inf"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_bad_input(trained, options, match):
    with pytest.raises(ValueError, match=match):
        pb.tl.latent_loadings(trained, **options)


def test_models_that_cannot_be_read():
    adata = screen()
    pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    with pytest.raises(TypeError, match="model: expected a model that decodes latents.*got Ridge"):
        pb.tl.latent_loadings(pb.model.Ridge(adata))
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    with pytest.raises(NotTrainedError):
        pb.tl.latent_loadings(pb.model.SAMSVAE(adata, **SMALL))
