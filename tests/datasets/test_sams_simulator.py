from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import perturbia as pb
from perturbia.datasets import simulate_sams
from perturbia.errors import ControlError

SMALL = {
    "n_perturbations": 5,
    "n_genes": 20,
    "n_latent": 4,
    "n_hidden": 8,
    "cells_per_split": (10, 4, 2),
    "n_controls": 16,
}


def small(**changes: object) -> ad.AnnData:
    return simulate_sams(**{**SMALL, **changes})


def outputs(adata: ad.AnnData) -> np.ndarray:
    """What the stored decoder makes of the stored latents."""
    decoder = adata.uns["truth"]["decoder"]
    n_layers = sum(key.startswith("layer_") for key in decoder)
    hidden = adata.obsm["truth_latent"].astype(float)
    for i in range(1, n_layers):
        hidden = hidden @ decoder[f"layer_{i}"]
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    return hidden @ decoder[f"layer_{n_layers}"] / decoder["scale"]


def noise_share(adata: ad.AnnData) -> np.ndarray:
    noise = adata.X - adata.layers["truth_mean"]
    return noise.var(0) / adata.X.var(0)


def test_contents() -> None:
    adata = small()
    truth = adata.uns["truth"]
    assert adata.shape == (16 + 5 * 16, 20)
    assert isinstance(adata.X, np.ndarray)
    assert adata.X.dtype == np.float32
    assert "counts" not in adata.layers
    assert list(truth["names"]) == [f"P0{i}" for i in range(1, 6)]
    assert truth["masks"].dtype == bool
    assert truth["effects"].dtype == truth["noise_scale"].dtype == np.float32
    np.testing.assert_array_equal(truth["effects"] != 0, truth["masks"])
    assert adata.obsm["truth_latent"].dtype == adata.obsm["truth_basal"].dtype == np.float32
    table = pd.crosstab(adata.obs["perturbation"], adata.obs["pb_split"])
    assert list(table.columns) == ["train", "valid", "test"]
    assert table.to_numpy().tolist() == [[10, 4, 2]] * 6


def test_published_size_by_default() -> None:
    adata = simulate_sams()
    assert adata.shape == (70_000, 100)
    assert adata.obs["pb_split"].value_counts().to_dict() == {"train": 50_000, "valid": 10_000, "test": 10_000}
    decoder = adata.uns["truth"]["decoder"]
    assert [decoder[f"layer_{i}"].shape for i in range(1, 6)] == [(15, 50), *[(50, 50)] * 3, (50, 100)]
    assert abs(adata.uns["truth"]["masks"].mean() - 2 / 15) < 4 * (2 / 15 * 13 / 15 / 1500) ** 0.5
    share = noise_share(adata)
    np.testing.assert_allclose(share, 0.2, atol=0.006)
    assert abs(share.mean() - 0.2) < 0.001
    np.testing.assert_allclose(adata.layers["truth_mean"].std(0), 1, atol=1e-3)


def test_latents_are_normal_around_their_shifts() -> None:
    adata = small(n_perturbations=40, cells_per_split=(100, 50, 50), n_controls=200, mask_prob=0.5)
    truth = adata.uns["truth"]
    frame = pd.DataFrame(adata.obsm["truth_latent"], index=adata.obs["perturbation"].astype(str))
    means = frame.groupby(level=0).mean()
    z = np.vstack([means.loc[truth["names"]] - truth["effects"], means.loc[["control"]]]) * 200**0.5
    assert abs((z**2).mean() - 1) < 5 * (2 / z.size) ** 0.5
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(np.cov(adata.obsm["truth_basal"].T), np.eye(4), atol=0.06)


def test_masks_and_shifts_have_their_parameters() -> None:
    truth = small(n_perturbations=4000, cells_per_split=(1, 0, 0), n_controls=0, mask_prob=0.3).uns["truth"]
    assert abs(truth["masks"].mean() - 0.3) < 0.015
    assert abs((truth["masks"].sum(1) == 0).mean() - 0.7**4) < 0.03
    shifts = truth["effects"][truth["masks"]]
    assert abs(np.abs(shifts).mean() - 5) < 0.03
    assert abs(np.abs(shifts).std() - 0.5) < 0.03
    assert abs(np.sign(shifts).mean()) < 0.06
    assert not small(mask_prob=0.0).uns["truth"]["masks"].any()
    assert small(mask_prob=1.0).uns["truth"]["masks"].all()


