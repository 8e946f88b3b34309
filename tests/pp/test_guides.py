from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbia.errors import ControlError, LabelError, UnknownPerturbation
from perturbia.perturbation import dosage_labels
from perturbia.pp import encode_perturbations

GUIDES = ["IFNGR1g1", "IFNGR1g2", "JAK2g1", "NTg1"]
TARGETS = {"IFNGR1g1": "IFNGR1", "IFNGR1g2": "IFNGR1", "JAK2g1": "JAK2", "NTg1": "NT"}
COUNTS = np.array([[5, 9, 0, 0], [0, 0, 0, 7], [0, 3, 8, 1], [0, 1, 4, 0]])


def cells(counts=COUNTS, **obs):
    index = [f"c{i}" for i in range(len(counts))]
    adata = ad.AnnData(np.ones((len(counts), 2)), obs=pd.DataFrame(obs, index=index))
    adata.obsm["guides"] = counts
    adata.uns["guide_names"] = np.array(GUIDES, dtype=object)
    return adata


def read(adata):
    return dosage_labels(adata.obsm["perturbation"], list(adata.uns["perturbation"]["names"])).tolist()


@pytest.mark.parametrize("targets", [TARGETS, pd.Series(TARGETS)])
@pytest.mark.parametrize("storage", ["dense", "csr", "csc", "frame", "bool"])
def test_a_target_is_hit_by_any_of_its_guides(storage, targets):
    adata = cells()
    names = GUIDES
    if storage == "frame":
        adata.obsm["guides"], names = pd.DataFrame(COUNTS, columns=GUIDES, index=adata.obs_names), None
    elif storage != "dense":
        adata.obsm["guides"] = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "bool": lambda x: x > 0}[storage](COUNTS)
    encode_perturbations(adata, control="NT", guide_key="guides", guide_targets=targets, guide_names=names)
    assert read(adata) == ["IFNGR1", "control", "IFNGR1+JAK2", "IFNGR1+JAK2"]
    assert adata.obs["is_control"].tolist() == [False, True, False, False]
    assert set(np.unique(adata.obsm["perturbation"].toarray())) == {0, 1}


def test_threshold_and_names_in_uns():
    adata = cells()
    encode_perturbations(
        adata, control="NT", guide_key="guides", guide_targets=TARGETS, guide_names="guide_names", guide_threshold=4
    )
    assert read(adata) == ["IFNGR1", "control", "JAK2", "JAK2"]


def test_without_a_table_every_guide_is_a_target():
    adata = cells()
    encode_perturbations(adata, control="NTg1", guide_key="guides", guide_names=GUIDES)
    assert read(adata) == ["IFNGR1g1+IFNGR1g2", "control", "IFNGR1g2+JAK2g1", "IFNGR1g2+JAK2g1"]


def test_guide_labels_in_obs():
    guides = ["IFNGR1g1+IFNGR1g2", "NTg1", "IFNGR1g2+JAK2g1", "odd+name"]
    adata = cells(guide=guides)
    table = TARGETS | {"odd+name": "OXR1"}
    encode_perturbations(adata, control="NT", guide_key="guide", guide_targets=table)
    assert read(adata) == ["IFNGR1", "control", "IFNGR1+JAK2", "OXR1"]


def test_controls_without_a_guide_are_unassigned():
    adata = cells(np.array([[5, 0, 0, 0], [0, 0, 0, 7], [0, 0, 0, 0]]), target=["IFNGR1", "NT", "NT"])
    with pytest.raises(ControlError, match="got 1 of 2 control cells without one"):
        encode_perturbations(adata, "target", control="NT", guide_key="guides")
    adata.obs["guide"] = ["IFNGR1g1", "NTg1", "unassigned"]
    with pytest.raises(ControlError, match="got 1 of 2 control cells without one"):
        encode_perturbations(adata, "target", control="NT", guide_key="guide")
    assert list(adata.uns) == ["guide_names"]
    called = adata[:2].copy()
    encode_perturbations(called, "target", control="NT", guide_key="guides")
    assert read(called) == ["IFNGR1", "control"]


@pytest.mark.parametrize(
    ("counts", "options", "error", "text"),
    [
        (COUNTS * 0 + [0, 0, 1, 0], {}, ControlError, "Targets seen: 'JAK2'"),
        (COUNTS * 0 + [0, 0, 0, 1], {}, LabelError, "only controls"),
        (np.vstack([COUNTS, np.zeros((2, 4), int)]), {}, LabelError, "2 of 6 cells without one"),
        (-COUNTS, {}, LabelError, "negative"),
        (np.where(COUNTS == 9, np.nan, COUNTS), {}, LabelError, "missing"),
        (COUNTS, {"guide_names": None}, LabelError, "guide_names: expected the names of the 4 columns"),
        (COUNTS, {"guide_names": "nowhere"}, LabelError, "'nowhere'"),
        (COUNTS, {"guide_names": GUIDES[:3]}, LabelError, "expected 4 distinct names"),
        (COUNTS, {"guide_names": ["a", "a", "b", "c"]}, LabelError, "got 3 of 4"),
        (COUNTS, {"guide_targets": {"JAK2g1": "JAK2"}}, UnknownPerturbation, "target of every guide"),
        (COUNTS, {"guide_targets": TARGETS | {"JAK2g1": np.nan}}, LabelError, "expected a name"),
        (COUNTS, {"guide_threshold": 0}, LabelError, "guide_threshold"),
        (COUNTS, {"guide_threshold": 6}, LabelError, "1 of 4 cells without one"),
        (COUNTS, {"dose_key": "dose"}, LabelError, "Guides have no dose"),
        (COUNTS, {"guide_key": "nowhere"}, LabelError, "guide_key: expected"),
        (COUNTS, {"guide_key": "none"}, LabelError, "without one"),
        (COUNTS, {"guide_key": "multi"}, LabelError, "unassigned"),
    ],
)
def test_bad_guides(counts, options, error, text):
    adata = cells(counts, none=[None] * len(counts), multi=["JAK2g1+multiplet"] * len(counts))
    with pytest.raises(error, match=text):
        encode_perturbations(
            adata,
            **{"control": "NT", "guide_key": "guides", "guide_targets": TARGETS, "guide_names": GUIDES, **options},
        )
    assert list(adata.obsm) == ["guides"]
