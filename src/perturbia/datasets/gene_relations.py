"""Pairs of genes that are known to work together: those of Reactome in the package, and those of a user's file."""

from __future__ import annotations

import gzip
import logging
import os
import re
import warnings
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

__all__ = ["reactome_pairs", "read_relationships"]

logger = logging.getLogger("perturbia.datasets")

_COLUMNS = ("entity1", "entity2")
# how databases call the two partners, in lower case; symbols of genes go before other identifiers
_KNOWN_COLUMNS = (
    _COLUMNS,
    ("source_genesymbol", "target_genesymbol"),  # OmniPath
    ("preferredname_a", "preferredname_b"),  # STRING, network tables
    ("official symbol interactor a", "official symbol interactor b"),  # BioGRID
    ("entitya", "entityb"),  # SIGNOR
    ("source", "target"),  # decoupler, networkx
    ("gene1", "gene2"),
    ("gene_a", "gene_b"),
    ("protein1", "protein2"),  # STRING, whole files
    ("node1", "node2"),  # STRING, exports
)
_COMMENT = "#"


def reactome_pairs() -> pd.DataFrame:
    """Pairs of human genes that interact according to Reactome: 18,565 pairs of 4,509 genes.

    Two genes are a pair if their products are in one complex or in one reaction. Pathways that were studied much have many
    pairs: GRB2 has 166 partners, three genes in four have fewer than ten. Genes that are no pair may well be related.

    Returns
    -------
    New DataFrame with the columns ``entity1`` and ``entity2``, gene symbols in alphabetical order within a pair; each
    pair is there once, sorted, and none of a gene with itself.

    See Also
    --------
    read_relationships : pairs from a file of your own.
    perturbia.metrics.relationship_recall : how many pairs a map of genes finds.

    Notes
    -----
    Source: Reactome (Gillespie et al., *Nucleic Acids Research* 50, D687–D692 (2022), doi:10.1093/nar/gkab1028), under
    CC0 1.0, as published in EFAAR_benchmarking. Databases with other terms (CORUM, SIGNOR, hu.MAP, STRING) are not in
    the package: fetch them from their publishers and read them with :func:`read_relationships`.

    Symbols are those of the source, which cites the article of 2022: rename your genes where symbols have changed.

    Examples
    --------
    >>> import perturbia as pb
    >>> pairs = pb.datasets.reactome_pairs()
    >>> pairs.shape
    (18565, 2)
    >>> bool(((pairs["entity1"] == "JAK2") & (pairs["entity2"] == "STAT1")).any())
    True
    """
    with resources.as_file(resources.files("perturbia.datasets") / "data" / "reactome_pairs.csv.gz") as path:
        return pd.read_csv(path, dtype=object, keep_default_na=False)


