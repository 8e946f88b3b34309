"""Decoded expression against enumeration of all masks and against scvi-tools' own readout."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

import perturbia as pb
from perturbia.errors import FeatureMismatch, NotTrainedError, ScaleError, UnknownPerturbation, UnsupportedQuery
from perturbia.model.mechanism import _readout

from .conftest import GUIDES

if TYPE_CHECKING:
    from collections.abc import Callable

    from perturbia.model import SAMSVAE


@pytest.fixture
def certain(screen, fit: Callable) -> Callable[..., SAMSVAE]:
    """A model in which only masks are uncertain, so that expectations are sums over 2^L masks."""

    def make(**init: object) -> SAMSVAE:
        model = fit(screen, setup={"batch_key": "batch"}, init={"n_latent": 2, **init}, max_steps=30)
        effects, encoder = model.module.effects, model.module.encoder
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            effects.mask_logit.copy_(torch.randn(effects.mask_logit.shape, generator=generator))
            effects.mean.copy_(2 * torch.randn(effects.mean.shape, generator=generator))
            effects.log_sd.fill_(-12.0)
            encoder.log_variance_head.weight.zero_()
            encoder.log_variance_head.bias.fill_(-12.0)
        return model

    return make


def under_every_mask(model: SAMSVAE, rows: dict[int, float], cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Proportions `(n_masks, n_cells, n_features)` of cells with effect rows added, and the probability of each."""
    module, effects = model.module, model.module.effects
    full = torch.from_numpy(model.get_latent_representation(indices=cells))
    batch = torch.from_numpy(model.adata.obs["_scvi_batch"].to_numpy()[cells].astype(np.int64))[:, None]
    scales, probabilities = [], []
    with torch.inference_mode():
        for bits in product([0.0, 1.0], repeat=module.n_latent * len(rows)):
            mask = torch.tensor(bits).reshape(len(rows), module.n_latent)
            inclusion = effects.inclusion[list(rows)]
            probabilities.append(float(torch.where(mask > 0, inclusion, 1 - inclusion).prod()))
            strength = torch.tensor(list(rows.values()))[:, None]
            z = full + (strength * mask * effects.mean[list(rows)]).sum(0)
            scales.append(module.generative(z, torch.ones(len(cells), 1), batch)["px"].scale.numpy())
    return np.array(scales), np.array(probabilities)


@pytest.mark.parametrize(
    ("own", "query", "rows"),
    [
        ("control", "P02", {1: 1.0}),
        ("control", "P01+P03", {0: 1.0, 2: 1.0}),
        ("P02", "control", {1: -1.0}),
        ("P02", "P01+P02", {0: 1.0}),
        ("P02", {"P02": 0.5}, {1: -0.5}),
        ("P02", "P04", {1: -1.0, 3: 1.0}),
    ],
)
@pytest.mark.filterwarnings("ignore::perturbia.errors.ExtrapolationWarning")
def test_counterfactuals_are_averages_over_masks(certain: Callable, own: str, query: object, rows: dict) -> None:
    model = certain()
    cells = np.flatnonzero(model.adata.obs["perturbation"] == own)[:6]
    scales, probabilities = under_every_mask(model, rows, cells)
    expected = np.tensordot(probabilities, scales, 1)
    spread = np.sqrt(np.tensordot(probabilities, (scales - expected) ** 2, 1))
    n = 1500
    sampled = model.get_normalized_expression(indices=cells, perturbation=query, n_samples=n, return_numpy=True)
    assert (np.abs(sampled - expected) <= 5 * spread / n**0.5 + 0.02 * expected).all()
    # draws of their own for every cell have the same mean
    drawn = model.get_normalized_expression(indices=cells, perturbation=query, n_samples_overall=6 * n)
    assert drawn.shape == (6 * n, 25)
    np.testing.assert_allclose(
        drawn.mean(0), expected.mean(0), atol=float(5 * np.hypot(spread, expected.std(0)).max() / (6 * n) ** 0.5)
    )


