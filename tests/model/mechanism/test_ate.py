"""Treatment effects against brute-force sampling, their errors, and what data may do to them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import perturbia as pb
from perturbia.errors import ControlError, UnsupportedQuery
from perturbia.stats import effects_against, group_means, log1p_cp10k

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from perturbia.model import SAMSVAE


def sampled_effect(model: SAMSVAE, query: str, n: int, *, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Difference of independent samples of counts from the prior, and its standard error."""
    generator = torch.Generator().manual_seed(99)
    dosage = torch.from_numpy(model._query_matrix([query]).toarray())
    means, variances = [], []
    torch.manual_seed(99)
    with torch.inference_mode():
        offset = dosage @ model.module.effects.effect()
        reference = model.module.reference_library
        for shift in (offset, torch.zeros_like(offset)):
            z = torch.randn(n, model.module.n_latent, generator=generator) + shift
            library = reference[torch.randint(len(reference), (n, 1), generator=generator)]
            x = model.module.generative(z, library, torch.zeros(n, 1, dtype=torch.long))["px"].sample()
            value = (torch.log1p(1e4 * x / library) if log else x).double().numpy()
            means.append(value.mean(0))
            variances.append(value.var(0) / n)
    return means[0] - means[1], np.sqrt(sum(variances))


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_effects_are_those_of_sampled_counts(screen, fit: Callable, likelihood: str) -> None:
    model = fit(screen, init={"gene_likelihood": likelihood}, max_steps=400)
    for scale in ("log1p_cp10k", "counts"):
        ours = model.estimate_ate(["P01+P02"], base="prior", scale=scale, n_cells=4000, n_draws=0)
        brute, error = sampled_effect(model, "P01+P02", 60_000, log=scale != "counts")
        assert np.abs(brute).max() > 8 * error.max()  # there is something to see
        z = (ours.X[0] - brute) / np.hypot(error, ours.layers["se"][0])
        assert np.abs(z).max() < 4.5, scale
        assert z.std() < 1.7, scale


def test_scales_are_multiples(trained: SAMSVAE) -> None:
    natural, base_two = (trained.estimate_ate(scale=scale) for scale in ("log1p_cp10k", "perturbseq"))
    for one, two in ((natural.X, base_two.X), *((natural.layers[k], base_two.layers[k]) for k in ("se", "sd"))):
        np.testing.assert_allclose(two, one / np.log(2), rtol=1e-5, atol=2e-6)
    combined = [trained.estimate_ate(scale=s, combine="shrunk_residual").X for s in ("log1p_cp10k", "perturbseq")]
    np.testing.assert_allclose(combined[1], combined[0] / np.log(2), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(trained.estimate_ate(scale="registered").X, natural.X)


@pytest.mark.parametrize("base", ["control", "prior"])
def test_common_random_numbers(trained: SAMSVAE, base: str) -> None:
    control = trained.estimate_ate(["control"], base=base)
    assert (control.X == 0).all()
    assert (control.layers["se"] == 0).all()
    assert (control.layers["sd"] == 0).all()
    # one gene's effect has the sign of its rate in every cell, so paired errors are far below those of two samples
    effect = trained.estimate_ate(["P02"], base=base, n_cells=50)
    _, unpaired = sampled_effect(trained, "P02", 50, log=True)
    assert np.median(effect.layers["se"]) < 0.5 * np.median(unpaired)


@pytest.mark.parametrize("base", ["control", "prior"])
def test_standard_errors_are_calibrated(trained: SAMSVAE, base: str) -> None:
    """Over seeds, estimates spread as their errors say; strata make the errors a little conservative."""
    runs = [trained.estimate_ate(["P01", "P02"], base=base, n_cells=30, n_draws=0, seed=s) for s in range(40)]
    spread = np.std([run.X for run in runs], axis=0, ddof=1)
    claimed = np.mean([run.layers["se"] for run in runs], axis=0)
    large = claimed > np.median(claimed)
    ratio = np.sqrt((spread[large] ** 2).mean() / (claimed[large] ** 2).mean())
    assert 0.4 < ratio < 1.15
    many = trained.estimate_ate(["P01", "P02"], base="prior", n_cells=3000, n_draws=0)
    assert np.median(many.layers["se"]) < 0.2 * np.median(claimed)


def test_posterior_deviations_are_those_of_draws(trained: SAMSVAE) -> None:
    effect = trained.estimate_ate(["P02"], n_draws=200, seed=4)
    latent = trained.encode(indices=np.flatnonzero(trained.adata.obs["perturbation"] == "control"))
    latent.layers["sd"][:] = 0
    draws = [
        trained.decode(trained.perturb(latent, "P02", n_draws=2, seed=s)).X.reshape(2, latent.n_obs, -1).mean(1)
        for s in range(60)
    ]
    spread = np.concatenate(draws).std(0)
    kept = spread > np.quantile(spread, 0.3)
    np.testing.assert_allclose(effect.layers["sd"][0][kept], spread[kept], rtol=0.5)
    assert (trained.estimate_ate(["P02"], n_draws=0).layers["sd"] == 0).all()


@pytest.fixture(scope="module")
def split_model() -> SAMSVAE:
    """Trained on part of the cells of P01 to P03 and their pairs; whatever holds P04 is unseen."""
    adata = pb.datasets.simulate_screen(
        n_perturbations=4, n_combinations=6, n_genes=25, n_latent=2, cells_per_perturbation=40, n_truth_cells=50
    )
    unseen = adata.obs["perturbation"].astype(str).str.contains("P04")
    half = np.random.default_rng(0).random(adata.n_obs) < 0.5
    adata.obs["pb_split"] = np.where(unseen | half, "test", "train")
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    model = pb.model.SAMSVAE(adata, n_latent=3, n_hidden=16)
    model.train(max_steps=200, batch_size=64, enable_progress_bar=False, accelerator="cpu")
    return model


def test_residuals_move_towards_what_training_cells_show(split_model: SAMSVAE) -> None:
    adata = split_model.adata
    pure, combined = (split_model.estimate_ate(combine=combine) for combine in (None, "shrunk_residual"))
    train = (adata.obs["pb_split"] == "train").to_numpy()
    moments = group_means(log1p_cp10k(adata.X[train]), adata.obs["perturbation"].astype(str).to_numpy()[train])
    empirical = effects_against(moments, reference="control", variance="pooled")
    seen = [label for label in pure.obs_names if "P04" not in label]
    assert len(seen) == 6
    moved = {}
    for label in pure.obs_names:
        before, after = (result[label].X[0] for result in (pure, combined))
        if label in seen:
            row = list(empirical.groups).index(label)
            target, error = empirical.effects[row], empirical.standard_errors[row]
            assert (np.abs(after - target) <= np.abs(before - target) + 1e-5).all()
            assert (np.abs(after - target) <= 2 * error + 1e-5).all()
            moved[label] = np.abs(after - before).max() > 1e-3
        else:
            np.testing.assert_array_equal(after, before)
    assert sum(moved.values()) >= 3
    np.testing.assert_array_equal(combined.layers["se"], pure.layers["se"])
    counts = adata.obs["perturbation"][train].value_counts()
    assert pure.obs["n_cells"].to_dict() == {label: counts.get(label, 0) for label in pure.obs_names}


def test_held_out_cells_do_not_reach_effects(split_model: SAMSVAE, tmp_path) -> None:
    changed = split_model.adata.copy()
    test = (changed.obs["pb_split"] == "test").to_numpy()
    dense = changed.X.toarray()
    dense[test] = dense[test][:, ::-1] + 5
    changed.X = dense
    split_model.save(tmp_path / "model")
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=changed, accelerator="cpu")
    for options in ({}, {"combine": "shrunk_residual"}, {"base": "prior"}):
        np.testing.assert_allclose(loaded.estimate_ate(**options).X, split_model.estimate_ate(**options).X, atol=1e-5)


