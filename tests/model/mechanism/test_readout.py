"""Predicted moments of a cell against sampling its latents and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from perturbia.model.mechanism._readout import Covariates, predictive_moments

if TYPE_CHECKING:
    from collections.abc import Callable

N_CELLS, N_DRAWS = 12, 20_000


def moments_and_samples(module, sd: float, *, log: bool) -> tuple[np.ndarray, ...]:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(N_CELLS, 4, generator=generator)
    deviation = sd * torch.rand(N_CELLS, 4, generator=generator)
    library = torch.linspace(200, 3000, N_CELLS)[:, None]
    covariates = Covariates(library=library, batch_index=torch.zeros(N_CELLS, 1, dtype=torch.long))
    torch.manual_seed(2)
    with torch.inference_mode():
        predicted = predictive_moments(module, mean, deviation, covariates, log_normalized=log)
        draws = mean + deviation * torch.randn(N_DRAWS, N_CELLS, 4)
        x = covariates.decode(module, draws).sample()
        value = (torch.log1p(1e4 * x / library) if log else x).double().numpy()
    return *(part.numpy() for part in predicted), value.mean(0), value.std(0)


@pytest.mark.parametrize("dispersion", [-1.5, 0.0, 3.0])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal"])
@pytest.mark.parametrize("log", [True, False])
def test_known_latents(random_module: Callable, likelihood: str, dispersion: float, *, log: bool) -> None:
    """Without latent uncertainty only counts and over-dispersion are left, and these are integrated out."""
    if log and likelihood == "normal":
        pytest.skip("no counts")
    module = random_module(n_latent=4, n_input=15, gene_likelihood=likelihood)
    if likelihood != "poisson":
        module.decoder.log_dispersion.data.fill_(dispersion)
    mean, sd, sampled, spread = moments_and_samples(module, 0.0, log=log)
    assert (np.abs(mean - sampled) / spread).max() < 5.5 / N_DRAWS**0.5 + (0.01 if log else 0)
    np.testing.assert_allclose(sd, spread, rtol=0.06 if log or dispersion > -1 or likelihood == "normal" else 0.25)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal"])
def test_uncertain_latents(random_module: Callable, likelihood: str) -> None:
    """A few sign patterns stand for the Gaussian: means within a fraction of the spread, spreads on average right."""
    module = random_module(n_latent=4, n_input=15, gene_likelihood=likelihood)
    log = likelihood != "normal"
    mean, sd, sampled, spread = moments_and_samples(module, 0.6, log=log)
    assert (np.abs(mean - sampled) / spread).mean() < 0.1
    np.testing.assert_allclose(np.mean(sd / spread), 1, atol=0.1)
    sure, narrow, _, _ = moments_and_samples(module, 0.0, log=log)
    assert np.abs(sd - spread).mean() < 0.8 * np.abs(narrow - spread).mean()
    assert not np.allclose(mean, sure)


def test_a_cell_reads_the_same_among_others(trained) -> None:
    latent = trained.encode(indices=np.arange(30))
    together = trained.decode(latent)
    alone = trained.decode(latent[4].copy())
    np.testing.assert_allclose(alone.X[0], together.X[4], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(alone.layers["sd"][0], together.layers["sd"][4], rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose(trained.decode(latent, batch_size=7).X, together.X, rtol=2e-3, atol=2e-3)


def test_predictions_resemble_the_cells(trained) -> None:
    """Decoded where they are, controls have their own mean profile."""
    controls = np.flatnonzero(trained.adata.obs["perturbation"] == "control")
    counts = trained.adata.X[controls].toarray()
    decoded = trained.decode(trained.encode(indices=controls))
    observed = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).mean(0)
    assert np.corrcoef(decoded.X.mean(0), observed)[0, 1] > 0.98
    assert np.abs(decoded.X.mean(0) - observed).mean() < 0.25
