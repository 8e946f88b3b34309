"""The screen of the demo: the bundled one, or the user's file, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.demo.options import DemoInputError
from perturbia.errors import LabelError, shorten

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.demo.options import DemoOptions

__all__ = ["Screen", "load_screen"]

INTERFERON_GAMMA = ("IFNGR1", "IFNGR2", "JAK2", "STAT1")
MAX_GENES = 2000
MIN_CELLS = 20
MIN_GENES = 3  # James-Stein shrinks no fewer


@dataclass
class Screen:
    """A screen, where its labels are, and what was done to it.

    Attributes
    ----------
    adata
        The data.
    title
        One line on what it is.
    perturbation_key, control, layer, batch_key
        Where labels, controls, counts and batches are.
    pathway
        Perturbations that are known to act together, empty if nothing is known.
    notes
        What was left out, in sentences.
    """

    adata: AnnData
    title: str
    perturbation_key: str
    control: str
    layer: str | None
    batch_key: str | None
    pathway: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str]:
        """Arguments that say where the labels are."""
        return {"perturbation_key": self.perturbation_key, "control": self.control}

    @property
    def counts(self) -> Any:
        """Matrix of counts."""
        return self.adata.X if self.layer is None else self.adata.layers[self.layer]


def load_screen(options: DemoOptions) -> Screen:
    """Load the screen of the options.

    Parameters
    ----------
    options
        Options of the demo.

    Returns
    -------
    The screen, checked: labels read, controls found, counts whole.

    Raises
    ------
    DemoInputError
        If the file can not be read or lacks what the options name.
    PerturbiaError
        If its labels or counts are not what a model can register.
    """
    if options.data is None:
        from perturbia.datasets import papalexi

        screen = Screen(
            papalexi(),
            "Knock-outs of regulators of immune checkpoints in stimulated THP-1 cells (ECCITE-seq, Papalexi et al. 2021)",
            "perturbation",
            "control",
            "counts",
            "replicate",
            INTERFERON_GAMMA,
        )
    else:
        screen = _read(options)
        _drop_rare(screen)
        _choose_genes(screen)
    if options.max_cells is not None and screen.adata.n_obs > options.max_cells:
        _subsample(screen, options.max_cells, options.seed)
    return screen


def _read(options: DemoOptions) -> Screen:
    import anndata

    path = options.data
    if path is None or not path.is_file():
        why = "is a folder" if path is not None and path.is_dir() else "does not exist"
        msg = f"--data: expected an h5ad file, got {str(path)!r}, which {why}. Check the path."
        raise DemoInputError(msg)
    try:
        adata = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:  # whatever h5py meets in a broken file
        msg = f"--data: expected an h5ad file, got {str(path)!r}, which could not be read ({error}). Write it anew."
        raise DemoInputError(msg) from error
    if adata.n_vars < MIN_GENES:
        msg = f"--data: expected {MIN_GENES} genes at the least, got {adata.n_vars}. Use more genes."
        raise DemoInputError(msg)
    screen = Screen(adata, path.name, options.perturbation_key, options.control, options.layer, options.batch_key)
    for option, key, have in (
        ("--perturbation-key", options.perturbation_key, list(adata.obs.columns)),
        ("--batch-key", options.batch_key, list(adata.obs.columns)),
        ("--layer", options.layer, list(adata.layers)),
    ):
        if key is not None and key not in have:
            where = "layer" if option == "--layer" else "column of obs"
            msg = (
                f"{option}: expected a {where}, got {key!r}; the file has {shorten(have) or 'none'}. Name one of them."
            )
            raise DemoInputError(msg)
    if not adata.obs_names.is_unique:
        adata.obs_names_make_unique()
        screen.notes.append("Duplicate cell names were numbered.")
    if not adata.var_names.is_unique:
        adata.var_names_make_unique()
        screen.notes.append("Duplicate gene names were numbered.")
    return screen


def _canonical(screen: Screen) -> np.ndarray:
    from perturbia.perturbation import design_from_labels

    argument = f"adata.obs[{screen.perturbation_key!r}]"
    labels = screen.adata.obs[screen.perturbation_key]
    return design_from_labels(labels, control=screen.control, argument=argument).labels()


def _drop_rare(screen: Screen) -> None:
    """Leave out perturbations of too few cells to train on and to judge."""
    from perturbia.model.base._features import check_features

    labels = pd.Series(_canonical(screen))
    check_features(screen.adata, screen.layer, "counts")
    count = labels.value_counts()
    rare = count.index[count < MIN_CELLS]
    if "control" in rare or (count.drop("control") >= MIN_CELLS).sum() < 2:
        msg = (
            f"--data: expected {MIN_CELLS} cells of the control and of two perturbations at the least, got "
            f"{count['control']} control cells and {(count.drop('control') >= MIN_CELLS).sum()} perturbations of that "
            "size. Use more cells."
        )
        raise LabelError(msg)
    if len(rare):
        screen.adata = screen.adata[~labels.isin(rare).to_numpy()].copy()
        screen.notes.append(f"{len(rare)} perturbations with fewer than {MIN_CELLS} cells were left out.")


def _choose_genes(screen: Screen) -> None:
    """Keep the most variable genes of a large matrix, and the cells that still have counts."""
    if screen.adata.n_vars <= MAX_GENES:
        return
    import scanpy as sc
    from anndata import AnnData

    from perturbia.stats import log1p_cp10k

    normalized = AnnData(log1p_cp10k(screen.counts))
    sc.pp.highly_variable_genes(normalized, n_top_genes=MAX_GENES)
    n_genes = screen.adata.n_vars
    screen.adata = screen.adata[:, normalized.var["highly_variable"].to_numpy()].copy()
    screen.notes.append(f"The {screen.adata.n_vars} most variable of {n_genes} genes are used.")
    empty = np.asarray(screen.counts.sum(axis=1)).ravel() == 0
    if empty.any():
        screen.adata = screen.adata[~empty].copy()
        screen.notes.append(f"{int(empty.sum())} cells without counts in these genes were left out.")


def _subsample(screen: Screen, n_cells: int, seed: int) -> None:
    chosen = np.sort(np.random.default_rng(seed).choice(screen.adata.n_obs, n_cells, replace=False))
    screen.notes.append(f"{n_cells} of {screen.adata.n_obs} cells, drawn at random, are used.")
    screen.adata = screen.adata[chosen].copy()
