"""Shared and salient latents on simulated populations with known truth, and throughput beside scVI.

Every seed draws new data and new weights. Scores are R2 of the true latents from a linear map of the encoded ones, on
target cells that neither trained nor validated: z and s should be high; `s from z`, what is salient in the shared block,
and `z from s` low. Rows: ComparativeVAE as it is and without a regulariser, ContrastiveVI of scvi-tools, and a network
of the encoder's size that was shown the true latents of the same cells, a reference and no bound.

Run with `python benchmarks/comparative.py [--seeds 5] [--steps 1500] [--jobs 2] [--runs FILE]`.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import logging
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _runs import add_arguments, make_runs
from _tables import paired, publish, summarise, to_markdown

import perturbia as pb
from perturbia.metrics import block_r2

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

#: Options of the simulation, and of the model.
SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "counts, piece-wise affine": ({}, {}),
    "Gaussian": ({"gene_likelihood": "normal"}, {}),
    "Gaussian, smooth": ({"gene_likelihood": "normal", "mixing": "smooth"}, {}),
    "counts, shifted target": ({"shifted_target": True}, {}),
}
SPARE = "10 + 3 latents"
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    SPARE: ({}, {"n_latent_shared": 10}),
    "300 background, 6,000 target": ({"n_background": 300, "n_target": 6000}, {}),
    "3,150 background, 3,150 target": ({"n_background": 3150, "n_target": 3150}, {}),
    "6,000 background, 300 target": ({"n_background": 6000, "n_target": 300}, {}),
}
DIMENSIONS = {"n_latent_shared": 5, "n_latent_salient": 3}
SCORES = ["z", "s", "s from z", "z from s"]
DEFAULT, PLAIN, PEER, GIVEN = "ComparativeVAE", "ComparativeVAE, no regulariser", "ContrastiveVI", "regression on truth"
ONE, BEST = "one run", "best of 3 restarts"
METHODS: dict[str, dict[str, Any]] = {
    PLAIN: {"regularizer": "none"},
    DEFAULT: {},
    ONE: {},
    BEST: {"n_restarts": 3},
}
RIVALS = {setting: [DEFAULT] for setting in SETTINGS} | {SPARE: [ONE, BEST, PEER]}
LOST_BELOW = 0.5  # R2 of s from a salient block that holds less than it should
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
_N_TEST, _N_VALID = 2000, 300


def populations(seed: int, *, n_background: int = 3000, n_target: int = 3000, **options: Any) -> ad.AnnData:
    """Training cells as many as asked for, held-out cells of both groups, and test cells of the target."""
    adata = pb.datasets.simulate_comparative(
        n_background=n_background + _N_VALID, n_target=n_target + _N_VALID + _N_TEST, seed=seed, **options
    )
    rng = np.random.default_rng(seed)
    labels = np.full(adata.n_obs, "train", dtype=object)
    for group, parts in (("background", {"valid": _N_VALID}), ("target", {"valid": _N_VALID, "test": _N_TEST})):
        cells = rng.permutation(np.flatnonzero(adata.obs["group"] == group))
        for part, n in parts.items():
            labels[cells[:n]], cells = part, cells[n:]
    adata.obs["pb_split"] = labels
    return adata


def score(adata: ad.AnnData, cells: np.ndarray, shared: np.ndarray, salient: np.ndarray) -> dict[str, float]:
    """R2 of both true blocks from both encoded ones."""
    truth = {"shared": adata.obsm["truth_shared"][cells], "salient": adata.obsm["truth_salient"][cells]}
    table = block_r2(truth, {"shared": shared, "salient": salient})
    return {
        "z": table.loc["shared", "shared"],
        "s": table.loc["salient", "salient"],
        "s from z": table.loc["salient", "shared"],
        "z from s": table.loc["shared", "salient"],
    }


def ours(adata: ad.AnnData, *, seed: int, steps: int, init: dict | None = None, **train: Any) -> dict[str, float]:
    """Train one ComparativeVAE and score it."""
    counts = "counts" in adata.layers
    pb.model.ComparativeVAE.setup_anndata(
        adata,
        layer="counts" if counts else None,
        scale="counts" if counts else "zscore",
        group_key="group",
        background="background",
    )
    options = {"n_hidden": 96, "gene_likelihood": "nb" if counts else "normal", **DIMENSIONS, **(init or {})}
    model = pb.model.ComparativeVAE(adata, seed=seed, **options)
    start = time.process_time()
    model.train(max_steps=steps, **{"n_restarts": 1, **QUIET, **train})
    seconds = time.process_time() - start
    cells = np.flatnonzero(adata.obs["pb_split"] == "test")
    latents = (model.get_latent_representation(indices=cells, kind=kind) for kind in ("shared", "salient"))
    row = {**score(adata, cells, *latents), "cpu_s": seconds}
    if "lambda" in model.history:
        last = {key: float(model.history[key].iloc[-1, 0]) for key in ("lambda", "constrained_mean", "level")}
        row |= {"lambda": last["lambda"], "mean / level": last["constrained_mean"] / last["level"]}
    return {**row, "lost": int(model.restarts_["lost"].sum())}


def peer(adata: ad.AnnData, *, seed: int, steps: int, shared: int = 5, salient: int = 3) -> dict[str, float]:
    """ContrastiveVI at the same widths and about as many steps."""
    import scvi

    scvi.settings.seed = seed
    known = adata[adata.obs["pb_split"] != "test"].copy()
    scvi.external.ContrastiveVI.setup_anndata(known, layer="counts")
    model = scvi.external.ContrastiveVI(
        known, n_hidden=96, n_layers=2, n_background_latent=shared, n_salient_latent=salient
    )
    background = np.flatnonzero(known.obs["group"] == "background")
    target = np.flatnonzero(known.obs["group"] == "target")
    per_epoch = -(-int(0.9 * max(len(background), len(target))) // 128)
    start = time.process_time()
    model.train(
        background_indices=background, target_indices=target, max_epochs=-(-steps // per_epoch), logger=False, **QUIET
    )
    seconds = time.process_time() - start
    cells = np.flatnonzero(adata.obs["pb_split"] == "test")
    shown = adata[cells].copy()
    latents = (model.get_latent_representation(shown, representation_kind=kind) for kind in ("background", "salient"))
    return {**score(adata, cells, *latents), "cpu_s": seconds}


def given_truth(adata: ad.AnnData, *, seed: int) -> dict[str, float]:
    """Regression of the true latents on the features of the target cells that trained."""
    from sklearn.neural_network import MLPRegressor

    features = np.log1p(adata.X.toarray()) if "counts" in adata.layers else np.asarray(adata.X)
    train = np.flatnonzero((adata.obs["pb_split"] == "train") & (adata.obs["group"] == "target"))
    features = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    cells = np.flatnonzero(adata.obs["pb_split"] == "test")
    network = MLPRegressor(hidden_layer_sizes=(96, 96), early_stopping=True, random_state=seed, max_iter=200)
    network.fit(features[train], adata.obsm["truth_latent"][train])
    found = network.predict(features[cells])
    n = adata.obsm["truth_shared"].shape[1]
    return {key: value for key, value in score(adata, cells, found[:, :n], found[:, n:]).items() if key in {"z", "s"}}


def throughput(repeats: int, epochs: int) -> str:
    """Cells per CPU-second of training beside scVI at the same widths, in turns."""
    import scvi

    adata = populations(0)
    theirs = adata.copy()
    pb.model.ComparativeVAE.setup_anndata(adata, layer="counts", group_key="group", background="background")
    scvi.model.SCVI.setup_anndata(theirs, layer="counts")
    n = int((adata.obs["pb_split"] == "train").sum())
    cost: dict[str, list[float]] = {"scVI": [], "ours": []}
    for repeat in range(repeats + 1):
        model = scvi.model.SCVI(theirs, n_latent=8, n_hidden=96, n_layers=2, gene_likelihood="nb")
        own = pb.model.ComparativeVAE(adata, n_hidden=96, **DIMENSIONS)
        for name, call, cells in (
            (
                "scVI",
                lambda m=model: m.train(max_epochs=epochs, train_size=1.0, batch_size=256, logger=False, **QUIET),
                theirs.n_obs,
            ),
            ("ours", lambda m=own: m.train(max_epochs=epochs, n_restarts=1, batch_size=256, **QUIET), n),
        ):
            start = time.process_time()
            call()
            if repeat:  # the first pair warms up
                cost[name].append((time.process_time() - start) / (cells * epochs))
    ratio = np.median(np.array(cost["scVI"]) / np.array(cost["ours"]))
    rates = {name: 1 / np.median(values) for name, values in cost.items()}
    return (
        f"Training, {epochs} epochs of batches of 256: {rates['ours']:,.0f} cells per CPU-second with everything on, scVI "
        f"{rates['scVI']:,.0f}; ratio **{ratio:.2f}** (median of {repeats} pairs)."
    )


def run(part: str, setting: str, method: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """One method on one draw of a setting."""
    data, init = {**SCENARIOS, **SETTINGS}[setting]
    adata = populations(seed, **data)
    if method == GIVEN:
        return [given_truth(adata, seed=seed)]
    if method == PEER:
        return [peer(adata, seed=seed, steps=steps, shared=init.get("n_latent_shared", 5))]
    return [ours(adata, seed=seed, steps=steps, init=init, **METHODS[method])]


def tasks_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs of both parts."""
    tasks = []
    for part, settings, seeds in (("right", SCENARIOS, options.seeds), ("other", SETTINGS, options.other_seeds)):
        for setting, (data, _) in settings.items():
            methods = [PLAIN, DEFAULT, PEER, GIVEN] if part == "right" else RIVALS[setting]
            if "gene_likelihood" in data:
                methods = [method for method in methods if method != PEER]
            tasks += [
                {"part": part, "setting": setting, "method": method, "seed": seed, "steps": options.steps}
                for seed in range(seeds)
                for method in methods
            ]
    return tasks


