"""The module against its formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from perturbia.model.comparative._comparative_module import ComparativeModule, group_means

N, GENES = 12, 10


def module(**changes: object) -> ComparativeModule:
    options = {"n_groups": 2, "n_latent_shared": 3, "n_latent_salient": 2, "n_hidden": 8, "n_layers": 1, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ComparativeModule(GENES, 2, **options)


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    counts = torch.poisson(torch.full((N, GENES), 3.0), generator=generator)
    index = torch.tensor([0, 1, 1] * (N // 3))[:, None]
    dose = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0] * (N // 6))[:, None]
    return {"X": counts, "batch": torch.zeros(N, 1), "treatment_index": index, "treatment_dose": dose}


def passed(net: ComparativeModule, tensors: dict, seed: int = 2, **options: object) -> tuple:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return net(tensors, **options)


def test_groups_are_numbered_by_their_treatment() -> None:
    tensors = batch()
    expected = torch.where(tensors["treatment_dose"][:, 0] > 0, tensors["treatment_index"][:, 0] + 1, 0)
    assert torch.equal(module().group(tensors), expected)
    assert torch.equal(module(n_groups=1).group(tensors), (expected > 0).long())


def test_salient_latents_are_zero_outside_their_block() -> None:
    net, tensors = module(), batch()
    inference, _, _ = passed(net, tensors)
    salient, group = inference["z"][:, 3:], inference["group"]
    assert (salient[group == 0] == 0).all()
    assert (salient[group == 1, 2:] == 0).all()
    assert (salient[group == 2, :2] == 0).all()
    assert (salient[group == 1, :2] != 0).all()
    assert (salient[group == 2, 2:] != 0).all()


@pytest.mark.parametrize("prior", ["standard", "label"])
def test_loss_is_the_sum_of_group_means(prior: str) -> None:
    net, tensors = module(salient_prior=prior, target_prior="learned"), batch()
    net.n_treated.fill_(5.0)
    with torch.no_grad():
        net.target_mean.copy_(torch.arange(6.0).reshape(2, 3) / 5)
        net.target_log_sd.fill_(0.3)
        if prior == "label":
            net.effects.mean.copy_(torch.tensor([[1.0, -1.0], [0.5, 2.0]]))
    net.eval()
    inference, generative, output = passed(net, tensors)
    expected = 0.0
    group = inference["group"].numpy()
    for code in range(3):
        bounds = []
        for i in np.flatnonzero(group == code):
            px = generative["px"]
            mu, theta = px.mu[i].detach().numpy(), px.theta[i].detach().numpy()
            log_prob = stats.nbinom.logpmf(tensors["X"][i].numpy(), theta, theta / (theta + mu)).sum()
            qz = Normal(inference["qz"].loc[i], inference["qz"].scale[i])
            target = Normal(net.target_mean[code - 1], net.target_log_sd[code - 1].exp())
            kl = kl_divergence(qz, Normal(torch.zeros(3), torch.ones(3)) if code == 0 else target).sum()
            if code > 0:
                own = slice(2 * (code - 1), 2 * code)
                qs = Normal(inference["qs"].loc[i, own], inference["qs"].scale[i, own])
                mean = net.effects.mean[code - 1] if prior == "label" else torch.zeros(2)
                kl = kl + kl_divergence(qs, Normal(mean, torch.ones(2))).sum()
            bounds.append(-log_prob + kl.item())
        expected += np.mean(bounds)
    if prior == "label":
        expected += 0.5 * net.effects.mean.square().sum().item() / 10
    np.testing.assert_allclose(output.loss.item(), expected, rtol=1e-4)


def test_background_cells_do_not_move_the_salient_encoder() -> None:
    net, tensors = module(), batch()
    tensors["treatment_dose"] = torch.zeros_like(tensors["treatment_dose"])
    _, _, output = passed(net, tensors)
    assert (output.kl_local["salient"] == 0).all()
    output.loss.backward()
    for parameter in net.salient_encoder.parameters():
        assert parameter.grad is None or (parameter.grad == 0).all()


def test_label_means_add_up_and_scale_with_doses() -> None:
    net = module(n_groups=1, salient_prior="label")
    with torch.no_grad():
        net.effects.mean.copy_(torch.tensor([[1.0, -1.0], [0.5, 2.0]]))
    tensors = {
        "treatment_index": torch.tensor([[0, 1], [1, 0], [0, 0]]),
        "treatment_dose": torch.tensor([[1.0, 1.0], [0.5, 0.0], [0.0, 0.0]]),
    }
    mean, variance = net.salient_offset(net.given(tensors))
    np.testing.assert_allclose(mean.detach(), [[1.5, 1.0], [0.25, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(variance, [[2.0], [0.25], [0.0]])


def test_particles_have_an_axis_of_their_own() -> None:
    inference, generative, output = passed(module(), batch(), inference_kwargs={"n_samples": 4})
    assert inference["z"].shape == (4, N, 7)
    assert generative["px"].mu.shape == (4, N, GENES)
    assert output.reconstruction_loss["reconstruction_loss"].shape == (N,)


def test_group_means() -> None:
    means = group_means(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 2, 2]), 2)
    assert means.tolist() == [1.0, 0.0, 4.0]
