"""What held-out cells show: effects, halves of the cells for ceilings and gene choice, strength, and cells themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from perturbia.perturbation import Perturbation, as_perturbation
from perturbia.stats import energy_distance, group_means
from perturbia.tl._evaluation.screen import observed

if TYPE_CHECKING:
    from perturbia.tl._evaluation.screen import JudgedScreen

__all__ = ["FDR", "MAX_CONTROLS", "MIN_CONTROLS", "N_BASE", "Basis", "Halving", "Truth"]

MIN_CONTROLS = 10
MAX_CELLS = 300
MAX_CONTROLS = 2000
N_BASE = 500
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
        The same of the two halves of the first half, and of those of the second.
    centroids
        Mean effect of the training perturbations against the controls of each half, `(2, n_genes)`; NaN without controls.
    populations
        Positions of the cells of two halves that were drawn without regard to batches: halves of equal batches are more
        alike than two experiments, as populations go.
    """

    rows: tuple[np.ndarray, np.ndarray]
    effects: tuple[np.ndarray, np.ndarray]
    quarters: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    centroids: np.ndarray
    populations: tuple[np.ndarray, np.ndarray]


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
        Labels of the perturbations that training cells have; their effects against controls that models may have seen; and
        the same cells against the controls of the truth.
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
    training: tuple[np.ndarray, np.ndarray, np.ndarray]
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

    @cached_property
    def parts(self) -> list[list[str]]:
        """Members of each condition, as labels of single perturbations."""
        targets = [as_perturbation(name).targets for name in self.perturbations]
        return [[str(Perturbation({target: dose})) for target, dose in one.items()] for one in targets]

    @property
    def contexts(self) -> list[str]:
        """Context of each condition."""
        return self.conditions["context"].tolist()

    @cached_property
    def centroid(self) -> np.ndarray:
        """Mean effect of the perturbations that were seen, relative to the controls that models may have seen."""
        return self.training[1].mean(axis=0)

    @cached_property
    def specific(self) -> np.ndarray:
        """Effects relative to the mean of the perturbations that were seen (Systema): controls cancel.

        The mean is taken against the controls of the truth here, and against those that models may have seen for
        predictions. With one for both, the difference of the two would look like an effect, the same for all.
        """
        return self.effects - self.training[2].mean(axis=0)

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
        freedom = np.maximum(self.conditions["n_cells"].to_numpy() - 1, 1)[:, None]  # of the smaller group: cautious
        p_values = 2 * stdtr(freedom, -np.abs(z))
        return false_discovery_control(p_values, axis=1) < FDR

    @cached_property
    def basis(self) -> Basis:
        """Principal components of training cells alone."""
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(self.screen.by_name(np.flatnonzero(self.screen.part == "train")))
        # components fitted to the very cells that effects shift would put these nearer to everything
        base = np.concatenate([self.control_rows(held_out=False, context=c, limit=N_BASE) for c in set(self.contexts)])
        apart = rows[~np.isin(rows, base)]
        rows = (apart if len(apart) > N_COMPONENTS else rows)[:N_FIT]
        dense = self.screen.cells(rows)
        n_components = min(N_COMPONENTS, dense.shape[0] - 1, dense.shape[1])
        pca = PCA(n_components=n_components, svd_solver="covariance_eigh").fit(dense)
        return Basis(pca.components_.T.astype(np.float32), pca.mean_.astype(np.float32))

    @cached_property
    def populations(self) -> list[np.ndarray]:
        """Positions of at most 300 held-out cells of each condition, in random order."""
        rng = np.random.default_rng(self.seed)
        return [rng.permutation(self.screen.by_name(self.cells_of(i)))[:MAX_CELLS] for i in range(len(self))]

    def cells_of(self, condition: int) -> np.ndarray:
        """Positions of the held-out cells of a condition."""
        return self._rows[condition]

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        """Positions of the held-out cells of each condition, in rising order."""
        pairs = pd.MultiIndex.from_arrays([self.perturbations, self.contexts])
        screen, test = self.screen, np.sort(self.test)
        codes = pairs.get_indexer(pd.MultiIndex.from_arrays([screen.labels[test], screen.contexts[test]]))
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(self) + 1))
        return [test[order[a:b]] for a, b in pairwise(bounds)]

    @cached_property
    def coordinates(self) -> list[np.ndarray]:
        """The populations in the basis."""
        return [self.basis.project(self.screen.cells(rows)) for rows in self.populations]

    @cached_property
    def means(self) -> np.ndarray:
        """Mean of the held-out cells of each condition, float64 `(n_conditions, n_genes)`."""
        rows = np.concatenate([self.cells_of(i) for i in range(len(self))])
        codes = np.repeat(np.arange(len(self)), [len(self.cells_of(i)) for i in range(len(self))])
        return group_means(self.screen.normalized(rows), codes, with_variance=False).mean

    def control_rows(self, *, held_out: bool, context: str | None = None, limit: int = MAX_CELLS) -> np.ndarray:
        """Positions of at most `limit` control cells that judge, or that models may have seen."""
        screen = self.screen
        controls = screen.is_control if context is None else screen.is_control & (screen.contexts == context)
        chosen = controls & (screen.part == ("test" if held_out else "train"))
        if held_out and chosen.sum() < MIN_CONTROLS:  # too few to measure by: those that were seen, too
            chosen = controls & ((screen.part == "test") | screen.visible)
        rows = screen.by_name(np.flatnonzero(chosen))
        return np.random.default_rng(self.seed + 1).permutation(rows)[:limit]

    @cached_property
    def control_means(self) -> np.ndarray:
        """Mean of the controls that each condition is measured against, in its batches, float64 `(n_conditions, n_genes)`."""
        if not self.exact:
            return self.means - self.effects
        means = {
            context: self.screen.cells(self.control_rows(held_out=True, context=context, limit=MAX_CONTROLS))
            for context in set(self.contexts)
        }
        return np.stack([means[context].mean(axis=0, dtype=np.float64) for context in self.contexts])

    @cached_property
    def control_coordinates(self) -> dict[str, np.ndarray]:
        """Held-out controls of each context in the basis."""
        return {
            context: self.basis.project(self.screen.cells(self.control_rows(held_out=True, context=context)))
            for context in set(self.contexts)
        }

    @cached_property
    def control_distances(self) -> np.ndarray:
        """Energy distance of each population to held-out controls; NaN for a single cell of either."""
        controls = self.control_coordinates
        return np.array(
            [
                energy_distance(cells, controls[context]) if min(len(cells), len(controls[context])) > 1 else np.nan
                for cells, context in zip(self.coordinates, self.contexts, strict=True)
            ]
        )
