from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.datasets import simulate_svae
from perturbia.errors import ControlError

SMALL = {
    "n_perturbations": 6,
    "n_genes": 20,
    "n_latent": 4,
    "n_hidden": 8,
    "cells_per_perturbation": 15,
    "n_controls": 10,
}


def small(**changes: object) -> ad.AnnData:
    return simulate_svae(**{**SMALL, **changes})


def shifts(adata: ad.AnnData) -> np.ndarray:
    """Shift of every cell, found by its label."""
    truth = adata.uns["truth"]
    table = dict(zip(truth["names"], truth["effects"], strict=True))
    zero = np.zeros(truth["effects"].shape[1])
    return np.array([table.get(label, zero) for label in adata.obs["perturbation"].astype(str)])


def logits(adata: ad.AnnData) -> np.ndarray:
    """What the stored decoder makes of the stored latents."""
    decoder = adata.uns["truth"]["decoder"]
    hidden = adata.obsm["truth_latent"].astype(float)
    for i in (1, 2, 3):
        hidden = hidden @ decoder[f"layer_{i}"]
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    return hidden @ decoder["layer_4"]


def test_contents() -> None:
    adata = small()
    truth = adata.uns["truth"]
    assert adata.shape == (10 + 6 * 15, 20)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert (np.round(adata.X.data) == adata.X.data).all()
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), adata.X.toarray())
    assert adata.layers["counts"] is not adata.X
    assert adata.obs_names.is_unique
    assert list(truth["names"]) == [f"P0{i}" for i in range(1, 7)]
    sizes = adata.obs["perturbation"].value_counts()
    assert sizes.pop("control") == 10
    assert set(sizes) == {15}
    assert len(sizes) == 6
    for key in ("truth_basal", "truth_latent"):
        assert adata.obsm[key].shape == (100, 4)
        assert adata.obsm[key].dtype == np.float32
    assert truth["masks"].dtype == bool
    assert truth["effects"].dtype == np.float32
    assert truth["masks"].shape == truth["effects"].shape == (6, 4)
    np.testing.assert_array_equal(truth["effects"] != 0, truth["masks"])
    assert adata.layers["truth_mean"].dtype == np.float32


def test_published_size_by_default() -> None:
    adata = simulate_svae()
    assert adata.shape == (25_000, 100)
    assert adata.uns["truth"]["effects"].shape == (100, 15)
    assert "control" not in set(adata.obs["perturbation"])
    assert [adata.uns["truth"]["decoder"][f"layer_{i}"].shape for i in (1, 2, 3, 4)] == [
        (15, 40),
        (40, 40),
        (40, 40),
        (40, 100),
    ]
    # the last twenty of a hundred
    assert set(adata.obs.loc[adata.obs["held_out"], "perturbation"]) == {f"P{i:03d}" for i in range(81, 101)}


def test_latents_are_normal_around_their_shifts() -> None:
    adata = small(n_perturbations=40, cells_per_perturbation=200, n_controls=200, n_latent=5)
    np.testing.assert_allclose(adata.obsm["truth_latent"] - adata.obsm["truth_basal"], shifts(adata), atol=1e-5)
    truth = adata.uns["truth"]
    frame = pd.DataFrame(adata.obsm["truth_latent"], index=adata.obs["perturbation"].astype(str))
    means = frame.groupby(level=0).mean()
    z = np.vstack([means.loc[truth["names"]] - truth["effects"], means.loc[["control"]]]) * 200**0.5
    assert abs((z**2).mean() - 1) < 5 * (2 / z.size) ** 0.5
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(np.cov((frame.to_numpy() - shifts(adata)).T), np.eye(5), atol=0.06)


def test_targets_are_drawn_with_replacement() -> None:
    many = {"n_perturbations": 4000, "cells_per_perturbation": 1, "n_controls": 0}
    masks = small(**many).uns["truth"]["masks"]
    # one, two or three draws from four latents: expected distinct ones by hand
    expected = (1 + (2 - 1 / 4) + 4 * (1 - (3 / 4) ** 3)) / 3
    assert abs(masks.sum(1).mean() - expected) < 0.05
    assert set(masks.sum(1)) == {1, 2, 3}
    assert np.ptp(masks.mean(0)) < 0.05
    two = small(**many, n_targets=(2, 2)).uns["truth"]["masks"].sum(1)
    assert abs((two == 1).mean() - 1 / 4) < 0.03
    assert set(two) == {1, 2}


