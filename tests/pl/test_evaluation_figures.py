"""Figures of an evaluation: the numbers they show are those of the result, for few and many perturbations."""

from __future__ import annotations

import warnings
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

mpl.use("agg")
import matplotlib.pyplot as plt

from perturbia import datasets, model, pl, tl
from perturbia.metrics import retrieval_ranks
from perturbia.pl._methods import best_baselines
from perturbia.pl._point_names import name_points
from perturbia.pl._score_axis import score_limits
from perturbia.pl._style import ACCENT, BASELINE

BASELINES = ["NoChange", "Mean", "MeanSameOrder", "Additive"]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def judge(*, baselines=BASELINES, models=("Ridge",), context_key=None, screen=None, **options):
    screen = {"n_perturbations": 8, "n_combinations": 18, "n_genes": 40, "n_latent": 3, "seed": 0} | (screen or {})
    adata = datasets.simulate_screen(**screen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axis = "combination" if screen["n_combinations"] else "random"
        if context_key:
            adata.obs[context_key] = np.where(np.arange(adata.n_obs) % 2, "K562", "RPE1")
            axis = "random"
        tl.split(adata, axis=axis, fraction=0.5, seed=0)
        fitted = {}
        for name in models:
            kind = getattr(model, name)
            kind.setup_anndata(adata, perturbation_key="perturbation")
            fitted[name] = kind(adata)
            fitted[name].train()
        return tl.evaluate(fitted, adata, baselines=baselines, context_key=context_key, n_resamples=200, **options)


@pytest.fixture(scope="module")
def result():
    return judge()


def panel(figure, title):
    (ax,) = (ax for ax in figure.axes if ax.get_title().replace("\n", " ") == title)
    return ax


def whole_points(ax):
    """Centres of the points of single rows."""
    return {
        round(float(collection.get_offsets()[0][1]), 6): collection
        for collection in ax.collections
        if hasattr(collection, "get_sizes") and len(collection.get_offsets()) == 1 and collection.get_zorder() == 4
    }


def inside(figure):
    """Whether all text lies within the figure."""
    figure.canvas.draw()
    frame = figure.bbox.padded(2)
    for text in figure.findobj(plt.Text):
        box = text.get_window_extent()
        if text.get_visible() and text.get_text() and box.width > 0 and not text.get_text().isspace():
            yield text.get_text(), frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)


