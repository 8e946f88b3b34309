"""How many of the known relations between genes stand out in a map of perturbations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from perturbia.errors import ControlError, LabelError, shorten
from perturbia.metrics._degree_matching import edge_probabilities
from perturbia.metrics._node_bootstrap import bootstrap_shares
from perturbia.metrics._pair_similarities import count_cosines
from perturbia.metrics._relation_pairs import locate_pairs, read_databases
from perturbia.metrics._row_directions import directed_rows
from perturbia.metrics._tail_ranks import ranking_scores, tail_hits
from perturbia.perturbation._profiles import map_rows, marked_controls
from perturbia.stats._settings import check_choice, check_count, check_seed
from perturbia.stats.row_cosines import pair_cosines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from perturbia.metrics._relation_pairs import KnownPairs

__all__ = ["RelationshipRecall", "relationship_recall"]

Null = Literal["all", "excluding_known", "degree_matched"]
_LEAST_TAIL = 1e-9  # below this a tail is empty on purpose, or rounding
# Sizes of the tail on each side for which curves are given.
_TAILS = np.arange(26) / 100
# Share of the pairs among the genes of a database that may be known before the degree-matched null is mostly they.
_MOST_KNOWN = 0.25


@dataclass(frozen=True)
class RelationshipRecall:
    """Recall of known relations in a map.

    Attributes
    ----------
    table
        One row a database and pair of percentiles: `database`, `percentile_low`, `percentile_high`; `n_pairs` known pairs
        in the map, `n_genes` that they name, `n_missing` pairs left out because the map lacks a name; `recall` with limits
        `recall_lower` and `recall_upper`, `recall_right` of the upper tail alone, `chance` of the recall; `auroc`,
        `average_precision` and `average_precision_chance` of the absolute cosine; `null`.
    curve
        One row a database and tail size: `database`, `tail` (share of all pairs on each side, 0 to 0.25), `recall`,
        `recall_lower`, `recall_upper`, `chance`.
    null
        What known pairs were compared with.
    n_perturbations
        Rows of the map that were used.
    n_controls
        Rows left out as controls.
    confidence
        Coverage of the intervals.
    n_boot
        Resamples of genes.
    """

    table: pd.DataFrame
    curve: pd.DataFrame
    null: str
    n_perturbations: int
    n_controls: int
    confidence: float
    n_boot: int

    def __repr__(self) -> str:
        left_out = f" ({self.n_controls} controls left out)" if self.n_controls else ""
        lines = [f"RelationshipRecall: {self.n_perturbations:,} perturbations{left_out}, null {self.null!r}"]
        for row in self.table.to_dict("records"):
            limits = (
                "" if np.isnan(row["recall_lower"]) else " ({recall_lower:.3f} to {recall_upper:.3f})".format(**row)
            )
            missing = f", {row['n_missing']:,} not in the map" if row["n_missing"] else ""
            lines.append(
                f"  {row['database']}: recall {row['recall']:.3f}{limits} below {row['percentile_low']:g} and above "
                f"{row['percentile_high']:g}, chance {row['chance']:.2f}; {row['n_pairs']:,} pairs of {row['n_genes']:,} "
                f"genes{missing}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        left_out = f" ({self.n_controls} controls left out)" if self.n_controls else ""
        head = (
            f"RelationshipRecall: {self.n_perturbations:,} perturbations{left_out}, null <code>{self.null}</code>, "
            f"{self.confidence:.0%} intervals from {self.n_boot:,} resamples of genes"
        )
        return f"<p>{head}</p>{self.table.to_html(index=False, float_format='{:.3f}'.format)}"


def relationship_recall(
    adata_map: Any,
    relationships: Any,
    *,
    names: Sequence[str] | None = None,
    use_rep: str | None = None,
    control: str | Sequence[str] | None = None,
    percentiles: Iterable[tuple[float, float]] = ((0.05, 0.95),),
    null: Null = "all",
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RelationshipRecall:
    r"""Share of known relations whose cosine is among the most extreme of all pairs of a map.

    With :math:`c_{ij}` the cosine of rows i and j, N pairs of rows in all, and K of them known,

    .. math::
        \mathrm{recall} = \frac{1}{K} \sum_{(i,j)\,\text{known}}
        \left[\frac{|\{c \le c_{ij}\}|}{N} \le q_{low} \;\text{or}\; \frac{|\{c < c_{ij}\}|}{N} \ge q_{high}\right]

    Both tails count, since partners may act against each other; ties never help. This is the tie rule of EFAAR
    benchmarking (Celik et al., 2024), and values are equal to it. Cosines that differ by less than 1e-12, what rounding
    makes of equal ones, count as ties.

    **Range** [0, 1], 1 best. **Chance** is :math:`q_{low} + 1 - q_{high}`, whatever the map, as long as it has rows enough: a
    tail holds whole pairs, so that without ties chance is
    :math:`(\lfloor N q_{low} \rfloor + \lfloor N (1 - q_{high}) \rfloor) / N` exactly, which is far less for N q around 1, and 0
    below (5 % tails of 6 rows, 15 pairs). **Not seen**: relations that
    the database lacks, direction and strength. Recall is high for more reasons than biology: profiles of neighbours on a
    chromosome arm that resemble each other (CRISPR proximity bias), a database made from the same kind of data, and
    genes with strong profiles and many known partners (see `null`). Cosines depend on the origin: align the map so that
    controls are at 0.

    Parameters
    ----------
    adata_map
        AnnData or DataFrame with one row a gene (:func:`perturbia.tl.aggregate_perturbations`), or an array
        (n_rows, n_features) with `names`. Rows whose `obs["is_control"]` is true are left out.
    relationships
        Known pairs, in any order: a DataFrame whose first two columns hold names, an iterable of pairs, or a dict from
        the name of a database to either, for one row of results each. Self pairs are dropped, A-B and B-A are one pair,
        pairs with a name that the map lacks are counted and left out. For several databases as one, concatenate them.
    names
        Names of the rows, in place of their own.
    use_rep
        Key of `obsm`; `None` and ``"X"`` read `X`.
    control
        Names of further rows to leave out.
    percentiles
        Pairs (low, high) of shares, 0 <= low < high <= 1.
    null
        What known pairs are compared with: ``"all"`` pairs of the map, the known ones among them; those
        ``"excluding_known"`` of the same database; or ``"degree_matched"``, pairs of genes of the database weighted by
        their probability in a random graph in which every gene has as many partners as it has in the database (known
        pairs among them). Under the last, genes that are extreme with everything and well studied raise nothing.
    n_boot
        Bootstrap resamples of genes; 0 for no intervals.
    confidence
        Coverage of the percentile intervals.
    seed
        Seed of the resamples.

    Returns
    -------
    :class:`RelationshipRecall`. `auroc` and `average_precision` rank known pairs by \|cosine\| against the pairs that are not
    known; under ``"degree_matched"`` against the weighted pairs of that null, with N - K as their sum. Chance is 0.5 and
    K / N.

    Raises
    ------
    LabelError
        If names of rows are missing or repeated, relationships are no pairs of names, none of a database is in the map
        (the message has names of both), or every pair is known.
    ControlError
        If no row has a name in `control`.
    FeatureMismatch
        If the representation does not exist or is no matrix of numbers.
    ValueError
        Missing values, rows of zeros, fewer than two rows, or impossible options.

    Warns
    -----
    RuntimeWarning
        Databases with one pair in the map: they have no interval. Maps of so few rows that a tail holds no pair. Known pairs
        that are a quarter or more of the pairs among their genes, under the degree-matched null.

    Notes
    -----
    Intervals resample genes and not pairs, for pairs that share a gene are not independent. Thresholds stay those of the
    whole map. They are conservative, as bootstraps of nodes are (Owen, 2007): in random maps about 1.25 times too wide for
    a database of hubs, and 1.7 to 2 times for scattered pairs and for complexes.

    Cost: :math:`O(n^2 d)` in blocks and double precision, once to count and once or twice to settle ranks; no matrix of
    pairs is held. With 128 features, 18,000 rows take seconds.

    References
    ----------
    Celik et al., PLOS Computational Biology 20 (2024), e1012463. Snijders and Borgatti, Connections 22(2) (1999):
    bootstrap of nodes. Owen, Annals of Applied Statistics 1 (2007), 386-411. Chatterjee, Diaconis and Sly, Annals of
    Applied Probability 21 (2011), 1400-1435: random graphs with given degrees.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> complexes = np.repeat(np.arange(20), 4)
    >>> genes = [f"G{i}" for i in range(80)]
    >>> profiles = rng.normal(size=(20, 10))[complexes] + rng.normal(size=(80, 10))
    >>> pairs = [(genes[i], genes[j]) for i, j in zip(*np.triu_indices(80, 1)) if complexes[i] == complexes[j]]
    >>> relationship_recall(pd.DataFrame(profiles, index=genes), {"complexes": pairs})
    RelationshipRecall: 80 perturbations, null 'all'
      complexes: recall 0.350 (0.195 to 0.505) below 0.05 and above 0.95, chance 0.10; 120 pairs of 80 genes
    """
    tails = _check_options(percentiles, null, n_boot, confidence, seed)
    units, labels, n_controls = _read_map(adata_map, names, use_rep, control)
    known = locate_pairs(read_databases(relationships), labels)
    n_possible = len(labels) * (len(labels) - 1) // 2
    for database, pairs in known.items():
        if len(pairs) == n_possible:
            msg = (
                f"relationships: expected pairs of the map that are not known, to compare with, got all {n_possible} of them "
                f"in {database!r}. Use a map of more genes."
            )
            raise LabelError(msg)
    _warn_of_empty_tails(tails, n_possible)
    hits, scores = _against_others(units, known, np.concatenate([tails, _curve_tails()]), null)
    single = [database for database, pairs in known.items() if len(pairs) == 1]
    if single and n_boot > 0:
        message = f"relationships: one known pair in the map in {shorten(single)}; its recall has no interval."
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    rows, curves = [], []
    for database, pairs in known.items():
        summary = _summarise(pairs, hits[database], n_boot=n_boot, confidence=confidence, seed=seed)
        chance = len(pairs) / n_possible
        rows.append(_rows_of(database, pairs, summary[: len(tails)], tails, (*scores[database], chance), null))
        curves.append(_curve_of(database, summary[len(tails) :]))
    return RelationshipRecall(
        table=pd.concat(rows, ignore_index=True),
        curve=pd.concat(curves, ignore_index=True),
        null=null,
        n_perturbations=len(labels),
        n_controls=n_controls,
        confidence=float(confidence),
        n_boot=int(n_boot),
    )


def _curve_tails() -> np.ndarray:
    return np.column_stack([_TAILS, 1.0 - _TAILS])


def _check_options(percentiles: Any, null: str, n_boot: Any, confidence: float, seed: Any) -> np.ndarray:
    """Return percentiles of shape (n_tails, 2), or refuse what can not be."""
    try:
        tails = np.array([tuple(pair) for pair in percentiles], dtype=np.float64)
    except (TypeError, ValueError):
        tails = np.empty(0)
    good = tails.ndim == 2 and tails.shape[0] > 0 and tails.shape[1] == 2
    if not good or not ((tails[:, 0] >= 0) & (tails[:, 0] < tails[:, 1]) & (tails[:, 1] <= 1)).all():
        msg = f"percentiles: expected pairs (low, high) with 0 <= low < high <= 1, such as ((0.05, 0.95),), got {percentiles!r}."
        raise ValueError(msg)
    check_choice("null", null, get_args(Null))
    check_count("n_boot", n_boot, least=0)
    check_seed(seed)
    if not 0 < confidence < 1:
        msg = f"confidence: expected a share between 0 and 1, got {confidence!r}."
        raise ValueError(msg)
    return tails


def _warn_of_empty_tails(tails: np.ndarray, n_possible: int) -> None:
    """Say that a tail holds no pair; one that was asked to hold none does not count."""
    sizes = np.column_stack([tails[:, 0], 1.0 - tails[:, 1]])
    empty = (sizes > _LEAST_TAIL) & (sizes * n_possible < 1.0 - _LEAST_TAIL)
    if empty.any():
        warnings.warn(
            f"percentiles: a tail of {sizes[empty].min():g} of {n_possible} pairs holds none, so that recall in it is 0 and chance "
            "less than `chance` says. Use a map of more rows, or larger tails.",
            RuntimeWarning,
            stacklevel=3,
        )


def _read_map(
    adata_map: Any, names: Sequence[str] | None, use_rep: str | None, control: str | Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows of length 1 and their names, in order of names and without controls, and how many controls there were."""
    values, labels = map_rows(adata_map, names=names, use_rep=use_rep)
    left_out = marked_controls(adata_map)
    if control is not None:
        wanted = [control] if isinstance(control, str) else [str(name) for name in control]
        if not set(wanted) <= set(labels):
            unknown = [name for name in wanted if name not in set(labels)]
            msg = f"control: expected names of rows of the map, got {shorten(unknown)}; rows are {shorten(labels.tolist())}."
            raise ControlError(msg)
        left_out |= np.isin(labels, wanted)
    kept = np.flatnonzero(~left_out)
    if len(kept) < 2:
        msg = f"adata_map: expected two rows or more that are no controls, got {len(kept)}."
        raise ValueError(msg)
    kept = kept[np.argsort(labels[kept])]
    return directed_rows(values[kept], labels[kept], argument="adata_map"), labels[kept], int(left_out.sum())


