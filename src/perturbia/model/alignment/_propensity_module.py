"""Classifiers of perturbations, one a modality and fold, that share nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import nn

from perturbia.model.alignment._feature_rows import dense_rows
from perturbia.nn._perceptron import normalized_perceptron

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ModalityClassifier", "PropensityModule", "encoder_width"]


class ModalityClassifier(nn.Module):
    """Encoder and linear head that name the perturbation of a cell from standardised features.

    Parameters
    ----------
    n_input
        Number of features.
    n_labels
        Number of perturbations.
    encoder
        Module to use in place of the perceptron, from features to any width; it is copied.
    n_hidden, n_layers, dropout_rate
        Of the perceptron.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    class_counts: torch.Tensor
    logits = True  # what scvi-tools' training plan of classifiers asks for

    def __init__(
        self,
        n_input: int,
        n_labels: int,
        *,
        encoder: nn.Module | None = None,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_input))
        self.register_buffer("scale", torch.ones(n_input))
        self.register_buffer("class_counts", torch.ones(n_labels))
        if encoder is None:
            self.encoder: nn.Module = normalized_perceptron(
                n_input, n_hidden=n_hidden, n_layers=n_layers, dropout_rate=dropout_rate
            )
        else:
            self.encoder = deepcopy(encoder)
            n_hidden = encoder_width(self.encoder, n_input)
        self.head = nn.Linear(n_hidden, n_labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits.

        Parameters
        ----------
        x
            Features, (n_cells, n_input).

        Returns
        -------
        Shape (n_cells, n_labels).
        """
        return self.head(self.encoder((x - self.mean) / self.scale))

    @torch.no_grad()
    def logits_of(self, X: Any, *, batch_size: int = 8192) -> np.ndarray:
        """Logits of cells as they are held, without dropout.

        Parameters
        ----------
        X
            Features, dense or CSR, (n_cells, n_input).
        batch_size
            Cells that are made dense at once.

        Returns
        -------
        Shape (n_cells, n_labels), float32.
        """
        self.eval()
        found = np.empty((X.shape[0], self.head.out_features), dtype=np.float32)
        for start in range(0, len(found), batch_size):
            rows = slice(start, start + batch_size)
            found[rows] = self(torch.as_tensor(dense_rows(X, rows), device=self.mean.device)).cpu().numpy()
        return found


class PropensityModule(BaseModuleClass):
    """The classifiers of both modalities.

    Parameters
    ----------
    n_input
        Role → number of features.
    n_labels
        Number of perturbations.
    encoders
        Role → module, where the perceptron is not to be used.
    n_folds
        Classifiers of a modality.
    n_hidden, n_layers, dropout_rate
        Of perceptrons.
    """

    def __init__(
        self,
        n_input: Mapping[str, int],
        n_labels: int,
        *,
        encoders: Mapping[str, nn.Module] | None = None,
        n_folds: int = 1,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.classifiers = nn.ModuleDict(
            {
                role: nn.ModuleList(
                    ModalityClassifier(
                        n,
                        n_labels,
                        encoder=(encoders or {}).get(role),
                        n_hidden=n_hidden,
                        n_layers=n_layers,
                        dropout_rate=dropout_rate,
                    )
                    for _ in range(n_folds)
                )
                for role, n in n_input.items()
            }
        )

    def folds(self, role: str) -> list[ModalityClassifier]:
        """The classifiers of a modality.

        Parameters
        ----------
        role
            ``"source"`` or ``"target"``.

        Returns
        -------
        One a fold.
        """
        return [one for one in self.classifiers[role].children() if isinstance(one, ModalityClassifier)]

    def _get_inference_input(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"x": tensors["X"]}

    def _get_generative_input(self, tensors: dict, inference_outputs: dict) -> dict:
        del tensors, inference_outputs
        return {}

    @auto_move_data
    def inference(self, x: torch.Tensor, role: str = "source", fold: int = 0) -> dict[str, torch.Tensor]:
        """Logits of the cells of a modality.

        Parameters
        ----------
        x
            Features.
        role
            Which modality.
        fold
            Which of its classifiers.

        Returns
        -------
        `logits`.
        """
        return {"logits": self.folds(role)[fold](x)}

    def generative(self) -> dict:
        """Nothing: classifiers generate no features.

        Returns
        -------
        An empty mapping.
        """
        return {}

    def loss(self, tensors: dict[str, torch.Tensor], inference_outputs: dict, generative_outputs: dict) -> LossOutput:
        """Cross-entropy of the labels.

        Parameters
        ----------
        tensors
            With ``"labels"``.
        inference_outputs
            With ``"logits"``.
        generative_outputs
            Not used.

        Returns
        -------
        The loss.
        """
        del generative_outputs
        logits, labels = inference_outputs["logits"], tensors["labels"].view(-1).long()
        loss = nn.functional.cross_entropy(logits, labels)
        return LossOutput(loss=loss, n_obs_minibatch=len(labels))


def encoder_width(encoder: nn.Module, n_input: int) -> int:
    """Width of what an encoder returns; it sees two cells of zeros.

    Parameters
    ----------
    encoder
        From (n, n_input) to (n, width).
    n_input
        Number of features.

    Returns
    -------
    The width.

    Raises
    ------
    ValueError
        If it returns anything else.
    """
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        out = encoder(torch.zeros(2, n_input))
    encoder.train(training)
    if out.ndim != 2 or len(out) != 2:
        msg = f"encoders: expected a module from (n, {n_input}) to (n, width), got shape {tuple(out.shape)} for n = 2."
        raise ValueError(msg)
    return out.shape[1]
