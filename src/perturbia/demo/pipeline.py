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
from perturbia.demo.report import Report, TableSection
from perturbia.demo.scoring import COMBINED, MODEL, SEEN, UNSEEN, evaluate_seen, ranked, register, unranked, wide
from perturbia.demo.screen import Screen, load_screen
from perturbia.demo.verdict import judge, pathway_sentence, silent_sentence
from perturbia.demo.versions import version_of
from perturbia.tl._evaluation.ceiling import CEILING, REPEAT

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from rich.console import Console

    from perturbia.demo.options import DemoOptions
    from perturbia.model import SAMSVAE
    from perturbia.tl import EvaluationResult

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
    Path of `report.html`. Beside it: `figures/*.png`; the evaluations `seen/` and `unseen/`, as
    :meth:`perturbia.tl.EvaluationResult.save` writes them; `adata.h5ad` (with `obsm["X_samsvae"]`, `obsm["X_umap"]`,
    `obs["pb_split"]`); and the model in `model/`.

    Raises
    ------
    PerturbiaError
        If the data can not be used; nothing is written then.
    """
    started, cpu = time.perf_counter(), time.process_time()
    quiet()
    _say(console, 1, "Read the screen, register it and hold out cells")
    screen, model = _register(options)
    options.out.mkdir(parents=True, exist_ok=True)
    console.print(_describe(screen), highlight=False)
    _say(console, 2, "Train SAMS-VAE")
    model.train(enable_progress_bar=console.is_terminal, **options.train_options)
    _say(console, 3, "Judge it beside every baseline by the held-out cells")
    result = evaluate_seen(model, screen, seed=options.seed)
    seen = _seen_section(result)
    print_table(console, seen)
    _say(console, 4, "Simulate a screen and predict doubles that the models have not seen")
    doubles = score_unseen(options, progress=console.is_terminal)
    unseen = _unseen_section(doubles)
    print_table(console, unseen)
    _say(console, 5, "Embed, draw and write")
    tree, figures = _explain(options, screen, model, result)
    short = _conclusions(screen, tree, result, doubles)
    for sentence in short:
        console.print(f"• {sentence}", highlight=False)
    _save(options, screen, model, result, doubles)
    spent = (time.process_time() - cpu, time.perf_counter() - started)
    report = _report(options, screen, result, short, [seen, unseen], figures, spent)
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


def _describe(screen: Screen) -> str:
    from perturbia.perturbation._cell_design import design_of

    adata = screen.adata
    design = design_of(adata, perturbation_key=screen.perturbation_key, control=screen.control, sep="+")
    n_controls = int(design.is_control.sum())
    parts = adata.obs[_keys.OBS_SPLIT].value_counts()
    return (
        f"{screen.title}: {adata.n_obs:,} cells × {adata.n_vars:,} genes, {len(set(design.labels())) - 1} perturbations, "
        f"{n_controls:,} control cells. {parts['train']:,} cells train, {parts['valid']:,} validate, {parts['test']:,} are "
        f"held out and judge. {' '.join(screen.notes)}"
    ).strip()


MEANINGS = {
    "r": "Pearson correlation of predicted and observed effects, over all perturbations and genes at once.",
    "R2": "share of the variation of observed effects that is predicted; effects of the wrong size cost.",
    "top-20 r": "r on the 20 strongest genes of each perturbation, chosen on one half of the held-out cells and scored on "
    "the other.",
    "r each": "r over genes for each perturbation, mean over perturbations: weak ones count as much as strong ones.",
    "r centroid": "the same after the mean effect of all seen perturbations was taken off both sides: what is specific to "
    "a perturbation. The mean baseline has 0.",
    "retrieval": "share of the other observed effects that are farther from a prediction than its own, by cosine; .5 is "
    "chance.",
    "e-distance": "energy distance from predicted to held-out cells in 50 principal components, mean over perturbations; "
    "lower is better, 0 is equality up to noise, which may make it negative. SAMS-VAE draws cells, counts and all; every "
    "other row adds its effect to control cells that were seen.",
}


def _seen_section(result: EvaluationResult) -> TableSection:
    info = result.info
    few = f" {len(info['too_few_cells'])} perturbations have too few held-out cells." if info["too_few_cells"] else ""
    return TableSection(
        "Effects of seen perturbations, judged by held-out cells",
        f"Thirty per cent of the cells of every perturbation were seen; the rest says how large the effects of "
        f"{info['n_perturbations']} perturbations on {info['n_genes']:,} genes are.{few} This tests how well a method takes "
        "the noise out of what it saw, not whether it generalises. On single perturbations Additive, MatchingMean and "
        "MaxEffect repeat Empirical.",
        wide(result, SEEN),
        {
            **MEANINGS,
            REPEAT: "what another experiment with as many cells would score as a prediction, from halves of the held-out "
            "cells; corrected to full size, except for retrieval.",
            CEILING: "what the true effects would score, given the noise of the held-out cells.",
        },
        models=[MODEL, COMBINED],
        references=unranked(result),
        lower_is_better=["e-distance"],
    )


def _unseen_section(doubles: Doubles) -> TableSection:
    columns = UNSEEN.values()
    absent = " and ".join(name for name in ("Empirical", "JamesStein") if name in doubles.result.info["left_out"])
    return TableSection(
        "Doubles that nobody measured",
        f"A simulated screen of {doubles.n_singles} single perturbations and their doubles ({doubles.n_cells:,} cells, a "
        f"decoder that saturates, so that effects do not add up exactly). {doubles.n_unseen} doubles were never seen and "
        f"are judged by their true effects, which a simulation knows. {absent} have no answer for them.",
        wide(doubles.result, UNSEEN).drop(index=CEILING),
        {
            **{name: MEANINGS[name] for name in columns if name != "top-20 r"},
            "top-20 r": "r on the 20 genes of strongest true effect.",
            ORACLE: "reduced-rank ridge of the rank that predicts best, which only the truth can tell.",
            ADDED_TRUTH: "additivity without any noise: what it misses is interaction.",
        },
        models=[MODEL],
        references=[ORACLE, ADDED_TRUTH],
    )


def _explain(
    options: DemoOptions, screen: Screen, model: SAMSVAE, result: EvaluationResult
) -> tuple[AnnData, list[DrawnFigure]]:
    from perturbia.tl import mechanisms

    screen.adata.obsm[LATENT_KEY] = model.get_latent_representation()
    embed(screen.adata, use_rep=LATENT_KEY, max_cells=options.max_umap_cells, seed=options.seed)
    tree = mechanisms(model)
    return tree, draw_figures(screen, model, tree, result, options.out / "figures")


def _conclusions(screen: Screen, tree: AnnData, result: EvaluationResult, doubles: Doubles) -> list[str]:
    seen, unseen = wide(result, SEEN), wide(doubles.result, UNSEEN)
    mine, oracle = unseen.loc[MODEL, "R2"], unseen.loc[ORACLE, "R2"]
    return [
        "Seen perturbations: " + judge(seen, model=MODEL, scores=SEEN.values(), baselines=ranked(result)),
        "Seen perturbations: " + judge(seen, model=COMBINED, scores=SEEN.values(), baselines=ranked(result)),
        "Unseen doubles: "
        + judge(unseen, model=MODEL, scores=UNSEEN.values(), baselines=ranked(doubles.result))
        + f" The best-rank ridge, whose rank the truth chose, has an R2 of {oracle:.3f}, "
        + f"{'less' if mine > oracle else 'no less'} than {MODEL}.",
        f"Simulated mechanisms: latents were found with a mean correlation of {doubles.latent_mcc:.2f}, masks with an F1 of "
        f"{doubles.mask_f1:.2f}.",
        *([sentence] if (sentence := pathway_sentence(tree, screen.pathway)) else []),
        silent_sentence(tree),
        "One split and one seed: differences in the third digit are luck.",
    ]


def _save(options: DemoOptions, screen: Screen, model: SAMSVAE, result: EvaluationResult, doubles: Doubles) -> None:
    result.save(options.out / "seen")
    doubles.result.save(options.out / "unseen")
    model.save(str(options.out / "model"), overwrite=True)
    screen.adata.write_h5ad(options.out / "adata.h5ad")


def _report(
    options: DemoOptions,
    screen: Screen,
    result: EvaluationResult,
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
    first = screen.pathway[0] if screen.pathway else result.observed.obs_names[0]
    steps = [
        ("import anndata, perturbia as pb, scanpy as sc", ""),
        ('report = pb.tl.EvaluationResult.load("seen")', "every score, effect and interval"),
        ('adata = anndata.read_h5ad("adata.h5ad")', "counts, split, latents, UMAP"),
        ('model = pb.model.SAMSVAE.load("model", adata=adata)', ""),
        ("masks = model.get_treatment_masks()", "which latents every perturbation moves"),
        (f'cells = model.predict(adata, "{first}")', "control cells under a perturbation"),
        (f'sc.pl.umap(adata, color="{screen.perturbation_key}")', ""),
    ]
    code = "\n".join(f"{step:<56}# {comment}" if comment else step for step, comment in steps)
    return Report(
        title="Perturbia on a perturbation screen",
        lead=_describe(screen),
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
