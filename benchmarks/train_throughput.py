"""Cells per CPU-second of training and encoding beside scVI, cost against the number of treatments, and memory of queries.

scVI and SAMS-VAE have the same widths, latent dimensions, likelihood, batches and genes, and take turns in one process on
one thread. Run with `python benchmarks/train_throughput.py [--repeats 3] [--quick]`.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import logging
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from _tables import publish, to_markdown

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from synthetic_screen import synthetic_screen

import perturbia as pb

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET: dict[str, Any] = {"train_size": 1.0, "enable_progress_bar": False, "logger": False, "accelerator": "cpu"}
WIDTHS = {"n_latent": 20, "n_hidden": 128, "n_layers": 1, "gene_likelihood": "nb"}


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU-seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU-seconds of several calls, one after the other, over and over."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(cpu_seconds(call))
    return seconds


def thinned(adata: ad.AnnData, share: float, seed: int = 0) -> ad.AnnData:
    """The same screen at another depth."""
    out = adata.copy()
    counts = out.layers["counts"].tocsr().copy()
    counts.data = np.random.default_rng(seed).binomial(counts.data.astype(int), share).astype(np.float32)
    counts.eliminate_zeros()
    out.layers["counts"] = counts
    return out[np.asarray(counts.sum(1)).ravel() > 0].copy()


def beside_scvi(repeats: int, epochs: int, batch_sizes: tuple[int, ...]) -> tuple[pd.DataFrame, list[str]]:
    """Throughput of both models at several batch sizes and densities."""
    import scvi

    rows, lines = [], []
    full = synthetic_screen()
    full.obs["perturbation"] = full.obs["perturbation"].astype(str)
    for share in (1.0, 0.1):
        adata = full if share == 1.0 else thinned(full, share)
        density = adata.layers["counts"].nnz / np.prod(adata.shape)
        for batch_size in batch_sizes:
            theirs, ours = adata.copy(), adata.copy()
            scvi.model.SCVI.setup_anndata(theirs, layer="counts")
            pb.model.SAMSVAE.setup_anndata(ours, layer="counts", perturbation_key="perturbation")
            models = {"scVI": scvi.model.SCVI(theirs, **WIDTHS), "SAMS-VAE": pb.model.SAMSVAE(ours, **WIDTHS)}
            options = {"max_epochs": epochs, "batch_size": batch_size, **QUIET}
            for model in models.values():
                model.train(**{**options, "max_epochs": 1})
            training = in_turns({k: partial(m.train, **options) for k, m in models.items()}, repeats)
            encoding = in_turns(
                {k: partial(m.get_latent_representation, batch_size=batch_size) for k, m in models.items()},
                repeats,
            )
            for task, seconds, cells in (
                ("training", training, epochs * adata.n_obs),
                ("latents", encoding, adata.n_obs),
            ):
                ratio = np.median(np.array(seconds["scVI"]) / np.array(seconds["SAMS-VAE"]))
                rates = {k: cells / np.median(v) for k, v in seconds.items()}
                rows.append(
                    {
                        "task": task,
                        "counts above zero": f"{density:.0%}",
                        "batch": batch_size,
                        **{f"{k}, cells per CPU s": f"{rate:,.0f}" for k, rate in rates.items()},
                        "ours / scVI": f"{ratio:.2f}",
                    }
                )
    worst = min(float(row["ours / scVI"]) for row in rows)
    lines.append(f"Lowest ratio: **{worst:.2f}** (median of {repeats} pairs each).")
    return pd.DataFrame(rows).set_index(["task", "counts above zero", "batch"]), lines


FAMILY = {
    "SAMSVAE": {},
    "CPAVAE": {},
    "SVAE": {},
    "ConditionalVAE": {},
    "ComparativeVAE": {"n_latent_shared": 12, "n_latent_salient": 8},
}


def family_beside_scvi(repeats: int, epochs: int, batch_sizes: tuple[int, ...]) -> tuple[pd.DataFrame, list[str]]:
    """Training of every model of the family beside scVI, with the same total number of latents."""
    import scvi

    rows = []
    adata = synthetic_screen()
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
    adata = adata[~adata.obs["perturbation"].str.contains("+", regex=False)].copy()  # SVAE takes singles alone
    for name, sizes in FAMILY.items():
        for batch_size in batch_sizes:
            theirs, ours = adata.copy(), adata.copy()
            scvi.model.SCVI.setup_anndata(theirs, layer="counts")
            cls = getattr(pb.model, name)
            cls.setup_anndata(ours, layer="counts", perturbation_key="perturbation")
            widths = {key: value for key, value in WIDTHS.items() if not (sizes and key == "n_latent")}
            models = {"scVI": scvi.model.SCVI(theirs, **WIDTHS), name: cls(ours, **widths, **sizes)}
            options = {"max_epochs": epochs, "batch_size": batch_size, **QUIET}
            own = dict(options)
            if sizes:
                own |= {"n_restarts": 1}
            for model, chosen in zip(models.values(), (options, own), strict=True):
                model.train(**{**chosen, "max_epochs": 1})
            calls = {
                "scVI": partial(models["scVI"].train, **options),
                name: partial(models[name].train, **own),
            }
            seconds = in_turns(calls, repeats)
            ratio = np.median(np.array(seconds["scVI"]) / np.array(seconds[name]))
            rates = {k: epochs * adata.n_obs / np.median(v) for k, v in seconds.items()}
            rows.append(
                {
                    "model": name,
                    "batch": batch_size,
                    "scVI, cells per CPU s": f"{rates['scVI']:,.0f}",
                    "ours, cells per CPU s": f"{rates[name]:,.0f}",
                    "ours / scVI": f"{ratio:.2f}",
                }
            )
    worst = min(rows, key=lambda row: float(row["ours / scVI"]))
    line = f"Lowest ratio: **{worst['ours / scVI']}** ({worst['model']}; median of {repeats} pairs each)."
    return pd.DataFrame(rows).set_index(["model", "batch"]), [line]


def many_treatments(n_treatments: int, n_cells: int = 20_000, n_genes: int = 500) -> ad.AnnData:
    """Counts without structure: only the number of treatments matters here."""
    rng = np.random.default_rng(0)
    counts = sp.random_array((n_cells, n_genes), density=0.2, rng=rng, dtype=np.float32, format="csr")
    counts.data = np.ceil(counts.data * 5).astype(np.float32)
    labels = np.array(["control", *(f"t{i:04d}" for i in range(n_treatments))])
    code = np.r_[np.arange(n_treatments + 1), rng.integers(0, n_treatments + 1, n_cells - n_treatments - 1)]
    return ad.AnnData(
        sp.csr_matrix(counts), obs=pd.DataFrame({"perturbation": labels[code]}, index=map(str, range(n_cells)))
    )


def cost_of_treatments(
    repeats: int, steps: int, sizes: tuple[int, ...] = (50, 500, 5_000)
) -> tuple[pd.DataFrame, list[str]]:
    """Milliseconds of a step, updates apart, at several numbers of treatments."""
    rows, per_step = [], {}
    for inference, init in (
        ("default", {}),
        ("published", {"basal_encoder": "correlated", "global_update": "gradient", "global_kl": "plated"}),
    ):
        models = {}
        for size in sizes:
            adata = many_treatments(size)
            pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
            models[size] = pb.model.SAMSVAE(adata, **WIDTHS, **init)
            models[size].train(max_steps=10, **QUIET)
        runs = {}
        for form, updates in (("steps alone", {"update_every": 10**6}), ("with updates", {})):
            if form == "with updates" and inference == "published":
                continue

            def train(n_steps: int, size: int, updates=updates, models=models) -> None:
                models[size].train(max_steps=n_steps, rotation="none", **updates, **QUIET)

            # the difference of two lengths takes out what a training costs once
            short, long_ = (
                in_turns({str(size): (lambda s=size, n=n: train(n, s)) for size in sizes}, repeats)
                for n in (steps // 4, steps)
            )
            runs[form] = {
                size: 1e3 * (np.median(long_[str(size)]) - np.median(short[str(size)])) / (steps - steps // 4)
                for size in sizes
            }
        for form, values in runs.items():
            rows.append(
                {
                    "inference": inference,
                    "": form,
                    **{f"T = {size:,}, ms": f"{values[size]:.2f}" for size in sizes},
                    "largest / smallest T": f"{values[sizes[-1]] / values[sizes[0]]:.2f}",
                }
            )
            per_step[inference, form] = values[sizes[-1]] / values[sizes[0]]
    ratio = per_step["default", "steps alone"]
    line = f"A step at T = {sizes[-1]:,} costs **{ratio:.2f} times** that at T = {sizes[0]}."
    return pd.DataFrame(rows).set_index(["inference", ""]), [line]


_PEAK = """
import sys, tracemalloc, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, "benchmarks"); sys.path.insert(0, "benchmarks/peers")
import logging; logging.disable(logging.WARNING)
import resource, torch, perturbia as pb
from train_throughput import WIDTHS, QUIET
from synthetic_screen import synthetic_screen
torch.set_num_threads(1)
adata = synthetic_screen(); adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
model = pb.model.SAMSVAE(adata, **WIDTHS); model.train(max_steps=20, **QUIET)
queries = model.perturbations
{warm}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = {call}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
CALLS = {
    "get_iwelbo, particles": ("model.get_iwelbo(n_particles={})", (10, 100, 400)),
    "estimate_ate, basal states": (
        "model.estimate_ate(queries[:4], base='prior', n_cells={}, n_draws=0)",
        (500, 2_000, 8_000),
    ),
    "estimate_ate, queries": ("model.estimate_ate(queries[:{}], n_draws=0)", (2, 10, 40)),
    "predict, one query after another": (
        "[None for q in queries[:{}] if model.predict(adata, q) is None]",
        (2, 10, 40),
    ),
}


