"""What perturbations do to cells by the label means of salient latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from perturbia import _keys
from perturbia.model.base._arguments import check_positive_integer
from perturbia.model.base._result import stamp
from perturbia.model.mechanism._ate import Contrast, checked_scale, queries_of
from perturbia.model.mechanism._basal_states import basal_states, given_of, prior_covariates
from perturbia.model.mechanism._residual_effects import count_training_cells
from perturbia.perturbation import dosage_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.comparative.comparative_vae import ComparativeVAE
    from perturbia.perturbation.value import Query

__all__ = ["estimate_ate", "sample_cells"]

#: Cells under each draw of a label mean.
_CELLS_OF_DRAWS = 100


@torch.inference_mode()
def estimate_ate(
    model: ComparativeVAE,
    perturbations: Sequence[Query] | None,
    *,
    scale: str | None,
    n_cells: int,
    n_draws: int,
    seed: int,
) -> AnnData:
    """Implementation of :meth:`perturbia.model.ComparativeVAE.estimate_ate`."""
    model._require_trained()
    check_positive_integer("n_cells", n_cells)
    scale = checked_scale(model, scale)
    dosage = queries_of(model, perturbations)
    module, unit = model.module, 1 / np.log(2) if scale == "perturbseq" else 1.0
    if module.effects is None and dosage.nnz:
        model._read_query(model.perturbations[0])  # says what the model lacks
    z, covariates = basal_states(model, "control", n_cells, seed)
    z[:, module.n_shared :] = 0.0
    generator = torch.Generator().manual_seed(seed)
    logarithmic = module.is_count_model and scale in {"log1p_cp10k", "perturbseq"}
    contrast = Contrast(model, z, covariates, generator, log_normalized=logarithmic)
    # the same for all perturbations, so that they differ in what they do
    within = torch.randn((len(z), module.n_salient), generator=generator).to(z)
    between = torch.randn((n_draws, module.n_salient), generator=generator).to(z)
    shape = (dosage.shape[0], model.summary_stats.n_vars)
    values, errors, deviations = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    for i in range(dosage.shape[0]):
        given = given_of(dosage[i]).to(z.device)
        mean, variance = module.salient_offset(given)
        block = module.block[module.group_of(given)]

        def moved(location: torch.Tensor, n: int | None = None, block: torch.Tensor = block) -> torch.Tensor:
            salient = (location + within[:n]) * block
            offset = torch.cat([torch.zeros_like(z[: len(salient), : module.n_shared]), salient], 1)
            return unit * (contrast.expected(offset, None, n) - contrast.control[:n])

        difference = moved(mean).double().cpu().numpy()
        values[i] = difference.mean(0)
        errors[i] = difference.std(0) / np.sqrt(max(len(z) - 1, 1))
        if n_draws and dosage[i].nnz:
            draws = [moved(mean + variance.sqrt() * one, _CELLS_OF_DRAWS).mean(0) for one in between]
            deviations[i] = torch.stack(draws).std(0).cpu().numpy()
    labels = dosage_labels(dosage, model.perturbations)
    out = model._as_features(values, list(labels))
    out.layers[_keys.LAYER_SE], out.layers[_keys.LAYER_SD] = errors, deviations
    out.obs["n_cells"] = count_training_cells(model, labels)
    out.obs.index = pd.Index(labels, name=None)
    return stamp(out, kind="effect", ur_id=model.ur_id, model=model._kind, scale=scale, seed=seed)


@torch.inference_mode()
def sample_cells(model: ComparativeVAE, query: Query, n_samples: int, *, seed: int) -> AnnData:
    """Implementation of :meth:`perturbia.model.ComparativeVAE.sample`."""
    model._require_trained()
    check_positive_integer("n_samples", n_samples)
    perturbation = model._read_query(query)
    given = given_of(model._query_matrix([perturbation])).to(model.device)
    module = model.module
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shared, salient = torch.randn(n_samples, module.n_shared), torch.randn(n_samples, module.n_salient)
        mean, _ = module.salient_offset(given)
        salient = (mean + salient.to(mean)) * module.block[module.group_of(given)]
        z = torch.cat([shared.to(mean), salient], 1)
        covariates = prior_covariates(model, n_samples)
        features = covariates.decode(module, z).sample().cpu().numpy().astype(np.float32)
    out = model._as_features(features, [str(perturbation)] * n_samples)
    return stamp(out, kind="readout", ur_id=model.ur_id, model=model._kind, scale=model.scale, seed=seed)
