"""Torch module of the mechanism family: effects of perturbations in latent space, and the ways to infer them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data

from perturbia import _keys
from perturbia.model.mechanism._effects import Effects, EmbeddingGuide, make_effects
from perturbia.model.mechanism._reference_statistics import hold_statistics
from perturbia.nn import (
    CorrelatedEffects,
    DiagonalGaussianEncoder,
    GivenTreatments,
    LikelihoodDecoder,
    TargetShift,
    TreatmentCode,
    TreatmentDesign,
    negative_binomial_log_prob,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributions import Normal

    from perturbia.nn.decoder import Likelihood
    from perturbia.nn.mask_prior import MaskPriorKind
    from perturbia.nn.straight_through_effects import Sparsity
    from perturbia.nn.treatment_design import DoseResponse

__all__ = ["BasalEncoder", "GlobalKL", "GlobalUpdate", "MechanismModule"]

BasalEncoder = Literal["residual", "informed", "correlated", "mean_field"]
GlobalUpdate = Literal["closed_form", "gradient"]
GlobalKL = Literal["closed", "plated"]


class MechanismModule(BaseModuleClass):
    r"""Variational autoencoder whose perturbations shift latents, or are read by its networks (`condition`).

    The generative model is common to all switches,

    .. math::
        z_i = z_i^b + \sum_t d_{it}\, m_t \odot e_t, \qquad x_i \sim p(x \mid z_i, l_i),

    and `basal_encoder` chooses the guide: ``"residual"`` encodes the *total* latent, :math:`q(z_i \mid x_i)`, and the
    basal mean is what the expected offset leaves, so that masks and embeddings meet the data only in a Gaussian KL
    whose expectation is exact; ``"informed"`` is the same guide with the expected offset among its inputs;
    ``"correlated"`` and ``"mean_field"`` are the published guides of the basal latent,
    with sampled masks, that do or do not see the sampled offset.
    """

    def __init__(
        self,
        n_input: int,
        n_treatments: int,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        gene_likelihood: Likelihood = "nb",
        basal_encoder: BasalEncoder = "residual",
        global_update: GlobalUpdate = "closed_form",
        global_kl: GlobalKL = "closed",
        effects: Effects = "sparse",
        embedding_guide: EmbeddingGuide = "independent",
        mask_prior_prob: float = 0.1,
        mask_prior: MaskPriorKind = "fixed",
        embedding_prior_scale: float = 1.0,
        learn_scale: bool = False,
        dose_response: DoseResponse = "linear",
        pairs: Sequence[tuple[int, int]] = (),
        pair_prior_prob: float = 0.01,
        target_genes: Sequence[int] | None = None,
        conditioned: bool = False,
        sparsity: Sparsity = "beta",
        sparsity_weight: float = 2.0,
        n_particles: int = 1,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.gene_likelihood = gene_likelihood
        self.basal_encoder = basal_encoder
        self.global_kl = global_kl
        self.n_particles = n_particles
        self.temperature = temperature
        n_cat_list = [n_batch, *(n_cats_per_cov or ())]
        sizes = {"n_hidden": n_hidden, "n_layers": n_layers, "n_cat_list": n_cat_list, "n_cont": n_continuous_cov}
        self.treatment_code = TreatmentCode(n_treatments, max_size=n_hidden) if effects == "decoded" else None
        n_code = 0 if self.treatment_code is None else self.treatment_code.size
        n_condition = n_latent if basal_encoder in {"informed", "correlated"} else n_code
        self.encoder = DiagonalGaussianEncoder(n_input, n_latent, n_condition=n_condition, **sizes)
        self.decoder = LikelihoodDecoder(n_latent + n_code, n_input, likelihood=gene_likelihood, **sizes)
        self.design = TreatmentDesign(n_treatments, dose_response=dose_response, pairs=pairs)
        self.effects = make_effects(
            effects,
            self.design.n_rows,
            n_latent,
            rates=[mask_prior_prob] * n_treatments + [pair_prior_prob] * len(self.design.pair_codes),
            mask_prior=mask_prior,
            embedding_prior_scale=embedding_prior_scale,
            learn_scale=learn_scale,
            embedding_guide=embedding_guide,
            n_hidden=n_hidden,
            slab="conditional" if self.encodes_total else "mean_field",
            per_latent=conditioned,
            by_gradient=global_update == "gradient",
            sparsity=sparsity,
            sparsity_weight=sparsity_weight,
            temperature=temperature,
        )
        self.target_shift = None if target_genes is None else TargetShift(target_genes)
        hold_statistics(self, n_input, self.design.n_rows)

    @property
    def is_count_model(self) -> bool:
        """Whether features are counts with a library size."""
        return self.gene_likelihood != "normal"

    @property
    def encodes_total(self) -> bool:
        """Whether the guide is one of the total latent, with the basal mean by difference."""
        return self.basal_encoder in {"residual", "informed"}

    @property
    def decodes_given(self) -> bool:
        """Whether the decoder reads treatments besides latents."""
        return self.target_shift is not None or self.treatment_code is not None

    def _get_inference_input(self, tensors: dict, **_: object) -> dict:
        return {
            "x": tensors[REGISTRY_KEYS.X_KEY],
            "given": self.given(tensors),
            "size_factor": tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY),
            **self._covariates(tensors),
        }

    def _get_generative_input(self, tensors: dict, inference_outputs: dict, **_: object) -> dict:
        return {
            "z": inference_outputs["z"],
            "library": inference_outputs["library"],
            "given": self.given(tensors) if self.decodes_given else None,
            **self._covariates(tensors),
        }

    @staticmethod
    def given(tensors: dict) -> GivenTreatments:
        """Treatments of a minibatch; a matrix of doses, from a loader that is not ours, is read as well."""
        if _keys.TREATMENT_INDEX in tensors:
            return GivenTreatments(tensors[_keys.TREATMENT_INDEX], tensors[_keys.TREATMENT_DOSE])
        return GivenTreatments.of_doses(tensors[_keys.PERTURBATION])

    @staticmethod
    def _covariates(tensors: dict) -> dict[str, Any]:
        return {
            "batch_index": tensors[REGISTRY_KEYS.BATCH_KEY],
            "cat_covs": tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            "cont_covs": tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        }

    @staticmethod
    def _categories(batch_index: torch.Tensor, cat_covs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        return (batch_index, *(() if cat_covs is None else torch.split(cat_covs, 1, dim=1)))

    def standardize(self, x: torch.Tensor) -> torch.Tensor:
        """Encoder input: log counts (or features) with the mean and spread of the training cells removed."""
        # no gradient flows to the input: one array is enough
        values = torch.log1p(x).sub_(self.input_mean) if self.is_count_model else x - self.input_mean
        return values.div_(self.input_sd)

    def encode(
        self,
        x: torch.Tensor,
        offset: torch.Tensor | None,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
    ) -> Normal:
        """Guide of a batch: over the total latent if ``"residual"``, else over the basal latent.

        `offset`, `(..., n_cells, n_latent)`, is read by the ``"informed"`` and ``"correlated"`` guides, and a code of the
        treatments, `(n_cells, n_code)`, in its place by those whose decoder reads it.
        """
        features = self.standardize(x)
        if self.encoder.n_condition and offset is not None:
            features = torch.cat([features.expand(*offset.shape[:-1], -1), offset], dim=-1)
        return self.encoder(features, *self._categories(batch_index, cat_covs), cont=cont_covs)

    def guide(self, tensors: dict[str, torch.Tensor]) -> Normal:
        """Guide of a minibatch, which lies on the device of the module, under the expected offsets."""
        seen = self.condition(self.given(tensors))
        return self.encode(tensors[REGISTRY_KEYS.X_KEY], seen, **self._covariates(tensors))

    def condition(self, given: GivenTreatments) -> torch.Tensor | None:
        """What the encoder reads of the treatments beside features, in expectation; None for nothing."""
        if self.treatment_code is not None:
            return self.treatment_code(given)
        return self.effects.offset(self.design(given))[0] if self.encoder.n_condition else None

    @auto_move_data
    def inference(
        self,
        x: torch.Tensor,
        given: GivenTreatments,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        size_factor: torch.Tensor | None = None,
        n_samples: int | None = None,
    ) -> dict:
        """Draw latents; `z` has shape `(n_cells, n_latent)`, with a leading axis if more than one particle is drawn."""
        n_samples = n_samples or self.n_particles
        covariates: dict[str, Any] = {"batch_index": batch_index, "cat_covs": cat_covs, "cont_covs": cont_covs}
        library = x.sum(-1, keepdim=True) if size_factor is None else size_factor
        outputs: dict[str, Any] = {"library": library, "draws": None}
        code = None if self.treatment_code is None else self.treatment_code(given)
        given = self.design(given)
        if self.encodes_total:
            offset, outputs["offset_variance"] = self.effects.offset(given)
            qz = self.encode(x, offset if code is None else code, **covariates)
            z = qz.rsample((n_samples,))
            basal_mean = qz.loc - offset
        else:
            # rows that no cell of the batch calls are not drawn: a step costs what the batch received
            rows, within = given.within()
            mask, embedding = self.effects.sample(n_samples, rows=rows, temperature=self.temperature)
            outputs["draws"] = rows, mask, embedding
            offset = within.sum_of(mask * embedding)
            qz = self.encode(x, offset, **covariates)
            # the correlated guide has one distribution per particle, the mean-field guide one for all
            basal = qz.rsample(() if self.basal_encoder == "correlated" else (n_samples,))
            z = basal + offset
            outputs["offset_variance"] = 0.0
            basal_mean = qz.loc
        outputs |= {"z": z[0] if n_samples == 1 else z, "qz": qz, "basal_mean": basal_mean, "given": given}
        return outputs

    @auto_move_data
    def generative(
        self,
        z: torch.Tensor,
        library: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        given: GivenTreatments | None = None,
    ) -> dict:
        """Distribution of features given total latents, and given treatments that act on their own targets."""
        shift = None if self.target_shift is None or given is None else partial(self.target_shift, given=given)
        categories = self._categories(batch_index, cat_covs)
        if self.treatment_code is not None:
            code = (
                self.treatment_code(given) if given is not None else z.new_zeros(z.shape[-2], self.treatment_code.size)
            )
            z = torch.cat([z, code.expand(*z.shape[:-1], -1)], dim=-1)
        return {"px": self.decoder(z, library, *categories, cont=cont_covs, shift=shift)}

    def _log_likelihood(self, px: Any, x: torch.Tensor) -> torch.Tensor:
        """Log likelihood of cells, summed over features."""
        if self.gene_likelihood != "nb":
            return px.log_prob(x).sum(-1)
        theta = self.decoder.log_dispersion.exp()
        # the smallest mean keeps the gradient finite when softmax underflows
        return negative_binomial_log_prob(x, px.mu + 1e-8, theta, stride=4 if self.training else 1).sum(-1)

    def kl_local(self, inference_outputs: dict) -> torch.Tensor:
        """Expected KL of the basal latent to its prior, shape `(n_cells,)`; masks and embeddings integrated out."""
        scale = inference_outputs["qz"].scale
        kl = 0.5 * (
            scale**2
            + inference_outputs["basal_mean"] ** 2
            + inference_outputs["offset_variance"]
            - 1
            - 2 * torch.log(scale)
        ).sum(-1)
        return kl.mean(0) if kl.ndim == 2 else kl

    def plated_kl(self, inference_outputs: dict) -> torch.Tensor:
        """Share of the global KL that each cell carries: that of its treatments over their numbers of cells."""
        rows, within = inference_outputs["given"].within()
        draws = inference_outputs["draws"]
        kl = self.effects.kl(rows) if draws is None else -self.effects.log_ratio(*draws[1:], rows=draws[0]).mean(0)
        share = (within.dose != 0).to(kl)
        return GivenTreatments(within.row, share).sum_of(
            kl.sum(-1, keepdim=True) / self.n_treated[rows, None].clamp(min=1)
        )[:, 0]

    def settle_effects(self, rows: torch.Tensor | slice = slice(None)) -> None:
        """Finish effects after gradient steps that moved `rows`: what no cell was given keeps the prior, all we know."""
        self.effects.reset_to_prior(self.n_treated == 0)
        if self.treatment_code is not None:
            self.treatment_code.known.copy_(self.n_treated[:, None] > 0)
        if isinstance(self.effects, CorrelatedEffects):
            self.effects.summarise(rows)

    def penalty(self) -> torch.Tensor:
        """Minus the log prior of what is estimated by a point: exponents of doses, shifts of own targets."""
        own = 0.0 if self.target_shift is None else self.target_shift.penalty()
        return self.design.penalty() + own

    def loss(
        self,
        tensors: dict,
        inference_outputs: dict,
        generative_outputs: dict,
        kl_weight: float = 1.0,
        n_obs: int = 1,
    ) -> LossOutput:
        """Negative evidence bound per cell."""
        log_prob = self._log_likelihood(generative_outputs["px"], tensors[REGISTRY_KEYS.X_KEY])
        reconstruction = -(log_prob.mean(0) if log_prob.ndim == 2 else log_prob)
        kl_local = self.kl_local(inference_outputs)
        loss = (reconstruction + kl_weight * kl_local).mean()
        plated = self.plated_kl(inference_outputs).mean() if self.global_kl == "plated" else None
        # where the total has no closed form, what the batch says of it
        total = self.effects.total_kl(n_obs) if plated is None or self.effects.has_closed_kl else plated * n_obs
        kl_global = total + self.penalty()
        if plated is not None:
            loss = loss + kl_weight * (plated + self.penalty() / n_obs)
        elif kl_global.requires_grad:
            loss = loss + kl_weight * kl_global / n_obs
        return LossOutput(
            loss=loss, reconstruction_loss=reconstruction, kl_local={"basal": kl_local}, kl_global=kl_global.detach()
        )

    @torch.inference_mode()
    def sample(self, tensors: dict, n_samples: int = 1) -> torch.Tensor:
        """Posterior predictive draws of the features of a batch, `(n_cells, n_features)` or with a leading axis."""
        _, generative_outputs = self.forward(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
        return generative_outputs["px"].sample().cpu()

    @torch.no_grad()
    def rotate(self, rotation: torch.Tensor) -> None:
        """Change the latent basis to `z' = R.T z` in encoder and decoder; masks and embeddings are the caller's."""
        self.encoder.rotate(rotation)
        self.decoder.rotate(rotation)

    @torch.no_grad()
    def translate(self, origin: torch.Tensor) -> None:
        """Move the origin of the latent space to `origin`, `(n_latent,)`; the likelihood does not change."""
        self.encoder.translate(origin)
        self.decoder.translate(origin)
