"""Responders: recovered where they are known, nearly none where there are none."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.errors import ControlError, LabelError, ScaleError
from perturbia.stats import log1p_cp10k
from perturbia.tl import responders
from perturbia.tl._responder_scores import cross_fitted_scores, signature_test
from perturbia.tl._signatures import Signatures, control_neighbours


def make_screen(*, share=0.6, n=120, n_controls=300, fold=4.0, container=sp.csr_matrix, seed=0) -> ad.AnnData:
    """Cells in two states and two batches; `share` of the cells of P lose ten genes, none of Q does."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(["control", "P", "Q"], [n_controls, n, n])
    order = rng.permutation(len(labels))
    labels = labels[order]
    responds = (labels == "P") & (rng.random(len(labels)) < share)
    state, batch = rng.random((2, len(labels))) < 0.5
    rate = rng.gamma(2.0, 3.0, 60)[None, :] * rng.gamma(5.0, 0.2, (len(labels), 60))
    rate = (
        rate
        * np.where(np.arange(60) < 20, 1 + 3 * state[:, None], 1.0)
        * np.where(np.arange(60) % 7 == 0, 1 + batch[:, None], 1.0)
    )
    rate[:, 40:50] = np.where(responds[:, None], rate[:, 40:50] / fold, rate[:, 40:50])
    counts = rng.poisson(rate).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"perturbation": labels, "batch": np.where(batch, "x", "y"), "truth": responds},
        index=[f"c{i}" for i in range(len(labels))],
    )
    return ad.AnnData(container(counts), obs=obs)


def table_of(adata, **options) -> pd.DataFrame:
    responders(adata, n_neighbors=10, n_comps=5, **options)
    return adata.uns["pb_responder"]["table"]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_known_responders_are_called(share):
    adata = make_screen(share=share)
    table = table_of(adata, batch_key="batch")
    mine = adata.obs["perturbation"] == "P"
    called = adata.obs["pb_responder"] == "responder"
    assert table.loc["P", "share"] == pytest.approx(adata.obs.loc[mine, "truth"].mean(), abs=0.1)
    assert (called[mine] == adata.obs.loc[mine, "truth"]).mean() > 0.9
    assert table.loc["P", "n_de"] >= 5
    assert table.loc["P", "expected_error"] < 0.15
    assert table.loc["Q", ["n_responders", "outcome"]].tolist() == [0, "few genes"]
    assert np.isnan(table.loc["Q", "mean"])


def test_what_is_written():
    adata = make_screen()
    before = adata.copy()
    assert responders(adata, n_neighbors=10) is None
    assert list(adata.obs["pb_responder"].cat.categories) == ["control", "responder", "non-responder"]
    is_control = adata.obs["perturbation"] == "control"
    assert ((adata.obs["pb_responder"] == "control") == is_control).all()
    probability = adata.obs["pb_responder_probability"]
    assert probability.between(0, 1).all()
    assert (probability[is_control] == 0).all()
    assert ((probability >= 0.5) == (adata.obs["pb_responder"] == "responder")).all()
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    assert adata.uns["pb_responder"]["n_neighbors"] == 10
    out = responders(before, n_neighbors=10, key_added="mine", copy=True)
    assert "mine" not in before.obs
    pd.testing.assert_series_equal(out.obs["mine"], adata.obs["pb_responder"], check_names=False)
    pd.testing.assert_frame_equal(out.uns["mine"]["table"], adata.uns["pb_responder"]["table"])


def test_it_can_be_stored(tmp_path):
    adata = make_screen()
    responders(adata, n_neighbors=10)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["pb_responder"]["table"]
    pd.testing.assert_frame_equal(back, adata.uns["pb_responder"]["table"], check_dtype=False)


def test_a_backed_screen_is_copied_into_memory(tmp_path):
    make_screen().write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    out = responders(backed, n_neighbors=10, copy=True)
    assert not out.isbacked
    assert "pb_responder" not in backed.obs
    pd.testing.assert_frame_equal(
        out.uns["pb_responder"]["table"],
        responders(make_screen(), n_neighbors=10, copy=True).uns["pb_responder"]["table"],
    )
    backed.file.close()


def test_storage_and_the_order_of_genes_do_not_matter():
    plain = make_screen()
    plain.layers["counts"] = plain.X.toarray()
    expected = table_of(plain)
    for layer, container in (("counts", None), (None, sp.csc_matrix)):
        adata = make_screen(container=container or sp.csr_matrix)
        if layer:
            adata.layers[layer] = adata.X.toarray()
        pd.testing.assert_frame_equal(table_of(adata, layer=layer), expected, check_exact=False, rtol=1e-3)
    shuffled = make_screen()[:, np.random.default_rng(0).permutation(60)].copy()
    np.testing.assert_allclose(table_of(shuffled)["share"], expected["share"], atol=0.02)


def test_signatures_are_cells_minus_their_controls():
    adata = make_screen(n=20, n_controls=40)
    is_control = (adata.obs["perturbation"] == "control").to_numpy()
    controls, batch = np.flatnonzero(is_control), (adata.obs["batch"] == "x").to_numpy().astype(int)
    logs = log1p_cp10k(adata.X)
    X = logs.toarray().astype(float)
    weights = control_neighbours(X, is_control, batch, n_neighbors=3, n_jobs=None)
    made = Signatures(logs, weights, controls).of(np.arange(adata.n_obs))
    for i in range(adata.n_obs):
        pool = [j for j in controls if j != i and batch[j] == batch[i]]
        nearest = sorted(pool, key=lambda j: ((X[i] - X[j]) ** 2).sum())[:3]
        np.testing.assert_allclose(made[i], X[i] - X[nearest].mean(0), atol=1e-4)
    np.testing.assert_allclose(
        Signatures(logs, weights, controls).control_variance(n_cells=7), made[controls].var(0, ddof=1), atol=1e-4
    )