def memory_of_queries() -> pd.DataFrame:
    """Growth of the peak resident memory over that of the smallest call, each in a process of its own."""
    rows = []
    for name, (call, sizes) in CALLS.items():
        row = {"call": name}
        for size, label in zip(sizes, ("few", "more", "many"), strict=True):
            code = _PEAK.format(warm=call.format(sizes[0]), call=call.format(size))
            out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            row[f"{label}"] = f"{float(out.stdout.split()[-1]):.0f} MB at {size:,}"
        rows.append(row)
    return pd.DataFrame(rows).set_index("call")


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repetition of little, to see that it runs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    repeats = 1 if arguments.quick else arguments.repeats
    table, lines = beside_scvi(repeats, 2 if arguments.quick else 20, (128,) if arguments.quick else (128, 512))
    parts = [
        "**Training and encoding, 3,000 cells, 500 genes, 20 latents, 128 hidden units**",
        to_markdown(table),
        *lines,
    ]
    table, lines = family_beside_scvi(repeats, 2 if arguments.quick else 20, (128,) if arguments.quick else (128, 512))
    parts += [
        "**Training of all models, single perturbations only, same widths, 20 latents in all, updates and rotations included**",
        to_markdown(table),
        *lines,
    ]
    table, lines = cost_of_treatments(repeats, 40 if arguments.quick else 400)
    parts += [
        "**Cost of a step against the number of treatments, 20,000 cells, batches of 256**",
        to_markdown(table),
        *lines,
    ]
    parts += ["**Peak memory above a first small call**", to_markdown(memory_of_queries())]
    publish("train_throughput", parts, write=not arguments.quick)


if __name__ == "__main__":
    main()
