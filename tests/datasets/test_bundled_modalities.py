"""Paired data in the package: what is in them is known, so it is compared with the facts, not with itself."""

from __future__ import annotations

import hashlib
import warnings
from importlib import resources

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb

DATA = resources.files("perturbia.datasets") / "data"
# name: modalities with their features, cells
FACTS = {
    "pbmc_citeseq": ({"rna": 9609, "protein": 14}, 400),
    "scgem": ({"expression": 34, "methylation": 27}, 177),
}
LICENCES = {"pbmc_citeseq": "BSD-3-Clause", "scgem": "MIT"}
CELL_TYPES = {
    "naive CD4 T": 86,
    "memory CD4 T": 72,
    "naive CD8 T": 21,
    "memory CD8 T": 26,
    "B": 29,
    "NK": 36,
    "CD14 monocytes": 111,
    "CD16 monocytes": 7,
    "dendritic": 12,
}


@pytest.fixture(scope="module", params=FACTS)
def paired(request):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return request.param, getattr(pb.datasets, request.param)()


@pytest.fixture(scope="module")
def pbmc():
    """Both modalities in the same order: log1p of counts per 10,000, and centred log-ratios."""
    mdata = pb.datasets.pbmc_citeseq()
    counts = mdata["rna"].to_df()
    rna = np.log1p(counts.mul(1e4 / counts.sum(axis=1), axis=0)).set_axis(mdata["rna"].obs["pair"])
    protein = np.log1p(mdata["protein"].to_df()).set_axis(mdata["protein"].obs["pair"])
    protein = protein.sub(protein.mean(axis=1), axis=0).rename(columns=lambda name: name.split("_")[0])
    return rna, protein.loc[rna.index], mdata["rna"].obs.set_index("pair")["cell_type"]


def test_modalities_are_apart_but_for_their_pairs(paired):
    name, mdata = paired
    features, n_cells = FACTS[name]
    assert {key: adata.n_vars for key, adata in mdata.mod.items()} == features
    assert mdata.shape == (2 * n_cells, sum(features.values()))
    first, second = mdata.mod.values()
    assert mdata.obs_names.is_unique
    assert mdata.var_names.is_unique
    for key, adata in mdata.mod.items():
        assert adata.n_obs == n_cells
        assert adata.obs["pair"].is_unique
        assert (adata.obs_names == f"{key}:" + adata.obs["pair"]).all()
    assert set(first.obs["pair"]) == set(second.obs["pair"])


def test_order_tells_nothing_of_pairs(paired):
    _, mdata = paired
    first, second = mdata.mod.values()
    assert (first.obs["pair"].to_numpy() == second.obs["pair"].to_numpy()).mean() < 0.02
    sorted_by_type = np.diff(second.obs["cell_type"].cat.codes) == 0
    assert sorted_by_type.mean() < 0.4


def test_twins_share_their_labels(paired):
    _, mdata = paired
    first, second = (adata.obs.set_index("pair") for adata in mdata.mod.values())
    pd.testing.assert_frame_equal(first, second.loc[first.index])
    assert not first.isna().any(axis=None)


def test_every_call_gives_the_same_in_a_new_object(paired):
    name, first = paired
    before = hashlib.sha256((DATA / f"{name}.h5ad").read_bytes()).hexdigest()
    changed = getattr(pb.datasets, name)()
    for adata in changed.mod.values():
        adata.obs["pair"] = "changed"
        stored = adata.X.data if sp.issparse(adata.X) else adata.X
        stored[:] = -1
    third = getattr(pb.datasets, name)()
    for key, adata in first.mod.items():
        pd.testing.assert_frame_equal(adata.obs, third[key].obs)
        pd.testing.assert_frame_equal(adata.to_df(), third[key].to_df())
    assert hashlib.sha256((DATA / f"{name}.h5ad").read_bytes()).hexdigest() == before


def test_options_of_mudata_stay():
    with mudata.set_options(display_style="text") as options:
        before = dict(options)
        pb.datasets.scgem()
        assert dict(options) == before


def test_h5mu_round_trip(paired, tmp_path):
    _, mdata = paired
    with mudata.set_options(pull_on_update=False):
        mdata.write_h5mu(tmp_path / "paired.h5mu")
        back = mudata.read_h5mu(tmp_path / "paired.h5mu")
    for key, adata in mdata.mod.items():
        pd.testing.assert_frame_equal(back[key].to_df(), adata.to_df())
        assert (back[key].obs["pair"] == adata.obs["pair"]).all()
        assert back[key].obs["cell_type"].dtype == adata.obs["cell_type"].dtype


def test_note_states_source_and_licence(paired):
    name, _ = paired
    note = (DATA / f"{name}.md").read_text(encoding="utf-8")
    docstring = getattr(pb.datasets, name).__doc__
    assert f"repository: {LICENCES[name]}" in note
    assert "Copyright (c)" in note
    assert "AS IS" in note
    assert LICENCES[name] in docstring


