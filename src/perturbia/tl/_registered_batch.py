"""The batches that a model was registered with, within which the tools compare cells with controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.model.base import PerturbationModel

__all__ = ["batch_codes"]


def batch_codes(model: PerturbationModel, adata: AnnData, cells: np.ndarray, *, batch_key: str | None) -> np.ndarray:
    """Batch of some cells as integers from 0, by a column of `obs`; None takes the batch that the model registered."""
    from scvi import REGISTRY_KEYS

    if batch_key is None:
        manager = model.get_anndata_manager(adata, required=True)
        batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
    elif batch_key in adata.obs and adata.obs[batch_key].notna().all():
        batch = adata.obs[batch_key].astype(str).to_numpy()
    else:
        msg = (
            f"batch_key: expected a complete column of adata.obs, got {batch_key!r}; columns are {shorten(adata.obs)}."
        )
        raise LabelError(msg)
    return pd.factorize(batch[cells])[0]
