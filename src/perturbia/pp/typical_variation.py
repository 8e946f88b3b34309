"""Take out what controls vary by anyway, as far as the controls are enough to know it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import ControlError
from perturbia.metrics._ranked_positives import average_precision
from perturbia.perturbation.labels import check_control
from perturbia.pp._control_profiles import (
    ControlProfiles,
    Missing,
    read_control_profiles,
    write_profiles,
)
from perturbia.stats._membership import distinct_within
from perturbia.stats._settings import check_choice, check_count, check_number, check_seed
from perturbia.stats.group_moments import group_means
from perturbia.stats.row_cosines import unit_rows
from perturbia.stats.typical_variation import (
    ChooseBy,
    WhiteningChoice,
    choose_whitening,
    published_tvn,
    recolour_batches,
)
from perturbia.stats.whitening import Whitening, fit_whitening

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["typical_variation_normalization"]

logger = logging.getLogger("perturbia.pp")

_N_FOLDS = 5
_RECORDED = frozenset(
    {"perturbation_key", "sep", "batch_key", "fit_on", "published", "center_per_batch", "scale", "prior", "batch_prior"}
    | {"min_controls", "missing", "as_axes", "max_rows", "seed"}
)


def typical_variation_normalization(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    batch_key: str | None = None,
    rank: int | Literal["auto"] | None = "auto",
    shrinkage: float | Literal["auto"] = "auto",
    choose_by: ChooseBy = "replicates",
    center_per_batch: bool = True,
    scale: bool = True,
    prior: float = 10.0,
    batch_prior: float | None = None,
    min_controls: int = 1,
    missing: Missing = "raise",
    fit_on: str | None = None,
    as_axes: bool = False,
    published: bool = False,
    max_rows: int = 1500,
    seed: int = 0,
    key_added: str = _keys.OBSM_TVN,
    copy: bool = False,
) -> AnnData | None:
    r"""Standardise profiles by the controls of their batch, and scale down the axes along which controls vary.

    .. math:: z = V_k \left((1 - \alpha)\, \Lambda_k + \alpha\, \bar\lambda\right)^{-1/2} V_k^\top y

    with :math:`y` the profile after :func:`standardize_by_controls`, and :math:`V \Lambda V^\top` the covariance of controls
    within batches, kept along the :math:`k` axes of most variance. Whitening along all axes from few controls is worse
    than none: where the controls are not enough to know a variance, it is a small number that magnifies noise. By
    default, :math:`k` and :math:`\alpha` are those that change least among those under which replicates of a perturbation in
    other batches are found best among all rows; where that is not clearly better than plain standardisation (all axes,
    :math:`\alpha = 1`), the profiles stay at that.

    Parameters
    ----------
    adata
        Wells or cells in rows. A view and backed data are fine.
    use_rep
        Key of `obsm` with the profiles; `None` reads `X`.
    perturbation_key
        Column of `obs` with perturbation labels.
    control
        Label or labels of the controls.
    sep
        Text between the members of a combination.
    batch_key
        Column of `obs` with the batch (plate, experiment, replicate); `None` for one batch.
    rank
        Axes kept: ``"auto"``, a number, or `None` for all.
    shrinkage
        :math:`\alpha`: ``"auto"``, or a number from 0 (white) to 1 (no axis scaled).
    choose_by
        What settles ``"auto"``. ``"replicates"``: the mean average precision of finding the replicates of a perturbation,
        in other batches, among those of others, over 9 ranks and 6 shrinkages and up to `max_rows` profiles (means of a
        quarter of the rows of a perturbation and batch, where it has more than four there). Unless the best is ahead of plain
        standardisation by two standard errors, over perturbations that took no part in finding it, that is kept; else, of
        the pairs within one standard error of the best, the one with most axes, then with most shrinkage. Without replicates, the next. ``"ledoit_wolf"``: shrinkage in closed
        form, all axes. ``"likelihood"``: shrinkage under which held-out controls are likeliest, all axes.
    center_per_batch
        `False` leaves in what sets batches apart: one centre for all, as in the published code.
    scale
        `False` does not divide features by their standard deviation, as in :func:`standardize_by_controls`: for latents of a model.
    prior
        Controls' worth of the scale that batches share, as in :func:`standardize_by_controls`.
    batch_prior
        Also give the controls of each batch the covariance of all, with this many controls' worth of it (CORAL). `None`,
        the default, does not: from few controls a batch, it made every map that we measured worse.
    min_controls, missing
        Controls that a batch needs, and what to do with others, as in :func:`standardize_by_controls`.
    fit_on
        Boolean column of `obs`: the control rows to learn from, all by default. The others are aligned like any other row. Scores
        that compare with controls need such: from controls that it learnt from, whitening moves everything else away.
    as_axes
        Write coordinates on the kept axes in place of features. Cosines are the same.
    published
        Run the published code's steps, and nothing else of the above: standardise by all controls, turn to all axes of
        the controls, standardise again, multiply each batch by :math:`(C_b + 0.5\,I)^{-1/2}`. For comparisons.
    max_rows
        Profiles that candidates are judged by at most, alike many of every perturbation.
    seed
        Seed of that draw, and of the folds of controls.
    key_added
        Key to write to.
    copy
        Return a changed copy, in memory, and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are `obsm[key_added]`, float32 (n_obs, n_features), or (n_obs, rank) as axes, and
    `uns[key_added]`: the arguments; `rank`, `shrinkage` and `chosen_by` as used; `candidates`, a DataFrame with the
    score of each, how far below the best it is, and the standard error of that; `lead` and `lead_standard_error`, by which
    the best is ahead of plain standardisation where it was not looked for; `batches`, a DataFrame with the controls of each.

    Raises
    ------
    LabelError
        If labels or batches are missing or can not be read.
    ControlError
        If no row is a control, a batch has too few of them, or all together are too few for a shrinkage of 0.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If a row holds NaN, or an option is none of the above.
    UnsupportedQuery
        If `adata` is a view of a backed file and `copy` is False.

    Notes
    -----
    Choosing by replicates looks at which rows carry the same label, at nothing else: which genes belong together is not
    read, so that recall of relationships stays a fair score. Scores of replicates themselves
    (:func:`perturbia.metrics.replicate_consistency`) on the same rows are favoured, a little; for those choose by
    ``"ledoit_wolf"``.

    An eigendecomposition of the smaller of controls × controls and features × features; choosing costs 54 sorts of
    `max_rows` × `max_rows` cosines, some seconds.

    References
    ----------
    Ando, D. M., McLean, C. Y. and Berndl, M. (2017). Improving phenotypic measurements in high-content imaging screens.
    bioRxiv 161422. The published code is that of Celik, S. et al. (2024), PLOS Computational Biology 20.

    Examples
    --------
    >>> import perturbia as pb
    >>> wells = pb.datasets.simulate_plates()
    >>> pb.pp.typical_variation_normalization(wells, batch_key="plate")
    >>> wells.obsm["X_tvn"].shape, wells.uns["X_tvn"]["chosen_by"]
    ((576, 120), 'replicates')
    """
    recorded = {name: value for name, value in locals().items() if name in _RECORDED}
    _check(rank, shrinkage, choose_by, prior, batch_prior, min_controls, missing, max_rows, seed)
    profiles = read_control_profiles(
        adata,
        use_rep=use_rep,
        perturbation_key=perturbation_key,
        control=control,
        sep=sep,
        batch_key=batch_key,
        fit_on=fit_on,
        key_added=key_added,
        copy=copy,
    )
    recorded["use_rep"] = use_rep or "X"
    recorded["control"] = np.array(check_control(control), dtype=object)
    recorded["batches"] = profiles.control_table()
    if published:
        profiles.require(2, missing="raise", can_pool=False)
        values = published_tvn(profiles.values, profiles.is_control, profiles.batches)
        return write_profiles(adata, values, {**recorded, "whitened": True}, key_added=key_added, copy=copy)
    rows = profiles.standardized(
        min_controls=min_controls, missing=missing, scale=scale, prior=prior, center_per_batch=center_per_batch
    )
    residuals = _residuals(rows, profiles, center_per_batch=center_per_batch)
    whitening = fit_whitening(residuals)
    _check_controls(whitening, profiles, rank, shrinkage, batch_prior)
    choice = _choose(whitening, residuals, rows, profiles, rank, shrinkage, choose_by, max_rows, seed)
    values = _whitened(whitening, choice, rows, profiles, as_axes=as_axes, batch_prior=batch_prior)
    recorded |= _described(choice, rows.shape[1])
    return write_profiles(adata, values, recorded, key_added=key_added, copy=copy)


def _described(choice: WhiteningChoice, n_features: int) -> dict[str, Any]:
    """What was chosen, for `uns`."""
    return {
        "rank": choice.rank,
        "shrinkage": float(choice.shrinkage),
        "chosen_by": choice.chosen_by,
        "candidates": choice.candidates,
        "lead": float(choice.lead[0]),
        "lead_standard_error": float(choice.lead[1]),
        "whitened": choice.shrinkage < 1 or choice.rank < n_features,
    }


def _whitened(
    whitening: Whitening,
    choice: WhiteningChoice,
    rows: np.ndarray,
    profiles: ControlProfiles,
    *,
    as_axes: bool,
    batch_prior: float | None,
) -> np.ndarray:
    """Whitened rows, each batch given the covariance of all where that is asked for: along the axes kept."""
    rank, shrinkage = choice.rank, choice.shrinkage
    if batch_prior is None:
        return whitening.transform(rows, rank=rank, shrinkage=shrinkage, as_axes=as_axes)
    values = whitening.transform(rows, rank=rank, shrinkage=shrinkage, as_axes=True)
    values = recolour_batches(values, profiles.is_control, profiles.batches, prior=batch_prior)
    return values if as_axes else values @ whitening.basis(rank).T


def _residuals(rows: np.ndarray, profiles: ControlProfiles, *, center_per_batch: bool) -> np.ndarray:
    """Controls about the mean of their batch; about that of all controls, where batches are not centred."""
    controls = rows[profiles.is_control]
    if not center_per_batch:
        return controls - controls.mean(axis=0)
    found, codes = np.unique(profiles.batches[profiles.is_control], return_inverse=True)
    means = group_means(controls, codes, groups=range(len(found)), with_variance=False).mean
    return controls - means[codes]


def _choose(
    whitening: Whitening,
    residuals: np.ndarray,
    rows: np.ndarray,
    profiles: ControlProfiles,
    rank: Any,
    shrinkage: Any,
    choose_by: ChooseBy,
    max_rows: int,
    seed: int,
) -> WhiteningChoice:
    replicates, groups, batches = profiles.replicates(rows, max_rows, seed)
    choice = choose_whitening(
        whitening,
        rank=whitening.axes.shape[0] if rank is None else rank,
        shrinkage=shrinkage,
        choose_by=choose_by,
        controls=residuals,
        control_folds=profiles.control_folds(_N_FOLDS, seed),
        rows=replicates,
        score=_ReplicateRetrieval(groups, batches),
    )
    if choice.chosen_by not in (choose_by, "user"):
        logger.warning(
            "No perturbation has two rows that could be found among those of another: shrinkage is chosen by %r.",
            choice.chosen_by,
        )
    return choice


class _ReplicateRetrieval:
    """Average precision of finding the replicates of a row among the rows of other perturbations, by perturbation.

    Replicates lie in other batches, unless no perturbation has rows in two: then any other row of it is one.
    """

    def __init__(self, groups: np.ndarray, batches: np.ndarray) -> None:
        self.group, names = pd.factorize(groups)
        self.n_groups = len(names)
        self.batch = batches
        self.across = bool((distinct_within(self.group, batches, self.n_groups) > 1).any())

    def _candidates(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        same = self.group[rows, None] == self.group[None]
        other = (
            self.batch[rows, None] != self.batch[None] if self.across else rows[:, None] != np.arange(len(self.group))
        )
        return same & other, ~same

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.empty(0)
        found = average_precision(unit_rows(rows)[0], self._candidates)[0]
        scored = ~np.isnan(found)
        count = np.bincount(self.group[scored], minlength=self.n_groups)
        total = np.bincount(self.group[scored], found[scored], minlength=self.n_groups)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _check_controls(
    whitening: Whitening, profiles: ControlProfiles, rank: Any, shrinkage: Any, batch_prior: Any
) -> None:
    n_features, n_axes = whitening.axes.shape
    if not n_axes:
        msg = "control: expected control rows that differ, got rows that are all alike. Check use_rep."
        raise ControlError(msg)
    wanted = n_features if rank is None else rank
    if shrinkage == 0 and n_axes < n_features and (wanted == "auto" or wanted > n_axes):
        msg = (
            f"shrinkage: expected a number above 0, since {profiles.is_control.sum()} controls leave {n_features - n_axes} of "
            f"{n_features} directions without variance, got 0. Pass rank={n_axes} or less, or shrinkage='auto'."
        )
        raise ControlError(msg)
    width = n_features if wanted in ("auto", n_features) or wanted > n_features else min(wanted, n_axes)
    if batch_prior == 0 and (profiles.control_counts <= width).any():
        msg = (
            f"batch_prior: expected a number above 0, since a batch has {profiles.control_counts.min()} controls for "
            f"{width} axes, got 0."
        )
        raise ControlError(msg)


def _check(
    rank: Any, shrinkage: Any, choose_by: Any, prior: Any, batch_prior: Any, min_controls: Any, missing: Any,
    max_rows: Any, seed: Any,
) -> None:  # fmt: skip
    check_choice("choose_by", choose_by, ("replicates", "ledoit_wolf", "likelihood"))
    check_choice("missing", missing, ("raise", "pool"))
    if rank is not None and rank != "auto":
        check_count("rank", rank)
    if shrinkage != "auto":
        check_number("shrinkage", shrinkage)
        if shrinkage > 1:
            msg = f"shrinkage: expected 'auto' or a number from 0 to 1, got {shrinkage!r}."
            raise ValueError(msg)
    check_number("prior", prior)
    if batch_prior is not None:
        check_number("batch_prior", batch_prior)
    check_count("min_controls", min_controls)
    check_count("max_rows", max_rows, least=2)
    check_seed(seed)
