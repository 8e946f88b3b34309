from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.datasets import simulate_comparative

SMALL = {
    "n_background": 30,
    "n_target": 50,
    "n_genes": 20,
    "n_shared": 3,
    "n_salient": 2,
    "n_perturbations": 4,
    "n_hidden": 8,
}
LARGE = {"n_background": 4000, "n_target": 8000}


def small(**changes: object) -> ad.AnnData:
    return simulate_comparative(**{**SMALL, **changes})


def outputs(adata: ad.AnnData, latent: np.ndarray | None = None) -> np.ndarray:
    """What the stored mixing makes of latents, those of the cells by default."""
    decoder = adata.uns["truth"]["decoder"]
    hidden = adata.obsm["truth_latent"].astype(float) if latent is None else latent
    n_layers = sum(key.startswith("layer_") for key in decoder)
    for i in range(1, n_layers):
        hidden = hidden @ decoder[f"layer_{i}"]
        hidden = np.tanh(hidden) if decoder["activation"] == "tanh" else np.where(hidden > 0, hidden, 0.2 * hidden)
    return hidden @ decoder[f"layer_{n_layers}"] / decoder["scale"]


def is_target(adata: ad.AnnData) -> np.ndarray:
    return (adata.obs["group"] == "target").to_numpy()


@pytest.mark.parametrize("gene_likelihood", ["nb", "poisson", "normal"])
def test_contents(gene_likelihood: str) -> None:
    adata = small(gene_likelihood=gene_likelihood)
    assert adata.shape == (80, 20)
    assert adata.X.dtype == np.float32
    if gene_likelihood == "normal":
        assert isinstance(adata.X, np.ndarray)
        assert "counts" not in adata.layers
    else:
        assert isinstance(adata.X, sparse.csr_matrix)
        assert (np.round(adata.X.data) == adata.X.data).all()
        np.testing.assert_array_equal(adata.layers["counts"].toarray(), adata.X.toarray())
        assert adata.layers["counts"] is not adata.X
    assert list(adata.obs["group"].cat.categories) == ["background", "target"]
    np.testing.assert_array_equal(adata.obs["perturbation"] == "control", adata.obs["group"] == "background")
    sizes = adata.obs["perturbation"].value_counts()
    assert sizes.pop("control") == 30
    assert set(sizes.index) == set(adata.uns["truth"]["names"]) == {"P01", "P02", "P03", "P04"}
    assert set(sizes) == {12, 13}
    assert [adata.obsm[f"truth_{key}"].shape[1] for key in ("shared", "salient", "latent")] == [3, 2, 5]
    np.testing.assert_array_equal(
        adata.obsm["truth_latent"], np.hstack([adata.obsm["truth_shared"], adata.obsm["truth_salient"]])
    )


def test_salient_latents_are_zero_in_the_background_alone() -> None:
    adata = small(dependence=0.5)
    assert (adata.obsm["truth_salient"][~is_target(adata)] == 0).all()
    assert (adata.obsm["truth_salient"][is_target(adata)] != 0).all()


def test_salient_latents_are_normal_around_the_effects() -> None:
    adata = small(**LARGE, n_perturbations=40, salient_scale=0.7)
    truth, target = adata.uns["truth"], is_target(adata)
    frame = pd.DataFrame(adata.obsm["truth_salient"][target], index=adata.obs["perturbation"][target].astype(str))
    groups = frame.groupby(level=0)
    z = (groups.mean().loc[truth["names"]] - truth["effects"]).to_numpy() / 0.7 * 200**0.5
    assert abs((z**2).mean() - 1) < 5 * (2 / z.size) ** 0.5
    assert np.abs(z).max() < 4.5
    assert abs(groups.std().to_numpy().mean() - 0.7) < 0.02
    wide = small(n_perturbations=50, n_salient=4, effect_scale=3.0).uns["truth"]["effects"]
    assert abs(wide.std() - 3) < 0.5


