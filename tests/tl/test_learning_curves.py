"""Learning curves: nested training sets, one test set, and scores that are those of `evaluate`."""

from __future__ import annotations

import numpy as np
import pytest

import perturbia as pb
from perturbia.errors import LabelError, SplitError
from perturbia.tl import evaluate, learning_curve, nested_splits, split

METRICS = ["correlation", "rmse"]


@pytest.fixture(scope="module")
def screen():
    adata = pb.datasets.simulate_screen(
        n_perturbations=8, n_combinations=8, n_genes=15, n_latent=2, cells_per_perturbation=20, n_controls=60
    )
    split(adata, axis="combination", fraction=0.5)
    return adata


class Recorder:
    """Trains a ridge, and keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list = []

    def __call__(self, adata):
        self.seen.append(adata.obs[["perturbation", "pb_split"]].copy())
        pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
        model = pb.model.Ridge(adata)
        model.train()
        return model


def curve_of(adata, fit, **options):
    return learning_curve(
        fit, adata, **{"protocol": METRICS, "baselines": ["Mean"], "progress": False, "n_resamples": 50, **options}
    )


@pytest.mark.parametrize("over", ["perturbations", "cells"])
def test_training_sets_are_nested_and_the_test_stays(screen, over):
    fit = Recorder()
    before = screen.copy()
    curve_of(screen, fit, over=over, fractions=(0.75, 0.25), n_repeats=2)
    assert len(fit.seen) == 4
    test = set(screen.obs_names[screen.obs["pb_split"] == "test"])
    for shown in fit.seen:
        assert set(shown.index[shown["pb_split"] == "test"]) == test
    for small, large in (fit.seen[:2], fit.seen[2:]):
        assert set(small.index) < set(large.index)
    assert set(fit.seen[0].index) != set(fit.seen[2].index)
    assert screen.obs.equals(before.obs)
    assert set(screen.uns) == set(before.uns)


def test_fewer_perturbations_by_all_their_cells(screen):
    fit = Recorder()
    curve = curve_of(screen, fit, n_perturbations=[2, 5], n_repeats=2)
    seen = screen.obs[screen.obs["pb_split"] != "test"]
    for one, n in zip(fit.seen, (2, 5, 2, 5), strict=True):
        shown = one[one["pb_split"] != "test"]
        count = shown["perturbation"].astype(str).value_counts()
        assert len(count) == n + 1
        assert (count == seen["perturbation"].astype(str).value_counts()[count.index]).all()
        assert "control" in count
    assert sorted(curve["n_perturbations"].unique()) == [2, 5]
    first = curve[(curve["repeat"] == 0) & (curve["n_perturbations"] == 2)].iloc[0]
    shown = fit.seen[0][fit.seen[0]["pb_split"] != "test"]
    assert first["n_cells"] == (shown["perturbation"] != "control").sum()
    assert first["n_controls"] == (shown["perturbation"] == "control").sum()


def test_fewer_cells_of_every_perturbation(screen):
    fit = Recorder()
    curve = curve_of(screen, fit, over="cells", fractions=(0.5, 0.001), n_repeats=1)
    count = screen.obs.groupby(["perturbation", "pb_split"], observed=True).size().drop("test", level=1)
    tiny, half = (
        one.groupby(["perturbation", "pb_split"], observed=True).size().drop("test", level=1) for one in fit.seen
    )
    np.testing.assert_array_equal(half[count.index], np.rint(0.5 * count))
    assert set(tiny.index) == {(label, "train") for label in count.index.get_level_values(0)}
    assert (tiny == 2).all()
    assert curve["n_perturbations"].nunique() == 1


def test_scores_are_those_of_evaluate(screen):
    curve = curve_of(screen, Recorder(), fractions=(0.5, 1.0), n_repeats=2, seed=3)
    assert curve.loc[curve["fraction"] == 1, "repeat"].unique().tolist() == [0]
    adata = screen.copy()
    result = evaluate(
        Recorder()(adata),
        adata,
        protocol=METRICS,
        baselines=["Mean"],
        n_resamples=50,
        seed=3,
        perturbation_key="perturbation",
    )
    whole = curve[curve["fraction"] == 1].set_index(["model", "metric"])
    summary = result.summary()
    assert set(whole["role"]) >= {"model", "baseline"}
    for statistic in ("value", "low", "high", "n", "n_undefined"):
        expected = summary[statistic].stack(future_stack=True)
        np.testing.assert_array_equal(whole.loc[expected.index, statistic], expected)


def test_more_cells_score_better(screen):
    curve = curve_of(screen, Recorder(), over="cells", fractions=(0.1, 1.0), n_repeats=3)
    value = curve[(curve["model"] == "Ridge") & (curve["metric"] == "rmse")].groupby("fraction")["value"].mean()
    assert value[1.0] < value[0.1]


def test_same_seed_same_curve(screen):
    one, two, three = (curve_of(screen, Recorder(), fractions=(0.4,), n_repeats=1, seed=seed) for seed in (1, 1, 2))
    assert one.equals(two)
    assert not one.equals(three)


def test_unused_cells_of_nested_splits_stay_unused():
    adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=8, n_genes=15, n_latent=2)
    nested_splits(adata, fractions=(0.25,))
    shown = []

    def fit(part):
        shown.append(part.obs["pb_split_0.25"].isna().sum())
        part.obs["pb_split"] = part.obs["pb_split_0.25"]
        return Recorder()(part)

    curve = curve_of(adata, fit, fractions=(1.0,), split_key="pb_split_0.25")
    assert shown == [0]
    assert len(curve)


def test_a_failure_says_where_and_data_that_were_registered_are_no_trouble(screen):
    adata = screen.copy()
    pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    curve_of(adata, Recorder(), fractions=(0.5,), n_repeats=1)

    def fail(adata):
        raise RuntimeError(adata.n_obs)

    with pytest.raises(RuntimeError) as caught:
        curve_of(adata, fail, fractions=(0.5,), n_repeats=1)
    assert "fraction 0.5" in caught.value.__notes__[0]


def test_a_model_is_no_function_that_fits_one(screen):
    adata = screen.copy()
    pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    for wrong, name in (
        (pb.model.Ridge(adata), "an object of Ridge"),
        (pb.model.Ridge, "the class Ridge"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"fit: expected a function .* got .*{name}"):
            learning_curve(wrong, adata, progress=False)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"over": "genes"}, ValueError, "over"),
        ({"fractions": (0, 0.5)}, SplitError, "fractions"),
        ({"fractions": (1.5,)}, SplitError, "fractions"),
        ({"fractions": ()}, SplitError, "fractions"),
        ({"n_perturbations": [99]}, SplitError, "99"),
        ({"n_perturbations": [0]}, ValueError, "n_perturbations"),
        ({"n_perturbations": [2], "over": "cells"}, SplitError, "n_perturbations"),
        ({"n_repeats": 0}, ValueError, "n_repeats"),
        ({"split_key": "fold"}, SplitError, "fold"),
        ({"perturbation_key": "guide"}, LabelError, "guide"),
    ],
)
def test_bad_arguments(screen, options, error, text):
    fit = Recorder()
    with pytest.raises(error, match=text):
        curve_of(screen, fit, **options)
    assert not fit.seen
