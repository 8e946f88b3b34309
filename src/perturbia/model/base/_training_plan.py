"""Training plan of models with treatment-level parameters."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from scvi.train import TrainingPlan

if TYPE_CHECKING:
    from scvi.module.base import BaseModuleClass

__all__ = ["PerturbationTrainingPlan"]


#: Group of parameters by the part of the module that they belong to.
_KINDS = {"effects": "globals", "design": "points", "target_shift": "points"}


class PerturbationTrainingPlan(TrainingPlan):
    """scvi-tools' plan with the optimiser that treatment-level parameters need.

    Their gradients scale with the share of cells of a treatment, so Adam's `eps` must not drown them and no KL
    warm-up may leave them unregularised for hundreds of epochs: both defaults of scvi-tools are changed. Networks,
    dispersions and treatment-level parameters have learning rates of their own, all on one cosine schedule.

    Parameters
    ----------
    module
        Module with the attributes `encoder`, `decoder` and `effects`, or any module without them.
    lr
        Learning rate of the networks.
    eps
        Numerical constant of Adam.
    weight_decay
        Weight decay of the networks only.
    dispersion_lr
        Learning rate of the dispersions.
    point_lr
        Learning rate of what is estimated by a point for each treatment: exponents of doses, shifts of own targets.
    global_lr_factor
        Learning rate of treatment-level parameters relative to `lr`.
    n_steps
        Length of the cosine schedule in optimiser steps; ``None`` keeps the rates constant.
    kl_warmup
        Share of `n_steps` over which the weight of divergences rises from zero to one. Strong shifts make the divergence
        dear before there is anything to explain them, and a latent that has gone silent does not come back.
    **kwargs
        Further arguments of :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 5e-3,
        eps: float = 1e-8,
        weight_decay: float = 1e-6,
        dispersion_lr: float = 1e-2,
        point_lr: float = 2e-2,
        global_lr_factor: float = 1.0,
        n_steps: int | None = None,
        kl_warmup: float = 0.0,
        n_epochs_kl_warmup: int | None = None,
        **kwargs: object,
    ) -> None:
        if not 0 <= kl_warmup <= 1:
            msg = f"kl_warmup: expected a share of the training between 0 and 1, got {kl_warmup!r}."
            raise ValueError(msg)
        if kl_warmup and n_steps is not None:
            kwargs.setdefault("n_steps_kl_warmup", max(1, round(kl_warmup * n_steps)))
        self.dispersion_lr = dispersion_lr
        self.point_lr = point_lr
        self.global_lr_factor = global_lr_factor
        self.n_steps = n_steps
        super().__init__(
            module, lr=lr, eps=eps, weight_decay=weight_decay, n_epochs_kl_warmup=n_epochs_kl_warmup, **kwargs
        )

    def configure_optimizers(self) -> dict:
        """One Adam with a group for networks, dispersions and treatment-level parameters."""
        groups: dict[str, list] = {"networks": [], "dispersion": [], "globals": [], "points": []}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                kind = _KINDS.get(name.split(".")[0], "networks")
                groups["dispersion" if name.endswith("log_dispersion") else kind].append(parameter)
        rates = {
            "networks": {"lr": self.lr, "weight_decay": self.weight_decay},
            "dispersion": {"lr": self.dispersion_lr},
            "globals": {"lr": self.lr * self.global_lr_factor},
            "points": {"lr": self.point_lr},
        }
        optimizer = torch.optim.Adam(
            [{"params": params, **rates[kind]} for kind, params in groups.items() if params], eps=self.eps, fused=True
        )
        if self.n_steps is None:
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_cosine, n_steps=self.n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """One step; curves are gathered here and logged once per epoch, which logging every step would dominate."""
        del batch_idx
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
        self.last_inference, _, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        self.last_output = output
        n = output.n_obs_minibatch
        self._epoch_sums += torch.stack(
            [
                output.loss.detach() * n,
                output.reconstruction_loss_sum.detach(),
                output.kl_local_sum.detach(),
                output.kl_global_sum.detach() * n,
            ]
        )
        self._epoch_cells += n
        return output.loss

    def on_train_epoch_start(self) -> None:
        """Empty the sums of the curves."""
        self._epoch_sums = torch.zeros(4, device=self.device)
        self._epoch_cells = 0

    def on_train_epoch_end(self) -> None:
        """Log the curves of the epoch under the names of scvi-tools."""
        loss, reconstruction, kl_local, kl_global = self._epoch_sums / self._epoch_cells
        curves = {
            "reconstruction_loss_train": reconstruction,
            "kl_local_train": kl_local,
            "kl_global_train": kl_global,
            "elbo_train": reconstruction + kl_local + kl_global / max(self.n_obs_training or 1, 1),
        }
        self.log("train_loss", loss, prog_bar=True, sync_dist=self.use_sync_dist)
        self.log_dict(curves, sync_dist=self.use_sync_dist)

    def on_validation_model_eval(self) -> None:
        """Nothing to switch: the modules have neither dropout nor batch normalisation."""

    def on_validation_model_train(self) -> None:
        """See :meth:`on_validation_model_eval`."""


def _cosine(step: int, *, n_steps: int) -> float:
    """Factor of the learning rates; at module level, so that trained models can be pickled."""
    return 0.5 * (1 + math.cos(math.pi * min(step / n_steps, 1.0)))
