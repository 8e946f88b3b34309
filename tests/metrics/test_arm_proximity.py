"""Proximity bias against all pairs written out, and what must not change it."""

from __future__ import annotations

from itertools import combinations, permutations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import brunnermunzel, false_discovery_control, norm, rankdata
from statsmodels.stats.nonparametric import rank_compare_2indep

from perturbia.errors import FeatureMismatch, LabelError
from perturbia.metrics.arm_proximity import proximity_bias


def genes_on_arms(n_genes: int, n_arms: int, n_features: int, bias: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    arms = rng.permutation(np.arange(n_genes) % n_arms)
    shifts = rng.normal(size=(n_arms, n_features))
    return rng.normal(size=(n_genes, n_features)) + bias * shifts[arms], np.array([f"{k}p" for k in range(n_arms)])[
        arms
    ]


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def pair_sets(x: np.ndarray, arms: np.ndarray, arm: str | None = None) -> tuple[list, list]:
    """Pairs within and between, by a loop over all pairs."""
    within, between = [], []
    for i, j in combinations(range(len(x)), 2):
        if arm is None or arm in (arms[i], arms[j]):
            (within if arms[i] == arms[j] else between).append((i, j))
    return within, between


def values_of(x: np.ndarray, pairs: list) -> np.ndarray:
    return cosines(x)[tuple(np.transpose(pairs))]


@pytest.mark.parametrize("bias", [0.0, 0.6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_matches_brunner_and_munzel_on_all_pairs(bias, dtype):
    x, arms = genes_on_arms(50, 4, 6, bias, seed=1)
    x = x.astype(dtype)
    found = proximity_bias(x, arms, n_permutations=0)
    for arm in (None, *found.table.index):
        within, between = (values_of(x, pairs) for pairs in pair_sets(x, arms, arm))
        reference = rank_compare_2indep(within, between, use_t=False)
        # statsmodels gives the probability, and is the test of SciPy
        assert reference.statistic == pytest.approx(-brunnermunzel(within, between, distribution="normal").statistic)
        row = found.table.loc[arm] if arm else None
        probability = found.probability if row is None else row["probability"]
        counts = (found.n_within, found.n_between) if row is None else (row["n_within"], row["n_between"])
        # a few of the comparisons are ties on the grid of cosines
        assert probability == pytest.approx(reference.prob1, abs=4 / (len(within) * len(between)))
        assert counts == (len(within), len(between))
    assert found.table["n_genes"].to_dict() == pd.Series(arms).value_counts().sort_index().to_dict()


def test_ties_count_half():
    x = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0], [0, 1]], dtype=float)
    arms = np.array(["a", "a", "a", "b", "b", "b"])
    within, between = (values_of(x, pairs) for pairs in pair_sets(x, arms))
    greater = (within[:, None] > between).mean() + (within[:, None] == between).mean() / 2
    assert proximity_bias(x, arms, min_genes=2, n_permutations=0).probability == pytest.approx(greater)
    same = proximity_bias(np.ones((6, 3)), arms, min_genes=2, n_permutations=20)
    assert (same.probability, same.standard_error, same.p_value) == (0.5, 0.0, 1.0)
    assert same.table["probability"].tolist() == [0.5, 0.5]


def error_by_hand(x: np.ndarray, arms: np.ndarray, arm: str | None) -> float:
    """Sum over all ordered pairs of pairs that share a gene, at least the sum over pairs alone."""
    within, between = pair_sets(x, arms, arm)
    w, b = values_of(x, within), values_of(x, between)
    above = (w[:, None] > b) + 0.5 * (w[:, None] == b)
    probability = above.mean()
    influence = dict(zip(within, (above.mean(axis=1) - probability) / len(w), strict=True))
    influence |= dict(zip(between, (above.mean(axis=0) - probability) / len(b), strict=True))
    shared = sum(one * other for p, one in influence.items() for q, other in influence.items() if set(p) & set(q))
    return float(np.sqrt(max(shared, sum(one**2 for one in influence.values()))))


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_error_counts_pairs_that_share_a_gene(bias):
    x, arms = genes_on_arms(16, 3, 5, bias, seed=2)
    found = proximity_bias(x, arms, n_permutations=0)
    assert found.standard_error == pytest.approx(error_by_hand(x, arms, None), rel=1e-3)
    for arm, error in found.table["standard_error"].items():
        assert error == pytest.approx(error_by_hand(x, arms, arm), rel=1e-3)


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_error_is_the_spread_over_screens(bias):
    rng = np.random.default_rng(3)
    arms = np.arange(80) % 8
    shifts = bias * rng.normal(size=(8, 20))
    found = [
        proximity_bias(shifts[arms] + rng.normal(size=(80, 20)) * rng.gamma(1, size=(80, 1)), arms, n_permutations=0)
        for _ in range(40)
    ]
    spread = np.std([one.probability for one in found])
    assert 0.7 < np.mean([one.standard_error for one in found]) / spread < 1.5
    over_pairs = np.sqrt(1 / 12 * (1 / found[0].n_within + 1 / found[0].n_between))
    if bias:
        assert over_pairs < spread / 1.5  # what a test over pairs takes for the error


