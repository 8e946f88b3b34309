"""Statistics of a screen that a replicated screen should reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from perturbia.errors import ScaleError
from perturbia.stats import group_means, log1p_cp10k, matched_effects, pairwise_energy_distance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perturbia.stats import GroupMoments

__all__ = ["SHIPPED", "StatisticSet", "caveat", "check_names", "log_normalised"]

ALL_CELLS = "all"
NO_GENE = ""


def log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log-normalise counts; a cell without a count, which a replicate may hold, stays zero."""
    filled = np.diff(counts.indptr) > 0
    scaled = log1p_cp10k(counts[filled])
    return sparse.csr_matrix((scaled.data, counts.indices, counts.indptr), shape=counts.shape)


@dataclass(frozen=True)
class _Screen:
    """One data set, observed or replicated; what several statistics need is computed once."""

    features: Any  # (n_cells, n_genes), CSR for counts
    is_counts: bool
    codes: np.ndarray  # group of each cell, 0 the control
    batch: np.ndarray  # of each cell

    @cached_property
    def logs(self) -> Any:
        return log_normalised(self.features) if self.is_counts else self.features

    @cached_property
    def log_moments(self) -> GroupMoments:
        return group_means(self.logs, self.codes)

    @cached_property
    def library(self) -> np.ndarray:
        return np.asarray(self.features.sum(1), dtype=np.float64).ravel()


@dataclass(frozen=True)
class _Fixed:
    """What is chosen on the observed screen and then held for every replicate."""

    groups: np.ndarray
    genes: np.ndarray
    top: np.ndarray  # genes whose correlations are checked
    centre: np.ndarray
    loadings: np.ndarray  # of the principal components


def _ate(screen: _Screen, _: _Fixed) -> np.ndarray:
    return matched_effects(screen.logs, screen.codes, screen.batch, reference=0)


def _variance_mean_ratio(screen: _Screen, _: _Fixed) -> np.ndarray:
    moments = group_means(screen.features, screen.codes)
    # a gene with a single count in n cells has the ratio 1, whatever n: so has, in the limit, a gene with none
    return np.divide(moments.variance, moments.mean, out=np.ones_like(moments.mean), where=moments.mean > 0)


def _zero_fraction(screen: _Screen, _: _Fixed) -> np.ndarray:
    expressed = screen.features.astype(bool).astype(np.float32)
    return 1 - group_means(expressed, screen.codes, with_variance=False).mean


def _library_size(screen: _Screen, _: _Fixed) -> np.ndarray:
    return group_means(screen.library[:, None], screen.codes, with_variance=False).mean


def _library_spread(screen: _Screen, _: _Fixed) -> np.ndarray:
    moments = group_means(screen.library[:, None], screen.codes)
    return np.sqrt(moments.variance) / moments.mean


def _gene_correlation(screen: _Screen, fixed: _Fixed) -> np.ndarray:
    values = screen.logs[:, fixed.top]
    values = np.asarray(values.todense() if sparse.issparse(values) else values, dtype=np.float64)
    values = values - values.mean(0)
    length = np.sqrt((values**2).sum(0))
    values = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return (values.T @ values)[np.triu_indices(len(fixed.top), 1)]


def _n_de_genes(screen: _Screen, _: _Fixed) -> np.ndarray:
    moments = screen.log_moments
    error = moments.variance / moments.count[:, None]
    total = error[1:] + error[0]
    varied = total > 0  # neither group has the gene: nothing to tell apart
    t = np.divide(moments.mean[1:] - moments.mean[0], np.sqrt(total), out=np.zeros_like(total), where=varied)
    freedom = (moments.count - 1)[:, None]
    df = np.divide(
        total**2, error[1:] ** 2 / freedom[1:] + error[0] ** 2 / freedom[0], out=np.ones_like(total), where=varied
    )
    fdr = false_discovery_control(np.clip(2 * stdtr(df, -np.abs(t)), 0.0, 1.0), axis=1)
    return (fdr < 0.05).sum(1, keepdims=True).astype(np.float64)


