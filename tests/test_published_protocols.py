"""The script of the published protocols: its splits have the published shares, and it runs from end to end in small."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import perturbia as pb

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "published_protocols.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the folder benchmarks")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = spec_from_file_location("published_protocols", SCRIPT)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "published_protocols", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def screen(n_cells: int = 50) -> ad.AnnData:
    labels = np.repeat(["control", *"ABCDEF", "A+B", "C+D", "E+F", "A+C", "B+D", "A+F", "B+E", "C+E"], n_cells)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    return ad.AnnData(np.ones((len(labels), 1), np.float32), obs=obs)


def test_efficiency_has_the_published_shares(script):
    adata = screen()
    runs = list(script.efficiency_runs(adata, 0))
    assert [run.fraction for run in runs] == [0, 0.25, 0.5, 0.75, 1]
    label = adata.obs["perturbation"]
    doubles = label.str.contains("+", regex=False)
    parts = pd.DataFrame({run.fraction: adata.obs[run.split_key].astype(object) for run in runs})
    for run in runs:
        part = parts[run.fraction]
        count = pd.crosstab(label, part).reindex(columns=["train", "valid", "test"], fill_value=0)
        assert (count.loc[label[doubles].unique(), ["valid", "test"]].to_numpy() == [8, 10]).all()
        assert (count.loc[label[~doubles].unique()].to_numpy() == [40, 10, 0]).all()
        assert (part[doubles] == "train").sum() == round(run.fraction * 8 * 32)
        assert (parts[1.0] == part)[part.notna()].all()
    seen = parts == "train"
    assert all((seen[more] | ~seen[one]).all() for one, more in zip(seen, list(seen)[1:], strict=False))


def test_ood_shows_what_it_says(script):
    adata = screen()
    runs = list(script.ood_runs(adata, 1))
    label = adata.obs["perturbation"]
    for run in runs:
        shown = label[(adata.obs[run.split_key] == "train") & label.str.contains("+", regex=False)]
        assert shown.nunique() == 8 * run.fraction


def test_relative_to_the_reference_of_the_same_split(script):
    table = pd.DataFrame(
        [("a", 0.0, 0, -5.0), ("b", 0.0, 0, -7.0), ("a", 0.0, 1, -9.0), ("a", 1.0, 0, -1.0), ("b", 1.0, 1, -8.0)],
        columns=["method", "fraction", "split seed", "iwelbo"],
    )
    assert script.relative(table, "a").tolist() == [0, -2, 0, 4, 1]


def test_published_numbers_stand_in_their_own_rows_only(script):
    index = pd.MultiIndex.from_product([[0.0, 0.75], [*script.NAMES.values(), "Additive"]])
    table = script.with_paper(pd.DataFrame(index=index), "norman-ood")
    assert table["iwelbo rel, published"].tolist() == ["–", 0.0, "–", "–", 7.59, "–"]
    assert table["correlation_all, published"].tolist() == ["–", 0.682, "–", "–", 0.733, "–"]
    assert script.with_paper(pd.DataFrame(index=index), "replogle-random").empty


def test_variable_genes_keep_counts_and_drop_empty_cells(script):
    adata = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=0, n_genes=30, n_latent=2, n_truth_cells=10)
    adata.layers["counts"][0] = 0
    adata.layers["counts"].eliminate_zeros()
    out = script.variable_genes(adata.copy(), 10)
    assert out.shape == (adata.n_obs - 1, 10)
    assert (out.layers["counts"] != adata[out.obs_names, out.var_names].layers["counts"]).nnz == 0


def test_a_file_with_counts_is_taken_as_it_is(script, tmp_path):
    adata = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=2, n_genes=10, n_latent=2, n_truth_cells=10)
    adata.write_h5ad(tmp_path / "mine.h5ad")
    pd.testing.assert_frame_equal(script.load("norman-ood", tmp_path / "mine.h5ad").obs, adata.obs)


def test_unknown_models_are_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.parse(["norman-ood", "--models", "default,best"])
    assert "got 'best'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "task",
    [
        "replogle-random",
        pytest.param("norman-ood", marks=pytest.mark.slow),
        pytest.param("norman-efficiency", marks=pytest.mark.slow),
    ],
)
def test_every_task_runs_in_small(script, task, tmp_path, capsys):
    script.main([task, "--quick", "--steps", "5", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / f"{task}-quick.csv")
    fractions = {1.0} if task == "replogle-random" else {0.0, 1.0}
    assert set(table["fraction"]) == fractions
    assert {*script.NAMES.values(), "NoChange", "Additive", "Ridge", "second experiment"} <= set(table["method"])
    models = table[table["method"].isin(script.NAMES.values())]
    assert np.isfinite(models["iwelbo"]).all()
    assert table["iwelbo"].notna().sum() == len(models)
    assert table[table["method"] == "Ridge"]["correlation_all"].notna().all()
    text = (tmp_path / f"{task}-quick.md").read_text()
    assert text in capsys.readouterr().out
    assert "published inference" in text
    assert "says only that everything runs" in text
    assert ", published |" not in text
    if task != "replogle-random":
        reference = models[(models["method"] == script.NAMES["published"]) & (models["fraction"] == 0)]
        assert (reference["iwelbo rel"] == 0).all()