class TestMetricStrip:
    def test_points_numbers_and_lines_are_those_of_the_summary(self, result):
        figure = pl.metric_strip(result, metrics=["correlation", "rmse"], title="mine")
        summary = result.summary(metrics=["correlation", "rmse"])
        names = result.names("model", "baseline")
        assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == names
        assert figure.get_suptitle() == "mine"
        for metric, title in (("correlation", "r, per perturbation"), ("rmse", "RMSE ↓")):
            ax = panel(figure, title)
            points = whole_points(ax)
            for row, name in enumerate(names):
                value = summary.loc[name, ("value", metric)]
                low, high = ax.get_xlim()
                assert points[row].get_offsets()[0][0] == pytest.approx(np.clip(value, low, high))
                assert to_hex(points[row].get_facecolor()[0]).upper() == (ACCENT if name == "Ridge" else BASELINE)
            texts = [text.get_text() for text in ax.texts]
            assert texts == [f"{summary.loc[name, ('value', metric)]:.2f}".replace("-0.00", "0.00") for name in names]
            dashed = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
            assert dashed == [pytest.approx(summary.loc["true effects", ("value", metric)])]
        assert panel(figure, "RMSE ↓").get_xlabel() == "log1p CP10K"
        (legend,) = figure.legends
        shown = {text.get_text() for text in legend.get_texts()}
        assert shown == {"true effects", "second experiment", "one perturbation", "↓ lower is better"}

    def test_whiskers_are_the_bootstrap_interval(self, result):
        ax = panel(pl.metric_strip(result, metrics="correlation"), "r, per perturbation")
        row = result.names("model", "baseline").index("Mean")
        (line,) = (line for line in ax.lines if np.array_equal(line.get_ydata(), [row, row]))
        summary = result.summary(metrics=["correlation"]).loc["Mean"]
        low, high = ax.get_xlim()
        expected = np.clip([summary["low", "correlation"], summary["high", "correlation"]], low, high)
        np.testing.assert_allclose(line.get_xdata(), expected)

    def test_single_perturbations_can_be_left_out(self, result):
        def n_faint(figure):
            return sum(len(c.get_offsets()) for c in figure.axes[0].collections if c.get_alpha() == 0.28)

        assert n_faint(pl.metric_strip(result, metrics=["retrieval_cosine"])) > len(result.observed)
        figure = pl.metric_strip(result, metrics=["retrieval_cosine"], show_perturbations=False)
        assert n_faint(figure) == 0
        assert "one perturbation" not in {text.get_text() for text in figure.legends[0].get_texts()}

    def test_scores_far_below_chance_are_arrows_at_the_edge(self):
        table = pd.DataFrame({"r": [0.7, 0.5, 0.8], "R2": [0.4, -5.0, 0.6]}, index=["model", "baseline", "top"])
        figure = pl.metric_strip(table, highlight=["model"], ceiling="top")
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["model", "baseline"]
        ax = panel(figure, "R2")
        low = ax.get_xlim()[0]
        assert -0.7 < low < 0
        arrow = whole_points(ax)[1]
        assert arrow.get_offsets()[0][0] == low
        assert "−5.00" in {text.get_text() for text in ax.texts}
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [0.6]

    def test_missing_scores_leave_their_place_empty(self):
        table = pd.DataFrame({"r": [0.7, np.nan]}, index=["model", "baseline"])
        ax = pl.metric_strip(table).axes[0]
        assert set(whole_points(ax)) == {0.0}
        assert len(ax.texts) == 1
        assert pl.metric_strip(table * np.nan).axes[0].get_xlim() == (0.0, 1.0)

    def test_models_choose_and_order_the_rows(self, result):
        figure = pl.metric_strip(result, metrics=["r2"], models=["Mean", "Ridge"])
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["Mean", "Ridge"]

    def test_a_measure_that_is_not_defined_everywhere_says_so(self, result):
        table = result.table.copy()
        rows = (table["metric"] == "r2") & (table["perturbation"] == table["perturbation"].iloc[0])
        table.loc[rows, "value"] = np.nan
        n = len(result.observed)
        ax = pl.metric_strip(replace(result, table=table), metrics=["r2"]).axes[0]
        assert ax.get_xlabel() == f"{n - 1} of {n} judged"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metrics": ["corelation"]}, r"metrics: .* got 'corelation' \(nearest: correlation"),
            ({"metrics": []}, "at least one"),
            ({"models": ["Rigde"]}, r"models: .* got 'Rigde' \(nearest: Ridge"),
            ({"highlight": ["Mane"]}, r"highlight: .* got 'Mane' \(nearest: Mean"),
            ({"n_columns": 0}, "n_columns: expected a positive"),
        ],
    )
    def test_unknown_names_of_a_result(self, result, options, message):
        with pytest.raises(ValueError, match=message):
            pl.metric_strip(result, **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metrics": ["rr"]}, r"metrics: .* got 'rr' \(nearest: r"),
            ({"highlight": ["modle"]}, r"highlight: .*nearest: model"),
            ({"ceiling": "celling"}, r"ceiling: .*nearest: ceiling"),
            ({"models": ["ceiling"], "ceiling": "ceiling"}, "models: expected"),
        ],
    )
    def test_unknown_names_of_a_table(self, options, message):
        table = pd.DataFrame({"r": [0.7, 0.5]}, index=["model", "ceiling"])
        with pytest.raises(ValueError, match=message):
            pl.metric_strip(table, **options)


