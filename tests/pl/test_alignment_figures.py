"""Figures of alignments show the masses, cells and diagnostics that are stored, for few and for many perturbations."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba

from perturbia import datasets, model, pl, tl
from perturbia.errors import FeatureMismatch, LabelError, ModalityError, NotTrainedError
from perturbia.model.alignment._alignment_diagnostics import DIFFERENT, HUB, LARGE, held_out_reliability
from perturbia.model.alignment.coupling_storage import read_coupling
from perturbia.pl._style import ACCENT, FAINT, INK, MUTED, PALETTE


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def matched(*, n_cells=30, method="ot", **options):
    """Cells matched by their true log-ratios, with a label of one latent that was not used."""
    mdata = datasets.simulate_modalities(**{"n_perturbations": 4, "n_latent": 2, "seed": 0} | options, n_cells=n_cells)
    for adata in mdata.mod.values():
        side = np.digitize(adata.obsm["truth_latent"][:, 0], [-0.5, 0.5])
        adata.obs["side"] = pd.Categorical.from_codes(side, categories=["west", "middle", "east"])
    tl.align(mdata, use_rep="truth_log_ratio", method=method, control="control")
    return mdata


@pytest.fixture(scope="module")
def mdata():
    return matched()


@pytest.fixture(scope="module")
def aligner():
    """sc-GEM, aligned by cell type."""
    data = datasets.scgem()
    model.PropensityAligner.setup_mudata(data, perturbation_key="cell_type")
    trained = model.PropensityAligner(data, n_hidden=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained.train(max_epochs=10, enable_progress_bar=False)
        trained.align()
    return trained


def image_of(ax) -> np.ndarray:
    (image,) = ax.images
    return image.get_array()


# ---- the plan of a perturbation --------------------------------------------------------------------------------------


def block(mdata, perturbation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass relative to an even share, and positions of the cells, by hand."""
    stored = read_coupling(mdata, "coupling")
    rows, columns = (
        np.flatnonzero(adata.obs["perturbation"] == perturbation) for adata in (stored.source, stored.target)
    )
    plan = stored.matrix[rows][:, columns].toarray()
    return plan / plan.sum(axis=1, keepdims=True) * len(columns), rows, columns


def test_a_plan_is_drawn_as_it_is_stored(mdata):
    ax = pl.alignment_heatmap(mdata, perturbation="P02")
    fold, *_ = block(mdata, "P02")
    drawn = image_of(ax)
    assert drawn.shape == (30, 30)
    np.testing.assert_allclose(np.sort(drawn.filled(0), axis=None), np.sort(fold, axis=None), atol=1e-6)
    assert (drawn.mask == (drawn.filled(0) <= 0)).all()
    assert type(ax.images[0].norm).__name__ == "LogNorm"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("30 target cells", "30 source cells")
    # source cells are where their matches are
    place = drawn.filled(0) @ np.arange(30)
    assert np.corrcoef(place, np.arange(30))[0, 1] > 0.95


def test_true_partners_lie_on_the_diagonal():
    twins = matched(method="emd")  # finds all of them
    drawn = image_of(pl.alignment_heatmap(twins, perturbation="P01", pairs="pair"))
    np.testing.assert_allclose(drawn.filled(0), 30 * np.eye(30), atol=1e-6)


def test_the_title_says_how_much_mass_true_partners_have(mdata):
    fold, rows, columns = block(mdata, "P01")
    own = mdata["source"].obs["pair"].to_numpy()[rows]
    other = mdata["target"].obs["pair"].to_numpy()[columns]
    right = (fold * (own[:, None] == other)).sum() / len(columns) / len(rows)
    title = pl.alignment_heatmap(mdata, perturbation="P01", pairs="pair").get_title()
    assert title == f"matches of P01\n{100 * right:.0f} % with true partners (chance: 3.3 %)"
    assert pl.alignment_heatmap(mdata, perturbation="P01", pairs="pair", title="mine").get_title() == "mine"


