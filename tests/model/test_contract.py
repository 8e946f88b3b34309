"""The contract that every model keeps, whatever it is: one file, run over all of them."""

from __future__ import annotations

import inspect
import pickle
import warnings
from typing import TYPE_CHECKING, get_args

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import (
    ControlError,
    ExtrapolationWarning,
    FeatureMismatch,
    NotTrainedError,
    RepresentationMismatch,
    ScaleError,
    UnknownPerturbation,
    UnsupportedQuery,
)
from perturbia.model.base import Capability, PerturbationModel, VirtualCellModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEEN, UNSEEN = "P01+P02", "P03+P04"
STEPS = ("encode", "perturb", "decode", "predict")


def every_result(model: PerturbationModel) -> dict[str, ad.AnnData]:
    latent = model.encode(indices=[0, 3, 60])
    shifted = model.perturb(latent, SEEN, n_draws=2, seed=1)
    return {
        "encode": latent,
        "perturb": shifted,
        "decode": model.decode(shifted),
        "counts": model.decode(shifted, scale="counts"),
        "effect": model.estimate_ate(["P01", SEEN]),
    }


def assert_same(one: ad.AnnData, other: ad.AnnData) -> None:
    np.testing.assert_array_equal(one.X, other.X)
    for layer in one.layers:
        np.testing.assert_array_equal(one.layers[layer], other.layers[layer])


def assert_close(one: ad.AnnData, other: ad.AnnData) -> None:
    """Equal but for the rounding of products over other batches of cells."""
    np.testing.assert_allclose(one.X, other.X, rtol=1e-4, atol=1e-5)
    for layer in one.layers:
        np.testing.assert_allclose(one.layers[layer], other.layers[layer], rtol=1e-4, atol=1e-5)


# what a model is -------------------------------------------------------------------------------------------------


def test_every_public_model_is_tested(recipes: list) -> None:
    public = [getattr(pb.model, name) for name in pb.model.__all__]
    models = {cls.__name__ for cls in public if isinstance(cls, type) and issubclass(cls, PerturbationModel)}
    # SVAE refuses the pairs of the common screen; tests/model/mechanism/test_svae.py has one of its own
    assert models - {"SVAE"} == {recipe.name for recipe in recipes}


def test_keeps_the_protocol(model: PerturbationModel) -> None:
    assert isinstance(model, VirtualCellModel)
    assert isinstance(model.capabilities, frozenset)
    assert model.capabilities <= set(get_args(Capability))
    assert "counts" in model.capabilities
    assert model.perturbations == ["P01", "P02", "P03", "P04"]
    assert type(model).__name__ in repr(model)


# what comes out --------------------------------------------------------------------------------------------------


def test_shapes_names_and_numbers(model: PerturbationModel) -> None:
    results = every_result(model)
    n_latent = results["encode"].n_vars
    shapes = {
        "encode": (3, n_latent),
        "perturb": (6, n_latent),
        "decode": (6, 25),
        "counts": (6, 25),
        "effect": (2, 25),
    }
    for name, result in results.items():
        assert result.shape == shapes[name], name
        for values in (result.X, *result.layers.values()):
            assert values.dtype == np.float32, name
            assert np.isfinite(values).all(), name
        assert (result.layers["sd"] >= 0).all(), name
        assert result.obs_names.is_unique, name
    for name in ("decode", "counts", "effect"):
        assert list(results[name].var_names) == list(model.adata.var_names)
    assert (results["counts"].X >= 0).all()
    assert (results["decode"].X >= 0).all()
    assert (results["effect"].layers["se"] >= 0).all()
    assert list(results["effect"].obs_names) == ["P01", SEEN]


def test_observations_say_where_they_come_from(model: PerturbationModel) -> None:
    latent = model.encode(indices=[60, 3])
    names = model.adata.obs_names[[60, 3]]
    assert list(latent.obs_names) == list(names)
    assert latent.obs["pb_perturbation"].tolist() == model.adata.obs["perturbation"].astype(str).iloc[[60, 3]].tolist()
    assert set(model.adata.obs.columns) <= set(latent.obs.columns)
    shifted = model.perturb(latent, "P02", n_draws=3)
    assert shifted.obs["pb_perturbation"].unique().tolist() == ["P02"]
    assert shifted.obs["pb_draw"].tolist() == [0, 0, 1, 1, 2, 2]
    assert shifted.obs["pb_source"].tolist() == list(names) * 3
    assert model.decode(shifted).obs["pb_source"].tolist() == list(names) * 3


