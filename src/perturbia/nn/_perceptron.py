"""The hidden layers that encoders and decoders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi.nn import FCLayers
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["normalized_perceptron", "perceptron"]


def perceptron(n_input: int, *, n_hidden: int, n_layers: int, n_cat_list: Sequence[int], n_cont: int) -> FCLayers:
    """Leaky layers that see the covariates, without batch normalisation or dropout: a rotation can be absorbed exactly."""
    return FCLayers(
        n_in=n_input,
        n_out=n_hidden,
        n_cat_list=n_cat_list,
        n_cont=n_cont,
        n_layers=n_layers,
        n_hidden=n_hidden,
        dropout_rate=0.0,
        use_batch_norm=False,
        activation_fn=nn.LeakyReLU,
    )


def normalized_perceptron(n_input: int, *, n_hidden: int, n_layers: int, dropout_rate: float = 0.0) -> FCLayers:
    """Layers with layer normalisation, which ties no cell to the others of its batch, and without covariates."""
    return FCLayers(
        n_in=n_input,
        n_out=n_hidden,
        n_layers=n_layers,
        n_hidden=n_hidden,
        dropout_rate=dropout_rate,
        use_batch_norm=False,
        use_layer_norm=True,
    )
