"""Bad input, over every model: a clear error before anything is written, or, where it is not bad at all, a result."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbia import Perturbation
from perturbia.errors import (
    ControlError,
    DoseError,
    FeatureMismatch,
    LabelError,
    PerturbiaError,
    RepresentationMismatch,
    ScaleError,
    SplitError,
    UnknownPerturbation,
    UnsupportedQuery,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from perturbia.model.base import PerturbationModel

SLOTS = ("obs", "var", "obsm", "varm", "layers", "obsp", "uns")


def dense(values: Any) -> np.ndarray:
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


def snapshot(adata: ad.AnnData) -> ad.AnnData:
    return adata.copy()


def assert_untouched(adata: ad.AnnData, before: ad.AnnData) -> None:
    for slot in SLOTS:
        assert list(getattr(adata, slot).keys()) == list(getattr(before, slot).keys()), slot
    np.testing.assert_array_equal(dense(adata.X), dense(before.X))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    for slot in ("obsm", "layers"):
        for key, values in getattr(adata, slot).items():
            np.testing.assert_array_equal(dense(values), dense(getattr(before, slot)[key]))


def _without(adata: ad.AnnData, column: str) -> ad.AnnData:
    del adata.obs[column]
    return adata


# changes of a good screen ------------------------------------------------------------------------------------------


def with_column(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[ad.AnnData], ad.AnnData]:
    def build(adata: ad.AnnData) -> ad.AnnData:
        adata.obs[name] = change(adata.obs["perturbation"].astype(str).to_numpy().astype(object))
        return adata

    return build


def with_value(value: float, row: int = 5, *, whole_row: bool = False) -> Callable[[ad.AnnData], ad.AnnData]:
    def build(adata: ad.AnnData) -> ad.AnnData:
        matrix = adata.X.toarray()
        matrix[row, slice(None) if whole_row else 3] = value
        adata.X = sparse.csr_matrix(matrix)
        return adata

    return build


def first(labels: np.ndarray, value: Any) -> np.ndarray:
    labels = labels.copy()
    labels[np.flatnonzero(labels != "control")[0]] = value
    return labels


@dataclass(frozen=True)
class Case:
    """A screen that can not be registered."""

    build: Callable[[ad.AnnData], ad.AnnData]
    error: type[Exception]
    match: str
    setup: dict[str, Any] | None = None


REGISTRATION = {
    "nan_label": Case(with_column("perturbation", lambda x: first(x, np.nan)), LabelError, "without one"),
    "empty_label": Case(with_column("perturbation", lambda x: first(x, "P01++P02")), LabelError, r"P01\+\+P02"),
    "twice_in_a_label": Case(with_column("perturbation", lambda x: first(x, "P01+P01")), LabelError, "P01"),
    "missing_column": Case(lambda a: a, LabelError, "'guide'.*perturbation", {"perturbation_key": "guide"}),
    "real_numbers": Case(
        with_column("score", lambda x: np.linspace(0.1, 0.9, len(x))), LabelError, "real", {"perturbation_key": "score"}
    ),
    "an_identifier": Case(
        with_column("cell", lambda x: [f"cell{i}" if i > 9 else "control" for i in range(len(x))]),
        LabelError,
        "identifier",
        {"perturbation_key": "cell"},
    ),
    "no_control": Case(lambda a: a[a.obs["perturbation"] != "control"].copy(), ControlError, "Labels seen.*P01"),
    "wrong_control_name": Case(
        with_column("perturbation", lambda x: np.where(x == "control", "NT", x)),
        ControlError,
        r"'control'.*got none\. Did you mean control='NT'\? Labels seen: 'NT', 'P01'",
    ),
    "control_by_another_name": Case(
        lambda a: a, ControlError, r"control=\['ctrl'\], got 'control'", {"control": "ctrl"}
    ),
    "only_controls": Case(lambda a: a[a.obs["perturbation"] == "control"].copy(), LabelError, "at least one"),
    "negative_dose": Case(with_column("dose", lambda x: [-1.0] * len(x)), DoseError, "-1", {"dose_key": "dose"}),
    "dose_of_zero": Case(with_column("dose", lambda x: [0.0] * len(x)), DoseError, "0", {"dose_key": "dose"}),
    "nan_dose": Case(with_column("dose", lambda x: [np.nan] * len(x)), DoseError, "dose", {"dose_key": "dose"}),
    "negative_dose_in_a_label": Case(with_column("perturbation", lambda x: first(x, "P01@-1")), DoseError, "-1"),
    "missing_dose_column": Case(lambda a: a, LabelError, "'dose'", {"dose_key": "dose"}),
    "two_sources": Case(lambda a: a, LabelError, "exactly one", {"perturbation_obsm_key": "truth_basal"}),
    "all_zero_cell": Case(with_value(0.0, whole_row=True), ScaleError, "1 empty cell.*filter_cells"),
    "fractions": Case(with_value(0.5), ScaleError, r"raw counts.*fraction 0\.5.*layer='counts'"),
    "negative_counts": Case(with_value(-1.0), ScaleError, "negative value -1"),
    "nan_counts": Case(with_value(np.nan), ScaleError, "finite"),
    "infinite_counts": Case(with_value(np.inf), ScaleError, "finite"),
    "unknown_scale": Case(lambda a: a, ScaleError, "log1p_cp10k.*'logs'", {"scale": "logs"}),
    "missing_layer": Case(lambda a: a, KeyError, "'raw'", {"layer": "raw"}),
    "missing_batch": Case(lambda a: a, KeyError, "'plate'", {"batch_key": "plate"}),
    "size_factor_of_zero": Case(
        with_column("size", lambda x: [0.0] * len(x)),
        ScaleError,
        r"positive.*obs\['size'\]",
        {"size_factor_key": "size"},
    ),
    "nan_batch": Case(
        with_column("plate", lambda x: first(x, np.nan)),
        LabelError,
        r"batch_key.*obs\['plate'\].*1 without one",
        {"batch_key": "plate"},
    ),
    "nan_category": Case(
        with_column("phase", lambda x: first(x, np.nan)),
        LabelError,
        r"categorical_covariate_keys.*obs\['phase'\].*1 without one",
        {"categorical_covariate_keys": ["phase"]},
    ),
    "nan_covariate": Case(
        with_column("age", lambda x: first(np.ones(len(x)), np.nan)),
        ScaleError,
        r"continuous_covariate_keys.*finite.*obs\['age'\].*nan in 1 cell",
        {"continuous_covariate_keys": ["age"]},
    ),
    "text_covariate": Case(
        lambda a: a, ScaleError, r"finite.*'control'", {"continuous_covariate_keys": ["perturbation"]}
    ),
    "covariates_as_text": Case(
        lambda a: a, LabelError, r"expected a list.*'batch'", {"categorical_covariate_keys": "batch"}
    ),
    "missing_covariate": Case(lambda a: a, KeyError, "'phase'", {"categorical_covariate_keys": ["phase"]}),
}


@pytest.mark.parametrize("case", REGISTRATION.values(), ids=REGISTRATION.keys())
def test_registration_refuses_and_writes_nothing(recipe, screen: ad.AnnData, case: Case) -> None:
    adata = case.build(screen)
    before = snapshot(adata)
    setup = {"perturbation_key": "perturbation", **(case.setup or {})}
    with pytest.raises(case.error, match=case.match) as caught:
        recipe.cls.setup_anndata(adata, **setup)
    assert isinstance(caught.value, PerturbiaError | KeyError)
    assert_untouched(adata, before)


TRANSFER = {
    "unknown_label": Case(
        with_column("perturbation", lambda x: first(x, "P99")), UnknownPerturbation, r"'P99' \(nearest: P0"
    ),
    "nan_label": Case(with_column("perturbation", lambda x: first(x, np.nan)), LabelError, "without one"),
    "no_labels": Case(lambda a: _without(a, "perturbation"), LabelError, "perturbation"),
    "negative_dose": Case(with_column("perturbation", lambda x: first(x, "P01@-1")), DoseError, "-1"),
    "all_zero_cell": Case(with_value(0.0, whole_row=True), ScaleError, "1 empty cell"),
    "fractions": Case(with_value(0.5), ScaleError, "raw counts"),
    "missing_genes": Case(lambda a: a[:, 3:].copy(), FeatureMismatch, "25 features.*3 are missing: 'gene_01'"),
    "unknown_batch": Case(
        with_column("batch", lambda x: ["batch_9"] * len(x)),
        UnsupportedQuery,
        r"obs\['batch'\].*'batch_9'.*unseen_context",
    ),
    "missing_batch": Case(lambda a: _without(a, "batch"), KeyError, "'batch'"),
    "repeated_genes": Case(
        lambda a: ad.concat([a, a[:, :2]], axis=1, merge="same"), FeatureMismatch, "var_names_make_unique"
    ),
}


@pytest.mark.parametrize("case", TRANSFER.values(), ids=TRANSFER.keys())
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_transfer_refuses_and_writes_nothing(model: PerturbationModel, screen: ad.AnnData, case: Case) -> None:
    adata = case.build(screen)
    before = snapshot(adata)
    for ask in (lambda: model.encode(adata), lambda: model.predict(adata, "P01")):
        with pytest.raises(case.error, match=case.match):
            ask()
        assert_untouched(adata, before)


def test_queries_refuse_and_write_nothing(model: PerturbationModel) -> None:
    before = snapshot(model.adata)
    latent = model.encode(indices=[0])
    table = {
        "P99": (UnknownPerturbation, r"'P99' \(nearest"),
        "P01+P01": (LabelError, "P01"),
        "P01@-1": (DoseError, "-1"),
        "P01@nan": (DoseError, "nan"),
        "": (LabelError, ""),
    }
    for query, (error, match) in table.items():
        for ask in (lambda q=query: model.perturb(latent, q), lambda q=query: model.estimate_ate([q])):
            with pytest.raises(error, match=match):
                ask()
    with pytest.raises(DoseError, match="0"):
        model.perturb(latent, {"P01": 0.0})
    assert_untouched(model.adata, before)


def test_only_anndata_are_data(recipe, model: PerturbationModel) -> None:
    for other, name in (("screen.h5ad", "str"), (pd.DataFrame(), "DataFrame")):
        with pytest.raises(TypeError, match=f"adata: expected AnnData, got {name}"):
            recipe.cls.setup_anndata(other, perturbation_key="perturbation")
        with pytest.raises(TypeError, match=f"adata: expected AnnData, got {name}"):
            model.predict(other, "P01")


def test_one_query_is_no_sequence_of_queries(model: PerturbationModel) -> None:
    expected = model.estimate_ate(["P01"])
    for query in ("P01", Perturbation("P01"), {"P01": 1.0}):
        assert list(model.estimate_ate(query).obs_names) == ["P01"]
        np.testing.assert_array_equal(model.estimate_ate(query).X, expected.X)
    with pytest.raises(ValueError, match="at least one query"):
        model.estimate_ate([])


def test_a_context_is_not_ignored(model: PerturbationModel) -> None:
    with pytest.raises(UnsupportedQuery, match="unseen_context"):
        model.predict(None, Perturbation("P01", context={"cell_type": "K562"}))


def test_switches_and_cells_are_not_guessed(model: PerturbationModel) -> None:
    with pytest.raises(ValueError, match="cells: expected one of 'control', 'all', got 'ctrl'"):
        model.predict(None, "P01", cells="ctrl")
    latent = model.encode(indices=[0])
    with pytest.raises(ValueError, match="n_draws: expected a positive integer, got 2.5"):
        model.perturb(latent, "P01", n_draws=2.5)
    for indices, error, match in (
        (np.ones(3, dtype=bool), ValueError, "mask of"),
        ([0.5], ValueError, "whole numbers"),
        (["cell"], ValueError, "whole numbers"),
        (3, ValueError, "sequence"),
        ([10**6], IndexError, "positions below"),
    ):
        with pytest.raises(error, match=f"indices: expected.*{match}"):
            model.encode(indices=indices)


def test_a_latent_with_dimensions_moved_is_refused(model: PerturbationModel) -> None:
    latent = model.encode(indices=[0, 1])
    bare = latent.copy()
    del bare.layers["sd"]
    for changed in (latent[:, ::-1].copy(), latent[:, :2].copy(), bare):
        for ask in (lambda x=changed: model.decode(x), lambda x=changed: model.perturb(x, "P01")):
            with pytest.raises(RepresentationMismatch, match="dimensions"):
                ask()


@pytest.mark.parametrize("size", [None, 0.0, -1.0, np.nan])
def test_library_sizes_are_sizes(model: PerturbationModel, size: float | None) -> None:
    latent = model.encode(indices=[0, 1])
    if size is None:
        del latent.obs["pb_library"]
    else:
        latent.obs["pb_library"] = [100.0, size]
    with pytest.raises(ScaleError, match=r"latent: expected .* in obs\['pb_library'\]"):
        model.decode(latent)
    if size is not None and "library_size" in inspect.signature(model.sample).parameters:
        with pytest.raises(ValueError, match="library_size: expected a positive number"):
            model.sample("P01", 2, library_size=size)


SPLITS = {
    "nobody_trains": (lambda labels: ["test"] * len(labels), SplitError, r"'train' in obs\['pb_split'\].*test"),
}


@pytest.mark.parametrize("case", SPLITS.values(), ids=SPLITS.keys())
def test_impossible_splits(recipe, screen: ad.AnnData, case: tuple) -> None:
    split, error, match = case
    screen.obs["pb_split"] = split(screen.obs["perturbation"])
    recipe.register(screen)
    untrained = recipe.cls(screen, **recipe.init)
    before = snapshot(screen)
    with pytest.raises(error, match=match):
        untrained.train(**recipe.train)
    assert not untrained.is_trained_
    assert_untouched(screen, before)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda a: a[a.obs["perturbation"].isin(["control", "P01"])].copy(), id="one_perturbation"),
        pytest.param(lambda a: a[np.zeros(a.n_obs, dtype=int) + np.arange(a.n_obs)].copy(), id="reindexed"),
        pytest.param(lambda a: _rename(a, ["cell"] * a.n_obs), id="repeated_names"),
        pytest.param(lambda a: _rename(a, [f"{i}" for i in range(a.n_obs)]), id="numbers_as_names"),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_unusual_input_works(recipe, screen: ad.AnnData, build: Callable) -> None:
    adata = build(screen)
    trained = recipe.fit(adata, init={"rank": 1} if "rank" in recipe.init else {})
    predicted = trained.predict(adata, "P01", n_draws=2)
    assert predicted.n_obs == 2 * int((adata.obs["perturbation"] == "control").sum())
    assert np.isfinite(predicted.X).all()


def _rename(adata: ad.AnnData, names: list[str]) -> ad.AnnData:
    adata.obs_names = names
    return adata
