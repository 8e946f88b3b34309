"""Baselines that know perturbations by vectors, against brute force."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import LabelError, ScaleError, SplitError, UnsupportedQuery
from perturbia.model.baseline._vector_model import gene_coordinates
from perturbia.stats import effects_against, group_means, log1p_cp10k

BOTH = ("LinearPCA", "Nearest")
GENES = ["G1", "A", "B", "G2", "C", "D", "G3", "G4"]  # E is perturbed, but not measured
LABELS = ["control"] * 8 + ["A"] * 6 + ["B"] * 7 + ["C"] * 5 + ["D"] * 6 + ["E"] * 4 + ["A+B"] * 4


def make(labels: list[str] = LABELS, *, test: str | None = "D", genes: list[str] = GENES) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(5, (len(labels), len(genes))).astype(np.float32) + 1
    adata = ad.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))]),
    )
    adata.var_names = genes
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"] == test, "test", "train")
    return adata


def fit(name: str, adata: ad.AnnData, **init: Any) -> Any:
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, perturbation_key="perturbation")
    model = cls(adata, **init)
    model.train()
    return model


@pytest.fixture(scope="module")
def delta() -> dict[str, np.ndarray]:
    """Effects by an independent route; D is held out."""
    adata = make()
    effects = effects_against(group_means(log1p_cp10k(adata.X), LABELS), reference="control")
    return dict(zip(effects.groups, effects.effects, strict=True))


@pytest.fixture(scope="module")
def embedding() -> pd.DataFrame:
    values = np.random.default_rng(1).normal(size=(5, 3))
    return pd.DataFrame(values, index=["D", "C", "B", "A", "elsewhere"])


def sums(vectors: dict[str, np.ndarray], labels: list[str]) -> np.ndarray:
    return np.stack([sum(vectors[name] for name in label.split("+")) for label in labels])


def principal_scores(delta: dict[str, np.ndarray], labels: list[str], n: int) -> np.ndarray:
    effects = np.stack([delta[label] for label in labels], axis=1)
    left, sizes, _ = np.linalg.svd(effects - effects.mean(0), full_matrices=False)
    return left[:, :n] * sizes[:n]


# linear ------------------------------------------------------------------------------------------------------------


def bilinear(
    delta: dict[str, np.ndarray],
    vectors: dict[str, np.ndarray],
    trained: list[str],
    queries: list[str],
    *,
    n: int,
    ridge: float,
) -> np.ndarray:
    """The published formula, on matrices genes × perturbations."""
    G = principal_scores(delta, ["A", "B", "C", "E", "A+B"], n)
    Y, P = np.stack([delta[label] for label in trained], axis=1), sums(vectors, trained)
    b = Y.mean(1, keepdims=True)
    W = (
        np.linalg.inv(G.T @ G + ridge * np.eye(G.shape[1])) @ G.T @ (Y - b) @ P
        @ np.linalg.inv(P.T @ P + ridge * np.eye(P.shape[1]))
    )  # fmt: skip
    return (G @ W @ sums(vectors, queries).T + b).T


@pytest.mark.parametrize(("n", "ridge"), [(2, 0.1), (4, 2.0)])
def test_linear_with_genes_for_vectors(delta, n: int, ridge: float) -> None:
    G = principal_scores(delta, ["A", "B", "C", "E", "A+B"], n)
    vectors = {name: G[GENES.index(name)] for name in "ABCD"}
    queries = ["A", "D", "A+B", "B+D", "A+C+D"]
    expected = bilinear(delta, vectors, ["A", "B", "C", "A+B"], queries, n=n, ridge=ridge)
    model = fit("LinearPCA", make(), n_components=n, penalty=ridge)
    found = model.estimate_ate(queries)
    np.testing.assert_allclose(found.X, expected, rtol=1e-3, atol=1e-4)
    assert found.obs["n_cells"].tolist() == [6, 0, 4, 0, 0]
    assert not found.layers["se"].any()
    assert np.ptp(expected, axis=0).max() > 0.02


def test_linear_with_given_vectors(delta, embedding) -> None:
    vectors = {name: row.to_numpy() for name, row in embedding.iterrows()}
    queries = ["D", "A", "B+D"]
    expected = bilinear(delta, vectors, ["A", "B", "C", "A+B"], queries, n=3, ridge=0.1)
    model = fit("LinearPCA", make(), n_components=3, perturbation_embedding=embedding)
    np.testing.assert_allclose(model.estimate_ate(queries).X, expected, rtol=1e-3, atol=1e-4)


def test_linear_scales_vectors_with_doses(embedding) -> None:
    model = fit("LinearPCA", make(), perturbation_embedding=embedding)
    with pytest.warns(pb.errors.ExtrapolationWarning):
        none, half, full = model.estimate_ate(["D@0.000001", "D@0.5", "D"]).X
    np.testing.assert_allclose(half, (none + full) / 2, rtol=1e-3, atol=1e-5)


def test_linear_finds_a_bilinear_truth() -> None:
    """Effects of unseen genes are read off the genes' answers to others, and beat the mean."""
    rng = np.random.default_rng(5)
    n_genes, n_targets, n_cells = 60, 40, 60
    genes = rng.normal(size=(n_genes, 2))
    effects = 0.5 * genes[:n_targets] @ np.array([[1.0, 0.3], [-0.4, 0.8]]) @ genes.T
    names = [f"g{i}" for i in range(n_genes)]
    labels = np.array(["control"] * 300 + np.repeat(names[:n_targets], n_cells).tolist())
    values = rng.normal(size=(len(labels), n_genes))
    values[300:] += np.repeat(effects, n_cells, axis=0)
    adata = ad.AnnData(values.astype(np.float32), obs=pd.DataFrame({"perturbation": labels}))
    adata.var_names, adata.obs_names = names, adata.obs_names.astype(str)
    held_out = names[:8]
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"].isin(held_out), "test", "train")
    error = {}
    for name in ("LinearPCA", "Mean", "Nearest"):
        cls = getattr(pb.model, name)
        data = adata.copy()
        cls.setup_anndata(data, perturbation_key="perturbation", scale="zscore")
        model = cls(data, **({} if name == "Mean" else {"n_components": 2}))
        model.train()
        error[name] = float(((model.estimate_ate(held_out).X - effects[:8]) ** 2).mean())
    assert error["LinearPCA"] < 0.1 * error["Mean"]
    assert error["Nearest"] < 0.5 * error["Mean"]


