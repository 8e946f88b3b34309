"""The default report with every baseline and the ceiling: CPU-seconds beside cell-eval.

Both judge the same cells: a prediction of 50 perturbations of one screen, resampled cells, by the held-out cells and the
held-out controls. perturbia is given the training cells as well, because it fits the baselines to them; cell-eval, which
judges one prediction and no baseline, has no use for them. A further row gives cell-eval every cell of the screen.

Every tool is run in fresh processes of its own, on one thread and in turns with the others: CPU-seconds of its import, of
its first call, compilation included, and of later calls. cell-eval is measured where it is installed (see benchmarks/peers).
Run with `python benchmarks/evaluation_report.py [--repeats 3]`.
"""

from __future__ import annotations

import argparse
import importlib
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = "1"

import json
import logging
import resource
import subprocess
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

RESULTS = Path(__file__).parent.parent / "docs" / "evaluation" / "_results"
PROTOCOLS = ("core", "cell-eval")
N_LATER = 3


def resampled(adata, rng: np.random.Generator):
    """A prediction: cells of the same perturbation drawn anew, control cells as they are."""
    labels = adata.obs["perturbation"].astype(str).to_numpy()
    rows = np.arange(adata.n_obs)
    for name in sorted(set(labels) - {"control"}):
        own = np.flatnonzero(labels == name)
        rows[own] = rng.choice(own, len(own))
    out = adata[rows].copy()
    out.obs_names_make_unique()
    return out


def screen_and_prediction():
    """The screen, split by :func:`perturbia.tl.split` along random cells, and a prediction for all of its cells."""
    import perturbia as pb

    adata = synthetic_screen()
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
    pb.tl.split(adata, fraction=0.3, seed=0)
    predicted = resampled(adata, np.random.default_rng(0))
    predicted.obs["pb_perturbation"] = predicted.obs["perturbation"]
    return adata, predicted


def perturbia_report(adata, predicted, protocol: str):
    """What `tl.evaluate` makes of the prediction, baselines included."""
    import perturbia as pb

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


def cell_eval_full(predicted, adata) -> None:
    """Everything that cell-eval computes; in a folder of its own, because it keeps tables there."""
    from cell_eval import MetricsEvaluator

    evaluator = MetricsEvaluator(
        adata_pred=predicted.copy(),
        adata_real=adata.copy(),
        control_pert="control",
        pert_col="perturbation",
        num_threads=1,
        outdir=tempfile.mkdtemp(),
    )
    evaluator.compute(profile="full", write_csv=False)


def dense(adata):
    """cell-eval reads dense arrays fastest."""
    out = adata.copy()
    out.X = out.X.toarray() if hasattr(out.X, "toarray") else out.X
    return out


def cpu_seconds() -> float:
    """Of this process and of those that it has started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(tool: str, folder: Path) -> dict[str, float | list[float]]:
    """CPU-seconds of one tool in this process, which has loaded anndata and nothing of either tool."""
    adata, predicted = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("screen", "predicted"))
    judged = adata.obs["pb_split"].to_numpy() == "test"
    if tool.startswith("perturbia"):
        module, call = "perturbia.tl.evaluation", lambda: perturbia_report(adata, predicted, tool.split(", ")[1])
    else:
        rows = judged if "held-out" in tool else np.ones(adata.n_obs, dtype=bool)
        real, guess = dense(adata[rows]), dense(predicted[rows])
        module, call = "cell_eval", lambda: cell_eval_full(guess, real)
    marks = [cpu_seconds()]
    importlib.import_module(module)
    marks.append(cpu_seconds())
    for _ in range(1 + N_LATER):
        call()
        marks.append(cpu_seconds())
    imported, first, *later = np.diff(marks).tolist()
    return {"import": imported, "first": first, "later": later}


def in_fresh_process(tool: str, folder: Path) -> dict[str, float | list[float]]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--tool", tool, "--folder", str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(out.stdout.strip().splitlines()[-1])


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
    import perturbia as pb

    table = evaluator.compute(profile="vcc", write_csv=False)[0].to_pandas().set_index("perturbation")
    return table.set_axis([str(pb.Perturbation(name)) for name in table.index]).sort_index()


def agreement(adata, predicted) -> str:
    """Largest differences to cell-eval, both given the held-out cells, the same predicted cells and the same controls.

    perturbia tests predicted cells against the controls that trained, and takes one control off both sides elsewhere.
    """
    import perturbia as pb

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


def spread(values) -> str:
    """Median with the lowest and the highest value."""
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="processes for each tool")
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.tool:
        print(json.dumps(measure(arguments.tool, arguments.folder)))
        return
    tools = [f"perturbia, {name}" for name in PROTOCOLS]
    peer = find_spec("cell_eval") is not None
    if peer:
        tools += ["cell-eval, full, held-out cells", "cell-eval, full, every cell"]
    adata, predicted = screen_and_prediction()
    folder = Path(tempfile.mkdtemp())
    adata.write_h5ad(folder / "screen.h5ad")
    predicted.write_h5ad(folder / "predicted.h5ad")
    runs = {tool: [] for tool in tools}
    for _ in range(arguments.repeats):
        for tool in tools:
            runs[tool].append(in_fresh_process(tool, folder))
    later = {tool: [value for run in found for value in run["later"]] for tool, found in runs.items()}
    fresh = {tool: [run["import"] + run["first"] for run in found] for tool, found in runs.items()}
    table = pd.DataFrame(
        {
            "import": [spread([run["import"] for run in found]) for found in runs.values()],
            "first call": [spread([run["first"] for run in found]) for found in runs.values()],
            "later calls": [spread(values) for values in later.values()],
        },
        index=pd.Index(tools, name="CPU s; 3,000 cells, 500 genes, 51 groups"),
    )
    result = perturbia_report(adata, predicted, "core")
    n_cells = int((adata.obs["pb_split"] == "test").sum())
    lines = [
        f"{n_cells:,} cells are held out, {result.info['n_test_controls']} controls among them, and judge in both tools. The "
        f"core report holds {len(result.metrics)} measures of the prediction, {len(result.names('baseline'))} baselines fitted "
        "in the same call, a second experiment and the true effects; cell-eval scores the prediction alone."
    ]
    if peer:
        ours, theirs = "perturbia, core", tools[2]
        ratios = [
            np.median(one["later"]) / np.median(other["later"])
            for one, other in zip(runs[ours], runs[theirs], strict=True)
        ]
        at_first = [a / b for a, b in zip(fresh[ours], fresh[theirs], strict=True)]
        lines.append(
            f"The core report takes **{spread(ratios)} times** the CPU-seconds of cell-eval's full profile on the same cells "
            f"in later calls, and {spread(at_first)} times in a fresh process, import and first call together."
        )
        lines.append(agreement(adata, predicted))
    publish(
        "evaluation_report",
        [to_markdown(table), "\n\n".join(lines)],
        folder=RESULTS,
        packages=("perturbia", "anndata", *(("cell-eval",) if peer else ())),
        note=f"{arguments.repeats} fresh processes for each tool, in turns, {N_LATER} later calls in each; medians and ranges.",
    )


if __name__ == "__main__":
    main()
