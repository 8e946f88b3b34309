"""What every perturbation model shares: registration, queries, and prediction as encode, perturb, decode."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._constants import _SCVI_UUID_KEY, _SETUP_ARGS_KEY
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)
from scvi.model.base import BaseModelClass

from perturbia import _keys
from perturbia.errors import (
    ControlError,
    ExtrapolationWarning,
    NotTrainedError,
    UnknownPerturbation,
    UnsupportedQuery,
)
from perturbia.model.base._covariates import check_categories, check_columns
from perturbia.model.base._features import Scale, check_features, match_features
from perturbia.model.base._result import check_source, representation_id, stamp
from perturbia.perturbation import as_perturbation, dosage_labels, dosage_matrix
from perturbia.perturbation.field import PerturbationField, registered_perturbations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from perturbia.model.base.protocol import Capability
    from perturbia.perturbation import Perturbation
    from perturbia.perturbation.value import Query

__all__ = ["PerturbationModel"]


class PerturbationModel(BaseModelClass):
    """Base of perturbation models on AnnData.

    A subclass provides `_encode_cells`, `_draw_offsets` and `_decode_cells`; encoding, perturbing, decoding and
    predicting with all their checks follow.
    """

    _capabilities: frozenset[Capability] = frozenset()

    @classmethod
    def setup_anndata(
        cls,
        adata: ad.AnnData,
        layer: str | None = None,
        *,
        scale: Scale = "counts",
        perturbation_key: str | None = None,
        perturbation_obsm_key: str | None = None,
        dose_key: str | None = None,
        control: str | Sequence[str] = "control",
        sep: str = "+",
        batch_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        size_factor_key: str | None = None,
        **kwargs: object,
    ) -> None:
        """Register features, perturbations and covariates.

        Parameters
        ----------
        adata
            Annotated data; not a view. May be backed.
        layer
            Layer with the features, ``None`` for `X`.
        scale
            What the features are. Counts are checked: whole, not negative, no cell without any.
        perturbation_key
            Column of `obs` with labels such as ``"A"``, ``"A+B"``, ``"A@0.5"``. Exactly one of this and
            `perturbation_obsm_key` is needed.
        perturbation_obsm_key
            Key of `obsm` with a multi-hot or dose matrix, dense, sparse or a data frame; controls are zero rows.
        dose_key
            Column of `obs` with doses: numbers, or text such as ``"1.0+0.5"`` in the order of the label.
        control
            Label or labels of control cells.
        sep
            What separates the members of a combination in the labels.
        batch_key
            Column of `obs` with the batch.
        categorical_covariate_keys
            Columns of `obs` with further categorical covariates.
        continuous_covariate_keys
            Columns of `obs` with continuous covariates.
        size_factor_key
            Column of `obs` with library sizes to use in place of the sum of the registered features.
        **kwargs
            Used when a model is loaded or transferred, such as `source_registry`.

        Returns
        -------
        Nothing; writes `obsm["_perturbia_dosage"]` (CSR float32, `(n_obs, n_perturbations)`) and the columns of
        scvi-tools (`obs["_scvi_batch"]`, …, `uns["_scvi_uuid"]`, `uns["_scvi_manager_uuid"]`).

        Raises
        ------
        ScaleError
            If the features contradict `scale`.
        ControlError
            If no cell is a control.
        LabelError, DoseError
            If labels or doses are missing, malformed or negative.
        KeyError
            If a named column, layer or matrix does not exist.
        """
        setup_method_args = cls._get_setup_method_args(
            **{k: v for k, v in locals().items() if k not in {"adata", "kwargs"}}, adata=adata
        )
        check_columns(adata, setup_method_args[_SETUP_ARGS_KEY])
        check_features(adata, layer, scale)
        perturbations = PerturbationField(
            perturbation_key, perturbation_obsm_key, dose_key=dose_key, control=control, sep=sep
        )
        fields = [
            # first, because it refuses bad labels before any other field has written
            perturbations,
            # every value has been checked above; the check of scvi-tools reads a few, and knows no sparse arrays
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, categorical_covariate_keys),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, continuous_covariate_keys),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def __repr__(self) -> str:
        return self.summary_string

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What a query may ask for."""
        return self._capabilities

    @property
    def perturbations(self) -> list[str]:
        """Names of the registered single perturbations, in the order of the dosage columns."""
        return list(registered_perturbations(self.registry)["names"])

    @property
    def scale(self) -> Scale:
        """Declared scale of the registered features."""
        return self.registry["setup_args"].get("scale", "counts")

    @property
    def ur_id(self) -> str:
        """Identity of the coordinate system: changes with the class and with any weight."""
        return representation_id(self.module.state_dict(), [self._kind, *self.perturbations])

    def _read_query(self, query: Query) -> Perturbation:
        """Parse a query and refuse what the model has not learnt or can not express."""
        registered = registered_perturbations(self.registry)
        perturbation = as_perturbation(query, control=registered["control"], sep=registered["sep"])
        unknown = [name for name in perturbation.names if name not in set(registered["names"])]
        if unknown:
            raise UnknownPerturbation.among(unknown, registered["names"], argument="query")
        self._check_capabilities(perturbation)
        return perturbation

    def _warn_of_doses(self, perturbation: Perturbation) -> None:
        """Warn of doses outside the range in which the registered data have the target."""
        registered = registered_perturbations(self.registry)
        ranges = dict(zip(registered["names"], registered["dose_range"], strict=True))
        for name, dose in perturbation.targets.items():
            low, high = ranges[name]
            if not low <= dose <= high and high > 0:
                msg = f"query: dose {dose:g} of {name!r} lies outside the registered range, {low:g} to {high:g}."
                warnings.warn(msg, ExtrapolationWarning, stacklevel=3)

    def _check_capabilities(self, perturbation: Perturbation) -> None:
        """Refuse a query of registered names that needs a capability the model lacks."""
        if len(perturbation) > 1 and "combination" not in self.capabilities:
            msg = f"query: expected a single perturbation, got {str(perturbation)!r}; {self._kind} knows no combinations."
            raise UnsupportedQuery(msg)
        if any(dose != 1.0 for dose in perturbation.doses) and "dose" not in self.capabilities:
            msg = f"query: expected dose 1, got {str(perturbation)!r}; {self._kind} knows no doses."
            raise UnsupportedQuery(msg)

    def _query_matrix(self, queries: Sequence[Query]) -> sparse.csr_matrix:
        perturbations = [self._read_query(query) for query in queries]
        for perturbation in perturbations:
            self._warn_of_doses(perturbation)
        return dosage_matrix(perturbations, self.perturbations)

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def _require_trained(self) -> None:
        if not self.is_trained_:
            msg = f"{self._kind}: expected a trained model. Call .train() first."
            raise NotTrainedError(msg)

    def _validate_anndata(self, adata: ad.AnnData | None = None, copy_if_view: bool = True) -> ad.AnnData:  # noqa: FBT001, FBT002
        adata = self.adata if adata is None else adata
        if adata is None:
            msg = f"adata: expected data, got None, and this {self._kind} was made without any. Pass the cells."
            raise ValueError(msg)
        if adata is not self.adata:
            adata = match_features(adata, self.get_var_names())
            self._check_new(adata)
        without_data = self.adata_manager is None
        adata = super()._validate_anndata(adata, copy_if_view)
        if without_data:
            # scvi-tools would take the first data it is shown for the training data, to which our indices refer
            self._adata = self._adata_manager = None
        return adata

    def _check_new(self, adata: ad.AnnData) -> None:
        """Check data that this model has not met before, so that a transfer is as strict as a registration."""
        managers = type(self)._per_instance_manager_store.get(self.id, {})
        known = managers.get(adata.uns.get(_SCVI_UUID_KEY))
        if known is not None and known.adata is adata:
            return
        setup_args = self.registry[_SETUP_ARGS_KEY]
        check_columns(adata, setup_args)
        check_categories(adata, self.registry)
        check_features(adata, setup_args.get("layer"), self.scale)
        if known is not None:
            adata.uns.pop(_SCVI_UUID_KEY)  # a copy of data met before has to be registered anew

    def _cells(self, adata: ad.AnnData | None, indices: Sequence[int] | None) -> tuple[ad.AnnData, np.ndarray]:
        """Validated data and the integer positions of the chosen cells."""
        self._require_trained()
        adata = self._validate_anndata(adata)
        chosen = np.arange(adata.n_obs) if indices is None else np.asarray(indices)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        if len(chosen) == 0:
            msg = "indices: expected at least one cell, got an empty selection."
            raise ValueError(msg)
        return adata, chosen

    def _registered_dosage(self, adata: ad.AnnData, indices: np.ndarray) -> sparse.csr_matrix:
        return self.get_anndata_manager(adata, required=True).get_from_registry(_keys.PERTURBATION)[indices]

    def encode(
        self, adata: ad.AnnData | None = None, *, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> ad.AnnData:
        """Place cells in the coordinate system of the model, with their own perturbation removed.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells to encode, positions or a boolean mask; all by default.
        batch_size
            Cells per batch.

        Returns
        -------
        AnnData `(n_cells, n_latent)`: `X` posterior means, float32, `layers["sd"]` their standard deviations, `obs` of
        the cells with `pb_perturbation`, `pb_draw`, `pb_source` and, for counts, `pb_library`; metadata in
        `uns["perturbia"]`.

        Raises
        ------
        NotTrainedError
            Before training.
        FeatureMismatch
            If registered features are missing.
        """
        adata, chosen = self._cells(adata, indices)
        distinct, inverse = np.unique(chosen, return_inverse=True)  # loaders of backed data sort what they are asked for
        mean, sd, library = self._encode_cells(adata, distinct, batch_size)
        if not np.array_equal(distinct, chosen):
            mean, sd, library = mean[inverse], sd[inverse], None if library is None else library[inverse]
        obs = adata.obs.iloc[chosen].copy()
        obs[_keys.OBS_PERTURBATION] = dosage_labels(self._registered_dosage(adata, chosen), self.perturbations)
        obs[_keys.OBS_DRAW] = 0
        obs[_keys.OBS_SOURCE] = adata.obs_names[chosen].astype(str).to_numpy()
        if library is not None:
            obs[_keys.OBS_LIBRARY] = library
        latent = ad.AnnData(mean, obs=obs, var=self._latent_var(), layers={_keys.LAYER_SD: sd})
        return stamp(latent, kind="latent", ur_id=self.ur_id, model=self._kind, scale="embedding")

    def perturb(self, latent: ad.AnnData, query: Query, *, n_draws: int = 1, seed: int | None = 0) -> ad.AnnData:
        """Give cells a perturbation in place of whatever they had.

        Parameters
        ----------
        latent
            Result of :meth:`encode`.
        query
            A :class:`~perturbia.Perturbation`, a label such as ``"A+B"`` or ``"A@0.5"``, or a mapping of doses.
        n_draws
            1 shifts by the posterior mean of the effect and adds its variance to `layers["sd"]`; more stack that many
            draws of the effect.
        seed
            Seed of the draws; ``None`` draws afresh.

        Returns
        -------
        AnnData `(n_cells * n_draws, n_latent)` of the same form, draw after draw.

        Raises
        ------
        UnknownPerturbation, UnsupportedQuery
            If the model can not answer the query.
        RepresentationMismatch
            If `latent` is in the coordinates of another model.

        Warns
        -----
        ExtrapolationWarning
            If a dose lies outside the range in which the registered data have its target.
        """
        self._require_trained()
        perturbation = self._read_query(query)
        self._warn_of_doses(perturbation)
        check_source(latent, ur_id=self.ur_id, model=self._kind)
        if n_draws < 1:
            msg = f"n_draws: expected a positive integer, got {n_draws}."
            raise ValueError(msg)
        dosage = dosage_matrix([perturbation], self.perturbations)
        offsets, spread = self._draw_offsets(dosage, n_draws, seed)
        base, sd = np.asarray(latent.X), np.asarray(latent.layers[_keys.LAYER_SD])
        obs = pd.concat([latent.obs] * n_draws)
        obs[_keys.OBS_PERTURBATION] = str(perturbation)
        obs[_keys.OBS_DRAW] = np.repeat(np.arange(n_draws), latent.n_obs)
        if n_draws > 1:
            obs.index = obs[_keys.OBS_SOURCE].astype(str) + "-" + obs[_keys.OBS_DRAW].astype(str)
        shifted = (base[None] + offsets[:, None]).reshape(-1, base.shape[1]).astype(np.float32)
        wider = np.sqrt(np.tile(sd, (n_draws, 1)) ** 2 + spread**2).astype(np.float32)
        out = ad.AnnData(shifted, obs=obs, var=latent.var.copy(), layers={_keys.LAYER_SD: wider})
        return stamp(out, kind="latent", ur_id=self.ur_id, model=self._kind, scale="embedding", seed=seed)

    def decode(
        self, latent: ad.AnnData, *, scale: Scale | None = None, batch_size: int | None = None
    ) -> ad.AnnData:
        """Read features out of coordinates.

        Parameters
        ----------
        latent
            Result of :meth:`encode` or :meth:`perturb`. Batch, covariates and `pb_library` are read from its `obs`,
            and may be changed there.
        scale
            Scale of the readout. For a model of counts ``"log1p_cp10k"`` (default) or ``"counts"``; otherwise the
            registered scale.
        batch_size
            Cells per batch.

        Returns
        -------
        AnnData `(n_cells, n_features)`: `X` expected features, float32, `layers["sd"]` their predictive standard
        deviation (measurement noise and latent uncertainty), `obs` of `latent`, metadata in `uns["perturbia"]`.

        Raises
        ------
        RepresentationMismatch
            If `latent` is in the coordinates of another model.
        ScaleError
            If the model can not express the scale.
        """
        self._require_trained()
        check_source(latent, ur_id=self.ur_id, model=self._kind)
        scale = self._readout_scale(scale)
        mean, sd = self._decode_cells(latent, scale, batch_size)
        var = pd.DataFrame(index=pd.Index(self.get_var_names(), name=None))
        out = ad.AnnData(mean, obs=latent.obs.copy(), var=var, layers={_keys.LAYER_SD: sd})
        return stamp(out, kind="readout", ur_id=self.ur_id, model=self._kind, scale=scale)

    def predict(
        self,
        adata: ad.AnnData | None,
        query: Query,
        *,
        cells: Literal["control", "all"] = "control",
        scale: Scale | None = None,
        n_draws: int = 1,
        seed: int | None = 0,
        batch_size: int | None = None,
    ) -> ad.AnnData:
        """Predict a population of cells under a perturbation: encode, perturb and decode.

        Parameters
        ----------
        adata
            Cells to start from, ``None`` for the data of the model.
        query
            The perturbation, as in :meth:`perturb`.
        cells
            Start from the control cells of `adata`, or from every cell with its own perturbation removed.
        scale
            Scale of the readout, as in :meth:`decode`.
        n_draws
            Draws of the effect, as in :meth:`perturb`.
        seed
            Seed of the draws.
        batch_size
            Cells per batch.

        Returns
        -------
        AnnData `(n_cells * n_draws, n_features)`, as :meth:`decode` returns it.

        Raises
        ------
        ControlError
            If `cells="control"` and `adata` holds no control cell.
        UnknownPerturbation, UnsupportedQuery, NotTrainedError, FeatureMismatch, ScaleError
            As in the three steps.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=1, n_genes=20, n_latent=2)
        >>> pb.model.Additive.setup_anndata(adata, perturbation_key="perturbation")
        >>> model = pb.model.Additive(adata)
        >>> model.train()
        >>> model.predict(adata, "P01+P02").shape
        (600, 20)
        """
        self._require_trained()
        self._read_query(query)
        self._readout_scale(scale)
        indices = None
        if cells == "control":
            adata, every = self._cells(adata, None)
            indices = self._control_cells(adata, every)
        latent = self.encode(adata, indices=indices, batch_size=batch_size)
        perturbed = self.perturb(latent, query, n_draws=n_draws, seed=seed)
        return self.decode(perturbed, scale=scale, batch_size=batch_size)

    def _control_cells(self, adata: ad.AnnData, indices: np.ndarray) -> np.ndarray:
        dosage = self._registered_dosage(adata, indices)
        controls = indices[np.diff(dosage.indptr) == 0]
        if len(controls) == 0:
            msg = "adata: expected control cells to start from, found none. Pass some, or ask for cells='all'."
            raise ControlError(msg)
        return controls

    def _as_features(self, values: np.ndarray, labels: Sequence[str]) -> ad.AnnData:
        """AnnData over the registered features with one perturbation label per row."""
        obs = pd.DataFrame({_keys.OBS_PERTURBATION: list(labels)}, index=[str(i) for i in range(len(labels))])
        var = pd.DataFrame(index=pd.Index(self.get_var_names(), name=None))
        return ad.AnnData(values.astype(np.float32), obs=obs, var=var)

    def _readout_scale(self, scale: Scale | None) -> Scale:
        from perturbia.errors import ScaleError

        possible = ("log1p_cp10k", "counts") if self.scale == "counts" else (self.scale,)
        if scale is None:
            return possible[0]
        if scale not in possible:
            msg = f"scale: expected one of {possible} for data registered as {self.scale!r}, got {scale!r}."
            raise ScaleError(msg)
        return scale

    # hooks of subclasses -------------------------------------------------------------------------------------------

    def _latent_var(self) -> pd.DataFrame:
        """Annotation of the latent dimensions."""
        raise NotImplementedError

    def _encode_cells(
        self, adata: ad.AnnData, indices: np.ndarray, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Mean, standard deviation (both `(n, L)` float32) and library size `(n,)` or None."""
        raise NotImplementedError

    def _draw_offsets(
        self, dosage: sparse.csr_matrix, n_draws: int, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | float]:
        """Offsets `(n_draws, L)` of one dosage row, and the standard deviation not expressed by draws."""
        raise NotImplementedError

    def _decode_cells(
        self, latent: ad.AnnData, scale: Scale, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, both `(n, n_features)` float32."""
        raise NotImplementedError