def test_cells_are_sorted_by_label_in_the_order_of_categories(mdata):
    ax = pl.alignment_heatmap(mdata, perturbation="control", label="side")
    fold, rows, columns = block(mdata, "control")
    parts = [
        adata.obs["side"].cat.codes.to_numpy()[at]
        for adata, at in zip(mdata.mod.values(), (rows, columns), strict=True)
    ]
    drawn = image_of(ax).filled(0)
    ends = [np.cumsum(np.bincount(part, minlength=3)) for part in parts]
    for i in range(3):
        for j in range(3):
            within = drawn[ends[0][i - 1] if i else 0 : ends[0][i], ends[1][j - 1] if j else 0 : ends[1][j]]
            assert within.sum() == pytest.approx(fold[np.ix_(parts[0] == i, parts[1] == j)].sum(), abs=1e-5)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["west", "middle", "east"]
    lines = [line.get_ydata()[0] for line in ax.lines if line.get_ydata()[0] == line.get_ydata()[1]]
    assert lines == ends[0][:2].tolist()


def test_many_cells_are_averaged_with_their_neighbours():
    many = matched(n_cells=410, n_perturbations=2, method="emd")
    drawn = image_of(pl.alignment_heatmap(many, perturbation="P01", pairs="pair"))
    assert drawn.shape == (160, 160)
    size = np.bincount(np.arange(410) * 160 // 410)
    np.testing.assert_allclose(drawn.filled(0), np.diag(410 / size), atol=1e-5)


def test_either_side_can_be_the_source_and_either_spelling_the_perturbation():
    data = matched()
    forward = image_of(pl.alignment_heatmap(data, perturbation="P03", pairs="pair")).filled(0)
    back = image_of(pl.alignment_heatmap(data, perturbation="P03", pairs="pair", source="target")).filled(0)
    assert np.count_nonzero(forward) == np.count_nonzero(back)
    data["target"].obs["perturbation"] = data["target"].obs["perturbation"].astype(str).replace({"P03": "B+A"})
    data["source"].obs["perturbation"] = data["source"].obs["perturbation"].astype(str).replace({"P03": "A+B"})
    for spelled in ("A+B", "B+A"):
        again = image_of(pl.alignment_heatmap(data, perturbation=spelled, pairs="pair")).filled(0)
        np.testing.assert_allclose(again, forward)


def test_cells_without_match_are_empty_rows_at_the_end():
    data = matched(method="emd")
    (row, *_) = np.flatnonzero(data["source"].obs["perturbation"] == "P01")
    at = data.obs_names.get_loc(data["source"].obs_names[row])
    plan = data.obsp["coupling"]
    plan.data[plan.indptr[at] : plan.indptr[at + 1]] = 0
    drawn = image_of(pl.alignment_heatmap(data, perturbation="P01"))
    assert drawn[-1].mask.all()
    assert not drawn[:-1].mask.all(axis=1).any()


def test_views_of_some_cells_can_be_drawn(mdata):
    few = mdata[np.sort(np.r_[np.arange(0, 300, 2), 1])]
    ax = pl.alignment_heatmap(few, perturbation="P01")
    assert image_of(ax).shape == tuple((adata.obs["perturbation"] == "P01").sum() for adata in few.mod.values())
    assert len(points_of(pl.alignment_embedding(few, n_lines=5))) == few.n_obs


# ---- labels that matches join ------------------------------------------------------------------------------------------


def test_labels_are_drawn_as_shares_of_rows(mdata):
    ax = pl.alignment_heatmap(mdata, label="side")
    stored = read_coupling(mdata, "coupling")
    plan = stored.conditional().toarray()
    source, target = (adata.obs["side"].astype(str).to_numpy() for adata in (stored.source, stored.target))
    names = ["west", "middle", "east"]
    share = np.array([[plan[source == a][:, target == b].sum() / (source == a).sum() for b in names] for a in names])
    np.testing.assert_allclose(image_of(ax), share, atol=1e-6)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == names
    written = {text.get_text() for text in ax.texts}
    assert written == {f"{value:.2f}"[1:] if value < 0.995 else "1" for value in share.ravel() if value >= 0.005}
    assert len(ax.texts) == (share >= 0.005).sum()
    agree = np.mean([plan[i, target == source[i]].sum() for i in range(len(source))])
    groups = [adata.obs["perturbation"].to_numpy() for adata in (stored.source, stored.target)]
    even = np.mean([(target[groups[1] == groups[0][i]] == source[i]).mean() for i in range(len(source))])
    title = f"same side: {100 * agree:.0f} % of matches\n(by chance within perturbations: {100 * even:.0f} %)"
    assert ax.get_title() == title


def test_cells_without_label_have_a_row_of_their_own_and_many_labels_no_numbers():
    data = matched()
    data["source"].obs["side"] = data["source"].obs["side"].where(np.arange(150) > 3)
    ax = pl.alignment_heatmap(data, label="side")
    assert [tick.get_text() for tick in ax.get_yticklabels()][-1] == "no label"
    assert image_of(ax).shape == (4, 3)
    for adata in data.mod.values():
        adata.obs["many"] = [f"type {i % 40:02d}" for i in range(adata.n_obs)]
    ax = pl.alignment_heatmap(data, label="many")
    assert image_of(ax).shape == (40, 40)
    assert not ax.texts


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({}, ValueError, "perturbation, label: expected a perturbation"),
        ({"label": "side", "pairs": "pair"}, ValueError, "pairs: expected None without a perturbation"),
        ({"perturbation": "P10"}, ValueError, r"perturbation: expected .* got 'P10' \(nearest: P01"),
        ({"label": "type"}, LabelError, "label: expected a column of obs of 'source', got 'type'"),
        ({"perturbation": "P01", "pairs": "nobody"}, LabelError, "pairs: expected a column"),
        ({"perturbation": "P01", "pairs": "side"}, LabelError, "unique among cells of 'source', got duplicates"),
        ({"perturbation": "P01", "use_rep": "X_umap"}, FeatureMismatch, "X_umap"),
        ({"perturbation": "P01", "use_rep": {"source": "a"}}, ValueError, "use_rep: expected a key of obsm for each"),
        ({"perturbation": "P01", "coupling": "other"}, KeyError, "got 'other'; there are 'coupling'"),
        ({"perturbation": "P01", "source": "rna"}, ModalityError, "'rna'"),
    ],
)
def test_heatmap_bad_input(mdata, options, error, match):
    with pytest.raises(error, match=match):
        pl.alignment_heatmap(mdata, **options)
    assert not plt.get_fignums()


