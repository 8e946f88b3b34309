"""Losses over matches against enumeration of all draws."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from perturbia.nn import exact_plain_loss, exact_projected_loss, plain_match_loss, projected_match_loss

if TYPE_CHECKING:
    from collections.abc import Callable

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.6, 0.4], [0.1, 0.0, 0.9]], dtype=torch.float64)
INPUTS = torch.tensor([[0.3, -1.0], [1.2, 0.5], [-0.7, 2.0]], dtype=torch.float64)
TARGET = torch.tensor([[1.0, 0.2, -0.4], [-2.0, 0.1, 0.3], [0.5, 3.0, 1.0]], dtype=torch.float64)


def parameters() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()


def predict(theta: torch.Tensor) -> torch.Tensor:
    return torch.tanh(INPUTS @ theta)


def loop_loss(prediction: np.ndarray, *, plain: bool) -> float:
    """The definition, one cell at a time."""
    total, weights, target = 0.0, WEIGHTS.numpy(), TARGET.numpy()
    for i, j in product(range(3), range(3)):
        if plain:
            total += weights[i, j] * ((target[i] - prediction[j]) ** 2).sum()
        elif j == 0:
            mean = sum(weights[i, k] * prediction[k] for k in range(3))
            total += ((target[i] - mean) ** 2).sum()
    return total / target.size


def over_all_draws(estimate: Callable, theta: torch.Tensor, n_draws: int) -> torch.Tensor:
    """Mean of an estimate over every outcome of the draws of every cell, weighted by its probability."""
    prediction, total = predict(theta), torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for draws in product(range(3), repeat=n_draws):
            probability = WEIGHTS[i, list(draws)].prod()
            total = total + probability * estimate(prediction[list(draws)][None], TARGET[[i]]) / 3
    return total


def value_and_gradient(loss: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, torch.Tensor]:
    theta = parameters()
    value = loss(theta)
    value.backward()
    assert theta.grad is not None
    return value.item(), theta.grad


@pytest.mark.parametrize("n_draws", [2, 3, 4])
def test_projected_estimate_is_unbiased_in_value_and_gradient(n_draws: int) -> None:
    value, gradient = value_and_gradient(lambda theta: over_all_draws(projected_match_loss, theta, n_draws))
    exact, exact_gradient = value_and_gradient(lambda theta: exact_projected_loss(predict(theta), TARGET, WEIGHTS))
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-12)


@pytest.mark.parametrize("n_draws", [1, 2])
def test_plain_estimate_adds_the_variance_over_matches(n_draws: int) -> None:
    theta = parameters()
    prediction = predict(theta).detach()
    variance = (WEIGHTS @ prediction**2 - (WEIGHTS @ prediction) ** 2).mean()
    projected = exact_projected_loss(prediction, TARGET, WEIGHTS)
    drawn = over_all_draws(plain_match_loss, theta, n_draws)
    assert variance > 0.05
    np.testing.assert_allclose(drawn.item(), projected + variance, rtol=1e-12)
    value, gradient = value_and_gradient(lambda theta: over_all_draws(plain_match_loss, theta, n_draws))
    exact, exact_gradient = value_and_gradient(lambda theta: exact_plain_loss(predict(theta), TARGET, WEIGHTS))
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-12)


@pytest.mark.parametrize("weights", [WEIGHTS, WEIGHTS.to_sparse()], ids=["dense", "sparse"])
def test_exact_losses_are_their_definitions(weights: torch.Tensor) -> None:
    prediction = predict(parameters()).detach()
    np.testing.assert_allclose(
        exact_projected_loss(prediction, TARGET, weights), loop_loss(prediction.numpy(), plain=False), rtol=1e-12
    )
    np.testing.assert_allclose(
        exact_plain_loss(prediction, TARGET, weights), loop_loss(prediction.numpy(), plain=True), rtol=1e-12
    )


def test_pairs_of_draws_by_hand() -> None:
    """The mean of the products of residuals of two different draws."""
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randn(5, 4, 3, generator=generator), torch.randn(5, 3, generator=generator)
    residual = (target[:, None] - prediction).numpy()
    pairs = [residual[:, s] * residual[:, t] for s in range(4) for t in range(4) if s != t]
    np.testing.assert_allclose(projected_match_loss(prediction, target), np.mean(pairs), rtol=1e-5)
    np.testing.assert_allclose(plain_match_loss(prediction, target), (residual**2).mean(), rtol=1e-5)


def test_certain_matches_make_all_losses_one() -> None:
    prediction = predict(parameters()).detach()
    drawn = prediction[:, None].expand(-1, 3, -1)
    squared = (TARGET - prediction).square().mean()
    for value in (
        plain_match_loss(drawn, TARGET),
        projected_match_loss(drawn, TARGET),
        exact_plain_loss(prediction, TARGET, torch.eye(3, dtype=torch.float64)),
        exact_projected_loss(prediction, TARGET, torch.eye(3, dtype=torch.float64)),
    ):
        np.testing.assert_allclose(value, squared, rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "problem"),
    [
        (projected_match_loss, (4, 1, 3), (4, 3), "at least 2 draws"),
        (plain_match_loss, (4, 0, 3), (4, 3), "at least 1 draws"),
        (projected_match_loss, (4, 2, 3), (3,), "expected shape"),
        (plain_match_loss, (4, 3), (4, 3), "expected shape"),
        (projected_match_loss, (4, 2, 3), (4, 1), "expected shape"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(
    loss: Callable, prediction: tuple, target: tuple, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        loss(torch.zeros(prediction), torch.zeros(target))
