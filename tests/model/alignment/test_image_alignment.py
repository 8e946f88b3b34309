"""The order of methods on two image views of one scene, as published for the same scene at a larger size."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from torch import nn

import perturbia as pb

METHODS = {"PS+OT": ("ps", "ot"), "PS+SNN": ("ps", "snn"), "VAE+OT": ("vae", "ot"), "VAE+SNN": ("vae", "snn")}


def convolutions() -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (3, 64, 64))]
    for before, after in ((3, 16), (16, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.LeakyReLU())


@pytest.mark.slow
def test_methods_come_in_the_published_order():
    mdata = pb.datasets.simulate_scene_images(n_cells=150, image_size=64, seed=0)
    source, target = mdata.mod.values()
    models = {}
    for name, kind in (("ps", pb.model.PropensityAligner), ("vae", pb.model.CrossModalVAE)):
        kind.setup_mudata(mdata)
        models[name] = kind(mdata, encoders={modality: convolutions() for modality in mdata.mod})
        models[name].train(max_epochs=60, batch_size=128, patience=10, accelerator="cpu", enable_progress_bar=False)
    partners = pd.Index(target.obs["pair"]).get_indexer(source.obs["pair"])
    latents = {"x_source": source.obsm["truth_latent"], "x_target": target.obsm["truth_latent"]}
    scores = {
        method: pb.metrics.alignment(models[space].align(aligner, key_added=None), pairs=partners, **latents)
        for method, (space, aligner) in METHODS.items()
    }
    trace = [scores[method]["fold_macro"] for method in ("PS+OT", "PS+SNN", "VAE+OT", "VAE+SNN")]
    assert np.all(np.diff(trace) < 0), trace
    assert trace[-1] > 1.2  # times random
    error = [scores[method]["barycentric_mse_macro"] for method in METHODS]
    assert error[0] == min(error), error
