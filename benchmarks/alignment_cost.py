"""CPU-seconds and memory of couplings: beside the POT calls that they wrap or replace, and beside moscot.

Pairs take turns in one process and on one thread; memory is measured in a process of its own. Run with
`python benchmarks/alignment_cost.py [--repeats 5] [--moscot PYTHON]`; PYTHON is that of an environment with moscot 0.5.2.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

TOLERANCE = 1e-4


def cells(n: int, n_groups: int, noise: float = 0.3, seed: int = 0):
    """Twins in 25 dimensions, the second side in another order: points and labels of both sides."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_groups
    latent = rng.normal(size=(n_groups, 25))[labels] + rng.normal(size=(n, 25))
    order = rng.permutation(n)
    x, y = (latent + noise * rng.normal(size=latent.shape) for _ in range(2))
    return x.astype(np.float32), y[order].astype(np.float32), labels, labels[order]


def blocks(x, y, a, b):
    """Cells of both sides by group, float64."""
    for group in np.unique(a):
        yield x[a == group].astype(np.float64), y[b == group].astype(np.float64)


def pot_sinkhorn(x, y, a, b, scale: float, epsilon: float, n_iterations: int, stop: float) -> None:
    """POT's log-domain Sinkhorn, block by block."""
    import ot

    for left, right in blocks(x, y, a, b):
        w, v = np.full(len(left), 1 / len(left)), np.full(len(right), 1 / len(right))
        cost = ot.dist(left, right)
        ot.sinkhorn(w, v, cost, epsilon * scale, method="sinkhorn_log", numItermax=n_iterations, stopThr=stop)


def pot_unbalanced(x, y, a, b, scale: float, epsilon: float, tau: float) -> None:
    """POT's unbalanced Sinkhorn, block by block."""
    import ot

    for left, right in blocks(x, y, a, b):
        w, v = np.full(len(left), 1 / len(left)), np.full(len(right), 1 / len(right))
        reg = epsilon * scale
        ot.unbalanced.sinkhorn_unbalanced(
            w, v, ot.dist(left, right), reg, tau * reg / (1 - tau), method="sinkhorn_stabilized", stopThr=1e-6
        )


def pot_exact(x, y, a, b) -> None:
    """POT's network simplex, block by block."""
    import ot

    for left, right in blocks(x, y, a, b):
        ot.emd(np.full(len(left), 1 / len(left)), np.full(len(right), 1 / len(right)), ot.dist(left, right))


def pot_gromov(x, y, a, b) -> None:
    """POT's entropic Gromov-Wasserstein between the same geodesics, block by block."""
    import ot

    from perturbia.stats.gromov_wasserstein import geodesic_distances

    for left, right in blocks(x, y, a, b):
        ot.gromov.entropic_gromov_wasserstein(
            geodesic_distances(left),
            geodesic_distances(right),
            np.full(len(left), 1 / len(left)),
            np.full(len(right), 1 / len(right)),
            "square_loss",
            epsilon=1e-3,
        )


def pairs_of_calls() -> dict:
    """Name → (ours, POT's, most that ours may take relative to it)."""
    from perturbia.stats import couple

    data, small = cells(10_000, 25), cells(2_000, 25)
    scale = couple(*data, max_iterations=1, tolerance=1).parameters["cost_scale"]
    stop = TOLERANCE / np.sqrt(400)  # POT measures the Euclidean norm of the error of 400 cells
    fixed = {"max_iterations": 20, "tolerance": 1e-12}
    found = {}
    for epsilon in (0.01, 0.05):
        name = f"Sinkhorn, epsilon {epsilon:g} of the mean cost"
        found[f"{name}, to a marginal error of {TOLERANCE:g}"] = (
            lambda e=epsilon: couple(*data, epsilon=e),
            lambda e=epsilon: pot_sinkhorn(*data, scale, e, 1000, stop),
            0.3,
        )
        found[f"{name}, 20 iterations"] = (
            lambda e=epsilon: couple(*data, epsilon=e, **fixed),
            lambda e=epsilon: pot_sinkhorn(*data, scale, e, 20, 0.0),
            0.3,
        )
    found["unbalanced Sinkhorn, epsilon 0.05, tau 0.9"] = (
        lambda: couple(*data, epsilon=0.05, unbalanced=(0.9, 0.9)),
        lambda: pot_unbalanced(*data, scale, 0.05, 0.9),
        1.1,
    )
    found["exact"] = (lambda: couple(*data, method="emd"), lambda: pot_exact(*data), 1.1)
    found["Gromov-Wasserstein, 2 x 2,000 cells"] = (
        lambda: couple(*small, method="gw"),
        lambda: pot_gromov(*small),
        1.1,
    )
    return found


def time_pairs(repeats: int) -> list[dict]:
    """CPU-seconds of both of every pair, in turns, after one round that is not counted (but for slow ones)."""
    rows = []
    for name, (ours, peer, most) in pairs_of_calls().items():
        seconds = []
        for _ in range(repeats + 1):
            one = []
            for call in (ours, peer):
                start = time.process_time()
                call()
                one.append(time.process_time() - start)
            seconds.append(one)
            if one[1] > 60:
                break
        kept = np.array(seconds[1:] or seconds)
        rows.append(
            {
                "solver": name,
                "ours, CPU s": f"{np.median(kept[:, 0]):.2f}",
                "POT, CPU s": f"{np.median(kept[:, 1]):.2f}",
                "ratio": f"{np.median(kept[:, 0] / kept[:, 1]):.4f}",
                "at most": most,
                "rounds": len(kept),
            }
        )
    return rows