def read_relationships(
    source: str | PathLike[str] | pd.DataFrame | Iterable[tuple[Any, Any]],
    *,
    columns: Sequence[Any] | None = None,
    sep: str | None = None,
    header: bool = True,
) -> pd.DataFrame:
    """Read a database of pairs into a table of two columns, without self pairs and with each pair once.

    Parameters
    ----------
    source
        Path of a text file, plain or ``.gz``; a DataFrame, such as a network of decoupler or omnipath; or pairs, such as a
        list of tuples. Pairs have no direction here: signs and weights are not read. Lines that start with ``#`` above
        the others are comments, but the last of them may name the columns (as BioGRID and STRING do).
    columns
        The two columns with the partners. None takes the names that databases use (``entity1, entity2``;
        ``source_genesymbol, target_genesymbol``; ``source, target``; those of BioGRID, SIGNOR and STRING; upper and
        lower case are one), else the only two columns.
    sep
        Text between columns. None finds it in the first line: tab, comma, semicolon, else blanks.
    header
        Whether the first line of a file names the columns. Without, columns are 0, 1, …. Names that no database uses
        are warned of, since the first pair would be lost.

    Returns
    -------
    DataFrame with the columns ``entity1`` and ``entity2``, text without blanks around it, in alphabetical order within a
    pair, sorted. Whole numbers are written without a point, also where gaps made them real. `attrs` says what was left out:
    ``n_rows`` that were read, of them ``n_missing`` without one of the names, ``n_self`` of a gene with itself, and
    ``n_duplicates``, A–B and B–A being one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LabelError
        If the columns are not there, or not to be told from others, or the first pair was taken for names of columns.
    TypeError
        If `source` is none of these, or holds something else than pairs.
    ValueError
        If no pair is left.

    Warns
    -----
    RuntimeWarning
        Unknown names of the two columns of a file: they may be the first pair.

    See Also
    --------
    reactome_pairs : pairs in the package.

    Notes
    -----
    Only exactly equal names are one gene: map identifiers and old symbols to those of your data first. ``NA`` and
    ``nan`` in a file are read as names; only empty fields are missing.

    Examples
    --------
    >>> import pandas as pd
    >>> import perturbia as pb
    >>> network = pd.DataFrame({"source": ["STAT1", "JAK2", "MYC"], "target": ["JAK2", "STAT1", "MYC"], "weight": 1})
    >>> pairs = pb.datasets.read_relationships(network)
    >>> pairs.to_numpy().tolist(), pairs.attrs["n_duplicates"]
    ([['JAK2', 'STAT1']], 1)
    """
    from_file = isinstance(source, (str, os.PathLike))
    if from_file:
        frame, where = _read_file(source, sep, columns, header=header)  # type: ignore[arg-type]
    elif isinstance(source, pd.DataFrame):
        frame, where = source, "DataFrame"
    else:
        frame, where = _given_pairs(source), "source"
    chosen = _partner_columns(frame, columns, where)
    partners = [frame[column] for column in chosen]
    names = np.column_stack([_as_text(column) for column in partners])
    missing = np.column_stack([column.isna().to_numpy() for column in partners]).any(axis=1) | (names == "").any(axis=1)
    if columns is None and header and len(frame.columns) == 2 and not _are_known(chosen):
        _check_is_header(names, chosen, where)
        if from_file:
            warnings.warn(
                f"header: the first line of {where}, {shorten(chosen)}, was read as names of columns, which no database "
                f"uses. If it is a pair, pass header=False; if it is not, pass columns={tuple(map(str, chosen))!r}.",
                RuntimeWarning,
                stacklevel=2,
            )
    itself = ~missing & (names[:, 0] == names[:, 1])
    kept = np.sort(names[~missing & ~itself], axis=1)
    pairs = np.unique(kept, axis=0)
    if len(pairs) == 0:
        msg = (
            f"source: expected pairs of two names in columns {shorten(chosen)} of {where}, got none in {len(frame)} rows: "
            f"{missing.sum()} lack a name, {itself.sum()} pair a name with itself. Name other columns."
        )
        raise ValueError(msg)
    if missing.any():
        logger.warning("%s: %d of %d rows lack a name and are left out.", where, missing.sum(), len(frame))
    table = pd.DataFrame(pairs.astype(object), columns=list(_COLUMNS))
    table.attrs = {
        "n_rows": len(frame),
        "n_missing": int(missing.sum()),
        "n_self": int(itself.sum()),
        "n_duplicates": len(kept) - len(pairs),
    }
    return table


def _given_pairs(source: Any) -> pd.DataFrame:
    """Pairs of names as a table."""
    fix = "Pass the path of a file, a DataFrame, or pairs such as [('STAT1', 'JAK2')]."
    if isinstance(source, (bytes, dict)) or not np.iterable(source):
        msg = f"source: expected one database of pairs, got {type(source).__name__}. {fix}"
        raise TypeError(msg)
    pairs = [one if isinstance(one, str) or not np.iterable(one) else tuple(one) for one in source]
    wrong = [one for one in pairs if not isinstance(one, tuple) or len(one) != 2]
    if wrong:
        msg = f"source: expected pairs of two names, got {wrong[0]!r} among {len(pairs)}. {fix}"
        raise TypeError(msg)
    return pd.DataFrame(pairs, columns=list(_COLUMNS), dtype=object)


def _as_text(column: pd.Series) -> np.ndarray:
    """Names without blanks around them; whole numbers without a point, which gaps in a column make them have."""
    values = column.astype(object)
    real = [isinstance(one, float | np.floating) and float(one).is_integer() for one in values]
    texts = [f"{one:.0f}" if whole else str(one).strip() for one, whole in zip(values, real, strict=True)]
    return np.array(texts, dtype=str)


