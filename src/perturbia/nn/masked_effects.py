"""Variational posterior of sparse treatment effects: Bernoulli masks times Gaussian embeddings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.distributions import RelaxedBernoulli
from torch.nn.functional import softplus

from perturbia.nn.mask_prior import MaskPrior, MaskPriorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.nn.given_treatments import GivenTreatments

__all__ = ["MaskedEffects"]


def _gaussian_kl(mean: torch.Tensor, log_sd: torch.Tensor, prior_sd: float) -> torch.Tensor:
    """KL of a normal to one of `prior_sd` whose mean is less by `mean`, elementwise."""
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
        Number of treatments :math:`T`, or rows of another kind.
    n_latent
        Number of latent dimensions :math:`L`.
    mask_prior_prob
        Prior probability :math:`\alpha` of an open mask, one for all or one a treatment.
    embedding_prior_scale
        Prior standard deviation :math:`s_E` of embeddings.
    slab
        Dependence of the embedding on its mask.
    mask_prior
        What may move of the prior of masks, as in :class:`MaskPrior`; `mask_prior_prob` is then its start.
    per_latent
        Whether prior rates and prior means may differ between latents, as :meth:`condition` sets them.
    trainable
        Whether entries are moved by gradients; otherwise only :meth:`assign` moves them.
    """

    #: Whether :meth:`kl` is available; where it is not, the divergence is sampled (:meth:`log_ratio`).
    has_closed_kl = True
    prior_mean: torch.Tensor

    def __init__(
        self,
        n_treatments: int,
        n_latent: int,
        *,
        mask_prior_prob: float | Sequence[float] = 0.1,
        embedding_prior_scale: float = 1.0,
        slab: Literal["conditional", "mean_field"] = "conditional",
        mask_prior: MaskPriorKind = "fixed",
        per_latent: bool = False,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.slab = slab
        self.embedding_prior_scale = embedding_prior_scale
        rates = [mask_prior_prob] * n_treatments if isinstance(mask_prior_prob, float) else list(mask_prior_prob)
        self.mask_prior = MaskPrior(rates, kind=mask_prior, n_columns=n_latent if per_latent else 1)
        self._remembered: tuple[tuple, torch.Tensor] | None = None
        shape = (n_treatments, n_latent)
        self.register_buffer("prior_mean", torch.zeros(shape if per_latent else (n_treatments, 1)))
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
        return _variance(self.inclusion, self.mean, self.log_sd)

    def offset(self, given: GivenTreatments) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the shift of each cell, both `(n_cells, L)`; costs what the cells were given."""
        rows, within = given.within()
        inclusion, mean = torch.sigmoid(self.mask_logit[rows]), self.mean[rows]
        variance = _variance(inclusion, mean, self.log_sd[rows])
        return within.sum_of(inclusion * mean), within.sum_of(variance, squared=True)

    def kl(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """KL divergence of entries to their prior in closed form, shape `(T, L)` or that of the rows asked for."""
        logit, log_sd = self.mask_logit[rows], self.log_sd[rows]
        inclusion = torch.sigmoid(logit)
        kl_mask = inclusion * (logit - self.mask_prior.logit[rows]) - softplus(logit) - self.mask_prior.log_closed[rows]
        kl_slab = _gaussian_kl(self.mean[rows] - self.prior_mean[rows], log_sd, self.embedding_prior_scale)
        return kl_mask + (inclusion * kl_slab if self.slab == "conditional" else kl_slab)

    def total_kl(self) -> torch.Tensor:
        """Sum of :meth:`kl` and of the KL of prior rates; remembered until an entry changes where none is trainable."""
        if self.mask_logit.requires_grad:
            return self.kl().sum() + self.mask_prior.kl()
        state = [self.mask_logit, self.mean, self.log_sd, self.prior_mean, self.mask_prior.log_open]
        version = tuple((part.data_ptr(), part._version) for part in state)
        if self._remembered is None or self._remembered[0] != version:
            self._remembered = (version, (self.kl().sum() + self.mask_prior.kl()).detach())
        return self._remembered[1]

    def sample(
        self,
        n_samples: int,
        *,
        rows: torch.Tensor | slice = slice(None),
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw masks and embeddings, both `(n_samples, T, L)`, or of the treatments `rows`.

        Masks are zero or one; their gradient is that of the relaxed Bernoulli (straight-through). With a generator,
        draws are reproducible and carry no gradient.
        """
        logit = self.mask_logit[rows]
        shape = (n_samples, *logit.shape)
        if generator is None:
            soft = RelaxedBernoulli(torch.tensor(temperature), logits=logit.expand(shape)).rsample()
            mask = soft + (soft.round() - soft).detach()  # in this order exactly zero or one
            noise = torch.randn(shape, device=logit.device)
        else:
            uniform = torch.rand(shape, generator=generator).to(logit.device)
            mask = (uniform < torch.sigmoid(logit)).float()
            noise = torch.randn(shape, generator=generator).to(logit.device)
        mean, log_sd = self._slab(mask, rows)
        slab = mean + torch.exp(log_sd) * noise
        if self.slab == "conditional":
            return mask, mask * slab + (1 - mask) * (self.prior_mean[rows] + self.embedding_prior_scale * noise)
        return mask, slab

    def _slab(self, mask: torch.Tensor, rows: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation of embeddings given masks."""
        del mask
        return self.mean[rows], self.log_sd[rows]

    def log_ratio(
        self, mask: torch.Tensor, embedding: torch.Tensor, *, rows: torch.Tensor | slice = slice(None)
    ) -> torch.Tensor:
        """Log prior minus log posterior density at a draw, entry by entry: the sampled form of minus :meth:`kl`."""
        prior, (mean, log_sd) = self.mask_prior, self._slab(mask, rows)
        log_prior = mask * prior.logit[rows] + prior.log_closed[rows]
        log_mask = log_prior - _bernoulli_log_prob(self.mask_logit[rows], mask)
        standard_prior = (embedding - self.prior_mean[rows]) / self.embedding_prior_scale
        standard_slab = (embedding - mean) * torch.exp(-log_sd)
        log_slab = 0.5 * (standard_slab**2 - standard_prior**2) + log_sd - math.log(self.embedding_prior_scale)
        return log_mask + (mask * log_slab if self.slab == "conditional" else log_slab)

    @torch.no_grad()
    def assign(
        self,
        inclusion: torch.Tensor,
        mean: torch.Tensor,
        sd: torch.Tensor,
        *,
        rows: torch.Tensor | slice = slice(None),
    ) -> None:
        """Overwrite the posterior, or that of the treatments `rows`; all arguments have shape `(T, L)`."""
        self.mask_logit[rows] = torch.logit(inclusion.to(self.mask_logit), eps=1e-6)[rows]
        self.mean[rows] = mean.to(self.mean)[rows]
        self.log_sd[rows] = torch.log(sd.to(self.log_sd))[rows]

    @torch.no_grad()
    def condition(self, rates: torch.Tensor, means: torch.Tensor, *, rows: torch.Tensor | slice = slice(None)) -> None:
        """Set prior rates of masks and prior means of embeddings, both `(T, L)`, of `rows`; needs `per_latent`."""
        self.mask_prior.assign(rates.to(self.mask_logit), rows=rows)
        self.prior_mean[rows] = means.to(self.mean)[rows]

    @torch.no_grad()
    def reset_to_prior(self, rows: torch.Tensor) -> None:
        """Return the treatments `rows` (boolean, shape `(T,)`) to the prior."""
        self.mask_logit[rows] = self.mask_prior.logit[rows].expand(-1, self.mean.shape[1])
        self.mean[rows] = self.prior_mean[rows].expand(-1, self.mean.shape[1])
        self.log_sd[rows] = math.log(self.embedding_prior_scale)


def _variance(inclusion: torch.Tensor, mean: torch.Tensor, log_sd: torch.Tensor) -> torch.Tensor:
    """Variance of mask times embedding, elementwise."""
    return inclusion * (torch.exp(2 * log_sd) + (1 - inclusion) * mean**2)
