"""Sparse treatment effects by straight-through gradients, one mask a cell: the inference that sVAE+ was published with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from perturbia.nn.masked_effects import MaskedEffects, relaxed_bernoulli

if TYPE_CHECKING:
    from perturbia.nn.given_treatments import GivenTreatments

__all__ = ["Sparsity", "StraightThroughEffects"]

Sparsity = Literal["beta", "l1", "none"]


class StraightThroughEffects(MaskedEffects):
    r"""Point estimates of shifts, and Bernoulli masks of which every cell draws its own.

    Parameters
    ----------
    n_treatments
        Number of treatments :math:`T`.
    n_latent
        Number of latent dimensions :math:`L`.
    sparsity
        ``"beta"``: probabilities :math:`p_{tl}` of open masks have a :math:`\mathrm{Beta}(1, K)` prior (sVAE+);
        ``"l1"``: their mean is charged to every cell (sVAE); ``"none"``: all masks are open (iVAE).
    sparsity_weight
        :math:`K` of ``"beta"``, at least 1, which is no sparsity; weight of ``"l1"`` in nats a cell.
    temperature
        Temperature of the relaxed masks whose gradient passes through.

    References
    ----------
    Lopez, R. et al. (2023). Learning causal representations of single cells via sparse mechanism shift modeling. CLeaR.
    """

    def __init__(
        self,
        n_treatments: int,
        n_latent: int,
        *,
        sparsity: Sparsity = "beta",
        sparsity_weight: float = 2.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(n_treatments, n_latent, mask_prior_prob=0.5, trainable=True)
        if sparsity not in get_args(Sparsity):
            msg = f"sparsity: expected one of {get_args(Sparsity)}, got {sparsity!r}."
            raise ValueError(msg)
        least = {"beta": 1.0, "l1": 0.0, "none": -math.inf}[sparsity]
        if not sparsity_weight >= least:
            msg = f"sparsity_weight: expected at least {least:g} with sparsity={sparsity!r}, got {sparsity_weight}."
            raise ValueError(msg)
        self.sparsity, self.sparsity_weight, self.temperature = sparsity, sparsity_weight, temperature
        is_open = sparsity == "none"
        # masks start open: closed ones would let no gradient reach their shifts
        start = torch.full((n_treatments, n_latent), torch.inf if is_open else 5.0)
        self.mask_logit = nn.Parameter(start, requires_grad=not is_open)
        nn.init.normal_(self.mean)
        # a point estimate has no spread
        self.log_sd.requires_grad_(False)
        self.log_sd.fill_(-torch.inf)

    def offset(self, given: GivenTreatments) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift of each cell under masks of its own while training, under expected masks otherwise; and zero, or its variance."""
        if not self.training or self.sparsity == "none":
            return super().offset(given)
        logit = self.mask_logit[given.row]
        shift = relaxed_bernoulli(logit, self.temperature) * self.mean[given.row]
        total = (given.dose[..., None] * shift).sum(1)
        return total, torch.zeros_like(total)

    def kl(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Minus the log prior of mask probabilities, entry by entry; see :meth:`total_kl` for ``"l1"``."""
        if self.sparsity != "beta":
            return torch.zeros_like(self.mean[rows])
        log_closed = logsigmoid(-self.mask_logit[rows])
        return -math.log(self.sparsity_weight) - (self.sparsity_weight - 1) * log_closed

    def total_kl(self, n_obs: int = 1) -> torch.Tensor:
        """Penalty of all masks for a data set of `n_obs` cells."""
        if self.sparsity == "l1":
            return n_obs * self.sparsity_weight * self.inclusion.mean()
        return self.kl().sum()

    @torch.no_grad()
    def assign(
        self,
        inclusion: torch.Tensor,
        mean: torch.Tensor,
        sd: torch.Tensor,
        *,
        rows: torch.Tensor | slice = slice(None),
    ) -> None:
        """Overwrite masks and shifts, or those of the treatments `rows`; `sd` is not read."""
        del sd
        if self.sparsity != "none":
            self.mask_logit[rows] = torch.logit(inclusion.to(self.mask_logit), eps=1e-6)[rows]
        self.mean[rows] = mean.to(self.mean)[rows]

    @torch.no_grad()
    def reset_to_prior(self, rows: torch.Tensor) -> None:
        """Treatments without cells shift nothing."""
        self.mean[rows] = 0.0
