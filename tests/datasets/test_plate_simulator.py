from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import perturbia as pb


def test_layout():
    wells = pb.datasets.simulate_plates(
        n_complexes=3,
        genes_per_complex=4,
        n_single_genes=5,
        n_guides=2,
        doses=(0.1, 1.0),
        n_plates=4,
        n_replicates=3,
        n_controls=6,
    )
    obs, treated = wells.obs, wells.obs[wells.obs["perturbation"] != "control"]
    assert wells.n_obs == 17 * 2 * 2 * 3 + 4 * 6
    assert treated.groupby(["guide", "dose"], observed=True)["plate"].nunique().eq(3).all()
    assert (obs[obs["perturbation"] == "control"].groupby("plate", observed=True).size() == 6).all()
    sizes = obs.groupby("plate", observed=True).size()
    assert sizes.max() - sizes.min() <= 1
    assert (obs.loc[obs["perturbation"] == "control", "dose"] == 0).all()
    assert obs["complex"].cat.categories.tolist() == ["C01", "C02", "C03", "control", "none"]
    assert wells.obs_names.is_unique
    pairs = wells.uns["truth"]["relationships"]
    assert len(pairs) == 3 * 6
    complexes = dict(zip(wells.uns["truth"]["genes"], wells.uns["truth"]["complexes"], strict=True))
    assert all(complexes[a] == complexes[b] != "none" for a, b in pairs.to_numpy())


def test_without_noise_wells_are_their_effects():
    wells = pb.datasets.simulate_plates(
        nuisance_scale=0.0, plate_offset=0.0, plate_scale=0.0, guide_spread=0.0, feature_noise=0.0, effect_scale=1000.0
    )
    truth = wells.uns["truth"]
    at = {gene: i for i, gene in enumerate(truth["genes"])}
    treated = (wells.obs["perturbation"] != "control").to_numpy()
    expected = truth["effects"][[at[gene] for gene in wells.obs["perturbation"][treated]]]
    np.testing.assert_allclose(wells.layers["truth_mean"][treated], expected, rtol=1e-5, atol=1e-3)
    assert np.abs(wells.layers["truth_mean"][~treated]).max() == 0
    residual = wells.X[treated] - expected
    assert residual.std() == pytest.approx(1.0, abs=0.05)  # of eta, through loadings of unit norm


