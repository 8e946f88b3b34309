"""Correction of proximity bias: what is subtracted, what it does to bias, and what it leaves of true relations."""

from __future__ import annotations

import logging
from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.errors import ControlError, FeatureMismatch, LabelError, UnsupportedQuery
from perturbia.metrics.arm_proximity import proximity_bias

LIKENESS = 0.7  # cosine of two genes of a complex, before arms


def screen(
    n_arms: int,
    genes_per_arm: int,
    *,
    bias: float,
    seed: int,
    common: float = 0.0,
    strengths: bool = False,
    n_inside: int = 0,
    n_across: int = 0,
    n_features: int = 60,
) -> ad.AnnData:
    """A map of genes with arm effects of norm `bias` to a gene's 1, and complexes of four inside and across arms."""
    rng = np.random.default_rng(seed)
    arms = np.repeat(np.arange(n_arms), genes_per_arm)
    complexes = np.full(len(arms), -1)
    for k in range(n_inside):
        complexes[np.flatnonzero((arms == k % n_arms) & (complexes < 0))[:4]] = k
    for k in range(n_inside, n_inside + n_across):
        chosen = rng.choice(n_arms, 4, replace=False)
        complexes[[np.flatnonzero((arms == arm) & (complexes < 0))[0] for arm in chosen]] = k
    signals = rng.normal(size=(len(arms), n_features))
    shared = rng.normal(size=(n_inside + n_across + 1, n_features))[complexes]
    own = (complexes < 0)[:, None]
    signals = np.where(own, signals, np.sqrt(LIKENESS) * shared + np.sqrt(1 - LIKENESS) * signals)
    if strengths:
        signals *= 0.3 + rng.gamma(1, size=(len(arms), 1))
    signals += bias * rng.normal(size=(n_arms, n_features))[arms] + common * rng.normal(size=n_features)
    names = [f"G{i:03d}" for i in range(len(arms))]
    obs = {"perturbation": names, "arm": [f"{arm // 2 + 1}{'pq'[arm % 2]}" for arm in arms], "complex": complexes}
    return ad.AnnData(signals, obs=pd.DataFrame(obs, index=names))


def bias_of(adata: ad.AnnData, use_rep: str | None = None):
    return proximity_bias(adata, "arm", use_rep=use_rep, n_permutations=0)


def likeness(x: np.ndarray, complexes: np.ndarray, which: range) -> float:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return float(
        np.mean([unit[i] @ unit[j] for k in which for i, j in combinations(np.flatnonzero(complexes == k), 2)])
    )


def corrected(adata: ad.AnnData, **options) -> np.ndarray:
    return pb.pp.correct_proximity_bias(adata, arm_key="arm", copy=True, **options).obsm["X_proximity"].astype(float)


# --- what is subtracted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_common", [True, False])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_arm_mean_by_loops(leave_one_out, keep_common):
    adata = screen(4, 8, bias=0.5, seed=0, common=0.7)
    x, arms = adata.X, adata.obs["arm"].to_numpy()
    overall = x.mean(axis=0)
    expected = np.empty_like(x)
    for i in range(len(x)):
        others = [j for j in range(len(x)) if arms[j] == arms[i] and (j != i or not leave_one_out)]
        shift = np.mean([x[j] for j in others], axis=0) - overall
        expected[i] = x[i] - shift - (0 if keep_common else overall)
    found = corrected(adata, method="arm_mean", leave_one_out=leave_one_out, keep_common=keep_common)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_balanced_leaves_no_cosine_within_arms():
    adata = screen(6, 15, bias=0.6, seed=1, strengths=True)
    for leave_one_out in (True, False):
        out = pb.pp.correct_proximity_bias(
            adata, arm_key="arm", keep_common=False, leave_one_out=leave_one_out, copy=True
        )
        table = out.uns["X_proximity"]["arms"]
        assert table["share"].between(0.3, 0.99).all()
        for arm in table.index:
            rows = out.obsm["X_proximity"][out.obs["arm"] == arm]
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            assert (unit @ unit.T)[np.triu_indices(len(unit), 1)].mean() == pytest.approx(0, abs=1e-6)


