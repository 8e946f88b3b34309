"""Translation through a coupling: closed forms, simulated truth, and what must not change the answer."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import chisquare

from perturbia.errors import FeatureMismatch
from perturbia.model.alignment import FeatureTranslator, fit_translator
from perturbia.model.alignment._feature_rows import column_moments
from perturbia.model.alignment._translation_batches import MatchDataset, RowMatches
from perturbia.model.alignment._translation_network import TranslationNetwork
from perturbia.model.alignment.feature_translator import _split
from perturbia.nn import exact_projected_loss
from perturbia.stats import Coupling

if TYPE_CHECKING:
    from pathlib import Path


def fit(X: Any, Y: Any, coupling: Coupling, **options: Any) -> FeatureTranslator:
    quick = {"loss": "projected", "n_hidden": 32, "max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False}
    return fit_translator(X, Y, coupling, **{**quick, **options})


def random_coupling(n_output: int, n_input: int, *, density: float = 0.3, seed: int = 0) -> Coupling:
    rng = np.random.default_rng(seed)
    mass = rng.random((n_output, n_input)) * (rng.random((n_output, n_input)) < density)
    mass[np.arange(n_output), np.arange(n_output) % n_input] += 0.1
    return Coupling.from_matrix(mass)


def least_squares(X: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients, the last row those of the constant, of a regression with weights."""
    design = np.column_stack([X, np.ones(len(X))])
    root = np.sqrt(weights)[:, None]
    return np.linalg.lstsq(design * root, Y * root, rcond=None)[0]


def twins(seed: int, n: int = 500, blur: float = 1.0) -> tuple[np.ndarray, np.ndarray, Coupling, np.ndarray]:
    """Two modalities of one latent, and posterior matches given a blurred reading of the latent of output cells."""
    rng = np.random.default_rng(seed)
    z_input, z_output = rng.normal(size=(2, n, 2))
    mixing, readout = rng.normal(size=(2, 6)), rng.normal(size=(2, 4))
    reading = z_output + blur * rng.normal(size=z_output.shape)
    distance = ((reading[:, None] - z_input[None]) ** 2).sum(-1)
    X = z_input @ mixing
    Y = np.tanh(1.5 * z_output) @ readout + 0.3 * rng.normal(size=(n, 4))
    return X, Y, Coupling.from_matrix(np.exp(-distance / (2 * blur**2)) + 1e-12), np.tanh(1.5 * z_input) @ readout


