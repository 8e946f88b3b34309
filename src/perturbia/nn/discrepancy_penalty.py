"""How far two populations of latents lie apart, as a penalty with a level that chance explains."""

from __future__ import annotations

import torch

__all__ = ["multiscale_mmd"]

#: Inverse squared widths of the bank, as published for the multi-group model.
_RATES = tuple(10.0**power for power in range(-6, 7))


def multiscale_mmd(
    x: torch.Tensor, y: torch.Tensor, *, n_shuffles: int = 0, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Squared maximum mean discrepancy under the mean of 13 Gaussian kernels :math:`e^{-\gamma d^2}`.

    The rates :math:`\gamma` run from :math:`10^{-6}` to :math:`10^6`, so that some kernel fits whatever the scale of the
    latents is. The estimator is biased: equal distributions score above 0. What they score, cells shuffled between the
    two populations tell. :func:`perturbia.stats.mmd` is for cells; this one has gradients.

    Parameters
    ----------
    x, y
        Cells of two populations, shapes `(n, n_latent)` and `(m, n_latent)`.
    n_shuffles
        Shuffles of the cells between the populations to score as well.
    generator
        Where shuffles are drawn from.

    Returns
    -------
    The squared discrepancy, a number with gradients, and its values under shuffling, `(n_shuffles,)`, without.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import multiscale_mmd
    >>> round(multiscale_mmd(torch.zeros(2, 1), torch.ones(3, 1))[0].item(), 3)
    1.037
    """
    both = torch.cat([x, y])
    squared = (both[:, None] - both[None]).square().sum(-1)
    kernel = torch.stack([torch.exp(-rate * squared) for rate in _RATES]).mean(0)
    weight = torch.cat([torch.full((len(x),), 1 / len(x)), torch.full((len(y),), -1 / len(y))]).to(both)
    value = weight @ kernel @ weight
    with torch.no_grad():
        orders = [torch.randperm(len(both), generator=generator) for _ in range(n_shuffles)]
        moved = torch.stack([weight[order.to(weight.device)] for order in orders]) if orders else weight[None][:0]
        shuffled = ((moved @ kernel) * moved).sum(1)
    return value, shuffled
