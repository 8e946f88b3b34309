"""Training of cross-modal autoencoders: minibatches of both modalities at once, curves, one optimiser for both players."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from scvi.dataloaders import AnnDataLoader
from scvi.train import TrainingPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scvi.data import AnnDataManager
    from scvi.module.base import LossOutput

    from perturbia.model.alignment._cross_modal_module import AdversaryOutput, CrossModalModule

__all__ = ["CrossModalTrainingPlan", "PairedMinibatches"]

#: What a curve shows, in the order in which sums are held.
_CURVES = (
    "loss",
    "reconstruction_loss",
    "kl_local",
    "classification_loss",
    "label_accuracy",
    "modality_loss",
    "modality_accuracy",
)


class PairedMinibatches(pl.LightningDataModule):
    """Minibatches that hold cells of both modalities; the one with fewer cells starts over within an epoch.

    Parameters
    ----------
    manager
        The registered data.
    parts
        Role → training and validation cells.
    batch_size
        Cells of each modality a step.
    distributed
        Whether several processes share the cells.
    """

    def __init__(
        self,
        manager: AnnDataManager,
        parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
        batch_size: int,
        *,
        distributed: bool = False,
    ) -> None:
        super().__init__()
        self.manager, self.parts, self.batch_size, self.distributed = manager, parts, batch_size, distributed

    @property
    def validates(self) -> bool:
        """Whether both modalities have cells held out."""
        return all(len(valid) > 0 for _, valid in self.parts.values())

    def _loaders(self, part: int, *, shuffle: bool) -> dict[str, AnnDataLoader]:
        return {
            role: AnnDataLoader(
                self.manager,
                indices=cells[part],
                batch_size=self.batch_size,
                shuffle=shuffle,
                data_and_attributes={f"X_{role}": np.float32, f"labels_{role}": np.int64},
                distributed_sampler=self.distributed,
            )
            for role, cells in self.parts.items()
        }

    def train_dataloader(self) -> CombinedLoader:
        """Shuffled training cells.

        Returns
        -------
        Loader of ``{"source": tensors, "target": tensors}``.
        """
        return CombinedLoader(self._loaders(0, shuffle=True), "max_size_cycle")

    def val_dataloader(self) -> CombinedLoader | list:
        """Validation cells, each once.

        Returns
        -------
        Loader like that of training, with None for a modality that has come to its end.
        """
        return CombinedLoader(self._loaders(1, shuffle=False), "max_size") if self.validates else []


class CrossModalTrainingPlan(TrainingPlan):
    """scvi-tools' plan for two modalities and an adversary.

    One optimiser moves both players: the adversary learns from latents that carry no gradient, encoders from an adversary
    whose weights carry none. Curves are means over cells of a modality, then over modalities; the loss that training is
    judged by holds no term of the adversary, which would fall when that gets worse.

    Parameters
    ----------
    module
        The module.
    optimizer, lr, weight_decay, eps
        Of the optimiser.
    gradient_penalty
        Weight of the squared slope of the adversary, as :meth:`CrossModalModule.adversary` takes it.
    lr_scheduler_metric
        What lowers the learning rate, with ``reduce_lr_on_plateau=True``.
    **kwargs
        Further arguments of :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: CrossModalModule,
        *,
        optimizer: str = "AdamW",
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        eps: float = 1e-8,
        gradient_penalty: float = 10.0,
        lr_scheduler_metric: str = "validation_loss",
        **kwargs: object,
    ) -> None:
        super().__init__(
            module,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            lr_scheduler_metric=lr_scheduler_metric,
            **kwargs,
        )
        self.gradient_penalty = gradient_penalty

    def training_step(self, batch: dict[str, dict[str, torch.Tensor]], batch_idx: int) -> torch.Tensor:
        """One step of both players."""
        del batch_idx
        return self._step(batch)

    def validation_step(self, batch: dict[str, dict[str, torch.Tensor] | None], batch_idx: int) -> None:
        """Curves of held-out cells, at the means of their posteriors."""
        del batch_idx
        self._step({role: tensors for role, tensors in batch.items() if tensors is not None})

    def _step(self, batch: Mapping[str, dict[str, torch.Tensor]]) -> torch.Tensor:
        outputs = {role: self.module(tensors) for role, tensors in batch.items()}
        adversary = self.module.adversary(
            {role: inference["z"] for role, (inference, _, _) in outputs.items()},
            gradient_penalty=self.gradient_penalty,
        )
        losses = []
        for role, (_, _, output) in outputs.items():
            self._add(role, output, adversary[role])
            losses.append(output.loss + self.module.modality_weight * adversary[role].fooling_loss)
            losses[-1] = losses[-1] + adversary[role].own_loss + adversary[role].penalty
        return torch.stack(losses).mean()

    # curves ---------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Empty the sums of the epoch."""
        self._sums = self._empty_sums()

    def on_validation_epoch_start(self) -> None:
        """Empty the sums of the validation, which comes within an epoch of training."""
        self._training_sums, self._sums = self._sums, self._empty_sums()

    def on_validation_epoch_end(self) -> None:
        """Log the curves of held-out cells."""
        self._log_curves("validation")
        self._sums = self._training_sums

    def on_train_epoch_end(self) -> None:
        """Log the curves of the epoch."""
        self._log_curves("train")

    def _empty_sums(self) -> torch.Tensor:
        """Sums over cells, the last column their number; one row a modality."""
        return torch.zeros((len(self.module.roles), len(_CURVES) + 1), device=self.device)

    def _add(self, role: str, output: LossOutput, adversary: AdversaryOutput) -> None:
        n = output.n_obs_minibatch
        means = [
            output.loss,
            output.reconstruction_loss_sum / n,
            output.kl_local_sum / n,
            output.classification_loss,
            (output.logits.argmax(-1) == output.true_labels).float().mean(),
            adversary.own_loss,
            adversary.accuracy,
            torch.ones_like(output.loss),
        ]
        self._sums[self.module.roles.index(role)] += n * torch.stack(means).detach()

    def _log_curves(self, part: str) -> None:
        means = (self._sums[:, :-1] / self._sums[:, -1:]).mean(0)
        curves = {f"{name}_{part}": value for name, value in zip(_CURVES, means, strict=True)}
        # the names that scvi-tools gives to losses
        loss = curves.pop(f"loss_{part}")
        self.log(
            "train_loss" if part == "train" else "validation_loss", loss, prog_bar=True, sync_dist=self.use_sync_dist
        )
        self.log_dict(curves, sync_dist=self.use_sync_dist)
