"""Imputed features are sums over matches, from either side, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import FeatureMismatch, ModalityError

if TYPE_CHECKING:
    from mudata import MuData

ROLES = ("source", "target")


@pytest.fixture
def mdata() -> MuData:
    """100 source and 56 target cells; those of P01 have no partner."""
    data = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2, prior_shift=4.0)
    data["target"].obs["perturbation"] = data["target"].obs["perturbation"].cat.rename_categories({"P01": "other"})
    with pytest.warns(UserWarning, match="'P01'"):
        pb.tl.align(data, use_rep="truth_log_ratio", epsilon=0.1)
    return data


def masses(data) -> np.ndarray:
    at = [data.obs_names.get_indexer(data[role].obs_names) for role in ROLES]
    return data.obsp["coupling"].toarray().astype(np.float64)[np.ix_(*at)]


def expected(mass: np.ndarray, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (mass @ values) / mass.sum(1, keepdims=True)


def test_features_are_means_over_matches_from_either_side(mdata):
    mass = masses(mdata)
    pb.tl.impute(mdata)
    imputed = mdata["source"].obsm["imputed_target"]
    assert imputed.dtype == np.float32
    np.testing.assert_allclose(imputed, expected(mass, mdata["target"].X), rtol=1e-4, atol=1e-5)
    alone = (mdata["source"].obs["perturbation"] == "P01").to_numpy()
    np.testing.assert_array_equal(np.isnan(imputed).all(1), alone)
    np.testing.assert_array_equal(np.isnan(imputed).any(1), alone)
    about = mdata["source"].uns["imputed_target"]
    assert about["features"].tolist() == mdata["target"].var_names.tolist()
    assert (about["coupling"], about["layer"], about["modality"]) == ("coupling", "X", "target")
    pb.tl.impute(mdata, source="target", key_added="back")
    np.testing.assert_allclose(mdata["target"].obsm["back"], expected(mass.T, mdata["source"].X), rtol=1e-4, atol=1e-5)
    assert "imputed_source" not in mdata["target"].obsm


@pytest.mark.parametrize(
    "form",
    [sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array, np.asfortranarray],
    ids=["csr", "csc", "coo", "csr_array", "fortran"],
)
@pytest.mark.parametrize("batch_size", [1, 7, 10**6])
def test_storage_and_batches_change_nothing(mdata, form, batch_size):
    pb.tl.impute(mdata)
    mdata["target"].layers["other"] = (
        form(mdata["target"].X) if form is not sparse.coo_matrix else sparse.csr_matrix(mdata["target"].X)
    )
    pb.tl.impute(mdata, layer="other", key_added="again", batch_size=batch_size)
    one, other = (mdata["source"].obsm[key] for key in ("imputed_target", "again"))
    assert isinstance(other, np.ndarray)
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float32), (bool, np.float32)],
)
def test_types_of_numbers(mdata, dtype, result):
    values = (10 * mdata["target"].X).astype(dtype)
    mdata["target"].layers["values"] = values
    pb.tl.impute(mdata, layer="values")
    imputed = mdata["source"].obsm["imputed_target"]
    assert imputed.dtype == result
    np.testing.assert_allclose(imputed, expected(masses(mdata), values), rtol=1e-4, atol=1e-4)


def test_chosen_features_layers_and_representations(mdata):
    pb.tl.impute(mdata)
    whole = mdata["source"].obsm["imputed_target"].copy()
    names = ["target_feature_21", "target_feature_03", "target_feature_21"]
    pb.tl.impute(mdata, features=names)
    np.testing.assert_allclose(mdata["source"].obsm["imputed_target"], whole[:, [20, 2, 20]], rtol=1e-5)
    assert mdata["source"].uns["imputed_target"]["features"].tolist() == names
    pb.tl.impute(mdata, layer="truth_mean", key_added="mean")
    np.testing.assert_allclose(
        mdata["source"].obsm["mean"],
        expected(masses(mdata), mdata["target"].layers["truth_mean"]),
        rtol=1e-4,
        atol=1e-5,
    )
    pb.tl.impute(mdata, use_rep="truth_latent", key_added="latent")
    np.testing.assert_allclose(
        mdata["source"].obsm["latent"],
        expected(masses(mdata), mdata["target"].obsm["truth_latent"]),
        rtol=1e-3,
        atol=1e-4,
    )
    assert mdata["source"].uns["latent"]["features"].tolist() == ["0", "1"]
    frame = pd.DataFrame(mdata["target"].obsm["truth_latent"], columns=["x", "y"], index=mdata["target"].obs_names)
    mdata["target"].obsm["frame"] = frame
    pb.tl.impute(mdata, use_rep="frame", features=["y"], key_added="frame")
    np.testing.assert_array_equal(mdata["source"].obsm["frame"], mdata["source"].obsm["latent"][:, [1]])
    assert mdata["source"].uns["frame"]["features"].tolist() == ["y"]


def test_a_missing_value_spoils_its_matches_alone(mdata):
    values = mdata["target"].X.copy()
    values[4, 0] = np.nan
    mdata["target"].X = values
    pb.tl.impute(mdata)
    matched = (masses(mdata)[:, 4] > 0) | (masses(mdata).sum(1) == 0)
    np.testing.assert_array_equal(np.isnan(mdata["source"].obsm["imputed_target"][:, 0]), matched)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"coupling": "psa"}, KeyError, "coupling: expected the key of a coupling"),
        ({"source": "rna"}, ModalityError, "source, target: expected the modalities"),
        ({"source": "source", "target": "source"}, ModalityError, "source, target: expected the modalities"),
        ({"layer": "log"}, FeatureMismatch, "layer: expected a key of layers, got 'log'"),
        ({"use_rep": "X_pca"}, FeatureMismatch, "use_rep: expected a key of obsm, got 'X_pca'"),
        ({"layer": "truth_mean", "use_rep": "truth_latent"}, ValueError, "layer, use_rep: expected one"),
        ({"features": ["target_feature_01", "TP53"]}, FeatureMismatch, "got 'TP53'"),
        ({"features": ["x"], "use_rep": "truth_latent"}, FeatureMismatch, "got 'x'"),
        ({"batch_size": 0}, ValueError, "batch_size: expected a positive"),
        ({"batch_size": 2.5}, ValueError, "batch_size: expected a positive"),
    ],
)
def test_refusals_write_nothing(mdata, options, error, message):
    before = [(list(mdata[role].obsm), list(mdata[role].uns)) for role in ROLES]
    with pytest.raises(error, match=message):
        pb.tl.impute(mdata, **options)
    assert [(list(mdata[role].obsm), list(mdata[role].uns)) for role in ROLES] == before


def test_what_can_not_be_imputed(mdata):
    with pytest.raises(TypeError, match="expected MuData, got AnnData"):
        pb.tl.impute(mdata["source"])
    with pytest.raises(ValueError, match="got a view"):
        pb.tl.impute(mdata[:20])
    mdata["target"].var_names = ["same", "same", *mdata["target"].var_names[2:]]
    pb.tl.impute(mdata, features=["target_feature_03"])
    with pytest.raises(FeatureMismatch, match="got 'same', which none has, or several have"):
        pb.tl.impute(mdata, features=["same"])
    bare = ad.AnnData(obs=mdata["target"].obs, obsm={"X_rep": mdata["target"].X})
    mdata.mod["target"] = bare
    with pytest.raises(FeatureMismatch, match="layer: expected features in X of 'target', got none"):
        pb.tl.impute(mdata)
    pb.tl.impute(mdata, use_rep="X_rep")


MEASURE = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import anndata as ad, mudata, numpy as np, pandas as pd, scipy.sparse as sp
import perturbia as pb

mudata.set_options(pull_on_update=False)
n, n_genes = 20_000, 2_000
rng = np.random.default_rng(0)
labels = np.resize(["a", "b"], n)
if sys.argv[1] == "dense":
    X = np.zeros((n, n_genes), np.float32)
    X[:, ::10] = 1
else:  # one of every ten genes; SciPy's own generator would take more memory than what is measured
    indices = (np.arange(0, n_genes, 10) + rng.integers(10, size=(n, n_genes // 10))).ravel()
    indptr = np.arange(n + 1) * (n_genes // 10)
    X = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(n, n_genes))
cells = {}
for name, features in (("source", np.ones((n, 1), np.float32)), ("target", X)):
    obs = pd.DataFrame({"perturbation": labels}, index=[f"{name}_{i}" for i in range(n)])
    cells[name] = ad.AnnData(features, obs=obs)
    cells[name].var_names = name + "_" + cells[name].var_names
mdata = mudata.MuData(cells)
columns = (rng.integers(n // 2, size=(n, 100)) * 2 + np.arange(n)[:, None] % 2 + n).ravel()
mass = np.full(100 * n, 1 / (100 * n), np.float32)
mdata.obsp["coupling"] = sp.csr_matrix((mass, (np.repeat(np.arange(n), 100), columns)), shape=(2 * n, 2 * n))
mdata.uns["coupling"] = {"kind": "coupling", "source": "source", "target": "target", "perturbation_key": "perturbation"}
pb.tl.impute(mdata, features=["target_0"], key_added="warm")
del X, cells, columns, mass
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
pb.tl.impute(mdata)
# the peak of this process; getrusage would count that of the process which started it
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
after = int(peak.split()[1]) * 1024
result = mdata["source"].obsm["imputed_target"]
print(json.dumps({"added": (after - before) / 2**20, "shape": result.shape, "mean": float(result.mean())}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux tells it")
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_two_thousand_genes_of_twenty_thousand_cells_fit(kind):
    """The result takes 160 MB; beside it there is one batch."""
    done = subprocess.run([sys.executable, "-c", MEASURE, kind], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["shape"] == [20_000, 2_000]
    assert measured["mean"] == pytest.approx(0.1, rel=0.001)
    assert measured["added"] < 500
