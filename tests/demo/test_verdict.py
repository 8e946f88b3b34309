"""Sentences say what the numbers say."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.cluster import hierarchy

from perturbia.demo.report import TableSection
from perturbia.demo.verdict import compare, judge, pathway_sentence, silent_sentence

TABLE = pd.DataFrame(
    {"r": [0.7, 0.6, 0.69, 0.99], "R2": [0.4, 0.45, np.nan, 0.99], "e-distance": [0.10, 0.20, 0.05, 0.0]},
    index=["model", "one", "two", "ceiling"],
)
BASELINES = ["one", "two", "absent"]


@pytest.mark.parametrize(
    ("score", "outcome", "baseline"),
    [("r", "ahead", "two"), ("R2", "behind", "one"), ("e-distance", "behind", "two")],
)
def test_the_best_baseline_is_compared(score, outcome, baseline):
    found = compare(TABLE, score, model="model", baselines=BASELINES)
    assert (found.outcome, found.baseline) == (outcome, baseline)


def test_small_differences_are_level():
    table = TABLE.copy()
    table.loc["two", "r"] = 0.7049
    assert compare(table, "r", model="model", baselines=BASELINES).outcome == "level"


def test_a_winning_baseline_is_named_first():
    text = judge(TABLE, model="model", scores=["r", "R2", "e-distance"], baselines=BASELINES)
    assert text.startswith("model is beaten by a baseline on R2 (0.400; one 0.450) and e-distance (0.100; two 0.050)")
    assert text.endswith("is ahead of every baseline on r (0.700; two 0.690).")
    assert "ceiling" not in text


def tree(shifts: np.ndarray) -> ad.AnnData:
    out = ad.AnnData(shifts, obs=pd.DataFrame({"n_moved": (shifts != 0).sum(1)}, index=list("ABCDE")))
    out.layers["mask"] = (shifts != 0).astype(float)
    out.uns["linkage"] = hierarchy.linkage(shifts, "average")
    return out


def test_pathway_sentence_follows_the_tree():
    shifts = np.array([[2.0, 0], [2.1, 0], [2.3, 0], [0, 3.0], [0, 0]])
    assert "A, B and C form one branch" in pathway_sentence(tree(shifts), "ABC")
    broken = pathway_sentence(tree(shifts), "AD")
    assert "do not form one branch" in broken
    assert "also holds B, C and E" in broken
    assert pathway_sentence(tree(shifts), ["A", "unknown"]) == ""
    assert silent_sentence(tree(shifts)).startswith("1 of 5 perturbations move no latent")


def section(**changes) -> TableSection:
    arguments = {
        "title": "A <title>", "intro": "x", "table": TABLE, "meaning": {"r": "correlation"}, "models": ["model"],
        "references": ["ceiling"], "lower_is_better": ["e-distance"],
    }  # fmt: skip
    return TableSection(**(arguments | changes))


def test_the_best_value_is_marked_and_references_do_not_compete():
    assert section().best("r") == {"model"}
    assert section().best("e-distance") == {"two"}
    assert section().best("R2") == {"one"}
    text = section().to_html()
    assert "A &lt;title&gt;" in text
    assert text.count("<td>n/a</td>") == 1
    assert text.count("class=best") == 3


def test_scores_that_are_not_defined_are_left_out():
    table = TABLE.copy()
    table["e-distance"] = np.nan
    table.loc["model", "R2"] = np.nan
    text = judge(table, model="model", scores=["r", "R2", "e-distance"], baselines=BASELINES)
    assert text == "model is ahead of every baseline on r (0.700; two 0.690)."
