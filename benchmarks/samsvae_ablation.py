"""Every switch of SAMS-VAE, one at a time, on a real screen and on simulated ones with known truth.

Papalexi 2021: 30 % of the cells train, the others judge; one random split a seed. Simulated: 40 single perturbations and 20
seen doubles train, 20 unseen doubles are judged by their true effects; one screen a seed. Each row changes the defaults
where its name says, at the same number of steps; differences are paired with the defaults of the same seed. Only effects on
own targets, a default where perturbations are named after features, are left out but in their own row.

Run with `python benchmarks/samsvae_ablation.py [--seeds 3] [--steps 2000] [--data papalexi simulated] [--runs FOLDER]`;
runs that FOLDER holds are not made again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from _judge import Judge
from _tables import publish, to_markdown
from simulated_doubles import score

import perturbia as pb
from perturbia.metrics import latent_mcc, mask_scores, match_latents

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

DEFAULT = "defaults"
PUBLISHED: dict[str, Any] = {"basal_encoder": "correlated", "global_update": "gradient", "global_kl": "plated"}
SLOW = {"plan_kwargs": {"lr": 2e-3}}
#: Name, options of the model, options of the training.
SWITCHES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (DEFAULT, {}, {}),
    ("twice the steps", {}, {"steps": 2.0}),
    ("half the steps", {}, {"steps": 0.5}),
    ("published inference", {**PUBLISHED, "n_particles": 5}, SLOW),
    ("published, one particle", PUBLISHED, SLOW),
    ("published, learning rate 0.005", PUBLISHED, {}),
    ("mean-field guide", {"basal_encoder": "mean_field"}, SLOW),
    ("gradients for masks and shifts", {"global_update": "gradient"}, {}),
    ("guide sees the expected shift", {"basal_encoder": "informed"}, {}),
    ("no rotation", {}, {"rotation": "none"}),
    ("varimax in place of l1", {}, {"rotation": "varimax"}),
    ("masks feel their prior at once", {}, {"sparsify_at": 0.0}),
    ("running statistics", {}, {"statistics": "running"}),
    ("best networks kept", {}, {"keep": "best"}),
    ("estimated spike width", {}, {"spike_width": "em"}),
    ("mask probability 0.01", {"mask_prior_prob": 0.01}, {}),
    ("mask probability 0.3", {"mask_prior_prob": 0.3}, {}),
    ("mask probability learned", {"mask_prior": "learned"}, {}),
    ("mask probability beta", {"mask_prior": "beta"}, {}),
    ("shift scale 0.3", {"embedding_prior_scale": 0.3}, {}),
    ("shift scale 3", {"embedding_prior_scale": 3.0}, {}),
    ("10 latents", {"n_latent": 10}, {}),
    ("50 latents", {"n_latent": 50}, {}),
    ("100 latents", {"n_latent": 100}, {}),
    ("200 latents, batch 512", {"n_latent": 200}, {"batch_size": 512}),
    ("batch 512", {}, {"batch_size": 512}),
    ("batch 128", {}, {"batch_size": 128}),
    ("two hidden layers", {"n_layers": 2}, {}),
    ("learning rate 0.002", {}, SLOW),
    ("learning rate 0.01", {}, {"plan_kwargs": {"lr": 1e-2}}),
    ("Poisson counts", {"gene_likelihood": "poisson"}, {}),
    ("effects on own targets", {"target_effect": "auto"}, {}),
    ("interactions of seen pairs", {"interactions": "observed"}, {}),
    ("exponents of doses", {"dose_response": "power"}, {}),
]
#: Switches that a data set has no use for.
IDLE = {
    "papalexi": {"interactions of seen pairs", "exponents of doses"},
    "simulated": {"effects on own targets", "exponents of doses"},
}


def papalexi(seed: int) -> tuple[AnnData, Callable[[pb.model.SAMSVAE], dict[str, float]]]:
    """A split of the real screen, and the scores of a model on it."""
    adata = pb.datasets.papalexi()
    pb.tl.split(adata, axis="random", fraction=0.3, valid=0.0, seed=seed)
    judge = Judge(adata, seed)

    def scores(model: pb.model.SAMSVAE) -> dict[str, float]:
        plain = model.estimate_ate(judge.names, n_draws=0).X
        combined = model.estimate_ate(judge.names, n_draws=0, combine="shrunk_residual").X
        held_out = np.flatnonzero(adata.obs["pb_split"] == "test")[::20]
        return {
            **judge.score(plain),
            "R2 with residual": judge.score(combined)["R2"],
            "IWELBO": model.get_iwelbo(indices=held_out, n_particles=25, return_mean=True),
        }

    return adata, scores


def simulated(seed: int) -> tuple[AnnData, Callable[[pb.model.SAMSVAE], dict[str, float]]]:
    """A screen with known truth, and the scores of a model on it."""
    adata = pb.datasets.simulate_screen(seed=seed, n_perturbations=40)
    pb.tl.split(adata, axis="combination", fraction=0.5, valid=0.0, control_fraction=1.0, seed=seed)
    labels = adata.obs["perturbation"].astype(str)
    unseen = sorted(labels[adata.obs["pb_split"] == "test"].unique())
    true = adata.uns["truth"]["ate"].loc[unseen].to_numpy()

    def scores(model: pb.model.SAMSVAE) -> dict[str, float]:
        latent, truth = model.get_latent_representation(), adata.uns["truth"]
        matching = match_latents(adata.obsm["truth_latent"], latent)
        held_out = np.flatnonzero(adata.obs["pb_split"] == "test")[::3]
        return {
            **score(true, model.estimate_ate(unseen, n_draws=0).X),
            "MCC": latent_mcc(adata.obsm["truth_latent"], latent),
            "F1": mask_scores(truth["masks"], model.get_treatment_masks().to_numpy(), matching=matching).f1,
            "IWELBO": model.get_iwelbo(indices=held_out, n_particles=25, return_mean=True),
        }

    return adata, scores


DATA = {"papalexi": papalexi, "simulated": simulated}
SCORES = {
    "papalexi": ["r", "R2", "top20_r", "R2 with residual", "IWELBO", "open", "cpu_s"],
    "simulated": ["r", "R2", "MCC", "F1", "IWELBO", "open", "cpu_s"],
}


def run(adata: AnnData, init: dict, train: dict, *, seed: int, steps: int) -> tuple[pb.model.SAMSVAE, float]:
    """A trained model and its CPU-seconds."""
    train = {**train, "max_steps": round(steps * train.get("steps", 1.0))}
    train.pop("steps", None)
    if train.get("keep") == "best":
        # a tenth of the training cells validates
        adata.obs["pb_split"] = adata.obs["pb_split"].astype(str)
        places = np.flatnonzero(adata.obs["pb_split"] == "train")
        chosen = np.random.default_rng(seed).choice(places, len(places) // 10, replace=False)
        adata.obs.iloc[chosen, adata.obs.columns.get_loc("pb_split")] = "valid"
    pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    # every row but its own is without effects on own targets, so that it stays what differs from the first
    model = pb.model.SAMSVAE(adata, seed=seed, **{"target_effect": False, **init})
    started = time.process_time()
    model.train(enable_progress_bar=False, accelerator="cpu", **train)
    return model, time.process_time() - started


def differences(table: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """Mean of each score, and mean and range of its paired difference to the defaults."""
    wide = table.set_index(["method", "seed"])[scores]
    rows = {}
    for method in table["method"].unique():
        own = wide.loc[method]
        row = {}
        for name in scores:
            gap = (own[name] - wide.loc[DEFAULT][name]).dropna()
            value = f"{own[name].mean():.{0 if name == 'cpu_s' else 2 if name == 'IWELBO' else 3}f}"
            spread = f"{gap.min():+.3f} to {gap.max():+.3f}"
            row[name] = value if method == DEFAULT or name in {"cpu_s", "open"} else f"{value} ({spread})"
        rows[method] = {"seeds": len(own), **row}
    return pd.DataFrame(rows).T.rename_axis("switch")


def main() -> None:
    """Run what is missing and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--switches", nargs="+", default=[name for name, *_ in SWITCHES])
    parser.add_argument("--runs", type=Path, default=None, help="folder of finished runs, to go on from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = []
    for data in options.data:
        file = None if options.runs is None else options.runs / f"{data}.csv"
        done = pd.read_csv(file).to_dict("records") if file is not None and file.exists() else []
        finished = {(row["method"], row["seed"]) for row in done}
        for seed in range(options.seeds):
            for method, init, train in SWITCHES:
                if method in IDLE[data] or method not in options.switches or (method, seed) in finished:
                    continue
                adata, scores = DATA[data](seed)
                model, seconds = run(adata, init, train, seed=seed, steps=options.steps)
                masks = model.get_treatment_masks(kind="binary").to_numpy()
                row = {"method": method, "seed": seed, **scores(model), "open": masks.mean(), "cpu_s": seconds}
                done.append(row)
                print(data, {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
                if file is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    pd.DataFrame(done).to_csv(file, index=False)
        title = f"**{data}, {options.seeds} seeds, {options.steps:,} steps**"
        parts += [title, to_markdown(differences(pd.DataFrame(done), SCORES[data]))]
    note = "Means over seeds; in brackets lowest and highest difference to the defaults of the same seed."
    publish("samsvae_ablation", parts, note=note, write=set(options.data) == set(DATA))


if __name__ == "__main__":
    main()
