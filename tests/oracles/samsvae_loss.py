"""The loss of SAMS-VAE once more, in NumPy and SciPy, from weights, draws and data: nothing of the library is used."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import scipy.stats

Arrays = dict[str, np.ndarray]


def perceptron(weights: Arrays, prefix: str, inputs: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """Hidden layers of slope .01 below zero; covariates enter every layer behind its inputs."""
    hidden = inputs.astype(np.float64)
    layer = 0
    while f"{prefix}.fc_layers.Layer {layer}.0.weight" in weights:
        beside = np.broadcast_to(covariates, (*hidden.shape[:-1], covariates.shape[-1]))
        matrix = weights[f"{prefix}.fc_layers.Layer {layer}.0.weight"]
        hidden = np.concatenate([hidden, beside], -1) @ matrix.T + weights[f"{prefix}.fc_layers.Layer {layer}.0.bias"]
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        layer += 1
    return hidden


def linear(weights: Arrays, name: str, inputs: np.ndarray) -> np.ndarray:
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def design(cont: np.ndarray | None, *categories: tuple[np.ndarray, int]) -> np.ndarray:
    """Continuous covariates, then one-hot categories of those with more than one level."""
    parts = [] if cont is None else [cont]
    parts += [np.eye(n)[codes] for codes, n in categories if n > 1]
    n_cells = len(categories[0][0])
    return np.concatenate(parts, 1) if parts else np.zeros((n_cells, 0))


def guide(weights: Arrays, x: np.ndarray, covariates: np.ndarray, *, counts: bool, offset: np.ndarray | None) -> tuple:
    """Mean and standard deviation of the guide."""
    values = np.log1p(x) if counts else x
    inputs = (values - weights["input_mean"]) / weights["input_sd"]
    if offset is not None:
        inputs = np.concatenate([np.broadcast_to(inputs, (*offset.shape[:-1], inputs.shape[-1])), offset], -1)
    hidden = perceptron(weights, "encoder.trunk", inputs, covariates)
    log_variance = np.clip(linear(weights, "encoder.log_variance_head", hidden), -12, 8)
    return linear(weights, "encoder.mean_head", hidden), np.exp(log_variance / 2)


def log_likelihood(
    weights: Arrays, x: np.ndarray, z: np.ndarray, library: np.ndarray, covariates: np.ndarray, *, likelihood: str
) -> np.ndarray:
    """Log likelihood of cells at latents `(..., n, L)`, summed over features."""
    hidden = perceptron(weights, "decoder.trunk", z, covariates)
    output = linear(weights, "decoder.head", hidden)
    if likelihood == "normal":
        scale = np.maximum(np.exp(weights["decoder.log_dispersion"]), 1e-3)
        return scipy.stats.norm.logpdf(x, output, scale).sum(-1)
    rate = library * np.exp(output - scipy.special.logsumexp(output, axis=-1, keepdims=True))
    if likelihood == "poisson":
        return scipy.stats.poisson.logpmf(x, rate).sum(-1)
    theta = np.exp(weights["decoder.log_dispersion"])
    log_prob = scipy.stats.nbinom.logpmf(x, theta, theta / (theta + rate))
    if likelihood == "zinb":
        zero = scipy.special.expit(linear(weights, "decoder.zero_head", hidden))
        log_prob = np.where(
            x == 0, np.log(zero + (1 - zero) * np.exp(log_prob)), np.log1p(-np.minimum(zero, 1 - 1e-15)) + log_prob
        )
    return log_prob.sum(-1)


def expected_basal_square(
    dosage: np.ndarray, loc: np.ndarray, inclusion: np.ndarray, mean: np.ndarray, sd: np.ndarray
) -> np.ndarray:
    """`E[(loc - sum_t d_t m_t e_t)^2]` of every cell and latent, by enumeration of all masks."""
    total = np.zeros_like(loc, dtype=np.float64)
    for bits in product((0.0, 1.0), repeat=dosage.shape[1]):
        mask = np.array(bits)[:, None]
        probability = np.prod(np.where(mask == 1, inclusion, 1 - inclusion), 0)
        moved = loc - dosage @ (mask * mean)
        total += probability * (moved**2 + dosage**2 @ (mask * sd**2))
    return total


def global_kl(inclusion: np.ndarray, mean: np.ndarray, sd: np.ndarray, prior: dict[str, Any]) -> np.ndarray:
    """KL of masks and embeddings to their prior, entry by entry, from its definition."""
    alpha, scale = prior["mask_prior_prob"], prior["embedding_prior_scale"]
    mask = inclusion * np.log(inclusion / alpha) + (1 - inclusion) * np.log((1 - inclusion) / (1 - alpha))
    slab = np.log(scale / sd) + (sd**2 + mean**2) / (2 * scale**2) - 0.5
    return mask + (inclusion if prior["slab"] == "conditional" else 1.0) * slab


def global_log_ratio(
    mask: np.ndarray,
    embedding: np.ndarray,
    posterior: tuple[np.ndarray, np.ndarray, np.ndarray],
    prior: dict[str, Any],
) -> np.ndarray:
    """Log posterior minus log prior of draws `(P, T, L)` under the mean-field family."""
    inclusion, mean, sd = posterior
    bernoulli = scipy.stats.bernoulli.logpmf
    normal = scipy.stats.norm.logpdf
    ratio = bernoulli(mask, inclusion) - bernoulli(mask, prior["mask_prior_prob"])
    return ratio + normal(embedding, mean, sd) - normal(embedding, 0, prior["embedding_prior_scale"])


def loss(
    weights: Arrays,
    batch: dict[str, Any],
    draws: dict[str, np.ndarray],
    *,
    switches: dict[str, Any],
    prior: dict[str, Any],
    n_obs: int,
    kl_weight: float,
) -> dict[str, Any]:
    """All terms of the loss at given draws.

    `batch` has `x`, `dosage`, `covariates`, `library`; `draws` has the total latent `z` `(P, n, L)` and, for sampled
    globals, `mask` and `embedding` `(P, T, L)`. The basal latent is drawn from the guide, so draws are scored exactly.
    """
    x, dosage, covariates = batch["x"], batch["dosage"], batch["covariates"]
    counts = switches["gene_likelihood"] != "normal"
    inclusion = scipy.special.expit(weights["effects.mask_logit"])
    mean, sd = weights["effects.mean"], np.exp(weights["effects.log_sd"])
    log_prob = log_likelihood(
        weights, x, draws["z"], batch["library"], covariates, likelihood=switches["gene_likelihood"]
    )
    if switches["basal_encoder"] == "residual":
        loc, scale = guide(weights, x, covariates, counts=counts, offset=None)
        square = expected_basal_square(dosage, loc, inclusion, mean, sd)
        kl_local = 0.5 * (square + scale**2 - 1 - np.log(scale**2)).sum(-1)
        per_treatment = global_kl(inclusion, mean, sd, prior).sum(-1)
    else:
        offset = dosage @ (draws["mask"] * draws["embedding"])
        seen = offset if switches["basal_encoder"] == "correlated" else None
        loc, scale = guide(weights, x, covariates, counts=counts, offset=seen)
        kl_local = 0.5 * (loc**2 + scale**2 - 1 - np.log(scale**2)).sum(-1)
        kl_local = kl_local.mean(0) if kl_local.ndim == 2 else kl_local
        ratio = global_log_ratio(draws["mask"], draws["embedding"], (inclusion, mean, sd), prior)
        per_treatment = ratio.mean(0).sum(-1)
    reconstruction = -log_prob.mean(0)
    total_kl = global_kl(inclusion, mean, sd, prior).sum()
    value = (reconstruction + kl_weight * kl_local).mean()
    if switches["global_kl"] == "plated":
        n_treated = np.maximum(weights["n_treated"], 1)
        value += kl_weight * ((dosage != 0) / n_treated @ per_treatment).mean()
    elif switches["global_update"] == "gradient":
        value += kl_weight * total_kl / n_obs
    return {"loss": value, "reconstruction": reconstruction, "kl_local": kl_local, "kl_global": total_kl}
