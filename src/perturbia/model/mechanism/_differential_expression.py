"""Differential expression by scvi-tools' Bayesian comparison of two populations, or of cells with themselves."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.model.base._de_core import _fdr_de_prediction
from scvi.model.base._differential import DifferentialComputation, estimate_pseudocounts_offset

from perturbia.model.base._minified import lacks_features

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from perturbia.model.mechanism._comparisons import Comparison
    from perturbia.model.mechanism._latent_shift import LatentShiftModel

__all__ = ["check_options", "compare"]

_STATISTICS = ("raw_mean", "non_zeros_proportion", "raw_normalized_mean")
_OURS = {"self", "idx1", "idx2", "mode", "batchid1", "batchid2", "use_observed_batches", "delta"}


def check_options(options: dict[str, Any], *, paired: bool) -> None:
    """Refuse options that the comparison of scvi-tools does not know.

    Raises
    ------
    TypeError
        If one is unknown.
    ValueError
        If pairs of draws would be torn apart.
    """
    known = [
        name for name in inspect.signature(DifferentialComputation.get_bayes_factors).parameters if name not in _OURS
    ]
    unknown = [name for name in options if name not in known]
    if unknown:
        msg = f"{unknown[0]}: expected one of the options {', '.join(known)}, got {options[unknown[0]]!r}."
        raise TypeError(msg)
    if paired and options.get("use_permutation"):
        msg = (
            "use_permutation: expected False with counterfactual=True, got True; it would pair each cell with another."
        )
        raise ValueError(msg)


def compare(
    model: LatentShiftModel,
    adata: AnnData,
    comparisons: Sequence[Comparison],
    *,
    mode: str,
    fdr_target: float,
    all_stats: bool,
    filter_outlier_cells: bool,
    batch_size: int | None,
    seed: int,
    **options: Any,
) -> pd.DataFrame:
    """A table for each comparison, genes most certain first, one below the other."""
    manager = model.get_anndata_manager(adata, required=True)
    model_fn = partial(model.get_normalized_expression, batch_size=batch_size, return_numpy=True)
    representation_fn = model.get_latent_representation if filter_outlier_cells else None
    tables = []
    for comparison in comparisons:
        computation = _SidedComputation(model_fn, representation_fn, manager, comparison, seed)
        with _legacy_seed(seed):
            result = computation.get_bayes_factors(comparison.first, comparison.second, mode=mode, **options)
        if all_stats:
            result |= _raw_statistics(manager, comparison)
        table = pd.DataFrame(result, index=adata.var_names)
        table = table.sort_values("proba_de" if mode == "change" else "bayes_factor", ascending=False)
        if mode == "change":
            table[f"is_de_fdr_{fdr_target}"] = _fdr_de_prediction(table["proba_de"], fdr=fdr_target)
        first, second = comparison.names
        tables.append(table.assign(comparison=f"{first} vs {second}", group1=first, group2=second))
    return pd.concat(tables)


class _SidedComputation(DifferentialComputation):
    """scvi-tools' comparison, with the draws of its two sides under our control.

    Two populations have draws of their own; the same cells under two perturbations share everything but what the
    perturbations do, row by row.
    """

    model_fn: Any

    def __init__(self, model_fn: Any, representation_fn: Any, manager: Any, comparison: Comparison, seed: int) -> None:
        super().__init__(model_fn, representation_fn, manager)
        first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
        seeds = (first, first) if comparison.is_paired else (first, second)
        self.sides = [
            {"perturbation": perturbation, "seed": one}
            for perturbation, one in zip(comparison.perturbations, seeds, strict=True)
        ]
        self._side = 0
        self._kept: np.ndarray | None = None
        self._is_paired = comparison.is_paired

    def filter_outlier_cells(self, selection: Any) -> np.ndarray:
        """As in scvi-tools; cells that are compared with themselves stay the same on both sides."""
        if self._is_paired and self._kept is not None:
            return self._kept
        self._kept = super().filter_outlier_cells(selection)
        return self._kept

    def get_bayes_factors(self, idx1: Any, idx2: Any, **options: Any) -> dict[str, Any]:
        """As in scvi-tools; without counts, genes that are not expressed are found by what the model expects."""
        self._side = 0
        wanted = options.get("mode") == "change" and options.get("pseudocounts") is None
        if wanted and lacks_features(self.adata):
            options["pseudocounts"] = self._pseudocounts(idx1, idx2, **options)
        return super().get_bayes_factors(idx1, idx2, **options)

    def scale_sampler(self, selection: Any, **options: Any) -> dict[str, Any]:
        """As in scvi-tools, for the side whose turn it is: the first, then the second."""
        plain = self.model_fn
        self.model_fn = partial(plain, **self.sides[self._side])
        self._side += 1
        try:
            return super().scale_sampler(selection, **options)
        finally:
            self.model_fn = plain

    def _pseudocounts(self, idx1: Any, idx2: Any, **options: Any) -> float:
        n_draws, threshold = options.get("n_samples_overall", 5000), options.get("threshold_counts", 0.01)
        sides = list(zip((idx1, idx2), self.sides, strict=True))
        scales = [self.model_fn(self.adata, indices=idx, n_samples_overall=n_draws, **side) for idx, side in sides]
        counts = [
            self.model_fn(self.adata, indices=idx, n_samples_overall=1000, library_size="latent", seed=side["seed"])
            for idx, side in sides
        ]
        return float(estimate_pseudocounts_offset(*scales, *(part.mean(0) < threshold for part in counts)))


def _raw_statistics(manager: Any, comparison: Comparison) -> dict[str, np.ndarray]:
    """Means, shares of cells that express and means per 10,000 counts, as scvi-tools names them; NaN without cells or counts."""
    first = comparison.first if comparison.described is None else comparison.described
    out: dict[str, np.ndarray] = {}
    for side, cells in ((1, first), (2, comparison.second)):
        values = np.full((len(_STATISTICS), manager.adata.n_vars), np.nan)
        if len(cells) and not lacks_features(manager.adata):
            rows = sparse.csr_matrix(manager.get_from_registry(REGISTRY_KEYS.X_KEY)[cells], dtype=np.float64)
            share = 1e4 / np.asarray(rows.sum(1)).ravel()
            means = [rows.sum(0), (rows != 0).sum(0), share @ rows]
            values = np.stack([np.asarray(part).ravel() for part in means]) / len(cells)
        out |= {f"{name}{side}": value for name, value in zip(_STATISTICS, values, strict=True)}
    return dict(sorted(out.items(), key=lambda item: _STATISTICS.index(item[0][:-1])))


@contextmanager
def _legacy_seed(seed: int) -> Iterator[None]:
    """Seed the global generator of NumPy, from which scvi-tools and scikit-learn draw, and put it back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.random.SeedSequence(seed).generate_state(1))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
