"""Variational posterior of sparse treatment effects: Bernoulli masks times Gaussian embeddings."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.distributions import RelaxedBernoulli
from torch.nn.functional import softplus

__all__ = ["MaskedEffects"]


def _gaussian_kl(mean: torch.Tensor, log_sd: torch.Tensor, prior_sd: float) -> torch.Tensor:
    """KL of `N(mean, sd^2)` to `N(0, prior_sd^2)`, elementwise."""
    return math.log(prior_sd) - log_sd + 0.5 * ((mean**2 + torch.exp(2 * log_sd)) / prior_sd**2 - 1)


def _bernoulli_log_prob(logit: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mask * logit - softplus(logit)


class MaskedEffects(nn.Module):
    r"""Posterior over masks :math:`m_{tl}` and embeddings :math:`e_{tl}`, factorised over entries.

    With ``slab="conditional"`` the embedding of a closed mask follows its prior, with ``slab="mean_field"`` it does
    not know the mask (the published family).

    Parameters
    ----------
    n_treatments
        Number of treatments :math:`T`.
    n_latent
        Number of latent dimensions :math:`L`.
    mask_prior_prob
        Prior probability :math:`\alpha` of an open mask.
    embedding_prior_scale
        Prior standard deviation :math:`s_E` of embeddings.
    slab
        Dependence of the embedding on its mask.
    trainable
        Whether entries are moved by gradients; otherwise only :meth:`assign` moves them.
    """

    def __init__(
        self,
        n_treatments: int,
        n_latent: int,
        *,
        mask_prior_prob: float = 0.1,
        embedding_prior_scale: float = 1.0,
        slab: Literal["conditional", "mean_field"] = "conditional",
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.slab = slab
        self.embedding_prior_scale = embedding_prior_scale
        self.mask_prior_logit = math.log(mask_prior_prob) - math.log1p(-mask_prior_prob)
        shape = (n_treatments, n_latent)
        self.mask_logit = nn.Parameter(torch.zeros(shape), requires_grad=trainable)
        self.mean = nn.Parameter(torch.zeros(shape), requires_grad=trainable)
        self.log_sd = nn.Parameter(torch.full(shape, math.log(embedding_prior_scale)), requires_grad=trainable)

    @property
    def inclusion(self) -> torch.Tensor:
        """Posterior probability of an open mask, shape `(T, L)`."""
        return torch.sigmoid(self.mask_logit)

    def effect(self) -> torch.Tensor:
        """Posterior mean of the masked embedding, shape `(T, L)`."""
        return self.inclusion * self.mean

    def variance(self) -> torch.Tensor:
        """Posterior variance of the masked embedding, shape `(T, L)`."""
        inclusion = self.inclusion
        return inclusion * (torch.exp(2 * self.log_sd) + (1 - inclusion) * self.mean**2)

    def kl(self) -> torch.Tensor:
        """KL divergence of every entry to its prior in closed form, shape `(T, L)`."""
        inclusion = self.inclusion
        kl_mask = (
            inclusion * (self.mask_logit - self.mask_prior_logit)
            - softplus(self.mask_logit)
            + softplus(torch.tensor(self.mask_prior_logit))
        )
        kl_slab = _gaussian_kl(self.mean, self.log_sd, self.embedding_prior_scale)
        return kl_mask + (inclusion * kl_slab if self.slab == "conditional" else kl_slab)

    def sample(
        self, n_samples: int, *, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw masks and embeddings, both `(n_samples, T, L)`.

        Masks are zero or one; their gradient is that of the relaxed Bernoulli (straight-through). With a generator,
        draws are reproducible and carry no gradient.
        """
        shape = (n_samples, *self.mean.shape)
        if generator is None:
            soft = RelaxedBernoulli(torch.tensor(temperature), logits=self.mask_logit.expand(shape)).rsample()
            mask = soft + (soft.round() - soft).detach()  # in this order exactly zero or one
            noise = torch.randn(shape, device=self.mean.device)
        else:
            uniform = torch.rand(shape, generator=generator).to(self.mean.device)
            mask = (uniform < self.inclusion).float()
            noise = torch.randn(shape, generator=generator).to(self.mean.device)
        slab = self.mean + torch.exp(self.log_sd) * noise
        if self.slab == "conditional":
            return mask, mask * slab + (1 - mask) * self.embedding_prior_scale * noise
        return mask, slab

    def log_ratio(self, mask: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Log prior minus log posterior density at a draw, entry by entry: the sampled form of minus :meth:`kl`."""
        prior_mask = torch.as_tensor(self.mask_prior_logit, device=mask.device)
        log_mask = _bernoulli_log_prob(prior_mask, mask) - _bernoulli_log_prob(self.mask_logit, mask)
        standard_prior = embedding / self.embedding_prior_scale
        standard_slab = (embedding - self.mean) * torch.exp(-self.log_sd)
        log_slab = 0.5 * (standard_slab**2 - standard_prior**2) + self.log_sd - math.log(self.embedding_prior_scale)
        return log_mask + (mask * log_slab if self.slab == "conditional" else log_slab)

    @torch.no_grad()
    def assign(self, inclusion: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor) -> None:
        """Overwrite the posterior; all arguments have shape `(T, L)`."""
        self.mask_logit.copy_(torch.logit(inclusion.to(self.mask_logit), eps=1e-6))
        self.mean.copy_(mean.to(self.mean))
        self.log_sd.copy_(torch.log(sd.to(self.log_sd)))

    @torch.no_grad()
    def reset_to_prior(self, rows: torch.Tensor) -> None:
        """Return the treatments `rows` (boolean, shape `(T,)`) to the prior."""
        self.mask_logit[rows] = self.mask_prior_logit
        self.mean[rows] = 0.0
        self.log_sd[rows] = math.log(self.embedding_prior_scale)
