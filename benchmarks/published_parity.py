"""SAMS-VAE beside its published implementation: same cells, same sizes, same optimiser, same number of steps.

Every seed draws another screen with known effects (`peers/parity_screen.py`), another split of it and other weights. The
published implementation is imported from a checkout of its repository, see `peers/README.md`; without one there is nothing
to compare with. Both are trained with the published settings and their best state by the validation loss is kept, and
ours with its defaults at the same number of steps besides. Likelihoods are the bound with 100 particles, by each one's own
predictor; effects are compared with the true ones of the simulator, and with the means of the cells as the publication
has it.

Run with `python benchmarks/published_parity.py --reference FOLDER [--seeds 3] [--epochs 30]`; `--runs FILE` keeps finished
runs and goes on from them. `--loss` compares the terms of both losses at the same weights and the same draws instead.
"""

from __future__ import annotations

import argparse
import os

# read when its progress bars are imported
os.environ.setdefault("TQDM_DISABLE", "1")

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from _tables import publish, to_markdown
from scvi import REGISTRY_KEYS
from torch.distributions import Normal, kl_divergence

import perturbia as pb
from perturbia.metrics import effect_correlation, effect_r2
from perturbia.nn import CorrelatedEffects

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from parity_screen import observed_effects, parity_screen
from samsvae_reference import BATCH_SIZE, CLIP, LR, MASK_PRIOR, N_PARTICLES, Reference, find_reference

if TYPE_CHECKING:
    from anndata import AnnData

SIZES: dict[str, Any] = {"n_latent": 20, "n_hidden": 128, "n_layers": 1, "mask_prior_prob": MASK_PRIOR}
PUBLISHED: dict[str, Any] = {
    "basal_encoder": "correlated",
    "global_update": "gradient",
    "global_kl": "plated",
    "n_particles": N_PARTICLES,
}
CORRELATED: dict[str, Any] = {**PUBLISHED, "embedding_guide": "correlated"}
#: One constant rate for everything, as published; ours has a cosine schedule and a rate of its own for dispersions.
SAME_OPTIMISER: dict[str, Any] = {"lr": LR, "dispersion_lr": LR, "n_steps": None}
CLIPPED: dict[str, Any] = {"batch_size": BATCH_SIZE, "gradient_clip_val": CLIP, "gradient_clip_algorithm": "norm"}
REFERENCE, OURS, COPIED = "published", "ours", ", our predictor"
#: Name, form of the published implementation.
THEIRS = {
    f"{REFERENCE}, q(E)": "mean_field",
    f"{REFERENCE}, q(E given M)": "correlated",
    f"{REFERENCE}, CPA-VAE": "cpa",
}
#: Name, options of the model, options of the training.
FITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{OURS}, q(E)": (PUBLISHED, {"keep": "best", "plan_kwargs": SAME_OPTIMISER, **CLIPPED}),
    f"{OURS}, q(E given M)": (CORRELATED, {"keep": "best", "plan_kwargs": SAME_OPTIMISER, **CLIPPED}),
    f"{OURS}, q(E), our schedule": (PUBLISHED, {"keep": "best", "plan_kwargs": {"lr": LR}, **CLIPPED}),
    f"{OURS}, defaults": ({}, {}),
}
BASELINES = ("NoChange", "Mean", "Additive", "Ridge")
SCORES = ["IWELBO", "IWELBO valid", "r", "R2", "r seen", "r observed", "R2 observed", "open", "cpu_s"]


