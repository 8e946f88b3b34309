"""What cell-eval says of a small synthetic pair: numbers that the tests of `perturbia.metrics` compare with.

Cells of 24 perturbations, a control and 40 genes, some of the perturbations named after a gene so that cell-eval leaves
it out of its distances, and a table of differential expression of each side. Everything is drawn from one seed; the
tests read inputs and outputs from the file and need neither cell-eval nor this script.

Run in the peers' environment: `python benchmarks/peers/cell_eval_fixture.py`.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
from cell_eval._types import PerturbationAnndataPair, initialize_de_comparison
from cell_eval.metrics import _anndata as bulk_metrics
from cell_eval.metrics import _de as de_metrics
from scipy.stats import false_discovery_control

SEED = 0
N_PERTURBATIONS, N_GENES, N_CELLS = 24, 40, 12
TARGET = Path(__file__).parents[2] / "tests" / "metrics" / "fixtures" / "cell_eval_agreement.npz"


def draw_cells(rng: np.random.Generator) -> tuple[list[str], list[str], dict[str, np.ndarray], np.ndarray]:
    """Names of perturbations and genes, cells of both sides, and the label of each cell."""
    genes = [f"g{i:02d}" for i in range(N_GENES)]
    names = sorted(genes[: N_PERTURBATIONS // 2] + [f"p{i:02d}" for i in range(N_PERTURBATIONS // 2)])
    effects = rng.normal(0.0, 0.6, size=(N_PERTURBATIONS, N_GENES)) + rng.normal(0.0, 0.3, size=N_GENES)
    guesses = 0.35 * effects + rng.normal(0.0, 0.35, size=effects.shape)
    base = rng.uniform(1.5, 3.0, size=N_GENES)
    labels = np.repeat([*names, "control"], N_CELLS)
    sides = {
        side: np.repeat(np.vstack([base + shift, base]), N_CELLS, axis=0) + rng.normal(0.0, 0.3, (len(labels), N_GENES))
        for side, shift in (("real", effects), ("pred", guesses))
    }
    return names, genes, {side: np.abs(cells) for side, cells in sides.items()}, labels


def draw_de_tables(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fold changes and rates of both sides; two perturbations have no significant gene, one has infinite changes."""
    lfc = {"real": rng.normal(0.0, 1.2, size=(N_PERTURBATIONS, N_GENES))}
    lfc["pred"] = 0.5 * lfc["real"] + rng.normal(0.0, 0.6, size=lfc["real"].shape)
    tables = {}
    for side, values in lfc.items():
        p = np.minimum(1.0, np.exp(-2.5 * np.abs(values)) * rng.uniform(0.1, 3.0, size=values.shape))
        fdr = false_discovery_control(p, axis=1)
        fdr[3 if side == "real" else 5] = 0.5 + 0.4 * rng.uniform(size=N_GENES)
        fdr[7] = 0.5 + 0.4 * rng.uniform(size=N_GENES)
        values[0, 0] = np.inf
        fdr[0, 0] = 1e-12
        tables[f"{side}_lfc"], tables[f"{side}_fdr"] = values.astype(np.float32), fdr.astype(np.float32)
    return tables


def long_table(names: list[str], genes: list[str], lfc: np.ndarray, fdr: np.ndarray) -> pl.DataFrame:
    """Table of differential expression as cell-eval reads it."""
    return pl.DataFrame(
        {
            "target": np.repeat(names, len(genes)),
            "feature": np.tile(genes, len(names)),
            "log2_fold_change": lfc.ravel(),
            "p_value": fdr.ravel(),
            "fdr": fdr.ravel(),
        }
    )


def main() -> None:
    """Draw the pair, ask cell-eval, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=TARGET)
    output = parser.parse_args().output
    rng = np.random.default_rng(SEED)
    names, genes, cells, labels = draw_cells(rng)
    tables = draw_de_tables(rng)
    sides = {
        side: ad.AnnData(values, obs=pd.DataFrame({"target": labels}, index=[f"c{i}" for i in range(len(labels))]))
        for side, values in cells.items()
    }
    for side in sides.values():
        side.var_names = genes
    pair = PerturbationAnndataPair(sides["real"], sides["pred"], pert_col="target", control_pert="control")
    de = initialize_de_comparison(
        *(long_table(names, genes, tables[f"{side}_lfc"], tables[f"{side}_fdr"]) for side in ("real", "pred"))
    )

    scores = {
        "mae": bulk_metrics.mae(pair),
        "mse": bulk_metrics.mse(pair),
        "mae_delta": bulk_metrics.mae_delta(pair),
        "pearson_delta": bulk_metrics.pearson_delta(pair),
        **{
            f"discrimination_score_{m}": bulk_metrics.discrimination_score(pair, metric=m)
            for m in ("l1", "l2", "cosine")
        },
        "overlap_at_N": de_metrics.de_overlap_metric(de, k=None),
        "overlap_at_5": de_metrics.de_overlap_metric(de, k=5),
        "precision_at_N": de_metrics.de_overlap_metric(de, k=None, metric="precision"),
        "precision_at_5": de_metrics.de_overlap_metric(de, k=5, metric="precision"),
        "de_direction_match": de_metrics.DEDirectionMatch()(de),
        "de_spearman_lfc_sig": de_metrics.DESpearmanLFC()(de),
        "de_sig_genes_recall": de_metrics.DESigGenesRecall()(de),
        "pr_auc": de_metrics.compute_pr_auc(de),
        "roc_auc": de_metrics.compute_roc_auc(de),
    }
    means = {
        f"{side}_{kind}": np.array([values[labels == name].mean(axis=0) for name in group])
        for side, values in cells.items()
        for kind, group in (("mean", names), ("control", ["control"]))
    }
    exclude = np.array([genes.index(name) if name in genes else -1 for name in names])
    np.savez_compressed(
        output,
        seed=SEED,
        cell_eval=version("cell-eval"),
        names=np.array(names),
        exclude=exclude,
        **means,
        **tables,
        de_spearman_sig=de_metrics.DESpearmanSignificant()(de),
        # NaN: cell-eval gives this perturbation no score
        **{f"score_{name}": np.array([values.get(p, np.nan) for p in names], float) for name, values in scores.items()},
    )
    print(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
