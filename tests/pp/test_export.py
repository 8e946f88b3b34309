from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perturbia.errors import LabelError, UnsupportedQuery
from perturbia.perturbation import Perturbation
from perturbia.pp import encode_perturbations, to_cell_eval, to_cpa, to_gears, to_scperturb

names = st.text("ABCabc123-._ /()", min_size=1, max_size=6).filter(lambda name: name == name.strip())
doses = st.floats(2**-20, 2**20, width=32) | st.sampled_from([1.0, 0.1, 10.0, 1e20])
one = st.just(1.0)


def designs(most, dose):
    """Screens as one mapping of target to dose per cell, with a control and a treated cell at least."""
    return st.lists(names, min_size=1, max_size=5, unique=True).flatmap(
        lambda pool: st.lists(
            st.dictionaries(st.sampled_from(pool), dose, max_size=most), min_size=1, max_size=12
        ).filter(any)
    )


def encoded(cells):
    """Write the labels by hand, each in its own order, and encode them."""
    labels = [Perturbation(cell).label(control="NT") for cell in [{}, *cells]]
    obs = pd.DataFrame({"label": labels}, index=[f"c{i}" for i in range(len(labels))])
    adata = ad.AnnData(np.zeros((len(labels), 2), dtype=np.float32), obs=obs)
    encode_perturbations(adata, "label", control="NT")
    return adata


def assert_same_design(one, other):
    assert list(one.uns["perturbation"]["names"]) == list(other.uns["perturbation"]["names"])
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(
            getattr(one.obsm["perturbation"], part), getattr(other.obsm["perturbation"], part)
        )
    for column in ("perturbation_n", "is_control"):
        np.testing.assert_array_equal(one.obs[column], other.obs[column])


@given(designs(2, one))
def test_round_trip_through_gears(cells):
    adata = encoded(cells)
    out = to_gears(adata)
    again = encode_perturbations(out, "condition", control="ctrl", style="gears", copy=True)
    assert_same_design(again, adata)


@given(designs(4, doses))
def test_round_trip_through_cpa(cells):
    adata = encoded(cells)
    out = to_cpa(adata, control="DMSO")
    again = encode_perturbations(out, "condition", control="DMSO", dose_key="dose", style="cpa", copy=True)
    assert_same_design(again, adata)


@given(designs(4, doses))
def test_round_trip_through_cell_eval(cells):
    adata = encoded(cells)
    again = encode_perturbations(to_cell_eval(adata), "target", control="non-targeting", copy=True)
    assert_same_design(again, adata)


@given(designs(4, one | doses))
def test_round_trip_through_scperturb(cells):
    adata = encoded(cells)
    out = to_scperturb(adata)
    dose_key = "dose_value" if "dose_value" in out.obs else None
    again = encode_perturbations(
        out, "perturbation", control="control", dose_key=dose_key, copy=True, style="scperturb"
    )
    assert_same_design(again, adata)


@given(designs(3, one))
def test_round_trip_through_a_file_of_labels(cells):
    """Labels as text rather than categories, as they come from a table."""
    adata = encoded(cells)
    assume(adata.obs["perturbation_n"].max() > 1)
    out = to_scperturb(adata)
    out.obs["perturbation"] = out.obs["perturbation"].astype(str)
    assert_same_design(encode_perturbations(out, "perturbation", control="control", copy=True, style="cpa"), adata)


CELLS = [{"B": 1.0}, {"B": 1.0, "A": 1.0}]
DOSED = [{"B": 0.5}, {"B": 10.0, "A": 0.1}]


