"""All models and baselines, real and simulated screens, one table each.

Papalexi, TAP-seq and Datlinger: a part of the cells of every perturbation trains, the others judge (denoising). Simulated:
the screens of the sVAE+ and the SAMS-VAE paper, judged in the same way, and our screen of doubles, half of them unseen and
judged by their true effects. Every seed draws a new split or screen, and new weights. Models have their defaults, but for the
true number of latents of simulated screens, label means and one run of ComparativeVAE, and as many steps.

Run with `python benchmarks/all_models.py [--seeds 5] [--steps 3000] [--jobs 2]`; finished runs are kept beside the table, and
made again if `--runs` names another file.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from _judge import Judge
from _runs import add_arguments, make_runs
from _tables import RESULTS, paired, publish, summarise, to_markdown

import perturbia as pb
from perturbia.metrics import effect_correlation, effect_r2, latent_mcc, mask_scores, match_latents
from perturbia.stats import limited_translation

if TYPE_CHECKING:
    from anndata import AnnData

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
LIMITED = "James-Stein, limited translation"
BASELINES = ("NoChange", "Mean", "Empirical", "JamesStein", LIMITED, "Additive", "MatchingMean", "Ridge", "LowRank")
MODELS = ("SAMSVAE", "CPAVAE", "SVAE", "ConditionalVAE", "ComparativeVAE")
#: What cannot be asked of a model: a class that says nothing of unseen combinations, or nothing of combinations at all.
SILENT = {"doubles": {"SVAE", "ConditionalVAE", "Empirical", "JamesStein", LIMITED}}
TITLES = {
    "papalexi": "**Papalexi**, 25 knock-outs, 299 genes, 30 % of 15,429 cells train",
    "tapseq": "**TAP-seq**, 14 targets, 72 genes, half of 1,800 cells train",
    "datlinger": "**Datlinger**, 20 knock-outs, 2,000 genes, half of 7,500 cells train, effects within each stimulation",
    "svae": "**Simulated as in the sVAE+ paper**, 40 interventions, 5,000 counts a cell, 30 % of 4,500 cells train",
    "sams": "**Simulated as in the SAMS-VAE paper**, Gaussian, 40 perturbations, 30 % of 4,800 cells train",
    "doubles": "**Simulated screen**, 40 single perturbations, 40 doubles of which 20 unseen judge, by their true effects",
}


class Task:
    """A data set with its split, what registers it, and what judges predicted effects."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.n_latent = name, None
        self.register: dict[str, Any] = {"layer": "counts", "perturbation_key": "perturbation"}
        self.adata: AnnData
        self.truth: np.ndarray | None = None
        getattr(self, f"_{name}")(seed)

    def _papalexi(self, seed: int) -> None:
        self.adata = pb.datasets.papalexi()
        self._share(seed, 0.3)

    def _tapseq(self, seed: int) -> None:
        self.adata = pb.datasets.tapseq()
        self._share(seed, 0.5)

    def _datlinger(self, seed: int) -> None:
        self.adata = pb.datasets.datlinger()
        self.register["batch_key"] = "stimulation"
        self._share(seed, 0.5, batch_key="stimulation")

    def _svae(self, seed: int) -> None:
        self.adata = pb.datasets.simulate_svae(
            n_perturbations=40, cells_per_perturbation=100, n_controls=500, library_size=5e3, seed=seed
        )
        self.n_latent = 15
        self._share(seed, 0.3)

    def _sams(self, seed: int) -> None:
        self.adata = pb.datasets.simulate_sams(
            n_perturbations=40, cells_per_split=(30, 0, 70), n_controls=800, seed=seed
        )
        self.register |= {"layer": None, "scale": "embedding"}
        self.n_latent = 15
        self.judge = Judge(self.adata, seed, layer=None, scale="registered")
        self.names = self.judge.names

    def _doubles(self, seed: int) -> None:
        self.adata = pb.datasets.simulate_screen(seed=seed, n_perturbations=40)
        pb.tl.split(self.adata, axis="combination", fraction=0.5, valid=0.0, control_fraction=1.0, seed=seed)
        labels = self.adata.obs["perturbation"].astype(str)
        self.names = sorted(labels[self.adata.obs["pb_split"] == "test"].unique())
        self.truth = self.adata.uns["truth"]["ate"].loc[self.names].to_numpy()
        self.n_latent = 10

    def _share(self, seed: int, fraction: float, **options: Any) -> None:
        pb.tl.split(self.adata, axis="random", fraction=fraction, valid=0.0, seed=seed)
        self.judge = Judge(self.adata, seed, **options)
        self.names = self.judge.names

    def score(self, effects: AnnData) -> dict[str, float]:
        """Scores of effects of the judged perturbations."""
        predicted = np.asarray(effects[self.names].X)
        if self.truth is None:
            return self.judge.score(predicted)
        return {"r": effect_correlation(self.truth, predicted), "R2": effect_r2(self.truth, predicted)}

    def recovery(self, model: Any) -> dict[str, float]:
        """How well latents, and masks if there are any, recover those of a simulation."""
        if "truth_latent" not in self.adata.obsm or not hasattr(model, "get_treatment_embeddings"):
            return {}
        true, latent = self.adata.obsm["truth_latent"], model.get_latent_representation()
        found = {"MCC": latent_mcc(true, latent)}
        masks = getattr(model, "get_intervention_targets", getattr(model, "get_treatment_masks", None))
        if masks is not None:
            masks = masks().loc[self.adata.uns["truth"]["names"]].to_numpy()
            matching = match_latents(true, latent)
            found["F1"] = mask_scores(self.adata.uns["truth"]["masks"], masks, matching=matching).f1
        return found


