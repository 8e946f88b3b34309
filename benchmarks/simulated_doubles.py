"""Unseen doubles, latents and masks on simulated screens with known truth.

Half of the doubles of each screen are never seen. Rows: SAMS-VAE with our inference and with the published one at the
same number of steps, the trivial baselines, and two oracles: ridge cut to the rank that scores best on the truth, and
the noise-free sum of the members' true effects.

Run with `python benchmarks/simulated_doubles.py [--screens 3] [--seeds 3] [--steps 4000]`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import torch
from _tables import paired, publish, summarise, to_markdown

import perturbia as pb
from perturbia.metrics import effect_correlation, effect_r2, latent_mcc, mask_scores, match_latents
from perturbia.perturbation import dosage_matrix
from perturbia.stats import low_rank_ridge

OURS, PUBLISHED = "SAMS-VAE", "SAMS-VAE, published inference"
SCORES = ["r", "R2", "MCC", "F1", "cpu_s"]


def score(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Pearson r and R2 of all effects of all unseen doubles together."""
    return {"r": effect_correlation(true, predicted), "R2": effect_r2(true, predicted)}


def baselines(adata, unseen: list[str], true: np.ndarray) -> dict[str, dict[str, float]]:
    """Scores of the closed-form models and of the two oracles."""
    rows = {}
    for name in ("NoChange", "Mean", "MatchingMean", "Additive", "Ridge"):
        cls = getattr(pb.model, name)
        cls.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
        model = cls(adata)
        model.train()
        rows[name] = score(true, model.estimate_ate(unseen).X)
    measured = pb.tl.effects(adata[adata.obs["pb_split"] == "train"].copy(), layer="counts")
    names = list(adata.uns["truth"]["names"])
    design = dosage_matrix(list(measured.obs_names), names).toarray()
    weights = adata.obs.loc[adata.obs["pb_split"] == "train", "perturbation"].value_counts().loc[measured.obs_names]
    queries = dosage_matrix(unseen, names).toarray()
    ranked = [
        score(true, low_rank_ridge(design, measured.X, rank=k, weights=weights.to_numpy(float)).predict(queries))
        for k in (3, 5, 8, 10, 15)
    ]
    rows["ridge, best rank (oracle)"] = max(ranked, key=lambda row: row["R2"])
    ate = adata.uns["truth"]["ate"]
    sums = np.stack([ate.loc[label.split("+")].to_numpy().sum(0) for label in unseen])
    rows["true effects of members, added (oracle)"] = score(true, sums)
    return rows


def fit(adata, unseen: list[str], true: np.ndarray, *, seed: int, steps: int, published: bool) -> dict[str, float]:
    """Train one model and score effects, latents and masks."""
    options: dict = {"n_latent": 10, "seed": seed}
    plan: dict = {}
    if published:
        options |= {"basal_encoder": "correlated", "global_update": "gradient", "global_kl": "plated", "n_particles": 5}
        plan = {"lr": 2e-3}
    pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    model = pb.model.SAMSVAE(adata, **options)
    start = time.process_time()
    model.train(max_steps=steps, plan_kwargs=plan, enable_progress_bar=False)
    seconds = time.process_time() - start
    latent, truth = model.get_latent_representation(), adata.uns["truth"]
    matching = match_latents(adata.obsm["truth_latent"], latent)
    return {
        **score(true, model.estimate_ate(unseen, n_draws=0).X),
        "MCC": latent_mcc(adata.obsm["truth_latent"], latent),
        "F1": mask_scores(truth["masks"], model.get_treatment_masks().to_numpy(), matching=matching).f1,
        "cpu_s": seconds,
    }


def main() -> None:
    """Run all screens and seeds and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screens", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--published-seeds", type=int, default=3, help="seeds of the published inference")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for size in (40, 100):
        for screen in range(options.screens):
            adata = pb.datasets.simulate_screen(seed=screen, n_perturbations=size)
            pb.tl.split(adata, axis="combination", fraction=0.5, valid=0.0, control_fraction=1.0, seed=screen)
            labels = adata.obs["perturbation"].astype(str)
            unseen = sorted(labels[adata.obs["pb_split"] == "test"].unique())
            true = adata.uns["truth"]["ate"].loc[unseen].to_numpy()
            unit = {"perturbations": size, "screen": screen}
            for name, row in baselines(adata, unseen, true).items():
                runs += [{"method": name, **unit, "seed": seed, **row} for seed in range(options.seeds)]
            for method, seeds in ((OURS, options.seeds), (PUBLISHED, options.published_seeds)):
                for seed in range(seeds):
                    row = fit(adata, unseen, true, seed=seed, steps=options.steps, published=method == PUBLISHED)
                    runs.append({"method": method, **unit, "seed": seed, **row})
                    print({key: round(v, 3) if isinstance(v, float) else v for key, v in runs[-1].items()}, flush=True)
    table = pd.DataFrame(runs)
    parts = []
    for size, part in table.groupby("perturbations"):
        rivals = [m for m in part["method"].unique() if m != OURS]
        title = f"**{size} single perturbations, 40 doubles of which 20 unseen, {options.steps:,} steps**"
        parts += [title, to_markdown(summarise(part, ["method"], SCORES))]
        parts.append("\n".join(paired(part, OURS, rival, ["screen", "seed"], ["r", "R2"]) for rival in rivals))
    publish("simulated_doubles", parts)


if __name__ == "__main__":
    main()
