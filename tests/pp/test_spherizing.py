from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import perturbia as pb
from perturbia.errors import ControlError, FeatureMismatch, LabelError, UnsupportedQuery

if TYPE_CHECKING:
    import anndata as ad

FORMS = ["view", "file", "csc", "csr", "float64", "integers", "unused categories", "text columns", "in obsm"]
KEY = "X_spherized"


def is_control(wells: ad.AnnData) -> np.ndarray:
    return (wells.obs["perturbation"] == "control").to_numpy()


@pytest.fixture
def many() -> ad.AnnData:
    return pb.datasets.simulate_plates(
        n_complexes=3, n_single_genes=2, n_controls=40, n_plates=3, n_features=24, n_factors=12
    )


@pytest.mark.parametrize("method", ["ZCA", "PCA", "ZCA-cor", "PCA-cor"])
def test_controls_are_white_and_centred(many, method):
    pb.pp.spherize(many, method=method, epsilon=0)
    controls = many.obsm[KEY][is_control(many)]
    np.testing.assert_allclose(np.cov(controls.T), np.eye(24), atol=1e-5)
    np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_features_does_not_matter(many, unit):
    many.X = many.X.astype(np.float64) * unit
    pb.pp.spherize(many)
    np.testing.assert_allclose(np.cov(many.obsm[KEY][is_control(many)].T), np.eye(24), atol=1e-3)


def test_some_controls_can_be_left_out(many):
    many.obs["fit"] = is_control(many) & (many.obs["plate"] != "plate_02").to_numpy()
    pb.pp.spherize(many, fit_on="fit", epsilon=0)
    np.testing.assert_allclose(np.cov(many.obsm[KEY][many.obs["fit"]].T), np.eye(24), atol=1e-5)
    assert many.uns[KEY]["n_controls"] == 80


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_data_far_from_zero_are_whitened_too(many, shift):
    many.X = many.X.astype(np.float64) + shift
    pb.pp.spherize(many, epsilon=0)
    np.testing.assert_allclose(np.cov(many.obsm[KEY][is_control(many)].T), np.eye(24), atol=1e-4)


def test_formulas(many):
    X = many.X.astype(np.float64)
    controls = X[is_control(many)]
    values, vectors = np.linalg.eigh(np.cov(controls.T))
    centred = X - controls.mean(axis=0)
    expected = centred @ (vectors / np.sqrt(values + 0.2)) @ vectors.T
    pb.pp.spherize(many, epsilon=0.2)
    np.testing.assert_allclose(many.obsm[KEY], expected, atol=1e-4)
    scale = controls.std(axis=0, ddof=1)
    values, vectors = np.linalg.eigh(np.corrcoef(controls.T))
    expected = (centred / scale) @ (vectors / np.sqrt(values + 0.2)) @ vectors.T
    pb.pp.spherize(many, epsilon=0.2, method="ZCA-cor")
    np.testing.assert_allclose(many.obsm[KEY], expected, atol=1e-4)


def test_pca_and_zca_have_the_same_cosines(many):
    done = [pb.pp.spherize(many, method=method, copy=True).obsm[KEY] for method in ("PCA", "ZCA")]
    np.testing.assert_allclose(done[0] @ done[0].T, done[1] @ done[1].T, atol=2e-3)
    # the axis of most variance comes first
    raw = np.cov(many.X[is_control(many)].T.astype(float))
    corr = np.corrcoef(done[0][:, 0], many.X @ np.linalg.eigh(raw)[1][:, -1])[0, 1]
    assert abs(corr) > 0.999


def test_all_rows_can_stand_in_for_controls(many):
    pb.pp.spherize(many, perturbation_key=None, epsilon=0)
    np.testing.assert_allclose(np.cov(many.obsm[KEY].T), np.eye(24), atol=1e-5)
    assert many.uns[KEY]["n_controls"] == many.n_obs


def test_epsilon_bounds_what_directions_without_variance_are_multiplied_by(wells):
    few = wells[~is_control(wells) | (wells.obs["plate"] == "plate_01").to_numpy()].copy()
    with pytest.raises(ControlError, match=r"12 controls leave 29 of 40 directions without variance.*mean variance"):
        pb.pp.spherize(few)
    pb.pp.spherize(few, epsilon=0.25)
    centred = few.X - few.X[is_control(few)].mean(axis=0)
    grown = np.linalg.norm(few.obsm[KEY], axis=1) / np.linalg.norm(centred, axis=1)
    assert grown.max() <= 2.0 + 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_says_the_same(wells, in_form, form):
    pb.pp.spherize(wells, epsilon=0.1)
    other, options = in_form(wells, form)
    epsilon = 0.1 * (1e6 if form == "integers" else 1)  # in squared units of the features
    done = pb.pp.spherize(other, epsilon=epsilon, copy=True, **options)
    np.testing.assert_allclose(done.obsm[KEY], wells.obsm[KEY], atol=2e-2 if form == "integers" else 1e-4)


@pytest.mark.parametrize(("change", "options", "error", "message"), [
    ("nan", {}, ValueError, "NaN or infinity in 1 of"),
    ("constant", {"method": "ZCA-cor"}, ValueError, "got 1 of 40 that do not"),
    (None, {"method": "zca"}, ValueError, "method: expected one of"),
    (None, {"epsilon": -0.1}, ValueError, "epsilon: expected a finite number of 0 or more"),
    (None, {"epsilon": np.nan}, ValueError, "epsilon"),
    (None, {"use_rep": "X_none"}, FeatureMismatch, "use_rep"),
    (None, {"perturbation_key": "gene"}, LabelError, "gene"),
    (None, {"control": "NT"}, ControlError, "control"),
    ("one control", {}, ControlError, "two control rows or more, got 1"),
])  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(wells, change, options, error, message):
    if change == "nan":
        wells.X[0, 0] = np.inf
    elif change == "constant":
        wells.X[:, 5] = 3.0
    elif change == "one control":
        wells = wells[~is_control(wells) | (np.cumsum(is_control(wells)) == 1)].copy()
    before = set(wells.obsm), set(wells.uns)
    with pytest.raises(error, match=message):
        pb.pp.spherize(wells, **options)
    assert (set(wells.obsm), set(wells.uns)) == before


def test_a_view_of_a_file_asks_for_a_copy(wells, in_form):
    backed, _ = in_form(wells, "file")
    with pytest.raises(UnsupportedQuery, match="copy=True"):
        pb.pp.spherize(backed[:50])
