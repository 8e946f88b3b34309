"""Data that never sit in memory, in several files or behind a data module; several processes; many treatments."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from torch.utils.data import DataLoader

import perturbia as pb
from perturbia.errors import FeatureMismatch
from perturbia.model.base import _screen_dataset
from perturbia.model.base._screen_dataset import treatment_slots
from perturbia.nn import GivenTreatments

from .conftest import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETUP = {"perturbation_key": "perturbation", "batch_key": "batch"}


def state(model: pb.model.SAMSVAE) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.module.state_dict().items()}


def assert_same(one: pb.model.SAMSVAE, other: pb.model.SAMSVAE) -> None:
    theirs = state(other)
    for name, value in state(one).items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.fixture
def layered(screen: ad.AnnData) -> ad.AnnData:
    """The small screen with counts in X and in a layer, and nothing that files of several screens would not share."""
    return ad.AnnData(
        screen.X.copy(), obs=screen.obs[["perturbation", "batch"]].copy(), var=screen.var, layers={"counts": screen.X}
    )


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_backed_training_is_training_in_memory(layered: ad.AnnData, fit: Callable, tmp_path: Path, form: str) -> None:
    """The same order of cells, the same weights to the last bit, whatever the file holds."""
    layered.X = {"csr": layered.X, "csc": layered.X.tocsc(), "dense": layered.X.toarray()}[form]
    layered.write_h5ad(tmp_path / "screen.h5ad")
    held = fit(layered.copy(), setup=SETUP)
    assert_same(held, fit(ad.read_h5ad(tmp_path / "screen.h5ad", backed="r"), setup=SETUP))


def test_rows_read_one_batch_at_a_time_are_the_same(screen: ad.AnnData, fit: Callable, monkeypatch) -> None:
    held = fit(screen.copy(), setup=SETUP)
    monkeypatch.setattr(_screen_dataset, "DENSE_BYTES", 0)
    assert_same(held, fit(screen.copy(), setup=SETUP))


@pytest.mark.parametrize("layer", [None, "counts"])
def test_several_files_are_one_screen(layered: ad.AnnData, fit: Callable, tmp_path: Path, layer: str | None) -> None:
    first = np.arange(layered.n_obs) % 3 > 0
    for name, part in (("one", first), ("two", ~first)):
        layered[part].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    whole = ad.concat([layered[first], layered[~first]])
    files = pb.pp.open_files([tmp_path / "one.h5ad", tmp_path / "two.h5ad"])
    assert files.obs["file"].tolist() == ["one"] * first.sum() + ["two"] * (~first).sum()
    setup = {**SETUP, "layer": layer}
    joined, held = fit(files, setup=setup), fit(whole, setup=setup)
    assert_same(joined, held)
    np.testing.assert_array_equal(joined.get_latent_representation(), held.get_latent_representation())
    np.testing.assert_array_equal(joined.predict(None, "P01").X, held.predict(None, "P01").X)
    np.testing.assert_array_equal(joined.estimate_ate(["P01"]).X, held.estimate_ate(["P01"]).X)
    assert pb.pp.open_files([tmp_path / "one.h5ad"]).uns == {}  # nothing is shared between screens


def test_bad_files(layered: ad.AnnData, tmp_path: Path) -> None:
    layered.write_h5ad(tmp_path / "one.h5ad")
    layered[:, ::-1].copy().write_h5ad(tmp_path / "turned.h5ad")
    layered[:, 1:].copy().write_h5ad(tmp_path / "fewer.h5ad")
    with pytest.raises(ValueError, match="files: expected at least one h5ad file, got none"):
        pb.pp.open_files([])
    with pytest.raises(FeatureMismatch, match="'turned' in another order"):
        pb.pp.open_files([tmp_path / "one.h5ad", tmp_path / "turned.h5ad"])
    with pytest.raises(FeatureMismatch, match=f"with '{layered.var_names[0]}'"):
        pb.pp.open_files([tmp_path / "one.h5ad", tmp_path / "fewer.h5ad"])
    fractions = layered.copy()
    fractions.X = fractions.X * 0.5
    fractions.write_h5ad(tmp_path / "fractions.h5ad")
    with pytest.raises(pb.errors.ScaleError, match="expected raw counts"):
        pb.model.SAMSVAE.setup_anndata(pb.pp.open_files([tmp_path / "fractions.h5ad"]), **SETUP)


class Minibatches(pl.LightningDataModule):
    """Minibatches in the form of another loader: dense doses in place of slots."""

    def __init__(self, adata: ad.AnnData) -> None:
        super().__init__()
        dosage = torch.from_numpy(adata.obsm["_perturbia_dosage"].toarray())
        order = np.random.default_rng(0).permutation(adata.n_obs)
        batch = torch.from_numpy(adata.obs["_scvi_batch"].to_numpy().astype(np.int64))[:, None]
        x = torch.from_numpy(adata.X.toarray())
        self.batches = [
            {"X": x[rows], "perturbation": dosage[rows], "batch": batch[rows]} for rows in np.array_split(order, 5)
        ]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)


def test_a_data_module_trains_a_model_without_data(screen: ad.AnnData, fit: Callable, tmp_path: Path) -> None:
    source = fit(screen, setup=SETUP, max_steps=400, statistics="running", train_size=1.0)
    model = pb.model.SAMSVAE(registry=source.registry, n_latent=3, n_hidden=16)
    model.train(max_steps=400, datamodule=Minibatches(screen), **QUIET)
    one, other = (m.estimate_ate(source.perturbations, base="prior", n_draws=0).X for m in (model, source))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
    np.testing.assert_array_equal(model.module.n_treated, source.module.n_treated)
    np.testing.assert_allclose(model.module.input_mean, source.module.input_mean, rtol=1e-5)
    model.save(tmp_path / "model")
    loaded = pb.model.SAMSVAE.load(tmp_path / "model", adata=screen.copy())
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation(screen.copy()))
    with pytest.raises(ValueError, match="datamodule: expected None for a model that has data"):
        source.train(max_steps=2, datamodule=Minibatches(screen), **QUIET)
    with pytest.raises(pb.errors.SplitError, match="keep: expected 'last' without validation cells"):
        model.train(max_steps=2, datamodule=Minibatches(screen), keep="best", **QUIET)


def test_slots_are_the_dosage_matrix() -> None:
    rng = np.random.default_rng(0)
    dense = rng.choice([0.0, 0.5, 2.0], (9, 6), p=[0.7, 0.2, 0.1]).astype(np.float32)
    dense[0] = 0
    table = torch.from_numpy(rng.normal(size=(4, 6, 3)).astype(np.float32))
    read = GivenTreatments.of_doses(torch.from_numpy(dense))
    slots = GivenTreatments(*(torch.from_numpy(part) for part in treatment_slots(sparse.csr_matrix(dense))))
    for given in (read, slots):
        assert given.dose.shape[1] == (dense != 0).sum(1).max()
        np.testing.assert_allclose(given.sum_of(table), dense @ table.numpy(), rtol=1e-5, atol=1e-6)
        squared = given.sum_of(table, squared=True)
        np.testing.assert_allclose(squared, dense**2 @ table.numpy(), rtol=1e-5, atol=1e-6)
        rows, within = given.within()
        np.testing.assert_allclose(within.sum_of(table[:, rows]), given.sum_of(table), rtol=1e-6)
    empty = GivenTreatments.of_doses(torch.zeros(2, 3))
    assert empty.dose.shape == (2, 1)
    assert not empty.sum_of(table[0]).any()


def test_a_step_draws_what_its_cells_received(fit: Callable) -> None:
    """Under the published guide, masks of treatments that are not in the batch are not drawn."""
    labels = np.array(["control", *(f"t{i:03d}" for i in range(300))])
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(3.0, (602, 10)).astype(np.float32))
    adata.obs["perturbation"] = np.tile(labels, 2)
    model = fit(adata, init={"basal_encoder": "correlated"}, max_steps=3)
    tensors = next(iter(model._make_data_loader(adata=model.adata, indices=np.arange(20), batch_size=20)))
    rows, mask, embedding = model.module.inference(**model.module._get_inference_input(tensors))["draws"]
    assert rows.tolist() == list(range(19))
    assert mask.shape == embedding.shape == (1, 19, 3)


SCRIPT = """
import os, sys
import numpy as np
import perturbia as pb

