"""Checks of the covariates of cells before a model registers them or reads from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS

from perturbia.errors import LabelError, ScaleError, UnsupportedQuery, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

__all__ = ["check_categories", "check_columns"]


def check_columns(adata: AnnData, setup_args: Mapping[str, Any]) -> None:
    """Check that the columns of covariates exist and are complete, and that size factors are sizes.

    Parameters
    ----------
    adata
        Annotated data.
    setup_args
        Arguments of :meth:`PerturbationModel.setup_anndata`.

    Raises
    ------
    KeyError
        If a column does not exist.
    LabelError
        If a batch or a category is missing in a cell, or a list of columns is text.
    ScaleError
        If a size factor is not a positive number, or a continuous covariate not a finite one.
    """
    for argument in ("categorical_covariate_keys", "continuous_covariate_keys"):
        if isinstance(setup_args.get(argument), str):
            msg = f"{argument}: expected a list of columns, got {setup_args[argument]!r}. Write [{setup_args[argument]!r}]."
            raise LabelError(msg)
    size_factor = setup_args.get("size_factor_key")
    keys = [setup_args.get("batch_key"), size_factor]
    keys += [
        *(setup_args.get("categorical_covariate_keys") or []),
        *(setup_args.get("continuous_covariate_keys") or []),
    ]
    absent = [key for key in keys if key is not None and key not in adata.obs]
    if absent:
        msg = f"adata: expected the columns {absent} in obs, found {shorten(adata.obs.columns, limit=20)}."
        raise KeyError(msg)
    _check_complete(adata, "batch_key", setup_args.get("batch_key"))
    for key in setup_args.get("categorical_covariate_keys") or []:
        _check_complete(adata, "categorical_covariate_keys", key)
    for key in setup_args.get("continuous_covariate_keys") or []:
        values = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(np.float64)
        broken = ~np.isfinite(values)
        if broken.any():
            msg = (
                f"continuous_covariate_keys: expected finite numbers in obs[{key!r}], got "
                f"{adata.obs[key][broken].tolist()[0]!r} in {int(broken.sum())} cell(s). Drop or mend them."
            )
            raise ScaleError(msg)
    if size_factor is not None:
        sizes = pd.to_numeric(adata.obs[size_factor], errors="coerce").to_numpy(np.float64)
        broken = ~(np.isfinite(sizes) & (sizes > 0))
        if broken.any():
            msg = (
                f"size_factor_key: expected positive numbers in obs[{size_factor!r}], got "
                f"{adata.obs[size_factor][broken].tolist()[0]!r} in {int(broken.sum())} cell(s). Drop or mend them."
            )
            raise ScaleError(msg)


def _check_complete(adata: AnnData, argument: str, key: str | None) -> None:
    n_missing = 0 if key is None else int(adata.obs[key].isna().sum())
    if n_missing:
        msg = (
            f"{argument}: expected a category in every cell of obs[{key!r}], got {n_missing} without one (NaN). "
            "Drop those cells, or give them a category."
        )
        raise LabelError(msg)


def check_categories(adata: AnnData, registry: Mapping[str, Any]) -> None:
    """Check that batches and categorical covariates of new data were registered.

    Parameters
    ----------
    adata
        Annotated data, which has the columns.
    registry
        Registry of a model.

    Raises
    ------
    UnsupportedQuery
        If a column holds a category that was not registered.
    """
    fields = registry["field_registries"]
    known: dict[str, Any] = dict(
        fields.get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {}).get("mappings", {})
    )
    if registry["setup_args"].get("batch_key") is not None:
        known[registry["setup_args"]["batch_key"]] = fields[REGISTRY_KEYS.BATCH_KEY]["state_registry"][
            "categorical_mapping"
        ]
    for key, categories in known.items():
        new = sorted(set(adata.obs[key].astype(str)) - {str(category) for category in categories})
        if new:
            msg = (
                f"adata: expected registered categories in obs[{key!r}], got {shorten(new, limit=5)}; this model lacks the "
                f"capability 'unseen_context'. Registered: {shorten(map(str, categories), limit=5)}."
            )
            raise UnsupportedQuery(msg)