def test_indices_may_be_a_mask_and_in_any_order(model: PerturbationModel, screen, tmp_path) -> None:
    backed = _backed(screen, tmp_path)
    mask = np.zeros(model.adata.n_obs, dtype=bool)
    mask[[3, 60]] = True
    both = model.encode(indices=mask)
    for data in (None, backed):
        mixed = model.encode(data, indices=[60, 3, 60])
        assert_close(mixed, both[[1, 0, 1]])
        np.testing.assert_allclose(mixed.obs["pb_library"], both.obs["pb_library"].iloc[[1, 0, 1]])


def test_metadata_say_what_it_is(model: PerturbationModel) -> None:
    kinds = {"encode": "latent", "perturb": "latent", "decode": "readout", "counts": "readout", "effect": "effect"}
    scales = {"decode": "log1p_cp10k", "counts": "counts", "effect": "log1p_cp10k"}
    for name, result in every_result(model).items():
        metadata = result.uns["perturbia"]
        assert metadata["schema"] == 1
        assert metadata["kind"] == kinds[name]
        assert metadata["model"] == type(model).__name__
        assert metadata["ur_id"] == model.ur_id
        assert metadata["scale"] == scales.get(name, "embedding")
        assert metadata["control"] == "observed"


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_results_survive_files(model: PerturbationModel, tmp_path: Path, form: str) -> None:
    for name, result in every_result(model).items():
        path = tmp_path / f"{name}.{form}"
        (result.write_h5ad if form == "h5ad" else result.write_zarr)(path)
        back = (ad.read_h5ad if form == "h5ad" else ad.read_zarr)(path)
        assert back.uns["perturbia"] == result.uns["perturbia"]
        assert_same(back, result)
    latent = (ad.read_h5ad if form == "h5ad" else ad.read_zarr)(tmp_path / f"perturb.{form}")
    assert_same(model.decode(latent), every_result(model)["decode"])


def test_samples_are_cells(model: PerturbationModel) -> None:
    one, same, other = (model.sample(SEEN, 7, seed=seed) for seed in (1, 1, 2))
    assert one.shape == (7, 25)
    assert one.X.dtype == np.float32
    assert np.isfinite(one.X).all()
    assert (one.X >= 0).all()
    assert one.obs_names.is_unique
    assert one.obs["pb_perturbation"].unique().tolist() == [SEEN]
    assert list(one.var_names) == list(model.adata.var_names)
    assert one.uns["perturbia"]["kind"] == "readout"
    assert one.uns["perturbia"]["ur_id"] == model.ur_id
    np.testing.assert_array_equal(one.X, same.X)
    assert not np.array_equal(one.X, other.X)


# what must agree -------------------------------------------------------------------------------------------------


def test_predict_is_the_composition(model: PerturbationModel) -> None:
    controls = np.flatnonzero(model.adata.obs["perturbation"] == "control")
    for scale in ("log1p_cp10k", "counts"):
        latent = model.encode(model.adata, indices=controls)
        by_hand = model.decode(model.perturb(latent, SEEN, n_draws=2, seed=3), scale=scale)
        predicted = model.predict(model.adata, SEEN, scale=scale, n_draws=2, seed=3)
        assert_same(by_hand, predicted)
        pd.testing.assert_frame_equal(by_hand.obs, predicted.obs)
    assert_same(model.predict(None, SEEN), model.predict(model.adata, SEEN))


def test_control_changes_nothing(model: PerturbationModel) -> None:
    latent = model.encode(indices=np.arange(20))
    assert_same(model.perturb(latent, "control"), latent)
    assert_same(model.decode(model.perturb(latent, "control")), model.decode(latent))
    assert_same(model.perturb(latent, {}, n_draws=2)[:20], latent)
    effect = model.estimate_ate(["control"])
    assert np.abs(effect.X).max() == 0
    assert np.abs(effect.layers["se"]).max() == 0


