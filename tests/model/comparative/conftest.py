"""Small populations with a background and one or two targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import perturbia as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
SMALL = {"n_latent_shared": 3, "n_latent_salient": 2, "n_hidden": 16, "n_layers": 1}


def make_populations(**changes: Any) -> AnnData:
    options = {
        "n_background": 120,
        "n_target": 180,
        "n_genes": 30,
        "n_shared": 3,
        "n_salient": 2,
        "n_perturbations": 3,
        "n_hidden": 20,
        **changes,
    }
    return pb.datasets.simulate_comparative(**options)


@pytest.fixture
def populations() -> AnnData:
    return make_populations()


@pytest.fixture
def three_groups() -> AnnData:
    adata = make_populations()
    groups = adata.obs["group"].astype(str).to_numpy()
    target = np.flatnonzero(groups == "target")
    groups[target[::3]] = "CD4+ T"
    adata.obs["group"] = groups
    return adata


@pytest.fixture
def fit() -> Callable[..., pb.model.ComparativeVAE]:
    """Register, build and train."""

    def _fit(adata: AnnData, *, init: dict | None = None, setup: dict | None = None, **train: Any):
        setup = {"group_key": "group", "background": "background", **(setup or {})}
        pb.model.ComparativeVAE.setup_anndata(adata, **setup)
        model = pb.model.ComparativeVAE(adata, **{**SMALL, **(init or {})})
        model.train(**{"max_steps": 30, "n_restarts": 1, "batch_size": 64, **QUIET, **train})
        return model

    return _fit
