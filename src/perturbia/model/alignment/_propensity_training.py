"""Training of propensity classifiers: each modality and fold for itself, the best epoch kept."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import EarlyStopping
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField, NumericalObsField
from scvi.dataloaders import DataSplitter
from scvi.train import ClassifierTrainingPlan, Trainer

from perturbia.errors import SplitError
from perturbia.model.base._third_party_notices import quiet_third_parties

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perturbia.model.alignment._propensity_module import ModalityClassifier

__all__ = ["BestEpoch", "fit_classifier", "folds_of", "stratified_split"]

logger = logging.getLogger(__name__)


class BestEpoch(pl.Callback):
    """Returns to the weights of the lowest validation loss when the training ends.

    Parameters
    ----------
    module
        The module in training.
    monitor
        The logged loss.
    """

    def __init__(self, module: torch.nn.Module, monitor: str = "validation_loss") -> None:
        self.module, self.monitor = module, monitor
        self.lowest, self.epoch = math.inf, -1
        self._state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Remember the weights if the loss has fallen."""
        loss = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or loss is None or not float(loss) < self.lowest:
            return
        self.lowest, self.epoch = float(loss), trainer.current_epoch
        self._state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def on_train_end(self, *_: object) -> None:
        """Return to them."""
        if self._state is not None:
            self.module.load_state_dict(self._state)


def stratified_split(codes: np.ndarray, train_size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation cells in the same proportion of every label.

    Parameters
    ----------
    codes
        Label of each cell; cells of -1 are in neither.
    train_size
        Share that trains; of every label at least one cell does.
    rng
        Source of the draws.

    Returns
    -------
    Sorted positions of both.
    """
    order = rng.permutation(len(codes))
    order = order[codes[order] >= 0]
    order = order[np.argsort(codes[order], kind="stable")]
    counts = np.bincount(codes[order])
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    trains = rank < np.maximum(1, np.round(train_size * counts))[codes[order]]
    return np.sort(order[trains]), np.sort(order[~trains])


def folds_of(codes: np.ndarray, n_folds: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """Fold of every cell, in the same proportion of every label, and whole groups in one fold.

    Parameters
    ----------
    codes
        Label of each cell; cells of -1 are in no fold.
    n_folds
        Number of folds.
    groups
        Batch or donor of each cell.
    seed
        Seed of the draw.

    Returns
    -------
    Fold of each cell, int64; -1 for none.

    Raises
    ------
    SplitError
        If there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.full(len(codes), -1, dtype=np.int64)
    (used,) = np.nonzero(codes >= 0)
    if groups is None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(used)
        order = order[np.argsort(codes[order], kind="stable")]
        fold[order] = np.arange(len(order)) % n_folds
        return fold
    n_groups = len(set(groups[used]))
    if n_groups < n_folds:
        msg = f"group_key: expected at least n_folds={n_folds} groups, got {n_groups}. Pass fewer folds."
        raise SplitError(msg)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for k, (_, held_out) in enumerate(splitter.split(used[:, None], codes[used], groups[used])):
        fold[used[held_out]] = k
    return fold


def fit_classifier(
    classifier: ModalityClassifier,
    X: Any,
    codes: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
    *,
    max_epochs: int | None,
    batch_size: int,
    early_stopping: bool,
    patience: int,
    seed: int,
    accelerator: str,
    devices: Any,
    plan_kwargs: dict[str, Any],
    **trainer_kwargs: Any,
) -> dict[str, pd.DataFrame]:
    """Train one classifier and return to its best epoch.

    Parameters
    ----------
    classifier
        The classifier; its standardisation is set from the training cells.
    X
        Features, dense or CSR.
    codes
        Label of each cell.
    parts
        Training and validation cells.
    max_epochs
        Passes at most; by default enough for 3,000 steps, between 100 and 1,000.
    batch_size
        Cells a step.
    early_stopping, patience
        Whether to stop after so many epochs without a lower validation loss.
    seed
        Seed of the training.
    accelerator, devices
        Where to train.
    plan_kwargs
        Arguments of scvi-tools' :class:`~scvi.train.ClassifierTrainingPlan`.
    **trainer_kwargs
        Arguments of scvi-tools' :class:`~scvi.train.Trainer`.

    Returns
    -------
    The curves.
    """
    train, valid = parts
    _standardise(classifier, X, codes, train)
    manager = _manager(X, codes)
    n_batches = math.ceil(len(train) / batch_size)
    if max_epochs is None:
        max_epochs = int(np.clip(math.ceil(3000 / n_batches), 100, 1000))
    callbacks = [*(trainer_kwargs.pop("callbacks", None) or [])]
    best = BestEpoch(classifier)
    validates = len(valid) > 0
    callbacks += [best] if validates else []
    if early_stopping and validates:  # scvi-tools' own prints when it stops
        callbacks.append(EarlyStopping("validation_loss", patience=patience))
    rest = np.setdiff1d(np.arange(len(codes)), np.concatenate([train, valid]))
    with quiet_third_parties(), torch.random.fork_rng():
        torch.manual_seed(seed)
        # a last batch of one or two cells says little, and batch norm cannot take one; they are others every epoch
        short = len(train) > batch_size and 0 < len(train) % batch_size < 3
        splitter = DataSplitter(manager, batch_size=batch_size, external_indexing=[train, valid, rest], drop_last=short)
        plan = ClassifierTrainingPlan(classifier, **plan_kwargs)
        trainer = Trainer(
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            check_val_every_n_epoch=1 if validates else None,
            callbacks=callbacks,
            **trainer_kwargs,
        )
        trainer.fit(plan, splitter)
    classifier.cpu().eval()
    logger.info("Kept epoch %d of %d, validation loss %.3f.", best.epoch, trainer.current_epoch, best.lowest)
    history = getattr(trainer.logger, "history", None)
    # of several processes, the first has the curves; loggers of the others have a function in their place
    return {name: curve.copy() for name, curve in history.items()} if isinstance(history, dict) else {}


def _standardise(classifier: ModalityClassifier, X: Any, codes: np.ndarray, train: np.ndarray) -> None:
    mean, variance = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for block in _blocks(X, train):
        mean += block.sum(0) / len(train)
    for block in _blocks(X, train):
        variance += np.square(block - mean).sum(0) / len(train)
    scale = np.sqrt(variance)
    # a feature that does not vary says nothing; its few other values later must not explode
    scale[scale <= 1e-6 * max(1.0, float(scale.max(initial=0)))] = 1.0
    counts = np.bincount(codes[train], minlength=len(classifier.class_counts))
    for name, values in (("mean", mean), ("scale", scale), ("class_counts", counts)):
        getattr(classifier, name).copy_(torch.as_tensor(values, dtype=torch.float32))


def _blocks(X: Any, rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), 4096):
        block = X[rows[start : start + 4096]]
        yield (block.toarray() if sparse.issparse(block) else np.asarray(block)).astype(np.float64)


def _manager(X: Any, codes: np.ndarray) -> AnnDataManager:
    """Features and labels as scvi-tools' loaders read them."""
    names = pd.RangeIndex(len(codes)).astype(str)
    adata = AnnData(X.astype(np.float32), obs=pd.DataFrame({"code": codes}, index=names))
    manager = AnnDataManager(
        fields=[
            LayerField(REGISTRY_KEYS.X_KEY, None, is_count_data=False),
            NumericalObsField(REGISTRY_KEYS.LABELS_KEY, "code"),  # numbers that both modalities share, not categories
        ]
    )
    manager.register_fields(adata)
    return manager
