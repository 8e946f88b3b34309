"""Decoders from latents to a distribution over features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from torch import nn

from perturbia.nn._perceptron import perceptron

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.distributions import Distribution

__all__ = ["Likelihood", "LikelihoodDecoder"]

Likelihood = Literal["nb", "zinb", "poisson", "normal"]


class LikelihoodDecoder(nn.Module):
    """Perceptron whose output parametrises one of scvi-tools' distributions.

    Count likelihoods scale a softmax over features by the library size; the dispersion is one number per feature.

    Parameters
    ----------
    n_latent
        Number of latent dimensions.
    n_output
        Number of features.
    likelihood
        Distribution of the features.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    n_cat_list
        Numbers of categories of the categorical covariates.
    n_cont
        Number of continuous covariates.
    """

    log_dispersion: torch.Tensor  # None for the Poisson, which has none

    def __init__(
        self,
        n_latent: int,
        n_output: int,
        *,
        likelihood: Likelihood = "nb",
        n_hidden: int = 128,
        n_layers: int = 1,
        n_cat_list: Sequence[int] = (),
        n_cont: int = 0,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.likelihood = likelihood
        self.trunk = perceptron(n_latent, n_hidden=n_hidden, n_layers=n_layers, n_cat_list=n_cat_list, n_cont=n_cont)
        self.head = nn.Linear(n_hidden, n_output)
        self.zero_head = nn.Linear(n_hidden, n_output) if likelihood == "zinb" else None
        # log inverse dispersion of counts, log standard deviation of normal features
        dispersion = nn.Parameter(torch.zeros(n_output)) if likelihood != "poisson" else None
        self.register_parameter("log_dispersion", dispersion)

    def forward(
        self,
        z: torch.Tensor,
        library: torch.Tensor,
        *categories: torch.Tensor,
        cont: torch.Tensor | None = None,
        shift: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Distribution:
        """Distribution of batch shape `(..., n_output)` for latents `(..., n_latent)` and library sizes `(..., 1)`.

        `shift` changes the output, `(..., n_output)`, before it becomes proportions or means.
        """
        hidden = self.trunk(z, *categories, cont=cont)
        output = self.head(hidden)
        if shift is not None:
            output = shift(output)
        if self.likelihood == "normal":
            scale = torch.exp(self.log_dispersion).clamp(min=1e-3).expand_as(output)
            return Normal(output, scale, normal_mu=output, validate_args=False)
        proportion = torch.softmax(output, dim=-1)
        rate = library * proportion
        if self.likelihood == "poisson":
            return Poisson(rate=rate, scale=proportion, validate_args=False)
        theta = torch.exp(self.log_dispersion)
        if self.zero_head is None:
            return NegativeBinomial(mu=rate, theta=theta, scale=proportion, validate_args=False)
        return ZeroInflatedNegativeBinomial(
            mu=rate, theta=theta, zi_logits=self.zero_head(hidden), scale=proportion, validate_args=False
        )

    @torch.no_grad()
    def start_at(self, profile: torch.Tensor) -> None:
        """Set the output bias so that an untrained decoder predicts `profile`, shape `(n_output,)`.

        `profile` holds proportions for counts and means for normal features.
        """
        bias = profile if self.likelihood == "normal" else torch.log(profile.clamp(min=1e-8))
        self.head.bias.copy_(bias)
        if self.zero_head is not None:
            self.zero_head.bias.fill_(-3.0)

    @torch.no_grad()
    def rotate(self, rotation: torch.Tensor) -> None:
        """Absorb the change of basis `z' = R.T z` into the first layer; the likelihood does not change."""
        weight = self.trunk.fc_layers[0][0].weight
        weight[:, : self.n_latent] = weight[:, : self.n_latent] @ rotation

    @torch.no_grad()
    def translate(self, origin: torch.Tensor) -> None:
        """Absorb the move `z' = z - origin` into the first layer; the likelihood does not change."""
        first = self.trunk.fc_layers[0][0]
        first.bias.add_(first.weight[:, : len(origin)] @ origin)
