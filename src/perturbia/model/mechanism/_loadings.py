"""How features change along each latent: central differences through the decoder."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from perturbia.errors import ControlError
from perturbia.model.mechanism._ate import Contrast, checked_scale
from perturbia.model.mechanism._basal_states import basal_states

if TYPE_CHECKING:
    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.model.mechanism._readout import Covariates

__all__ = ["estimate_loadings"]

logger = logging.getLogger(__name__)

#: Basal states at a time: memory does not grow with their number.
_BLOCK = 512


@torch.inference_mode()
def estimate_loadings(model: LatentShiftModel, *, n_cells: int, step: float, seed: int) -> np.ndarray:
    """Implementation of :func:`perturbia.tl.latent_loadings`: float32 `(n_latent, n_features)`."""
    model._require_trained()
    logarithmic = model.module.is_count_model and checked_scale(model, None) == "log1p_cp10k"
    z, covariates = _starting_states(model, n_cells, seed)
    noise = torch.Generator().manual_seed(seed)
    total = np.zeros((z.shape[1], model.summary_stats.n_vars))
    for start in range(0, len(z), _BLOCK):
        rows = slice(start, start + _BLOCK)
        # both ends share cells, over-dispersion and library sizes: a difference is not lost in their noise
        contrast = Contrast(model, z[rows], covariates.rows(rows), noise, log_normalized=logarithmic)
        for latent, offset in enumerate(torch.eye(z.shape[1]).to(z) * step / 2):
            difference = contrast.expected(offset, None) - contrast.expected(-offset, None)
            total[latent] += difference.double().sum(0).cpu().numpy()
    return (total / (len(z) * step)).astype(np.float32)


def _starting_states(model: LatentShiftModel, n_cells: int, seed: int) -> tuple[torch.Tensor, Covariates]:
    """States of control cells, or draws from the prior where there are none; nothing salient in them."""
    try:
        z, covariates = basal_states(model, "control", n_cells, seed)
    except ControlError:
        logger.info("No control cells: loadings start from draws of the prior.")
        z, covariates = basal_states(model, "prior", n_cells, seed)
    salient = (model._latent_var()["kind"] == "salient").to_numpy()
    z[:, torch.from_numpy(salient).to(z.device)] = 0.0
    return z, covariates
