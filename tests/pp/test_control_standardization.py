from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import perturbia as pb
from perturbia.errors import ControlError, FeatureMismatch, LabelError, UnsupportedQuery

FORMS = ["view", "file", "csc", "csr", "float64", "integers", "unused categories", "text columns", "in obsm"]
KEY = "X_standardized"


def is_control(wells: ad.AnnData) -> np.ndarray:
    return (wells.obs["perturbation"] == "control").to_numpy()


def test_controls_of_every_plate_have_mean_zero_and_unit_variance(wells):
    assert pb.pp.standardize_by_controls(wells, batch_key="plate", prior=0) is None
    assert wells.obsm[KEY].dtype == np.float32
    for plate in wells.obs["plate"].cat.categories:
        controls = wells.obsm[KEY][is_control(wells) & (wells.obs["plate"] == plate)]
        np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(controls.std(axis=0, ddof=1), 1, rtol=1e-4)
    assert wells.uns[KEY]["batches"]["n_controls"].tolist() == [12] * 4


def test_offset_and_scale_of_a_plate_leave_no_trace(wells):
    moved = wells.copy()
    second = (moved.obs["plate"] == "plate_02").to_numpy()
    moved.X[second] = 3 * moved.X[second] + 7
    for one in (wells, moved):
        pb.pp.standardize_by_controls(one, batch_key="plate", prior=0)
    np.testing.assert_allclose(moved.obsm[KEY], wells.obsm[KEY], atol=1e-3)


def test_without_scaling_silent_features_stay_silent(wells):
    wells.X[:, :10] *= 1e-3
    pb.pp.standardize_by_controls(wells, batch_key="plate", scale=False)
    plates = wells.obs["plate"].to_numpy()
    for plate in wells.obs["plate"].cat.categories:
        rows = plates == plate
        expected = wells.X[rows] - wells.X[rows & is_control(wells)].mean(axis=0)
        np.testing.assert_allclose(wells.obsm[KEY][rows], expected, atol=1e-5)
    silent = np.abs(wells.obsm[KEY][:, :10]).max()
    pb.pp.typical_variation_normalization(wells, batch_key="plate", scale=False, rank=None, shrinkage=1.0)
    # one factor for all features
    ratio = wells.obsm["X_tvn"] / wells.obsm[KEY]
    assert silent < 0.05
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-2)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_says_the_same(wells, in_form, form):
    pb.pp.standardize_by_controls(wells, batch_key="plate")
    other, options = in_form(wells, form)
    done = pb.pp.standardize_by_controls(other, batch_key="plate", copy=True, **options)
    np.testing.assert_allclose(done.obsm[KEY], wells.obsm[KEY], atol=5e-3 if form == "integers" else 1e-5)
    assert KEY not in other.uns


def test_order_of_rows_does_not_matter(wells):
    order = np.random.default_rng(0).permutation(wells.n_obs)
    shuffled = wells[order].copy()
    for one in (wells, shuffled):
        pb.pp.standardize_by_controls(one, batch_key="plate")
    np.testing.assert_allclose(shuffled.obsm[KEY], wells.obsm[KEY][order], atol=1e-5)


def test_few_controls_are_steadied_by_other_plates():
    errors = []
    for prior in (0.0, 10.0):
        wells = pb.datasets.simulate_plates(n_controls=3, n_plates=10, plate_scale=0.0, seed=1)
        pb.pp.standardize_by_controls(wells, batch_key="plate", prior=prior)
        scale = np.std(wells.obsm[KEY][~is_control(wells)], axis=0)
        errors.append(np.abs(np.log(scale / np.median(scale))).mean())
    assert errors[1] < errors[0] / 2


def test_a_plate_with_few_controls_is_named_or_pooled(wells, caplog):
    lacking = is_control(wells) & (wells.obs["plate"] == "plate_03").to_numpy()
    wells.X[(wells.obs["plate"] == "plate_03").to_numpy()] += 5
    wells = wells[~lacking].copy()
    with pytest.raises(ControlError, match=r"plate_03 \(0\).*missing='pool'"):
        pb.pp.standardize_by_controls(wells, batch_key="plate")
    assert KEY not in wells.obsm
    pb.pp.standardize_by_controls(wells, batch_key="plate", missing="pool")
    assert np.isfinite(wells.obsm[KEY]).all()
    assert "plate_03" in caplog.text
    left = wells.obsm[KEY][(wells.obs["plate"] == "plate_03").to_numpy()].mean(axis=0)
    there = wells.obsm[KEY][(wells.obs["plate"] == "plate_02").to_numpy() & ~is_control(wells)].mean(axis=0)
    assert np.abs(left).mean() > 3 * np.abs(there).mean()  # the offset of that plate is still in, as documented


@pytest.mark.parametrize(("change", "options", "error", "message"), [
    ("nan", {}, ValueError, r"NaN or infinity in 1 of \d+ rows"),
    (None, {"use_rep": "X_pca"}, FeatureMismatch, "scanpy.pp.pca"),
    (None, {"perturbation_key": "gene"}, LabelError, "column of adata.obs, got 'gene'"),
    (None, {"batch_key": "day"}, LabelError, "batch_key: expected a column of adata.obs, got 'day'"),
    (None, {"control": "NT"}, ControlError, "control"),
    (None, {"method": "mad"}, ValueError, "'standard', 'robust', got 'mad'"),
    (None, {"missing": "drop"}, ValueError, "missing: expected one of"),
    (None, {"prior": -1}, ValueError, "prior: expected a finite number of 0 or more, got -1"),
    (None, {"min_controls": 0}, ValueError, "min_controls: expected a whole number of 1 or more, got 0"),
    (None, {"min_controls": 13, "batch_key": "plate"}, ControlError, "expected 13 control rows"),
    ("batch", {"batch_key": "plate"}, LabelError, "batch_key: expected a label in every row, got 1"),
    ("single", {"batch_key": "plate"}, ControlError, "a batch with two control rows"),
    ("none", {}, ControlError, "control"),
])  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(wells, change, options, error, message):
    if change == "nan":
        wells.X[3, 2] = np.nan
    elif change == "batch":
        wells.obs.loc[wells.obs_names[4], "plate"] = np.nan
    elif change == "single":
        first = wells.obs[is_control(wells)].groupby("plate", observed=True).head(1).index
        wells = wells[~is_control(wells) | wells.obs_names.isin(first)].copy()
    elif change == "none":
        wells = wells[~is_control(wells)].copy()
    before = set(wells.obsm), set(wells.uns)
    with pytest.raises(error, match=message):
        pb.pp.standardize_by_controls(wells, **options)
    assert (set(wells.obsm), set(wells.uns)) == before


def test_a_view_of_a_file_asks_for_a_copy(wells, in_form):
    backed, _ = in_form(wells, "file")
    with pytest.raises(UnsupportedQuery, match="copy=True"):
        pb.pp.standardize_by_controls(backed[:50], batch_key="plate")
    assert KEY in pb.pp.standardize_by_controls(backed[:200], batch_key="plate", copy=True).obsm


def test_results_survive_a_file(wells, tmp_path):
    pb.pp.standardize_by_controls(wells, batch_key="plate")
    wells.uns.pop("truth")
    wells.write_h5ad(tmp_path / "wells.h5ad")
    again = ad.read_h5ad(tmp_path / "wells.h5ad")
    assert again.uns[KEY]["batches"]["n_controls"].to_dict() == wells.uns[KEY]["batches"]["n_controls"].to_dict()