def _edistance(screen: _Screen, fixed: _Fixed) -> np.ndarray:
    scores = np.asarray(screen.logs @ fixed.loadings) - fixed.centre @ fixed.loadings
    return pairwise_energy_distance(scores, screen.codes, reference=0).values[1:, None]


# name → (function, its rows: "perturbations", "groups" or "all", its columns: "genes", "one" or "pairs", of counts only)
SHIPPED: dict[str, tuple[Callable[[_Screen, _Fixed], np.ndarray], str, str, bool]] = {
    "ate": (_ate, "perturbations", "genes", False),
    "variance_mean_ratio": (_variance_mean_ratio, "groups", "genes", True),
    "zero_fraction": (_zero_fraction, "groups", "genes", True),
    "library_size": (_library_size, "groups", "one", True),
    "library_spread": (_library_spread, "groups", "one", True),
    "gene_correlation": (_gene_correlation, "all", "pairs", False),
    "n_de_genes": (_n_de_genes, "perturbations", "one", False),
    "edistance": (_edistance, "perturbations", "one", False),
}


def caveat(name: str, *, library_given: bool) -> str:
    """Why the band of a statistic does not hold 90 % of the entries of a right model; empty where it does."""
    if name in {"zero_fraction", "n_de_genes"}:
        return "90 % or more for a right model: it has few values, and ties lie inside"
    if name == "library_size" and library_given:
        return "all for a right model: replicates are given the library sizes"
    if name == "library_spread" and library_given:
        return "less for a right model: replicates add the noise of counts to library sizes that hold it"
    return ""


