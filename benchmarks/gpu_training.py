"""Training on a GPU beside the CPU of the same machine, and beside scVI: cells per second, memory, and the same answers.

Wall-clock time of an epoch after the first, scVI and SAMS-VAE at the same widths in turns; the CPU has all its cores. The
answers are effects of one seed trained on either device.

Run with `python benchmarks/gpu_training.py [--cells 20000] [--genes 2000] [--epochs 10]` on a machine with a CUDA device.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from _tables import publish, to_markdown

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from synthetic_screen import synthetic_screen

import perturbia as pb

if TYPE_CHECKING:
    from anndata import AnnData

WIDTHS = {"n_latent": 20, "n_hidden": 128, "n_layers": 1, "gene_likelihood": "nb"}
MODELS = ("scVI", "SAMSVAE", "CPAVAE", "SVAE", "ConditionalVAE", "ComparativeVAE")


def make(name: str, adata: AnnData, **options: Any) -> Any:
    """A new model of registered data."""
    if name == "scVI":
        import scvi

        scvi.model.SCVI.setup_anndata(adata, layer="counts")
        return scvi.model.SCVI(adata, **WIDTHS)
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    if name == "ComparativeVAE":
        return cls(adata, n_latent_shared=12, n_latent_salient=8, n_hidden=128, n_layers=1)
    return cls(adata, **WIDTHS, **options)


def seconds_per_epoch(name: str, adata: AnnData, accelerator: str, batch_size: int, epochs: int) -> tuple[float, float]:
    """Wall-clock seconds of an epoch, from two lengths of training, and peak memory of the device in MB."""
    model = make(name, adata.copy())
    options: dict[str, Any] = {"batch_size": batch_size, "accelerator": accelerator, "enable_progress_bar": False}
    options |= {"logger": False, "train_size": 1.0} if name != "ComparativeVAE" else {"n_restarts": 1}
    model.train(max_epochs=1, **options)
    if accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    lengths = []
    for n in (2, epochs + 2):
        started = time.perf_counter()
        model.train(max_epochs=n, **options)
        lengths.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() / 2**20 if accelerator == "gpu" else np.nan
    return (lengths[1] - lengths[0]) / epochs, memory


def speed(adata: AnnData, batch_sizes: list[int], epochs: int, cpu_epochs: int) -> pd.DataFrame:
    """Cells per second of every model on both devices."""
    rows = []
    for batch_size in batch_sizes:
        for name in MODELS:
            row: dict[str, Any] = {"batch": batch_size, "model": name}
            gpu, memory = seconds_per_epoch(name, adata, "gpu", batch_size, epochs)
            row |= {"GPU, cells per s": f"{adata.n_obs / gpu:,.0f}"}
            if name in MODELS[:2]:
                cpu, _ = seconds_per_epoch(name, adata, "cpu", batch_size, cpu_epochs)
                row |= {"CPU, cells per s": f"{adata.n_obs / cpu:,.0f}", "GPU / CPU": f"{cpu / gpu:.1f}"}
            else:
                row |= {"CPU, cells per s": "–", "GPU / CPU": "–"}
            row |= {"GPU memory, MB": f"{memory:,.0f}"}
            print(row, flush=True)
            rows.append(row)
    return pd.DataFrame(rows).set_index(["batch", "model"])


def same_answers(steps: int) -> str:
    """Effects of one seed on either device, beside those of two seeds on the CPU."""
    effects, seconds = {}, {}
    for accelerator, seed in (("cpu", 0), ("gpu", 0), ("cpu", 1)):
        adata = synthetic_screen()
        adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
        model = make("SAMSVAE", adata, seed=seed)
        started = time.perf_counter()
        model.train(max_steps=steps, accelerator=accelerator, enable_progress_bar=False)
        seconds[accelerator, seed] = time.perf_counter() - started
        singles = [name for name in model.perturbations if "+" not in name]
        effects[accelerator, seed] = model.estimate_ate(singles, n_draws=0).X.ravel()
    base = effects["cpu", 0]
    devices, seeds = (np.corrcoef(base, effects[other])[0, 1] for other in (("gpu", 0), ("cpu", 1)))
    return (
        f"{steps:,} steps on 3,000 cells and 500 genes took {seconds['gpu', 0]:.0f} s on the GPU and {seconds['cpu', 0]:.0f} s "
        f"on the CPU. Effects of 40 perturbations correlate at {devices:.4f} between the devices under one seed, and at "
        f"{seeds:.4f} between two seeds on the CPU."
    )


def profile(adata: AnnData, batch_size: int, steps: int = 200) -> str:
    """Where the time of steps on the GPU goes, by operation on the host and on the device."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    model = make("SAMSVAE", adata.copy())
    options: dict[str, Any] = {"batch_size": batch_size, "accelerator": "gpu", "enable_progress_bar": False}
    model.train(max_steps=20, **options)
    with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        model.train(max_steps=steps, **options)
    keys = recorded.key_averages()
    return "\n".join(
        keys.table(sort_by=by, row_limit=25, max_name_column_width=50)
        for by in ("self_cpu_time_total", "self_cuda_time_total")
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cpu-epochs", type=int, default=1)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--profile", action="store_true", help="print a profile of training steps and end")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device here")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    adata = synthetic_screen(options.cells, options.genes, n_pcs=2)
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
    adata = adata[~adata.obs["perturbation"].str.contains("+", regex=False)].copy()  # SVAE takes singles alone
    if options.profile:
        print(profile(adata, options.batch_sizes[0]))
        return
    answers = same_answers(1500)
    print(answers, flush=True)
    table = speed(adata, options.batch_sizes, options.epochs, options.cpu_epochs)
    title = f"**Training, {adata.n_obs:,} cells, {options.genes:,} genes, 20 latents, 128 hidden units**"
    note = f"One {torch.cuda.get_device_name()}; CPU with {os.cpu_count()} cores."
    publish("gpu_training", [title, to_markdown(table), answers], note=note, device="one GPU and all CPU cores")


if __name__ == "__main__":
    main()
