"""Registration of two modalities: labels that they share, features in any form, and refusals that write nothing."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import FeatureMismatch, LabelError, ModalityError, ScaleError
from perturbia.model.alignment._shared_labels import shared_labels

ROLES = ("source", "target")
Aligner = pb.model.PropensityAligner


def labelled(**labels) -> dict[str, ad.AnnData]:
    """Modalities whose cells have these labels and one feature."""
    out = {}
    for name, values in labels.items():
        obs = pd.DataFrame({"perturbation": values}, index=[f"{name}_{i}" for i in range(len(values))])
        out[name] = ad.AnnData(np.ones((len(values), 1), np.float32), obs=obs)
    return out


def read(first, second, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return shared_labels(labelled(a=first, b=second), "perturbation", **options)


def keys(mdata) -> dict[str, list]:
    """All that registration could write to."""
    parts = {"all": mdata, **mdata.mod}
    slots = ("obs", "obsm", "obsp", "uns", "var")
    return {f"{name}.{slot}": sorted(map(str, getattr(one, slot))) for name, one in parts.items() for slot in slots}


# labels -----------------------------------------------------------------------------------------------------------


def test_spellings_of_one_perturbation_are_one_label():
    labels = read(["A+B", "A", "NT", "B+A"], ["B+A", "ctrl", "A+ctrl", "NT"], control=["ctrl", "NT"])
    assert labels.names == ["A", "A+B", "NT"]
    assert labels.codes["a"].tolist() == [1, 0, 2, 1]
    assert labels.codes["b"].tolist() == [1, 2, 0, 2]
    assert labels.groups("b").tolist() == ["A+B", "NT", "A", "NT"]
    assert labels.alone == {"a": [], "b": []}


def test_labels_as_they_are():
    labels = read(["A+B", "x"], ["B+A", "x"], sep=None)
    assert labels.names == ["x"]
    assert labels.alone == {"a": ["A+B"], "b": ["B+A"]}
    assert labels.groups("a").tolist() == [None, "x"]
    other = read(["A_B", "x"], ["B_A", "x"], sep="_")
    assert other.names == ["A_B", "x"]


@pytest.mark.parametrize(
    "label",
    ["CD14+ monocyte", "CD4+ CD25+ T", "A+", "+", "a b", "A+A", "HLA-DR+", "x@y+z", "10+", "CD4+/CD45RA+ naïve"],
)
def test_labels_that_are_no_perturbations_are_what_they_say(label):
    labels = read([label, "x"], ["x", label], control="x")
    assert sorted(labels.names) == sorted([label, "x"])
    assert labels.groups("a").tolist() == [label, "x"]


def test_labels_of_any_type_and_categories_that_no_cell_has():
    first = pd.Categorical(["b", "a", "b"], categories=["unused", "b", "a"])
    labels = read(first, pd.Categorical(["a", "b"], categories=["a", "b", "other"], ordered=True))
    assert labels.names == ["a", "b"]
    assert labels.codes["a"].tolist() == [1, 0, 1]
    assert labels.alone == {"a": [], "b": []}
    assert read([1, 2, 2], ["1", "2"]).names == ["1", "2"]
    assert read([True, False], [False, True]).names == ["False", "True"]


def test_labels_of_one_modality_alone_and_with_few_cells_are_said():
    cells = labelled(rna=["A"] * 12 + ["B"] * 3 + ["X"] * 2, image=["A"] * 11 + ["B"] * 10 + ["Y"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = shared_labels(cells, "perturbation", control="ctrl")
    said = [str(one.message) for one in caught]
    assert labels.codes["rna"].tolist() == [0] * 12 + [1] * 3 + [-1] * 2
    assert any("1 label(s) of 'rna' that the other modality lacks: 'X'. Their 2 cells" in one for one in said)
    assert any("1 label(s) of 'image'" in one and "'Y'" in one for one in said)
    assert any("fewer than 10 cells in 'rna': 'B'" in one for one in said)
    assert any("control: expected labels of control cells, got 'ctrl', which no cell has" in one for one in said)
    assert len(said) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared_labels(labelled(a=["A+ctrl", "ctrl"], b=["ctrl", "A"]), "perturbation", control="ctrl", min_cells=1)


def test_cells_without_partners_stay_unmatched(fit, simulate):
    mdata = simulate()
    for role, name in (("source", "X"), ("target", "Y")):
        labels = mdata[role].obs["perturbation"].astype(str)
        labels[(labels == "P01").to_numpy()] = name
        labels.iloc[(labels == "P02").to_numpy().nonzero()[0][1:]] = "P03"  # one cell is left
        mdata[role].obs["perturbation"] = labels
    with pytest.warns(UserWarning, match="lacks"):
        model = fit(mdata)
    assert model.labels == ["P02", "P03", "P04", "control"]
    coupling = model.align()
    lone = {role: (mdata[role].obs["perturbation"].isin(["X", "Y"])).to_numpy() for role in ROLES}
    np.testing.assert_array_equal(coupling.row_mass == 0, lone["source"])
    np.testing.assert_array_equal(coupling.column_mass == 0, lone["target"])
    assert np.isfinite(model.get_propensity("source")).all()  # scores do not need the label
    for column in ("coupling_n_eff", "coupling_cost"):
        np.testing.assert_array_equal(mdata["source"].obs[column].isna(), lone["source"])
    np.testing.assert_array_equal(mdata["target"].obs["coupling_hubness"].isna(), lone["target"])
    table = model.diagnose(n_permutations=20)
    assert table.loc["P02", ["n_source", "n_target"]].tolist() == [1, 1]
    assert np.isnan(table.loc["P02", "p_value"])
    pb.tl.impute(mdata)
    np.testing.assert_array_equal(np.isnan(mdata["source"].obsm["imputed_target"]).all(1), lone["source"])
    assert model.classification_["n_cells"].sum() < 20


def test_registration_shows_its_labels(simulate):
    mdata = simulate()
    Aligner.setup_mudata(mdata, control="control", batch_key=None)
    model = Aligner(mdata, n_hidden=4)
    assert model.summary_stats["n_labels_source"] == 5
    fields = {field.registry_key: field for field in model.adata_manager.fields}
    for role in ROLES:
        state = model.registry["field_registries"][f"labels_{role}"]["state_registry"]
        assert state["n_cells"] == [20] * 5
        table = fields[f"labels_{role}"].view_state_registry(state)
        assert list(table.columns[1].cells) == model.labels
        assert list(table.columns[3].cells) == ["20"] * 5
        np.testing.assert_array_equal(
            np.array(model.labels)[model._codes_of(role)], mdata[role].obs["perturbation"].astype(str)
        )


# features ---------------------------------------------------------------------------------------------------------


def in_a_file(mdata, folder):
    mdata.write_h5mu(folder / "cells.h5mu")
    return mudata.read_h5mu(folder / "cells.h5mu", backed=True)


def changed(change):
    def apply(mdata, folder):
        del folder
        parts = {}
        for name, adata in mdata.mod.items():
            one = adata.copy()
            change(one)
            parts[name] = one
        return mudata.MuData(parts)

    return apply


def as_layer(adata) -> None:
    adata.layers["log"] = adata.X.copy()
    adata.X = None


def as_frame(adata) -> None:
    adata.obsm["frame"] = pd.DataFrame(adata.X, index=adata.obs_names).rename(columns=lambda i: f"f{i}")


FORMS = {
    "csr": (changed(lambda adata: setattr(adata, "X", sparse.csr_matrix(adata.X))), {}),
    "csr_array": (changed(lambda adata: setattr(adata, "X", sparse.csr_array(adata.X))), {}),
    "csc": (changed(lambda adata: setattr(adata, "X", sparse.csc_matrix(adata.X))), {}),
    "float64": (changed(lambda adata: setattr(adata, "X", adata.X.astype(np.float64))), {}),
    "fortran": (changed(lambda adata: setattr(adata, "X", np.asfortranarray(adata.X))), {}),
    "backed": (in_a_file, {}),
    "layer": (changed(as_layer), {"source_layer": "log", "target_layer": "log"}),
    "DataFrame": (changed(as_frame), {"source_rep": "frame", "target_rep": "frame"}),
    "copy of a view": (lambda mdata, _: mdata[mdata.obs_names].copy(), {}),
}


@pytest.fixture(scope="module")
def reference(fit, simulate):
    model = fit(simulate())
    return {role: model.get_propensity(role) for role in ROLES}


@pytest.mark.parametrize("form", FORMS)
def test_features_in_any_form_give_the_same_scores(fit, simulate, reference, tmp_path, form):
    change, setup = FORMS[form]
    mdata = change(simulate(), tmp_path)
    model = fit(mdata, setup=setup)
    for role in ROLES:
        np.testing.assert_allclose(model.get_propensity(role), reference[role], rtol=1e-3, atol=1e-3)
    assert model.align().to_sparse().sum() == pytest.approx(1, abs=1e-4)
    assert mdata["source"].obsm["X_psa"].shape == (100, 5)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_features_that_are_whole_numbers(fit, simulate, dtype):
    mdata = simulate()
    whole = {role: (3 * mdata[role].X + 10).clip(0).astype(dtype) for role in ROLES}
    scores = []
    for kind in (dtype, np.float32):
        for role in ROLES:
            mdata[role].X = whole[role].astype(kind)
        scores.append(fit(mdata).get_propensity("source"))
    np.testing.assert_array_equal(*scores)


def test_modalities_of_the_same_cells(fit, simulate):
    plain = simulate()
    parts = {role: plain[role].copy() for role in ROLES}
    parts["target"].obs_names = parts["source"].obs_names[::-1]
    mdata = mudata.MuData(parts)
    assert mdata.n_obs == 100
    with pytest.raises(
        ValueError, match=r"100 cell names that both have.*adata\.obs_names = 'source' \+ ':'.*paired=True"
    ):
        Aligner.setup_mudata(mdata)
    model, reference = fit(mdata, setup={"paired": True}), fit(plain)
    coupling = model.align(method="emd")
    np.testing.assert_array_equal(coupling.to_sparse().toarray(), reference.align(method="emd").to_sparse().toarray())
    assert mdata.obsp["coupling"].shape == (100, 100)
    for one in (mdata, plain):
        pb.tl.impute(one)
    np.testing.assert_array_equal(mdata["source"].obsm["imputed_target"], plain["source"].obsm["imputed_target"])


# refusals ---------------------------------------------------------------------------------------------------------


def spoil(role: str, value: float, where: str = "X"):
    def apply(mdata) -> None:
        values = mdata[role].X.copy() if where == "X" else mdata[role].obsm[where].copy()
        values[1, 0] = value
        if where == "X":
            mdata[role].X = values
        else:
            mdata[role].obsm[where] = values

    return apply


def relabel(role: str, **changes):
    def apply(mdata) -> None:
        labels = mdata[role].obs["perturbation"].astype(object)
        mdata[role].obs["perturbation"] = labels.where(labels != "P01", changes["to"])

    return apply


def drop(role: str):
    return lambda mdata: mdata[role].obs.__delitem__("perturbation")


def nothing(mdata) -> None:
    del mdata


BAD = {
    "view": (lambda mdata: mdata[:50], {}, ValueError, "got a view. Pass mdata"),
    "view of a modality": (
        lambda mdata: mudata.MuData({role: mdata[role][:50] for role in ROLES}),
        {},
        ValueError,
        r"mdata\['source'\]: expected data that can be written to, got a view",
    ),
    "AnnData": (lambda mdata: mdata["source"], {}, TypeError, "expected MuData, got AnnData"),
    "path": (lambda mdata: "cells.h5mu", {}, TypeError, "expected MuData, got str"),
    "one modality": (lambda mdata: mudata.MuData({"rna": mdata["source"].copy()}), {}, ModalityError, "1 modalities"),
    "unknown modality": (nothing, {"modalities": {"source": "rna", "target": "target"}}, ModalityError, "got 'rna'"),
    "one role": (nothing, {"modalities": {"source": "source"}}, ModalityError, "modalities: expected"),
    "same twice": (nothing, {"modalities": {"source": "source", "target": "source"}}, ModalityError, "other name"),
    "label column": (nothing, {"perturbation_key": "guide"}, LabelError, "expected a column 'guide'"),
    "label column of one": (drop("target"), {}, LabelError, "obs of modality 'target'"),
    "label missing": (relabel("source", to=np.nan), {}, LabelError, "got 20 missing"),
    "label empty": (relabel("target", to=" "), {}, LabelError, "got 20 empty"),
    "no common label": (
        lambda mdata: mdata["target"].obs.__setitem__("perturbation", "none of these"),
        {},
        LabelError,
        "both modalities have",
    ),
    "NaN": (spoil("target", np.nan), {}, ScaleError, "1 NaN or infinite"),
    "infinite": (spoil("source", np.inf), {}, ScaleError, "1 NaN or infinite"),
    "NaN in obsm": (
        spoil("target", np.nan, "truth_latent"),
        {"target_rep": "truth_latent"},
        ScaleError,
        r"mdata\['target'\].obsm\['truth_latent'\]: expected finite",
    ),
    "no such obsm": (nothing, {"source_rep": "X_pca"}, FeatureMismatch, "use_rep: expected a key of"),
    "no such layer": (nothing, {"target_layer": "log"}, FeatureMismatch, "layer: expected a key of"),
    "no such batch": (nothing, {"batch_key": "plate"}, KeyError, "batch_key"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals_write_nothing(simulate, case):
    change, setup, error, message = BAD[case]
    mdata = simulate()
    data = change(mdata)
    data = mdata if data is None else data
    before = keys(mdata)
    with pytest.raises(error, match=message):
        Aligner.setup_mudata(data, **setup)
    assert keys(mdata) == before


def test_cell_names_that_are_not_unique_are_refused(simulate):
    mdata = simulate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata["source"].obs_names = ["same"] * 100
    with pytest.raises(ValueError, match=r"'source'\].obs_names: expected unique"):
        Aligner.setup_mudata(mdata)


def test_registration_of_one_anndata_says_what_to_do(simulate):
    with pytest.raises(TypeError, match="Use PropensityAligner.setup_mudata"):
        Aligner.setup_anndata(simulate()["source"])
