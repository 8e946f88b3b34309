"""Prior rates, dose responses, interacting pairs and effects on own targets, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.integrate import quad
from scipy.stats import beta

from perturbia.nn import GivenTreatments, MaskedEffects, MaskPrior, TargetShift, TreatmentDesign


def doses(seed: int = 0, n: int = 30, n_treatments: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice([0.0, 0.25, 1.0, 3.0], (n, n_treatments), p=[0.6, 0.1, 0.2, 0.1]).astype(np.float32)


@pytest.mark.parametrize("power", [False, True])
def test_slots_and_matrix_amount_to_the_same(power: bool) -> None:  # noqa: FBT001
    dense, pairs = doses(), [(3, 0), (1, 2), (0, 4)]
    design = TreatmentDesign(5, dose_response="power" if power else "linear", pairs=pairs)
    exponent = np.ones(5)
    if power:
        design.log_power.data.copy_(torch.tensor([-0.5, 0.0, 0.3, 0.7, -1.0]))
        exponent = np.exp(design.log_power.detach().numpy())
    strength = dense**exponent * (dense > 0)
    expected = np.hstack([strength, *(strength[:, [i]] * strength[:, [j]] for i, j in ((0, 3), (0, 4), (1, 2)))])
    np.testing.assert_allclose(design.matrix(sparse.csr_matrix(dense)).toarray(), expected, rtol=1e-6)
    given = design(GivenTreatments.of_doses(torch.from_numpy(dense)))
    np.testing.assert_allclose(given.sum_of(torch.eye(8)).detach(), expected, rtol=1e-6)
    np.testing.assert_allclose(given.sum_of(torch.eye(8), squared=True).detach(), expected**2, rtol=1e-5)
    assert design.n_rows == 8


def test_gradients_of_exponents_are_finite_where_slots_are_empty() -> None:
    design = TreatmentDesign(5, dose_response="power")
    design(GivenTreatments.of_doses(torch.from_numpy(doses()))).sum_of(torch.ones(5, 1)).sum().backward()
    assert torch.isfinite(design.log_power.grad).all()
    assert (design.log_power.grad != 0).all()
    design.log_power.data.fill_(0.5)
    assert design.penalty().item() == pytest.approx(5 * 0.5)


def test_a_learned_rate_is_the_share_of_open_masks() -> None:
    rng = np.random.default_rng(0)
    inclusion = torch.from_numpy((rng.random((400, 50)) < 0.23).astype(np.float32))
    prior = MaskPrior([0.1] * 300 + [0.01] * 100, kind="learned")
    seen = torch.arange(400) % 4 > 0
    prior.update(inclusion, seen)
    rates = prior.log_open.exp()[:, 0].numpy()
    for rows, start in ((slice(0, 300), 0.1), (slice(300, 400), 0.01)):
        among = inclusion[rows][seen[rows]]
        expected = (among.sum() + 10 * start) / (among.numel() + 10)
        np.testing.assert_allclose(rates[rows], expected, rtol=1e-5)
    np.testing.assert_allclose(prior.log_closed.exp(), 1 - prior.log_open.exp(), rtol=1e-5)
    assert prior.kl() == 0


def test_a_beta_rate_is_the_optimum_of_the_bound() -> None:
    """The KL of masks and rates together is lowest at the updated rates, and is what integration says."""
    effects = MaskedEffects(2, 3, mask_prior_prob=0.2, mask_prior="beta")
    effects.mask_logit.data.copy_(torch.tensor([[4.0, -3.0, 0.5], [-2.0, -2.5, -1.0]]))
    prior = effects.mask_prior
    start = effects.total_kl().item()
    prior.update(effects.inclusion.detach(), torch.tensor([True, True]))
    best = effects.total_kl().item()
    assert best < start
    p = effects.inclusion.detach().numpy().astype(float)
    total = 0.0
    for t in range(2):
        a, b = 2 + p[t].sum(), 8 + (1 - p[t]).sum()
        np.testing.assert_allclose(prior.counts[t], [a, b], rtol=1e-6)
        log_open = quad(lambda x, a=a, b=b: np.log(x) * beta.pdf(x, a, b), 0, 1)[0]
        log_closed = quad(lambda x, a=a, b=b: np.log1p(-x) * beta.pdf(x, a, b), 0, 1)[0]
        entropy = (p[t] * np.log(p[t]) + (1 - p[t]) * np.log(1 - p[t])).sum()
        rates = quad(lambda x, a=a, b=b: beta.pdf(x, a, b) * (beta.logpdf(x, a, b) - beta.logpdf(x, 2, 8)), 0, 1)[0]
        total += entropy - (p[t] * log_open + (1 - p[t]) * log_closed).sum() + rates
    assert best == pytest.approx(total, rel=1e-4)  # embeddings stand at their prior
    for shift in ([0.3, 0.0], [-0.3, 0.0], [0.0, 0.5], [0.0, -0.5]):
        prior.counts.add_(torch.tensor(shift))
        prior._read_counts()
        assert effects.total_kl().item() > best
        prior.counts.sub_(torch.tensor(shift))
    prior._read_counts()
    # a row without cells returns to its prior
    prior.update(effects.inclusion.detach(), torch.tensor([True, False]))
    np.testing.assert_allclose(prior.counts[1], [2, 8])


def test_the_remembered_kl_follows_every_change() -> None:
    effects = MaskedEffects(3, 2, mask_prior_prob=0.2, mask_prior="learned")
    for change in (
        lambda: effects.assign(torch.full((3, 2), 0.9), torch.ones(3, 2), torch.full((3, 2), 0.5)),
        lambda: effects.reset_to_prior(torch.tensor([True, False, False])),
        lambda: effects.mask_prior.update(effects.inclusion.detach(), torch.ones(3, dtype=torch.bool)),
        lambda: effects.load_state_dict(MaskedEffects(3, 2, mask_prior_prob=0.3).state_dict()),
    ):
        effects.total_kl()
        change()
        assert effects.total_kl().item() == pytest.approx(effects.kl().sum().item(), rel=1e-6)


def test_conditioned_priors_enter_draws_and_kl() -> None:
    effects = MaskedEffects(2, 3, embedding_prior_scale=0.5, per_latent=True)
    rates, means = torch.tensor([[0.2, 0.5, 0.9]] * 2), torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 3.0]])
    effects.condition(rates, means)
    effects.reset_to_prior(torch.tensor([True, True]))
    np.testing.assert_allclose(effects.kl().detach(), 0, atol=1e-6)
    np.testing.assert_allclose(effects.effect().detach(), rates * means, rtol=1e-5)
    mask, embedding = effects.sample(100_000, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose((mask * embedding).mean(0), rates * means, atol=0.02)
    np.testing.assert_allclose(effects.log_ratio(mask, embedding).detach(), 0, atol=1e-4)
    effects.mean.data.add_(1.0)
    ratio = -effects.log_ratio(*effects.sample(200_000, generator=torch.Generator().manual_seed(1)))
    np.testing.assert_allclose(ratio.mean(0).detach(), effects.kl().detach(), atol=0.02)


def test_own_targets_move_by_dose() -> None:
    shift = TargetShift([2, -1, 2, 0], prior_scale=2.0)
    shift.shift.data.copy_(torch.tensor([-1.0, 9.0, 0.5, 4.0]))
    dense = torch.tensor([[1.0, 1, 0, 0], [0.5, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    expected = np.array([[0, 0, -1], [0, 0, 0.5], [0, 0, 0], [4, 0, 0]])
    given = GivenTreatments.of_doses(dense)
    np.testing.assert_allclose(shift(torch.zeros(4, 3), given).detach(), expected)
    np.testing.assert_allclose(shift(torch.ones(2, 4, 3), given).detach(), np.stack([expected + 1] * 2))
    assert shift.penalty().item() == pytest.approx(0.5 * (1 + 81 + 0.25 + 16) / 4)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: TreatmentDesign(3, dose_response="hill"), "dose_response: expected one of"),
        (lambda: MaskPrior([0.1], kind="flat"), "mask_prior: expected one of"),
    ],
)
def test_bad_options(build, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()
