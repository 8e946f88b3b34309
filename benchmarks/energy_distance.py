"""Energy distances of all pairs of groups: CPU-seconds beside the matrix products they are made of, and beside pertpy.

Tools take turns within one process and on one thread. Run with `python benchmarks/energy_distance.py [--large]`;
`--large` adds 30,000 cells. pertpy is measured where it is installed (see benchmarks/peers).
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from _tables import publish, to_markdown

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from synthetic_screen import synthetic_screen

from perturbia.stats import pairwise_energy_distance

RESULTS = Path(__file__).parent.parent / "docs" / "evaluation" / "_results"
BLOCK = 512


def gram_pass(points: np.ndarray) -> None:
    """Scalar products of all cells with all cells, block by block, and nothing else."""
    for row in range(0, len(points), BLOCK):
        for start in range(0, len(points), BLOCK):
            points[row : row + BLOCK] @ points[start : start + BLOCK].T


def plain_distances(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of distances between groups, as one writes them down: Gram blocks, square root, sums over segments."""
    length = np.einsum("ij,ij->i", points, points)
    rows = []
    for row in range(0, len(points), BLOCK):
        squared = points[row : row + BLOCK] @ points.T
        squared *= -2
        squared += length[row : row + BLOCK, None]
        squared += length
        np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
        rows.append(np.add.reduceat(squared, starts, axis=1))
    return np.add.reduceat(np.vstack(rows), starts, axis=0, dtype=np.float64)


def pertpy_pairs(adata):
    """All pairs through pertpy, which counts the zero distances of cells to themselves."""
    import pertpy

    del adata.obsp, adata.uns  # it keeps distances of the run before
    distance = pertpy.tools.Distance("edistance", obsm_key="X_pca")
    return distance.pairwise(adata, groupby="perturbation", show_progressbar=False)


def take_turns(tools: dict, repeats: int) -> pd.DataFrame:
    """CPU-seconds of each tool, (repeats, tools), after one round that is not counted."""
    rows = []
    for _ in range(repeats + 1):
        seconds = {}
        for name, call in tools.items():
            start = time.process_time()
            call()
            seconds[name] = time.process_time() - start
        rows.append(seconds)
    return pd.DataFrame(rows[1:])


def relative_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Largest difference of two matrices off the diagonal, relative to the second."""
    off = ~np.eye(len(first), dtype=bool)
    return float(np.abs(first[off] / second[off] - 1).max())


def describe(seconds: pd.DataFrame, ours: str) -> pd.DataFrame:
    """Medians with extremes, and how many times ours each tool takes (median of the ratios of one round)."""
    table = pd.DataFrame(
        {
            "CPU s": [f"{s.median():.4f} ({s.min():.4f} to {s.max():.4f})" for _, s in seconds.items()],
            "times ours": [f"{(s / seconds[ours]).median():.2f}" for _, s in seconds.items()],
        },
        index=pd.Index(seconds.columns, name="all pairs of 51 groups, 50 dimensions"),
    )
    return table


def agreement(adata, name: str) -> str:
    """Largest differences to pertpy on the same coordinates, in single and in double precision."""
    single, labels = adata.obsm["X_pca"], adata.obs["perturbation"].astype(str).to_numpy()
    gaps = []
    for points in (single, single.astype(np.float64)):
        ours = pairwise_energy_distance(points, labels, unbiased=False)
        copy = adata.copy()
        copy.obsm["X_pca"] = points
        gaps.append(relative_gap(ours.values, pertpy_pairs(copy).loc[ours.groups, ours.groups].to_numpy(dtype=float)))
    return (
        f"Largest relative difference over all pairs to {name}, which counts zero self-distances (`unbiased=False`): "
        f"{gaps[0]:.1e} in float32, {gaps[1]:.1e} in float64."
    )


def measure(n_cells: int, repeats: int, *, with_pertpy: bool) -> tuple[pd.DataFrame, list[str]]:
    """One table of CPU-seconds and the lines on agreement."""
    adata = synthetic_screen(n_cells)
    points, labels = adata.obsm["X_pca"], adata.obs["perturbation"].astype(str).to_numpy()
    codes = np.unique(labels, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    ordered, starts = np.ascontiguousarray(points[order]), np.searchsorted(codes[order], np.arange(codes.max() + 1))
    ours = "perturbia, Euclidean"
    tools = {
        "bare Gram pass (floor)": lambda: gram_pass(ordered),
        "Gram pass, root and sums over groups": lambda: plain_distances(ordered, starts),
        ours: lambda: pairwise_energy_distance(points, labels),
        "perturbia, Euclidean, float64": lambda: pairwise_energy_distance(points.astype(np.float64), labels),
        "perturbia, squared": lambda: pairwise_energy_distance(points, labels, metric="sqeuclidean"),
        "perturbia, Euclidean, control only": lambda: pairwise_energy_distance(points, labels, reference="control"),
    }
    lines = []
    if with_pertpy:
        name = f"pertpy {version('pertpy')}"
        tools[name] = lambda: pertpy_pairs(adata)
        lines.append(agreement(adata, name))
    seconds = take_turns(tools, repeats)
    ratio = (seconds[ours] / seconds["bare Gram pass (floor)"]).median()
    lines.insert(0, f"Ours takes **{ratio:.2f} times** the bare Gram pass.")
    if with_pertpy:
        lines.append(f"pertpy takes **{(seconds[name] / seconds[ours]).median():.0f} times** ours.")
    return describe(seconds, ours), lines


def large(n_cells: int) -> str:
    """CPU-seconds and peak memory of many cells, in a process that does nothing else."""
    adata = synthetic_screen(n_cells)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cells.npz"
        codes = adata.obs["perturbation"].cat.codes.to_numpy()
        np.savez(file, points=adata.obsm["X_pca"], codes=codes)
        arguments = [sys.executable, __file__, "--measure", str(file)]
        lines = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()
    seconds, floor, start, peak = map(float, lines)
    return (
        f"{n_cells:,} cells: {seconds:.2f} CPU s, {seconds / floor:.2f} times the bare Gram pass; peak memory {peak:.0f} MB, "
        f"of which {start:.0f} MB before the first distance."
    )


def peak_megabytes() -> float:
    """Largest resident memory of this process. (getrusage would count that of the process which started it.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return float(line.split()[1]) / 1024


def measure_file(file: str) -> None:
    """Print CPU-seconds of ours and of the Gram pass, and the peak memory before and after ours, in MB."""
    data = np.load(file)
    points, codes = data["points"], data["codes"]
    pairwise_energy_distance(points[:600], codes[:600], unbiased=False)
    before, start = peak_megabytes(), time.process_time()
    pairwise_energy_distance(points, codes)
    seconds, after = time.process_time() - start, peak_megabytes()
    start = time.process_time()
    gram_pass(points)
    sys.stdout.write(f"{seconds} {time.process_time() - start} {before} {after}\n")


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count")
    parser.add_argument("--large", action="store_true", help="also 30,000 cells, without pertpy")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.measure:
        measure_file(options.measure)
        return
    has_pertpy = find_spec("pertpy") is not None
    table, lines = measure(3_000, options.repeats, with_pertpy=has_pertpy)
    parts = [to_markdown(table), *lines, *([large(30_000)] if options.large else [])]
    packages = ("perturbia", "numpy", "scipy", *(["pertpy"] if has_pertpy else []))
    publish("energy_distance", parts, folder=RESULTS, packages=packages, write=has_pertpy and options.large)


if __name__ == "__main__":
    main()