def _read_file(
    path: str | PathLike[str], sep: str | None, columns: Sequence[Any] | None, *, header: bool
) -> tuple[pd.DataFrame, str]:
    """All columns of a file as text, and how messages call it."""
    file = Path(path)
    if not file.is_file():
        msg = (
            f"source: expected a DataFrame or the path of a file, got {str(path)!r}, which is no file. Check the path."
        )
        raise FileNotFoundError(msg)
    opener = gzip.open if file.suffix == ".gz" else Path.open
    with opener(file, mode="rt", encoding="utf-8-sig") as lines:
        comments, first = [], lines.readline()
        while first.startswith(_COMMENT):
            comments.append(first)
            first = lines.readline()
    if header and comments and _is_header(comments[-1], columns):
        first = comments.pop()
    if not first.strip():
        msg = f"source: expected a line of names or a pair first, got an empty line in {file.name}. Remove it."
        raise ValueError(msg)
    if sep is None:
        sep = next((one for one in ("\t", ",", ";") if one in first), r"\s+")
    options: dict[str, Any] = {"dtype": object, "keep_default_na": False, "index_col": False}
    try:
        with opener(file, mode="rt", encoding="utf-8-sig") as lines:
            for _ in comments:
                lines.readline()
            frame = pd.read_csv(lines, sep=sep, header=0 if header else None, **options)
    except pd.errors.ParserError as error:
        msg = (
            f"sep: expected lines of as many columns as the first of {file.name}, got {first.strip()!r} first, and later: "
            f"{error}. Pass sep=, or correct the line."
        )
        raise ValueError(msg) from error
    return _without_mark(frame, columns), file.name


def _is_header(line: str, columns: Sequence[Any] | None) -> bool:
    """Whether a line after a ``#`` names the columns of partners."""
    fields = {field.strip() for field in re.split(r"[\t,;]|\s{2,}", line)}
    fields |= set(line.split()) | {field.removeprefix(_COMMENT).strip() for field in fields}
    if columns is not None:
        return {str(column) for column in columns} <= fields
    lower = {field.casefold() for field in fields}
    return any(set(names) <= lower for names in _KNOWN_COLUMNS)


def _without_mark(frame: pd.DataFrame, columns: Sequence[Any] | None) -> pd.DataFrame:
    """Names of columns without the ``#`` before the first, unless it is asked for."""
    name = frame.columns[0]
    if not isinstance(name, str) or not name.startswith(_COMMENT) or name in (columns or ()):
        return frame
    return frame.rename(columns={name: name.removeprefix(_COMMENT).strip()})


def _are_known(columns: Sequence[Any]) -> bool:
    return tuple(str(column).casefold() for column in columns) in _KNOWN_COLUMNS


def _partner_columns(frame: pd.DataFrame, columns: Sequence[Any] | None, where: str) -> list[Any]:
    """The two columns to read, which are there exactly once."""
    seen = shorten(frame.columns, limit=20) or "none"
    if columns is not None:
        chosen = [columns] if isinstance(columns, str) else list(columns)
        if len(set(chosen)) != 2 or len(chosen) != 2:
            msg = f"columns: expected two different columns, got {columns!r}; columns of {where} are {seen}."
            raise LabelError(msg)
    else:
        spelled = {str(column).casefold(): column for column in frame.columns}
        known = next((names for names in _KNOWN_COLUMNS if all(name in spelled for name in names)), None)
        if known is not None:
            chosen = [spelled[name] for name in known]
        elif len(frame.columns) == 2:
            chosen = list(frame.columns)
        else:
            msg = (
                f"columns: expected two columns, or two that databases call partners, in {where}, got {seen}. "
                "Pass columns=(one, other), or sep= if the columns are split wrongly."
            )
            raise LabelError(msg)
    absent = [column for column in chosen if (frame.columns == column).sum() != 1]
    if absent:
        msg = f"columns: expected columns that {where} has once, got {shorten(absent)}; columns are {seen}. Choose two."
        raise LabelError(msg)
    return chosen


def _check_is_header(names: np.ndarray, chosen: Sequence[Any], where: str) -> None:
    """Refuse a first line that holds names which are partners further down."""
    titles = [title for title in map(str, chosen) if (names == title).any()]
    if titles:
        msg = (
            f"header: expected names of columns in the first line of {where}, got {shorten(titles)}, a partner in further "
            "lines. Pass header=False, or columns= if these are the names."
        )
        raise LabelError(msg)
