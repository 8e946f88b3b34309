"""Networks without biases that mix latents into genes: the decoders of simulators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LayeredMixing"]

_SLOPE = 0.2
# brings the output of tanh, for inputs of unit variance, back to about unit variance
_TANH_GAIN = 5 / 3


@dataclass(frozen=True)
class LayeredMixing:
    """Linear layers with one activation between them.

    Attributes
    ----------
    weights
        Matrix `(n_in, n_out)` of every layer.
    activation
        ``"leaky_relu"`` (slope 0.2): piece-wise affine; ``"tanh"``: smooth.
    """

    weights: tuple[np.ndarray, ...]
    activation: Literal["leaky_relu", "tanh"] = "leaky_relu"

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        sizes: Sequence[int],
        *,
        activation: Literal["leaky_relu", "tanh"] = "leaky_relu",
        sparsity: float | None = None,
    ) -> LayeredMixing:
        """Draw weights for layers of these `sizes`, latents first and genes last.

        Parameters
        ----------
        rng
            Generator.
        sizes
            Width of the input, of every hidden layer and of the output.
        activation
            Activation after every hidden layer.
        sparsity
            `None` for orthonormal weights, else normal weights of which every unit has this share set to zero.

        Returns
        -------
        The network. Its scale has no meaning: callers divide the output by its standard deviation.
        """
        pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
        weights = [
            _orthonormal(rng, n_in, n_out) if sparsity is None else _sparse(rng, n_in, n_out, sparsity)
            for n_in, n_out in pairs
        ]
        if activation == "tanh":
            # small inputs would leave tanh in its linear range; without biases a leaky ReLU looks alike at every scale
            for layer, (n_in, n_out) in enumerate(pairs[:-1]):
                weights[layer] *= max(1.0, n_out / n_in) ** 0.5 * (_TANH_GAIN if layer else 1.0)
        return cls(tuple(weights), activation)

    def __call__(self, latent: np.ndarray) -> np.ndarray:
        """Mix `latent` `(n, n_latent)` into `(n, n_genes)`."""
        hidden = latent
        for weight in self.weights[:-1]:
            hidden = hidden @ weight
            hidden = np.tanh(hidden) if self.activation == "tanh" else np.maximum(hidden, _SLOPE * hidden)
        return hidden @ self.weights[-1]

    def as_arrays(self, scale: float | np.ndarray) -> dict[str, np.ndarray | str]:
        """What files can hold: `layer_1`, …, `activation`, and the `scale` that outputs were divided by."""
        layers: dict[str, np.ndarray | str] = {
            f"layer_{i + 1}": weight.astype(np.float32) for i, weight in enumerate(self.weights)
        }
        return layers | {"activation": self.activation, "scale": np.asarray(scale, dtype=np.float32)}


def _orthonormal(rng: np.random.Generator, n_in: int, n_out: int) -> np.ndarray:
    """Orthonormal rows or columns, whichever are fewer, uniform over all such matrices."""
    tall = rng.normal(size=(max(n_in, n_out), min(n_in, n_out)))
    basis, triangle = np.linalg.qr(tall)
    basis = basis * np.sign(np.diag(triangle))  # QR alone favours some signs
    return basis.T if n_in < n_out else basis


def _sparse(rng: np.random.Generator, n_in: int, n_out: int, sparsity: float) -> np.ndarray:
    """Standard normal weights; `sparsity` of the inputs of every unit, rounded up, are cut."""
    weight = rng.normal(size=(n_in, n_out))
    rank = rng.random((n_in, n_out)).argsort(axis=0).argsort(axis=0)
    return np.where(rank < np.ceil(sparsity * n_in), 0.0, weight)
