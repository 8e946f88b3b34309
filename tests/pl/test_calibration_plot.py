"""The figure of calibration shows what the result holds, for one model and for several."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from perturbia import pl
from perturbia.tl import Calibration


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def make_result(n: int = 6, *, model: str = "Ridge", scale: str = "log1p_cp10k", seed: int = 0) -> Calibration:
    rng = np.random.default_rng(seed)
    nominal = np.array([0.5, 0.1, 0.9])
    kept = np.arange(1, 5) / 4
    return Calibration(
        pd.DataFrame(
            {
                "nominal": nominal,
                "empirical": nominal * 0.9,
                "lower": nominal * 0.8 if n > 1 else np.nan,
                "upper": nominal * 0.95 if n > 1 else np.nan,
                "noise_only": nominal * 0.7,
            }
        ),
        pd.DataFrame(
            rng.random((n, 3)) + 0.1, columns=["rmse", "sd", "se_observed"], index=[f"P{i}" for i in range(n)]
        ),
        pd.Series({"entries": 0.5, "within": 0.4, "between": 0.3}),
        pd.concat(
            [
                pd.DataFrame({"unit": unit, "kept": kept, "rmse": kept, "best": kept / 2, "noise": kept / 3})
                for unit in ("entry", "perturbation")
            ]
        ),
        model,
        scale,
    )


def line_of(ax, label):
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return line


def test_one_model():
    result = make_result()
    figure = pl.calibration(result, n_labels=2)
    coverage, selection, errors = figure.axes
    line = line_of(coverage, "Ridge")
    np.testing.assert_allclose(line.get_xdata(), [0.1, 0.5, 0.9])  # sorted
    np.testing.assert_allclose(line.get_ydata(), [0.09, 0.45, 0.81])
    assert len(coverage.collections) == 1  # the bootstrap interval
    np.testing.assert_allclose(line_of(selection, "Ridge").get_ydata(), [0.25, 0.5, 0.75, 1.0])
    table = result.perturbations
    np.testing.assert_allclose(
        errors.collections[0].get_offsets(),
        np.c_[np.hypot(table["sd"], table["se_observed"]), table["rmse"]],
    )
    assert [text.get_text() for text in errors.texts] == list(table["rmse"].nlargest(2).index)
    assert errors.get_xlim() == errors.get_ylim()
    assert "log1p CP10K" in selection.get_ylabel()
    assert figure.get_suptitle() == "Ridge"


def test_several_models_have_colours_and_names_of_their_own():
    results = {name: make_result(seed=i) for i, name in enumerate("abc")}
    figure = pl.calibration(results, title="three")
    lines = [line_of(figure.axes[0], name) for name in results]
    assert len({line.get_color() for line in lines}) == 3
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == {*"abc", "measuring error alone"}
    assert len(figure.axes[2].collections) == 3
    assert not figure.axes[2].texts
    assert figure.get_suptitle() == "three"


def test_a_single_perturbation_can_be_drawn(tmp_path):
    figure = pl.calibration(make_result(1))
    figure.savefig(tmp_path / "a.png")
    assert not figure.axes[0].collections
    low, high = figure.axes[2].get_xlim()
    assert low < high


def test_results_that_do_not_go_together():
    with pytest.raises(ValueError, match="scale"):
        pl.calibration({"a": make_result(), "b": make_result(scale="zscore")})
    with pytest.raises(ValueError, match="one to 8"):
        pl.calibration({})
    with pytest.raises(ValueError, match="got 9"):
        pl.calibration({str(i): make_result() for i in range(9)})


def test_something_else_than_a_result():
    with pytest.raises(TypeError, match=r"result: expected the result of perturbia.tl.calibration, got dict"):
        pl.calibration({"a": {}})
    with pytest.raises(TypeError, match="got NoneType. Make one with perturbia.tl.calibration"):
        pl.calibration(None)
