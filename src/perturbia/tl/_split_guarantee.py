"""What a split promises, checked on the labels and the finished split alone, whatever made it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import LeakageError, SplitError, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perturbia.tl._split_cells import Cells

__all__ = [
    "AXES",
    "TEST",
    "UNUSED",
    "describe_guarantee",
    "digest_of",
    "leaks",
    "require_dose_positions",
    "require_unseen",
]

# codes of categories; NaN of a categorical is -1: cells that a split does not use
TEST, UNUSED = 2, -1

#: what no training or validation cell has, by axis
AXES = {
    "random": "nothing",
    "combination": "combination",
    "perturbation": "target",
    "context": "perturbation in the context",
    "dose": "dose",
}


def leaks(cells: Cells, part: np.ndarray, axis: str) -> list[str]:
    """Labels of test perturbations that cells outside the test show too, sorted.

    Parameters
    ----------
    cells
        Labels of the cells.
    part
        0 train, 1 valid, 2 test, -1 unused, int (n_obs,).
    axis
        What the split promises.
    """
    perturbed = ~cells.is_control
    test, seen = (part == TEST) & perturbed, (part != TEST) & (part != UNUSED) & perturbed
    if axis == "combination":
        both = np.intersect1d(cells.target_set[test], cells.target_set[seen])
        return sorted(cells.target_set_labels[code] for code in both)
    if axis == "context":
        pair = cells.target_set * max(len(cells.contexts), 1) + cells.context
        both = np.intersect1d(pair[test], pair[seen])
        sets, contexts = np.divmod(both, max(len(cells.contexts), 1))
        return sorted(
            f"{cells.target_set_labels[one]} in {cells.contexts[where]}"
            for one, where in zip(sets, contexts, strict=True)
        )
    if axis == "perturbation":
        codes = cells.design.matrix.indices
        known, labels = _without_new(cells, codes, test, seen), cells.target_set_labels
        return sorted(labels[code] for code in np.unique(cells.target_set[known]))
    if axis == "dose":
        known = _without_new(cells, cells.doses[1], test, seen)
        return sorted(cells.condition_labels[code] for code in np.unique(cells.condition[known]))
    return []


def _without_new(cells: Cells, codes: np.ndarray, test: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Test cells of which every target, or dose, is among those of the cells that were seen."""
    shown = np.unique(codes[seen[cells.entry_cell]])
    return test & ~cells.any_entry(~np.isin(codes, shown))


def require_unseen(cells: Cells, part: np.ndarray, axis: str, *, key: str) -> None:
    """Raise LeakageError where a test perturbation is seen although the axis forbids it."""
    found = leaks(cells, part, axis)
    if not found:
        return
    msg = (
        f"{key}: expected the {AXES[axis]} of every test cell in no training or validation cell (axis={axis!r}), got "
        f"{len(found)} that leak: {shorten(found, limit=5)}. Split again with perturbia.tl.split(axis={axis!r})."
    )
    raise LeakageError(msg)


def describe_guarantee(cells: Cells, part: np.ndarray, axis: str, names: Iterable[str]) -> dict[str, Any]:
    """What was checked, as plain values that survive files."""
    perturbed = ~cells.is_control
    test, seen = (part == TEST) & perturbed, (part != TEST) & (part != UNUSED) & perturbed
    out: dict[str, Any] = {
        "unseen": AXES[axis],
        "checked": True,
        "n_test_perturbations": _n_judged(cells, test, axis),
        "n_test_controls": int(((part == TEST) & cells.is_control).sum()),
        "n_cells": len(part),
        "digest": digest_of(names, part),
    }
    if axis == "context":
        nowhere = np.setdiff1d(cells.target_set[test], cells.target_set[seen])
        out["n_unseen_everywhere"] = len(nowhere)
    if axis == "dose":
        out |= _dose_positions(cells, test, seen)
    return out


def _n_judged(cells: Cells, test: np.ndarray, axis: str) -> int:
    if axis == "context":
        return len(np.unique(np.column_stack([cells.target_set[test], cells.context[test]]), axis=0))
    codes = cells.target_set if axis in {"combination", "perturbation"} else cells.condition
    return len(np.unique(codes[test]))


def _dose_positions(cells: Cells, test: np.ndarray, seen: np.ndarray) -> dict[str, int]:
    """How many unseen doses of test cells lie between, or outside, the seen doses of their target."""
    pairs, codes = cells.doses
    shown = np.unique(codes[seen[cells.entry_cell]])
    unseen = np.setdiff1d(codes[test[cells.entry_cell]], shown)
    count = {"n_inside": 0, "n_outside": 0, "n_without_seen_dose": 0}
    for target, dose in pairs[unseen]:
        known = pairs[shown][pairs[shown][:, 0] == target, 1]
        if not len(known):
            count["n_without_seen_dose"] += 1
        else:
            count["n_inside" if known.min() < dose < known.max() else "n_outside"] += 1
    return count


def require_dose_positions(guarantee: dict[str, Any], which: str) -> None:
    """Raise SplitError where the cells that are left do not have the doses on the sides that were asked for."""
    wrong = {"inner": ["n_outside", "n_without_seen_dose"], "outer": ["n_inside", "n_without_seen_dose"]}[which]
    n_wrong = sum(guarantee[one] for one in wrong)
    if n_wrong:
        side = "between" if which == "inner" else "outside"
        msg = (
            f"doses: expected held-out doses {side} those that are seen of the same target, got {n_wrong} elsewhere, since "
            "combinations took other doses with them. Try another seed or fraction, or name doses in hold_out."
        )
        raise SplitError(msg)


def digest_of(names: Iterable[str], part: np.ndarray) -> str:
    """Hash of which cell is where; the order of cells does not change it."""
    lines = sorted(f"{name}\0{one}" for name, one in zip(names, part.tolist(), strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