def test_spelling_does_not_matter(model: PerturbationModel) -> None:
    latent = model.encode(indices=[0, 1])
    results = [
        model.perturb(latent, query)
        for query in ("P01+P02", "P02+P01", {"P02": 1.0, "P01": 1}, ["P02", "P01"], pb.Perturbation("P01+P02"))
    ]
    for other in results[1:]:
        assert_same(results[0], other)
        assert other.obs["pb_perturbation"].tolist() == ["P01+P02"] * 2
    effects = model.estimate_ate(["P02+P01", "P03"])
    np.testing.assert_allclose(model.estimate_ate(["P03", SEEN]).X, effects.X[::-1], rtol=1e-4, atol=1e-6)
    assert list(effects.obs_names) == [SEEN, "P03"]


def test_perturbing_replaces_the_perturbation(model: PerturbationModel) -> None:
    """Whatever a latent was shifted by before, `encode` gives states without their own effect."""
    cells = np.flatnonzero(model.adata.obs["perturbation"] == "P01")[:5]
    own = model.perturb(model.encode(indices=cells), "P01")
    assert own.obs["pb_perturbation"].tolist() == ["P01"] * 5
    # what a decoder reads moves no latent
    if model.estimate_ate(["P01"]).X.any() and type(model).__name__ != "ConditionalVAE":
        assert not np.array_equal(own.X, model.encode(indices=cells).X)


def test_seed_decides(model: PerturbationModel) -> None:
    latent = model.encode(indices=[0, 1])
    one, same, other = (model.perturb(latent, SEEN, n_draws=3, seed=seed).X for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    fresh = [model.perturb(latent, SEEN, n_draws=3, seed=None).X for _ in range(2)]
    # effects that are weights of a decoder have no posterior to draw from
    if "uncertainty" in model.capabilities and type(model).__name__ != "ConditionalVAE":
        assert not np.array_equal(one, other)
        assert not np.array_equal(*fresh)
        assert not np.array_equal(one[:2], one[2:4])
    else:
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(*fresh)


def test_uncertainty_is_in_sd_or_in_draws(model: PerturbationModel) -> None:
    latent = model.encode(indices=[0])
    widened = model.perturb(latent, SEEN).layers["sd"] ** 2 - latent.layers["sd"] ** 2
    draws = model.perturb(latent, SEEN, n_draws=400, seed=0).X
    np.testing.assert_allclose(draws.std(0), np.sqrt(np.maximum(widened[0], 0)), rtol=0.25, atol=0.02)
    np.testing.assert_allclose(draws.mean(0), model.perturb(latent, SEEN).X[0], atol=0.2)


def test_training_twice_is_bit_equal(recipe, model: PerturbationModel) -> None:
    again = recipe.fit(model.adata.copy(), batch_key="batch")
    assert again.ur_id == model.ur_id
    assert_same(again.predict(None, SEEN), model.predict(None, SEEN))


def test_default_effects_are_those_of_the_data(model: PerturbationModel) -> None:
    effects = model.estimate_ate()
    registered = set(model.adata.obs["perturbation"]) - {"control"}
    unanswerable = set() if "combination" in model.capabilities else {UNSEEN}
    assert set(effects.obs_names) == registered - unanswerable
    n_cells = model.adata.obs["perturbation"][model.adata.obs["pb_split"] == "train"].value_counts()
    assert effects.obs["n_cells"].to_dict() == {name: n_cells[name] for name in effects.obs_names}
    assert_same(model.estimate_ate(list(effects.obs_names)), effects)


def test_test_cells_do_not_train(recipe, model: PerturbationModel) -> None:
    changed = model.adata.copy()
    held_out = (changed.obs["pb_split"] != "train").to_numpy()
    changed.X = sparse.csr_matrix(np.where(held_out[:, None], changed.X.toarray() + 3, changed.X.toarray()))
    assert recipe.fit(changed, batch_key="batch").ur_id == model.ur_id


# what goes in ----------------------------------------------------------------------------------------------------


def _backed(adata: ad.AnnData, path: Path) -> ad.AnnData:
    adata.write_h5ad(path / "cells.h5ad")
    return ad.read_h5ad(path / "cells.h5ad", backed="r")


def _with_x(convert: Callable) -> Callable:
    def change(adata: ad.AnnData, path: Path) -> ad.AnnData:
        del path
        adata.X = convert(adata.X)
        del adata.layers["counts"]
        return adata

    return change


def _unused_category(adata: ad.AnnData, path: Path) -> ad.AnnData:
    del path
    adata.obs["perturbation"] = adata.obs["perturbation"].cat.add_categories(["nobody"])
    return adata


def _text_labels(adata: ad.AnnData, path: Path) -> ad.AnnData:
    del path
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str).astype(object)
    return adata


