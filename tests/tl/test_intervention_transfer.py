from __future__ import annotations

import numpy as np
import pytest

import perturbia as pb
from perturbia.errors import UnsupportedQuery


@pytest.fixture(scope="module")
def screen():
    return pb.datasets.simulate_svae(
        n_perturbations=15, n_genes=30, n_latent=3, n_hidden=15, cells_per_perturbation=60, library_size=3000.0
    )


@pytest.fixture(scope="module")
def model(screen):
    known = screen[~screen.obs["held_out"].to_numpy()].copy()
    pb.model.SVAE.setup_anndata(known, layer="counts", perturbation_key="perturbation", control=None)
    model = pb.model.SVAE(known, n_latent=3, n_hidden=32, n_layers=1)
    model.train(max_steps=600, batch_size=128, plan_kwargs={"lr": 5e-3}, enable_progress_bar=False, accelerator="cpu")
    return model


def test_fitted_shifts_explain_other_cells(model, screen) -> None:
    before = screen.copy()
    table = pb.tl.transfer_interventions(model, screen, n_particles=10)
    assert table.index.tolist() == ["P13", "P14", "P15"]
    assert table["n_fit"].tolist() == table["n_judge"].tolist() == [30, 30, 30]
    assert (table["gain"] > 1).all()
    np.testing.assert_allclose(table["gain"], table["iwelbo"] - table["iwelbo_unshifted"])
    np.testing.assert_allclose(table.attrs["iwelbo"], table["iwelbo"].mean())
    assert list(screen.obs) == list(before.obs)
    assert list(screen.obsm) == list(before.obsm)
    again = pb.tl.transfer_interventions(model, screen, n_particles=10)
    np.testing.assert_array_equal(table["iwelbo"], again["iwelbo"])
    assert model.perturbations == [f"P{i:02d}" for i in range(1, 13)]


def test_few_cells_do_nearly_as_well(model, screen) -> None:
    few = pb.tl.transfer_interventions(model, screen, n_particles=10, max_cells=5)
    assert (few["n_fit"] == 5).all()
    assert (few["n_judge"] == 30).all()
    assert few["gain"].mean() > 0
    masks = pb.tl.transfer_interventions(model, screen, n_particles=10, sparse=True)
    assert masks["gain"].mean() > 0


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda a: a, {"fraction": 1.0}, ValueError, "fraction: expected a share"),
        (
            lambda a: a[a.obs["perturbation"] == "P01"],
            {},
            UnsupportedQuery,
            "interventions that the model does not know",
        ),
        (lambda a: a, {"min_cells": 61}, UnsupportedQuery, "expected 61 cells or more"),
        (lambda a: a[:, :].copy(), {"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_input(model, screen, change, options, error, match) -> None:
    with pytest.raises(error, match=match):
        pb.tl.transfer_interventions(model, change(screen), **options)


def test_labels_are_needed(model, screen) -> None:
    nameless = screen.copy()
    del nameless.obs["perturbation"]
    with pytest.raises(UnsupportedQuery, match=r"expected labels in obs\['perturbation'\]"):
        pb.tl.transfer_interventions(model, nameless)
