"""The scvi-tools field that registers perturbations, so that every minibatch carries a dosage matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scvi.data.fields import BaseAnnDataField

from perturbia import _keys
from perturbia.errors import LabelError, shorten
from perturbia.perturbation.design import Design, design_from_labels, design_from_matrix
from perturbia.perturbation.labels import CONTROL, check_control

if TYPE_CHECKING:
    import rich.table
    from anndata import AnnData
    from mudata import MuData


class PerturbationField(BaseAnnDataField):
    """Register who received what as `obsm["_perturbia_dosage"]`, under the registry key `perturbation`.

    Writes that one matrix (float32 CSR, n_obs x n_targets, control cells are zero rows) and nothing else, after every
    check has passed. Minibatches of Perturbia's models carry it as slots: `tensors["treatment_index"]`, int64 columns of
    the matrix, and `tensors["treatment_dose"]`, float32, both (batch, most treatments of one cell); other loaders of
    scvi-tools as `tensors["perturbation"]`, a dense float32 tensor (batch, n_targets). Names are sorted for labels, and keep their order for a matrix.

    Parameters
    ----------
    perturbation_key
        Column of `adata.obs` with labels such as `A`, `A+B`, `A+ctrl`, `A@0.5`.
    perturbation_obsm_key
        Key of `adata.obsm` with a multi-hot or dose matrix (DataFrame, dense or sparse). Give one of the two keys.
    dose_key
        Column of `adata.obs` with doses: numbers, or text such as `"0.5+1.0"` in the written order of the label.
    control
        Label or labels of control cells; None for data that need not have any.
    sep
        Text between targets in a label.

    Raises
    ------
    LabelError
        If not exactly one of the two keys is given.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from scvi.data import AnnDataManager
    >>> from perturbia.perturbation import PerturbationField
    >>> obs = pd.DataFrame({"condition": ["B+A", "ctrl", "A+ctrl"]}, index=list("xyz"))
    >>> adata = ad.AnnData(np.ones((3, 2), dtype="float32"), obs=obs)
    >>> field = PerturbationField("condition", control="ctrl")
    >>> AnnDataManager(fields=[field]).register_fields(adata)
    >>> field.names, adata.obsm["_perturbia_dosage"].toarray().tolist()
    (['A', 'B'], [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    """

    def __init__(
        self,
        perturbation_key: str | None = None,
        perturbation_obsm_key: str | None = None,
        *,
        dose_key: str | None = None,
        control: str | Sequence[str] | None = CONTROL,
        sep: str = "+",
    ) -> None:
        super().__init__()
        if (perturbation_key is None) == (perturbation_obsm_key is None):
            got = "neither" if perturbation_key is None else f"{perturbation_key!r} and {perturbation_obsm_key!r}"
            msg = (
                f"perturbation_key, perturbation_obsm_key: expected exactly one of them, got {got}. Name the column of "
                "labels in obs, or the matrix in obsm."
            )
            raise LabelError(msg)
        if perturbation_obsm_key is not None and dose_key is not None:
            msg = (
                f"dose_key: expected None with perturbation_obsm_key, got {dose_key!r}. Write the doses in the matrix."
            )
            raise LabelError(msg)
        self.source: Literal["obs", "obsm"] = "obsm" if perturbation_key is None else "obs"
        self.key: str = perturbation_obsm_key if perturbation_key is None else perturbation_key  # type: ignore[assignment]
        self.dose_key = dose_key
        self.requires_control = control is not None
        self.control = check_control(CONTROL if control is None else control)
        self.sep = sep
        self._names: list[str] | None = None

    @property
    def registry_key(self) -> str:
        """Key of this field in registries and minibatches."""
        return _keys.PERTURBATION

    @property
    def attr_name(self) -> str:
        """The AnnData attribute that holds the matrix."""
        return "obsm"

    @property
    def attr_key(self) -> str:
        """The key of the matrix in that attribute."""
        return _keys.OBSM_DOSAGE

    @property
    def is_empty(self) -> bool:
        """Never: perturbations are what these models are about."""
        return False

    @property
    def names(self) -> list[str]:
        """Targets, one per column of the matrix, as first registered with this field."""
        if self._names is None:
            msg = "field: expected a registered field, got one that has seen no data. Register an AnnData first."
            raise LabelError(msg)
        return list(self._names)

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Check that the data can be registered; writes nothing.

        Parameters
        ----------
        adata
            The data.

        Raises
        ------
        PerturbiaError
            As :meth:`register_field` does.
        """
        self._read(adata, require_control=self.requires_control)

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Read the perturbations and write the dosage matrix.

        Parameters
        ----------
        adata
            The data; gains `obsm["_perturbia_dosage"]`.

        Returns
        -------
        The state registry, plain Python: `names`, `control`, `sep`, `source` (`"obs"` or `"obsm"`), `key`, `dose_key`,
        `named` (False for generated names), `n_cells` (registered cells per target), `dose_range` (lowest and highest
        dose per target).

        Raises
        ------
        LabelError
            If the column or matrix is missing, or holds labels that cannot be read.
        ControlError
            If there is no control cell, unless `control` was None.
        DoseError
            If a dose is missing or not positive.
        """
        design, named = self._read(adata, require_control=self.requires_control)
        adata.obsm[self.attr_key] = design.matrix
        self._names = list(design.names)
        return self._state(design, named=named)

    def transfer_field(
        self,
        state_registry: dict[str, Any],
        adata_target: AnnData | MuData,
        *,
        extend_categories: bool = False,
        allow_missing_labels: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Write the dosage matrix of other data with the columns of an earlier registration.

        Parameters
        ----------
        state_registry
            What :meth:`register_field` returned for the first data.
        adata_target
            The other data; gains `obsm["_perturbia_dosage"]`. It needs no control cells.
        extend_categories
            Append new targets at the end instead of raising.
        allow_missing_labels
            Accepted for scvi-tools; cells without labels are refused all the same, since calling them all control
            would be a guess.
        **kwargs
            Further options of scvi-tools, not used.

        Returns
        -------
        The state registry with the names of the first, followed by new ones where `extend_categories`.

        Raises
        ------
        UnknownPerturbation
            If a target was not registered and `extend_categories` is False.
        LabelError
            If the data have no labels, or the matrix has no names to compare.
        """
        names = list(state_registry["names"])
        design, named = self._read(adata_target, require_control=False, state=state_registry)
        argument = f"adata.{self.source}[{self.key!r}]"
        if named != state_registry.get("named", True) or (not named and len(design.names) != len(names)):
            width = f"{len(design.names)} columns" + ("" if named else " without names")
            source = f"{len(names)} columns" + (
                f" named {shorten(names, limit=3)}" if state_registry.get("named", True) else ""
            )
            msg = f"{argument}: expected the registered {source}, got {width}. Pass a DataFrame with target names."
            raise LabelError(msg)
        design = design.on(names, extend=extend_categories, argument=argument)
        adata_target.obsm[self.attr_key] = design.matrix
        if self._names is None:
            self._names = list(design.names)
        # what the model saw stays what it saw; only new targets bring their own counts and doses
        state = dict(state_registry)
        fresh = self._state(design, named=named)
        state["names"] = list(design.names)
        for key in ("n_cells", "dose_range"):
            if key in state:
                state[key] = [*state[key], *fresh[key][len(names) :]]
        return state

    def new_names(self, state_registry: dict[str, Any], adata: AnnData | MuData) -> list[str]:
        """Find the targets of other data that were not registered; writes nothing.

        Parameters
        ----------
        state_registry
            What :meth:`register_field` returned for the first data.
        adata
            The other data.

        Returns
        -------
        Targets with cells, in the order in which a transfer would append them.

        Raises
        ------
        LabelError
            If the data have no labels, or labels that cannot be read.
        """
        design, _ = self._read(adata, require_control=False, state=state_registry)
        known = set(state_registry["names"])
        return [design.names[j] for j in np.unique(design.matrix.indices) if design.names[j] not in known]

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return `n_perturbations`, the number of targets.

        Parameters
        ----------
        state_registry
            What :meth:`register_field` returned.

        Returns
        -------
        The number under its name.
        """
        return {"n_perturbations": len(state_registry["names"])}

    def view_state_registry(self, state_registry: dict[str, Any]) -> rich.table.Table:
        """Show the targets as a table.

        Parameters
        ----------
        state_registry
            What :meth:`register_field` returned.

        Returns
        -------
        A table with one row per target.
        """
        import rich.table

        table = rich.table.Table(title="perturbation State Registry")
        for title in ("Source Location", "Target", "Column", "Cells", "Doses"):
            table.add_column(title, justify="center", overflow="fold")
        where = f"adata.{state_registry['source']}['{state_registry['key']}']"
        rows = zip(state_registry["names"], state_registry["n_cells"], state_registry["dose_range"], strict=True)
        for j, (name, n_cells, (low, high)) in enumerate(rows):
            doses = "" if not n_cells else f"{low:g}" if low == high else f"{low:g} to {high:g}"
            table.add_row(where if j == 0 else "", name, str(j), str(n_cells), doses)
        return table

    def _read(
        self, adata: AnnData | MuData, *, require_control: bool, state: dict[str, Any] | None = None
    ) -> tuple[Design, bool]:
        """Read the design, and whether its names come from the data; touches nothing."""
        control = self.control if state is None else state["control"]
        sep = self.sep if state is None else state["sep"]
        if self.source == "obsm":
            return _design_in_obsm(adata, self.key, control=control, sep=sep, require_control=require_control)
        design = design_from_labels(
            _column(adata, self.key, "perturbation_key"),
            control=control,
            doses=None if self.dose_key is None else _column(adata, self.dose_key, "dose_key"),
            sep=sep,
            require_control=require_control,
            argument=f"adata.obs[{self.key!r}]",
            dose_argument=f"adata.obs[{self.dose_key!r}]",
        )
        return design, True

    def _state(self, design: Design, *, named: bool) -> dict[str, Any]:
        n_cells, dose_range = _support(design)
        return {
            "names": list(design.names),
            "control": list(design.control),
            "sep": self.sep,
            "source": self.source,
            "key": self.key,
            "dose_key": self.dose_key,
            "named": named,
            "n_cells": n_cells,
            "dose_range": dose_range,
        }


def registered_perturbations(registry: dict[str, Any]) -> dict[str, Any]:
    """Return what :class:`PerturbationField` stored in the registry of a model; works without the data.

    Parameters
    ----------
    registry
        `model.registry`, or what `load_registry` of an scvi model returns.

    Returns
    -------
    A copy of the state registry: `names`, `control`, `sep`, `source`, `key`, `dose_key`, ...

    Raises
    ------
    LabelError
        If no perturbations were registered.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from scvi.data import AnnDataManager
    >>> from perturbia.perturbation import PerturbationField, registered_perturbations
    >>> obs = pd.DataFrame({"target": ["A", "control"]}, index=["x", "y"])
    >>> manager = AnnDataManager(fields=[PerturbationField("target")])
    >>> manager.register_fields(ad.AnnData(np.ones((2, 2), dtype="float32"), obs=obs))
    >>> registered_perturbations(manager.registry)["names"]
    ['A']
    """
    fields = registry.get("field_registries", {})
    state = fields.get(_keys.PERTURBATION, {}).get("state_registry")
    if not state:
        msg = f"registry: expected registered perturbations, got fields {shorten(fields)}. Run setup_anndata of the model."
        raise LabelError(msg)
    return {key: list(value) if isinstance(value, list) else value for key, value in state.items()}


def _column(adata: AnnData | MuData, key: str, argument: str) -> pd.Series:
    if key not in adata.obs:
        hint = "Add the column, with the control label for untreated cells, or name another."
        msg = (
            f"{argument}: expected a column of adata.obs, got {key!r}; columns are {shorten(adata.obs.columns)}. {hint}"
        )
        raise LabelError(msg)
    column = adata.obs[key]
    if isinstance(column, pd.DataFrame):
        msg = f"{argument}: expected one column of adata.obs named {key!r}, got {column.shape[1]}. Rename the others."
        raise LabelError(msg)
    return pd.Series(column)


def _design_in_obsm(
    adata: AnnData | MuData, key: str, *, control: Sequence[str], sep: str, require_control: bool
) -> tuple[Design, bool]:
    """Read a matrix with the names of its columns, or those that pp.encode_perturbations left in uns."""
    if key not in adata.obsm:
        msg = (
            f"perturbation_obsm_key: expected a key of adata.obsm, got {key!r}; keys are "
            f"{shorten(adata.obsm.keys()) or 'none'}. Run pp.encode_perturbations, or name another key."
        )
        raise LabelError(msg)
    matrix = adata.obsm[key]
    stored = adata.uns.get(key)
    named = isinstance(matrix, pd.DataFrame)
    names = None
    if not named and isinstance(stored, Mapping) and stored.get("names") is not None:
        named, names = True, [str(name) for name in np.atleast_1d(stored["names"])]
        control = [str(one) for one in np.atleast_1d(stored.get("control", list(control)))]
    argument = f"adata.obsm[{key!r}]"
    design = design_from_matrix(
        matrix, names=names, control=control, sep=sep, require_control=require_control, argument=argument
    )
    return design, named


def _support(design: Design) -> tuple[list[int], list[tuple[float, float]]]:
    """Return the number of cells and the lowest and highest dose of each target; zeros where it has no cell."""
    by_target = design.matrix.tocsc()
    n_cells = np.diff(by_target.indptr)
    low, high = np.zeros((2, len(n_cells)), dtype=np.float32)
    filled = n_cells > 0
    if filled.any():
        starts = by_target.indptr[:-1][filled]
        low[filled] = np.minimum.reduceat(by_target.data, starts)
        high[filled] = np.maximum.reduceat(by_target.data, starts)
    return [int(n) for n in n_cells], [(_shown(a), _shown(b)) for a, b in zip(low, high, strict=True)]


def _shown(dose: np.float32) -> float:
    """Return the dose with the digits that Perturbation shows, 0.1 rather than 0.10000000149."""
    return float(str(dose))
