"""Two small modalities with known pairs, and a model that was trained on them once a session."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

import perturbia as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from mudata import MuData

    from perturbia.model import PropensityAligner

QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}


def _simulated(**changes: Any) -> MuData:
    return pb.datasets.simulate_modalities(**{"n_cells": 20, "n_perturbations": 4, "n_latent": 2, **changes})


def _fitted(
    mdata: MuData, *, setup: dict[str, Any] | None = None, init: dict[str, Any] | None = None, **train: Any
) -> PropensityAligner:
    pb.model.PropensityAligner.setup_mudata(mdata, **{"control": "control", **(setup or {})})
    model = pb.model.PropensityAligner(mdata, **{"n_hidden": 16, **(init or {})})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "train: .* does not tell", UserWarning)  # a few epochs tell nothing apart
        model.train(**{"max_epochs": 3, **QUIET, **train})
    return model


@pytest.fixture(scope="session")
def simulate() -> Callable[..., MuData]:
    """100 source and 100 target cells, five labels, by default."""
    return _simulated


@pytest.fixture(scope="session")
def fit() -> Callable[..., PropensityAligner]:
    """Register, build and train in a moment: ``fit(mdata, setup={...}, init={...}, max_epochs=3)``."""
    return _fitted


@pytest.fixture(scope="session")
def trained() -> PropensityAligner:
    """A model that has learnt something; tests leave it and its data as they are, but for what they store."""
    return _fitted(_simulated(n_cells=60, n_perturbations=8, n_latent=4), init={"n_hidden": 64}, max_epochs=60)
