"""Cells that are shifted by effects: how they are read, shifted, drawn anew and read out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS

from perturbia import _keys
from perturbia.errors import ControlError, UnsupportedQuery, shorten
from perturbia.model.base._arguments import check_positive_integer
from perturbia.model.base._result import stamp
from perturbia.model.base.perturbation_model import PerturbationModel
from perturbia.model.baseline._mixing import control_shares
from perturbia.perturbation import dosage_labels, dosage_matrix, unique_dosages

if TYPE_CHECKING:
    from perturbia.model.base._features import Scale
    from perturbia.perturbation.value import Query

__all__ = ["ShiftedCells"]

# what a readout can not leave
_BOUNDS = {"log1p_cp10k": (0.0, None), "probability": (0.0, 1.0)}


class ShiftedCells(PerturbationModel):
    """A model whose coordinates are the features of a cell, less the effect of the cell's own perturbation.

    A subclass says what the effect of a query is (`_expected`), which queries it can not answer (`_answerable`), and
    what those are that it can (`_answers`).
    """

    _answers = "a registered perturbation"
    # data, training cells, and what was found for them: registries are slow to ask for every query
    _found_controls: tuple[ad.AnnData, np.ndarray, np.ndarray, np.ndarray] | None = None

    def sample(
        self, query: Query, n_samples: int = 100, *, scale: Scale | None = None, seed: int | None = 0
    ) -> ad.AnnData:
        """Draw cells under a perturbation: training control cells, resampled and shifted by the effect.

        Cells are drawn with replacement, so their spread and the correlation of their features are those of measured
        cells; nothing is added for noise. With registered batches they come from each in the shares that the effect
        was measured with: where the training cells of the query are, or, if it has none, where those of its members
        are. Baselines draw the same cells for the same query and seed, and so differ in their effects alone
        (:class:`ContextMean` draws from contexts instead).

        Parameters
        ----------
        query
            The perturbation.
        n_samples
            Number of cells.
        scale
            Scale of the cells, as in :meth:`decode`.
        seed
            Seed of the draws; ``None`` draws afresh.

        Returns
        -------
        AnnData `(n_samples, n_features)`: `X` the cells, float32, clipped at the bounds of the scale, `layers["sd"]` the
        sampling error of their effect, `obs` with `pb_perturbation`, `pb_draw`, `pb_source` (the name of the control
        cell) and, for counts, `pb_library`; metadata in `uns["perturbia"]`.

        Raises
        ------
        ValueError
            If the model has no data, or data other than those it was trained on.
        ControlError
            If the data have no training control cells (of the context, if the query names one).
        UnknownPerturbation, UnsupportedQuery, NotTrainedError, ScaleError
            If the query, the model or the scale can not be used.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=1, n_genes=20, n_latent=2)
        >>> pb.model.Additive.setup_anndata(adata, perturbation_key="perturbation")
        >>> model = pb.model.Additive(adata)
        >>> model.train()
        >>> model.sample("P01+P02", 50).shape
        (50, 20)
        """
        self._require_trained()
        perturbation = self._read_query(query)
        self._warn_of_doses(perturbation)
        check_positive_integer("n_samples", n_samples)
        scale = self._readout_scale(scale)
        dosage = dosage_matrix([perturbation], self.perturbations)
        controls, probability = self._control_pool(dosage)
        drawn = np.random.default_rng(seed).choice(controls, n_samples, p=probability)
        distinct, inverse = np.unique(drawn, return_inverse=True)
        features, library = self._features(self.adata, distinct)
        effect, error = self._expected(dosage)
        # shifted before they are repeated: draws with replacement repeat many
        shifted = _dense(features) + effect.astype(np.float32)
        spread = np.broadcast_to(error.astype(np.float32), shifted.shape)
        values, sd = _read_out(shifted, spread, library, scale)
        obs = {
            _keys.OBS_PERTURBATION: str(perturbation),
            _keys.OBS_DRAW: 0,
            _keys.OBS_SOURCE: self.adata.obs_names.to_numpy()[drawn],
        }
        if library is not None:
            obs[_keys.OBS_LIBRARY] = library[inverse]
        out = ad.AnnData(
            values[inverse],
            obs=pd.DataFrame(obs, index=np.arange(n_samples).astype(str)),
            var=pd.DataFrame(index=pd.Index(self.get_var_names(), name=None)),
            layers={_keys.LAYER_SD: sd[inverse]},
        )
        return stamp(out, kind="readout", ur_id=self.ur_id, model=self._kind, scale=scale, seed=seed)

    def _control_pool(self, dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions of training control cells, and the probability of each for one query, None for equal ones."""
        controls, batch = self._training_controls()
        if not batch.any():
            return controls, None
        share = control_shares(dosage, self.module.measured())[0]
        probability = (share / np.maximum(np.bincount(batch, minlength=len(share)), 1))[batch]
        total = probability.sum()
        return controls, probability / total if total > 0 else None

    def _training_controls(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the training control cells in the data of the model, and their batches."""
        adata, trained = self.adata, self.train_indices_
        if self._found_controls is not None and self._found_controls[0] is adata and self._found_controls[1] is trained:
            return self._found_controls[2:]
        if adata is None:
            msg = (
                f"adata: expected the training data, whose control cells are drawn, got none. Load {self._kind} with "
                "`adata=`, or call predict on control cells."
            )
            raise ValueError(msg)
        if trained.max() >= adata.n_obs:
            msg = (
                f"adata: expected the training data, with at least {trained.max() + 1} cells, got {adata.n_obs}. "
                "Call predict on these cells."
            )
            raise ValueError(msg)
        manager = self.adata_manager
        controls = trained[np.diff(manager.get_from_registry(_keys.PERTURBATION).indptr)[trained] == 0]
        if len(controls) == 0:
            msg = "adata: expected control cells where those of the training data were, found none."
            raise ControlError(msg)
        batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()[controls].astype(np.int64)
        self._found_controls = (adata, trained, controls, batch)
        return controls, batch

    # hooks of the protocol -----------------------------------------------------------------------------------------

    def _expected(self, dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Effects of queries and their standard errors, both `(n_queries, n_features)`."""
        raise NotImplementedError

    def _answerable(self, dosage: sparse.csr_matrix) -> np.ndarray:
        """Which queries the model has an estimate for, bool `(n_queries,)`."""
        return np.ones(dosage.shape[0], dtype=bool)

    def _latent_var(self) -> pd.DataFrame:
        return pd.DataFrame({"kind": "gene"}, index=pd.Index(self.get_var_names(), name=None))

    def _encode_cells(
        self, adata: ad.AnnData, indices: np.ndarray, batch_size: int | None
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
        basal = _dense(features) - effects[inverse]
        return basal.astype(np.float32, copy=False), np.zeros(basal.shape, dtype=np.float32), library

    def _draw_offsets(
        self, dosage: sparse.csr_matrix, n_draws: int, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | float]:
        effect, error = self._expected(dosage)
        if n_draws == 1:
            return effect, error[0]
        return effect + error * np.random.default_rng(seed).standard_normal((n_draws, effect.shape[1])), 0.0

    def _decode_cells(self, latent: ad.AnnData, scale: Scale, batch_size: int | None) -> tuple[np.ndarray, np.ndarray]:
        del batch_size
        library = latent.obs[_keys.OBS_LIBRARY].to_numpy(np.float32) if scale == "counts" else None
        return _read_out(np.asarray(latent.X), np.asarray(latent.layers[_keys.LAYER_SD]), library, scale)

    # cells ---------------------------------------------------------------------------------------------------------

    def _features(
        self, adata: ad.AnnData, indices: np.ndarray
    ) -> tuple[np.ndarray | sparse.csr_matrix, np.ndarray | None]:
        """Features of cells on the scale of the effects, dense or CSR, and the library sizes of counts."""
        manager = self.get_anndata_manager(adata, required=True)
        matrix = _rows(manager.get_from_registry(REGISTRY_KEYS.X_KEY), indices)
        if self.scale != "counts":
            return matrix, None
        if self.registry["setup_args"].get("size_factor_key") is not None:
            library = np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY), dtype=np.float32)
            library = library.ravel()[indices]
        else:
            library = np.asarray(matrix.sum(1), dtype=np.float32).ravel()
        if isinstance(matrix, sparse.csr_matrix):
            unit = np.repeat((1e4 / library).astype(np.float32), np.diff(matrix.indptr))
            return sparse.csr_matrix(
                (np.log1p(matrix.data * unit), matrix.indices, matrix.indptr), matrix.shape
            ), library
        return np.log1p(matrix * (1e4 / library)[:, None]), library


def _rows(matrix: Any, indices: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """Rows of a matrix in memory or backed, as float32, dense or CSR."""
    distinct, inverse = np.unique(indices, return_inverse=True)  # files want rising indices
    part = matrix[distinct]
    part = sparse.csr_matrix(part, dtype=np.float32) if sparse.issparse(part) else np.asarray(part, dtype=np.float32)
    return part if np.array_equal(distinct, indices) else part[inverse]


def _dense(features: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    return features.toarray() if isinstance(features, sparse.csr_matrix) else features


def _read_out(
    values: np.ndarray, sd: np.ndarray, library: np.ndarray | None, scale: Scale
) -> tuple[np.ndarray, np.ndarray]:
    """Features and their standard deviation on a scale, new arrays, from those on the scale of the effects."""
    if scale == "counts":
        values = np.clip(values, 0.0, None)
        unit = np.asarray(library)[:, None] / 1e4
        return unit * np.expm1(values), unit * np.exp(values) * sd
    return (np.clip(values, *_BOUNDS[scale]) if scale in _BOUNDS else values.copy()), sd.copy()