def r2_and_slope(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    centred = truth - truth.mean(0)
    return 1 - ((predicted - truth) ** 2).sum() / (centred**2).sum(), (predicted * centred).sum() / (centred**2).sum()


def test_linear_translations_reach_their_closed_forms() -> None:
    rng = np.random.default_rng(0)
    X, Y, coupling = rng.normal(2, 3, (20, 3)), rng.normal(-1, 2, (60, 2)), random_coupling(60, 20)
    weights = coupling.rows().toarray()
    rows, columns = np.nonzero(weights)
    closed = {
        # regression on the features averaged over matches
        "projected": least_squares(weights @ X, Y, np.ones(60)),
        # regression over all pairs, weighted by their mass
        "plain": least_squares(X[columns], Y[rows], weights[rows, columns]),
    }
    design = np.column_stack([X, np.ones(20)])
    apart = np.abs(design @ (closed["projected"] - closed["plain"])).max()
    options = {"n_layers": 0, "weight_decay": 0.0, "train_size": 1.0, "batch_size": 60, "lr": 0.05}
    for loss, target, epochs, n_draws, tolerance in (
        ("projected_exact", "projected", 250, 1, 1e-3),
        ("projected", "projected", 100, 60, 0.25),
        ("plain", "plain", 100, 60, 0.25),
    ):
        found = fit(X, Y, coupling, loss=loss, max_epochs=epochs, n_draws=n_draws, **options).predict(X)
        assert np.abs(found - design @ closed[target]).max() < tolerance * apart, loss


def test_certain_matches_make_it_ordinary_regression() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    Y = X @ rng.normal(size=(3, 2)) + 0.5 * rng.normal(size=(80, 2))
    order = rng.permutation(80)
    coupling = Coupling.from_matrix(np.eye(80)[order])
    options = {"n_layers": 0, "weight_decay": 0.0, "train_size": 1.0, "batch_size": 80, "lr": 0.03, "max_epochs": 200}
    expected = np.column_stack([X, np.ones(80)]) @ least_squares(X[order], Y, np.ones(80))
    np.testing.assert_allclose(fit(X, Y, coupling, **options).predict(X), expected, atol=1e-3)
    for loss, dropout_rate in (("projected", 0.5), ("projected", 0.0), ("projected_exact", 0.0)):
        options = {"dropout_rate": dropout_rate, "batch_size": 80, "max_epochs": 10}
        plain, other = (fit(X, Y, coupling, loss=one, **options).predict(X) for one in ("plain", loss))
        np.testing.assert_allclose(other, plain, atol=1e-4)


def test_dropout_drops_the_same_units_for_all_draws_of_a_cell() -> None:
    torch.manual_seed(0)
    network = TranslationNetwork(6, 3, n_hidden=32, dropout_rate=0.5)
    x = torch.randn(1, 1, 6).expand(10, 4, 6)
    dropped = network(x)
    torch.testing.assert_close(dropped, dropped[:, :1].expand_as(dropped))
    assert (dropped[1:, 0] - dropped[:1, 0]).abs().min() > 1e-4
    many = network(x[:1, :1].expand(20_000, 1, 6))[:, 0]
    single = network(x[0, :1].expand(20_000, 6))
    torch.testing.assert_close(many.mean(0), single.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(many.std(0), single.std(0), atol=0.02, rtol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_projected_finds_the_map_that_plain_flattens(seed: int) -> None:
    X, Y, coupling, truth = twins(seed)
    found = {
        loss: r2_and_slope(fit(X, Y, coupling, loss=loss, max_epochs=60, batch_size=128, seed=seed).predict(X), truth)
        for loss in ("plain", "projected")
    }
    assert found["projected"][0] > found["plain"][0] + 0.1
    assert found["projected"][0] > 0.75
    # a reading as wide as the latent halves what plain finds
    assert 0.3 < found["plain"][1] < 0.6
    assert 0.75 < found["projected"][1] < 1.3


def test_draws_follow_the_rows_of_the_coupling() -> None:
    mass = np.array([[0, 0.2, 0, 0.8], [0, 0, 0, 0], [3, 1, 0, 0], [0, 0, 5, 0], [0.1, 0.2, 0.3, 0.4]])
    coupling = Coupling.from_matrix(mass)
    matches = RowMatches(coupling)
    assert matches.matched.tolist() == [0, 2, 3, 4]
    torch.manual_seed(0)
    rows = np.array([4, 0, 2, 3])
    drawn = matches.draw(torch.from_numpy(rows), 20_000).numpy()
    probability = coupling.rows(rows).toarray()
    for one, expected in zip(drawn, probability, strict=True):
        counts = np.bincount(one, minlength=4)
        assert not counts[expected == 0].any()
        some = expected > 0
        assert some.sum() == 1 or chisquare(counts[some], 20_000 * expected[some]).pvalue > 1e-3
    # draws of a cell are independent
    assert abs(np.corrcoef(drawn[0, ::2], drawn[0, 1::2])[0, 1]) < 0.03


@pytest.mark.parametrize("density", [0.0, 0.5])
def test_all_matches_of_a_batch_are_the_rows_of_the_coupling(density: float) -> None:
    coupling = random_coupling(30, 200, density=density)
    matches = RowMatches(coupling)
    rows = np.random.default_rng(0).permutation(30)
    inputs, weights = matches.weights(rows)
    assert weights.is_sparse == (density == 0)
    filled = np.zeros((30, 200))
    filled[:, inputs] = weights.to_dense()
    np.testing.assert_allclose(filled, coupling.rows(rows).toarray(), rtol=1e-6)
    np.testing.assert_array_equal(inputs, matches.inputs(rows))


def test_a_batch_holds_its_cells() -> None:
    X, Y = np.arange(20.0).reshape(10, 2), np.arange(12.0).reshape(6, 2)
    matches = RowMatches(Coupling.from_matrix(np.eye(6, 10, k=2)))
    drawn = MatchDataset(X, sparse.csr_matrix(Y), matches, np.array([5, 1, 3]), 2).__getitems__([0, 2])
    np.testing.assert_array_equal(drawn["y"], Y[[5, 3]])
    np.testing.assert_array_equal(drawn["x"], X[[[7, 7], [5, 5]]])


def test_moments_are_those_of_the_rows() -> None:
    X = np.random.default_rng(0).normal(5, 2, (3000, 3)).astype(np.float32)
    X[:, 1] = 0.1
    rows = np.arange(0, 3000, 2)
    mean, scale = column_moments(sparse.csr_matrix(X), rows)
    np.testing.assert_allclose(mean, X[rows].mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(scale, [X[rows, 0].std(), 1.0, X[rows, 2].std()], rtol=1e-5)


class BatchesOnly(sparse.csr_matrix):
    """Refuses to become dense as a whole."""

    def toarray(self, *args: Any, **kwargs: Any) -> np.ndarray:
        assert self.shape[0] <= 1024
        return super().toarray(*args, **kwargs)


@pytest.mark.parametrize("loss", ["plain", "projected", "projected_exact"])
def test_sparse_features_equal_dense_ones_and_stay_sparse(loss: str) -> None:
    rng = np.random.default_rng(0)
    X, Y = (rng.poisson(0.5, (1500, n)).astype(np.float64) for n in (12, 5))
    coupling = Coupling.from_matrix(sparse.eye(1500) + sparse.random(1500, 1500, 0.002, random_state=0))
    dense = fit(X, Y, coupling, loss=loss).predict(X)
    translator = fit(BatchesOnly(X), BatchesOnly(Y), coupling, loss=loss)
    np.testing.assert_array_equal(translator.predict(BatchesOnly(X)), dense)
    assert dense.dtype == np.float32


@pytest.mark.parametrize("loss", ["plain", "projected"])
def test_seed_decides_all(loss: str) -> None:
    X, Y, coupling, _ = twins(0, n=100)
    state = torch.random.get_rng_state()
    first = fit(X, Y, coupling, loss=loss, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    again, other = fit(X, Y, coupling, loss=loss, seed=3), fit(X, Y, coupling, loss=loss, seed=4)
    np.testing.assert_array_equal(again.predict(X), first.predict(X))
    assert np.abs(other.predict(X) - first.predict(X)).max() > 1e-3


def test_cells_without_match_do_not_train() -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(50, 4)), rng.normal(size=(40, 3))
    mass = rng.random((40, 50))
    mass[30:], mass[:, 45:] = 0, 0
    coupling = Coupling.from_matrix(mass)
    before = fit(X, Y, coupling).predict(X[:45])
    X[45:], Y[30:] = 1e6, -1e6
    np.testing.assert_array_equal(fit(X, Y, coupling).predict(X[:45]), before)


def test_best_epoch_is_kept_and_training_stops() -> None:
    """On noise the held-out loss soon rises; the network is that of its minimum."""
    rng = np.random.default_rng(0)
    X, Y, coupling = rng.normal(size=(60, 8)), rng.normal(size=(120, 2)), random_coupling(120, 60, density=0.05)
    translator = fit(X, Y, coupling, max_epochs=300, patience=5, lr=1e-2, train_size=0.7)
    curve = translator.history["validation_loss"]["validation_loss"].to_numpy()
    assert len(curve) < 300
    assert curve.argmin() == len(curve) - 6
    _, valid = _split(coupling, RowMatches(coupling), 0.7, 0)
    with torch.no_grad():
        network = translator.network
        prediction = network(torch.as_tensor(X, dtype=torch.float32))
        target = network.standardised(torch.as_tensor(Y[valid], dtype=torch.float32))
        weights = torch.as_tensor(coupling.rows(valid).toarray(), dtype=torch.float32)
        loss = exact_projected_loss(prediction, target, weights)
    np.testing.assert_allclose(loss, curve.min(), rtol=1e-5)


def test_without_held_out_cells_all_epochs_run() -> None:
    X, Y, coupling, _ = twins(0, n=50)
    translator = fit(X, Y, coupling, train_size=1.0, max_epochs=7)
    assert list(translator.history) == ["train_loss"]
    assert len(translator.history["train_loss"]) == 7


def test_split_takes_a_share_of_each_group() -> None:
    groups = np.repeat(["a", "b"], [20, 10])
    mass = (groups[:, None] == groups[None]).astype(float)
    mass[:5] = 0
    coupling = Coupling.from_matrix(mass, source_groups=groups, target_groups=groups)
    train, valid = _split(coupling, RowMatches(coupling), 0.8, 0)
    assert sorted([*train, *valid]) == list(range(5, 30))
    assert (groups[valid] == ["a"] * 3 + ["b"] * 2).all()


def test_saved_translator_is_the_same(tmp_path: Path) -> None:
    X, Y, coupling, _ = twins(0, n=60)
    translator = fit(X, Y, coupling)
    path = tmp_path / "translator.pt"
    translator.save(path)
    loaded = FeatureTranslator.load(path)
    np.testing.assert_array_equal(loaded.predict(X), translator.predict(X))
    np.testing.assert_array_equal(
        loaded.predict(X, batch_size=7), FeatureTranslator.load(path).predict(X, batch_size=7)
    )
    assert repr(loaded) == repr(translator) == "FeatureTranslator: 6 → 4 features, loss='projected', 3 epochs"
    for name, curve in translator.history.items():
        np.testing.assert_array_equal(loaded.history[name], curve)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        translator.save(path)
    translator.save(path, overwrite=True)


def test_training_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    X, Y, coupling, _ = twins(0, n=50)
    fit(X, Y, coupling, max_epochs=40, patience=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"loss": "unbiased"}, "loss: expected one of 'projected', 'plain', 'projected_exact'"),
        ({"n_draws": 1}, "n_draws: expected at least 2 for loss='projected'"),
        ({"n_draws": 0}, "n_draws: expected a positive integer"),
        ({"n_layers": -1}, "n_layers: expected a positive integer"),
        ({"n_hidden": 2.5}, "n_hidden: expected a positive integer"),
        ({"batch_size": 0}, "batch_size: expected a positive integer"),
        ({"max_epochs": 0}, "max_epochs: expected a positive integer"),
        ({"patience": 0}, "patience: expected a positive integer"),
        ({"train_size": 0.0}, "train_size: expected a share"),
        ({"train_size": 1.5}, "train_size: expected a share"),
        ({"dropout_rate": 1.0}, "dropout_rate: expected a share"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"lr": np.nan}, "lr: expected a positive number"),
        ({"weight_decay": -1.0}, "weight_decay: expected zero or more"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, problem: str) -> None:
    X, Y, coupling, _ = twins(0, n=20)
    with pytest.raises(ValueError, match=problem):
        fit(X, Y, coupling, **options)


def test_data_that_do_not_belong_together_are_refused() -> None:
    rng = np.random.default_rng(0)
    X, Y, coupling = rng.normal(size=(8, 3)), rng.normal(size=(6, 2)), random_coupling(6, 8)
    with pytest.raises(ValueError, match=r"Pass coupling\.transpose\(\)"):
        fit(X, Y, coupling.transpose())
    with pytest.raises(ValueError, match="the 6 output cells in rows and the 7 input cells"):
        fit(X[:7], Y, coupling)
    with pytest.raises(TypeError, match=r"expected a Coupling, got ndarray\. Wrap it"):
        fit(X, Y, np.ones((6, 8)))
    with pytest.raises(ValueError, match="Y_output: expected finite numbers"):
        fit(X, np.where(Y > 1, np.nan, Y) if (Y > 1).any() else Y * np.nan, coupling)
    with pytest.raises(ValueError, match="X_input: expected a two-dimensional array"):
        fit(X[:, 0], Y, coupling)
    translator = fit(X, Y, coupling)
    with pytest.raises(FeatureMismatch, match="expected the 3 features of the training, got 2"):
        translator.predict(X[:, :2])
    with pytest.raises(ValueError, match="batch_size: expected a positive integer"):
        translator.predict(X, batch_size=0)


def test_training_that_diverges_is_told() -> None:
    X, Y, coupling, _ = twins(0, n=50)
    for train_size in (0.8, 1.0):
        with pytest.raises(RuntimeError, match="lr: the training diverged"):
            fit(X, Y, coupling, lr=1e30, max_epochs=20, train_size=train_size)


SCRIPT = """
import os, sys
import numpy as np
from perturbia.model.alignment import fit_translator
from perturbia.stats import Coupling

if __name__ == "__main__":
    devices, seed, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    Y = np.tanh(X[:, :3]) + 0.1 * rng.normal(size=(300, 3))
    coupling = Coupling.from_matrix(np.eye(300) + 0.2 * np.eye(300, k=1))
    several = {} if devices == 1 else {"devices": devices, "strategy": "ddp"}
    translator = fit_translator(
        X, Y, coupling, max_epochs=40, batch_size=64 // devices, n_hidden=32, accelerator="cpu", seed=seed,
        enable_progress_bar=False, **several,
    )
    np.save(f"{out}.{os.environ.get('LOCAL_RANK', 0)}.npy", translator.predict(X))
"""


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Within what another seed changes; both processes hold the same weights."""
    (tmp_path / "run.py").write_text(SCRIPT)

    def run(name: str, devices: int, seed: int) -> list[np.ndarray]:
        arguments = [sys.executable, str(tmp_path / "run.py"), str(devices), str(seed), str(tmp_path / name)]
        subprocess.run(arguments, check=True, capture_output=True, cwd=tmp_path)
        return [np.load(tmp_path / f"{name}.{rank}.npy") for rank in range(devices)]

    (one,), (other,) = run("one", 1, 0), run("other", 1, 1)
    first, second = run("two", 2, 0)
    np.testing.assert_array_equal(first, second)
    assert np.square(first - one).mean() < 3 * np.square(other - one).mean()