def test_saved_effects_are_bit_equal(split_model: SAMSVAE, tmp_path) -> None:
    split_model.save(tmp_path / "model")
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=split_model.adata.copy(), accelerator="cpu")
    for options in ({}, {"seed": 7, "base": "prior"}, {"combine": "shrunk_residual"}, {"scale": "counts"}):
        one, two = split_model.estimate_ate(**options), loaded.estimate_ate(**options)
        np.testing.assert_array_equal(one.X, two.X)
        for layer in ("se", "sd"):
            np.testing.assert_array_equal(one.layers[layer], two.layers[layer])
    assert not np.array_equal(split_model.estimate_ate(seed=1).X, split_model.estimate_ate(seed=2).X)


@pytest.mark.parametrize("rows", [slice(None, None, 3), slice(None, None, -1)])
def test_other_data_than_it_was_trained_on(split_model: SAMSVAE, tmp_path, rows: slice) -> None:
    """Positions of training cells mean nothing there: any control is a basal state, no cell has trained."""
    split_model.save(tmp_path / "model")
    other: AnnData = split_model.adata[rows].copy()
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=other, accelerator="cpu")
    effects = loaded.estimate_ate(["P01", "P01+P02"], n_cells=1000)
    assert effects.obs["n_cells"].tolist() == [0, 0]
    np.testing.assert_allclose(
        effects.X, split_model.estimate_ate(["P01", "P01+P02"], n_cells=1000).X, atol=0.15 * np.abs(effects.X).max()
    )
    with pytest.raises(UnsupportedQuery, match="combine: 'shrunk_residual' needs the training data"):
        loaded.estimate_ate(combine="shrunk_residual")


def test_effects_need_controls_or_the_prior(screen, fit: Callable) -> None:
    screen.obs["pb_split"] = np.where(screen.obs["perturbation"] == "control", "test", "train")
    model = fit(screen, max_steps=10)
    with pytest.raises(ControlError, match="expected control cells"):
        model.estimate_ate(["P01"])
    assert np.isfinite(model.estimate_ate(["P01"], base="prior").X).all()


def test_residuals_have_no_counts(split_model: SAMSVAE) -> None:
    with pytest.raises(UnsupportedQuery, match="log-normalised"):
        split_model.estimate_ate(scale="counts", combine="shrunk_residual")


def test_a_perturbation_of_one_cell_has_a_residual(screen, fit: Callable) -> None:
    first = np.flatnonzero(screen.obs["perturbation"] == "P02")[0]
    keep = (screen.obs["perturbation"] != "P02").to_numpy()
    keep[first] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the pooled variance serves a lone cell too
        effects = fit(screen[keep].copy(), train_size=1.0).estimate_ate(["P02"], combine="shrunk_residual")
    assert np.isfinite(effects.X).all()
