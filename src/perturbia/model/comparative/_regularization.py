"""Penalties on the two blocks of latents, their levels, and the weight that keeps a penalty at its level."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch.distributions import Normal

from perturbia.nn import multiscale_mmd, normalized_hsic, squared_distance_to_zero

if TYPE_CHECKING:
    from perturbia.model.comparative._comparative_module import ComparativeModule

__all__ = ["ChanceLevel", "Constraint", "Multiplier", "Regularizer", "penalty"]

Regularizer = Literal["hsic", "wasserstein", "mmd", "none"]
Constraint = Literal["statistic", "elbo"]

#: Fewest cells of a group that a kernel statistic is taken of.
_MIN_CELLS = 4


def penalty(
    name: Regularizer, module: ComparativeModule, inference: dict, *, n_shuffles: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value of a regulariser on a minibatch, and its values under chance, `(n_shuffles,)`.

    ``"hsic"``: dependence of the encoder means of both blocks in target cells; ``"mmd"``: discrepancy of the shared ones
    between background and target; both are averages over target groups. ``"wasserstein"``: distance of the salient guide
    to 0 in background cells.
    """
    qz, qs, group = inference["qz"], inference["qs"], inference["group"]
    background = group == 0
    if name == "wasserstein":
        own = Normal(qs.loc[background], qs.scale[background], validate_args=False)
        return squared_distance_to_zero(own), torch.zeros(0)
    values, shuffled = [], []
    for code in range(1, module.n_groups + 1):
        rows = group == code
        if int(rows.sum()) < _MIN_CELLS:
            continue
        z = qz.loc[rows]
        if name == "hsic":
            salient = qs.loc[rows][:, module.block[code] > 0]
            value, chance = normalized_hsic(z, salient, n_shuffles=n_shuffles)
        else:
            value, chance = multiscale_mmd(qz.loc[background], z, n_shuffles=n_shuffles)
        values.append(value)
        shuffled.append(chance)
    if not values:
        return qz.loc.sum() * 0, torch.zeros(0)
    return torch.stack(values).mean(), torch.stack(shuffled).mean(0)


@dataclass
class ChanceLevel:
    """The level that a penalty keeps by chance: a quantile of its values under shuffling, smoothed.

    Attributes
    ----------
    every
        Steps between shufflings.
    n_shuffles
        Shuffles each time.
    quantile
        Which quantile is the level.
    decay
        Share of the old level in the new.
    """

    every: int = 10
    n_shuffles: int = 20
    quantile: float = 0.95
    decay: float = 0.8
    level: float = field(default=math.nan, init=False)
    median: float = field(default=math.nan, init=False)

    def due(self, step: int) -> int:
        """Number of shuffles that the step asks for."""
        return self.n_shuffles if step % self.every == 0 or math.isnan(self.level) else 0

    def update(self, shuffled: torch.Tensor) -> None:
        """Take in values under shuffling."""
        level, median = shuffled.quantile(self.quantile).item(), shuffled.median().item()
        first = math.isnan(self.level)
        self.level = level if first else self.decay * self.level + (1 - self.decay) * level
        self.median = median if first else self.decay * self.median + (1 - self.decay) * median


@dataclass
class Multiplier:
    """Weight of a penalty that rises and falls until something is at its level.

    Attributes
    ----------
    weight
        The weight, from its start on.
    rate
        Largest change of its logarithm in a step.
    bounds
        Lowest and highest weight. With a level that can not be reached an unbounded weight would destroy the model.
    decay
        Share of the old mean in the new, of what is held at the level.
    raises
        Whether the weight rises when the mean is above its level (a penalty), or below (the cost of a penalty).
    """

    weight: float = 1.0
    rate: float = 0.05
    bounds: tuple[float, float] = (1e-4, 30.0)
    decay: float = 0.95
    raises: bool = True
    mean: float = field(default=math.nan, init=False)

    def update(self, value: float, level: float) -> None:
        """See the value of a step, and move the weight by how far the mean is from the level, if there is one."""
        if not (level > 0 and math.isfinite(value)):
            return
        self.mean = value if math.isnan(self.mean) else self.decay * self.mean + (1 - self.decay) * value
        excess = min(max(self.mean / level - 1, -1.0), 1.0)
        moved = self.weight * math.exp(self.rate * (excess if self.raises else -excess))
        self.weight = min(max(moved, self.bounds[0]), self.bounds[1])
