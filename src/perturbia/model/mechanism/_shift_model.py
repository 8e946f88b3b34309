"""Models whose perturbations have a row of shifts in latent space: reading the rows, and adding new ones."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import UnsupportedQuery
from perturbia.model.base._arguments import check_positive_integer
from perturbia.model.mechanism._extension import extend, fit_new_rows, known_rows
from perturbia.model.mechanism._latent_shift import LatentShiftModel
from perturbia.model.mechanism._training import identity_of
from perturbia.perturbation.field import registered_perturbations

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

__all__ = ["ShiftModel"]


class ShiftModel(LatentShiftModel):
    """Base of models with `effects`, a row a perturbation."""

    # features of perturbations, for models that take any
    _embedding: Any = None

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

    def extend_treatments(
        self,
        adata: AnnData,
        *,
        split_key: str | None = _keys.OBS_SPLIT,
        perturbation_embedding: pd.DataFrame | np.ndarray | None = None,
        max_steps: int = 500,
        **trainer_kwargs: Any,
    ) -> Self:
        """Add perturbations that the model has not seen, from cells of them, without training the networks again.

        Networks, and everything that the model knows of its perturbations, stay as they are, bit by bit; masks,
        embeddings, exponents and target effects of the new perturbations are fitted to their cells.

        Parameters
        ----------
        adata
            Cells of the new perturbations, with the columns and features that were registered. It may hold cells of
            known perturbations besides, and should hold controls: effects are measured on them. Gains the columns of
            :meth:`setup_anndata`.
        split_key
            Column of `obs` that marks the cells to learn from as ``train``; used if it exists, ``None`` ignores it.
        perturbation_embedding
            Features of all perturbations, known and new, for a model that has some.
        max_steps
            Optimiser steps for what gradients move: everything under ``global_update="gradient"``, else exponents and
            target effects. Masks and embeddings in closed form need none.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`.

        Returns
        -------
        A new, trained model of `adata`, its new perturbations behind the known ones.

        Raises
        ------
        UnsupportedQuery
            If no perturbation of `adata` is new, or a batch or covariate was not registered.
        NotTrainedError, FeatureMismatch, LabelError, ScaleError, SplitError
            As for other data that are shown to a model.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=0, n_genes=30, n_latent=2)
        >>> known = adata[adata.obs["perturbation"] != "P04"].copy()
        >>> pb.model.SAMSVAE.setup_anndata(known, perturbation_key="perturbation")
        >>> model = pb.model.SAMSVAE(known, n_latent=5)
        >>> model.train(max_steps=20, enable_progress_bar=False)
        >>> later = adata[adata.obs["perturbation"].isin(["P04", "control"])].copy()
        >>> model.extend_treatments(later).perturbations
        ['P01', 'P02', 'P03', 'P04']
        """
        self._require_trained()
        check_positive_integer("max_steps", max_steps)
        changed = {} if perturbation_embedding is None else {"perturbation_embedding": perturbation_embedding}
        if (self._embedding is None) == bool(changed):
            expected = "features of all perturbations, known and new," if self._embedding is not None else "None"
            got = "some" if changed else "None"
            msg = f"perturbation_embedding: expected {expected} for this {self._kind}, got {got}."
            raise UnsupportedQuery(msg)
        return self._extended(adata, split_key, partial(fit_new_rows, max_steps=max_steps, **trainer_kwargs), **changed)

    def _extended(
        self,
        adata: AnnData,
        split_key: str | None,
        fit: Callable[[Self, np.ndarray, list[np.ndarray]], None],
        **changed: Any,
    ) -> Self:
        """Model of `adata` with rows for its new perturbations, fitted by `fit(model, new rows, splits)`."""
        new = extend(self, adata, **changed)
        marked = new._marked_splits(split_key)
        nobody = np.array([], dtype=int)
        splits = [np.arange(new.adata.n_obs), nobody, nobody] if marked is None else marked
        fresh = np.setdiff1d(np.arange(new.module.design.n_rows), known_rows(self, new))
        fit(new, fresh, splits)
        new.train_indices, new.validation_indices, new.test_indices = splits
        new.trained_on_, new.history_, new.is_trained_ = identity_of(new.adata), self.history_, True
        new.module.eval()
        return new

    def _by_treatment(self, values: np.ndarray) -> pd.DataFrame:
        n = len(self.perturbations)
        return pd.DataFrame(values[:n], index=self.perturbations, columns=self._latent_var().index)

    def _pairs(self) -> list[str]:
        """Labels of the interacting pairs, in the order of their rows."""
        names = np.asarray(self.perturbations, dtype=object)
        first, second = np.divmod(self.module.design.pair_codes, len(names))
        sep = registered_perturbations(self.registry)["sep"]
        return [sep.join(sorted(pair)) for pair in zip(names[first], names[second], strict=True)]
