"""Minified models answer as before; what needs the features is refused."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import NotTrainedError, RepresentationMismatch, UnsupportedQuery

from .conftest import GUIDES, QUIET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from perturbia.model import SAMSVAE

LATENTS, COUNTS = "latent_posterior_parameters", "latent_posterior_parameters_with_counts"
ALL_KEYS = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["phase"],
    "continuous_covariate_keys": ["age"],
    "size_factor_key": "size",
}
CASES: dict[str, dict[str, Any]] = {
    **{
        f"{basal}-{update}": {"init": {"basal_encoder": basal, "global_update": update}}
        for basal, update in [*GUIDES, ("informed", "closed_form")]
    },
    "covariates": {"setup": ALL_KEYS},
    "published with covariates": {
        "setup": ALL_KEYS,
        "init": {"basal_encoder": "correlated", "global_update": "gradient"},
    },
    "design": {"init": {"interactions": "observed", "dose_response": "power", "target_effect": {"P02": "gene_03"}}},
    "zinb": {"init": {"gene_likelihood": "zinb"}},
    "normal": {"setup": {"scale": "zscore"}, "init": {"gene_likelihood": "normal"}},
    "matrix": {"setup": {"perturbation_key": None, "perturbation_obsm_key": "design"}},
    "layer": {"setup": {"layer": "counts"}},
}


def answers(model: SAMSVAE, adata: ad.AnnData | None = None) -> dict[str, np.ndarray]:
    """Everything that needs latents alone."""
    found: dict[str, Any] = {}
    for kind in ("full", "basal", "perturbation"):
        found[kind], found[f"{kind} variance"] = model.get_latent_representation(adata, kind=kind, return_dist=True)
    found["draw"] = model.get_latent_representation(adata, give_mean=False)
    latent = model.encode(adata, indices=[60, 3, 60])
    shifted = model.perturb(latent, "P01+P02", n_draws=2, seed=1)
    effect = model.estimate_ate(["P01", "P02+P03"], n_draws=30, interval=0.9, n_cells=30)
    results = {"encode": latent, "perturb": shifted, "decode": model.decode(shifted), "ate": effect}
    results |= {"predict": model.predict(adata, "P03"), "all": model.predict(adata, "P03", cells="all", scale=None)}
    results["default ate"] = model.estimate_ate(n_draws=0, n_cells=20)
    for name, result in results.items():
        found[name] = result.X
        found |= {f"{name} {layer}": values for layer, values in result.layers.items()}
        if "pb_library" in result.obs:
            found[f"{name} library"] = result.obs["pb_library"].to_numpy()
        found[f"{name} labels"] = result.obs["pb_perturbation"].to_numpy(dtype=str)
    found["n cells"] = results["default ate"].obs["n_cells"].to_numpy()
    for query in (None, "control", "P01+P02"):
        found[f"expression {query}"] = model.get_normalized_expression(
            adata, perturbation=query, n_samples=2, return_numpy=True
        )
    found["sample"] = model.sample("P01", 5).X
    found["prior ate"] = model.estimate_ate(["P01"], base="prior", n_cells=20).X
    replicate = model.posterior_predictive_sample(adata, basal="prior")
    found["replicate"] = replicate.toarray() if sparse.issparse(replicate) else replicate
    return found


def short_answers(model: SAMSVAE, adata: ad.AnnData | None = None) -> dict[str, np.ndarray]:
    """Some of them."""
    found = {kind: model.get_latent_representation(adata, kind=kind) for kind in ("full", "basal")}
    found["predict"] = model.predict(adata, "P03").X
    found["expression control"] = model.get_normalized_expression(
        adata, perturbation="control", n_samples=2, return_numpy=True
    )
    return found


def assert_some(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert_same(found, {name: expected[name] for name in found})


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        if values.dtype.kind in "US":
            assert (found[name] == values).all(), name
        else:
            np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.fixture
def case(screen, fit: Callable) -> Callable[[str], SAMSVAE]:
    def make(name: str) -> SAMSVAE:
        options = CASES[name]
        if name == "normal":
            screen.X = np.log1p(screen.X.toarray())
        if name == "matrix":
            labels = screen.obs["perturbation"].astype(str)
            names = ["P04", "P02", "P01", "P03"]
            screen.obsm["design"] = pd.DataFrame(
                {name: labels.str.contains(name).astype(float) for name in names}, index=screen.obs_names
            )
        return fit(screen, setup=options.get("setup"), init=options.get("init"), max_steps=30)

    return make


@pytest.mark.parametrize("name", CASES)
def test_nothing_changes(case: Callable, name: str, tmp_path: Path) -> None:
    """Before, after, from files, with the data beside the model or read apart."""
    model = case(name)
    original, ur_id = model.adata, model.ur_id
    before_obs, before_x = original.obs.copy(), original.X.copy()
    expected = answers(model)
    model.minify_adata()
    assert model.minified_data_type == LATENTS
    assert model.ur_id == ur_id
    assert "minified?: True" in repr(model)
    for matrix in (model.adata.X, *model.adata.layers.values()):
        assert sparse.issparse(matrix)
        assert matrix.nnz == 0
    assert_same(answers(model), expected)
    # the data that the model was made of are untouched, and still answer
    pd.testing.assert_frame_equal(original.obs, before_obs)
    assert abs(original.X - before_x).sum() == 0
    assert_some(short_answers(model, original), expected)
    assert_some(short_answers(pickle.loads(pickle.dumps(model))), expected)

    model.save(tmp_path / "model", save_anndata=True)
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", accelerator="cpu")
    assert loaded.minified_data_type == LATENTS
    assert_same(answers(loaded), expected)
    assert "observed_lib_size" in loaded.adata.obs
    model.adata.write_h5ad(tmp_path / "minified.h5ad")
    read = ad.read_h5ad(tmp_path / "minified.h5ad")
    apart = pb.model.SAMSVAE.load(tmp_path / "model", adata=read, accelerator="cpu")
    assert_some(short_answers(apart), expected)
    alone = pb.model.SAMSVAE.load(tmp_path / "model", adata=False, accelerator="cpu")
    for data in (ad.read_h5ad(tmp_path / "minified.h5ad"), original.copy()):
        assert_some(short_answers(alone, data), expected)
    whole = pb.model.SAMSVAE.load(tmp_path / "model", adata=original.copy(), accelerator="cpu")
    assert whole.minified_data_type is None
    assert_some(short_answers(whole), expected)
    assert np.isfinite(whole.get_iwelbo(n_particles=2)).all()


def test_what_is_stored(case: Callable) -> None:
    for name in ("residual-closed_form", "correlated-gradient"):
        model = case(name)
        kind = "full" if model.module.encodes_total else "basal"
        mean, variance = model.get_latent_representation(kind=kind, return_dist=True)
        dosage, total = model.adata.obsm["_perturbia_dosage"], np.asarray(model.adata.X.sum(1)).ravel()
        model.minify_adata()
        stored = model.adata
        np.testing.assert_array_equal(stored.obsm["perturbia_latent_qzm"], mean)
        np.testing.assert_array_equal(stored.obsm["perturbia_latent_qzv"], variance)
        assert stored.obsm["perturbia_latent_qzm"].dtype == np.float32
        np.testing.assert_array_equal(stored.obs["observed_lib_size"], total)
        assert (stored.obsm["_perturbia_dosage"] != dosage).nnz == 0
        assert stored.uns["perturbia_minified"] == {"model": "SAMSVAE", "ur_id": model.ur_id}
        tensors = next(iter(model._make_data_loader(adata=stored)))
        assert "X" not in tensors
        assert {"latent_qzm", "latent_qzv", "observed_lib_size", "treatment_index"} <= set(tensors)


@pytest.mark.parametrize("name", ["residual-closed_form", "mean_field-gradient"])
def test_the_protocol_of_scvi_tools(case: Callable, name: str) -> None:
    model = case(name)
    expected = short_answers(model)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = model.get_latent_representation(
        return_dist=True
    )
    model.adata.obsm["other"] = model.adata.obsm["X_latent_qzm"] + 1
    with pytest.raises(RepresentationMismatch, match="obsm.'other'.*get_latent_representation"):
        model.minify_adata(use_latent_qzm_key="other")
    with pytest.raises(RepresentationMismatch, match="get_latent_representation"):
        model.minify_adata(use_latent_qzm_key="X_latent_qzv", use_latent_qzv_key="X_latent_qzm")
    with pytest.raises(KeyError, match="expected keys of obsm, got .'absent'"):
        model.minify_adata(use_latent_qzm_key="absent")
    assert model.minified_data_type is None
    model.minify_adata(LATENTS)
    assert_same(short_answers(model), expected)


@pytest.mark.parametrize("name", ["residual-closed_form", "correlated-gradient", "covariates"])
def test_counts_may_stay(case: Callable, name: str, tmp_path: Path) -> None:
    model = case(name)
    expected, bounds = short_answers(model), model.get_iwelbo(n_particles=4)
    combined = model.estimate_ate(["P01"], combine="shrunk_residual", n_draws=0).X
    replicate = model.posterior_predictive_sample(indices=range(30))
    counts = model.adata.X.copy()
    model.minify_adata(COUNTS)
    assert model.minified_data_type == COUNTS
    assert abs(model.adata.X - counts).sum() == 0
    assert_same(short_answers(model), expected)
    for same in (model, _saved_and_loaded(model, tmp_path)):
        pd.testing.assert_series_equal(same.get_iwelbo(n_particles=4), bounds, rtol=1e-5)
        np.testing.assert_allclose(
            same.estimate_ate(["P01"], combine="shrunk_residual", n_draws=0).X, combined, rtol=1e-4, atol=1e-5
        )
        assert (same.posterior_predictive_sample(indices=range(30)) != replicate).nnz == 0
        assert np.isfinite(float(same.get_elbo()))
        assert same.get_reconstruction_error()["reconstruction_loss"] is not None
    with pytest.raises(UnsupportedQuery, match="train: expected data with features, got minified data"):
        model.train(max_steps=1, **QUIET)


def test_replicates_of_latents(case: Callable) -> None:
    """The posterior of a cell is stored, except under the correlated guide, which asks the drawn offset."""
    model = case("covariates")
    expected = model.posterior_predictive_sample(indices=[4, 90, 2])
    model.minify_adata()
    assert abs(model.posterior_predictive_sample(indices=[4, 90, 2]) - expected).max() <= 1
    published = case("published with covariates")
    published.minify_adata()
    with pytest.raises(
        UnsupportedQuery, match="basal='posterior' under the correlated guide: expected data with features"
    ):
        published.posterior_predictive_sample()


def test_differential_expression(case: Callable) -> None:
    """Without counts, genes that are not expressed are those that the model expects so; little depends on it."""
    model = case("covariates")
    ask = [{"perturbation": "P01"}, {"perturbation": "P01", "counterfactual": True}, {"groupby": "batch"}]
    before = [model.differential_expression(**way, n_samples_overall=500) for way in ask]
    model.minify_adata()
    for way, table in zip(ask, before, strict=True):
        found = model.differential_expression(**way, n_samples_overall=500)
        assert list(found) == list(table)
        assert found[["raw_mean1", "raw_normalized_mean2"]].isna().all(None)
        key = ["comparison", "gene"]
        found, expected = (t.rename_axis("gene").reset_index().sort_values(key) for t in (found, table))
        columns = ["proba_de", "lfc_mean", "scale1", "scale2"]
        np.testing.assert_allclose(found[columns], expected[columns], rtol=1e-3, atol=5e-3)


def test_pieces_and_new_cells(case: Callable, screen) -> None:
    model = case("covariates")
    fresh = screen[::3].copy()
    expected = model.get_latent_representation(fresh)
    chosen = model.get_latent_representation(indices=[5, 50, 7])
    model.minify_adata()
    piece = model.adata[[5, 50, 7]].copy()
    np.testing.assert_allclose(model.get_latent_representation(piece), chosen, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.get_latent_representation(model.adata[[5, 50, 7]]), chosen, rtol=1e-5, atol=1e-6)
    reordered = model.adata[:, ::-1].copy()
    assert np.isfinite(model.predict(reordered, "P01").X).all()
    # cells with counts are encoded
    later = screen[::3].copy()
    np.testing.assert_allclose(model.get_latent_representation(later), expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(model.get_iwelbo(later, n_particles=2)).all()


def test_a_backed_file_shrinks(screen, fit: Callable, tmp_path: Path) -> None:
    screen.write_h5ad(tmp_path / "cells.h5ad")
    model = fit(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), max_steps=10)
    expected = answers(model)
    model.minify_adata()
    assert not model.adata.isbacked
    assert_same(answers(model), expected)
    kept = fit(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), max_steps=10)
    kept.minify_adata(COUNTS)
    assert np.isfinite(kept.get_iwelbo(n_particles=2)).all()


def test_minified_data_may_be_new_to_a_model(case: Callable, tmp_path: Path) -> None:
    """A model that was never minified reads minified data of its own latents."""
    model = case("covariates")
    expected = model.get_latent_representation()
    model.save(tmp_path / "model")
    other = pb.model.SAMSVAE.load(tmp_path / "model", adata=model.adata.copy(), accelerator="cpu")
    other.minify_adata()
    np.testing.assert_allclose(model.get_latent_representation(other.adata.copy()), expected, rtol=1e-5, atol=1e-6)
    assert model.minified_data_type is None


# refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "get_iwelbo": lambda m, d: m.get_iwelbo(d),
    "get_marginal_ll": lambda m, d: m.get_marginal_ll(d),
    "get_elbo": lambda m, d: m.get_elbo(d),
    "get_reconstruction_error": lambda m, d: m.get_reconstruction_error(d),
}


@pytest.mark.parametrize("what", REFUSED)
def test_likelihoods_want_counts(case: Callable, what: str) -> None:
    model = case("covariates")
    model.minify_adata()
    for data in (None, model.adata.copy()):
        with pytest.raises(UnsupportedQuery, match=f"expected data with features, got minified.*{COUNTS}"):
            REFUSED[what](model, data)


def test_other_refusals(case: Callable, screen) -> None:
    model = case("covariates")
    with pytest.raises(ValueError, match="minified_data_type: expected one of 'latent_posterior_parameters'"):
        model.minify_adata("latents")
    model.minify_adata()
    with pytest.raises(UnsupportedQuery, match="combine='shrunk_residual': expected data with features"):
        model.estimate_ate(["P01"], combine="shrunk_residual")
    with pytest.raises(UnsupportedQuery, match="train: expected data with features"):
        model.train(max_steps=1, **QUIET)
    with pytest.raises(UnsupportedQuery, match="expected data that are not minified"):
        model.minify_adata()
    for tool in (pb.tl.effects, pb.tl.responders):
        with pytest.raises(UnsupportedQuery, match="adata: expected data with features"):
            tool(model.adata.copy())
    with pytest.raises(UnsupportedQuery, match="adata: expected data with features"):
        pb.tl.posterior_predictive_check(model, model.adata)
    with pytest.raises(UnsupportedQuery, match="Additive reads no latents"):
        pb.model.Additive.setup_anndata(model.adata.copy(), perturbation_key="perturbation")
    pb.model.Additive.setup_anndata(screen, perturbation_key="perturbation")
    additive = pb.model.Additive(screen)
    additive.train()
    with pytest.raises(UnsupportedQuery, match="Additive reads no latents"):
        additive.predict(model.adata.copy(), "P01")


def test_an_untrained_model_has_no_latents(screen) -> None:
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    with pytest.raises(NotTrainedError):
        pb.model.SAMSVAE(screen).minify_adata()


def test_latents_of_others_are_refused(case: Callable, fit: Callable, screen) -> None:
    model = case("covariates")
    other = fit(screen.copy(), setup=ALL_KEYS, init={"seed": 5}, max_steps=30)
    model.minify_adata()
    with pytest.raises(RepresentationMismatch, match=f"{other.ur_id}.*{model.ur_id}.*Minify the original data"):
        other.encode(model.adata.copy())
    broken = model.adata.copy()
    del broken.obsm["perturbia_latent_qzv"]
    with pytest.raises(RepresentationMismatch, match="got no obsm.'perturbia_latent_qzv'.*Minify them again"):
        model.encode(broken)
    strange = model.adata.copy()
    strange.uns["_scvi_adata_minify_type"] = "latents"
    with pytest.raises(RepresentationMismatch, match="= 'latents'"):
        model.encode(strange)


def _saved_and_loaded(model: SAMSVAE, path: Path) -> SAMSVAE:
    model.save(path / "model", save_anndata=True)
    return pb.model.SAMSVAE.load(path / "model", accelerator="cpu")