def test_columns_of_gears():
    adata = encoded(CELLS)
    adata.obs["line"] = ["K562", "K562", "RPE1"]
    out = to_gears(adata, cell_type_key="line")
    assert out.obs["condition"].tolist() == ["ctrl", "B+ctrl", "A+B"]
    assert out.obs["dose_val"].tolist() == ["1", "1+1", "1+1"]
    assert out.obs["control"].tolist() == [1, 0, 0]
    assert out.obs["cell_type"].tolist() == ["K562", "K562", "RPE1"]
    assert out.obs["condition_name"].tolist() == ["K562_ctrl_1", "K562_B+ctrl_1+1", "RPE1_A+B_1+1"]
    assert out.var["gene_name"].tolist() == ["0", "1"]
    assert isinstance(out.obs["condition"].dtype, pd.CategoricalDtype)


def test_columns_of_cpa():
    out = to_cpa(encoded(DOSED), perturbation_key="drug", dose_key="uM", control="DMSO")
    assert out.obs["drug"].tolist() == ["DMSO", "B", "A+B"]
    assert out.obs["uM"].tolist() == ["1.0", "0.5", "0.1+10.0"]


def test_columns_of_cell_eval():
    assert to_cell_eval(encoded(DOSED)).obs["target"].tolist() == ["non-targeting", "B@0.5", "A@0.1+B@10"]


def test_columns_of_scperturb():
    out = to_scperturb(encoded(DOSED), perturbation_type="drug", dose_unit="uM")
    assert out.obs["perturbation"].tolist() == ["control", "B", "A+B"]
    assert out.obs["nperts"].tolist() == [0, 1, 2]
    assert out.obs["dose_value"].tolist() == ["0", "0.5", "0.1+10.0"]
    assert set(out.obs["perturbation_type"]) == {"drug"}
    assert set(out.obs["dose_unit"]) == {"uM"}
    assert "dose_value" not in to_scperturb(encoded(CELLS)).obs
    assert to_scperturb(encoded(DOSED[:1])).obs["dose_value"].tolist() == [0.0, 0.5]


def test_a_stale_dose_column_is_replaced():
    adata = encoded(CELLS)
    adata.obs["dose_value"] = 7.0
    assert to_scperturb(adata).obs["dose_value"].tolist() == ["0", "1.0", "1.0+1.0"]


@pytest.mark.parametrize("export", [to_gears, to_cpa, to_cell_eval, to_scperturb])
def test_exports_leave_the_input_alone(export, tmp_path):
    adata = encoded(CELLS)
    before = adata.copy()
    out = export(adata)
    assert out is not adata
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = export(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")[:2])
    assert not backed.isbacked
    new = [column for column in out.obs if column not in adata.obs]
    assert backed.obs[new].astype(str).to_numpy().tolist() == out.obs[new][:2].astype(str).to_numpy().tolist()
    out.write_h5ad(tmp_path / "out.h5ad")


@pytest.mark.parametrize("export", [to_gears, to_cpa, to_cell_eval, to_scperturb])
def test_exports_need_a_design_and_a_free_control_label(export):
    bare = ad.AnnData(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(LabelError, match="Run pp.encode_perturbations"):
        export(bare)
    with pytest.raises(LabelError, match="not a target, got 'B'"):
        export(encoded(CELLS), control="B")


@pytest.mark.parametrize("export", [to_gears, to_cpa, to_scperturb])
@pytest.mark.parametrize("name", ["a+b", "a@b"])
def test_names_that_would_not_read_back_are_refused(export, name):
    adata = encoded([{name: 1.0}])
    with pytest.raises(LabelError, match="Rename them"):
        export(adata)
    again = encode_perturbations(to_cell_eval(adata), "target", control="non-targeting", copy=True)
    assert_same_design(again, adata)


def test_gears_has_no_triples_and_no_doses():
    with pytest.raises(UnsupportedQuery, match="at most two targets in a cell, got 3"):
        to_gears(encoded([{"A": 1.0, "B": 1.0, "C": 1.0}]))
    with pytest.raises(UnsupportedQuery, match="'B@0.5'"):
        to_gears(encoded(DOSED))
    with pytest.raises(LabelError, match="cell_type_key"):
        to_gears(encoded(CELLS), cell_type_key="nowhere")
