"""Which perturbations changed their cells: the permutation test of the energy distance to the control."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._representation import read_representation
from perturbia.stats import energy_test
from perturbia.stats._settings import check_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["etest"]


def etest(
    adata: AnnData,
    *,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    use_rep: str = "X_pca",
    metric: Literal["euclidean", "sqeuclidean"] = "euclidean",
    unbiased: bool = True,
    batch_key: str | None = None,
    n_permutations: int = 1000,
    max_reference: int | Literal["match"] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    r"""E-test: is the energy distance of a perturbation to the control larger than chance?

    .. math:: p = \frac{1 + \#\{E_\text{permuted} \ge E\}}{1 + n_\text{permutations}}

    where permutations exchange cells of the perturbation and of the control, within batches where `batch_key` is given;
    p-values are adjusted over perturbations by Holm-Šidák (Székely and Rizzo, 2004; Peidli et al., 2024).

    Parameters
    ----------
    adata
        Annotated data with perturbation labels.
    perturbation_key
        Column of `obs` with the labels.
    control
        Label or labels of control cells.
    sep
        Text between the members of a combination.
    use_rep
        Key of `obsm` with coordinates of the cells, or ``"X"``. Coordinates must not have been made with the help of the
        labels: the test would count what they were told.
    metric, unbiased
        Variant of the distance, see :func:`edistance`.
    batch_key
        Column of `obs` with the batch. Give it whenever perturbations are not spread evenly over batches, otherwise
        batches are found instead of effects. A perturbation is compared on the batches that it shares with the control.
    n_permutations
        Permutations of each perturbation. The smallest p-value is 1 / (1 + n_permutations), and it has to survive the
        adjustment over all perturbations: about k / alpha permutations for k of them.
    max_reference
        Control cells that a perturbation is compared with at most, drawn at random: a number, or ``"match"`` for as many
        as it has cells. Time grows with the square of the cells of both.
    alpha
        Level of `significant`.
    seed
        Seed of permutations and draws.

    Returns
    -------
    DataFrame, one row a perturbation under its canonical label in alphabetical order: ``edistance``, ``p_value``,
    ``p_adjusted``, ``significant`` (p_adjusted < alpha), ``n_cells`` and ``n_control``, the cells that were compared, and
    ``n_unmatched``, cells of the perturbation in batches without control cells, which were not. NaN and not significant
    where a perturbation has one cell (``unbiased=True``) or no batch in common with the control. `attrs` names the variant.

    Raises
    ------
    LabelError
        If labels or batches are missing or can not be read.
    ControlError
        If none of the cells is labelled `control`.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If it holds missing values, or an option is none of the above.

    Warns
    -----
    RuntimeWarning
        Perturbations with cells in batches without control cells, perturbations that have no p-value, or too few permutations for any of them to be significant alone.

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> adata = pb.datasets.papalexi()
    >>> adata.obsm["X_log"] = np.log1p(adata.layers["counts"].toarray())
    >>> table = pb.tl.etest(adata, use_rep="X_log", max_reference=300)
    >>> bool(table.loc["IFNGR2", "significant"]), int(table["significant"].sum()) < len(table)
    (True, True)
    """
    check_seed(seed)
    if not 0 < alpha < 1:
        msg = f"alpha: expected a level between 0 and 1, got {alpha}."
        raise ValueError(msg)
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    strata = None
    if batch_key is not None:
        if batch_key not in adata.obs or adata.obs[batch_key].isna().any():
            msg = f"batch_key: expected a complete column of adata.obs, got {batch_key!r}; columns are {shorten(adata.obs)}."
            raise LabelError(msg)
        strata = adata.obs[batch_key].astype(str).to_numpy()
    result = energy_test(
        read_representation(adata, use_rep),
        design.labels().astype(str),
        reference="control",
        strata=strata,
        metric=metric,
        unbiased=unbiased,
        n_permutations=n_permutations,
        max_reference=max_reference,
        seed=seed,
    )
    _warn_of_few_permutations(int(np.isfinite(result.p_value).sum()), n_permutations, alpha)
    table = pd.DataFrame(
        {
            "edistance": result.statistic,
            "p_value": result.p_value,
            "p_adjusted": result.p_adjusted,
            "significant": result.p_adjusted < alpha,
            "n_cells": result.count,
            "n_control": result.n_reference,
            "n_unmatched": result.n_unmatched,
        },
        index=pd.Index(result.groups.astype(str)),
    )
    table.attrs = {
        "metric": metric,
        "unbiased": unbiased,
        "use_rep": use_rep,
        "batch_key": batch_key,
        "n_permutations": n_permutations,
        "alpha": alpha,
        "adjustment": "holm-sidak",
    }
    return table


def _warn_of_few_permutations(n_tests: int, n_permutations: int, alpha: float) -> None:
    """Say so when the smallest possible p-value does not survive the adjustment as the smallest of all."""
    if n_tests < 1:
        return
    needed = math.ceil(1 / -math.expm1(math.log1p(-alpha) / n_tests))  # 1 - (1 - p)^k < alpha
    if n_permutations < needed:
        warnings.warn(
            f"n_permutations: expected {needed} or more, so that one of {n_tests} perturbations can be significant at "
            f"{alpha:g} after adjusting, got {n_permutations}.",
            RuntimeWarning,
            stacklevel=3,
        )