@pytest.mark.parametrize("exponential", [False, True])
def test_means_follow_from_the_stored_decoder(*, exponential: bool) -> None:
    adata = small(exponential=exponential)
    expected = np.exp(outputs(adata)) if exponential else outputs(adata)
    np.testing.assert_allclose(adata.layers["truth_mean"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(outputs(adata).std(0), 1, atol=1e-3)


@pytest.mark.parametrize("fraction", [0.2, 0.5])
@pytest.mark.parametrize("options", [{}, {"exponential": True}, {"sparsity": 0.5}], ids=["plain", "exp", "sparse"])
def test_noise_is_its_share_of_the_variance(fraction: float, options: dict) -> None:
    adata = small(noise_fraction=fraction, cells_per_split=(2000, 0, 0), **options)
    moved = adata.layers["truth_mean"].std(0) > 0
    np.testing.assert_allclose(noise_share(adata)[moved], fraction, atol=0.04)
    noise = adata.X - adata.layers["truth_mean"]
    np.testing.assert_allclose(noise.std(0), adata.uns["truth"]["noise_scale"], rtol=0.05)
    kurtosis = ((noise / noise.std(0)) ** 4).mean()
    assert abs(kurtosis - 3) < 0.1  # Gaussian


def test_no_noise() -> None:
    adata = small(noise_fraction=0.0, sparsity=0.9)
    np.testing.assert_array_equal(adata.X, adata.layers["truth_mean"])


def test_features_that_no_latent_moves() -> None:
    adata = small(sparsity=0.9, n_latent=2, cells_per_split=(300, 0, 0))
    still = adata.layers["truth_mean"].std(0) == 0
    assert still.any()  # every first-layer unit lacks both inputs
    np.testing.assert_allclose(adata.X[:, still].std(0), 1, atol=0.1)


def test_controls_are_shared_out_to_the_splits() -> None:
    adata = small(n_controls=33)
    controls = adata.obs[adata.obs["perturbation"] == "control"]
    assert controls["pb_split"].value_counts().to_dict() == {"train": 21, "valid": 8, "test": 4}
    assert "control" not in set(small(n_controls=0).obs["perturbation"])


def test_seeds() -> None:
    one, same, other = small(seed=3), small(seed=3), small(seed=4)
    np.testing.assert_array_equal(one.X, same.X)
    np.testing.assert_array_equal(one.uns["truth"]["effects"], same.uns["truth"]["effects"])
    assert not np.array_equal(one.X, other.X)


def test_files(tmp_path) -> None:
    adata = small()
    adata.write_h5ad(tmp_path / "screen.h5ad")
    back = ad.read_h5ad(tmp_path / "screen.h5ad")
    np.testing.assert_array_equal(back.X, adata.X)
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    np.testing.assert_allclose(outputs(back), outputs(adata))
    for key in ("names", "masks", "effects", "noise_scale"):
        np.testing.assert_array_equal(back.uns["truth"][key], adata.uns["truth"][key])


def test_a_model_trains_on_its_split() -> None:
    adata = small()
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", scale="embedding")
    model = pb.model.SAMSVAE(adata, n_latent=4, gene_likelihood="normal")
    model.train(max_steps=2, enable_progress_bar=False)
    assert set(adata.obs["pb_split"].iloc[model.train_indices]) == {"train"}
    with pytest.raises(ControlError):
        pb.model.SAMSVAE.setup_anndata(small(n_controls=0), perturbation_key="perturbation", scale="embedding")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_perturbations": 0}, "n_perturbations: expected a whole number of at least 1, got 0. Pass"),
        ({"n_layers": 0}, "n_layers: expected a whole number of at least 1, got 0"),
        ({"n_controls": 1.5}, "n_controls: expected a whole number of at least 0, got 1.5"),
        ({"seed": None}, "seed: expected a whole number of at least 0, got None"),
        ({"n_hidden": 3}, "n_hidden: expected at least the 4 latents and at most the 20 genes, .* got 3. Change"),
        ({"mask_prob": 1.1}, "mask_prob: expected a number from 0 to 1, got 1.1. Pass a share"),
        ({"noise_fraction": 1.0}, "noise_fraction: expected a number from 0 to below 1, got 1.0"),
        ({"noise_fraction": np.nan}, "noise_fraction: expected a number from 0 to below 1, got nan"),
        ({"sparsity": -0.1}, "sparsity: expected a number from 0 to below 1, got -0.1"),
        ({"effect_scale": -5}, "effect_scale: expected a positive finite number, got -5"),
        ({"effect_spread": np.inf}, "effect_spread: expected zero or a positive finite number, got inf"),
        ({"cells_per_split": 500}, "cells_per_split: expected three whole numbers .* got 500. Pass"),
        ({"cells_per_split": (10, 10)}, r"cells_per_split: expected three whole numbers .* got \(10, 10\)"),
        ({"cells_per_split": (0, 1, 1)}, "cells_per_split: expected three whole numbers"),
        ({"cells_per_split": (5, -1, 1)}, "cells_per_split: expected three whole numbers"),
    ],
)
def test_bad_input(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(**changes)
