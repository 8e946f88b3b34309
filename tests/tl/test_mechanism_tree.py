"""The tree of mechanisms, on shifts chosen by hand; the genes behind them, on a simulated screen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import perturbia as pb
from perturbia.errors import UnknownPerturbation
from perturbia.tl import clade_of, mechanisms


class FakeModel:
    """Two near pairs far from one another, and one perturbation of no effect."""

    shifts = pd.DataFrame(
        [[2.0, 0.0], [2.1, 0.0], [0.0, 3.0], [0.0, 3.2], [0.0, 0.0]],
        index=["A", "B", "C", "D", "E"],
        columns=["z0", "z1"],
    )

    def get_treatment_masks(self):
        return (self.shifts != 0).astype(float).iloc[::-1]  # another order of rows

    def get_treatment_embeddings(self, *, masked=True):
        assert masked
        return self.shifts


def test_rows_and_masks_belong_together():
    tree = mechanisms(FakeModel())
    np.testing.assert_allclose(tree["C"].X, [[0.0, 3.0]])
    np.testing.assert_array_equal(tree.layers["mask"], (FakeModel.shifts != 0).to_numpy())
    assert tree.obs["n_moved"].tolist() == [1, 1, 1, 1, 0]
    assert sorted(tree.obs["order"]) == list(range(5))
    assert abs(tree.obs["order"]["A"] - tree.obs["order"]["B"]) == 1


def test_clades():
    tree = mechanisms(FakeModel())
    assert clade_of(tree, ["A", "B"]) == ["A", "B"]
    assert clade_of(tree, ["D", "C"]) == ["C", "D"]
    assert clade_of(tree, ["A", "E"]) == ["A", "B", "E"]
    assert clade_of(tree, ["A", "C"]) == ["A", "B", "C", "D", "E"]
    with pytest.raises(UnknownPerturbation, match="Z"):
        clade_of(tree, ["A", "Z"])


def test_it_survives_a_file(tmp_path):
    import anndata as ad

    tree = mechanisms(FakeModel())
    tree.write_h5ad(tmp_path / "tree.h5ad")
    assert clade_of(ad.read_h5ad(tmp_path / "tree.h5ad"), ["A", "B"]) == ["A", "B"]


def test_two_perturbations_have_no_tree():
    model = FakeModel()
    model.shifts = model.shifts.iloc[:2]
    tree = mechanisms(model)
    assert "linkage" not in tree.uns
    assert clade_of(tree, ["A", "B"]) == ["A", "B"]


@pytest.mark.parametrize("rows", [["D", "C", "B", "A", "E"], ["C", "D", "E"]])
def test_a_tree_with_rows_moved_is_refused(rows):
    tree = mechanisms(FakeModel())
    with pytest.raises(ValueError, match="left out or moved"):
        clade_of(tree[rows], ["C", "D"])
    with pytest.raises(ValueError, match="members"):
        clade_of(tree, [])


@pytest.fixture(scope="module")
def screen():
    """Three latents, of which every perturbation moves one."""
    return pb.datasets.simulate_screen(
        n_perturbations=4,
        n_combinations=0,
        n_genes=80,
        n_latent=3,
        mask_prob=0.0,
        effect_scale=3.0,
        cells_per_perturbation=120,
        n_controls=300,
        effect_shape="sign",
        n_truth_cells=200,
        seed=2,
    )


@pytest.fixture(scope="module")
def model(screen):
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    model = pb.model.SAMSVAE(screen, n_latent=5, n_hidden=32)
    model.train(max_steps=400, enable_progress_bar=False, accelerator="cpu")
    return model


def test_the_programme_of_a_perturbation_is_found_on_the_latent_that_it_moves(screen, model):
    truth = screen.uns["truth"]["ate"]
    rng = np.random.default_rng(0)
    names = list(model.perturbations)
    sets = {f"{name} up": truth.loc[name].nlargest(12).index.tolist() for name in names}
    sets |= {f"random {i}": rng.choice(screen.var_names, 12, replace=False).tolist() for i in range(4)}
    tree = mechanisms(model, gene_sets=sets)
    table = tree.uns["enrichment"].set_index(["gene_set", "latent"])
    for name in names:
        shift = pd.Series(tree[name].X[0], index=tree.var_names)
        latent = shift.abs().idxmax()
        found = table.loc[(f"{name} up", latent)]
        assert found["padj"] < 1e-3
        # genes rise where the shift goes
        assert np.sign(found["statistic"]) == np.sign(shift[latent])
        assert abs(found["statistic"]) > 0.6
    random = table[table.index.get_level_values("gene_set").str.startswith("random")]
    assert (random["padj"] > 0.01).mean() > 0.8


def test_loadings_times_shifts_are_the_effects(screen, model):
    tree = mechanisms(model, loadings=True, n_cells=100)
    loadings = pd.DataFrame(tree.varm["loadings"], tree.var_names, tree.uns["features"])
    pd.testing.assert_frame_equal(loadings, pb.tl.latent_loadings(model, n_cells=100), check_names=False)
    assert "enrichment" not in tree.uns
    np.testing.assert_allclose(tree.var["rms_loading"], np.sqrt((loadings**2).mean(axis=1)), rtol=1e-5)
    effects = model.estimate_ate(list(tree.obs_names), n_draws=0)
    linear = tree.X @ loadings.to_numpy()
    for predicted, effect in zip(linear, effects.X, strict=True):
        assert np.corrcoef(predicted, effect)[0, 1] > 0.9


def test_genes_are_asked_for_and_survive_files(model, tmp_path):
    import anndata as ad

    assert not mechanisms(model).varm
    tree = mechanisms(model, gene_sets={"first": list(model.adata.var_names[:10])})
    tree.write_h5ad(tmp_path / "tree.h5ad")
    again = ad.read_h5ad(tmp_path / "tree.h5ad")
    np.testing.assert_array_equal(again.varm["loadings"], tree.varm["loadings"])
    assert list(again.uns["features"]) == list(model.adata.var_names)
    pd.testing.assert_frame_equal(again.uns["enrichment"], tree.uns["enrichment"], check_dtype=False)


def test_bad_gene_sets_write_nothing(model):
    before = {key: list(getattr(model.adata, key)) for key in ("obs", "obsm", "uns", "varm", "layers")}
    with pytest.raises(ValueError, match="gene_sets: expected at least 5 genes"):
        mechanisms(model, gene_sets={"foreign": ["A", "B", "C", "D", "E", "F"]})
    with pytest.raises(TypeError, match="model: expected a model that decodes latents"):
        mechanisms(FakeModel(), loadings=True)
    assert before == {key: list(getattr(model.adata, key)) for key in ("obs", "obsm", "uns", "varm", "layers")}


@pytest.mark.parametrize(("kind", "open_masks"), [("SVAE", False), ("CPAVAE", True)])
def test_the_other_models_with_embeddings(screen, kind, open_masks):
    adata = screen.copy()
    getattr(pb.model, kind).setup_anndata(adata, perturbation_key="perturbation")
    model = getattr(pb.model, kind)(adata, n_latent=4, n_hidden=16)
    model.train(max_steps=30, enable_progress_bar=False, accelerator="cpu")
    tree = mechanisms(model, loadings=True)
    assert tree.varm["loadings"].shape == (4, 80)
    if open_masks:
        np.testing.assert_array_equal(tree.layers["mask"], 1)
    else:
        np.testing.assert_array_equal(tree.layers["mask"], model.get_intervention_targets())


def test_a_model_without_embeddings_is_refused(screen):
    adata = screen.copy()
    pb.model.ConditionalVAE.setup_anndata(adata, perturbation_key="perturbation")
    with pytest.raises(TypeError, match="model: expected a model with embeddings.*got ConditionalVAE"):
        mechanisms(pb.model.ConditionalVAE(adata))
