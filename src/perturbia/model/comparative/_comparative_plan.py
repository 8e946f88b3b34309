"""Training plan of comparative models: background first, regularisers late, weights that keep a level."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from perturbia.model.base._training_plan import PerturbationTrainingPlan
from perturbia.model.comparative._comparative_module import group_means
from perturbia.model.comparative._regularization import ChanceLevel, Constraint, Multiplier, Regularizer, penalty
from perturbia.nn import minimum_norm_share

if TYPE_CHECKING:
    from perturbia.model.comparative._comparative_module import ComparativeModule

__all__ = ["ComparativeTrainingPlan", "Objective", "Schedule"]

Objective = Literal["sum", "multi"]


@dataclass(frozen=True)
class Schedule:
    """What acts when, in optimiser steps, and how.

    Attributes
    ----------
    n_background
        Steps on background cells alone, at the beginning.
    first
        Step from which the regulariser acts.
    regularizer, constraint, level, weight, objective
        As in :meth:`perturbia.model.ComparativeVAE.train`.
    """

    n_background: int = 0
    first: int = 0
    regularizer: Regularizer = "none"
    constraint: Constraint | None = None
    level: float | None = None
    weight: float = 10.0
    objective: Objective = "sum"

    def multiplier(self) -> Multiplier:
        """The weight at its start."""
        if self.constraint == "statistic":
            return Multiplier()
        if self.constraint == "elbo":
            return Multiplier(weight=0.3, rate=0.01, raises=False)
        return Multiplier(weight=self.weight, rate=0.0, bounds=(0.0, float("inf")))


class ComparativeTrainingPlan(PerturbationTrainingPlan):
    """The plan of perturbation models with the two objectives and the regularisers of comparative ones.

    Parameters
    ----------
    module
        The module.
    schedule
        What acts when.
    lr
        Learning rate of the networks.
    weight_decay
        Weight decay of the networks. Adam divides it by the size of the gradient: where that is 0, as for all that is
        salient while only background cells are seen, any decay wipes the weights out.
    global_lr_factor
        Learning rate of label means relative to `lr`.
    **kwargs
        Further arguments of :class:`~perturbia.model.base.PerturbationTrainingPlan`.
    """

    def __init__(
        self,
        module: ComparativeModule,
        *,
        schedule: Schedule | None = None,
        lr: float = 3e-3,
        weight_decay: float = 0.0,
        global_lr_factor: float = 3.0,
        **kwargs: object,
    ) -> None:
        super().__init__(module, lr=lr, weight_decay=weight_decay, global_lr_factor=global_lr_factor, **kwargs)  # type: ignore[arg-type]
        self.schedule = schedule or Schedule()
        self.multiplier = self.schedule.multiplier()
        self.chance = ChanceLevel()
        self._reference: list[ComparativeModule] = []  # in a list, so that it is no part of the plan
        self._background_gradient: list[torch.Tensor] | None = None
        self._shared = [*module.shared_encoder.parameters(), *module.decoder.parameters()]

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """One step, on the cells of the phase."""
        step = self.trainer.global_step
        if step < self.schedule.n_background:
            rows = self.module.group(batch) == 0
            batch = {key: value[rows] for key, value in batch.items()}
        elif step == self.schedule.n_background and step > 0:
            # squared gradients of 0, which salient weights have seen so far, would make their first steps enormous
            self.optimizers().optimizer.state.clear()
        acts = step >= self.schedule.first and self.schedule.regularizer != "none"
        seed = int(torch.randint(2**31, ())) if acts and self.schedule.constraint == "elbo" else None
        if seed is not None:
            torch.manual_seed(seed)
        loss = super().training_step(batch, batch_idx)
        group = self.last_inference["group"]
        bound = self.last_output.reconstruction_loss["reconstruction_loss"] + sum(self.last_output.kl_local.values())
        self._add_groups(self._sums["train"], bound, group)
        if acts:
            loss = loss + self._regularization(step, batch, loss, seed)
        if self.schedule.objective == "multi" and step >= self.schedule.n_background:
            background = group_means(bound, group, self.module.n_groups)[0]
            gradient = torch.autograd.grad(background, self._shared, retain_graph=True, allow_unused=True)
            self._background_gradient = [
                torch.zeros_like(p) if g is None else g for p, g in zip(self._shared, gradient, strict=True)
            ]
        return loss

    def _regularization(
        self, step: int, batch: dict[str, torch.Tensor], loss: torch.Tensor, seed: int | None
    ) -> torch.Tensor:
        """Weight times penalty; the weight moves first."""
        plan = self.schedule
        kernel = plan.regularizer in {"hsic", "mmd"}
        shuffles = self.chance.due(step - plan.first) if kernel else 0
        value, shuffled = penalty(plan.regularizer, self.module, self.last_inference, n_shuffles=shuffles)
        if len(shuffled):
            self.chance.update(shuffled)
        if plan.constraint == "statistic":
            level = self._level()
            self.multiplier.update(value.item(), level)
        elif plan.constraint == "elbo" and seed is not None:
            level = 1.0 if plan.level is None else plan.level
            self.multiplier.update(loss.item() - self._reference_loss(batch, seed), level)
        else:
            level = self.chance.level
        self._steps += torch.tensor([value.item(), self.multiplier.weight, level, self.multiplier.mean, 1.0])
        return self.multiplier.weight * value

    def _level(self) -> float:
        """The level of the statistic; one below what chance brings can not be reached."""
        level = self.schedule.level
        if level is None:
            return 0.5 if self.schedule.regularizer == "wasserstein" else self.chance.level
        if level < self.chance.median:
            msg = (
                f"level: expected at least {self.chance.median:.3g}, the median of {self.schedule.regularizer!r} for shuffled "
                f"cells of these batches, got {level:g}. Leave it None, pass larger batches, or allow more."
            )
            raise ValueError(msg)
        return level

    def _reference_loss(self, batch: dict[str, torch.Tensor], seed: int) -> float:
        """Loss of the same cells and noise under the model as it was when the regulariser began to act."""
        if not self._reference:
            self._reference.append(deepcopy(self.module).requires_grad_(False))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            return self._reference[0](batch)[2].loss.item()

    def on_after_backward(self) -> None:
        """Replace the sum of both gradients of shared weights by twice their shortest combination."""
        if self._background_gradient is None:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._shared]
        target = [total - own for total, own in zip(gradients, self._background_gradient, strict=True)]
        share = minimum_norm_share(self._background_gradient, target)
        for parameter, own, other in zip(self._shared, self._background_gradient, target, strict=True):
            parameter.grad = 2 * (share * own + (1 - share) * other)
        self._shares += torch.tensor([share.item(), 1.0])
        self._background_gradient = None

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """The curves of scvi-tools, and sums over groups; noise that training does not see."""
        with torch.random.fork_rng():
            torch.manual_seed(batch_idx)
            inference, _, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        self.log("validation_loss", output.loss, on_epoch=True, sync_dist=self.use_sync_dist)
        self.compute_and_log_metrics(output, self.val_metrics, "validation")
        bound = output.reconstruction_loss["reconstruction_loss"] + sum(output.kl_local.values())
        self._add_groups(self._sums["validation"], bound, inference["group"])

    # curves ---------------------------------------------------------------------------------------------------------

    def _add_groups(self, sums: torch.Tensor, bound: torch.Tensor, group: torch.Tensor) -> None:
        sums[0].index_add_(0, group.to(sums.device), bound.detach().to(sums))
        sums[1].index_add_(0, group.to(sums.device), torch.ones_like(bound).to(sums))

    def _empty_groups(self) -> torch.Tensor:
        return torch.zeros((2, self.module.n_groups + 1), dtype=torch.float64)

    def on_fit_start(self) -> None:
        """Empty all sums."""
        self._sums = {"train": self._empty_groups(), "validation": self._empty_groups()}

    def on_train_epoch_start(self) -> None:
        """Empty the sums of the epoch."""
        super().on_train_epoch_start()
        self._sums["train"], self._steps, self._shares = self._empty_groups(), torch.zeros(5), torch.zeros(2)

    def on_train_epoch_end(self) -> None:
        """Log the curves of the epoch; those of what did not act yet are left out."""
        super().on_train_epoch_end()
        self._log_groups("train")
        if self._steps[-1] > 0:
            value, weight, level, mean, _ = (self._steps / self._steps[-1]).tolist()
            self.log_dict({"regularizer": value, "lambda": weight, "level": level, "constrained_mean": mean})
        if self._shares[-1] > 0:
            self.log("a_star", (self._shares[0] / self._shares[1]).item())

    def on_validation_epoch_start(self) -> None:
        """Empty the sums of the validation."""
        self._sums["validation"] = self._empty_groups()

    def on_validation_epoch_end(self) -> None:
        """Log the bounds of both populations."""
        self._log_groups("validation")

    def _log_groups(self, part: str) -> None:
        total, count = self._sums[part]
        if count[0] > 0:
            self.log(f"elbo_background_{part}", (total[0] / count[0]).float())
        seen = count[1:] > 0
        if seen.any():
            self.log(f"elbo_target_{part}", (total[1:][seen] / count[1:][seen]).mean().float())
