"""Expression that the decoder expects of cells, in their own state or in that of another perturbation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy import sparse

from perturbia import _keys
from perturbia.model.mechanism._basal_states import covariates_of, given_of
from perturbia.model.mechanism._seeds import mixed_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.model.mechanism._readout import Covariates

__all__ = ["CellStates", "Readout", "balanced_draw", "draw_expression"]

_NOISE, _CELLS, _EFFECTS = range(3)


@dataclass(frozen=True)
class CellStates:
    """Posterior of the states of cells, under their own perturbation or another.

    Attributes
    ----------
    mean, sd
        Of what the guide says of each cell, `(n, n_latent)`: the total latent where it encodes that, else the basal one.
    moved
        Strength of each row of effects in what is to be added to it, CSR `(n, n_rows)`. Where the total latent holds
        the cell's own shift already, this is the difference between the two designs, so that a treatment which both
        contain adds nothing.
    covariates
        What the decoder reads besides.
    """

    mean: torch.Tensor
    sd: torch.Tensor
    moved: sparse.csr_matrix
    covariates: Covariates

    @classmethod
    def of(
        cls,
        model: LatentShiftModel,
        adata: AnnData,
        chosen: np.ndarray,
        query: sparse.csr_matrix | None,
        batch_size: int | None,
    ) -> CellStates:
        """States of the cells `chosen`, in any order and any number of times, under a dosage row or their own."""
        module = model.module
        mean, sd, library = model._encode_in_order(adata, chosen, batch_size, encode=model._encode_guides)
        own = model._registered_dosage(adata, chosen)
        target = own if query is None else query[np.zeros(len(chosen), dtype=np.int64)]
        if module.encodes_total:
            moved = sparse.csr_matrix(module.design.matrix(target) - module.design.matrix(own))
        else:
            moved = sparse.csr_matrix(module.design.matrix(target))
        moved.eliminate_zeros()
        obs = adata.obs.iloc[chosen].copy()
        if library is not None:
            obs[_keys.OBS_LIBRARY] = library
        covariates = covariates_of(model, obs)
        if module.decodes_given:
            given = given_of(target).to(model.device)
            covariates = replace(covariates, given=given)
        located, spread = (torch.from_numpy(values).to(model.device) for values in (mean, sd))
        return cls(located, spread, moved, covariates)

    def draw(self, model: LatentShiftModel, seed: int, *, shared: bool) -> torch.Tensor:
        """One total latent of each cell, `(n, n_latent)`.

        Under `shared` all cells have one draw of the effects, else each has its own. The draws of a treatment depend
        on the seed and the treatment alone: under one seed, states of several perturbations differ in what these do.
        """
        noise = torch.randn(self.mean.shape, generator=torch.Generator().manual_seed(mixed_seed(seed, _NOISE)))
        z = self.mean + self.sd * noise.to(self.mean)
        if not self.moved.nnz:
            return z
        shift = self._common_shift(model, seed) if shared else self._own_shifts(model, seed)
        return z + torch.from_numpy(shift.astype(np.float32)).to(z)

    def _common_shift(self, model: LatentShiftModel, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(mixed_seed(seed, _EFFECTS))
        mask, embedding = model.module.effects.sample(1, generator=generator)
        return self.moved @ (mask * embedding)[0].cpu().numpy()

    def _own_shifts(self, model: LatentShiftModel, seed: int) -> np.ndarray:
        shift = np.zeros(self.mean.shape)
        by_row = self.moved.tocsc()
        for row in np.flatnonzero(np.diff(by_row.indptr)):
            part = slice(by_row.indptr[row], by_row.indptr[row + 1])
            generator = torch.Generator().manual_seed(mixed_seed(seed, _EFFECTS, int(row)))
            cells, strength = by_row.indices[part], by_row.data[part, None]
            rows = torch.tensor([row], device=self.mean.device)
            mask, embedding = model.module.effects.sample(len(cells), rows=rows, generator=generator)
            shift[cells] += strength * (mask * embedding)[:, 0].cpu().numpy()
        return shift


@dataclass(frozen=True)
class Readout:
    """What to read out of latents: features, unit, and the batches to average over (None: the cell's own)."""

    features: np.ndarray
    library_size: float | Literal["latent"] = 1.0
    batches: Sequence[int | None] = (None,)

    def of(self, model: LatentShiftModel, z: torch.Tensor, covariates: Covariates) -> np.ndarray:
        """Expected features `(n, n_chosen)` of latents `(n, n_latent)`."""
        parts = []
        for code in self.batches:
            if code is not None:
                covariates = replace(covariates, batch_index=torch.full_like(covariates.batch_index, code))
            px = covariates.decode(model.module, z)
            parts.append(px.scale if model.module.is_count_model else px.mean)
        total = parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)
        if model.module.is_count_model:
            total = total * (covariates.library if self.library_size == "latent" else self.library_size)
        return total.cpu().numpy()[:, self.features]


@torch.inference_mode()
def draw_expression(
    model: LatentShiftModel,
    states: CellStates,
    readout: Readout,
    *,
    n_samples: int,
    return_mean: bool,
    shared: bool,
    batch_size: int | None,
    seed: int | None,
) -> np.ndarray:
    """Expected features under draws of the states, `(n, n_chosen)`, or with a leading axis without `return_mean`.

    Draws are averaged as they come: memory does not grow with their number.
    """
    root = int(np.random.SeedSequence(seed).generate_state(1)[0])
    shape = (len(states.mean), len(readout.features))
    out = np.zeros(shape if return_mean else (n_samples, *shape), dtype=np.float32)
    for sample in range(n_samples):
        z = states.draw(model, mixed_seed(root, sample), shared=shared)
        for rows in _blocks(len(z), batch_size or 512):
            values = readout.of(model, z[rows], states.covariates.rows(rows))
            if return_mean:
                out[rows] += values / n_samples
            else:
                out[sample, rows] = values
    return out


def balanced_draw(n_cells: int, n_draws: int, seed: int | None) -> np.ndarray:
    """Cells for `n_draws` draws in random order: each as often as any other, give or take one."""
    root = int(np.random.SeedSequence(seed).generate_state(1)[0])
    rng = np.random.default_rng(mixed_seed(root, _CELLS))
    return rng.permutation(np.resize(rng.permutation(n_cells), n_draws))


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))
