"""Alignment of unpaired modalities: propensity scores and optimal transport beside the other ways to match cells.

Simulated vector views with noise (true latents known) and real cells measured in both modalities, whose pairing is used
to score alone. Run with `python benchmarks/alignment.py [--seeds 5] [--jobs 2] [--runs FILE]`; `--only vectors` for a part.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from _runs import add_arguments, make_runs
from _tables import paired, publish, summarise, to_markdown

import perturbia as pb
from perturbia.stats import couple

OURS = "PS+OT"
#: Method → (space, aligner). "features" are those of the modalities, as SCOT takes them.
METHODS = {
    OURS: ("propensity", "ot"),
    "PS+exact OT": ("propensity", "emd"),
    "PS+SNN": ("propensity", "snn"),
    "VAE+OT": ("vae", "ot"),
    "VAE+SNN": ("vae", "snn"),
    "GW (SCOT)": ("features", "gw"),
    "random": ("features", "random"),
}
VECTORS = {"noise 0.3": 0.3, "noise 1": 1.0}
REAL = ("CITE-seq, 10x PBMC", "sc-GEM")
DIRECTIONS = (("rna", "protein"), ("protein", "rna"))


def citeseq():
    """400 blood cells: 30 principal components of log-normalised transcripts, centred log-ratios of 14 proteins."""
    import scanpy as sc

    mdata = pb.datasets.pbmc_citeseq()
    rna, protein = mdata["rna"], mdata["protein"]
    sc.pp.normalize_total(rna, target_sum=1e4)
    sc.pp.log1p(rna)
    sc.pp.highly_variable_genes(rna, n_top_genes=1500)
    sc.pp.pca(rna, n_comps=30, mask_var="highly_variable")
    counts = np.log1p(protein.X.toarray())
    protein.obsm["X_clr"] = counts - counts.mean(1, keepdims=True)
    return mdata, {"perturbation_key": "cell_type", "source_rep": "X_pca", "target_rep": "X_clr", "min_cells": 0}


def scgem():
    """177 cells: 34 transcripts and 27 methylation sites."""
    return pb.datasets.scgem(), {"perturbation_key": "cell_type", "min_cells": 0}


def partners(source, target) -> np.ndarray:
    """Position of the true partner of each source cell."""
    return pd.Index(target.obs["pair"]).get_indexer(source.obs["pair"])


def couplings(mdata, setup: dict, seed: int) -> dict:
    """Coupling of each method."""
    models = {"propensity": pb.model.PropensityAligner, "vae": pb.model.CrossModalVAE}
    for name, kind in models.items():
        kind.setup_mudata(mdata, **setup)
        models[name] = kind(mdata, seed=seed)
        models[name].train(enable_progress_bar=False)
    model = models["propensity"]
    groups = [model._codes_of(role) for role in ("source", "target")]
    features = [model._features_of(role) for role in ("source", "target")]
    found = {}
    for method, (space, aligner) in METHODS.items():
        if space == "features":
            same = features if aligner == "gw" else [one[:, :1] for one in features]
            found[method] = couple(*same, *groups, method=aligner)
        else:
            found[method] = models[space].align(aligner, key_added=None)
    return found


def align_vectors(scenario: str, seed: int) -> list[dict]:
    """One simulated data set: 13 labels, 150 twins a label."""
    mdata = pb.datasets.simulate_modalities(noise_scale=VECTORS[scenario], seed=seed)
    source, target = mdata["source"], mdata["target"]
    rows = []
    for method, coupling in couplings(mdata, {"control": "control"}, seed).items():
        scores = pb.metrics.alignment(
            coupling,
            pairs=partners(source, target),
            x_source=source.obsm["truth_latent"],
            x_target=target.obsm["truth_latent"],
        )
        rows.append(
            {
                "method": method,
                "trace": scores["trace_macro"],
                "times random": scores["fold_macro"],
                "latent MSE": scores["barycentric_mse_macro"],
                "expected MSE": scores["expected_mse_macro"],
            }
        )
    return rows


def align_real(scenario: str, seed: int) -> list[dict]:
    """One set of real cells; FOSCTTM in the space of the target features, each scaled to standard deviation one."""
    mdata, setup = citeseq() if scenario == REAL[0] else scgem()
    source, target = mdata.mod.values()
    x = target.obsm[setup["target_rep"]] if "target_rep" in setup else np.asarray(target.X)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    rows = []
    for method, coupling in couplings(mdata, setup, seed).items():
        scores = pb.metrics.alignment(coupling, pairs=partners(source, target), x_target=x)
        rows.append(
            {
                "method": method,
                "trace": scores["trace_macro"],
                "times random": scores["fold_macro"],
                "FOSCTTM": scores["foscttm_macro"],
                "soft FOSCTTM": scores["soft_foscttm_macro"],
            }
        )
    return rows


def translate_real(scenario: str, seed: int) -> list[dict]:
    """R² of held-out cells, features scaled: a quarter of the pairs is neither aligned nor trained on."""
    known, wanted = scenario.split(" to ")
    mdata, setup = citeseq()
    rng = np.random.default_rng(seed)
    names = mdata["rna"].obs["pair"].to_numpy()
    held_out = set(rng.choice(names, len(names) // 4, replace=False))
    parts = {
        part: {
            name: a[np.isin(a.obs["pair"], list(held_out)) == (part == "test")].copy() for name, a in mdata.mod.items()
        }
        for part in ("train", "test")
    }
    from mudata import MuData

    train = MuData(parts["train"])
    setup["modalities"] = {"source": known, "target": wanted}
    setup["source_rep"], setup["target_rep"] = ("X_pca", "X_clr") if known == "rna" else ("X_clr", "X_pca")
    models = {}
    for name, kind in (("PS", pb.model.PropensityAligner), ("VAE", pb.model.CrossModalVAE)):
        kind.setup_mudata(train, **setup)
        models[name] = kind(train, seed=seed)
        models[name].train(enable_progress_bar=False)
        models[name].align(key_added=None)
    genes = np.flatnonzero(mdata["rna"].var["highly_variable"])[:200]

    def features(adata, name):
        return adata.obsm["X_clr"] if name == "protein" else adata[:, genes].X.toarray()

    def inputs(adata, name):
        return adata.obsm["X_pca" if name == "rna" else "X_clr"]

    source, target = parts["train"][known], parts["train"][wanted]
    y, scale = features(target, wanted), np.maximum(features(target, wanted).std(0), 1e-6)
    test_x = inputs(parts["test"][known], known)
    order = partners(parts["test"][known], parts["test"][wanted])
    truth = features(parts["test"][wanted], wanted)[order] / scale
    from perturbia.model.alignment.feature_translator import fit_translator

    groups = [source.obs["cell_type"].astype(str), target.obs["cell_type"].astype(str)]
    ways = {
        "true pairs": pb.stats.Coupling.from_matrix(np.eye(source.n_obs)[partners(target, source)]),
        "random in type": couple(
            np.zeros((target.n_obs, 1)), np.zeros((source.n_obs, 1)), *groups[::-1], method="random"
        ),
        **{f"{name}+OT": model.coupling.transpose() for name, model in models.items()},
    }
    rows = []
    means = pd.DataFrame(y / scale).groupby(groups[1].to_numpy()).mean()
    predicted = means.loc[parts["test"][known].obs["cell_type"].astype(str)].to_numpy()
    rows.append({"method": "mean of the type", "R2": r2(truth, predicted)})
    for way, coupling in ways.items():
        losses = ("plain",) if way == "true pairs" else ("plain", "projected")
        for loss in losses:
            translator = fit_translator(
                inputs(source, known), y, coupling, loss=loss, seed=seed, enable_progress_bar=False
            )
            rows.append({"method": f"{way}, {loss}", "R2": r2(truth, translator.predict(test_x) / scale)})
    return rows


def r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Over all features together, against the means of the test cells."""
    return float(1 - np.square(truth - predicted).sum() / np.square(truth - truth.mean(0)).sum())


