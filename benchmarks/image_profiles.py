"""Alignment of real image profiles: does a treatment's nearest neighbour, of another compound, share its mechanism?

Well profiles of BBBC021 (Ljosa et al., 2013): 103 treatments of 38 compounds with 12 mechanisms, and DMSO controls on 55
plates. They are not in the package: fetch `inst/extdata` of the repository cytomining/cytominergallery and run
`python benchmarks/image_profiles.py --folder inst/extdata`.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _tables import publish, to_markdown

import perturbia as pb

FOLDER = Path(__file__).parent.parent / "docs" / "maps" / "_results"
#: Controls kept on every plate; each plate has six.
KEPT = (6, 4, 2)
SEEDS = 5


def read_wells(folder: Path) -> ad.AnnData:
    """632 wells × 516 features, float64, with treatment, compound, mechanism and plate."""
    profiles = pd.read_csv(folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    images = pd.read_csv(folder / "BBBC021_v1_image.csv.gz")
    mechanisms = pd.read_csv(folder / "BBBC021_v1_moa.csv")
    columns = {
        "Image_Metadata_Plate_DAPI": "plate",
        "Image_Metadata_Well_DAPI": "well",
        "Image_Metadata_Compound": "compound",
        "Image_Metadata_Concentration": "concentration",
    }
    wells = images[list(columns)].rename(columns=columns).drop_duplicates(["plate", "well"])
    places = profiles[["Image_Metadata_Plate", "Image_Metadata_Well"]].set_axis(["plate", "well"], axis=1)
    obs = places.merge(wells, how="left").merge(mechanisms, how="left")
    treatment = obs["compound"] + " " + obs["concentration"].astype(str) + " uM"
    obs["treatment"] = treatment.where(obs["compound"] != "DMSO", "control")
    obs.index = obs.index.astype(str)
    return ad.AnnData(profiles.iloc[:, 2:].to_numpy(np.float64), obs=obs)


def thinned(wells: ad.AnnData, n_controls: int, seed: int) -> ad.AnnData:
    """The wells with so many controls on every plate."""
    is_control = wells.obs["treatment"] == "control"
    draw = pd.Series(np.random.default_rng(seed).random(wells.n_obs), index=wells.obs_names)
    rank = draw[is_control].groupby(wells.obs["plate"][is_control]).rank()
    return wells[~is_control | wells.obs_names.isin(rank.index[rank <= n_controls])].copy()


def accuracy(wells: ad.AnnData, key: str) -> float:
    """Share of treatments whose nearest treatment of another compound has the same mechanism."""
    treatments = pb.tl.aggregate_perturbations(wells, use_rep=key, perturbation_key="treatment", sep="")
    return pb.metrics.mechanism_accuracy(treatments, "moa", compound_key="compound").accuracy


def scores(wells: ad.AnnData, batch: str | None) -> dict[str, float]:
    """Accuracy under every alignment."""
    options = {"perturbation_key": "treatment", "sep": "", "batch_key": batch, "key_added": "aligned"}
    tvn = pb.pp.typical_variation_normalization
    n_axes = int((wells.obs["treatment"] == "control").sum()) - (1 if batch is None else wells.obs["plate"].nunique())
    steps = {
        "standardised, no prior": lambda: pb.pp.standardize_by_controls(wells, prior=0, **options),
        "standardised": lambda: pb.pp.standardize_by_controls(wells, **options),
        "whitened along all axes of the controls": lambda: tvn(wells, rank=n_axes, shrinkage=0, **options),
        "TVN, as published": lambda: tvn(wells, published=True, **options),
        "TVN, Ledoit-Wolf": lambda: tvn(wells, choose_by="ledoit_wolf", **options),
        "TVN, default": lambda: tvn(wells, **options),
    }
    found = {}
    for name, step in steps.items():
        step()
        found[name] = accuracy(wells, "aligned")
    return found


def main() -> None:
    """Read, thin, align, score, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="inst/extdata of cytominergallery")
    wells = read_wells(parser.parse_args().folder)
    wells = wells[:, wells.X.std(axis=0) > 0].copy()
    columns = {}
    for batch in ("plate", None):
        for n_controls in KEPT:
            seeds = range(1 if n_controls == max(KEPT) else SEEDS)
            runs = pd.DataFrame([scores(thinned(wells, n_controls, seed), batch) for seed in seeds])
            total = n_controls * wells.obs["plate"].nunique()
            columns[f"{'by plate' if batch else 'one batch'}, {total} controls"] = runs.mean().map("{:.3f}".format)
    table = pd.DataFrame(columns)
    table.index.name = "alignment"
    publish(
        "image_profiles",
        [to_markdown(table)],
        folder=FOLDER,
        packages=("perturbia", "numpy", "scikit-learn", "anndata"),
        note=(
            f"{(wells.obs['treatment'] != 'control').sum()} treated wells, {wells.n_vars} features that vary; means over "
            f"{SEEDS} draws where controls were left out. A treatment more or less is 0.010, the standard error over "
            "treatments about 0.035."
        ),
    )


if __name__ == "__main__":
    main()
