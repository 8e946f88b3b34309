"""The figure of a posterior predictive check shows every entry, where it lies, and the coverage."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from perturbia import pl
from perturbia.pl._style import ACCENT
from perturbia.tl import PredictiveCheck


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def make_check(sizes=None) -> PredictiveCheck:
    rng = np.random.default_rng(0)
    parts = []
    for name, n in (sizes or {"ate": 500, "variance_mean_ratio": 200, "library_size": 9, "mine": 1}).items():
        middle = 0.5 + rng.gamma(2.0, 1.0, n)
        parts.append(
            pd.DataFrame(
                {
                    "statistic": name,
                    "perturbation": "P",
                    "gene": [f"g{i}" for i in range(n)],
                    "observed": middle + rng.normal(scale=0.2, size=n).clip(-0.4, 0.4) * np.sqrt(middle),
                    "rep_mean": middle,
                    "rep_low": middle * 0.8,
                    "rep_high": middle * 1.2,
                    "p_value": 0.5,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table["statistic"] = pd.Categorical(table["statistic"], categories=pd.unique(table["statistic"]))
    return PredictiveCheck(table, "SAMSVAE", "prior", 99, 1234, 0)


def test_every_entry_is_drawn_and_those_outside_are_coloured():
    check = make_check()
    figure = pl.ppc(check)
    assert len(figure.axes) == 5
    for ax, (name, row) in zip(figure.axes, check.summary.iterrows(), strict=False):
        (cloud,) = (c for c in ax.collections if len(c.get_offsets()) == row["n"] and hasattr(c, "get_sizes"))
        table = check.table[check.table["statistic"] == name]
        np.testing.assert_allclose(cloud.get_offsets(), table[["rep_mean", "observed"]])
        outside = (np.abs(cloud.get_facecolors()[:, :3] - to_rgb(ACCENT)) < 1e-6).all(1)
        assert outside.sum() == round((1 - row["coverage"]) * row["n"])
        assert f"{row['coverage']:.0%}" in ax.texts[0].get_text()
    assert figure.axes[1].get_xscale() == "log"
    assert "1,234 cells" in figure.get_suptitle()


def test_the_last_panel_has_the_coverage():
    check = make_check()
    ax = pl.ppc(check, n_columns=2, title="mine").axes[-1]
    np.testing.assert_allclose(ax.collections[-1].get_offsets()[:, 0], 100 * check.summary["coverage"])
    assert [text.get_text() for text in ax.texts] == ["ate", "variance mean ratio", "library size", "mine"]
    assert ax.figure.get_suptitle() == "mine"


def test_bands_are_drawn_where_entries_are_few():
    figure = pl.ppc(make_check({"library_size": 9}))
    lines = [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]
    assert len(lines[0].get_segments()) == 9
    figure = pl.ppc(make_check({"ate": 500}))
    assert not [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]


def test_some_statistics_and_those_that_do_not_exist():
    check = make_check()
    assert len(pl.ppc(check, statistics=["mine", "ate"]).axes) == 3
    with pytest.raises(KeyError, match="edistance"):
        pl.ppc(check, statistics=["edistance"])
    with pytest.raises(ValueError, match="n_columns"):
        pl.ppc(check, n_columns=0)
    with pytest.raises(ValueError, match="statistics"):
        pl.ppc(check, statistics=[])


def test_replicates_without_spread_can_be_drawn(tmp_path):
    check = make_check({"zero_fraction": 3})
    check.table[["observed", "rep_mean", "rep_low", "rep_high"]] = 1.0
    pl.ppc(check).savefig(tmp_path / "a.png")
    low, high = pl.ppc(check).axes[0].get_xlim()
    assert low < 1 < high


def test_something_else_than_a_result():
    with pytest.raises(TypeError, match="got NoneType. Make one with perturbia.tl.posterior_predictive_check"):
        pl.ppc(None)
    with pytest.raises(TypeError, match=r"got PredictiveCheck. Draw this one with perturbia.pl.ppc"):
        pl.report(make_check())
