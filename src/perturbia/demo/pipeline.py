"""The demo from end to end."""

from __future__ import annotations

import logging
import platform
import resource
import sys
import time
from typing import TYPE_CHECKING

from perturbia import _keys
from perturbia.demo.console import print_table, quiet
from perturbia.demo.doubles import ADDED_TRUTH, ORACLE, Doubles, score_unseen
from perturbia.demo.figures import DrawnFigure, draw_figures, embed
from perturbia.demo.held_out import MIN_POPULATION, HeldOut
from perturbia.demo.report import Report, TableSection
from perturbia.demo.scoring import (
    BASELINES,
    CEILING,
    COMBINED,
    DISTANCE,
    LIKELIHOOD,
    MODEL,
    REPEAT,
    fit_baselines,
    register,
    score_seen,
)
from perturbia.demo.screen import Screen, load_screen
from perturbia.demo.verdict import judge, pathway_sentence, silent_sentence
from perturbia.demo.versions import version_of

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from rich.console import Console

    from perturbia.demo.options import DemoOptions
    from perturbia.model import SAMSVAE

__all__ = ["run_demo"]

logger = logging.getLogger(__name__)

TRAIN_SHARE = 0.3
LATENT_KEY = "X_samsvae"


def run_demo(options: DemoOptions, console: Console) -> Path:
    """Run the demo and write its folder.

    Parameters
    ----------
    options
        Options.
    console
        Where to print steps and tables.

    Returns
    -------
    Path of `report.html`. Beside it: `figures/*.png`, `scores_seen.csv`, `scores_unseen.csv`, `adata.h5ad` (with
    `obsm["X_samsvae"]`, `obsm["X_umap"]`, `obs["pb_split"]`) and the model in `model/`.

    Raises
    ------
    PerturbiaError
        If the data can not be used; nothing is written then.
    """
    started, cpu = time.perf_counter(), time.process_time()
    quiet()
    _say(console, 1, "Read the screen, register it and hold out cells")
    screen, model = _register(options)
    held_out = HeldOut.measure(screen, seed=options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    console.print(_describe(screen, held_out), highlight=False)
    _say(console, 2, "Train SAMS-VAE")
    model.train(enable_progress_bar=console.is_terminal, **options.train_options)
    _say(console, 3, "Judge it beside every baseline by the held-out cells")
    table, predicted = score_seen(
        model, fit_baselines(screen), held_out, likelihood_budget=options.likelihood_budget, seed=options.seed
    )
    seen = _seen_section(table, held_out)
    print_table(console, seen)
    _say(console, 4, "Simulate a screen and predict doubles that the models have not seen")
    doubles = score_unseen(options, progress=console.is_terminal)
    unseen = _unseen_section(doubles)
    print_table(console, unseen)
    _say(console, 5, "Embed, draw and write")
    tree, figures = _explain(options, screen, model, table, predicted, held_out)
    short = _conclusions(screen, tree, table, doubles)
    for sentence in short:
        console.print(f"• {sentence}", highlight=False)
    _save(options, screen, model, table, doubles)
    spent = (time.process_time() - cpu, time.perf_counter() - started)
    report = _report(options, screen, held_out, short, [seen, unseen], figures, spent)
    path = options.out / "report.html"
    path.write_text(report.to_html(), encoding="utf-8")
    console.print(f"\nOpen [bold]{path}[/bold] · {spent[0]:.0f} CPU-seconds, {_peak_memory():.2f} GB at the peak")
    return path


def _say(console: Console, step: int, text: str) -> None:
    console.print(f"\n[bold]{step}/5[/bold] {text}")


def _register(options: DemoOptions) -> tuple[Screen, SAMSVAE]:
    from perturbia.model import SAMSVAE
    from perturbia.tl import split

    screen = load_screen(options)
    split(screen.adata, fraction=TRAIN_SHARE, seed=options.seed, **screen.labels)
    register(SAMSVAE, screen)
    return screen, SAMSVAE(screen.adata, seed=options.seed)


def _describe(screen: Screen, held_out: HeldOut) -> str:
    adata = screen.adata
    n_controls = int((held_out.labels == "control").sum())
    parts = adata.obs[_keys.OBS_SPLIT].value_counts()
    return (
        f"{screen.title}: {adata.n_obs:,} cells × {adata.n_vars:,} genes, {len(set(held_out.labels)) - 1} perturbations, "
        f"{n_controls:,} control cells. {parts['train']:,} cells train, {parts['valid']:,} validate, {parts['test']:,} are "
        f"held out and judge. {' '.join(screen.notes)}"
    ).strip()


def _seen_section(table: pd.DataFrame, held_out: HeldOut) -> TableSection:
    return TableSection(
        "Effects of seen perturbations, judged by held-out cells",
        f"Thirty per cent of the cells of every perturbation were seen; the rest says how large the effects of "
        f"{len(held_out.perturbations)} perturbations on {held_out.observed.n_vars:,} genes are. This tests how well a "
        "method takes the noise out of what it saw, not whether it generalises. On single perturbations Additive and "
        "MatchingMean repeat Empirical.",
        table,
        {
            LIKELIHOOD: "importance-weighted bound on the log likelihood of a held-out cell, in nats, of SAMS-VAE. "
            "Baselines have none; it does not rank effects.",
            "r": "Pearson correlation of predicted and observed effects, over all perturbations and genes.",
            "R2": "share of the variation of observed effects that is predicted; effects of the wrong size cost.",
            "top-20 r": "r on the 20 strongest genes of each perturbation, chosen on one half of the held-out cells and "
            "scored on the other.",
            DISTANCE: "energy distance from predicted to held-out cells in 50 principal components, mean over "
            "perturbations; lower is better, 0 is equality up to noise, which may make it negative. SAMS-VAE draws cells, counts and all; every other row adds "
            "its effect to control cells that were seen. Not defined (n/a) where no perturbation has "
            f"{MIN_POPULATION} held-out cells.",
            REPEAT: "what another experiment with as many cells would score as a prediction, from split halves by "
            "Spearman-Brown.",
            CEILING: "what the true effects would score: the square root of that, given the noise of the held-out cells.",
        },
        models=[MODEL, COMBINED],
        references=[REPEAT, CEILING],
        lower_is_better=[DISTANCE],
        digits={LIKELIHOOD: 1},
    )


def _unseen_section(doubles: Doubles) -> TableSection:
    return TableSection(
        "Doubles that nobody measured",
        f"A simulated screen of {doubles.n_singles} single perturbations and their doubles ({doubles.n_cells:,} cells, a "
        f"decoder that saturates, so that effects do not add up exactly). {doubles.n_unseen} doubles were never seen and "
        "are judged by their true effects, which a simulation knows. Empirical and JamesStein have no answer for them.",
        doubles.table,
        {
            "r": "Pearson correlation of predicted and true effects, over all unseen doubles and genes.",
            "R2": "share of the variation of true effects that is predicted.",
            "top-20 r": "r on the 20 genes of strongest true effect.",
            ORACLE: "reduced-rank ridge of the rank that predicts best, which only the truth can tell.",
            ADDED_TRUTH: "additivity without any noise: what it misses is interaction.",
        },
        models=[MODEL],
        references=[ORACLE, ADDED_TRUTH],
    )


def _explain(
    options: DemoOptions,
    screen: Screen,
    model: SAMSVAE,
    table: pd.DataFrame,
    predicted: dict[str, AnnData],
    held_out: HeldOut,
) -> tuple[AnnData, list[DrawnFigure]]:
    from perturbia.tl import mechanisms

    screen.adata.obsm[LATENT_KEY] = model.get_latent_representation()
    embed(screen.adata, use_rep=LATENT_KEY, max_cells=options.max_umap_cells, seed=options.seed)
    tree = mechanisms(model)
    folder = options.out / "figures"
    return tree, draw_figures(screen, model, tree, table, predicted, held_out.observed, folder)


def _conclusions(screen: Screen, tree: AnnData, table: pd.DataFrame, doubles: Doubles) -> list[str]:
    scores = ["r", "R2", "top-20 r"]
    mine, oracle = doubles.table.loc[MODEL, "R2"], doubles.table.loc[ORACLE, "R2"]
    return [
        "Seen perturbations: " + judge(table, model=MODEL, scores=[*scores, DISTANCE], baselines=BASELINES),
        "Seen perturbations: " + judge(table, model=COMBINED, scores=[*scores, DISTANCE], baselines=BASELINES),
        "Unseen doubles: "
        + judge(doubles.table, model=MODEL, scores=scores, baselines=BASELINES)
        + f" The best-rank ridge, whose rank the truth chose, has an R2 of {oracle:.3f}, "
        + f"{'less' if mine > oracle else 'no less'} than {MODEL}.",
        f"Simulated mechanisms: latents were found with a mean correlation of {doubles.latent_mcc:.2f}, masks with an F1 of "
        f"{doubles.mask_f1:.2f}.",
        *([sentence] if (sentence := pathway_sentence(tree, screen.pathway)) else []),
        silent_sentence(tree),
        "One split and one seed: differences in the third digit are luck.",
    ]


def _save(options: DemoOptions, screen: Screen, model: SAMSVAE, table: pd.DataFrame, doubles: Doubles) -> None:
    table.to_csv(options.out / "scores_seen.csv", index_label="method")
    doubles.table.to_csv(options.out / "scores_unseen.csv", index_label="method")
    model.save(str(options.out / "model"), overwrite=True)
    screen.adata.write_h5ad(options.out / "adata.h5ad")


def _report(
    options: DemoOptions,
    screen: Screen,
    held_out: HeldOut,
    short: list[str],
    tables: list[TableSection],
    figures: list[DrawnFigure],
    spent: tuple[float, float],
) -> Report:
    from perturbia.citation import cite

    versions = ", ".join(
        f"{name} {version_of(name)}" for name in ("perturbia", "scvi-tools", "torch", "anndata", "scanpy")
    )
    sources = ["SAMSVAE", "JamesStein", "LowRank", "scanpy"] + ([] if options.data else ["papalexi"])
    first = screen.pathway[0] if screen.pathway else held_out.perturbations[0]
    steps = [
        ("import anndata, perturbia as pb, scanpy as sc", ""),
        ('adata = anndata.read_h5ad("adata.h5ad")', "counts, split, latents, UMAP"),
        ('model = pb.model.SAMSVAE.load("model", adata=adata)', ""),
        ("masks = model.get_treatment_masks()", "which latents every perturbation moves"),
        (f'cells = model.predict(adata, "{first}")', "control cells under a perturbation"),
        (f'sc.pl.umap(adata, color="{screen.perturbation_key}")', ""),
    ]
    code = "\n".join(f"{step:<56}# {comment}" if comment else step for step, comment in steps)
    return Report(
        title="Perturbia on a perturbation screen",
        lead=_describe(screen, held_out),
        warning="Fast run: few cells and few steps, to see that everything works. The numbers mean nothing."
        if options.fast
        else "",
        short=short,
        tables=tables,
        figures=figures,
        code=code,
        citations=cite(*sources),
        footer=f"Seed {options.seed}. {versions}, Python {platform.python_version()}. {spent[0]:.0f} CPU-seconds, "
        f"{spent[1]:.0f} seconds, {_peak_memory():.2f} GB at the peak.",
    )


def _peak_memory() -> float:
    """Largest resident size of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
