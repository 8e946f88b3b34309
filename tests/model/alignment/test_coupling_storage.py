"""Couplings on MuData: where they are, that they survive subsets and files, and what is no coupling."""

from __future__ import annotations

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.errors import ModalityError
from perturbia.model.alignment.coupling_storage import read_coupling, write_coupling
from perturbia.stats import Coupling

ROLES = ("source", "target")


@pytest.fixture
def aligned(simulate):
    """Two modalities of 100 and 56 cells in one MuData with a third, and the coupling of both."""
    plain = simulate(prior_shift=4.0)
    other = pb.datasets.simulate_modalities(n_cells=3, seed=5)["source"].copy()
    other.obs_names = "other_" + other.obs_names
    mdata = mudata.MuData({"target": plain["target"].copy(), "third": other, "source": plain["source"].copy()})
    coupling = pb.tl.align(
        mdata, use_rep="truth_log_ratio", modalities={"source": "source", "target": "target"}, epsilon=0.05
    )
    return mdata, coupling


def whole(coupling) -> np.ndarray:
    return coupling.to_sparse(1.0, 10**6).toarray()


def test_joint_masses_stand_in_source_rows_and_target_columns(aligned):
    mdata, coupling = aligned
    stored = mdata.obsp["coupling"]
    assert sp.issparse(stored)
    assert stored.format == "csr"
    assert stored.dtype == np.float32
    assert stored.shape == (mdata.n_obs, mdata.n_obs)
    at = {role: mdata.obs_names.get_indexer(mdata[role].obs_names) for role in ROLES}
    dense = stored.toarray()
    block = dense[np.ix_(at["source"], at["target"])]
    assert dense.sum() == pytest.approx(1, abs=1e-5)
    assert block.sum() == pytest.approx(dense.sum())
    # 99 of 100 parts of the mass of a row are kept, and made whole again
    full = whole(coupling)
    assert ((block > 0) <= (full > 0)).all()
    np.testing.assert_allclose(block.sum(1), full.sum(1), rtol=1e-5)
    assert (np.where(block > 0, full, 0).sum(1) >= 0.99 * full.sum(1) - 1e-9).all()
    labels = mdata["source"].obs["perturbation"].to_numpy()
    for name, share in mdata.uns["coupling"]["table"].set_index("perturbation")["mass"].items():
        assert block[labels == name].sum() == pytest.approx(share, rel=1e-4)
        assert share == pytest.approx(0.2)


@pytest.mark.parametrize(("mass", "entries"), [(1.0, 1000), (0.5, 1000), (1.0, 2), (0.9, 3)])
def test_the_fewest_entries_with_the_mass_are_kept(simulate, mass, entries):
    mdata = simulate()
    full = whole(pb.tl.align(mdata, use_rep="truth_log_ratio", epsilon=0.2, keep=(mass, entries)))
    kept = read_coupling(mdata, "coupling").matrix.toarray()
    share = []
    for have, want in zip(kept, full, strict=True):
        sorted_sums = np.cumsum(np.sort(want)[::-1]) / want.sum()
        fewest = [int((sorted_sums < bound).sum()) + 1 for bound in (mass - 1e-5, min(mass + 1e-5, sorted_sums[-2]))]
        assert min(fewest[0], entries) <= (have > 0).sum() <= min(fewest[1] + 1, entries)
        assert set(np.flatnonzero(have)) == set(np.argsort(-want)[: (have > 0).sum()])
        share.append(want[have > 0].sum() / want.sum())
    table = mdata.uns["coupling"]["table"]
    assert np.average(table["kept_mass"], weights=table["mass"]) == pytest.approx(np.mean(share), abs=1e-3)
    assert (mdata.uns["coupling"]["keep_mass"], mdata.uns["coupling"]["keep_entries"]) == (mass, entries)


def test_either_side_reads_the_same(aligned):
    mdata, _ = aligned
    stored = read_coupling(mdata, "coupling")
    assert (stored.source_name, stored.target_name) == ROLES
    turned = read_coupling(mdata, "coupling", source="target")
    assert (turned.source_name, turned.target_name) == ROLES[::-1]
    np.testing.assert_array_equal(turned.matrix.toarray(), stored.matrix.toarray().T)
    assert read_coupling(mdata, "coupling", target="source").source_name == "target"
    conditional = turned.conditional()
    np.testing.assert_allclose(np.asarray(conditional.sum(1)).ravel(), 1)
    again = stored.coupling()
    assert isinstance(again, Coupling)
    assert len(again.groups) == 5
    np.testing.assert_allclose(whole(again), stored.matrix.toarray() / stored.matrix.sum(), rtol=1e-6)


def test_a_subset_of_cells_keeps_rows_and_columns_together(aligned):
    mdata, _ = aligned
    before = pd.DataFrame(
        read_coupling(mdata, "coupling").matrix.toarray(), mdata["source"].obs_names, mdata["target"].obs_names
    )
    names = np.random.default_rng(0).permutation(mdata.obs_names)[:120]
    gone = mdata["source"].obs_names[mdata["source"].obs["perturbation"] == "P02"]
    names = names[~np.isin(names, gone)]  # a label that one modality loses
    for part in (mdata[names].copy(), mdata[names]):
        stored = read_coupling(part, "coupling")
        expected = before.loc[part["source"].obs_names, part["target"].obs_names]
        np.testing.assert_array_equal(stored.matrix.toarray(), expected.to_numpy())
        lost = part["target"].obs["perturbation"] == "P02"
        np.testing.assert_array_equal(stored.codes()[1] < 0, lost)
        assert len(pb.tl.sample_pairs(part)) == (expected.sum(1) > 0).sum()
    part = mdata[names].copy()
    pb.tl.impute(part)
    np.testing.assert_array_equal(
        np.isnan(part["source"].obsm["imputed_target"]).all(1), np.asarray(stored.matrix.sum(1)).ravel() == 0
    )
    scores = pb.tl.evaluate_alignment(part, pairs="pair")
    assert scores["n_groups"] == 4


