"""Recall of known relations in a map: CPU-seconds beside two ways to write it down with tables of all pairs.

Tools take turns within one process and on one thread, and have to agree exactly. Run with
`python benchmarks/relationship_recall.py [--large]`; `--large` adds 18,000 genes, in a process of their own.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _tables import publish, to_markdown
from sklearn.metrics.pairwise import cosine_similarity

from perturbia.metrics import relationship_recall

RESULTS = Path(__file__).parent.parent / "docs" / "evaluation" / "_results"
N_FEATURES, PAIRS_PER_GENE = 128, 4
PERCENTILES = ((0.05, 0.95), (0.1, 0.9))
OURS = "perturbia"


def make_map(n_genes: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A map in which a fifth of the genes are in complexes of five, and pairs of which some are inside these."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_genes, N_FEATURES))
    n_complexes = n_genes // 25
    values[: 5 * n_complexes] += 0.7 * np.repeat(rng.normal(size=(n_complexes, N_FEATURES)), 5, axis=0)
    inside = np.arange(n_complexes)[:, None] * 5 + np.array([[0, 1, 2, 3, 0, 1], [1, 2, 3, 4, 4, 3]]).reshape(2, 1, 6)
    pairs = np.concatenate([rng.integers(0, n_genes, (PAIRS_PER_GENE * n_genes, 2)), inside.reshape(2, -1).T])
    names = np.array([f"GENE{i}" for i in range(n_genes)])
    return pd.DataFrame(values.astype(np.float32), index=names), pd.DataFrame(names[pairs], columns=["first", "second"])


def in_tails(cosines: np.ndarray, null: np.ndarray) -> list[float]:
    """Share of cosines in each pair of tails of the null, by rank."""
    ordered = np.sort(null)
    right = np.searchsorted(ordered, cosines, side="right") / len(ordered)
    left = np.searchsorted(ordered, cosines, side="left") / len(ordered)
    return [float(((right <= low) | (left >= high)).mean()) for low, high in PERCENTILES]


def square_table(features: pd.DataFrame, pairs: pd.DataFrame) -> list[float]:
    """A genes by genes table, and one look into it for each known pair."""
    cosines = pd.DataFrame(cosine_similarity(features), index=features.index, columns=features.index)
    known = {tuple(sorted(pair)) for pair in pairs.itertuples(index=False) if pair[0] != pair[1]}
    found = np.array([cosines.loc[first, second] for first, second in known])
    return in_tails(found, cosines.to_numpy()[np.triu_indices(len(cosines), k=1)])


def long_table(features: pd.DataFrame, pairs: pd.DataFrame) -> list[float]:
    """A table with a row for each pair of genes, merged with the known pairs."""
    cosines = pd.DataFrame(cosine_similarity(features), index=features.index, columns=features.index)
    table = cosines.rename_axis(index="first", columns="second").stack().rename("cosine").reset_index()
    table = table[table["first"] < table["second"]]
    known = pd.DataFrame(np.sort(pairs.to_numpy().astype(str), axis=1), columns=["first", "second"]).drop_duplicates()
    return in_tails(table.merge(known, on=["first", "second"])["cosine"].to_numpy(), table["cosine"].to_numpy())


def ours(features: pd.DataFrame, pairs: pd.DataFrame, n_boot: int) -> list[float]:
    """Recall of this package."""
    return relationship_recall(features, pairs, percentiles=PERCENTILES, n_boot=n_boot).table["recall"].tolist()


def take_turns(n_genes: int, repeats: int) -> pd.DataFrame:
    """CPU-seconds of each tool, (repeats, tools), after one round that is not counted; each round has a map of its own."""
    tools = {
        OURS: lambda *data: ours(*data, 0),
        "perturbia, 1,000 resamples": lambda *data: ours(*data, 1000),
        "square table, `.loc` of each known pair": square_table,
        "table of all pairs": long_table,
    }
    rows = []
    for round_ in range(repeats + 1):
        data = make_map(n_genes, seed=round_)
        seconds, found = {}, {}
        for name, call in tools.items():
            start = time.process_time()
            found[name] = call(*data)
            seconds[name] = time.process_time() - start
        if any(values != found[OURS] for values in found.values()):
            msg = f"tools differ: {found}"
            raise AssertionError(msg)
        rows.append(seconds)
    return pd.DataFrame(rows[1:])


def describe(seconds: pd.DataFrame, n_genes: int) -> pd.DataFrame:
    """Medians with extremes, and how many times ours each tool takes (median of the ratios of one round)."""
    return pd.DataFrame(
        {
            "CPU s": [f"{s.median():.3f} ({s.min():.3f} to {s.max():.3f})" for _, s in seconds.items()],
            "times ours": [f"{(s / seconds[OURS]).median():.1f}" for _, s in seconds.items()],
        },
        index=pd.Index(seconds.columns, name=f"{n_genes:,} genes, {PAIRS_PER_GENE * n_genes:,} pairs"),
    )


def peak_megabytes() -> float:
    """Largest resident memory of this process. (getrusage would count that of the process which started it.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return float(line.split()[1]) / 1024


def measure_alone(n_genes: int, null: str) -> None:
    """Print CPU-seconds, and the peak memory before and after, in MB."""
    features, pairs = make_map(n_genes)
    relationship_recall(features.iloc[:500], pairs, n_boot=10)
    before, start = peak_megabytes(), time.process_time()
    relationship_recall(features, pairs, percentiles=PERCENTILES, null=null)
    sys.stdout.write(f"{time.process_time() - start} {before} {peak_megabytes()}\n")


def large(n_genes: int, null: str) -> str:
    """One line on many genes, measured in a process that does nothing else."""
    arguments = [sys.executable, __file__, "--measure", null, "--genes", str(n_genes)]
    lines = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()
    seconds, before, after = map(float, lines)
    return (
        f"{n_genes:,} genes, {PAIRS_PER_GENE * n_genes:,} pairs, 1,000 resamples, null `{null}`: {seconds:.2f} CPU s; peak "
        f"memory {after:.0f} MB, of which {before:.0f} MB before."
    )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--large", action="store_true", help="also 18,000 genes, without the tables")
    parser.add_argument("--genes", type=int, default=18_000, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_alone(options.genes, options.measure)
        return
    parts = [to_markdown(describe(take_turns(n, options.repeats), n)) for n in (2_000, 5_000)]
    parts.append("Recall at both pairs of percentiles was equal, to the last digit, in every round.")
    if options.large:
        parts += [large(options.genes, null) for null in ("all", "excluding_known", "degree_matched")]
    packages = ("perturbia", "numpy", "pandas", "scikit-learn")
    note = f"{N_FEATURES} features. Medians over rounds, lowest and highest in brackets."
    publish("relationship_recall", parts, folder=RESULTS, packages=packages, note=note, write=options.large)


if __name__ == "__main__":
    main()
