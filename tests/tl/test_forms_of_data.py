"""Every tool says the same of the same cells, however they are stored: in a file, by columns, as a view, ..."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb

QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def screen() -> ad.AnnData:
    adata = pb.datasets.simulate_screen(
        n_perturbations=6,
        n_combinations=6,
        n_genes=30,
        n_latent=3,
        cells_per_perturbation=30,
        n_controls=120,
        n_batches=2,
        n_truth_cells=20,
    )
    adata.X = sparse.csr_matrix(adata.X)
    adata.layers.clear()
    adata.uns.pop("truth")
    adata.obsm["X_log"] = np.log1p(adata.X.toarray())
    pb.tl.split(adata, axis="combination", fraction=0.5, valid=0.0)
    return adata


@pytest.fixture(scope="module")
def models(screen) -> dict[str, object]:
    out = {}
    for name, options in (("Ridge", {}), ("SAMSVAE", {"n_latent": 3, "n_hidden": 16})):
        kind = getattr(pb.model, name)
        kind.setup_anndata(screen, perturbation_key="perturbation", batch_key="batch")
        out[name] = kind(screen, **options)
        out[name].train(**({"max_steps": 30, **QUIET} if name == "SAMSVAE" else {}))
    return out


def in_a_file(adata: ad.AnnData, folder) -> ad.AnnData:
    adata.write_h5ad(folder / "screen.h5ad")
    return ad.read_h5ad(folder / "screen.h5ad", backed="r")


def dense_in_a_file(adata: ad.AnnData, folder) -> ad.AnnData:
    dense = adata.copy()
    dense.X = dense.X.toarray()
    return in_a_file(dense, folder)


def by_columns(adata: ad.AnnData, folder) -> ad.AnnData:
    adata.X = sparse.csc_matrix(adata.X)
    return adata


def as_float64(adata: ad.AnnData, folder) -> ad.AnnData:
    adata.X = adata.X.astype(np.float64)
    adata.obsm["X_log"] = adata.obsm["X_log"].astype(np.float64)
    return adata


def with_unused_categories(adata: ad.AnnData, folder) -> ad.AnnData:
    for key in ("perturbation", "batch"):
        adata.obs[key] = pd.Categorical(adata.obs[key]).add_categories(["ZZZ", "nobody+nowhere"])
    return adata


def as_a_view(adata: ad.AnnData, folder) -> ad.AnnData:
    more = ad.concat([adata, adata[:20].copy()], uns_merge="same", index_unique=None)
    more.obs_names = [*adata.obs_names, *(f"more{i}" for i in range(20))]
    return more[: adata.n_obs]


def as_a_view_of_a_file(adata: ad.AnnData, folder) -> ad.AnnData:
    more = as_a_view(adata, folder)
    n_obs = adata.n_obs
    return in_a_file(more._adata_ref, folder)[:n_obs]


FORMS = [
    in_a_file,
    dense_in_a_file,
    by_columns,
    as_float64,
    with_unused_categories,
    as_a_view,
    as_a_view_of_a_file,
]


def judged(adata, models):
    options = {"protocol": ["core", "cell-eval", "iwelbo"], "baselines": ["Mean", "Additive"], "n_resamples": 50}
    return pb.tl.evaluate(models, adata, **options).table


def split(adata, models):
    one = pb.tl.split(adata, axis="perturbation", fraction=0.5, seed=1, copy=True)
    both = pb.tl.nested_splits(one, fractions=[0, 0.5], copy=True)
    assert not one.isbacked
    assert "pb_split" in one.obs
    return both.obs[["pb_split", "pb_split_0", "pb_split_0.5"]].astype(str)


def distances(adata, models):
    return pd.concat([pb.tl.edistance(adata, use_rep=key, max_cells=20) for key in ("X", "X_log")])


def e_tests(adata, models):
    return pb.tl.etest(adata, use_rep="X", batch_key="batch", n_permutations=300)


def effects(adata, models):
    rows = np.random.default_rng(0).permutation(adata.n_obs)[:200]
    return pb.tl.effects(adata, batch_key="batch", cells=rows).to_df()


def responders(adata, models):
    return (
        pb.tl.responders(adata, n_neighbors=5, n_comps=5, batch_key="batch", copy=True).obs["pb_responder"].astype(str)
    )


def calibrated(adata, models):
    return pb.tl.calibration(models["SAMSVAE"], adata, estimate_kwargs={"n_draws": 20}).perturbations


def checked(adata, models):
    return pb.tl.posterior_predictive_check(models["SAMSVAE"], adata, n_replicates=19).summary


def consistent(adata, models):
    return pd.concat([pb.tl.consistency(one, adata, n_cells=20) for one in models.values()])


TOOLS = [judged, split, distances, e_tests, effects, responders, calibrated, checked, consistent]


@pytest.fixture(scope="module")
def plain(screen, models) -> dict[object, pd.DataFrame]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {tool: pd.DataFrame(tool(screen.copy(), models)) for tool in TOOLS}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_the_form_of_data_does_not_matter(tool, form, screen, models, plain, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata and scvi-tools have something to say of views
        found = pd.DataFrame(tool(form(screen.copy(), tmp_path), models))
    expected = plain[tool]
    assert found.shape == expected.shape
    for column in expected:
        one, other = found[column], expected[column]
        if tool is consistent and column == "value":
            continue  # rounding errors themselves
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4, err_msg=str(column))
        else:
            assert one.astype(str).tolist() == other.astype(str).tolist(), column
