from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbia.errors import ControlError, DoseError, LabelError, UnsupportedQuery
from perturbia.perturbation import dosage_labels
from perturbia.pp import encode_perturbations


def cells(labels, *, var_names=("g0", "g1"), **columns):
    obs = pd.DataFrame({"target": labels, **columns}, index=[f"c{i}" for i in range(len(labels))])
    return ad.AnnData(np.ones((len(labels), len(var_names))), obs=obs, var=pd.DataFrame(index=list(var_names)))


def read(adata, key="perturbation"):
    return dosage_labels(adata.obsm[key], [str(name) for name in adata.uns[key]["names"]]).tolist()


# how every ecosystem writes the same four cells
STYLES = {
    "gears": (["A+ctrl", "ctrl", "B+A", "ctrl+B"], "ctrl"),
    "cpa": (["A", "control", "A+B", "B"], "control"),
    "pertpy": (["A", "NT", "A+B", "B"], "NT"),
    "scperturb": (["A", "control", "B+A", "B"], "control"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("declared", [True, False])
def test_every_style_gives_one_design(style, declared):
    labels, control = STYLES[style]
    adata = cells(labels)
    assert encode_perturbations(adata, "target", control=control, style=style if declared else "auto") is None
    assert read(adata) == ["A", "control", "A+B", "B"]
    design = adata.obsm["perturbation"]
    assert isinstance(design, sp.csr_matrix)
    assert design.dtype == np.float32
    assert adata.obs["perturbation_n"].tolist() == [1, 0, 2, 1]
    assert adata.obs["perturbation_n"].dtype == np.int64
    assert adata.obs["is_control"].tolist() == [False, True, False, False]
    assert adata.obs["is_control"].dtype == bool
    stored = adata.uns["perturbation"]
    assert (list(stored["names"]), list(stored["control"]), stored["sep"]) == (["A", "B"], [control], "+")
    assert stored["n_perturbations"] == 2
    assert adata.obs["target"].tolist() == labels


def test_arc_labels_are_never_split():
    adata = cells(["OXR1_+_107", "non-targeting"])
    encode_perturbations(adata, "target", control="non-targeting", style="arc")
    assert list(adata.uns["perturbation"]["names"]) == ["OXR1_+_107"]


@pytest.mark.parametrize("doses", [["10+1", "0", "2"], pd.Categorical(["10+1", "x", "2.0"])])
def test_dose_text_follows_the_written_order(doses):
    adata = cells(["B+A", "NT", "A"], dose=doses)
    encode_perturbations(adata, "target", control="NT", dose_key="dose")
    assert read(adata) == ["A+B@10", "control", "A@2"]


def test_doses_as_numbers_or_inside_labels():
    adata = cells(["A", "NT", "B"], dose=[0.1, np.nan, 5])
    encode_perturbations(adata, "target", control="NT", dose_key="dose")
    assert read(adata) == ["A@0.1", "control", "B@5"]
    adata = cells(["A@0.1", "NT", "B@5"])
    encode_perturbations(adata, "target", control="NT")
    assert read(adata) == ["A@0.1", "control", "B@5"]


@pytest.mark.parametrize("kind", ["bool", "category", "object", "nullable", "numbers"])
def test_a_boolean_column_marks_controls(kind):
    marks = pd.Series([False, True, False, True])
    dtype = {"bool": bool, "category": "category", "object": object, "nullable": "boolean", "numbers": int}[kind]
    adata = cells(["A", "vehicle", "B+vehicle", None], marked=marks.astype(dtype).to_numpy())
    adata.obs["marked"] = marks.astype(dtype).to_numpy() if kind != "nullable" else pd.array(marks, dtype="boolean")
    encode_perturbations(adata, "target", control="marked", style="cellflow")
    assert read(adata) == ["A", "control", "B", "control"]
    assert list(adata.uns["perturbation"]["control"]) == ["control", "vehicle"]


def test_underscores_split_only_where_told_or_where_every_part_is_a_gene():
    labels = ["CEBPE_CEBPA", "NT", "KLF1", "CEBPA_NT"]
    known, unknown = cells(labels, var_names=("CEBPA", "CEBPE")), cells(labels)
    by_column = cells(labels)
    by_column.var["gene_name"] = ["CEBPA", "CEBPE"]
    for adata in (known, by_column):
        encode_perturbations(adata, "target", control="NT")
        assert read(adata) == ["CEBPA+CEBPE", "control", "KLF1", "CEBPA"]
    encode_perturbations(unknown, "target", control="NT")
    assert read(unknown) == ["CEBPE_CEBPA", "control", "KLF1", "CEBPA_NT"]
    for options in ({"sep": "_"}, {"style": "cellcap"}):
        encode_perturbations(unknown, "target", control="NT", **options)
        assert read(unknown) == ["CEBPA+CEBPE", "control", "KLF1", "CEBPA"]
        assert unknown.uns["perturbation"]["sep"] == "_"
    # a gene whose own name holds an underscore is one gene
    whole = cells(["CEBPE_CEBPA", "NT"], var_names=("CEBPA", "CEBPE", "CEBPE_CEBPA"))
    encode_perturbations(whole, "target", control="NT")
    assert read(whole) == ["CEBPE_CEBPA", "control"]


@pytest.mark.parametrize("kind", ["view", "csc", "duplicate names", "unused categories", "backed"])
def test_any_anndata_works(kind, tmp_path):
    adata = cells(["A", "NT", "A+B", "A"])
    if kind == "view":
        adata = adata[:3]
    elif kind == "csc":
        adata.X = sp.csc_matrix(adata.X)
    elif kind == "duplicate names":
        adata.obs_names = ["same"] * 4
    elif kind == "unused categories":
        adata.obs["target"] = pd.Categorical(adata.obs["target"], categories=["", "A", "A+B", "NT", "Z"])
    else:
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.ImplicitModificationWarning)
        encode_perturbations(adata, "target", control="NT")
    assert read(adata)[:3] == ["A", "control", "A+B"]


def test_copy_leaves_the_input_alone(tmp_path):
    adata = cells(["A", "NT"])
    out = encode_perturbations(adata, "target", control="NT", copy=True)
    assert read(out) == ["A", "control"]
    assert (list(adata.obsm), list(adata.uns), list(adata.obs)) == ([], [], ["target"])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")[:2]
    assert read(encode_perturbations(backed, "target", control="NT", copy=True)) == ["A", "control"]
    with pytest.raises(UnsupportedQuery, match="view of a backed file"):
        encode_perturbations(backed, "target", control="NT")


def test_another_key_does_not_touch_the_first_design():
    adata = cells(["A", "NT"], other=["x", "B"])
    encode_perturbations(adata, "target", control="NT")
    encode_perturbations(adata, "other", control="x", key_added="second")
    assert (read(adata), read(adata, "second")) == (["A", "control"], ["control", "B"])
    assert adata.obs["is_control"].tolist() == [False, True]
    assert adata.obs["second_is_control"].tolist() == [True, False]
    assert adata.obs["second_n"].tolist() == [0, 1]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore::zarr.errors.UnstableSpecificationWarning")
def test_the_design_survives_files(tmp_path, suffix):
    adata = cells(["B@0.5", "NT", "A+B"])
    encode_perturbations(adata, "target", control=["NT", "ctrl"])
    path = tmp_path / f"cells.{suffix}"
    if suffix == "h5ad":
        adata.write_h5ad(path)
    else:
        adata.write_zarr(path)
    back = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    assert read(back) == read(adata)
    for key in ("names", "control"):
        assert list(back.uns["perturbation"][key]) == list(adata.uns["perturbation"][key])
    assert back.uns["perturbation"]["params"] == adata.uns["perturbation"]["params"]
    assert back.obs["is_control"].tolist() == [False, True, False]


BAD = [
    (["A", None, "NT"], {}, LabelError, "1 of 3 without one"),
    (["A", "", "NT"], {}, LabelError, "empty label"),
    (["A", "B+", "NT"], {}, LabelError, "both sides"),
    (["A", "A+A", "NT"], {}, LabelError, "'A' twice"),
    (["A", "unassigned", "NT"], {}, LabelError, "unassigned"),
    ([0.5, 1.5, 2.5], {}, LabelError, "real numbers"),
    ([f"cell{i}" for i in range(120)] + ["NT"], {}, LabelError, "120 distinct targets in 121 cells"),
    (["A", "B", "A"], {}, ControlError, "Labels seen: 'A', 'B'"),
    (["A", "ctrl", "A+ctrl"], {}, ControlError, "Did you mean control='ctrl'"),
    (["A", "unassigned", "B"], {"control": "unassigned"}, ControlError, "unassigned"),
    (["A", "control", "NT"], {}, ControlError, "Add 'control' to `control`"),
    (["NT", "NT", "NT"], {}, LabelError, "at least one perturbation"),
    (["A", "A@-1", "NT"], {}, DoseError, "above 0"),
    (["A", "B", "NT"], {"dose_key": "dose"}, DoseError, "got -1"),
    (["A", "B", "NT"], {"dose_key": "none"}, LabelError, "dose_key: expected a column"),
    (["A", "B", "NT"], {"perturbation_key": "none"}, LabelError, "perturbation_key: expected a column"),
    (["A", "B", "NT"], {"perturbation_key": None}, LabelError, "at least one of them"),
    (["A", "B", "NT"], {"guide_key": "none"}, LabelError, "guide_key: expected"),
    (["A", "B", "NT"], {"style": "cellflow"}, ControlError, "boolean column"),
    (["A", "B", "NT"], {"style": "none"}, LabelError, "style: expected one of"),
    (["A", "A+B+C", "NT"], {"style": "gears"}, UnsupportedQuery, "3 targets"),
    (["A", "A@2", "NT"], {"style": "gears"}, UnsupportedQuery, "doses"),
    (["A", "A", "NT"], {"control": "flag"}, ControlError, "'A' in both sides"),
    (["A", "B", "NT"], {"control": "never"}, ControlError, "True in some cells"),
    (["A", "B", "NT"], {"control": "dose"}, ControlError, "a column with values 1, -1, 0"),
    (["A", "B", "NT"], {"control": "gaps"}, ControlError, "missing values"),
]


@pytest.mark.parametrize(("labels", "options", "error", "text"), BAD)
def test_bad_data_are_refused_before_anything_is_written(labels, options, error, text):
    adata = cells(labels)
    if adata.n_obs == 3:
        adata.obs["dose"] = [1, -1, 0]
        adata.obs["flag"] = [False, True, False]
        adata.obs["never"] = False
        adata.obs["gaps"] = pd.array([True, None, False], dtype="boolean")
    before = adata.copy()
    options = {"perturbation_key": "target", "control": "NT", **options}
    with pytest.raises(error, match=text):
        encode_perturbations(adata, **options)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == list(adata.uns) == []
