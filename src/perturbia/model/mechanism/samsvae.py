"""SAMS-VAE: sparse additive mechanism shifts of perturbations in the latent space of a variational autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import torch

from perturbia.errors import ScaleError
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.mechanism._latent_shift import LatentShiftModel
from perturbia.model.mechanism._samsvae_module import BasalEncoder, GlobalKL, GlobalUpdate, SAMSVAEModule
from perturbia.nn.decoder import Likelihood

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["SAMSVAE"]


class SAMSVAE(LatentShiftModel):
    r"""Sparse additive mechanism shift variational autoencoder.

    Cells have a basal state :math:`z^b`, perturbations shift it additively and sparsely, and a neural decoder turns
    the sum into counts:

    .. math::
        z_i = z_i^b + \sum_t d_{it}\, m_t \odot e_t, \quad
        m_{tl} \sim \mathrm{Bernoulli}(\alpha), \quad e_t \sim N(0, s_E^2 I), \quad
        x_i \sim \mathrm{NB}(l_i\, \mathrm{softmax}\, f(z_i), \theta)

    The default inference encodes the total latent and updates masks and embeddings in closed form, turning the latent
    basis towards sparse effects on the way; the published one is
    ``basal_encoder="correlated", global_update="gradient", global_kl="plated", n_particles=5``.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    n_latent
        Number of latent dimensions.
    n_hidden
        Width of encoder and decoder.
    n_layers
        Hidden layers of encoder and decoder.
    gene_likelihood
        ``"nb"``, ``"zinb"`` and ``"poisson"`` for counts, ``"normal"`` for any other scale.
    basal_encoder
        ``"residual"`` (ours), or the published guides ``"correlated"`` and ``"mean_field"``; the last can not tell a
        perturbation from a state and is kept for comparison.
    global_update
        ``"closed_form"`` (with the residual guide) or ``"gradient"``.
    global_kl
        ``"closed"``: the KL of masks and embeddings in closed form, once per data set; ``"plated"``: sampled, spread
        over the cells of each perturbation, as published.
    mask_prior_prob
        Prior probability :math:`\alpha` that a perturbation moves a latent.
    embedding_prior_scale
        Prior standard deviation :math:`s_E` of a shift, in units of the basal standard deviation.
    n_particles
        Draws of the latent per cell and step.
    temperature
        Temperature of relaxed masks under the published guides.
    seed
        Seed of initial weights and of training.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> model.get_latent_representation().shape
    (900, 5)

    References
    ----------
    Bereket, M. and Karaletsos, T. (2023). Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder. NeurIPS.
    """

    _module_cls = SAMSVAEModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        n_layers: int = 1,
        gene_likelihood: Likelihood = "nb",
        basal_encoder: BasalEncoder = "residual",
        global_update: GlobalUpdate | None = None,
        global_kl: GlobalKL = "closed",
        mask_prior_prob: float = 0.1,
        embedding_prior_scale: float = 1.0,
        n_particles: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        _check_switches(basal_encoder, global_update, global_kl, gene_likelihood)
        sizes = {"n_latent": n_latent, "n_hidden": n_hidden, "n_layers": n_layers, "n_particles": n_particles}
        for name, size in sizes.items():
            check_positive_integer(name, size)
        global_update = global_update or ("closed_form" if basal_encoder == "residual" else "gradient")
        if global_update == "closed_form" and basal_encoder != "residual":
            msg = f"global_update: expected 'gradient' with basal_encoder={basal_encoder!r}, got 'closed_form'."
            raise ValueError(msg)
        if not 0 < mask_prior_prob < 1:
            msg = f"mask_prior_prob: expected a probability strictly between 0 and 1, got {mask_prior_prob}."
            raise ValueError(msg)
        for name, number in (("embedding_prior_scale", embedding_prior_scale), ("temperature", temperature)):
            if not number > 0:
                msg = f"{name}: expected a positive number, got {number}."
                raise ValueError(msg)
        if (gene_likelihood == "normal") == (self.scale == "counts"):
            msg = f"gene_likelihood: {gene_likelihood!r} does not fit data registered with scale={self.scale!r}."
            raise ScaleError(msg)
        self.global_update = global_update
        self.seed = seed
        stats = self.summary_stats
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = SAMSVAEModule(
                n_input=stats.n_vars,
                n_treatments=len(self.perturbations),
                n_latent=n_latent,
                n_hidden=n_hidden,
                n_layers=n_layers,
                n_batch=stats.n_batch,
                n_cats_per_cov=self._covariate_categories(),
                n_continuous_cov=stats.get("n_extra_continuous_covs", 0),
                gene_likelihood=gene_likelihood,
                basal_encoder=basal_encoder,
                global_update=global_update,
                global_kl=global_kl,
                mask_prior_prob=mask_prior_prob,
                embedding_prior_scale=embedding_prior_scale,
                n_particles=n_particles,
                temperature=temperature,
            )
        self._model_summary_string = (
            f"SAMSVAE of {stats.n_vars} features and {len(self.perturbations)} perturbations: "
            f"n_latent={n_latent}, n_hidden={n_hidden}, n_layers={n_layers}, gene_likelihood={gene_likelihood}, "
            f"basal_encoder={basal_encoder}, global_update={global_update}, mask_prior_prob={mask_prior_prob}"
        )
        self.init_params_ = self._get_init_params(locals())

    def get_treatment_masks(self, *, kind: Literal["prob", "binary"] = "prob", threshold: float = 0.5) -> pd.DataFrame:
        """Which latents each perturbation moves.

        Parameters
        ----------
        kind
            Posterior probabilities, or 1 where they exceed `threshold`.
        threshold
            Cut of ``"binary"``.

        Returns
        -------
        float32 data frame, perturbations × latents (``z0``, ``z1``, …).
        """
        self._require_trained()
        check_choice("kind", kind, ("prob", "binary"))
        masks = self.module.effects.inclusion.detach().cpu().numpy()
        return self._by_treatment(masks if kind == "prob" else (masks > threshold).astype(np.float32))

    def get_treatment_embeddings(self, *, masked: bool = True) -> pd.DataFrame:
        """How far each perturbation moves each latent, in units of the basal standard deviation.

        Parameters
        ----------
        masked
            Posterior mean of mask times embedding, or of the embedding given an open mask.

        Returns
        -------
        float32 data frame, perturbations × latents.
        """
        self._require_trained()
        effects = self.module.effects
        return self._by_treatment((effects.effect() if masked else effects.mean).detach().cpu().numpy())

    def _by_treatment(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=self.perturbations, columns=self._latent_var().index)


def _check_switches(basal_encoder: str, global_update: str | None, global_kl: str, gene_likelihood: str) -> None:
    check_choice("basal_encoder", basal_encoder, get_args(BasalEncoder))
    check_choice("global_update", global_update, (*get_args(GlobalUpdate), None))
    check_choice("global_kl", global_kl, get_args(GlobalKL))
    check_choice("gene_likelihood", gene_likelihood, get_args(Likelihood))
