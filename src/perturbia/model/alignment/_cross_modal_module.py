"""Two variational autoencoders with one latent space, and what reads it: a classifier of labels, an adversary."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from perturbia.model.alignment._propensity_module import encoder_width
from perturbia.nn._perceptron import normalized_perceptron

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AdversaryOutput", "CrossModalModule", "ModalityVAE"]


@dataclass(frozen=True)
class AdversaryOutput:
    """What the adversary makes of the latents of one modality.

    Attributes
    ----------
    own_loss
        Its cross-entropy, that of a coin being log 2; moves the adversary and nothing else.
    penalty
        Of its slope; moves the adversary as well.
    fooling_loss
        Its cross-entropy under the name of the other modality; moves the encoder and not the adversary.
    accuracy
        Share of the cells that it assigns to their modality.
    """

    own_loss: torch.Tensor
    penalty: torch.Tensor
    fooling_loss: torch.Tensor
    accuracy: torch.Tensor


class ModalityVAE(nn.Module):
    """Gaussian variational autoencoder of one modality, on features standardised by its training cells.

    Parameters
    ----------
    n_input
        Number of features.
    n_latent
        Number of latents.
    n_hidden, n_layers
        Width and number of the hidden layers of encoder and decoder.
    dropout_rate
        Of the encoder.
    encoder
        Module to use in place of the encoding perceptron, from features to any width; it is copied.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        n_input: int,
        n_latent: int,
        *,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_input))
        self.register_buffer("scale", torch.ones(n_input))
        widths: dict[str, int] = {"n_hidden": n_hidden, "n_layers": n_layers}
        self.encoder: nn.Module = (
            normalized_perceptron(n_input, dropout_rate=dropout_rate, **widths)
            if encoder is None
            else deepcopy(encoder)
        )
        width = n_hidden if encoder is None else encoder_width(self.encoder, n_input)
        self.mean_head = nn.Linear(width, n_latent)
        self.log_variance_head = nn.Linear(width, n_latent)
        self.decoder = normalized_perceptron(n_latent, **widths)
        self.output_head = nn.Linear(n_hidden, n_input)

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        """Features in units of the training cells.

        Parameters
        ----------
        x
            Features, shape (n_cells, n_input).

        Returns
        -------
        The same shape.
        """
        return (x - self.mean) / self.scale

    def encode(self, x: torch.Tensor) -> Normal:
        """Posterior of the latents.

        Parameters
        ----------
        x
            Features, shape (n_cells, n_input).

        Returns
        -------
        Diagonal Gaussian of shape (n_cells, n_latent).
        """
        hidden = self.encoder(self.standardise(x))
        # bounded so that one wild cell can not overflow the divergence
        log_variance = self.log_variance_head(hidden).clamp(-12.0, 8.0)
        return Normal(self.mean_head(hidden), torch.exp(0.5 * log_variance), validate_args=False)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Expected features, standardised.

        Parameters
        ----------
        z
            Latents, shape (n_cells, n_latent).

        Returns
        -------
        Shape (n_cells, n_input).
        """
        return self.output_head(self.decoder(z))


class CrossModalModule(BaseModuleClass):
    """Autoencoders of both modalities, and the two networks that read their latents.

    A minibatch is of one modality: it holds ``X_source`` and ``labels_source``, or ``X_target`` and ``labels_target``.

    Parameters
    ----------
    n_input
        Role → number of features, the source first.
    n_labels
        Number of labels.
    n_latent, n_hidden, n_layers, dropout_rate
        Of the networks; dropout acts in the encoders alone.
    kl_weight
        Weight of the divergence from the prior, a sum over latents.
    label_weight
        Weight of the cross-entropy of labels.
    modality_weight
        Weight of the adversary for the encoders.
    encoders
        Role → module, where the encoding perceptron is not to be used.
    """

    def __init__(
        self,
        n_input: Mapping[str, int],
        n_labels: int,
        *,
        encoders: Mapping[str, nn.Module] | None = None,
        n_latent: int = 32,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        kl_weight: float = 1e-7,
        label_weight: float = 1.0,
        modality_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.kl_weight, self.label_weight, self.modality_weight = kl_weight, label_weight, modality_weight
        self.autoencoders = nn.ModuleDict(
            {
                role: ModalityVAE(
                    n,
                    n_latent,
                    n_hidden=n_hidden,
                    n_layers=n_layers,
                    dropout_rate=dropout_rate,
                    encoder=(encoders or {}).get(role),
                )
                for role, n in n_input.items()
            }
        )
        self.label_head = nn.Linear(n_latent, n_labels)
        self.discriminator = nn.Sequential(
            normalized_perceptron(n_latent, n_hidden=n_hidden, n_layers=n_layers), nn.Linear(n_hidden, 1)
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the modalities, the source first."""
        return tuple(self.autoencoders)

    def vae(self, role: str) -> ModalityVAE:
        """The autoencoder of a modality.

        Parameters
        ----------
        role
            ``"source"`` or ``"target"``.

        Returns
        -------
        The network.
        """
        return self.autoencoders[role]  # type: ignore[return-value]

    def _role_of(self, tensors: Mapping[str, torch.Tensor]) -> str:
        return next(role for role in self.roles if f"X_{role}" in tensors)

    def _get_inference_input(self, tensors: dict[str, torch.Tensor], **_: object) -> dict:
        role = self._role_of(tensors)
        return {"x": tensors[f"X_{role}"], "role": role}

    def _get_generative_input(self, tensors: dict[str, torch.Tensor], inference_outputs: dict) -> dict:
        return {"z": inference_outputs["z"], "role": self._role_of(tensors)}

    @auto_move_data
    def inference(self, x: torch.Tensor, role: str) -> dict:
        """Latents of the cells of a modality.

        Parameters
        ----------
        x
            Features, shape (n_cells, n_input).
        role
            Which modality.

        Returns
        -------
        `posterior`, and `z` of shape (n_cells, n_latent): a draw while training, the mean otherwise.
        """
        posterior = self.vae(role).encode(x)
        return {"posterior": posterior, "z": posterior.rsample() if self.training else posterior.mean}

    @auto_move_data
    def generative(self, z: torch.Tensor, role: str) -> dict[str, torch.Tensor]:
        """Expected features and logits of labels.

        Parameters
        ----------
        z
            Latents, shape (n_cells, n_latent).
        role
            Which decoder.

        Returns
        -------
        `x`, standardised, and `logits`.
        """
        return {"x": self.vae(role).decode(z), "logits": self.label_head(z)}

    def loss(self, tensors: dict[str, torch.Tensor], inference_outputs: dict, generative_outputs: dict) -> LossOutput:
        """Loss of the autoencoder of a modality and of the classifier, without the adversary.

        Parameters
        ----------
        tensors
            The minibatch.
        inference_outputs, generative_outputs
            What :meth:`inference` and :meth:`generative` returned.

        Returns
        -------
        The loss. Reconstruction is the mean square over standardised features, so that modalities of many and of few
        features weigh alike.
        """
        role = self._role_of(tensors)
        labels = tensors[f"labels_{role}"].view(-1).long()
        x = self.vae(role).standardise(tensors[f"X_{role}"])
        error = (generative_outputs["x"] - x).square().mean(-1)
        divergence = kl_divergence(inference_outputs["posterior"], Normal(0.0, 1.0)).sum(-1)
        label = F.cross_entropy(generative_outputs["logits"], labels)
        return LossOutput(
            loss=error.mean() + self.kl_weight * divergence.mean() + self.label_weight * label,
            reconstruction_loss=error,
            kl_local=divergence,
            classification_loss=label,
            logits=generative_outputs["logits"],
            true_labels=labels,
        )

    def adversary(
        self, latents: Mapping[str, torch.Tensor], *, gradient_penalty: float = 0.0
    ) -> dict[str, AdversaryOutput]:
        """Both sides of the game about which modality a cell is of.

        Encoders are rewarded for latents that pass for those of the other modality. That has a gradient, too, when the
        adversary is sure, where the reversed gradient of its own loss vanishes. A penalty on the slope of the adversary
        lets the game come to rest; without it, both sides run around each other, and modalities drift apart.

        Parameters
        ----------
        latents
            Role → latents of some cells, shape (n_cells, n_latent).
        gradient_penalty
            Weight of half the mean squared slope of the adversary; ignored where gradients are off.

        Returns
        -------
        Role → losses and accuracy.
        """
        frozen = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        penalises = gradient_penalty > 0 and torch.is_grad_enabled()
        seen = {}
        for role, z in latents.items():
            sign = -1.0 if role == self.roles[0] else 1.0
            # log odds of the modality that the cells are of, once for each player
            fixed = z.detach().requires_grad_(penalises)
            own = sign * self.discriminator(fixed).squeeze(-1)
            passed = sign * torch.func.functional_call(self.discriminator, frozen, (z,)).squeeze(-1)
            own_loss = F.softplus(-own).mean()
            penalty = torch.zeros_like(own_loss)
            if penalises:
                (slope,) = torch.autograd.grad(own.sum(), fixed, create_graph=True)
                penalty = 0.5 * gradient_penalty * slope.square().sum(-1).mean()
            seen[role] = AdversaryOutput(
                own_loss, penalty, F.softplus(passed).mean(), (own > 0).to(z.dtype).mean().detach()
            )
        return seen
