"""Energy distances between the cells of perturbations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._representation import read_representation
from perturbia.perturbation._row_order import rank_by_name
from perturbia.stats import pairwise_energy_distance
from perturbia.stats._membership import place_within
from perturbia.stats._settings import check_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["edistance"]

_CONTROL = "control"  # what canonical labels call the cells without a target


def edistance(
    adata: AnnData,
    *,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] | None = None,
    pairwise: bool | None = None,
    sep: str = "+",
    use_rep: str = "X_pca",
    metric: Literal["euclidean", "sqeuclidean"] = "euclidean",
    unbiased: bool = True,
    max_cells: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Energy distances between perturbations, all pairs or each to the control.

    .. math:: E(P, Q) = 2\,\overline{d(x, y)} - \overline{d(x, x')} - \overline{d(y, y')}

    with x from P, y from Q and bars for means over pairs of cells (Székely and Rizzo, 2013).

    Parameters
    ----------
    adata
        Annotated data with perturbation labels.
    perturbation_key
        Column of `obs` with the labels; every spelling of one perturbation is one group.
    control
        Label or labels of control cells: distances to these are returned. `None` compares all pairs; cells labelled
        ``control`` are then a group like others.
    pairwise
        Whether to compare all pairs; by default only where no `control` is named. With both, `control` says how the
        controls are spelt (``ctrl``, ``A+ctrl``).
    sep
        Text between the members of a combination.
    use_rep
        Key of `obsm` with coordinates of the cells, or ``"X"``.
    metric
        ``"euclidean"`` (pertpy, cell-eval) or ``"sqeuclidean"`` (scPerturb), which sees differences of means only and
        costs O(n d).
    unbiased
        Leave the zero distances of cells to themselves out of the means within groups: expectation 0 without an effect,
        whatever the number of cells. `False` counts them, as pertpy 1.0 does.
    max_cells
        Cells drawn at random from each larger group; all by default.
    seed
        Seed of the draw.

    Returns
    -------
    Float64 DataFrame under canonical labels in alphabetical order: perturbations × perturbations, exactly symmetric with
    zero diagonal, or one column ``control`` with a row for each perturbation. `attrs` names the variant: ``metric``,
    ``unbiased``, ``use_rep``, and ``n_cells`` of each group.

    Raises
    ------
    LabelError
        If labels are missing or can not be read, or there is only one group.
    ControlError
        If none of the cells is labelled `control`.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If it holds missing values, or an option is none of the above.

    Warns
    -----
    RuntimeWarning
        Perturbations of one cell under ``unbiased=True``: their distances are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> adata = pb.datasets.papalexi()
    >>> adata.obsm["X_log"] = np.log1p(adata.layers["counts"].toarray())
    >>> table = pb.tl.edistance(adata, control="control", use_rep="X_log")
    >>> table["control"].nlargest(3).index.tolist()
    ['STAT1', 'JAK2', 'IFNGR2']
    """
    check_seed(seed)
    if pairwise is None:
        pairwise = control is None
    if control is None and not pairwise:
        msg = "pairwise: expected control labels for distances to the control, got control=None. Name the control."
        raise LabelError(msg)
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    labels = design.labels().astype(str)
    coordinates = read_representation(adata, use_rep)
    if max_cells is not None:
        if max_cells < 2:
            msg = f"max_cells: expected None or a number of cells > 1, got {max_cells}."
            raise ValueError(msg)
        luck = np.random.default_rng(seed).random(len(labels))[rank_by_name(adata.obs_names)]
        kept = place_within(labels, luck) < max_cells
        labels, coordinates = labels[kept], coordinates[kept]
    if len(groups := np.unique(labels)) < 2:
        msg = f"perturbation_key: expected cells of 2 groups or more, got {shorten(groups.tolist())}."
        raise LabelError(msg)
    result = pairwise_energy_distance(
        coordinates, labels, reference=None if pairwise else _CONTROL, metric=metric, unbiased=unbiased
    )
    index = pd.Index(result.groups.astype(str))
    if pairwise:
        table = pd.DataFrame(result.values, index=index, columns=index)
    else:
        table = pd.DataFrame({_CONTROL: result.values}, index=index).drop(index=_CONTROL)
    table.attrs = {
        "metric": metric,
        "unbiased": unbiased,
        "use_rep": use_rep,
        "n_cells": dict(zip(index.tolist(), result.count.tolist(), strict=True)),
    }
    return table
