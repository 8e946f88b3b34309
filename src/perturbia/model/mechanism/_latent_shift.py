"""Latents, likelihoods and effects of models in which perturbations shift latents of an autoencoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.model.base import VAEMixin

from perturbia import _keys
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._latent_answer import latent_answer
from perturbia.model.base._minified import is_minified, require_features
from perturbia.model.base._result import stamp
from perturbia.model.base.perturbation_model import PerturbationModel
from perturbia.model.mechanism._ate import estimate_ate
from perturbia.model.mechanism._basal_states import covariates_of, given_of, prior_covariates
from perturbia.model.mechanism._expression_methods import ExpressionMethods
from perturbia.model.mechanism._iwelbo import iwelbo_of_batch
from perturbia.model.mechanism._minification import MinifiedMode
from perturbia.model.mechanism._predictive_samples import replicate_cells
from perturbia.model.mechanism._readout import predictive_moments
from perturbia.model.mechanism._stored_latents import expected_offsets, library_of_batch, read_guides
from perturbia.model.mechanism._training import MechanismTraining

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.base._features import Scale
    from perturbia.perturbation.value import Query

__all__ = ["LatentShiftModel"]


class LatentShiftModel(ExpressionMethods, MinifiedMode, MechanismTraining, VAEMixin, PerturbationModel):
    """Base of latent-shift models; the module provides `encode`, `generative` and `effects`."""

    @property
    def capabilities(self) -> frozenset:
        """Combinations, doses, mechanisms and uncertainty; counts if registered so."""
        always = {"combination", "dose", "uncertainty", "mechanism"}
        return frozenset(always | ({"counts"} if self.scale == "counts" else set()))

    def _covariate_categories(self) -> list[int] | None:
        registered = self.registry["field_registries"].get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {})
        return list(registered["n_cats_per_key"]) if registered else None

    def _summary(self, n_latent: int, n_hidden: int, n_layers: int, likelihood: str, *switches: str) -> str:
        sizes = f"n_latent={n_latent}, n_hidden={n_hidden}, n_layers={n_layers}, {', '.join((likelihood, *switches))}"
        return (
            f"{self._kind} of {self.summary_stats.n_vars} features and {len(self.perturbations)} perturbations: {sizes}"
        )

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
        check_choice("kind", kind, ("full", "basal", "perturbation"))
        adata, chosen = self._cells(adata, indices)
        if kind == "perturbation":
            offset = expected_offsets(self, self._registered_dosage(adata, chosen))
            return (offset, np.zeros_like(offset)) if return_dist else offset
        if kind == "full":
            mean, sd = self._encode_in_order(adata, chosen, batch_size, encode=self._encode_totals)
        else:
            mean, sd, _ = self._encode_in_order(adata, chosen, batch_size)
        return latent_answer(mean, sd, give_mean=give_mean, return_dist=return_dist, seed=self.seed)

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
        check_positive_integer("n_particles", n_particles)
        adata, chosen = self._cells(adata, indices)
        require_features(adata, "get_iwelbo")
        distinct, inverse = np.unique(chosen, return_inverse=True)
        loader = self._make_data_loader(adata=adata, indices=distinct, batch_size=batch_size)
        bounds = [
            iwelbo_of_batch(self.module, self._on_device(tensors), n_particles=n_particles, seed=seed, batch=i).cpu()
            for i, tensors in enumerate(loader)
        ]
        series = pd.Series(torch.cat(bounds).numpy()[inverse], index=adata.obs_names[chosen], name="iwelbo")
        return float(series.mean()) if return_mean else series

    def get_marginal_ll(self, adata: AnnData | None = None, indices: Sequence[int] | None = None, **kwargs) -> float:
        """Mean of :meth:`get_iwelbo`, under the name of scvi-tools."""
        return float(np.mean(self.get_iwelbo(adata, indices, **kwargs)))

    def estimate_ate(
        self,
        perturbations: Sequence[Query] | None = None,
        *,
        scale: Literal["log1p_cp10k", "perturbseq", "counts", "registered"] | None = None,
        base: Literal["control", "prior"] = "control",
        combine: Literal["shrunk_residual"] | None = None,
        n_cells: int = 300,
        n_draws: int = 10,
        interval: float | None = None,
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
            Basal states of observed control cells (those that trained, where the model has them), or draws from the prior.
        combine
            ``"shrunk_residual"`` adds what the training cells of a perturbation show beyond the model, shrunken by its
            noise. For perturbations without training cells it changes nothing.
        n_cells
            Number of basal states; memory does not grow with them.
        n_draws
            Draws of masks and embeddings for `layers["sd"]`; 0 leaves it zero.
        interval
            Probability of a central posterior interval, such as 0.9, written to `layers["lower"]` and
            `layers["upper"]`; wants 200 draws. The encoder and the decoder are taken as known.
        seed
            Seed of all draws.

        Returns
        -------
        AnnData `(n_perturbations, n_features)`, float32: `X` effects, `layers["se"]` Monte Carlo standard errors,
        `layers["sd"]` posterior standard deviations, `obs["n_cells"]` training cells of exactly that perturbation
        (0 if the model was loaded with other data).

        Raises
        ------
        UnknownPerturbation, NotTrainedError, ScaleError
            If a query, the model or the scale can not be used.
        """
        return estimate_ate(
            self,
            perturbations,
            scale=scale,
            base=base,
            combine=combine,
            n_cells=n_cells,
            n_draws=n_draws,
            interval=interval,
            seed=seed,
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
        check_positive_integer("n_samples", n_samples)
        if library_size is not None and not (np.isfinite(library_size) and library_size > 0):
            msg = f"library_size: expected a positive number, got {library_size!r}."
            raise ValueError(msg)
        given = given_of(self._query_matrix([query])).to(self.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            rows, within = self.module.design(given).within()
            mask, embedding = self.module.effects.sample(n_samples, rows=rows)
            offset = within.sum_of(mask * embedding)[:, 0]
            covariates = prior_covariates(self, n_samples, library_size=library_size).under(given)
            px = covariates.decode(self.module, torch.randn_like(offset) + offset)
            features = px.sample().cpu().numpy().astype(np.float32)
        out = self._as_features(features, [str(self._read_query(query))] * n_samples)
        return stamp(out, kind="readout", ur_id=self.ur_id, model=self._kind, scale=self.scale, seed=seed)

    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        *,
        basal: Literal["posterior", "prior"] = "posterior",
        batch_size: int | None = None,
        seed: int = 0,
    ) -> sparse.csr_matrix | np.ndarray:
        """Replicated data: features of cells of the same perturbations, library sizes and covariates.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells, all by default.
        n_samples
            Number of replicates. Each has one draw of masks and embeddings, which all its cells share.
        basal
            Where the basal state of a cell comes from: ``"posterior"``, the guide given that cell, as scvi-tools does
            it; ``"prior"``, a new cell of the same design. The posterior has seen the cell, so that its replicates
            agree with the data even where the model of the population is wrong.
        batch_size
            Cells per batch.
        seed
            Seed of the draws.

        Returns
        -------
        Draws in the registered scale, float32: `(n_cells, n_features)` for one sample, CSR for counts; otherwise a
        dense array `(n_cells, n_features, n_samples)`, in the order of scvi-tools. A replicate may hold empty cells.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
        >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
        >>> model = pb.model.SAMSVAE(adata, n_latent=5)
        >>> model.train(max_steps=20, enable_progress_bar=False)
        >>> model.posterior_predictive_sample(indices=range(40), basal="prior").shape
        (40, 30)
        """
        check_positive_integer("n_samples", n_samples)
        check_choice("basal", basal, ("posterior", "prior"))
        adata, chosen = self._cells(adata, indices)
        if basal == "posterior" and self.module.basal_encoder == "correlated":
            require_features(adata, "basal='posterior' under the correlated guide")  # it sees the drawn offset
        chosen = chosen % adata.n_obs
        seeds = [seed] if n_samples == 1 else np.random.SeedSequence(seed).generate_state(n_samples).tolist()
        draws = [replicate_cells(self, adata, chosen, basal=basal, batch_size=batch_size, seed=one) for one in seeds]
        if n_samples == 1:
            return draws[0]
        dense = [draw.toarray() if isinstance(draw, sparse.csr_matrix) else draw for draw in draws]
        return np.stack(dense, axis=-1)

    # hooks of the protocol -----------------------------------------------------------------------------------------

    def _latent_var(self) -> pd.DataFrame:
        index = [f"z{i}" for i in range(self.module.n_latent)]
        return pd.DataFrame({"kind": "basal"}, index=index)

    def _encode_cells(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        mean, sd, library = self._encode_guides(adata, indices, batch_size)
        if self.module.encodes_total:
            mean = mean - expected_offsets(self, self._registered_dosage(adata, indices))
        return mean, sd, library

    def _encode_totals(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the total latent of cells."""
        mean, sd, _ = self._encode_guides(adata, indices, batch_size, library=False)
        if not self.module.encodes_total:
            mean = mean + expected_offsets(self, self._registered_dosage(adata, indices))
        return mean, sd

    @torch.inference_mode()
    def _encode_guides(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None, *, library: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Mean and standard deviation of the guide, be it of the total latent or of the basal one, and library sizes."""
        library = library and self.module.is_count_model
        if is_minified(adata):
            return read_guides(self, adata, indices, library=library)
        means, sds, libraries = [], [], []
        device = self.device
        for tensors in self._make_data_loader(adata=adata, indices=indices, batch_size=batch_size or 1024):
            own = {key: value.to(device) for key, value in tensors.items()}
            guide = self.module.guide(own)
            means.append(guide.loc.cpu())
            sds.append(guide.scale.cpu())
            if library:
                libraries.append(library_of_batch(own).ravel().cpu())
        return torch.cat(means).numpy(), torch.cat(sds).numpy(), torch.cat(libraries).numpy() if library else None

    def _draw_offsets(
        self, dosage: sparse.csr_matrix, n_draws: int, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | float]:
        effects = self.module.effects
        given = given_of(dosage).to(self.device)
        with torch.inference_mode():
            called = self.module.design(given)
            if n_draws == 1:
                mean, variance = effects.offset(called)
                return mean.cpu().numpy(), variance.sqrt().cpu().numpy()
            generator = torch.Generator()
            generator.seed() if seed is None else generator.manual_seed(seed)
            rows, within = called.within()
            mask, embedding = effects.sample(n_draws, rows=rows, generator=generator)
            return within.sum_of(mask * embedding)[:, 0].cpu().numpy(), 0.0

    def _mark_given(self, latent: AnnData, dosage: sparse.csr_matrix) -> None:
        if self.module.decodes_given:
            latent.obsm[_keys.OBSM_GIVEN] = sparse.vstack([dosage] * latent.n_obs, format="csr")

    @torch.inference_mode()
    def _decode_cells(self, latent: AnnData, scale: Scale, batch_size: int | None) -> tuple[np.ndarray, np.ndarray]:
        covariates = covariates_of(self, latent.obs)
        if _keys.OBSM_GIVEN in latent.obsm:
            given = given_of(latent.obsm[_keys.OBSM_GIVEN]).to(self.device)
            covariates = replace(covariates, given=given)
        z, sd = (
            torch.from_numpy(np.asarray(values)).to(self.device) for values in (latent.X, latent.layers[_keys.LAYER_SD])
        )
        size = batch_size or 512
        parts = [
            predictive_moments(
                self.module,
                z[rows],
                sd[rows],
                covariates.rows(rows),
                log_normalized=scale == "log1p_cp10k" and self.module.is_count_model,
            )
            for rows in (slice(start, start + size) for start in range(0, len(z), size))
        ]
        mean, deviation = (torch.cat(part).cpu().numpy().astype(np.float32) for part in zip(*parts, strict=True))
        return mean, deviation

    def _on_device(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value.to(self.device) for key, value in tensors.items()}
