"""The protocols of the SAMS-VAE paper on whole public screens, with every baseline beside.

- `norman-ood`: doubles of Norman 2019. A quarter of the doubles is judged; of all doubles 0, 25, 50, 75 and 100 % are
  seen (at 100 %, the judged ones by their other cells). Seeds are those of the split.
- `norman-efficiency`: every double is judged by a fifth of its cells; 0 to 100 % of the other training cells of doubles
  are seen. Seeds are those of the split.
- `replogle-random`: Replogle 2022, 64 / 16 / 20 % of the cells at random. Seeds are those of the models.

Effects are scored by `pb.tl.evaluate(protocol="sams-vae")`; `iwelbo` is the bound on the log likelihood of all judged
cells, 100 particles, and `iwelbo rel` is its difference to the reference model (the published inference if it runs) at
fraction 0 of the same split.

What differs from the published runs: the last step is kept, not the one of lowest validation loss; embeddings do not
know the mask, since q(E | M) is not in the library; the genes are the most variable ones of the whole screen, their
number is set by `--genes`; targets are genes, not guide pairs; Replogle is not reduced to perturbations of strong effect,
unless `--data` is such a file; effects are measured by all cells that a split uses, which for `norman-ood` leaves out the
other cells of judged doubles below 100 %. Replogle has 100 latents and a mask prior of 0.01, of the grid that the paper
searched. `default` has the sizes, batches and steps of the paper, and our inference and rates.

Run with `python benchmarks/published_protocols.py norman-ood [--data FILE] [--seeds 5] [--models default,published]`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from _tables import publish, summarise, to_markdown

import perturbia as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

NAMES = {"default": "SAMS-VAE", "published": "SAMS-VAE, published inference"}
PUBLISHED_INFERENCE = {
    "basal_encoder": "correlated",
    "global_update": "gradient",
    "global_kl": "plated",
    "n_particles": 5,
}
PUBLISHED_RATES = {"lr": 3e-4, "dispersion_lr": 3e-4, "weight_decay": 1e-6, "n_steps": None}  # None: constant
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
EFFECTS = ["correlation_all", "r2_all", "top20_truth_r", "top20_truth_r2"]
LIKELIHOOD, RELATIVE = "iwelbo", "iwelbo rel"
# Means over five splits of the correlated SAMS-VAE, read in the tables stored with the figures of its repository.
PAPER = {
    "norman-ood": {
        RELATIVE: (0.00, 4.41, 6.38, 7.59, 11.19),
        "correlation_all": (0.682, 0.720, 0.736, 0.733, 0.775),
    },
    "norman-efficiency": {
        RELATIVE: (0.00, 6.73, 8.96, 10.35, 11.56),
        "correlation_all": (0.666, 0.728, 0.753, 0.758, 0.765),
    },
}


@dataclass(frozen=True)
class Setting:
    """Sizes and training of a task as published."""

    model: dict[str, Any]
    train: dict[str, Any]
    steps: int
    seeds: int
    genes: int
    n_particles: int = 100
    fractions: tuple[float, ...] = FRACTIONS


SIZES = {"n_hidden": 400, "n_layers": 1, "mask_prior_prob": 0.01}
NORMAN = Setting({**SIZES, "n_latent": 200}, {"batch_size": 512, "gradient_clip_val": 100.0}, 30_000, 5, 5000)
REPLOGLE = Setting({**SIZES, "n_latent": 100}, {"batch_size": 512}, 150_000, 5, 1187)
SETTINGS = {"norman-ood": NORMAN, "norman-efficiency": NORMAN, "replogle-random": REPLOGLE}


@dataclass(frozen=True)
class Run:
    """One training set: the column of `obs` that holds it, what is judged, and what is reported with it."""

    split_key: str
    fraction: float
    split_seed: int
    model_seed: int = 0
    allow_seen: bool | None = None


def quick(setting: Setting) -> Setting:
    """The same in small, to see that everything runs."""
    model = {**setting.model, "n_latent": 5, "n_hidden": 16, "mask_prior_prob": 0.1}
    return replace(setting, model=model, steps=30, seeds=1, genes=40, n_particles=10, fractions=(0.0, 1.0))


def stand_in(task: str) -> AnnData:
    """A simulated screen, with doubles for the tasks that have them."""
    n_combinations = 0 if task == "replogle-random" else 12
    return pb.datasets.simulate_screen(
        n_perturbations=8, n_combinations=n_combinations, n_genes=40, n_latent=3, n_controls=150, n_truth_cells=50
    )


def load(task: str, data: Path | None) -> AnnData:
    """The screen of a task: fetched, read from the published file, or taken as it is if it has raw counts in a layer."""
    import anndata

    loader = pb.datasets.replogle_2022_k562_essential if task == "replogle-random" else pb.datasets.norman_2019
    if data is None:
        return loader()
    backed = anndata.read_h5ad(data, backed="r")
    ready = "counts" in backed.layers
    backed.file.close()
    return anndata.read_h5ad(data) if ready else loader(path=data)


def variable_genes(adata: AnnData, n: int) -> AnnData:
    """The most variable genes by log-normalised counts, and the cells that have counts of them."""
    import scanpy as sc

    if n < adata.n_vars:
        adata.X = adata.layers["counts"].copy()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        chosen = sc.pp.highly_variable_genes(adata, n_top_genes=n, inplace=False)["highly_variable"].to_numpy()
        adata = adata[:, chosen]
    filled = np.asarray(adata.layers["counts"].sum(axis=1)).ravel() > 0
    adata = adata[filled].copy()
    adata.X = adata.layers["counts"]
    return adata


def ood_runs(adata: AnnData, seed: int, fractions: tuple[float, ...] = FRACTIONS) -> Iterator[Run]:
    """Nested fractions of doubles."""
    pb.tl.nested_splits(adata, fractions=fractions, control_fraction=1.0, seed=seed)
    for fraction in fractions:
        yield Run(f"pb_split_{fraction:g}", fraction, seed)


def efficiency_runs(adata: AnnData, seed: int, fractions: tuple[float, ...] = FRACTIONS) -> Iterator[Run]:
    """Nested fractions of the training cells of doubles; a fifth of the cells of every double is judged.

    The split with all doubles seen holds back that fifth, but judges it for some doubles only and leaves out the rest.
    """
    pb.tl.nested_splits(adata, fractions=(1.0,), control_fraction=1.0, seed=seed)
    part = adata.obs["pb_split_1"].astype(object)
    part = part.where(part.notna(), "test").to_numpy()
    doubles = adata.obs["perturbation"].astype(str).str.contains("+", regex=False).to_numpy()
    order = np.random.default_rng(seed).permutation(np.flatnonzero(doubles & (part == "train")))
    for fraction in fractions:
        shown = part.copy()
        shown[order[round(fraction * len(order)) :]] = None
        key = f"efficiency_{fraction:g}"
        adata.obs[key] = pd.Categorical(shown, categories=["train", "valid", "test"])
        yield Run(key, fraction, seed, allow_seen=True)


def random_runs(adata: AnnData, seed: int, _: tuple[float, ...] = FRACTIONS) -> Iterator[Run]:
    """One split of the cells, models of several seeds."""
    if "pb_split" not in adata.obs:
        pb.tl.split(adata, axis="random", fraction=0.8, valid=0.2, seed=0)
    yield Run("pb_split", 1.0, 0, model_seed=seed)


RUNS = {"norman-ood": ood_runs, "norman-efficiency": efficiency_runs, "replogle-random": random_runs}


def fit(shown: AnnData, run: Run, setting: Setting, kind: str, steps: int) -> Any:
    """Train one model on registered data."""
    published = kind == "published"
    inference = PUBLISHED_INFERENCE if published else {}
    model = pb.model.SAMSVAE(shown, seed=run.model_seed, **setting.model, **inference)
    model.train(
        max_steps=steps,
        split_key=run.split_key,
        plan_kwargs=PUBLISHED_RATES if published else None,
        enable_progress_bar=False,
        **setting.train,
    )
    return model


def judge(adata: AnnData, run: Run, setting: Setting, kinds: list[str], steps: int) -> list[dict[str, Any]]:
    """Scores of the models and of every baseline on one training set."""
    shown = adata[adata.obs[run.split_key].notna()].copy()
    pb.model.SAMSVAE.setup_anndata(shown, layer="counts", perturbation_key="perturbation", control="control")
    models = {NAMES[kind]: fit(shown, run, setting, kind, steps) for kind in kinds}
    # all cells measure effects, those that the split does not use, too
    result = pb.tl.evaluate(
        models, adata, protocol="sams-vae", split_key=run.split_key, layer="counts", allow_seen=run.allow_seen
    )
    judged = np.flatnonzero(shown.obs[run.split_key] == "test")
    bounds = {
        name: model.get_iwelbo(indices=judged, n_particles=setting.n_particles, return_mean=True)
        for name, model in models.items()
    }
    values = result.summary(metrics=EFFECTS)["value"]
    unit = {"fraction": run.fraction, "split seed": run.split_seed, "model seed": run.model_seed}
    return [{"method": name, **unit, **values.loc[name], LIKELIHOOD: bounds.get(name, np.nan)} for name in values.index]


def relative(table: pd.DataFrame, reference: str) -> pd.Series:
    """Bound minus that of the reference at fraction 0 of the same split."""
    base = table[(table["method"] == reference) & (table["fraction"] == 0)].set_index("split seed")[LIKELIHOOD]
    return table[LIKELIHOOD] - table["split seed"].map(base)


def with_paper(summary: pd.DataFrame, task: str) -> pd.DataFrame:
    """Published numbers beside the rows that they belong to."""
    for score, numbers in PAPER.get(task, {}).items():
        known = {(NAMES["published"], fraction): number for fraction, number in zip(FRACTIONS, numbers, strict=True)}
        summary[f"{score}, published"] = [known.get((row[1], row[0]), "–") for row in summary.index]
    return summary


def report(table: pd.DataFrame, options: argparse.Namespace, *, steps: int) -> None:
    """Write the runs as CSV, and their table as Markdown."""
    task = options.task
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{task}-quick" if options.quick else task
    scores = [*EFFECTS, LIKELIHOOD]
    note = "Medians over seeds, lowest and highest in brackets; columns named *published* hold means that the paper reports."
    if task != "replogle-random":
        reference = NAMES["published" if "published" in options.models else options.models[0]]
        table[RELATIVE] = relative(table, reference)
        scores.append(RELATIVE)
        note += f" Nats per judged cell; `{RELATIVE}` is relative to {reference} at fraction 0 of the same split."
    table.to_csv(options.out / f"{name}.csv", index=False)
    summary = summarise(table, ["fraction", "method"], scores)
    if not options.quick:
        summary = with_paper(summary, task)
    what = "simulated stand-in, tiny models: says only that everything runs" if options.quick else "real screen"
    title = f"**{task}, {what}; {steps:,} steps**"
    publish(name, [title, to_markdown(summary)], folder=options.out, note=note, script="published_protocols")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(SETTINGS))
    parser.add_argument("--data", type=Path, help="the published file, or an h5ad with raw counts in a layer 'counts'")
    parser.add_argument("--steps", type=int, help="optimiser steps of each model (default: as published)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: as published, 5)")
    parser.add_argument("--genes", type=int, help="most variable genes to keep (default: 5000; 1187 for Replogle)")
    parser.add_argument("--models", default="default,published", help="default, published, or both (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("published-protocols"), help="folder to write (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny models on a simulated screen")
    options = parser.parse_args(argv)
    options.models = options.models.split(",")
    unknown = [kind for kind in options.models if kind not in NAMES]
    if unknown:
        parser.error(f"--models: expected default, published or both, got {unknown[0]!r}")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run a protocol and write its tables."""
    options = parse(argv)
    torch.set_num_threads(1)
    setting = SETTINGS[options.task]
    setting = quick(setting) if options.quick else setting
    steps = options.steps or setting.steps
    adata = stand_in(options.task) if options.quick and options.data is None else load(options.task, options.data)
    adata = variable_genes(adata, options.genes or setting.genes)
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds or setting.seeds):
        for run in RUNS[options.task](adata, seed, setting.fractions):
            runs += judge(adata, run, setting, options.models, steps)
            sys.stderr.write(
                f"fraction {run.fraction:g}, split seed {run.split_seed}, model seed {run.model_seed}: done\n"
            )
    report(pd.DataFrame(runs), options, steps=steps)


if __name__ == "__main__":
    main()
