"""Measuring what held-out cells show."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import ControlError, LabelError, SplitError, shorten
from perturbia.stats import half_split
from perturbia.tl._evaluation.screen import UNUSED, observed
from perturbia.tl._evaluation.truth import MIN_CONTROLS, Halving, Truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.tl._evaluation.screen import JudgedScreen

__all__ = ["measure_truth"]


def measure_truth(
    screen: JudgedScreen,
    *,
    perturbations: Sequence[str] | None,
    known: pd.DataFrame | None,
    min_cells: int,
    n_repeats: int,
    every_cell: bool = False,
    seed: int,
) -> Truth:
    """Measure the effects of held-out cells.

    Parameters
    ----------
    screen
        The screen.
    perturbations
        Canonical labels to judge; by default all with held-out cells.
    known
        Known effects, perturbations × genes, in place of measured ones.
    min_cells
        Perturbations with fewer held-out cells are left out.
    n_repeats
        Random pairs of halves for ceilings.
    every_cell
        Measure by all cells, those that trained too: what published evaluations do.
    seed
        Seed of halves.

    Returns
    -------
    The truth.

    Raises
    ------
    SplitError
        If no perturbation has enough held-out cells.
    LabelError
        If a wanted perturbation has no held-out cells.
    ControlError
        If a context has no control cells at all.
    """
    min_cells = max(min_cells, 2)  # one cell has no error, and no half
    held_out = np.flatnonzero((screen.part == "test") | (screen.visible & every_cell))
    conditions, left_out = _conditions(screen, held_out, perturbations, min_cells)
    judges = _with_controls(screen, held_out, conditions["context"].unique())
    _check_training_controls(screen)
    repeats: tuple[Halving, ...] = ()
    if known is not None:
        values = _known_rows(known, conditions["perturbation"].tolist(), screen.adata.var_names)
        errors, halves = np.zeros_like(values), (values, values)
    else:
        values, errors = _measured(screen, judges, conditions)
        codes = _condition_codes(screen, conditions)
        halves = tuple(_effects(screen, half, codes, conditions) for half in _halves(screen, judges, seed))  # type: ignore[assignment]
        seeds = np.random.SeedSequence(seed).generate_state(n_repeats)
        repeats = tuple(_halve(screen, judges, codes, conditions, int(one)) for one in seeds)
        conditions["n_unmatched"] = _without_controls(screen, judges, conditions)
    if left_out:
        warnings.warn(
            f"adata: {len(left_out)} perturbations have fewer than {min_cells} held-out cells; they are listed with NaN.",
            RuntimeWarning,
            stacklevel=3,
        )
    if known is None and (n_unmatched := conditions["n_unmatched"]).any():
        warnings.warn(
            f"batch_key: {int((n_unmatched > 0).sum())} perturbations have held-out cells in batches without controls, "
            f"{int(n_unmatched.sum())} in all; they are compared with the controls of all batches.",
            RuntimeWarning,
            stacklevel=3,
        )
    n_targets, seen = screen.members_seen(conditions["perturbation"].tolist())
    conditions["n_targets"], conditions["seen_members"] = n_targets, seen
    used = [screen.is_control[held_out] & (screen.contexts[held_out] == one) for one in set(conditions["context"])]
    shared = every_cell or any(controls.sum() < MIN_CONTROLS for controls in used)
    truth = Truth(
        screen=screen,
        conditions=conditions,
        effects=values,
        standard_errors=errors,
        halves=halves,
        repeats=repeats,
        training=_training_effects(screen, judges, known),
        test=held_out,
        controls_shared=known is None and shared,
        known=known,
        left_out=left_out,
        min_cells=min_cells,
        seed=seed,
    )
    conditions["strength"] = truth.control_distances
    return truth


def _halves(screen: JudgedScreen, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random halves of cells within each perturbation, batch and context."""
    rows = screen.by_name(rows)
    first = half_split(_strata(screen, rows), seed=seed)
    return np.sort(rows[first]), np.sort(rows[~first])