def peak_megabytes() -> float:
    """Largest resident memory of this process since the last reset."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return float(line.split()[1]) / 1024


def added_memory(call) -> dict:
    """CPU-seconds of a call and what it adds to the resident memory at its peak, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before, start = peak_megabytes(), time.process_time()
    call()
    return {"CPU s": time.process_time() - start, "added MB": peak_megabytes() - before}


def memory_case(name: str) -> dict:
    """One measurement, in a process that does nothing else."""
    from perturbia.stats import couple

    couple(*cells(200, 2))  # libraries are loaded, and are not counted
    if name.startswith("block"):
        data = cells(5_000, 1)
        found = added_memory(lambda: couple(*data, method=name.split("-")[1]))
        return {**found, "blocks": found["added MB"] * 2**20 / (4 * 5_000**2)}
    if name == "large":
        data = cells(100_000, 1_000)
        return added_memory(lambda: couple(*data).to_sparse())
    if name == "impute":
        return impute_case()
    data, features = cells(5_000, 1), np.random.default_rng(1).normal(size=(5_000, 25)).astype(np.float32)
    x, y, *_ = data
    if name == "pull-ours":
        solved = []
        solve = added_memory(lambda: solved.append(couple(x, y, max_iterations=20, tolerance=1e-12, epsilon=0.05)))
        pull = added_memory(lambda: solved[0].pull(features))
    else:
        solve, pull = moscot_case(x, y, features)
    return {f"{what} {key}": value for what, one in (("solve", solve), ("pull", pull)) for key, value in one.items()}


def impute_case() -> dict:
    """2,000 genes at 2 x 20,000 cells; the imputed matrix itself is 160 MB and not counted."""
    import anndata as ad
    import mudata
    import scipy.sparse as sp

    import perturbia as pb

    x, y, a, b = cells(20_000, 50)
    rng = np.random.default_rng(0)
    genes = sp.random_array((20_000, 2_000), density=0.1, rng=rng, dtype=np.float32, format="csr")
    sides = []
    for name, points, labels, features in (("rna", y, b, genes), ("image", x, a, x)):
        obs = pd.DataFrame({"perturbation": labels.astype(str)}, index=[f"{name}{i}" for i in range(len(labels))])
        sides.append(ad.AnnData(features, obs=obs, obsm={"X_psa": points}))
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"image": sides[1], "rna": sides[0]})
    pb.tl.align(mdata, use_rep="X_psa")
    found = added_memory(lambda: pb.tl.impute(mdata, source="image", target="rna"))
    result = mdata["image"].obsm["imputed_rna"].nbytes / 2**20
    return {**found, "beside the result, MB": found["added MB"] - result}


def moscot_case(x, y, features) -> tuple[dict, dict]:
    """Sinkhorn problem and projection of moscot on the same data."""
    import anndata as ad
    from moscot.problems.generic import SinkhornProblem

    points = np.concatenate([x, y])
    obs = pd.DataFrame({"side": pd.Categorical(["x"] * len(x) + ["y"] * len(y))})
    obs.index = obs.index.astype(str)
    adata = ad.AnnData(points, obs=obs, obsm={"X": points})

    def solve():
        problem = SinkhornProblem(adata).prepare(key="side", joint_attr={"attr": "obsm", "key": "X"})
        problem.solve(epsilon=0.05, scale_cost="mean", max_iterations=20, min_iterations=20, threshold=0.0)
        return problem

    solve()  # compiled now
    problems = []
    solved = added_memory(lambda: problems.append(solve()))
    solution = problems[0].solutions["x", "y"]
    np.asarray(solution.pull(features, scale_by_marginals=True))
    return solved, added_memory(lambda: np.asarray(solution.pull(features, scale_by_marginals=True)))


def measure(case: str, python: str = sys.executable) -> dict:
    """A case in a process of its own."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "JAX_PLATFORMS": "cpu",
    }
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [python, __file__, "--measure", case], check=True, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
    return json.loads(done.stdout.decode().splitlines()[-1])


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--moscot", default=None, help="interpreter of an environment with moscot")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.measure:
        if options.measure == "pull-moscot":
            data = cells(5_000, 1)
            features = np.random.default_rng(1).normal(size=(5_000, 25)).astype(np.float32)
            solve, pull = moscot_case(*data[:2], features)
            found = {f"{what} {key}": v for what, one in (("solve", solve), ("pull", pull)) for key, v in one.items()}
        else:
            found = memory_case(options.measure)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    import torch
    from _tables import publish, to_markdown

    torch.set_num_threads(1)
    cases = {
        "one block of 5,000 x 5,000, Sinkhorn": "block-ot",
        "one block of 5,000 x 5,000, exact": "block-emd",
        "2 x 100,000 cells in 1,000 groups, Sinkhorn and sparse": "large",
        "impute 2,000 genes, 2 x 20,000 cells": "impute",
    }
    memory = pd.DataFrame({name: measure(case) for name, case in cases.items()}).T.map(_shown)
    memory.index.name = "case"
    parts = [
        "### 2 x 10,000 cells in 25 groups",
        to_markdown(pd.DataFrame(time_pairs(options.repeats)).set_index("solver")),
        "### Memory",
        to_markdown(memory.rename(columns={"blocks": "float32 blocks"})),
    ]
    if options.moscot:
        both = {"perturbia": measure("pull-ours"), "moscot 0.5.2": measure("pull-moscot", options.moscot)}
        table = pd.DataFrame(both).T.map(_shown)
        table.index.name = "2 x 5,000 cells in one group, 20 iterations; pull of 25 features"
        parts += ["### Beside moscot", to_markdown(table)]
    publish(
        "alignment_cost",
        parts,
        packages=("perturbia", "torch", "POT", "numpy"),
        note="CPU-seconds, medians of rounds in which both took turns.",
        write=options.moscot is not None,
    )


def _shown(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


if __name__ == "__main__":
    main()