class TestScatterOfAResult:
    def test_every_gene_of_every_perturbation_is_drawn_with_its_scores(self, result):
        ax = pl.scatter_effects(result, highlight=[result.observed.obs_names[0], "not judged"])
        assert sum(len(c.get_offsets()) for c in ax.collections) == result.observed.X.size
        value = result.table.query("model == 'Ridge' and metric == 'correlation_all'")["value"].item()
        assert f"r = {value:.3f}" in ax.texts[0].get_text()
        assert ax.get_title() == "Ridge"
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [result.observed.obs_names[0]]
        assert pl.scatter_effects(result, model="Mean").get_title() == "Mean"

    def test_perturbations_without_effects_are_counted(self, result):
        observed = result.observed.copy()
        observed.X[0] = np.nan
        ax = pl.scatter_effects(replace(result, observed=observed))
        assert "1 without effects left out" in ax.texts[0].get_text()
        observed.X[:] = np.nan
        with pytest.raises(ValueError, match="expected finite effects"):
            pl.scatter_effects(replace(result, observed=observed))

    def test_what_does_not_go_together(self, result):
        with pytest.raises(TypeError, match="observed"):
            pl.scatter_effects(result, result.observed)
        with pytest.raises(TypeError, match="observed"):
            pl.scatter_effects(result.observed)
        with pytest.raises(TypeError, match="model"):
            pl.scatter_effects(result.observed, result.observed, model="Ridge")
        with pytest.raises(ValueError, match=r"model: .* got 'Rige' \(nearest: Ridge"):
            pl.scatter_effects(result, model="Rige")


class TestRetrievalMatrix:
    @pytest.mark.parametrize("metric", ["cosine", "pearson", "l1", "l2"])
    def test_entries_and_ranks(self, result, metric):
        ax = pl.retrieval_matrix(result, metric=metric)
        values = np.asarray(ax.images[0].get_array())
        order = [label.get_text() for label in ax.get_yticklabels()]
        assert [label.get_text() for label in ax.get_xticklabels()] == order
        assert sorted(order) == sorted(result.observed.obs_names)
        truth, predicted = (np.asarray(one[order].X, float) for one in (result.observed, result.effects["Ridge"]))
        ranks = 1 + retrieval_ranks(truth, predicted, metric=metric)
        (strip,) = ax.child_axes
        (points,) = (c for c in strip.collections if hasattr(c, "get_sizes"))
        np.testing.assert_allclose(points.get_offsets(), np.c_[ranks, np.arange(len(ranks))])
        assert f"nearest for {(ranks == 1).sum()} of {len(ranks)}" in ax.get_title()
        i, j = 1, 3
        expected = {
            "cosine": predicted[i] @ truth[j] / np.linalg.norm(predicted[i]) / np.linalg.norm(truth[j]),
            "pearson": np.corrcoef(predicted[i], truth[j])[0, 1],
            "l1": np.abs(predicted[i] - truth[j]).mean(),
            "l2": np.sqrt(((predicted[i] - truth[j]) ** 2).mean()),
        }
        assert values[i, j] == pytest.approx(expected[metric], rel=1e-6)
        label = ax.images[0].colorbar.ax.get_ylabel()
        assert ("log1p CP10K" in label) == (metric in {"l1", "l2"})

    def test_a_prediction_without_direction(self, result):
        ax = pl.retrieval_matrix(result, model="NoChange")
        np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), 0.0)

    def test_names_thin_out(self):
        many = judge(baselines=None, screen={"n_perturbations": 70, "n_combinations": 0, "n_genes": 24})
        ax = pl.retrieval_matrix(many)
        n = len(many.observed)
        assert n >= 70
        assert n / 10 < len(ax.get_yticklabels()) < n / 1.5
        assert all(ok for _, ok in inside(ax.figure))

    def test_contexts_are_drawn_apart(self):
        both = judge(context_key="line", screen={"n_perturbations": 4, "n_combinations": 0})
        ax = pl.retrieval_matrix(both, context="RPE1")
        assert "in RPE1" in ax.get_title()
        assert len(ax.get_yticklabels()) == (both.observed.obs["context"] == "RPE1").sum()
        assert "in K562" in pl.retrieval_matrix(both).get_title()
        with pytest.raises(ValueError, match=r"context: .* got 'RPE' \(nearest: RPE1"):
            pl.retrieval_matrix(both, context="RPE")
        points = pl.scatter_effects(both, highlight=[both.observed.obs["pb_perturbation"].iloc[0]]).collections
        assert len(points[1].get_offsets()) == 2 * both.observed.n_vars  # the perturbation in both contexts

    def test_bad_names_and_nothing_to_tell_apart(self, result):
        with pytest.raises(ValueError, match=r"metric: .* got 'cosin' \(nearest: cosine"):
            pl.retrieval_matrix(result, metric="cosin")
        with pytest.raises(ValueError, match="model: "):
            pl.retrieval_matrix(result, model="true effects")
        observed = result.observed.copy()
        observed.X[1:] = np.nan
        with pytest.raises(ValueError, match="at least two perturbations"):
            pl.retrieval_matrix(replace(result, observed=observed))