def test_pbmc_counts_are_raw():
    mdata = pb.datasets.pbmc_citeseq()
    for adata in mdata.mod.values():
        counts = adata.layers["counts"]
        assert isinstance(counts, sp.csr_matrix)
        assert counts.dtype == adata.X.dtype == np.float32
        assert (counts.data > 0).all()
        np.testing.assert_array_equal(counts.data, np.round(counts.data))
        assert counts.sum(1).min() > 0
        assert not np.shares_memory(counts.data, adata.X.data)
        assert (counts != adata.X).nnz == 0
    assert (mdata["rna"].X > 0).sum(0).min() >= 10
    # depth of a file that a wrong assignment of barcodes would not have
    assert mdata["protein"].layers["counts"].max() == 10279


def test_pbmc_types_and_batches():
    obs = pb.datasets.pbmc_citeseq()["rna"].obs
    assert obs["cell_type"].value_counts().to_dict() == CELL_TYPES
    assert list(obs["cell_type"].cat.categories) == list(CELL_TYPES)
    assert obs["batch"].value_counts().to_dict() == {"pbmc_5k": 200, "pbmc_10k": 200}
    assert (obs["pair"].str.split(":").str[0] == obs["batch"].astype(str)).all()


@pytest.mark.parametrize(
    ("protein", "gene", "high", "low"),
    [
        ("CD3", "CD3D", ["naive CD4 T", "memory CD4 T", "naive CD8 T", "memory CD8 T"], ["B", "NK", "CD14 monocytes"]),
        ("CD8a", "CD8A", ["naive CD8 T", "memory CD8 T"], ["naive CD4 T", "memory CD4 T", "B", "NK"]),
        ("CD19", "MS4A1", ["B"], ["naive CD4 T", "NK", "CD14 monocytes", "dendritic"]),
        ("CD14", "S100A8", ["CD14 monocytes"], ["CD16 monocytes", "dendritic", "B", "NK"]),
        ("CD16", "FCGR3A", ["NK", "CD16 monocytes"], ["CD14 monocytes", "dendritic", "B", "memory CD4 T"]),
        ("CD45RO", "S100A4", ["memory CD4 T"], ["naive CD4 T"]),
        ("CD45RA", "LEF1", ["naive CD8 T"], ["memory CD8 T"]),
    ],
)
def test_pbmc_types_agree_with_markers_of_both_modalities(pbmc, protein, gene, high, low):
    """Every cell type above is ahead of every type below, in a protein and in a gene that were not one measurement."""
    rna, surface, cell_type = pbmc
    for values in (surface[protein], rna[gene]):
        mean = values.groupby(cell_type, observed=True).mean()
        assert mean[high].min() > mean[low].max() + 0.5


def test_pbmc_types_are_known_to_either_modality_alone(pbmc):
    """Linear discriminants; the most frequent type alone would be right for 28 %."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import cross_val_score

    rna, surface, cell_type = pbmc
    markers = [
        "CD3D",
        "CD4",
        "CD8A",
        "CD8B",
        "CCR7",
        "LEF1",
        "S100A4",
        "CCL5",
        "GZMK",
        "NKG7",
        "GNLY",
        "MS4A1",
        "CD79A",
        "LYZ",
        "S100A8",
        "FCGR3A",
        "CST3",
        "FCER1A",
    ]
    for features, least in ((surface, 0.9), (rna[markers], 0.85)):
        model = LinearDiscriminantAnalysis(priors=np.full(9, 1 / 9))
        accuracy = cross_val_score(model, features, cell_type.astype(str), cv=7).mean()
        assert accuracy > least


def test_scgem_types_follow_reprogramming():
    mdata = pb.datasets.scgem()
    types = mdata["expression"].obs["cell_type"]
    assert list(types.cat.categories) == ["BJ", "d8", "d16T+", "d24T+", "iPS"]
    assert types.value_counts(sort=False).tolist() == [35, 40, 32, 36, 34]
    mean = mdata["expression"].to_df().groupby(types, observed=True).mean()
    for gene, sign in (("LUM", -1), ("TBX3", -1), ("PRDM14", 1), ("CDH1", 1), ("ZFP42", 1)):
        assert sign * (mean.loc["iPS", gene] - mean.loc["BJ", gene]) > 10
    # mean sizes as they can be read off the published files
    assert mean.loc["iPS", "DNMT3B"] == pytest.approx(21.9, abs=0.05)
    values = mdata["methylation"].to_df()
    assert set(np.unique(values)) == {0, 1}
    share = values.groupby(mdata["methylation"].obs["cell_type"], observed=True).mean()
    np.testing.assert_allclose(share["CHL1_methylation"], [0.14, 0.15, 0.78, 0.94, 1.0], atol=0.005)


def test_scgem_pairs_are_informative():
    """Pseudotime of either modality goes together in true pairs, and less in cells of the same rank."""
    mdata = pb.datasets.scgem()
    times = []
    for adata in mdata.mod.values():
        values = adata.X - adata.X.mean(0)
        times.append(pd.Series(np.linalg.svd(values, full_matrices=False)[0][:, 0], index=adata.obs["pair"]))
    paired = abs(times[0].corr(times[1].loc[times[0].index]))
    assert paired > 0.7
    assert abs(np.corrcoef(times[0], times[1])[0, 1]) < 0.3


def test_scgem_can_be_cited():
    assert "doi = {10.1038/nmeth.3961}" in pb.cite(pb.datasets.scgem)
