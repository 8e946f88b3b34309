"""Effects carried from context to context, against brute force."""

from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import ControlError, ExtrapolationWarning, SplitError, UnsupportedQuery
from perturbia.stats import log1p_cp10k

LINES = ["K562", "RPE1", "HepG2"]


def make(*, seed: int = 0, drop: tuple[tuple[str, str], ...] = ()) -> ad.AnnData:
    """Three lines with effects of their own and two plates; `drop` lists pairs of line and label without cells."""
    rng = np.random.default_rng(seed)
    rows = [
        (line, label)
        for line, n in zip(LINES, (14, 10, 7), strict=True)
        for label in ("control", "A", "B", "A+B")
        if (line, label) not in drop
        for _ in range(2 * n if label == "control" else n)
    ]
    obs = pd.DataFrame(rows, columns=["line", "perturbation"], index=[f"cell{i}" for i in range(len(rows))])
    obs["plate"] = rng.choice(["p1", "p2"], len(obs))
    level = obs["line"].map({"K562": 3.0, "RPE1": 5.0, "HepG2": 8.0}).to_numpy()[:, None]
    counts = rng.poisson(level + rng.random((len(obs), 5)) * 3).astype(np.float32) + 1
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs)


def fit(adata: ad.AnnData, **setup: Any) -> Any:
    setup = {"categorical_covariate_keys": ["line"], **setup}
    pb.model.ContextMean.setup_anndata(adata, perturbation_key="perturbation", **setup)
    model = pb.model.ContextMean(adata, context_key="line")
    model.train()
    return model


def there(label: str, line: str) -> pb.Perturbation:
    return pb.Perturbation(label, context={"line": line})


def effect(adata: ad.AnnData, line: str, label: str, *, plates: bool = False) -> np.ndarray:
    """Difference of means within a line, and within its plates."""
    features, obs = log1p_cp10k(adata.X).toarray(), adata.obs
    if not plates:
        treated, control = ((obs["line"] == line) & (obs["perturbation"] == x) for x in (label, "control"))
        return features[treated].mean(0) - features[control].mean(0)
    total, n = 0.0, 0
    for plate in ("p1", "p2"):
        treated, control = (
            ((obs["line"] == line) & (obs["perturbation"] == x) & (obs["plate"] == plate)).to_numpy()
            for x in (label, "control")
        )
        if treated.any():
            total = total + treated.sum() * (features[treated].mean(0) - features[control].mean(0))
            n += treated.sum()
    return total / n


@pytest.mark.parametrize("plates", [False, True])
def test_other_contexts_are_averaged(*, plates: bool) -> None:
    adata = make()
    model = fit(adata, **({"batch_key": "plate"} if plates else {}))
    queries = [there("A", "RPE1"), "A", there("A+B", "K562"), there("A", "HepG2"), "B"]
    found = model.estimate_ate(queries)
    lines = [["K562", "HepG2"], LINES, ["RPE1", "HepG2"], ["K562", "RPE1"], LINES]
    labels = ["A", "A", "A+B", "A", "B"]
    for row, label, used in zip(found.X, labels, lines, strict=True):
        expected = np.mean([effect(adata, line, label, plates=plates) for line in used], axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)
    assert list(found.obs_names) == ["A (RPE1)", "A", "A+B (K562)", "A (HepG2)", "B"]
    assert found.obs["pb_context"].tolist() == ["RPE1", "", "K562", "HepG2", ""]
    assert found.obs["pb_perturbation"].tolist() == labels
    assert found.obs["n_cells"].tolist() == [31] * 5
    assert found.uns["perturbia"]["kind"] == "effect"
    assert found.X.dtype == np.float32


def test_errors_are_those_of_independent_contexts() -> None:
    adata = make()
    model = fit(adata)
    features, variance = log1p_cp10k(adata.X).toarray(), 0.0
    for line in ("K562", "HepG2"):
        for label in ("A", "control"):
            cells = features[(adata.obs["line"] == line) & (adata.obs["perturbation"] == label)]
            variance = variance + cells.var(0, ddof=1) / len(cells) / 4
    found = model.estimate_ate([there("A", "RPE1")]).layers["se"][0]
    np.testing.assert_allclose(found, np.sqrt(variance), rtol=1e-4)


