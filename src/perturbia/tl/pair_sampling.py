"""Pairs of cells drawn from a stored coupling, for models that need paired modalities."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.model.alignment._modalities import check_mudata
from perturbia.model.alignment.coupling_storage import read_coupling
from perturbia.stats._row_draws import RowDraws

if TYPE_CHECKING:
    from mudata import MuData

__all__ = ["sample_pairs"]


def sample_pairs(
    mdata: MuData,
    *,
    coupling: str = "coupling",
    source: str | None = None,
    target: str | None = None,
    n_draws: int = 1,
    as_mudata: bool = False,
    seed: int = 0,
) -> pd.DataFrame | MuData:
    """Draw a target cell for each source cell, in proportion to the coupling.

    Parameters
    ----------
    mdata
        Data with a stored coupling.
    coupling
        Its key.
    source
        Modality of which each matched cell is drawn for; either side of the coupling. As stored by default.
    target
        Modality of the cells that are drawn.
    n_draws
        Draws for each source cell.
    as_mudata
        Whether to return paired MuData, as totalVI and MultiVI want it, in place of a table.
    seed
        Seed of the draws.

    Returns
    -------
    Table with one row a pair: `source` and `target` (names of cells), `source_index` and `target_index` (positions,
    int64). Or MuData of both modalities whose cells, ``"pair_0"``, …, are the pairs; `obs["pb_source"]` keeps the names
    that they had. Cells without match are left out.

    Raises
    ------
    KeyError, ModalityError
        If there is no such coupling, or it does not join these modalities.
    ValueError
        If `n_draws` is not positive.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> _ = pb.tl.align(mdata, use_rep="truth_log_ratio")
    >>> pb.tl.sample_pairs(mdata, n_draws=2).shape
    (200, 4)
    >>> pb.tl.sample_pairs(mdata, as_mudata=True).n_obs
    100
    """
    check_mudata(mdata, writes=False)
    if not (isinstance(n_draws, int | np.integer) and n_draws > 0):
        msg = f"n_draws: expected a positive number, got {n_draws!r}."
        raise ValueError(msg)
    stored = read_coupling(mdata, coupling, source=source, target=target)
    draws = RowDraws(stored.matrix)
    uniform = np.random.default_rng(seed).random((stored.source.n_obs, n_draws))
    rows = np.repeat(draws.matched, n_draws)
    columns = draws.columns(draws.matched, uniform[draws.matched]).ravel()
    table = pd.DataFrame(
        {
            "source": stored.source.obs_names[rows],
            "target": stored.target.obs_names[columns],
            "source_index": rows,
            "target_index": columns,
        }
    )
    if not as_mudata:
        return table
    from mudata import MuData

    paired = {}
    for name, adata, positions in (
        (stored.source_name, stored.source, rows),
        (stored.target_name, stored.target, columns),
    ):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Observation names are not unique")  # until they get those of the pairs
            cells = adata[positions].copy()
        cells.obs[_keys.OBS_SOURCE] = cells.obs_names.to_numpy()
        cells.obs_names = [f"pair_{i}" for i in range(len(positions))]
        paired[name] = cells
    return MuData(paired)
