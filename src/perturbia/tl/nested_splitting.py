"""Splits that share one test set while more and more combinations are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import _keys
from perturbia.errors import SplitError, shorten
from perturbia.perturbation._copies import in_memory
from perturbia.stats._settings import check_seed
from perturbia.tl._split_axes import permuted_combinations
from perturbia.tl._split_cells import read_cells, take_share
from perturbia.tl._split_guarantee import TEST, UNUSED, describe_guarantee, require_unseen
from perturbia.tl.splitting import WHAT_IT_TESTS, write_split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.tl._split_cells import Cells

__all__ = ["nested_splits"]


def nested_splits(
    adata: AnnData,
    *,
    fractions: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    test_fraction: float = 0.25,
    test_cells: float = 0.2,
    valid: float = 0.2,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    context_key: str | None = None,
    dose_key: str | None = None,
    control_fraction: float = 0.8,
    seed: int = 0,
    key_added: str = _keys.OBS_SPLIT,
    copy: bool = False,
) -> AnnData | None:
    """Splits by which a model sees ever more combinations, judged by the same cells of the same combinations.

    The out-of-distribution task of SAMS-VAE (Bereket & Karaletsos 2023). Combinations are shuffled. A share
    `test_cells` of the cells of the last `test_fraction` of them is the test set, at every fraction. At fraction
    :math:`f`, the first :math:`f` of all combinations are seen, but for that share of their cells. Single perturbations
    and controls are seen at every fraction. At :math:`f = 1`, the test combinations are seen too, by their other cells:
    what a model could reach.

    Parameters
    ----------
    adata
        Annotated data with labels of combinations.
    fractions
        Shares of all combinations that are seen: from 0 to ``1 - test_fraction``, and 1.
    test_fraction
        Share of the combinations that are in the test.
    test_cells
        Share of the cells of every combination that no model sees.
    valid
        Share of the seen cells that validates, within every perturbation.
    perturbation_key, control, sep, context_key, dose_key
        As in :func:`split`.
    control_fraction
        Share of the control cells that is seen; the others are test, as in :func:`split`. The paper shows all: 1.
    seed
        Seed of the shuffle and of the cells.
    key_added
        Start of the columns of `obs`, and keys of `uns`, to write.
    copy
        Return a changed copy, in memory where `adata` is backed by a file, and leave `adata` as it is.

    Returns
    -------
    Nothing, or the copy. Writes for each fraction a column ``f"{key_added}_{fraction:g}"`` such as ``pb_split_0.25`` to
    `obs`, and a dict to `uns` as :func:`split` does. Cells that a split does not use are missing in its column; models
    pass over them. A cell that is in training at one fraction is so at all larger ones.

    Raises
    ------
    SplitError
        If a share is out of range, a fraction would show a part of the test combinations, or there are fewer than two
        combinations.
    LabelError, ControlError, DoseError
        If labels can not be read.
    LeakageError
        If a finished split does not hold what it promises.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=8, n_genes=20, n_latent=2)
    >>> pb.tl.nested_splits(adata)
    >>> for fraction in (0, 0.5, 1):
    ...     counts = adata.obs[f"pb_split_{fraction:g}"].value_counts()
    ...     print(fraction, counts["train"], counts["test"])
    0 672 144
    0.5 824 144
    1 976 144
    """
    check_seed(seed)
    wanted = [float(one) for one in fractions]
    _check_shares(wanted, test_fraction, test_cells, valid, control_fraction)
    keys = [f"{key_added}_{one:g}" for one in wanted]
    if len(set(keys)) < len(keys) or set(keys) & {perturbation_key, context_key, dose_key}:
        msg = f"fractions: expected different ones, and columns that are not read, got {shorten(keys)}. Rename or drop some."
        raise SplitError(msg)
    where: dict[str, Any] = {"perturbation_key": perturbation_key, "control": control, "sep": sep}
    where |= {"context_key": context_key} if context_key is not None else {}
    where |= {"dose_key": dose_key} if dose_key is not None else {}
    cells = read_cells(adata, **where)
    rng = np.random.default_rng(seed)
    order = permuted_combinations(cells, rng)
    n_test = max(int(np.rint(test_fraction * len(order))), 1)
    if n_test >= len(order):
        msg = f"test_fraction: expected combinations besides the test, got {n_test} of {len(order)} at {test_fraction}."
        raise SplitError(msg + " Lower it, or use data with more combinations.")
    drawn = _drawn_cells(cells, test_cells, valid, control_fraction, rng)
    where["control"] = np.array(cells.design.control, dtype=object)
    finished = []
    for fraction in wanted:
        n_seen = len(order) if fraction == 1 else min(int(np.rint(fraction * len(order))), len(order) - n_test)
        part = _part(cells, drawn, seen=order[:n_seen], judged=order[len(order) - n_test :])
        axis = "random" if fraction == 1 else "combination"
        require_unseen(cells, part, axis, key=f"{key_added}_{fraction:g}")
        info = {"axis": axis, "fraction": fraction, "valid": float(valid), "seed": int(seed)}
        info |= {"test_fraction": float(test_fraction), "test_cells": float(test_cells)}
        info |= {"control_fraction": float(control_fraction)}
        info["held_out"] = np.array(
            sorted(cells.target_set_labels[code] for code in order[len(order) - n_test :]), dtype=object
        )
        guarantee = describe_guarantee(cells, part, axis, adata.obs_names)
        finished.append((part, {**info, **where, "tests": WHAT_IT_TESTS[axis], "guarantee": guarantee}))
    out = in_memory(adata) if copy else adata
    for key, (part, info) in zip(keys, finished, strict=True):
        write_split(out, part, info, key=key)
    return out if copy else None


def _drawn_cells(
    cells: Cells, test_cells: float, valid: float, control_fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Part of each cell if its perturbation were used: the same for every fraction."""
    part = np.zeros(len(cells.context), dtype=np.int64)
    combined = np.flatnonzero(cells.n_targets > 1)
    part[combined[~take_share(cells.condition[combined], 1 - test_cells, rng, keep_both=True)]] = TEST
    controls = np.flatnonzero(cells.is_control)
    if control_fraction < 1:
        part[controls[~take_share(cells.context[controls], control_fraction, rng, keep_both=True)]] = TEST
    rows = np.flatnonzero(part == 0)
    part[rows[take_share(cells.condition[rows], valid, rng, keep_both=False)]] = 1
    return part