def test_permutations_approach_their_enumeration():
    x, arms = genes_on_arms(7, 2, 3, 0.4, seed=4)
    first, second = np.triu_indices(7, 1)
    rank = np.zeros((7, 7))
    rank[first, second] = rankdata(cosines(x)[first, second])
    rank += rank.T

    def statistics(labels) -> np.ndarray:
        same = labels[:, None] == labels
        np.fill_diagonal(same, val=False)
        out = [rank[same].mean()]
        for arm in ("0p", "1p"):
            own = labels == arm
            out.append(rank[np.ix_(own, own)][~np.eye(own.sum(), dtype=bool)].mean() - rank[np.ix_(own, ~own)].mean())
        return np.array(out)

    observed = statistics(arms)
    exact = np.mean([statistics(arms[list(order)]) >= observed - 1e-9 for order in permutations(range(7))], axis=0)
    found = proximity_bias(x, arms, min_genes=2, n_permutations=4000, seed=0)
    np.testing.assert_allclose([found.p_value, *found.table["p_value"]], exact, atol=0.03)
    np.testing.assert_allclose(found.table["q_value"], false_discovery_control(found.table["p_value"]))


def test_p_values_are_uniform_without_bias():
    p = np.array(
        [
            (found.p_value, found.table["p_value"].iloc[0])
            for found in (proximity_bias(*genes_on_arms(40, 4, 5, 0.0, seed), n_permutations=99) for seed in range(60))
        ]
    )
    for share in (0.2, 0.5):
        assert (np.abs((p <= share).mean(axis=0) - share) < 3 * np.sqrt(share * (1 - share) / 60)).all()


def test_bias_of_one_arm_is_found_there():
    x, arms = genes_on_arms(80, 5, 30, 0.0, seed=5)
    x[arms == "3p"] += np.random.default_rng(0).normal(size=30)
    found = proximity_bias(x, arms, n_permutations=199, seed=1)
    assert found.p_value == 1 / 200
    assert found.table["probability"].idxmax() == "3p"
    assert found.table.loc["3p", "q_value"] < 0.05
    others = found.table.drop(index="3p")
    assert (others["q_value"] > 0.05).all()
    assert (np.abs(others["probability"] - 0.5) < 4 * others["standard_error"]).all()


def test_expected_value_of_a_planted_cosine():
    """Unit signals of many features with shifts: cosines are normal, so the probability is known."""
    n_features, bias = 400, 0.3
    x, arms = genes_on_arms(240, 6, n_features, bias, seed=6)
    mean = bias**2 / (1 + bias**2)
    spread = 1 / np.sqrt(n_features)
    expected = norm.cdf(mean / (spread * np.sqrt(2)))
    found = proximity_bias(x, arms, n_permutations=0)
    assert found.probability == pytest.approx(expected, abs=0.03)


def test_lengths_and_order_of_rows_do_not_matter():
    x, arms = genes_on_arms(60, 5, 8, 0.3, seed=7)
    rng = np.random.default_rng(0)
    order = rng.permutation(60)
    first = proximity_bias(x, arms, n_permutations=50, seed=3)
    moved = proximity_bias((x * rng.gamma(1, size=(60, 1)))[order], arms[order], n_permutations=0)
    assert moved.probability == pytest.approx(first.probability, abs=1e-6)
    assert moved.standard_error == pytest.approx(first.standard_error, rel=1e-4)
    again = proximity_bias(x[order], arms[order], n_permutations=50, seed=3)
    assert again.p_value == first.p_value
    pd.testing.assert_frame_equal(again.table, first.table)
    other = proximity_bias(x, arms, n_permutations=50, seed=4)
    assert not other.table["p_value"].equals(first.table["p_value"])