class LastState(pl.Callback):
    """Remembers the last state before the best one is returned to."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def on_train_end(self, *_: object) -> None:
        """Copy it."""
        self.state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}


class Judge:
    """Scores of effects on one screen."""

    def __init__(self, adata: AnnData) -> None:
        labels, part = adata.obs["perturbation"].astype(str), adata.obs["pb_split"]
        self.unseen = sorted(labels[part == "test"].unique())
        self.seen = sorted(set(labels[part == "train"]) - {"control"})
        self.true, self.observed = adata.uns["effects"], observed_effects(adata)

    @property
    def labels(self) -> list[str]:
        """Every label that is scored."""
        return self.unseen + self.seen

    def score(self, effects: np.ndarray) -> dict[str, float]:
        """Scores of effects of :attr:`labels`, differences of log2."""
        n = len(self.unseen)
        true, observed = (table.loc[self.labels].to_numpy() for table in (self.true, self.observed))
        return {
            "r": effect_correlation(true[:n], effects[:n]),
            "R2": effect_r2(true[:n], effects[:n]),
            "r seen": effect_correlation(true[n:], effects[n:]),
            "r observed": effect_correlation(observed[:n], effects[:n]),
            "R2 observed": effect_r2(observed[:n], effects[:n]),
        }


def score_ours(model: pb.model.SAMSVAE, adata: AnnData, judge: Judge) -> dict[str, float]:
    """Likelihoods, effects and masks of a model of ours."""
    rows = {part: np.flatnonzero(adata.obs["pb_split"] == part) for part in ("test", "valid")}
    return {
        "IWELBO": model.get_iwelbo(indices=rows["test"], return_mean=True),
        "IWELBO valid": model.get_iwelbo(indices=rows["valid"], return_mean=True),
        **judge.score(model.estimate_ate(judge.labels, scale="perturbseq", n_draws=0).X),
        "open": float(model.get_treatment_masks(kind="binary").to_numpy().mean()),
    }


def score_theirs(model: Reference, adata: AnnData, judge: Judge) -> dict[str, float]:
    """The same of the published implementation, by its own predictor."""
    library = float(np.median(np.asarray(adata.X.sum(1))))
    return {
        "IWELBO": model.iwelbo("test"),
        "IWELBO valid": model.iwelbo("valid"),
        **judge.score(model.effects(judge.labels, library)),
        "open": model.open_masks(),
    }


def make(adata: AnnData, options: dict[str, Any], *, seed: int = 0) -> pb.model.SAMSVAE:
    """A model of ours at the sizes of the comparison."""
    pb.model.SAMSVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    return pb.model.SAMSVAE(adata, **SIZES, **options, seed=seed)


def run_theirs(adata: AnnData, judge: Judge, name: str, *, seed: int, epochs: int) -> list[dict[str, Any]]:
    """Best and last state of one form of the published implementation."""
    model = Reference(adata, list(adata.uns["masks"].index), form=THEIRS[name], seed=seed)
    timed = {"method": name, "cpu_s": model.train(epochs)}
    model.keep("best")
    best = score_theirs(model, adata, judge)
    rows = [{**timed, "state": "best", **best}]
    if THEIRS[name] == "mean_field":
        rows.append({"method": name + COPIED, "state": "best", **score_ours(copied(model, adata), adata, judge)})
    model.keep("last")
    last = best if same(*model.states.values()) else score_theirs(model, adata, judge)
    return [*rows, {**timed, "state": "last", **last}]


def run_ours(adata: AnnData, judge: Judge, name: str, *, seed: int, epochs: int) -> list[dict[str, Any]]:
    """Best and last state of ours, or the last alone where no best one is kept."""
    options, training = FITS[name]
    model = make(adata, options, seed=seed)
    n_steps = epochs * -(-int((adata.obs["pb_split"] == "train").sum()) // BATCH_SIZE)
    length = {"max_epochs": epochs} if "batch_size" in training else {"max_steps": n_steps}
    last = LastState(model.module)
    started = time.process_time()
    model.train(**length, **training, accelerator="cpu", enable_progress_bar=False, callbacks=[last])
    timed = {"method": name, "cpu_s": (time.process_time() - started) / epochs}
    kept = score_ours(model, adata, judge)
    if training.get("keep") != "best":
        return [{**timed, "state": "last", **kept}]
    rows = [{**timed, "state": "best", **kept}]
    trained = {key for key, value in model.module.named_parameters() if value.requires_grad}
    states = [{key: state[key] for key in trained} for state in (model.module.state_dict(), last.state)]
    if not same(*states):
        model.module.load_state_dict(last.state)
        model.module.settle_effects()
        kept = score_ours(model, adata, judge)
    return [*rows, {**timed, "state": "last", **kept}]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are one."""
    return all(torch.equal(value, other[name]) for name, value in one.items())


def run_baseline(adata: AnnData, judge: Judge, name: str) -> dict[str, Any]:
    """Scores of a closed-form baseline."""
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, layer="counts", perturbation_key="perturbation")
    model = cls(adata)
    model.train()
    # their scale is the natural logarithm
    return {"method": name, "state": "", **judge.score(model.estimate_ate(judge.labels).X / np.log(2))}


def copied(theirs: Reference, adata: AnnData, *, correlated: bool = False) -> pb.model.SAMSVAE:
    """A model of ours with the weights of a form of the published one; q(E given M) of one hidden layer."""
    model = make(adata, CORRELATED if correlated else PUBLISHED)
    if list(model.perturbations) != theirs.names:
        msg = "copied: expected the same order of perturbations in both."
        raise ValueError(msg)
    if correlated:
        shape, rates = (len(theirs.names), SIZES["n_latent"]), [MASK_PRIOR] * len(theirs.names)
        model.module.effects = CorrelatedEffects(*shape, n_hidden=SIZES["n_hidden"], n_layers=1, mask_prior_prob=rates)
    # a step makes it a trained one, with the library sizes that effects are estimated at
    model.train(max_steps=1, batch_size=BATCH_SIZE, accelerator="cpu", enable_progress_bar=False)
    theirs.copy_into(model.module)
    return model