def test_genes_of_a_complex_act_alike():
    truth = pb.datasets.simulate_plates(
        n_complexes=40, genes_per_complex=3, n_single_genes=0, likeness=0.7, n_features=400
    ).uns["truth"]
    unit = truth["effects"] / np.linalg.norm(truth["effects"], axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = truth["complexes"][:, None] == truth["complexes"][None]
    np.fill_diagonal(same, val=False)
    other = ~same & ~np.eye(len(unit), dtype=bool)
    assert cosine[same].mean() == pytest.approx(0.7, abs=0.06)
    assert abs(cosine[other].mean()) < 0.03


def test_plates_offset_and_scale_controls():
    wells = pb.datasets.simulate_plates(
        n_controls=400, n_plates=3, n_complexes=1, n_single_genes=0, plate_offset=3.0, plate_scale=0.5
    )
    truth, control = wells.uns["truth"], (wells.obs["perturbation"] == "control").to_numpy()
    plates = wells.obs["plate"].cat.codes.to_numpy()
    means = np.array([wells.X[control & (plates == i)].mean(axis=0) for i in range(3)])
    spread = np.array([wells.X[control & (plates == i)].std(axis=0) for i in range(3)])
    assert np.abs(means - truth["plate_offset"]).mean() < 0.15
    ratio = np.log(spread[0] / spread[1])
    assert np.corrcoef(ratio, np.log(truth["plate_scale"][0] / truth["plate_scale"][1]))[0, 1] > 0.98


def test_dose_gives_its_share():
    wells = pb.datasets.simulate_plates(doses=(0.25, 1.0, 4.0), guide_spread=0.0)
    gene = wells.obs["perturbation"] == "G001"
    norm = {
        dose: np.linalg.norm(wells.layers["truth_mean"][(gene & (wells.obs["dose"] == dose)).to_numpy()][0])
        for dose in (0.25, 1.0, 4.0)
    }
    assert norm[0.25] / norm[1.0] == pytest.approx(0.4, rel=1e-4)
    assert norm[4.0] / norm[1.0] == pytest.approx(1.6, rel=1e-4)


def test_features_are_correlated_and_overlap_lies_in_nuisances():
    for overlap in (0.0, 1.0):
        truth = pb.datasets.simulate_plates(overlap=overlap, n_features=200).uns["truth"]
        basis = np.linalg.qr(truth["nuisances"].T)[0]
        inside = np.linalg.norm(truth["effects"] @ basis, axis=1) / np.linalg.norm(truth["effects"], axis=1)
        assert (inside > 0.999).all() if overlap else inside.mean() < 0.75  # loadings are not quite orthogonal
    wells = pb.datasets.simulate_plates(n_controls=100, plate_offset=0.0, plate_scale=0.0)
    controls = wells.X[(wells.obs["perturbation"] == "control").to_numpy()]
    values = np.linalg.eigvalsh(np.cov(controls.T))[::-1]
    assert values[:40].sum() / values.sum() > 0.9


def test_seeds():
    first, again, other = (pb.datasets.simulate_plates(seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.X, again.X)
    assert not np.array_equal(first.X, other.X)


def test_it_survives_a_file(tmp_path):
    wells = pb.datasets.simulate_plates(n_complexes=2, n_single_genes=1, n_plates=2)
    wells.write_h5ad(tmp_path / "wells.h5ad")
    assert len(ad.read_h5ad(tmp_path / "wells.h5ad").uns["truth"]["relationships"]) == 12


@pytest.mark.parametrize(("options", "message"), [
    ({"n_plates": 0}, "n_plates: expected a whole number"),
    ({"n_replicates": 9}, "n_replicates: expected at most one well a plate, 8, got 9"),
    ({"n_complexes": 0, "n_single_genes": 0}, "expected a gene at least"),
    ({"doses": ()}, "doses: expected distinct doses"),
    ({"doses": (1.0, 1.0)}, "doses: expected distinct doses"),
    ({"doses": (0.0,)}, "doses: expected a positive"),
    ({"doses": 1.0}, r"doses: expected distinct doses in a sequence, got 1.0. Pass \(1.0,\)"),
    ({"doses": "high"}, "doses: expected distinct doses in a sequence"),
    ({"doses": [[1.0]]}, "doses: expected a positive"),
    ({"n_nuisances": 40}, "n_nuisances: expected fewer than n_factors=40 with overlap=0.3"),
    ({"n_factors": 1, "n_nuisances": 1, "n_effects": 2, "n_features": 3}, "n_nuisances: expected fewer than n_factors=1"),
    ({"likeness": 1.2}, "likeness"),
    ({"overlap": -0.1}, "overlap"),
    ({"n_factors": 121}, "n_factors: expected at most n_features=120, got 121"),
    ({"n_nuisances": 41}, "n_nuisances: expected at most n_factors=40"),
    ({"effect_scale": -1}, "effect_scale"),
    ({"seed": -1}, "seed"),
])  # fmt: skip
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        pb.datasets.simulate_plates(**options)


@pytest.mark.parametrize(
    ("n_replicates", "n_plates"), [(1, 1), (1, 3), (2, 3), (3, 3), (1, 8), (2, 8), (3, 8), (8, 8), (3, 10), (8, 10)]
)
@pytest.mark.parametrize("n_conditions", [1, 2, 5, 7, 13, 40])
def test_plates_hold_equal_numbers_of_wells_up_to_one(n_conditions, n_replicates, n_plates):
    wells = pb.datasets.simulate_plates(
        n_complexes=0,
        n_single_genes=n_conditions,
        n_guides=1,
        n_replicates=n_replicates,
        n_plates=n_plates,
        n_controls=1,
        n_features=40,
    )
    sizes = wells.obs["plate"].value_counts()
    assert (len(sizes), sizes.sum() - n_plates) == (n_plates, n_conditions * n_replicates)
    assert sizes.max() - sizes.min() <= 1
    treated = wells.obs[wells.obs["perturbation"] != "control"]
    assert treated.groupby("guide", observed=True)["plate"].nunique().eq(n_replicates).all()


@pytest.mark.parametrize("options", [
    {"n_factors": 1, "n_nuisances": 1, "n_effects": 2, "n_features": 3, "overlap": 1.0},
    {"n_nuisances": 40, "overlap": 1},
    {"n_effects": 1, "likeness": 0.5},  # effects of genes and of their complex may cancel
    {"n_factors": 2, "n_nuisances": 1, "n_effects": 2, "n_features": 3, "overlap": 0.0},
])  # fmt: skip
def test_few_factors_give_numbers(options):
    wells = pb.datasets.simulate_plates(n_complexes=3, n_single_genes=2, **options)
    assert np.isfinite(wells.X).all()
    assert (np.linalg.norm(wells.uns["truth"]["effects"], axis=1) > 0).all()


def test_published_draws_stay_as_they_are():
    wells = pb.datasets.simulate_plates()
    assert wells.obs["plate"].value_counts().eq(72).all()
    np.testing.assert_allclose(wells.X[[0, 100, -1], [0, 50, -1]], [0.535594, 1.748181, 1.932420], rtol=1e-5)
