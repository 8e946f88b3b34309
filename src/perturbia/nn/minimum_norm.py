"""The shortest convex combination of two gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["minimum_norm_share"]


def minimum_norm_share(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""Share of the first of two gradients in their shortest convex combination.

    .. math:: a^* = \operatorname{clip}\left(\frac{\langle g_2 - g_1, g_2 \rangle}{\|g_2 - g_1\|^2},\, 0,\, 1\right)

    The step along :math:`a^* g_1 + (1 - a^*) g_2` worsens neither of two objectives, the closed form of multiple-gradient
    descent for two.

    Parameters
    ----------
    one, other
        Gradients of two objectives in the same parameters, tensors of the same shapes.

    Returns
    -------
    The share, a number in [0, 1]; one half for equal gradients.

    References
    ----------
    Désidéri, J.-A. (2012). Multiple-gradient descent algorithm (MGDA) for multiobjective optimization. Comptes Rendus
    Mathematique 350.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import minimum_norm_share
    >>> minimum_norm_share([torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]).item()
    0.5
    >>> minimum_norm_share([torch.tensor([1.0])], [torch.tensor([3.0])]).item()
    1.0
    """
    along = sum((b - a).mul(b).sum() for a, b in zip(one, other, strict=True))
    squared = sum((b - a).square().sum() for a, b in zip(one, other, strict=True))
    along, squared = torch.as_tensor(along), torch.as_tensor(squared)
    return torch.where(squared > 0, along / squared.clamp(min=1e-38), torch.full_like(along, 0.5)).clamp(0, 1)