# ---- both modalities in one plane --------------------------------------------------------------------------------------


def points_of(ax) -> np.ndarray:
    return np.concatenate([np.asarray(one.get_offsets()) for one in ax.collections if hasattr(one, "get_sizes")])


def lines_of(ax) -> list[np.ndarray]:
    return [line for one in ax.collections if hasattr(one, "get_segments") for line in one.get_segments()]


def test_all_cells_of_both_modalities_are_drawn_and_lines_join_best_matches(mdata):
    ax = pl.alignment_embedding(mdata, use_rep="truth_latent", n_lines=50)
    places = [adata.obsm["truth_latent"] for adata in mdata.mod.values()]
    drawn = points_of(ax)
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(np.concatenate(places), axis=0))
    plan = read_coupling(mdata, "coupling").matrix.toarray()
    lines = lines_of(ax)
    assert len(lines) == 50
    for start, end in lines:
        (row,) = np.flatnonzero(np.isclose(places[0], start).all(axis=1))
        np.testing.assert_allclose(places[1][plan[row].argmax()], end)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["source", "target", "P01", "P02", "P03", "P04", "control"]
    assert ax.get_title() == "perturbation"


def test_fainter_lines_are_less_certain(mdata):
    ax = pl.alignment_embedding(mdata, use_rep="truth_latent", n_lines=10**6)
    (lines,) = (one for one in ax.collections if hasattr(one, "get_segments"))
    plan = read_coupling(mdata, "coupling").conditional().toarray()
    np.testing.assert_allclose(np.sort(lines.get_colors()[:, 3]), np.sort(0.3 + 0.5 * plan.max(axis=1)))


