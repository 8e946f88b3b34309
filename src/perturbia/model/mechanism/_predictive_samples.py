"""Replicated data: features drawn from the posterior predictive distribution, cell by cell of a given design."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy import sparse

from perturbia.model.mechanism._stored_latents import guide_of_batch, library_of_batch

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.model.mechanism._mechanism_module import MechanismModule

__all__ = ["replicate_cells"]


@torch.inference_mode()
def replicate_cells(
    model: LatentShiftModel,
    adata: AnnData,
    chosen: np.ndarray,
    *,
    basal: Literal["prior", "posterior"],
    batch_size: int | None,
    seed: int,
) -> sparse.csr_matrix | np.ndarray:
    """One replicate `(n_cells, n_features)` of the chosen cells, CSR for counts; implements the method of the model.

    Masks and embeddings are drawn once and shared by all cells of the replicate, as the cells of one experiment share
    them: drawn anew for each cell their uncertainty would average out of every statistic.
    """
    order = np.argsort(chosen)  # loaders of backed data want rising positions
    if (np.diff(chosen[order]) == 0).any():
        msg = "indices: expected every cell once, got some twice. Ask for several replicates with n_samples."
        raise ValueError(msg)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mask, embedding = model.module.effects.sample(1)
        effect = (mask * embedding)[0]
        blocks: list[Any] = []
        for tensors in model._make_data_loader(adata=adata, indices=chosen[order], batch_size=batch_size or 1024):
            drawn = _draw(model.module, model._on_device(tensors), effect, basal=basal).cpu().numpy()
            blocks.append(sparse.csr_matrix(drawn) if model.module.is_count_model else drawn)
    replicate = sparse.vstack(blocks, format="csr") if model.module.is_count_model else np.concatenate(blocks)
    return replicate if (np.diff(order) == 1).all() else replicate[np.argsort(order)]


def _draw(
    module: MechanismModule, tensors: dict[str, torch.Tensor], effect: torch.Tensor, *, basal: str
) -> torch.Tensor:
    """Features of a batch of cells under one draw of the effects `(T, n_latent)`."""
    given = module.given(tensors)
    called = module.design(given)
    offset = called.sum_of(effect)
    if basal == "prior":
        z = torch.randn_like(offset) + offset
    else:
        seen = module.condition(given) if module.encodes_total else offset
        guide = guide_of_batch(module, tensors, seen)
        z = guide.loc + guide.scale * torch.randn_like(guide.loc)
        if not module.encodes_total:  # the others' guide is of the total latent
            z = z + offset
    library, covariates = library_of_batch(tensors), module._covariates(tensors)
    return module.generative(z, library, **covariates, given=given)["px"].sample().float()
