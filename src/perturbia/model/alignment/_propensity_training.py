"""Training of propensity classifiers: each modality and fold for itself, the best epoch kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField, NumericalObsField
from scvi.dataloaders import DataSplitter
from scvi.train import ClassifierTrainingPlan, Trainer

from perturbia.model.alignment._early_stopping import curves_of, default_epochs, stopping_callbacks
from perturbia.model.alignment._feature_rows import row_moments
from perturbia.model.base._best_epoch import BestEpoch
from perturbia.model.base._third_party_notices import quiet_third_parties

if TYPE_CHECKING:
    from perturbia.model.alignment._propensity_module import ModalityClassifier

__all__ = ["fit_classifier"]

logger = logging.getLogger(__name__)


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
    max_epochs = default_epochs(len(train), batch_size) if max_epochs is None else max_epochs
    best, validates = BestEpoch(classifier), len(valid) > 0
    stopping = stopping_callbacks(best, patience if early_stopping else None) if validates else []
    callbacks = [*(trainer_kwargs.pop("callbacks", None) or []), *stopping]
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
    return curves_of(trainer)


def _standardise(classifier: ModalityClassifier, X: Any, codes: np.ndarray, train: np.ndarray) -> None:
    mean, scale = row_moments(X, train)
    # a feature that does not vary says nothing; its few other values later must not explode
    scale[scale <= 1e-6 * max(1.0, float(scale.max(initial=0)))] = 1.0
    counts = np.bincount(codes[train], minlength=len(classifier.class_counts))
    for name, values in (("mean", mean), ("scale", scale), ("class_counts", counts)):
        getattr(classifier, name).copy_(torch.as_tensor(values, dtype=torch.float32))


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