def test_more_coordinates_are_drawn_on_joint_principal_axes(mdata):
    ax = pl.alignment_embedding(mdata, n_lines=0)
    both = np.concatenate([adata.obsm["truth_log_ratio"] for adata in mdata.mod.values()]).astype(np.float64)
    left, scale, _ = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    expected = np.sort(np.abs(left[:, :2] * scale[:2]), axis=0)
    np.testing.assert_allclose(np.sort(np.abs(points_of(ax)), axis=0), expected, atol=1e-8)
    shares = scale**2 / (scale**2).sum()
    assert ax.get_xlabel() == f"truth log ratio PC 1 ({100 * shares[0]:.0f} %)"
    assert not lines_of(ax)


def test_scores_of_a_model_are_found_without_their_name(aligner):
    ax = pl.alignment_embedding(aligner.adata)
    assert ax.get_xlabel().startswith("PSA PC 1")
    assert len(points_of(ax)) == 2 * 177
    assert [text.get_text() for text in ax.get_legend().get_texts()][:2] == ["expression", "methylation"]


def test_only_coloured_groups_and_controls_are_joined(mdata):
    ax = pl.alignment_embedding(mdata, use_rep="truth_latent", groups=["P02"], n_lines=10**6)
    own = mdata["source"].obsm["truth_latent"][mdata["source"].obs["perturbation"] == "P02"]
    np.testing.assert_allclose(np.sort([line[0] for line in lines_of(ax)], axis=0), np.sort(own, axis=0))
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["source", "target", "P02", "control", "other"]
    colours = np.concatenate(
        [one.get_facecolors() for one in ax.collections if hasattr(one, "get_sizes") and len(one.get_offsets()) > 0]
    )
    shares = {
        name: (colours[:, :3] == to_rgba(shade)[:3]).all(axis=1).sum()
        for name, shade in (("P02", PALETTE[0]), ("control", MUTED), ("other", FAINT))
    }
    assert shares == {"P02": 60, "control": 60, "other": 180}


def test_a_label_of_one_modality_leaves_the_other_grey():
    data = matched()
    data["target"].obs["type"] = "a"
    ax = pl.alignment_embedding(data, use_rep="truth_latent", color="type", n_lines=20)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["source", "target", "a", "no label"]
    assert len(lines_of(ax)) == 20


def test_twenty_perturbations_have_eight_colours():
    many = matched(n_cells=10, n_perturbations=20, n_latent=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = pl.alignment_embedding(many)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(names) == 2 + 8 + 2
    assert names[-2:] == ["control", "other"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_lines": -1}, ValueError, "n_lines: expected a number of lines, 0 for none, got -1"),
        ({"color": "type"}, LabelError, "color: expected a column of obs of 'source' or 'target', got 'type'"),
        ({"groups": ["P10"]}, ValueError, r"groups: expected categories .* \(nearest: P01"),
        ({"use_rep": "X_umap"}, FeatureMismatch, "use_rep: expected a key of mdata"),
        ({"use_rep": "X"}, ValueError, "use_rep: expected two or more coordinates in one space, got 'X' of 'source'"),
        ({"coupling": "other"}, KeyError, "got 'other'"),
    ],
)
def test_embedding_bad_input(mdata, options, error, match):
    with pytest.raises(error, match=match):
        pl.alignment_embedding(mdata, **options)
    assert not plt.get_fignums()


