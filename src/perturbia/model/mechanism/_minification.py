"""Minified mode: the latents of cells kept in place of their features, by the protocol of scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.data._constants import _SCVI_UUID_KEY
from scvi.model.base import BaseMinifiedModeModelClass

from perturbia import _keys
from perturbia.errors import RepresentationMismatch, UnsupportedQuery
from perturbia.model.base._arguments import check_choice
from perturbia.model.base._minified import MINIFY_TYPES, is_minified, require_features
from perturbia.model.mechanism._stored_latents import check_whose_latents, expected_offsets, minified_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["MinifiedMode"]

#: Cells whose latents are encoded to check those that were given.
_N_CHECKED = 100


class MinifiedMode(BaseMinifiedModeModelClass):
    """`minify_adata` of models that encode cells, and the checks of what minified data can not answer."""

    _LATENT_QZM_KEY = _keys.OBSM_LATENT_MEAN
    _LATENT_QZV_KEY = _keys.OBSM_LATENT_VARIANCE
    _OBSERVED_LIB_SIZE_KEY = _keys.OBS_OBSERVED_LIBRARY

    def minify_adata(
        self,
        minified_data_type: str = MINIFY_TYPES[0],
        use_latent_qzm_key: str = "X_latent_qzm",
        use_latent_qzv_key: str = "X_latent_qzv",
    ) -> None:
        """Replace the data of the model by a copy that holds the latents of the cells and no features.

        What needs latents alone goes on as before: latents, `encode`, `predict`, `estimate_ate`, normalized and
        differential expression, `sample`. What needs features is refused: likelihoods, training,
        ``combine="shrunk_residual"``. Features are kept by ``"latent_posterior_parameters_with_counts"``; the stored
        latents then spare the encoder its work.

        Parameters
        ----------
        minified_data_type
            ``"latent_posterior_parameters"``, or ``"latent_posterior_parameters_with_counts"`` to keep features.
        use_latent_qzm_key, use_latent_qzv_key
            Keys of `obsm` with means and variances of the latents, what
            ``get_latent_representation(return_dist=True)`` returns, `(n_obs, n_latent)` each, as in scvi-tools. Without
            the two default ones the latents are encoded here.

        Returns
        -------
        Nothing. `adata` of the model becomes a minified copy: `X` and all layers empty (unless features are kept),
        `obsm["perturbia_latent_qzm"]` and `obsm["perturbia_latent_qzv"]` (float32 `(n_obs, n_latent)`, mean and
        variance of the guide), `obs["observed_lib_size"]` (float32), `uns["_scvi_adata_minify_type"]` and
        `uns["perturbia_minified"]`, whose latents they are. The data that were given to the model stay as they are,
        and in memory until nobody holds them: ``deregister_manager()`` lets go of them.

        Raises
        ------
        NotTrainedError
            Before training.
        UnsupportedQuery
            If the data are minified already.
        KeyError
            If a key is not in `obsm`.
        RepresentationMismatch
            If the latents in `obsm` are not those of this model.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
        >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
        >>> model = pb.model.SAMSVAE(adata, n_latent=5)
        >>> model.train(max_steps=20, enable_progress_bar=False)
        >>> adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = model.get_latent_representation(return_dist=True)
        >>> model.minify_adata()
        >>> model.adata.X.nnz, model.predict(None, "P01+P02").shape
        (0, (600, 30))
        """
        check_choice("minified_data_type", minified_data_type, MINIFY_TYPES)
        adata, every = self._cells(None, None)
        if is_minified(adata):
            msg = "adata: expected data that are not minified, got minified ones. Nothing is left to do."
            raise UnsupportedQuery(msg)
        mean, variance = self._latents_to_store(adata, every, (use_latent_qzm_key, use_latent_qzv_key))
        loader = self._make_data_loader(adata=adata, indices=every, batch_size=4096)
        total = torch.cat([tensors[REGISTRY_KEYS.X_KEY].sum(-1) for tensors in loader])
        minified = minified_copy(adata, keep_features=minified_data_type == MINIFY_TYPES[1])
        del minified.uns[_SCVI_UUID_KEY]
        minified.obsm[_keys.OBSM_LATENT_MEAN], minified.obsm[_keys.OBSM_LATENT_VARIANCE] = mean, variance
        minified.obs[_keys.OBS_OBSERVED_LIBRARY] = total.numpy()
        minified.uns[_keys.UNS_MINIFY_TYPE] = str(minified_data_type)
        minified.uns[_keys.UNS_MINIFIED] = {"model": self._kind, "ur_id": self.ur_id}
        self._register_manager_for_instance(self.adata_manager.transfer_fields(minified))
        self.adata = minified

    def get_elbo(self, adata: AnnData | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in scvi-tools; refuses minified data."""
        self._require_features(adata, "get_elbo")
        return super().get_elbo(adata, *args, **kwargs)

    def get_reconstruction_error(self, adata: AnnData | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in scvi-tools; refuses minified data."""
        self._require_features(adata, "get_reconstruction_error")
        return super().get_reconstruction_error(adata, *args, **kwargs)

    def _require_features(self, adata: AnnData | None, what: str) -> None:
        adata = self.adata if adata is None else adata
        if adata is not None:
            require_features(adata, what)

    def _cells(self, adata: AnnData | None, indices: Sequence[int] | np.ndarray | None) -> tuple[AnnData, np.ndarray]:
        adata, chosen = super()._cells(adata, indices)
        check_whose_latents(self, adata)
        return adata, chosen

    def _latents_to_store(
        self, adata: AnnData, every: np.ndarray, keys: tuple[str, str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the guide of all cells, which the user gave or the encoder gives."""
        missing = [key for key in keys if key not in adata.obsm]
        if missing == ["X_latent_qzm", "X_latent_qzv"]:
            return self._encoded_latents(adata, every)
        if missing:
            msg = f"use_latent_qzm_key, use_latent_qzv_key: expected keys of obsm, got {missing}. Leave both out to encode the cells."
            raise KeyError(msg)
        mean, variance = (np.asarray(adata.obsm[key], dtype=np.float32) for key in keys)
        if not self.module.encodes_total:
            mean = mean - expected_offsets(self, self._registered_dosage(adata, every))
        checked = np.unique(np.linspace(0, adata.n_obs - 1, _N_CHECKED).astype(int))
        own = self._encoded_latents(adata, checked)
        same = (
            given.shape == (adata.n_obs, self.module.n_latent)
            and np.allclose(given[checked], part, rtol=1e-3, atol=1e-4)
            for given, part in zip((mean, variance), own, strict=True)
        )
        if not all(same):
            msg = (
                f"use_latent_qzm_key, use_latent_qzv_key: expected obsm[{keys[0]!r}] and obsm[{keys[1]!r}] as "
                "get_latent_representation(return_dist=True) returns them, got something else. Write them anew, or leave them out."
            )
            raise RepresentationMismatch(msg)
        return mean, variance

    def _encoded_latents(self, adata: AnnData, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, sd, _ = self._encode_guides(adata, indices, None, library=False)
        return mean, sd**2
