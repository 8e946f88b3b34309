"""Encoders from features to a diagonal Gaussian over latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributions import Normal

from perturbia.nn._perceptron import perceptron

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DiagonalGaussianEncoder"]


class DiagonalGaussianEncoder(nn.Module):
    """Perceptron with a mean and a log-variance head, without batch normalisation or dropout.

    Parameters
    ----------
    n_input
        Number of input features.
    n_latent
        Number of latent dimensions.
    n_condition
        Number of latent-space inputs appended to the features (the perturbation offset in the correlated guide).
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    n_cat_list
        Numbers of categories of the categorical covariates.
    n_cont
        Number of continuous covariates.
    """

    def __init__(
        self,
        n_input: int,
        n_latent: int,
        *,
        n_condition: int = 0,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_cat_list: Sequence[int] = (),
        n_cont: int = 0,
    ) -> None:
        super().__init__()
        self.n_input = n_input
        self.n_condition = n_condition
        self.trunk = perceptron(
            n_input + n_condition, n_hidden=n_hidden, n_layers=n_layers, n_cat_list=n_cat_list, n_cont=n_cont
        )
        self.mean_head = nn.Linear(n_hidden, n_latent)
        self.log_variance_head = nn.Linear(n_hidden, n_latent)

    def forward(self, x: torch.Tensor, *categories: torch.Tensor, cont: torch.Tensor | None = None) -> Normal:
        """Distribution over latents of batch shape `(..., n_latent)` for inputs `(..., n_input + n_condition)`."""
        hidden = self.trunk(x, *categories, cont=cont)
        # bounded so that one wild cell can not overflow the KL
        log_variance = self.log_variance_head(hidden).clamp(-12.0, 8.0)
        return Normal(self.mean_head(hidden), torch.exp(0.5 * log_variance), validate_args=False)

    @torch.no_grad()
    def rotate(self, rotation: torch.Tensor) -> None:
        """Absorb the change of basis `z' = R.T z` into the heads.

        A diagonal Gaussian is not closed under rotation: the mean is exact, variances follow the squared entries of
        `R`, a good start that a few training steps repair.
        """
        self.mean_head.weight.copy_(rotation.T @ self.mean_head.weight)
        self.mean_head.bias.copy_(rotation.T @ self.mean_head.bias)
        squared = rotation.T**2
        self.log_variance_head.weight.copy_(squared @ self.log_variance_head.weight)
        self.log_variance_head.bias.copy_(squared @ self.log_variance_head.bias)
        if self.n_condition:
            weight = self.trunk.fc_layers[0][0].weight
            columns = slice(self.n_input, self.n_input + self.n_condition)
            weight[:, columns] = weight[:, columns] @ rotation

    @torch.no_grad()
    def translate(self, origin: torch.Tensor) -> None:
        """Absorb the move `z' = z - origin` into the mean head."""
        self.mean_head.bias.sub_(origin)