def options_of(model: str, task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the model and of its training, beyond the defaults."""
    init: dict[str, Any] = {} if task.register.get("scale") is None else {"gene_likelihood": "normal"}
    if model == "ComparativeVAE":
        sizes = {} if task.n_latent is None else {"n_latent_shared": task.n_latent, "n_latent_salient": task.n_latent}
        return {**init, **sizes, "salient_prior": "label"}, {"n_restarts": 1}
    return {**init, **({} if task.n_latent is None else {"n_latent": task.n_latent})}, {}


def run(data: str, method: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """Scores of one model on one draw of a data set."""
    task = Task(data, seed)
    if method == LIMITED:
        return [{"row": method, **task.score(limited(task))}]
    cls = getattr(pb.model, method)
    cls.setup_anndata(task.adata, **task.register)
    if method in BASELINES:
        model = cls(task.adata)
        model.train()
        return [{"row": method, **task.score(model.estimate_ate(task.names))}]
    init, train = options_of(method, task)
    model = cls(task.adata, seed=seed, **init)
    model.train(max_steps=steps, **train, **QUIET)
    rows = [{"row": method, **task.score(_effects(model, task.names)), **task.recovery(model)}]
    if method == "SAMSVAE" and data != "doubles":
        rows.append(
            {"row": "SAMSVAE + shrunken residual", **task.score(_effects(model, task.names, combine="shrunk_residual"))}
        )
    return rows


def limited(task: Task) -> AnnData:
    """Measured effects shrunken as :class:`SAMSVAE` shrinks its residuals: none moves beyond two standard errors."""
    options = {key: task.register[key] for key in ("layer", "batch_key") if key in task.register}
    if "scale" in task.register:
        options["scale"] = "registered"
    shown = task.adata[task.adata.obs["pb_split"] == "train"].copy()
    measured = pb.tl.effects(shown, **options)[task.names].copy()
    measured.X = limited_translation(measured.X, measured.layers["se"])
    return measured


def _effects(model: Any, names: list[str], **options: Any) -> AnnData:
    if isinstance(model, pb.model.ComparativeVAE):
        return model.estimate_ate(names)
    return model.estimate_ate(names, n_draws=0, **options)


def main() -> None:
    """Make the runs that are missing and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--data", nargs="+", choices=list(TITLES), default=list(TITLES))
    add_arguments(parser)
    parser.set_defaults(runs=RESULTS / "all_models.csv")
    options = parser.parse_args()
    tasks = [
        {"data": data, "method": method, "seed": seed, "steps": options.steps}
        for seed in range(options.seeds)
        for data in options.data
        for method in (*MODELS, *BASELINES)
        if method not in SILENT.get(data, set())
    ]
    table = make_runs(run, tasks, runs=options.runs, jobs=options.jobs)
    table["method"] = table.pop("row")
    parts = []
    for data in options.data:
        part = table[table["data"] == data].dropna(axis=1, how="all")
        scores = [score for score in ("r", "R2", "top20_r", "MCC", "F1") if score in part]
        best = part[part["method"].isin(BASELINES)].groupby("method")["R2"].median().idxmax()
        ours = [method for method in part["method"].unique() if method not in BASELINES]
        parts += [
            TITLES[data],
            to_markdown(summarise(part, ["method"], scores)),
            "\n".join(paired(part, method, best, ["seed"], ["r", "R2"]) for method in ours),
        ]
    note = f"{options.seeds} seeds, {options.steps:,} steps. Medians, lowest and highest in brackets."
    publish("all_models", parts, note=note, write=set(options.data) == set(TITLES))


if __name__ == "__main__":
    main()
