"""What a result says of where it comes from: effects as AnnData, and how they were judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.tl._split_guarantee import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.protocols import Protocol
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["as_effects", "describe_run", "observed_effects"]


def as_effects(values: np.ndarray, judged: Truth, name: str) -> AnnData:
    """Effects of the judged conditions as AnnData, under the name of a method."""
    from anndata import AnnData as New

    from perturbia.model.base._result import stamp

    obs = judged.conditions.copy()
    plain = obs["context"].eq("").all()
    obs.index = pd.Index(obs["perturbation"] if plain else obs["perturbation"] + " in " + obs["context"], name=None)
    obs.insert(0, _keys.OBS_PERTURBATION, obs.pop("perturbation"))
    var = pd.DataFrame(index=judged.screen.adata.var_names.copy())
    out = New(values.astype(np.float32), obs=obs, var=var)
    return stamp(out, kind="effect", ur_id=name, model=name, scale=judged.screen.scale)


def observed_effects(judged: Truth) -> AnnData:
    """Effects of the held-out cells, with standard errors."""
    out = as_effects(judged.effects, judged, "observed")
    out.layers[_keys.LAYER_SE] = judged.standard_errors.astype(np.float32)
    return out


def describe_run(
    chosen: Protocol,
    judged: Truth,
    predictions: Sequence[Prediction],
    left_out: dict[str, str],
    split_key: str,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Protocol, split, sizes, seed and version, and what was left out: plain types."""
    from importlib.metadata import PackageNotFoundError, version

    screen = judged.screen
    try:
        installed = version("perturbia")
    except PackageNotFoundError:
        installed = "source tree"
    part = pd.Categorical(screen.part, categories=list(_keys.SPLIT_VALUES)).codes
    n_unmatched = judged.conditions.get("n_unmatched", pd.Series(dtype=int))
    return {
        "protocol": chosen.name,
        "note": chosen.note,
        "axis": screen.axis,
        "tests": str(screen.split.get("tests", "")),
        "split_key": split_key,
        "split_digest": digest_of(screen.adata.obs_names, part),
        "n_perturbations": int(judged.conditions["perturbation"].nunique()),
        "n_contexts": int(judged.conditions["context"].nunique()) if screen.context_key else 0,
        "n_genes": int(screen.adata.n_vars),
        "n_train": int((screen.part == "train").sum()),
        "n_test": int((screen.part == "test").sum()),
        "n_test_controls": int((screen.is_control & (screen.part == "test")).sum()),
        "n_judging_cells": int(judged.conditions["n_cells"].sum()),
        "truth": "known" if judged.exact else "every cell" if chosen.every_cell else "held-out cells",
        "controls_shared": bool(judged.controls_shared),
        "n_unmatched_cells": int(n_unmatched.sum()),
        "n_unmatched_perturbations": int((n_unmatched > 0).sum()),
        "n_unmatched_training_cells": screen.n_unmatched_training,
        "too_few_cells": {f"{a} in {b}" if b else a: int(n) for (a, b), n in judged.left_out.items()},
        "left_out": left_out,
        "training_unknown": [one.name for one in predictions if not one.training_known],
        "scale": screen.scale,
        "n_resamples": int(n_resamples),
        "confidence": float(confidence),
        "seed": int(seed),
        "version": installed,
    }
