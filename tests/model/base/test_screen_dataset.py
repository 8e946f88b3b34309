"""Minibatches read from a screen: the same tensors whether features are held, shared on a device, or read each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import perturbia as pb
from perturbia.model.base import _screen_dataset
from perturbia.model.base._screen_dataset import ScreenDataset

if TYPE_CHECKING:
    from perturbia.model import SAMSVAE

CPU = torch.device("cpu")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = pytest.param(torch.device("cuda"), marks=[pytest.mark.gpu, NEEDS_GPU])


@pytest.fixture(scope="module")
def model() -> SAMSVAE:
    adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=2, n_genes=20, n_latent=2, n_batches=2)
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", batch_key="batch")
    return pb.model.SAMSVAE(adata, n_latent=3)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("asked", [[5, 6, 7], [9, 0, 4], slice(3, 12), 8])
def test_shared_features_are_those_of_the_data(model: SAMSVAE, device: torch.device, asked) -> None:
    manager = model.adata_manager
    cells = np.array([30, 2, 700, 41, 8, 9, 10, 11, 12, 3, 500, 77, 6])
    alone = ScreenDataset(manager, cells)[asked]
    with manager.holding(device):
        shared = ScreenDataset(manager, cells)[asked]
    assert alone.keys() == shared.keys()
    for key, values in alone.items():
        assert shared[key].device.type == device.type
        torch.testing.assert_close(shared[key].cpu(), values, rtol=0, atol=0)
    positions = cells[asked] if not isinstance(asked, int) else cells[[asked]]
    np.testing.assert_array_equal(shared["X"].cpu().numpy(), model.adata.X[positions].toarray())


def test_one_tensor_serves_all_datasets_and_is_let_go(model: SAMSVAE) -> None:
    manager = model.adata_manager
    with manager.holding(CPU):
        one, other = ScreenDataset(manager, [0, 1]), ScreenDataset(manager, [2])
        assert one._features is other._features is manager.held
    assert manager.held is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_features_are_let_go_after_an_error(model: SAMSVAE, error: type[BaseException]) -> None:
    with pytest.raises(error), model.adata_manager.holding(CPU):
        raise error
    assert model.adata_manager.held is None


def test_too_many_cells_are_not_held(model: SAMSVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = 4 * model.adata.n_obs * model.adata.n_vars
    monkeypatch.setattr(_screen_dataset, "DENSE_BYTES", n_bytes - 1)
    with model.adata_manager.holding(CPU):
        assert model.adata_manager.held is None
    monkeypatch.setattr(_screen_dataset, "DENSE_BYTES", n_bytes)
    with model.adata_manager.holding(CPU):
        assert model.adata_manager.held.shape == model.adata.shape


@pytest.mark.gpu
@NEEDS_GPU
def test_a_gpu_trains_on_cells_that_are_there() -> None:
    adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=0, n_genes=30, n_latent=2)
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    effects = []
    for accelerator in ("cpu", "gpu"):
        model = pb.model.SAMSVAE(adata, n_latent=3)
        model.train(max_steps=600, accelerator=accelerator, enable_progress_bar=False)
        assert model.device.type == {"cpu": "cpu", "gpu": "cuda"}[accelerator]
        effects.append(model.estimate_ate(n_draws=0).X)
    assert np.corrcoef(*map(np.ravel, effects))[0, 1] > 0.9
