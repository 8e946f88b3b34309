"""Closed-form updates of masks and embeddings, and rotation of the latent basis, between optimiser steps."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch

from perturbia.stats import SpikeSlab, dosage_blocks, estimate_spike_sd, sparse_rotation, update_spike_slab, varimax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scipy import sparse

    from perturbia.model.mechanism._samsvae_module import SAMSVAEModule

__all__ = ["ClosedFormUpdates", "Rotation", "UpdateSchedule"]

logger = logging.getLogger(__name__)

Rotation = Literal["l1", "varimax", "none"]


@dataclass(frozen=True)
class UpdateSchedule:
    """When treatment-level parameters move, in optimiser steps.

    Attributes
    ----------
    n_steps
        Length of the training.
    first
        Step of the first closed-form update.
    every
        Steps between closed-form updates.
    rotate_at
        Fractions of the training at which the basis is rotated.
    sparsify_at
        Fraction of the training until which the prior inclusion probability is held at one half.
    """

    n_steps: int
    first: int = 200
    every: int = 25
    rotate_at: Sequence[float] = (0.3, 0.5, 0.8)
    sparsify_at: float = 0.3

    @property
    def rotation_steps(self) -> set[int]:
        """Steps at which the basis is rotated."""
        return {max(1, round(fraction * self.n_steps)) for fraction in self.rotate_at}

    def is_update(self, step: int) -> bool:
        """Whether a closed-form update follows optimiser step `step`."""
        return step >= self.first and (step - self.first) % self.every == 0


class ClosedFormUpdates(pl.Callback):
    """Moves masks and embeddings to their optimum given the encoder, on schedule.

    Parameters
    ----------
    module
        The module in training.
    encode
        Function of positions among the training cells that returns their encoder means, `(n_positions, n_latent)`.
    dosage
        Dosage matrix of these cells, CSR, `(n_cells, n_treatments)`.
    schedule
        When to act.
    mask_prior_prob
        Prior inclusion probability.
    embedding_prior_scale
        Prior standard deviation of embeddings.
    closed_form
        Whether to update masks and embeddings, or only to rotate.
    rotation
        Criterion of the rotation.
    spike_width
        Standard deviation of shifts that the last update counts as none, or ``"em"`` to estimate it.
    max_cells
        Cells to encode for an update; the others are remembered from the last time they were encoded.
    """

    def __init__(
        self,
        module: SAMSVAEModule,
        encode: Callable[[np.ndarray], np.ndarray],
        dosage: sparse.csr_matrix,
        *,
        schedule: UpdateSchedule,
        mask_prior_prob: float,
        embedding_prior_scale: float,
        closed_form: bool = True,
        rotation: Rotation = "l1",
        spike_width: float | Literal["em"] = 0.0,
        max_cells: int = 20_000,
    ) -> None:
        self.module = module
        self.encode = encode
        self.dosage = dosage.astype(np.float64)
        self.gram = (self.dosage.T @ self.dosage).tocsr()
        self.blocks = dosage_blocks(self.gram)
        self.schedule = schedule
        self.mask_prior_prob = mask_prior_prob
        self.embedding_prior_scale = embedding_prior_scale
        self.closed_form = closed_form
        self.rotation = rotation
        self.spike_width = spike_width
        self.max_cells = max_cells
        self._means: np.ndarray | None = None
        self._rng = np.random.default_rng(0)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Act after optimiser step `trainer.global_step`."""
        step = trainer.global_step
        if self.rotation != "none" and step in self.schedule.rotation_steps:
            self.rotate()
            for optimizer in trainer.optimizers:
                for parameter in self.module.effects.parameters():
                    optimizer.state.pop(parameter, None)
        elif self.closed_form and self.schedule.is_update(step):
            early = step < self.schedule.sparsify_at * self.schedule.n_steps
            self.update(prior_inclusion=0.5 if early else self.mask_prior_prob)

    def on_train_end(self, *_: object) -> None:
        """Finish on converged masks and embeddings for the final networks."""
        if self.closed_form:
            self._means = None
            if self.spike_width == "em":
                self._finish_with_spike()
            else:
                self.update(prior_inclusion=self.mask_prior_prob, n_sweeps=10, spike_sd=self.spike_width)
        self._means = None  # nothing to keep with the model

    def update(self, *, prior_inclusion: float, n_sweeps: int = 2, spike_sd: float = 0.0) -> None:
        """Replace the posterior by its optimum for the present encoder."""
        options = {"prior_inclusion": prior_inclusion, "n_sweeps": n_sweeps, "spike_sd": spike_sd}
        self._assign(self._optimum(self._posterior(), self._cross(), **options))

    def _finish_with_spike(self, n_rounds: int = 40) -> None:
        """Alternate updates with estimates of the width of the spike."""
        posterior, cross, spike_sd = self._posterior(), self._cross(), 0.0
        for _ in range(n_rounds):
            options = {"prior_inclusion": self.mask_prior_prob, "n_sweeps": 1, "spike_sd": spike_sd}
            posterior = self._optimum(posterior, cross, **options)
            spike_sd = estimate_spike_sd(posterior, self.gram.diagonal())
        logger.info("Shifts of about %.2f basal standard deviations count as none.", spike_sd)
        self._assign(posterior)

    def _cross(self) -> np.ndarray:
        return self.dosage.T @ self._encoded().astype(np.float64)

    def _optimum(self, start: SpikeSlab, cross: np.ndarray, **options: Any) -> SpikeSlab:
        slab_sd = self.embedding_prior_scale
        return update_spike_slab(start, cross, self.gram, slab_sd=slab_sd, blocks=self.blocks, **options)

    def _encoded(self) -> np.ndarray:
        """Encoder means of the training cells, as fresh as `max_cells` allows."""
        n_cells = self.dosage.shape[0]
        if self._means is None or n_cells <= self.max_cells:
            self._means = self.encode(np.arange(n_cells))
        else:
            chosen = np.sort(self._rng.choice(n_cells, self.max_cells, replace=False))
            self._means[chosen] = self.encode(chosen)
        return self._means

    def rotate(self) -> None:
        """Turn the latent basis towards sparse effects and restart masks from their Bayes factors."""
        effect = self._posterior().effect
        precision = (self.gram.diagonal() + self.embedding_prior_scale**-2)[:, None]
        # a row without any effect has about this length: it must not vote like the others
        noise = float(np.sqrt(effect.shape[1] * np.median(1 / precision)))
        turn = sparse_rotation if self.rotation == "l1" else varimax
        matrix = turn(effect, noise=noise)
        self.module.rotate(torch.from_numpy(matrix).to(self.module.effects.mean))
        if self._means is not None:
            self._means = (self._means @ matrix).astype(self._means.dtype)
        rotated = effect @ matrix
        evidence = (
            np.log(self.mask_prior_prob / (1 - self.mask_prior_prob))
            - 0.5 * np.log(self.embedding_prior_scale**2 * precision)
            + 0.5 * rotated**2 * precision
        )
        inclusion = 1 / (1 + np.exp(-np.clip(evidence, -3, 3)))
        mean = rotated / np.maximum(inclusion, 0.3)
        self._assign(SpikeSlab(inclusion, mean, np.broadcast_to(precision**-0.5, mean.shape).copy()))

    def _posterior(self) -> SpikeSlab:
        effects = self.module.effects
        arrays = (effects.inclusion, effects.mean, effects.log_sd.exp())
        return SpikeSlab(*(array.detach().double().cpu().numpy() for array in arrays))

    def _assign(self, posterior: SpikeSlab) -> None:
        arrays = (posterior.inclusion, posterior.mean, posterior.sd)
        self.module.effects.assign(*(torch.from_numpy(array) for array in arrays))
