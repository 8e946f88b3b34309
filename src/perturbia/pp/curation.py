"""Which rows of a screen to train on: perturbations that replicate, and some of the controls."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.metrics.replicate_cosine import replicate_consistency
from perturbia.perturbation._copies import in_memory, require_writable
from perturbia.perturbation._profiles import profile_matrix
from perturbia.perturbation.labels import CONTROL, check_control
from perturbia.pp._control_profiles import check_key
from perturbia.pp._control_sampling import draw_shares
from perturbia.pp._labelled_rows import LabelledRows, read_labelled_rows
from perturbia.stats._false_discovery import q_values
from perturbia.stats._membership import distinct_within
from perturbia.stats._settings import check_choice, check_count, check_seed, is_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from perturbia.metrics.replicate_cosine import Null

__all__ = ["curate_perturbations"]

logger = logging.getLogger("perturbia.pp")

Criterion = Literal["pval", "qval"]

# why a perturbation is kept or not
_KEPT, _CONTROL, _BATCHES, _ROWS, _UNTESTED, _INCONSISTENT = (
    "kept",
    "control",
    "too few batches",
    "too few rows",
    "not testable",
    "not consistent",
)


def curate_perturbations(
    adata: AnnData,
    *,
    batch_key: str,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] | None = "control",
    sep: str = "+",
    use_rep: str | Sequence[str | None] | None = None,
    min_batches: int = 3,
    min_wells: int = 20,
    control_fraction: float | Mapping[str, float] = 0.3,
    consistency: Criterion | None = "pval",
    alpha: float = 0.01,
    null: Null = "mismatched",
    n_null: int = 1000,
    seed: int = 0,
    key_added: str = _keys.OBS_CURATED,
    copy: bool = False,
) -> AnnData | None:
    """Mark the rows worth training on: perturbations seen often, in several batches, that replicate; and some controls.

    Most perturbations of a large screen do nothing that can be seen, and a tenth of its wells may be controls. A model trained
    on the rest learns more from fewer images. No row is dropped: use ``adata[adata.obs["curated"]]``.

    Rows without a label, with one that means unknown (``unassigned``, ``doublet``, …) or without a batch are not kept.
    Perturbations are kept that pass all of: `min_batches`, `min_wells`, and :func:`perturbia.metrics.replicate_consistency`
    below `alpha` in *one* of the representations.

    Parameters
    ----------
    adata
        Wells or cells in rows, aligned (:func:`standardize_by_controls`). A view and backed data are fine.
    batch_key
        Column of `obs` with the batch (experiment, plate), which replicates must agree across.
    perturbation_key
        Column of `obs` with perturbation labels.
    control
        Label or labels of the controls. None: none but those called ``control``.
    sep
        Text between the members of a combination.
    use_rep
        Key of `obsm`, None or ``"X"`` for `X`, or a list: a perturbation is then kept if it is consistent in either, which
        doubles the chance of keeping one that does nothing.
    min_batches
        Batches that a perturbation needs rows in.
    min_wells
        Rows that it needs, at least 2.
    control_fraction
        Share of the controls of each label to keep in every batch, rounded up. A mapping names a share for each label, such as
        ``{"positive": 0.1, "negative": 0.3}``, also of perturbations that all plates hold: these are controls then, under-sampled
        and not tested. Controls that it does not name are all kept.
    consistency
        ``"pval"``: p-values as they are. ``"qval"``: adjusted for the number of perturbations (Benjamini and Hochberg).
        None: no test; representations are not read.
    alpha
        Level that p- or q-values must be below.
    null
        What a perturbation must be more consistent than: ``"mismatched"`` rows of other perturbations from the same batches,
        or ``"controls"``.
    n_null
        Random sets for each p-value; 1 / (1 + n_null), the smallest possible one, must be below `alpha`.
    seed
        Seed of the random sets, and of the draw of controls, which goes by names of rows and not by their order.
    key_added
        Column of `obs` and key of `uns` to write to.
    copy
        Return a changed copy, in memory, and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    - `obs[key_added]`: bool, whether the row is kept;
    - `uns[key_added]["table"]`: DataFrame with, for each perturbation and each label of controls, `n_obs`, `n_batches`,
      `n_kept` rows, whether it is `kept`, the `reason` (``"kept"``, ``"control"``, ``"too few batches"``, ``"too few rows"``,
      ``"not testable"``, ``"not consistent"``) and, for each representation, ``consistency_…``, the mean cosine of replicates,
      ``p_value_…`` and ``q_value_…``; NaN where they were not tested. q-values count perturbations with enough rows and batches;
    - the rest of `uns[key_added]`: the arguments, `n_unlabelled` and `n_without_batch` rows.

    Raises
    ------
    LabelError
        If a column does not exist, no row has a label and a batch, labels can not be read, or there are fewer than two
        perturbations to compare.
    ControlError
        If no row has a label of `control` or `control_fraction`.
    FeatureMismatch
        If a representation does not exist.
    ValueError
        If a row holds NaN, or a number or choice is impossible.
    UnsupportedQuery
        If `adata` is a view of a backed file and `copy` is False.

    Notes
    -----
    Perturbations that were kept for their p-value look more consistent on the same rows than they are: measure them
    on others. Positive controls in the null would make it strict, so perturbations named in `control_fraction` are not in it.

    References
    ----------
    Kenyon-Dean, K. et al. (2024). ViTally Consistent: Scaling biological representation learning for cell microscopy.
    arXiv:2411.02572.

    Examples
    --------
    >>> import perturbia as pb
    >>> wells = pb.datasets.simulate_plates(n_complexes=4, n_single_genes=4, n_replicates=4, n_plates=4)
    >>> pb.pp.standardize_by_controls(wells, batch_key="plate")
    >>> pb.pp.curate_perturbations(wells, batch_key="plate", use_rep="X_standardized", min_wells=8)
    >>> table = wells.uns["curated"]["table"]
    >>> table[["n_obs", "n_kept"]].loc["control"].tolist()
    [48, 16]
    >>> table["reason"].value_counts().to_dict()
    {'kept': 11, 'not consistent': 9, 'control': 1}
    """
    representations = _representations(use_rep)
    _check_options(min_batches, min_wells, consistency, alpha, null, n_null, seed)
    check_key(key_added)
    if not copy:
        require_writable(adata)
    screen = read_labelled_rows(adata, perturbation_key, batch_key, control, sep, control_fraction)
    table = _count(screen.perturbations, screen.codes, screen.batches)
    table["reason"] = np.select(
        [table["n_batches"] < min_batches, table["n_obs"] < min_wells], [_BATCHES, _ROWS], _KEPT
    ).astype(object)
    if consistency is not None:
        for name in representations:
            values = profile_matrix(adata, use_rep=name)[screen.rows]
            _add_consistency(table, screen, values, name or "X", sep=sep, null=null, n_null=n_null, seed=seed)
        _judge(table, consistency, alpha)
    table.insert(2, "n_kept", np.where(table["reason"] == _KEPT, table["n_obs"], 0))
    names = adata.obs_names.to_numpy().astype(str)[screen.rows]
    drawn = draw_shares(screen.classes, screen.shares, screen.batches, names, seed=seed)
    curated = _marked(table, screen, drawn, adata.n_obs)
    parameters = {
        "perturbation_key": perturbation_key,
        "control": np.array(check_control(CONTROL if control is None else control), dtype=object),
        "batch_key": batch_key,
        "use_rep": np.array([name or "X" for name in representations], dtype=object),
        "min_batches": min_batches,
        "min_wells": min_wells,
        "control_fraction": pd.DataFrame({"fraction": screen.shares}, index=pd.Index(screen.class_names, name="label")),
        "consistency": consistency or "none",
        "alpha": float(alpha),
        "null": null,
        "n_null": n_null,
        "seed": int(seed),
        "n_unlabelled": screen.n_unlabelled,
        "n_without_batch": screen.n_without_batch,
    }
    out = in_memory(adata) if copy else adata
    out.obs[key_added] = curated
    out.uns[key_added] = {"table": _with_controls(table, screen, drawn), **parameters}
    _report(table, curated)
    return out if copy else None


def _count(names: np.ndarray | list[str], codes: np.ndarray, batches: np.ndarray) -> pd.DataFrame:
    """Rows and batches of every group; rows of code -1 are in none."""
    counts = {
        "n_obs": np.bincount(codes[codes >= 0], minlength=len(names)),
        "n_batches": distinct_within(codes, batches, len(names)),
    }
    return pd.DataFrame(counts, index=pd.Index(np.asarray(names, dtype=object), name="perturbation"))


def _add_consistency(
    table: pd.DataFrame,
    screen: LabelledRows,
    values: np.ndarray,
    name: str,
    *,
    sep: str,
    null: Null,
    n_null: int,
    seed: int,
) -> None:
    """Add columns with the consistency of perturbations in one representation, for those with enough rows and batches."""
    across = screen.batches.max() > 0
    asked = (table["reason"] == _KEPT).to_numpy() & ((table["n_batches"] > 1).to_numpy() | (not across))
    columns = {kind: np.full(len(table), np.nan) for kind in ("consistency", "p_value", "q_value")}
    if asked.any():
        treated = screen.codes >= 0
        # others are part of the null of mismatched rows; a screen is of two perturbations or more
        others = null == "mismatched" or asked.sum() == 1
        used = screen.is_control | (treated & (others | asked[screen.codes]))
        labels = np.where(screen.is_control, CONTROL, screen.perturbations[screen.codes])
        with warnings.catch_warnings():
            # of perturbations that are not asked about
            warnings.filterwarnings("ignore", message="perturbation_key: .*scores are NaN", category=RuntimeWarning)
            scores = replicate_consistency(
                values[used],
                labels[used],
                batch_key=screen.batches[used],
                sep=sep or "+",  # that of canonical labels
                null=null,
                across=across,
                n_null=n_null,
                max_pairs=1000,
                seed=seed,
            ).table.reindex(screen.perturbations[asked])
        columns["consistency"][asked] = scores["consistency"]
        columns["p_value"][asked] = scores["p_value"]
        columns["q_value"] = q_values(columns["p_value"])
    for kind, column in columns.items():
        table[f"{kind}_{name}"] = column


def _judge(table: pd.DataFrame, criterion: Criterion, alpha: float) -> None:
    """Give perturbations that no representation finds consistent another reason."""
    kind = "p_value_" if criterion == "pval" else "q_value_"
    level = table[[column for column in table.columns if column.startswith(kind)]].min(axis=1)
    asked = table["reason"] == _KEPT
    table.loc[asked & level.isna(), "reason"] = _UNTESTED
    table.loc[asked & (level >= alpha), "reason"] = _INCONSISTENT


def _marked(table: pd.DataFrame, screen: LabelledRows, drawn: np.ndarray, n_obs: int) -> np.ndarray:
    """Which rows of the data are kept, (n_obs,): those of perturbations that are, and the controls drawn."""
    kept = np.zeros(n_obs, dtype=bool)
    kept[screen.rows] = drawn | ((screen.codes >= 0) & (table["n_kept"] > 0).to_numpy()[screen.codes])
    return kept


def _with_controls(table: pd.DataFrame, screen: LabelledRows, drawn: np.ndarray) -> pd.DataFrame:
    """The table of perturbations with the classes of controls above them."""
    controls = _count(screen.class_names, screen.classes, screen.batches)
    controls["n_kept"] = np.bincount(screen.classes[drawn], minlength=len(controls))
    controls["reason"] = np.array([_CONTROL] * len(controls), dtype=object)
    both = pd.concat([controls[controls["n_obs"] > 0], table])
    both.insert(3, "kept", both["n_kept"] > 0)
    return both


def _report(table: pd.DataFrame, curated: np.ndarray) -> None:
    reasons = table["reason"].value_counts()
    logger.info("%d of %d rows are kept; perturbations: %s.", curated.sum(), len(curated), reasons.to_dict())
    if _KEPT not in reasons:
        logger.warning("no perturbation is kept (%s). Look at the table, and ask for less.", reasons.to_dict())


def _representations(use_rep: str | Sequence[str | None] | None) -> list[str | None]:
    """The keys to read, `X` as None, each once."""
    given = [use_rep] if use_rep is None or isinstance(use_rep, str) else list(use_rep)
    keys = [None if key == "X" else key for key in given]
    if not keys or len(set(keys)) < len(keys) or not all(key is None or isinstance(key, str) for key in keys):
        msg = f"use_rep: expected None, a key of adata.obsm, or a list of different ones, got {use_rep!r}."
        raise ValueError(msg)
    return keys


def _check_options(
    min_batches: int, min_wells: int, consistency: str | None, alpha: float, null: str, n_null: int, seed: int
) -> None:
    check_count("min_batches", min_batches)
    check_count("min_wells", min_wells, least=2)
    if consistency is not None:
        check_choice("consistency", consistency, ("pval", "qval"))
    check_choice("null", null, ("mismatched", "controls"))
    check_count("n_null", n_null)
    check_seed(seed)
    if not is_number(alpha) or not 0 < alpha <= 1:
        msg = f"alpha: expected a level above 0 and up to 1, got {alpha!r}."
        raise ValueError(msg)
    if consistency is not None and 1 / (1 + n_null) >= alpha:
        msg = (
            f"n_null: expected more than {int(np.ceil(1 / alpha)) - 1} random sets, so that a p-value can be below "
            f"alpha={alpha}, got {n_null}. Pass more, or a larger alpha."
        )
        raise ValueError(msg)