def _halve(screen: JudgedScreen, judges: np.ndarray, codes: np.ndarray, conditions: pd.DataFrame, seed: int) -> Halving:
    halves = _halves(screen, judges, seed)
    quarters = [quarter for half in halves for quarter in _halves(screen, half, seed + 1)]
    rows = screen.by_name(judges)
    labels = pd.Series(screen.labels[rows]) + "\0" + pd.Series(screen.contexts[rows])
    first = half_split(labels.to_numpy(), seed=seed + 2)
    return Halving(
        rows=halves,
        effects=tuple(_effects(screen, half, codes, conditions) for half in halves),  # type: ignore[arg-type]
        quarters=tuple(_effects(screen, quarter, codes, conditions) for quarter in quarters),  # type: ignore[arg-type]
        centroids=np.stack([_trained_against(screen, half)[1].mean(axis=0) for half in halves]),
        populations=(np.sort(rows[first]), np.sort(rows[~first])),
    )


def _conditions(
    screen: JudgedScreen, held_out: np.ndarray, wanted: Sequence[str] | None, min_cells: int
) -> tuple[pd.DataFrame, dict[tuple[str, str], int]]:
    """Pairs of perturbation and context that have test cells, with the number of cells that measure them."""
    pairs = pd.DataFrame({"perturbation": screen.labels, "context": screen.contexts})
    judged = pairs[(screen.part == "test") & ~screen.is_control].drop_duplicates()
    counts = pairs.iloc[held_out].value_counts(sort=False).rename("n_cells").reset_index()
    counts = judged.merge(counts).sort_values(["perturbation", "context"], ignore_index=True)
    if wanted is not None:
        absent = [name for name in wanted if name not in set(counts["perturbation"])]
        if absent or len(wanted) == 0:
            got = f"{absent[:5]} without any" if absent else "none"
            msg = f"perturbations: expected perturbations with held-out cells, got {got}. Leave them out."
            raise LabelError(msg)
        counts = counts[counts["perturbation"].isin(list(wanted))].reset_index(drop=True)
    few = counts["n_cells"] < min_cells
    left_out = {
        (str(name), str(context)): int(n)
        for name, context, n in counts.loc[few, ["perturbation", "context", "n_cells"]].itertuples(index=False)
    }
    kept = counts[~few].reset_index(drop=True)
    if kept.empty:
        msg = f"min_cells: expected perturbations with {min_cells} held-out cells or more, found none. Lower it."
        raise SplitError(msg)
    return kept, left_out


def _with_controls(screen: JudgedScreen, held_out: np.ndarray, contexts: Sequence[str]) -> np.ndarray:
    """Held-out cells, with the controls that models have seen in contexts where too few are held out."""
    rows = [held_out]
    for context in contexts:
        controls = screen.is_control & (screen.contexts == context) & (screen.part != UNUSED)
        if controls.sum() < 2:
            where = f" in context {context!r}" if screen.context_key else ""
            msg = (
                f"adata: expected 2 control cells or more{where}, got {int(controls.sum())}. Effects need them as a "
                "reference: check `control`, or leave these cells out."
            )
            raise ControlError(msg)
        if controls[held_out].sum() < MIN_CONTROLS:
            extra = np.flatnonzero(controls)
            rows.append(extra[~np.isin(extra, held_out)])
    return np.sort(np.concatenate(rows))


def _check_training_controls(screen: JudgedScreen) -> None:
    n_controls = int((screen.is_control & (screen.part == "train")).sum())
    if n_controls < 2:
        msg = (
            f"adata: expected at least 2 control cells that train, got {n_controls}. Effects of training cells, which "
            "scores and baselines rest on, need them: split again with tl.split(control_fraction=...)."
        )
        raise ControlError(msg)


def _without_controls(screen: JudgedScreen, judges: np.ndarray, conditions: pd.DataFrame) -> np.ndarray:
    """Cells of each condition in batches where no control judges: they are compared with the controls of all."""
    strata = pd.Series(screen.strata[judges])
    labels, contexts = screen.labels[judges], screen.contexts[judges]
    alone = ~strata.isin(strata[screen.is_control[judges]]).to_numpy()
    counts = pd.DataFrame({"perturbation": labels[alone], "context": contexts[alone]}).value_counts()
    pairs = pd.MultiIndex.from_frame(conditions[["perturbation", "context"]])
    return counts.reindex(pairs, fill_value=0).to_numpy()


def _strata(screen: JudgedScreen, rows: np.ndarray) -> np.ndarray:
    labels = pd.Series(screen.labels[rows])
    if screen.stratum_key is not None:
        labels = labels + "\0" + pd.Series(screen.strata[rows])
    return labels.to_numpy()


