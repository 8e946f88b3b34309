"""Effects of the training cells, measured in each context against its own controls."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from perturbia.errors import ControlError, SplitError, shorten
from perturbia.model.baseline._training_effects import TrainingEffects, measure_effects

__all__ = ["ContextEffects", "measure_by_context"]


@dataclass(frozen=True)
class ContextEffects(TrainingEffects):
    """Effects in contexts: a row for each perturbation in each context that has it, so that dosages repeat.

    The batches of `control_variance` and `control_weight` are those within one context.

    Attributes
    ----------
    context
        Context of each effect, int64 `(K,)`.
    """

    context: np.ndarray


def measure_by_context(
    features: np.ndarray | sparse.csr_matrix,
    dosage: sparse.csr_matrix,
    batch: np.ndarray,
    context: np.ndarray,
    names: list[str],
) -> ContextEffects:
    """Measure the effect of every distinct perturbation in every context, within batches.

    Parameters
    ----------
    features
        Cells on the scale of the effects, `(n_cells, n_features)`, dense or sparse (stays sparse).
    dosage
        Dosage of the cells; zero rows are controls.
    batch
        Batch of each cell, integers.
    context
        Context of each cell, positions in `names`.
    names
        Names of the contexts, for messages.

    Returns
    -------
    :class:`ContextEffects`.

    Raises
    ------
    ControlError
        If no context has both controls and perturbed cells.
    SplitError
        If all cells are controls.

    Warns
    -----
    UserWarning
        If a context with perturbed cells has no controls; it is left out.
    """
    is_control = np.diff(dosage.indptr) == 0
    if is_control.all():
        msg = "adata: expected perturbed cells among the training cells, found only controls. Mark some as 'train'."
        raise SplitError(msg)
    treated, compared = np.unique(context[~is_control]), np.unique(context[is_control])
    alone = [names[c] for c in np.setdiff1d(treated, compared)]
    if len(alone) == len(treated):
        msg = (
            "adata: expected control cells among the training cells of a context that has perturbed ones, found none. "
            "Mark some of them as 'train'."
        )
        raise ControlError(msg)
    if alone:
        msg = f"Contexts without training controls have no effects of their own and are left out: {shorten(alone)}."
        warnings.warn(msg, UserWarning, stacklevel=4)
    parts = []
    for c in np.intersect1d(treated, compared):
        rows = np.flatnonzero(context == c)
        found, local = np.unique(batch[rows], return_inverse=True)
        parts.append((int(c), measure_effects(features[rows], dosage[rows], local, len(found))))
    return ContextEffects(
        dosage=sparse.vstack([part.dosage for _, part in parts], format="csr"),
        effects=np.vstack([part.effects for _, part in parts]),
        variance=np.vstack([part.variance for _, part in parts]),
        control_variance=np.vstack([part.control_variance for _, part in parts]),
        control_weight=sparse.block_diag([part.control_weight for _, part in parts]).toarray(),
        n_cells=np.concatenate([part.n_cells for _, part in parts]),
        context=np.concatenate([np.full(len(part.effects), c) for c, part in parts]),
    )