def test_arms_that_are_not_alike_are_left_alone():
    """Rows of an arm that point apart have no mean cosine to take off."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(10, 20))
    x = np.vstack([half, -half, half + 3 * rng.normal(size=20)])
    obs = pd.DataFrame({"perturbation": [f"G{i:02d}" for i in range(30)], "arm": np.repeat(["1p", "1q"], [20, 10])})
    adata = ad.AnnData(x, obs=obs.set_index("perturbation", drop=False).rename_axis(None))
    # half of the genes of the first arm oppose the others, and the second makes up the common centre
    out = pb.pp.correct_proximity_bias(adata, arm_key="arm", use_only=obs["perturbation"][:20], copy=True)
    assert out.uns["X_proximity"]["arms"]["share"].tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(out.obsm["X_proximity"], x.astype(np.float32))


@pytest.mark.parametrize("method", ["balanced", "arm_mean"])
def test_leaving_a_gene_out_changes_lengths_and_no_directions(method):
    adata = screen(4, 10, bias=0.5, seed=2)
    plain = corrected(adata, method=method, leave_one_out=False, keep_common=False)
    left_out = pb.pp.correct_proximity_bias(adata, arm_key="arm", method=method, keep_common=False, copy=True)
    share = left_out.uns["X_proximity"]["arms"]["share"][adata.obs["arm"]].to_numpy()
    np.testing.assert_allclose(left_out.obsm["X_proximity"], plain * (10 / (10 - share))[:, None], atol=1e-5)


def test_genes_count_once_however_many_rows_they_have():
    genes = screen(4, 8, bias=0.5, seed=3)
    times = np.random.default_rng(0).integers(1, 9, size=genes.n_obs)
    rows = np.repeat(np.arange(genes.n_obs), times)
    wells = ad.AnnData(genes.X[rows], obs=genes.obs.iloc[rows].set_axis([f"w{i}" for i in range(len(rows))]))
    noise = np.random.default_rng(1).normal(size=wells.shape)
    centre = pd.DataFrame(noise).groupby(wells.obs["perturbation"].to_numpy()).transform("mean").to_numpy()
    wells.X = wells.X + noise - centre  # rows differ, means of genes do not
    shift = genes.X - corrected(genes)
    np.testing.assert_allclose(wells.X - corrected(wells), np.repeat(shift, times, axis=0), atol=1e-5)


def test_use_only_and_exclude_name_the_same_genes():
    adata = screen(4, 12, bias=0.8, seed=4)
    used = adata.obs_names[np.arange(adata.n_obs) % 3 > 0].tolist()
    others = adata.obs_names.difference(used).tolist()
    only = corrected(adata, use_only=[*used, "not there"])
    np.testing.assert_array_equal(only, corrected(adata, exclude=others))
    assert not np.allclose(only, corrected(adata))
    # what the excluded genes are makes no difference to others
    changed = adata.copy()
    changed.X[changed.obs_names.isin(others)] *= 100
    np.testing.assert_array_equal(
        corrected(changed, use_only=used)[adata.obs_names.isin(used)], only[adata.obs_names.isin(used)]
    )
    # their mean, which is not their own, is subtracted as it is
    mean = corrected(adata, use_only=used, method="arm_mean", keep_common=False)
    for arm in adata.obs["arm"].unique():
        own, reference = adata.obs["arm"] == arm, adata.obs_names.isin(used)
        expected = adata.X[own & ~reference] - adata.X[own & reference].mean(axis=0)
        np.testing.assert_allclose(mean[own & ~reference], expected, atol=1e-5)


def test_genes_outside_the_centre_lose_more_of_it():
    """Against genes of the centre they have no cosine on average, though the centre is not made of them."""
    adata = screen(10, 40, bias=0.3, seed=14)
    inside = np.arange(adata.n_obs) % 2 == 0
    options = {"use_only": adata.obs_names[inside], "leave_one_out": False}
    out = pb.pp.correct_proximity_bias(adata, arm_key="arm", **options, copy=True)
    around_zero = corrected(adata, **options, keep_common=False)
    shift = adata.X - out.obsm["X_proximity"]
    share = out.uns["X_proximity"]["arms"]["share"]
    cosine = []
    for arm in share.index:
        centre, others = ((adata.obs["arm"] == arm).to_numpy() & which for which in (inside, ~inside))
        np.testing.assert_allclose(shift[others][0], (2 - share[arm]) * shift[centre][0], atol=1e-5)
        units = [
            rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (around_zero[centre], around_zero[others])
        ]
        cosine.append((units[0] @ units[1].T).mean())
    assert abs(np.mean(cosine)) < 4 * np.std(cosine) / np.sqrt(10)
    assert abs(np.mean(cosine)) < 0.01


def test_controls_and_rows_without_an_arm_stay_as_they_are():
    adata = screen(4, 10, bias=0.8, seed=5)
    adata.obs["arm"] = adata.obs["arm"].astype(object)
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(object)
    adata.obs.iloc[0, adata.obs.columns.get_loc("perturbation")] = "ctrl"
    adata.obs.iloc[1, adata.obs.columns.get_loc("arm")] = None
    adata.obs.iloc[2, adata.obs.columns.get_loc("arm")] = ""
    adata.obs["is_control"] = np.arange(adata.n_obs) == 3
    out = corrected(adata, control="ctrl")
    np.testing.assert_array_equal(out[:4], adata.X[:4].astype(np.float32))
    assert (np.abs(out[4:] - adata.X[4:]).max(axis=1) > 0.01).all()
    np.testing.assert_allclose(out[4:], corrected(adata[4:].copy()), atol=1e-6)


def test_arms_of_few_genes_stay_as_they_are(caplog):
    adata = screen(4, 10, bias=0.8, seed=6)
    adata = adata[np.r_[0:24]].copy()
    with caplog.at_level(logging.INFO, logger="perturbia.pp"):
        out = pb.pp.correct_proximity_bias(adata, arm_key="arm", copy=True)
    assert "1 of 3 arms have fewer than 5 genes and are left as they are: '2p'" in caplog.text
    np.testing.assert_array_equal(out.obsm["X_proximity"][20:], adata.X[20:].astype(np.float32))
    table = out.uns["X_proximity"]["arms"]
    assert table["n_reference"].to_dict() == {"1p": 10, "1q": 10, "2p": 4}
    assert table.loc["2p", ["share", "length"]].tolist() == [0, 0]
    assert not np.allclose(corrected(adata, min_genes=4)[20:], adata.X[20:])


# --- what it is for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strengths", [False, True])
@pytest.mark.parametrize("common", [0.0, 1.0])
def test_bias_falls_to_chance_and_complexes_stay(strengths, common):
    n_inside, n_across = 5, 5
    found = []
    for seed in range(3):
        adata = screen(
            20, 25, bias=0.5, seed=seed, common=common, strengths=strengths, n_inside=n_inside, n_across=n_across
        )
        unbiased = screen(
            20, 25, bias=0.0, seed=seed, common=common, strengths=strengths, n_inside=n_inside, n_across=n_across
        )
        pb.pp.correct_proximity_bias(adata, arm_key="arm")
        before, after = bias_of(adata), bias_of(adata, "X_proximity")
        inside, across = range(n_inside), range(n_inside, n_inside + n_across)
        x, complexes = adata.obsm["X_proximity"], adata.obs["complex"].to_numpy()
        found.append(
            [
                before.probability,
                after.probability,
                after.standard_error,
                likeness(x, complexes, inside) - likeness(unbiased.X, complexes, inside),
                likeness(x, complexes, across) - likeness(unbiased.X, complexes, across),
            ]
        )
    before, after, error, inside, across = np.mean(found, axis=0)
    assert before > 0.6
    assert abs(after - 0.5) < max(3 * error / np.sqrt(3), 0.01)
    assert across > -0.06
    assert inside > -0.1


def test_the_mean_drives_small_arms_apart_and_balancing_does_not():
    """Why the mean is not the default: ten genes an arm, a third of them in complexes inside it."""
    adata = screen(24, 10, bias=0.5, seed=7, n_inside=8, n_across=4)
    values = {method: corrected(adata, method=method) for method in ("arm_mean", "balanced")}
    score = {method: proximity_bias(x, adata.obs["arm"], n_permutations=0).probability for method, x in values.items()}
    assert bias_of(adata).probability > 0.8
    assert score["arm_mean"] < 0.35
    assert score["balanced"] == pytest.approx(0.5, abs=0.03)
    inside = {method: likeness(x, adata.obs["complex"].to_numpy(), range(8)) for method, x in values.items()}
    assert inside["balanced"] > inside["arm_mean"] + 0.08


def test_little_is_taken_where_there_is_no_bias():
    adata = screen(20, 25, bias=0.0, seed=8)
    assert np.linalg.norm(corrected(adata) - adata.X) < 0.5 * np.linalg.norm(
        corrected(adata, method="arm_mean") - adata.X
    )
    assert proximity_bias(corrected(adata), adata.obs["arm"], n_permutations=0).probability == pytest.approx(
        0.5, abs=0.015
    )


def test_unexpressed_genes_spare_a_complex_that_fills_its_arm():
    adata = screen(12, 20, bias=0.7, seed=9)
    rng = np.random.default_rng(0)
    in_complex = np.flatnonzero(adata.obs["arm"] == "1p")[:10]
    adata.X[in_complex] += 1.5 * rng.normal(size=adata.n_vars)
    unexpressed = np.delete(adata.obs_names, in_complex)
    complexes = np.full(adata.n_obs, -1)
    complexes[in_complex] = 0
    all_genes, spared = (
        likeness(x, complexes, range(1)) for x in (corrected(adata), corrected(adata, use_only=unexpressed))
    )
    assert spared > all_genes + 0.15


def test_wells_of_a_simulated_screen():
    """Recall of complexes suffers from an arm effect, and is restored."""
    wells = pb.datasets.simulate_plates(n_complexes=20, n_single_genes=40, n_plates=4, plate_offset=0.0, seed=1)
    genes = np.unique(wells.obs["perturbation"].astype(str))
    rng = np.random.default_rng(0)
    arm_of = dict(zip(genes, rng.permutation(np.resize([f"{i}p" for i in range(6)], len(genes))), strict=True))
    arm = wells.obs["perturbation"].astype(str).map(arm_of)
    arm[wells.obs["perturbation"] == "control"] = None
    wells.obs["arm"] = arm
    shifts = pd.DataFrame(3 * rng.normal(size=(6, wells.n_vars)), index=[f"{i}p" for i in range(6)])
    wells.X = wells.X + shifts.reindex(arm).fillna(0).to_numpy()
    pb.pp.correct_proximity_bias(wells, arm_key="arm")
    maps = {key: pb.tl.aggregate_perturbations(wells, use_rep=key) for key in (None, "X_proximity")}
    bias = {key: proximity_bias(one, "arm", n_permutations=0).probability for key, one in maps.items()}
    assert bias[None] > 0.9
    assert bias["X_proximity"] == pytest.approx(0.5, abs=0.03)
    pairs = wells.uns["truth"]["relationships"]
    cosine = {}
    for key, one in maps.items():
        unit = one.X / np.linalg.norm(one.X, axis=1, keepdims=True)
        row = pd.Series(range(one.n_obs), index=one.obs_names)
        known = (unit[row[pairs["entity1"]]] * unit[row[pairs["entity2"]]]).sum(axis=1)
        every = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
        cosine[key] = (known > np.quantile(every, 0.9)).mean()
    assert cosine["X_proximity"] > cosine[None] + 0.15


# --- forms of data ----------------------------------------------------------------------------------------------------


def test_every_form_of_data_gives_the_same(tmp_path):
    adata = screen(4, 8, bias=0.5, seed=10)
    adata.X = adata.X.astype(np.float32)
    expected = corrected(adata)
    assert adata.obsm == {}
    adata.obs["arm"] = pd.Categorical(adata.obs["arm"], categories=["unused", *adata.obs["arm"].unique()])
    adata.obs["perturbation"] = pd.Categorical(adata.obs["perturbation"])
    adata.obsm["X_other"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "map.h5ad")
    sparse = ad.AnnData(sp.csc_matrix(adata.X), obs=adata.obs)
    twice = ad.concat([adata, adata], index_unique="-", merge="same")
    double = adata.copy()
    double.X = double.X.astype(np.float64)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    found = {
        "obsm": corrected(adata, use_rep="X_other"),
        "csc": corrected(sparse),
        "view": corrected(twice[:32]),
        "backed": corrected(ad.read_h5ad(tmp_path / "map.h5ad", backed="r")),
        "view of backed": corrected(ad.read_h5ad(tmp_path / "map.h5ad", backed="r")[list(range(32))]),
        "float64": corrected(double),
        "other order": pd.DataFrame(corrected(shuffled), index=shuffled.obs_names).loc[adata.obs_names].to_numpy(),
    }
    for name, values in found.items():
        np.testing.assert_allclose(values, expected, atol=1e-5, err_msg=name)
    backed = ad.read_h5ad(tmp_path / "map.h5ad", backed="r")
    pb.pp.correct_proximity_bias(backed, arm_key="arm")
    np.testing.assert_allclose(backed.obsm["X_proximity"], expected, atol=1e-5)


def test_whole_numbers_are_read():
    adata = screen(4, 8, bias=0.5, seed=11)
    whole = adata.copy()
    whole.X = np.rint(10 * adata.X).astype(int)
    double = adata.copy()
    double.X = whole.X.astype(float)
    np.testing.assert_array_equal(corrected(whole), corrected(double))


def test_result_is_written_once_and_survives_a_file(tmp_path):
    adata = screen(4, 8, bias=0.5, seed=12)
    before = adata.X.copy()
    assert pb.pp.correct_proximity_bias(adata, arm_key="arm", key_added="X_arm", exclude=adata.obs_names[::4]) is None
    np.testing.assert_array_equal(adata.X, before)
    assert adata.obsm["X_arm"].dtype == np.float32
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    note = back.uns["X_arm"]
    pd.testing.assert_frame_equal(note["arms"], adata.uns["X_arm"]["arms"])
    assert (note["method"], note["use_rep"], note["n_genes"], note["n_rows_kept"]) == ("balanced", "X", 32, 0)
    assert note["arms"]["n_reference"].tolist() == [6] * 4


def test_a_map_of_the_package_with_controls():
    wells = pb.datasets.simulate_plates(n_complexes=5, n_single_genes=10, n_plates=2)
    wells.obs["arm"] = np.where(wells.obs["perturbation"].astype(str) < "G015", "1p", "1q")
    genes = pb.tl.aggregate_perturbations(wells, keep_control=True)
    genes.obs["arm"] = np.where(genes.obs_names < "G015", "1p", "1q")
    pb.pp.correct_proximity_bias(genes, arm_key="arm", perturbation_key="pb_perturbation")
    control = genes.obs["is_control"].to_numpy()
    np.testing.assert_array_equal(genes.obsm["X_proximity"][control], genes.X[control])
    assert genes.uns["X_proximity"]["n_rows_kept"] == 1


# --- bad input --------------------------------------------------------------------------------------------------------


def changed(**obs: object) -> ad.AnnData:
    adata = screen(3, 6, bias=0.5, seed=13)
    for name, values in obs.items():
        adata.obs[name] = values
    return adata


def with_nan() -> ad.AnnData:
    adata = changed()
    adata.X[4, 2] = np.nan
    return adata


ARMS = ["1p"] * 6 + ["1q"] * 6 + ["2p"] * 6


@pytest.mark.parametrize(
    ("adata", "options", "error", "match"),
    [
        (changed(), {"arm_key": "no"}, LabelError, "arm_key: expected a column of adata.obs, got 'no'"),
        (changed(arm=[None] * 18), {}, LabelError, "arm_key: expected the arm of some rows, got none"),
        (changed(perturbation="control"), {}, LabelError, "arm_key: expected the arm of some perturbed rows"),
        (changed(perturbation=["A", *["B"] * 17]), {}, LabelError, "one arm in all rows of a perturbation.*'B'"),
        (changed(perturbation=["A"] * 6 + ["B"] * 12, arm=["1p"] * 5 + [None] + ["1q"] * 12), {}, LabelError, "one arm.*'A'"),
        (changed(perturbation=["A", None, *["C"] * 16]), {}, LabelError, "perturbation_key: expected a label in every row"),
        (changed(), {"perturbation_key": "no"}, LabelError, "perturbation_key: expected a column"),
        (changed(), {"control": "ctrl"}, ControlError, "control: expected rows labelled 'ctrl'"),
        (changed(), {"min_genes": 7}, LabelError, "min_genes: expected an arm with 7 genes or more, got at most 6 in 3 arms"),
        (changed(), {"min_genes": 1}, ValueError, "min_genes: expected a whole number of 2 or more, got 1"),
        (changed(), {"method": "mean"}, ValueError, "method: expected one of 'balanced', 'arm_mean', got 'mean'"),
        (changed(), {"use_rep": "X_no"}, FeatureMismatch, "use_rep"),
        (with_nan(), {}, ValueError, "adata.X: expected finite numbers.*'G004'"),
        (changed(), {"exclude": ["G001"], "use_only": ["G002"]}, ValueError, "exclude, use_only: expected one of them"),
        (changed(), {"exclude": "G001"}, ValueError, "exclude: expected names of genes in a list, got the text 'G001'"),
        (changed(), {"use_only": ["nobody"]}, LabelError, "use_only: expected perturbations that have an arm.*'nobody'"),
        (changed(), {"exclude": changed().obs_names}, LabelError, "exclude: expected genes that are left"),
        (changed(), {"exclude": changed().obs_names[:15]}, LabelError, "min_genes: expected an arm with 5 genes or more, got at most 3"),
    ],
)  # fmt: skip
def test_bad_input(adata, options, error, match):
    with pytest.raises(error, match=match):
        pb.pp.correct_proximity_bias(adata, **{"arm_key": "arm"} | options)
    assert "X_proximity" not in adata.obsm
    assert "X_proximity" not in adata.uns


def test_views_of_files_need_a_copy(tmp_path):
    changed().write_h5ad(tmp_path / "map.h5ad")
    view = ad.read_h5ad(tmp_path / "map.h5ad", backed="r")[list(range(18))]
    with pytest.raises(UnsupportedQuery, match="view of a backed file. Use copy=True"):
        pb.pp.correct_proximity_bias(view, arm_key="arm")


def test_names_with_a_plus_are_excluded_as_they_are_spelled():
    adata = screen(2, 12, bias=1.0, seed=0)
    plain = adata.copy()
    plain.obs["perturbation"] = plain.obs["perturbation"].replace("G003", "HLA")
    adata.obs["perturbation"] = adata.obs["perturbation"].replace("G003", "HLA+A")
    pb.pp.correct_proximity_bias(plain, arm_key="arm", exclude=["HLA"])
    pb.pp.correct_proximity_bias(adata, arm_key="arm", sep="", exclude=["HLA+A"])
    np.testing.assert_allclose(adata.obsm["X_proximity"], plain.obsm["X_proximity"], rtol=1e-6)