def test_blocks_are_the_same_as_one_piece(monkeypatch):
    x, arms = genes_on_arms(70, 4, 8, 0.3, seed=8)
    whole = proximity_bias(x, arms, n_permutations=30)
    for module in ("_arm_pairs._BLOCK_ENTRIES", "_arm_permutations._BLOCK_PAIRS"):
        monkeypatch.setattr(f"perturbia.metrics.{module}", 500)
    parts = proximity_bias(x, arms, n_permutations=30)
    pd.testing.assert_frame_equal(parts.table, whole.table, rtol=1e-6)
    assert parts.p_value == whole.p_value
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-6)


def test_arms_of_few_genes_count_without_a_row():
    x, arms = genes_on_arms(30, 3, 5, 0.5, seed=9)
    arms = np.r_[arms[:-3], ["x", "x", "y"]]
    found = proximity_bias(x, arms, min_genes=3, n_permutations=20)
    assert found.table.index.tolist() == ["0p", "1p", "2p"]
    within, between = pair_sets(x, arms)
    assert (found.n_within, found.n_between) == (len(within), len(between))
    assert found.table["p_value"].between(0, 1).all()
    assert proximity_bias(x, arms, min_genes=2, n_permutations=20).table.index.tolist() == ["0p", "1p", "2p", "x"]


X, ARMS = genes_on_arms(24, 3, 4, 0.3, seed=10)
NAMES = [f"G{i:02d}" for i in range(24)]


def as_map(**obs: object) -> ad.AnnData:
    return ad.AnnData(X.copy(), obs=pd.DataFrame({"arm": ARMS} | obs, index=NAMES))


def forms(tmp_path) -> dict[str, tuple]:
    adata = as_map()
    adata.obs["arm"] = pd.Categorical(ARMS, categories=["unused", "2p", "1p", "0p"])
    adata.obsm["X_other"] = X.copy()
    adata.obsm["frame"] = pd.DataFrame(X, index=NAMES, columns=list("abcd"))
    adata.write_h5ad(tmp_path / "map.h5ad")
    backed = ad.read_h5ad(tmp_path / "map.h5ad", backed="r")
    sparse_map = ad.AnnData(sparse.csc_matrix(X), obs=adata.obs)
    twice = ad.concat([adata, adata], index_unique="-")
    shuffled = pd.Series(ARMS, index=NAMES).sample(frac=1, random_state=0)
    return {
        "AnnData": (adata, "arm", {}),
        "obsm": (adata, "arm", {"use_rep": "X_other"}),
        "frame in obsm": (adata, "arm", {"use_rep": "frame"}),
        "view": (twice[:24], "arm", {}),
        "backed": (backed, "arm", {}),
        "view of backed": (backed[list(range(24))], "arm", {}),
        "csc": (sparse_map, "arm", {}),
        "DataFrame, labels": (pd.DataFrame(X, index=NAMES), list(ARMS), {}),
        "DataFrame, by name": (pd.DataFrame(X, index=NAMES), shuffled, {}),
        "AnnData, dict": (adata, shuffled.to_dict() | {"other": "9p"}, {}),
        "array, by name": (X, shuffled, {"names": NAMES}),
        "array, column of a table": (X, pd.Series(ARMS), {}),
        "array without names, column of obs": (X, adata.obs["arm"], {}),
    }


def test_every_form_of_data_gives_the_same(tmp_path):
    expected = proximity_bias(X, ARMS, n_permutations=40)
    for name, (data, arms, options) in forms(tmp_path).items():
        found = proximity_bias(data, arms, n_permutations=40, **options)
        pd.testing.assert_frame_equal(found.table, expected.table, rtol=1e-5, obj=name)
        assert found.p_value == expected.p_value, name


def test_rows_without_an_arm_and_controls_are_left_out():
    arms = ARMS.astype(object)
    arms[:6] = [None, np.nan, "", "nan", "<NA>", " "]
    is_control = np.zeros(24, dtype=bool)
    is_control[[5, 6, 7]] = True
    found = proximity_bias(as_map(arm=arms, is_control=is_control), "arm", n_permutations=20)
    kept = np.r_[8:24]
    expected = proximity_bias(X[kept], ARMS[kept], n_permutations=20)
    pd.testing.assert_frame_equal(found.table, expected.table)
    assert (found.n_genes, found.n_without_arm, found.n_controls) == (16, 5, 3)
    # a column of that name that is no mark of controls says nothing
    text = proximity_bias(as_map(is_control=["no"] * 24), "arm", n_permutations=0)
    assert (text.n_genes, text.n_controls) == (24, 0)


