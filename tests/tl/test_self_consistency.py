"""Self-consistency: models of the package pass, and a model with one fault fails the check of that fault and no other."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import perturbia as pb
from perturbia.errors import LabelError, NotTrainedError, UnsupportedQuery
from perturbia.perturbation import as_perturbation
from perturbia.tl import consistency

CHECKS = {
    "control": "control is the identity",
    "order": "order of targets is irrelevant",
    "reconstruction": "reconstruction error",
    "population": "mean of a population is the mean of its cells",
    "cell order": "mean of a population is the mean of its cells",
    "predict": "predict is decode after perturb after encode",
    "seed": "same seed, same result",
    "draws": "draws differ",
    "nan": "results are finite",
    "writes latent": "inputs stay as they are",
    "writes data": "inputs stay as they are",
}
GENES, TARGETS = 6, "ABC"


def cells(n: int = 80) -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"pb_perturbation": rng.choice(["control", "A", "B", "A+B"], n)}, index=[f"c{i}" for i in range(n)]
    )
    return ad.AnnData(rng.normal(size=(n, GENES)).astype(np.float32), obs=obs)


class Shifts:
    """Cells plus the sum of the effects of the targets, with at most one fault."""

    capabilities = frozenset({"combination", "uncertainty"})

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.effect = dict(zip(TARGETS, np.random.default_rng(1).normal(size=(3, GENES)), strict=True))
        self.data: ad.AnnData | None = None

    def encode(self, adata=None, *, indices=None, batch_size=None):
        latent = adata[indices].copy() if indices is not None else adata.copy()
        latent.layers["sd"] = np.zeros(latent.shape)
        self.data = adata
        return latent

    def perturb(self, latent, query, *, n_draws=1, seed=0):
        targets = as_perturbation(query).names
        shift = sum((self.effect[name] for name in targets), np.zeros(GENES))
        if self.fault == "control" and not targets:
            shift += 0.01
        if self.fault == "order" and str(query).startswith("B+"):
            shift += 0.01
        if self.fault == "nan" and "B" in targets:
            shift[0] = np.nan
        if self.fault == "writes latent":
            latent.X[0, 0] += 1e-3
        if self.fault == "writes data":
            self.data.obs["visited"] = True
        rng = np.random.default_rng(None if self.fault == "seed" else seed)
        wide = n_draws > 1 and self.fault != "draws"
        noise = rng.normal(scale=0.1, size=(n_draws, 1, GENES)) if wide else np.zeros((n_draws, 1, GENES))
        out = ad.concat([latent] * n_draws, index_unique="-") if n_draws > 1 else latent.copy()
        out.X = (np.asarray(latent.X)[None] + shift + noise).reshape(-1, GENES).astype(np.float32)
        return out

    def decode(self, latent, *, scale=None, batch_size=None):
        out = latent.copy()
        if self.fault == "population":
            out.X = out.X - 0.1 * np.asarray(out.X).mean(axis=0)
        if self.fault == "cell order":
            out.X = out.X + np.linspace(0, 0.05, out.n_obs, dtype=np.float32)[:, None]
        if self.fault == "reconstruction":
            out.X = -1 * out.X
        return out

    def predict(self, adata, query):
        out = self.decode(self.perturb(self.encode(adata), query))
        if self.fault == "predict":
            out.X = out.X + 0.05
        return out


def failed(table: pd.DataFrame) -> set[str]:
    return set(table.loc[~table["passed"].fillna(True).astype(bool), "check"])


def test_a_model_without_fault_passes_every_check():
    table = consistency(Shifts(), cells(), queries=["A", "A+B"])
    assert failed(table) == set()
    assert table["passed"].notna().all()
    assert set(table["check"]) == set(CHECKS.values())
    assert (table.loc[table["check"] == "order of targets is irrelevant", "query"] == "A+B").all()


@pytest.mark.parametrize("fault", CHECKS)
def test_every_check_can_fail(fault):
    data = cells()
    found = failed(consistency(Shifts(fault), data, queries=["A", "A+B"]))
    assert CHECKS[fault] in found
    if fault not in {"nan", "cell order", "writes latent"}:  # these break identities that read what they spoil
        assert found == {CHECKS[fault]}


def test_values_are_in_standard_deviations():
    data = cells()
    for scale in (1.0, 50.0):
        model, scaled = Shifts("control"), data.copy()
        scaled.X = scaled.X * np.float32(scale)
        table = consistency(model, scaled, queries=["A"], n_cells=80).set_index("check")
        value = table.loc["control is the identity", "value"]
        assert value == pytest.approx(0.01 / scaled.X.std(), rel=0.02)


def test_reconstruction_against_its_formula():
    data = cells()
    table = consistency(Shifts("reconstruction"), data, queries=["A"], n_cells=80).set_index("check")
    x = data.X.astype(float)
    assert table.loc["reconstruction error", "value"] == pytest.approx(
        np.sqrt((4 * x**2).mean() / x.var(axis=0).mean())
    )


def test_what_a_model_lacks_is_missing_and_says_so():
    class Plain(Shifts):
        capabilities = frozenset()
        predict = property()

    table = consistency(Plain(), cells(), queries=["A"])
    lacking = table[table["passed"].isna()]
    assert set(lacking["check"]) == {CHECKS["predict"], CHECKS["draws"]}
    assert lacking["value"].isna().all()
    assert (lacking["note"] != "").all()


def test_queries_come_from_the_data_and_the_seed_decides():
    one, two = (consistency(Shifts(), cells(), n_cells=20, seed=1) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert {"A", "B", "A+B"} <= set(one["query"])


def test_tolerances_are_of_the_user():
    table = consistency(Shifts("control"), cells(), queries=["A"], tolerances={"control is the identity": 1.0})
    assert failed(table) == set()


@pytest.fixture(scope="module")
def screen():
    return pb.datasets.simulate_screen(
        n_perturbations=4, n_combinations=3, n_genes=20, n_latent=2, cells_per_perturbation=20, n_controls=50
    )


@pytest.mark.parametrize(
    "name", ["NoChange", "Mean", "Empirical", "JamesStein", "Additive", "MatchingMean", "Ridge", "LowRank"]
)
def test_baselines_agree_with_themselves(screen, name):
    adata = screen.copy()
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, perturbation_key="perturbation", batch_key=None)
    model = cls(adata)
    model.train()
    before = adata.copy()
    table = consistency(model, n_cells=30)
    assert failed(table) == set(), table.to_string()
    assert table.set_index("check").loc["reconstruction error", "value"] == pytest.approx(0, abs=1e-5)
    assert len(set(table["query"])) >= 4
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.layers) == list(before.layers)


def test_sams_vae_agrees_with_itself(screen):
    adata = screen.copy()
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.SAMSVAE(adata, n_latent=3, n_hidden=16)
    with pytest.raises(NotTrainedError):
        consistency(model)
    model.train(max_steps=30, batch_size=64, enable_progress_bar=False, logger=False, accelerator="cpu")
    # thirty steps do not reconstruct: that is found, and is nothing else
    table = consistency(model, n_cells=30)
    assert failed(table) <= {"reconstruction error"}, table.to_string()
    assert table["passed"].notna().all()


def test_a_query_that_the_model_refuses_is_an_error(screen):
    adata = screen.copy()
    pb.model.Empirical.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.Empirical(adata)
    model.train()
    seen = set(adata.obs["perturbation"])
    unseen = next(
        f"{a}+{b}" for a in model.perturbations for b in model.perturbations if a < b and f"{a}+{b}" not in seen
    )
    with pytest.raises(UnsupportedQuery):
        consistency(model, queries=[unseen])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"n_cells": 0}, ValueError, "n_cells"),
        ({"tolerances": {"speed": 1}}, ValueError, "speed"),
        ({"adata": None}, ValueError, "adata"),
        ({"queries": []}, LabelError, "queries"),
        ({"queries": None, "adata": ad.AnnData(np.ones((5, GENES), np.float32))}, LabelError, "queries"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        consistency(Shifts(), **{"adata": cells(), "queries": ["A"], **arguments})


def test_one_cell_shows_neither_spread_nor_population():
    table = consistency(Shifts(), cells(1), queries=["A", "A+B"])
    open_checks = {"reconstruction error", "mean of a population is the mean of its cells"}
    assert set(table.loc[table["passed"].isna(), "check"]) == open_checks
    assert (table.loc[table["passed"].isna(), "note"] == "takes two cells or more").all()
    assert table["passed"].fillna(True).all()
