"""Which perturbations of a map act alike, and which against one another: cosines of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import DoseError, LabelError, UnknownPerturbation, shorten
from perturbia.model.base._features import check_anndata
from perturbia.perturbation._copies import in_memory, require_writable
from perturbia.perturbation._profiles import map_rows, marked_controls
from perturbia.perturbation.labels import CONTROL, join_label, split_label
from perturbia.stats._settings import check_choice, check_positive_integer
from perturbia.stats.row_cosines import (
    RowMetric,
    Sign,
    cosine_errors,
    cosine_matrix,
    largest_cosines,
    nearest_rows,
    pairs_at_most,
    unit_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.stats.row_cosines import NearestRows

__all__ = ["perturbation_neighbors", "relate"]

_TIE = 1e-6  # cosines that differ by less are the same: rounding moves the last digits of float32


def relate(
    adata_map: AnnData,
    *,
    use_rep: str | None = None,
    metric: RowMetric = "cosine",
    n_top: int | None = None,
    key_added: str | None = None,
    block_size: int | None = None,
    copy: bool = False,
) -> AnnData | None:
    r"""Cosines of the rows of a map with one another, all or the largest.

    **Range** from -1, opposite directions, to 1, the same one; 0 for unrelated rows, around which those of random rows of d
    features spread by about :math:`1/\sqrt d`. **Not seen**: how strong effects are, so that a row of noise has relations,
    too; and where the origin is. Cosines of a map whose controls do not lie at the origin tell how far rows lie on one side
    of it: align first.

    Parameters
    ----------
    adata_map
        A map, one row a perturbation, as :func:`aggregate_perturbations` makes it. Controls are related like others, and
        have cosines of 0 where alignment has made them zeros.
    use_rep
        Key of `obsm`; None and ``"X"`` read `X`.
    metric
        ``"cosine"``, or ``"pearson"``, the cosine of rows minus their own means.
    n_top
        Keep the cosines of largest absolute value of each row only, and those as large as the last of them. None: all.
    key_added
        Key of `obsp`; by default the metric.
    block_size
        Rows that are compared at a time; by default as many as make 32 MB of cosines.
    copy
        Return a changed copy, in memory where `adata_map` is backed by a file, and leave `adata_map` as it is.

    Returns
    -------
    Nothing, or the copy. Writes

    - `obsp[key_added]`, float32 (n_perturbations, n_perturbations): dense, exactly symmetric, with a diagonal of exactly 1;
      or, with `n_top`, CSR, exactly symmetric (an entry is kept if it is among the largest of its row or of its column, so
      that rows hold more than `n_top` where others crowd around them), with an empty diagonal;
    - `uns[key_added]`: ``metric``, ``use_rep`` and ``n_top`` (-1 for all).

    Raises
    ------
    LabelError
        If a name occurs twice: the rows are no map.
    FeatureMismatch
        If the representation does not exist, or is no matrix.
    ValueError
        If entries are missing or infinite, rows have no direction (zeros only, or constant under ``"pearson"``), there are
        fewer than two rows, or an option is none of the above.
    TypeError
        If `adata_map` is no AnnData.
    UnsupportedQuery
        If `adata_map` is a view of a backed file and `copy` is False.

    Notes
    -----
    O(n² d) time, in blocks. All cosines of 18,000 perturbations are 1.3 GB; with ``n_top=50`` they need 0.3 GB at most, and
    7 CPU-seconds for 128 features.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.tapseq()
    >>> genes = pb.tl.aggregate_perturbations(adata, keep_control=True)
    >>> genes.X -= genes["control"].X
    >>> genes = genes[~genes.obs["is_control"]].copy()
    >>> pb.tl.relate(genes)
    >>> genes.obsp["cosine"].shape
    (14, 14)
    """
    check_anndata(adata_map, "adata_map")
    check_choice("metric", metric, get_args(RowMetric))
    if key_added is not None and not (isinstance(key_added, str) and key_added):
        msg = f"key_added: expected the key to write to as text, or None for the metric, got {key_added!r}."
        raise ValueError(msg)
    for name, value in (("n_top", n_top), ("block_size", block_size)):
        if value is not None:
            check_positive_integer(name, value)
    if not copy:
        require_writable(adata_map, argument="adata_map")
    units, _, _ = _directions(adata_map, use_rep, metric)
    cosines: Any = (
        cosine_matrix(units, block_size=block_size)
        if n_top is None
        else largest_cosines(units, n_top=n_top, block_size=block_size)
    )
    key = metric if key_added is None else key_added
    out = in_memory(adata_map) if copy else adata_map
    out.obsp[key] = cosines
    out.uns[key] = {"metric": metric, "use_rep": use_rep or "X", "n_top": -1 if n_top is None else n_top}
    return out if copy else None


def perturbation_neighbors(
    adata_map: AnnData,
    perturbation: str | Sequence[str] | None = None,
    *,
    n: int = 10,
    sign: Sign = "both",
    use_rep: str | None = None,
    metric: RowMetric = "cosine",
    block_size: int | None = None,
) -> pd.DataFrame:
    r"""The perturbations that act most like some, or most against them, and how rare such a cosine is in the map.

    Nothing of the size of all pairs is stored, and :func:`relate` is not needed.

    Parameters
    ----------
    adata_map
        A map, one row a perturbation. Rows whose `obs["is_control"]` is True are left out.
    perturbation
        Name or names of rows, in any spelling with the `sep` that the map was made with; None for all.
    n
        Neighbours of each, at most.
    sign
        ``"alike"``: the largest positive cosines; ``"opposite"``: the most negative ones; ``"both"``: the largest absolute
        values.
    use_rep
        Key of `obsm`; None and ``"X"`` read `X`.
    metric
        ``"cosine"``, or ``"pearson"``, the cosine of rows minus their own means.
    block_size
        Rows that are compared at a time; by default as many as make 32 MB of cosines.

    Returns
    -------
    DataFrame, one row a neighbour, in the order of `perturbation` (alphabetical for None) and then of ranks. Columns:

    - ``perturbation``, ``neighbor``;
    - ``cosine``, or ``pearson``: in [-1, 1];
    - ``rank``: 1 for the nearest;
    - ``percentile``: share of all pairs of the map with at most this cosine, in (0, 1];
    - ``tail``: share of all pairs at least as extreme in the direction of `sign` (in absolute value for ``"both"``), itself
      among them: never 0, and :math:`2 / (m (m - 1))` for the most extreme of m perturbations;
    - ``se``, where `layers["sem"]` exists and `X` is read: standard error of the cosine by the delta method, NaN where
      either row has none.

    Raises
    ------
    UnknownPerturbation
        If a name is not in the map, with the nearest names, or is that of a control.
    TypeError
        If `adata_map` is no AnnData.
    LabelError
        If a name occurs twice among the rows, or several rows have one perturbation, without `by`: they are no map. Or if
        no, or repeated, names are asked for.
    FeatureMismatch
        If the representation does not exist, or is no matrix.
    ValueError
        If entries are missing or infinite, rows have no direction, there are fewer than two, or an option is none of the
        above.

    Notes
    -----
    O(m² d) time even for one perturbation, since all pairs are counted: 3 CPU-seconds at m = 18,000 and d = 128, and 12 for
    ten neighbours of all.

    ``tail`` ranks a pair among all pairs, true relations included. It is no p-value of the pair, and adjusting it for the
    number of pairs gives 1 for all: what share of pairs beyond a threshold is known is for
    :func:`perturbia.metrics.relationship_recall` to say.

    ``se`` takes errors of features and of rows as independent. It says how far the measured cosine varies, not how far it
    is from the true one: noise lengthens rows and moves all cosines towards 0.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.tapseq()
    >>> genes = pb.tl.aggregate_perturbations(adata, keep_control=True)
    >>> genes.X -= genes["control"].X
    >>> table = pb.tl.perturbation_neighbors(genes, "GATA1", n=3)
    >>> table["rank"].tolist()  # table.rank and table.tail are methods of DataFrames
    [1, 2, 3]
    """
    check_anndata(adata_map, "adata_map")
    check_choice("metric", metric, get_args(RowMetric))
    check_choice("sign", sign, get_args(Sign))
    check_positive_integer("n", n)
    if block_size is not None:
        check_positive_integer("block_size", block_size)
    _check_one_row_each(adata_map)
    units, length, labels = _directions(adata_map, use_rep, metric)
    order = _treated(adata_map, labels)
    units, length, names = units[order], length[order], labels[order]
    queries = _queries(names, labels, perturbation, sep=_about(adata_map).get("sep", "+"))
    found = nearest_rows(units, queries, n=n, sign=sign, block_size=block_size)
    table = pd.DataFrame(
        {
            "perturbation": names[found.query],
            "neighbor": names[found.neighbor],
            metric: found.cosine,
            "rank": found.rank,
        }
    )
    table["percentile"], table["tail"] = _shares(units, found, sign, block_size)
    if use_rep in (None, "X") and _keys.LAYER_SEM in adata_map.layers:
        errors = np.asarray(adata_map.layers[_keys.LAYER_SEM], dtype=np.float64)[order]
        table["se"] = cosine_errors(units, length, errors, found.query, found.neighbor)
    return table


def _directions(
    adata_map: AnnData, use_rep: str | None, metric: RowMetric
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows, their lengths and names; refuses rows without direction, controls apart, which lie at the origin."""
    values, labels = map_rows(adata_map, names=None, use_rep=use_rep)
    units, length = unit_rows(values, metric=metric)
    if (flat := (length == 0) & ~marked_controls(adata_map)).any():
        what = "of zeros only" if metric == "cosine" else "that are constant"
        msg = (
            f"adata_map: expected rows with a direction, got {flat.sum()} {what} "
            f"({shorten(labels[flat].tolist(), limit=3)}). Leave these perturbations out."
        )
        raise ValueError(msg)
    return units, length, labels


