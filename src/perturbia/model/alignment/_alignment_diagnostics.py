"""How far an alignment by propensity scores can be trusted, perturbation by perturbation."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import shorten
from perturbia.model.alignment._classification_scores import class_auroc, classification_scores, reliability_curve
from perturbia.model.alignment._labelled_cells import folds_of, stratified_split
from perturbia.model.alignment._propensity_training import fit_classifier
from perturbia.model.alignment._registration import ROLES
from perturbia.stats.group_distances import group_distance_tests

if TYPE_CHECKING:
    from perturbia.model.alignment.propensity_aligner import PropensityAligner

__all__ = ["DIFFERENT", "HUB", "batch_leakage", "diagnose", "held_out_reliability"]

#: Received mass, relative to an even share, beyond which a target cell is a hub.
HUB = 10.0
#: False discovery rate below which scores of a perturbation are said to differ between modalities.
DIFFERENT = 0.05
#: Relative energy distance beyond which that is worth a warning; classifiers of unequal skill alone make about 0.03.
LARGE = 0.05
#: Cells that a bin of a reliability curve should have at least.
_CELLS_OF_BIN = 20


def diagnose(model: PropensityAligner, *, key: str, n_permutations: int, max_cells: int, seed: int) -> pd.DataFrame:
    """One row a perturbation; see :meth:`PropensityAligner.diagnose`."""
    labels = model.labels
    names = np.array([*labels, None], dtype=object)
    codes = {role: model._codes_of(role) for role in ROLES}
    scores = {role: model.get_propensity(model.modalities[role]) for role in ROLES}
    counts = {role: np.bincount(one[one >= 0], minlength=len(labels)) for role, one in codes.items()}
    table = pd.DataFrame({f"n_{role}": counts[role] for role in ROLES}, index=pd.Index(labels, name="perturbation"))
    for role in ROLES:
        cells = model._held_out_now(role)
        area = (
            class_auroc(model._own_logits(role)[cells], codes[role][cells], len(labels))
            if len(cells)
            else np.full(len(labels), np.nan)
        )
        table[f"auroc_{role}"] = area
    tests = group_distance_tests(
        scores["source"],
        scores["target"],
        names[codes["source"]],
        names[codes["target"]],
        n_permutations=n_permutations,
        max_cells=max_cells,
        seed=seed,
    )
    table = table.join(tests)
    stored = model.adata.uns.get(key)
    mine = {"kind": "coupling", **model.modalities}
    if isinstance(stored, dict) and {name: stored.get(name) for name in mine} == mine:
        table = table.join(_matches(model, key, codes))
    _warn(model, table)
    return table


def _matches(model: PropensityAligner, key: str, codes: dict[str, np.ndarray]) -> pd.DataFrame:
    """Certainty and hubness of stored matches, and what the solver said."""
    source, target = (model.adata.mod[model.modalities[role]].obs for role in ROLES)
    effective = source[key + _keys.SUFFIX_N_EFFECTIVE].groupby(codes["source"]).median()
    hubness = target[key + _keys.SUFFIX_HUBNESS].groupby(codes["target"]).max()
    solver = model.adata.uns[key]["table"].set_index("perturbation")
    matches = pd.DataFrame(
        {
            "n_effective": effective.reindex(range(len(model.labels))).to_numpy(),
            "max_hubness": hubness.reindex(range(len(model.labels))).to_numpy(),
        },
        index=model.labels,
    )
    columns = [name for name in ("iterations", "marginal_error", "converged", "kept_mass") if name in solver]
    return matches.join(solver[columns])


def _warn(model: PropensityAligner, table: pd.DataFrame) -> None:
    differing = table.index[(table["p_adjusted"] < DIFFERENT) & (table["relative_distance"] > LARGE)].tolist()
    if differing:
        msg = (
            f"diagnose: scores of {len(differing)} of {len(table)} perturbations are distributed differently in the two "
            f"modalities (FDR below {DIFFERENT:g}, relative distance above {LARGE:g}): {shorten(differing, limit=5)}. One modality is noisier, populations "
            "differ, or perturbations act on the assay."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
    if "max_hubness" in table and len(hubs := table.index[table["max_hubness"] > HUB].tolist()):
        msg = f"diagnose: single target cells take more than {HUB:g} times their share in {shorten(hubs, limit=5)}."
        warnings.warn(msg, UserWarning, stacklevel=4)
    scores = model.classification_
    errors = 1 - scores["accuracy"].astype(float)  # type: ignore[index]
    if errors.min() < 0.05 and errors.max() > 4 * max(errors.min(), 1e-3):
        msg = (
            f"diagnose: {errors.idxmin()!r} names the label nearly always, {errors.idxmax()!r} does not. If the labels were "
            "derived from that modality, they hold its noise: use labels that were called from both, or assigned."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)


def held_out_reliability(
    model: PropensityAligner, *, n_bins: int | None = None, temperature: bool = False
) -> pd.DataFrame:
    """Confidence against accuracy of held-out cells of both modalities.

    Parameters
    ----------
    model
        A trained model.
    n_bins
        Bins of a modality; by default as many as have 20 cells, two to ten.
    temperature
        Whether logits are divided by the fitted temperatures.

    Returns
    -------
    Columns `modality`, in the order source, target, and those of :func:`reliability_curve`. A modality of which no cells
    were held out has the curve of all that it was trained on.
    """
    curves = []
    for role in ROLES:
        codes = model._codes_of(role)
        cells = model._held_out_now(role)
        cells = cells if len(cells) else np.flatnonzero(codes >= 0)
        logits = model._own_logits(role)[cells] / (model.temperatures_[role] if temperature else 1.0)
        bins = n_bins or int(np.clip(len(cells) // _CELLS_OF_BIN, 2, 10))
        curve = reliability_curve(logits, codes[cells], n_bins=bins)
        curve.insert(0, "modality", model.modalities[role])
        curves.append(curve)
    return pd.concat(curves, ignore_index=True)


def batch_leakage(model: PropensityAligner, group_key: str, *, n_folds: int, **training: Any) -> pd.DataFrame:
    """Held-out scores under random folds and under folds of whole batches; see :meth:`PropensityAligner.check_batches`."""
    rows = []
    having = [role for role in ROLES if group_key in model._modality(role).obs]
    for role in having or ROLES:  # without any, the first says what is missing
        X, codes = model._features_of(role), model._codes_of(role)
        groups = model._groups_of(role, group_key)
        for name, kept in (("random", None), ("batches", groups)):
            fold = folds_of(codes, n_folds, kept, model.seed)
            logits = np.zeros((len(codes), len(model.labels)), dtype=np.float32)
            for k in range(n_folds):
                classifier = model._new_classifier(role, seed=model.seed + k)
                usable = np.where(fold == k, -1, codes)
                parts = stratified_split(usable, 0.9, np.random.default_rng([model.seed, k]))
                fit_classifier(classifier, X, codes, parts, seed=model.seed + k, **training)
                held_out = np.flatnonzero(fold == k)
                logits[held_out] = classifier.logits_of(X[held_out])
            used = codes >= 0
            rows.append(
                {
                    "modality": model.modalities[role],
                    "folds": name,
                    **classification_scores(logits[used], codes[used], len(model.labels)),
                }
            )
    return pd.DataFrame(rows).set_index(["modality", "folds"])
