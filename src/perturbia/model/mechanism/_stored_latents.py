"""The guide of cells: encoded from their features, or read from what minification stored of it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch.distributions import Normal

from perturbia import _keys
from perturbia.errors import RepresentationMismatch
from perturbia.model.base._minified import is_minified
from perturbia.model.mechanism._basal_states import given_of
from perturbia.perturbation._copies import in_memory

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.model.mechanism._mechanism_module import MechanismModule

__all__ = [
    "check_whose_latents",
    "expected_offsets",
    "guide_of_batch",
    "library_of_batch",
    "minified_copy",
    "read_guides",
]


def guide_of_batch(module: MechanismModule, tensors: dict[str, torch.Tensor], offset: torch.Tensor | None) -> Normal:
    """Guide of a minibatch; what was stored of it where there are no features to encode."""
    if REGISTRY_KEYS.X_KEY in tensors:
        return module.encode(tensors[REGISTRY_KEYS.X_KEY], offset, **module._covariates(tensors))
    scale = tensors[REGISTRY_KEYS.LATENT_QZV_KEY].sqrt()
    return Normal(tensors[REGISTRY_KEYS.LATENT_QZM_KEY], scale, validate_args=False)


def library_of_batch(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Library sizes of a minibatch, `(n_cells, 1)`: registered, else counted, now or before minification."""
    if (size := tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)) is not None:
        return size
    if REGISTRY_KEYS.X_KEY in tensors:
        return tensors[REGISTRY_KEYS.X_KEY].sum(-1, keepdim=True)
    return tensors[REGISTRY_KEYS.OBSERVED_LIB_SIZE]


@torch.inference_mode()
def expected_offsets(model: LatentShiftModel, dosage: sparse.csr_matrix) -> np.ndarray:
    """Posterior mean of the shift of each row of a dosage matrix, float32 `(n_cells, n_latent)`."""
    given = given_of(dosage).to(model.device)
    return model.module.effects.offset(model.module.design(given))[0].cpu().numpy()


def read_guides(
    model: LatentShiftModel, adata: AnnData, indices: np.ndarray, *, library: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Mean and standard deviation of the guide of minified cells, and their library sizes if asked for."""
    manager = model.get_anndata_manager(adata, required=True)
    mean, variance = (
        np.asarray(manager.get_from_registry(key)[indices], dtype=np.float32)
        for key in (REGISTRY_KEYS.LATENT_QZM_KEY, REGISTRY_KEYS.LATENT_QZV_KEY)
    )
    if not library:
        return mean, np.sqrt(variance), None
    registered = REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry
    sizes = manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY if registered else REGISTRY_KEYS.OBSERVED_LIB_SIZE)
    return mean, np.sqrt(variance), np.asarray(sizes, dtype=np.float32)[indices].ravel()


def check_whose_latents(model: LatentShiftModel, adata: AnnData) -> None:
    """Refuse latents that another model stored, or the same one before more training."""
    if not is_minified(adata):
        return
    found = dict(adata.uns[_keys.UNS_MINIFIED])
    if found.get("ur_id") != model.ur_id:
        msg = (
            f"adata: expected latents of this {model._kind} (ur_id {model.ur_id}), got minified data of a "
            f"{found.get('model')} (ur_id {found.get('ur_id')}). Minify the original data with this model."
        )
        raise RepresentationMismatch(msg)


def minified_copy(adata: AnnData, *, keep_features: bool) -> AnnData:
    """A copy in memory; without features `X` and all layers are empty CSR, so that nothing is read from a file."""
    import anndata as ad

    if keep_features:
        return in_memory(adata)
    nothing = sparse.csr_matrix(adata.shape, dtype=np.float32)
    parts = {
        name: {key: value.copy() for key, value in getattr(adata, name).items()}
        for name in ("obsm", "varm", "obsp", "varp")
    }
    return ad.AnnData(
        nothing,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=deepcopy(dict(adata.uns)),
        layers={name: nothing.copy() for name in adata.layers},
        **parts,
    )
