"""The scvi-tools field of labels that two modalities share."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import BaseAnnDataField

from perturbia import _keys
from perturbia.errors import shorten
from perturbia.model.alignment._shared_labels import canonical_label, read_labels, shared_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import rich.table
    from mudata import MuData

__all__ = ["SharedLabelField"]


class SharedLabelField(BaseAnnDataField):
    """Labels of the cells of one modality, numbered alike in both.

    Parameters
    ----------
    registry_key
        Key in the registry.
    modality, other
        Names of this modality and the other.
    key
        Column of `obs` of both.
    control
        Label or labels of control cells.
    sep
        What separates the members of a combination.
    """

    def __init__(
        self,
        registry_key: str,
        modality: str,
        other: str,
        key: str,
        *,
        control: str | Sequence[str] | None,
        sep: str | None,
    ) -> None:
        super().__init__()
        self._registry_key, self._modality, self._other = registry_key, modality, other
        self.key, self.control, self.sep = key, control, sep

    @property
    def registry_key(self) -> str:
        """Key of this field in registries."""
        return self._registry_key

    @property
    def mod_key(self) -> str:
        """The modality."""
        return self._modality

    @property
    def attr_name(self) -> str:
        """The attribute that holds the codes."""
        return "obs"

    @property
    def attr_key(self) -> str:
        """The column of the codes."""
        return _keys.OBS_SHARED_LABEL

    @property
    def is_empty(self) -> bool:
        """Never: labels are what modalities share."""
        return False

    def validate_field(self, mdata: MuData) -> None:
        """Check the labels; writes nothing.

        Parameters
        ----------
        mdata
            The data.
        """
        read_labels(mdata.mod[self._modality], self.key, modality=self._modality)

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Number the labels and write the codes.

        Parameters
        ----------
        mdata
            The data; `obs["_perturbia_label"]` of the modality is written.

        Returns
        -------
        The state registry: `names`, `n_cells`, `alone`, `key`.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # setup_mudata has read, and warned, before
            labels = shared_labels(
                {name: mdata.mod[name] for name in sorted((self._modality, self._other))},
                self.key,
                control=self.control,
                sep=self.sep,
            )
        codes = labels.codes[self._modality]
        mdata.mod[self._modality].obs[self.attr_key] = codes
        return {
            "names": labels.names,
            "n_cells": np.bincount(codes[codes >= 0], minlength=len(labels.names)).tolist(),
            "alone": labels.alone[self._modality],
            "key": self.key,
        }

    def transfer_field(self, state_registry: dict[str, Any], mdata_target: MuData, **kwargs: Any) -> dict[str, Any]:
        """Write the codes of other data by the numbers of an earlier registration.

        Parameters
        ----------
        state_registry
            What :meth:`register_field` returned.
        mdata_target
            The other data.
        **kwargs
            Options of scvi-tools, not used.

        Returns
        -------
        The same state registry.

        Warns
        -----
        UserWarning
            Labels that were not registered; their cells are not matched.
        """
        del kwargs
        adata = mdata_target.mod[self._modality]
        adata.obs[self.attr_key] = registered_codes(
            read_labels(adata, self.key, modality=self._modality),
            state_registry["names"],
            control=self.control,
            sep=self.sep,
            modality=self._modality,
        )
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return the number of labels.

        Parameters
        ----------
        state_registry
            What :meth:`register_field` returned.

        Returns
        -------
        The number under its key.
        """
        return {f"n_{self.registry_key}": len(state_registry["names"])}

    def view_state_registry(self, state_registry: dict[str, Any]) -> rich.table.Table:
        """Show the labels as a table.

        Parameters
        ----------
        state_registry
            What :meth:`register_field` returned.

        Returns
        -------
        A table with one row a label.
        """
        import rich.table

        table = rich.table.Table(title=f"{self.registry_key} State Registry")
        for title in ("Source Location", "Label", "Code", "Cells"):
            table.add_column(title, justify="center", overflow="fold")
        where = f"mdata['{self._modality}'].obs['{self.key}']"
        for code, (name, n) in enumerate(zip(state_registry["names"], state_registry["n_cells"], strict=True)):
            table.add_row(where if code == 0 else "", name, str(code), str(n))
        return table


def registered_codes(
    labels: pd.Series,
    names: Sequence[str],
    *,
    control: str | Sequence[str] | None,
    sep: str | None,
    modality: str,
) -> np.ndarray:
    """Codes of labels among registered names.

    Parameters
    ----------
    labels
        One a cell.
    names
        Registered names.
    control, sep
        How labels are read.
    modality
        For the message.

    Returns
    -------
    int64, shape (n_cells,); -1 for labels that were not registered.
    """
    position = {canonical_label(name, control, sep): code for code, name in enumerate(names)}
    lookup = {one: position.get(canonical_label(one, control, sep), -1) for one in labels.unique()}
    if unknown := [one for one, code in lookup.items() if code < 0]:
        msg = (
            f"perturbation_key: {len(unknown)} label(s) of {modality!r} that were not registered: "
            f"{shorten(unknown, limit=5)}. Their cells are not matched."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
    return labels.map(lookup).to_numpy(dtype=np.int64)
