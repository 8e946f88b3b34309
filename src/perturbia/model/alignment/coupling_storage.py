"""Couplings on MuData: joint masses in obsp, how they came about in uns."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbia import _keys
from perturbia.errors import ModalityError, shorten
from perturbia.model.alignment._modalities import positions_in
from perturbia.model.alignment._shared_labels import shared_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

    from perturbia.stats.coupling import Coupling
    from perturbia.stats.transport_cost import Cost

__all__ = ["StoredCoupling", "read_coupling", "write_coupling"]

_SCHEMA = 1


class StoredCoupling:
    """A coupling as `mdata` holds it, from the side that was asked for.

    Attributes
    ----------
    matrix
        Joint masses, CSR float64, shape (n_source, n_target): cells of the two modalities in their own order.
    source, target
        The modalities.
    source_name, target_name
        Their names.
    metadata
        What `mdata.uns` says of it.
    """

    def __init__(self, mdata: MuData, matrix: sp.csr_matrix, names: tuple[str, str], metadata: dict[str, Any]) -> None:
        self.matrix, self.metadata = matrix, metadata
        self.source_name, self.target_name = names
        self.source: AnnData = mdata.mod[names[0]]
        self.target: AnnData = mdata.mod[names[1]]

    def conditional(self) -> sp.csr_matrix:
        """Rows divided by their sums; empty for cells without match.

        Returns
        -------
        CSR float64, shape (n_source, n_target).
        """
        sums = np.asarray(self.matrix.sum(1)).ravel()
        scale = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
        return (sp.diags_array(scale) @ self.matrix).tocsr()

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of the shared label of every source and every target cell.

        Returns
        -------
        Both int64; -1 where the other modality lacks the label.
        """
        control = [str(one) for one in np.atleast_1d(self.metadata.get("control", []))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # who has no partners was said when they were aligned
            labels = shared_labels(
                {self.source_name: self.source, self.target_name: self.target},
                str(self.metadata["perturbation_key"]),
                control=control or None,
                sep=str(self.metadata.get("sep", "")) or None,
            )
        return labels.codes[self.source_name], labels.codes[self.target_name]

    def coupling(self) -> Coupling:
        """The same as an object, one block a perturbation.

        Returns
        -------
        The coupling.
        """
        from perturbia.stats.coupling import Coupling

        source, target = self.codes()
        return Coupling.from_matrix(self.matrix, source_groups=source, target_groups=target)


def write_coupling(
    mdata: MuData,
    coupling: Coupling,
    names: Mapping[str, str],
    key: str,
    *,
    points: Mapping[str, np.ndarray],
    cost: Cost,
    keep: tuple[float, int],
    about: dict[str, Any],
    perturbation_key: str,
    control: str | Sequence[str] | None,
    sep: str | None,
) -> None:
    """Store a coupling.

    Parameters
    ----------
    mdata
        The data; `obsp[key]` and `uns[key]` are written, and columns of `obs` of both modalities: certainty and cost of
        matches (source), hubness (target).
    coupling
        Source × target cells.
    names
        Role (``"source"``, ``"target"``) → name of the modality.
    key
        Where.
    points, cost
        Role → coordinates that were matched, and their cost; not used for Gromov-Wasserstein, whose spaces differ.
    keep
        Share of the mass of a row to keep, and its entries at most.
    about
        Further plain values for `uns`.
    perturbation_key, control, sep
        How labels were read.
    """
    from importlib.metadata import version

    source, target = (mdata.mod[names[role]] for role in ("source", "target"))
    has_cost = coupling.parameters.get("method") != "gw"
    statistics = coupling.statistics(_cost_between(points, cost) if has_cost else None)
    short = coupling.truncate(*keep)
    at = [positions_in(mdata, adata) for adata in (source, target)]
    matrix = short.to_sparse(1.0, np.iinfo(np.int64).max).tocoo()
    stored = sp.csr_matrix(
        (matrix.data.astype(np.float32), (at[0][matrix.row], at[1][matrix.col])), shape=(mdata.n_obs, mdata.n_obs)
    )
    table = short.table
    table.insert(0, "perturbation", table.index.to_numpy())
    table.index = pd.RangeIndex(len(table)).astype(str)
    mdata.obsp[key] = stored
    mdata.uns[key] = {
        "schema": _SCHEMA,
        "kind": "coupling",
        "source": names["source"],
        "target": names["target"],
        **coupling.parameters,
        "perturbation_key": perturbation_key,
        "control": [] if control is None else [control] if isinstance(control, str) else list(control),
        "sep": sep or "",
        **about,
        "keep_mass": float(keep[0]),
        "keep_entries": int(keep[1]),
        "version": version("perturbia"),
        "table": table,
    }
    source.obs[key + _keys.SUFFIX_N_EFFECTIVE] = statistics.n_effective
    source.obs[key + _keys.SUFFIX_COST] = statistics.cost
    target.obs[key + _keys.SUFFIX_HUBNESS] = statistics.hubness


def _cost_between(points: Mapping[str, np.ndarray], cost: Cost) -> Any:
    """Function of positions that gives the costs between source and target cells."""
    from perturbia.stats.transport_cost import PairCost

    def between(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return PairCost(points["source"][rows], points["target"][columns], cost).tile(slice(None)).numpy()

    return between


def read_coupling(mdata: MuData, key: str, *, source: str | None = None, target: str | None = None) -> StoredCoupling:
    """Read a stored coupling, from either side.

    Parameters
    ----------
    mdata
        The data.
    key
        Where it was stored.
    source, target
        Modalities that rows and columns are to be; as stored by default.

    Returns
    -------
    :class:`StoredCoupling`.

    Raises
    ------
    KeyError
        If there is no coupling under `key`.
    ModalityError
        If it does not join these modalities.
    ValueError
        If modalities were changed without ``mdata.update()``.
    """
    metadata = mdata.uns.get(key)
    if key not in mdata.obsp or not isinstance(metadata, dict) or metadata.get("kind") != "coupling":
        held = [name for name in mdata.obsp if isinstance(mdata.uns.get(name), dict)]
        msg = (
            f"coupling: expected the key of a coupling in mdata.obsp and mdata.uns, got {key!r}; there are "
            f"{shorten(held) or 'none'}. Run perturbia.tl.align first."
        )
        raise KeyError(msg)
    stored = (str(metadata["source"]), str(metadata["target"]))
    source = source or (stored[0] if target != stored[0] else stored[1])
    target = target or (stored[1] if source != stored[1] else stored[0])
    if {source, target} != set(stored):
        msg = (
            f"source, target: expected the modalities that {key!r} joins, {stored[0]!r} and {stored[1]!r}, got "
            f"{source!r} and {target!r}."
        )
        raise ModalityError(msg)
    for name in stored:
        if name not in mdata.mod:
            msg = f"coupling: expected the modality {name!r} in mdata, got {shorten(mdata.mod)}."
            raise ModalityError(msg)
    rows, columns = (positions_in(mdata, mdata.mod[name]) for name in stored)
    matrix = sp.csr_matrix(mdata.obsp[key], dtype=np.float64)[rows][:, columns]
    matrix.eliminate_zeros()  # what float32 could not hold is no match
    matrix = matrix if source == stored[0] else matrix.T
    return StoredCoupling(mdata, matrix.tocsr(), (source, target), dict(metadata))
