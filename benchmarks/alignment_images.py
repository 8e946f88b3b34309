"""The order of methods on two image views of one scene, by convolutional networks (minutes).

Twins of the interventional scene: circles over random discs, and squares after a turn of the latents. Run with
`python benchmarks/alignment_images.py [--seeds 3] [--cells 150] [--jobs 2]`.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from _runs import add_arguments, make_runs
from _tables import paired, publish, summarise, to_markdown
from torch import nn

import perturbia as pb
from perturbia.stats import couple

OURS = "PS+OT"
METHODS = {
    OURS: ("propensity", "ot"),
    "VAE+OT": ("vae", "ot"),
    "PS+SNN": ("propensity", "snn"),
    "VAE+SNN": ("vae", "snn"),
    "GW (SCOT)": ("pixels", "gw"),
    "random": ("pixels", "random"),
}
#: Medians of ten seeds as published, 20,000 training images of 128 pixels: trace in thousandths, mean squared error.
PUBLISHED = {
    OURS: (18.33, 0.0316),
    "VAE+OT": (7.73, 0.0324),
    "PS+SNN": (7.92, 0.0552),
    "VAE+SNN": (3.12, 0.0622),
    "GW (SCOT)": (0.596, 0.0354),
    "random": (0.588, 0.0709),
}
EPOCHS = 60


def convolutions(shape: tuple[int, ...], channels: tuple[int, ...] = (16, 32, 64, 128)) -> nn.Module:
    """Strided convolutions from flat pixels to 128 features."""
    layers: list[nn.Module] = [nn.Unflatten(1, tuple(int(n) for n in shape))]
    for before, after in zip((shape[0], *channels), channels, strict=False):
        layers += [nn.Conv2d(int(before), after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU()]
    size = int(shape[1]) // 2 ** len(channels)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * size**2, 128), nn.LeakyReLU())


def align_images(n_cells: int, seed: int) -> list[dict]:
    """One draw of scenes: all methods."""
    mdata = pb.datasets.simulate_scene_images(n_cells=n_cells, image_size=64, seed=seed)
    (source_name, source), (target_name, target) = mdata.mod.items()
    shape = tuple(np.asarray(source.uns["image_shape"]))
    models = {}
    for name, kind in (("propensity", pb.model.PropensityAligner), ("vae", pb.model.CrossModalVAE)):
        kind.setup_mudata(mdata)
        encoders = {modality: convolutions(shape) for modality in (source_name, target_name)}
        models[name] = kind(mdata, encoders=encoders, seed=seed)
        models[name].train(max_epochs=EPOCHS, batch_size=128, patience=10, enable_progress_bar=False)
    accuracy = models["propensity"].classification_["accuracy"]
    groups = [adata.obs["perturbation"].astype(str) for adata in (source, target)]
    partners = pd.Index(target.obs["pair"]).get_indexer(source.obs["pair"])
    rows = []
    for method, (space, aligner) in METHODS.items():
        if space == "pixels":
            views = [pixels(adata) if aligner == "gw" else np.zeros((adata.n_obs, 1)) for adata in (source, target)]
            coupling = couple(*views, *groups, method=aligner)
        else:
            coupling = models[space].align(aligner, key_added=None)
        scores = pb.metrics.alignment(
            coupling,
            pairs=partners,
            x_source=source.obsm["truth_latent"],
            x_target=target.obsm["truth_latent"],
        )
        rows.append(
            {
                "method": method,
                "trace": scores["trace_macro"],
                "times random": scores["fold_macro"],
                "latent MSE": scores["barycentric_mse_macro"],
                "accuracy, view 1": accuracy.iloc[0],
                "accuracy, view 2": accuracy.iloc[1],
            }
        )
    return rows


def pixels(adata) -> np.ndarray:
    """Fifty principal components of the pixels."""
    from sklearn.decomposition import PCA

    return PCA(50, random_state=0).fit_transform(adata.X)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=150, help="twins of each of the 12 interventions")
    add_arguments(parser)
    options = parser.parse_args()
    tasks = [{"n_cells": options.cells, "seed": seed} for seed in range(options.seeds)]
    runs = make_runs(align_images, tasks, runs=options.runs, jobs=options.jobs)
    scores = ["trace", "times random", "latent MSE"]
    table = summarise(runs, ["method"], scores)
    published = pd.DataFrame(PUBLISHED, index=["published trace", "published MSE"]).T
    table = table.join(published)
    table["published trace"] = [f"{value / 1000:.5f}" for value in table["published trace"]]
    signed = runs.assign(**{"latent MSE": -runs["latent MSE"]})
    lines = [paired(signed, OURS, other, ["seed"], ["trace", "latent MSE"]) for other in METHODS if other != OURS]
    seen = ", ".join(f"{runs[f'accuracy, view {k}'].median():.2f}" for k in (1, 2))
    parts = [
        to_markdown(table),
        f"Seeds in which {OURS} is better (errors with their sign turned):\n\n" + "\n".join(lines),
        f"Held-out accuracy of the classifiers in the two views: {seen} (chance {1 / 12:.2f}). The published figures are of "
        "20,000 images of 128 pixels and other group sizes: their order can be compared, their size can not.",
    ]
    publish("alignment_images", parts, packages=("perturbia", "torch", "scvi-tools", "POT"))


if __name__ == "__main__":
    main()
