from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbia.datasets import simulate_screen
from perturbia.datasets.screen_simulator import _Decoder
from perturbia.stats import effects_against, group_means, log1p_cp10k

SMALL = {
    "n_perturbations": 4,
    "n_combinations": 3,
    "n_genes": 20,
    "n_latent": 3,
    "cells_per_perturbation": 15,
    "n_controls": 40,
    "n_truth_cells": 50,
}


def small(**changes: object) -> ad.AnnData:
    return simulate_screen(**{**SMALL, **changes})


def dosage(adata: ad.AnnData) -> np.ndarray:
    """Doses of every cell, read from its label by hand."""
    names = list(adata.uns["truth"]["names"])
    out = np.zeros((adata.n_obs, len(names)))
    for row, label in enumerate(adata.obs["perturbation"].astype(str)):
        for part in [] if label == "control" else label.split("+"):
            name, _, dose = part.partition("@")
            out[row, names.index(name)] = float(dose or 1)
    return out


def test_contents() -> None:
    adata = small()
    truth = adata.uns["truth"]
    assert adata.shape == (40 + 7 * 15, 20)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert (adata.X.data > 0).all()
    assert (np.round(adata.X.data) == adata.X.data).all()
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), adata.X.toarray())
    assert adata.layers["counts"] is not adata.X
    assert adata.obs_names.is_unique
    assert list(truth["names"]) == ["P01", "P02", "P03", "P04"]
    counts = adata.obs["perturbation"].value_counts()
    assert counts["control"] == 40
    assert (counts.drop("control") == 15).all()
    assert len(counts) == 8
    assert set(truth["ate"].index) == set(counts.index) - {"control"}
    assert list(truth["ate"].columns) == list(adata.var_names)
    assert set(adata.obs["batch"]) == {"batch_1"}


@pytest.mark.parametrize("doses", [(1.0,), (0.5, 1.0, 3.0)])
def test_latents_are_basal_plus_masked_effects(doses: tuple) -> None:
    adata = small(doses=doses, n_perturbations=6, n_combinations=10)
    truth = adata.uns["truth"]
    assert truth["masks"].dtype == bool
    assert truth["masks"].any(1).all()
    np.testing.assert_array_equal(truth["effects"] != 0, truth["masks"])
    expected = adata.obsm["truth_basal"] + dosage(adata) @ truth["effects"]
    np.testing.assert_allclose(adata.obsm["truth_latent"], expected, atol=1e-5)
    assert set(np.unique(dosage(adata))) == {0.0, *doses}
    pairs = {label for label in adata.obs["perturbation"].astype(str) if "+" in label}
    assert len({tuple(part.partition("@")[0] for part in label.split("+")) for label in pairs}) == 10


def test_masks_and_effects_have_their_parameters() -> None:
    adata = small(
        n_perturbations=400,
        n_combinations=0,
        n_latent=10,
        mask_prob=0.3,
        effect_scale=2.0,
        cells_per_perturbation=5,
        n_genes=2,
    )
    truth = adata.uns["truth"]
    # one entry of ten is opened in any case: .3 + .7 / 10
    assert abs(truth["masks"].mean() - 0.37) < 4 * (0.37 * 0.63 / 4000) ** 0.5
    assert abs(truth["effects"][truth["masks"]].std() / 2.0 - 1) < 0.08
    assert simulate_screen(**{**SMALL, "mask_prob": 1.0}).uns["truth"]["masks"].all()
    assert (small(mask_prob=0.0).uns["truth"]["masks"].sum(1) == 1).all()
    np.testing.assert_allclose(adata.obsm["truth_basal"].std(0), 1, atol=0.1)


def test_group_sizes() -> None:
    unequal = small(group_size_dispersion=1.0, n_perturbations=30, cells_per_perturbation=40, n_combinations=0)
    sizes = unequal.obs["perturbation"].value_counts().drop("control")
    assert sizes.min() >= 5
    assert sizes.std() > 15
    assert 15 < sizes.mean() < 80
    assert small(cells_per_perturbation=2).obs["perturbation"].value_counts().min() == 5


def test_libraries_and_dispersion() -> None:
    adata = small(n_controls=4000, library_size=2000.0, library_log_sd=0.5, n_genes=200)
    total = np.asarray(adata.X.sum(1)).ravel()
    assert abs(np.log(np.median(total) / 2000)) < 0.1
    assert 0.4 < np.log(total).std() < 0.65
    variances = []
    for concentration in (1.0, 100.0):
        counts = small(n_controls=4000, concentration=concentration, library_log_sd=0.0, n_batches=1).X[:4000].toarray()
        variances.append(counts.var(0).mean())
    assert variances[0] > 1.3 * variances[1]


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_batches": 3, "batch_scale": 1.0}, {"doses": (0.5, 2.0)}, {"saturation": 0.0}, {"concentration": 1.0}],
    ids=["plain", "batches", "doses", "log-linear", "dispersed"],
)
def test_cells_show_the_true_effects(changes: dict) -> None:
    """With thousands of cells, measured effects are the stored ones up to their standard errors."""
    options = {
        "cells_per_perturbation": 1500,
        "n_controls": 4000,
        "n_truth_cells": 4000,
        "n_genes": 100,
        "n_combinations": 2,
    }
    adata = small(**{**options, **changes})
    moments = group_means(log1p_cp10k(adata.X), adata.obs["perturbation"].to_numpy())
    measured = effects_against(moments, reference="control")
    truth = adata.uns["truth"]["ate"].loc[measured.groups].to_numpy()
    error = measured.standard_errors
    # the truth is itself an average over basal states, and total counts differ a little from library sizes
    assert ((measured.effects - truth) / error).std() < 1.5
    assert abs((measured.effects * truth).sum() / (truth**2).sum() - 1) < 0.04
    assert np.corrcoef(measured.effects.ravel(), truth.ravel())[0, 1] > 0.98


