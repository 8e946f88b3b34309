"""Conditional VAE: the decoder reads the dosage, and what it never saw is read as nothing."""

from __future__ import annotations

import numpy as np
import pytest

import perturbia as pb

from .conftest import QUIET


@pytest.fixture(scope="module")
def screen():
    return pb.datasets.simulate_screen(
        n_perturbations=6, n_combinations=4, n_genes=30, n_latent=3, mask_prob=0.5, cells_per_perturbation=120, seed=2
    )


def fit(adata, **init):
    pb.model.ConditionalVAE.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.ConditionalVAE(adata, **{"n_latent": 3, "n_hidden": 32, **init})
    model.train(max_steps=800, batch_size=128, **QUIET)
    return model


@pytest.mark.parametrize("n_hidden", [32, 4], ids=["indicators", "learnt"])
def test_effects_are_those_of_the_cells(screen, n_hidden: int, tmp_path) -> None:
    model = fit(screen.copy(), n_hidden=n_hidden)
    code = model.module.treatment_code
    assert code.size == min(6, n_hidden)
    effects = model.estimate_ate(n_draws=0)
    observed = pb.tl.effects(screen)[effects.obs_names].X
    assert np.corrcoef(effects.X.ravel(), observed.ravel())[0, 1] > 0.85
    # the latent is basal: it does not know the perturbation
    latent = model.get_latent_representation()
    np.testing.assert_array_equal(latent, model.get_latent_representation(kind="basal"))
    assert np.abs(model.get_latent_representation(kind="perturbation")).max() == 0
    model.save(tmp_path / "model")
    loaded = pb.model.ConditionalVAE.load(tmp_path / "model", adata=screen.copy())
    np.testing.assert_array_equal(loaded.estimate_ate(n_draws=0).X, effects.X)
    # a predicted cell is the decoded one
    predicted = model.predict(None, "P01")
    np.testing.assert_allclose(
        (predicted.X - model.predict(None, "control").X).mean(0), model.estimate_ate(["P01"], n_draws=0).X[0], atol=0.05
    )


def test_perturbations_without_cells_do_nothing(screen) -> None:
    adata = screen.copy()
    unseen = adata.obs["perturbation"].astype(str).str.contains("P03").to_numpy()
    adata.obs["pb_split"] = np.where(unseen, "test", "train")
    model = fit(adata)
    assert np.abs(model.estimate_ate(["P03"], n_draws=0).X).max() == 0
    assert np.abs(model.estimate_ate(["P01"], n_draws=0).X).max() > 0.01
    np.testing.assert_array_equal(
        model.estimate_ate(["P01+P03"], n_draws=0).X, model.estimate_ate(["P01"], n_draws=0).X
    )


def test_likelihoods_and_replicates_read_the_dosage(screen) -> None:
    model = fit(screen.copy())
    strongest = model.estimate_ate(n_draws=0)
    name = strongest.obs_names[np.abs(strongest.X).sum(1).argmax()]
    cells = np.flatnonzero((screen.obs["perturbation"] == name).to_numpy())
    relabelled = screen[cells].copy()
    relabelled.obs["perturbation"] = "control"
    right = model.get_iwelbo(indices=cells, n_particles=20, return_mean=True)
    wrong = model.get_iwelbo(relabelled, n_particles=20, return_mean=True)
    assert right > wrong
    replicate = model.posterior_predictive_sample(indices=cells, basal="prior").toarray()
    gene = np.abs(strongest[name].X[0]).argmax()
    control = np.flatnonzero((screen.obs["perturbation"] == "control").to_numpy())
    other = model.posterior_predictive_sample(indices=control, basal="prior").toarray()

    def level(counts: np.ndarray) -> float:
        return float(np.log1p(1e4 * counts[:, gene] / counts.sum(1)).mean())

    shift = level(replicate) - level(other)
    assert np.sign(shift) == np.sign(strongest[name].X[0, gene])
    assert abs(shift) > 0.5 * abs(strongest[name].X[0, gene])


def test_there_is_no_mechanism_to_read(screen) -> None:
    model = fit(screen.copy())
    assert "mechanism" not in model.capabilities
    assert not hasattr(model, "get_treatment_masks")
