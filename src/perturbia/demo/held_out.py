"""The cells that judge: what they show, how well they show it, and how far predicted cells are from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perturbia import _keys
from perturbia.metrics import effect_correlation, effect_r2, top_gene_correlation
from perturbia.perturbation import dosage_labels
from perturbia.stats import energy_distance, half_split, log1p_cp10k, spearman_brown
from perturbia.tl import effects
from perturbia.tl._design import design_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from perturbia.demo.screen import Screen

__all__ = ["Basis", "HeldOut", "dense_rows"]

MIN_JUDGES = 8
MIN_POPULATION = 40
MAX_CELLS = 300
N_SPLITS = 5
TOP = 20


@dataclass(frozen=True)
class HeldOut:
    """Held-out cells of a screen.

    Attributes
    ----------
    observed
        Effects of all held-out cells.
    halves
        Effects of two random halves of them.
    labels
        Perturbation of every cell of the screen, canonical.
    train, test
        Positions of training and held-out cells.
    screen
        The screen.
    seed
        Seed of halves and subsamples.
    """

    observed: AnnData
    halves: tuple[AnnData, AnnData]
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    screen: Screen
    seed: int

    @classmethod
    def measure(cls, screen: Screen, *, seed: int) -> HeldOut:
        """Measure the effects of the cells marked ``test``."""
        adata = screen.adata
        design = design_of(adata, perturbation_key=screen.perturbation_key, control=screen.control, sep="+")
        labels = dosage_labels(design.matrix, design.names)
        split = adata.obs[_keys.OBS_SPLIT].to_numpy()
        train, test = (np.flatnonzero(split == part) for part in ("train", "test"))
        observed = _effects(screen, test)
        first = half_split(labels[test], seed=seed)
        halves = _effects(screen, test[first]), _effects(screen, test[~first])
        seen = set(labels[train])
        both = set(halves[0].obs_names) & set(halves[1].obs_names) & seen
        names = [name for name in observed.obs_names if name in both]
        return cls(
            observed[names].copy(), tuple(half[names].copy() for half in halves), labels, train, test, screen, seed
        )

    @property
    def perturbations(self) -> list[str]:
        """Perturbations that are judged."""
        return list(self.observed.obs_names)

    def scores(self, predicted: np.ndarray) -> dict[str, float]:
        """Scores of predicted effects, rows in the order of :attr:`perturbations`.

        The strongest genes are chosen on one half of the cells and scored on the other, both ways, so that noise which
        makes a gene look strong does not count for or against a prediction.
        """
        one, two = (half.X for half in self.halves)
        k = min(TOP, predicted.shape[1])
        top = [
            top_gene_correlation(truth, predicted, selection=choice, k=k) for truth, choice in ((one, two), (two, one))
        ]
        return {
            "r": effect_correlation(self.observed.X, predicted),
            "R2": effect_r2(self.observed.X, predicted),
            "top-20 r": float(np.mean(top)),
        }

    def repeat(self) -> dict[str, float]:
        """Scores that a second experiment with as many held-out cells would get: split halves, Spearman-Brown.

        With reliability ρ of the observed effects, a repeat correlates by ρ and explains 2ρ - 1 of the variation.
        """
        overall, strongest = [], []
        for seed in np.random.SeedSequence(self.seed).generate_state(N_SPLITS):
            first = half_split(self.labels[self.test], seed=int(seed))
            one, rest = self.test[first], self.test[~first]
            second = half_split(self.labels[rest], seed=int(seed) + 1)
            choice, truth, other = (self._same_rows(part) for part in (one, rest[second], rest[~second]))
            overall.append(effect_correlation(choice, self._same_rows(rest)))
            k = min(TOP, choice.shape[1])
            strongest.append(top_gene_correlation(truth, other, selection=choice, k=k))
        reliability = spearman_brown(float(np.clip(np.mean(overall), 0, 1)))
        return {
            "r": reliability,
            "R2": 2 * reliability - 1,
            "top-20 r": spearman_brown(float(np.clip(np.mean(strongest), 0, 1))),
        }

    def _same_rows(self, cells: np.ndarray) -> np.ndarray:
        """Effects of the judged perturbations in these cells; zeros where a small part has too few of one."""
        part = _effects(self.screen, cells, min_cells=2)
        out = np.zeros(self.observed.shape)
        found = [name in set(part.obs_names) for name in self.perturbations]
        out[found] = part[[name for name, there in zip(self.perturbations, found, strict=True) if there]].X
        return out

    def distances(self, cells_of: Callable[[str, int], np.ndarray], basis: Basis) -> dict[str, float]:
        """Energy distance between predicted and held-out cells of every perturbation with enough of them."""
        out = {}
        for name, observed in basis.held_out.items():
            predicted = cells_of(name, MAX_CELLS)[:MAX_CELLS]
            if len(predicted) > 1:
                out[name] = energy_distance(basis.project(predicted), observed)
        return out

    def basis(self) -> Basis:
        """Principal components of training cells, and the held-out cells in them."""
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(self.seed)
        fitted_on = rng.permutation(self.train)[:5000]
        dense = dense_rows(self.screen, fitted_on)
        pca = PCA(n_components=min(50, *dense.shape), svd_solver="covariance_eigh").fit(dense)
        held_out, halves = {}, {}
        for name in self.perturbations:
            rows = rng.permutation(self.test[self.labels[self.test] == name])
            if len(rows) < MIN_POPULATION:
                continue
            middle = len(rows) // 2
            held_out[name], *pair = (
                pca.transform(dense_rows(self.screen, part[:MAX_CELLS])).astype(np.float32)
                for part in (rows, rows[:middle], rows[middle:])
            )
            halves[name] = (pair[0], pair[1])
        return Basis(pca.components_.T.astype(np.float32), pca.mean_.astype(np.float32), held_out, halves)


@dataclass(frozen=True)
class Basis:
    """Principal components with held-out cells in them.

    Attributes
    ----------
    components, mean
        `(n_genes, n_components)` and `(n_genes,)`.
    held_out
        Coordinates of held-out cells of each perturbation.
    halves
        Coordinates of two halves of them.
    """

    components: np.ndarray
    mean: np.ndarray
    held_out: dict[str, np.ndarray]
    halves: dict[str, tuple[np.ndarray, np.ndarray]]

    def project(self, cells: np.ndarray) -> np.ndarray:
        """Coordinates of log-normalised cells."""
        return ((cells - self.mean) @ self.components).astype(np.float32)

    def between_halves(self) -> dict[str, float]:
        """Energy distance between the halves of each perturbation: zero up to noise."""
        return {name: energy_distance(*pair) for name, pair in self.halves.items()}


def _effects(screen: Screen, cells: np.ndarray, *, min_cells: int = MIN_JUDGES // 2) -> AnnData:
    return effects(
        screen.adata, layer=screen.layer, batch_key=screen.batch_key, cells=cells, min_cells=min_cells, **screen.labels
    )


def dense_rows(screen: Screen, rows: np.ndarray) -> np.ndarray:
    """Log-normalised rows of cells, dense, in ascending order."""
    values = log1p_cp10k(screen.counts[np.sort(rows)])
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)