class WithConstants:
    """What the published networks add and ours do not: 1e-4 to means of counts and to variances of normals."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def guide(self, qz: Normal) -> Normal:
        """The guide of the basal latent."""
        return Normal(qz.loc, (qz.scale**2 + 1e-4).sqrt())

    def counts(self, px: Any) -> Any:
        """The distribution of counts."""
        return type(px)(mu=px.mu + 1e-4, theta=self.module.decoder.log_dispersion.exp(), validate_args=False)

    def __enter__(self) -> WithConstants:
        effects = self.module.effects
        self._slab = effects._slab
        if not effects.has_closed_kl:
            effects._slab = self._wider_slab
        return self

    def _wider_slab(self, mask: torch.Tensor, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_sd = self._slab(mask, rows)
        return mean, 0.5 * torch.log(torch.exp(2 * log_sd) + 1e-4)

    def __exit__(self, *_: object) -> None:
        self.module.effects._slab = self._slab


def our_terms(
    module: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    draws: dict[str, torch.Tensor],
    constants: WithConstants | None = None,
) -> dict[str, float]:
    """Terms of our loss for given masks, embeddings and basal latents."""
    given = module.design(module._get_inference_input(tensors)["given"])
    rows, within = given.within()
    mask, embedding, basal = draws["mask"][:, rows], draws["E"][:, rows], draws["z_basal"]
    offset, x = within.sum_of(mask * embedding), tensors[REGISTRY_KEYS.X_KEY]
    covariates = module._covariates(tensors)
    qz = module.encode(x, offset, **covariates)
    px = module.generative(basal + offset, x.sum(-1, keepdim=True), **covariates)["px"]
    if constants is not None:
        qz, px = constants.guide(qz), constants.counts(px)
    outputs = {"qz": qz, "basal_mean": qz.loc, "offset_variance": 0.0, "given": given, "draws": (rows, mask, embedding)}
    terms = {
        "reconstruction": -module._log_likelihood(px, x),
        "basal": (qz.log_prob(basal) - Normal(0.0, 1.0).log_prob(basal)).sum(-1),
        "masks and embeddings": module.plated_kl(outputs),
    }
    means = {name: float(term.mean()) for name, term in terms.items()}
    return {**means, "sum": sum(means.values()), "basal, closed form": float(module.kl_local(outputs).mean())}


@torch.no_grad()
def compare_losses(adata: AnnData, form: str, *, epochs: int) -> pd.DataFrame:
    """Terms of both losses, nats per cell, at the same weights, batch and draws, and their relative differences."""
    theirs = Reference(adata, list(adata.uns["masks"].index), form=form, n_embedding_layers=1)
    with torch.enable_grad():
        theirs.train(epochs)
        module = copied(theirs, adata, correlated=form == "correlated").module
    part, loss = theirs.data["train"], theirs.plan.loss_module
    batch = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:BATCH_SIZE]
    x, doses, library = part.X[batch], part.D[batch], part.library_size[batch]
    call = {"X": x, "D": doses, "n_particles": N_PARTICLES}
    # the same seed twice: once for the terms, once for the draws behind them
    torch.manual_seed(1)
    n_treated = theirs.plan.D_obs_counts_train
    total, terms = loss.loss(**call, D_obs_counts=n_treated, condition_values={"library_size": library})
    torch.manual_seed(1)
    q, p, draws = loss.forward(**call, condition_values={"library_size": library})
    published = {
        "reconstruction": float(terms["loss_term_reconstruction"]),
        "basal": float(terms["loss_term_z_basal"]),
        "masks and embeddings": float(terms["loss_term_mask"] + terms["loss_term_E"]),
        "sum": float(total),
        # what its sampled term estimates, and our loss holds
        "basal, closed form": float(kl_divergence(q["q_z_basal"], p["p_z_basal"]).sum(-1).mean()),
    }
    tensors = {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: torch.zeros(len(x), 1), "perturbation": doses}
    frame = pd.DataFrame({"published": published, OURS: our_terms(module, tensors, draws)})
    with WithConstants(module) as constants:
        frame["with its constants"] = pd.Series(our_terms(module, tensors, draws, constants))
    for name in (OURS, "with its constants"):
        frame[f"{name}, relative difference"] = (frame[name] / frame["published"] - 1).abs().map("{:.1e}".format)
    for name in ("published", OURS, "with its constants"):
        frame[name] = frame[name].map("{:.4f}".format)
    return frame.rename_axis(f"{form}: nats per cell")


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds, lowest and highest in brackets."""
    order = {name: i for i, name in enumerate([*THEIRS, *FITS, *BASELINES])}
    place = runs["method"].map(lambda name: order[name.removesuffix(COPIED)])
    groups = runs.loc[place.sort_values(kind="stable").index].groupby(["method", "state"], sort=False)
    rows = {}
    for key, own in groups:
        row = {"seeds": len(own)}
        for score in SCORES:
            values, digits = own[score], 2 if score in {"IWELBO", "IWELBO valid", "cpu_s"} else 3
            bounds = f" ({values.min():.{digits}f} to {values.max():.{digits}f})" if len(own) > 1 else ""
            row[score] = "–" if values.isna().all() else f"{values.mean():.{digits}f}{bounds}"
        rows[key] = row
    table = pd.DataFrame(rows).T
    table.index = table.index.set_names(["method", "state"])
    return table


