from __future__ import annotations

import numpy as np
import pytest
import torch
from scvi.module.base import BaseModuleClass

from perturbia.model.base._training_plan import PerturbationTrainingPlan


class Module(BaseModuleClass):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(1, 1)
        self.effects = torch.nn.Linear(1, 1, bias=False)
        self.log_dispersion = torch.nn.Parameter(torch.zeros(1))

    def inference(self) -> None: ...
    def generative(self) -> None: ...
    def loss(self) -> None: ...
    def _get_inference_input(self) -> None: ...
    def _get_generative_input(self) -> None: ...


def test_each_kind_of_parameter_has_its_rate() -> None:
    plan = PerturbationTrainingPlan(Module(), lr=1e-3, dispersion_lr=2e-2, global_lr_factor=5.0, weight_decay=1e-4)
    optimizer = plan.configure_optimizers()["optimizer"]
    found = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [(2, 1e-3, 1e-4), (1, 2e-2, 0), (1, pytest.approx(5e-3), 0)]
    assert {group["eps"] for group in optimizer.param_groups} == {1e-8}
    assert plan.n_epochs_kl_warmup is None


def test_rates_fall_on_a_cosine_to_zero() -> None:
    plan = PerturbationTrainingPlan(Module(), lr=1.0, n_steps=4)
    configured = plan.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5, 0, 0], atol=1e-9)


def test_divergences_warm_up_over_a_share_of_the_steps() -> None:
    assert PerturbationTrainingPlan(Module(), n_steps=400, kl_warmup=0.25).n_steps_kl_warmup == 100
    assert PerturbationTrainingPlan(Module(), n_steps=400).n_steps_kl_warmup is None
    assert PerturbationTrainingPlan(Module(), n_steps=400).kl_weight == 1.0
    assert PerturbationTrainingPlan(Module(), n_steps=400, kl_warmup=0.25).kl_weight == 0.0
    with pytest.raises(ValueError, match="kl_warmup: expected a share of the training between 0 and 1, got 2"):
        PerturbationTrainingPlan(Module(), n_steps=400, kl_warmup=2)