PRIOR_KINDS = {"log-ratio": "log_ratio", "centred": "clr", "raw logits": "logits"}
PRIOR_MATCHING = {
    "OT": {},
    "OT, published settings": {"cost": "euclidean", "scale_cost": None, "epsilon": 0.05},
    "SNN": {"method": "snn"},
    "unbalanced OT": {"unbalanced": (0.9, 0.9)},
}


def shift_priors(scenario: str, seed: int) -> list[dict]:
    """Train on target classes of equal or 5-fold different frequency, as many cells in all; score the same new twins."""
    from mudata import MuData

    n_new, n_train = 150, 300
    mdata = pb.datasets.simulate_modalities(n_cells=n_new + 3 * n_train, noise_scale=0.3, seed=seed)
    source, target = mdata["source"], mdata["target"]
    target = target[partners(source, target)]
    labels = source.obs["perturbation"].astype(str).to_numpy()
    names = np.unique(labels)
    rng = np.random.default_rng(seed)
    frequency = rng.permutation(5.0 ** np.linspace(0, 1, len(names)))
    wanted = np.full(len(names), n_train)
    skewed = np.round(frequency / frequency.mean() * n_train).astype(int)

    def training_cells(numbers):
        pools = [np.flatnonzero(labels == name)[n_new:] for name in names]
        return np.concatenate([rng.choice(pool, n, replace=False) for pool, n in zip(pools, numbers, strict=True)])

    new = np.concatenate([np.flatnonzero(labels == name)[:n_new] for name in names])
    found = {}
    for design, numbers in (("equal", wanted), ("skewed", skewed)):
        train = MuData(
            {"source": source[training_cells(wanted)].copy(), "target": target[training_cells(numbers)].copy()}
        )
        pb.model.PropensityAligner.setup_mudata(train, control="control")
        model = pb.model.PropensityAligner(train, seed=seed)
        model.train(enable_progress_bar=False)
        for kind, spelled in PRIOR_KINDS.items():
            x = model.get_propensity("source", source[new].copy(), kind=spelled)
            y = model.get_propensity("target", target[new].copy(), kind=spelled)
            for how, options in PRIOR_MATCHING.items():
                rows = couple(x, y, labels[new], labels[new], **options).rows()
                found[design, kind, how] = rows.diagonal().mean()
    return [
        {
            "method": kind,
            "matching": how,
            "equal frequencies": found["equal", kind, how] * n_new,
            "5-fold": found["skewed", kind, how] * n_new,
            "ratio": found["skewed", kind, how] / found["equal", kind, how],
        }
        for kind in PRIOR_KINDS
        for how in PRIOR_MATCHING
    ]


