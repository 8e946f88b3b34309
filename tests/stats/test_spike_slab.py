from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import expit, logsumexp, xlogy

from perturbia.stats import SpikeSlab, dosage_blocks, estimate_spike_sd, update_spike_slab

ALPHA, SLAB_SD = 0.2, 1.3
PRIOR = {"prior_inclusion": ALPHA, "slab_sd": SLAB_SD}


def data(*, n_cells: int = 30, n_treatments: int = 3, n_latent: int = 2, seed: int = 0, overlap: float = 0.5) -> tuple:
    rng = np.random.default_rng(seed)
    dosage = (rng.random((n_cells, n_treatments)) < overlap) * rng.choice([0.5, 1.0, 2.0], (n_cells, n_treatments))
    latent = dosage @ rng.normal(0, 0.7, (n_treatments, n_latent)) + rng.normal(size=(n_cells, n_latent))
    return sparse.csr_matrix(dosage), latent


def moments(dosage: sparse.csr_matrix, latent: np.ndarray) -> tuple:
    return dosage.T @ latent, (dosage.T @ dosage).tocsr()


def some_posterior(n_treatments: int, n_latent: int, *, seed: int = 1) -> SpikeSlab:
    rng = np.random.default_rng(seed)
    shape = (n_treatments, n_latent)
    return SpikeSlab(rng.uniform(0.1, 0.9, shape), rng.normal(size=shape), rng.uniform(0.2, 1.0, shape))


def bound(posterior: SpikeSlab, dosage: sparse.csr_matrix, latent: np.ndarray) -> float:
    """Evidence bound of `latent ~ N(D (M * E), 1)` by enumeration of every mask: nothing but definitions."""
    dense, total = dosage.toarray(), 0.0
    p, mean, sd = posterior.inclusion, posterior.mean, posterior.sd
    for bits in product((0.0, 1.0), repeat=p.shape[0]):
        mask = np.array(bits)[:, None]
        weight = np.prod(np.where(mask == 1, p, 1 - p), 0)
        square = ((latent - dense @ (mask * mean)) ** 2 + dense**2 @ (mask * sd**2)).sum(0)
        total += float(weight @ (-0.5 * square - 0.5 * len(latent) * np.log(2 * np.pi)))
    kl_mask = xlogy(p, p / ALPHA) + xlogy(1 - p, (1 - p) / (1 - ALPHA))
    kl_slab = np.log(SLAB_SD / sd) + (sd**2 + mean**2) / (2 * SLAB_SD**2) - 0.5
    return total - float((kl_mask + p * kl_slab).sum())


def test_one_treatment_is_exact() -> None:
    """Alone, the factorised posterior is the true one: spike and slab marginal likelihoods by multivariate normals."""
    dosage, latent = data(n_treatments=1, n_latent=3)
    cross, gram = moments(dosage, latent)
    fit = update_spike_slab(some_posterior(1, 3), cross, gram, **PRIOR, n_sweeps=1, logit_bound=50.0)
    d = dosage.toarray()
    for column in range(3):
        spike = scipy.stats.norm.logpdf(latent[:, column]).sum()
        slab = scipy.stats.multivariate_normal.logpdf(
            latent[:, column], np.zeros(30), np.eye(30) + SLAB_SD**2 * d @ d.T
        )
        odds = slab - spike + np.log(ALPHA / (1 - ALPHA))
        np.testing.assert_allclose(fit.inclusion[0, column], expit(odds), rtol=1e-8)
        precision = (d**2).sum() + SLAB_SD**-2
        np.testing.assert_allclose(fit.mean[0, column], (d.T @ latent[:, column])[0] / precision)
        np.testing.assert_allclose(fit.sd[0, column], precision**-0.5)


