"""Average treatment effects of latent-shift models with common random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch

from perturbia import _keys
from perturbia.errors import ScaleError
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._result import stamp
from perturbia.model.mechanism._basal_states import basal_states, given_of
from perturbia.model.mechanism._readout import common_noise, expected_features
from perturbia.model.mechanism._residual_effects import count_training_cells, shrunken_residual
from perturbia.nn import ExpectedLogCounts, GivenTreatments
from perturbia.perturbation import dosage_labels, unique_dosages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from scipy import sparse

    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.model.mechanism._readout import Covariates
    from perturbia.perturbation.value import Query

__all__ = ["Contrast", "checked_scale", "estimate_ate", "queries_of"]

#: Basal states at a time: memory does not grow with their number.
_BLOCK = 512
#: Basal states under each posterior draw.
_CELLS_OF_DRAWS = 100


@torch.inference_mode()
def estimate_ate(
    model: LatentShiftModel,
    perturbations: Sequence[Query] | None,
    *,
    scale: str | None,
    base: Literal["control", "prior"],
    combine: Literal["shrunk_residual"] | None,
    n_cells: int,
    n_draws: int,
    interval: float | None,
    seed: int,
) -> AnnData:
    """Implementation of :meth:`perturbia.model.SAMSVAE.estimate_ate`."""
    model._require_trained()
    check_choice("combine", combine, (None, "shrunk_residual"))
    check_choice("base", base, ("control", "prior"))
    check_positive_integer("n_cells", n_cells)
    _check_draws(n_draws, interval)
    scale = checked_scale(model, scale)
    dosage = queries_of(model, perturbations)
    unit = 1 / np.log(2) if scale == "perturbseq" else 1.0
    logarithmic = model.module.is_count_model and scale in {"log1p_cp10k", "perturbseq"}
    z, covariates = basal_states(model, base, n_cells, seed)
    noise = torch.Generator().manual_seed(seed)
    moments = np.zeros((2, dosage.shape[0], model.summary_stats.n_vars))
    deviations, bounds = None, None
    for start in range(0, len(z), _BLOCK):
        rows = slice(start, start + _BLOCK)
        contrast = Contrast(model, z[rows], covariates.rows(rows), noise, log_normalized=logarithmic)
        for i, query in enumerate(_each_row(dosage)):
            difference = unit * contrast.of_mean(query)
            moments[0, i] += difference.sum(0).double().cpu().numpy()
            moments[1, i] += (difference.double() ** 2).sum(0).cpu().numpy()
        if start == 0:
            deviations, bounds = _posterior_spread(contrast, dosage, unit, n_draws, interval, seed)
    values = moments[0] / len(z)
    spread = np.sqrt(np.maximum(moments[1] / len(z) - values**2, 0))
    errors = spread / np.sqrt(max(len(z) - 1, 1))
    residual = np.zeros_like(values)
    if combine == "shrunk_residual":
        residual = shrunken_residual(model, dosage, values / unit, scale) * unit
    labels = dosage_labels(dosage, model.perturbations)
    out = model._as_features(values + residual, list(labels))
    out.layers[_keys.LAYER_SE], out.layers[_keys.LAYER_SD] = errors.astype(np.float32), deviations
    if bounds is not None:
        for key, bound in zip((_keys.LAYER_LOWER, _keys.LAYER_UPPER), bounds, strict=True):
            out.layers[key] = (bound + residual).astype(np.float32)
    out.obs["n_cells"] = count_training_cells(model, labels)
    out.obs.index = pd.Index(labels, name=None)
    return stamp(out, kind="effect", ur_id=model.ur_id, model=model._kind, scale=scale, seed=seed)


class Contrast:
    """The same basal states with and without a perturbation: covariates, noise and count tables are shared."""

    def __init__(
        self,
        model: LatentShiftModel,
        z: torch.Tensor,
        covariates: Covariates,
        generator: torch.Generator,
        *,
        log_normalized: bool,
    ) -> None:
        self.module, self.z, self.covariates = model.module, z, covariates
        self.noise = common_noise(model.module, len(z), generator)
        self.layer = None
        if log_normalized:
            # no gene can take more than the whole library
            top = covariates.library.max() * (1.0 if self.noise is None else self.noise.max())
            self.layer = ExpectedLogCounts(covariates.library.ravel(), max_rate=float(top))
        self.control = self.expected(torch.zeros_like(z[0]), None)

    def expected(self, offset: torch.Tensor, given: GivenTreatments | None, n_cells: int | None = None) -> torch.Tensor:
        """Expected features of the states, or the first `n_cells` of them, moved by `offset`."""
        rows = slice(0, n_cells)
        noise = None if self.noise is None else self.noise[rows]
        layer = None if self.layer is None else self.layer.rows(rows)
        covariates = self.covariates.rows(rows)
        covariates = covariates if given is None else covariates.under(given)
        return expected_features(covariates.decode(self.module, self.z[rows] + offset), noise, layer)

    def of_mean(self, query: sparse.csr_matrix) -> torch.Tensor:
        """Difference to control of each state under the expected shift of a perturbation, `(n, n_features)`."""
        given = given_of(query)
        called = self.module.design(given.to(self.z.device))
        return self.expected(self.module.effects.offset(called)[0][0], self._own(given)) - self.control

    def of_draws(self, query: sparse.csr_matrix, n_draws: int, seed: int, n_cells: int) -> torch.Tensor:
        """Mean difference to control under each of several draws of the shift, `(n_draws, n_features)`."""
        given, effects = given_of(query), self.module.effects
        called = self.module.design(given.to(self.z.device))
        # only rows that the query calls are drawn, so that no other query changes its draws
        rows, within = called.within()
        mask, embedding = effects.sample(n_draws, rows=rows, generator=torch.Generator().manual_seed(seed))
        control = self.control[:n_cells].mean(0)
        offsets = within.sum_of(mask * embedding)[:, 0]
        return torch.stack([self.expected(one, self._own(given), n_cells).mean(0) - control for one in offsets])

    def _own(self, given: GivenTreatments) -> GivenTreatments | None:
        return given if self.module.decodes_given else None


def _posterior_spread(
    contrast: Contrast, dosage: sparse.csr_matrix, unit: float, n_draws: int, interval: float | None, seed: int
) -> tuple[np.ndarray, list[np.ndarray] | None]:
    """Standard deviations over draws of masks and embeddings, and the bounds of a central interval."""
    shape = (dosage.shape[0], contrast.control.shape[1])
    deviations = np.zeros(shape, dtype=np.float32)
    bounds = None if interval is None else [np.zeros(shape, dtype=np.float32) for _ in range(2)]
    for i, query in enumerate(_each_row(dosage) if n_draws else ()):
        draws = unit * contrast.of_draws(query, n_draws, seed, _CELLS_OF_DRAWS)
        deviations[i] = draws.std(0).cpu().numpy()
        if bounds is not None and interval is not None:
            levels = [(1 - interval) / 2, (1 + interval) / 2]
            for bound, values in zip(bounds, np.quantile(draws.cpu().numpy(), levels, axis=0), strict=True):
                bound[i] = values
    return deviations, bounds


def _each_row(dosage: sparse.csr_matrix) -> Iterator[sparse.csr_matrix]:
    return (dosage[i] for i in range(dosage.shape[0]))


def _check_draws(n_draws: int, interval: float | None) -> None:
    if n_draws < 0 or n_draws == 1:
        msg = f"n_draws: expected 0, or at least 2 draws for a standard deviation, got {n_draws}."
        raise ValueError(msg)
    if interval is None:
        return
    if not 0 < interval < 1:
        msg = f"interval: expected a probability strictly between 0 and 1, got {interval!r}. Write 0.9 for 90 %."
        raise ValueError(msg)
    needed = int(np.ceil(round(2 / (1 - interval), 6)))
    if n_draws < needed:
        msg = f"n_draws: expected at least {needed} draws for an interval of {interval:g}, got {n_draws}. Pass n_draws=200."
        raise ValueError(msg)


def checked_scale(model: LatentShiftModel, scale: str | None) -> str:
    """Scale of effects, the default for `None`."""
    possible = ("log1p_cp10k", "perturbseq", "counts") if model.module.is_count_model else (model.scale,)
    chosen = possible[0] if scale in {None, "registered"} else scale
    if chosen not in possible:
        msg = f"scale: expected one of {possible} for data registered as {model.scale!r}, got {scale!r}."
        raise ScaleError(msg)
    return chosen


def queries_of(model: LatentShiftModel, perturbations: Sequence[Query] | None) -> sparse.csr_matrix:
    """Dosage of the queries, or of every perturbation in the registered data."""
    if perturbations is not None:
        return model._query_matrix(perturbations)
    if model.adata is None:
        return model._query_matrix(model.perturbations)
    unique, _ = unique_dosages(model.adata_manager.get_from_registry(_keys.PERTURBATION))
    return unique[np.diff(unique.indptr) > 0]
