"""Latents of treated cells: Gaussian shifts, and interventions on two objects of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbia.datasets._simulated_anndata import perturbation_names

__all__ = ["InterventionScene", "ShiftScene"]

COORDINATES = ("x1", "y1", "x2", "y2")
_VALUES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class ShiftScene:
    """Standard normal latents that each treatment shifts.

    Attributes
    ----------
    effects
        Mean of the latents by treatment `(n_treatments, n_latent)`, the control first.
    """

    effects: np.ndarray

    @classmethod
    def on_axes(cls, n_perturbations: int, n_latent: int, effect_scale: float) -> ShiftScene:
        """Up each axis in turn, then down each axis in turn, after a control that stays."""
        directions = np.vstack([np.zeros(n_latent), np.eye(n_latent), -np.eye(n_latent)])
        return cls(effect_scale * directions[: n_perturbations + 1])

    @property
    def names(self) -> list[str]:
        """Treatments in order, ``control`` first."""
        return ["control", *perturbation_names(len(self.effects) - 1)]

    @property
    def n_latent(self) -> int:
        """Number of latents."""
        return self.effects.shape[1]

    def draw(self, rng: np.random.Generator, treatment: np.ndarray) -> np.ndarray:
        """Latents `(n, n_latent)` of cells with these treatments, given as positions in `names`."""
        return self.effects[treatment] + rng.normal(size=(len(treatment), self.n_latent))

    def centred(self, latent: np.ndarray) -> np.ndarray:
        """Latents around zero with about unit scale, for a mixing without biases."""
        return latent

    def log_ratio(self, latent: np.ndarray) -> np.ndarray:
        """Log density of latents `(n, n_latent)` under each treatment, less its mean over treatments `(n, K)`."""
        # the square of the latent is the same for all treatments and drops out
        log_density = latent @ self.effects.T - (self.effects**2).sum(1) / 2
        return log_density - log_density.mean(1, keepdims=True)

    def truth(self) -> dict[str, np.ndarray]:
        """What there is to know of the scene."""
        return {"names": np.array(self.names), "effects": self.effects.astype(np.float32)}


@dataclass(frozen=True)
class InterventionScene:
    """Coordinates of two objects, of which the second depends on the first, and 12 interventions that set one of them."""

    @property
    def names(self) -> list[str]:
        """Interventions in order: coordinate and the value that it is set to."""
        return [f"{coordinate}@{value:g}" for coordinate in COORDINATES for value in _VALUES]

    @property
    def n_latent(self) -> int:
        """Number of coordinates."""
        return len(COORDINATES)

    def draw(self, rng: np.random.Generator, treatment: np.ndarray) -> np.ndarray:
        """Coordinates x1, y1, x2, y2 `(n, 4)` of cells with these treatments, given as positions in `names`."""
        target, value = np.divmod(treatment, len(_VALUES))
        value = np.array(_VALUES)[value]
        share = rng.random((len(treatment), self.n_latent))
        latent = np.empty_like(share)
        latent[:, :2] = 0.1 + 0.8 * share[:, :2]
        on_first = target < 2
        latent[on_first, target[on_first]] = value[on_first]
        # the second object is drawn after the intervention on the first, and answers to it
        outside = 1.25 * (latent[:, :2] ** 2).sum(1) >= 1
        lowest = np.column_stack([np.where(outside, 0.1, 0.5), np.where(outside, 0.5, 0.1)])
        latent[:, 2:] = lowest + 0.4 * share[:, 2:]
        latent[~on_first, target[~on_first]] = value[~on_first]
        return latent

    def centred(self, latent: np.ndarray) -> np.ndarray:
        """Coordinates around zero with about unit scale, for a mixing without biases."""
        return 4 * (latent - 0.5)

    def truth(self) -> dict[str, np.ndarray]:
        """What there is to know of the scene: names, and the values set `(12, 4)`, NaN where a coordinate is free."""
        values = np.full((len(self.names), self.n_latent), np.nan, dtype=np.float32)
        rows = np.arange(len(self.names))
        values[rows, rows // len(_VALUES)] = np.tile(_VALUES, self.n_latent)
        return {"names": np.array(self.names), "values": values}
