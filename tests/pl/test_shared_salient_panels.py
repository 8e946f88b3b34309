"""Shared and salient latents side by side: who is drawn where, in which colour."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

mpl.use("agg")
import matplotlib.pyplot as plt

import perturbia as pb
from perturbia import pl
from perturbia.pl._style import FAINT, MUTED, PALETTE


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def cells() -> ad.AnnData:
    """100 cells of the background, whose salient latents are 0, and 200 of the target under eleven perturbations."""
    rng = np.random.default_rng(0)
    is_target = np.arange(300) >= 100
    names = np.where(is_target, [f"P{i % 11:02d}" for i in range(300)], "control")
    obs = pd.DataFrame(
        {
            "group": np.where(is_target, "target", "background"),
            "perturbation": names,
            "depth": rng.gamma(2.0, size=300),
        },
        index=[f"c{i}" for i in range(300)],
    )
    out = ad.AnnData(obs=obs)
    out.obsm["X_shared"] = rng.normal(size=(300, 4)) * [3, 1, 0.1, 0.1]
    out.obsm["X_salient"] = is_target[:, None] * (5 + rng.normal(size=(300, 3)) * [2, 1, 0.1])
    return out


def scatter(ax):
    return next(c for c in ax.collections if len(c.get_offsets()) > 1)


def legend(figure) -> dict[str, str]:
    own = figure.axes[1].get_legend()
    colours = [to_hex(handle.get_facecolor()[0]) for handle in own.legend_handles]
    return dict(zip([text.get_text() for text in own.get_texts()], colours, strict=True))


def test_both_panels_show_every_cell_once_in_mixed_order(cells):
    figure = pl.shared_salient(cells)
    shared, salient = figure.axes[:2]
    assert [ax.get_title() for ax in (shared, salient)] == ["shared", "salient"]
    assert legend(figure) == {"background": MUTED, "target": PALETTE[0].lower()}
    colours = np.array([to_hex(colour) for colour in scatter(shared).get_facecolors()])
    assert (colours == MUTED).sum() == 100
    # neither group lies above the other
    assert 0.2 < (colours[:150] == MUTED).mean() < 0.47
    assert len(scatter(salient).get_offsets()) == 300
    assert [text.get_text() for text in salient.texts] == ["background, all cells"]
    assert not shared.texts


def test_principal_components_are_those_of_an_independent_decomposition(cells):
    from sklearn.decomposition import PCA

    shared, salient = pl.shared_salient(cells).axes[:2]
    target = (cells.obs["group"] == "target").to_numpy()
    for ax, space, fitted in ((shared, "X_shared", slice(None)), (salient, "X_salient", target)):
        pca = PCA(2).fit(cells.obsm[space][fitted])
        expected = pca.transform(cells.obsm[space])
        drawn = np.asarray(scatter(ax).get_offsets())
        for axis in (0, 1):
            np.testing.assert_allclose(np.sort(np.abs(drawn[:, axis])), np.sort(np.abs(expected[:, axis])), atol=1e-6)
        assert f"PC 1 ({100 * pca.explained_variance_ratio_[0]:.0f} %)" in ax.get_xlabel()
    # the background lies where its latents, all 0, are in the components of the target
    mark = next(c.get_offsets()[0] for c in salient.collections if len(c.get_offsets()) == 1)
    np.testing.assert_allclose(np.abs(mark), np.abs(pca.transform(np.zeros((1, 3)))[0]), atol=1e-6)


def test_categories_beyond_eight_are_grey_unless_highlighted(cells):
    every = legend(pl.shared_salient(cells, color="perturbation"))
    assert len(every) == 10
    assert every["background"] == MUTED
    assert every["other"] == FAINT
    figure = pl.shared_salient(cells, color="perturbation", highlight=["P10", "P03"], title="mine")
    assert legend(figure) == {
        "background": MUTED,
        "P10": PALETTE[0].lower(),
        "P03": PALETTE[1].lower(),
        "other": FAINT,
    }
    assert figure.get_suptitle() == "mine"
    colours = [to_hex(colour) for colour in scatter(figure.axes[1]).get_facecolors()]
    assert colours.count(PALETTE[0].lower()) == (cells.obs["perturbation"] == "P10").sum()
    # the rest lies below
    assert set(colours[: colours.count(FAINT)]) == {FAINT}


def test_numbers_have_a_scale(cells):
    figure = pl.shared_salient(cells, color="depth", columns=(2, 0))
    assert figure.axes[2].get_ylabel() == "depth"
    assert figure.axes[1].get_legend() is None
    assert (figure.axes[0].get_xlabel(), figure.axes[1].get_ylabel()) == ("shared latent 2", "salient latent 0")
    order = np.lexsort(np.asarray(scatter(figure.axes[0]).get_offsets()).T)
    expected = np.lexsort(cells.obsm["X_shared"][:, [2, 0]].T)
    values = np.asarray(scatter(figure.axes[0]).get_array())
    np.testing.assert_allclose(values[order], cells.obs["depth"].to_numpy()[expected])


def test_cells_without_coordinates_are_left_out_and_one_latent_is_enough(cells):
    cells.obsm["X_shared"][:30] = np.nan
    cells.obsm["X_salient"] = cells.obsm["X_salient"][:, :1]
    figure = pl.shared_salient(cells)
    assert [len(scatter(ax).get_offsets()) for ax in figure.axes[:2]] == [270, 270]
    assert figure.axes[1].get_ylabel() == "spread at random"


@pytest.mark.parametrize("by_group", [True, False])
@pytest.mark.filterwarnings("ignore:ComparativeVAE")
def test_a_model_stands_for_its_latents(by_group):
    adata = pb.datasets.simulate_comparative(n_background=60, n_target=90, n_genes=30, n_hidden=20, n_perturbations=3)
    groups = adata.obs["group"].astype(str).to_numpy()
    if by_group:
        groups[60::2] = "other cells"
        adata.obs["group"] = groups
        setup = {"group_key": "group", "background": "background"}
    else:
        del adata.obs["group"]
        setup = {"perturbation_key": "perturbation"}
    pb.model.ComparativeVAE.setup_anndata(adata, **setup)
    model = pb.model.ComparativeVAE(adata, n_latent_shared=2, n_latent_salient=2, n_hidden=8)
    model.train(max_steps=20, n_restarts=1, enable_progress_bar=False, accelerator="cpu")
    before = (list(adata.obs), list(adata.obsm))
    figure = pl.shared_salient(model, columns=(0, 1))
    assert before == (list(adata.obs), list(adata.obsm))
    assert set(legend(figure)) == ({"background", "other cells", "target"} if by_group else {"background", "target"})
    colours = np.array([to_hex(colour) for colour in scatter(figure.axes[0]).get_facecolors()])
    drawn = np.asarray(scatter(figure.axes[0]).get_offsets())
    background = model.get_latent_representation(kind="shared")[:60]
    np.testing.assert_allclose(np.sort(drawn[colours == MUTED, 0]), np.sort(background[:, 0]), atol=1e-5)
    if by_group:
        other = model.get_latent_representation(kind="shared")[groups == "other cells"]
        named = legend(figure)["other cells"]
        np.testing.assert_allclose(np.sort(drawn[colours == named, 0]), np.sort(other[:, 0]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"shared": "X_pca"},
            KeyError,
            "shared: expected a key of obsm, got 'X_pca'; keys are 'X_shared', 'X_salient'",
        ),
        ({"color": "batch"}, KeyError, "color: expected a column of obs, got 'batch'"),
        ({"group_key": "batch"}, KeyError, "group_key: expected a column of obs, got 'batch'"),
        ({"background": "ctrl"}, ValueError, "background: expected a label of obs\\['group'\\], got 'ctrl'"),
        ({"color": "perturbation", "highlight": ["P1"]}, ValueError, "highlight: .* got 'P1' \\(nearest: P01"),
        ({"color": "depth", "highlight": ["P01"]}, ValueError, "highlight: expected none for numbers"),
        ({"columns": (0, 3)}, ValueError, "columns: expected two columns of the 3 salient latents"),
        ({"columns": (0,)}, ValueError, "columns: expected two columns"),
    ],
)
def test_bad_input(cells, options, error, match):
    with pytest.raises(error, match=match):
        pl.shared_salient(cells, **options)
    assert not plt.get_fignums()


def test_an_error_says_that_there_is_nothing_to_name(cells):
    with pytest.raises(ValueError, match="background: .* labels are none"):
        pl.shared_salient(cells[:0].copy())
    cells.obs = cells.obs[[]]
    with pytest.raises(KeyError, match="group_key: .* columns are none. Name one"):
        pl.shared_salient(cells)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="data: expected AnnData or a ComparativeVAE, got int"):
        pl.shared_salient(3)
