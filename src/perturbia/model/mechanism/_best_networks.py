"""Keeping the networks of the lowest validation bound, and finishing treatments on them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perturbia.model.base._best_epoch import BestEpoch

if TYPE_CHECKING:
    import torch

    from perturbia.model.mechanism._global_updates import ClosedFormUpdates

__all__ = ["BestNetworks"]

logger = logging.getLogger(__name__)


class BestNetworks(BestEpoch):
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
        super().__init__(module, "elbo_validation")
        self.updates = updates

    def on_train_end(self, *_: object) -> None:
        """Return to them."""
        if self._state is None:
            return
        super().on_train_end()
        logger.info("Kept the networks of step %d, validation bound %.2f.", self.step, self.lowest)
        if self.updates is not None and self.updates.closed_form:
            self.updates.restart()