def _against_others(
    units: np.ndarray, known: Mapping[str, KnownPairs], tails: np.ndarray, null: str
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
    """Tails that the pairs of each database are in, (2, n_pairs, n_tails), and AUROC and average precision."""
    cosines = {database: pair_cosines(units, pairs.first, pairs.second) for database, pairs in known.items()}
    n_others = {database: len(units) * (len(units) - 1) // 2 - len(pairs) for database, pairs in known.items()}
    if null != "degree_matched":
        counts = count_cosines(units)
        hits = tail_hits(counts, list(cosines.values()), tails, exclude=null == "excluding_known")
        scores = {name: ranking_scores(counts, one, n_others[name]) for name, one in cosines.items()}
        return dict(zip(known, hits, strict=True)), scores
    found, scores = {}, {}
    for database, pairs in known.items():
        rows = pairs.rows()
        if len(pairs) == len(rows) * (len(rows) - 1) // 2:
            msg = (
                f"null: expected genes of {database!r} with pairs that are not known, for null='degree_matched', got "
                f"{len(rows)} genes with all pairs known. Use null='all'."
            )
            raise LabelError(msg)
        _warn_of_known_null(database, len(pairs), len(rows))
        counts = count_cosines(units[rows], edge_probabilities(pairs.degrees()))
        (found[database],) = tail_hits(counts, [cosines[database]], tails)
        scores[database] = ranking_scores(counts, cosines[database], n_others[database])
    return found, scores


def _warn_of_known_null(database: str, n_pairs: int, n_genes: int) -> None:
    """Say that known pairs are much of what they are compared with."""
    share = n_pairs / (n_genes * (n_genes - 1) // 2)
    if share > _MOST_KNOWN:
        warnings.warn(
            f"null: {n_pairs} known pairs of {database!r} are {share:.0%} of all pairs of its {n_genes} genes in the map, and part "
            "of the degree-matched null: few of them can be extreme in it. Use null='all', or a map of more genes.",
            RuntimeWarning,
            stacklevel=4,
        )


def _summarise(pairs: KnownPairs, hits: np.ndarray, *, n_boot: int, confidence: float, seed: int) -> pd.DataFrame:
    """Recall with its limits, and of the upper tail alone, one row a tail."""
    either = hits[0] | hits[1]
    lower, upper = bootstrap_shares(pairs.first, pairs.second, either, n_boot=n_boot, confidence=confidence, seed=seed)
    return pd.DataFrame(
        {
            "recall": either.mean(axis=0),
            "recall_lower": lower,
            "recall_upper": upper,
            "recall_right": hits[1].mean(axis=0),
        }
    )


def _rows_of(
    database: str,
    pairs: KnownPairs,
    summary: pd.DataFrame,
    tails: np.ndarray,
    ranking: tuple[float, float, float],
    null: str,
) -> pd.DataFrame:
    """Rows of the table of one database."""
    area, precision, precision_chance = ranking
    head = {
        "database": database,
        "percentile_low": tails[:, 0],
        "percentile_high": tails[:, 1],
        "n_pairs": len(pairs),
        "n_genes": len(pairs.rows()),
        "n_missing": pairs.n_missing,
    }
    last = {
        "chance": tails[:, 0] + 1.0 - tails[:, 1],
        "auroc": area,
        "average_precision": precision,
        "average_precision_chance": precision_chance,
        "null": null,
    }
    return pd.concat([pd.DataFrame(head), summary.reset_index(drop=True), pd.DataFrame(last)], axis=1)


def _curve_of(database: str, summary: pd.DataFrame) -> pd.DataFrame:
    limits = summary.reset_index(drop=True).drop(columns="recall_right")
    return pd.concat(
        [pd.DataFrame({"database": database, "tail": _TAILS}), limits, pd.DataFrame({"chance": 2 * _TAILS})], axis=1
    )
