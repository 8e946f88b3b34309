from __future__ import annotations

import numpy as np
import pytest

from perturbia.datasets._layered_mixing import LayeredMixing


def by_hand(latent: np.ndarray, mixing: LayeredMixing) -> np.ndarray:
    """The same network, one unit and one branch of its activation at a time."""
    out = latent
    for i, weight in enumerate(mixing.weights):
        out = np.stack([sum(out[:, j] * weight[j, k] for j in range(len(weight))) for k in range(weight.shape[1])], 1)
        if i < len(mixing.weights) - 1:
            out = np.tanh(out) if mixing.activation == "tanh" else np.where(out > 0, out, 0.2 * out)
    return out


def bends(mixing: LayeredMixing, n_latent: int) -> float:
    """Share of the steps along straight lines at which some output turns."""
    rng = np.random.default_rng(1)
    turned = []
    for _ in range(20):
        start, direction = rng.normal(size=(2, n_latent))
        line = mixing(start + np.linspace(-2, 2, 4001)[:, None] * direction)
        turn = np.abs(np.diff(line, n=2, axis=0)).max(1)
        turned.append((turn > 1e-10 * np.abs(line).max()).mean())
    return float(np.mean(turned))


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
@pytest.mark.parametrize("sparsity", [None, 0.5])
def test_outputs_by_hand(activation: str, sparsity: float | None) -> None:
    rng = np.random.default_rng(0)
    mixing = LayeredMixing.draw(rng, [3, 7, 7, 11], activation=activation, sparsity=sparsity)
    latent = rng.normal(size=(5, 3))
    np.testing.assert_allclose(mixing(latent), by_hand(latent, mixing), atol=1e-12)


def test_orthonormal_weights_of_every_shape() -> None:
    wide, square, tall = LayeredMixing.draw(np.random.default_rng(0), [4, 9, 9, 6]).weights
    np.testing.assert_allclose(wide @ wide.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(square @ square.T, np.eye(9), atol=1e-12)
    np.testing.assert_allclose(tall.T @ tall, np.eye(6), atol=1e-12)
    # uniform over such matrices: no entry has a preferred sign, as QR alone would give its first column
    rng = np.random.default_rng(0)
    first = np.array([LayeredMixing.draw(rng, [3, 5]).weights[0][0, 0] for _ in range(1000)])
    assert abs(np.sign(first).mean()) < 4 / 1000**0.5


def test_sparse_weights_cut_the_same_number_of_inputs_of_every_unit() -> None:
    weights = LayeredMixing.draw(np.random.default_rng(0), [15, 50, 40], sparsity=0.75).weights
    assert set((weights[0] == 0).sum(0)) == {12}  # 11.25, rounded up
    assert set((weights[1] == 0).sum(0)) == {38}
    assert (weights[0] == 0).sum(1).std() > 1  # not the same inputs for all
    assert abs(weights[1][weights[1] != 0].std() - 1) < 0.15


def test_leaky_mixing_bends_at_kinks_and_smooth_mixing_everywhere() -> None:
    sizes = [4, 10, 10, 20]
    kinked = LayeredMixing.draw(np.random.default_rng(0), sizes)
    smooth = LayeredMixing.draw(np.random.default_rng(0), sizes, activation="tanh")
    # twenty hidden units, each met a few times by a line at most; a kink shows in two second differences
    assert 0 < bends(kinked, 4) < 0.03
    assert bends(smooth, 4) > 0.95


@pytest.mark.parametrize(("activation", "most"), [("leaky_relu", 0.85), ("tanh", 0.92)])
def test_mixing_is_far_from_linear(activation: str, most: float) -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(3000, 8))
    output = LayeredMixing.draw(rng, [8, 50, 50, 150], activation=activation)(latent)
    known = np.column_stack([latent, np.ones(len(latent))])
    residual = output - known @ np.linalg.lstsq(known, output, rcond=None)[0]
    assert 0.5 < 1 - residual.var(0).sum() / output.var(0).sum() < most
