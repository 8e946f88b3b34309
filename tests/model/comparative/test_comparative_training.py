"""Training: curves, restarts, levels and objectives, and whether blocks are found."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

import perturbia as pb
from perturbia.errors import SplitError
from perturbia.metrics import block_r2
from perturbia.model.comparative._comparative_training import _judged


def last(model: pb.model.ComparativeVAE, curve: str) -> float:
    return float(model.history[curve].iloc[-1, 0])


def test_curves_of_both_populations_and_of_the_constraint(populations, fit) -> None:
    model = fit(populations, max_steps=60)
    for part in ("train", "validation"):
        for group in ("background", "target"):
            assert np.isfinite(last(model, f"elbo_{group}_{part}"))
    for curve in ("regularizer", "lambda", "level"):
        assert last(model, curve) > 0
    # acts from 60 % of the training
    assert len(model.history["lambda"].dropna()) < len(model.history["elbo_target_train"])
    assert "a_star" not in model.history
    # minus the bound that the getter gives, other draws aside
    np.testing.assert_allclose(
        model.get_elbo(indices=model.validation_indices)["background"],
        -last(model, "elbo_background_validation"),
        rtol=0.05,
    )


def test_no_regulariser_leaves_no_curve(populations, fit) -> None:
    model = fit(populations, regularizer="none")
    assert not {"lambda", "regularizer", "level", "a_star"} & set(model.history)


@pytest.mark.parametrize("regularizer", ["hsic", "wasserstein", "mmd"])
@pytest.mark.parametrize("constraint", ["statistic", "elbo", None])
def test_every_regulariser_acts(populations, fit, regularizer: str, constraint: str | None) -> None:
    model = fit(populations, regularizer=regularizer, constraint=constraint, regularizer_weight=3.0)
    weight = last(model, "lambda")
    assert weight == pytest.approx(3.0) if constraint is None else 1e-4 <= weight <= 30
    plain = fit(populations, regularizer="none")
    assert plain.ur_id != model.ur_id


def test_two_objectives_share_the_step(populations, fit) -> None:
    model = fit(populations, objective="multi")
    assert 0 <= last(model, "a_star") <= 1
    assert model.ur_id != fit(populations).ur_id


def test_restarts_are_kept_by_their_held_out_bound(populations, fit, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="perturbia"):
        model = fit(populations, n_restarts=3)
    runs = model.restarts_
    assert runs["seed"].nunique() == 3
    assert runs["seed"].iloc[0] == 0
    assert runs["kept"].sum() == 1
    assert runs["elbo"].idxmax() == runs.index[runs["kept"]][0]
    np.testing.assert_allclose(runs["elbo"], runs["elbo_background"] + runs["elbo_target"])
    assert sum("Restart" in record.message for record in caplog.records) == 3
    bounds = model.get_elbo(indices=np.sort(model.validation_indices))
    np.testing.assert_allclose(bounds["background"], runs.loc[runs["kept"], "elbo_background"].iloc[0], rtol=1e-5)
    # the seed of the model is its own again, and the first run the same as without restarts
    assert model.seed == 0
    alone = fit(populations, n_restarts=1).restarts_
    np.testing.assert_allclose(alone["elbo"].iloc[0], runs["elbo"].iloc[0], rtol=1e-5)


def test_training_again_starts_anew(populations, fit) -> None:
    model = fit(populations)
    before = model.ur_id
    model.train(max_steps=30, n_restarts=1, batch_size=64, enable_progress_bar=False, accelerator="cpu")
    assert model.ur_id == before


def test_a_level_below_chance_is_refused(populations, fit) -> None:
    with pytest.raises(ValueError, match=r"level: expected at least 0\.\d+, the median of 'hsic'.*got 1e-05"):
        fit(populations, level=1e-5)


def test_a_lost_block_is_told() -> None:
    runs = pd.DataFrame(
        {
            "seed": [0, 1, 2, 3],
            "elbo_background": [-310.0, -311.0, -310.1, -312.0],
            "kl_salient": [4.5, 1.5, 2.0, 0.1],
        }
    )
    # less information alone is no loss if the background is as good
    assert _judged(runs, 0)["lost"].tolist() == [False, True, False, True]
    assert _judged(runs, 2)["kept"].tolist() == [False, False, True, False]


def test_populations_that_do_not_differ_are_told(populations, fit) -> None:
    labels = np.where(np.arange(populations.n_obs) % 2, "target", "background")
    populations = populations[populations.obs["group"] == "background"].copy()
    populations.obs["group"] = labels[: populations.n_obs]
    with pytest.warns(UserWarning, match=r"salient latents hold 0\.\d\d nats"):
        fit(populations, max_steps=100)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"regularizer": "tc"}, "regularizer: expected one of 'hsic'"),
        ({"constraint": "weight"}, "constraint: expected one of 'statistic', 'elbo', None"),
        ({"objective": "mgda"}, "objective: expected one of 'sum', 'multi'"),
        ({"level": -1.0}, "level: expected a positive number"),
        ({"regularizer_weight": 0.0}, "regularizer_weight: expected a positive number"),
        ({"background_first": 1.0}, "background_first: expected a share"),
        ({"regularize_at": -0.1}, "regularize_at: expected a share"),
        ({"n_restarts": 0}, "n_restarts: expected a positive integer"),
        ({"batch_size": 1}, "batch_size: expected more cells than the 2 groups"),
        ({"train_size": 0.0}, "train_size: expected a share"),
    ],
)
def test_options_are_checked(populations, fit, options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(populations, **options)


def test_every_group_has_to_train_and_to_be_held_out(populations, fit) -> None:
    is_target = (populations.obs["group"] == "target").to_numpy()
    populations.obs["pb_split"] = np.where(is_target, "test", "train")
    with pytest.raises(SplitError, match="'target'"):
        fit(populations)
    populations.obs["pb_split"] = "train"
    with pytest.raises(SplitError, match="held out.*n_restarts=1"):
        fit(populations, n_restarts=2)
    assert fit(populations).is_trained_


def blocks_found(model: pb.model.ComparativeVAE, cells: np.ndarray) -> dict[str, float]:
    kinds = ("shared", "salient")
    table = block_r2(
        {kind: model.adata.obsm[f"truth_{kind}"][cells] for kind in kinds},
        {kind: model.get_latent_representation(indices=cells, kind=kind) for kind in kinds},
    )
    return {
        "z": table.loc["shared", "shared"],
        "s": table.loc["salient", "salient"],
        "s from z": table.loc["salient", "shared"],
        "z from s": table.loc["shared", "salient"],
    }


def test_blocks_are_found(fit) -> None:
    adata = pb.datasets.simulate_comparative(
        n_background=1000, n_target=1500, n_genes=60, n_shared=2, n_salient=2, gene_likelihood="normal", n_hidden=20
    )
    target = np.flatnonzero(adata.obs["group"] == "target")[::3]
    adata.obs["pb_split"] = "train"
    adata.obs.iloc[target, adata.obs.columns.get_loc("pb_split")] = "test"
    init = {"gene_likelihood": "normal", "n_latent_shared": 2, "n_hidden": 48, "n_layers": 2}
    model = fit(adata, init=init, setup={"scale": "zscore"}, max_steps=400, batch_size=128)
    found = blocks_found(model, target)
    assert found["z"] > 0.8, found
    assert found["s"] > 0.75, found
    assert found["s from z"] < 0.2, found
    assert found["z from s"] < 0.1, found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulation", "least"),
    [({}, {"z": 0.78, "s": 0.72}), ({"gene_likelihood": "normal"}, {"z": 0.85, "s": 0.85})],
)
def test_blocks_at_the_size_of_the_benchmark(fit, simulation: dict, least: dict) -> None:
    adata = pb.datasets.simulate_comparative(n_background=3300, n_target=5300, **simulation)
    target = np.flatnonzero(adata.obs["group"] == "target")
    adata.obs["pb_split"] = np.where(np.arange(adata.n_obs) % 10, "train", "valid")
    test = target[target % 10 != 0][:2000]
    adata.obs.iloc[test, adata.obs.columns.get_loc("pb_split")] = "test"
    normal = "gene_likelihood" in simulation
    model = fit(
        adata,
        init={
            "n_latent_shared": 5,
            "n_latent_salient": 3,
            "n_hidden": 96,
            "n_layers": 2,
            "gene_likelihood": "normal" if normal else "nb",
        },
        setup={"scale": "zscore"} if normal else {"layer": "counts"},
        max_steps=1300,
        n_restarts=3,
        batch_size=256,
    )
    found = blocks_found(model, test)
    for block, value in least.items():
        assert found[block] >= value, found
    assert found["s from z"] <= 0.15, found
    assert found["z from s"] <= 0.05, found
    settled = last(model, "constrained_mean") / last(model, "level")
    assert 0.85 <= settled <= 1.15 or last(model, "lambda") > 29, settled
