"""What the additive latent model promises about offsets, and what must not depend on how the design is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import perturbia as pb

from .conftest import GUIDES

if TYPE_CHECKING:
    from collections.abc import Callable


def offset(model: pb.model.SAMSVAE, query: object) -> np.ndarray:
    latent = model.encode(indices=[0])
    return model.perturb(latent, query).X[0] - latent.X[0]


def test_offsets_add_up(trained: pb.model.SAMSVAE) -> None:
    embeddings = trained.get_treatment_embeddings()
    assert np.abs(embeddings.to_numpy()).max() > 0.3  # else this would show nothing
    for first, second in [("P01", "P02"), ("P02", "P04")]:
        pair = offset(trained, f"{first}+{second}")
        np.testing.assert_allclose(pair, offset(trained, first) + offset(trained, second), atol=1e-5)
        np.testing.assert_allclose(pair, embeddings.loc[[first, second]].sum(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::perturbia.errors.ExtrapolationWarning")
def test_offsets_are_linear_in_doses(trained: pb.model.SAMSVAE) -> None:
    once = offset(trained, "P02")
    for dose in (0.25, 2.0, 3.5):
        np.testing.assert_allclose(offset(trained, {"P02": dose}), dose * once, atol=1e-5)
    mixed = offset(trained, {"P02": 0.5, "P03": 2.0})
    np.testing.assert_allclose(mixed, 0.5 * once + 2 * offset(trained, "P03"), atol=1e-5)


def test_a_zero_row_is_a_control(trained: pb.model.SAMSVAE) -> None:
    """Relabelled as controls, treated cells keep their state and lose their offset."""
    cells = trained.adata[trained.adata.obs["perturbation"] == "P02"].copy()
    relabelled = cells.copy()
    relabelled.obs["perturbation"] = "control"
    relabelled.obsm.pop("_perturbia_dosage")
    full, basal = (
        trained.get_latent_representation(data, kind=kind) for data, kind in ((cells, "full"), (relabelled, "basal"))
    )
    np.testing.assert_allclose(full, basal, atol=1e-5)
    assert (trained.get_latent_representation(relabelled, kind="perturbation") == 0).all()


def test_kinds_of_latents(trained: pb.model.SAMSVAE) -> None:
    full, basal, shift = (trained.get_latent_representation(kind=kind) for kind in ("full", "basal", "perturbation"))
    np.testing.assert_allclose(full, basal + shift, atol=1e-5)
    dosage = trained.adata.obsm["_perturbia_dosage"]
    np.testing.assert_allclose(shift, dosage @ trained.get_treatment_embeddings().to_numpy(), atol=1e-5)
    for kind in ("full", "basal"):
        mean, variance = trained.get_latent_representation(kind=kind, return_dist=True)
        np.testing.assert_array_equal(mean, trained.get_latent_representation(kind=kind))
        draw = trained.get_latent_representation(kind=kind, give_mean=False)
        standard = (draw - mean) / np.sqrt(variance)
        assert abs(standard.mean()) < 0.2
        assert 0.85 < standard.std() < 1.15
        assert draw.dtype == mean.dtype == np.float32
    chosen = [7, 3, 7]
    np.testing.assert_allclose(trained.get_latent_representation(indices=chosen), full[chosen], atol=1e-5)


def test_masks_and_embeddings_are_one_posterior(trained: pb.model.SAMSVAE) -> None:
    masks, embeddings = trained.get_treatment_masks(), trained.get_treatment_embeddings()
    assert list(masks.index) == list(embeddings.index) == trained.perturbations
    assert list(masks.columns) == ["z0", "z1", "z2"]
    np.testing.assert_allclose(embeddings, masks * trained.get_treatment_embeddings(masked=False), rtol=1e-5)
    binary = trained.get_treatment_masks(kind="binary", threshold=0.3)
    np.testing.assert_array_equal(binary, masks > 0.3)
    assert set(binary.to_numpy().ravel()) == {0.0, 1.0}


@pytest.mark.parametrize(("basal", "update"), GUIDES)
def test_order_of_treatments_leaves_the_bound(screen, fit: Callable, basal: str, update: str) -> None:
    model = fit(screen, init={"basal_encoder": basal, "global_update": update}, max_steps=30)
    order = [2, 0, 3, 1]
    permuted = screen.copy()
    permuted.obsm["design"] = pd.DataFrame(
        screen.obsm["_perturbia_dosage"].toarray()[:, order],
        index=screen.obs_names,
        columns=[model.perturbations[k] for k in order],
    )
    pb.model.SAMSVAE.setup_anndata(permuted, perturbation_obsm_key="design")
    other = pb.model.SAMSVAE(permuted, n_latent=3, n_hidden=16, basal_encoder=basal, global_update=update)
    state = model.module.state_dict()
    per_treatment = ("effects.mask_logit", "effects.mean", "effects.log_sd", "n_treated")
    other.module.load_state_dict({k: v[order] if k in per_treatment else v for k, v in state.items()})
    other.is_trained_ = True
    assert other.perturbations == [model.perturbations[k] for k in order]
    if basal == "residual":  # its bound has no draws of masks, which come treatment after treatment
        torch.manual_seed(0)
        one = model.get_elbo()
        torch.manual_seed(0)
        np.testing.assert_allclose(other.get_elbo(), one, rtol=1e-6)
    else:
        bounds = [[float(m.get_elbo()) for _ in range(60)] for m in (model, other)]
        error = np.sqrt(sum(np.var(b) / len(b) for b in bounds))
        assert abs(np.mean(bounds[0]) - np.mean(bounds[1])) < 5 * error + 1e-4
    np.testing.assert_allclose(
        other.estimate_ate(["P01+P03"], base="prior", n_draws=0).X,
        model.estimate_ate(["P01+P03"], base="prior", n_draws=0).X,
        atol=1e-5,
    )


@pytest.mark.parametrize("update", ["closed_form", "gradient"])
def test_form_of_the_design_leaves_the_weights(screen, fit: Callable, update: str) -> None:
    reference = fit(screen, init={"global_update": update})
    dosage = screen.obsm["_perturbia_dosage"]
    for form in (sparse.csr_matrix, sparse.csr_array, lambda d: d.toarray(), lambda d: d.astype(np.float64).tocsc()):
        adata = screen.copy()
        adata.obsm["design"] = form(dosage)
        adata.uns["design"] = {"names": reference.perturbations}
        setup = {"perturbation_key": None, "perturbation_obsm_key": "design"}
        model = fit(adata, setup=setup, init={"global_update": update})
        assert model.ur_id == reference.ur_id


def test_samples_follow_the_model(trained: pb.model.SAMSVAE) -> None:
    drawn = trained.sample("P01+P02", 4000, library_size=500.0, seed=1)
    assert drawn.shape == (4000, 25)
    assert drawn.uns["perturbia"]["scale"] == "counts"
    assert (np.round(drawn.X) == drawn.X).all()
    np.testing.assert_allclose(drawn.X.sum(1).mean(), 500, rtol=0.03)
    np.testing.assert_array_equal(drawn.X, trained.sample("P01+P02", 4000, library_size=500.0, seed=1).X)
    assert not np.array_equal(drawn.X, trained.sample("P01+P02", 4000, library_size=500.0, seed=2).X)
    control = trained.sample("control", 4000, library_size=500.0, seed=1)
    effect = trained.estimate_ate(["P01+P02"], base="prior", scale="counts", n_cells=4000)
    # the effect scales with the library; the model's own median one is known
    scale = 500.0 / float(trained.module.reference_library.mean())
    difference = drawn.X.mean(0) - control.X.mean(0)
    error = np.sqrt((drawn.X.var(0) + control.X.var(0)) / 4000)
    assert np.abs(difference - scale * effect.X[0]).max() < 6 * error.max() + 0.1 * np.abs(difference).max()
    state = torch.random.get_rng_state()
    trained.sample("P01", 3)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda m: m.sample("P01", 0), "n_samples: expected a positive integer, got 0"),
        (lambda m: m.get_iwelbo(n_particles=0), "n_particles: expected a positive integer, got 0"),
        (lambda m: m.estimate_ate(n_cells=0), "n_cells: expected a positive integer, got 0"),
        (lambda m: m.estimate_ate([]), "perturbations: expected at least one query"),
        (lambda m: m.estimate_ate(base="median"), "base: expected one of 'control', 'prior', got 'median'"),
        (lambda m: m.estimate_ate(combine="all"), "combine: expected one of None, 'shrunk_residual', got 'all'"),
        (lambda m: m.get_latent_representation(kind="z"), "kind: expected one of 'full', 'basal', 'perturbation'"),
        (lambda m: m.get_treatment_masks(kind="soft"), "kind: expected one of 'prob', 'binary'"),
    ],
)
def test_bad_questions(trained: pb.model.SAMSVAE, ask: Callable, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ask(trained)


@pytest.mark.parametrize(
    ("init", "match"),
    [
        (
            {"basal_encoder": "resid"},
            "basal_encoder: expected one of 'residual', 'informed', 'correlated', 'mean_field'",
        ),
        ({"gene_likelihood": "NB"}, "gene_likelihood: expected one of"),
        ({"global_kl": "plate"}, "global_kl: expected one of 'closed', 'plated'"),
        ({"global_update": "closed"}, "global_update: expected one of"),
        ({"basal_encoder": "correlated", "global_update": "closed_form"}, "global_update: expected 'gradient'"),
        ({"mask_prior_prob": 1.0}, "mask_prior_prob: expected a probability strictly between"),
        ({"embedding_prior_scale": 0.0}, "embedding_prior_scale: expected a positive number"),
        ({"temperature": -1.0}, "temperature: expected a positive number"),
        ({"n_latent": 0}, "n_latent: expected a positive integer"),
        ({"n_particles": 1.5}, "n_particles: expected a positive integer"),
        ({"n_layers": 0}, "n_layers: expected a positive integer"),
        ({"gene_likelihood": "normal"}, "gene_likelihood: 'normal' does not fit"),
    ],
)
def test_bad_switches(screen, init: dict, match: str) -> None:
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    with pytest.raises(ValueError, match=match):
        pb.model.SAMSVAE(screen, **init)


@pytest.mark.parametrize("n_particles", [1, 3])
@pytest.mark.parametrize(("basal", "update"), GUIDES)
def test_covariates_leave_the_shapes(
    screen, fit: Callable, basal: str, update: str, n_particles: int, tmp_path
) -> None:
    setups = {
        "none": {},
        "batch": {"batch_key": "batch"},
        "all": {
            "batch_key": "batch",
            "categorical_covariate_keys": ["phase"],
            "continuous_covariate_keys": ["age"],
            "size_factor_key": "size",
        },
    }
    results = {}
    for name, setup in setups.items():
        init = {"basal_encoder": basal, "global_update": update, "n_particles": n_particles, "n_layers": 2}
        model = fit(screen.copy(), setup=setup, init=init, max_steps=8)
        results[name] = {
            "latent": model.get_latent_representation(),
            "ate": model.estimate_ate(n_cells=20).X,
            "prior ate": model.estimate_ate(["P01"], n_cells=20, base="prior").X,
            "sample": model.sample("P01", 3).X,
            "predicted": model.predict(None, "P01+P02").X,
            "bound": model.get_iwelbo(n_particles=2).to_numpy(),
            "elbo": np.asarray(model.get_elbo(return_mean=False)),
            "rebuilt": np.asarray(model.get_reconstruction_error(return_mean=False)["reconstruction_loss"]),
        }
        model.save(tmp_path / name)
        alone = pb.model.SAMSVAE.load(tmp_path / name, adata=False, accelerator="cpu")
        assert alone.sample("P01", 3).shape == (3, 25)
        assert np.isfinite(alone.estimate_ate(["P01"], n_cells=20).X).all()
    for name, values in results.items():
        for what, value in values.items():
            assert value.shape == results["none"][what].shape, (name, what)
            assert np.isfinite(value).all(), (name, what)
    assert not np.array_equal(results["batch"]["latent"], results["none"]["latent"])
    assert not np.array_equal(results["all"]["latent"], results["batch"]["latent"])


def test_covariates_are_read_by_encoder_and_decoder(screen, fit: Callable) -> None:
    keys = {"categorical_covariate_keys": ["phase"], "continuous_covariate_keys": ["age"], "batch_key": "batch"}
    model = fit(screen, setup=keys, max_steps=100)
    latent = model.encode(indices=[0, 1])
    changes = {
        "batch": lambda obs: np.where(obs["batch"] == "batch_1", "batch_2", "batch_1"),
        "phase": lambda obs: np.where(obs["phase"] == "S", "G1", "S"),
        "age": lambda obs: obs["age"] + 2.0,
    }
    for column, change in changes.items():
        moved = latent.copy()
        moved.obs[column] = change(moved.obs)
        assert not np.allclose(model.decode(moved).X, model.decode(latent).X, atol=1e-3), column
        cells = screen[:2].copy()
        cells.obs[column] = change(cells.obs)
        assert not np.allclose(model.encode(cells).X, latent.X, atol=1e-4), column


def test_size_factors_replace_library_sizes(screen, fit: Callable) -> None:
    model = fit(screen, setup={"size_factor_key": "size"}, max_steps=60)
    total = np.asarray(screen.X.sum(1)).ravel()
    decoded = model.decode(model.encode(), scale="counts")
    np.testing.assert_allclose(decoded.X.sum(1), screen.obs["size"], rtol=1e-4)
    plain = fit(screen.copy(), max_steps=60)
    np.testing.assert_allclose(plain.decode(plain.encode(), scale="counts").X.sum(1), total, rtol=1e-4)


def test_other_guides_on_features_that_are_no_counts(screen, fit: Callable) -> None:
    screen.X = np.log1p(screen.X.toarray())
    for basal, update in GUIDES:
        init = {"basal_encoder": basal, "global_update": update, "gene_likelihood": "normal"}
        model = fit(screen.copy(), setup={"scale": "log1p_cp10k"}, init=init)
        effects = model.estimate_ate(["P01"])
        assert effects.uns["perturbia"]["scale"] == "log1p_cp10k"
        assert np.isfinite(effects.X).all()
        assert np.isfinite(model.get_iwelbo(n_particles=3)).all()
        assert model.sample("P01", 5).X.std() > 0


def test_a_backed_file_trains(screen, fit: Callable, tmp_path) -> None:
    import anndata as ad

    screen.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = fit(backed, setup={"batch_key": "batch"}, max_steps=10)
    effects = model.estimate_ate(combine="shrunk_residual", n_cells=20)
    assert np.isfinite(effects.X).all()
    assert np.isfinite(model.get_iwelbo(n_particles=2)).all()
