"""Judging predictions by held-out cells, beside every trivial baseline and the noise of the data."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from perturbia import _keys
from perturbia.errors import UnsupportedQuery, shorten
from perturbia.stats._settings import check_positive_integer, check_seed
from perturbia.tl._evaluation.ceiling import CEILING, REPEAT
from perturbia.tl._evaluation.long_table import describe_measures, score_table
from perturbia.tl._evaluation.measurement import measure_truth
from perturbia.tl._evaluation.model_predictions import fit_baseline
from perturbia.tl._evaluation.prediction_sources import predict_from
from perturbia.tl._evaluation.protocols import read_protocol
from perturbia.tl._evaluation.provenance import as_effects, describe_run, observed_effects
from perturbia.tl._evaluation.registration import Registration
from perturbia.tl._evaluation.screen import read_screen
from perturbia.tl.evaluation_result import EvaluationResult
from perturbia.tl.split_checking import check_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from perturbia.model.base._features import Scale
    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.screen import JudgedScreen
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["evaluate"]

logger = logging.getLogger(__name__)

BASELINES = (
    "NoChange",
    "Mean",
    "MeanSameOrder",
    "Empirical",
    "JamesStein",
    "Additive",
    "MatchingMean",
    "MaxEffect",
    "Ridge",
    "LowRank",
    "LinearPCA",
    "Nearest",
    "ContextMean",
)
N_HALVINGS = 5


def evaluate(
    model: Any,
    adata: AnnData | None = None,
    *,
    protocol: str | Sequence[str] = "core",
    baselines: Literal["auto"] | Sequence[str] | Mapping[str, Any] | None = "auto",
    references: Mapping[str, Any] | None = None,
    truth: pd.DataFrame | AnnData | None = None,
    perturbations: Sequence[str] | None = None,
    split_key: str = _keys.OBS_SPLIT,
    allow_seen: bool | None = None,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    sep: str | None = None,
    dose_key: str | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    context_key: str | None = None,
    scale: Scale | None = None,
    prediction_kind: Literal["cells", "means", "effects"] | None = None,
    prediction_scale: str | None = None,
    min_cells: int = 8,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> EvaluationResult:
    """Judge a model or a prediction by held-out cells, beside the trivial baselines and what noise allows.

    Effects of the cells marked ``test`` are measured against control cells that no model saw, where the split held some
    out, in the same batches. The model is asked for its effects and cells; every baseline that can answer is fitted to
    the training cells and judged alike; and halves of the held-out cells say what a second experiment and the true effects
    would score.

    Parameters
    ----------
    model
        A trained model of Perturbia; anything with `encode`, `perturb` and `decode`; a prediction, as AnnData of cells,
        of means (one row a perturbation) or of effects; a table of effects, perturbations × genes; or a mapping of names
        to several of them.
    adata
        Data with `obs[split_key]`; by default the data of the model. Not written to.
    protocol
        ``"core"``, ``"sams-vae"``, ``"systema"``, ``"cell-eval"``, ``"vcc"`` (its three scores of the Virtual Cell
        Challenge), ``"perturbench"``, or a list of protocols and names of measures, such as ``["core", "top50"]``;
        `metrics` of the result describes them.
    baselines
        ``"auto"`` fits every baseline of :mod:`perturbia.model` that can answer; or names of some; or fitted models by
        name; or None, for a table without any.
    references
        Further predictions by name that are listed but not ranked, such as an oracle.
    truth
        Effects known exactly, as from a simulation, perturbations × genes under canonical labels, in place of measured
        ones.
    perturbations
        What to judge, by default every perturbation with held-out cells.
    split_key
        Column of `obs` with ``train``, ``valid`` and ``test``.
    allow_seen
        Whether perturbations may both train and judge. None allows it if :func:`split` made the split along ``"random"``.
    perturbation_key, control, sep, dose_key, layer, batch_key, scale
        Where labels and features are; None reads the registration of the model, then what :func:`split` wrote, then the
        defaults of :func:`perturbia.tl.effects`. If any of the first four is given, labels are read by these alone.
    context_key
        Column of `obs` with contexts, such as cell lines: each pair of perturbation and context is judged for itself,
        against the controls of its context. None reads what :func:`split` wrote along ``"context"``.
    prediction_kind, prediction_scale
        What AnnData predictions hold, unless they say so in `uns["perturbia"]`.
    min_cells
        Perturbations with fewer held-out cells are listed with NaN instead of being judged.
    n_resamples, confidence
        Bootstrap over perturbations.
    seed
        Seed of halves, draws and resamples.
    progress
        Show a progress bar.

    Returns
    -------
    :class:`EvaluationResult`.

    Raises
    ------
    LeakageError
        If perturbations train and judge although the split should hold them out, the split was changed since it was made,
        or the model has seen test cells.
    SplitError, LabelError, ControlError, ScaleError, FeatureMismatch
        If split, labels, features or predictions are missing or do not fit.
    UnsupportedQuery
        If the model can not answer for a judged perturbation.
    ValueError, TypeError
        If an argument is none of those above.

    Notes
    -----
    A model with `estimate_ate` is judged by the effects it states. The mean of its predicted cells against *observed*
    controls is judged beside that (``correlation_cells``), and distances between populations read cells: predicted
    controls never serve as a reference.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=6, n_genes=30, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Ridge(adata)
    >>> model.train()
    >>> result = pb.tl.evaluate(model, adata, baselines=["NoChange", "Mean", "Additive"])
    >>> list(result.summary()["value"].index[:4])
    ['Ridge', 'NoChange', 'Mean', 'Additive']
    """
    chosen = read_protocol(protocol)
    _check_numbers(min_cells, n_resamples, confidence, seed)
    models, references = _named(model), dict(references or {})
    _check_names(models, references, baselines)
    if adata is None:
        adata = next((one.adata for one in models.values() if getattr(one, "adata", None) is not None), None)
        if adata is None:
            msg = "adata: expected data with held-out cells, got none, and the model holds none. Pass them."
            raise ValueError(msg)
    where = Registration(perturbation_key, control, sep, dose_key, layer, batch_key, context_key, scale)
    screen = read_screen(adata, where, models=list(models.values()), split_key=split_key)
    screen.check_leakage(allow_seen=allow_seen)
    if "guarantee" in screen.split and not allow_seen:
        check_split(adata, key=split_key)
    wanted = [perturbations] if isinstance(perturbations, str) else perturbations
    judged = measure_truth(
        screen,
        perturbations=None if wanted is None else [screen.canonical(str(one)) for one in wanted],
        known=_known_effects(truth, screen),
        min_cells=min_cells,
        n_repeats=N_HALVINGS,
        every_cell=chosen.every_cell,
        seed=seed,
    )
    options: dict[str, Any] = {
        "kind": prediction_kind,
        "scale": prediction_scale,
        "label_key": perturbation_key or _keys.OBS_PERTURBATION,
        "seed": seed,
    }
    predictions = [predict_from(one, judged, name=name, role="model", **options) for name, one in models.items()]
    fitted, left_out = _fit_baselines(baselines, judged, taken=set(models), progress=progress)
    predictions += fitted
    predictions += [
        predict_from(one, judged, name=name, role="reference", **options) for name, one in references.items()
    ]
    measures = chosen.resolved()
    table = score_table(predictions, measures, judged, n_resamples, confidence, seed, progress=progress)
    return EvaluationResult(
        table=table,
        metrics=describe_measures(measures),
        effects={one.name: as_effects(one.effects, judged, one.name) for one in predictions},
        observed=observed_effects(judged),
        info=describe_run(chosen, judged, predictions, left_out, split_key, n_resamples, confidence, seed),
    )


def _check_numbers(min_cells: int, n_resamples: int, confidence: float, seed: int) -> None:
    check_positive_integer("min_cells", min_cells)
    check_positive_integer("n_resamples", n_resamples)
    if not 0 < confidence < 1:
        msg = f"confidence: expected a share between 0 and 1, got {confidence!r}."
        raise ValueError(msg)
    check_seed(seed)


def _check_names(models: Mapping[str, Any], references: Mapping[str, Any], baselines: Any) -> None:
    """Every method has a name of its own, and the names of baselines mean the baselines."""
    given = set(baselines) if hasattr(baselines, "keys") else set()
    for name, one in models.items():
        if name in given or (baselines is not None and name in BASELINES and type(one).__name__ != name):
            msg = f"model: expected another name than {name!r}, which is that of a baseline. Rename it."
            raise ValueError(msg)
    for argument, names, others in (
        ("model", models, {REPEAT, CEILING}),
        ("references", references, {REPEAT, CEILING, *BASELINES, *models, *given}),
        ("baselines", given, {REPEAT, CEILING}),
    ):
        taken = sorted(set(names) & others)
        if taken:
            msg = f"{argument}: expected names that are not taken, got {taken[0]!r}. Rename it."
            raise ValueError(msg)


def _known_effects(truth: Any, screen: JudgedScreen) -> pd.DataFrame | None:
    """Known effects as a table under canonical labels."""
    if truth is None:
        return None
    table = truth.to_df() if hasattr(truth, "to_df") else truth
    if not isinstance(table, pd.DataFrame):
        msg = f"truth: expected a table or AnnData of effects, perturbations × genes, got {type(truth).__name__}."
        raise TypeError(msg)
    return table.set_axis([screen.canonical(str(label)) for label in table.index], axis=0)


def _named(model: Any) -> dict[str, Any]:
    from collections.abc import Mapping

    if isinstance(model, Mapping):
        if not model:
            msg = "model: expected at least one model or prediction, got an empty mapping."
            raise ValueError(msg)
        return {str(name): one for name, one in model.items()}
    metadata = getattr(model, "uns", {}) if not hasattr(model, "estimate_ate") else {}
    name = metadata.get(_keys.UNS_RESULT, {}).get("model") if metadata else None
    if name is None:
        name = "prediction" if hasattr(model, "obs") or isinstance(model, pd.DataFrame) else type(model).__name__
    return {str(name): model}


def _fit_baselines(
    baselines: Literal["auto"] | Sequence[str] | Mapping[str, Any] | None,
    judged: Truth,
    *,
    taken: set[str],
    progress: bool,
) -> tuple[list[Prediction], dict[str, str]]:
    """Baselines that can answer, and why the others can not."""
    from collections.abc import Mapping

    from rich.progress import track

    if baselines is None:
        return [], {}
    if isinstance(baselines, str) and baselines != "auto":
        baselines = [baselines]
    given = dict(baselines) if isinstance(baselines, Mapping) else {}
    names = list(given) or (list(BASELINES) if baselines == "auto" else list(baselines))
    unknown = [name for name in names if name not in BASELINES and name not in given]
    if unknown:
        msg = f"baselines: expected names among {', '.join(BASELINES)}, got {shorten(unknown)}. Pass models by name."
        raise ValueError(msg)
    found, left_out = [], {}
    for name in track(names, "Baselines", disable=not progress, transient=True):
        if name in taken:
            continue  # it is judged as the model
        try:
            fitted = given[name] if name in given else fit_baseline(name, judged)
            found.append(predict_from(fitted, judged, name=name, role="baseline"))
        except UnsupportedQuery as error:
            left_out[name] = str(error)
            logger.info("%s is left out: %s", name, error)
    return found, left_out
