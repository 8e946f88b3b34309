"""One small screen, and every registered model trained on it once a session."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import perturbia as pb

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.model.base import PerturbationModel


@dataclass(frozen=True)
class Recipe:
    """How to make a model small and quick."""

    name: str
    init: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)

    @property
    def cls(self) -> type[PerturbationModel]:
        return getattr(pb.model, self.name)

    def register(self, adata: AnnData, **setup: Any) -> None:
        if "perturbation_obsm_key" not in setup:
            setup.setdefault("perturbation_key", "perturbation")
        self.cls.setup_anndata(adata, **{**self.setup, **setup})

    def fit(self, adata: AnnData, *, init: dict[str, Any] | None = None, **setup: Any) -> PerturbationModel:
        """Register, build and train."""
        self.register(adata, **setup)
        model = self.cls(adata, **{**self.init, **(init or {})})
        model.train(**self.train)
        return model


QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}
EMBEDDING = pd.DataFrame(
    np.random.default_rng(0).normal(size=(5, 3)), index=["P04", "P03", "P02", "P01", "unregistered"]
)
RECIPES = [
    Recipe("SAMSVAE", {"n_latent": 3, "n_hidden": 16}, {"max_steps": 30, "batch_size": 64, **QUIET}),
    Recipe("CPAVAE", {"n_latent": 3, "n_hidden": 16}, {"max_steps": 30, "batch_size": 64, **QUIET}),
    Recipe("ConditionalVAE", {"n_latent": 3, "n_hidden": 16}, {"max_steps": 30, "batch_size": 64, **QUIET}),
    Recipe(
        "ComparativeVAE",
        {"n_latent_shared": 3, "n_latent_salient": 2, "n_hidden": 16, "n_layers": 1, "salient_prior": "label"},
        {"max_steps": 30, "n_restarts": 1, "batch_size": 64, **QUIET},
    ),
    Recipe("NoChange"),
    Recipe("Mean"),
    Recipe("MeanSameOrder"),
    Recipe("Empirical"),
    Recipe("JamesStein"),
    Recipe("Additive"),
    Recipe("MatchingMean"),
    Recipe("MaxEffect"),
    Recipe("Ridge"),
    Recipe("LowRank", {"rank": 2}),
    Recipe("LinearPCA", {"perturbation_embedding": EMBEDDING}),
    Recipe("Nearest", {"perturbation_embedding": EMBEDDING, "k": 2}),
    Recipe("ContextMean", {"context_key": "batch"}, setup={"batch_key": "batch"}),
]

# P01 to P04; of the pairs below, training cells have SEEN and lack UNSEEN
SEEN, UNSEEN = "P01+P02", "P03+P04"


def make_screen(**changes: Any) -> AnnData:
    """Counts with four singles, two pairs and two batches; one pair is marked as test."""
    options = {
        "n_perturbations": 4,
        "n_combinations": 6,
        "n_genes": 25,
        "n_latent": 2,
        "mask_prob": 0.5,
        "cells_per_perturbation": 20,
        "n_controls": 50,
        "n_batches": 2,
        "n_truth_cells": 50,
        **changes,
    }
    screen = pb.datasets.simulate_screen(**options)
    if "n_combinations" not in changes:
        screen = screen[screen.obs["perturbation"].isin(["control", "P01", "P02", "P03", "P04", SEEN, UNSEEN])].copy()
        split = np.where(screen.obs["perturbation"] == UNSEEN, "test", "train")
        split[::10] = np.where(split[::10] == "train", "valid", split[::10])
        screen.obs["pb_split"] = pd.Categorical(split)
    return screen


@pytest.fixture(autouse=True, scope="session")
def _quiet_lightning() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("scvi").setLevel(logging.WARNING)


@pytest.fixture
def screen() -> AnnData:
    """A screen of one's own."""
    return _SCREEN.copy()


@pytest.fixture
def recipes() -> list[Recipe]:
    """All that are tested."""
    return RECIPES


@pytest.fixture(scope="session", params=RECIPES, ids=lambda recipe: recipe.name)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Each registered model in turn."""
    return request.param


@pytest.fixture(scope="session")
def model(recipe: Recipe) -> PerturbationModel:
    """Each model, trained; tests must leave it and its data as they are."""
    return recipe.fit(_SCREEN.copy(), batch_key="batch")


_SCREEN = make_screen()