@pytest.mark.parametrize("shifted", [False, True])
def test_shared_latents_of_both_populations(*, shifted: bool) -> None:
    adata = small(**LARGE, n_shared=5, shifted_target=shifted)
    shared, target = adata.obsm["truth_shared"], is_target(adata)
    np.testing.assert_allclose(shared[~target].mean(0), 0, atol=5 / 4000**0.5)
    np.testing.assert_allclose(shared[~target].std(0), 1, atol=0.05)
    offset, scale = ([1.5, -1, 0, 0, 0], [0.5, 1, 0.5, 1, 1]) if shifted else (0, 1)
    np.testing.assert_allclose(shared[target].mean(0), offset, atol=5 / 8000**0.5)
    np.testing.assert_allclose(shared[target].std(0), np.broadcast_to(scale, 5), atol=0.04)
    np.testing.assert_array_equal(adata.uns["truth"]["shared_offset"], np.broadcast_to(offset, 5))
    np.testing.assert_array_equal(adata.uns["truth"]["shared_scale"], np.broadcast_to(scale, 5))
    assert small(n_shared=1, shifted_target=shifted).uns["truth"]["shared_scale"].shape == (1,)


def test_dependence_of_salient_on_shared_latents() -> None:
    free = small(**LARGE)
    bound = small(**LARGE, dependence=0.6, effect_scale=1.0)
    for adata, expected in ((free, 0.0), (bound, 0.6)):
        target = is_target(adata)
        z, s = adata.obsm["truth_shared"][target], adata.obsm["truth_salient"][target]
        slopes = np.linalg.lstsq(np.column_stack([z, np.ones(len(z))]), s, rcond=None)[0][:-1]
        np.testing.assert_allclose(slopes, adata.uns["truth"]["shared_to_salient"], atol=0.06)
        np.testing.assert_allclose(np.linalg.norm(adata.uns["truth"]["shared_to_salient"], axis=0), expected, atol=1e-5)
    target = is_target(bound)
    rest = bound.obsm["truth_salient"] - bound.obsm["truth_shared"] @ bound.uns["truth"]["shared_to_salient"]
    frame = pd.DataFrame(rest[target], index=bound.obs["perturbation"][target].astype(str)).groupby(level=0)
    np.testing.assert_allclose(frame.mean(), bound.uns["truth"]["effects"], atol=0.05)
    np.testing.assert_allclose(frame.std(), 0.8 * 0.5, atol=0.03)


