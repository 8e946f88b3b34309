"""Closed-form updates of masks and embeddings, and rotation of the latent basis, between optimiser steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from scipy.special import expit, logit

from perturbia.model.mechanism import _ranks
from perturbia.stats import (
    SpikeSlab,
    dosage_blocks,
    estimate_spike_sd,
    geometric_median,
    sparse_rotation,
    update_spike_slab,
    varimax,
)

if TYPE_CHECKING:
    from scipy import sparse

    from perturbia.model.mechanism._encoded_cells import EncodedCells
    from perturbia.model.mechanism._feature_prior import FeaturePrior
    from perturbia.model.mechanism._mechanism_module import MechanismModule
    from perturbia.model.mechanism._update_schedule import UpdateSchedule

__all__ = ["ClosedFormUpdates", "Rotation"]

logger = logging.getLogger(__name__)

Rotation = Literal["l1", "varimax", "none"]


class ClosedFormUpdates(pl.Callback):
    """Moves masks and embeddings to their optimum given the encoder, on schedule.

    Parameters
    ----------
    module
        The module in training.
    cells
        The encoded training cells.
    dosage
        Dosage matrix of these cells, CSR, `(n_cells, n_treatments)`.
    schedule
        When to act.
    closed_form
        Whether to update masks and embeddings, or only to rotate and to move prior rates.
    rotation
        Criterion of the rotation.
    spike_width
        Standard deviation of shifts that the last update counts as none, or ``"em"`` to estimate it.
    centre
        Whether each rotation moves the origin as well, for cells of single treatments without controls: to the geometric
        median of their means before, and to the median of each latent after it.
    feature_prior
        What features of treatments say of their effects.
    """

    def __init__(
        self,
        module: MechanismModule,
        cells: EncodedCells,
        dosage: sparse.csr_matrix,
        *,
        schedule: UpdateSchedule,
        closed_form: bool = True,
        rotation: Rotation = "l1",
        spike_width: float | Literal["em"] = 0.0,
        centre: bool = False,
        feature_prior: FeaturePrior | None = None,
    ) -> None:
        self.module = module
        self.cells = cells
        self.dosage = dosage
        self.schedule = schedule
        self.closed_form = closed_form
        self.rotation = rotation
        self.spike_width = spike_width
        self.centre = centre
        self.feature_prior = feature_prior
        self._read_design()
        self.blocks = dosage_blocks(self.gram)

    def _read_design(self) -> None:
        """Strengths of all rows for the present dose responses."""
        self.design = self.module.design.matrix(self.dosage).astype(np.float64)
        self.gram = (self.design.T @ self.design).tocsr()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: object) -> None:
        """Act after optimiser step `trainer.global_step`."""
        step = trainer.global_step
        if self.closed_form:
            inference = pl_module.last_inference
            self.cells.observe(inference["given"], inference["qz"].loc.detach())
        if self.rotation != "none" and step in self.schedule.rotation_steps:
            self.rotate()
            for optimizer in trainer.optimizers:
                for parameter in self.module.effects.parameters():
                    optimizer.state.pop(parameter, None)
        elif self.schedule.is_update(step):
            early = self.schedule.is_early(step)
            if self.closed_form:
                self.update(early=early)
            elif not early:
                self._update_prior()

    def on_train_end(self, *_: object) -> None:
        """Finish on converged masks and embeddings for the final networks."""
        if self.closed_form:
            self.finish()
        self.cells.forget()  # nothing to keep with the model

    def finish(self) -> None:
        """Converged masks and embeddings for the present networks, all cells encoded anew."""
        self._refresh_design()
        cross = self.cells.exact(self.design)
        if self.spike_width == "em":
            self._finish_with_spike(cross)
            return
        effects = self.module.effects
        is_fixed = effects.mask_prior.kind == "fixed" and self.feature_prior is None and not effects.learn_scale
        n_rounds = 1 if is_fixed else 10
        for _ in range(n_rounds):
            self._assign(self._optimum(self._posterior(), cross, n_sweeps=10, spike_sd=self.spike_width))
            if n_rounds > 1:
                self._update_prior()

    def finish_rows(self, rows: np.ndarray, *, n_sweeps: int = 20) -> None:
        """The same for some rows alone, beside others that stay as they are; the cells are those that call them."""
        effects = self.module.effects
        chosen = torch.from_numpy(rows).to(effects.mean.device)
        if self.feature_prior is not None:
            self._condition(rows)
        blocks = [block for block in (np.intersect1d(block, rows) for block in self.blocks) if len(block)]
        cross = self.cells.exact(self.design)
        for _ in range(1 if effects.mask_prior.kind == "fixed" else 10):
            posterior = self._optimum(self._posterior(), cross, n_sweeps=n_sweeps, blocks=blocks)
            arrays = (posterior.inclusion, posterior.mean, posterior.sd)
            effects.assign(*(torch.from_numpy(array) for array in arrays), rows=chosen)
            if effects.mask_prior.kind == "beta":
                effects.mask_prior.update(effects.inclusion.detach(), chosen)

    def restart(self) -> None:
        """Masks, embeddings and basis anew for networks that they were not made for."""
        self._refresh_design()
        self.cells.forget()
        cross = self.cells.exact(self.design)
        self._assign(self._optimum(self._posterior(), cross, early=True, n_sweeps=10))
        if self.rotation != "none":
            self.rotate()

    def update(self, *, early: bool = False, n_sweeps: int = 2) -> None:
        """Replace the posterior by its optimum for the present encoder."""
        self._refresh_design()
        self._assign(self._optimum(self._posterior(), self.cells.cross(self.design), early=early, n_sweeps=n_sweeps))
        if not early:
            self._update_prior()

    def _refresh_design(self) -> None:
        if self.module.design.log_power is not None:
            self._read_design()

    def _update_prior(self) -> None:
        """Move prior rates, and what features say, to their optimum given the masks."""
        effects, n_treated = self.module.effects, self.gram.diagonal()
        if self.feature_prior is not None:
            self._condition(np.flatnonzero(self.feature_prior.known))
        seen = torch.from_numpy(n_treated > 0).to(effects.mask_logit.device)
        effects.mask_prior.update(effects.inclusion.detach(), seen)
        effects.update_scale(seen)

    def _condition(self, rows: np.ndarray) -> None:
        """Set the priors of `rows` to what features say of them."""
        effects, prior = self.module.effects, self.feature_prior
        if prior is None:
            return
        known = np.intersect1d(rows, np.flatnonzero(prior.known))
        rates, means = prior.fit(self._posterior(), self.module.n_treated.cpu().numpy())
        effects.condition(torch.from_numpy(rates), torch.from_numpy(means), rows=torch.from_numpy(known))

    def _finish_with_spike(self, cross: np.ndarray, n_rounds: int = 40) -> None:
        """Alternate updates with estimates of the width of the spike."""
        spike_sd = 0.0
        for _ in range(n_rounds):
            posterior = self._optimum(self._posterior(), cross, n_sweeps=1, spike_sd=spike_sd)
            spike_sd = estimate_spike_sd(posterior, self.gram.diagonal())
            self._assign(posterior)
            self._update_prior()
        logger.info("Shifts of about %.2f basal standard deviations count as none.", spike_sd)

    def _optimum(self, start: SpikeSlab, cross: np.ndarray, *, early: bool = False, **options: Any) -> SpikeSlab:
        effects = self.module.effects
        return update_spike_slab(
            start,
            cross,
            self.gram,
            prior_inclusion=self._prior_rates(even=early),
            slab_sd=effects.embedding_prior_scale,
            slab_mean=effects.prior_mean.double().cpu().numpy(),
            **{"blocks": self.blocks, **options},
        )

    def _prior_rates(self, *, even: bool = False) -> np.ndarray:
        """Prior rates of masks; one half, if `even`, of those that are inferred at all."""
        rates = torch.sigmoid(self.module.effects.mask_prior.logit.double()).cpu().numpy()
        return np.where((rates > 0) & (rates < 1), 0.5, rates) if even else rates

    def rotate(self) -> None:
        """Turn the latent basis towards sparse effects and restart masks from their Bayes factors."""
        effects = self.module.effects
        effect = self._centred_means() if self.centre else self._posterior().effect
        scale = effects.embedding_prior_scale
        precision = (self.gram.diagonal() + scale**-2)[:, None]
        # a row without any effect has about this length: it must not vote like the others
        noise = float(np.sqrt(effect.shape[1] * np.median(1 / precision)))
        turn = sparse_rotation if self.rotation == "l1" else varimax
        matrix = _ranks.from_first(turn(effect, noise=noise))
        self.module.rotate(torch.from_numpy(matrix).to(effects.mean))
        self.cells.rotate(matrix)
        if self.feature_prior is not None:
            # what features say of the old axes is averaged until they are asked of the new ones
            mean_rates = effects.mask_prior.log_open.exp().mean(1, keepdim=True).expand_as(effects.mean)
            effects.condition(mean_rates, effects.prior_mean @ torch.from_numpy(matrix).to(effects.mean))
        rotated, rates = effect @ matrix, self._prior_rates()
        if self.centre:
            rotated = self._move_origin(rotated, np.median(rotated[self.gram.diagonal() > 0], axis=0))
        evidence = logit(rates) - 0.5 * np.log(scale**2 * precision) + 0.5 * rotated**2 * precision
        inclusion = np.where(np.isinf(evidence), evidence > 0, expit(np.clip(evidence, -3, 3)))
        mean = rotated / np.maximum(inclusion, 0.3)
        self._assign(SpikeSlab(inclusion, mean, np.broadcast_to(precision**-0.5, mean.shape).copy()))

    def _centred_means(self) -> np.ndarray:
        """Mean encodings of each treatment's cells about their geometric median, which becomes the origin."""
        n_treated = self.gram.diagonal()[:, None]
        cross = self.cells.cross(self.design)
        means = np.divide(cross, n_treated, out=np.zeros_like(cross), where=n_treated > 0)
        return self._move_origin(means, geometric_median(means[n_treated[:, 0] > 0]))

    def _move_origin(self, means: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Take `origin` off the latent space and off `means` of treatments with cells."""
        origin = _ranks.from_first(origin)
        self.module.translate(torch.from_numpy(origin).to(self.module.effects.mean))
        self.cells.forget()  # encodings about the old origin
        return np.where(self.gram.diagonal()[:, None] > 0, means - origin, means)

    def _posterior(self) -> SpikeSlab:
        effects = self.module.effects
        arrays = (effects.inclusion, effects.mean, effects.log_sd.exp())
        return SpikeSlab(*(array.detach().double().cpu().numpy() for array in arrays))

    def _assign(self, posterior: SpikeSlab) -> None:
        arrays = (posterior.inclusion, posterior.mean, posterior.sd)
        self.module.effects.assign(*(torch.from_numpy(_ranks.from_first(array)) for array in arrays))
