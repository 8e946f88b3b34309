from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from perturbia.nn import DiagonalGaussianEncoder


def encoder(**options: object) -> DiagonalGaussianEncoder:
    torch.manual_seed(0)
    return DiagonalGaussianEncoder(6, 4, n_hidden=9, **options)


@pytest.mark.parametrize("n_condition", [0, 4])
def test_the_mean_turns_exactly_and_variances_keep_their_sum(n_condition: int) -> None:
    """Under `z' = R.T z` the mean must follow; the squared entries of a rotation sum to one."""
    model = encoder(n_condition=n_condition, n_cat_list=[2], n_cont=1)
    x, batch, cont = torch.randn(5, 6), torch.randint(0, 2, (5, 1)), torch.randn(5, 1)
    offset = torch.randn(5, n_condition)
    before = model(torch.cat([x, offset], -1), batch, cont=cont)
    rotation = torch.from_numpy(scipy.stats.ortho_group.rvs(4, random_state=1)).float()
    model.rotate(rotation)
    turned = offset @ rotation if n_condition else offset
    after = model(torch.cat([x, turned], -1), batch, cont=cont)
    np.testing.assert_allclose(after.loc.detach(), (before.loc @ rotation).detach(), atol=1e-5)
    log_variance = [2 * distribution.scale.log().sum(-1).detach() for distribution in (before, after)]
    np.testing.assert_allclose(*log_variance, atol=1e-4)


def test_a_permutation_is_a_rotation_without_approximation() -> None:
    model = encoder()
    x, order = torch.randn(5, 6), [2, 0, 3, 1]
    before = model(x)
    model.rotate(torch.eye(4)[:, order])
    after = model(x)
    np.testing.assert_allclose(after.loc.detach(), before.loc[:, order].detach(), atol=1e-6)
    np.testing.assert_allclose(after.scale.detach(), before.scale[:, order].detach(), rtol=1e-5)


def test_wild_cells_stay_finite() -> None:
    distribution = encoder()(torch.full((1, 6), 1e6))
    assert torch.isfinite(distribution.loc).all()
    assert (distribution.scale <= np.exp(4) * 1.001).all()
    assert (distribution.scale >= np.exp(-6) * 0.999).all()


def test_particles_pass_through_with_their_covariates() -> None:
    model = encoder(n_condition=4, n_cat_list=[2], n_cont=1)
    x, batch, cont = torch.randn(3, 5, 10), torch.randint(0, 2, (5, 1)), torch.randn(5, 1)
    together = model(x, batch, cont=cont)
    for particle in range(3):
        alone = model(x[particle], batch, cont=cont)
        np.testing.assert_allclose(together.loc[particle].detach(), alone.loc.detach(), atol=1e-6)
