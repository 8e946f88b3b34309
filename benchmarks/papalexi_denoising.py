"""Effects of seen perturbations on a real screen: what 30 % of the cells say about the other 70 %.

Papalexi 2021 (25 knock-outs, 299 genes). Models learn from 30 % of the cells of every group and are judged against the
observed effects of the others; the 20 top genes of each knock-out are chosen on one half of these and scored on the
other, both ways round.

Run with `python benchmarks/papalexi_denoising.py [--splits 5] [--seeds 3] [--steps 4000]`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import torch
from _judge import Judge
from _tables import paired, publish, summarise, to_markdown

import perturbia as pb
from perturbia.stats import limited_translation

OURS, COMBINED = "SAMS-VAE", "SAMS-VAE + shrunken residual"
PATHWAY = ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]
SCORES = ["r", "R2", "top20_r", "cpu_s"]


def pathway_grouped(effects: pd.DataFrame) -> tuple[bool, float, float]:
    """Whether the four genes are closer to one another than to any other knock-out, with the two distances."""
    distance = np.linalg.norm(effects.to_numpy()[:, None] - effects.to_numpy()[None], axis=-1)
    inside = effects.index.isin(PATHWAY)
    within, outside = distance[np.ix_(inside, inside)].max(), distance[np.ix_(inside, ~inside)].min()
    return bool(within < outside), float(within), float(outside)


def main() -> None:
    """Run all splits and seeds and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs, mechanisms = [], []
    for split in range(options.splits):
        adata = pb.datasets.papalexi()
        pb.tl.split(adata, axis="random", fraction=0.3, valid=0.0, seed=split)
        judge = Judge(adata, split)
        for name in ("NoChange", "Mean", "Empirical", "JamesStein", "Ridge", "LowRank"):
            cls = getattr(pb.model, name)
            cls.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
            model = cls(adata)
            model.train()
            row = judge.score(model.estimate_ate(judge.names).X)
            runs += [{"method": name, "split": split, "seed": seed, **row} for seed in range(options.seeds)]
        measured = pb.tl.effects(adata[adata.obs["pb_split"] == "train"].copy(), layer="counts")[judge.names]
        row = judge.score(limited_translation(measured.X, measured.layers["se"]))
        name = "James-Stein, limited translation"
        runs += [{"method": name, "split": split, "seed": seed, **row} for seed in range(options.seeds)]
        for seed in range(options.seeds):
            pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
            model = pb.model.SAMSVAE(adata, seed=seed)
            start = time.process_time()
            model.train(max_steps=options.steps, enable_progress_bar=False)
            unit = {"split": split, "seed": seed, "cpu_s": time.process_time() - start}
            plain = model.estimate_ate(judge.names, n_draws=0).X
            combined = model.estimate_ate(judge.names, n_draws=0, combine="shrunk_residual").X
            runs += [
                {"method": OURS, **unit, **judge.score(plain)},
                {"method": COMBINED, **unit, **judge.score(combined)},
            ]
            masks = model.get_treatment_masks(kind="binary")
            together, within, outside = pathway_grouped(model.get_treatment_embeddings())
            mechanisms.append(
                {
                    "split": split,
                    "seed": seed,
                    "pathway together": together,
                    "largest distance within": round(within, 2),
                    "smallest to others": round(outside, 2),
                    "empty masks": int((masks.sum(axis=1) == 0).sum()),
                    "open entries": f"{masks.to_numpy().mean():.1%}",
                }
            )
            print(mechanisms[-1], {k: round(v, 3) for k, v in judge.score(plain).items()}, flush=True)
            print({k: round(v, 3) for k, v in judge.score(combined).items()}, flush=True)
    table, mechanism = pd.DataFrame(runs), pd.DataFrame(mechanisms)
    unit = ["split", "seed"]
    parts = [
        f"**{options.splits} splits, {options.seeds} seeds, {options.steps:,} steps**",
        to_markdown(summarise(table, ["method"], SCORES)),
        "\n".join(
            [paired(table, OURS, name, unit, ["r", "R2"]) for name in ("Empirical", "Mean", "Ridge", "LowRank")]
            + [
                paired(table, COMBINED, name, unit, ["r", "R2", "top20_r"])
                for name in ("JamesStein", "James-Stein, limited translation")
            ]
        ),
        f"Masks of 25 knock-outs; the four genes of the interferon-γ pathway come out together in "
        f"{int(mechanism['pathway together'].sum())} of {len(mechanism)} runs; knock-outs with empty masks: median "
        f"{mechanism['empty masks'].median():.0f} of 25.",
        to_markdown(mechanism.set_index("split")),
    ]
    publish("papalexi_denoising", parts)


if __name__ == "__main__":
    main()
