"""Judging predictions by held-out cells, beside every trivial baseline and the noise of the data."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import UnsupportedQuery, shorten
from perturbia.model.base._arguments import check_positive_integer
from perturbia.perturbation import as_perturbation
from perturbia.tl._evaluation.ceiling import CEILING, REPEAT, ceilings
from perturbia.tl._evaluation.flattened import flattened_intervals, moments_of
from perturbia.tl._evaluation.predictions import Prediction, fit_baseline, predict_from
from perturbia.tl._evaluation.protocols import read_protocol
from perturbia.tl._evaluation.screen import Registration, read_screen
from perturbia.tl._evaluation.strata import strata_of
from perturbia.tl._evaluation.truth import Truth, measure_truth
from perturbia.tl.evaluation_result import EvaluationResult
from perturbia.tl.split_checking import check_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from perturbia.model.base._features import Scale
    from perturbia.tl._evaluation.measure import Measure
    from perturbia.tl._evaluation.protocols import Protocol

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
    truth: pd.DataFrame | None = None,
    perturbations: Sequence[str] | None = None,
    split_key: str = _keys.OBS_SPLIT,
    allow_seen: bool | None = None,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    sep: str | None = None,
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
        ``"core"``, ``"sams-vae"``, ``"systema"``, ``"cell-eval"``, ``"perturbench"``, or a list of protocols and names of
        measures; :attr:`EvaluationResult.metrics` describes them.
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
    perturbation_key, control, sep, layer, batch_key, scale
        Where labels and features are; None reads the registration of the model, then the defaults of
        :func:`perturbia.tl.effects`.
    context_key
        Column of `obs` with contexts, such as cell lines: each pair of perturbation and context is judged for itself,
        against the controls of its context.
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
    check_positive_integer("min_cells", min_cells)
    check_positive_integer("n_resamples", n_resamples)
    if not 0 < confidence < 1:
        msg = f"confidence: expected a share between 0 and 1, got {confidence!r}."
        raise ValueError(msg)
    models = _named(model)
    if adata is None:
        adata = next((one.adata for one in models.values() if getattr(one, "adata", None) is not None), None)
        if adata is None:
            msg = "adata: expected data with held-out cells, got none, and the model holds none. Pass them."
            raise ValueError(msg)
    where = Registration(perturbation_key, control, sep, layer, batch_key, context_key, scale)
    screen = read_screen(adata, where, models=list(models.values()), split_key=split_key)
    screen.check_leakage(allow_seen=allow_seen)
    if "guarantee" in screen.split and not allow_seen:
        check_split(adata, key=split_key)
    judged = measure_truth(
        screen,
        perturbations=None if perturbations is None else [str(as_perturbation(one)) for one in perturbations],
        known=truth,
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
        predict_from(one, judged, name=name, role="reference", **options) for name, one in (references or {}).items()
    ]
    measures = chosen.resolved()
    table = _score(predictions, measures, judged, n_resamples, confidence, seed, progress=progress)
    return EvaluationResult(
        table=table,
        metrics=_describe(measures),
        effects={one.name: _effects_of(one, judged) for one in predictions},
        observed=_observed(judged),
        info=_info(chosen, judged, left_out, split_key, n_resamples, confidence, seed),
    )


def _named(model: Any) -> dict[str, Any]:
    from collections.abc import Mapping

    if isinstance(model, Mapping):
        if not model:
            msg = "model: expected at least one model or prediction, got an empty mapping."
            raise ValueError(msg)
        reserved = [name for name in model if name in {REPEAT, CEILING}]
        if reserved:
            msg = f"model: expected another name than {reserved[0]!r}, which names what noise allows. Rename it."
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


def _score(
    predictions: Sequence[Prediction],
    measures: Sequence[Measure],
    judged: Truth,
    n_resamples: int,
    confidence: float,
    seed: int,
    *,
    progress: bool,
) -> pd.DataFrame:
    """The long table."""
    from rich.progress import track

    scores: list[tuple[str, str, Measure, Any, tuple[float, float]]] = []
    nothing = (np.nan, np.nan)
    moments = [moments_of(judged.effects, one.effects) for one in predictions]
    intervals = {
        kind: flattened_intervals(moments, kind=kind, n_resamples=n_resamples, confidence=confidence, seed=seed)
        for kind in {measure.flattened for measure in measures} - {""}
    }
    for i, one in enumerate(track(predictions, "Scores", disable=not progress, transient=True)):
        for measure in measures:
            interval = intervals[measure.flattened][i] if measure.flattened else nothing
            scores.append((one.name, one.role, measure, measure.score(judged, one), interval))
    for measure in track(measures, "Ceilings", disable=not progress, transient=True):
        repeat, ceiling = ceilings(measure, judged)
        scores.append((REPEAT, "repeat", measure, repeat, nothing))
        scores.append((CEILING, "ceiling", measure, ceiling, nothing))
    order = {name: i for i, name in enumerate(dict.fromkeys(score[0] for score in scores))}
    scores.sort(key=lambda score: order[score[0]])
    return _long_table(scores, judged)


def _long_table(scores: Sequence[tuple[str, str, Measure, Any, tuple[float, float]]], judged: Truth) -> pd.DataFrame:
    """One row for each method, measure and condition."""
    conditions, whole = _conditions(judged), _whole(judged)
    blocks = [conditions if measure.level == "perturbation" else whole for _, _, measure, _, _ in scores]
    sizes = [len(block) for block in blocks]
    n_few = len(conditions) - len(judged)
    values = [
        np.concatenate([value, np.full(n_few, np.nan)]) if measure.level == "perturbation" else [value]
        for _, _, measure, value, _ in scores
    ]

    def repeated(column: Sequence[Any]) -> np.ndarray:
        return np.repeat(np.array(column), sizes)

    out = pd.concat(blocks, ignore_index=True)
    head = {
        "model": repeated([score[0] for score in scores]),
        "axis": judged.screen.axis,
        "role": repeated([score[1] for score in scores]),
        "metric": repeated([score[2].name for score in scores]),
        "reference": repeated([score[2].reference for score in scores]),
        "perturbation": out["perturbation"],
        "context": out["context"],
        "value": np.concatenate(values).astype(float),
        "low": repeated([score[4][0] for score in scores]),
        "high": repeated([score[4][1] for score in scores]),
    }
    rest = out.drop(columns=["perturbation", "context"])
    return pd.concat([pd.DataFrame(head), rest], axis=1)


def _conditions(judged: Truth) -> pd.DataFrame:
    """The judged conditions, and after them those with too few cells: listed, without a score."""
    table = judged.conditions.copy()
    table["stratum"] = strata_of(table["strength"].to_numpy())
    few = pd.DataFrame(
        [
            {"perturbation": label, "context": context, "n_cells": n, "strength": np.nan, "stratum": ""}
            for (label, context), n in judged.left_out.items()
        ]
    )
    table = pd.concat([table, few], ignore_index=True) if len(few) else table
    integers = dict.fromkeys(("n_cells", "n_targets", "seen_members"), "Int64")
    return table.astype(integers)[["perturbation", "context", *integers, "strength", "stratum"]]


def _whole(judged: Truth) -> pd.DataFrame:
    """The row of scores over all conditions."""
    row = {
        "perturbation": "",
        "context": "",
        "n_cells": int(judged.conditions["n_cells"].sum()),
        "n_targets": pd.NA,
        "seen_members": pd.NA,
        "strength": np.nan,
        "stratum": "",
    }
    return pd.DataFrame([row]).astype({"n_cells": "Int64", "n_targets": "Int64", "seen_members": "Int64"})


def _describe(measures: Sequence[Measure]) -> pd.DataFrame:
    fields = ("title", "description", "level", "reads", "higher_is_better", "best", "chance", "unit", "reference")
    rows = {measure.name: [getattr(measure, name) for name in fields] for measure in measures}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(fields))


def _as_effects(values: np.ndarray, judged: Truth, name: str) -> AnnData:
    from anndata import AnnData as New

    from perturbia.model.base._result import stamp

    obs = judged.conditions.copy()
    plain = obs["context"].eq("").all()
    obs.index = pd.Index(obs["perturbation"] if plain else obs["perturbation"] + " in " + obs["context"], name=None)
    obs.insert(0, _keys.OBS_PERTURBATION, obs.pop("perturbation"))
    var = pd.DataFrame(index=judged.screen.adata.var_names.copy())
    out = New(values.astype(np.float32), obs=obs, var=var)
    return stamp(out, kind="effect", ur_id=name, model=name, scale=judged.screen.scale)


def _effects_of(prediction: Prediction, judged: Truth) -> AnnData:
    return _as_effects(prediction.effects, judged, prediction.name)


def _observed(judged: Truth) -> AnnData:
    out = _as_effects(judged.effects, judged, "observed")
    out.layers[_keys.LAYER_SE] = judged.standard_errors.astype(np.float32)
    return out


def _info(
    chosen: Protocol,
    judged: Truth,
    left_out: dict[str, str],
    split_key: str,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    screen = judged.screen
    try:
        installed = version("perturbia")
    except PackageNotFoundError:
        installed = "source tree"
    digest = hashlib.sha256(
        "\n".join(f"{a}\t{b}" for a, b in zip(screen.adata.obs_names, screen.part, strict=True)).encode()
    )
    return {
        "protocol": chosen.name,
        "note": chosen.note,
        "axis": screen.axis,
        "tests": str(screen.split.get("tests", "")),
        "split_key": split_key,
        "split_digest": digest.hexdigest()[:16],
        "n_perturbations": int(judged.conditions["perturbation"].nunique()),
        "n_contexts": int(judged.conditions["context"].nunique()) if screen.context_key else 0,
        "n_genes": int(screen.adata.n_vars),
        "n_train": int((screen.part == "train").sum()),
        "n_test": int((screen.part == "test").sum()),
        "n_judging_cells": int(judged.conditions["n_cells"].sum()),
        "truth": "known" if judged.exact else "every cell" if chosen.every_cell else "held-out cells",
        "controls_shared": bool(judged.controls_shared),
        "too_few_cells": {f"{a} in {b}" if b else a: int(n) for (a, b), n in judged.left_out.items()},
        "left_out": left_out,
        "scale": screen.scale,
        "n_resamples": int(n_resamples),
        "confidence": float(confidence),
        "seed": int(seed),
        "version": installed,
    }
