"""From cells, wells or guides to a map: one row a perturbation."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys
from perturbia.errors import ControlError, LabelError, shorten
from perturbia.model.base._features import check_anndata
from perturbia.model.base._result import stamp
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._profiles import profile_matrix
from perturbia.perturbation._representation import read_representation
from perturbia.stats._settings import check_positive_integer
from perturbia.stats.group_locations import locate_groups
from perturbia.tl._row_groups import RowGroups, row_groups, shared_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.perturbation.design import Design
    from perturbia.stats.group_locations import GroupLocations, Location

__all__ = ["aggregate_perturbations"]

logger = logging.getLogger(__name__)


def aggregate_perturbations(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] | None = "control",
    sep: str = "+",
    by: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    func: Location = "mean",
    trim: float = 0.1,
    min_replicates: int = 1,
    keep_control: bool = False,
) -> AnnData:
    r"""Average the rows of every perturbation, in any embedding: cells, wells or guides become a map of perturbations.

    Every spelling of a perturbation is one row (``"B+A"`` is ``"A+B"``), under its canonical label and in alphabetical
    order. With `by`, each combination of the perturbation and these columns is a row. The result can be aggregated again by
    the same call without `by`: guides first (``by="guide", keep_control=True``), then genes, so that a guide of many cells
    counts no more than another.

    Parameters
    ----------
    adata
        Annotated data with perturbation labels, (n_obs, n_vars). Align it before: cosines of a map are taken from the
        origin, so controls should lie there.
    use_rep
        Key of `obsm`; None and ``"X"`` read `X`, which stays sparse until rows are summed.
    perturbation_key
        Column of `obs` with the labels.
    control
        Label or labels of controls, which are left out of the map. None: there are none (but the word ``control`` always
        means them). A map from which they were left out before needs none.
    sep
        Text between the members of a combination; ``""`` reads each label as one name, such as ``"HLA+A"``.
    by
        Further columns of `obs` that part rows, such as a guide, a replicate or a dose.
    batch_key
        Column of `obs` with the batch, for `obs["n_batches"]`.
    func
        ``"mean"``; ``"median"`` and ``"trimmed"`` mean, feature by feature, which single bad wells do not move; or
        ``"spherical"``, the mean of rows divided by their lengths, in which every row counts by its direction alone. The
        length of a spherical row, at most 1, says how far its replicates agree.
    trim
        Share of the rows that ``"trimmed"`` leaves out at each end, in [0, 0.5).
    min_replicates
        Groups of fewer rows are left out; the log says which, and `uns["perturbia"]["n_left_out"]` how many.
    keep_control
        Keep controls: one row, or one a combination with `by`. Scores of maps leave them out.

    Returns
    -------
    AnnData (n_perturbations, n_features), with

    - `X` float32 and `layers["sem"]` float32, its standard errors over rows: :math:`s / \sqrt n` for ``"mean"`` and
      ``"spherical"``, that of Tukey and McLaughlin for ``"trimmed"``, of Maritz and Jarrett for ``"median"``
      (:func:`perturbia.stats.locate_groups` has the formulas). NaN, and nothing else is, for single rows;
    - `obs_names`: the label, with the values of `by` after bars (``"STAT1|STAT1g2"``);
    - `obs["pb_perturbation"]`: the label; `obs[perturbation_key]`: the same, but controls as `control` spells them;
    - the columns of `by`, and those that are the same in all rows of every group, such as a complex or a chromosome arm;
    - `obs["n_obs"]`: rows that were averaged; `obs["n_batches"]`: batches they come from, with `batch_key` alone;
      `obs["is_control"]`;
    - `var_names`: those of `adata` for `X`, columns of a DataFrame, else ``X_tvn_1``, ``X_tvn_2``, … for ``"X_tvn"``;
    - `uns["perturbia"]`: metadata, of kind ``map``, with `sep`, so that names are found in any spelling.

    Raises
    ------
    LabelError
        If a column does not exist, holds missing values, or would be overwritten; labels can not be read; names of rows
        would coincide; or no group is left.
    ControlError
        If none of the rows is labelled `control`: misspelt controls would enter the map as perturbations.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If entries are missing or infinite, with the rows; an option is none of the above; or, under ``"spherical"``, rows
        are zero.

    Warns
    -----
    RuntimeWarning
        Groups of one row: their standard errors are NaN.

    Notes
    -----
    Means are sparse indicator products; groups of one size are sorted together. There is no loop over perturbations.
    Standard errors take rows for independent: rows of one plate or guide share errors, which one aggregates away first.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.tapseq()
    >>> guides = pb.tl.aggregate_perturbations(adata, by="guide", keep_control=True)
    >>> genes = pb.tl.aggregate_perturbations(guides)
    >>> guides.n_obs, genes.n_obs, int(genes.obs["n_obs"].sum())
    (86, 14, 56)
    """
    check_anndata(adata)
    check_positive_integer("min_replicates", min_replicates)
    design = _design(adata, perturbation_key, control, sep)
    groups = row_groups(
        adata, design, perturbation_key=perturbation_key, by=[by] if isinstance(by, str) else by, batch_key=batch_key
    )
    kept, n_left_out = _kept(groups, min_replicates, keep_control=keep_control)
    values = _values(adata, use_rep)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="labels: .* too few rows", category=RuntimeWarning)
        found = locate_groups(values, groups.codes, groups=kept, func=func, trim=trim)
    if (single := int(np.isnan(found.standard_error).any(axis=1).sum())) > 0:
        warnings.warn(
            f"adata: {single} of {len(kept)} groups have too few rows for a standard error; layers['sem'] is NaN there.",
            RuntimeWarning,
            stacklevel=2,
        )
    obs = groups.table(kept)
    for name, column in shared_columns(adata.obs, groups.codes, kept).items():
        obs.setdefault(name, column)
    out = _as_anndata(
        found, pd.DataFrame(obs, index=groups.names(kept)), _feature_names(adata, use_rep, values.shape[1])
    )
    stamp(out, kind="map", ur_id="observed", model="observed", scale=_scale_of(adata, use_rep))
    out.uns[_keys.UNS_RESULT] |= {
        "use_rep": use_rep or "X",
        "func": func,
        "by": "|".join(groups.by),
        "sep": sep,
        "n_left_out": n_left_out,
    }
    return out


def _design(adata: AnnData, perturbation_key: str, control: str | Sequence[str] | None, sep: str) -> Design:
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep, require_control=False)
    # a map whose controls were left out before needs none now
    without = adata.uns.get(_keys.UNS_RESULT, {}).get("kind") == "map" and not np.any(
        adata.obs.get(_keys.OBS_CONTROL, False)
    )
    if control is not None and not without and not design.is_control.any():
        seen = shorten(sorted(set(adata.obs[perturbation_key].astype(str))))
        msg = (
            f"control: expected rows labelled {control!r} in adata.obs[{perturbation_key!r}], got none. Name the controls, "
            f"so that they do not enter the map, or pass control=None if there are none. Labels seen: {seen}."
        )
        raise ControlError(msg)
    return design


def _kept(groups: RowGroups, min_replicates: int, *, keep_control: bool) -> tuple[np.ndarray, int]:
    """Codes of the groups that become rows, and how many are left out for their size."""
    wanted = np.ones(len(groups.count), dtype=bool) if keep_control else ~groups.is_control
    if not wanted.any():
        msg = "perturbation_key: expected a perturbation besides the control, got none. Pass keep_control=True to keep it."
        raise LabelError(msg)
    small = wanted & (groups.count < min_replicates)
    kept = np.flatnonzero(wanted & ~small)
    if not len(kept):
        msg = (
            f"min_replicates: expected a perturbation of {min_replicates} rows or more, got at most "
            f"{groups.count[wanted].max()}. Ask for fewer."
        )
        raise LabelError(msg)
    if small.any():
        left_out = shorten(groups.names(np.flatnonzero(small)))
        logger.info("%d groups have fewer than %d rows and are left out: %s.", small.sum(), min_replicates, left_out)
    return kept, int(small.sum())


def _values(adata: AnnData, use_rep: str | None) -> Any:
    """The representation, checked; sparse stays sparse."""
    values = read_representation(adata, "X" if use_rep is None else use_rep)
    if sparse.issparse(values) and values.dtype.kind in "biuf" and np.isfinite(values.data).all():
        return values
    return profile_matrix(adata, use_rep=use_rep)


def _feature_names(adata: AnnData, use_rep: str | None, n_features: int) -> pd.Index:
    """Names of features: their own where they have some."""
    if use_rep is None or use_rep == "X":
        return adata.var_names.copy()
    columns = getattr(adata.obsm[use_rep], "columns", None)
    return pd.Index([f"{use_rep}_{i + 1}" for i in range(n_features)] if columns is None else columns).astype(str)


def _scale_of(adata: AnnData, use_rep: str | None) -> str:
    if use_rep not in (None, "X"):
        return "embedding"
    return str(adata.uns.get(_keys.UNS_RESULT, {}).get("scale", "registered"))


def _as_anndata(found: GroupLocations, obs: pd.DataFrame, features: pd.Index) -> AnnData:
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicated gene names are the business of the data
        out = AnnData(found.location.astype(np.float32), obs=obs, var=pd.DataFrame(index=features))
    out.layers[_keys.LAYER_SEM] = found.standard_error.astype(np.float32)
    return out