def _about(adata_map: AnnData) -> Any:
    """What aggregation wrote about the map; nothing where it was made otherwise."""
    about = adata_map.uns.get(_keys.UNS_RESULT, {})
    return about if about.get("kind") == "map" else {}


def _check_one_row_each(adata_map: AnnData) -> None:
    """Refuse wells, cells and guides, of which several have one perturbation, unless aggregation parted them."""
    column = next((name for name in (_keys.OBS_PERTURBATION, "perturbation") if name in adata_map.obs), None)
    if column is None or _about(adata_map).get("by"):
        return
    labels = adata_map.obs[column].astype(object)[~marked_controls(adata_map)].dropna()
    if (twice := labels[labels.duplicated()].unique()).size:
        msg = (
            f"adata_map: expected one row a perturbation, got several in obs[{column!r}] for "
            f"{shorten(twice.tolist(), limit=3)}. Aggregate them first, with perturbia.tl.aggregate_perturbations; its `by` keeps guides apart."
        )
        raise LabelError(msg)


def _treated(adata_map: AnnData, labels: np.ndarray) -> np.ndarray:
    """Rows without controls, in the order of names: results, to the last digit, do not depend on that of rows."""
    rows = np.flatnonzero(~marked_controls(adata_map))
    if len(rows) < 2:
        msg = f"adata_map: expected 2 perturbations or more besides controls, got {len(rows)}."
        raise ValueError(msg)
    return rows[np.argsort(labels[rows], kind="stable")]


