"""Exact expectation of log-normalised counts over the Poisson layer."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["ExpectedLogCounts", "gamma_quantile_draws"]

_LINEAR_RATE = 0.1  # the grid of rates turns from linear to logarithmic here
_EXACT_RATE = 400.0  # above, four moments of the Poisson give the expectation to about 1e-7


class ExpectedLogCounts:
    r"""Expectation of :math:`\log(1 + s X / l)` over :math:`X \sim \mathrm{Poisson}(\lambda)`, row by row.

    One table per row (library size) on a grid of rates that is linear near zero and logarithmic above, with linear
    interpolation between knots. It replaces
    sampling of counts in treatment effects, whose noise otherwise dominates small effects.

    Parameters
    ----------
    library
        Library sizes :math:`l`, shape `(n_rows,)`, positive.
    max_rate
        Largest rate that will be looked up.
    target_sum
        :math:`s`, counts per cell after normalisation.
    n_knots
        Knots of the table.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import ExpectedLogCounts
    >>> layer = ExpectedLogCounts(torch.tensor([1e4]), max_rate=10.0)
    >>> round(layer.mean(torch.tensor([[0.0, 1.0]]))[0, 1].item(), 3)
    0.573
    """

    def __init__(self, library: torch.Tensor, *, max_rate: float, target_sum: float = 1e4, n_knots: int = 1024) -> None:
        scale = (target_sum / library.double())[:, None]
        self.step = float(np.log1p(max(max_rate, 1e-6) / _LINEAR_RATE) / (n_knots - 1))
        grid = torch.arange(n_knots, device=library.device, dtype=torch.float64) * self.step
        rate = _LINEAR_RATE * torch.expm1(grid)
        exact = rate <= _EXACT_RATE
        top = float(rate[exact][-1])
        counts = torch.arange(int(top + 12 * top**0.5 + 20), device=library.device, dtype=torch.float64)
        log_pmf = torch.xlogy(counts, rate[exact, None]) - rate[exact, None] - torch.lgamma(counts + 1)
        values = torch.log1p(counts * scale)
        pmf = log_pmf.exp()
        first = torch.cat([values @ pmf.T, _taylor_log1p(rate[~exact], scale)], 1)
        second = torch.cat([values**2 @ pmf.T, _taylor_log1p_squared(rate[~exact], scale)], 1)
        self._tables = first.float(), second.float()

    def mean(self, rate: torch.Tensor) -> torch.Tensor:
        """Expected log-normalised count at `rate` of shape `(..., n_rows, n_features)`."""
        return self._look_up(0, rate)

    def second_moment(self, rate: torch.Tensor) -> torch.Tensor:
        """Expected square of the log-normalised count at `rate` of shape `(..., n_rows, n_features)`."""
        return self._look_up(1, rate)

    def rows(self, chosen: slice) -> ExpectedLogCounts:
        """The same layer for some of the rows."""
        part = object.__new__(ExpectedLogCounts)
        part.step = self.step
        part._tables = self._tables[0][chosen], self._tables[1][chosen]
        return part

    def _look_up(self, which: int, rate: torch.Tensor) -> torch.Tensor:
        table = self._tables[which]
        position = torch.log1p(rate / _LINEAR_RATE) / self.step
        left = position.long().clamp_(max=table.shape[1] - 2)
        table = table.expand(*rate.shape[:-2], *table.shape)
        low = table.gather(-1, left)
        return torch.lerp(low, table.gather(-1, left + 1), (position - left).clamp_(max=1.0))


def _taylor_log1p(rate: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    ratio = scale / (1 + scale * rate)
    fourth_moment = 3 * rate**2 + rate
    return torch.log1p(scale * rate) - ratio**2 * rate / 2 + ratio**3 * rate / 3 - ratio**4 * fourth_moment / 4


def _taylor_log1p_squared(rate: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    value, ratio = torch.log1p(scale * rate), scale / (1 + scale * rate)
    return value**2 + ratio**2 * (1 - value) * rate + ratio**3 * (2 * value - 3) * rate / 3


def gamma_quantile_draws(concentration: torch.Tensor, n_rows: int, *, generator: torch.Generator) -> torch.Tensor:
    """Stratified draws of unit-mean Gamma factors: the over-dispersion of a negative binomial.

    Each column holds the `n_rows` mid-quantiles of its Gamma distribution in random order, so that averages over rows
    converge faster than with independent draws.

    Parameters
    ----------
    concentration
        Inverse dispersion of each feature, shape `(n_features,)`.
    n_rows
        Number of draws per feature.
    generator
        Source of the random order, on the CPU.

    Returns
    -------
    Tensor of shape `(n_rows, n_features)`, float32, on the device of `concentration`.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import gamma_quantile_draws
    >>> draws = gamma_quantile_draws(torch.tensor([2.0]), 500, generator=torch.Generator().manual_seed(0))
    >>> abs(draws.mean().item() - 1) < 0.01
    True
    """
    from scipy.special import gammaincinv

    shape = concentration.detach().double().cpu().numpy()
    quantiles = (np.arange(n_rows) + 0.5) / n_rows
    values = torch.from_numpy(gammaincinv(shape[None, :], quantiles[:, None]) / shape).float()
    order = torch.rand(values.shape, generator=generator).argsort(0)
    return values.gather(0, order).to(concentration.device)
