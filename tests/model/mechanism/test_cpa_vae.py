"""CPA-VAE: dense additive shifts, in closed form or as published."""

from __future__ import annotations

import numpy as np
import pytest

import perturbia as pb
from perturbia.errors import UnsupportedQuery

from .conftest import QUIET


@pytest.fixture(scope="module")
def screen():
    return pb.datasets.simulate_screen(
        n_perturbations=6, n_combinations=4, n_genes=30, n_latent=3, mask_prob=0.5, cells_per_perturbation=120, seed=2
    )


def fit(adata, *, train=None, **init):
    pb.model.CPAVAE.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.CPAVAE(adata, **{"n_latent": 3, "n_hidden": 32, **init})
    model.train(**{"max_steps": 800, "batch_size": 128, **QUIET, **(train or {})})
    return model


@pytest.mark.parametrize(
    "init", [{}, {"basal_encoder": "correlated", "global_kl": "plated"}, {"global_update": "gradient"}], ids=str
)
def test_effects_are_those_of_the_cells(screen, init: dict, tmp_path) -> None:
    model = fit(screen.copy(), **init)
    effects = model.estimate_ate(n_draws=0)
    observed = pb.tl.effects(screen)[effects.obs_names].X
    assert np.corrcoef(effects.X.ravel(), observed.ravel())[0, 1] > 0.85
    assert model.module.effects.inclusion.min() == 1
    offsets = model.get_treatment_embeddings().to_numpy()
    np.testing.assert_array_equal(offsets, model.get_treatment_embeddings(masked=False).to_numpy())
    model.save(tmp_path / "model")
    loaded = pb.model.CPAVAE.load(tmp_path / "model", adata=screen.copy())
    np.testing.assert_array_equal(loaded.estimate_ate(n_draws=0).X, effects.X)


def test_closed_form_is_ridge_on_the_encoded_cells(screen) -> None:
    """After the last update embeddings are the ridge regression of encodings on the dosage."""
    model = fit(screen.copy(), train={"train_size": 1.0, "max_steps": 100}, embedding_prior_scale=0.7)
    adata = model.adata
    dosage = model._registered_dosage(adata, np.arange(adata.n_obs)).toarray().astype(np.float64)
    latent = model.get_latent_representation().astype(np.float64)
    ridge = np.linalg.solve(dosage.T @ dosage + np.eye(6) / 0.7**2, dosage.T @ latent)
    np.testing.assert_allclose(model.get_treatment_embeddings(), ridge, atol=2e-3)


def test_extension_and_rotation(screen) -> None:
    known = screen[~screen.obs["perturbation"].astype(str).str.contains("P06")].copy()
    model = fit(known, train={"rotation": "l1"})
    later = screen[screen.obs["perturbation"].isin(["P06", "control"])].copy()
    extended = model.extend_treatments(later)
    assert extended.perturbations[-1] == "P06"
    np.testing.assert_array_equal(extended.get_treatment_embeddings().iloc[:-1], model.get_treatment_embeddings())
    found = extended.estimate_ate(["P06"], n_draws=0).X.ravel()
    assert np.corrcoef(found, pb.tl.effects(later)[["P06"]].X.ravel())[0, 1] > 0.5
    with pytest.raises(UnsupportedQuery, match="perturbation_embedding: expected None for this CPAVAE, got some"):
        model.extend_treatments(later, perturbation_embedding=np.ones((6, 2)))
    with pytest.raises(ValueError, match="global_update: expected 'gradient'"):
        pb.model.CPAVAE(known, basal_encoder="correlated", global_update="closed_form")
