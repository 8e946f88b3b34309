"""The tables of the demo: `tl.evaluate`, and the measures of it that are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbia.tl import evaluate

if TYPE_CHECKING:
    import pandas as pd

    from perturbia.demo.screen import Screen
    from perturbia.model import SAMSVAE
    from perturbia.model.base import PerturbationModel
    from perturbia.tl import EvaluationResult

__all__ = ["COMBINED", "MODEL", "SEEN", "UNSEEN", "evaluate_seen", "ranked", "register", "unranked", "wide"]

MODEL = "SAMS-VAE"
COMBINED = "SAMS-VAE + shrunken residual"
# shown measures under short names, in the order of the columns
UNSEEN = {
    "correlation_all": "r",
    "r2_all": "R2",
    "top20_all": "top-20 r",
    "correlation": "r each",
    "correlation_systema": "r centroid",
    "retrieval_cosine": "retrieval",
}
SEEN = {**UNSEEN, "edistance": "e-distance"}


def register(model_class: type[PerturbationModel], screen: Screen) -> None:
    """Register the screen for a model class."""
    model_class.setup_anndata(screen.adata, layer=screen.layer, batch_key=screen.batch_key, **screen.labels)


def evaluate_seen(model: SAMSVAE, screen: Screen, *, seed: int) -> EvaluationResult:
    """Judge the model and every baseline by the held-out cells of perturbations that were seen.

    Parameters
    ----------
    model
        The trained model.
    screen
        The screen, with its split.
    seed
        Seed of draws and halves.

    Returns
    -------
    The result; it holds the model twice, as it is and with the shrunken residual of its training cells.
    """
    combined = model.estimate_ate(combine="shrunk_residual", seed=seed)
    return evaluate({MODEL: model, COMBINED: combined}, screen.adata, protocol=["core"], seed=seed)


def ranked(result: EvaluationResult) -> list[str]:
    """Baselines of the result, in its order."""
    return result.names("baseline")


def unranked(result: EvaluationResult) -> list[str]:
    """Rows that are no methods."""
    return result.names("reference", "repeat", "ceiling")


def wide(result: EvaluationResult, columns: dict[str, str]) -> pd.DataFrame:
    """Methods × shown measures; rows without any score are left out.

    Parameters
    ----------
    result
        The result.
    columns
        Short name of each measure.

    Returns
    -------
    The table.
    """
    table = result.summary(metrics=list(columns))["value"][list(columns)]
    return table.rename(columns=columns).rename_axis(None).rename_axis(columns=None).dropna(how="all")
