"""Average treatment effects of latent-shift models with common random numbers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from perturbia import _keys
from perturbia.errors import ScaleError, UnsupportedQuery
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._result import stamp
from perturbia.model.mechanism._readout import Covariates, common_noise, expected_features
from perturbia.nn import ExpectedLogCounts
from perturbia.perturbation import dosage_labels, unique_dosages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy import sparse

    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.perturbation.value import Query

__all__ = ["covariates_of", "estimate_ate", "prior_covariates"]


@torch.inference_mode()
def estimate_ate(
    model: LatentShiftModel,
    perturbations: Sequence[Query] | None,
    *,
    scale: str | None,
    base: Literal["control", "prior"],
    combine: Literal["shrunk_residual"] | None,
    n_cells: int,
    n_draws: int,
    seed: int,
) -> AnnData:
    """Implementation of :meth:`perturbia.model.SAMSVAE.estimate_ate`."""
    model._require_trained()
    check_choice("combine", combine, (None, "shrunk_residual"))
    check_choice("base", base, ("control", "prior"))
    check_positive_integer("n_cells", n_cells)
    if n_draws < 0 or n_draws == 1:
        msg = f"n_draws: expected 0, or at least 2 draws for a standard deviation, got {n_draws}."
        raise ValueError(msg)
    scale = _checked_scale(model, scale)
    dosage = _queries(model, perturbations)
    z, covariates = _basal_states(model, base, n_cells, seed)
    noise = common_noise(model.module, len(z), seed)
    layer = None
    if model.module.is_count_model and scale in {"log1p_cp10k", "perturbseq"}:
        # no gene can take more than the whole library
        top = covariates.library.max() * (1.0 if noise is None else noise.max())
        layer = ExpectedLogCounts(covariates.library.ravel(), max_rate=float(top))
    unit = 1 / np.log(2) if scale == "perturbseq" else 1.0

    def expected(offset: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        part = None if noise is None else noise[rows]
        table = None if layer is None else layer.rows(rows)
        px = covariates.rows(rows).decode(model.module, z[rows] + offset)
        return unit * expected_features(px, part, table)

    control = expected(torch.zeros_like(z[0]))
    effects = model.module.effects
    offsets = torch.from_numpy(dosage @ effects.effect().cpu().numpy()).to(z)
    mean, se = [], []
    for offset in offsets:
        difference = expected(offset) - control
        mean.append(difference.mean(0))
        se.append(difference.std(0, correction=1) / len(z) ** 0.5 if len(z) > 1 else torch.zeros_like(control[0]))
    values, errors = (torch.stack(part).cpu().numpy() for part in (mean, se))
    deviations = np.zeros_like(values)
    if n_draws > 1:
        rows = slice(0, min(len(z), 100))
        mask, embedding = effects.sample(n_draws, generator=torch.Generator().manual_seed(seed))
        for i, row in enumerate(torch.from_numpy(dosage.toarray()).to(z)):
            draws = torch.stack([expected(offset, rows).mean(0) for offset in row @ (mask * embedding)])
            deviations[i] = draws.std(0).cpu().numpy()
    if combine == "shrunk_residual":
        values = values + _shrunken_residual(model, dosage, values / unit, scale) * unit
    labels = dosage_labels(dosage, model.perturbations)
    out = model._as_features(values, list(labels))
    out.layers[_keys.LAYER_SE], out.layers[_keys.LAYER_SD] = errors, deviations
    out.obs["n_cells"] = _training_cells(model, labels)
    out.obs.index = pd.Index(labels, name=None)
    return stamp(out, kind="effect", ur_id=model.ur_id, model=model._kind, scale=scale, seed=seed)


def _checked_scale(model: LatentShiftModel, scale: str | None) -> str:
    possible = ("log1p_cp10k", "perturbseq", "counts") if model.module.is_count_model else (model.scale,)
    chosen = possible[0] if scale in {None, "registered"} else scale
    if chosen not in possible:
        msg = f"scale: expected one of {possible} for data registered as {model.scale!r}, got {scale!r}."
        raise ScaleError(msg)
    return chosen


def _queries(model: LatentShiftModel, perturbations: Sequence[Query] | None) -> sparse.csr_matrix:
    """Dosage of the queries, or of every perturbation in the registered data."""
    if perturbations is not None:
        return model._query_matrix(perturbations)
    if model.adata is None:
        return model._query_matrix(model.perturbations)
    unique, _ = unique_dosages(model.adata_manager.get_from_registry(_keys.PERTURBATION))
    return unique[np.diff(unique.indptr) > 0]


def _basal_states(model: LatentShiftModel, base: str, n_cells: int, seed: int) -> tuple[torch.Tensor, Covariates]:
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
    controls = model._control_cells(model.adata, np.arange(model.adata.n_obs))
    obs = model.adata.obs.iloc[np.resize(controls, n_cells)]
    observed = covariates_of(model, obs)
    return Covariates(library, observed.batch_index, observed.cat_covs, observed.cont_covs)


def _training_cells(model: LatentShiftModel, labels: np.ndarray) -> np.ndarray:
    chosen = model._training_cells()
    if chosen is None:
        return np.zeros(len(labels), dtype=np.int64)
    seen = pd.Series(dosage_labels(model._registered_dosage(model.adata, chosen), model.perturbations)).value_counts()
    return seen.reindex(labels, fill_value=0).to_numpy()


def _shrunken_residual(
    model: LatentShiftModel, dosage: sparse.csr_matrix, values: np.ndarray, scale: str
) -> np.ndarray:
    """Empirical minus predicted effects of the training cells, shrunken by their noise; zero where there are none."""
    from perturbia.stats import effects_against, group_means, limited_translation, log1p_cp10k

    chosen = model._training_cells()
    if chosen is None or scale == "counts":
        msg = "combine: 'shrunk_residual' needs the training data and a log-normalised or registered scale."
        raise UnsupportedQuery(msg)
    matrix = model.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)[chosen]
    features = log1p_cp10k(matrix) if model.module.is_count_model else matrix
    labels = dosage_labels(model._registered_dosage(model.adata, chosen), model.perturbations)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "labels: .* have one row", RuntimeWarning)
        moments = group_means(features, labels)
    # pooled: a group of ten cells that lacks a sparse gene is not certain of it, and a lone cell has a variance too
    empirical = effects_against(moments, reference="control", variance="pooled")
    position = {label: i for i, label in enumerate(empirical.groups)}
    rows = [
        (i, position[label]) for i, label in enumerate(dosage_labels(dosage, model.perturbations)) if label in position
    ]
    out = np.zeros_like(values)
    if rows:
        here, there = (np.array(part) for part in zip(*rows, strict=True))
        residual = empirical.effects[there] - values[here]
        out[here] = limited_translation(residual, empirical.standard_errors[there])
    return out
