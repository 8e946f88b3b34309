"""The figures of the report, and their captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perturbia.demo.scoring import COMBINED, MODEL, ranked
from perturbia.demo.verdict import pathway_sentence, silent_sentence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.figure import Figure

    from perturbia.demo.screen import Screen
    from perturbia.model import SAMSVAE
    from perturbia.tl import EvaluationResult

__all__ = ["DrawnFigure", "draw_figures", "embed"]

DPI = 140


@dataclass(frozen=True)
class DrawnFigure:
    """A figure on disk.

    Attributes
    ----------
    title
        Heading.
    path
        The PNG file.
    caption
        What it shows, in sentences.
    width
        Width on the page in CSS pixels, so that letters of all figures are of one size.
    """

    title: str
    path: Path
    caption: str
    width: int


def embed(adata: AnnData, *, use_rep: str, max_cells: int, seed: int) -> None:
    """Write `obsm["X_umap"]`: scanpy's UMAP, of a random part of the cells if there are many (NaN for the others)."""
    import warnings

    import scanpy as sc
    import torch
    from anndata import AnnData

    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(adata.n_obs)[:max_cells])
    part = AnnData(adata.obsm[use_rep][chosen])
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside scanpy, numba and umap-learn
        # exact neighbours: of some tens of thousands of cells in twenty dimensions they cost less than approximate ones
        sc.pp.neighbors(part, use_rep="X", transformer="sklearn", random_state=seed)
        sc.tl.umap(part, random_state=seed)
    # scanpy's neighbours leave torch with all threads, which slows a later training of small networks several times
    torch.set_num_threads(threads)
    coordinates = np.full((adata.n_obs, 2), np.nan, dtype=np.float32)
    coordinates[chosen] = part.obsm["X_umap"]
    adata.obsm["X_umap"] = coordinates


def draw_figures(
    screen: Screen, model: SAMSVAE, tree: AnnData, result: EvaluationResult, folder: Path
) -> list[DrawnFigure]:
    """Draw every figure of the report.

    Parameters
    ----------
    screen
        The screen, with `obsm["X_umap"]`.
    model
        The trained model.
    tree
        Its mechanisms.
    result
        The evaluation on held-out cells.
    folder
        Where to save PNG files.

    Returns
    -------
    The figures, in the order of the report.
    """
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, title, caption, figure in _figures(screen, model, tree, result):
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DPI)
        plt.close(figure)
        drawn.append(DrawnFigure(title, path, caption, round(84 * figure.get_figwidth())))
    return drawn


def _figures(
    screen: Screen, model: SAMSVAE, tree: AnnData, result: EvaluationResult
) -> Iterator[tuple[str, str, str, Figure]]:
    import matplotlib.pyplot as plt

    from perturbia import pl

    strongest = _strongest(tree, screen.pathway)
    yield (
        "scores",
        "Scores on held-out cells",
        "Means over perturbations with 95 % intervals; faint points are single perturbations. Models in colour, baselines in "
        "blue. The dashed line is what the true effects would score, given the noise of the held-out cells, the dotted one a "
        "second experiment; a score left of the axis is drawn as an arrow.",
        pl.metric_strip(result, metrics=["correlation", "correlation_systema", "top20", "retrieval_cosine"]),
    )
    colours = ["perturbation"] + (["batch"] if screen.batch_key else [])
    figure, axes = plt.subplots(1, len(colours), figsize=(5.6 * len(colours), 4.4), layout="constrained", squeeze=False)
    pl.latent(
        screen.adata, color=screen.perturbation_key, groups=strongest, control=screen.control, ax=axes[0, 0],
        title="perturbations of strongest shift",
    )  # fmt: skip
    if screen.batch_key:
        pl.latent(screen.adata, color=screen.batch_key, ax=axes[0, 1])
    n_cells = int(np.isfinite(screen.adata.obsm["X_umap"]).all(axis=1).sum())
    yield (
        "latent",
        "The latent space",
        f"UMAP of the latent states of {n_cells:,} cells. A perturbation that changes cells stands apart from the controls; "
        "batches that lie on one another were corrected for.",
        figure,
    )
    yield (
        "mechanisms",
        "What every perturbation moves",
        f"{pathway_sentence(tree, screen.pathway)} {silent_sentence(tree)}".strip(),
        pl.mechanisms(tree, highlight=screen.pathway),
    )
    r = result.summary(metrics=["correlation_all"])["value"]["correlation_all"]
    baseline = str(r[ranked(result)].idxmax())
    shown = [MODEL, COMBINED, baseline]
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), layout="constrained")
    for ax, name in zip(axes, shown, strict=True):
        last = name == shown[-1]
        pl.scatter_effects(result, model=name, highlight=strongest, title=name, legend=last, ax=ax)
    yield (
        "effects",
        "Predicted against observed effects",
        f"One point for each of {result.observed.n_obs} perturbations and {result.observed.n_vars} genes; observed effects "
        f"are those of held-out cells. {baseline} is the baseline of highest r. Points on a vertical line at zero are "
        "effects that a method does not see, or noise of the held-out cells.",
        figure,
    )
    yield (
        "training",
        "Training",
        f"Negative evidence lower bound per cell; lower is better. The last epoch may be a partial one. {_overfit(model)}",
        pl.training(model).figure,
    )


def _overfit(model: SAMSVAE) -> str:
    """Say so where the networks fit their cells better and others worse."""
    history = model.history or {}
    if "elbo_validation" not in history or len(history["elbo_validation"]) < 2:
        return ""
    values = history["elbo_validation"].to_numpy(dtype=float).ravel()
    if values[-1] - values.min() < 0.5:
        return "Validation cells stay close to their best value."
    return (
        f"Validation cells end {values[-1] - values.min():.1f} nats above their best value: the networks fit the training "
        "cells ever more closely. Whether that costs effects is for the table to say."
    )


def _strongest(tree: AnnData, first: tuple[str, ...], *, n: int = 7) -> list[str]:
    """The pathway, then the perturbations of largest shift."""
    size = np.linalg.norm(tree.X, axis=1)
    ranked = [name for name in tree.obs_names[np.argsort(-size, kind="stable")] if name not in first]
    known = [name for name in first if name in set(tree.obs_names)]
    return (known + ranked)[: max(n, len(known))]
