"""What comparative models say of cells: latents, expression with and without what is salient, bounds, latents in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch

from perturbia import _keys
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._latent_answer import latent_answer
from perturbia.model.comparative._latent_blocks import LatentBlockModel
from perturbia.model.mechanism._basal_states import covariates_of
from perturbia.model.mechanism._expression_methods import ExpressionMethods
from perturbia.model.mechanism._normalized_expression import Readout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["CellReadouts"]

#: Variance of posterior means above which a latent is in use, that of Burda et al. (2016).
_ACTIVE = 0.01


class CellReadouts(LatentBlockModel):
    """Getters of comparative models."""

    _checked_library = ExpressionMethods._checked_library

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        kind: Literal["shared", "salient", "both"] = "both",
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
            ``"shared"`` latents, ``"salient"`` ones, exactly 0 in the background and in blocks of other groups, or
            ``"both"``, side by side.
        give_mean
            Posterior mean, or one draw.
        batch_size
            Cells per batch.
        return_dist
            Return means and variances.

        Returns
        -------
        float32 array `(n_cells, n_latents)`, or two of them under `return_dist`.
        """
        check_choice("kind", kind, ("shared", "salient", "both"))
        adata, chosen = self._cells(adata, indices)
        mean, sd, _ = self._encode_in_order(adata, chosen, batch_size, encode=self._encode_blocks)
        n = self.module.n_shared
        columns = {"shared": slice(0, n), "salient": slice(n, None), "both": slice(None)}[kind]
        return latent_answer(
            mean[:, columns], sd[:, columns], give_mean=give_mean, return_dist=return_dist, seed=self.seed
        )

    @torch.inference_mode()
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        component: Literal["full", "shared_only"] = "full",
        library_size: float | Literal["latent"] = 1.0,
        n_samples: int = 1,
        batch_size: int | None = None,
        return_numpy: bool = False,
        seed: int = 0,
    ) -> pd.DataFrame | np.ndarray:
        """Expression that the decoder expects of cells, with or without what is salient in them.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells, all by default.
        component
            ``"full"``, or ``"shared_only"``: the cell as it would be in the background.
        library_size
            What expression adds up to, or ``"latent"`` for the size of each cell; for counts only.
        n_samples
            Draws of the latents to average over.
        batch_size
            Cells per batch.
        return_numpy
            Return an array.
        seed
            Seed of the draws, which both components share.

        Returns
        -------
        float32 data frame or array, cells × features.
        """
        check_choice("component", component, ("full", "shared_only"))
        check_positive_integer("n_samples", n_samples)
        adata, chosen = self._cells(adata, indices)
        mean, sd, library = self._encode_in_order(adata, chosen, batch_size, encode=self._encode_blocks)
        obs = adata.obs.iloc[chosen].copy()
        if library is not None:
            obs[_keys.OBS_LIBRARY] = library
        covariates = covariates_of(self, obs)
        readout = Readout(np.arange(self.summary_stats.n_vars), self._checked_library(library_size))
        values = np.zeros((len(chosen), self.summary_stats.n_vars), dtype=np.float32)
        rng, size = np.random.default_rng(seed), batch_size or 512
        for _ in range(n_samples):
            z = mean + sd * rng.standard_normal(mean.shape, dtype=np.float32)
            if component == "shared_only":
                z[:, self.module.n_shared :] = 0.0
            for start in range(0, len(z), size):
                rows = slice(start, start + size)
                own = torch.from_numpy(z[rows]).to(self.device)
                values[rows] += readout.of(self, own, covariates.rows(rows)) / n_samples
        if return_numpy:
            return values
        return pd.DataFrame(values, index=adata.obs_names[chosen], columns=self.get_var_names())

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 5,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> pd.Series:
        """Evidence bound of the mean cell of each group, in nats: higher is better.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells, all by default; those held out, as `model.validation_indices`, tell models apart.
        n_samples
            Draws of the latents per cell.
        batch_size
            Cells per batch.
        seed
            Seed of the draws.

        Returns
        -------
        float64 series over the groups that have cells.
        """
        check_positive_integer("n_samples", n_samples)
        adata, chosen = self._cells(adata, indices)
        distinct, inverse = np.unique(chosen, return_inverse=True)
        bounds = self._bounds(adata, distinct, n_samples=n_samples, batch_size=batch_size, seed=seed).iloc[inverse]
        means = bounds["elbo"].astype(np.float64).groupby(bounds["group"]).mean()
        return pd.Series(means.to_numpy(), index=[self.groups[code] for code in means.index], name="elbo")

    def get_active_dimensions(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, *, batch_size: int | None = None
    ) -> pd.DataFrame:
        """Which latents are in use.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells, all by default.
        batch_size
            Cells per batch.

        Returns
        -------
        Data frame over the latents: `kind`, `group`, `variance` of the posterior means over the cells that have the
        latent, `sd`, the mean posterior standard deviation, and `active`, where the variance exceeds 0.01.
        """
        mean, variance = self.get_latent_representation(adata, indices, batch_size=batch_size, return_dist=True)
        table = self._latent_var()
        has = variance > 0
        count = np.maximum(has.sum(0), 1)
        centre = (mean * has).sum(0) / count
        table["variance"] = (np.square(mean - centre) * has).sum(0) / count
        table["sd"] = np.sqrt(variance).sum(0) / count
        return table.assign(active=table["variance"] > _ACTIVE)

    def get_label_means(self) -> pd.DataFrame:
        """Mean of the salient latents of each perturbation, or of each group, where ``salient_prior="label"``.

        Returns
        -------
        float32 data frame, labels × salient latents of a group (``s0``, ``s1``, …); without rows for the standard prior.
        """
        self._require_trained()
        columns = [f"s{i}" for i in range(self.module.n_per_group)]
        if self.module.effects is None:
            return pd.DataFrame(columns=columns, dtype=np.float32)
        means = self.module.effects.mean.detach().cpu().numpy()
        return pd.DataFrame(means, index=self.perturbations, columns=columns)
