"""Does the nearest other compound share the mechanism?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten
from perturbia.metrics._ranked_positives import rows_at_a_time
from perturbia.metrics._row_directions import unit_or_zero_rows
from perturbia.perturbation._profiles import label_design, label_values, profile_matrix, row_labels, row_names

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIE = 1e-12  # cosines that differ by less are equal


@dataclass(frozen=True)
class MechanismAccuracy:
    """Accuracy of naming the mechanism of a row by its nearest neighbour of another compound.

    Attributes
    ----------
    accuracy
        Share of rows whose nearest neighbour has their mechanism.
    standard_error
        Its standard error over compounds; NaN for one compound.
    chance
        What a neighbour at random would score.
    majority
        What always naming the mechanism of most rows would score.
    n_rows, n_compounds
        Rows and compounds that were scored.
    n_left_out
        Rows that can not be matched: no row of another compound (and batch) has their mechanism.
    n_without
        Rows without a mechanism, which are neighbours and nothing else.
    table
        One row a mechanism: `n_compounds` and `n_rows` that were scored, `n_left_out`, `accuracy` and `chance`; NaN where
        none was scored.
    rows
        One row a scored row of the data, in their order: `mechanism`, `compound`, `match` (0 or 1; a share among ties) and
        `chance`.
    """

    accuracy: float
    standard_error: float
    chance: float
    majority: float
    n_rows: int
    n_compounds: int
    n_left_out: int
    n_without: int
    table: pd.DataFrame
    rows: pd.DataFrame

    def __repr__(self) -> str:
        without = f", {self.n_without} without a mechanism" if self.n_without else ""
        return (
            f"MechanismAccuracy: {self.accuracy:.3f} ± {self.standard_error:.3f} (chance {self.chance:.3f}, majority "
            f"{self.majority:.3f}; {self.n_rows} rows of {self.n_compounds} compounds, {self.n_left_out} left out{without})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.table.to_html(float_format='{:.3f}'.format)}"


def mechanism_accuracy(
    data: Any,
    mechanism_key: Any,
    *,
    compound_key: Any,
    use_rep: str | None = None,
    batch_key: Any = None,
    control: str | Sequence[str] | None = None,
    sep: str = "+",
    no_mechanism: str | Sequence[str] | None = "none",
) -> MechanismAccuracy:
    r"""Accuracy of the mechanism of the nearest neighbour of another compound, by cosine.

    Not-same-compound matching (NSC): the neighbours of a row are all rows of other compounds. With `batch_key` also those
    of its own batch are left out (NSCB), so that a shared plate can not be what is matched.

    **Range** [0, 1], 1 best. **Chance** of a row is the share of its mechanism among its neighbours, and `chance` the mean
    of that; see `majority`, too, where one mechanism has most rows. **Not seen**: neighbours beyond the first, and
    mechanisms with one compound.

    Parameters
    ----------
    data
        Profiles, usually one a treatment (compound and dose), or wells: AnnData, or a DataFrame or array,
        (n_rows, n_features).
    mechanism_key
        Column of `obs` with the mechanism of action, or one a row. Controls need none.
    compound_key
        Column of `obs` with the compound, or one a row. Doses of one compound (``A@0.5``) are the same compound, and so are
        all spellings of a combination (``A+B``, ``B+A``).
    use_rep
        Key of `obsm`; by default `X`.
    batch_key
        Column of `obs` with the batch, or one a row.
    control
        Label or labels in `compound_key` of controls, which are left out altogether. `None`: rows labelled ``control``, if
        there are any. Rows that `obs["is_control"]` marks are controls in any case.
    sep
        Text between the members of a combination; ``""`` where it is part of names of compounds.
    no_mechanism
        Label or labels in `mechanism_key` of rows whose mechanism is not known: they share none, so that they are not scored,
        but remain neighbours of others, a wrong answer. Give missing mechanisms one of these. `None`: there are none.

    Returns
    -------
    :class:`MechanismAccuracy`. Rows that can not be matched are not scored, but remain neighbours of others: a wrong
    answer that could be given.

    Raises
    ------
    LabelError
        If labels are missing, can not be read or have another length, a compound has two mechanisms, or no row can be
        matched, or has one of `no_mechanism` other than ``none``.
    ControlError
        If no row is labelled `control`.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If values are missing.

    Warns
    -----
    RuntimeWarning
        Rows that can not be matched, with their mechanisms; rows that are zero.

    Notes
    -----
    Neighbours that are equally near (cosines within 1e-12) share the match. The standard error takes compounds for
    independent and their rows for not: with s_c matches among the n_c rows of each of C compounds and accuracy a,
    :math:`\sqrt{\frac{C}{C-1} \sum_c (s_c - a n_c)^2} / \sum_c n_c`. Compounds that are each other's neighbours are not
    quite independent. O(n_rows² n_features) time, in blocks of rows.

    References
    ----------
    Ljosa et al., Journal of Biomolecular Screening 18 (2013); Ando et al., bioRxiv 161422 (2017).

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> profiles = np.array([[1, 0], [1, 0.1], [0.9, 0], [0, 1], [0.1, 1], [0.2, 1]])
    >>> compounds, mechanisms = ["a", "a", "b", "c", "d", "e"], ["M", "M", "M", "N", "N", "N"]
    >>> pb.metrics.mechanism_accuracy(profiles, mechanisms, compound_key=compounds)
    MechanismAccuracy: 1.000 ± 0.000 (chance 0.350, majority 0.500; 6 rows of 5 compounds, 0 left out)
    """
    values = profile_matrix(data, use_rep=use_rep, argument="data", least_rows=2).astype(np.float64)
    frame = _labels(data, mechanism_key, compound_key, batch_key, control, sep)
    kept = np.flatnonzero(frame["compound"].notna())
    frame = frame.iloc[kept]
    known = _known(frame["mechanism"], no_mechanism)
    _check_one_mechanism(frame)
    match, chance = _matches(unit_or_zero_rows(values[kept])[0], frame, across=batch_key is not None)
    scored = known & (chance > 0)
    if not scored.any():
        msg = (
            "mechanism_key: expected rows of another compound"
            f"{'' if batch_key is None else ' and batch'} with the same mechanism, got none for any of {len(frame)} rows."
        )
        raise LabelError(msg)
    rows = frame.assign(match=match, chance=chance)
    table = _by_mechanism(rows[known], scored[known])
    _warn_of_unmatched(table)
    rows = rows[scored].drop(columns="batch")
    accuracy, error = _clustered_mean(rows["match"].to_numpy(), rows["compound"].to_numpy())
    return MechanismAccuracy(
        accuracy=accuracy,
        standard_error=error,
        chance=float(rows["chance"].mean()),
        majority=float(rows["mechanism"].value_counts(normalize=True).max()),
        n_rows=len(rows),
        n_compounds=rows["compound"].nunique(),
        n_left_out=int((known & ~scored).sum()),
        n_without=int((~known).sum()),
        table=table,
        rows=rows,
    )


def _labels(
    data: Any, mechanism_key: Any, compound_key: Any, batch_key: Any, control: str | Sequence[str] | None, sep: str
) -> pd.DataFrame:
    """Mechanism, compound and batch of every row, under its name; the compound of controls is missing."""
    design = label_design(data, compound_key, control=control, sep=sep, argument="compound_key", with_marked=True)
    is_control = design.is_control
    at_one_dose = design.matrix.copy()
    at_one_dose.data[:] = 1.0
    if is_control.all():
        msg = f"control: expected rows besides controls, got {len(is_control)} rows, all of them controls."
        raise LabelError(msg)
    # a control has a mechanism in no case
    mechanism = label_values(data, mechanism_key, argument="mechanism_key").astype(object).mask(is_control, "")
    return pd.DataFrame(
        {
            "mechanism": row_labels(data, mechanism.to_numpy(), argument="mechanism_key"),
            "compound": pd.Series(replace(design, matrix=at_one_dose).labels()).mask(is_control, None).to_numpy(),
            "batch": "" if batch_key is None else row_labels(data, batch_key, argument="batch_key"),
        },
        index=row_names(data),
    )


def _known(mechanisms: pd.Series, no_mechanism: str | Sequence[str] | None) -> np.ndarray:
    """Rows with a mechanism."""
    if no_mechanism is None:
        return np.ones(len(mechanisms), dtype=bool)
    given = [no_mechanism] if np.ndim(no_mechanism) == 0 else list(no_mechanism)
    unknown = [str(label) for label in given]
    if absent := sorted(set(unknown) - set(mechanisms) - {"none"}):
        msg = (
            f"no_mechanism: expected labels of mechanism_key, got {shorten(absent)}; labels are "
            f"{shorten(np.unique(mechanisms).tolist())}."
        )
        raise LabelError(msg)
    return ~mechanisms.isin(unknown).to_numpy()


def _check_one_mechanism(frame: pd.DataFrame) -> None:
    n_mechanisms = frame.groupby("compound")["mechanism"].nunique()
    if (several := n_mechanisms.index[n_mechanisms > 1]).size:
        msg = (
            f"mechanism_key: expected one mechanism a compound, got more for {shorten(several.tolist(), limit=3)}. "
            "Choose one, or leave these compounds out."
        )
        raise LabelError(msg)


def _matches(unit: np.ndarray, frame: pd.DataFrame, *, across: bool) -> tuple[np.ndarray, np.ndarray]:
    """Share of the nearest neighbours of every row with its mechanism, and that of all its neighbours; 0 without any."""
    mechanism, compound, batch = (
        pd.factorize(frame[name])[0].astype(np.int32) for name in ("mechanism", "compound", "batch")
    )
    match, chance = np.zeros((2, len(unit)))
    step = rows_at_a_time(len(unit))
    for start in range(0, len(unit), step):
        rows = slice(start, start + step)
        neighbour = compound[rows, None] != compound
        if across:
            neighbour &= batch[rows, None] != batch
        similarity = np.where(neighbour, unit[rows] @ unit.T, -np.inf)
        nearest = neighbour & (similarity >= similarity.max(axis=1, keepdims=True) - _TIE)
        same = mechanism[rows, None] == mechanism
        for share, among in ((match, nearest), (chance, neighbour)):
            share[rows] = (among & same).sum(axis=1) / np.maximum(among.sum(axis=1), 1)
    return match, chance


def _by_mechanism(rows: pd.DataFrame, scored: np.ndarray) -> pd.DataFrame:
    groups = rows[scored].groupby("mechanism")
    table = pd.DataFrame({"n_compounds": groups["compound"].nunique(), "n_rows": groups.size()})
    table["n_left_out"] = 0
    table = table.join(groups[["match", "chance"]].mean()).rename(columns={"match": "accuracy"})
    table = table.reindex(np.unique(rows["mechanism"]))
    left_out = rows[~scored].groupby("mechanism").size()
    counts = ["n_compounds", "n_rows", "n_left_out"]
    table.loc[left_out.index, "n_left_out"] = left_out
    table[counts] = table[counts].fillna(0).astype(np.int64)
    table.index.name = "mechanism"
    return table


def _warn_of_unmatched(table: pd.DataFrame) -> None:
    lost = table.index[table["n_left_out"] > 0]
    if len(lost):
        warnings.warn(
            f"mechanism_key: {table['n_left_out'].sum()} rows have no row of another compound (and batch) with their "
            f"mechanism and are not scored; they are of {shorten(lost.tolist(), limit=3)}.",
            RuntimeWarning,
            stacklevel=3,
        )


def _clustered_mean(match: np.ndarray, compounds: np.ndarray) -> tuple[float, float]:
    """Mean over rows, and its standard error over compounds."""
    codes = pd.factorize(compounds)[0]
    size = np.bincount(codes)
    mean = float(match.mean())
    if len(size) < 2:
        return mean, float("nan")
    residual = np.bincount(codes, match) - mean * size
    return mean, float(np.sqrt(len(size) / (len(size) - 1) * (residual @ residual)) / len(match))
