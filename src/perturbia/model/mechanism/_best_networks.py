"""Keeping the networks of the lowest validation bound, and finishing treatments on them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import lightning.pytorch as pl

if TYPE_CHECKING:
    import torch

    from perturbia.model.mechanism._global_updates import ClosedFormUpdates

__all__ = ["BestNetworks"]

logger = logging.getLogger(__name__)


class BestNetworks(pl.Callback):
    """Returns to the weights of the lowest ``elbo_validation`` when the training ends.

    On small screens networks start to overfit long before the masks have settled, so that the best state as it was
    has unfinished masks: with closed-form updates, masks and embeddings are found anew for the networks kept.

    Parameters
    ----------
    module
        The module in training.
    updates
        The closed-form updates of the training, which finish after this; None for gradients.
    """

    def __init__(self, module: torch.nn.Module, updates: ClosedFormUpdates | None) -> None:
        self.module = module
        self.updates = updates
        self.lowest = float("inf")
        self.step = 0
        self._state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Remember the weights if the bound has fallen."""
        bound = trainer.callback_metrics.get("elbo_validation")
        if trainer.sanity_checking or bound is None or not float(bound) < self.lowest:
            return
        self.lowest, self.step = float(bound), trainer.global_step
        self._state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def on_train_end(self, *_: object) -> None:
        """Return to them."""
        if self._state is None:
            return
        self.module.load_state_dict(self._state)
        self._state = None
        logger.info("Kept the networks of step %d, validation bound %.2f.", self.step, self.lowest)
        if self.updates is not None and self.updates.closed_form:
            self.updates.restart()