class StatisticSet:
    """The chosen statistics of a design, as vectors with named entries.

    Parameters
    ----------
    observed
        Features of the data, `(n_cells, n_genes)`; CSR for counts.
    codes, batch
        Group of each cell, 0 the control, and its batch, from 0.
    groups
        Names of the groups.
    genes
        Names of the features.
    statistics
        Names of shipped statistics, or functions of features and labels.
    is_counts
        Whether the features are counts.
    n_top_genes, n_comps
        Genes whose correlations, and principal components whose distances, are checked.
    """

    def __init__(
        self,
        observed: Any,
        *,
        codes: np.ndarray,
        batch: np.ndarray,
        groups: np.ndarray,
        genes: np.ndarray,
        statistics: Sequence[str | Callable],
        is_counts: bool,
        n_top_genes: int,
        n_comps: int,
    ) -> None:
        self._chosen = {name if isinstance(name, str) else name.__name__: name for name in statistics}
        if len(self._chosen) < len(statistics):
            msg = f"statistics: expected distinct names, got {list(map(str, statistics))}. Give functions names of their own."
            raise ValueError(msg)
        self._codes, self._batch, self._is_counts = codes, batch, is_counts
        self._labels = groups[codes]
        screen = _Screen(observed, is_counts, codes, batch)
        self._fixed = _hold(
            screen,
            groups,
            genes,
            n_top_genes=n_top_genes if "gene_correlation" in self._chosen else 0,
            n_comps=n_comps if "edistance" in self._chosen else 0,
        )
        self.names: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.observed = self._evaluate(screen)

    def of(self, features: Any) -> dict[str, np.ndarray]:
        """Statistics of a replicate, one vector each."""
        return self._evaluate(_Screen(features, self._is_counts, self._codes, self._batch))

    def _evaluate(self, screen: _Screen) -> dict[str, np.ndarray]:
        out = {}
        for name, statistic in self._chosen.items():
            if isinstance(statistic, str):
                function, rows, columns, _ = SHIPPED[statistic]
                values = function(screen, self._fixed)
                names = self.names.get(name) or self._entries(rows, columns)
            else:
                values, names = self._of_user(name, statistic(screen.features, self._labels))
            vector = np.asarray(values, dtype=np.float64).ravel()
            if not np.isfinite(vector).all():
                msg = f"statistics: expected finite numbers from {name!r}, got NaN or infinity in {int((~np.isfinite(vector)).sum())} entries."
                raise ValueError(msg)
            known = self.names.setdefault(name, names)
            if len(vector) != len(known[0]) or any(not np.array_equal(a, b) for a, b in zip(names, known, strict=True)):
                msg = f"statistics: expected the same entries from {name!r} for every data set, got others for a replicate."
                raise ValueError(msg)
            out[name] = vector
        return out

    def _entries(self, rows: str, columns: str) -> tuple[np.ndarray, np.ndarray]:
        fixed = self._fixed
        perturbations = {"perturbations": fixed.groups[1:], "groups": fixed.groups, "all": np.array([ALL_CELLS])}[rows]
        if columns == "pairs":
            left, right = np.triu_indices(len(fixed.top), 1)
            genes = np.array(
                [f"{fixed.genes[fixed.top[i]]}|{fixed.genes[fixed.top[j]]}" for i, j in zip(left, right, strict=True)]
            )
        else:
            genes = fixed.genes if columns == "genes" else np.array([NO_GENE])
        return np.repeat(perturbations, len(genes)).astype(str), np.tile(genes, len(perturbations)).astype(str)

    def _of_user(self, name: str, value: Any) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Values and names of what a user's function returned."""
        if isinstance(value, pd.DataFrame):
            rows, columns = value.index.to_numpy(str), value.columns.to_numpy(str)
            return value.to_numpy(np.float64), (np.repeat(rows, len(columns)), np.tile(columns, len(rows)))
        values = np.atleast_1d(np.asarray(value, dtype=np.float64))
        if values.shape == (1,):
            return values, (np.array([ALL_CELLS]), np.array([NO_GENE]))
        if values.shape == self._fixed.genes.shape:
            return values, (np.full(len(values), ALL_CELLS), self._fixed.genes.astype(str))
        msg = (
            f"statistics: expected a number, {len(self._fixed.genes)} numbers (one a gene) or a data frame of perturbations × "
            f"genes from {name!r}, got shape {values.shape}."
        )
        raise ValueError(msg)


def _hold(
    screen: _Screen,
    groups: np.ndarray,
    genes: np.ndarray,
    *,
    n_top_genes: int,
    n_comps: int,
) -> _Fixed:
    """Choose genes and components on the observed screen."""
    top, centre, loadings = np.zeros(0, dtype=int), np.zeros(len(genes)), np.zeros((len(genes), 0))
    if n_top_genes or n_comps:
        whole = group_means(screen.logs, np.zeros(len(screen.codes), dtype=int))
        centre = whole.mean[0]
        top = np.sort(np.argsort(-np.asarray(whole.variance)[0], kind="stable")[:n_top_genes])
    if n_comps:
        from sklearn.decomposition import PCA

        pca = PCA(min(n_comps, min(screen.logs.shape) - 1), svd_solver="arpack", random_state=0)
        loadings = pca.fit(screen.logs).components_.T
    return _Fixed(groups, genes, top, centre, loadings)


def check_names(statistics: Sequence[str | Callable], *, is_counts: bool) -> None:
    """Refuse statistics that do not exist, or that the features do not define."""
    if not statistics:
        msg = (
            f"statistics: expected functions or names among {', '.join(map(repr, SHIPPED))}, got none. None takes all."
        )
        raise ValueError(msg)
    for name in statistics:
        if callable(name):
            continue
        if name not in SHIPPED:
            msg = f"statistics: expected functions or names among {', '.join(map(repr, SHIPPED))}, got {name!r}."
            raise ValueError(msg)
        if SHIPPED[name][3] and not is_counts:
            msg = f"statistics: {name!r} is defined for counts only, and the model was registered with another scale. Leave it out."
            raise ScaleError(msg)
