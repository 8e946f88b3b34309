from __future__ import annotations

import pickle
from io import StringIO

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import rich.console
import scipy.sparse as sp
import torch
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField
from scvi.dataloaders import AnnDataLoader

from perturbia.errors import ControlError, DoseError, LabelError, UnknownPerturbation
from perturbia.perturbation import PerturbationField, registered_perturbations

LABELS = ["B+A", "ctrl", "A+ctrl", "C", "ctrl"]
DENSE = [[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
KEY = "_perturbia_dosage"


def cells(labels, **columns):
    obs = pd.DataFrame({"target": labels, **columns}, index=[f"c{i}" for i in range(len(labels))])
    return ad.AnnData(np.arange(len(labels) * 2, dtype="float64").reshape(-1, 2), obs=obs)


def register(adata, *args, **kwargs):
    field = PerturbationField(*args, **{"control": "ctrl", **kwargs})
    manager = AnnDataManager(fields=[LayerField("X", None), field], setup_method_args={"setup_args": {}})
    manager.register_fields(adata)
    return manager


def test_registration_writes_one_canonical_matrix_and_nothing_else():
    adata = cells(LABELS)
    before = adata.copy()
    manager = register(adata, "target")
    stored = adata.obsm[KEY]
    assert isinstance(stored, sp.csr_matrix)
    assert (stored.dtype, stored.has_canonical_format) == (np.float32, True)
    assert stored.toarray().tolist() == DENSE
    assert manager.fields[1].names == ["A", "B", "C"]
    assert manager.summary_stats["n_perturbations"] == 3
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == [KEY]
    assert {key for key in adata.uns if not key.startswith("_scvi")} == set()
    np.testing.assert_array_equal(adata.X, before.X)


def test_state_is_plain_python():
    manager = register(cells(LABELS, dose=["3+0.1", "0", "1", "2", "0"]), "target", dose_key="dose")
    state = registered_perturbations(manager.registry)
    assert state == {
        "names": ["A", "B", "C"],
        "control": ["ctrl"],
        "sep": "+",
        "source": "obs",
        "key": "target",
        "dose_key": "dose",
        "named": True,
        "n_cells": [2, 1, 1],
        "dose_range": [(0.1, 1.0), (3.0, 3.0), (2.0, 2.0)],
    }
    assert all(type(n) is int for n in state["n_cells"])
    assert all(type(dose) is float for pair in state["dose_range"] for dose in pair)
    state["names"].append("changed")
    assert registered_perturbations(manager.registry)["names"] == ["A", "B", "C"]


def test_permuted_cells_register_alike():
    order = [4, 2, 0, 3, 1]
    one, other = (
        registered_perturbations(register(adata, "target").registry)
        for adata in (cells(LABELS), cells(LABELS)[order].copy())
    )
    assert one == other


@pytest.mark.parametrize("kind", ["csc", "float64", "frame", "duplicate names", "unused categories", "backed"])
def test_minibatches_carry_the_dense_dosage(kind, tmp_path):
    adata = cells(LABELS)
    arguments = {"perturbation_key": "target"}
    if kind in ("csc", "float64", "frame"):
        dense = np.array(DENSE, dtype=np.float64)
        frame = pd.DataFrame(dense, columns=["A", "B", "C"], index=adata.obs_names)
        adata.obsm["design"] = {"csc": sp.csc_matrix(dense), "float64": dense, "frame": frame}[kind]
        arguments = {"perturbation_obsm_key": "design"}
    elif kind == "duplicate names":
        adata.obs_names = ["same"] * adata.n_obs
    elif kind == "unused categories":
        adata.obs["target"] = pd.Categorical(LABELS, categories=["", "Z", *sorted(set(LABELS))])
    elif kind == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    manager = register(adata, **arguments)
    loader = AnnDataLoader(manager, batch_size=3)
    batches = [batch["perturbation"] for batch in loader]
    assert [batch.dtype for batch in batches] == [torch.float32, torch.float32]
    assert torch.cat(batches).tolist() == DENSE


def test_registering_twice_is_registering_once():
    adata = cells(LABELS)
    first, second = register(adata, "target"), register(adata, "target")
    first.validate()  # registers again, since the other manager came last
    assert adata.obsm[KEY].toarray().tolist() == DENSE
    assert first.registry["field_registries"]["perturbation"] == second.registry["field_registries"]["perturbation"]


def test_names_of_a_matrix_come_from_columns_then_uns_then_nowhere():
    adata = cells(LABELS)
    adata.obsm["design"] = np.array(DENSE)
    assert registered_perturbations(register(adata, perturbation_obsm_key="design").registry)["names"] == [
        "t0",
        "t1",
        "t2",
    ]
    adata.uns["design"] = {"names": np.array(["z", "y", "x"], dtype=object), "control": np.array(["NT"])}
    state = registered_perturbations(register(adata, perturbation_obsm_key="design").registry)
    assert (state["names"], state["control"]) == (["z", "y", "x"], ["NT"])
    adata.obsm["design"] = pd.DataFrame(DENSE, columns=["q", "r", "s"], index=adata.obs_names)
    assert registered_perturbations(register(adata, perturbation_obsm_key="design").registry)["names"] == [
        "q",
        "r",
        "s",
    ]


# -- transfer ---------------------------------------------------------------------------------------------------------


def test_transfer_keeps_names_and_order_and_what_was_seen():
    source = register(cells(LABELS), "target")
    other = cells(["C", "A+C"])  # no controls, no B
    target = source.transfer_fields(other)
    assert other.obsm[KEY].toarray().tolist() == [[0, 0, 1], [1, 0, 1]]
    assert registered_perturbations(target.registry) == registered_perturbations(source.registry)


def test_transfer_from_a_pickled_registry():
    registry = pickle.loads(pickle.dumps(register(cells(LABELS), "target").registry))
    assert registered_perturbations(registry)["names"] == ["A", "B", "C"]
    other = cells(["C", "ctrl"])
    field = PerturbationField("target", control="ctrl")
    manager = AnnDataManager(fields=[field])
    manager.register_fields(other, registry)
    assert other.obsm[KEY].shape == (2, 3)
    assert field.names == ["A", "B", "C"]


def test_extending_appends_new_targets_at_the_end():
    source = register(cells(LABELS), "target")
    other = cells(["Z+0+B", "ctrl"])
    state = registered_perturbations(source.transfer_fields(other, extend_categories=True).registry)
    assert state["names"] == ["A", "B", "C", "0", "Z"]
    assert state["n_cells"] == [2, 1, 1, 1, 1]
    assert other.obsm[KEY].toarray().tolist() == [[0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]
    assert source.fields[1].names == ["A", "B", "C"]


def test_named_matrices_are_matched_by_name():
    adata = cells(LABELS)
    adata.obsm["design"] = pd.DataFrame(DENSE, columns=["A", "B", "C"], index=adata.obs_names)
    source = register(adata, perturbation_obsm_key="design")
    other = cells(["x", "y"])
    other.obsm["design"] = pd.DataFrame({"C": [1.0, 0], "new": [0.0, 0], "A": [0, 2.0]}, index=other.obs_names)
    source.transfer_fields(other)
    assert other.obsm[KEY].toarray().tolist() == [[0, 0, 1], [2, 0, 0]]
    bare = cells(["x", "y"])
    bare.obsm["design"] = np.array([[0, 0, 1], [2, 0, 0]])
    with pytest.raises(LabelError, match="without names"):
        source.transfer_fields(bare)
    assert KEY not in bare.obsm


def test_bare_matrices_are_matched_by_width():
    adata = cells(LABELS)
    adata.obsm["design"] = np.array(DENSE)
    source = register(adata, perturbation_obsm_key="design")
    same, wider = cells(["x"]), cells(["x"])
    same.obsm["design"], wider.obsm["design"] = np.array([[0, 0, 1]]), np.array([[0, 0, 1, 0]])
    source.transfer_fields(same)
    assert same.obsm[KEY].toarray().tolist() == [[0, 0, 1]]
    with pytest.raises(LabelError, match="registered 3 columns, got 4 columns"):
        source.transfer_fields(wider, extend_categories=True)


def test_data_to_transfer_may_have_a_target_of_its_own_in_every_cell():
    targets = [f"g{i}" for i in range(150)]
    source = register(cells(["ctrl", *targets, *targets, *targets]), "target")
    other = cells(targets)
    source.transfer_fields(other)
    assert other.obsm[KEY].sum(axis=0).tolist() == [[1] * 150]


def test_a_column_that_comes_twice_is_refused():
    adata = cells(["A", "ctrl"], other=["A", "ctrl"])
    adata.obs.columns = ["target", "target"]
    with pytest.raises(LabelError, match="got 2"):
        PerturbationField("target", control="ctrl").validate_field(adata)


@pytest.mark.parametrize("options", [{}, {"allow_missing_labels": True, "extend_categories": True}])
def test_missing_labels_are_never_taken_for_control(options):
    other = cells(["A", "B"])
    del other.obs["target"]
    with pytest.raises(LabelError, match="expected a column of adata.obs, got 'target'"):
        register(cells(LABELS), "target").transfer_fields(other, **options)
    assert KEY not in other.obsm


def test_unknown_targets_are_named_with_their_neighbours():
    other = cells(["STAT11", "ctrl"])
    source = register(cells(["STAT1", "STAT2", "JAK2", "IRF1", "ctrl"]), "target")
    with pytest.raises(UnknownPerturbation, match=r"'STAT11' \(nearest: STAT1, STAT2, .*extend_categories"):
        source.transfer_fields(other)
    assert KEY not in other.obsm


# -- bad input: each refused before anything is written ---------------------------------------------------------------

BAD = [
    (["A", None, "ctrl"], {}, LabelError, "1 of 3 without one"),
    (["A", "B+B", "ctrl"], {}, LabelError, "'B' twice"),
    (["A", "B@-1", "ctrl"], {}, DoseError, "above 0"),
    (["A", "B", "A"], {}, ControlError, "Labels seen: 'A', 'B'"),
    (["A", "NT", "A"], {}, ControlError, "Did you mean control='NT'"),
    (["ctrl", "ctrl", "ctrl"], {}, LabelError, "at least one perturbation"),
    (["A", "B", "ctrl"], {"dose_key": "nowhere"}, LabelError, "dose_key: expected a column"),
    (["A", "B", "ctrl"], {"dose_key": "dose"}, DoseError, "got -1"),
    (["A", "B", "ctrl"], {"key": "nowhere"}, LabelError, "perturbation_key: expected a column"),
    (["A", "B", "ctrl"], {"key": None, "perturbation_obsm_key": "nowhere"}, LabelError, "a key of adata.obsm"),
]


@pytest.mark.parametrize(("labels", "options", "error", "text"), BAD)
def test_bad_data_are_refused_before_anything_is_written(labels, options, error, text):
    adata = cells(labels, dose=[1, -1, 0])
    before = adata.copy()
    options = dict(options)
    key = options.pop("key", "target")
    field = PerturbationField(key, control="ctrl", **options)
    with pytest.raises(error, match=text):
        field.validate_field(adata)
    with pytest.raises(error, match=text):
        AnnDataManager(fields=[field]).register_fields(adata)
    assert list(adata.obsm) == list(adata.uns) == []
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_one_perturbation_is_enough():
    adata = cells(["A", "ctrl"])
    assert register(adata, "target").summary_stats["n_perturbations"] == 1
    assert adata.obsm[KEY].toarray().tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, LabelError),
        ({"perturbation_key": "a", "perturbation_obsm_key": "b"}, LabelError),
        ({"perturbation_obsm_key": "b", "dose_key": "c"}, LabelError),
        ({"perturbation_key": "a", "control": []}, ControlError),
        ({"perturbation_key": "a", "control": "unassigned"}, ControlError),
    ],
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error, match="expected"):
        PerturbationField(**arguments)


def test_what_is_not_registered_says_so():
    with pytest.raises(LabelError, match="seen no data"):
        _ = PerturbationField("target").names
    with pytest.raises(LabelError, match="Run setup_anndata"):
        registered_perturbations({"field_registries": {"X": {}}})


def test_view_of_the_registry():
    manager = register(cells(LABELS, dose=["3+0.1", "0", "1", "2", "0"]), "target", dose_key="dose")
    table = manager.fields[1].view_state_registry(registered_perturbations(manager.registry))
    console = rich.console.Console(file=StringIO(), width=100)
    console.print(table)
    text = console.file.getvalue()
    assert "adata.obs['target']" in text
    assert "0.1 to 1" in text