# ---- reliability of propensities ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_temperature", [False, True])
def test_curves_are_those_of_the_probabilities_in_use(aligner, use_temperature, monkeypatch):
    monkeypatch.setattr(aligner, "use_temperature_", use_temperature)
    monkeypatch.setattr(aligner, "temperatures_", {"source": 2.0, "target": 0.5})
    ax = pl.propensity_calibration(aligner, n_bins=3)
    curves = held_out_reliability(aligner, n_bins=3, temperature=use_temperature)
    for container, name in zip(ax.containers, ("expression", "methylation"), strict=False):
        curve = curves[curves["modality"] == name]
        line, _, (bars,) = container
        np.testing.assert_allclose(line.get_xydata(), curve[["confidence", "accuracy"]])
        ends = np.array(bars.get_segments())[:, :, 1]
        np.testing.assert_allclose(ends, curve[["lower", "upper"]])
        scores = aligner.classification_.loc[name]
        assert container.get_label().startswith(
            f"{name}: cross-entropy {scores['cross_entropy']:.2f} nats, chance {scores['chance']:.2f}\n3 bins of "
        )
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ("before temperatures" in names) == use_temperature
    if use_temperature:
        dotted = [line for line in ax.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
        before = held_out_reliability(aligner, n_bins=3)
        np.testing.assert_allclose(np.concatenate([line.get_xdata() for line in dotted]), before["confidence"])
    assert ax.get_title() == "5 perturbations, held-out cells"
    assert ax.get_xlim() == ax.get_ylim()


def test_calibration_bad_input(aligner):
    untrained = model.PropensityAligner(aligner.adata, n_hidden=4)
    for given, options, error, match in (
        (aligner.adata, {}, TypeError, "model: expected a PropensityAligner, got MuData"),
        (untrained, {}, NotTrainedError, "Call .train"),
        (aligner, {"n_bins": 0}, ValueError, "n_bins: expected a positive integer, or None, got 0"),
    ):
        with pytest.raises(error, match=match):
            pl.propensity_calibration(given, **options)
    assert not plt.get_fignums()


# ---- diagnostics -------------------------------------------------------------------------------------------------------


def diagnosed(n: int = 6, *, matches: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "n_source": 50,
            "n_target": 60,
            "auroc_source": rng.uniform(0.4, 1, n),
            "auroc_target": rng.uniform(0.4, 1, n),
            "energy_distance": 0.1,
            "relative_distance": np.linspace(-0.01, 0.3, n),
            "p_value": 0.01,
            "p_adjusted": np.where(np.arange(n) % 2, 0.01, 0.2),
        },
        index=pd.Index([f"P{i:03d}" for i in range(n)], name="perturbation"),
    )
    if matches:
        table["n_effective"], table["max_hubness"] = rng.uniform(1, 40, n), rng.uniform(1, 30, n)
    return table


@pytest.mark.parametrize("n", [1, 5, 100, 400])
def test_every_panel_has_the_values_of_the_table_in_one_order(n):
    table = diagnosed(n)
    axes = pl.alignment_diagnostics(table)
    order = table[["auroc_source", "auroc_target"]].min(axis=1).sort_values(ascending=False).index
    table = table.loc[order]
    drawn = {
        "auroc_source": (0, 0),
        "auroc_target": (0, 1),
        "relative_distance": (1, 0),
        "n_effective": (2, 0),
        "max_hubness": (3, 0),
    }
    for column, (panel, which) in drawn.items():
        points = [one for one in axes[panel].collections if hasattr(one, "get_sizes")][which]
        np.testing.assert_allclose(points.get_offsets(), np.c_[table[column], range(n)])
    names = [tick.get_text() for tick in axes[0].get_yticklabels()]
    assert set(names) <= set(order)
    assert names[0] == order[0]
    assert len(names) == n or n == 400
    axes[0].figure.canvas.draw()
    boxes = [tick.get_window_extent() for tick in axes[0].get_yticklabels()]
    assert all(below.y1 <= above.y0 + 1.5 for above, below in zip(boxes, boxes[1:], strict=False))


