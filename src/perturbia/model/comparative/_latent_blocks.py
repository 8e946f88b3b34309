"""The protocol of perturbation models for shared and salient latents: perturbing moves the salient ones to a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from perturbia.errors import UnsupportedQuery
from perturbia.model.base.perturbation_model import PerturbationModel
from perturbia.model.comparative._comparative_training import ComparativeTraining
from perturbia.model.mechanism._basal_states import given_of
from perturbia.model.mechanism._latent_shift import LatentShiftModel
from perturbia.model.mechanism._stored_latents import library_of_batch

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from scipy import sparse

    from perturbia.perturbation import Perturbation

__all__ = ["LatentBlockModel"]


class LatentBlockModel(ComparativeTraining, PerturbationModel):
    """Base of models whose module has a shared and a salient encoder.

    :meth:`encode` gives cells without what is salient in them; reading features out of latents is that of latent-shift
    models.
    """

    _decode_cells = LatentShiftModel._decode_cells
    _on_device = LatentShiftModel._on_device
    _covariate_categories = LatentShiftModel._covariate_categories

    @property
    def groups(self) -> list[str]:
        """Names of the groups, the background first."""
        if (background := self.registry["setup_args"].get("background")) is None:
            return ["background", "target"]
        return [str(background), *self.perturbations]

    @property
    def capabilities(self) -> frozenset:
        """Combinations, doses and uncertainty with label means of perturbations; counts if registered so."""
        has: set = {"counts"} if self.scale == "counts" else set()
        if self.module.effects is not None:
            has |= {"uncertainty"} if self._registers_groups else {"uncertainty", "combination", "dose"}
        return frozenset(has)

    @property
    def _registers_groups(self) -> bool:
        return self.registry["setup_args"].get("group_key") is not None

    def _check_capabilities(self, perturbation: Perturbation) -> None:
        if len(perturbation) and self.module.effects is None:
            msg = (
                f"query: expected the control, got {str(perturbation)!r}; with salient_prior='standard' nothing is known of "
                "single labels. Make the model with salient_prior='label'."
            )
            raise UnsupportedQuery(msg)
        super()._check_capabilities(perturbation)

    def _latent_var(self) -> pd.DataFrame:
        module, groups = self.module, self.groups
        shared = [f"z{i}" for i in range(module.n_shared)]
        salient = [f"s{i}" for i in range(module.n_salient)]
        owner = [groups[1 + i // module.n_per_group] for i in range(module.n_salient)]
        columns = {
            "kind": ["shared"] * len(shared) + ["salient"] * len(salient),
            "group": ["all"] * len(shared) + owner,
        }
        return pd.DataFrame(columns, index=[*shared, *salient])

    @torch.inference_mode()
    def _encode_blocks(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Mean and standard deviation of both blocks, 0 outside a cell's own salient block, and library sizes."""
        means: list[torch.Tensor] = []
        sds: list[torch.Tensor] = []
        libraries = []
        for tensors in self._make_data_loader(adata=adata, indices=indices, batch_size=batch_size or 1024):
            own = self._on_device(tensors)
            outputs = self.module.inference(**self.module._get_inference_input(own))
            block = self.module.block[outputs["group"]]
            for parts, name in ((means, "loc"), (sds, "scale")):
                shared, salient = getattr(outputs["qz"], name), getattr(outputs["qs"], name)
                parts.append(torch.cat([shared, salient * block], 1).cpu())
            if self.module.is_count_model:
                libraries.append(library_of_batch(own).ravel().cpu())
        library = torch.cat(libraries).numpy() if libraries else None
        return torch.cat(means).numpy(), torch.cat(sds).numpy(), library

    def _encode_cells(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        mean, sd, library = self._encode_blocks(adata, indices, batch_size)
        mean[:, self.module.n_shared :] = 0.0
        sd[:, self.module.n_shared :] = 0.0
        return mean, sd, library

    @torch.inference_mode()
    def _draw_offsets(
        self, dosage: sparse.csr_matrix, n_draws: int, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | float]:
        """Salient latents of a label: cells of one label differ, with standard deviation 1 around its mean."""
        module = self.module
        given = given_of(dosage).to(self.device)
        shared = torch.zeros(1, module.n_shared)
        mean = torch.cat([shared, module.salient_offset(given)[0].cpu()], 1).numpy()
        spread = torch.cat([shared, module.block[module.group_of(given)].cpu()], 1).numpy()
        if n_draws == 1:
            return mean, spread
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        noise = torch.randn((n_draws, module.n_latent), generator=generator).numpy()
        return mean + spread * noise, 0.0

    @torch.inference_mode()
    def _bounds(
        self, adata: AnnData, indices: np.ndarray, *, n_samples: int, batch_size: int | None, seed: int
    ) -> pd.DataFrame:
        """Group, evidence bound and KL of the salient latents of each cell, in the order of distinct positions."""
        parts = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for tensors in self._make_data_loader(adata=adata, indices=indices, batch_size=batch_size or 1024):
                inference, _, output = self.module(self._on_device(tensors), inference_kwargs={"n_samples": n_samples})
                cost = output.reconstruction_loss["reconstruction_loss"] + sum(output.kl_local.values())
                columns = {"group": inference["group"], "elbo": -cost, "kl_salient": output.kl_local["salient"]}
                parts.append(pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()}))
        return pd.concat(parts, ignore_index=True)
