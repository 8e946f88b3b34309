"""How far encoded latents lie from nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.distributions import Normal

__all__ = ["squared_distance_to_zero"]


def squared_distance_to_zero(latent: Normal) -> torch.Tensor:
    r"""Squared Wasserstein-2 distance of diagonal Gaussians to a point mass at 0, on average over cells.

    .. math:: \frac1n \sum_i \sum_l \mu_{il}^2 + \sigma_{il}^2

    Parameters
    ----------
    latent
        Distribution of batch shape `(n_cells, n_latent)`.

    Returns
    -------
    The mean squared distance, a number with gradients.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Normal
    >>> from perturbia.nn import squared_distance_to_zero
    >>> squared_distance_to_zero(Normal(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 2.0]]))).item()
    14.0
    """
    return (latent.loc.square() + latent.scale.square()).sum(-1).mean()
