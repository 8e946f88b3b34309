"""Weights and levels of regularisers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from perturbia.model.comparative._comparative_module import ComparativeModule
from perturbia.model.comparative._comparative_plan import Schedule
from perturbia.model.comparative._regularization import ChanceLevel, Multiplier, penalty
from perturbia.nn import multiscale_mmd, normalized_hsic, squared_distance_to_zero


def test_a_level_out_of_reach_ends_at_the_cap() -> None:
    weight = Multiplier()
    for _ in range(500):
        weight.update(1.0, 1e-9)
    assert weight.weight == 30.0
    for _ in range(5000):
        weight.update(0.0, 1.0)
    assert weight.weight == pytest.approx(1e-4)


def test_the_weight_follows_its_rule() -> None:
    weight = Multiplier()
    weight.update(2.0, 1.0)
    assert weight.weight == pytest.approx(math.exp(0.05))
    weight.update(1.0, 1.0)
    assert weight.mean == pytest.approx(0.95 * 2 + 0.05)
    assert weight.weight == pytest.approx(math.exp(0.05 + 0.05 * 0.95))


def test_the_weight_settles_where_the_statistic_is_at_its_level() -> None:
    weight = Multiplier()
    for _ in range(3000):
        weight.update(1 / (1 + weight.weight), 0.2)
    assert weight.weight == pytest.approx(4.0, rel=0.02)


def test_the_cost_of_a_penalty_lowers_its_weight() -> None:
    weight = Schedule(constraint="elbo", regularizer="hsic").multiplier()
    assert weight.weight == 0.3
    weight.update(5.0, 1.0)
    assert weight.weight == pytest.approx(0.3 * math.exp(-0.01))
    weight.mean = math.nan
    weight.update(0.0, 1.0)
    assert weight.weight == pytest.approx(0.3)


def test_a_weight_without_a_level_waits() -> None:
    weight = Multiplier()
    for level in (math.nan, 0.0):
        weight.update(1.0, level)
    assert weight.weight == 1.0
    assert math.isnan(weight.mean)


def test_a_fixed_weight_stays() -> None:
    weight = Schedule(constraint=None, regularizer="hsic", weight=7.0).multiplier()
    for _ in range(10):
        weight.update(3.0, 1.0)
    assert weight.weight == 7.0


def test_the_level_of_chance_is_a_smoothed_quantile() -> None:
    chance = ChanceLevel()
    assert chance.due(3) == 20
    values = torch.linspace(0, 1, 21)
    chance.update(values)
    assert chance.level == pytest.approx(0.95)
    assert chance.median == pytest.approx(0.5)
    assert [chance.due(step) for step in (9, 10)] == [0, 20]
    chance.update(values + 1)
    assert chance.level == pytest.approx(0.8 * 0.95 + 0.2 * 1.95)


def test_penalties_are_those_of_the_right_cells() -> None:
    module = ComparativeModule(5, 2, n_groups=2, n_latent_shared=3, n_latent_salient=2, n_hidden=4, n_layers=1)
    generator = torch.Generator().manual_seed(0)
    loc, scale = torch.randn(60, 3, generator=generator), torch.ones(60, 3)
    s, s_scale = torch.randn(60, 4, generator=generator), torch.rand(60, 4, generator=generator)
    group = torch.arange(60) % 3
    inference = {"qz": Normal(loc, scale), "qs": Normal(s, s_scale), "group": group}
    blocks = [(loc[group == 1], s[group == 1][:, :2]), (loc[group == 2], s[group == 2][:, 2:])]
    expected = np.mean([normalized_hsic(*block)[0] for block in blocks])
    np.testing.assert_allclose(penalty("hsic", module, inference)[0], expected, rtol=1e-6)
    value, shuffled = penalty("mmd", module, inference, n_shuffles=7)
    expected = np.mean([multiscale_mmd(loc[group == 0], loc[group == code])[0] for code in (1, 2)])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert shuffled.shape == (7,)
    own = Normal(s[group == 0], s_scale[group == 0])
    np.testing.assert_allclose(penalty("wasserstein", module, inference)[0], squared_distance_to_zero(own), rtol=1e-6)
    # too few cells to say anything
    few = {**inference, "group": torch.zeros(60, dtype=torch.long)}
    assert penalty("hsic", module, few, n_shuffles=3)[0] == 0