def test_flags():
    table = diagnosed(6)
    axes = pl.alignment_diagnostics(table, sort_by="table")
    differ, hubs = (next(one for one in axes[i].collections if hasattr(one, "get_sizes")) for i in (1, 3))
    wrong = (table["p_adjusted"] < DIFFERENT) & (table["relative_distance"] > LARGE)
    assert 0 < wrong.sum() < 6
    np.testing.assert_array_equal((differ.get_edgecolors() == to_rgba(ACCENT)).all(axis=1), wrong)
    np.testing.assert_array_equal((differ.get_facecolors()[:, :3] == 1).all(axis=1), table["p_adjusted"] >= DIFFERENT)
    np.testing.assert_array_equal((hubs.get_edgecolors() == to_rgba(ACCENT)).all(axis=1), table["max_hubness"] > HUB)
    assert (hubs.get_edgecolors() == to_rgba(INK)).all(axis=1).any()
    title = axes[0].figure.get_suptitle()
    assert title == f"6 perturbations; scores differ in {wrong.sum()}; hubs in {(table['max_hubness'] > 10).sum()}"


def test_a_table_without_matches_has_two_panels_and_missing_values_no_points(tmp_path):
    table = diagnosed(4, matches=False)
    table.loc["P001", ["auroc_target", "relative_distance", "p_adjusted"]] = np.nan
    axes = pl.alignment_diagnostics(table, names=("rna", "protein"))
    assert len(axes) == 2
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["rna", "protein"]
    empty = diagnosed(2)
    empty["max_hubness"] = [0.0, np.nan]
    empty[["n_effective", "auroc_source", "auroc_target", "relative_distance"]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes[0].figure.savefig(tmp_path / "a.png")
        pl.alignment_diagnostics(empty)[0].figure.savefig(tmp_path / "b.png")


@pytest.mark.parametrize(("sort_by", "best"), [("relative_distance", 0), ("n_effective", None), ("max_hubness", None)])
def test_the_most_trusted_come_first(sort_by, best):
    table = diagnosed(6)
    axes = pl.alignment_diagnostics(table, sort_by=sort_by)
    expected = table[sort_by].idxmin()
    assert axes[0].get_yticklabels()[0].get_text() == expected
    assert best is None or expected == table.index[best]


def test_axes_and_perturbations_can_be_chosen():
    _, given = plt.subplots(2, 2)
    axes = pl.alignment_diagnostics(diagnosed(6), perturbations=["P004", "P001"], ax=given, sort_by="table")
    assert list(axes) == list(given.ravel())
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == ["P001", "P004"]


def test_a_model_is_asked_for_its_table(aligner, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = aligner.diagnose(n_permutations=20)
    monkeypatch.setattr(aligner, "diagnose", lambda: table)
    axes = pl.alignment_diagnostics(aligner)
    assert len(axes) == 4
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["expression", "methylation"]
    assert {tick.get_text() for tick in axes[0].get_yticklabels()} == set(table.index)


@pytest.mark.parametrize(
    ("data", "options", "error", "match"),
    [
        (3, {}, TypeError, "data: expected the table of an alignment or a PropensityAligner, got int"),
        (diagnosed().drop(columns="auroc_target"), {}, ValueError, "got no auroc_target. Make one with"),
        (diagnosed().iloc[:0], {}, ValueError, "got no rows"),
        (diagnosed(), {"perturbations": ["P00"]}, ValueError, r"perturbations: expected .*, got 'P00' \(nearest: P00"),
        (
            diagnosed(matches=False),
            {"sort_by": "n_effective"},
            ValueError,
            "sort_by: expected one of 'auroc', 'relative_",
        ),
        (diagnosed(), {"ax": [None]}, ValueError, "ax: expected 4 axes, one a panel, got 1"),
    ],
)
def test_diagnostics_bad_input(data, options, error, match):
    with pytest.raises(error, match=match):
        pl.alignment_diagnostics(data, **options)
    assert not plt.get_fignums()
