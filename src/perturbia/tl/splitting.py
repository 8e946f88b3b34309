"""Splits of cells into training, validation and test."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import SplitError
from perturbia.perturbation import unique_dosages
from perturbia.tl._design import design_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix

__all__ = ["split"]

logger = logging.getLogger(__name__)

_WHAT_IT_TESTS = {
    "random": "new cells of perturbations that were seen: denoising, not generalisation",
    "combination": "combinations that were never seen, of targets that may have been",
}


def split(
    adata: AnnData,
    *,
    axis: Literal["random", "combination"] = "random",
    fraction: float = 0.5,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    valid: float = 0.1,
    seed: int = 0,
    key_added: str = _keys.OBS_SPLIT,
    copy: bool = False,
) -> AnnData | None:
    """Split cells into those that a model may see and those that judge it.

    Parameters
    ----------
    adata
        Annotated data with perturbation labels.
    axis
        ``"random"`` splits the cells of every perturbation, the control included: the test asks how well effects were
        denoised and says nothing about perturbations that were not seen. ``"combination"`` holds out all cells of
        whole combinations, at whatever dose; controls and single perturbations are seen.
    fraction
        Share that is seen: of the cells of each perturbation, or of the combinations (0 holds out every one).
    perturbation_key
        Column of `obs` with labels such as ``"A"`` and ``"A+B"``.
    control
        Label or labels of control cells.
    sep
        Text between the members of a combination.
    valid
        Share of the seen cells that validates instead of training, within every perturbation.
    seed
        Seed of the split.
    key_added
        Column of `obs`, and key of `uns`, to write.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    Nothing, or the copy. Writes `obs[key_added]`, categories ``train``, ``valid`` and ``test``, which every model of
    Perturbia trains by; and `uns[key_added]`, what was split and what the test can show.

    Raises
    ------
    SplitError
        If a share is out of range, the data have nothing to hold out, or the labels would be overwritten.
    LabelError, ControlError
        If the labels are missing or can not be read, or no cell is a control.

    Notes
    -----
    A perturbation of two cells or more has cells on both sides of a random split, whatever `fraction` is.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=4, n_genes=20, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> adata.obs.groupby("pb_split", observed=True)["perturbation"].nunique().to_dict()
    {'train': 7, 'valid': 7, 'test': 2}
    """
    _check_shares(axis, fraction, valid)
    if key_added == perturbation_key:
        msg = f"key_added: expected another column than perturbation_key, got {key_added!r} for both. Rename it."
        raise SplitError(msg)
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    rng = np.random.default_rng(seed)
    _, group = unique_dosages(design.matrix)
    if axis == "random":
        seen = _take(group, fraction, rng, keep_both=True)
    else:
        seen = _seen_combinations(design.matrix, design.n_targets, fraction, rng)
    part = np.full(adata.n_obs, 2)
    part[seen] = 0
    rows = np.flatnonzero(seen)
    part[rows[_take(group[rows], valid, rng, keep_both=False)]] = 1
    if not (part == 2).any() or not (part == 0).any():
        msg = f"fraction: expected cells on both sides of the split, got none on one at {fraction}. Use more cells."
        raise SplitError(msg)
    out = adata.copy() if copy else adata
    out.obs[key_added] = pd.Categorical.from_codes(part, categories=list(_keys.SPLIT_VALUES))
    out.uns[key_added] = {
        "axis": axis,
        "fraction": float(fraction),
        "valid": float(valid),
        "seed": int(seed),
        "tests": _WHAT_IT_TESTS[axis],
    }
    counts = np.bincount(part, minlength=3)
    logger.info("%s: %d cells train, %d validate, %d test %s.", key_added, *counts, _WHAT_IT_TESTS[axis])
    return out if copy else None


def _check_shares(axis: str, fraction: float, valid: float) -> None:
    if axis not in _WHAT_IT_TESTS:
        msg = f"axis: expected one of {', '.join(map(repr, _WHAT_IT_TESTS))}, got {axis!r}."
        raise ValueError(msg)
    lowest_is_fine = axis == "combination"
    if not ((fraction >= 0 if lowest_is_fine else fraction > 0) and fraction < 1):
        bounds = "[0, 1)" if lowest_is_fine else "(0, 1)"
        msg = f"fraction: expected a share in {bounds}, got {fraction!r}. It is the share that the model may see."
        raise SplitError(msg)
    if not 0 <= valid < 1:
        msg = f"valid: expected a share in [0, 1), got {valid!r}."
        raise SplitError(msg)


def _take(group: np.ndarray, share: float, rng: np.random.Generator, *, keep_both: bool) -> np.ndarray:
    """Mask of a random share of every group's rows; with `keep_both` never all or none of a group of two or more."""
    order = np.lexsort((rng.random(len(group)), group))
    count = np.bincount(group)
    rank = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    wanted = np.rint(share * count)
    if keep_both:
        wanted = np.where(count > 1, np.clip(wanted, 1, count - 1), 1)
    taken = np.empty(len(group), dtype=bool)
    taken[order] = rank < np.repeat(wanted, count)
    return taken


def _seen_combinations(
    dosage: csr_matrix, n_targets: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Mask of cells of seen combinations and of all that are no combination; doses of one combination stay together."""
    present = dosage.copy()
    present.data[:] = 1
    _, targets = unique_dosages(present)
    combinations = np.unique(targets[n_targets > 1])
    if len(combinations) == 0:
        msg = "axis: expected cells with two targets or more for 'combination', found none. Use axis='random'."
        raise SplitError(msg)
    n_seen = min(int(np.rint(fraction * len(combinations))), len(combinations) - 1)
    held_out = rng.permutation(combinations)[n_seen:]
    return ~np.isin(targets, held_out)