def test_strong_and_normal_effects() -> None:
    many = {"n_perturbations": 3000, "cells_per_perturbation": 1, "n_controls": 0}
    truth = small(**many, effect_scale=4.0, effect_spread=0.3).uns["truth"]
    strong = truth["effects"][truth["masks"]]
    assert abs(np.abs(strong).mean() - 4) < 0.03
    assert abs(np.abs(strong).std() - 0.3) < 0.02
    assert abs(np.sign(strong).mean()) < 0.06
    assert set(np.abs(small(effect_spread=0.0).uns["truth"]["effects"]).ravel().round(4)) == {0.0, 5.0}
    truth = small(**many, effect_shape="normal", effect_scale=2.0).uns["truth"]
    normal = truth["effects"][truth["masks"]]
    assert abs(normal.std() - 2) < 0.1
    assert abs((np.abs(normal) < 1).mean() - 0.383) < 0.03


@pytest.mark.parametrize("normalize", ["cell", "gene_legacy"])
def test_expected_counts_follow_from_the_stored_decoder(normalize: str) -> None:
    adata = small(normalize=normalize, library_size=5e4)
    scaled = logits(adata) / adata.uns["truth"]["decoder"]["scale"]
    assert abs(scaled.std() - 1) < 1e-4
    weight = np.exp(scaled)
    expected = 5e4 * weight / weight.sum(1 if normalize == "cell" else 0, keepdims=True)
    np.testing.assert_allclose(adata.layers["truth_mean"], expected, rtol=1e-3)


@pytest.mark.parametrize(("normalize", "axis"), [("cell", 1), ("gene_legacy", 0)])
def test_what_has_a_fixed_total(normalize: str, axis: int) -> None:
    adata = small(normalize=normalize, library_size=1e5, cells_per_perturbation=100)
    counts = adata.X.toarray()
    np.testing.assert_allclose(adata.layers["truth_mean"].sum(axis), 1e5, rtol=1e-4)
    deviation = (counts.sum(axis) - 1e5) / 1e5**0.5
    assert np.abs(deviation).max() < 5
    other = counts.sum(1 - axis)
    assert other.std() > 0.1 * other.mean()
    # Poisson around the expectation, neither more nor less
    ratio = (counts - adata.layers["truth_mean"]) ** 2 / adata.layers["truth_mean"]
    assert abs(ratio.mean() - 1) < 0.05


def test_depth_of_the_published_code() -> None:
    depth = np.asarray(simulate_svae(normalize="gene_legacy").X.sum(1)).ravel()
    assert abs(np.median(depth) / 3833 - 1) < 0.05  # as measured in an independent implementation


def test_latents_can_be_recovered_from_expected_counts() -> None:
    """The decoder is injective: undone layer by layer, it gives the latents back."""
    adata = small(cells_per_perturbation=30)
    decoder = adata.uns["truth"]["decoder"]
    log = np.log(adata.layers["truth_mean"].astype(float)) * decoder["scale"]
    # the softmax loses one number per cell: find it as the one that puts the logits in the span of the last layer
    basis = decoder["layer_4"].astype(float)
    outside = np.eye(20) - np.linalg.pinv(basis) @ basis
    lost = (log @ outside) @ (outside @ np.ones(20)) / (np.ones(20) @ outside @ np.ones(20))
    hidden = (log - lost[:, None]) @ np.linalg.pinv(basis)
    for i in (3, 2, 1):
        hidden = np.where(hidden > 0, hidden, hidden / 0.2) @ np.linalg.pinv(decoder[f"layer_{i}"].astype(float))
    np.testing.assert_allclose(hidden, adata.obsm["truth_latent"], atol=1e-2)