def test_a_batch_may_be_the_context() -> None:
    adata = make()
    expected = fit(adata).estimate_ate(["A", there("A", "RPE1")])
    found = fit(adata.copy(), categorical_covariate_keys=None, batch_key="line").estimate_ate(["A", there("A", "RPE1")])
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.layers["se"], expected.layers["se"], rtol=1e-4)


def test_the_context_asked_for_has_no_say() -> None:
    """Cells of A in RPE1 may be anything, or not be there at all."""
    adata = make()
    changed, without = adata.copy(), make(drop=(("RPE1", "A"),))
    rows = (adata.obs["line"] == "RPE1").to_numpy() & (adata.obs["perturbation"] == "A").to_numpy()
    changed.X = sparse.csr_matrix(np.where(rows[:, None], 50 * adata.X.toarray() ** 2, adata.X.toarray()))
    one, other = (fit(x).estimate_ate([there("A", "RPE1"), there("A", "K562")]).X for x in (adata, changed))
    np.testing.assert_array_equal(one[0], other[0])
    assert not np.array_equal(one[1], other[1])
    assert fit(without).estimate_ate([there("A", "RPE1"), "A"]).X.shape == (2, 5)
    first, second = fit(without).estimate_ate([there("A", "RPE1"), "A"]).X
    np.testing.assert_array_equal(first, second)


def test_held_out_contexts_are_answered() -> None:
    adata = make()
    test = (adata.obs["line"] == "HepG2") & (adata.obs["perturbation"] != "control")
    adata.obs["pb_split"] = np.where(test, "test", "train")
    model = fit(adata)
    expected = (effect(adata, "K562", "A") + effect(adata, "RPE1", "A")) / 2
    np.testing.assert_allclose(model.estimate_ate([there("A", "HepG2")]).X[0], expected, rtol=1e-4, atol=1e-5)
    cells = model.sample(there("A", "HepG2"), 50)
    assert set(adata[cells.obs["pb_source"]].obs["line"]) == {"HepG2"}
    assert set(adata[cells.obs["pb_source"]].obs["perturbation"]) == {"control"}


def test_what_only_the_asked_context_has_is_refused() -> None:
    model = fit(make(drop=(("K562", "B"), ("HepG2", "B"))))
    assert model.estimate_ate(["B", there("B", "K562")]).n_obs == 2
    for ask in (model.estimate_ate, model.sample, lambda query: model.predict(None, query)):
        with pytest.raises(UnsupportedQuery, match="another context.*'B'.*'line': 'RPE1'"):
            ask(there("B", "RPE1"))
    latent = model.encode(indices=[0])
    with pytest.raises(UnsupportedQuery, match="another context"):
        model.perturb(latent, there("B", "RPE1"))


def test_steps_of_a_prediction_agree() -> None:
    adata = make()
    model = fit(adata)
    query = there("A", "K562")
    controls = np.flatnonzero((adata.obs["perturbation"] == "control") & (adata.obs["line"] == "K562"))
    predicted = model.predict(None, query, n_draws=2, seed=1)
    by_hand = model.decode(model.perturb(model.encode(indices=controls), query, n_draws=2, seed=1))
    np.testing.assert_array_equal(predicted.X, by_hand.X)
    assert set(predicted.obs["line"]) == {"K562"}
    latent = model.encode(indices=controls)
    moved = model.perturb(latent, query).X - latent.X
    np.testing.assert_allclose(moved[0], model.estimate_ate([query]).X[0], rtol=1e-4, atol=1e-5)
    assert model.predict(None, query, cells="all").n_obs == adata.n_obs
    # without a context nothing has changed for the model itself
    np.testing.assert_array_equal(model.estimate_ate(["A"]).X, fit(make()).estimate_ate(["A"]).X)
    with pytest.raises(ControlError, match="line 'K562' to start from"):
        model.predict(adata[(adata.obs["line"] == "RPE1")].copy(), query)


