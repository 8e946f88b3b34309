"""Perceptron from the features of one modality to those of another, both standardised."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TranslationNetwork"]


class SharedDropout(nn.Dropout):
    """Dropout of the same units for all draws of a cell.

    With units of its own, the noise of each draw cancels in products of draws, and nothing is regularised.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Features with some units dropped.

        Parameters
        ----------
        input
            Shape (n, n_units) or (n, n_draws, n_units).

        Returns
        -------
        The same shape.
        """
        if input.ndim == 2:
            return super().forward(input)
        return input * super().forward(torch.ones_like(input[:, :1]))


class TranslationNetwork(nn.Module):
    """Layers with layer normalisation: batch normalisation would make draws of one batch depend on one another.

    Parameters
    ----------
    n_input, n_output
        Features of both modalities.
    n_hidden
        Width of hidden layers.
    n_layers
        Hidden layers; none makes the map linear.
    dropout_rate
        Dropout of hidden layers.
    """

    input_mean: torch.Tensor
    input_scale: torch.Tensor
    output_mean: torch.Tensor
    output_scale: torch.Tensor

    def __init__(
        self, n_input: int, n_output: int, *, n_hidden: int = 256, n_layers: int = 2, dropout_rate: float = 0.1
    ) -> None:
        super().__init__()
        self.options = {
            "n_input": n_input,
            "n_output": n_output,
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout_rate": dropout_rate,
        }
        for side, n in (("input", n_input), ("output", n_output)):
            self.register_buffer(f"{side}_mean", torch.zeros(n))
            self.register_buffer(f"{side}_scale", torch.ones(n))
        widths = [n_input] + n_layers * [n_hidden]
        self.hidden = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU(), SharedDropout(dropout_rate))
                for n_in, n_out in pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1], n_output)

    def standardise_by(
        self, input_moments: tuple[np.ndarray, np.ndarray], output_moments: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """Set means and standard deviations of both sides.

        Parameters
        ----------
        input_moments, output_moments
            Mean and standard deviation of each feature.
        """
        for side, moments in (("input", input_moments), ("output", output_moments)):
            for name, values in zip(("mean", "scale"), moments, strict=True):
                self.get_buffer(f"{side}_{name}").copy_(torch.as_tensor(values))

    def standardised(self, y: torch.Tensor) -> torch.Tensor:
        """Features of the output in units of training.

        Parameters
        ----------
        y
            Shape (n, n_output).

        Returns
        -------
        Shape (n, n_output).
        """
        return (y - self.output_mean) / self.output_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Standardised prediction.

        Parameters
        ----------
        x
            Features of the input, shape (n, n_input), or (n, n_draws, n_input) for draws that share their dropout.

        Returns
        -------
        The same shape with `n_output` features.
        """
        return self.head(self.hidden((x - self.input_mean) / self.input_scale))

    def translate(self, x: torch.Tensor) -> torch.Tensor:
        """Prediction in units of the output.

        Parameters
        ----------
        x
            Features of the input, shape (n, n_input).

        Returns
        -------
        Shape (n, n_output).
        """
        return self(x) * self.output_scale + self.output_mean
