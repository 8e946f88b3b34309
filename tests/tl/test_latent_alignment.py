from __future__ import annotations

import numpy as np
import pytest

import perturbia as pb
from perturbia.errors import FeatureMismatch


def runs(seed: int = 0) -> dict[str, np.ndarray]:
    """The same three latents in other orders and signs; the second run has lost one, the third has one more."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(400, 3))
    return {
        "a": z,
        "b": np.c_[-z[:, 2], z[:, 0], rng.normal(size=400)],
        "c": np.c_[rng.normal(size=400), z[:, 1], z[:, 2], -z[:, 0]],
    }


def test_latents_are_matched() -> None:
    table = pb.tl.align_latents(runs(), reference="a")
    assert table.attrs["reference"] == "a"
    own = table.set_index(["run", "latent"])
    assert own.loc[("b", 0), "matched"] == 1
    assert own.loc[("b", 2), "matched"] == 0
    np.testing.assert_allclose(own.loc[("b", 2), "correlation"], -1)
    assert own.loc["c", "matched"].tolist() == [3, 1, 2]
    np.testing.assert_allclose(own.loc["c", "correlation"], [-1, 1, 1])
    # the lost latent is as stable as the runs that have it
    stability = table.groupby("latent")["stability"].first()
    np.testing.assert_allclose(stability[[0, 2]], 1)
    assert 0.45 < stability[1] < 0.6
    np.testing.assert_allclose(table.attrs["mcc"], stability.mean())


def test_the_reference_is_the_one_most_agree_with() -> None:
    assert pb.tl.align_latents({**runs(), "noise": np.random.default_rng(9).normal(size=(400, 3))}).attrs[
        "reference"
    ] in {"a", "c"}


def test_a_run_with_fewer_latents_has_no_match_for_the_rest() -> None:
    z = np.random.default_rng(0).normal(size=(50, 3))
    table = pb.tl.align_latents({"whole": z, "part": z[:, :2]}, reference="whole")
    assert table["matched"].tolist() == [0, 1, -1]
    assert table["correlation"].tolist() == pytest.approx([1, 1, 0])


def test_models_stand_for_their_latents() -> None:
    adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    models = {}
    for seed in (0, 1):
        models[f"seed {seed}"] = pb.model.SAMSVAE(adata, n_latent=3, n_hidden=16, seed=seed)
        models[f"seed {seed}"].train(max_steps=20, enable_progress_bar=False, accelerator="cpu")
    table = pb.tl.align_latents(models)
    latents = {name: model.get_latent_representation() for name, model in models.items()}
    np.testing.assert_allclose(table["correlation"], pb.tl.align_latents(latents)["correlation"])


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda r: {"a": r["a"]}, {}, ValueError, "runs: expected two runs at least, got 1"),
        (lambda r: r, {"reference": "z"}, ValueError, "reference: expected one of"),
        (lambda r: {**r, "b": r["b"][:10]}, {}, FeatureMismatch, "runs: expected latents of the same cells"),
        (lambda r: {**r, "b": r["b"][:, 0]}, {}, ValueError, "runs: expected arrays"),
    ],
)
def test_bad_input(change, options, error, match) -> None:
    with pytest.raises(error, match=match):
        pb.tl.align_latents(change(runs()), **options)
