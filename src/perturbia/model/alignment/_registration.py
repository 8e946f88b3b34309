"""Registration of two modalities that share labels, for all models that align them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi.data import AnnDataManager, AnnDataManagerValidationCheck
from scvi.data._constants import _SETUP_ARGS_KEY
from scvi.data.fields import MuDataLayerField, MuDataObsmField
from scvi.model.base import BaseModelClass

from perturbia.errors import ModalityError, NotTrainedError
from perturbia.model.alignment._label_field import SharedLabelField
from perturbia.model.alignment._modalities import check_mudata, read_features, two_modalities
from perturbia.model.alignment._shared_labels import read_labels, shared_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData
    from mudata import MuData

__all__ = ["ROLES", "RegisteredAligner"]

ROLES = ("source", "target")


class RegisteredAligner(BaseModelClass):
    """A scvi-tools model of two modalities of a MuData whose cells share labels and nothing else."""

    def __init__(self, mdata: MuData | None = None, registry: dict | None = None) -> None:
        super().__init__(mdata, registry)
        states = {role: self.registry["field_registries"][f"X_{role}"]["state_registry"] for role in ROLES}
        # their names; scvi-tools overwrites those of the registry when a model is loaded with other data
        self.features_ = {role: [str(name) for name in state.get("column_names", ())] for role, state in states.items()}

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        perturbation_key: str = "perturbation",
        modalities: dict[str, str] | None = None,
        source_rep: str | None = None,
        target_rep: str | None = None,
        source_layer: str | None = None,
        target_layer: str | None = None,
        control: str | Sequence[str] | None = None,
        sep: str | None = "+",
        batch_key: str | None = None,
        paired: bool = False,
        min_cells: int = 10,
        **kwargs: Any,
    ) -> None:
        """Register two modalities and the labels that their cells share.

        Parameters
        ----------
        mdata
            Data with the modalities, whose cells have different names.
        perturbation_key
            Column of `obs` of **each modality** with perturbations, or other labels: what cells of both have in common.
            Labels must not be read off one modality alone, as cell types called from proteins are.
        modalities
            ``{"source": name, "target": name}``; by default the two that there are, in their order.
        source_rep, target_rep
            Keys of `obsm` of each modality with the features to use, such as ``"X_pca"``; None for `X` or a layer.
        source_layer, target_layer
            Layers to use in place of `X`. Values should be about symmetric: log-normalised, not raw counts.
        control
            Label or labels of control cells, if there are any: they count as one label.
        sep
            What separates the members of a combination, so that ``"A+B"`` is ``"B+A"``; None takes labels as they are.
        batch_key
            Column of `obs` of each modality with the batch or donor, for folds that keep batches together.
        paired
            Whether cells of the same name in both modalities are the same cell on purpose.
        min_cells
            Labels with fewer cells in a modality are named in a warning.
        **kwargs
            Used when a model is loaded or transferred, such as `source_registry`.

        Returns
        -------
        Nothing; writes `obs["_perturbia_label"]` of each modality and the identifiers of scvi-tools in `uns`.

        Raises
        ------
        TypeError
            If `mdata` is no MuData.
        ValueError
            If both modalities have cells of the same name, or `mdata` or one of them is a view.
        ModalityError, LabelError, FeatureMismatch, ScaleError
            If modalities, labels or features are missing or can not be used.

        Warns
        -----
        UserWarning
            Labels of one modality alone, or with few cells.
        """
        check_mudata(mdata)
        setup_method_args = cls._get_setup_method_args(
            **{k: v for k, v in locals().items() if k not in {"mdata", "kwargs"}}, mdata=mdata
        )
        roles, chosen = two_modalities(mdata, modalities, paired=paired)
        for name, adata in chosen.items():
            if adata.is_view:
                msg = (
                    f"mdata[{name!r}]: expected data that can be written to, got a view. Set "
                    f"mdata.mod[{name!r}] = mdata[{name!r}].copy(), or copy it before the MuData is made."
                )
                raise ValueError(msg)
        setup_method_args[_SETUP_ARGS_KEY]["modalities"] = roles
        sources = {"source": (source_rep, source_layer), "target": (target_rep, target_layer)}
        if kwargs.get("source_registry") is None:
            shared_labels(chosen, perturbation_key, control=control, sep=sep, min_cells=min_cells)
        else:
            for name, adata in chosen.items():
                read_labels(adata, perturbation_key, modality=name)
        for role, (rep, layer) in sources.items():
            read_features(chosen[roles[role]], use_rep=rep, layer=layer, modality=roles[role])
            if batch_key is not None and batch_key not in chosen[roles[role]].obs:
                msg = (
                    f"batch_key: expected a column of obs of each modality, got {batch_key!r}, not in {roles[role]!r}."
                )
                raise KeyError(msg)
        fields: list[Any] = []
        for role, other in zip(ROLES, ROLES[::-1], strict=True):
            rep, layer = sources[role]
            fields.append(
                SharedLabelField(
                    f"labels_{role}", roles[role], roles[other], perturbation_key, control=control, sep=sep
                )
            )
            fields.append(
                MuDataLayerField(f"X_{role}", layer, mod_key=roles[role], is_count_data=False, mod_required=True)
                if rep is None
                else MuDataObsmField(f"X_{role}", rep, mod_key=roles[role], mod_required=True)
            )
        manager = AnnDataManager(
            fields=fields,
            setup_method_args=setup_method_args,
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_anndata(cls, *args: Any, **kwargs: Any) -> None:
        """Not for this model: it needs two modalities, see :meth:`setup_mudata`.

        Parameters
        ----------
        *args, **kwargs
            Not used.

        Raises
        ------
        TypeError
            Always.
        """
        del args, kwargs
        msg = f"adata: {cls.__name__} expects MuData of two modalities. Use {cls.__name__}.setup_mudata(mdata, ...)."
        raise TypeError(msg)

    @property
    def modalities(self) -> dict[str, str]:
        """Role (``"source"``, ``"target"``) → name of the modality."""
        return dict(self._setup_argument("modalities"))

    @property
    def labels(self) -> list[str]:
        """Labels that both modalities have, in the order of their codes."""
        return list(self.registry["field_registries"]["labels_source"]["state_registry"]["names"])

    def _setup_argument(self, name: str) -> Any:
        return self.registry[_SETUP_ARGS_KEY][name]

    def _role(self, modality: str) -> str:
        # names come last: a modality may be called "source" and be the target
        roles = dict(zip(ROLES, ROLES, strict=True)) | {name: role for role, name in self.modalities.items()}
        if modality not in roles:
            names = ", ".join(repr(name) for name in self.modalities.values())
            msg = f"modality: expected one of {names}, got {modality!r}."
            raise ModalityError(msg)
        return roles[modality]

    def _n_features(self, role: str) -> int:
        registry = self.registry["field_registries"][f"X_{role}"]
        return int(next(value for key, value in registry["summary_stats"].items() if key != "n_cells"))

    def _modality(self, role: str, data: AnnData | MuData | None = None) -> AnnData:
        """Data of a modality: of the model, of other MuData, or given itself."""
        data = self.adata if data is None else data
        name = self.modalities[role]
        if data is None:
            msg = (
                f"adata: expected data, got None, and this {type(self).__name__} was made without any. Pass the cells."
            )
            raise ValueError(msg)
        if not hasattr(data, "mod"):
            return data
        if name not in data.mod:
            msg = f"adata: expected the modality {name!r}, got {list(data.mod)}."
            raise ModalityError(msg)
        return data.mod[name]

    def _features_of(self, role: str, data: AnnData | MuData | None = None) -> Any:
        """Features of the cells of a modality, in the order of registration."""
        adata = self._modality(role, data)
        rep, layer = self._setup_argument(f"{role}_rep"), self._setup_argument(f"{role}_layer")
        if rep is None:  # a loaded model may hold data whose features are in another order
            from perturbia.model.base._features import match_features

            adata = match_features(adata, self.features_[role])
        values = read_features(adata, use_rep=rep, layer=layer, modality=self.modalities[role])
        if values.shape[1] != (n := self._n_features(role)):
            msg = f"adata: expected the {n} registered features of {self.modalities[role]!r}, got {values.shape[1]}."
            raise ValueError(msg)
        return values

    def _codes_of(self, role: str) -> np.ndarray:
        """Code of the label of each cell of the model; -1 where it has none in common."""
        self._modality(role)
        self.adata_manager.validate()  # another registration of the same data may have written its own codes
        return self.adata_manager.get_from_registry(f"labels_{role}").ravel().copy()

    def _require_trained(self) -> None:
        if not self.is_trained_:
            msg = f"{type(self).__name__}: expected a trained model. Call .train() first."
            raise NotTrainedError(msg)

    def __repr__(self) -> str:
        return self.summary_string
