"""Matching in any representation: what true scores allow, what must not change a plan, and refusals that write nothing."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import FeatureMismatch, LabelError, ModalityError, ScaleError
from perturbia.stats import couple, propensity_scores

ROLES = ("source", "target")
REP = "truth_log_ratio"


def simulate(**changes):
    return pb.datasets.simulate_modalities(**{"n_cells": 20, "n_perturbations": 4, "n_latent": 2, **changes})


def whole(coupling) -> np.ndarray:
    return coupling.to_sparse(1.0, 10**6).toarray()


def trace(mdata, **options) -> float:
    coupling = pb.tl.align(mdata, key_added=None, **{"use_rep": REP, **options})
    names = options.get("modalities", {"source": "source", "target": "target"})
    return pb.tl.evaluate_alignment(mdata, coupling=coupling, pairs="pair", **names)["trace_macro"]


def add_noise(mdata, scale: float, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for role in ROLES:
        values = mdata[role].obsm[REP]
        mdata[role].obsm[REP] = values + rng.normal(0, scale, values.shape)


def keys(mdata) -> dict[str, list]:
    parts = {"all": mdata, **mdata.mod}
    slots = ("obs", "obsm", "obsp", "uns")
    return {f"{name}.{slot}": sorted(map(str, getattr(one, slot))) for name, one in parts.items() for slot in slots}


# what scores allow ------------------------------------------------------------------------------------------------


def test_true_scores_find_every_twin():
    mdata = simulate(n_cells=150, n_perturbations=12, n_latent=6)
    assert trace(mdata, method="emd") == pytest.approx(1)
    assert trace(mdata, epsilon=0.01) > 0.98


@pytest.mark.parametrize(("n_perturbations", "low", "high"), [(12, 0.95, 1.0), (2, 0.03, 0.12), (1, 0.01, 0.06)])
def test_noisy_scores_need_as_many_perturbations_as_there_are_latents(n_perturbations, low, high):
    """Proposition 2: fewer make the score blind in some directions, and noise shows it. By chance 1 / 150."""
    mdata = simulate(n_cells=150, n_perturbations=n_perturbations, n_latent=6)
    add_noise(mdata, 0.3)
    assert low <= trace(mdata, method="emd") <= high


@pytest.mark.parametrize(("method", "cost"), [("emd", "sqeuclidean"), ("ot", "sqeuclidean"), ("emd", "euclidean")])
def test_a_constant_offset_between_modalities_moves_no_plan_of_squared_cost(method, cost):
    mdata = simulate(n_perturbations=3)
    add_noise(mdata, 0.3)
    # an absolute epsilon: a relative one grows with the offset
    options = {
        "method": method,
        "cost": cost,
        "scale_cost": None,
        "epsilon": 0.5,
        "dtype": "float64",
        "key_added": None,
    }
    before = whole(pb.tl.align(mdata, use_rep=REP, tolerance=1e-9, **options))
    mdata["target"].obsm[REP] = mdata["target"].obsm[REP] + np.array([5.0, -3.0, 0.0, 1.0])
    after = whole(pb.tl.align(mdata, use_rep=REP, tolerance=1e-9, **options))
    if cost == "euclidean":
        assert np.abs(after - before).sum() > 0.1
    else:
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_class_frequencies_cost_matches_only_where_they_are_not_taken_out():
    """A perfect classifier that saw skewed classes: log-probabilities hold the skew, log-ratios do not."""
    mdata = simulate(n_cells=60, n_perturbations=8, n_latent=4)
    add_noise(mdata, 0.2)
    counts = np.geomspace(2000, 10, 9)
    found = {}
    for kind in ("log_ratio", "clr"):
        for role, frequency in (("source", np.full(9, 100.0)), ("target", counts)):
            logits = mdata[role].obsm[REP] + np.log(frequency)
            mdata[role].obsm[kind] = propensity_scores(logits, kind=kind, class_counts=frequency)
        found[kind] = {method: trace(mdata, use_rep=kind, method=method) for method in ("emd", "snn")}
    equal = {method: trace(mdata, method=method) for method in ("emd", "snn")}
    assert found["log_ratio"] == pytest.approx(equal, abs=0.02)
    assert found["clr"]["emd"] == pytest.approx(equal["emd"], abs=0.02)  # the offset moves no such plan
    assert found["clr"]["snn"] < 0.7 * equal["snn"]


# what must not change a plan --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ot", "emd", "snn"])
def test_the_order_of_cells_moves_rows_and_columns_of_a_plan(method):
    mdata = simulate(n_cells=12, prior_shift=2.0)
    add_noise(mdata, 0.3)
    rng = np.random.default_rng(0)
    order = {role: rng.permutation(mdata[role].n_obs) for role in ROLES}
    moved = mudata.MuData({role: mdata[role][order[role]].copy() for role in ROLES})
    options = {"use_rep": REP, "method": method, "epsilon": 0.05, "dtype": "float64", "key_added": None}
    plans = [whole(pb.tl.align(data, **options)) for data in (mdata, moved)]
    np.testing.assert_allclose(plans[1], plans[0][np.ix_(order["source"], order["target"])], atol=1e-5)


def in_a_file(mdata, folder):
    mdata.write_h5mu(folder / "cells.h5mu")
    return mudata.read_h5mu(folder / "cells.h5mu", backed=True)


def as_frames(mdata, folder):
    del folder
    for role in ROLES:
        mdata[role].obsm[REP] = pd.DataFrame(mdata[role].obsm[REP], index=mdata[role].obs_names).add_prefix("s")
    return mdata


def as_sparse(kind):
    def change(mdata, folder):
        del folder
        for role in ROLES:
            mdata[role].obsm[REP] = kind(mdata[role].obsm[REP])
        return mdata

    return change


@pytest.mark.parametrize(
    "change",
    [in_a_file, as_frames, as_sparse(sparse.csr_matrix), as_sparse(sparse.csc_array)],
    ids=["backed", "DataFrame", "csr", "csc"],
)
def test_any_form_of_coordinates(tmp_path, change):
    expected = whole(pb.tl.align(simulate(), use_rep=REP))
    data = change(simulate(), tmp_path)
    np.testing.assert_allclose(whole(pb.tl.align(data, use_rep=REP)), expected, atol=1e-7)
    assert data.obsp["coupling"].nnz


def test_two_anndata_are_two_modalities_and_stay_as_they_are():
    mdata = simulate()
    expected = pb.tl.align(mdata, use_rep=REP)
    cells = [mdata[role].copy() for role in ROLES]
    cells[1].obs_names = cells[0].obs_names  # of two data sets, names do not matter
    before = [(list(one.obs), list(one.uns), list(one.obsm)) for one in cells]
    coupling = pb.tl.align(*cells, use_rep=REP)
    np.testing.assert_array_equal(whole(coupling), whole(expected))
    assert [(list(one.obs), list(one.uns), list(one.obsm)) for one in cells] == before
    cells[0].obsm["here"] = cells[0].obsm.pop(REP)
    again = pb.tl.align(*cells, use_rep={"source": "here", "target": REP})
    np.testing.assert_array_equal(whole(again), whole(expected))


def test_representations_by_modality_and_features_themselves():
    mdata = simulate()
    expected = whole(pb.tl.align(mdata, use_rep=REP, modalities={"source": "target", "target": "source"}))
    scores = ad.AnnData(mdata["target"].obsm[REP].copy(), obs=mdata["target"].obs.copy())
    data = mudata.MuData({"rna": scores, "image": mdata["source"].copy()})
    coupling = pb.tl.align(data, use_rep={"rna": None, "image": REP})
    np.testing.assert_array_equal(whole(coupling), expected)
    assert data.uns["coupling"]["use_rep"] == {"source": "X", "target": REP}
    assert (data.uns["coupling"]["source"], data.uns["coupling"]["target"]) == ("rna", "image")


def test_matches_are_those_of_the_function_on_arrays():
    mdata = simulate()
    labels = [mdata[role].obs["perturbation"].to_numpy() for role in ROLES]
    points = [mdata[role].obsm[REP] for role in ROLES]
    for options in ({"method": "ot", "epsilon": 0.1}, {"method": "ot", "unbalanced": (0.5, 0.9)}, {"method": "snn"}):
        expected = couple(*points, *labels, **options)
        coupling = pb.tl.align(mdata, use_rep=REP, **options)
        np.testing.assert_array_equal(whole(coupling), whole(expected))
        pd.testing.assert_frame_equal(coupling.table, expected.table)


# what is written --------------------------------------------------------------------------------------------------


def test_certainty_cost_and_hubness_of_matches():
    mdata = simulate()
    coupling = pb.tl.align(mdata, use_rep=REP, epsilon=0.1, key_added="truth")
    rows = coupling.rows().toarray()
    source, target = (mdata[role].obsm[REP].astype(float) for role in ROLES)
    distance = ((source[:, None] - target) ** 2).sum(-1)
    np.testing.assert_allclose(mdata["source"].obs["truth_cost"], (rows * distance).sum(1), rtol=1e-3)
    entropy = -(rows * np.log(np.where(rows > 0, rows, 1))).sum(1)
    np.testing.assert_allclose(mdata["source"].obs["truth_n_eff"], np.exp(entropy), rtol=1e-3)
    np.testing.assert_allclose(mdata["target"].obs["truth_hubness"], coupling.column_mass * 100, rtol=1e-4)
    assert "truth_cost" not in mdata["target"].obs
    pb.tl.align(mdata, use_rep=REP, method="gw", key_added="gw", epsilon=0.1)
    assert mdata["source"].obs["gw_cost"].isna().all()  # no space is shared


def test_labels_are_read_as_perturbations():
    mdata = simulate()
    spelled = {"source": {"P01": "A+B", "control": "NT"}, "target": {"P01": "B+A", "control": "ctrl"}}
    for role in ROLES:
        mdata[role].obs["perturbation"] = mdata[role].obs["perturbation"].astype(str).replace(spelled[role])
    coupling = pb.tl.align(mdata, use_rep=REP, control=["NT", "ctrl"])
    assert coupling.groups == ["A+B", "NT", "P02", "P03", "P04"]
    assert mdata.uns["coupling"]["control"] == ["NT", "ctrl"]
    with pytest.warns(UserWarning, match="'A\\+B', 'NT'. Their 40 cells are not matched"):
        plain = pb.tl.align(mdata, use_rep=REP, sep=None)
    assert plain.groups == ["P02", "P03", "P04"]
    with pytest.warns(UserWarning, match="fewer than 30 cells"):
        pb.tl.align(mdata, use_rep=REP, control=["NT", "ctrl"], min_cells=30)


def test_groups_of_one_cell():
    mdata = simulate()
    for role, keep in zip(ROLES, ([0, *range(20, 100)], [*range(5), *range(20, 100)]), strict=True):
        order = np.argsort(mdata[role].obs["perturbation"].astype(str).to_numpy(), kind="stable")
        mdata.mod[role] = mdata[role][order[keep]].copy()
    mdata.update()
    for method in ("ot", "emd", "snn", "random", "gw"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            coupling = pb.tl.align(mdata, use_rep=REP, method=method, key_added=None)
        one = whole(coupling)[0]
        np.testing.assert_allclose(one[one > 0].sum(), 1 / 81, rtol=1e-3)
        assert set(np.flatnonzero(one)) <= set(range(5))


# refusals ---------------------------------------------------------------------------------------------------------


def overlapping(mdata):
    parts = {role: mdata[role].copy() for role in ROLES}
    for one in parts.values():
        one.obs_names = [str(i) for i in range(one.n_obs)]
    return mudata.MuData(parts)


def missing_label(mdata):
    mdata["source"].obs["perturbation"] = mdata["source"].obs["perturbation"].astype(object).where(lambda x: x != "P01")


def infinite(mdata):
    values = mdata["target"].obsm[REP].copy()
    values[2, 1] = -np.inf
    mdata["target"].obsm[REP] = values


def nothing(mdata) -> None:
    del mdata


BAD = {
    "view": (lambda mdata: mdata[:30], {}, ValueError, "got a view"),
    "AnnData alone": (lambda mdata: mdata["source"], {}, TypeError, "mdata: expected MuData, got AnnData"),
    "same names": (overlapping, {}, ValueError, r"100 cell names that both have.*paired=True"),
    "missing label": (missing_label, {}, LabelError, "got 20 missing"),
    "infinite": (infinite, {}, ScaleError, "1 NaN or infinite"),
    "no column": (nothing, {"perturbation_key": "guide"}, LabelError, "expected a column 'guide'"),
    "no modality": (nothing, {"modalities": {"source": "a", "target": "b"}}, ModalityError, "got 'a'"),
    "no rep": (nothing, {"use_rep": "X_pca"}, FeatureMismatch, "use_rep: expected a key"),
    "half of reps": (nothing, {"use_rep": {"source": REP}}, ValueError, "use_rep: expected a key of obsm for each"),
    "rep of others": (nothing, {"use_rep": {"rna": REP, "source": REP}}, ValueError, "use_rep: expected a key"),
    "two spaces": (nothing, {"use_rep": None}, ValueError, "expected the 40 columns of X_source, got 30"),
    "method": (nothing, {"method": "sinkhorn"}, ValueError, "method: expected one of"),
    "epsilon": (nothing, {"epsilon": 0.0}, ValueError, "epsilon: expected a positive"),
    "keep": (nothing, {"keep": (0.0, 10)}, ValueError, "mass: expected a share"),
    "seed": (nothing, {"seed": -1}, ValueError, "seed: expected"),
    "dtype": (nothing, {"dtype": "float16"}, ValueError, "dtype: expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals_write_nothing(case):
    change, options, error, message = BAD[case]
    mdata = simulate()
    data = change(mdata)
    data = mdata if data is None else data
    before = keys(mdata)
    with pytest.raises(error, match=message):
        pb.tl.align(data, **{"use_rep": REP, **options})
    assert keys(mdata) == before


def test_a_stale_whole_is_refused_before_anything_is_written():
    mdata = simulate()
    mdata["source"].obs_names = "new_" + mdata["source"].obs_names
    before = keys(mdata)
    with pytest.raises(ValueError, match=r"call mdata.update\(\)"):
        pb.tl.align(mdata, use_rep=REP)
    assert keys(mdata) == before


def test_two_of_different_kinds_are_refused():
    mdata = simulate()
    with pytest.raises(TypeError, match="expected MuData alone, or two AnnData, got MuData, AnnData"):
        pb.tl.align(mdata, mdata["source"])
