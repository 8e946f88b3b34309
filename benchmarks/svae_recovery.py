"""Latents and targets that sVAE+ recovers from its own simulator, published inference and post-hoc rotation beside ours.

100 interventions on 15 latents, each of one to three targets, and no controls; 80 interventions train. Counts are normalised
per cell, or per gene as the published code does. "then turned" is `tl.sparse_rotation` of the trained model's latents, with
the two-means cut of the turned group means as targets.

Run with `python benchmarks/svae_recovery.py [--data-seeds 3] [--model-seeds 2] [--steps 4000] [--long-steps 50000]`.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from _runs import add_arguments, make_runs
from _tables import publish, summarise, to_markdown

import perturbia as pb
from perturbia.metrics import latent_mcc, linear_r2, mask_scores, match_latents

if TYPE_CHECKING:
    from anndata import AnnData

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
OURS, PUBLISHED = "SVAE", "published sVAE+, K = 2"
#: Options of the model, options of the training, whether the latents are turned afterwards as well.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    OURS: ({}, {}, False),
    "SVAE, no rotation": ({}, {"rotation": "none"}, True),
    PUBLISHED: ({"inference": "straight_through"}, {}, True),
    "published iVAE": ({"inference": "straight_through", "sparsity": "none"}, {}, True),
}
SCORES = ["MCC", "linear R2", "F1, p > .5", "F1, gap"]


def scores(adata: AnnData, latent: np.ndarray, targets: np.ndarray, strong: np.ndarray) -> dict[str, float]:
    """Recovery of the training cells' latents, and of the training interventions' targets."""
    true = adata.obsm["truth_latent"]
    matching = match_latents(true, latent)
    masks = adata.uns["truth"]["masks"][: len(targets)]
    return {
        "MCC": latent_mcc(true, latent),
        "linear R2": linear_r2(true, latent),
        "F1, p > .5": mask_scores(masks, targets, matching=matching).f1,
        "F1, gap": mask_scores(masks, strong, matching=matching).f1,
    }


def turned(adata: AnnData, latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents after the rotation, and which interventions move them by more than the gap."""
    adata.obsm["X_svae"] = latent
    pb.tl.sparse_rotation(adata, use_rep="X_svae", control=None)
    size = np.abs(adata.uns["X_svae_rotated"]["effects"])
    ordered = np.sort(size.ravel())
    n, total = np.arange(1, len(ordered)), np.cumsum(ordered)[:-1]
    best = int((total**2 / n + (ordered.sum() - total) ** 2 / (len(ordered) - n)).argmax())
    return adata.obsm["X_svae_rotated"], (size > ordered[best]).astype(np.float32)


def run(form: str, method: str, data: int, seed: int, steps: int) -> list[dict[str, Any]]:
    """Scores of one trained model, and of its latents turned afterwards."""
    init, train, turn = METHODS[method]
    screen = pb.datasets.simulate_svae(normalize=form, seed=data)
    adata = screen[~screen.obs["held_out"].to_numpy()].copy()
    pb.model.SVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation", control=None)
    model = pb.model.SVAE(adata, n_latent=15, seed=seed, **init)
    started = time.process_time()
    model.train(max_steps=steps, split_key=None, train_size=1.0, **train, **QUIET)
    seconds = time.process_time() - started
    latent = model.get_latent_representation()
    targets, strong = (model.get_intervention_targets(min_effect=cut).to_numpy() for cut in (None, "gap"))
    rows = [{"row": method, **scores(adata, latent, targets, strong), "cpu_s": seconds}]
    if turn:
        latent, strong = turned(adata, latent)
        found = {**scores(adata, latent, strong, strong), "F1, p > .5": np.nan}
        rows.append({"row": f"{method}, then turned", **found, "cpu_s": seconds})
    return rows


def main() -> None:
    """Run what is missing and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-seeds", type=int, default=3)
    parser.add_argument("--model-seeds", type=int, default=2, help="of our inference; the other rows have one")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--long-steps", type=int, default=0, help="one more run of two methods, this long")
    parser.add_argument("--forms", nargs="+", choices=["cell", "gene_legacy"], default=["cell", "gene_legacy"])
    add_arguments(parser)
    options = parser.parse_args()
    tasks = [
        {"form": form, "method": method, "data": data, "seed": seed, "steps": options.steps}
        for seed in range(options.model_seeds)
        for form in options.forms
        for method in (METHODS if seed == 0 else [OURS])
        for data in range(options.data_seeds)
    ]
    if options.long_steps:
        tasks += [
            {"form": options.forms[0], "method": method, "data": 0, "seed": 0, "steps": options.long_steps}
            for method in (PUBLISHED, OURS)
        ]
    table = make_runs(run, tasks, runs=options.runs, jobs=options.jobs)
    table["method"] = table.pop("row")
    parts = []
    for (steps, form), part in table.groupby(["steps", "form"], sort=False):
        title = f"**Counts normalised by `{form}`, {steps:,} steps**"
        parts += [title, to_markdown(summarise(part, ["method"], [*SCORES, "cpu_s"]))]
    publish("svae_recovery", parts, note="Medians over data and model seeds, lowest and highest in brackets.")


if __name__ == "__main__":
    main()
