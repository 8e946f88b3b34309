"""Which posterior of treatment effects a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from perturbia.nn import CorrelatedEffects, FixedMaskEffects, MaskedEffects, StraightThroughEffects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.nn.mask_prior import MaskPriorKind
    from perturbia.nn.straight_through_effects import Sparsity

__all__ = ["Effects", "EmbeddingGuide", "make_effects"]

Effects = Literal["sparse", "dense", "straight_through", "decoded"]
EmbeddingGuide = Literal["independent", "correlated"]


def make_effects(
    kind: Effects,
    n_rows: int,
    n_latent: int,
    *,
    rates: Sequence[float],
    mask_prior: MaskPriorKind,
    embedding_prior_scale: float,
    learn_scale: bool,
    embedding_guide: EmbeddingGuide,
    n_hidden: int,
    slab: Literal["conditional", "mean_field"],
    per_latent: bool,
    by_gradient: bool,
    sparsity: Sparsity,
    sparsity_weight: float,
    temperature: float,
) -> MaskedEffects:
    """Effects of `n_rows` treatments on latents.

    ``"sparse"``: masks and embeddings are inferred (SAMS-VAE); ``"dense"``: all masks are open (CPA-VAE);
    ``"straight_through"``: as sVAE+ was published; ``"decoded"``: none, the decoder reads treatments (conditional VAE).
    """
    if kind == "straight_through":
        return StraightThroughEffects(
            n_rows, n_latent, sparsity=sparsity, sparsity_weight=sparsity_weight, temperature=temperature
        )
    if kind in {"dense", "decoded"}:
        return FixedMaskEffects(
            n_rows,
            n_latent,
            is_open=kind == "dense",
            embedding_prior_scale=embedding_prior_scale,
            trainable=by_gradient,
        )
    prior: dict[str, Any] = {"mask_prior_prob": rates, "embedding_prior_scale": embedding_prior_scale}
    if embedding_guide == "correlated":
        return CorrelatedEffects(n_rows, n_latent, n_hidden=n_hidden, **prior)
    return MaskedEffects(
        n_rows,
        n_latent,
        mask_prior=mask_prior,
        learn_scale=learn_scale,
        slab=slab,
        per_latent=per_latent,
        trainable=by_gradient,
        **prior,
    )
