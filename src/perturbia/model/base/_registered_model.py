"""Registration of features and perturbations, and the checks of what later reads them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import rich.pretty  # noqa: F401  scvi-tools calls it in view_anndata_setup but does not import it
from scvi import REGISTRY_KEYS
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
    SplitError,
    UnknownPerturbation,
    UnsupportedQuery,
)
from perturbia.model.base._covariates import check_categories, check_columns
from perturbia.model.base._features import Scale, check_anndata, check_features, match_features
from perturbia.model.base._minified import check_minified, lacks_features
from perturbia.model.base._minified_fields import minified_fields
from perturbia.model.base._positions import read_positions
from perturbia.model.base._result import representation_id
from perturbia.model.base._screen_dataset import ScreenManager
from perturbia.perturbation import Perturbation, as_perturbation, dosage_matrix
from perturbia.perturbation.field import PerturbationField, registered_perturbations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    from scipy import sparse

    from perturbia.model.base.protocol import Capability
    from perturbia.perturbation.value import Query

__all__ = ["RegisteredModel"]

logger = logging.getLogger(__name__)


class RegisteredModel(BaseModelClass):
    """A scvi-tools model that knows the perturbations of its data and reads queries about them."""

    _capabilities: frozenset[Capability] = frozenset()
    #: Whether ``control=None`` may register data without control cells.
    _may_lack_controls = False

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
        control: str | Sequence[str] | None = "control",
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
            Label or labels of control cells. Models that do without take None for data that have none.
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
        TypeError
            If `adata` is no AnnData.
        """
        check_anndata(adata)
        setup_method_args = cls._get_setup_method_args(
            **{k: v for k, v in locals().items() if k not in {"adata", "kwargs"}}, adata=adata
        )
        if control is None and not cls._may_lack_controls:
            msg = f"control: expected the label of control cells, got None; {cls.__name__} measures effects from them."
            raise ControlError(msg)
        perturbations = PerturbationField(
            perturbation_key, perturbation_obsm_key, dose_key=dose_key, control=control, sep=sep
        )
        cls._register(adata, setup_method_args, perturbations, **kwargs)

    @classmethod
    def _register(
        cls, adata: ad.AnnData, setup_method_args: dict, perturbations: PerturbationField, **kwargs: object
    ) -> None:
        """Check everything, then write: registration once the perturbations are known."""
        arguments = setup_method_args[_SETUP_ARGS_KEY]
        layer = arguments["layer"]
        check_columns(adata, arguments)
        check_minified(adata, cls)
        if not lacks_features(adata):
            check_features(adata, layer, arguments["scale"])
        fields = [
            # first, because it refuses bad labels before any other field has written
            perturbations,
            # every value has been checked above; the check of scvi-tools reads a few, and knows no sparse arrays
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, arguments["batch_key"]),
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, arguments["size_factor_key"], required=False),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, arguments["categorical_covariate_keys"]),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, arguments["continuous_covariate_keys"]),
            *minified_fields(adata),
        ]
        manager = ScreenManager(fields=fields, setup_method_args=setup_method_args)
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
        if perturbation.context and "unseen_context" not in self.capabilities:
            msg = (
                f"query: expected no context, got {perturbation!r}; {self._kind} lacks the capability 'unseen_context'. "
                "Choose the cells to start from instead."
            )
            raise UnsupportedQuery(msg)
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
            msg = (
                f"query: expected a single perturbation, got {str(perturbation)!r}; {self._kind} knows no combinations."
            )
            raise UnsupportedQuery(msg)
        if any(dose != 1.0 for dose in perturbation.doses) and "dose" not in self.capabilities:
            msg = f"query: expected dose 1, got {str(perturbation)!r}; {self._kind} knows no doses."
            raise UnsupportedQuery(msg)

    def _query_matrix(self, queries: Sequence[Query] | Query) -> sparse.csr_matrix:
        if isinstance(queries, str | Perturbation | Mapping):
            queries = [queries]  # one query, not a sequence of them
        queries = list(queries or [])  # type: ignore[arg-type]
        if len(queries) == 0:
            msg = (
                "perturbations: expected at least one query, got none. Leave it out for every registered perturbation."
            )
            raise ValueError(msg)
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
            check_anndata(adata)
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
        check_minified(adata, type(self))
        if not lacks_features(adata):
            check_features(adata, setup_args.get("layer"), self.scale)
        if known is not None:
            adata.uns.pop(_SCVI_UUID_KEY)  # a copy of data met before has to be registered anew

    def _cells(
        self, adata: ad.AnnData | None, indices: Sequence[int] | np.ndarray | None
    ) -> tuple[ad.AnnData, np.ndarray]:
        """Validated data and the integer positions of the chosen cells."""
        self._require_trained()
        adata = self._validate_anndata(adata)
        return adata, read_positions(indices, adata.n_obs, argument="indices")

    def _marked_splits(self, split_key: str | None) -> list[np.ndarray] | None:
        """Training, validation and test cells as a column of `obs` marks them; None without such a column."""
        if split_key is None:
            return None
        if split_key not in self.adata.obs:
            if split_key == _keys.OBS_SPLIT:
                return None
            # misspelt, it would train on the test cells
            msg = f"split_key: expected a column of obs, got {split_key!r}. Make one with perturbia.tl.split, or pass None."
            raise SplitError(msg)
        values = self.adata.obs[split_key].astype(str).to_numpy()
        splits = [np.flatnonzero(values == part) for part in _keys.SPLIT_VALUES]
        if len(splits[0]) == 0:
            msg = f"split_key: expected cells marked 'train' in obs[{split_key!r}], found {sorted(set(values))[:5]}."
            raise SplitError(msg)
        logger.info("Training on the cells that obs[%r] marks as 'train'.", split_key)
        return splits

    def _registered_dosage(self, adata: ad.AnnData, indices: np.ndarray) -> sparse.csr_matrix:
        return self.get_anndata_manager(adata, required=True).get_from_registry(_keys.PERTURBATION)[indices]

    def _control_cells(self, adata: ad.AnnData, indices: np.ndarray) -> np.ndarray:
        dosage = self._registered_dosage(adata, indices)
        controls = indices[np.diff(dosage.indptr) == 0]
        if len(controls) == 0:
            msg = "adata: expected control cells to start from, found none. Pass some, or ask for cells='all'."
            raise ControlError(msg)
        return controls