def test_saturation_decides_additivity() -> None:
    """Without it log-abundances add up exactly but for the normalisation; with it pairs depart from the sum."""
    rng = np.random.default_rng(0)
    decoders = {
        s: _Decoder(
            hidden=rng.normal(size=(3, 9)), output=rng.normal(0, 0.3, (9, 12)), base=rng.normal(size=12), saturation=s
        )
        for s in (0.0, 0.5)
    }
    z, a, b = rng.normal(size=(3, 40, 3))

    def interaction(decoder: _Decoder) -> float:
        log = [np.log(decoder.proportions(z + shift)) for shift in (0 * a, a, b, a + b)]
        contrast = log[3] - log[1] - log[2] + log[0]
        contrast -= contrast.mean(1, keepdims=True)  # the normalisation is common to all genes
        return float(np.abs(contrast).max())

    assert interaction(decoders[0.0]) < 1e-9
    assert interaction(decoders[0.5]) > 0.1


def test_batches_shift_genes() -> None:
    adata = small(n_batches=2, batch_scale=1.0, n_controls=3000)
    share = adata.obs["batch"].value_counts(normalize=True)
    assert set(share.index) == {"batch_1", "batch_2"}
    assert share.min() > 0.4
    profile = [adata.X[(adata.obs["batch"] == name).to_numpy()].mean(0).A1 for name in share.index]
    assert np.abs(np.log(profile[0] / profile[1])).mean() > 0.3
    still = small(n_batches=2, batch_scale=0.0, n_controls=3000)
    profile = [still.X[(still.obs["batch"] == name).to_numpy()].mean(0).A1 for name in share.index]
    assert np.abs(np.log(profile[0] / profile[1])).mean() < 0.15


def test_seeds() -> None:
    one, same, other = small(seed=3), small(seed=3), small(seed=4)
    np.testing.assert_array_equal(one.X.toarray(), same.X.toarray())
    pd.testing.assert_frame_equal(one.uns["truth"]["ate"], same.uns["truth"]["ate"])
    assert one.shape != other.shape or not np.array_equal(one.X.toarray(), other.X.toarray())
    assert not np.array_equal(one.uns["truth"]["effects"], other.uns["truth"]["effects"])


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_files(form: str, tmp_path) -> None:
    adata = small(doses=(0.5, 1.0), n_batches=2)
    path = tmp_path / f"screen.{form}"
    (adata.write_h5ad if form == "h5ad" else adata.write_zarr)(path)
    back = (ad.read_h5ad if form == "h5ad" else ad.read_zarr)(path)
    np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray())
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    pd.testing.assert_frame_equal(back.uns["truth"]["ate"], adata.uns["truth"]["ate"], check_names=False)
    for key in ("masks", "effects", "names"):
        np.testing.assert_array_equal(back.uns["truth"][key], adata.uns["truth"][key])
    assert back.uns["truth"]["masks"].dtype == bool


def test_no_pairs_and_all_pairs() -> None:
    assert not small(n_combinations=0).obs["perturbation"].astype(str).str.contains(r"\+").any()
    every = small(n_combinations=6).obs["perturbation"].astype(str)
    assert len({label for label in every if "+" in label}) == 6
    alone = small(n_perturbations=1, n_combinations=0)
    assert set(alone.obs["perturbation"]) == {"control", "P01"}


def test_shifts_of_one_strength() -> None:
    effects = small(effect_shape="sign", effect_scale=2.0).uns["truth"]
    assert set(np.abs(effects["effects"][effects["masks"]]).round(5)) == {2.0}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_perturbations": 0}, "n_perturbations: expected a positive integer, got 0"),
        ({"n_genes": 2.5}, "n_genes: expected a positive integer, got 2.5"),
        ({"n_latent": -1}, "n_latent: expected a positive integer"),
        ({"n_controls": 0}, "n_controls: expected a positive integer"),
        ({"cells_per_perturbation": 0}, "cells_per_perturbation: expected a positive integer"),
        ({"n_batches": 0}, "n_batches: expected a positive integer"),
        ({"n_truth_cells": 0}, "n_truth_cells: expected a positive integer"),
        ({"n_combinations": 7}, "n_combinations: expected 0 to 6 pairs of the perturbations, got 7"),
        ({"n_combinations": -1}, "n_combinations: expected 0 to 6"),
        ({"n_combinations": 1.5}, "n_combinations: expected 0 to 6 pairs of the perturbations, got 1.5"),
        ({"mask_prob": 1.2}, "mask_prob: expected a probability, got 1.2"),
        ({"mask_prob": np.nan}, "mask_prob: expected a probability"),
        ({"effect_shape": "flat"}, "effect_shape: expected 'normal' or 'sign', got 'flat'"),
        ({"effect_scale": 0.0}, "effect_scale: expected a positive number"),
        ({"library_size": -5.0}, "library_size: expected a positive number"),
        ({"concentration": np.nan}, "concentration: expected a positive number"),
        ({"saturation": -0.1}, "saturation: expected zero or a positive number"),
        ({"group_size_dispersion": -1.0}, "group_size_dispersion: expected zero or a positive number"),
        ({"batch_scale": np.nan}, "batch_scale: expected zero or a positive number"),
        ({"library_log_sd": -0.3}, "library_log_sd: expected zero or a positive number"),
        ({"doses": ()}, "doses: expected positive finite numbers"),
        ({"doses": (1.0, 0.0)}, "doses: expected positive finite numbers"),
        ({"doses": (np.inf,)}, "doses: expected positive finite numbers"),
    ],
)
def test_bad_input(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(**changes)
