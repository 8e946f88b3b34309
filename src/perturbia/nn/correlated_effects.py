"""Variational posterior of sparse treatment effects whose embeddings depend on the whole mask of their treatment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from perturbia.nn.masked_effects import MaskedEffects

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CorrelatedEffects"]


class CorrelatedEffects(MaskedEffects):
    r"""Posterior :math:`q(m_t)\, q(e_t \mid m_t)`, a network for the second factor.

    The network reads the mask and which treatment it belongs to; the latter is a row of a table that is added in the
    first layer, so that the cost of a draw follows the rows drawn and not the number of treatments. The divergence to the
    prior has no closed form and is sampled. `mean` and `log_sd` hold the moments of embeddings under open masks as of the
    last :meth:`summarise`: effects, variances and offsets in expectation rest on them, draws ask the network.

    Parameters
    ----------
    n_treatments
        Number of treatments :math:`T`.
    n_latent
        Number of latent dimensions :math:`L`.
    n_hidden
        Width of the network.
    n_layers
        Its hidden layers.
    mask_prior_prob
        Prior probability :math:`\alpha` of an open mask, one for all or one a treatment.
    embedding_prior_scale
        Prior standard deviation :math:`s_E` of embeddings.

    References
    ----------
    Bereket, M. and Karaletsos, T. (2023). Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder. NeurIPS. Section 4, the correlated guide of masks and embeddings.
    """

    has_closed_kl = False
    at_prior: torch.Tensor

    def __init__(
        self,
        n_treatments: int,
        n_latent: int,
        *,
        n_hidden: int = 128,
        n_layers: int = 2,
        mask_prior_prob: float | Sequence[float] = 0.1,
        embedding_prior_scale: float = 1.0,
    ) -> None:
        super().__init__(
            n_treatments,
            n_latent,
            mask_prior_prob=mask_prior_prob,
            embedding_prior_scale=embedding_prior_scale,
            slab="mean_field",
            trainable=True,
        )
        self.mean.requires_grad_(False)
        self.log_sd.requires_grad_(False)
        # the bound that one layer with an indicator for each treatment would have
        bound = (n_latent + n_treatments) ** -0.5
        self.row_input = nn.Parameter(torch.empty(n_treatments, n_hidden).uniform_(-bound, bound))
        self.mask_input = nn.Linear(n_latent, n_hidden)
        nn.init.uniform_(self.mask_input.weight, -bound, bound)
        deeper = [layer for _ in range(n_layers - 1) for layer in (nn.Linear(n_hidden, n_hidden), nn.LeakyReLU())]
        self.deeper = nn.Sequential(nn.LeakyReLU(), *deeper)
        self.head = nn.Linear(n_hidden, 2 * n_latent)
        self.register_buffer("at_prior", torch.zeros(n_treatments, dtype=torch.bool))

    def _slab(self, mask: torch.Tensor, rows: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = self.head(self.deeper(self.mask_input(mask) + self.row_input[rows])).chunk(2, dim=-1)
        # bounded, as in the encoder, so that no draw overflows the density
        log_sd = 0.5 * log_variance.clamp(-12.0, 8.0)
        unknown = self.at_prior[rows, None]
        log_prior_sd = math.log(self.embedding_prior_scale)
        return torch.where(unknown, self.prior_mean[rows], mean), torch.where(unknown, log_prior_sd, log_sd)

    @torch.no_grad()
    def summarise(self, rows: torch.Tensor | slice = slice(None), *, n_draws: int = 512, chunk: int = 32) -> None:
        """Write the moments of embeddings under open masks, by the same draws for every treatment and at every call.

        Parameters
        ----------
        rows
            Treatments, all by default.
        n_draws
            Draws of each treatment's mask. An entry that none of them opens gets the moments of the prior.
        chunk
            Draws at a time.
        """
        generator = torch.Generator().manual_seed(0)
        inclusion = torch.sigmoid(self.mask_logit[rows])
        opened, first, second = (torch.zeros_like(inclusion, dtype=torch.float64) for _ in range(3))
        for start in range(0, n_draws, chunk):
            uniform = torch.rand((min(chunk, n_draws - start), 1, inclusion.shape[1]), generator=generator)
            mask = (uniform.to(inclusion) < inclusion).float()
            mean, log_sd = self._slab(mask, rows)
            opened += mask.sum(0)
            first += (mask * mean).sum(0)
            second += (mask * (mean**2 + torch.exp(2 * log_sd))).sum(0)
        seen, n_open = opened > 0, opened.clamp(min=1)
        mean = torch.where(seen, first / n_open, self.prior_mean[rows].double())
        variance = torch.where(seen, second / n_open - mean**2, self.embedding_prior_scale**2)
        self.mean[rows] = mean.to(self.mean)
        self.log_sd[rows] = 0.5 * torch.log(variance.clamp(min=1e-12)).to(self.log_sd)

    @torch.no_grad()
    def reset_to_prior(self, rows: torch.Tensor) -> None:
        """Return the treatments `rows` (boolean, shape `(T,)`) to the prior, and only these."""
        super().reset_to_prior(rows)
        self.at_prior.copy_(rows)