PARTS = {
    "vectors": (align_vectors, tuple(VECTORS), ["trace", "times random", "latent MSE", "expected MSE"]),
    "real": (align_real, REAL, ["trace", "times random", "FOSCTTM", "soft FOSCTTM"]),
    "translation": (translate_real, tuple(f"{a} to {b}" for a, b in DIRECTIONS), ["R2"]),
    "prior": (shift_priors, ("noise 0.3",), ["equal frequencies", "5-fold", "ratio"]),
}
TITLES = {
    "vectors": "Simulated vector views, 13 labels of 150 twins: share of matched mass on the twin, and error of latents",
    "real": "Real cells measured in both modalities; cell types as labels",
    "translation": "Prediction of one modality from the other, CITE-seq: R² of held-out cells",
    "prior": "Class frequencies of one modality changed 5-fold: times random on new twins",
}


def tables(part: str, runs: pd.DataFrame) -> list[str]:
    """Spread over seeds of every method, and paired differences."""
    scores = PARTS[part][2]
    by = ["scenario", "method", "matching"] if part == "prior" else ["scenario", "method"]
    text = [f"### {TITLES[part]}", to_markdown(summarise(runs, by, scores))]
    if part in {"vectors", "real"}:
        signed = runs.assign(**{one: -runs[one] for one in scores if "MSE" in one or "FOSCTTM" in one})
        for scenario, some in signed.groupby("scenario", sort=False):
            lines = [paired(some, OURS, other, ["seed"], [scores[0], scores[2]]) for other in METHODS if other != OURS]
            text.append(
                f"{scenario}, seeds in which {OURS} is better (errors with their sign turned):\n\n" + "\n".join(lines)
            )
    return text


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=list(PARTS), help="one table alone; nothing is published")
    add_arguments(parser)
    options = parser.parse_args()
    text: list[str] = []
    for part, (function, scenarios, _) in PARTS.items():
        if options.only in {None, part}:
            tasks = [{"scenario": scenario, "seed": seed} for scenario in scenarios for seed in range(options.seeds)]
            file = None if options.runs is None else options.runs.with_name(f"{options.runs.stem}_{part}.csv")
            text += tables(part, make_runs(function, tasks, runs=file, jobs=options.jobs))
    publish("alignment", text, packages=("perturbia", "torch", "scvi-tools", "POT"), write=options.only is None)


if __name__ == "__main__":
    main()