@pytest.mark.parametrize("seed", range(4))
def test_treatments_without_common_cells_are_exact(seed: int) -> None:
    """Enumerate every mask of three disjoint treatments: marginals of the joint posterior are the factors."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 4, 40)
    d = np.eye(4)[group][:, :3] * rng.choice([0.5, 1.0], (40, 1))
    latent = d @ rng.normal(0, 0.5, (3, 1)) + rng.normal(size=(40, 1))
    masks = np.array(list(product((0, 1), repeat=3)))
    log_joint = [
        scipy.stats.multivariate_normal.logpdf(
            latent[:, 0], np.zeros(40), np.eye(40) + SLAB_SD**2 * (d * mask) @ (d * mask).T
        )
        + np.where(mask, np.log(ALPHA), np.log(1 - ALPHA)).sum()
        for mask in masks
    ]
    posterior = np.exp(log_joint - logsumexp(log_joint))
    cross, gram = moments(sparse.csr_matrix(d), latent)
    fit = update_spike_slab(some_posterior(3, 1), cross, gram, **PRIOR, n_sweeps=1, logit_bound=50.0)
    np.testing.assert_allclose(fit.inclusion[:, 0], posterior @ masks, rtol=1e-8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("entry", [(0, 0), (1, 1), (2, 0)])
def test_no_change_of_one_entry_raises_the_bound(seed: int, entry: tuple[int, int]) -> None:
    """At convergence each factor is optimal given the others, and the bound is that of the definition."""
    dosage, latent = data(seed=seed)
    cross, gram = moments(dosage, latent)
    fit = update_spike_slab(some_posterior(3, 2), cross, gram, **PRIOR, n_sweeps=300, logit_bound=50.0)
    best = bound(fit, dosage, latent)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        arrays = [fit.inclusion.copy(), fit.mean.copy(), fit.sd.copy()]
        arrays[0][entry] = np.clip(arrays[0][entry] + rng.normal(0, 0.1), 1e-6, 1 - 1e-6)
        arrays[1][entry] += rng.normal(0, 0.1)
        arrays[2][entry] *= np.exp(rng.normal(0, 0.2))
        assert bound(SpikeSlab(*arrays), dosage, latent) <= best + 1e-8


@given(seed=st.integers(0, 10_000), overlap=st.sampled_from([0.1, 0.5, 0.9]))
def test_the_bound_never_falls(seed: int, overlap: float) -> None:
    dosage, latent = data(seed=seed, overlap=overlap, n_cells=15)
    cross, gram = moments(dosage, latent)
    posterior = some_posterior(3, 2, seed=seed)
    previous = -np.inf
    for _ in range(6):
        # the spread of the start is overwritten by the first sweep, so compare from there
        posterior = update_spike_slab(posterior, cross, gram, **PRIOR, n_sweeps=1, logit_bound=30.0)
        now = bound(posterior, dosage, latent)
        assert now >= previous - 1e-8
        previous = now


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_sequential_updates(seed: int) -> None:
    """Treatments without common cells may move at once: the same numbers as one after the other, in that order."""
    rng = np.random.default_rng(seed)
    dosage = sparse.csr_matrix((rng.random((60, 7)) < 0.12).astype(float))
    latent = rng.normal(size=(60, 2)) + dosage @ rng.normal(size=(7, 2))
    cross, gram = moments(dosage, latent)
    blocks = dosage_blocks(gram)
    assert 1 < len(blocks) < 7
    singles = [np.array([t]) for block in blocks for t in block]
    start = some_posterior(7, 2)
    together, apart = (
        update_spike_slab(start, cross, gram, **PRIOR, blocks=chosen, n_sweeps=2) for chosen in (blocks, singles)
    )
    for name in ("inclusion", "mean", "sd"):
        np.testing.assert_allclose(getattr(together, name), getattr(apart, name), atol=1e-12)
    default = update_spike_slab(start, cross, gram, **PRIOR, n_sweeps=2)
    np.testing.assert_array_equal(default.mean, together.mean)
    # in any order the sweeps end at the same place
    ends = [
        update_spike_slab(start, cross, gram, **PRIOR, blocks=chosen, n_sweeps=400).effect
        for chosen in (blocks, [np.array([t]) for t in range(7)][::-1])
    ]
    np.testing.assert_allclose(*ends, atol=1e-8)


@given(seed=st.integers(0, 1000), density=st.floats(0, 0.6), n=st.integers(1, 9))
def test_blocks_partition_without_common_cells(seed: int, density: float, n: int) -> None:
    dosage = np.random.default_rng(seed).random((12, n)) < density
    gram = sparse.csr_matrix(dosage.T.astype(float) @ dosage)
    blocks = dosage_blocks(gram)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(n))
    for block in blocks:
        assert (dosage[:, block].sum(1) <= 1).all()


def test_a_screen_of_singles_has_one_block() -> None:
    assert len(dosage_blocks(sparse.diags([1.0, 2.0, 3.0]).tocsr())) == 1


def test_a_treatment_without_cells_returns_to_the_prior() -> None:
    dosage, latent = data()
    wider = sparse.hstack([dosage, sparse.csr_matrix((30, 1))]).tocsr()
    cross, gram = moments(wider, latent)
    fit = update_spike_slab(some_posterior(4, 2), cross, gram, **PRIOR)
    np.testing.assert_allclose(fit.inclusion[3], ALPHA)
    np.testing.assert_allclose(fit.mean[3], 0)
    np.testing.assert_allclose(fit.sd[3], SLAB_SD)
    before = update_spike_slab(
        SpikeSlab(*(a[:3] for a in _arrays(some_posterior(4, 2)))), *moments(dosage, latent), **PRIOR
    )
    np.testing.assert_allclose(fit.mean[:3], before.mean)


def _arrays(posterior: SpikeSlab) -> tuple[np.ndarray, ...]:
    return posterior.inclusion, posterior.mean, posterior.sd


def test_strong_effects_are_found_and_logits_stay_bounded() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([[3.0, 0.0], [0.0, -2.0], [0.0, 0.0]])
    d = np.eye(3)[rng.integers(0, 3, 3000)]
    cross, gram = moments(sparse.csr_matrix(d), d @ truth + rng.normal(size=(3000, 2)))
    fit = update_spike_slab(some_posterior(3, 2), cross, gram, **PRIOR)
    np.testing.assert_allclose(fit.effect, truth, atol=0.1)
    np.testing.assert_array_equal(fit.inclusion > 0.5, truth != 0)
    assert fit.inclusion.max() <= expit(8.0) + 1e-12
    loose = update_spike_slab(some_posterior(3, 2), cross, gram, **PRIOR, logit_bound=2.0)
    np.testing.assert_allclose(loose.inclusion.max(), expit(2.0))


def test_moments_of_the_masked_effect() -> None:
    posterior = some_posterior(3, 2)
    p, mean, sd = _arrays(posterior)
    rng = np.random.default_rng(0)
    draws = (rng.random((400_000, 3, 2)) < p) * rng.normal(mean, sd, (400_000, 3, 2))
    np.testing.assert_allclose(posterior.effect, draws.mean(0), atol=0.01)
    np.testing.assert_allclose(posterior.variance, draws.var(0), rtol=0.02)


def test_the_start_is_left_alone() -> None:
    start = some_posterior(3, 2)
    before = [array.copy() for array in _arrays(start)]
    cross, gram = moments(*data())
    update_spike_slab(start, cross, gram, **PRIOR)
    for array, old in zip(_arrays(start), before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prior_inclusion": -0.1}, "prior_inclusion: expected probabilities, between 0 and 1"),
        ({"prior_inclusion": 1.1}, "prior_inclusion"),
        ({"prior_inclusion": np.nan}, "prior_inclusion"),
        ({"slab_sd": 0.0}, "slab_sd: expected a positive number"),
        ({"slab_sd": -1.0}, "slab_sd"),
    ],
)
def test_bad_input(changes: dict, match: str) -> None:
    cross, gram = moments(*data())
    with pytest.raises(ValueError, match=match):
        update_spike_slab(some_posterior(3, 2), cross, gram, **{**PRIOR, **changes})


@pytest.mark.parametrize("spike_sd", [0.0, 0.1, 0.5])
def test_spike_width_is_the_bayes_factor_of_two_normals(spike_sd: float) -> None:
    """One treatment per cell: the evidence compares a slab with a spike of that width, both blurred by sampling."""
    rng = np.random.default_rng(3)
    n = np.array([5.0, 40.0, 900.0])
    estimates = rng.normal(0, 0.4, (3, 6))
    start = SpikeSlab(np.full((3, 6), 0.5), np.zeros((3, 6)), np.ones((3, 6)))
    options = {**PRIOR, "spike_sd": spike_sd, "logit_bound": 50.0}
    fit = update_spike_slab(start, estimates * n[:, None], sparse.diags(n).tocsr(), **options)
    blur = 1 / n[:, None] + spike_sd**2
    slab = scipy.stats.norm.pdf(estimates, scale=np.sqrt(blur + SLAB_SD**2))
    spike = scipy.stats.norm.pdf(estimates, scale=np.sqrt(blur))
    np.testing.assert_allclose(fit.inclusion, ALPHA * slab / (ALPHA * slab + (1 - ALPHA) * spike), rtol=1e-6)


def test_alternating_estimates_finds_the_leak() -> None:
    """A few strong shifts over many leaks of .2: masks close on the leaks, and their size is found."""
    rng = np.random.default_rng(4)
    n = np.full(200, 400.0)
    moved = rng.random((200, 10)) < 0.1
    shifts = np.where(moved, 2 * rng.choice([-1, 1], moved.shape), rng.normal(0, 0.2, moved.shape))
    estimates = shifts + rng.normal(0, 1 / np.sqrt(n[:, None]), moved.shape)
    posterior, width = SpikeSlab(*(np.full(moved.shape, value) for value in (0.5, 0.0, 1.0))), 0.0
    options = {"prior_inclusion": 0.1, "slab_sd": 1.0, "n_sweeps": 1}
    opened = update_spike_slab(posterior, estimates * n[:, None], sparse.diags(n).tocsr(), **options).inclusion > 0.5
    for _ in range(30):
        gram = sparse.diags(n).tocsr()
        posterior = update_spike_slab(posterior, estimates * n[:, None], gram, **options, spike_sd=width)
        width = estimate_spike_sd(posterior, n)
    assert (opened & ~moved).sum() > 300
    assert ((posterior.inclusion > 0.5) == moved).mean() > 0.98
    assert abs(width - 0.2) < 0.02


def test_no_width_without_excluded_entries() -> None:
    """Nothing to estimate from: all entries open, or no treatment with cells."""
    ones = np.ones((2, 3))
    for posterior, n in ((SpikeSlab(ones, ones, ones), [4.0, 4.0]), (SpikeSlab(0 * ones, ones, ones), [0.0, 0.0])):
        assert estimate_spike_sd(posterior, np.array(n)) == 0.0


def test_an_unused_latent_does_not_hide_the_leak_of_another() -> None:
    """The encoder leaves one latent at zero, below its sampling error; the other leaks."""
    rng = np.random.default_rng(5)
    n = np.full(300, 50.0)
    estimates = np.stack([np.zeros(300), rng.normal(0, np.sqrt(0.3**2 + 1 / 50), 300)], 1)
    posterior = SpikeSlab(np.zeros((300, 2)), estimates * 50 / 51, np.full((300, 2), 51**-0.5))
    assert abs(estimate_spike_sd(posterior, n) - 0.3) < 0.05


def test_negative_width_is_refused() -> None:
    """The message names the argument."""
    ones = np.ones((1, 1))
    with pytest.raises(ValueError, match="spike_sd: expected"):
        update_spike_slab(SpikeSlab(ones, ones, ones), ones, sparse.eye(1).tocsr(), **PRIOR, spike_sd=-1.0)