def noise(n, n_controls, n_genes, rng):
    own, pool = rng.normal(size=(n, n_genes)), rng.normal(size=(n_controls, n_genes))
    near = sp.csr_matrix((n, n_controls))
    return own, near, pool


def test_a_direction_shifts_the_noise_that_chose_it_and_no_other():
    """The reason for the cross-fit, on signatures without any signal."""
    rng = np.random.default_rng(0)
    shift = {1: [], 5: []}
    for _ in range(20):
        own, near, pool = noise(50, 400, 100, rng)
        for n_folds, values in shift.items():
            scores, reference = cross_fitted_scores(
                own,
                near,
                pool,
                folds=np.arange(50) % n_folds,
                control_folds=np.arange(400) % n_folds,
                min_de=20,
                max_iter=10,
            )
            values.append(scores.mean() - reference.mean())
    assert np.mean(shift[1]) > 1.0
    assert abs(np.mean(shift[5])) < 4 * np.std(shift[5]) / np.sqrt(20)
    assert abs(np.mean(shift[5])) < 0.15


def test_the_test_of_signatures_keeps_its_level():
    rng = np.random.default_rng(1)
    smallest = []
    for _ in range(200):
        own, near, pool = noise(20, 300, 50, rng)
        smallest.append(signature_test(own, near, pool.var(0, ddof=1))[1].min())
    assert np.mean(np.array(smallest) < 0.05) < 0.09


def test_controls_that_pass_for_a_perturbation_do_not_respond():
    adata = pb.datasets.papalexi()
    adata = adata[adata.obs["perturbation"] == "control"].copy()
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.r_[np.repeat("control", 1000), [f"F{i % 7}" for i in range(adata.n_obs - 1000)]])
    adata.obs["fake"] = labels
    # min_de=0: the mixture alone must hold, without the guard of differing genes
    responders(adata, perturbation_key="fake", layer="counts", batch_key="replicate", min_de=0)
    table = adata.uns["pb_responder"]["table"]
    assert len(table) == 7
    assert (table["outcome"] == "no shift").sum() >= 6
    assert table["n_responders"].sum() / table["n_cells"].sum() < 0.02


def test_knock_outs_of_interferon_signalling_respond():
    """Papalexi et al. find most cells of these four perturbed; CD86 and ETV7 show nothing in them."""
    adata = pb.datasets.papalexi()
    named = ["IFNGR1", "IFNGR2", "JAK2", "STAT1", "CD86", "ETV7"]
    adata = adata[adata.obs["perturbation"].isin(["control", *named])].copy()
    responders(adata, layer="counts", batch_key="replicate")
    share = adata.uns["pb_responder"]["table"]["share"]
    assert (share[named[:4]] > 0.65).all(), share
    assert (share[named[4:]] < 0.05).all(), share


def test_neighbours_in_a_given_representation():
    adata = make_screen()
    adata.obsm["X_mine"] = log1p_cp10k(adata.X).toarray()[:, :20]
    assert table_of(adata, use_rep="X_mine").loc["P", "share"] > 0.4
    adata.obsm["X_mine"][0, 0] = np.nan
    with pytest.raises(ScaleError, match="finite"):
        responders(adata, use_rep="X_mine")


def test_few_cells_and_combinations():
    adata = make_screen()
    labels = adata.obs["perturbation"].to_numpy().astype(object)
    q = np.flatnonzero(labels == "Q")
    labels[q[:6]] = "R"
    labels[q[6:40]], labels[q[40:80]] = "P+Q", "Q+P"
    adata.obs["perturbation"] = labels
    table = table_of(adata)
    assert table.index.tolist() == ["P", "P+Q", "Q", "R"]
    assert table.loc["P+Q", "n_cells"] == 74
    assert table.loc["R", "outcome"] == "few cells"


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n_neighbors": 0}, ValueError, "n_neighbors"),
        ({"n_neighbors": 400}, ControlError, "400"),
        ({"n_neighbors": 200, "batch_key": "batch"}, ControlError, "batch"),
        ({"n_folds": 0}, ValueError, "n_folds"),
        ({"threshold": 1.0}, ValueError, "threshold"),
        ({"min_de": -1}, ValueError, "min_de"),
        ({"min_cells": 1}, ValueError, "min_cells"),
        ({"control": "NT"}, ControlError, "NT"),
        ({"perturbation_key": "guide"}, LabelError, "guide"),
        ({"batch_key": "plate"}, LabelError, "plate"),
        ({"layer": "raw"}, KeyError, "raw"),
        ({"use_rep": "X_pca"}, KeyError, "X_pca"),
        ({"key_added": "perturbation"}, LabelError, "key_added"),
    ],
)
def test_bad_arguments_write_nothing(arguments, error, match):
    adata = make_screen(n=20, n_controls=60) if "n_neighbors" not in arguments else make_screen()
    columns = list(adata.obs)
    with pytest.raises(error, match=match):
        responders(adata, **arguments)
    assert list(adata.obs) == columns
    assert not adata.uns


def test_fractions_are_no_counts():
    adata = make_screen()
    adata.X = log1p_cp10k(adata.X)
    with pytest.raises(ScaleError):
        responders(adata)


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_the_order_of_cells_does_not_matter(batch_key):
    adata = make_screen()
    moved = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    pd.testing.assert_frame_equal(table_of(adata, batch_key=batch_key), table_of(moved, batch_key=batch_key))
    pd.testing.assert_frame_equal(moved.obs.loc[adata.obs_names], adata.obs)