@pytest.mark.parametrize("column", ["pb_perturbation", "perturbation", "gene"])
def test_perturbations_of_several_rows_are_refused(column):
    """Guides of one gene are alike and on one arm, which is no bias."""
    genes = np.repeat(np.arange(12), 2)
    data = as_map(**{column: [f"g{i}" for i in genes], "arm": ARMS[genes]})
    options = {"n_permutations": 0, "perturbation_key": "gene" if column == "gene" else None}
    with pytest.raises(
        LabelError, match=f"one row a perturbation, got several of 'g0', 'g1', 'g10'.* {column!r}.* Aggregate"
    ):
        proximity_bias(data, "arm", **options)
    data.obs["is_control"] = np.arange(24) % 2 == 0  # what is left out may come twice
    assert proximity_bias(data, "arm", **options).n_genes == 12


def test_a_bare_sparse_map():
    expected = proximity_bias(X, ARMS, n_permutations=0)
    assert proximity_bias(sparse.csr_matrix(X), ARMS, n_permutations=0).probability == expected.probability


def test_whole_numbers_and_integer_values():
    rounded = np.rint(10 * X).astype(int)
    one = proximity_bias(rounded, [int(arm[0]) for arm in ARMS], n_permutations=0)
    two = proximity_bias(rounded.astype(float), ARMS, n_permutations=0)
    assert one.probability == two.probability
    assert one.table.index.tolist() == ["0", "1", "2"]


def test_no_permutations_no_p_values():
    found = proximity_bias(X, ARMS, n_permutations=0)
    assert np.isnan(found.p_value)
    assert found.table[["p_value", "q_value"]].isna().to_numpy().all()
    assert "p =" not in repr(found)
    assert repr(proximity_bias(X, ARMS, n_permutations=9)).startswith("ProximityBias: 0.")


def broken(value: float) -> np.ndarray:
    x = X.copy()
    x[3, 1] = value
    return x


def zero_row() -> np.ndarray:
    x = X.copy()
    x[3] = 0
    return x


@pytest.mark.parametrize(
    ("data", "arms", "options", "error", "match"),
    [
        (broken(np.nan), ARMS, {}, ValueError, "adata_map: expected finite numbers.*'3'"),
        (broken(np.inf), ARMS, {}, ValueError, "adata_map: expected finite numbers"),
        (zero_row(), ARMS, {}, ValueError, "adata_map: expected rows with a direction.*'3'"),
        (X, ARMS[:-1], {}, LabelError, "arms: expected one label for each of 24 rows, got 23"),
        (X, "arm", {}, LabelError, "arms: expected one label a row, got the text 'arm'"),
        (as_map(), "no", {}, LabelError, "arms: expected a column of adata.obs, got 'no'; columns are 'arm'"),
        (X, [None] * 24, {}, LabelError, "arms: expected the arm of some rows, got none in 24"),
        (X, ["1p"] * 24, {}, LabelError, "genes on two arms or more.*got 1 arms with at most 24"),
        (X, [f"{i}" for i in range(24)], {}, LabelError, "got 24 arms with at most 1"),
        (X, {"A": "1p"}, {}, LabelError, "arms under the names of rows, such as '0'"),
        (as_map(), {"A": "1p"}, {}, LabelError, "arms under the names of rows, such as 'G00'.*got arms of 'A'"),
        (
            as_map(),
            pd.Series(["1p", "2p"], index=["G01", "G01"]),
            {},
            LabelError,
            "one arm a name, got 'G01' more than once",
        ),
        (as_map(is_control=[True] * 24), "arm", {}, LabelError, "got 0 arms with at most 0"),
        (X, ARMS, {"names": ["a"] * 24}, LabelError, "one row a perturbation, got 'a' more than once"),
        (X, ARMS, {"names": ["a"]}, LabelError, "names: expected one for each of the 24 rows"),
        (as_map(), "arm", {"use_rep": "X_no"}, FeatureMismatch, "use_rep"),
        (X[:, 0], ARMS, {}, FeatureMismatch, "expected a matrix"),
        (X, ARMS, {"min_genes": 1}, ValueError, "min_genes: expected a whole number of 2 or more, got 1"),
        (X, ARMS, {"n_permutations": -1}, ValueError, "n_permutations: expected a whole number of 0 or more, got -1"),
        (X, ARMS, {"seed": None}, ValueError, "seed: expected a whole number of 0 or more, got None"),
        (X, ARMS, {"seed": -1}, ValueError, "seed: expected a whole number of 0 or more, got -1"),
    ],
)
def test_bad_input(data, arms, options, error, match):
    with pytest.raises(error, match=match):
        proximity_bias(data, arms, **options)
