"""Figures: what they must show, for few and for many perturbations."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy.cluster import hierarchy

mpl.use("agg")
import matplotlib.pyplot as plt

from perturbia import pl
from perturbia.errors import FeatureMismatch, NotTrainedError, ScaleError


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def cells(n_groups: int, n: int = 400) -> ad.AnnData:
    rng = np.random.default_rng(0)
    labels = rng.choice(["control", *(f"P{i:02d}" for i in range(n_groups))], n)
    out = ad.AnnData(np.zeros((n, 1)), obs=pd.DataFrame({"perturbation": labels}, index=[str(i) for i in range(n)]))
    out.obsm["X_umap"] = rng.normal(size=(n, 2))
    return out


def effect_table(values: np.ndarray, model: str = "SAMSVAE") -> ad.AnnData:
    names = [f"P{i}" for i in range(len(values))]
    out = ad.AnnData(values, obs=pd.DataFrame(index=names))
    out.uns["perturbia"] = {"scale": "log1p_cp10k", "model": model}
    return out


def tree_of(n: int, n_latent: int) -> ad.AnnData:
    rng = np.random.default_rng(0)
    mask = rng.random((n, n_latent)) < 0.2
    mask[:, -1] = False  # a latent that nothing moves
    shift = mask * rng.normal(size=(n, n_latent))
    out = ad.AnnData(shift, obs=pd.DataFrame({"n_moved": mask.sum(1)}, index=[f"P{i}" for i in range(n)]))
    out.layers["mask"] = mask.astype(float)
    out.uns["linkage"] = hierarchy.linkage(shift, "average")
    out.obs["order"] = np.argsort(hierarchy.leaves_list(out.uns["linkage"]))
    out.var_names = [f"z{i}" for i in range(n_latent)]
    return out


def drawn(ax) -> int:
    return sum(len(collection.get_offsets()) for collection in ax.collections)


@pytest.mark.parametrize("n_groups", [3, 25, 100])
def test_latent_draws_every_cell_and_names_at_most_eight_groups(n_groups):
    adata = cells(n_groups)
    ax = pl.latent(adata, color="perturbation")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert drawn(ax) == adata.n_obs
    assert len(names) == (min(n_groups, 8) + 1 + (n_groups > 8))
    assert "control" in names


def test_latent_leaves_out_cells_without_coordinates_and_takes_given_axes():
    adata = cells(3)
    adata.obsm["X_umap"][:100] = np.nan
    _, given = plt.subplots()
    ax = pl.latent(adata, color="perturbation", groups=["P01"], ax=given, title="mine")
    assert ax is given
    assert drawn(ax) == 300
    assert (ax.get_title(), ax.get_xlabel()) == ("mine", "UMAP 1")
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"P01", "other", "control"}
    with pytest.raises(KeyError, match="X_pca"):
        pl.latent(adata, color="perturbation", basis="X_pca")
    with pytest.raises(ValueError, match=r"groups: .* got 'P1' \(nearest: P01"):
        pl.latent(adata, color="perturbation", groups=["P00", "P1"])


@pytest.mark.parametrize("n", [5, 25, 100])
def test_mechanisms_rows_follow_the_tree(n):
    tree = tree_of(n, 12)
    figure = pl.mechanisms(tree, highlight=["P1"])
    left, middle, right, *_ = figure.axes
    shown = [text.get_text() for text in middle.get_yticklabels()]
    assert shown == [f"P{i}" for i in hierarchy.leaves_list(tree.uns["linkage"])]
    columns = [text.get_text() for text in middle.get_xticklabels()]
    assert "z11" not in columns
    row, column = shown.index("P1"), 0
    image = right.images[0].get_array()
    assert image[row, column] == pytest.approx(float(tree["P1", columns[column]].X[0, 0]))
    assert len(left.collections) > 0
    highlighted = [text.get_text() for text in middle.get_yticklabels() if text.get_fontweight() == "bold"]
    assert highlighted == ["P1"]
    assert f"of {n} perturbations" in figure.get_suptitle()


def test_mechanisms_without_a_tree_or_a_moved_latent():
    tree = tree_of(5, 4)
    tree.layers["mask"][:] = 0
    tree.obs["n_moved"] = 0
    del tree.uns["linkage"]
    figure = pl.mechanisms(tree)
    assert "0 of 4 latents" in figure.get_suptitle()


def test_scatter_effects_writes_its_scores_and_units():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(6, 30))
    prediction = truth + rng.normal(size=truth.shape)
    ax = pl.scatter_effects(effect_table(prediction), effect_table(truth), highlight=["P2", "P4"])
    expected = np.corrcoef(truth.ravel(), prediction.ravel())[0, 1]
    assert f"r = {expected:.3f}" in ax.texts[0].get_text()
    assert ax.get_xlabel() == "predicted effect (log1p CP10K)"
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"P2", "P4"}
    assert drawn(ax) == truth.size


def test_scatter_effects_aligns_perturbations_by_name():
    truth = effect_table(np.random.default_rng(0).normal(size=(6, 30)))
    ax = pl.scatter_effects(truth[::-1].copy(), truth)
    assert "r = 1.000" in ax.texts[0].get_text()
    other = truth.copy()
    other.var_names = [f"g{i}" for i in range(30)]
    with pytest.raises(FeatureMismatch):
        pl.scatter_effects(other, truth)


def test_training_draws_both_curves():
    steps = np.exp(-np.arange(50) / 3)
    history = {
        "elbo_train": pd.DataFrame({"elbo_train": 100 + 1000 * steps}),
        "elbo_validation": pd.DataFrame({"elbo_validation": 102 + 1000 * steps[::10]}, index=range(0, 50, 10)),
    }
    ax = pl.training(history)
    train, validation = ax.lines
    np.testing.assert_array_equal(validation.get_xdata(), [0, 10, 20, 30, 40])
    assert ax.get_ylim()[1] < 500  # the steep beginning does not flatten the rest
    assert "nats" in ax.get_ylabel()
    assert len(train.get_xdata()) == 50
    with pytest.raises(NotTrainedError, match="Train the model"):
        pl.training({})


def test_mechanisms_refuses_a_tree_with_rows_moved():
    tree = tree_of(6, 4)
    with pytest.raises(ValueError, match="left out or moved"):
        pl.mechanisms(tree[::-1])


def test_scatter_effects_refuses_two_scales():
    one, other = effect_table(np.eye(3)), effect_table(np.eye(3))
    other.uns["perturbia"] = {"scale": "counts"}
    with pytest.raises(ScaleError, match="'log1p_cp10k' and 'counts'"):
        pl.scatter_effects(one, other)