def _repeated_names(adata: ad.AnnData, path: Path) -> ad.AnnData:
    del path
    adata.obs_names = ["cell"] * adata.n_obs
    return adata


FORMS = {
    "csc": _with_x(sparse.csc_matrix),
    "dense": _with_x(lambda x: x.toarray()),
    "float64": _with_x(lambda x: x.astype(np.float64)),
    "int64": _with_x(lambda x: x.astype(np.int64)),
    "array": _with_x(sparse.csr_array),
    "backed": _backed,
    "backed_dense": lambda adata, path: _backed(_with_x(lambda x: x.toarray())(adata, path), path),
    "unused_category": _unused_category,
    "text_labels": _text_labels,
    "repeated_names": _repeated_names,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_every_form_of_data_gives_the_same(recipe, model: PerturbationModel, screen, tmp_path, form: str) -> None:
    adata = FORMS[form](screen, tmp_path)
    before_x = np.asarray(adata.X[:].todense() if sparse.issparse(adata.X[:]) else adata.X[:])
    before_obs, before_var, kind = adata.obs.copy(), adata.var.copy(), type(adata.X)
    trained = recipe.fit(adata, batch_key="batch")
    predicted, expected = trained.predict(adata, SEEN), model.predict(None, SEEN)
    if "backed" in form and recipe.name == "SAMSVAE":
        # batches of a file come sorted, so training draws other noise
        assert np.corrcoef(predicted.X.ravel(), expected.X.ravel())[0, 1] > 0.9
    else:
        np.testing.assert_allclose(predicted.X, expected.X, rtol=1e-4, atol=1e-5)
        effects = trained.estimate_ate(["P01"])
        np.testing.assert_allclose(effects.X, model.estimate_ate(["P01"]).X, rtol=1e-3, atol=1e-5)
    after_x = np.asarray(adata.X[:].todense() if sparse.issparse(adata.X[:]) else adata.X[:])
    np.testing.assert_array_equal(after_x, before_x)
    assert after_x.dtype == before_x.dtype
    assert type(adata.X) is kind
    pd.testing.assert_frame_equal(adata.obs[before_obs.columns], before_obs)
    pd.testing.assert_frame_equal(adata.var, before_var)
    assert {c for c in adata.obs.columns if c not in before_obs.columns} == {"_scvi_batch"}
    assert {k for k in adata.obsm if k not in screen.obsm} <= {"_perturbia_dosage"}


def test_a_view_is_refused_at_registration_and_read_at_transfer(recipe, model: PerturbationModel, screen) -> None:
    with pytest.raises(ValueError, match=r"copy\(\)"):
        recipe.register(screen[:100])
    view = screen[::2]
    predicted = model.predict(view, SEEN)
    assert_same(predicted, model.predict(screen[::2].copy(), SEEN))
    assert set(screen.obsm) == {"truth_basal", "truth_latent"}
    assert list(screen.obs.columns) == ["perturbation", "batch", "pb_split"]


def test_results_do_not_share_memory_with_the_input(model: PerturbationModel) -> None:
    latent = model.encode(indices=[0, 1])
    before = latent.copy()
    for result in (model.perturb(latent, SEEN), model.decode(latent)):
        result.X[:] = -1
        result.layers["sd"][:] = -1
        result.obs["pb_source"] = "nowhere"
    assert_same(latent, before)
    pd.testing.assert_frame_equal(latent.obs, before.obs)


def test_one_cell(model: PerturbationModel, screen) -> None:
    alone = screen[:1].copy()
    assert_close(model.encode(alone), model.encode(indices=[0]))
    predicted = model.predict(alone, SEEN, n_draws=2)
    assert predicted.shape == (2, 25)
    assert np.isfinite(predicted.X).all()


def test_one_perturbation(recipe, screen) -> None:
    few = screen[screen.obs["perturbation"].isin(["control", "P01"])].copy()
    trained = recipe.fit(few, init={"rank": 1} if "rank" in recipe.init else {})
    assert trained.perturbations == ["P01"]
    assert trained.predict(None, "P01").n_vars == 25
    assert list(trained.estimate_ate().obs_names) == ["P01"]


def test_a_perturbation_of_one_cell(recipe, screen) -> None:
    first = np.flatnonzero((screen.obs["perturbation"] == "P03") & (screen.obs["pb_split"] == "train"))[0]
    keep = (screen.obs["perturbation"] != "P03").to_numpy()
    keep[first] = True
    trained = recipe.fit(screen[keep].copy(), batch_key="batch")
    effect = trained.estimate_ate(["P03"])
    assert effect.obs["n_cells"].tolist() == [1]
    for values in (effect.X, effect.layers["se"]):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_a_design_matrix_serves_as_well_as_labels(recipe, model: PerturbationModel, screen, form) -> None:
    dosage = model.adata.obsm["_perturbia_dosage"].toarray()
    if form is np.asarray:
        screen.obsm["design"] = pd.DataFrame(dosage, index=screen.obs_names, columns=model.perturbations)
    else:
        screen.obsm["design"] = form(dosage)
        screen.uns["design"] = {"names": model.perturbations}
    trained = recipe.fit(screen, perturbation_obsm_key="design", batch_key="batch")
    assert_same(trained.predict(None, SEEN), model.predict(None, SEEN))


def test_batches_are_read(recipe, model: PerturbationModel, screen) -> None:
    chosen = np.flatnonzero((screen.obs["batch"] == "batch_2") & (screen.obs["perturbation"] == "control"))
    one_batch = screen[chosen].copy()
    latent = model.encode(one_batch)
    assert_close(latent, model.encode(indices=chosen))
    assert_same(model.decode(latent), model.decode(model.encode(indices=chosen)))
    screen.obs["phase"] = np.where(np.arange(screen.n_obs) % 3 == 0, "S", "G1")
    screen.obs["depth"] = np.linspace(-1, 1, screen.n_obs)
    trained = recipe.fit(
        screen, batch_key="batch", categorical_covariate_keys=["phase"], continuous_covariate_keys=["depth"]
    )
    assert trained.predict(None, SEEN).shape == (50, 25)


def test_size_factors_are_read(recipe, screen) -> None:
    screen.obs["size"] = np.asarray(screen.X.sum(1)).ravel() * 2
    trained = recipe.fit(screen, size_factor_key="size")
    latent = trained.encode(indices=[0, 1])
    np.testing.assert_allclose(latent.obs["pb_library"], screen.obs["size"].iloc[:2], rtol=1e-6)
    assert np.isfinite(trained.decode(latent, scale="counts").X).all()


def test_other_scales(recipe, screen) -> None:
    screen.X = np.log1p(screen.X.toarray())
    has_likelihood = "gene_likelihood" in inspect.signature(recipe.cls).parameters
    init = {"gene_likelihood": "normal"} if has_likelihood else {}
    trained = recipe.fit(screen, scale="zscore", init=init)
    assert "counts" not in trained.capabilities
    predicted = trained.predict(None, SEEN)
    assert predicted.uns["perturbia"]["scale"] == "zscore"
    assert "pb_library" not in predicted.obs
    assert trained.estimate_ate(["P01"]).uns["perturbia"]["scale"] == "zscore"
    with pytest.raises(ScaleError, match="zscore"):
        trained.decode(trained.encode(indices=[0]), scale="counts")


# doses and combinations --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dosed(recipe) -> PerturbationModel:
    adata = pb.datasets.simulate_screen(
        n_perturbations=3, n_combinations=0, n_genes=15, n_latent=2, n_controls=40, n_truth_cells=50, doses=(0.5, 1.0)
    )
    return recipe.fit(adata)


def test_doses(dosed: PerturbationModel) -> None:
    assert set(dosed.adata.obs["perturbation"]) == {"control", *(f"P0{i}{d}" for i in (1, 2, 3) for d in ("", "@0.5"))}
    assert set(dosed.estimate_ate().obs_names) == set(dosed.adata.obs["perturbation"]) - {"control"}
    full, half = dosed.estimate_ate(["P01", "P01@0.5"]).X
    if type(dosed).__name__ in {"NoChange", "Mean", "MeanSameOrder"}:
        np.testing.assert_array_equal(full, half)
    else:
        assert not np.array_equal(full, half)
    assert dosed.predict(None, {"P01": 0.5}).obs["pb_perturbation"].unique().tolist() == ["P01@0.5"]
    if "dose" in dosed.capabilities:
        assert dosed.predict(None, "P01@0.75").n_vars == 15
    else:
        with pytest.raises(UnsupportedQuery, match="dose"):
            dosed.predict(None, "P01@0.75")


def test_doses_outside_the_registered_range_warn(dosed: PerturbationModel) -> None:
    latent = dosed.encode(indices=[0])
    if "dose" not in dosed.capabilities:
        pytest.skip("refused in any case")
    with pytest.warns(ExtrapolationWarning, match=r"dose 2 of 'P01'.*0\.5 to 1"):
        dosed.perturb(latent, "P01@2")
    with pytest.warns(ExtrapolationWarning, match=r"dose 2 of 'P01'"):
        dosed.estimate_ate(["P01@2"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExtrapolationWarning)
        dosed.perturb(latent, "P01@0.5")


def test_a_dose_column_serves_as_well_as_labels(recipe, dosed: PerturbationModel) -> None:
    adata = dosed.adata.copy()
    parts = adata.obs["perturbation"].astype(str).str.split("@")
    adata.obs["drug"], adata.obs["amount"] = parts.str[0], parts.str[1].fillna("1").astype(float)
    trained = recipe.fit(adata, perturbation_key="drug", dose_key="amount")
    assert_same(trained.predict(None, "P02@0.5"), dosed.predict(None, "P02@0.5"))


def test_unseen_combinations(model: PerturbationModel) -> None:
    if "combination" in model.capabilities:
        assert model.predict(None, UNSEEN).n_vars == 25
    else:
        for ask in (lambda: model.predict(None, UNSEEN), lambda: model.estimate_ate([UNSEEN])):
            with pytest.raises(UnsupportedQuery, match=r"'combination'.*Additive"):
                ask()


# new data ----------------------------------------------------------------------------------------------------------


def test_features_are_matched_by_name(model: PerturbationModel, screen) -> None:
    expected = model.predict(screen.copy(), SEEN)
    reordered = model.predict(screen[:, ::-1].copy(), SEEN)
    assert_same(reordered, expected)
    more = ad.concat([screen, ad.AnnData(np.ones((screen.n_obs, 3)), obs=screen.obs[[]])], axis=1, merge="same")
    more.obs = screen.obs.copy()
    assert_same(model.predict(more, SEEN), expected)
    assert more.n_vars == 28
    with pytest.raises(FeatureMismatch, match=r"2 are missing.*gene_01"):
        model.predict(screen[:, 2:].copy(), SEEN)


def test_new_data_need_not_hold_all_perturbations(model: PerturbationModel, screen) -> None:
    only = screen[screen.obs["perturbation"] == "control"].copy()
    assert_same(model.predict(only, SEEN), model.predict(None, SEEN))
    treated = screen[screen.obs["perturbation"] == "P01"].copy()
    with pytest.raises(ControlError, match="cells='all'"):
        model.predict(treated, SEEN)
    assert model.predict(treated, SEEN, cells="all").n_obs == treated.n_obs


# saving ------------------------------------------------------------------------------------------------------------


def test_save_and_load(recipe, model: PerturbationModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = recipe.cls.load(tmp_path / "model", adata=model.adata.copy(), accelerator="cpu")
    assert loaded.ur_id == model.ur_id
    assert loaded.capabilities == model.capabilities
    assert repr(loaded) == repr(model)
    for name, result in every_result(model).items():
        assert_same(every_result(loaded)[name], result)
    assert_same(loaded.predict(None, SEEN, n_draws=2), model.predict(None, SEEN, n_draws=2))
    # latents of the one are coordinates of the other
    assert_same(loaded.decode(model.encode(indices=[0])), model.decode(model.encode(indices=[0])))


def test_load_without_data(recipe, model: PerturbationModel, screen, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = recipe.cls.load(tmp_path / "model", adata=False, accelerator="cpu")
    effects = loaded.estimate_ate()
    assert np.isfinite(effects.X).all()
    for cells in (screen[:70].copy(), screen[40:].copy()):
        predicted = loaded.predict(cells, SEEN)
        np.testing.assert_allclose(predicted.X, model.predict(cells, SEEN).X, rtol=1e-4, atol=1e-5)
    assert_same(loaded.estimate_ate(), effects)
    with pytest.raises(ValueError, match="adata: expected data"):
        loaded.encode()


def test_pickle(model: PerturbationModel) -> None:
    copy = pickle.loads(pickle.dumps(model))
    assert copy.ur_id == model.ur_id
    assert_same(copy.predict(None, SEEN, n_draws=2), model.predict(None, SEEN, n_draws=2))


def test_registry_alone_makes_a_model(recipe, model: PerturbationModel, screen) -> None:
    empty = recipe.cls(registry=model.registry, **recipe.init)
    assert empty.perturbations == model.perturbations
    assert list(empty.get_var_names()) == list(model.adata.var_names)
    with pytest.raises(NotTrainedError):
        empty.estimate_ate(["P01"])
    empty.module.load_state_dict(model.module.state_dict())
    empty.is_trained_ = True
    assert empty.ur_id == model.ur_id
    assert_same(empty.predict(screen, SEEN), model.predict(screen.copy(), SEEN))


# errors ------------------------------------------------------------------------------------------------------------


def test_nothing_before_training(recipe, model: PerturbationModel, screen) -> None:
    recipe.register(screen)
    untrained = recipe.cls(screen, **recipe.init)
    latent = model.encode(indices=[0])
    for ask in (
        untrained.encode,
        lambda: untrained.perturb(latent, "P01"),
        lambda: untrained.decode(latent),
        lambda: untrained.predict(screen, "P01"),
        untrained.estimate_ate,
    ):
        with pytest.raises(NotTrainedError, match=r"\.train\(\)"):
            ask()


@pytest.mark.parametrize("step", ["perturb", "predict", "estimate_ate"])
def test_unknown_perturbations_are_named_with_their_neighbours(model: PerturbationModel, step: str) -> None:
    latent = model.encode(indices=[0])
    ask = {
        "perturb": lambda: model.perturb(latent, "P1+P02"),
        "predict": lambda: model.predict(None, "P1+P02"),
        "estimate_ate": lambda: model.estimate_ate(["P1+P02"]),
    }[step]
    with pytest.raises(UnknownPerturbation, match=r"'P1' \(nearest: P01, P0\d, P0\d\)") as caught:
        ask()
    assert isinstance(caught.value, KeyError)


def test_coordinates_of_others_are_refused(recipe, model: PerturbationModel, screen) -> None:
    foreign = model.encode(indices=[0])
    foreign.uns["perturbia"] = {**foreign.uns["perturbia"], "ur_id": "0123456789ab", "model": "Somebody"}
    for step in (lambda: model.decode(foreign), lambda: model.perturb(foreign, "P01")):
        with pytest.raises(RepresentationMismatch, match=f"{model.ur_id}.*Somebody.*0123456789ab"):
            step()
    bare = ad.AnnData(np.ones((2, 25), dtype=np.float32))
    with pytest.raises(RepresentationMismatch, match="encode"):
        model.decode(bare)
    with pytest.raises(RepresentationMismatch, match="encode"):
        model.perturb(model.decode(model.encode(indices=[0])), "P01")
    other = recipe.fit(screen[screen.obs["perturbation"] != "P04"].copy())
    with pytest.raises(RepresentationMismatch, match=other.ur_id):
        model.decode(other.encode(indices=[0]))


def test_impossible_scales_are_refused(model: PerturbationModel) -> None:
    latent = model.encode(indices=[0])
    for ask in (
        lambda: model.decode(latent, scale="zscore"),
        lambda: model.predict(None, "P01", scale="zscore"),
        lambda: model.estimate_ate(["P01"], scale="zscore"),
    ):
        with pytest.raises(ScaleError, match="zscore"):
            ask()


def test_empty_selections_are_refused(model: PerturbationModel) -> None:
    for nothing in ([], np.zeros(model.adata.n_obs, dtype=bool)):
        with pytest.raises(ValueError, match="indices: expected at least one cell"):
            model.encode(indices=nothing)
    with pytest.raises(ValueError, match="n_draws"):
        model.perturb(model.encode(indices=[0]), "P01", n_draws=0)
