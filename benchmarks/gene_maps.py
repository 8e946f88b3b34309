"""Maps of genes from real Perturb-seq: SAMS-VAE latents beside principal components and expression.

For every representation and alignment: do guides of the same gene agree across replicates of the screen, and are pairs of
genes that Reactome knows among the most alike? Run with `python benchmarks/gene_maps.py [--seeds 3] [--jobs 2] [--runs FILE]`.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _runs import add_arguments, make_runs
from _tables import publish, to_markdown

import perturbia as pb

FOLDER = Path(__file__).parent.parent / "docs" / "maps" / "_results"
REPRESENTATIONS = {"expression": None, "50 PCs": "X_pca", "SAMS-VAE": "X_samsvae"}
ALIGNMENTS = ("not aligned", "centred", "standardised", "TVN, default")
#: Cells that a guide needs in a replicate to be a profile.
LEAST_CELLS = 5
#: Screen → column of batches. TAP-seq is one batch: its guides are compared within it.
SCREENS = {"Papalexi": "replicate", "TAP-seq": None}


def screen_of(name: str, seed: int):
    """Log-normalised cells with principal components and latents."""
    import scanpy as sc

    cells = {"Papalexi": pb.datasets.papalexi, "TAP-seq": pb.datasets.tapseq}[name]()
    batch = SCREENS[name]
    pb.model.SAMSVAE.setup_anndata(cells, layer="counts", perturbation_key="perturbation", batch_key=batch)
    torch.set_num_threads(1)  # scanpy's normalisation of the last task gave it all of them
    model = pb.model.SAMSVAE(cells, seed=seed)
    model.train(enable_progress_bar=False)
    cells.obsm["X_samsvae"] = model.get_latent_representation()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=min(50, cells.n_vars - 1))
    return cells


def score(screen: str, seed: int) -> list[dict]:
    """Agreement of guides and recall of known pairs under every representation and alignment."""
    cells, batch = screen_of(screen, seed), SCREENS[screen]
    pairs = pb.datasets.reactome_pairs()
    rows = []
    for name, rep in REPRESENTATIONS.items():
        for alignment in ALIGNMENTS:
            options = {"use_rep": rep, "batch_key": batch, "key_added": "aligned"}
            if alignment == "not aligned":
                cells.obsm["aligned"] = np.asarray(cells.X.toarray() if rep is None else cells.obsm[rep])
            elif alignment in ("centred", "standardised"):
                pb.pp.standardize_by_controls(cells, scale=alignment == "standardised", **options)
            else:
                pb.pp.typical_variation_normalization(cells, **options)
            by = ["guide"] if batch is None else ["guide", batch]
            guides = pb.tl.aggregate_perturbations(
                cells, use_rep="aligned", by=by, batch_key=batch, min_replicates=LEAST_CELLS, keep_control=True
            )
            options = {"control": "control", "batch_key": batch, "seed": 0}
            agreement = pb.metrics.replicate_consistency(guides, "perturbation", n_null=10_000, **options)
            precision = pb.metrics.mean_average_precision(guides, "perturbation", **options)
            genes = pb.tl.aggregate_perturbations(cells, use_rep="aligned")
            row = {
                "representation": name,
                "alignment": alignment,
                "consistent": int((agreement.table["q_value"] < 0.05).sum()),
                "KS": agreement.ks,
                "mAP": precision["mean_average_precision"].mean(),
                "chance of mAP": precision["chance"].mean(),
                "found": int((precision["q_value"] < 0.05).sum()),
                "genes": genes.n_obs,
            }
            if screen == "Papalexi":
                known = pb.metrics.relationship_recall(genes, pairs, n_boot=1000).table.iloc[0]
                row |= {"pairs": known["n_pairs"], "recall": known["recall"], "AUROC": known["auroc"]}
                row |= {
                    "AP": known["average_precision"],
                    "lower": known["recall_lower"],
                    "upper": known["recall_upper"],
                }
            rows.append(row)
    return rows


def table_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, lowest and highest where they differ."""
    out = []
    for (name, alignment), part in runs.groupby(["representation", "alignment"], sort=False):
        row = {"representation": name, "alignment": alignment}
        for column, label, form in (
            ("consistent", "genes whose guides agree (q < .05)", "{:.0f}"),
            ("KS", "KS, same gene against others", "{:.2f}"),
            ("mAP", "mAP of guides", "{:.2f}"),
            ("found", "genes found by mAP (q < .05)", "{:.0f}"),
            ("recall", "recall of known pairs", "{:.2f}"),
            ("AUROC", "AUROC of known pairs", "{:.2f}"),
            ("AP", "AP of known pairs", "{:.2f}"),
        ):
            if part[column].isna().all():
                continue
            low, high = form.format(part[column].min()), form.format(part[column].max())
            row[label] = low if low == high else f"{low} to {high}"
        if part["lower"].notna().any():
            row["interval of the recall"] = f"{part['lower'].min():.2f} to {part['upper'].max():.2f}"
        out.append(row)
    return pd.DataFrame(out).set_index(["representation", "alignment"])


def main() -> None:
    """Train, align, score, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    add_arguments(parser)
    options = parser.parse_args()
    tasks = [{"screen": screen, "seed": seed} for screen in SCREENS for seed in range(options.seeds)]
    runs = make_runs(score, tasks, runs=options.runs, jobs=options.jobs)
    parts = []
    for screen, part in runs.groupby("screen", sort=False):
        first = part.iloc[0]
        text = f"{screen}: {first['genes']:.0f} genes; chance of mAP {first['chance of mAP']:.2f}"
        if not np.isnan(first["pairs"]):
            text += f"; {first['pairs']:.0f} pairs known to Reactome, chance of recall 0.10"
        parts += [f"{text}.", to_markdown(table_of(part))]
    publish(
        "gene_maps",
        parts,
        folder=FOLDER,
        note=f"Lowest to highest over {options.seeds} seeds of the model; the interval, over resampled genes, is the widest.",
    )


if __name__ == "__main__":
    main()
