"""How far two blocks of latents depend on one another, as a penalty with a level that chance explains."""

from __future__ import annotations

import torch

__all__ = ["normalized_hsic"]


def normalized_hsic(
    x: torch.Tensor, y: torch.Tensor, *, n_shuffles: int = 0, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Hilbert-Schmidt independence criterion of paired rows, normalised to lie between 0 and 1.

    .. math:: \frac{\mathrm{tr}(KHLH)}{\sqrt{\mathrm{tr}(KHKH)\, \mathrm{tr}(LHLH)}}

    with Gaussian kernels whose bandwidths, the median distances, pass no gradient. The estimator is biased: unrelated
    rows score above 0, and the more the fewer they are. What they score, shuffled rows tell.

    Parameters
    ----------
    x, y
        Rows of two blocks, shapes `(n, n_x)` and `(n, n_y)`, at least two rows.
    n_shuffles
        Shuffles of the rows of `y` to score as well.
    generator
        Where shuffles are drawn from.

    Returns
    -------
    The criterion, a number with gradients, and its values under shuffling, `(n_shuffles,)`, without.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import normalized_hsic
    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> value, shuffled = normalized_hsic(x, x**2, n_shuffles=20, generator=torch.Generator().manual_seed(0))
    >>> bool(value > shuffled.quantile(0.95))
    True
    """
    one, other = _centred_kernel(x), _centred_kernel(y)
    scale = torch.sqrt((one.square().sum() * other.square().sum()).clamp(min=1e-24))
    value = (one * other).sum() / scale
    with torch.no_grad():
        shuffled = torch.zeros(n_shuffles, device=x.device, dtype=x.dtype)
        for i in range(n_shuffles):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            shuffled[i] = (one * other[order][:, order]).sum() / scale
    return value, shuffled


def _centred_kernel(x: torch.Tensor) -> torch.Tensor:
    """Doubly centred Gaussian kernel `(n, n)` of median bandwidth."""
    squared = (x[:, None] - x[None]).square().sum(-1)
    with torch.no_grad():
        rows, columns = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
        median = squared[rows, columns].median().clamp(min=1e-12)
    kernel = torch.exp(-squared / (2 * median))
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