def test_samples_share_their_effects_and_draws_do_not(certain: Callable) -> None:
    model = certain()
    cells = np.flatnonzero(model.adata.obs["perturbation"] == "control")[:6]
    scales, _ = under_every_mask(model, {1: 1.0}, cells)
    options = {"indices": cells, "perturbation": "P02", "return_mean": False}
    samples = model.get_normalized_expression(n_samples=50, **options)
    assert samples.shape == (50, 6, 25)
    # which of the four masks each cell of each sample had
    mask = np.abs(samples[:, None] - scales[None]).sum(-1).argmin(1)
    assert (mask == mask[:, :1]).all()
    assert len(np.unique(mask)) > 1
    drawn = model.get_normalized_expression(n_samples_overall=600, return_numpy=False, **options)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.index.value_counts().tolist() == [100] * 6
    of_cell = drawn.loc[model.adata.obs_names[cells[0]]].to_numpy()
    assert len(np.unique(np.abs(of_cell[:, None] - scales[None, :, 0]).sum(-1).argmin(1))) > 1


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal"])
def test_own_expression_is_that_of_scvi_tools(screen, fit: Callable, likelihood: str) -> None:
    """The path of `RNASeqMixin`: inference, generative, `px.get_normalized`."""
    setup = {"batch_key": "batch", "size_factor_key": "size"}
    if likelihood == "normal":
        screen.X, setup = np.log1p(screen.X.toarray()), {"scale": "log1p_cp10k"}
    model = fit(screen, setup=setup, init={"gene_likelihood": likelihood}, max_steps=80)
    n = 1500
    tensors = next(iter(model._make_data_loader(adata=model.adata, indices=np.arange(20), batch_size=20)))
    torch.manual_seed(0)
    with torch.inference_mode():
        _, outputs = model.module.forward(tensors, inference_kwargs={"n_samples": n}, compute_loss=False)
    for library in (1, "latent") if likelihood != "normal" else (1,):
        key = "mu" if library == "latent" or likelihood == "normal" else "scale"
        if likelihood == "poisson" and key == "mu":
            theirs = outputs["px"].rate.numpy()
        else:
            theirs = outputs["px"].get_normalized(key).numpy()
        ours = model.get_normalized_expression(indices=range(20), library_size=library, n_samples=n)
        assert isinstance(ours, pd.DataFrame)
        assert (ours.dtypes == np.float32).all()
        difference = (ours.to_numpy() - theirs.mean(0)) / (theirs.std(0) * (2 / n) ** 0.5)
        assert np.abs(difference).max() < 5.5


def test_proportions_and_names(trained: SAMSVAE) -> None:
    one = trained.get_normalized_expression(indices=[5, 3, 5], library_size=1e4)
    assert list(one.index) == list(trained.adata.obs_names[[5, 3, 5]])
    assert list(one.columns) == list(trained.adata.var_names)
    np.testing.assert_allclose(one.sum(1), 1e4, rtol=1e-4)
    depth = np.asarray(trained.adata.X.sum(1)).ravel()
    np.testing.assert_allclose(trained.get_normalized_expression(library_size="latent").sum(1), depth, rtol=1e-4)
    genes = ["gene_07", "gene_02"]
    some = trained.get_normalized_expression(indices=[5, 3, 5], library_size=1e4, gene_list=genes)
    pd.testing.assert_frame_equal(some, one[sorted(genes)])
    mask = np.arange(trained.adata.n_obs) < 3
    assert trained.get_normalized_expression(indices=mask, return_numpy=True).shape == (3, 25)


def test_what_must_not_matter(trained: SAMSVAE) -> None:
    options = {"indices": range(40), "perturbation": "P03", "n_samples": 3}
    whole = trained.get_normalized_expression(**options)
    np.testing.assert_allclose(trained.get_normalized_expression(batch_size=7, **options), whole, rtol=1e-4)
    stacked = trained.get_normalized_expression(return_mean=False, **options)
    np.testing.assert_allclose(stacked.mean(0), whole, rtol=1e-5)
    pd.testing.assert_frame_equal(trained.get_normalized_expression(**options), whole)
    assert not np.allclose(trained.get_normalized_expression(seed=1, **options), whole, rtol=1e-3)
    fresh = [trained.get_normalized_expression(seed=None, **options) for _ in range(2)]
    assert not np.allclose(*fresh, rtol=1e-3)


