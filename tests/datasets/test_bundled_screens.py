"""Bundled screens: what is in them is known, so it is compared with the facts, not with itself."""

from __future__ import annotations

from importlib import resources

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.datasets import bundled_modalities
from perturbia.perturbation import as_perturbation

DATA = resources.files("perturbia.datasets") / "data"
# name: cells, genes, treatments beside control, control cells
FACTS = {
    "papalexi": (15429, 299, 25, 1720),
    "norman": (3375, 169, 33, 100),
    "tapseq": (1800, 72, 14, 400),
    "datlinger": (7500, 2000, 20, 200),
}
NOTES = {"papalexi": "MIT", "norman": "BSD-3-Clause", "tapseq": "MIT", "datlinger": "MIT"}


@pytest.fixture(scope="module", params=FACTS)
def screen(request):
    return request.param, getattr(pb.datasets, request.param)()


def test_shape_and_labels(screen):
    name, adata = screen
    n_cells, n_genes, n_treatments, n_control = FACTS[name]
    labels = adata.obs["perturbation"]
    assert adata.shape == (n_cells, n_genes)
    assert labels.cat.categories[0] == "control"
    assert labels.nunique() == len(labels.cat.categories) == n_treatments + 1
    assert (labels == "control").sum() == n_control
    assert not labels.isna().any()
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique


def test_labels_are_canonical(screen):
    _, adata = screen
    for label in adata.obs["perturbation"].cat.categories:
        assert str(as_perturbation(label)) == label


def test_counts_are_raw(screen):
    _, adata = screen
    counts = adata.layers["counts"]
    assert isinstance(counts, sp.csr_matrix)
    assert counts.dtype == adata.X.dtype == np.float32
    assert counts.has_canonical_format
    assert (counts.data > 0).all()
    np.testing.assert_array_equal(counts.data, np.round(counts.data))
    assert counts.sum(1).min() > 0
    assert (counts != adata.X).nnz == 0


def test_normalising_x_leaves_the_counts(screen):
    name, _ = screen
    adata = getattr(pb.datasets, name)()
    total = adata.layers["counts"].sum()
    adata.X.data[:] = 0
    assert adata.layers["counts"].sum() == total


def test_every_call_gives_a_new_object(screen):
    name, first = screen
    second = getattr(pb.datasets, name)()
    second.obs["perturbation"] = "changed"
    second.X.data[:] = -1
    third = getattr(pb.datasets, name)()
    pd.testing.assert_frame_equal(first.obs, third.obs)
    assert (first.X != third.X).nnz == 0


def test_h5ad_round_trip(screen, tmp_path):
    _, adata = screen
    adata.write_h5ad(tmp_path / "screen.h5ad")
    back = anndata.read_h5ad(tmp_path / "screen.h5ad")
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    assert (back.layers["counts"] != adata.layers["counts"]).nnz == 0
    assert set(back.obsm) == set(adata.obsm)


def test_obs_arithmetic_does_not_overflow(screen):
    _, adata = screen
    for column in adata.obs.select_dtypes("integer"):
        values = adata.obs[column]
        assert values.dtype == np.int64
        assert (values * 1000 >= values).all()


def test_note_states_source_and_licence(screen):
    name, _ = screen
    note = (DATA / f"{name}.md").read_text(encoding="utf-8")
    docstring = getattr(pb.datasets, name).__doc__
    doi = docstring.split("doi:")[1].split(",")[0]
    assert doi in note
    assert f"repository: {NOTES[name]}" in note
    assert "Copyright (c)" in note
    assert "AS IS" in note
    assert NOTES[name] in docstring


def test_every_file_has_a_loader_and_a_note():
    files = {entry.name for entry in DATA.iterdir()}
    names = {*FACTS, *bundled_modalities.__all__}
    cells = {f"{name}{ending}" for name in names for ending in (".h5ad", ".md")}
    assert files == cells | {"reactome_pairs.csv.gz", "reactome_pairs.md"}


def test_package_data_stay_small():
    assert sum(len(entry.read_bytes()) for entry in DATA.iterdir()) < 8 * 2**20


def test_papalexi_guides_explain_the_labels():
    adata = pb.datasets.papalexi()
    guides = adata.obsm["guide_counts"]
    names = np.asarray(adata.uns["guide_names"])
    assert guides.shape == (adata.n_obs, names.size) == (15429, 110)
    top = np.asarray(guides.argmax(1)).ravel()
    np.testing.assert_array_equal(names[top], adata.obs["guide"].astype(str))
    most = np.asarray(guides.max(1).todense()).ravel()
    np.testing.assert_array_equal(most, adata.obs["guide_umi"])
    np.testing.assert_allclose(most / np.asarray(guides.sum(1)).ravel(), adata.obs["guide_umi_fraction"], rtol=1e-6)
    target = adata.obs["guide"].astype(str).str.replace(r"g\d+$", "", regex=True).replace("NT", "control")
    np.testing.assert_array_equal(target, adata.obs["perturbation"].astype(str))
    assert adata.obs["replicate"].value_counts().to_dict() == {"rep_1": 9428, "rep_2": 6001}


def test_papalexi_pathway_moves_together():
    """STAT1 is a target of interferon-γ signalling: losing the receptor or its kinase lowers its interferon genes alike."""
    adata = pb.datasets.papalexi()
    counts = adata.layers["counts"]
    size = np.asarray(counts.sum(1)).ravel()
    logged = counts.multiply(1e4 / size[:, None]).tocsr().log1p()
    labels = adata.obs["perturbation"].to_numpy()

    def effect(gene: str) -> np.ndarray:
        return np.asarray(logged[labels == gene].mean(0) - logged[labels == "control"].mean(0)).ravel()

    pathway = np.corrcoef([effect(gene) for gene in ("IFNGR1", "IFNGR2", "JAK2", "STAT1")])
    assert pathway[np.triu_indices(4, 1)].min() > 0.5


def test_norman_doubles_and_library_size():
    adata = pb.datasets.norman()
    labels = adata.obs["perturbation"].astype(str)
    n_targets = labels.map(lambda label: 0 if label == "control" else label.count("+") + 1)
    np.testing.assert_array_equal(n_targets, adata.obs["n_targets"])
    singles = set(labels[n_targets == 1])
    both = {label for label in set(labels[n_targets == 2]) if set(label.split("+")) <= singles}
    assert both == {"KLF1+MAP2K6", "KLF1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2"}
    assert (np.asarray(adata.X.sum(1)).ravel() <= adata.obs["library_size"]).all()
    assert adata.obs["library_size"].between(0.98 * adata.obs["ncounts"], adata.obs["ncounts"]).all()


def test_tapseq_on_target_effects():
    adata = pb.datasets.tapseq()
    share = adata.layers["counts"].multiply(1 / adata.layers["counts"].sum(1)).tocsc()
    labels = adata.obs["perturbation"].to_numpy()
    targets = sorted(set(labels) & set(adata.var_names))
    change = {
        gene: share[labels == gene][:, adata.var_names.get_loc(gene)].mean()
        / share[labels == "control"][:, adata.var_names.get_loc(gene)].mean()
        for gene in targets
    }
    assert len(targets) >= 12
    assert np.median(list(change.values())) < 0.5


def test_datlinger_factors_are_crossed():
    adata = pb.datasets.datlinger()
    table = pd.crosstab(adata.obs["perturbation"], adata.obs["stimulation"])
    assert table.shape == (21, 2)
    assert table.to_numpy().min() > 0
    assert adata.obs["well"].nunique() == 367
