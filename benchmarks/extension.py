"""Five knock-outs left out and added later, beside a model that was trained with them.

Papalexi 2021: 30 % of the cells train. A model learns from all knock-outs; others from all but five, which
`extend_treatments` adds from their training cells. The effects of the five are judged by the held-out cells.

Run with `python benchmarks/extension.py [--draws 3] [--steps 4000]`.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch
from _tables import publish, to_markdown

import perturbia as pb
from perturbia.metrics import effect_correlation

SETUP = {"layer": "counts", "perturbation_key": "perturbation", "batch_key": "replicate"}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
FORMS = {"shifts alone": {"target_effect": False}, "with target effects": {"target_effect": True}}


def trained(adata, steps: int, init: dict) -> pb.model.SAMSVAE:
    """A model of the cells that are marked for training."""
    pb.model.SAMSVAE.setup_anndata(adata, **SETUP)
    model = pb.model.SAMSVAE(adata, **init)
    model.train(max_steps=steps, **QUIET)
    return model


def main() -> None:
    """Train, extend, judge, and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    adata = pb.datasets.papalexi()
    pb.tl.split(adata, axis="random", fraction=0.3, valid=0.0, seed=0)
    held_out = np.flatnonzero(adata.obs["pb_split"] == "test")
    observed = pb.tl.effects(adata, layer="counts", batch_key="replicate", cells=held_out)
    names = np.array(sorted(set(adata.obs["perturbation"]) - {"control"}))
    rng = np.random.default_rng(0)
    draws = [sorted(rng.choice(names, 5, replace=False)) for _ in range(options.draws)]
    rows = []
    for form, init in FORMS.items():
        full = trained(adata.copy(), options.steps, init)
        for left_out in draws:
            new = adata.obs["perturbation"].isin(left_out).to_numpy()
            model = trained(adata[~new].copy(), options.steps, init)
            later = adata[new | (adata.obs["perturbation"] == "control").to_numpy()].copy()
            started = time.process_time()
            extended = model.extend_treatments(later, **QUIET)
            seconds, n = time.process_time() - started, len(model.perturbations)
            kept = all(
                torch.equal(getattr(model.module.effects, part), getattr(extended.module.effects, part)[:n])
                for part in ("mask_logit", "mean", "log_sd")
            )
            row = {
                "model": form,
                "left out": ", ".join(left_out),
                "old rows bit-equal": kept,
                "CPU s": f"{seconds:.2f}",
            }
            for combine, label in ((None, "r"), ("shrunk_residual", "r with residual")):
                found = {
                    name: effect_correlation(
                        observed[left_out].X, one.estimate_ate(left_out, n_draws=0, combine=combine).X
                    )
                    for name, one in (("added later", extended), ("trained with them", full))
                }
                row |= {f"{label}, {name}": f"{value:.3f}" for name, value in found.items()}
                row[f"{label}, difference"] = f"{found['added later'] - found['trained with them']:+.3f}"
            rows.append(row)
            print(row, flush=True)
    note = f"One split, one seed, {options.steps:,} steps."
    publish("extension", [to_markdown(pd.DataFrame(rows).set_index("model"))], note=note)


if __name__ == "__main__":
    main()
