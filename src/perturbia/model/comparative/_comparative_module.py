"""Torch module of the comparative VAE: latents that all cells share, and salient ones of target cells alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import nn
from torch.distributions import Normal, kl_divergence

from perturbia.model.mechanism._mechanism_module import MechanismModule
from perturbia.model.mechanism._reference_statistics import hold_statistics
from perturbia.nn import DiagonalGaussianEncoder, GivenTreatments, LabelMeans, LikelihoodDecoder, TreatmentDesign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.nn.decoder import Likelihood

__all__ = ["ComparativeModule", "SalientPrior", "TargetPrior", "group_means"]

SalientPrior = Literal["standard", "label"]
TargetPrior = Literal["standard", "learned"]


class ComparativeModule(BaseModuleClass):
    r"""Shared latents :math:`z` and salient latents :math:`s` with one decoder, :math:`x \sim p(x \mid f(z, s))`.

    Groups are numbered: 0 is the background, in which :math:`s = 0` exactly, and each target group has a block of
    :math:`s` of its own, the others held at 0. Parts that all autoencoders of this package have in common, the reading of
    a minibatch and the likelihood, are those of :class:`MechanismModule`.
    """

    is_count_model = MechanismModule.is_count_model
    given = staticmethod(MechanismModule.given)
    standardize = MechanismModule.standardize
    _get_inference_input = MechanismModule._get_inference_input
    _covariates = staticmethod(MechanismModule._covariates)
    _categories = staticmethod(MechanismModule._categories)
    _log_likelihood = MechanismModule._log_likelihood
    input_mean: torch.Tensor
    input_sd: torch.Tensor
    n_treated: torch.Tensor
    block: torch.Tensor

    def __init__(
        self,
        n_input: int,
        n_treatments: int,
        *,
        n_groups: int = 1,
        n_latent_shared: int = 10,
        n_latent_salient: int = 8,
        n_hidden: int = 128,
        n_layers: int = 2,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        gene_likelihood: Likelihood = "nb",
        salient_prior: SalientPrior = "standard",
        target_prior: TargetPrior = "standard",
    ) -> None:
        super().__init__()
        self.n_groups = n_groups
        self.n_shared, self.n_per_group = n_latent_shared, n_latent_salient
        self.n_salient = n_groups * n_latent_salient
        self.gene_likelihood = gene_likelihood
        n_cat_list = [n_batch, *(n_cats_per_cov or ())]
        sizes = {"n_hidden": n_hidden, "n_layers": n_layers, "n_cat_list": n_cat_list, "n_cont": n_continuous_cov}
        self.shared_encoder = DiagonalGaussianEncoder(n_input, self.n_shared, **sizes)
        self.salient_encoder = DiagonalGaussianEncoder(n_input, self.n_salient, **sizes)
        self.decoder = LikelihoodDecoder(self.n_latent, n_input, likelihood=gene_likelihood, **sizes)
        self.design = TreatmentDesign(n_treatments)
        self.effects = LabelMeans(n_treatments, self.n_per_group) if salient_prior == "label" else None
        learned = target_prior == "learned"
        self.target_mean = nn.Parameter(torch.zeros(n_groups, self.n_shared)) if learned else None
        self.target_log_sd = nn.Parameter(torch.zeros(n_groups, self.n_shared)) if learned else None
        # which salient latents a group has, one row a group
        rows = torch.arange(n_groups + 1)[:, None] - 1
        self.register_buffer("block", (rows == torch.arange(self.n_salient) // self.n_per_group).float())
        hold_statistics(self, n_input, n_treatments)

    @property
    def n_latent(self) -> int:
        """Shared and salient latents together."""
        return self.n_shared + self.n_salient

    def group_of(self, given: GivenTreatments) -> torch.Tensor:
        """Number of the group of each cell, int64 `(n_cells,)`: 0 without treatments."""
        treated = (given.dose > 0).any(1)
        # of several target groups a cell is in one, which is its treatment
        return torch.where(treated, given.row[:, 0] + 1 if self.n_groups > 1 else 1, 0)

    def group(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Number of the group of each cell of a minibatch."""
        return self.group_of(self.given(tensors))

    def _get_generative_input(self, tensors: dict, inference_outputs: dict, **_: object) -> dict:
        return {
            "z": inference_outputs["z"],
            "library": inference_outputs["library"],
            **self._covariates(tensors),
        }

    @auto_move_data
    def inference(
        self,
        x: torch.Tensor,
        given: GivenTreatments,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        size_factor: torch.Tensor | None = None,
        n_samples: int = 1,
    ) -> dict:
        """Draw latents: `z` `(n_cells, n_latent)`, shared before salient; a leading axis for several samples.

        `qz` and `qs` are the guides of both, the latter before the groups' blocks are cut out.
        """
        features, categories = self.standardize(x), self._categories(batch_index, cat_covs)
        qz = self.shared_encoder(features, *categories, cont=cont_covs)
        qs = self.salient_encoder(features, *categories, cont=cont_covs)
        group = self.group_of(given)
        leading = () if n_samples == 1 else (n_samples,)
        salient = qs.rsample(leading) * self.block[group]
        return {
            "z": torch.cat([qz.rsample(leading), salient], -1),
            "qz": qz,
            "qs": qs,
            "group": group,
            "given": given,
            "library": x.sum(-1, keepdim=True) if size_factor is None else size_factor,
        }

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
        """Distribution of features given all latents; treatments act on nothing else."""
        del given
        return {"px": self.decoder(z, library, *self._categories(batch_index, cat_covs), cont=cont_covs)}

    def salient_offset(self, given: GivenTreatments) -> tuple[torch.Tensor, torch.Tensor]:
        """Prior means of salient latents `(n_cells, n_salient)`, 0 without labels, and their variance `(n_cells, 1)`."""
        own = self.block[self.group_of(given)]
        if self.effects is None:
            return torch.zeros_like(own), torch.zeros_like(own[:, :1])
        mean, variance = self.effects.offset(self.design(given), self.n_treated)
        return mean.repeat(1, self.n_groups) * own, variance

    def kl_local(self, inference_outputs: dict) -> dict[str, torch.Tensor]:
        """KL of shared latents, and of salient ones in target cells, each `(n_cells, n_dimensions)`."""
        qz, qs, group = (inference_outputs[key] for key in ("qz", "qs", "group"))
        prior = Normal(torch.zeros_like(qz.loc), torch.ones_like(qz.loc))
        if self.target_mean is not None and self.target_log_sd is not None:
            location = torch.cat([torch.zeros_like(self.target_mean[:1]), self.target_mean])[group]
            log_sd = torch.cat([torch.zeros_like(self.target_log_sd[:1]), self.target_log_sd])[group]
            prior = Normal(location, log_sd.exp(), validate_args=False)
        offset, _ = self.salient_offset(inference_outputs["given"])
        salient = kl_divergence(qs, Normal(offset, torch.ones_like(offset)))
        return {"shared": kl_divergence(qz, prior), "salient": salient * self.block[group]}

    def loss(
        self,
        tensors: dict,
        inference_outputs: dict,
        generative_outputs: dict,
        kl_weight: float = 1.0,
    ) -> LossOutput:
        """Sum over groups of the negative evidence bound of their mean cell."""
        log_prob = self._log_likelihood(generative_outputs["px"], tensors[REGISTRY_KEYS.X_KEY])
        reconstruction = -(log_prob.mean(0) if log_prob.ndim == 2 else log_prob)
        kl_local = {name: kl.sum(-1) for name, kl in self.kl_local(inference_outputs).items()}
        bound = reconstruction + kl_weight * (kl_local["shared"] + kl_local["salient"])
        loss = group_means(bound, inference_outputs["group"], self.n_groups).sum()
        kl_global = torch.zeros((), device=loss.device)
        if self.effects is not None:
            kl_global = self.effects.penalty()
            loss = loss + kl_global / self.n_treated.sum().clamp(min=1)
        return LossOutput(
            loss=loss, reconstruction_loss=reconstruction, kl_local=kl_local, kl_global=kl_global.detach()
        )

    @torch.inference_mode()
    def sample(self, tensors: dict, n_samples: int = 1) -> torch.Tensor:
        """Posterior predictive draws of the features of a batch, `(n_cells, n_features)` or with a leading axis."""
        _, generative_outputs = self.forward(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
        return generative_outputs["px"].sample().cpu()


def group_means(values: torch.Tensor, group: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Mean of the cells of each group, `(n_groups + 1,)`; 0 for groups without cells."""
    zeros = torch.zeros(n_groups + 1, dtype=values.dtype, device=values.device)
    count = zeros.index_add(0, group, torch.ones_like(values))
    return zeros.index_add(0, group, values) / count.clamp(min=1)
