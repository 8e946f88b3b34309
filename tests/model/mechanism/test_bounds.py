"""Global KL over an epoch, treatments without cells, and the importance-weighted bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import expit, logsumexp
from scvi import REGISTRY_KEYS

from .conftest import GUIDES

if TYPE_CHECKING:
    from collections.abc import Callable

    import perturbia as pb


def epoch(model: pb.model.SAMSVAE, indices: np.ndarray, batch_size: int) -> list[dict[str, torch.Tensor]]:
    return list(model._make_data_loader(adata=model.adata, indices=indices, batch_size=batch_size))


@pytest.mark.parametrize(("basal", "update"), GUIDES)
def test_a_plated_epoch_adds_up_to_the_closed_kl(screen, fit: Callable, basal: str, update: str) -> None:
    """Summed over the training cells, the shares of every treatment are its KL, once."""
    init = {"basal_encoder": basal, "global_update": update, "global_kl": "plated"}
    model = fit(screen, init=init, max_steps=60, train_size=0.8)
    module = model.module
    with torch.no_grad():
        module.effects.mean.add_(torch.randn(module.effects.mean.shape, generator=torch.Generator().manual_seed(1)))
    closed = float(module.effects.kl().sum())
    assert closed > 1

    def plated() -> float:
        total = 0.0
        for tensors in epoch(model, np.asarray(model.train_indices), 50):
            with torch.no_grad():
                outputs = module.inference(**module._get_inference_input(tensors), n_samples=1)
                total += float(module.plated_kl(outputs).sum())
        return total

    if basal == "residual":
        np.testing.assert_allclose(plated(), closed, rtol=1e-5)
    else:
        torch.manual_seed(0)
        draws = np.array([plated() for _ in range(300)])
        error = draws.std() / len(draws) ** 0.5
        assert error < 0.2 * closed
        assert abs(draws.mean() - closed) < 4.5 * error


def test_both_forms_of_the_loss_agree_over_an_epoch(screen, fit: Callable) -> None:
    """Of gradient globals: mean loss over equal batches, `plated` against `closed` on the same draws."""
    model = fit(screen, init={"global_update": "gradient"}, max_steps=60, train_size=0.8)
    module, train = model.module, np.asarray(model.train_indices)
    sums = {}
    for form in ("closed", "plated"):
        module.global_kl = form
        torch.manual_seed(0)
        total = 0.0
        for tensors in epoch(model, train, 37):
            output = module(tensors, loss_kwargs={"n_obs": len(train)})[2]
            total += float(output.loss) * len(tensors[REGISTRY_KEYS.X_KEY])
        sums[form] = total
    share = float(module.effects.kl().sum())
    assert share > 1
    assert abs(sums["plated"] - sums["closed"]) < 0.02 * share


@pytest.mark.parametrize("global_kl", ["closed", "plated"])
@pytest.mark.parametrize(("basal", "update"), GUIDES)
@pytest.mark.filterwarnings("ignore::perturbia.errors.ExtrapolationWarning")
def test_a_treatment_without_training_cells_is_the_prior(
    screen, fit: Callable, basal: str, update: str, global_kl: str
) -> None:
    has_last = screen.obs["perturbation"].astype(str).str.contains("P04")
    screen.obs["pb_split"] = np.where(has_last, "test", "train")
    init = {"basal_encoder": basal, "global_update": update, "global_kl": global_kl, "mask_prior_prob": 0.15}
    model = fit(screen, init={**init, "embedding_prior_scale": 1.4}, max_steps=60)
    effects = model.module.effects
    assert model.module.n_treated[3] == 0
    np.testing.assert_allclose(effects.inclusion[3].detach(), 0.15, rtol=1e-4)
    np.testing.assert_allclose(effects.log_sd[3].exp().detach(), 1.4, rtol=1e-4)
    assert (effects.mean[3] == 0).all()
    np.testing.assert_allclose(effects.kl()[3].detach(), 0, atol=1e-5)
    assert effects.kl()[:3].sum() > 0.01
    unseen = model.estimate_ate(["P04", "P01"])
    assert np.abs(unseen.X[0]).max() == 0
    assert np.abs(unseen.X[1]).max() > 0
    assert unseen.layers["sd"][0].max() > 0
    assert unseen.obs["n_cells"].tolist() == [0, (screen.obs["perturbation"] == "P01").sum()]


# the importance-weighted bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("basal", "update"), GUIDES)
def test_more_particles_give_a_higher_bound(screen, fit: Callable, basal: str, update: str) -> None:
    """In expectation: never lower with more particles, and with one particle the evidence bound itself."""
    model = fit(screen, init={"basal_encoder": basal, "global_update": update}, max_steps=300)
    rounds = {1: 60, 3: 40, 10: 20, 100: 5}
    mean, error = {}, {}
    for n, n_seeds in rounds.items():
        draws = np.array([model.get_iwelbo(n_particles=n, return_mean=True, seed=seed) for seed in range(n_seeds)])
        mean[n], error[n] = draws.mean(), draws.std(ddof=1) / n_seeds**0.5
    for fewer, more in ((1, 3), (3, 10), (10, 100)):
        assert mean[more] > mean[fewer] - 3 * np.hypot(error[fewer], error[more])
    assert mean[100] > mean[1] + 3 * error[1]
    torch.manual_seed(0)
    bounds = np.array([float(model.get_elbo()) for _ in range(60)])
    assert abs(bounds.mean() - mean[1]) < 4.5 * np.hypot(error[1], bounds.std() / 60**0.5)
    assert mean[100] > bounds.mean()


@pytest.mark.parametrize("basal", ["residual", "correlated", "mean_field"])
def test_the_bound_converges_to_the_likelihood(random_module: Callable, oracle, basal: str) -> None:
    """One latent, one treatment: integrate basal state and embedding by quadrature, sum over the mask."""
    from perturbia.model.mechanism._iwelbo import iwelbo_of_batch

    update = "closed_form" if basal == "residual" else "gradient"
    module = random_module(n_treatments=1, n_latent=1, basal_encoder=basal, global_update=update)
    rng = np.random.default_rng(0)
    x = rng.poisson(1.5, (6, 5)) + (np.arange(5) == 0)
    dosage = np.array([0.0, 1, 1, 0.5, 2, 1])[:, None]
    tensors = {
        REGISTRY_KEYS.X_KEY: torch.from_numpy(x).float(),
        "perturbation": torch.from_numpy(dosage).float(),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(6, 1, dtype=torch.long),
    }
    weights = {name: value.numpy().astype(np.float64) for name, value in module.state_dict().items()}
    grid = np.linspace(-7, 7, 141)
    weight = scipy.stats.norm.pdf(grid) * (grid[1] - grid[0])
    p, mean, sd = expit(weights["effects.mask_logit"]), weights["effects.mean"], np.exp(weights["effects.log_sd"])
    parts = []
    for log_mask, embeddings, log_weight in (
        (np.log1p(-p), np.zeros(1), np.zeros(1)),
        (np.log(p), (mean + sd * grid).ravel(), np.log(weight)),
    ):
        z = grid[:, None, None, None] + dosage * embeddings[None, :, None, None]
        log_prob = oracle.log_likelihood(weights, x, z, x.sum(1, keepdims=True), np.zeros((6, 0)), likelihood="nb")
        inner = logsumexp(log_prob + np.log(weight)[:, None, None], axis=0)
        parts.append(log_mask.ravel() + logsumexp(inner + log_weight[:, None], axis=0))
    exact = np.logaddexp(*parts)
    with torch.inference_mode():
        draws = np.stack(
            [iwelbo_of_batch(module, tensors, n_particles=4000, seed=seed, chunk=500).numpy() for seed in range(8)]
        )
    error = draws.std(0, ddof=1) / 8**0.5
    assert error.max() < 0.1
    assert (np.abs(draws.mean(0) - exact) < 5 * error + 0.02).all()


def test_the_bound_is_a_series_over_the_cells_asked_for(trained: pb.model.SAMSVAE) -> None:
    names = trained.adata.obs_names
    series = trained.get_iwelbo(indices=[5, 2, 5], n_particles=50)
    assert list(series.index) == [names[5], names[2], names[5]]
    assert series.dtype == np.float64
    assert series.iloc[0] == series.iloc[2]
    again = trained.get_iwelbo(indices=[2, 5], n_particles=50)
    np.testing.assert_allclose(again.loc[names[5]], series.iloc[0], atol=1.0)
    np.testing.assert_array_equal(trained.get_iwelbo(n_particles=7, seed=3), trained.get_iwelbo(n_particles=7, seed=3))
    assert not np.array_equal(trained.get_iwelbo(n_particles=7, seed=3), trained.get_iwelbo(n_particles=7, seed=4))
    mean = trained.get_iwelbo(n_particles=7, return_mean=True)
    assert mean == pytest.approx(trained.get_iwelbo(n_particles=7).mean())
    assert trained.get_marginal_ll(n_particles=7) == pytest.approx(mean)
    small = trained.get_iwelbo(n_particles=300, batch_size=16)
    large = trained.get_iwelbo(n_particles=300, batch_size=1000)
    assert abs(small.mean() - large.mean()) < 0.2


@pytest.mark.parametrize(("basal", "update"), GUIDES)
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_inherited_measures(screen, fit: Callable, basal: str, update: str, likelihood: str) -> None:
    """scvi-tools' bound per cell is reconstruction plus local KL, whatever the switches; higher is better."""
    init = {"basal_encoder": basal, "global_update": update, "gene_likelihood": likelihood}
    model = fit(screen, init=init, max_steps=20)
    torch.manual_seed(0)
    bounds = model.get_elbo(return_mean=False)
    assert bounds.shape == (screen.n_obs,)
    torch.manual_seed(0)
    assert float(model.get_elbo()) == pytest.approx(float(bounds.mean()), rel=1e-5)
    torch.manual_seed(0)
    error = model.get_reconstruction_error(return_mean=False)["reconstruction_loss"]
    assert (bounds <= 0).all()
    assert (-error >= bounds - 1e-3).all()
    some = model.get_elbo(indices=[0, 1, 2], return_mean=False)
    assert some.shape == (3,)
