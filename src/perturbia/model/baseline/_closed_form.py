"""What all baselines share: effects of training cells, which queries take them, and what is refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS

from perturbia import _keys
from perturbia.errors import ScaleError, UnsupportedQuery
from perturbia.model.base._result import stamp
from perturbia.model.baseline._closed_form_module import ClosedFormModule
from perturbia.model.baseline._shifted_cells import ShiftedCells
from perturbia.model.baseline._training_effects import TrainingEffects, measure_effects
from perturbia.perturbation import dosage_labels, dosage_matrix, unique_dosages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.perturbation import Perturbation
    from perturbia.perturbation.value import Query

__all__ = ["ClosedFormModel"]

logger = logging.getLogger(__name__)


class ClosedFormModel(ShiftedCells):
    r"""Base of baselines: a perturbation shifts every cell by the same effect.

    The coordinates of a cell are its features, log-normalised if they are counts
    (:math:`y = \log(1 + 10^4 x / l)`), less the effect that the model predicts for the cell's own perturbation.
    Perturbing adds the effect of the query; decoding clips at zero. Rows of a prediction are measured cells, so their
    spread holds biology and noise already: `layers["sd"]` is the sampling error of the effect alone.

    A subclass says how a query mixes measured effects (`_mix`), and which queries it can not answer (`_answerable`).
    """

    _module_cls = ClosedFormModule

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
        UnsupportedQuery
            If the rule does not apply to these cells.
        """
        if self.adata is None:
            msg = f"adata: expected data to train on, got none. Make the model with {self._kind}(adata)."
            raise ValueError(msg)
        none = np.array([], dtype=int)
        splits = self._marked_splits(split_key) or [np.arange(self.adata.n_obs), none, none]
        manager, chosen = self.adata_manager, splits[0]
        dosage = self._registered_dosage(self.adata, chosen)
        self._check_training(dosage)
        features, _ = self._features(self.adata, chosen)
        batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()[chosen].astype(np.int64)
        measured = self._measure(features, dosage, batch, chosen)
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
        out.obs["n_cells"] = counted.groupby(level=0).sum().reindex(labels, fill_value=0).to_numpy()
        out.obs.index = pd.Index(labels, name=None)
        return stamp(out, kind="effect", ur_id=self.ur_id, model=self._kind, scale=chosen)

    def _default_queries(self) -> sparse.csr_matrix:
        # those that were measured may repeat, in one context and another
        known = self.module.measured().dosage if self.adata is None else self._every_dosage()
        unique, _ = unique_dosages(known)
        return unique[(np.diff(unique.indptr) > 0) & self._answerable(unique)]

    def _every_dosage(self) -> sparse.csr_matrix:
        return self._registered_dosage(self.adata, np.arange(self.adata.n_obs))

    # what tells one baseline from another --------------------------------------------------------------------------

    def _check_training(self, dosage: sparse.csr_matrix) -> None:
        """Refuse training cells, by their dosages, that the rule does not apply to."""

    def _measure(
        self, features: np.ndarray | sparse.csr_matrix, dosage: sparse.csr_matrix, batch: np.ndarray, cells: np.ndarray
    ) -> TrainingEffects:
        """Effects of the training cells, which are at the positions `cells` of the data."""
        del cells
        return measure_effects(features, dosage, batch, self.summary_stats.n_batch)

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        """What to keep besides the measured effects."""
        del measured
        return np.zeros((0, 0))

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        """Weights `(n_queries, K)` of the measured effects in the effect of each query."""
        raise NotImplementedError

    def _expected(self, dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        measured = self.module.measured()
        return measured.combine(sparse.csr_matrix(self._mix(dosage, measured)))

    # hooks of the protocol -----------------------------------------------------------------------------------------

    def _check_capabilities(self, perturbation: Perturbation) -> None:
        self._require_trained()  # what was measured decides what can be answered
        if not self._answerable(dosage_matrix([perturbation], self.perturbations))[0]:
            raise UnsupportedQuery(self._refusal(perturbation))

    def _refusal(self, perturbation: Perturbation) -> str:
        """What is wrong with a query that is not answerable."""
        lacking = "combination" if len(perturbation) > 1 else "dose"
        if all(dose == 1.0 for dose in perturbation.doses) and len(perturbation) == 1:
            lacking = "unseen_perturbation"
        return (
            f"query: expected {self._answers}, got {str(perturbation)!r}; {self._kind} lacks the capability "
            f"{lacking!r}. {self._instead}"
        )

    _instead: ClassVar[str] = "Use Ridge or SAMSVAE."
