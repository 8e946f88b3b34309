"""What held-out cells show: effects, halves of the cells for ceilings and gene choice, strength, and cells themselves."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import false_discovery_control

from perturbia.errors import ControlError, LabelError, SplitError
from perturbia.stats import energy_distance, half_split
from perturbia.tl._evaluation.screen import LABEL
from perturbia.tl.observed_effects import effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.tl._evaluation.screen import JudgedScreen

__all__ = ["Basis", "Truth", "measure_truth"]

MIN_CONTROLS = 10
MAX_CELLS = 300
N_FIT = 5000
N_COMPONENTS = 50
FDR = 0.05


@dataclass(frozen=True)
class Basis:
    """Principal components of training cells, in which populations are compared.

    Attributes
    ----------
    components, mean
        float32 `(n_genes, n_components)` and `(n_genes,)`.
    """

    components: np.ndarray
    mean: np.ndarray

    def project(self, cells: np.ndarray) -> np.ndarray:
        """Coordinates of cells on the scale of effects, float32."""
        return ((cells - self.mean) @ self.components).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Halving:
    """Held-out cells, halved at random within each perturbation and batch, and halved again.

    Attributes
    ----------
    rows
        Positions of the cells of both halves.
    effects
        What each half shows, float64 `(n_conditions, n_genes)`; NaN rows where it has too few cells.
    quarters
        The same of the two halves of the first half, and of one half of the second.
    """

    rows: tuple[np.ndarray, np.ndarray]
    effects: tuple[np.ndarray, np.ndarray]
    quarters: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """What held-out cells show of the judged conditions, one row for each pair of perturbation and context.

    Attributes
    ----------
    screen
        The screen.
    conditions
        `perturbation`, `context`, `n_cells`, `n_targets`, `seen_members`, float `strength`.
    effects, standard_errors
        float64 `(n_conditions, n_genes)`; standard errors are zero where the truth is known exactly.
    halves
        The same effects from two disjoint halves of the held-out cells; NaN rows where a half has too few.
    repeats
        Further random halvings, for ceilings: see :class:`Halving`.
    training
        Effects that the training cells show, and their labels.
    test
        Positions of held-out cells.
    controls_shared
        Whether the truth had to use control cells that models have seen, because none are held out.
    known
        Effects that were given, as by a simulation, instead of measured: perturbations × genes; None otherwise.
    left_out
        Perturbations with too few held-out cells, and how many they have.
    min_cells
        Cells that an effect needs.
    seed
        Seed of halves and subsamples.
    """

    screen: JudgedScreen
    conditions: pd.DataFrame
    effects: np.ndarray
    standard_errors: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    repeats: tuple[Halving, ...]
    training: tuple[np.ndarray, np.ndarray]
    test: np.ndarray
    controls_shared: bool
    known: pd.DataFrame | None
    left_out: dict[tuple[str, str], int]
    min_cells: int
    seed: int

    def __len__(self) -> int:
        return len(self.conditions)

    @property
    def exact(self) -> bool:
        """Whether the effects are known, not measured."""
        return self.known is not None

    @property
    def perturbations(self) -> list[str]:
        """Perturbation of each condition."""
        return self.conditions["perturbation"].tolist()

    @property
    def contexts(self) -> list[str]:
        """Context of each condition."""
        return self.conditions["context"].tolist()

    @cached_property
    def centroid(self) -> np.ndarray:
        """Mean effect of the perturbations that were seen: Systema's reference, relative to control."""
        return self.training[1].mean(axis=0)

    @cached_property
    def members(self) -> tuple[np.ndarray, np.ndarray]:
        """Single perturbations that cells show which no method is fitted to, and their effects.

        Fitted cells would not do: a prediction that makes less of the members than their sum would then be right about
        their noise.
        """
        if self.known is not None:
            return np.asarray(self.known.index.astype(str)), self.known.to_numpy(dtype=np.float64)
        screen = self.screen
        alone = (np.diff(screen.dosage.indptr) == 1) & (screen.part == "valid")
        controls = screen.is_control & ((screen.part == "valid") | (screen.part == "test"))
        names, counts = np.unique(screen.labels[alone], return_counts=True)
        enough = alone & np.isin(screen.labels, names[counts >= self.min_cells])
        if not enough.any() or controls.sum() < MIN_CONTROLS:
            return np.zeros(0, dtype=object), np.zeros(self.effects[:0].shape)
        measured = observed(screen, np.flatnonzero(enough | controls), batch_key=screen.stratum_key)
        return np.asarray(measured.obs_names), np.asarray(measured.X, dtype=np.float64)

    @cached_property
    def significant(self) -> np.ndarray:
        """Genes whose measured effect differs from zero at a false discovery rate of 5 % within its condition."""
        if self.exact:
            return self.effects != 0
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(self.standard_errors > 0, self.effects / self.standard_errors, 0.0)
        p_values = 2 * ndtr(-np.abs(z))
        return false_discovery_control(p_values, axis=1) < FDR

    @cached_property
    def basis(self) -> Basis:
        """Principal components of training cells alone."""
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(self.screen.by_name(np.flatnonzero(self.screen.part == "train")))[:N_FIT]
        dense = self.screen.cells(rows)
        n_components = min(N_COMPONENTS, dense.shape[0] - 1, dense.shape[1])
        pca = PCA(n_components=n_components, svd_solver="covariance_eigh").fit(dense)
        return Basis(pca.components_.T.astype(np.float32), pca.mean_.astype(np.float32))

    @cached_property
    def populations(self) -> list[np.ndarray]:
        """Positions of at most 300 held-out cells of each condition, in random order."""
        rng = np.random.default_rng(self.seed)
        labels, contexts = self.screen.labels[self.test], self.screen.contexts[self.test]
        found = []
        for name, context in zip(self.perturbations, self.contexts, strict=True):
            rows = self.test[(labels == name) & (contexts == context)]
            found.append(rng.permutation(self.screen.by_name(rows))[:MAX_CELLS])
        return found

    @cached_property
    def coordinates(self) -> list[np.ndarray]:
        """The populations in the basis."""
        return [self.basis.project(self.screen.cells(rows)) for rows in self.populations]

    @cached_property
    def means(self) -> np.ndarray:
        """Mean of the held-out cells of each condition, float64 `(n_conditions, n_genes)`."""
        labels, contexts = self.screen.labels[self.test], self.screen.contexts[self.test]
        rows = [
            self.test[(labels == name) & (contexts == context)]
            for name, context in zip(self.perturbations, self.contexts, strict=True)
        ]
        return np.stack([self.screen.cells(part).mean(axis=0, dtype=np.float64) for part in rows])

    def control_rows(self, *, held_out: bool, context: str | None = None, limit: int = MAX_CELLS) -> np.ndarray:
        """Positions of at most `limit` control cells that judge, or that models may have seen."""
        screen = self.screen
        chosen = screen.is_control & ((screen.part == "test") if held_out else screen.visible)
        if context is not None:
            chosen &= screen.contexts == context
        if not chosen.any() and held_out:
            return self.control_rows(held_out=False, context=context, limit=limit)
        rows = screen.by_name(np.flatnonzero(chosen))
        return np.random.default_rng(self.seed + 1).permutation(rows)[:limit]

    @cached_property
    def control_coordinates(self) -> dict[str, np.ndarray]:
        """Held-out controls of each context in the basis."""
        return {
            context: self.basis.project(self.screen.cells(self.control_rows(held_out=True, context=context)))
            for context in set(self.contexts)
        }

    @cached_property
    def control_distances(self) -> np.ndarray:
        """Energy distance of each population to held-out controls; NaN for a single cell."""
        controls = self.control_coordinates
        return np.array(
            [
                energy_distance(cells, controls[context]) if len(cells) > 1 else np.nan
                for cells, context in zip(self.coordinates, self.contexts, strict=True)
            ]
        )


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
    held_out = np.flatnonzero((screen.part == "test") | (screen.visible & every_cell))
    conditions, left_out = _conditions(screen, held_out, perturbations, min_cells)
    judges = _with_controls(screen, held_out)
    repeats: tuple[Halving, ...] = ()
    if known is not None:
        values = _known_rows(known, conditions["perturbation"].tolist(), screen.adata.var_names)
        errors, halves = np.zeros_like(values), (values, values)
    else:
        values, errors = _measured(screen, judges, conditions)
        halves = tuple(_measured(screen, half, conditions)[0] for half in _halves(screen, judges, seed))  # type: ignore[assignment]
        seeds = np.random.SeedSequence(seed).generate_state(n_repeats)
        repeats = tuple(_halve(screen, judges, conditions, int(one)) for one in seeds)
    if left_out:
        warnings.warn(
            f"adata: {len(left_out)} perturbations have fewer than {min_cells} held-out cells; they are listed with NaN.",
            RuntimeWarning,
            stacklevel=3,
        )
    n_targets, seen = screen.members_seen(conditions["perturbation"].tolist())
    conditions["n_targets"], conditions["seen_members"] = n_targets, seen
    seen_effects = _training_effects(screen)
    controls_held_out = screen.is_control[held_out].sum() >= MIN_CONTROLS
    truth = Truth(
        screen=screen,
        conditions=conditions,
        effects=values,
        standard_errors=errors,
        halves=halves,
        repeats=repeats,
        training=seen_effects,
        test=held_out,
        controls_shared=known is None and (every_cell or not controls_held_out),
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


def _halve(screen: JudgedScreen, judges: np.ndarray, conditions: pd.DataFrame, seed: int) -> Halving:
    halves = _halves(screen, judges, seed)
    quarters = [*_halves(screen, halves[0], seed + 1), _halves(screen, halves[1], seed + 1)[0]]
    return Halving(
        rows=halves,
        effects=tuple(_measured(screen, half, conditions)[0] for half in halves),  # type: ignore[arg-type]
        quarters=tuple(_measured(screen, quarter, conditions)[0] for quarter in quarters),  # type: ignore[arg-type]
    )


def _conditions(
    screen: JudgedScreen, held_out: np.ndarray, wanted: Sequence[str] | None, min_cells: int
) -> tuple[pd.DataFrame, dict[tuple[str, str], int]]:
    rows = held_out[~screen.is_control[held_out]]
    if wanted is None and len(rows) < len(held_out):
        judged = set(screen.judged())
        rows = rows[np.isin(screen.labels[rows], list(judged))]
    table = pd.DataFrame({"perturbation": screen.labels[rows], "context": screen.contexts[rows]})
    counts = table.value_counts(sort=False).rename("n_cells").reset_index()
    counts = counts.sort_values(["perturbation", "context"], ignore_index=True)
    if wanted is not None:
        absent = [name for name in wanted if name not in set(counts["perturbation"])]
        if absent:
            msg = f"perturbations: expected perturbations with held-out cells, got {absent[:5]} without any. Leave them out."
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


def _with_controls(screen: JudgedScreen, held_out: np.ndarray) -> np.ndarray:
    """Held-out cells, with the controls that models have seen in contexts where too few are held out."""
    rows = [held_out]
    for context in np.unique(screen.contexts[held_out]):
        controls = screen.is_control & (screen.contexts == context)
        if not controls.any():
            msg = f"adata: expected control cells in context {context!r}, found none. Effects need them as a reference."
            raise ControlError(msg)
        if controls[held_out].sum() < MIN_CONTROLS:
            extra = np.flatnonzero(controls)
            rows.append(extra[~np.isin(extra, held_out)])
    return np.sort(np.concatenate(rows))


def _strata(screen: JudgedScreen, rows: np.ndarray) -> np.ndarray:
    labels = pd.Series(screen.labels[rows])
    if screen.stratum_key is not None:
        labels = labels + "\0" + pd.Series(screen.adata.obs[screen.stratum_key].astype(str).to_numpy()[rows])
    return labels.to_numpy()


def _measured(screen: JudgedScreen, rows: np.ndarray, conditions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Effects of conditions in these cells and their standard errors; NaN rows where there are too few of one."""
    values = np.full((len(conditions), screen.adata.n_vars), np.nan)
    errors = values.copy()
    for context, group in conditions.groupby("context", sort=False):
        inside = rows[screen.contexts[rows] == context]
        wanted = screen.is_control[inside] | np.isin(screen.labels[inside], group["perturbation"].tolist())
        measured = observed(screen, inside[wanted], batch_key=screen.batch_key)
        position = {name: i for i, name in enumerate(measured.obs_names)}
        for row, name in zip(group.index, group["perturbation"], strict=True):
            if name in position:
                values[row] = measured.X[position[name]]
                errors[row] = measured.layers["se"][position[name]]
    return values, errors


def observed(screen: JudgedScreen, rows: np.ndarray, *, batch_key: str | None) -> AnnData:
    """`tl.effects` of some cells of the screen."""
    return effects(
        screen.adata,
        perturbation_key=LABEL,
        batch_key=batch_key,
        scale=screen.effect_scale,  # type: ignore[arg-type]
        cells=rows,
    )


def _training_effects(screen: JudgedScreen) -> tuple[np.ndarray, np.ndarray]:
    """Labels and effects of training cells, against controls of the same batch and context."""
    measured = observed(screen, np.flatnonzero(screen.part == "train"), batch_key=screen.stratum_key)
    return np.asarray(measured.obs_names), np.asarray(measured.X, dtype=np.float64)


def _known_rows(known: pd.DataFrame, names: list[str], genes: pd.Index) -> np.ndarray:
    absent = [name for name in names if name not in known.index]
    if absent or not set(genes) <= set(known.columns):
        msg = (
            f"truth: expected known effects of every judged perturbation and gene, got {known.shape} without "
            f"{absent[:3] or 'some genes'}. Give rows under canonical labels and columns under var_names."
        )
        raise LabelError(msg)
    return known.loc[names, list(genes)].to_numpy(dtype=np.float64)