# nearest -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_nearest_averages_neighbours(delta, embedding, k: int) -> None:
    vectors = {name: row.to_numpy() for name, row in embedding.iterrows()}
    trained, queries = ["A", "B", "C", "A+B"], ["D", "A", "B+D", "A+B", "C+D"]
    model = fit("Nearest", make(), perturbation_embedding=embedding, k=k)
    found = model.estimate_ate(queries)
    for query, row in zip(queries, found.X, strict=True):
        place = sums(vectors, [query])[0]
        near = sorted(trained, key=lambda label: np.linalg.norm(sums(vectors, [label])[0] - place))[:k]
        np.testing.assert_allclose(row, np.mean([delta[label] for label in near], axis=0), rtol=1e-4, atol=1e-5)
    assert (found.layers["se"] > 0).all()


def test_nearest_uses_genes_without_vectors(delta) -> None:
    G = principal_scores(delta, ["A", "B", "C", "E", "A+B"], 3)
    vectors = {name: G[GENES.index(name)] for name in "ABCD"}
    trained = ["A", "B", "C", "A+B"]
    near = sorted(trained, key=lambda label: np.linalg.norm(sums(vectors, [label])[0] - vectors["D"]))[:2]
    found = fit("Nearest", make(), n_components=3, k=2).estimate_ate(["D"]).X[0]
    np.testing.assert_allclose(found, np.mean([delta[label] for label in near], axis=0), rtol=1e-4, atol=1e-5)


def test_a_measured_perturbation_is_its_own_nearest_neighbour(delta) -> None:
    """Also where another one has the same vector, which comes first by name."""
    same = pd.DataFrame({"x": [1.0, 1.0, 5.0, 1.0, 7.0]}, index=list("ABCDE"))
    found = fit("Nearest", make(), perturbation_embedding=same, k=1).estimate_ate(["B", "A", "D", "C"]).X
    np.testing.assert_allclose(found, [delta[name] for name in "BAAC"], rtol=1e-4, atol=1e-5)


def test_blocks_do_not_matter(embedding, monkeypatch) -> None:
    queries = ["D", "A", "B+D", "A+B", "C+D", "control", "C"]
    model = fit("Nearest", make(), perturbation_embedding=embedding, k=2)
    whole = model.estimate_ate(queries).X
    monkeypatch.setattr("perturbia.model.baseline.nearest._BLOCK", 2)
    np.testing.assert_array_equal(model.estimate_ate(queries).X, whole)
    assert not whole[5].any()


# both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
def test_targets_without_vectors_are_refused_and_counted(name: str) -> None:
    model = fit(name, make())
    assert "unseen_perturbation" in model.capabilities
    assert set(model.estimate_ate().obs_names) == {"A", "B", "C", "D", "A+B"}
    for query, without in (("E", "'E'"), ("A+E", "'E'")):
        for ask in (lambda q=query: model.estimate_ate([q]), lambda q=query: model.sample(q)):
            with pytest.raises(UnsupportedQuery, match=f"{without}; 4 of 5 registered targets.*perturbation_embedding"):
                ask()
    with pytest.raises(UnsupportedQuery, match=r"adata.*'E'.*indices"):
        model.encode()


