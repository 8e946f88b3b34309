"""SAMS-VAE: sparse additive mechanism shifts of perturbations in the latent space of a variational autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.model.base import VAEMixin

from perturbia import _keys
from perturbia.errors import ScaleError
from perturbia.model.base._result import stamp
from perturbia.model.base.perturbation_model import PerturbationModel
from perturbia.model.mechanism import _ate
from perturbia.model.mechanism._iwelbo import iwelbo_of_batch
from perturbia.model.mechanism._readout import Covariates, predictive_moments
from perturbia.model.mechanism._samsvae_module import BasalEncoder, GlobalKL, GlobalUpdate, SAMSVAEModule
from perturbia.model.mechanism._training import MechanismTraining

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy import sparse

    from perturbia.model.base._features import Scale
    from perturbia.nn.decoder import Likelihood
    from perturbia.perturbation.value import Query

__all__ = ["SAMSVAE"]


class SAMSVAE(MechanismTraining, VAEMixin, PerturbationModel):
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
        global_update = global_update or ("closed_form" if basal_encoder == "residual" else "gradient")
        if global_update == "closed_form" and basal_encoder != "residual":
            msg = f"global_update: expected 'gradient' with basal_encoder={basal_encoder!r}, got 'closed_form'."
            raise ValueError(msg)
        if not 0 < mask_prior_prob < 1:
            msg = f"mask_prior_prob: expected a probability strictly between 0 and 1, got {mask_prior_prob}."
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

    @property
    def capabilities(self) -> frozenset:
        """Combinations, doses, mechanisms and uncertainty; counts if registered so."""
        always = {"combination", "dose", "uncertainty", "mechanism"}
        return frozenset(always | ({"counts"} if self.scale == "counts" else set()))

    def _covariate_categories(self) -> list[int] | None:
        registered = self.registry["field_registries"].get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {})
        return list(registered["n_cats_per_key"]) if registered else None

    # latents and mechanisms ----------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        kind: Literal["full", "basal", "perturbation"] = "full",
        give_mean: bool = True,
        batch_size: int | None = None,
        return_dist: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Latent coordinates of cells.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells, all by default.
        kind
            ``"full"``: the state of the cell; ``"basal"``: with its perturbation removed; ``"perturbation"``: the
            expected shift alone.
        give_mean
            Posterior mean, or one draw.
        batch_size
            Cells per batch.
        return_dist
            Return means and variances.

        Returns
        -------
        float32 array `(n_cells, n_latent)`, or two of them under `return_dist`.
        """
        adata, chosen = self._cells(adata, indices)
        offset = self._registered_dosage(adata, chosen) @ self.module.effects.effect().detach().cpu().numpy()
        if kind == "perturbation":
            return (offset, np.zeros_like(offset)) if return_dist else offset
        mean, sd, _ = self._encode_cells(adata, chosen, batch_size)
        if kind == "full":
            mean = mean + offset
        if return_dist:
            return mean, sd**2
        if give_mean:
            return mean
        return mean + sd * np.random.default_rng(self.seed).standard_normal(mean.shape, dtype=np.float32)

    def get_treatment_masks(
        self, *, kind: Literal["prob", "binary"] = "prob", threshold: float = 0.5
    ) -> pd.DataFrame:
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

    # likelihood and effects ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def get_iwelbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_particles: int = 100,
        return_mean: bool = False,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> pd.Series | float:
        """Importance-weighted bound on the log likelihood of cells given their perturbations.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells, all by default.
        n_particles
            Draws per cell; memory does not grow with them.
        return_mean
            Return the mean over cells.
        batch_size
            Cells per batch.
        seed
            Seed of the draws.

        Returns
        -------
        float64 series over cells, in nats, or their mean. Comparable only between models of the same likelihood family
        on the same counts; it does not rank treatment effects.
        """
        adata, chosen = self._cells(adata, indices)
        loader = self._make_data_loader(adata=adata, indices=chosen, batch_size=batch_size)
        bounds = [
            iwelbo_of_batch(self.module, self._on_device(tensors), n_particles=n_particles, seed=seed + i).cpu()
            for i, tensors in enumerate(loader)
        ]
        series = pd.Series(torch.cat(bounds).numpy(), index=adata.obs_names[chosen], name="iwelbo")
        return float(series.mean()) if return_mean else series

    def get_marginal_ll(self, adata: AnnData | None = None, indices: Sequence[int] | None = None, **kwargs) -> float:  # noqa: ANN003
        """Mean of :meth:`get_iwelbo`, under the name of scvi-tools."""
        return self.get_iwelbo(adata, indices, return_mean=True, **kwargs)

    def estimate_ate(
        self,
        perturbations: Sequence[Query] | None = None,
        *,
        scale: Literal["log1p_cp10k", "perturbseq", "counts", "registered"] | None = None,
        base: Literal["control", "prior"] = "control",
        combine: Literal["shrunk_residual"] | None = None,
        n_cells: int = 300,
        n_draws: int = 10,
        seed: int = 0,
    ) -> AnnData:
        r"""Average treatment effects: expected features under a perturbation minus under control.

        The same basal states, over-dispersion factors and library sizes enter both sides, and counts are integrated
        out exactly, so that Monte Carlo noise stays far below the effects.

        Parameters
        ----------
        perturbations
            Queries; by default every perturbation and combination in the registered data.
        scale
            ``"log1p_cp10k"``: difference of :math:`E[\log(1 + 10^4 x / l)]`; ``"perturbseq"``: the same in base 2;
            ``"counts"``: difference of expected counts. ``"registered"`` for features that are not counts.
        base
            Basal states of observed control cells, or draws from the prior.
        combine
            ``"shrunk_residual"`` adds what the training cells of a perturbation show beyond the model, shrunken by its
            noise. For perturbations without training cells it changes nothing.
        n_cells
            Number of basal states.
        n_draws
            Draws of masks and embeddings for `layers["sd"]`; 0 leaves it zero.
        seed
            Seed of all draws.

        Returns
        -------
        AnnData `(n_perturbations, n_features)`, float32: `X` effects, `layers["se"]` Monte Carlo standard errors,
        `layers["sd"]` posterior standard deviations, `obs["n_cells"]` training cells of exactly that perturbation.

        Raises
        ------
        UnknownPerturbation, NotTrainedError, ScaleError
            If a query, the model or the scale can not be used.
        """
        return _ate.estimate_ate(
            self, perturbations, scale=scale, base=base, combine=combine, n_cells=n_cells, n_draws=n_draws, seed=seed
        )

    @torch.inference_mode()
    def sample(
        self, query: Query, n_samples: int = 100, *, library_size: float | None = None, seed: int = 0
    ) -> AnnData:
        """Draw cells under a perturbation from the prior of the basal state.

        Parameters
        ----------
        query
            The perturbation.
        n_samples
            Number of cells.
        library_size
            Counts per cell; by default draws from the library sizes of training controls.
        seed
            Seed of the draws.

        Returns
        -------
        AnnData `(n_samples, n_features)` of sampled features, float32, in the registered scale.
        """
        self._require_trained()
        dosage = torch.from_numpy(self._query_matrix([query]).toarray()).to(self.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            mask, embedding = self.module.effects.sample(n_samples)
            offset = torch.einsum("qt,stl->sl", dosage, mask * embedding)
            covariates = _ate.prior_covariates(self, n_samples, library_size=library_size)
            px = covariates.decode(self.module, torch.randn_like(offset) + offset)
            features = px.sample().cpu().numpy().astype(np.float32)
        out = self._as_features(features, [str(self._read_query(query))] * n_samples)
        return stamp(out, kind="readout", ur_id=self.ur_id, model=self._kind, scale=self.scale, seed=seed)

    # hooks of the protocol -----------------------------------------------------------------------------------------

    def _latent_var(self) -> pd.DataFrame:
        index = [f"z{i}" for i in range(self.module.n_latent)]
        return pd.DataFrame({"kind": "basal"}, index=index)

    @torch.inference_mode()
    def _encode_cells(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        means, sds, libraries = [], [], []
        effect = self.module.effects.effect()
        for tensors in self._make_data_loader(adata=adata, indices=indices, batch_size=batch_size or 1024):
            inputs = self.module._get_inference_input(self._on_device(tensors))
            size, dosage = inputs.pop("size_factor"), inputs.pop("dosage")
            offset = dosage @ effect
            guide = self.module.encode(offset=offset, **inputs)
            means.append((guide.loc - offset if self.module.basal_encoder == "residual" else guide.loc).cpu())
            sds.append(guide.scale.cpu())
            libraries.append((inputs["x"].sum(-1) if size is None else size.ravel()).cpu())
        library = torch.cat(libraries).numpy() if self.module.is_count_model else None
        return torch.cat(means).numpy(), torch.cat(sds).numpy(), library

    def _draw_offsets(
        self, dosage: sparse.csr_matrix, n_draws: int, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | float]:
        effects = self.module.effects
        if n_draws == 1:
            variance = dosage.power(2) @ effects.variance().detach().cpu().numpy()
            return dosage @ effects.effect().detach().cpu().numpy(), np.sqrt(variance)
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        with torch.inference_mode():
            mask, embedding = effects.sample(n_draws, generator=generator)
        return np.stack([(dosage @ draw)[0] for draw in (mask * embedding).cpu().numpy()]), 0.0

    @torch.inference_mode()
    def _decode_cells(
        self, latent: AnnData, scale: Scale, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        covariates = _ate.covariates_of(self, latent.obs)
        z, sd = (
            torch.from_numpy(np.asarray(values)).to(self.device)
            for values in (latent.X, latent.layers[_keys.LAYER_SD])
        )
        size = batch_size or 512
        parts = [
            predictive_moments(
                self.module, z[rows], sd[rows], covariates.rows(rows), log_normalized=scale == "log1p_cp10k" and
                self.module.is_count_model,
            )
            for rows in (slice(start, start + size) for start in range(0, len(z), size))
        ]
        mean, deviation = (torch.cat(part).cpu().numpy().astype(np.float32) for part in zip(*parts, strict=True))
        return mean, deviation

    def _on_device(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value.to(self.device) for key, value in tensors.items()}
