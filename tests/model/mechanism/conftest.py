"""Modules with known random weights, models trained for a moment, and the oracle of the loss."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import perturbia as pb
from perturbia.model.mechanism._mechanism_module import MechanismModule

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from anndata import AnnData

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
# encoder, update: every pair that fits together
GUIDES = [
    ("residual", "closed_form"),
    ("residual", "gradient"),
    ("correlated", "gradient"),
    ("mean_field", "gradient"),
]


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """`tests/oracles/samsvae_loss.py`."""
    path = Path(__file__).parents[2] / "oracles" / "samsvae_loss.py"
    spec = importlib.util.spec_from_file_location("oracle_of_samsvae_loss", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def random_module() -> Callable[..., MechanismModule]:
    """A module of which every weight and buffer is random: 5 features, 3 treatments, 2 latents unless told."""

    def make(*, seed: int = 0, n_input: int = 5, n_treatments: int = 3, **switches: Any) -> MechanismModule:
        generator = torch.Generator().manual_seed(seed)
        switches = {"n_latent": 2, "n_hidden": 7, **switches}
        module = MechanismModule(n_input, n_treatments, **switches)
        with torch.no_grad():
            for name, value in sorted(module.state_dict().items()):
                if "prior" in name:
                    continue  # constants of the model, not weights
                value.copy_(0.35 * torch.randn(value.shape, generator=generator))
                if name in {"input_sd", "reference_library"}:
                    value.abs_().add_(0.3)
                if name == "n_treated":
                    value.copy_(torch.arange(1, n_treatments + 1) * 3.0)
        return module.eval()

    return make


def _screen() -> AnnData:
    adata = pb.datasets.simulate_screen(
        n_perturbations=4,
        n_combinations=3,
        n_genes=25,
        n_latent=2,
        cells_per_perturbation=25,
        n_controls=60,
        n_batches=2,
        n_truth_cells=50,
        mask_prob=0.4,
    )
    rng = np.random.default_rng(1)
    adata.obs["phase"] = rng.choice(["G1", "S", "G2M"], adata.n_obs)
    adata.obs["age"] = rng.normal(size=adata.n_obs)
    adata.obs["size"] = np.asarray(adata.X.sum(1)).ravel() * 1.5
    return adata


_SCREEN = _screen()


@pytest.fixture
def screen() -> AnnData:
    """A small screen of one's own: four singles, three pairs, covariates."""
    return _SCREEN.copy()


@pytest.fixture
def fit() -> Callable[..., pb.model.SAMSVAE]:
    """Register, build and train a small model for a moment."""

    def make(
        adata: AnnData,
        *,
        setup: dict[str, Any] | None = None,
        init: dict[str, Any] | None = None,
        **train: Any,
    ) -> pb.model.SAMSVAE:
        setup = {"perturbation_key": "perturbation", **(setup or {})}
        pb.model.SAMSVAE.setup_anndata(adata, **setup)
        model = pb.model.SAMSVAE(adata, **{"n_latent": 3, "n_hidden": 16, **(init or {})})
        model.train(**{"max_steps": 40, "batch_size": 64, **QUIET, **train})
        return model

    return make


@pytest.fixture(scope="session")
def trained() -> pb.model.SAMSVAE:
    """The default model after a short training; tests leave it and its data as they are."""
    adata = _SCREEN.copy()
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", batch_key="batch")
    model = pb.model.SAMSVAE(adata, n_latent=3, n_hidden=16)
    model.train(max_steps=300, batch_size=64, **QUIET)
    return model