@pytest.mark.parametrize("mixing", ["piecewise_affine", "smooth"])
@pytest.mark.parametrize("gene_likelihood", ["nb", "poisson", "normal"])
def test_means_follow_from_the_stored_mixing(mixing: str, gene_likelihood: str) -> None:
    """One function for both populations."""
    adata = small(mixing=mixing, gene_likelihood=gene_likelihood, library_size=900.0)
    output = outputs(adata)
    np.testing.assert_allclose(output.std(0), 1, atol=1e-3)
    weight = np.exp(output)
    expected = output if gene_likelihood == "normal" else 900 * weight / weight.sum(1, keepdims=True)
    np.testing.assert_allclose(adata.layers["truth_mean"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("mixing", "least", "most"), [("piecewise_affine", 0.0, 0.02), ("smooth", 0.95, 1.0)])
def test_where_the_mixing_bends(mixing: str, least: float, most: float) -> None:
    """Along a line, a piece-wise affine function turns at kinks only and a smooth one everywhere."""
    adata = small(mixing=mixing)
    rng = np.random.default_rng(0)
    start, direction = rng.normal(size=(2, 5))
    line = outputs(adata, start + np.linspace(-2, 2, 4001)[:, None] * direction)
    turn = np.abs(np.diff(line, n=2, axis=0)).max(1) > 1e-10 * np.abs(line).max()
    assert turn.any()
    assert least <= turn.mean() <= most


@pytest.mark.parametrize(
    ("gene_likelihood", "concentration", "dispersion"), [("nb", 5.0, 0.2), ("nb", 1.0, 1.0), ("poisson", 5.0, 0.0)]
)
def test_variance_of_counts(gene_likelihood: str, concentration: float, dispersion: float) -> None:
    adata = small(**LARGE, gene_likelihood=gene_likelihood, concentration=concentration)
    mean = adata.layers["truth_mean"].astype(float)
    np.testing.assert_allclose(mean.sum(1), 600, rtol=1e-4)
    counts = adata.X.toarray().astype(float)
    assert abs(counts.sum(1).mean() / 600 - 1) < 0.02
    measured = ((counts - mean) ** 2 - mean).sum() / (mean**2).sum()
    assert abs(measured - dispersion) < 0.01 + 0.1 * dispersion


def test_gaussian_noise() -> None:
    adata = small(**LARGE, gene_likelihood="normal", noise_scale=0.5)
    noise = adata.X - adata.layers["truth_mean"]
    np.testing.assert_allclose(noise.std(0), 0.5, atol=0.02)
    # of genes with unit variance: a fifth of the whole
    np.testing.assert_allclose(noise.var(0) / adata.X.var(0), 0.2, atol=0.02)
    silent = small(gene_likelihood="normal", noise_scale=0.0)
    np.testing.assert_array_equal(silent.X, silent.layers["truth_mean"])


def test_imbalance() -> None:
    sizes = small(n_background=300, n_target=6000).obs["group"].value_counts()
    assert sizes.to_dict() == {"target": 6000, "background": 300}


def test_seeds() -> None:
    one, same, other = small(seed=3), small(seed=3), small(seed=4)
    np.testing.assert_array_equal(one.X.toarray(), same.X.toarray())
    np.testing.assert_array_equal(one.obsm["truth_latent"], same.obsm["truth_latent"])
    assert not np.array_equal(one.X.toarray(), other.X.toarray())


@pytest.mark.parametrize("gene_likelihood", ["nb", "normal"])
def test_files(gene_likelihood: str, tmp_path) -> None:
    adata = small(gene_likelihood=gene_likelihood, shifted_target=True)
    adata.write_h5ad(tmp_path / "screen.h5ad")
    back = ad.read_h5ad(tmp_path / "screen.h5ad")
    np.testing.assert_array_equal(back.to_df(), adata.to_df())
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    np.testing.assert_allclose(outputs(back), outputs(adata))
    for key in ("names", "effects", "shared_scale", "shared_offset", "shared_to_salient"):
        np.testing.assert_array_equal(back.uns["truth"][key], adata.uns["truth"][key])


@pytest.mark.parametrize(
    ("gene_likelihood", "scale"), [("nb", "counts"), ("poisson", "counts"), ("normal", "embedding")]
)
def test_registration(gene_likelihood: str, scale: str) -> None:
    adata = small(gene_likelihood=gene_likelihood)
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", scale=scale)
    model = pb.model.SAMSVAE(adata, n_latent=3, gene_likelihood=gene_likelihood)
    assert model.perturbations == list(adata.uns["truth"]["names"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_background": 0}, "n_background: expected a whole number of at least 1, got 0. Pass"),
        ({"n_target": 10.0}, "n_target: expected a whole number of at least 1, got 10.0"),
        ({"n_salient": 0}, "n_salient: expected a whole number of at least 1, got 0"),
        ({"n_layers": -1}, "n_layers: expected a whole number of at least 1, got -1"),
        ({"seed": 0.5}, "seed: expected a whole number of at least 0, got 0.5"),
        ({"n_hidden": 4}, "n_hidden: expected at least the 5 latents and at most the 20 genes, .* got 4. Change"),
        (
            {"n_perturbations": 51},
            "n_perturbations: expected at most one for each of the 50 target cells, got 51. Pass",
        ),
        ({"mixing": "linear"}, "mixing: expected one of 'piecewise_affine', 'smooth', got 'linear'"),
        ({"gene_likelihood": "zinb"}, "gene_likelihood: expected one of 'nb', 'poisson', 'normal', got 'zinb'"),
        ({"salient_scale": -1.0}, "salient_scale: expected zero or a positive finite number, got -1.0"),
        ({"noise_scale": np.nan}, "noise_scale: expected zero or a positive finite number, got nan"),
        ({"concentration": 0.0}, "concentration: expected a positive finite number, got 0.0"),
        ({"library_size": np.inf}, "library_size: expected a positive finite number, got inf"),
        ({"dependence": 1.0}, "dependence: expected a number from 0 to below 1, got 1.0"),
    ],
)
def test_bad_input(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(**changes)
