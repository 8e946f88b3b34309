"""What all baselines share: effects of training cells, cells that are shifted by an effect, and readouts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS

from perturbia import _keys
from perturbia.errors import ScaleError, UnsupportedQuery, shorten
from perturbia.model.base._result import stamp
from perturbia.model.base.perturbation_model import PerturbationModel
from perturbia.model.baseline._closed_form_module import ClosedFormModule
from perturbia.model.baseline._training_effects import TrainingEffects, measure_effects
from perturbia.perturbation import dosage_labels, dosage_matrix, unique_dosages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.base._features import Scale
    from perturbia.perturbation import Perturbation
    from perturbia.perturbation.value import Query

__all__ = ["ClosedFormModel"]

logger = logging.getLogger(__name__)

# what a readout can not leave
_BOUNDS = {"log1p_cp10k": (0.0, None), "probability": (0.0, 1.0)}


class ClosedFormModel(PerturbationModel):
    r"""Base of baselines: a perturbation shifts every cell by the same effect.

    The coordinates of a cell are its features, log-normalised if they are counts
    (:math:`y = \log(1 + 10^4 x / l)`), less the effect that the model predicts for the cell's own perturbation.
    Perturbing adds the effect of the query; decoding clips at zero. Rows of a prediction are measured cells, so their
    spread holds biology and noise already: `layers["sd"]` is the sampling error of the effect alone.

    A subclass says how a query mixes measured effects (`_mix`), and which queries it can not answer (`_answerable`).
    """

    _module_cls = ClosedFormModule
    _answers: ClassVar[str] = "a registered perturbation"

    def __init__(self, adata: AnnData | None = None, registry: dict | None = None) -> None:
        super().__init__(adata, registry)
        stats = self.summary_stats
        self.module = ClosedFormModule(len(self.perturbations), stats.n_vars, stats.n_batch)
        self._model_summary_string = (
            f"{self._kind} of {stats.n_vars} features and {len(self.perturbations)} perturbations, in closed form"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def capabilities(self) -> frozenset:
        """What a query may ask for; counts are declared if they were registered."""
        return self._capabilities | ({"counts"} if self.scale == "counts" else set())

    def train(self, *, split_key: str | None = _keys.OBS_SPLIT) -> None:
        """Measure the effects of the training cells, in closed form.

        Effects are differences of means between the cells of a perturbation and controls of the same batch, weighted
        by where those cells lie. Other covariates are not adjusted for. Cells marked ``valid`` are not used, since
        other models do not learn from them either. Backed data are read into memory.

        Parameters
        ----------
        split_key
            Column of `obs` with ``train``, ``valid`` and ``test``. The default is used if it exists, otherwise all cells
            train; ``None`` ignores it.

        Returns
        -------
        Nothing; the model is trained in place.

        Raises
        ------
        SplitError
            If `split_key` does not exist, no training cell is marked, or none is perturbed.
        ControlError
            If no training cell is a control.
        """
        if self.adata is None:
            msg = f"adata: expected data to train on, got none. Make the model with {self._kind}(adata)."
            raise ValueError(msg)
        none = np.array([], dtype=int)
        splits = self._marked_splits(split_key) or [np.arange(self.adata.n_obs), none, none]
        manager, chosen = self.adata_manager, splits[0]
        features, _ = self._features(self.adata, chosen)
        batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()[chosen].astype(np.int64)
        dosage = self._registered_dosage(self.adata, chosen)
        measured = measure_effects(features, dosage, batch, self.summary_stats.n_batch)
        self.module.remember(measured, self._solve(measured))
        self.train_indices_, self.validation_indices_, self.test_indices_ = splits
        self.is_trained_ = True

    def estimate_ate(
        self,
        perturbations: Sequence[Query] | None = None,
        *,
        scale: Literal["log1p_cp10k", "perturbseq", "registered"] | None = None,
    ) -> AnnData:
        """Average treatment effects: the shift that the model gives to every cell.

        Parameters
        ----------
        perturbations
            Queries; by default every perturbation and combination in the registered data that the model can answer
            (without data: every one that was measured).
        scale
            ``"log1p_cp10k"``: difference of means of log-normalised counts; ``"perturbseq"``: the same in base 2.
            ``"registered"`` for features that are not counts.

        Returns
        -------
        AnnData `(n_perturbations, n_features)`, float32: `X` effects, `layers["se"]` their sampling standard errors
        (zero where the model has none), `layers["sd"]` zeros, `obs["n_cells"]` training cells of exactly that
        perturbation.

        Raises
        ------
        UnknownPerturbation, UnsupportedQuery, NotTrainedError, ScaleError
            If a query, the model or the scale can not be used.
        """
        self._require_trained()
        possible = ("log1p_cp10k", "perturbseq") if self.scale == "counts" else (self.scale,)
        chosen = possible[0] if scale in {None, "registered"} else scale
        if chosen not in possible:
            msg = f"scale: expected one of {possible} for effects of {self._kind}, got {scale!r}."
            raise ScaleError(msg)
        dosage = self._default_queries() if perturbations is None else self._query_matrix(perturbations)
        values, errors = self._expected(dosage)
        unit = 1 / np.log(2) if chosen == "perturbseq" else 1.0
        labels = dosage_labels(dosage, self.perturbations)
        out = self._as_features(values * unit, list(labels))
        out.layers[_keys.LAYER_SE] = (errors * unit).astype(np.float32)
        out.layers[_keys.LAYER_SD] = np.zeros_like(out.X)
        measured = self.module.measured()
        counted = pd.Series(measured.n_cells, index=dosage_labels(measured.dosage, self.perturbations))
        out.obs["n_cells"] = counted.reindex(labels, fill_value=0).to_numpy()
        out.obs.index = pd.Index(labels, name=None)
        return stamp(out, kind="effect", ur_id=self.ur_id, model=self._kind, scale=chosen)

    def _default_queries(self) -> sparse.csr_matrix:
        if self.adata is None:
            return self.module.measured().dosage
        unique, _ = unique_dosages(self._registered_dosage(self.adata, np.arange(self.adata.n_obs)))
        return unique[(np.diff(unique.indptr) > 0) & self._answerable(unique)]

    # what tells one baseline from another --------------------------------------------------------------------------

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        """What to keep besides the measured effects."""
        del measured
        return np.zeros((0, 0))

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        """Weights `(n_queries, K)` of the measured effects in the effect of each query."""
        raise NotImplementedError

    def _answerable(self, dosage: sparse.csr_matrix) -> np.ndarray:
        """Which queries the model has an estimate for, bool `(n_queries,)`."""
        return np.ones(dosage.shape[0], dtype=bool)

    def _expected(self, dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Effects of queries and their standard errors, both `(n_queries, n_features)`."""
        measured = self.module.measured()
        return measured.combine(sparse.csr_matrix(self._mix(dosage, measured)))

    # hooks of the protocol -----------------------------------------------------------------------------------------

    def _check_capabilities(self, perturbation: Perturbation) -> None:
        self._require_trained()  # what was measured decides what can be answered
        if not self._answerable(dosage_matrix([perturbation], self.perturbations))[0]:
            lacking = "combination" if len(perturbation) > 1 else "dose"
            if all(dose == 1.0 for dose in perturbation.doses) and len(perturbation) == 1:
                lacking = "unseen_perturbation"
            msg = (
                f"query: expected {self._answers}, got {str(perturbation)!r}; {self._kind} lacks the capability "
                f"{lacking!r}. {self._instead}"
            )
            raise UnsupportedQuery(msg)

    _instead: ClassVar[str] = "Use Ridge or SAMSVAE."

    def _latent_var(self) -> pd.DataFrame:
        return pd.DataFrame({"kind": "gene"}, index=pd.Index(self.get_var_names(), name=None))

    def _encode_cells(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        del batch_size  # the result is dense in any case
        unique, inverse = unique_dosages(self._registered_dosage(adata, indices))
        answerable = self._answerable(unique)
        if not answerable.all():
            labels = dosage_labels(unique[~answerable], self.perturbations)
            msg = (
                f"adata: expected cells of {self._answers}, found {shorten(labels, limit=5)}. {self._kind} can not "
                "remove their effect: choose other cells with `indices`."
            )
            raise UnsupportedQuery(msg)
        features, library = self._features(adata, indices)
        effects = self._expected(unique)[0].astype(np.float32)
        basal = (features.toarray() if isinstance(features, sparse.csr_matrix) else features) - effects[inverse]
        return basal.astype(np.float32, copy=False), np.zeros(basal.shape, dtype=np.float32), library

    def _draw_offsets(
        self, dosage: sparse.csr_matrix, n_draws: int, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | float]:
        effect, error = self._expected(dosage)
        if n_draws == 1:
            return effect, error[0]
        return effect + error * np.random.default_rng(seed).standard_normal((n_draws, effect.shape[1])), 0.0

    def _decode_cells(self, latent: AnnData, scale: Scale, batch_size: int | None) -> tuple[np.ndarray, np.ndarray]:
        del batch_size
        values, sd = np.asarray(latent.X), np.asarray(latent.layers[_keys.LAYER_SD])
        if scale == "counts":
            values = np.clip(values, 0.0, None)
            unit = latent.obs[_keys.OBS_LIBRARY].to_numpy(np.float32)[:, None] / 1e4
            return unit * np.expm1(values), unit * np.exp(values) * sd
        return (np.clip(values, *_BOUNDS[scale]) if scale in _BOUNDS else values.copy()), sd.copy()

    # cells ---------------------------------------------------------------------------------------------------------

    def _features(
        self, adata: AnnData, indices: np.ndarray
    ) -> tuple[np.ndarray | sparse.csr_matrix, np.ndarray | None]:
        """Features of cells on the scale of the effects, dense or CSR, and the library sizes of counts."""
        manager = self.get_anndata_manager(adata, required=True)
        matrix = _rows(manager.get_from_registry(REGISTRY_KEYS.X_KEY), indices)
        if self.scale != "counts":
            return matrix, None
        if REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry:
            library = np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY), dtype=np.float32)
            library = library.ravel()[indices]
        else:
            library = np.asarray(matrix.sum(1), dtype=np.float32).ravel()
        if isinstance(matrix, sparse.csr_matrix):
            scaled = sparse.csr_matrix(sparse.diags(1e4 / library).astype(np.float32) @ matrix)
            scaled.data = np.log1p(scaled.data)
            return scaled, library
        return np.log1p(matrix * (1e4 / library)[:, None]), library


def _rows(matrix: Any, indices: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """Rows of a matrix in memory or backed, as float32, dense or CSR."""
    distinct, inverse = np.unique(indices, return_inverse=True)  # files want rising indices
    part = matrix[distinct]
    if sparse.issparse(part):
        return sparse.csr_matrix(part, dtype=np.float32)[inverse]
    return np.asarray(part, dtype=np.float32)[inverse]
