"""The heat map of a map shows its cosines in the order of a tree, with groups, names and a symmetric scale."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import anndata as ad
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from scipy.cluster import hierarchy

import perturbia as pb
from perturbia.errors import LabelError
from perturbia.pl._style import FAINT, MUTED, PALETTE


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def genes(n_groups: int = 3, size: int = 4, n_controls: int = 1) -> ad.AnnData:
    """Groups of perturbations that are alike, rows in turn, and controls."""
    rng = np.random.default_rng(0)
    n = n_groups * size
    group = np.arange(n) % n_groups
    values = rng.normal(size=(n_groups, 20))[group] + 0.5 * rng.normal(size=(n, 20))
    values = np.vstack([values, rng.normal(size=(n_controls, 20))])
    obs = pd.DataFrame(
        {
            "is_control": [False] * n + [True] * n_controls,
            "complex": [f"C{one}" for one in group] + [None] * n_controls,
        },
        index=[f"G{i:03d}" for i in range(n)] + [f"control{i}" for i in range(n_controls)],
    )
    adata_map = ad.AnnData(values.astype(np.float32), obs=obs)
    pb.tl.relate(adata_map)
    return adata_map


def image(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def names(ax) -> list[str]:
    return [tick.get_text() for tick in ax.get_yticklabels()]


def strip(ax):
    return next(child for child in ax.child_axes if child.images and not child.axison)


def bar(ax):
    return next(child for child in ax.child_axes if child.axison)


def test_cosines_are_drawn_in_the_order_of_a_tree_without_controls():
    adata_map = genes()
    ax = pb.pl.perturbation_map(adata_map)
    order = names(ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == order
    assert sorted(order) == sorted(adata_map.obs_names[:-1])
    at = adata_map.obs_names.get_indexer(order)
    np.testing.assert_allclose(image(ax), adata_map.obsp["cosine"][np.ix_(at, at)])
    groups = adata_map.obs["complex"].iloc[at].tolist()
    assert len(list(dict.fromkeys(groups))) == 3
    assert groups == sorted(groups, key=groups.index)  # members lie side by side
    distance = 1 - adata_map.obsp["cosine"][:-1, :-1].astype(float)[np.triu_indices(12, 1)]
    tree = hierarchy.linkage(distance, "average", optimal_ordering=True)
    assert at.tolist() == hierarchy.leaves_list(tree).tolist()
    assert ax.get_title() == "cosines of 12 perturbations"


def test_the_scale_is_symmetric_and_says_its_unit():
    adata_map = genes()
    ax = pb.pl.perturbation_map(adata_map)
    norm = ax.images[0].norm
    assert norm.vmin == -norm.vmax
    size = np.abs(adata_map.obsp["cosine"][:-1, :-1][np.triu_indices(12, 1)])
    assert np.quantile(size, 0.995) <= norm.vmax <= np.quantile(size, 0.995) + 0.1
    assert bar(ax).get_ylabel() == "cosine"
    assert pb.pl.perturbation_map(adata_map, vmax=0.3).images[0].norm.vmax == 0.3
    pb.tl.relate(adata_map, metric="pearson")
    ax = pb.pl.perturbation_map(adata_map, key="pearson")
    assert bar(ax).get_ylabel() == "Pearson correlation"
    assert ax.get_title() == "Pearson correlations of 12 perturbations"


def test_rows_can_stay_where_they_are():
    adata_map = genes()
    ax = pb.pl.perturbation_map(adata_map, cluster=False)
    assert names(ax) == adata_map.obs_names[:-1].tolist()
    np.testing.assert_allclose(image(ax), adata_map.obsp["cosine"][:-1, :-1])


def test_groups_are_a_strip_with_a_legend():
    adata_map = genes()
    adata_map.obs.loc[["G003", "G004"], "complex"] = [None, "none"]
    adata_map.obs.loc["G005", "complex"] = "alone"
    ax = pb.pl.perturbation_map(adata_map, groups="complex")
    legend = {text.get_text(): patch.get_facecolor()[:3] for text, patch in
              zip(ax.get_legend().get_texts(), ax.get_legend().get_patches(), strict=True)}  # fmt: skip
    expected = {"C0": PALETTE[0], "C1": PALETTE[1], "C2": PALETTE[2], "other": MUTED, "no label": FAINT}
    assert legend == {name: to_rgb(shade) for name, shade in expected.items()}
    assert ax.get_legend().get_title().get_text() == "complex"
    shown = image(strip(ax))[0]
    for name, colour in zip(names(ax), shown, strict=True):
        label = adata_map.obs.loc[name, "complex"]
        label = "no label" if label in (None, "none") else "other" if label == "alone" else label
        assert tuple(colour) == pytest.approx(legend[label])


def test_the_title_compares_members_with_others():
    adata_map = genes()
    cosines = adata_map.obsp["cosine"][:-1, :-1]
    group = adata_map.obs["complex"].to_numpy()[:-1]
    same = (group[:, None] == group)[np.triu_indices(12, 1)]
    within, between = (cosines[np.triu_indices(12, 1)][one].mean() for one in (same, ~same))
    title = pb.pl.perturbation_map(adata_map, groups="complex").get_title()
    assert title == f"cosines of 12 perturbations\nmean {within:.2f} within the same complex, {between:.2f} otherwise"
    adata_map.obs["complex"] = "all"
    assert "\n" not in pb.pl.perturbation_map(adata_map, groups="complex").get_title()


def test_more_groups_than_colours():
    ax = pb.pl.perturbation_map(genes(n_groups=11, size=2), groups="complex")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(texts) == len(PALETTE) + 1
    assert texts[-1] == "other"


def test_names_only_where_there_is_room_and_axes_that_are_given():
    _, given = plt.subplots(figsize=(4, 4))
    ax = pb.pl.perturbation_map(genes(n_groups=30), ax=given, title="mine")
    assert ax is given
    assert ax.get_title() == "mine"
    assert names(ax) == []
    assert len(names(pb.pl.perturbation_map(genes(n_groups=10)))) == 40
    assert names(pb.pl.perturbation_map(genes(n_groups=50))) == []


def test_guides_are_not_called_perturbations():
    adata_map = genes()
    adata_map.obs["pb_perturbation"] = [name[:3] for name in adata_map.obs_names]
    assert pb.pl.perturbation_map(adata_map).get_title() == "cosines of 12 profiles"


def test_everything_lies_within_the_figure():
    adata_map = genes(n_groups=10)
    adata_map.obs_names = [f"a long name {name}" for name in adata_map.obs_names]
    ax = pb.pl.perturbation_map(adata_map, groups="complex")
    figure = ax.figure
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.03
    assert box.y0 > -0.03
    assert box.x1 < width + 0.03
    assert box.y1 < height + 0.03


@pytest.mark.parametrize("n", [2, 3])
def test_few_rows_are_drawn(n):
    assert image(pb.pl.perturbation_map(genes()[:n])).shape == (n, n)


def test_a_view_and_a_file_are_drawn(tmp_path):
    adata_map = genes()
    adata_map.write_h5ad(tmp_path / "map.h5ad")
    stored = ad.read_h5ad(tmp_path / "map.h5ad", backed="r")
    expected = image(pb.pl.perturbation_map(adata_map[:8]))
    np.testing.assert_array_equal(image(pb.pl.perturbation_map(stored[:8])), expected)


def test_a_pathway_lies_together_in_a_real_screen():
    adata = pb.datasets.papalexi()
    counts = adata.X.toarray()
    adata.obsm["X_log"] = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    found = pb.tl.aggregate_perturbations(adata, use_rep="X_log", keep_control=True)
    found.X -= found["control"].X
    pb.tl.relate(found)
    order = names(pb.pl.perturbation_map(found))
    places = sorted(order.index(name) for name in ("IFNGR1", "IFNGR2", "JAK2", "STAT1"))
    assert places == list(range(places[0], places[0] + 4))


def sparse_one(adata_map):
    pb.tl.relate(adata_map, n_top=2)
    return adata_map


def missing(adata_map):
    adata_map.obsp["cosine"][2, 1] = np.nan
    return adata_map


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (
            lambda a: a,
            {"key": "pearson"},
            KeyError,
            "key: expected a key of adata_map.obsp, got 'pearson'.*relate first",
        ),
        (lambda a: a, {"groups": "arm"}, LabelError, "groups: expected a column of adata_map.obs, got 'arm'"),
        (lambda a: a, {"vmax": 0}, ValueError, "vmax: expected a number above 0, or None, got 0"),
        (lambda a: a[:1], {}, ValueError, "adata_map: expected 2 to 2000 perturbations, got 1"),
        (lambda a: a[-2:], {}, ValueError, "adata_map: expected 2 to 2000 perturbations, got 1"),
        (sparse_one, {}, ValueError, "key: expected all relations .* got the largest of each row"),
        (missing, {}, ValueError, "key: expected finite numbers"),
    ],
)
def test_bad_input(change, options, error, match):
    adata_map = change(genes())
    with pytest.raises(error, match=match):
        pb.pl.perturbation_map(adata_map, **options)
    assert not plt.get_fignums()