def test_samples_without_a_context_come_from_all() -> None:
    adata = make()
    lines = adata[fit(adata).sample("A", 3_000).obs["pb_source"]].obs["line"].value_counts(normalize=True)
    np.testing.assert_allclose(lines[LINES], np.array([28, 20, 14]) / 62, atol=0.04)


def test_contexts_that_were_not_registered_warn_and_leave_nothing_out() -> None:
    model = fit(make())
    with pytest.warns(ExtrapolationWarning, match="'K652' of 'line' was not registered.*'HepG2'") as caught:
        found = model.estimate_ate([there("A", "K652"), "A"])
    assert len(caught) == 1
    np.testing.assert_array_equal(found.X[0], found.X[1])
    with pytest.warns(ExtrapolationWarning), pytest.raises(ControlError, match="'K652'"):
        model.sample(there("A", "K652"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExtrapolationWarning)
        model.predict(None, there("A", "K562"))


def test_contexts_of_another_column_are_refused() -> None:
    model = fit(make())
    for context in ({"cell_type": "K562"}, {"line": "K562", "donor": "1"}):
        for ask in (model.estimate_ate, model.sample, lambda query: model.predict(None, query)):
            with pytest.raises(UnsupportedQuery, match="context of 'line', got .*unseen_context"):
                ask(pb.Perturbation("A", context=context))


@pytest.mark.parametrize("key", [None, "plate", "cell_type"])
def test_the_column_has_to_be_registered(key: str | None) -> None:
    adata = make()
    pb.model.ContextMean.setup_anndata(adata, perturbation_key="perturbation", categorical_covariate_keys=["line"])
    with pytest.raises(UnsupportedQuery, match="context_key: expected the registered column.*'line' registered"):
        pb.model.ContextMean(adata, context_key=key)


def test_contexts_without_controls_are_left_out_aloud() -> None:
    adata = make(drop=(("K562", "control"),))
    with pytest.warns(UserWarning, match="left out: 'K562'"):
        model = fit(adata)
    expected = (effect(adata, "RPE1", "A") + effect(adata, "HepG2", "A")) / 2
    np.testing.assert_allclose(model.estimate_ate(["A"]).X[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ControlError, match="line 'K562'"):
        model.sample(there("A", "K562"))


@pytest.mark.parametrize(("train", "error"), [("A", ControlError), ("control", SplitError)])
def test_training_cells_need_both_sides(train: str, error: type) -> None:
    adata = make()
    adata.obs["pb_split"] = np.where(adata.obs["perturbation"] == train, "train", "test")
    with pytest.raises(error, match="training cells"):
        fit(adata)
    # controls of one context, perturbed cells of another
    apart = make(drop=(("K562", "control"), *((line, x) for line in LINES[1:] for x in ("A", "B", "A+B"))))
    with pytest.raises(ControlError, match="of a context that has perturbed ones"):
        fit(apart)


def test_order_of_cells_does_not_matter() -> None:
    adata = make()
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    queries = ["A", there("B", "K562")]
    one, other = (fit(x, batch_key="plate").estimate_ate(queries).X for x in (adata, shuffled))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_saving_and_loading(tmp_path) -> None:
    model = fit(make(), batch_key="plate")
    queries = ["A", there("B", "K562")]
    model.save(tmp_path / "model")
    for data in (make(), False):
        loaded = pb.model.ContextMean.load(tmp_path / "model", adata=data, accelerator="cpu")
        np.testing.assert_array_equal(loaded.estimate_ate(queries).X, model.estimate_ate(queries).X)
        assert loaded.contexts == sorted(LINES)
        assert set(loaded.estimate_ate().obs_names) == {"A", "B", "A+B"}
        assert loaded.estimate_ate().obs["n_cells"].tolist() == [31, 31, 31]