class TestStrata:
    def test_points_are_the_summary_by_group(self, result):
        ax = pl.strata(result, models=["Ridge", "Mean"])
        summary = result.summary(metrics=["correlation"], by="stratum")["value"]["correlation"]
        groups = [label.get_text().split("\n")[0] for label in ax.get_xticklabels()]
        assert groups == ["weakest", "weak", "strong", "strongest"]
        for name in ("Ridge", "Mean"):
            (line,) = (line for line in ax.lines if line.get_label() == name)
            low, _ = ax.get_ylim()
            expected = summary.xs(name, level=1).reindex(groups)
            np.testing.assert_allclose(line.get_ydata(), expected[expected >= low])
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert {"Ridge", "Mean", "true effects", "second experiment"} == set(labels)
        assert ax.get_ylabel() == "r, per perturbation"
        assert "lower" not in ax.get_ylabel()
        assert pl.strata(result, metric="rmse").get_ylabel() == "RMSE ↓ (log1p CP10K)"

    def test_default_methods_are_models_and_the_best_baselines(self, result):
        ax = pl.strata(result, by="seen_members")
        shown = {text.get_text() for text in ax.get_legend().get_texts()} - {"true effects", "second experiment"}
        assert shown == {"Ridge", *best_baselines(result, "correlation", n=2)}
        assert "seen" in ax.get_xticklabels()[0].get_text()

    def test_baselines_that_say_the_same_are_one(self, result):
        table = result.table.copy()
        copy = table[table["model"] == "Additive"].assign(model="Copy")
        again = replace(result, table=pd.concat([table, copy], ignore_index=True))
        assert best_baselines(result, "correlation", n=2)[0] == "Additive"
        assert "Copy" not in best_baselines(again, "correlation", n=4)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metric": "corelation"}, r"metric: .*nearest: correlation"),
            ({"metric": "correlation_all"}, "one score a perturbation"),
            ({"by": "strata"}, "by: expected groupings"),
            ({"by": "context"}, "which none has"),
            ({"models": ["Rigde"]}, r"models: .*nearest: Ridge"),
        ],
    )
    def test_bad_input(self, result, options, message):
        with pytest.raises(ValueError, match=message):
            pl.strata(result, **options)


