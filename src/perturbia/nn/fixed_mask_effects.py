"""Treatment effects whose masks are not inferred: all open, or all closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from perturbia.nn.masked_effects import MaskedEffects

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FixedMaskEffects"]


class FixedMaskEffects(MaskedEffects):
    """Posterior over embeddings alone: every treatment moves every latent, or none does.

    The prior rate of masks is one or zero, so that each formula of :class:`MaskedEffects`, and of the closed-form updates,
    holds as it is.

    Parameters
    ----------
    n_treatments
        Number of treatments.
    n_latent
        Number of latent dimensions.
    is_open
        Whether masks are open.
    embedding_prior_scale
        Prior standard deviation of embeddings.
    trainable
        Whether embeddings are moved by gradients; otherwise only :meth:`assign` moves them.
    """

    def __init__(
        self,
        n_treatments: int,
        n_latent: int,
        *,
        is_open: bool,
        embedding_prior_scale: float = 1.0,
        trainable: bool = False,
    ) -> None:
        rates: Sequence[float] = [float(is_open)] * n_treatments
        super().__init__(
            n_treatments,
            n_latent,
            mask_prior_prob=rates,
            embedding_prior_scale=embedding_prior_scale,
            trainable=trainable and is_open,
        )
        self.is_open = is_open
        fixed = torch.full((n_treatments, n_latent), torch.inf if is_open else -torch.inf)
        self.mask_logit = nn.Parameter(fixed, requires_grad=False)

    def _draw_mask(
        self, logit: torch.Tensor, shape: tuple[int, ...], temperature: float, generator: torch.Generator | None
    ) -> torch.Tensor:
        del temperature, generator
        return torch.full(shape, float(self.is_open), device=logit.device)

    def _mask_kl(self, rows: torch.Tensor | slice) -> torch.Tensor:
        return torch.zeros_like(self.mean[rows])

    def _mask_log_ratio(self, mask: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
        del rows
        return torch.zeros_like(mask)

    @torch.no_grad()
    def assign(
        self,
        inclusion: torch.Tensor,
        mean: torch.Tensor,
        sd: torch.Tensor,
        *,
        rows: torch.Tensor | slice = slice(None),
    ) -> None:
        """Overwrite the posterior of embeddings, or that of the treatments `rows`; `inclusion` is not read."""
        del inclusion
        self.mean[rows] = mean.to(self.mean)[rows]
        self.log_sd[rows] = torch.log(sd.to(self.log_sd))[rows]