def _part(cells: Cells, drawn: np.ndarray, *, seen: np.ndarray, judged: np.ndarray) -> np.ndarray:
    combined = cells.n_targets > 1
    part = drawn.copy()
    part[combined & (drawn != TEST) & ~np.isin(cells.target_set, seen)] = UNUSED
    part[combined & (drawn == TEST) & ~np.isin(cells.target_set, judged)] = UNUSED
    return part


def _check_shares(
    fractions: list[float], test_fraction: float, test_cells: float, valid: float, control_fraction: float
) -> None:
    for argument, share in (("test_fraction", test_fraction), ("test_cells", test_cells)):
        if not 0 < share < 1:
            msg = f"{argument}: expected a share in (0, 1), got {share!r}."
            raise SplitError(msg)
    wrong = [one for one in fractions if not (0 <= one <= 1 - test_fraction + 1e-9 or one == 1)]
    if wrong or not fractions:
        msg = (
            f"fractions: expected shares from 0 to {1 - test_fraction:g}, or 1, got {wrong or 'none'}. Between these, a part "
            "of the test combinations would be seen."
        )
        raise SplitError(msg)
    if not 0 <= valid < 1:
        msg = f"valid: expected a share in [0, 1), got {valid!r}."
        raise SplitError(msg)
    if not 0 < control_fraction <= 1:
        msg = f"control_fraction: expected a share in (0, 1], got {control_fraction!r}. Models need controls to see."
        raise SplitError(msg)
