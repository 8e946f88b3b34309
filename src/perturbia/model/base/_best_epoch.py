"""Keeping the weights of the lowest validation loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import lightning.pytorch as pl

if TYPE_CHECKING:
    import torch

__all__ = ["BestEpoch"]


class BestEpoch(pl.Callback):
    """Returns to the weights of the lowest validation loss when the training ends.

    Parameters
    ----------
    module
        The module in training.
    monitor
        The logged loss.

    Attributes
    ----------
    lowest
        The loss; infinite before any validation.
    epoch, step
        When it was.
    """

    def __init__(self, module: torch.nn.Module, monitor: str = "validation_loss") -> None:
        self.module, self.monitor = module, monitor
        self.lowest, self.epoch, self.step = math.inf, -1, 0
        self._state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Remember the weights if the loss has fallen."""
        loss = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or loss is None or not float(loss) < self.lowest:
            return
        self.lowest, self.epoch, self.step = float(loss), trainer.current_epoch, trainer.global_step
        self._state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def on_train_end(self, *_: object) -> None:
        """Return to them."""
        if self._state is not None:
            self.module.load_state_dict(self._state)
            self._state = None
