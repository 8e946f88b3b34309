"""Doses of cells, aligned with the written order of their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbia.errors import DoseError, shorten

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from perturbia.perturbation.labels import Token


def _dose_levels(doses: ArrayLike, sep: str, argument: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the code of each cell (-1 where missing), the doses of each level (n_levels, M), and their number."""
    series = doses if isinstance(doses, pd.Series) else pd.Series(doses)
    codes, uniques = pd.factorize(series, sort=False)
    if pd.api.types.is_numeric_dtype(uniques.dtype):
        return codes, np.asarray(uniques, dtype=np.float64)[:, None], np.ones(len(uniques), dtype=np.int64)
    parsed: list[list[float]] = []
    for one in uniques:
        text = one.decode() if isinstance(one, bytes) else str(one)
        parts = text.split(sep) if sep and sep in text else text.split("+") if "+" in text else [text]
        try:
            parsed.append([float(part) for part in parts])
        except ValueError:
            parsed.append([])  # an error only where a treated cell has it
    counts = np.array([len(one) for one in parsed], dtype=np.int64)
    table = np.full((len(parsed), max([1, *counts])), np.nan)
    for i, one in enumerate(parsed):
        table[i, : len(one)] = one
    return codes, table, counts


def align_doses(
    tokens: list[list[Token]],
    names: list[str],
    codes: np.ndarray,
    doses: ArrayLike,
    levels: list[str],
    *,
    sep: str,
    argument: str,
) -> sp.csr_matrix:
    """Align the doses of each cell with the written tokens of its label.

    A dose may be written for every token, controls included (`A+ctrl`, `"0.5+1"`), or for the targets alone.

    Parameters
    ----------
    tokens
        Tokens of each distinct label, in written order (n_levels lists).
    names
        Target of each column.
    codes
        Label of each cell, int (n_obs,).
    doses
        Numbers, or text such as `"0.5+1.0"` (n_obs,). Those of control cells are not read.
    levels
        The distinct labels, for messages.
    sep
        Text between doses; `+` is read too.
    argument
        The argument to name in messages.

    Returns
    -------
    float32 matrix (n_obs, n_names) of doses.

    Raises
    ------
    DoseError
        If a treated cell has no dose, a dose is not a finite number above 0, or doses and targets differ in number.
    """
    if np.shape(doses) != (len(codes),):
        msg = f"{argument}: expected one dose per cell ({len(codes)}), got shape {np.shape(doses)}. Check the column."
        raise DoseError(msg)
    dose_codes, table, n_doses = _dose_levels(doses, sep, argument)
    column = {name: j for j, name in enumerate(names)}
    width = max([1, *(len(level) for level in tokens)])
    # per label: the column of each written token, -1 for control, -2 past the end
    written = np.full((len(tokens), width), -2, dtype=np.int64)
    for i, level in enumerate(tokens):
        written[i, : len(level)] = [-1 if name is None else column[name] for name, _ in level]
    is_target = written >= 0
    compact = np.cumsum(is_target, axis=1) - 1
    n_tokens, n_targets = (written > -2).sum(axis=1), is_target.sum(axis=1)

    treated = np.flatnonzero(n_targets[codes] > 0)
    label, dose = codes[treated], dose_codes[treated]
    missing = dose < 0
    given = np.where(missing, 0, n_doses[dose] if len(n_doses) else 0)
    wrong = missing | ((given != n_tokens[label]) & (given != n_targets[label]))
    if wrong.any():
        raise DoseError(_misaligned(treated[wrong], levels, codes, doses, missing[wrong], argument))
    # doses line up with all written tokens, or with the targets alone where the label also writes controls
    full = given == n_tokens[label]
    position = np.where(full[:, None], np.arange(width)[None, :], compact[label])
    row, token = np.nonzero(is_target[label])
    values = table[dose[row], position[row, token]]
    with np.errstate(over="ignore", under="ignore"):
        single = values.astype(np.float32)
    bad = ~np.isfinite(single) | (single <= 0)
    if bad.any():
        cell = treated[row[bad][0]]
        what = "0" if values[bad][0] == 0 else repr(_at(doses, cell))
        fix = "Label untreated cells as control." if values[bad][0] == 0 else "Correct the dose."
        msg = (
            f"{argument}: expected finite doses above 0 for treated cells, got {what} for label {levels[codes[cell]]!r} "
            f"({len(np.unique(row[bad]))} cells). {fix}"
        )
        raise DoseError(msg)
    columns = written[label[row], token]
    return sp.csr_matrix((single, (treated[row], columns)), shape=(len(codes), len(names)), dtype=np.float32)


def _misaligned(
    cells: np.ndarray, levels: list[str], codes: np.ndarray, doses: ArrayLike, missing: np.ndarray, argument: str
) -> str:
    if missing.any():
        seen = sorted({levels[codes[cell]] for cell in cells[missing][:1000]})
        return (
            f"{argument}: expected a dose in every treated cell, got {int(missing.sum())} cells without one (NaN), labels "
            f"{shorten(seen, limit=5)}. Fill in the dose or drop those cells."
        )
    label, dose = levels[codes[cells[0]]], _at(doses, cells[0])
    return (
        f"{argument}: expected one dose per target in the written order of the label, such as '0.5+1.0', got {dose!r} for "
        f"label {label!r} ({len(cells)} cells). Write a dose for every target."
    )


def _at(values: ArrayLike, i: int) -> object:
    value = values.iloc[i] if isinstance(values, pd.Series) else np.asarray(values)[i]
    return value.item() if isinstance(value, np.generic) else value