def right_dimensions(table: pd.DataFrame, steps: int) -> list[str]:
    """The four scenarios at the true numbers of latents."""
    parts = [f"**5 shared and 3 salient latents, as true; 3,000 and 3,000 cells, {steps:,} steps, one run each**"]
    parts.append(to_markdown(summarise(table, ["setting", "method"], [*SCORES, "lambda", "mean / level"])))
    for setting, part in table.groupby("setting", sort=False):
        parts.append(f"{setting}:\n\n" + paired(part, DEFAULT, PLAIN, ["seed"], SCORES))
    return parts


def other_settings(table: pd.DataFrame) -> list[str]:
    """Spare shared latents with and without restarts, and groups of unequal sizes."""
    title = "**Spare shared latents, and unequal sizes (5 + 3 latents), counts**"
    scores = [*SCORES, "lost"]
    return [title, to_markdown(summarise(table, ["setting", "method"], scores)), repaired(table)]


def repaired(table: pd.DataFrame) -> str:
    """How many runs with spare shared latents lose their salient block, alone and as the best of three."""
    spare = table[table["setting"] == SPARE]
    lost = {name: part["s"] < LOST_BELOW for name, part in spare.groupby("method")}
    return (
        f"With spare shared latents {int(lost[ONE].sum())} of {len(lost[ONE])} single runs recover less than {LOST_BELOW:g} of "
        f"s, and {int(lost[BEST].sum())} of {len(lost[BEST])} kept runs of three restarts."
    )


def main() -> None:
    """Run what is missing and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--other-seeds", type=int, default=5, help="seeds of spare latents and unequal sizes")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of the throughput comparison")
    add_arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|scvi|sklearn")
    table = make_runs(run, tasks_of(options), runs=options.runs, jobs=options.jobs)
    parts = right_dimensions(table[table["part"] == "right"], options.steps)
    parts += other_settings(table[table["part"] == "other"])
    publish("comparative", [throughput(options.repeats, epochs=20), *parts])


if __name__ == "__main__":
    main()
