"""The default report with every baseline and the ceiling: CPU-seconds beside cell-eval.

Both judge resampled cells of 50 perturbations of one screen, in turns, within one process and on one thread. cell-eval
judges one prediction and no baseline; it is measured where it is installed (see benchmarks/peers).
Run with `python benchmarks/evaluation_report.py [--repeats 3]`.
"""

from __future__ import annotations

import argparse
import importlib
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = "1"

import logging
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _tables import publish, to_markdown

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from synthetic_screen import synthetic_screen

import perturbia as pb

RESULTS = Path(__file__).parent.parent / "docs" / "evaluation" / "_results"
PROTOCOLS = ("core", "cell-eval")


def resampled(adata, rng: np.random.Generator):
    """A prediction: cells of the same perturbation drawn anew, control cells as they are."""
    labels = adata.obs["perturbation"].astype(str).to_numpy()
    rows = np.arange(adata.n_obs)
    for name in set(labels) - {"control"}:
        own = np.flatnonzero(labels == name)
        rows[own] = rng.choice(own, len(own))
    out = adata[rows].copy()
    out.obs_names_make_unique()
    return out


def cell_eval_full(predicted, adata) -> None:
    """Everything that cell-eval computes; in a folder of its own, because it keeps tables there."""
    from cell_eval import MetricsEvaluator

    folder = tempfile.mkdtemp()
    evaluator = MetricsEvaluator(
        adata_pred=predicted,
        adata_real=adata,
        control_pert="control",
        pert_col="perturbation",
        num_threads=1,
        outdir=folder,
    )
    evaluator.compute(profile="full", write_csv=False)


def vcc_scores(real, predicted) -> pd.DataFrame:
    """Scores of cell-eval's profile of the Virtual Cell Challenge, perturbations under canonical labels."""
    from cell_eval import MetricsEvaluator

    pair = [one.copy() for one in (real, predicted)]
    for one in pair:
        one.X = one.X.toarray() if hasattr(one.X, "toarray") else one.X
    evaluator = MetricsEvaluator(
        adata_pred=pair[1],
        adata_real=pair[0],
        control_pert="control",
        pert_col="perturbation",
        num_threads=1,
        outdir=tempfile.mkdtemp(),
    )
    table = evaluator.compute(profile="vcc", write_csv=False)[0].to_pandas().set_index("perturbation")
    return table.set_axis([str(pb.Perturbation(name)) for name in table.index]).sort_index()


def agreement(adata, predicted) -> str:
    """Largest differences to cell-eval, both given the held-out cells, the same predicted cells and the same controls.

    perturbia tests predicted cells against the controls that trained, and takes one control off both sides elsewhere.
    """
    part, labels = adata.obs["pb_split"].to_numpy(), adata.obs["perturbation"].to_numpy()
    counts = pd.Series(labels[part == "test"]).value_counts()
    judged = (part == "test") & np.isin(labels, counts.index[counts >= 8])
    real, is_control = adata[judged], labels == "control"
    cells = predicted[judged & ~is_control]
    same = ad.concat([cells, adata[judged & is_control]])
    trained = ad.concat([cells, adata[is_control & (part == "train")]])
    theirs = vcc_scores(real, same)
    theirs["overlap_at_N"] = vcc_scores(real, trained)["overlap_at_N"]
    cells = cells.copy()
    cells.obs["pb_perturbation"] = cells.obs["perturbation"]
    names = {"mae_means": "mae", "discrimination_l1": "discrimination_score_l1", "overlap_at_n": "overlap_at_N"}
    ours = pb.tl.evaluate(
        {"cells": cells},
        adata,
        protocol=list(names),
        baselines=None,
        layer="counts",
        prediction_kind="cells",
        prediction_scale="log1p_cp10k",
    )
    gaps = []
    for measure, name in names.items():
        column = ours.values(measure)["cells"].dropna().droplevel("context").sort_index()
        gaps.append(f"{name} {np.abs(column - theirs.loc[column.index, name]).max():.1e}")
    return (
        f"Largest differences to cell-eval over {len(column)} perturbations, given the same cells: {', '.join(gaps)}."
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    adata = synthetic_screen()
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
    pb.tl.split(adata, fraction=0.3, seed=0)
    rng = np.random.default_rng(0)
    predicted = resampled(adata, rng)
    predicted.obs["pb_perturbation"] = predicted.obs["perturbation"]

    def ours(protocol: str):
        return pb.tl.evaluate(
            {"resampled cells": predicted},
            adata,
            protocol=protocol,
            layer="counts",
            batch_key="batch",
            prediction_kind="cells",
            prediction_scale="log1p_cp10k",
            min_cells=2,
        )

    tools = {f"perturbia, {name}": (lambda name=name: ours(name)) for name in PROTOCOLS}
    if find_spec("cell_eval") is not None:
        import scipy.sparse as sp

        dense = adata.copy(), predicted.copy()
        for one in dense:
            one.X = one.X.toarray() if sp.issparse(one.X) else one.X
        importlib.import_module("cell_eval")

        tools["cell-eval, full"] = lambda: cell_eval_full(dense[1], dense[0])

    importlib.import_module("perturbia.tl.evaluation")  # imports are not what is measured
    rows = []
    for _ in range(arguments.repeats + 1):
        seconds = {}
        for name, call in tools.items():
            start = time.process_time()
            call()
            seconds[name] = time.process_time() - start
        rows.append(seconds)
    first, later = pd.Series(rows[0]), pd.DataFrame(rows[1:])
    result = ours("core")
    table = pd.DataFrame(
        {
            "CPU s, first call": [f"{value:.2f}" for value in first],
            "CPU s, later calls": [f"{s.median():.2f} ({s.min():.2f} to {s.max():.2f})" for _, s in later.items()],
        },
        index=pd.Index(later.columns, name="3,000 cells, 500 genes, 51 groups"),
    )
    n_baselines = len(result.names("baseline"))
    lines = [
        f"The core report judges {result.info['n_judging_cells']:,} held-out cells and holds {len(result.metrics)} measures "
        f"of the prediction, {n_baselines} baselines fitted in the same call, a second experiment and the true effects."
    ]
    if "cell-eval, full" in tools:
        ratio = later["perturbia, core"] / later["cell-eval, full"]
        lines.append(
            f"The core report takes **{ratio.median():.2f} times** the CPU-seconds of cell-eval's full profile of one "
            f"prediction (first calls, compilation included: {first['perturbia, core'] / first['cell-eval, full']:.2f})."
        )
        lines.append(agreement(adata, predicted))
    packages = ("perturbia", "anndata", *(("cell-eval",) if "cell-eval, full" in tools else ()))
    publish(
        "evaluation_report",
        [to_markdown(table), "\n\n".join(lines)],
        folder=RESULTS,
        packages=packages,
        note="Tools take turns in one process.",
    )


if __name__ == "__main__":
    main()
