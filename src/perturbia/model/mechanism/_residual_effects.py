"""What training cells show beyond the model, shrunken by its noise."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS

from perturbia.errors import UnsupportedQuery
from perturbia.model.base._minified import require_features
from perturbia.perturbation import dosage_labels

if TYPE_CHECKING:
    from scipy import sparse

    from perturbia.model.mechanism._latent_shift import LatentShiftModel

__all__ = ["count_training_cells", "shrunken_residual"]


def count_training_cells(model: LatentShiftModel, labels: np.ndarray) -> np.ndarray:
    """Training cells of exactly each perturbation; zero if the data of the model are not those that trained it."""
    chosen = model._training_cells()
    if chosen is None:
        return np.zeros(len(labels), dtype=np.int64)
    seen = pd.Series(dosage_labels(model._registered_dosage(model.adata, chosen), model.perturbations)).value_counts()
    return seen.reindex(labels, fill_value=0).to_numpy()


def shrunken_residual(model: LatentShiftModel, dosage: sparse.csr_matrix, values: np.ndarray, scale: str) -> np.ndarray:
    """Empirical minus predicted effects of the training cells, shrunken by their noise; zero where there are none."""
    from perturbia.stats import effects_against, group_means, limited_translation, log1p_cp10k

    chosen = model._training_cells()
    if chosen is None or scale == "counts":
        msg = "combine: 'shrunk_residual' needs the training data and a log-normalised or registered scale."
        raise UnsupportedQuery(msg)
    require_features(model.adata, "combine='shrunk_residual'")
    matrix = model.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)[chosen]
    features = log1p_cp10k(matrix) if model.module.is_count_model else matrix
    labels = dosage_labels(model._registered_dosage(model.adata, chosen), model.perturbations)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "labels: .* have one row", RuntimeWarning)
        moments = group_means(features, labels)
    # pooled: a group of ten cells that lacks a sparse gene is not certain of it, and a lone cell has a variance too
    empirical = effects_against(moments, reference="control", variance="pooled")
    position = {label: i for i, label in enumerate(empirical.groups)}
    rows = [
        (i, position[label]) for i, label in enumerate(dosage_labels(dosage, model.perturbations)) if label in position
    ]
    out = np.zeros_like(values)
    if rows:
        here, there = (np.array(part) for part in zip(*rows, strict=True))
        residual = empirical.effects[there] - values[here]
        out[here] = limited_translation(residual, empirical.standard_errors[there])
    return out
