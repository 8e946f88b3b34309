"""How well a trained sVAE+ explains interventions that it never saw, given a few of their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from perturbia.errors import UnsupportedQuery
from perturbia.perturbation import dosage_labels
from perturbia.perturbation._copies import in_memory
from perturbia.stats._settings import check_seed

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.model import SVAE

__all__ = ["transfer_interventions"]

_SPLIT = "pb_transfer"


def transfer_interventions(
    model: SVAE,
    adata: AnnData,
    *,
    fraction: float = 0.5,
    max_cells: int | None = None,
    min_cells: int = 10,
    sparse: bool = False,
    n_particles: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit held-out interventions on some of their cells and judge the likelihood of the others.

    Networks stay as they are; only the shift of each new intervention is fitted
    (:meth:`~perturbia.model.SVAE.fit_interventions`). The likelihood of the judging cells under it is set beside that under no
    shift at all, which any number of cells would have to beat.

    Parameters
    ----------
    model
        Trained model.
    adata
        Cells of interventions that the model has not seen, and of others, which are passed over. Is left as it is.
    fraction
        Share of an intervention's cells to fit on; the others judge.
    max_cells
        Fit on no more cells of an intervention than these.
    min_cells
        Interventions with fewer cells are left out.
    sparse
        Find masks of the new interventions too.
    n_particles
        Draws per cell of the bound on its likelihood; the publication takes 1,000.
    seed
        Seed of the split and of the draws.

    Returns
    -------
    Data frame, one row a new intervention: `n_fit` and `n_judge` cells, `iwelbo`, nats per judging cell with the fitted shift,
    `iwelbo_unshifted`, without any, and their difference, `gain`. `attrs["iwelbo"]` is the mean over interventions, each
    counting the same, as published.

    Raises
    ------
    UnsupportedQuery
        If no intervention in `adata` is new, or has cells enough.
    ValueError
        If `fraction` is no share strictly between 0 and 1.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_svae(n_perturbations=10, n_genes=20, n_latent=3, n_hidden=10, library_size=1e3)
    >>> held_out = adata.obs["held_out"].to_numpy()
    >>> known = adata[~held_out].copy()
    >>> pb.model.SVAE.setup_anndata(known, layer="counts", perturbation_key="perturbation", control=None)
    >>> model = pb.model.SVAE(known, n_latent=3, n_hidden=16, n_layers=1)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> pb.tl.transfer_interventions(model, adata[held_out], n_particles=5).index.tolist()
    ['P09', 'P10']

    References
    ----------
    Lopez, R. et al. (2023). Learning causal representations of single cells via sparse mechanism shift modeling. CLeaR.
    Section 5, the evaluation on unseen interventions.
    """
    if not 0 < fraction < 1:
        msg = f"fraction: expected a share strictly between 0 and 1, got {fraction!r}."
        raise ValueError(msg)
    check_seed(seed)
    key = model.registry["setup_args"]["perturbation_key"]
    if key is None or key not in adata.obs:
        msg = f"adata: expected labels in obs[{key!r}], as the model was registered with."
        raise UnsupportedQuery(msg)
    labels = adata.obs[key].astype(str).to_numpy()
    names, counts = np.unique(labels, return_counts=True)
    known = {*model.perturbations, *_controls(model)}
    new = [str(name) for name, n in zip(names, counts, strict=True) if name not in known and n >= min_cells]
    if not new:
        msg = f"adata: expected {min_cells} cells or more of interventions that the model does not know, got none."
        raise UnsupportedQuery(msg)
    cells = in_memory(adata[np.isin(labels, new)])
    cells.obs[_SPLIT] = _split(cells.obs[key].astype(str).to_numpy(), new, fraction, max_cells, seed)
    fitted = model.fit_interventions(cells, sparse=sparse, split_key=_SPLIT)
    judging = np.flatnonzero((cells.obs[_SPLIT] == "test").to_numpy())
    options = {"indices": judging, "n_particles": n_particles, "seed": seed}
    shifted = fitted.get_iwelbo(**options)
    fresh = [fitted.perturbations.index(name) for name in new]
    _take_shifts_off(fitted, fresh)
    unshifted = fitted.get_iwelbo(**options)
    group = dosage_labels(fitted._registered_dosage(cells, judging), fitted.perturbations)
    table = pd.DataFrame({"iwelbo": shifted.to_numpy(), "iwelbo_unshifted": unshifted.to_numpy()})
    table = table.groupby(np.asarray(group)).mean().loc[new]
    parts = cells.obs.groupby([cells.obs[key].astype(str), _SPLIT], observed=True).size().unstack(fill_value=0)
    table.insert(0, "n_fit", parts.loc[new, "train"].to_numpy())
    table.insert(1, "n_judge", parts.loc[new, "test"].to_numpy())
    table["gain"] = table["iwelbo"] - table["iwelbo_unshifted"]
    table.attrs = {"iwelbo": float(table["iwelbo"].mean()), "n_particles": n_particles}
    return table.rename_axis("intervention")


def _controls(model: SVAE) -> list[str]:
    control = model.registry["setup_args"]["control"]
    return [] if control is None else [control] if isinstance(control, str) else list(control)


def _split(labels: np.ndarray, names: list[str], fraction: float, max_cells: int | None, seed: int) -> np.ndarray:
    """`train` for the cells to fit on, `test` for those that judge, and `rest` beyond `max_cells`."""
    rng = np.random.default_rng(seed)
    out = np.full(len(labels), "test", dtype=object)
    for name in names:
        order = rng.permutation(np.flatnonzero(labels == name))
        n_fit = min(max(round(fraction * len(order)), 1), len(order) - 1)
        out[order[:n_fit]] = "train"
        if max_cells is not None:
            out[order[:n_fit][max_cells:]] = "rest"
    return out


@torch.no_grad()
def _take_shifts_off(model: SVAE, rows: list[int]) -> None:
    effects = model.module.effects
    chosen = torch.tensor(rows, device=model.device)
    zeros = torch.zeros(effects.mean.shape, dtype=torch.float64)
    effects.assign(zeros, zeros, zeros + 1e-3, rows=chosen)