@pytest.mark.parametrize(("basal", "update"), [*GUIDES, ("informed", "closed_form")])
def test_own_perturbation_by_name_is_none_at_all(screen, fit: Callable, basal: str, update: str) -> None:
    """Given what it has, a cell stays where it is, draw by draw; its basal state has one expression under all guides."""
    model = fit(screen, init={"basal_encoder": basal, "global_update": update})
    cells = np.flatnonzero(screen.obs["perturbation"] == "P02")[:5]
    ask = {"indices": cells, "n_samples": 4, "return_mean": False}
    own = model.get_normalized_expression(**ask)
    np.testing.assert_array_equal(model.get_normalized_expression(perturbation="P02", **ask), own)
    controls = {**ask, "indices": np.flatnonzero(screen.obs["perturbation"] == "control")[:5]}
    plain = model.get_normalized_expression(**controls)
    np.testing.assert_array_equal(model.get_normalized_expression(perturbation="control", **controls), plain)
    # without spread, removing the perturbation decodes the basal latent
    with torch.no_grad():
        model.module.encoder.log_variance_head.weight.zero_()
        model.module.encoder.log_variance_head.bias.fill_(-12.0)
        model.module.effects.log_sd.fill_(-12.0)
        model.module.effects.mask_logit.fill_(30.0)
        if model.module.effects.prior_mean.numel():
            model.module.effects.prior_mean.zero_()
    removed = model.get_normalized_expression(indices=cells, perturbation="control", library_size="latent")
    decoded = model.decode(model.encode(indices=cells), scale="counts")
    np.testing.assert_allclose(removed, decoded.X, rtol=0.1, atol=0.02)


def test_options_of_the_design_are_read(screen, fit: Callable) -> None:
    """Interactions, dose responses and target effects: each reaches the expression as it reaches `decode`."""
    init = {
        "interactions": ["P01+P02"],
        "dose_response": "power",
        "target_effect": {"P03": "gene_05"},
        "interaction_prior_prob": 0.5,
    }
    model = fit(screen, init=init, max_steps=80)
    with torch.no_grad():
        model.module.effects.mask_logit[:] = 30.0
        model.module.effects.log_sd[:] = -12.0
        model.module.effects.mean[4] = 1.5  # the row of the pair
        model.module.design.log_power[1] = 0.7
        model.module.target_shift.shift[2] = -2.0
        model.module.encoder.log_variance_head.weight.zero_()
        model.module.encoder.log_variance_head.bias.fill_(-12.0)
    cells = np.flatnonzero(screen.obs["perturbation"] == "control")[:5]
    for query in ("P01+P02", {"P02": 0.5}, "P03"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "_warn_of_doses", lambda perturbation: None)
            ours = model.get_normalized_expression(indices=cells, perturbation=query, library_size="latent")
            shifted = model.perturb(model.encode(indices=cells), query)
        np.testing.assert_allclose(ours, model.decode(shifted, scale="counts").X, rtol=0.05, atol=0.02)
    own = np.flatnonzero(screen.obs["perturbation"] == "P03")[:5]
    with_own, without = (
        model.get_normalized_expression(indices=own, perturbation=query)["gene_05"].mean()
        for query in (None, "control")
    )
    assert with_own < 0.5 * without


