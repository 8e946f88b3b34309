"""From the labels or the matrix of a data set to its design: who received what, at which dose."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbia.errors import ControlError, DoseError, LabelError, UnknownPerturbation, shorten
from perturbia.perturbation.dosage import dosage_labels
from perturbia.perturbation.doses import align_doses
from perturbia.perturbation.labels import CONTROL, Token, check_control, check_name, split_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

logger = logging.getLogger("perturbia.perturbation")

# how other data sets spell their controls: named in messages, never applied
KNOWN_CONTROLS = frozenset(
    {"control", "ctrl", "non-targeting", "nontargeting", "non_targeting", "nt", "ntc", "negctrl", "neg_ctrl"}
    | {"dmso", "dmso_tf", "vehicle", "untreated", "unperturbed", "mock", "safe-targeting", "scramble", "none"}
)
# below this number of cells, "nearly every cell has its own label" says nothing
MANY_CELLS = 100


@dataclass(frozen=True)
class Design:
    """Who received what: the canonical form of every way to label perturbed cells.

    Attributes
    ----------
    matrix
        float32 CSR (n_obs, n_names) of doses, sorted indices, no stored zeros; control cells are zero rows.
    names
        Target of each column.
    control
        The labels that were read as control.
    sep
        Text between targets in the labels.
    has_doses
        Whether doses were given, even if all are 1.
    """

    matrix: sp.csr_matrix
    names: list[str]
    control: list[str]
    sep: str
    has_doses: bool = False

    @property
    def n_targets(self) -> np.ndarray:
        """Number of targets of each cell, int64 (n_obs,)."""
        return np.diff(self.matrix.indptr).astype(np.int64)

    @property
    def is_control(self) -> np.ndarray:
        """Which cells are controls, bool (n_obs,)."""
        return self.n_targets == 0

    def labels(self, *, plain: bool = False) -> np.ndarray:
        """Canonical label of each cell, object (n_obs,); `plain` leaves ``+`` unquoted where labels are one name each."""
        return dosage_labels(self.matrix, self.names, sep=self.sep if plain else self.sep or "+")

    def on(self, names: Sequence[str], *, extend: bool = False, argument: str = "perturbation") -> Design:
        """Move the columns to those of another registration.

        Parameters
        ----------
        names
            The registered targets, in their order.
        extend
            Append targets that are not in `names` at the end instead of raising.
        argument
            The argument to name in the message.

        Returns
        -------
        A design whose names are `names`, followed by the new targets in their own order where `extend`.

        Raises
        ------
        UnknownPerturbation
            If a target with cells is not in `names`.
        """
        used = np.unique(self.matrix.indices)
        known = set(names)
        new = [self.names[j] for j in used if self.names[j] not in known]
        if new and not extend:
            fix = "Rename or drop those cells, or extend the registration (extend_categories=True)."
            raise UnknownPerturbation.among(new, list(names), argument=argument, fix=fix)
        target = [*names, *new]
        at = {name: j for j, name in enumerate(target)}
        column = np.array([at.get(name, -1) for name in self.names], dtype=np.int32)
        shape = (self.matrix.shape[0], len(target))
        matrix = sp.csr_matrix(
            (self.matrix.data, column[self.matrix.indices], self.matrix.indptr), shape=shape, copy=True
        )
        matrix.sort_indices()
        return Design(matrix, target, self.control, self.sep, self.has_doses)


def design_from_labels(
    labels: ArrayLike,
    *,
    control: str | Sequence[str] = CONTROL,
    doses: ArrayLike | None = None,
    sep: str = "+",
    require_control: bool = True,
    argument: str = "perturbation_key",
    dose_argument: str = "dose_key",
) -> Design:
    """Read one label per cell. Only distinct labels are parsed; nothing loops over cells.

    Parameters
    ----------
    labels
        Text, categories or whole numbers (n_obs,): `A`, `A+B`, `A+ctrl`, `A@0.5`, control labels.
    control
        Label or labels that stand for no target.
    doses
        Numbers, or text such as `"0.5+1.0"` in the **written** order of the label (n_obs,). Doses of control cells
        are not read. None means dose 1, or the doses written in the labels.
    sep
        Text between targets; `""` reads each label as one name.
    require_control
        Whether the labels must make a screen of their own: some control cells, some treated ones, and targets that
        cells share. False for data read with the targets of an earlier registration.
    argument, dose_argument
        Arguments to name in messages.

    Returns
    -------
    The design; names sorted alphabetically.

    Raises
    ------
    LabelError
        If labels are missing, cannot be parsed, are real numbers, or differ in nearly every cell.
    ControlError
        If no control cell is found, or a label spelled `control` is not among `control`.
    DoseError
        If a treated cell has no dose, a dose is not positive, or doses and targets differ in number.

    Examples
    --------
    >>> from perturbia.perturbation import design_from_labels
    >>> design = design_from_labels(["B+A", "ctrl", "A+ctrl"], control="ctrl", doses=["10+1", "1", "2"])
    >>> design.names, design.matrix.toarray().tolist()
    (['A', 'B'], [[1.0, 10.0], [0.0, 0.0], [2.0, 0.0]])
    """
    controls = check_control(control)
    codes, levels = label_levels(labels, argument=argument)
    tokens = _parse_levels(levels, controls, sep, argument)
    names = sorted({name for level in tokens for name, _ in level if name is not None})
    if require_control and len(codes) >= MANY_CELLS and len(names) > len(codes) / 2:
        msg = (
            f"{argument}: expected labels shared by many cells, got {len(names)} distinct targets in {len(codes)} cells "
            f"({shorten(names, limit=3)}). This looks like an identifier: name the column of perturbations. If every "
            "row does have a target of its own, pass the design as a matrix in obsm."
        )
        raise LabelError(msg)
    is_control = np.array([all(name is None for name, _ in level) for level in tokens], dtype=bool)
    if require_control:
        _require_both(is_control, levels, controls, argument)
    _warn_of_lookalikes(names, controls, argument)
    matrix = _level_matrix(tokens, names)
    written = any(dose is not None for level in tokens for _, dose in level)
    if doses is None:
        matrix = matrix[codes]
    elif written:
        msg = f"{dose_argument}: expected doses in one place, got a dose column and labels with '@'. Keep one of them."
        raise DoseError(msg)
    else:
        matrix = align_doses(tokens, names, codes, doses, levels, sep=sep, argument=dose_argument)
    matrix.sort_indices()
    return Design(matrix, names, list(controls), sep, has_doses=written or doses is not None)


def label_levels(labels: ArrayLike, *, argument: str) -> tuple[np.ndarray, list[str]]:
    """Find the distinct labels of a column.

    Parameters
    ----------
    labels
        Text, categories, booleans or whole numbers (n_obs,).
    argument
        The argument to name in messages.

    Returns
    -------
    codes
        int (n_obs,), the label of each cell.
    levels
        The labels that occur, as text, in order of appearance.

    Raises
    ------
    LabelError
        If there are no cells, a label is missing, or labels are real numbers.
    """
    series = labels if isinstance(labels, pd.Series) else pd.Series(labels)
    if not len(series):
        msg = f"{argument}: expected cells, got none. Check how the data were filtered."
        raise LabelError(msg)
    values = series.cat.categories if isinstance(series.dtype, pd.CategoricalDtype) else series
    if pd.api.types.is_float_dtype(values.dtype):
        # pandas stores whole numbers with gaps as floats: there the gaps are the fault to report
        gaps = values is series and series.isna().any() and (series.dropna() % 1 == 0).all()
        if not gaps:
            msg = f"{argument}: expected labels, got real numbers. Name a column of labels; numbers go to the dose column."
            raise LabelError(msg)
    codes, uniques = pd.factorize(series, sort=False)
    missing = int((codes < 0).sum())
    if missing:
        msg = (
            f"{argument}: expected a label in every cell, got {missing} of {len(codes)} without one (NaN), first at row "
            f"{int(np.argmax(codes < 0))}. Drop those cells, or give them their label."
        )
        raise LabelError(msg)
    levels = [one.decode() if isinstance(one, bytes) else str(one) for one in uniques]
    return codes, levels


def _parse_levels(levels: list[str], controls: Sequence[str], sep: str, argument: str) -> list[list[Token]]:
    tokens = []
    for level in levels:
        try:
            tokens.append(split_label(level, control=controls, sep=sep))
        except LabelError as error:
            if CONTROL not in controls and CONTROL in [part.strip() for part in level.split(sep or None)]:
                msg = (
                    f"{argument}: expected no cells labelled {CONTROL!r} besides control={list(controls)!r}, got "
                    f"{level!r}. Add {CONTROL!r} to `control`, or rename that label."
                )
                raise ControlError(msg) from error
            msg = f"{argument}: label {level!r} cannot be read. {error}"
            raise LabelError(msg) from error
        except DoseError as error:
            msg = f"{argument}: label {level!r} cannot be read. {error}"
            raise DoseError(msg) from error
    return tokens


def _require_both(is_control: np.ndarray, levels: list[str], controls: Sequence[str], argument: str) -> None:
    if not is_control.any():
        likely = [one for one in levels if one.strip().casefold() in KNOWN_CONTROLS]
        fix = f"Did you mean control={likely[0]!r}?" if likely else f"Labels seen: {shorten(sorted(levels))}."
        seen = f" Labels seen: {shorten(sorted(levels))}." if likely else ""
        msg = f"control: expected cells labelled {shorten(controls)} in {argument}, got none. {fix}{seen}"
        raise ControlError(msg)
    if is_control.all():
        msg = f"{argument}: expected at least one perturbation besides the control, got only {shorten(levels)}. "
        raise LabelError(msg + "Add perturbed cells, or name the column of perturbations.")


def _warn_of_lookalikes(names: list[str], controls: Sequence[str], argument: str) -> None:
    alike = [one for one in names if one.casefold() in KNOWN_CONTROLS]
    if alike:
        logger.warning(
            "%s: %s read as a treatment, since control=%r. List it in `control` if it is one.",
            argument,
            shorten(alike),
            list(controls),
        )


def _level_matrix(tokens: list[list[Token]], names: list[str]) -> sp.csr_matrix:
    """One row per distinct label, with the doses written in it or 1."""
    column = {name: j for j, name in enumerate(names)}
    kept = [
        [(column[name], 1.0 if dose is None else dose) for name, dose in level if name is not None] for level in tokens
    ]
    indptr = np.cumsum([0, *(len(level) for level in kept)])
    indices = np.array([j for level in kept for j, _ in level], dtype=np.int32)
    data = np.array([dose for level in kept for _, dose in level], dtype=np.float32)
    return sp.csr_matrix((data, indices, indptr), shape=(len(tokens), len(names)))


def design_from_matrix(
    matrix: object,
    *,
    names: Sequence[str] | None = None,
    control: str | Sequence[str] = CONTROL,
    sep: str = "+",
    require_control: bool = True,
    argument: str = "perturbation_obsm_key",
) -> Design:
    """Read a multi-hot or dose matrix.

    Parameters
    ----------
    matrix
        DataFrame, dense array or sparse matrix of any format and number type (n_obs, n_names); not modified.
    names
        Target of each column. None takes the columns of a DataFrame, and `t0`, `t1`, ... for a bare matrix.
    control
        Label of the control in messages and results.
    sep
        Text between targets in labels written later.
    require_control
        Whether at least one zero row and one non-zero row must exist.
    argument
        The argument to name in messages.

    Returns
    -------
    The design; columns in the given order.

    Raises
    ------
    DoseError
        If an entry is missing, infinite or negative.
    LabelError
        If names are missing, not distinct, or do not match the columns, or no cell is perturbed.
    ControlError
        If no row is zero.

    Examples
    --------
    >>> import pandas as pd
    >>> from perturbia.perturbation import design_from_matrix
    >>> design_from_matrix(pd.DataFrame({"B": [1.0, 0.0], "A": [0.5, 0.0]})).labels()
    array(['A@0.5+B', 'control'], dtype=object)
    """
    given = list(matrix.columns) if names is None and isinstance(matrix, pd.DataFrame) else names
    values = _as_csr(matrix, argument)
    if given is None:
        given = [f"t{j}" for j in range(values.shape[1])]
    given = [str(name) for name in given]
    controls = check_control(control)
    columns = [name for name in given if name in (*controls, CONTROL)]
    if columns:
        msg = f"{argument}: expected columns of treatments, got {columns[0]!r}. Drop it: control cells are zero rows."
        raise ControlError(msg)
    given = [check_name(name) for name in given]
    if len(given) != values.shape[1] or len(set(given)) < len(given):
        twice = next((name for name in given if given.count(name) > 1), None)
        got = f"{twice!r} twice" if twice else f"{len(given)} names"
        msg = (
            f"{argument}: expected {values.shape[1]} distinct names, one per column, got {got}. Name every column once."
        )
        raise LabelError(msg)
    design = Design(values, given, list(controls), sep, has_doses=bool((values.data != 1).any()))
    if require_control and not design.is_control.any():
        msg = (
            f"control: expected cells with a zero row in {argument}, got none in {values.shape[0]} cells. "
            f"Names seen: {shorten(given)}. Add control cells, or drop the column that marks the control."
        )
        raise ControlError(msg)
    if require_control and design.is_control.all():
        msg = f"{argument}: expected at least one perturbed cell, got only zero rows. Add perturbed cells."
        raise LabelError(msg)
    return design


def _as_csr(matrix: object, argument: str) -> sp.csr_matrix:
    """Copy any matrix to canonical float32 CSR, after checking its entries."""
    if isinstance(matrix, pd.DataFrame):
        if any(not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)) for kind in matrix.dtypes):
            msg = f"{argument}: expected numbers, got columns of type {shorten(set(map(str, matrix.dtypes)))}. Convert them."
            raise DoseError(msg)
        matrix = matrix.to_numpy(dtype=np.float64, na_value=np.nan)
    if not sp.issparse(matrix):
        matrix = np.asarray(matrix)
        if matrix.ndim != 2:
            msg = f"{argument}: expected a matrix (cells x targets), got shape {matrix.shape}. Use perturbation_key for labels."
            raise LabelError(msg)
        if matrix.dtype.kind not in "biuf":
            msg = f"{argument}: expected numbers, got dtype {matrix.dtype}. Convert the matrix."
            raise DoseError(msg)
    values = sp.csr_matrix(matrix, copy=True)
    values.sum_duplicates()
    bad = ~np.isfinite(values.data) | (values.data < 0)
    if bad.any():
        msg = (
            f"{argument}: expected finite doses of 0 or more, got {values.data[bad][0].item()!r} ({int(bad.sum())} entries). "
            "Correct or drop those cells."
        )
        raise DoseError(msg)
    values.eliminate_zeros()
    with np.errstate(over="ignore", under="ignore"):
        single = values.data.astype(np.float32)
    outside = ~np.isfinite(single) | (single == 0)
    if outside.any():
        msg = f"{argument}: expected doses within float32, got {values.data[outside][0].item()!r}. Rescale the doses."
        raise DoseError(msg)
    out = sp.csr_matrix((single, values.indices, values.indptr), shape=values.shape)
    out.sort_indices()
    return out
