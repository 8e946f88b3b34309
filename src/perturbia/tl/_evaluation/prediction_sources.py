"""From whatever was given to a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from perturbia import _keys
from perturbia.errors import UnsupportedQuery
from perturbia.tl._evaluation.given_predictions import from_anndata, from_table
from perturbia.tl._evaluation.model_predictions import check_unseen, from_effects_of, from_protocol

if TYPE_CHECKING:
    from perturbia.tl._evaluation.predictions import Prediction, Role
    from perturbia.tl._evaluation.truth import Truth

    PredictionKind = Literal["cells", "means", "effects"]

__all__ = ["predict_from"]


def predict_from(
    source: Any,
    truth: Truth,
    *,
    name: str,
    role: Role,
    kind: PredictionKind | None = None,
    scale: str | None = None,
    label_key: str = _keys.OBS_PERTURBATION,
    seed: int = 0,
) -> Prediction:
    """Ask a model, or read an AnnData or a table of effects.

    Parameters
    ----------
    source
        A trained model; or AnnData of cells, means or effects; or a table of effects, perturbations × genes.
    truth
        The judged conditions.
    name, role
        How to list it.
    kind, scale
        What an AnnData holds that does not say so itself.
    label_key
        Column of its `obs` with the perturbation of each row.
    seed
        Seed of draws.

    Returns
    -------
    The prediction.

    Raises
    ------
    TypeError
        If it is nothing of that.
    LabelError, FeatureMismatch, ScaleError
        If perturbations or genes are missing, or the scale is not known or another one.
    LeakageError
        If the model has trained on held-out cells.
    UnsupportedQuery
        If the model can not answer.
    """
    from anndata import AnnData

    if isinstance(source, pd.DataFrame):
        return from_table(source, truth, name=name, role=role)
    if isinstance(source, AnnData):
        return from_anndata(source, truth, name=name, role=role, kind=kind, scale=scale, label_key=label_key)
    if not (hasattr(source, "estimate_ate") or all(hasattr(source, verb) for verb in ("encode", "perturb", "decode"))):
        msg = (
            f"model: expected a trained model, AnnData or a table of effects, got {type(source).__name__}. Models have "
            "estimate_ate, or encode, perturb and decode."
        )
        raise TypeError(msg)
    if isinstance(source, type):
        msg = f"model: expected a trained model, got the class {source.__name__}. Make one of it and train it."
        raise TypeError(msg)
    known = check_unseen(source, truth, name)
    read = from_effects_of if hasattr(source, "estimate_ate") else from_protocol
    try:
        prediction = read(source, truth, name=name, role=role, seed=seed)
    except UnsupportedQuery as error:
        msg = f"{name}: {error}"
        raise UnsupportedQuery(msg) from error
    prediction.training_known = known
    return prediction
