"""What a split groups cells by: their targets, doses and contexts, in an order that the order of cells does not change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten
from perturbia.perturbation import Design, design_from_labels, dosage_labels, unique_dosages
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._profiles import obs_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["Cells", "read_cells", "take_share"]


@dataclass(frozen=True)
class Cells:
    """The labels of cells as codes.

    Attributes
    ----------
    design
        Dosage of the cells; targets sorted by name.
    context
        Code of the context of each cell, int (n_obs,); zeros if there are none.
    contexts
        Name of each context, sorted; empty if there are none.
    """

    design: Design
    context: np.ndarray
    contexts: list[str]

    @property
    def is_control(self) -> np.ndarray:
        """Which cells are controls, bool (n_obs,)."""
        return self.design.is_control

    @cached_property
    def n_targets(self) -> np.ndarray:
        """Number of targets of each cell, int64 (n_obs,)."""
        return self.design.n_targets

    @cached_property
    def _conditions(self) -> tuple[np.ndarray, list[str]]:
        unique, codes = unique_dosages(self.design.matrix)
        return codes, [str(label) for label in dosage_labels(unique, self.design.names, sep=self._sep)]

    @cached_property
    def _target_sets(self) -> tuple[np.ndarray, list[str]]:
        present = self.design.matrix.copy()
        present.data[:] = 1
        unique, codes = unique_dosages(present)
        return codes, [str(label) for label in dosage_labels(unique, self.design.names, sep=self._sep)]

    @property
    def condition(self) -> np.ndarray:
        """Code of the targets and doses of each cell, int64 (n_obs,)."""
        return self._conditions[0]

    @property
    def condition_labels(self) -> list[str]:
        """Canonical label of each condition."""
        return self._conditions[1]

    @property
    def target_set(self) -> np.ndarray:
        """Code of the targets of each cell, whatever their doses, int64 (n_obs,)."""
        return self._target_sets[0]

    @property
    def target_set_labels(self) -> list[str]:
        """Canonical label of each set of targets, without doses."""
        return self._target_sets[1]

    @cached_property
    def doses(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct pairs of target and dose, float64 (n_doses, 2), sorted; and the pair of each entry of the dosage."""
        matrix = self.design.matrix
        pairs = np.column_stack([matrix.indices.astype(np.float64), matrix.data.astype(np.float64)])
        distinct, codes = np.unique(pairs, axis=0, return_inverse=True)
        return distinct, codes.ravel()

    @cached_property
    def entry_cell(self) -> np.ndarray:
        """Cell of each entry of the dosage, int64 (nnz,)."""
        return np.repeat(np.arange(len(self.n_targets)), self.n_targets)

    def any_entry(self, marked: np.ndarray) -> np.ndarray:
        """Cells with a marked entry of the dosage, bool (n_obs,)."""
        out = np.zeros(len(self.n_targets), dtype=bool)
        out[self.entry_cell[marked]] = True
        return out

    @property
    def _sep(self) -> str:
        return self.design.sep or "+"


def read_cells(
    adata: AnnData,
    *,
    perturbation_key: str,
    control: str | Sequence[str],
    sep: str,
    context_key: str | None = None,
    dose_key: str | None = None,
) -> Cells:
    """Read labels, doses and contexts of the cells."""
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    if dose_key is not None:
        doses = obs_column(adata, dose_key, argument="dose_key")
        argument = f"adata.obs[{perturbation_key!r}]"
        design = design_from_labels(
            adata.obs[perturbation_key], control=control, doses=doses, sep=sep, argument=argument
        )
    if context_key is None:
        return Cells(design, np.zeros(adata.n_obs, dtype=np.int64), [])
    if context_key not in adata.obs or adata.obs[context_key].isna().any():
        columns = shorten(adata.obs.columns) or "none"
        msg = f"context_key: expected a complete column of adata.obs, got {context_key!r}; columns are {columns}."
        raise LabelError(msg)
    codes, names = pd.factorize(adata.obs[context_key].astype(str).to_numpy(), sort=True)
    return Cells(design, codes.astype(np.int64), [str(name) for name in names])


def take_share(group: np.ndarray, share: float, rng: np.random.Generator, *, keep_both: bool) -> np.ndarray:
    """Mask of a random share of every group's rows; with `keep_both` never all or none of a group of two or more."""
    order = np.lexsort((rng.random(len(group)), group))
    count = np.bincount(group)
    rank = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    wanted = np.rint(share * count)
    if keep_both:
        wanted = np.where(count > 1, np.clip(wanted, 1, count - 1), 1)
    taken = np.empty(len(group), dtype=bool)
    taken[order] = rank < np.repeat(wanted, count)
    return taken
