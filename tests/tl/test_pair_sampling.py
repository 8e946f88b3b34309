"""Pairs drawn from a coupling: as often as it says, and as the paired models of scvi-tools take them."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import chisquare

import perturbia as pb
from perturbia.errors import ModalityError

ROLES = ("source", "target")


@pytest.fixture(scope="module")
def aligned() -> mudata.MuData:
    """100 source and 56 target cells; those of P01 have no partner."""
    data = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2, prior_shift=4.0)
    data["target"].obs["perturbation"] = data["target"].obs["perturbation"].cat.rename_categories({"P01": "other"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pb.tl.align(data, use_rep="truth_log_ratio", epsilon=0.3)
    return data


def conditional(data, source="source", target="target") -> np.ndarray:
    at = [data.obs_names.get_indexer(data[role].obs_names) for role in ROLES]
    mass = data.obsp["coupling"].toarray().astype(np.float64)[np.ix_(*at)]
    mass = mass if (source, target) == ROLES else mass.T
    return np.divide(mass, mass.sum(1, keepdims=True), where=mass.sum(1, keepdims=True) > 0, out=np.zeros_like(mass))


@pytest.mark.parametrize("names", [ROLES, ROLES[::-1]])
def test_pairs_are_drawn_as_often_as_the_coupling_says(aligned, names):
    n_draws = 3000
    table = pb.tl.sample_pairs(aligned, source=names[0], n_draws=n_draws)
    rows = conditional(aligned, *names)
    matched = np.flatnonzero(rows.sum(1) > 0)
    assert table["source_index"].tolist() == np.repeat(matched, n_draws).tolist()
    counts = np.zeros(rows.shape)
    np.add.at(counts, (table["source_index"], table["target_index"]), 1)
    assert counts[rows == 0].sum() == 0
    p_values = []
    for cell in matched:
        likely = rows[cell] * n_draws >= 5
        seen = np.append(counts[cell][likely], counts[cell][~likely].sum())
        wanted = np.append(rows[cell][likely], rows[cell][~likely].sum()) * n_draws
        kept = wanted > 0
        if kept.sum() > 1:
            p_values.append(chisquare(seen[kept], wanted[kept] * seen.sum() / wanted.sum()).pvalue)
    assert len(p_values) > 20
    assert np.min(p_values) > 1e-4 / len(p_values)
    assert np.mean(np.array(p_values) < 0.1) < 0.3


def test_names_and_positions_agree(aligned):
    table = pb.tl.sample_pairs(aligned, n_draws=2)
    assert table.shape == (160, 4)
    assert table["source_index"].dtype == table["target_index"].dtype == np.int64
    for role in ROLES:
        assert (aligned[role].obs_names[table[f"{role}_index"]] == table[role]).all()
    labels = [aligned[role].obs["perturbation"].to_numpy()[table[f"{role}_index"]] for role in ROLES]
    assert (labels[0] == labels[1]).all()
    assert "P01" not in labels[0]


def test_a_seed_is_a_seed(aligned):
    first, same, other = (pb.tl.sample_pairs(aligned, n_draws=5, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, same)
    assert not first.equals(other)


def test_certain_matches_are_always_drawn():
    data = pb.datasets.simulate_modalities(n_cells=200, n_perturbations=4, n_latent=2)
    coupling = pb.tl.align(data, use_rep="truth_log_ratio", method="emd")
    table = pb.tl.sample_pairs(data, n_draws=3)
    twin = pd.Index(data["target"].obs["pair"]).get_indexer(data["source"].obs["pair"])
    assert (np.repeat(twin, 3) == table["target_index"]).all()
    assert coupling.shape == (1000, 1000)


def test_pairs_as_mudata(aligned):
    before = {role: aligned[role].copy() for role in ROLES}
    paired = pb.tl.sample_pairs(aligned, n_draws=2, as_mudata=True)
    table = pb.tl.sample_pairs(aligned, n_draws=2)
    assert list(paired.mod) == list(ROLES)
    assert paired.n_obs == paired["source"].n_obs == paired["target"].n_obs == 160
    for role in ROLES:
        assert paired[role].obs_names.equals(paired.obs_names)
        assert paired[role].obs["pb_source"].tolist() == table[role].tolist()
        np.testing.assert_array_equal(paired[role].X, aligned[role].X[table[f"{role}_index"]])
        # true pairs of the cells are still theirs
        np.testing.assert_array_equal(
            paired[role].obs["pair"], aligned[role].obs["pair"].to_numpy()[table[f"{role}_index"]]
        )
        assert aligned[role].obs.equals(before[role].obs)


def counts_of(aligned):
    rng = np.random.default_rng(0)
    cells = {}
    for role, name in zip(ROLES, ("rna", "protein"), strict=True):
        one = aligned[role].copy()
        one.X = sp.csr_matrix(rng.poisson(3, one.shape).astype(np.float32))
        cells[name] = one
    data = mudata.MuData(cells)
    data.obsp["coupling"] = aligned.obsp["coupling"]
    data.uns["coupling"] = {**aligned.uns["coupling"], "source": "rna", "target": "protein"}
    return data


def test_paired_models_of_scvi_tools_take_them(aligned):
    import scvi

    paired = pb.tl.sample_pairs(counts_of(aligned), as_mudata=True)
    paired["protein"].X = paired["protein"].X.toarray()
    quiet = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    scvi.model.TOTALVI.setup_mudata(paired, modalities={"rna_layer": "rna", "protein_layer": "protein"})
    model = scvi.model.TOTALVI(paired, n_latent=2, empirical_protein_background_prior=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(**quiet)
    assert model.get_latent_representation().shape == (80, 2)
    scvi.model.MULTIVI.setup_mudata(paired, modalities={"rna_layer": "rna", "atac_layer": "protein"})
    scvi.model.MULTIVI(paired, n_latent=2)


def test_as_the_multiome_of_scvi_tools(aligned):
    import scvi

    paired = pb.tl.sample_pairs(counts_of(aligned), as_mudata=True)
    both = ad.concat([paired["rna"], paired["protein"]], axis=1)
    organized = scvi.data.organize_multiome_anndatas(both, counts_of(aligned)["rna"].copy())
    assert organized.n_obs == 80 + 100
    assert organized.obs["modality"].value_counts().to_dict() == {"paired": 80, "expression": 100}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_draws": 0}, ValueError, "n_draws: expected a positive"),
        ({"n_draws": 1.5}, ValueError, "n_draws: expected a positive"),
        ({"coupling": "psa"}, KeyError, "coupling: expected the key"),
        ({"source": "rna"}, ModalityError, "source, target: expected"),
    ],
)
def test_bad_input(aligned, options, error, message):
    with pytest.raises(error, match=message):
        pb.tl.sample_pairs(aligned, **options)


def test_no_mudata_at_all(aligned):
    with pytest.raises(TypeError, match="expected MuData, got AnnData"):
        pb.tl.sample_pairs(aligned["source"])
