"""Cells without perturbation to start from, and the covariates of cells as the decoder reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from perturbia import _keys
from perturbia.errors import UnsupportedQuery
from perturbia.model.base._screen_dataset import treatment_slots
from perturbia.model.mechanism._readout import Covariates
from perturbia.nn import GivenTreatments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from perturbia.model.mechanism._latent_shift import LatentShiftModel

__all__ = ["basal_states", "covariates_of", "given_of", "prior_covariates"]


def given_of(dosage: sparse.csr_matrix) -> GivenTreatments:
    """Slots of the rows of a dosage matrix."""
    return GivenTreatments(*(torch.from_numpy(part) for part in treatment_slots(dosage)))


def basal_states(model: LatentShiftModel, base: str, n_cells: int, seed: int) -> tuple[torch.Tensor, Covariates]:
    """Latents without perturbation, one draw each, with the covariates of their cells."""
    if base == "prior" or model.adata is None:
        z = torch.randn((n_cells, model.module.n_latent), generator=torch.Generator().manual_seed(seed))
        return z.to(model.device), prior_covariates(model, n_cells)
    rng = np.random.default_rng(seed)
    pool = model._training_cells()
    controls = model._control_cells(model.adata, np.arange(model.adata.n_obs) if pool is None else pool)
    chosen = np.sort(rng.choice(controls, min(n_cells, len(controls)), replace=False))
    latent = model.encode(indices=chosen)
    mean, sd = (torch.from_numpy(values).to(model.device) for values in (latent.X, latent.layers[_keys.LAYER_SD]))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
    return mean + sd * noise, covariates_of(model, latent.obs)


def covariates_of(model: LatentShiftModel, obs: pd.DataFrame) -> Covariates:
    """Encode the covariate columns of `obs` as they were registered."""
    registries = model.registry["field_registries"]

    def codes(key: str, categories: Sequence) -> np.ndarray:
        values = pd.Categorical(obs[key].astype(type(categories[0])), categories=list(categories)).codes
        if (values < 0).any():
            unknown = sorted(set(obs[key].astype(str)) - {str(c) for c in categories})
            msg = f"obs[{key!r}]: expected registered categories, got {unknown[:5]}."
            raise UnsupportedQuery(msg)
        return values.astype(np.int64)

    batch_state = registries[REGISTRY_KEYS.BATCH_KEY]["state_registry"]
    categories = batch_state["categorical_mapping"]
    one_batch = len(categories) < 2
    batch = np.zeros(len(obs), dtype=np.int64) if one_batch else codes(batch_state["original_key"], categories)
    library = obs[_keys.OBS_LIBRARY].to_numpy(np.float32) if _keys.OBS_LIBRARY in obs else np.ones(len(obs), np.float32)
    mappings = registries.get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {}).get("mappings", {})
    cats = [codes(key, values) for key, values in mappings.items()]
    columns = registries.get(REGISTRY_KEYS.CONT_COVS_KEY, {}).get("state_registry", {}).get("columns", [])
    device = model.device
    return Covariates(
        library=torch.from_numpy(library[:, None]).to(device),
        batch_index=torch.from_numpy(batch[:, None]).to(device),
        cat_covs=torch.from_numpy(np.stack(cats, 1)).to(device) if cats else None,
        cont_covs=torch.from_numpy(obs[list(columns)].to_numpy(np.float32)).to(device) if len(columns) else None,
    )


def prior_covariates(model: LatentShiftModel, n_cells: int, *, library_size: float | None = None) -> Covariates:
    """Library sizes of training controls, covariates of observed controls in turn (first categories without data)."""
    reference = model.module.reference_library
    if library_size is not None:
        reference = torch.full_like(reference, float(library_size))
    stride = torch.arange(n_cells, device=reference.device) * 37 % len(reference)
    library = reference[stride][:, None]
    if model.adata is None:
        registries = model.registry["field_registries"]
        n_cats = model._covariate_categories()
        n_cont = len(registries.get(REGISTRY_KEYS.CONT_COVS_KEY, {}).get("state_registry", {}).get("columns", []))
        zeros = torch.zeros((n_cells, 1), dtype=torch.long, device=reference.device)
        return Covariates(
            library=library,
            batch_index=zeros,
            cat_covs=zeros.expand(-1, len(n_cats)) if n_cats else None,
            cont_covs=torch.zeros((n_cells, n_cont), device=reference.device) if n_cont else None,
        )
    every = np.arange(model.adata.n_obs)
    # screens without controls lend the covariates of all their cells
    controls = np.flatnonzero(np.diff(model._registered_dosage(model.adata, every).indptr) == 0)
    obs = model.adata.obs.iloc[np.resize(controls if len(controls) else every, n_cells)]
    observed = covariates_of(model, obs)
    return Covariates(library, observed.batch_index, observed.cat_covs, observed.cont_covs)
