"""Training of a translation: losses over matches, early stopping, the best epoch kept."""

from __future__ import annotations

import math
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from scvi.model._utils import parse_device_args
from scvi.train import Trainer

from perturbia.model.alignment._early_stopping import curves_of, default_epochs, stopping_callbacks
from perturbia.model.alignment._translation_batches import MatchDataset, match_loader
from perturbia.model.base._best_epoch import BestEpoch
from perturbia.model.base._third_party_notices import quiet_third_parties
from perturbia.nn import exact_plain_loss, exact_projected_loss, plain_match_loss, projected_match_loss

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from perturbia.model.alignment._translation_batches import RowMatches
    from perturbia.model.alignment._translation_network import TranslationNetwork

__all__ = ["TranslationLoss", "TranslationPlan", "train_translation"]

TranslationLoss = Literal["projected", "plain", "projected_exact"]


class TranslationPlan(pl.LightningModule):
    """Steps of a translation. Validation takes the expectation of the loss over all kept matches, not draws.

    Parameters
    ----------
    network
        The network.
    loss
        ``"projected"``, ``"plain"`` or ``"projected_exact"``.
    lr, weight_decay
        Of AdamW.
    """

    def __init__(self, network: TranslationNetwork, *, loss: TranslationLoss, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.network, self.loss, self.lr, self.weight_decay = network, loss, lr, weight_decay

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss of a batch.

        Parameters
        ----------
        batch
            From :class:`~perturbia.model.alignment._translation_batches.MatchDataset`.

        Returns
        -------
        A number.
        """
        x, y = batch["x"], self.network.standardised(batch["y"])
        if "weights" in batch:
            exact = exact_plain_loss if self.loss == "plain" else exact_projected_loss
            # as if all input cells were draws of one cell, so that averaging does not undo dropout
            return exact(self.network(x[None])[0], y, batch["weights"])
        drawn = plain_match_loss if self.loss == "plain" else projected_match_loss
        return drawn(self.network(x), y)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of a step; its mean over the epoch is logged."""
        del batch_idx
        loss = self(batch)
        self._log("train_loss", loss, batch)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Log the loss of held-out cells."""
        del batch_idx
        self._log("validation_loss", self(batch), batch)

    def _log(self, name: str, loss: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        several = self.trainer.world_size > 1
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["y"]), sync_dist=several)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def train_translation(
    network: TranslationNetwork,
    X: Any,
    Y: Any,
    matches: RowMatches,
    parts: tuple[np.ndarray, np.ndarray],
    *,
    loss: TranslationLoss,
    n_draws: int,
    lr: float,
    weight_decay: float,
    batch_size: int,
    max_epochs: int | None,
    early_stopping: bool,
    patience: int,
    accelerator: str,
    devices: Any,
    seed: int,
    **trainer_kwargs: Any,
) -> dict[str, pd.DataFrame]:
    """Train a network in place and return to its best epoch.

    Parameters
    ----------
    network
        The network, its standardisation set.
    X, Y
        Features of input and output cells, dense or CSR.
    matches
        Matches of the output cells.
    parts
        Output cells that train and that validate.
    loss, n_draws, lr, weight_decay, batch_size, max_epochs, early_stopping, patience, accelerator, devices, seed
        As in :func:`~perturbia.model.alignment.fit_translator`.
    **trainer_kwargs
        Arguments of :class:`scvi.train.Trainer`.

    Returns
    -------
    The curves.

    Raises
    ------
    RuntimeError
        If loss or weights are no numbers any more.
    """
    train, valid = parts
    max_epochs = default_epochs(len(train), batch_size) if max_epochs is None else max_epochs
    accelerator, devices, _ = parse_device_args(accelerator, devices, return_device="torch")
    callbacks = list(trainer_kwargs.pop("callbacks", None) or [])
    drawn = MatchDataset(X, Y, matches, train, None if loss == "projected_exact" else n_draws)
    loaders, best = [match_loader(drawn, batch_size, shuffle=True)], BestEpoch(network)
    if len(valid):
        loaders.append(match_loader(MatchDataset(X, Y, matches, valid, None), batch_size, shuffle=False))
        callbacks += stopping_callbacks(best, patience if early_stopping else None)
        trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
    with quiet_third_parties(), torch.random.fork_rng():
        # neither is true here: a training without held-out cells is meant so, and we stop early on several devices too
        for notice in (".*have no `val_dataloader`.*", "early_stopping was automatically disabled.*"):
            warnings.filterwarnings("ignore", message=notice)
        # processes of a distributed training make draws of their own
        torch.manual_seed(seed + int(os.environ.get("LOCAL_RANK", "0")))
        plan = TranslationPlan(network, loss=loss, lr=lr, weight_decay=weight_decay)
        trainer = Trainer(
            max_epochs=max_epochs, accelerator=accelerator, devices=devices, callbacks=callbacks, **trainer_kwargs
        )
        trainer.fit(plan, *loaders)
    network.cpu().eval()
    final = best.lowest if len(valid) else float(trainer.callback_metrics["train_loss"])
    if not (math.isfinite(final) and all(bool(torch.isfinite(one).all()) for one in network.parameters())):
        msg = f"lr: the training diverged with a learning rate of {lr}. Lower it, or pass gradient_clip_val=1.0."
        raise RuntimeError(msg)
    return {name: curve.astype(float) for name, curve in curves_of(trainer).items()}
