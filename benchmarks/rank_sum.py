"""Wilcoxon tests of all genes of 50 groups against the controls: CPU-seconds beside scanpy and pdex.

Tools take turns within one process and on one thread. Run with `python benchmarks/rank_sum.py`; pdex, which cell-eval calls,
is measured where it is installed (see benchmarks/peers).
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import sys
import time
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from _tables import publish, to_markdown

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from synthetic_screen import synthetic_screen

from perturbia.stats import rank_sum

RESULTS = Path(__file__).parent.parent / "docs" / "evaluation" / "_results"


def largest_gap(adata, test) -> str:
    """Differences of ours to pdex, over all groups and genes."""
    from pdex import pdex

    theirs = pdex(adata, groupby="perturbation", mode="ref", reference="control", is_log1p=True, threads=1).to_pandas()
    wide = {name: theirs.pivot(index="target", columns="feature", values=name) for name in ("p_value", "fdr")}
    gaps = {
        name: np.abs(table.loc[test.groups, adata.var_names].to_numpy() - getattr(test, name)).max()
        for name, table in wide.items()
    }
    return f"Largest difference to pdex {version('pdex')}: {gaps['p_value']:.0e} in p, {gaps['fdr']:.0e} in FDR."


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = synthetic_screen()
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str).astype("category")
    labels, dense = adata.obs["perturbation"].to_numpy(), adata.X.toarray()
    tools = {
        "perturbia, CSR": lambda: rank_sum(adata.X, labels, reference="control"),
        "perturbia, dense": lambda: rank_sum(dense, labels, reference="control"),
        f"scanpy {version('scanpy')}": lambda: sc.tl.rank_genes_groups(
            adata, "perturbation", reference="control", method="wilcoxon", tie_correct=True
        ),
    }
    lines, packages = [], ["perturbia", "numpy", "scipy"]
    if find_spec("pdex") is not None:
        from pdex import pdex

        plain = adata.copy()
        plain.obs["perturbation"] = plain.obs["perturbation"].astype(str)
        tools[f"pdex {version('pdex')}, compiled"] = lambda: pdex(
            plain, groupby="perturbation", mode="ref", reference="control", is_log1p=True, threads=1
        )
        lines.append(largest_gap(plain, rank_sum(adata.X, labels, reference="control")))
        packages.append("pdex")
    rows = []
    for _ in range(options.repeats + 1):
        seconds = {}
        for name, call in tools.items():
            start = time.process_time()
            call()
            seconds[name] = time.process_time() - start
        rows.append(seconds)
    table = pd.DataFrame(rows[1:])
    shown = pd.DataFrame(
        {
            "CPU s": [f"{s.median():.3f} ({s.min():.3f} to {s.max():.3f})" for _, s in table.items()],
            "times ours": [f"{(s / table['perturbia, CSR']).median():.1f}" for _, s in table.items()],
        },
        index=pd.Index(table.columns, name="3,000 cells, 500 genes, 50 groups and the controls"),
    )
    publish(
        "rank_sum", [to_markdown(shown), *lines], folder=RESULTS, packages=tuple(packages), write="pdex" in packages
    )


if __name__ == "__main__":
    main()
