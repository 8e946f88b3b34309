"""How long models of this family train, when they stop, and what they remember of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.callbacks import EarlyStopping

if TYPE_CHECKING:
    import lightning.pytorch as pl
    import pandas as pd

    from perturbia.model.base._best_epoch import BestEpoch

__all__ = ["curves_of", "default_epochs", "stopping_callbacks"]

#: Steps of a training by default, and bounds on the epochs that they take.
_N_STEPS, _EPOCHS = 3000, (100, 1000)


def default_epochs(n_train: int, batch_size: int) -> int:
    """Epochs that hold 3,000 steps, between 100 and 1,000.

    Parameters
    ----------
    n_train
        Training cells.
    batch_size
        Cells a step.

    Returns
    -------
    The number.
    """
    return int(np.clip(math.ceil(_N_STEPS / math.ceil(n_train / batch_size)), *_EPOCHS))


def stopping_callbacks(best: BestEpoch, patience: int | None) -> list[pl.Callback]:
    """Return to the best epoch, and stop after so many without a lower loss.

    Parameters
    ----------
    best
        What remembers the weights.
    patience
        Epochs to wait; None trains to the end.

    Returns
    -------
    The callbacks. scvi-tools' own early stopping prints when it stops.
    """
    return [best, *([] if patience is None else [EarlyStopping(best.monitor, patience=patience)])]


def curves_of(trainer: pl.Trainer) -> dict[str, pd.DataFrame]:
    """What a training has logged.

    Parameters
    ----------
    trainer
        scvi-tools' trainer, after the training.

    Returns
    -------
    Name → curve. Of several processes, the first has them; loggers of the others have a function in their place.
    """
    history = getattr(trainer.logger, "history", None)
    return {name: curve.copy() for name, curve in history.items()} if isinstance(history, dict) else {}
