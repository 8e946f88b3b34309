"""Prior inclusion rates of masks: fixed, learnt from all treatments, or one a treatment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn
from torch.distributions import Beta, kl_divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MaskPrior", "MaskPriorKind"]

MaskPriorKind = Literal["fixed", "learned", "beta"]


class MaskPrior(nn.Module):
    r"""Rate at which the masks of a treatment are open before it is seen.

    ``"fixed"`` keeps the rates given; ``"learned"`` takes the rate that makes the masks of all treatments most
    likely; ``"beta"`` gives each treatment a rate :math:`\pi_t \sim \mathrm{Beta}(c\,\alpha, c\,(1-\alpha))` of its
    own, whose posterior given expected masks is :math:`\mathrm{Beta}(c\,\alpha + \sum_l p_{tl},\, c\,(1-\alpha) +
    \sum_l (1 - p_{tl}))` and enters the bound through :math:`E \log \pi_t` and :math:`E \log (1 - \pi_t)`.

    Parameters
    ----------
    rates
        Prior rate of each row, in (0, 1); rows of equal rate share a learnt one.
    kind
        What may move.
    concentration
        :math:`c`: how many latents the prior of ``"beta"`` counts for.
    n_columns
        1, or the number of latents if rates differ between them, as :meth:`assign` sets them.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import MaskPrior
    >>> prior = MaskPrior([0.1, 0.1], kind="learned")
    >>> prior.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([True, True]))
    >>> round(prior.log_open.exp()[0].item(), 2)
    0.21
    """

    log_open: torch.Tensor
    log_closed: torch.Tensor
    counts: torch.Tensor

    def __init__(
        self,
        rates: Sequence[float],
        *,
        kind: MaskPriorKind = "fixed",
        concentration: float = 10.0,
        n_columns: int = 1,
    ) -> None:
        super().__init__()
        if kind not in get_args(MaskPriorKind):
            msg = f"mask_prior: expected one of {get_args(MaskPriorKind)}, got {kind!r}."
            raise ValueError(msg)
        self.kind = kind
        self.concentration = concentration
        rate = torch.tensor(list(rates), dtype=torch.float64)[:, None].repeat(1, n_columns)
        self.rates = tuple(rates)
        self.register_buffer("log_open", torch.log(rate).float())
        self.register_buffer("log_closed", torch.log1p(-rate).float())
        n_counts = len(rate) if kind == "beta" else 0
        self.register_buffer("counts", torch.zeros((n_counts, 2)))
        if kind == "beta":
            self.counts.copy_(self._prior_counts())
            self._read_counts()

    @property
    def logit(self) -> torch.Tensor:
        """Log odds of an open mask, `(n_rows, n_columns)`."""
        return self.log_open - self.log_closed

    @torch.no_grad()
    def update(self, inclusion: torch.Tensor, seen: torch.Tensor) -> None:
        """Move the rates to their optimum given inclusion probabilities `(n_rows, L)`.

        `seen`, bool `(n_rows,)`, says which rows have cells; others keep, or return to, their prior. Positions in its
        place move the rates of these rows of ``"beta"`` alone.
        """
        if self.kind == "learned":
            rates = torch.tensor(self.rates, device=inclusion.device)
            for rate in sorted(set(self.rates)):
                rows = rates == rate
                among = inclusion[rows & seen].double()
                # a Beta prior that counts as ten masks keeps an empty group at the rate given
                open_, all_ = among.sum() + 10 * rate, among.numel() + 10
                self.log_open[rows] = torch.log(open_ / all_).to(self.log_open)
                self.log_closed[rows] = torch.log1p(-open_ / all_).to(self.log_closed)
        elif self.kind == "beta":
            rows = torch.arange(len(inclusion), device=seen.device) if seen.dtype == torch.bool else seen
            has_cells = seen[:, None] if seen.dtype == torch.bool else torch.ones_like(inclusion[seen]).bool()
            open_ = torch.where(has_cells, inclusion[rows], 0.0).sum(1)
            closed = torch.where(has_cells, 1 - inclusion[rows], 0.0).sum(1)
            self.counts[rows] = self._prior_counts()[rows] + torch.stack([open_, closed], 1).to(self.counts)
            self._read_counts(rows)

    @torch.no_grad()
    def assign(self, rates: torch.Tensor, *, rows: torch.Tensor | slice = slice(None)) -> None:
        """Set fixed rates, `(n_rows, n_columns)`, in (0, 1), or those of `rows`."""
        self.log_open[rows] = torch.log(rates[rows])
        self.log_closed[rows] = torch.log1p(-rates[rows])

    def kl(self) -> torch.Tensor:
        """KL of the posterior of the rates to their prior, summed; zero unless ``"beta"``."""
        if self.kind != "beta":
            return torch.zeros((), device=self.log_open.device)
        pairs = (counts.double() for counts in (self.counts, self._prior_counts()))
        posterior, prior = (Beta(pair[:, 0], pair[:, 1]) for pair in pairs)
        return kl_divergence(posterior, prior).sum().float()

    def _prior_counts(self) -> torch.Tensor:
        rate = torch.tensor(self.rates, device=self.counts.device)
        return self.concentration * torch.stack([rate, 1 - rate], 1)

    def _read_counts(self, rows: torch.Tensor | slice = slice(None)) -> None:
        counts = self.counts[rows].double()
        expected = torch.digamma(counts) - torch.digamma(counts.sum(1, keepdim=True))
        self.log_open[rows] = expected[:, :1].to(self.log_open)
        self.log_closed[rows] = expected[:, 1:].to(self.log_closed)

    def extra_repr(self) -> str:
        """Kind and rates, for the representation of the module."""
        lowest, highest = (math.exp(float(bound)) for bound in (self.log_open.min(), self.log_open.max()))
        return f"kind={self.kind!r}, rates {lowest:.3g} to {highest:.3g}"