if __name__ == "__main__":
    devices, seed, update, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=6, n_genes=40, n_latent=3, n_batches=2)
    pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", batch_key="batch")
    model = pb.model.SAMSVAE(adata, n_latent=4, seed=seed)
    several = {} if devices == 1 else {"devices": devices, "strategy": "ddp_find_unused_parameters_true"}
    model.train(
        max_steps=600, batch_size=128 // devices, train_size=1.0, statistics=update, accelerator="cpu",
        enable_progress_bar=False, **several,
    )
    ate = model.estimate_ate(n_draws=0).X
    shifts = model.get_treatment_embeddings().to_numpy()
    masks = model.get_treatment_masks().to_numpy()
    np.savez(f"{out}.{os.environ.get('LOCAL_RANK', 0)}", ate=ate, shifts=shifts, masks=masks)
"""


@pytest.mark.slow
@pytest.mark.parametrize("update", ["remembered", "running"])
def test_two_processes_find_what_one_finds(tmp_path: Path, update: str) -> None:
    """Within what another seed changes; both processes hold the same weights."""
    (tmp_path / "run.py").write_text(SCRIPT)

    def run(name: str, devices: int, seed: int) -> list[dict[str, np.ndarray]]:
        arguments = [sys.executable, str(tmp_path / "run.py"), str(devices), str(seed), update, str(tmp_path / name)]
        subprocess.run(arguments, check=True, capture_output=True)
        return [dict(np.load(tmp_path / f"{name}.{rank}.npz")) for rank in range(devices)]

    (one,), (other,) = run("one", 1, 0), run("other", 1, 1)
    first, second = run("two", 2, 0)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])

    def agreement(a: dict, b: dict) -> tuple[float, float]:
        ate = np.corrcoef(a["ate"].ravel(), b["ate"].ravel())[0, 1]
        # latents have no order and no sign
        cosine = np.abs(a["shifts"].T @ b["shifts"]) / np.outer(*(np.linalg.norm(m["shifts"], axis=0) for m in (a, b)))
        rows, columns = linear_sum_assignment(-np.nan_to_num(cosine))
        return float(ate), float(np.abs(a["masks"][:, rows] - b["masks"][:, columns]).mean())

    (ate, masks), (ate_of_seeds, masks_of_seeds) = agreement(one, first), agreement(one, other)
    assert ate > ate_of_seeds - 0.02
    assert masks < masks_of_seeds + 0.1