def _queries(
    names: np.ndarray, labels: np.ndarray, perturbation: str | Sequence[str] | None, *, sep: str
) -> np.ndarray:
    """Positions among the sorted names of those asked for."""
    if perturbation is None:
        return np.arange(len(names))
    asked = [perturbation] if isinstance(perturbation, str) else [str(name) for name in perturbation]
    known = set(names)
    asked = [name if name in known else _canonical(name, sep) for name in asked]
    if not asked or len(set(asked)) < len(asked):
        msg = f"perturbation: expected distinct names, got {shorten(asked, limit=3) or 'none'}. Pass None for all."
        raise LabelError(msg)
    if unknown := [name for name in asked if name not in known]:
        controls = [name for name in unknown if name in labels]
        fix = f"Controls ({shorten(controls, limit=3)}) are left out of the map." if controls else ""
        raise UnknownPerturbation.among(unknown, names.tolist(), fix=fix)
    return np.searchsorted(names, asked)


def _canonical(name: str, sep: str) -> str:
    """The name as aggregation writes it."""
    try:
        targets = sorted(
            (target, 1.0 if dose is None else dose)
            for target, dose in split_label(name, control=(CONTROL,), sep=sep)
            if target is not None
        )
        return join_label([target for target, _ in targets], [dose for _, dose in targets], sep=sep)
    except (LabelError, DoseError):
        return name


def _shares(units: np.ndarray, found: NearestRows, sign: Sign, block_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Shares of all pairs with at most each cosine, and of those at least as extreme."""
    cosine = found.cosine.astype(np.float64)
    size = np.abs(cosine)
    ends = np.concatenate([cosine + _TIE, cosine - _TIE, size - _TIE, -size + _TIE])
    at_most, below, within, beyond = np.split(pairs_at_most(units, ends, block_size=block_size), 4)
    n_pairs = len(units) * (len(units) - 1) // 2
    tail = {"both": n_pairs - within + beyond, "alike": n_pairs - below, "opposite": at_most}[sign]
    return at_most / n_pairs, np.minimum(tail, n_pairs) / n_pairs