def _measured(screen: JudgedScreen, rows: np.ndarray, conditions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Effects of conditions in these cells and their standard errors; NaN rows where there are too few of one."""
    values = np.full((len(conditions), screen.adata.n_vars), np.nan)
    errors = values.copy()
    for context, group in conditions.groupby("context", sort=False):
        inside = rows[screen.contexts[rows] == context]
        if screen.is_control[inside].sum() < 2:
            continue  # a part of few controls: nothing to measure against
        wanted = screen.is_control[inside] | np.isin(screen.labels[inside], group["perturbation"].tolist())
        measured = observed(screen, inside[wanted], batch_key=screen.batch_key)
        position = {name: i for i, name in enumerate(measured.obs_names)}
        for row, name in zip(group.index, group["perturbation"], strict=True):
            if name in position:
                values[row] = measured.X[position[name]]
                errors[row] = measured.layers["se"][position[name]]
    return values, errors


def _condition_codes(screen: JudgedScreen, conditions: pd.DataFrame) -> np.ndarray:
    """Row of the condition of each cell, -1 for controls, -2 for cells of no condition."""
    pairs = pd.MultiIndex.from_frame(conditions[["perturbation", "context"]])
    codes = pairs.get_indexer(pd.MultiIndex.from_arrays([screen.labels, screen.contexts]))
    return np.where(screen.is_control, -1, np.where(codes < 0, -2, codes))


def _effects(screen: JudgedScreen, rows: np.ndarray, codes: np.ndarray, conditions: pd.DataFrame) -> np.ndarray:
    """Effects of conditions in these cells, as :func:`_measured` has them, without their errors."""
    values = np.full((len(conditions), screen.adata.n_vars), np.nan)
    for context in conditions["context"].unique():
        inside = _enough(rows[screen.contexts[rows] == context], codes)
        if screen.is_control[inside].sum() > 1 and not screen.is_control[inside].all():
            found, effects = screen.mean_effects(inside, codes[inside])
            values[found] = effects.astype(np.float32)  # as tl.effects states them
    return values


def _enough(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Cells of groups that have two of them, and controls."""
    own = codes[rows]
    count = np.bincount(own[own >= 0], minlength=max(own.max(initial=0) + 1, 1))
    return rows[(own == -1) | ((own >= 0) & (count[np.maximum(own, 0)] > 1))]


def _training_effects(
    screen: JudgedScreen, judges: np.ndarray, known: pd.DataFrame | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and effects of training cells, against controls of the same batch and context: seen ones, and the truth's."""
    trained = np.flatnonzero(screen.part == "train")
    names, values = _trained_against(screen, trained)
    if known is not None:
        return names, values, values  # no controls of its own
    return names, values, _trained_against(screen, judges)[1]


def _trained_against(screen: JudgedScreen, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and effects of training cells against the controls among other cells; NaN if there are too few."""
    controls = cells[screen.is_control[cells]]
    codes = screen.label_codes
    rows = _enough(np.union1d(np.flatnonzero((screen.part == "train") & ~screen.is_control), controls), codes)
    treated = rows[codes[rows] >= 0]
    if len(treated) == 0:
        msg = "adata: expected a perturbation of two training cells or more, got none. Mark more cells as 'train'."
        raise SplitError(msg)
    names = screen.labels[treated[np.unique(codes[treated], return_index=True)[1]]]
    if len(controls) < 2:
        return names, np.full((len(names), screen.adata.n_vars), np.nan)
    return names, screen.mean_effects(rows, codes[rows])[1].astype(np.float32).astype(np.float64)


def _known_rows(known: pd.DataFrame, names: list[str], genes: pd.Index) -> np.ndarray:
    absent = [name for name in names if name not in known.index]
    lacking = [gene for gene in genes if gene not in set(known.columns)]
    if absent or lacking or not known.index.is_unique or not known.columns.is_unique:
        what = f"without {shorten(absent or lacking, limit=3)}" if absent or lacking else "with some twice"
        msg = f"truth: expected one row for every judged perturbation and a column for every gene, got {known.shape} {what}."
        raise LabelError(msg)
    rows = known.loc[names, list(genes)].to_numpy(dtype=np.float64)
    if not np.isfinite(rows).all():
        broken = [name for name, row in zip(names, rows, strict=True) if not np.isfinite(row).all()]
        msg = f"truth: expected finite effects, got NaN or infinity for {shorten(broken, limit=3)}. Leave them out."
        raise LabelError(msg)
    return rows
