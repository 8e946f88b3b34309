"""Checking that a split still holds what it promises, and what its test perturbations are made of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import LeakageError, SplitError, shorten
from perturbia.tl._split_cells import read_cells
from perturbia.tl._split_guarantee import AXES, TEST, UNUSED, describe_guarantee, digest_of, require_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["check_split", "seen_members"]

logger = logging.getLogger(__name__)


def check_split(
    adata: AnnData,
    *,
    key: str = _keys.OBS_SPLIT,
    axis: Literal["random", "combination", "perturbation", "context", "dose"] | None = None,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    sep: str | None = None,
    context_key: str | None = None,
    dose_key: str | None = None,
) -> dict[str, Any]:
    """Check on the labels that no test perturbation was seen, and that the split is as it was made.

    Parameters
    ----------
    adata
        Data with `obs[key]`: ``train``, ``valid``, ``test``, or missing for cells that the split does not use. Not written
        to. The column may come from elsewhere.
    key
        Column of `obs`, and key of `uns` where :func:`split` made it.
    axis
        What to check; None reads what :func:`split` wrote. ``"combination"``: no set of targets of a test cell is that of
        a seen cell. ``"perturbation"``: every test cell has a target that no seen cell has. ``"context"``: no pair of
        targets and context is in both. ``"dose"``: every test cell has a target at a dose that no seen cell has.
        ``"random"``: nothing but the digest. Controls may be anywhere; validation cells count as seen.
    perturbation_key, control, sep, context_key, dose_key
        Where labels are; None reads what :func:`split` wrote, then its defaults.

    Returns
    -------
    The guarantee: `unseen` (str), `checked`, `n_test_perturbations`, `n_test_controls`, `n_cells` (int) and `digest` of
    the split as it is now.

    Raises
    ------
    LeakageError
        If a test perturbation has training or validation cells although the axis forbids it; the first five are named.
        If the column, or the names of its cells, were changed since the split was made.
    SplitError
        If the column is missing, holds other values, or marks no test cells; or `axis` is not known.
    LabelError, ControlError, DoseError
        If labels can not be read.

    Notes
    -----
    After cells were added or removed, the digest can not be compared; then the labels alone are checked.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=4, n_genes=20, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> pb.tl.check_split(adata)["n_test_perturbations"]
    2
    >>> adata.obs.loc[adata.obs["pb_split"] == "test", "pb_split"] = "train"
    >>> pb.tl.check_split(adata)
    Traceback (most recent call last):
    perturbia.errors.SplitError: key: expected cells marked 'test' in obs['pb_split'], got only ['train', 'valid'].
    """
    part = read_part(adata, key)
    made = _made(adata, key)
    axis = axis if axis is not None else made.get("axis")
    if axis not in AXES:
        got = "none, and uns holds none" if axis is None else repr(axis)
        msg = f"axis: expected one of {', '.join(map(repr, AXES))}, got {got}. Name what the split holds out."
        raise SplitError(msg)
    where = labels_of_split(
        adata,
        key,
        perturbation_key=perturbation_key,
        control=control,
        sep=sep,
        context_key=context_key,
        dose_key=dose_key,
    )
    if axis == "context" and "context_key" not in where:
        msg = "context_key: expected a column of adata.obs for axis='context', got None. Name the column of contexts."
        raise SplitError(msg)
    cells = read_cells(adata, **where)
    require_unseen(cells, part, axis, key=key)
    _require_unchanged(adata, part, made, key)
    return describe_guarantee(cells, part, axis, adata.obs_names)


def seen_members(
    adata: AnnData,
    *,
    key: str = _keys.OBS_SPLIT,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    sep: str | None = None,
    dose_key: str | None = None,
) -> pd.DataFrame:
    """How many targets of each test perturbation were seen: a test of combinations is easier the more there are.

    Parameters
    ----------
    adata
        Data with `obs[key]`. Not written to.
    key
        Column of `obs` with the split.
    perturbation_key, control, sep, dose_key
        Where labels are; None reads what :func:`split` wrote, then its defaults.

    Returns
    -------
    One row for each perturbation with test cells, controls aside, under its canonical label, sorted; int64 columns:
    `n_targets`; `seen_members`, targets that any training or validation cell has; `seen_alone`, targets that such cells
    have as their only one, at whatever dose, which is the 0/1/2 of GEARS (Roohani et al. 2024); `n_cells_test`;
    `n_cells_seen`, training and validation cells of the very perturbation, at the same doses.

    Raises
    ------
    SplitError
        If the column is missing, holds other values, or marks no test cells.
    LabelError, ControlError, DoseError
        If labels can not be read.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=4, n_genes=20, n_latent=2)
    >>> pb.tl.split(adata, axis="perturbation", hold_out=["P02"])
    >>> pb.tl.seen_members(adata)[["n_targets", "seen_members", "seen_alone"]].loc["P02+P03"].tolist()
    [2, 1, 1]
    """
    part = read_part(adata, key)
    where = labels_of_split(adata, key, perturbation_key=perturbation_key, control=control, sep=sep, dose_key=dose_key)
    where.pop("context_key", None)
    cells = read_cells(adata, **where)
    perturbed = ~cells.is_control
    seen, test = (part != TEST) & (part != UNUSED) & perturbed, (part == TEST) & perturbed
    n_names = len(cells.design.names)
    columns = cells.design.matrix.indices
    shown = np.zeros((2, n_names), dtype=bool)
    shown[0, columns[seen[cells.entry_cell]]] = True
    shown[1, columns[(seen & (cells.n_targets == 1))[cells.entry_cell]]] = True
    codes, first = np.unique(np.where(test, cells.condition, -1), return_index=True)
    first = first[codes >= 0]
    rows = cells.design.matrix[first]
    of_row = np.repeat(np.arange(len(first)), np.diff(rows.indptr))
    count = np.bincount(cells.condition[test], minlength=len(cells.condition_labels))
    count_seen = np.bincount(cells.condition[seen], minlength=len(cells.condition_labels))
    condition = cells.condition[first]
    table = pd.DataFrame(
        {
            "n_targets": np.diff(rows.indptr),
            "seen_members": np.bincount(of_row, weights=shown[0, rows.indices], minlength=len(first)),
            "seen_alone": np.bincount(of_row, weights=shown[1, rows.indices], minlength=len(first)),
            "n_cells_test": count[condition],
            "n_cells_seen": count_seen[condition],
        },
        index=pd.Index([cells.condition_labels[code] for code in condition], name="perturbation", dtype=object),
    )
    return table.astype(np.int64).sort_index()


def read_part(adata: AnnData, key: str) -> np.ndarray:
    """Codes of the split, -1 for cells that it does not use."""
    if key not in adata.obs:
        msg = f"key: expected a column of adata.obs, got {key!r}. Make it with perturbia.tl.split."
        raise SplitError(msg)
    column = adata.obs[key]
    values = column.astype(object).to_numpy()
    part = pd.Categorical(values, categories=list(_keys.SPLIT_VALUES)).codes.astype(np.int64)
    unknown = sorted({str(value) for value in values[(part < 0) & column.notna().to_numpy()]})
    if unknown:
        msg = (
            f"key: expected 'train', 'valid' and 'test' in obs[{key!r}], got {shorten(unknown, limit=5)}. Rename them."
        )
        raise SplitError(msg)
    if not (part == TEST).any():
        got = sorted({str(value) for value in values[part >= 0]})
        msg = f"key: expected cells marked 'test' in obs[{key!r}], got only {got}."
        raise SplitError(msg)
    return part


def labels_of_split(adata: AnnData, key: str, **given: str | Sequence[str] | None) -> dict[str, Any]:
    """Where labels are: as given, as the split wrote it, or as it does by default."""
    where: dict[str, Any] = {"perturbation_key": "perturbation", "control": "control", "sep": "+"}
    made = _made(adata, key)
    where |= {name: made[name] for name in (*where, "context_key", "dose_key") if name in made}
    if not isinstance(where["control"], str):
        where["control"] = [str(one) for one in where["control"]]
    return where | {name: value for name, value in given.items() if value is not None}


def _made(adata: AnnData, key: str) -> dict[str, Any]:
    """What the split wrote about itself, empty if it comes from elsewhere."""
    made = adata.uns.get(key, {})
    return dict(made) if hasattr(made, "keys") else {}


def _require_unchanged(adata: AnnData, part: np.ndarray, made: dict[str, Any], key: str) -> None:
    guarantee = made.get("guarantee", {})
    if "digest" not in guarantee:
        return
    if int(guarantee["n_cells"]) != adata.n_obs:
        logger.info("%s was made for %d cells and the data hold %d.", key, int(guarantee["n_cells"]), adata.n_obs)
        return
    if digest_of(adata.obs_names, part) != str(guarantee["digest"]):
        msg = (
            f"{key}: expected the split that perturbia.tl.split made (digest {guarantee['digest']}), got another: "
            f"obs[{key!r}] or the names of cells were changed since. Split again, or drop uns[{key!r}] to vouch for it."
        )
        raise LeakageError(msg)
