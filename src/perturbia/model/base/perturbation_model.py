"""What every perturbation model shares: registration, queries, and prediction as encode, perturb, decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._registered_model import RegisteredModel
from perturbia.model.base._result import check_library, check_source, stamp
from perturbia.perturbation import dosage_labels, dosage_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scipy import sparse

    from perturbia.model.base._features import Scale
    from perturbia.perturbation.value import Query

__all__ = ["PerturbationModel"]


class PerturbationModel(RegisteredModel):
    """Base of perturbation models on AnnData.

    A subclass provides `_encode_cells`, `_draw_offsets` and `_decode_cells`; encoding, perturbing, decoding and
    predicting with all their checks follow.
    """

    def encode(
        self,
        adata: ad.AnnData | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> ad.AnnData:
        """Place cells in the coordinate system of the model, with their own perturbation removed.

        Parameters
        ----------
        adata
            Data with the registered features; by default the data of the model.
        indices
            Cells to encode, positions or a boolean mask; all by default.
        batch_size
            Cells per batch.

        Returns
        -------
        AnnData `(n_cells, n_latent)`: `X` posterior means, float32, `layers["sd"]` their standard deviations, `obs` of
        the cells with `pb_perturbation`, `pb_draw`, `pb_source` and, for counts, `pb_library`; metadata in
        `uns["perturbia"]`.

        Raises
        ------
        NotTrainedError
            Before training.
        FeatureMismatch
            If registered features are missing.
        """
        adata, chosen = self._cells(adata, indices)
        mean, sd, library = self._encode_in_order(adata, chosen, batch_size)
        obs = adata.obs.iloc[chosen].copy()
        obs[_keys.OBS_PERTURBATION] = dosage_labels(self._registered_dosage(adata, chosen), self.perturbations)
        obs[_keys.OBS_DRAW] = 0
        obs[_keys.OBS_SOURCE] = adata.obs_names[chosen].astype(str).to_numpy()
        if library is not None:
            obs[_keys.OBS_LIBRARY] = library
        latent = ad.AnnData(mean, obs=obs, var=self._latent_var(), layers={_keys.LAYER_SD: sd})
        return stamp(latent, kind="latent", ur_id=self.ur_id, model=self._kind, scale="embedding")

    def _encode_in_order(
        self,
        adata: ad.AnnData,
        chosen: np.ndarray,
        batch_size: int | None,
        encode: Callable[..., tuple[np.ndarray | None, ...]] | None = None,
    ) -> tuple:
        """`encode`, by default `_encode_cells`, for cells in any order: loaders of backed data sort what they read."""
        distinct, inverse = np.unique(chosen, return_inverse=True)
        parts = (encode or self._encode_cells)(adata, distinct, batch_size)
        if np.array_equal(distinct, chosen):
            return parts
        return tuple(None if part is None else part[inverse] for part in parts)

    def perturb(self, latent: ad.AnnData, query: Query, *, n_draws: int = 1, seed: int | None = 0) -> ad.AnnData:
        """Give cells a perturbation in place of whatever they had.

        Parameters
        ----------
        latent
            Result of :meth:`encode`.
        query
            A :class:`~perturbia.Perturbation`, a label such as ``"A+B"`` or ``"A@0.5"``, or a mapping of doses.
        n_draws
            1 shifts by the posterior mean of the effect and adds its variance to `layers["sd"]`; more stack that many
            draws of the effect.
        seed
            Seed of the draws; ``None`` draws afresh.

        Returns
        -------
        AnnData `(n_cells * n_draws, n_latent)` of the same form, draw after draw.

        Raises
        ------
        UnknownPerturbation, UnsupportedQuery
            If the model can not answer the query.
        RepresentationMismatch
            If `latent` is in the coordinates of another model.

        Warns
        -----
        ExtrapolationWarning
            If a dose lies outside the range in which the registered data have its target.
        """
        self._require_trained()
        perturbation = self._read_query(query)
        self._warn_of_doses(perturbation)
        check_source(latent, ur_id=self.ur_id, model=self._kind, dimensions=self._latent_var().index)
        check_positive_integer("n_draws", n_draws)
        dosage = dosage_matrix([perturbation], self.perturbations)
        offsets, spread = self._draw_offsets(dosage, n_draws, seed)
        base, sd = np.asarray(latent.X), np.asarray(latent.layers[_keys.LAYER_SD])
        obs = pd.concat([latent.obs] * n_draws)
        obs[_keys.OBS_PERTURBATION] = str(perturbation)
        obs[_keys.OBS_DRAW] = np.repeat(np.arange(n_draws), latent.n_obs)
        if n_draws > 1:
            obs.index = obs[_keys.OBS_SOURCE].astype(str) + "-" + obs[_keys.OBS_DRAW].astype(str)
        shifted = (base[None] + offsets[:, None]).reshape(-1, base.shape[1]).astype(np.float32)
        wider = np.sqrt(np.tile(sd, (n_draws, 1)) ** 2 + spread**2).astype(np.float32)
        out = ad.AnnData(shifted, obs=obs, var=latent.var.copy(), layers={_keys.LAYER_SD: wider})
        self._mark_given(out, dosage)
        return stamp(out, kind="latent", ur_id=self.ur_id, model=self._kind, scale="embedding", seed=seed)

    def decode(self, latent: ad.AnnData, *, scale: Scale | None = None, batch_size: int | None = None) -> ad.AnnData:
        """Read features out of coordinates.

        Parameters
        ----------
        latent
            Result of :meth:`encode` or :meth:`perturb`. Batch, covariates and `pb_library` are read from its `obs`,
            and may be changed there.
        scale
            Scale of the readout. For a model of counts ``"log1p_cp10k"`` (default) or ``"counts"``; otherwise the
            registered scale.
        batch_size
            Cells per batch.

        Returns
        -------
        AnnData `(n_cells, n_features)`: `X` expected features, float32, `layers["sd"]` their predictive standard
        deviation (measurement noise and latent uncertainty), `obs` of `latent`, metadata in `uns["perturbia"]`.

        Raises
        ------
        RepresentationMismatch
            If `latent` is in the coordinates of another model.
        ScaleError
            If the model can not express the scale, or a library size is missing or not a positive number.
        """
        self._require_trained()
        check_source(latent, ur_id=self.ur_id, model=self._kind, dimensions=self._latent_var().index)
        if self.scale == "counts":
            check_library(latent)
        scale = self._readout_scale(scale)
        mean, sd = self._decode_cells(latent, scale, batch_size)
        var = pd.DataFrame(index=pd.Index(self.get_var_names(), name=None))
        out = ad.AnnData(mean, obs=latent.obs.copy(), var=var, layers={_keys.LAYER_SD: sd})
        return stamp(out, kind="readout", ur_id=self.ur_id, model=self._kind, scale=scale)

    def predict(
        self,
        adata: ad.AnnData | None,
        query: Query,
        *,
        cells: Literal["control", "all"] = "control",
        scale: Scale | None = None,
        n_draws: int = 1,
        seed: int | None = 0,
        batch_size: int | None = None,
    ) -> ad.AnnData:
        """Predict a population of cells under a perturbation: encode, perturb and decode.

        Parameters
        ----------
        adata
            Cells to start from, ``None`` for the data of the model.
        query
            The perturbation, as in :meth:`perturb`.
        cells
            Start from the control cells of `adata`, or from every cell with its own perturbation removed.
        scale
            Scale of the readout, as in :meth:`decode`.
        n_draws
            Draws of the effect, as in :meth:`perturb`.
        seed
            Seed of the draws.
        batch_size
            Cells per batch.

        Returns
        -------
        AnnData `(n_cells * n_draws, n_features)`, as :meth:`decode` returns it.

        Raises
        ------
        ControlError
            If `cells="control"` and `adata` holds no control cell.
        UnknownPerturbation, UnsupportedQuery, NotTrainedError, FeatureMismatch, ScaleError
            As in the three steps.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=1, n_genes=20, n_latent=2)
        >>> pb.model.Additive.setup_anndata(adata, perturbation_key="perturbation")
        >>> model = pb.model.Additive(adata)
        >>> model.train()
        >>> model.predict(adata, "P01+P02").shape
        (600, 20)
        """
        self._require_trained()
        check_choice("cells", cells, ("control", "all"))
        self._read_query(query)
        self._readout_scale(scale)
        indices = None
        if cells == "control":
            adata, every = self._cells(adata, None)
            indices = self._control_cells(adata, every)
        latent = self.encode(adata, indices=indices, batch_size=batch_size)
        perturbed = self.perturb(latent, query, n_draws=n_draws, seed=seed)
        return self.decode(perturbed, scale=scale, batch_size=batch_size)

    def _as_features(self, values: np.ndarray, labels: Sequence[str]) -> ad.AnnData:
        """AnnData over the registered features with one perturbation label per row."""
        obs = pd.DataFrame({_keys.OBS_PERTURBATION: list(labels)}, index=[str(i) for i in range(len(labels))])
        var = pd.DataFrame(index=pd.Index(self.get_var_names(), name=None))
        return ad.AnnData(values.astype(np.float32), obs=obs, var=var)

    def _readout_scale(self, scale: Scale | None) -> Scale:
        from perturbia.errors import ScaleError

        possible: tuple[Scale, ...] = ("log1p_cp10k", "counts") if self.scale == "counts" else (self.scale,)
        if scale is None:
            return possible[0]
        if scale not in possible:
            msg = f"scale: expected one of {possible} for data registered as {self.scale!r}, got {scale!r}."
            raise ScaleError(msg)
        return scale

    # hooks of subclasses -------------------------------------------------------------------------------------------

    def _latent_var(self) -> pd.DataFrame:
        """Annotation of the latent dimensions."""
        raise NotImplementedError

    def _encode_cells(
        self, adata: ad.AnnData, indices: np.ndarray, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Mean, standard deviation (both `(n, L)` float32) and library size `(n,)` or None."""
        raise NotImplementedError

    def _draw_offsets(
        self, dosage: sparse.csr_matrix, n_draws: int, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | float]:
        """Offsets `(n_draws, L)` of one dosage row, and the standard deviation not expressed by draws."""
        raise NotImplementedError

    def _mark_given(self, latent: ad.AnnData, dosage: sparse.csr_matrix) -> None:
        """Write what decoding has to know of a perturbation besides latents; nothing for most models."""

    def _decode_cells(self, latent: ad.AnnData, scale: Scale, batch_size: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, both `(n, n_features)` float32."""
        raise NotImplementedError
