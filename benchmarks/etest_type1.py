"""How often the E-test finds a difference where there is none, over independent null replicates.

Cells of the perturbation and of the control have the same distribution, or the same distribution within each batch, where
batches shift cells and perturbation and control are spread over them differently. A test that keeps its level lies inside
the 99 % binomial band around it. The last row leaves the batches out and is expected to fail.

Run with `python benchmarks/etest_type1.py [--replicates 1000] [--permutations 999]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _tables import publish, to_markdown
from scipy.stats import binom

from perturbia.stats import energy_test

RESULTS = Path(__file__).parent.parent / "docs" / "evaluation" / "_results"
LEVELS = (0.01, 0.05)
# cells of the perturbation and of the control in each batch
CASES = {
    "equal groups, one batch": ([40], [40]),
    "unequal groups, one batch": ([15], [120]),
    "equal groups, three batches": ([30, 8, 2], [4, 12, 24]),
    "unequal groups, three batches": ([10, 4, 1], [20, 40, 60]),
}


def null_screen(rng: np.random.Generator, treated: list[int], control: list[int]) -> tuple[np.ndarray, ...]:
    """Cells with heavy tails in 10 dimensions, shifted by their batch; labels and batches."""
    batch = np.r_[np.repeat(np.arange(len(treated)), treated), np.repeat(np.arange(len(control)), control)]
    labels = np.repeat(["p", "control"], [sum(treated), sum(control)])
    cells = rng.standard_t(5, size=(len(batch), 10)) + rng.normal(0, 1.5, size=(len(treated), 10))[batch]
    return cells.astype(np.float32), labels, batch


def p_values(
    case: tuple[list[int], list[int]], *, replicates: int, permutations: int, metric: str, stratified: bool
) -> np.ndarray:
    """One p-value for each independent replicate."""
    out = np.empty(replicates)
    for k, seed in enumerate(np.random.SeedSequence(7).generate_state(replicates)):
        cells, labels, batch = null_screen(np.random.default_rng(seed), *case)
        test = energy_test(
            cells,
            labels,
            reference="control",
            strata=batch if stratified else None,
            metric=metric,
            n_permutations=permutations,
            seed=int(seed),
        )
        out[k] = test.p_value[0]
    return out


def main() -> None:
    """Simulate and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=999)
    options = parser.parse_args()
    bands = {level: binom.ppf([0.005, 0.995], options.replicates, level) / options.replicates for level in LEVELS}
    runs = [(name, case, "euclidean", len(case[0]) > 1) for name, case in CASES.items()]
    name = "unequal groups, three batches"
    runs.append((name, CASES[name], "sqeuclidean", True))
    runs.append((name, CASES[name], "euclidean", False))
    rows = []
    for title, case, metric, stratified in runs:
        values = p_values(
            case,
            replicates=options.replicates,
            permutations=options.permutations,
            metric=metric,
            stratified=stratified,
        )
        kind = "within batches" if stratified else "all cells" if len(case[0]) == 1 else "all cells, batches ignored"
        row = {"cells": f"{sum(case[0])} and {sum(case[1])}, {title}", "permutations": kind, "distance": metric}
        for level, (low, high) in bands.items():
            rate = float((values <= level).mean())
            row[f"share with p <= {level:g}"] = f"{rate:.3f} ({'inside' if low <= rate <= high else 'OUTSIDE'})"
        rows.append(row)
    table = pd.DataFrame(rows).set_index("cells")
    shown = ", ".join(f"{low:.3f} to {high:.3f} at {level:g}" for level, (low, high) in bands.items())
    note = f"{options.replicates} independent replicates, {options.permutations} permutations each. 99 % band: {shown}."
    publish("etest_type1", [to_markdown(table)], folder=RESULTS, packages=("perturbia", "numpy", "scipy"), note=note)


if __name__ == "__main__":
    main()