class TestReport:
    def letters(self, figure):
        return sorted(text.get_text() for ax in figure.axes for text in ax.texts if text.get_fontweight() == "bold")

    def test_all_panels_and_what_was_judged(self, result):
        figure = pl.report(result)
        assert self.letters(figure) == list("abcdef")
        assert figure.get_suptitle().startswith(f"Ridge: {len(result.observed)} perturbations × 40 genes")
        text = " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(plt.Text))
        assert "Tests combinations that were never seen" in text
        assert "95% bootstrap intervals" in text
        assert [name for name, ok in inside(figure) if not ok] == []

    def test_the_comparison_is_with_the_best_baseline(self, result):
        (best,) = best_baselines(result, "r2", n=1)
        figure = pl.report(result, metric="r2")
        (ax,) = (ax for ax in figure.axes if ax.get_ylabel().startswith("Ridge"))
        assert ax.get_xlabel().startswith(best)
        values = result.values("r2")
        points = next(c for c in ax.collections if len(c.get_offsets()) == len(values)).get_offsets()
        low, high = ax.get_xlim()
        np.testing.assert_allclose(points, values[[best, "Ridge"]].clip(low, high))
        found = result.compare("Ridge", best, metrics=["r2"]).loc["r2"]
        assert f"difference {found['difference']:.3f}".replace("-", "−") in ax.get_title()
        (ax,) = (ax for ax in pl.report(result, baseline="Mean").figure.axes if ax.get_ylabel().startswith("Ridge"))
        assert ax.get_xlabel().startswith("Mean")

    @pytest.mark.parametrize(
        ("options", "panels"),
        [
            ({"baselines": None}, "abcd"),
            ({"baselines": None, "models": ("Ridge", "Mean")}, "abcdef"),
            ({"screen": {"n_perturbations": 2, "n_combinations": 0}}, "abcdef"),
            ({"context_key": "line", "screen": {"n_perturbations": 3, "n_combinations": 0}}, "abcdef"),
            ({"protocol": ["rmse", "correlation"]}, "abcdef"),
        ],
    )
    def test_what_there_is_to_show(self, options, panels, tmp_path):
        figure = pl.report(judge(**options))
        figure.savefig(tmp_path / "a.png")
        assert self.letters(figure) == list(panels)

    def test_one_perturbation(self, result):
        name = str(result.observed.obs_names[0])
        one = judge(perturbations=[name])
        figure = pl.report(one)
        assert self.letters(figure) == list("abcde")
        assert "1 perturbation ×" in figure.get_suptitle()

    def test_known_effects_have_no_second_experiment(self, result):
        truth = pd.DataFrame(
            np.asarray(result.observed.X, float), index=result.observed.obs_names, columns=result.observed.var_names
        )
        figure = pl.report(judge(truth=truth, protocol=["correlation", "r2"]))
        assert self.letters(figure) == list("abcdef")
        assert not [ax for ax in figure.axes for line in ax.lines if line.get_linestyle() == ":"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model": "Rigde"}, r"model: .*nearest: Ridge"),
            ({"baseline": "Additiv"}, r"baseline: .*nearest: Additive"),
            ({"metric": "r2_all"}, "one score a perturbation"),
            ({"metrics": ["rmsee"]}, r"metrics: .*nearest: rmse"),
            ({"context": "K562"}, "context: expected"),
        ],
    )
    def test_bad_input(self, result, options, message):
        with pytest.raises(ValueError, match=message):
            pl.report(result, **options)
        assert not plt.get_fignums()  # nothing half-drawn stays open


def test_names_of_points_do_not_cover_one_another():
    ax = plt.subplots(figsize=(3, 3))[1]
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 40))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_box_aspect(1)
    name_points(ax, x, y, [f"GENE{i}" for i in range(20)])
    assert len(ax.texts) >= 6
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent().shrunk(0.9, 0.9) for text in ax.texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


@pytest.mark.parametrize(
    ("means", "others", "options", "low", "high"),
    [
        ([0.6, -3.0], [], {"chance": 0.0, "higher_is_better": True}, -0.6, 0.6),
        ([0.6, 0.2], [0.1, 0.8], {"chance": 0.0, "higher_is_better": True}, 0.0, 0.8),
        ([0.9, 0.4], [], {"chance": 0.5, "higher_is_better": True}, 0.4, 0.9),
        ([-2.0, -5.0], [], {"chance": 0.0, "higher_is_better": True}, -2.1, 0.0),
        ([0.1, 0.1, 9.0], [], {"chance": np.nan, "higher_is_better": False}, 0.0, 0.25),
        ([-250.0, -260.0], [], {"chance": np.nan, "higher_is_better": True}, -260.0, -250.0),
        ([0.9, 0.95], [], {"chance": 0.0, "higher_is_better": True, "show_chance": False}, 0.9, 0.95),
    ],
)
def test_axes_leave_out_what_is_far_worse(means, others, options, low, high):
    found = score_limits(np.array(means), np.array(others), **options)
    pad = 0.04 * (high - low)
    np.testing.assert_allclose(found, (low - pad, high + pad))


@pytest.mark.parametrize("figure", [pl.report, pl.metric_strip, pl.strata, pl.retrieval_matrix])
def test_something_else_than_a_result(figure):
    with pytest.raises(
        TypeError, match=r"result: expected the result of perturbia.tl.evaluate, got (str|NoneType)\. Make one"
    ):
        figure("x")
    with pytest.raises(TypeError, match="got NoneType"):
        figure(None)


def test_figures_take_what_was_evaluated():
    found = judge(baselines=["Mean"], protocol=["rmse"])
    assert pl.strata(found).get_ylabel().startswith("RMSE")
    for figure in (pl.report, pl.metric_strip, pl.retrieval_matrix):
        figure(found)
