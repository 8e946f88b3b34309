"""Alignment of profiles by controls: recall of complexes and mechanism accuracy against the number of controls.

Simulated plates (`perturbia.datasets.simulate_plates`) with 0.2 to 5 times as many controls as features, and three harder
kinds of them at one ratio. Run with `python benchmarks/map_alignment.py [--seeds 10] [--jobs 2] [--runs FILE]`.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from pathlib import Path

import pandas as pd
from _runs import add_arguments, make_runs
from _tables import publish, to_markdown

import perturbia as pb

#: Controls on each of 8 plates, for 120 features.
CONTROLS = {"0.2": 3, "0.5": 8, "1": 15, "2": 30, "5": 75}
#: Other kinds of plates, at as many controls as features.
KINDS = {
    "effects along nuisances": {"overlap": 0.95},
    "weak nuisances": {"nuisance_scale": 1.0},
    "plates scaled apart": {"plate_scale": 0.6},
}
OURS, PLAIN, STEADY = "TVN, default", "standardised, no prior", "standardised"
FOLDER = Path(__file__).parent.parent / "docs" / "maps" / "_results"


def align(wells, method: str) -> str:
    """Key of the aligned profiles."""
    tvn = pb.pp.typical_variation_normalization
    options = {"batch_key": "plate", "key_added": method}
    if method == "not aligned":
        wells.obsm[method] = wells.X
    elif method == PLAIN:
        pb.pp.standardize_by_controls(wells, prior=0, **options)
    elif method == STEADY:
        pb.pp.standardize_by_controls(wells, **options)
    elif method == OURS:
        tvn(wells, **options)
    elif method == "TVN, Ledoit-Wolf":
        tvn(wells, choose_by="ledoit_wolf", **options)
    elif method == "TVN, likelihood":
        tvn(wells, choose_by="likelihood", **options)
    elif method == "TVN, default, CORAL":
        tvn(wells, batch_prior=120, **options)
    elif method == "whitened fully":
        n_controls = int((wells.obs["perturbation"] == "control").sum())
        # fewer controls than features: the axes that there are
        rank = min(wells.n_vars, n_controls - wells.obs["plate"].nunique())
        tvn(wells, rank=rank, shrinkage=0, **options)
    elif method == "TVN, as published":
        tvn(wells, published=True, **options)
    elif method == "standardised, then TVN as published":
        pb.pp.standardize_by_controls(wells, prior=0, batch_key="plate", key_added="before")
        tvn(wells, use_rep="before", published=True, **options)
    return method


METHODS = (
    "not aligned", PLAIN, STEADY, "whitened fully", "TVN, as published", "standardised, then TVN as published",
    "TVN, likelihood", "TVN, Ledoit-Wolf", "TVN, default, CORAL", OURS,
)  # fmt: skip


def score(kind: str, ratio: str, seed: int) -> list[dict]:
    """Both scores of every method on one draw."""
    options = KINDS.get(kind, {})
    rows = []
    wells = pb.datasets.simulate_plates(n_controls=CONTROLS[ratio], seed=seed, **options)
    for method in METHODS:
        key = align(wells, method)
        genes = pb.tl.aggregate_perturbations(wells, use_rep=key)
        found = pb.metrics.relationship_recall(genes, wells.uns["truth"]["relationships"], n_boot=2)
        members = wells[~wells.obs["complex"].isin(["none", "control"])]
        accuracy = pb.metrics.mechanism_accuracy(members, "complex", compound_key="perturbation", use_rep=key)
        rows.append({"method": method, "recall": found.table["recall"].iloc[0], "accuracy": accuracy.accuracy})
    return rows


def mean_and_error(values: pd.Series) -> str:
    """Mean and its standard error over draws."""
    return f"{values.mean():.3f} ± {values.sem():.3f}"


def table_of(runs: pd.DataFrame, value: str, columns: str) -> str:
    """Methods in rows."""
    table = runs.pivot_table(index="method", columns=columns, values=value, aggfunc=mean_and_error, sort=False)
    return to_markdown(table.loc[list(METHODS)])


def differences(runs: pd.DataFrame, columns: str) -> str:
    """Ours minus both ways to standardise, on the same draws."""
    rows = []
    for name, part in runs.groupby(columns, sort=False):
        row = {columns: name}
        for value in ("recall", "accuracy"):
            table = part.pivot_table(index="seed", columns="method", values=value)
            for other in (PLAIN, STEADY):
                gain = table[OURS] - table[other]
                row[f"{value}, over {other}"] = (
                    f"{gain.mean():+.3f} ± {gain.sem():.3f} ({(gain > 0).sum()}/{len(gain)})"
                )
        rows.append(row)
    return to_markdown(pd.DataFrame(rows).set_index(columns))


def main() -> None:
    """Draw, align, score, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    add_arguments(parser)
    options = parser.parse_args()
    tasks = [{"kind": "plates", "ratio": ratio, "seed": seed} for ratio in CONTROLS for seed in range(options.seeds)]
    tasks += [{"kind": kind, "ratio": "1", "seed": seed} for kind in KINDS for seed in range(options.seeds)]
    runs = make_runs(score, tasks, runs=options.runs, jobs=options.jobs)
    runs["ratio"] = runs["ratio"].astype(str)
    plain, other = runs[runs["kind"] == "plates"], runs[runs["kind"] != "plates"]
    parts = [
        "Recall of pairs within complexes (tails of 5 % each, chance 0.10), against controls per feature:",
        table_of(plain, "recall", "ratio"),
        "Share of wells whose nearest well of another gene is of the same complex (chance about 0.04):",
        table_of(plain, "accuracy", "ratio"),
        f"What {OURS} adds, on the same draws (how often above):",
        differences(plain, "ratio"),
        "Recall on other kinds of plates, with as many controls as features:",
        table_of(other, "recall", "kind"),
        differences(other, "kind"),
    ]
    publish(
        "map_alignment",
        parts,
        folder=FOLDER,
        packages=("perturbia", "numpy", "scikit-learn", "anndata"),
        note=f"Means and standard errors over {options.seeds} draws.",
    )


if __name__ == "__main__":
    main()