def test_batches(screen, fit: Callable) -> None:
    model = fit(screen, setup={"batch_key": "batch"}, max_steps=80)
    cells = np.flatnonzero(screen.obs["batch"] == "batch_1")[:8]
    here, there, both = (
        model.get_normalized_expression(indices=cells, transform_batch=batch)
        for batch in ("batch_1", "batch_2", ["batch_1", "batch_2"])
    )
    pd.testing.assert_frame_equal(here, model.get_normalized_expression(indices=cells))
    assert not np.allclose(there, here, rtol=1e-2)
    np.testing.assert_allclose(both, (here + there) / 2, rtol=1e-5)


def test_memory_does_not_grow_with_samples(trained: SAMSVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    sizes = []
    plain = _readout.Covariates.decode

    def decode(self: object, module: object, z: torch.Tensor) -> object:
        sizes.append(z.shape)
        return plain(self, module, z)

    monkeypatch.setattr(_readout.Covariates, "decode", decode)
    peaks = []
    for n_samples in (1, 40):
        tracemalloc.start()
        trained.get_normalized_expression(n_samples=n_samples, batch_size=16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(shape[0] for shape in sizes) == 16
    assert peaks[1] < 1.3 * peaks[0]


def test_other_data(trained: SAMSVAE, screen, tmp_path) -> None:
    import anndata as ad

    expected = trained.get_normalized_expression(indices=range(30), perturbation="P01")
    screen.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for data in (screen[:, ::-1].copy(), backed):
        other = trained.get_normalized_expression(data, range(30), perturbation="P01")
        np.testing.assert_allclose(other, expected, rtol=1e-4)
        assert list(other.columns) == list(expected.columns)
    backwards = trained.get_normalized_expression(backed, [9, 3], return_numpy=True)
    assert backwards.shape == (2, 25)


BAD = [
    (lambda m: m.get_normalized_expression(perturbation="P9"), UnknownPerturbation, "nearest"),
    (lambda m: m.get_normalized_expression(gene_list=["gene_99"]), FeatureMismatch, "gene_list.*nearest: gene"),
    (lambda m: m.get_normalized_expression(gene_list=[]), FeatureMismatch, "gene_list: expected registered features"),
    (lambda m: m.get_normalized_expression(transform_batch="b9"), UnsupportedQuery, "transform_batch.*'b9'.*batch_1"),
    (lambda m: m.get_normalized_expression(library_size=0), ScaleError, "library_size: expected a positive number"),
    (lambda m: m.get_normalized_expression(library_size="depth"), ScaleError, "'latent', got 'depth'"),
    (lambda m: m.get_normalized_expression(library_size=np.inf), ScaleError, "library_size"),
    (lambda m: m.get_normalized_expression(n_samples=0), ValueError, "n_samples: expected a positive integer"),
    (lambda m: m.get_normalized_expression(n_samples_overall=2.5), ValueError, "n_samples_overall"),
    (lambda m: m.get_normalized_expression(n_samples=2, n_samples_overall=9), ValueError, "n_samples: expected 1"),
    (
        lambda m: m.get_normalized_expression(n_samples=2, return_mean=False, return_numpy=False),
        ValueError,
        "return_numpy",
    ),
    (lambda m: m.get_normalized_expression(indices=[]), ValueError, "indices: expected at least one cell"),
    (lambda m: m.get_normalized_expression(indices=[10**6]), IndexError, "indices"),
    (lambda m: m.get_normalized_expression("cells.h5ad"), TypeError, "expected AnnData"),
]


@pytest.mark.parametrize(("ask", "error", "match"), BAD)
def test_bad_input(trained: SAMSVAE, ask: Callable, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        ask(trained)


def test_other_scales_and_untrained_models(screen, fit: Callable) -> None:
    pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation")
    with pytest.raises(NotTrainedError):
        pb.model.SAMSVAE(screen).get_normalized_expression()
    screen = screen.copy()
    screen.X = np.log1p(screen.X.toarray())
    model = fit(screen, setup={"scale": "log1p_cp10k"}, init={"gene_likelihood": "normal"})
    assert model.get_normalized_expression(perturbation="P01").shape == screen.shape
    with pytest.raises(ScaleError, match="library_size: expected 1"):
        model.get_normalized_expression(library_size=1e4)