def criteria(runs: pd.DataFrame) -> str:
    """Ours minus published of the same seed and the same kept state, and whether it passes."""
    lines = []
    wide = runs.set_index(["method", "state", "seed"])[SCORES]
    pairs = [(f"{OURS}, {form}", f"{REFERENCE}, {form}") for form in ("q(E)", "q(E given M)")]
    pairs += [(f"{OURS}, {name}", f"{REFERENCE}, q(E)") for name in ("q(E), our schedule", "defaults")]
    for ours, theirs in pairs:
        for state in ("best", "last"):
            if not {(ours, state), (theirs, state)} <= set(wide.index.droplevel("seed")):
                continue
            one, other = wide.loc[ours, state], wide.loc[theirs, state]
            gap = (one - other).dropna(how="all")
            ratio = (one["cpu_s"] / other["cpu_s"]).dropna()
            tests = [
                ("IWELBO", gap["IWELBO"], "≥ -0.5", gap["IWELBO"].mean() >= -0.5),
                ("r", gap["r"], "≥ -0.02", gap["r"].mean() >= -0.02),
                ("r observed", gap["r observed"], "≥ -0.02", gap["r observed"].mean() >= -0.02),
                ("CPU ratio", ratio, "≤ 1", ratio.mean() <= 1),
            ]
            verdicts = [
                f"{name} {values.mean():+.3f} ({values.min():+.3f} to {values.max():+.3f}; {bound}: {'met' if ok else 'NOT met'})"
                for name, values, bound, ok in tests
            ]
            lines.append(f"- {ours} against {theirs}, {state} state: " + ", ".join(verdicts))
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the published implementation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    cheap = [name for name in (*THEIRS, *FITS, *BASELINES) if THEIRS.get(name) != "cpa"]
    parser.add_argument("--methods", nargs="+", default=cheap, help="all but CPA-VAE by default")
    parser.add_argument("--runs", type=Path, help="file of finished runs, to go on from")
    parser.add_argument("--loss", action="store_true", help="compare the terms of the losses only")
    options = parser.parse_args()
    if options.reference is None:
        print("No --reference FOLDER given: there is nothing to compare with. See benchmarks/peers/README.md.")
        return
    find_reference(options.reference)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if options.loss:
        adata = parity_screen(0)
        tables = [
            to_markdown(compare_losses(adata, form, epochs=options.epochs)) for form in ("mean_field", "correlated")
        ]
        note = f"Both after {options.epochs} epochs of the published one; {BATCH_SIZE} cells, {N_PARTICLES} draws."
        publish("published_parity_loss", tables, script="published_parity", note=note)
        return
    file = options.runs
    done = (
        pd.read_csv(file, keep_default_na=False, na_values="nan").to_dict("records") if file and file.exists() else []
    )
    for seed in range(options.seeds):
        finished = {row["method"] for row in done if row["seed"] == seed}
        waiting = [name for name in options.methods if name not in finished]
        if not waiting:
            continue
        adata = parity_screen(seed)
        judge = Judge(adata)
        for name in waiting:
            if name in BASELINES:
                rows = [run_baseline(adata, judge, name)]
            else:
                run = run_theirs if name in THEIRS else run_ours
                rows = run(adata, judge, name, seed=seed, epochs=options.epochs)
            done += [{"seed": seed, **row} for row in rows]
            for row in rows:
                print(seed, {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            if file:
                pd.DataFrame(done).to_csv(file, index=False, na_rep="nan")
    runs = pd.DataFrame(done)
    runs = runs[runs["method"].str.removesuffix(COPIED).isin(options.methods) & (runs["seed"] < options.seeds)]
    note = (
        f"{options.seeds} seeds, each another screen and split; {options.epochs} epochs of {BATCH_SIZE} cells. Means over "
        "seeds, lowest and highest in brackets; CPU seconds are per epoch."
    )
    publish("published_parity", [to_markdown(summary(runs)), criteria(runs)], note=note)


if __name__ == "__main__":
    main()
