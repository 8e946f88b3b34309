from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import ControlError, FeatureMismatch, LabelError, UnsupportedQuery
from perturbia.metrics import latent_mcc


@pytest.fixture
def turned():
    """Truth under a random rotation, about a far origin."""
    adata = pb.datasets.simulate_screen(
        n_perturbations=30, n_combinations=10, n_genes=20, n_latent=5, cells_per_perturbation=60, mask_prob=0.25, seed=1
    )
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    adata.obsm["X_z"] = (adata.obsm["truth_latent"] + rng.normal(0, 0.2, adata.obsm["truth_latent"].shape)) @ turn + 7
    return adata


def test_axes_are_found(turned) -> None:
    pb.tl.sparse_rotation(turned, use_rep="X_z")
    assert latent_mcc(turned.obsm["truth_latent"], turned.obsm["X_z"]) < 0.8
    assert latent_mcc(turned.obsm["truth_latent"], turned.obsm["X_z_rotated"]) > 0.95
    found = turned.uns["X_z_rotated"]
    np.testing.assert_allclose(found["rotation"].T @ found["rotation"], np.eye(5), atol=1e-8)
    np.testing.assert_allclose(
        turned.obsm["X_z_rotated"], (turned.obsm["X_z"] - found["origin"]) @ found["rotation"], atol=1e-4
    )
    # effects are those of the rotated cells: combinations are sums of their members
    controls = (turned.obs["perturbation"] == "control").to_numpy()
    np.testing.assert_allclose(turned.obsm["X_z_rotated"][controls].mean(0), 0, atol=1e-5)
    name = found["names"][3]
    own = (turned.obs["perturbation"] == name).to_numpy()
    np.testing.assert_allclose(turned.obsm["X_z_rotated"][own].mean(0), found["effects"][3], atol=0.4)


def test_least_squares_is_exact_without_noise(turned) -> None:
    """Effects of cells without spread are the true ones, whatever combinations there are."""
    truth = turned.uns["truth"]
    labels = turned.obs["perturbation"].astype(str).to_numpy()
    effects = dict(zip(truth["names"], np.asarray(truth["effects"]), strict=True))
    zero = np.zeros(5)
    mean = [sum((effects[n] for n in label.split("+")), zero) if label != "control" else zero for label in labels]
    turned.obsm["X_z"] = np.array(mean)
    pb.tl.sparse_rotation(turned, use_rep="X_z")
    found = turned.uns["X_z_rotated"]
    true = np.array([effects[name] for name in found["names"]])
    np.testing.assert_allclose(found["effects"], true @ found["rotation"], atol=1e-8)


def test_without_controls_the_origin_is_found(turned) -> None:
    single = turned[~turned.obs["perturbation"].astype(str).str.contains("control|\\+")].copy()
    pb.tl.sparse_rotation(single, use_rep="X_z", control=None)
    assert latent_mcc(single.obsm["truth_latent"], single.obsm["X_z_rotated"]) > 0.9
    # most perturbations leave a latent where it is
    effects = single.uns["X_z_rotated"]["effects"]
    np.testing.assert_allclose(np.median(effects, axis=0), 0, atol=1e-8)


def test_only_chosen_cells_teach(turned) -> None:
    chosen = np.arange(turned.n_obs) % 2 == 0
    spoilt = turned.copy()
    spoilt.obsm["X_z"][~chosen] += 100
    for data in (turned, spoilt):
        pb.tl.sparse_rotation(data, use_rep="X_z", cells=chosen, key_added="X_half")
    np.testing.assert_array_equal(turned.uns["X_half"]["rotation"], spoilt.uns["X_half"]["rotation"])
    np.testing.assert_array_equal(turned.obsm["X_half"][chosen], spoilt.obsm["X_half"][chosen])


def test_copies_and_files(turned, tmp_path) -> None:
    before = set(turned.obsm)
    copied = pb.tl.sparse_rotation(turned, use_rep="X_z", copy=True)
    assert set(turned.obsm) == before
    copied.write_h5ad(tmp_path / "x.h5ad")
    import anndata as ad

    again = ad.read_h5ad(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(again.uns["X_z_rotated"]["rotation"], copied.uns["X_z_rotated"]["rotation"])


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda a: a, {"use_rep": "nothing"}, FeatureMismatch, "use_rep: expected a key"),
        (lambda a: a, {"use_rep": "X"}, FeatureMismatch, "use_rep: expected a key of adata.obsm with dense"),
        (
            lambda a: a.obsm.__setitem__("X_z", sparse.csr_matrix(a.obsm["X_z"])),
            {"use_rep": "X_z"},
            FeatureMismatch,
            "dense coordinates",
        ),
        (lambda a: a.obsm["X_z"].__setitem__((0, 0), np.nan), {"use_rep": "X_z"}, FeatureMismatch, "finite .* got 1"),
        (lambda a: a, {"use_rep": "X_z", "perturbation_key": "guide"}, LabelError, "perturbation_key"),
        (lambda a: a, {"use_rep": "X_z", "perturbation_key": "guide", "control": None}, LabelError, "perturbation_key"),
        (lambda a: a, {"use_rep": "X_z", "control": "nobody"}, ControlError, "control"),
        (lambda a: a, {"use_rep": "X_z", "control": None}, UnsupportedQuery, "control: expected the label"),
    ],
)
def test_bad_input(turned, change, options, error, match) -> None:
    change(turned)
    keys = set(turned.obsm), set(turned.uns)
    with pytest.raises(error, match=match):
        pb.tl.sparse_rotation(turned, **options)
    assert (set(turned.obsm), set(turned.uns)) == keys