def test_held_out_interventions() -> None:
    adata = small(n_perturbations=10, held_out_fraction=0.3)
    truth = adata.uns["truth"]
    assert truth["held_out"].sum() == 3
    assert truth["held_out"][-3:].all()
    marked = set(adata.obs.loc[adata.obs["held_out"], "perturbation"].astype(str))
    assert marked == set(truth["names"][truth["held_out"]])
    assert adata.obs["held_out"].dtype == bool
    assert not small(held_out_fraction=0.0).obs["held_out"].any()


def test_seeds() -> None:
    one, same, other = small(seed=3), small(seed=3), small(seed=4)
    np.testing.assert_array_equal(one.X.toarray(), same.X.toarray())
    np.testing.assert_array_equal(one.obsm["truth_latent"], same.obsm["truth_latent"])
    assert not np.array_equal(one.X.toarray(), other.X.toarray())
    assert not np.array_equal(one.uns["truth"]["effects"], other.uns["truth"]["effects"])


def test_files(tmp_path) -> None:
    adata = small()
    adata.write_h5ad(tmp_path / "screen.h5ad")
    back = ad.read_h5ad(tmp_path / "screen.h5ad")
    np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray())
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    np.testing.assert_allclose(logits(back), logits(adata))
    for key in ("names", "masks", "effects", "held_out"):
        np.testing.assert_array_equal(back.uns["truth"][key], adata.uns["truth"][key])
    assert back.uns["truth"]["masks"].dtype == bool
    assert back.uns["truth"]["decoder"]["activation"] == "leaky_relu"
    assert back.uns["truth"]["decoder"]["scale"] == adata.uns["truth"]["decoder"]["scale"]


def test_registration_needs_controls() -> None:
    adata = small()
    pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    assert pb.model.SAMSVAE(adata, n_latent=4).perturbations == list(adata.uns["truth"]["names"])
    with pytest.raises(ControlError):
        pb.model.SAMSVAE.setup_anndata(small(n_controls=0), layer="counts", perturbation_key="perturbation")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_perturbations": 0}, "n_perturbations: expected a whole number of at least 1, got 0. Pass"),
        ({"n_genes": 2.5}, "n_genes: expected a whole number of at least 1, got 2.5"),
        ({"n_latent": True}, "n_latent: expected a whole number of at least 1, got True"),
        ({"cells_per_perturbation": -1}, "cells_per_perturbation: expected a whole number"),
        ({"n_controls": -1}, "n_controls: expected a whole number of at least 0, got -1"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"n_hidden": 3}, "n_hidden: expected at least the 4 latents and at most the 20 genes, .* got 3. Change"),
        ({"n_hidden": 21}, "n_hidden: expected at least the 4 latents and at most the 20 genes, .* got 21. Change"),
        ({"effect_shape": "sign"}, "effect_shape: expected one of 'strong', 'normal', got 'sign'"),
        ({"normalize": "gene"}, "normalize: expected one of 'cell', 'gene_legacy', got 'gene'"),
        ({"effect_scale": 0.0}, "effect_scale: expected a positive finite number, got 0.0"),
        ({"effect_scale": "5"}, "effect_scale: expected a positive finite number, got '5'"),
        ({"effect_spread": np.nan}, "effect_spread: expected zero or a positive finite number, got nan"),
        ({"held_out_fraction": 1.0}, "held_out_fraction: expected a number from 0 to below 1, got 1.0"),
        ({"library_size": -1.0}, "library_size: expected a positive finite number, got -1.0"),
        ({"library_size": 1e9}, "library_size: expected at most 16,777,216, .* got 1000000000.0. Pass a smaller"),
        ({"n_targets": (0, 3)}, r"n_targets: expected two whole numbers from 1 up, fewest and most, got \(0, 3\)"),
        ({"n_targets": (3, 1)}, "n_targets: expected two whole numbers"),
        ({"n_targets": 2}, "n_targets: expected two whole numbers from 1 up, fewest and most, got 2. Pass"),
        ({"n_targets": (1.0, 3)}, "n_targets: expected two whole numbers"),
    ],
)
def test_bad_input(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(**changes)
