"""Perceptron from the features of one modality to those of another, both standardised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi.nn import FCLayers
from torch import nn

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TranslationNetwork"]


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
        self.hidden: nn.Module = (
            FCLayers(
                n_input,
                n_hidden,
                n_layers=n_layers,
                n_hidden=n_hidden,
                dropout_rate=dropout_rate,
                use_batch_norm=False,
                use_layer_norm=True,
            )
            if n_layers
            else nn.Identity()
        )
        self.head = nn.Linear(n_hidden if n_layers else n_input, n_output)

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
            Features of the input, shape (n, n_input).

        Returns
        -------
        Shape (n, n_output).
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
