"""Labels carried through a coupling: the label with most mass, from either side."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.errors import LabelError, ModalityError

ROLES = ("source", "target")
MASS = (
    np.array([[3.0, 0, 0, 2], [2, 4, 0, 0], [1, 5, 0, 0], [0, 1, 0, 2]]) / 32
)  # exact in binary, so that ties are ties


@pytest.fixture
def mdata() -> mudata.MuData:
    """Four source cells and four target cells, the third of which has no match."""
    import anndata as ad

    cells = {}
    for role in ROLES:
        obs = pd.DataFrame({"perturbation": "a"}, index=[f"{role}_{i}" for i in range(4)])
        cells[role] = ad.AnnData(np.ones((4, 1), np.float32), obs=obs, var=pd.DataFrame(index=[f"{role}_x"]))
    data = mudata.MuData(cells)
    data.obsp["coupling"] = sp.block_array([[None, sp.csr_array(MASS)], [sp.csr_array((4, 4)), None]]).tocsr()
    data.uns["coupling"] = {
        "kind": "coupling",
        "source": "source",
        "target": "target",
        "perturbation_key": "perturbation",
    }
    return data


def test_the_label_with_most_mass_wins(mdata):
    mdata["source"].obs["type"] = pd.Categorical(["T", "B", "B", "NK"], categories=["T", "unused", "B", "NK"])
    pb.tl.transfer_labels(mdata, key="type")
    given = mdata["target"].obs
    # columns: T 3 B 3 | B 9 NK 1 | nothing | T 2 NK 2; of equals, the first category
    assert given["type"].tolist()[:2] == ["T", "B"]
    assert given["type"].isna().tolist() == [False, False, True, False]
    assert given["type"].tolist()[3] == "T"
    assert given["type"].cat.categories.tolist() == ["T", "B", "NK"]
    np.testing.assert_allclose(given["type_probability"], [0.5, 0.9, np.nan, 0.5])
    assert given["type_probability"].dtype == np.float64


def test_from_the_target_under_another_name(mdata):
    mdata["target"].obs["well"] = [7, 8, 9, 8]
    pb.tl.transfer_labels(mdata, key="well", source="target", key_added="guess")
    given = mdata["source"].obs
    # rows: 7 has 3 and 8 has 2 | 2, 4 | 1, 5 | 0, 3
    assert given["guess"].tolist() == [7, 8, 8, 8]
    np.testing.assert_allclose(given["guess_probability"], [3 / 5, 4 / 6, 5 / 6, 1])
    assert "well" not in given
    assert mdata["source"].uns["guess_transferred"] == {"coupling": "coupling", "from": "target"}


@pytest.mark.parametrize("values", [[True, False, True, False], [0.5, 1.5, 0.5, 0.5], ["y", "x", "y", "y"]])
def test_labels_of_any_type(mdata, values):
    mdata["source"].obs["label"] = values
    pb.tl.transfer_labels(mdata, key="label")
    kinds = pd.Categorical(values).categories
    mass = np.stack([MASS[np.array(values) == one].sum(0) for one in kinds], axis=1)
    expected = [None if row.sum() == 0 else kinds[row.argmax()] for row in mass]
    given = mdata["target"].obs["label"]
    assert [None if pd.isna(one) else one for one in given] == expected


def test_cells_without_label_have_no_vote(mdata):
    mdata["source"].obs["type"] = ["T", None, None, "NK"]
    pb.tl.transfer_labels(mdata, key="type")
    given = mdata["target"].obs
    assert given["type"].astype(object).where(given["type"].notna(), None).tolist() == ["T", "NK", None, "NK"]
    np.testing.assert_allclose(given["type_probability"], [1, 1, np.nan, 0.5])


def test_its_own_columns_are_written_anew_and_those_of_others_stay(mdata):
    mdata["source"].obs["type"] = ["T", "B", "B", "NK"]
    pb.tl.transfer_labels(mdata, key="type")
    mdata["source"].obs["type"] = ["x", "x", "x", "x"]
    pb.tl.transfer_labels(mdata, key="type")
    assert mdata["target"].obs["type"].cat.categories.tolist() == ["x"]
    mdata["target"].obs["mine"] = "mine"
    mdata["target"].obs["sure_probability"] = 1.0
    before = mdata["target"].obs.copy()
    for key_added, taken in (("mine", "mine"), ("sure", "sure_probability"), ("perturbation", "perturbation")):
        with pytest.raises(LabelError, match=f"does not have, got '{taken}'"):
            pb.tl.transfer_labels(mdata, key="type", key_added=key_added)
    pd.testing.assert_frame_equal(mdata["target"].obs, before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": "cell_type"}, LabelError, "key: expected a column of obs of 'source', got 'cell_type'"),
        ({"key": "empty"}, LabelError, "got none but missing ones"),
        ({"key": "empty", "coupling": "psa"}, KeyError, "coupling: expected the key"),
        ({"key": "empty", "source": "rna"}, ModalityError, "source, target: expected"),
    ],
)
def test_refusals_write_nothing(mdata, options, error, message):
    mdata["source"].obs["empty"] = pd.Categorical([None] * 4)
    before = list(mdata["target"].obs)
    with pytest.raises(error, match=message):
        pb.tl.transfer_labels(mdata, **options)
    assert list(mdata["target"].obs) == before
    assert not mdata["target"].uns


def test_held_out_labels_come_through_a_good_coupling():
    mdata = pb.datasets.simulate_modalities(n_cells=60, n_perturbations=6, n_latent=3)
    for role in ROLES:
        mdata[role].obs["high"] = np.where(mdata[role].obsm["truth_latent"][:, 0] > 0.5, "high", "low")
    truth = mdata["target"].obs.pop("high")
    pb.tl.align(mdata, use_rep="truth_log_ratio")
    pb.tl.transfer_labels(mdata, key="high")
    assert (mdata["target"].obs["high"].astype(str) == truth).mean() > 0.95
    pb.tl.align(mdata, use_rep="truth_log_ratio", method="random", key_added="random")
    pb.tl.transfer_labels(mdata, key="high", coupling="random", key_added="chance")
    assert (mdata["target"].obs["chance"].astype(str) == truth).mean() < 0.9
