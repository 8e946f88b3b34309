"""Where labels, features and covariates of the judged data are, and the doses that the labels say."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import LabelError, shorten
from perturbia.model.base._registered_model import RegisteredModel
from perturbia.perturbation import design_from_labels, design_from_matrix
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._profiles import obs_column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from scipy import sparse

__all__ = ["Registration", "read_dosage"]

LABELS = ("perturbation_key", "perturbation_obsm_key", "dose_key", "control", "sep")
DEFAULTS = {"perturbation_key": "perturbation", "control": "control", "sep": "+", "scale": "counts"}


@dataclass(frozen=True)
class Registration:
    """Arguments that say where things are; None is filled in."""

    perturbation_key: str | None = None
    control: str | Sequence[str] | None = None
    sep: str | None = None
    dose_key: str | None = None
    layer: str | None = None
    batch_key: str | None = None
    context_key: str | None = None
    scale: str | None = None
    perturbation_obsm_key: str | None = None

    @property
    def says_labels(self) -> bool:
        """Whether any argument says how to read labels."""
        return any(getattr(self, name) is not None for name in LABELS)

    def filled(self, models: Sequence[Any], split: Mapping[str, Any]) -> Registration:
        """With gaps filled from the first registered model, from what `tl.split` wrote, and from the defaults of the tools.

        A model says how labels are read only if no argument does.
        """
        model = next((one for one in models if isinstance(one, RegisteredModel)), None)
        found = {} if model is None else dict(model.registry["setup_args"])
        if self.says_labels:
            found = {key: value for key, value in found.items() if key not in LABELS}
        values: dict[str, Any] = {}
        for one in fields(self):
            given = getattr(self, one.name)
            values[one.name] = given if given is not None else found.get(one.name)
        if values["perturbation_obsm_key"] is None:
            for name in ("perturbation_key", "dose_key", "control", "sep"):
                if values[name] is None and (self.says_labels or name in split) and name in split:
                    stored = split[name]
                    values[name] = list(stored) if isinstance(stored, np.ndarray) else stored
        if values["context_key"] is None and split.get("axis") == "context":
            values["context_key"] = split.get("context_key")
        for name, default in DEFAULTS.items():
            if values[name] is None and not (name == "perturbation_key" and values["perturbation_obsm_key"]):
                values[name] = default
        return replace(self, **values)


def read_dosage(adata: AnnData, where: Registration) -> tuple[sparse.csr_matrix, list[str]]:
    """Doses of the cells and the targets they are of, as the labels or the matrix say.

    Parameters
    ----------
    adata
        The data.
    where
        A filled registration.

    Returns
    -------
    CSR `(n_cells, n_targets)` and the target of each column.

    Raises
    ------
    LabelError, ControlError, DoseError
        If they are missing or can not be read.
    """
    control, sep = where.control or "control", "+" if where.sep is None else where.sep
    if where.perturbation_obsm_key is not None:
        key = where.perturbation_obsm_key
        if key not in adata.obsm:
            msg = f"perturbation_obsm_key: expected a matrix of adata.obsm, got {key!r}; there are {shorten(adata.obsm) or 'none'}."
            raise LabelError(msg)
        design = design_from_matrix(adata.obsm[key], control=control, sep=sep, argument=f"adata.obsm[{key!r}]")
        return design.matrix, list(design.names)
    labels_key = str(where.perturbation_key)
    if where.dose_key is None:
        design = design_of(adata, perturbation_key=labels_key, control=control, sep=sep)
        return design.matrix, list(design.names)
    labels = obs_column(adata, labels_key, argument="perturbation_key")
    doses = obs_column(adata, where.dose_key, argument="dose_key")
    design = design_from_labels(
        labels,
        control=control,
        doses=doses,
        sep=sep,
        argument=f"adata.obs[{labels_key!r}]",
        dose_argument=f"adata.obs[{where.dose_key!r}]",
    )
    return design.matrix, list(design.names)
