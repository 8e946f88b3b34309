"""Splits of cells into training, validation and test, along an axis of generalisation."""

from __future__ import annotations

import logging
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import SplitError
from perturbia.perturbation._copies import in_memory
from perturbia.stats._settings import check_choice, check_seed
from perturbia.tl._split_axes import hold_out_combinations, hold_out_contexts, hold_out_doses, hold_out_targets
from perturbia.tl._split_cells import read_cells, take_share
from perturbia.tl._split_guarantee import (
    AXES,
    TEST,
    describe_guarantee,
    require_dose_positions,
    require_unseen,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.tl._split_axes import HeldOut
    from perturbia.tl._split_cells import Cells

__all__ = ["split"]

logger = logging.getLogger(__name__)

WHAT_IT_TESTS = {
    "random": "new cells of perturbations that were seen: denoising, not generalisation",
    "combination": "combinations that were never seen, of targets that may have been",
    "perturbation": "targets that were never seen, alone or in combinations",
    "context": "perturbations never seen in their context, of which controls were",
    "dose": "doses that were never seen, of targets that may have been at others",
}


def split(
    adata: AnnData,
    *,
    axis: Literal["random", "combination", "perturbation", "context", "dose"] = "random",
    fraction: float = 0.5,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    context_key: str | None = None,
    dose_key: str | None = None,
    hold_out: Sequence[Any] | str | None = None,
    few_shot: float = 0.0,
    doses: Literal["inner", "outer"] = "inner",
    valid: float = 0.1,
    control_fraction: float = 0.8,
    seed: int = 0,
    key_added: str = _keys.OBS_SPLIT,
    copy: bool = False,
) -> AnnData | None:
    """Split cells into those that a model may see and those that judge it, and check what the split promises.

    Parameters
    ----------
    adata
        Annotated data with perturbation labels.
    axis
        What is new to the model in the test.

        - ``"random"``: nothing but the cells. Cells of every perturbation, the control included, are on both sides: the
          test asks how well effects were denoised, which is not generalisation.
        - ``"combination"``: combinations. All cells of a held-out one are test, at whatever dose; single perturbations
          are seen.
        - ``"perturbation"``: targets. Every cell that carries a held-out target is test, in combinations too.
        - ``"context"``: pairs of perturbation and context, such as a cell line. Perturbed cells of held-out contexts are
          test; controls of these contexts stay visible, and so does a share `few_shot` of their perturbations.
        - ``"dose"``: doses of targets. Every cell that carries a held-out dose is test, in combinations too.
    fraction
        Share that is seen: of the cells of each perturbation, of the combinations, of the targets, of the contexts, or of
        the doses of each target. At 0, all combinations or contexts are held out. Not read where `hold_out` names them.
    perturbation_key
        Column of `obs` with labels such as ``"A"``, ``"A+B"`` and ``"A@0.5"``.
    control
        Label or labels of control cells.
    sep
        Text between the members of a combination.
    context_key
        Column of `obs` with the contexts. Needed for ``"context"``; for every other axis but ``"random"``, controls are
        then held out in each context alike.
    dose_key
        Column of `obs` with doses, unless labels hold them: numbers, or text such as ``"0.5+1.0"`` for combinations.
    hold_out
        Names of what to hold out instead of a draw: combinations (``"A+B"``), targets (``"A"``), contexts, or doses
        (``"A@0.5"``), as `axis` says.
    few_shot
        Share of the perturbations of each held-out context that is seen there; at least one if it is above 0. At 0, the
        split is zero-shot. Cells of one perturbation stay together, so that its pair with the context is unseen or seen.
    doses
        ``"inner"`` draws doses between the lowest and the highest of their target (interpolation); ``"outer"`` takes
        the highest, the lowest, the second highest, and so on (extrapolation).
    valid
        Share of the seen cells that validates instead of training, within every perturbation.
    control_fraction
        Share of the control cells that is seen, for every axis but ``"random"``; the others are test. 1 shows all.
    seed
        Seed of the split.
    key_added
        Column of `obs`, and key of `uns`, to write.
    copy
        Return a changed copy, in memory where `adata` is backed by a file, and leave `adata` as it is.

    Returns
    -------
    Nothing, or the copy. Writes `obs[key_added]`, categories ``train``, ``valid`` and ``test``, which every model of
    Perturbia trains by; and `uns[key_added]`: the arguments, `held_out` (names of what was), `tests` (what the test can
    show) and `guarantee`, which says what is `unseen`, how many perturbations judge, and a `digest` of the split.
    :func:`check_split` checks it again.

    Raises
    ------
    SplitError
        If a share is out of range, the data have nothing to hold out, or the labels would be overwritten.
    UnknownPerturbation
        If `hold_out` names what the data do not have.
    LabelError, ControlError, DoseError
        If labels, contexts or doses are missing or can not be read, or no cell is a control.
    LeakageError
        If the finished split does not hold what its axis promises.
    ValueError
        If `axis`, `doses` or `seed` is none of the above.

    Notes
    -----
    **Controls are held out too.** A measured effect is a mean of perturbed cells minus a mean of controls. If a model
    learnt its effects against the very controls that the test effects are measured against, the noise of that mean enters
    prediction and truth alike: the errors correlate, over all perturbations at once, and even a prediction without any
    signal scores above chance. With controls that no model saw, the two errors are independent.

    A perturbation of two cells or more has cells on both sides of a random split, whatever `fraction` is. For one seed,
    what is held out depends on the labels that occur, not on the order of cells; with `few_shot=0`, a smaller `fraction`
    holds out what a larger one does, and more. :func:`nested_splits` keeps the test set the same as well.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=4, n_genes=20, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> adata.obs.groupby("pb_split", observed=True)["perturbation"].nunique().to_dict()
    {'train': 7, 'valid': 7, 'test': 3}
    >>> adata.uns["pb_split"]["guarantee"]["unseen"]
    'combination'
    >>> pb.tl.split(adata, axis="perturbation", hold_out=["P02"])
    >>> sorted(adata.obs.loc[adata.obs["pb_split"] == "train", "perturbation"].unique())
    ['P01', 'P01+P03', 'P03', 'P03+P04', 'P04', 'control']
    """
    _check_arguments(axis, fraction, valid, control_fraction, few_shot, doses)
    check_seed(seed)
    chosen = [hold_out] if isinstance(hold_out, str) else None if hold_out is None else list(hold_out)
    _check_choices(axis, chosen, context_key, few_shot, key_added, (perturbation_key, context_key, dose_key))
    where: dict[str, Any] = {"perturbation_key": perturbation_key, "control": control, "sep": sep}
    where |= {"context_key": context_key} if context_key is not None else {}
    where |= {"dose_key": dose_key} if dose_key is not None else {}
    cells = read_cells(adata, **where)
    rng = np.random.default_rng(seed)
    if axis == "random":
        names: list[str] = []
        test = ~take_share(cells.condition, fraction, rng, keep_both=True)
    else:
        held = _held_out(cells, axis, fraction, few_shot, doses, chosen, rng)
        names, fraction = held.names, fraction if chosen is None else held.share_seen
        test = held.cells | _test_controls(cells, control_fraction, seed)
    part = _parts(cells, test, valid, rng)
    _require_both_sides(cells, part, axis, fraction)
    require_unseen(cells, part, axis, key=key_added)
    guarantee = describe_guarantee(cells, part, axis, adata.obs_names)
    if axis == "dose" and chosen is None:
        require_dose_positions(guarantee, doses)
    info: dict[str, Any] = {"axis": axis, "fraction": float(fraction), "valid": float(valid), "seed": int(seed)}
    if axis != "random":
        info |= {"control_fraction": float(control_fraction), "held_out": np.array(names, dtype=object)}
    if axis == "context":
        info |= {"few_shot": float(few_shot)}
    if axis == "dose" and chosen is None:
        info |= {"doses": doses}
    where["control"] = np.array(cells.design.control, dtype=object)
    out = in_memory(adata) if copy else adata
    write_split(out, part, {**info, **where, "tests": WHAT_IT_TESTS[axis], "guarantee": guarantee}, key=key_added)
    return out if copy else None


def write_split(adata: AnnData, part: np.ndarray, info: dict[str, Any], *, key: str) -> None:
    """Write the codes of a split, -1 for cells that it does not use, and what it is."""
    adata.obs[key] = pd.Categorical.from_codes(part, categories=list(_keys.SPLIT_VALUES))
    adata.uns[key] = info
    counts = np.bincount(part[part >= 0], minlength=3)
    logger.info("%s: %d cells train, %d validate, %d test %s.", key, *counts, info["tests"])


def _held_out(
    cells: Cells,
    axis: str,
    fraction: float,
    few_shot: float,
    doses: str,
    chosen: list[Any] | None,
    rng: np.random.Generator,
) -> HeldOut:
    if axis == "combination":
        return hold_out_combinations(cells, fraction, chosen, rng)
    if axis == "perturbation":
        return hold_out_targets(cells, fraction, chosen, rng)
    if axis == "context":
        return hold_out_contexts(cells, fraction, few_shot, chosen, rng)
    return hold_out_doses(cells, fraction, doses, chosen, rng)


def _test_controls(cells: Cells, control_fraction: float, seed: int) -> np.ndarray:
    """Mask of control cells that judge, the same share in every context."""
    out = np.zeros(len(cells.context), dtype=bool)
    if control_fraction < 1:
        rows = np.flatnonzero(cells.is_control)
        # a stream of its own: what is held out does not depend on whether controls are
        seen = take_share(cells.context[rows], control_fraction, np.random.default_rng([seed, 1]), keep_both=True)
        out[rows[~seen]] = True
    return out


def _parts(cells: Cells, test: np.ndarray, valid: float, rng: np.random.Generator) -> np.ndarray:
    part = np.where(test, TEST, 0)
    rows = np.flatnonzero(~test)
    part[rows[take_share(cells.condition[rows], valid, rng, keep_both=False)]] = 1
    return part


def _require_both_sides(cells: Cells, part: np.ndarray, axis: str, fraction: float) -> None:
    perturbed = ~cells.is_control
    sides = {"judge": (part == TEST) & perturbed, "train": (part == 0) & perturbed}
    if axis == "random":
        sides = {"judge": part == TEST, "train": part == 0}
    empty = [side for side, mask in sides.items() if not mask.any()]
    if empty:
        msg = (
            f"fraction: expected cells on both sides of the split, got none that {empty[0]} at {fraction:g} along "
            f"axis={axis!r}. Choose another fraction or other names to hold out, or use more cells."
        )
        raise SplitError(msg)


def _check_arguments(
    axis: str, fraction: float, valid: float, control_fraction: float, few_shot: float, doses: str
) -> None:
    for argument, value, options in (("axis", axis, AXES), ("doses", doses, ("inner", "outer"))):
        check_choice(argument, value, options)
    for argument, share in (
        ("fraction", fraction),
        ("valid", valid),
        ("few_shot", few_shot),
        ("control_fraction", control_fraction),
    ):
        if not isinstance(share, Real):
            msg = f"{argument}: expected a share, got {share!r}. Pass a number from 0 to 1."
            raise SplitError(msg)
    lowest_is_fine = axis in {"combination", "context"}
    if not ((fraction >= 0 if lowest_is_fine else fraction > 0) and fraction < 1):
        bounds = "[0, 1)" if lowest_is_fine else "(0, 1)"
        msg = f"fraction: expected a share in {bounds}, got {fraction!r}. It is the share that the model may see."
        raise SplitError(msg)
    for argument, share in (("valid", valid), ("few_shot", few_shot)):
        if not 0 <= share < 1:
            msg = f"{argument}: expected a share in [0, 1), got {share!r}."
            raise SplitError(msg)
    if not 0 < control_fraction <= 1:
        msg = f"control_fraction: expected a share in (0, 1], got {control_fraction!r}. Models need controls to see."
        raise SplitError(msg)


def _check_choices(
    axis: str,
    hold_out: list[Any] | None,
    context_key: str | None,
    few_shot: float,
    key_added: str,
    columns: Sequence[str | None],
) -> None:
    if key_added in columns:
        msg = f"key_added: expected another column than those that are read, got {key_added!r}. Rename it."
        raise SplitError(msg)
    if axis == "context" and context_key is None:
        msg = "context_key: expected a column of adata.obs for axis='context', got None. Name the column of contexts."
        raise SplitError(msg)
    if few_shot and axis != "context":
        msg = f"few_shot: expected 0 for axis={axis!r}, got {few_shot!r}. It is a share of the perturbations of a context."
        raise SplitError(msg)
    if hold_out is not None and (axis == "random" or not hold_out):
        got = f"{hold_out!r} for axis={axis!r}"
        msg = f"hold_out: expected names, and an axis that holds something out, got {got}. Name some, or leave it out."
        raise SplitError(msg)
