"""Training of aligners by propensity scores: classifiers, what they hold out, and how sure they are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from perturbia import _keys
from perturbia.model.alignment._cell_matching import CellMatching
from perturbia.model.alignment._classification_scores import classification_scores
from perturbia.model.alignment._labelled_cells import check_split_key, folds_of, stratified_split, training_parts
from perturbia.model.alignment._propensity_module import ModalityClassifier, PropensityModule
from perturbia.model.alignment._propensity_training import fit_classifier
from perturbia.model.alignment._registration import ROLES
from perturbia.model.base._arguments import check_positive_integer, check_train_size
from perturbia.stats.log_ratios import fit_temperature

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

__all__ = ["DEFAULT_TRAINING", "AlignerTraining"]

_ADAMW = {"optimizer": "AdamW", "lr": 1e-3, "weight_decay": 1e-3, "eps": 1e-8}
DEFAULT_TRAINING: dict[str, Any] = {
    "max_epochs": None,
    "batch_size": 256,
    "early_stopping": True,
    "patience": 20,
    "accelerator": "auto",
    "devices": "auto",
    "plan_kwargs": _ADAMW,
    "enable_progress_bar": False,
}
#: Ratio of the temperatures of two modalities beyond which ``temperature="auto"`` applies them.
_TEMPERATURE_RATIO = 1.25


class AlignerTraining(CellMatching):
    """`train` of aligners by propensity scores, and the logits that come of it."""

    module: PropensityModule
    seed: int
    n_folds: int
    temperatures_: dict[str, float]
    folds_: dict[str, np.ndarray]
    splits_: dict[str, list[np.ndarray]]
    classification_: pd.DataFrame | None
    use_temperature_: bool

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        split_key: str | None = _keys.OBS_SPLIT,
        group_key: str | None = None,
        train_size: float = 0.9,
        batch_size: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        early_stopping: bool = True,
        patience: int = 20,
        temperature: Literal["auto"] | bool = "auto",
        plan_kwargs: dict | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the classifiers of both modalities, one after the other, and keep the best epoch of each.

        Parameters
        ----------
        max_epochs
            Passes through the cells of a modality at most; by default enough for 3,000 steps, between 100 and 1,000.
        accelerator, devices
            Where to train, as in scvi-tools; ``accelerator="gpu"`` for one GPU.
        split_key
            Column of `obs` of a modality with ``train``, ``valid`` and ``test``, where there is one; None ignores it.
        group_key
            Column of `obs` of each modality whose groups are kept in one fold, for `n_folds` above 1; the registered
            batch by default.
        train_size
            Share of the cells of every label that train without such a column, or where it marks none as ``valid``; the
            others say when to stop.
        batch_size
            Cells a step.
        lr, weight_decay
            Of AdamW.
        early_stopping, patience
            Whether to stop after so many epochs without a lower loss of held-out cells.
        temperature
            Whether logits are divided by a number that makes held-out probabilities less sure where they were too sure:
            ``"auto"`` only where those of the two modalities differ by more than a quarter.
        plan_kwargs
            Further arguments of :class:`scvi.train.ClassifierTrainingPlan`.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``enable_progress_bar``.

        Returns
        -------
        Nothing; the model is trained in place, curves are in `history`, held-out scores in `classification_`.

        Raises
        ------
        ValueError, SplitError
            If settings are out of range, or a split has no training cells.

        Warns
        -----
        UserWarning
            A modality whose held-out cells are not told apart better than by chance; fewer than four labels; features
            that are targets of perturbations.
        """
        _check_training(max_epochs, batch_size, patience, train_size, temperature)
        check_split_key(split_key, (self._modality(role).obs for role in ROLES))
        self._warn_of_shortcuts()
        self._training_options = options = {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "early_stopping": early_stopping,
            "patience": patience,
            "accelerator": accelerator,
            "devices": devices,
            "plan_kwargs": {**_ADAMW, "lr": lr, "weight_decay": weight_decay, **(plan_kwargs or {})},
            **trainer_kwargs,
        }
        history: dict[str, pd.DataFrame] = {}
        for which, role in enumerate(ROLES):
            X, codes = self._features_of(role), self._codes_of(role)
            self.cells_[role] = self._modality(role).obs_names.to_numpy().astype(str)
            groups = self._groups_of(role, group_key) if self.n_folds > 1 else None
            self.folds_[role] = (
                np.zeros(len(codes), dtype=np.int64)
                if self.n_folds == 1
                else folds_of(codes, self.n_folds, groups, self.seed)
            )
            for fold, classifier in enumerate(self._classifiers(role)):
                parts = self._parts(role, codes, fold, split_key, train_size)
                name = self.modalities[role] + (f"_fold{fold}" if self.n_folds > 1 else "")
                curves = fit_classifier(classifier, X, codes, parts, seed=self.seed + 101 * which + fold, **options)
                history |= {f"{curve}_{name}": values for curve, values in curves.items()}
                self.splits_[role] = list(parts)
            if self.n_folds > 1:
                self.splits_[role] = [np.empty(0, dtype=np.int64), np.flatnonzero(codes >= 0)]
        self.history_ = history
        self.is_trained_ = True
        self._coupling = None  # that of an earlier training
        self.module.eval()
        self._calibrate(temperature, split_key)

    def _new_classifier(self, role: str, *, seed: int) -> ModalityClassifier:
        """A classifier like those of the model, untrained."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return ModalityClassifier(
                self._n_features(role), len(self.labels), encoder=self._encoders.get(role), **self._classifier_options
            )

    def _parts(
        self, role: str, codes: np.ndarray, fold: int, split_key: str | None, train_size: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation cells of a classifier."""
        rng = np.random.default_rng([self.seed, ROLES.index(role), fold])
        usable = codes.copy()
        if self.n_folds > 1:
            usable[self.folds_[role] == fold] = -1
        train, valid = training_parts(
            self._modality(role).obs,
            usable,
            modality=self.modalities[role],
            split_key=split_key,
            train_size=train_size,
            rng=rng,
        )
        if len(valid) == 0:  # where a column marks none: something has to say when to stop
            marked = np.full_like(codes, -1)
            marked[train] = codes[train]
            return stratified_split(marked, train_size, rng)
        return train, valid

    def _groups_of(self, role: str, group_key: str | None) -> np.ndarray | None:
        key = group_key or self._setup_argument("batch_key")
        if key is None:
            return None
        obs = self._modality(role).obs
        if key not in obs:
            msg = f"group_key: expected a column of obs of {self.modalities[role]!r}, got {key!r}."
            raise KeyError(msg)
        return obs[key].astype(str).to_numpy()

    def _classifiers(self, role: str) -> list[ModalityClassifier]:
        return self.module.folds(role)

    def _calibrate(self, temperature: object, split_key: str | None) -> None:
        """Temperatures and held-out scores of both modalities."""
        rows = {}
        for role in ROLES:
            codes = self._codes_of(role)
            self.held_out_[role] = cells = self._held_out(role, codes, split_key)
            seen = len(cells) == 0
            cells = np.flatnonzero(codes >= 0) if seen else cells
            logits = self._own_logits(role)[cells]
            # never sharper: few held-out cells that are all told apart would have it fall to nothing, and scores with it
            self.temperatures_[role] = max(1.0, fit_temperature(logits, codes[cells]))
            rows[self.modalities[role]] = {
                **classification_scores(logits, codes[cells], len(self.labels)),
                "held_out": not seen,
                "temperature": self.temperatures_[role],
            }
        self.classification_ = pd.DataFrame.from_dict(rows, orient="index")
        ratio = max(self.temperatures_.values()) / min(self.temperatures_.values())
        self.use_temperature_ = ratio > _TEMPERATURE_RATIO if temperature == "auto" else bool(temperature)
        for name, row in self.classification_.iterrows():
            if row["cross_entropy"] > row["chance"] - 0.01:
                msg = (
                    f"train: {name!r} does not tell perturbations apart: held-out cross-entropy {row['cross_entropy']:.3f}, "
                    f"chance {row['chance']:.3f}. Matches would be arbitrary. Use features in which perturbations show."
                )
                warnings.warn(msg, UserWarning, stacklevel=3)

    def _held_out(self, role: str, codes: np.ndarray, split_key: str | None) -> np.ndarray:
        """Cells that no part of the training has seen, or those that said when to stop."""
        obs = self._modality(role).obs
        if self.n_folds == 1 and split_key is not None and split_key in obs:
            tests = (obs[split_key].astype(str).to_numpy() == _keys.SPLIT_VALUES[2]) & (codes >= 0)
            if tests.any():
                return np.flatnonzero(tests)
        return self.splits_[role][1]

    def _warn_of_shortcuts(self) -> None:
        """Warn of what breaks the assumptions and can be seen in the registered data."""
        if len(self.labels) < 4:
            msg = (
                f"perturbation_key: {len(self.labels)} shared labels give scores of {len(self.labels) - 1} dimension(s): "
                "cells are matched along these alone, and by chance otherwise. More perturbations help."
            )
            warnings.warn(msg, UserWarning, stacklevel=3)
        sep = self._setup_argument("sep")
        members = {name for label in self.labels for name in (label.split(sep) if sep else [label])}
        targets = {name.rpartition("@")[0] or name for name in members}  # the dose is not part of the name
        for role in ROLES:
            if self._setup_argument(f"{role}_rep") is not None:
                continue
            own = [name for name in self._modality(role).var_names if name in targets]
            if own:
                from perturbia.errors import shorten

                msg = (
                    f"{self.modalities[role]!r}: {len(own)} feature(s) are targets of perturbations: {shorten(own, limit=5)}. "
                    "Reads of the target itself tell the label without the state of the cell. Leave them out: "
                    "adata[:, ~adata.var_names.isin(targets)]."
                )
                warnings.warn(msg, UserWarning, stacklevel=3)

    def _logits(self, role: str, data: AnnData | MuData | None = None, batch_size: int = 8192) -> list[np.ndarray]:
        """Logits of all cells of a modality under each of its classifiers."""
        X = self._features_of(role, data)
        return [classifier.logits_of(X, batch_size=batch_size) for classifier in self._classifiers(role)]

    def _own_logits(self, role: str) -> np.ndarray:
        """Logits of registered cells under the classifier that did not see them."""
        logits = np.stack(self._logits(role))
        fold = np.maximum(self._folds_now(role), 0)
        return logits[fold, np.arange(logits.shape[1])]

    def _folds_now(self, role: str, data: AnnData | MuData | None = None) -> np.ndarray:
        """Fold of each cell, found by its name; -1 for cells that were not there in training, or had no label."""
        place = self._places_now(role, data)
        return np.where(place >= 0, self.folds_[role][place], -1)

    def _places_now(self, role: str, data: AnnData | MuData | None = None) -> np.ndarray:
        """Position of each cell among those of the training: a loaded model may hold others."""
        return pd.Index(self.cells_[role]).get_indexer(self._modality(role, data).obs_names)

    def _held_out_now(self, role: str) -> np.ndarray:
        """Positions of the cells that judge the classifiers."""
        return np.flatnonzero(np.isin(self._places_now(role), self.held_out_[role]) & (self._codes_of(role) >= 0))


def _check_training(
    max_epochs: int | None, batch_size: int, patience: int, train_size: float, temperature: object
) -> None:
    for name, value in (("max_epochs", max_epochs), ("batch_size", batch_size), ("patience", patience)):
        if value is not None:
            check_positive_integer(name, value)
    check_train_size(train_size)
    if temperature not in {"auto", True, False}:
        msg = f"temperature: expected 'auto', True or False, got {temperature!r}."
        raise ValueError(msg)