def test_a_file_brings_it_back(aligned, tmp_path):
    mdata, _ = aligned
    mdata["source"].obs["half"] = np.where(np.arange(100) % 2, "odd", "even")
    mdata.write_h5mu(tmp_path / "cells.h5mu")
    held = {}
    for name, data in (
        ("memory", mdata),
        ("file", mudata.read_h5mu(tmp_path / "cells.h5mu")),
        ("backed", mudata.read_h5mu(tmp_path / "cells.h5mu", backed=True)),
    ):
        pb.tl.impute(data, source="source")
        pb.tl.impute(data, source="target", target="source", features=["source_feature_07", "source_feature_02"])
        pb.tl.transfer_labels(data, key="half")
        held[name] = [
            read_coupling(data, "coupling").matrix.toarray(),
            data["source"].obsm["imputed_target"],
            data["target"].obsm["imputed_source"],
            data["target"].obs["half"].astype(str).to_numpy(),
            pb.tl.sample_pairs(data, n_draws=3, seed=1).to_numpy(),
            pb.tl.evaluate_alignment(data, pairs="pair", use_rep="truth_latent").to_numpy(),
        ]
        assert data.uns["coupling"]["method"] == "ot"
        assert data.uns["coupling"]["table"]["converged"].all()
    for name in ("file", "backed"):
        for one, other in zip(held["memory"], held[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_file_remembers_how_labels_were_read(simulate, tmp_path):
    mdata = simulate()
    for role, (control, pair) in zip(ROLES, (("NT", "A+B"), ("ctrl", "B+A")), strict=True):
        labels = mdata[role].obs["perturbation"].astype(str)
        mdata[role].obs["perturbation"] = labels.replace({"control": control, "P01": pair})
    pb.tl.align(mdata, use_rep="truth_log_ratio", control=["NT", "ctrl"])
    mdata.write_h5mu(tmp_path / "cells.h5mu")
    data = mudata.read_h5mu(tmp_path / "cells.h5mu")
    codes = read_coupling(data, "coupling").codes()
    assert (codes[0] >= 0).all()
    assert (codes[1] >= 0).all()
    assert pb.tl.evaluate_alignment(data, pairs="pair")["n_groups"] == 5


def test_mass_that_is_zero_is_no_match(simulate):
    mdata = simulate()
    pb.tl.align(mdata, use_rep="truth_log_ratio")
    row = mdata.obs_names.get_loc(mdata["source"].obs_names[3])
    matrix = mdata.obsp["coupling"].copy()
    matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]] = 0  # what is left of 1e-50 in float32
    mdata.obsp["coupling"] = matrix
    pb.tl.impute(mdata)
    assert np.flatnonzero(np.isnan(mdata["source"].obsm["imputed_target"]).any(1)).tolist() == [3]
    assert 3 not in set(pb.tl.sample_pairs(mdata)["source_index"])


def test_a_modality_that_was_changed_is_refused_before_anything_is_written(aligned):
    mdata, coupling = aligned
    del mdata.obsp["coupling"], mdata.uns["coupling"]
    mdata["source"].obs_names = "new_" + mdata["source"].obs_names
    options = {"keep": (0.99, 100), "about": {}, "perturbation_key": "perturbation", "control": None, "sep": "+"}
    options |= {"points": {role: np.zeros((mdata[role].n_obs, 1)) for role in ROLES}, "cost": "sqeuclidean"}
    names = {role: role for role in ROLES}
    with pytest.raises(ValueError, match=r"100 that are not there.*mdata.update\(\)"):
        write_coupling(mdata, coupling, names, "coupling", **options)
    assert not len(mdata.obsp)
    assert "coupling" not in mdata.uns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.update()
    write_coupling(mdata, coupling, names, "coupling", **options)
    assert read_coupling(mdata, "coupling").matrix.sum() == pytest.approx(1, abs=1e-5)


def test_what_is_no_coupling(aligned):
    mdata, _ = aligned
    mdata.obsp["distances"] = sp.csr_matrix((mdata.n_obs, mdata.n_obs))
    mdata.uns["neighbors"] = {"kind": "coupling"}
    for key in ("distances", "neighbors", "psa"):
        with pytest.raises(KeyError, match="there are 'coupling'. Run perturbia.tl.align"):
            read_coupling(mdata, key)
    for source, target in (("source", "third"), ("third", None), ("source", "source"), (None, "rna")):
        with pytest.raises(ModalityError, match="expected the modalities that 'coupling' joins"):
            read_coupling(mdata, "coupling", source=source, target=target)
    del mdata.mod["target"]
    with pytest.raises(ModalityError, match="expected the modality 'target' in mdata"):
        read_coupling(mdata, "coupling")