@pytest.mark.parametrize("name", BOTH)
def test_form_and_order_of_vectors_do_not_matter(name: str, embedding) -> None:
    queries = ["D", "A+B", "C"]
    complete = pd.concat([embedding, pd.DataFrame(np.ones((1, 3)), index=["E"])])
    expected = fit(name, make(), perturbation_embedding=complete).estimate_ate(queries).X
    for other in (complete[::-1], complete.loc[list("ABCDE")].to_numpy(), complete[[2, 0, 1]]):
        found = fit(name, make(), perturbation_embedding=other).estimate_ate(queries).X
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BOTH)
def test_order_of_cells_and_genes_does_not_matter(name: str) -> None:
    adata = make()
    rng = np.random.default_rng(3)
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    one = fit(name, adata, n_components=3).estimate_ate(["D", "A+B"])
    other = fit(name, shuffled, n_components=3).estimate_ate(["D", "A+B"])[:, one.var_names]
    np.testing.assert_allclose(one.X, other.X, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("form", ["frame", "array", "none"])
def test_vectors_survive_saving(name: str, form: str, embedding, tmp_path) -> None:
    given = {"frame": embedding.copy(), "array": np.arange(15.0).reshape(5, 3) % 4, "none": None}[form]
    model = fit(name, make(), perturbation_embedding=given, n_components=3)
    expected = model.estimate_ate(["D", "A+D"]).X
    if given is not None:
        given *= 7  # a later change of the user's own is none of the model's
    model.save(tmp_path / "model")
    for data in (make(), False):
        loaded = type(model).load(tmp_path / "model", adata=data, accelerator="cpu")
        np.testing.assert_array_equal(loaded.estimate_ate(["D", "A+D"]).X, expected)
        assert loaded.ur_id == model.ur_id
        assert set(loaded.estimate_ate().obs_names) == set(model.estimate_ate().obs_names) - (
            set() if data is not False else {"D"}
        )


@pytest.mark.parametrize("name", BOTH)
def test_what_does_not_apply_is_refused_before_anything_is_computed(name: str, embedding, monkeypatch) -> None:
    with pytest.raises(UnsupportedQuery, match="none of the 5 registered targets is a feature"):
        fit(name, make(genes=[f"g{i}" for i in range(8)]))
    with pytest.raises(UnsupportedQuery, match="row for none of the 5 registered targets"):
        fit(name, make(), perturbation_embedding=embedding.rename(str.lower))
    monkeypatch.setattr("perturbia.model.baseline._closed_form.measure_effects", pytest.fail)
    with pytest.raises(UnsupportedQuery, match="none of them has one; 1 of 5 registered targets"):
        fit(name, make(), perturbation_embedding=embedding.loc[["D"]])


@pytest.mark.parametrize("name", BOTH)
def test_genes_of_one_name_stand_for_nothing(name: str) -> None:
    adata = make(genes=["G1", "A", "B", "G2", "C", "D", "A", "G4"])
    with pytest.raises(UnsupportedQuery, match="'A'; 3 of 5"):
        fit(name, adata).estimate_ate(["A"])


def _changed(embedding: pd.DataFrame, value: object) -> pd.DataFrame:
    changed = embedding.astype(object)
    changed.iloc[1, 2] = value
    return changed


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda e: _changed(e, np.nan), ScaleError, "finite numbers.*'C'"),
        (lambda e: _changed(e, np.inf), ScaleError, "finite numbers.*'C'"),
        (lambda e: _changed(e, "high"), ScaleError, "expected numbers"),
        (lambda e: e.iloc[:, :0], ScaleError, "no column"),
        (lambda e: pd.concat([e, e.loc[["A"]]]), LabelError, "one row for each target.*'A'"),
        (lambda e: e.to_numpy()[:4], LabelError, r"5 registered targets, got shape \(4, 3\)"),
        (lambda e: e.to_numpy()[:, 0], LabelError, r"got shape \(5,\)"),
    ],
    ids=["missing", "infinite", "text", "empty", "twice", "short", "flat"],
)
def test_bad_vectors(name: str, embedding, change, error: type, match: str) -> None:
    with pytest.raises(error, match=f"perturbation_embedding: .*{match}"):
        fit(name, make(), perturbation_embedding=change(embedding))


@pytest.mark.parametrize(
    ("name", "init", "match"),
    [
        ("LinearPCA", {"penalty": 0.0}, "penalty: expected a positive number, got 0.0"),
        ("LinearPCA", {"n_components": 0}, "n_components: expected a positive integer, got 0"),
        ("Nearest", {"k": 0}, "k: expected a positive integer, got 0"),
        ("Nearest", {"k": 1.5}, "k: expected a positive integer, got 1.5"),
    ],
)
def test_bad_settings(name: str, init: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(name, make(), **init)


@pytest.mark.parametrize("name", BOTH)
def test_training_on_controls_alone_stays_an_error_of_the_split(name: str) -> None:
    adata = make()
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"] == "control", "train", "test")
    with pytest.raises(SplitError, match="only controls"):
        fit(name, adata)


def test_coordinates_are_as_many_as_there_can_be() -> None:
    effects = np.random.default_rng(0).normal(size=(3, 12))
    coordinates = gene_coordinates(effects, 10)
    assert coordinates.shape == (12, 3)
    centred = effects.T - effects.T.mean(0)
    np.testing.assert_allclose(coordinates @ coordinates.T, centred @ centred.T, atol=1e-8)
    assert gene_coordinates(effects[:1], 10).shape == (12, 1)
