"""What each axis of generalisation holds out. Draws depend on the labels present, never on the order of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import LabelError, SplitError, UnknownPerturbation, nearest_names, shorten
from perturbia.perturbation import as_perturbation
from perturbia.perturbation.labels import join_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.tl._split_cells import Cells

__all__ = [
    "HeldOut",
    "hold_out_combinations",
    "hold_out_contexts",
    "hold_out_doses",
    "hold_out_targets",
    "permuted_combinations",
]


@dataclass(frozen=True)
class HeldOut:
    """What judges.

    Attributes
    ----------
    cells
        Perturbed cells that are held out, bool (n_obs,).
    names
        Names of what was held out, sorted: combinations, targets, contexts, or targets with a dose.
    share_seen
        Share of the candidates that is seen.
    """

    cells: np.ndarray
    names: list[str]
    share_seen: float


def permuted_combinations(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Codes of the sets of two targets or more, in random order."""
    combinations = np.unique(cells.target_set[cells.n_targets > 1])
    if len(combinations) == 0:
        msg = "axis: expected cells with two targets or more for 'combination', found none. Use axis='random'."
        raise SplitError(msg)
    return rng.permutation(combinations)


def hold_out_combinations(
    cells: Cells, fraction: float, chosen: Sequence[Any] | None, rng: np.random.Generator
) -> HeldOut:
    """Whole combinations, all doses of one together."""
    order = permuted_combinations(cells, rng)
    labels = cells.target_set_labels
    if chosen is None:
        held = order[min(int(np.rint(fraction * len(order))), len(order) - 1) :]
    else:
        at = {labels[code]: code for code in order}
        held = np.array([at[name] for name in _known(_without_doses(cells, chosen), sorted(at))])
    names = sorted(labels[code] for code in held)
    return HeldOut(np.isin(cells.target_set, held), names, 1 - len(held) / len(order))


def hold_out_targets(cells: Cells, fraction: float, chosen: Sequence[Any] | None, rng: np.random.Generator) -> HeldOut:
    """Whole targets, with every combination that has one of them."""
    targets = cells.design.names
    if chosen is None:
        n_seen = min(max(int(np.rint(fraction * len(targets))), 1), len(targets) - 1)
        held = rng.permutation(len(targets))[n_seen:]
    else:
        held = np.array([targets.index(name) for name in _known(_without_doses(cells, chosen), targets)])
    is_held = np.zeros(len(targets), dtype=bool)
    is_held[held] = True
    names = [name for name, out in zip(targets, is_held, strict=True) if out]
    return HeldOut(cells.any_entry(is_held[cells.design.matrix.indices]), names, 1 - len(names) / len(targets))


def hold_out_contexts(
    cells: Cells, fraction: float, few_shot: float, chosen: Sequence[Any] | None, rng: np.random.Generator
) -> HeldOut:
    """Perturbations of whole contexts, but for a share of them in each; their controls are not touched."""
    n_contexts = len(cells.contexts)
    if n_contexts < 2:
        msg = f"context_key: expected two contexts or more for axis='context', got {shorten(cells.contexts)}. "
        raise SplitError(msg + "Hold out something else than contexts.")
    if chosen is None:
        least = 1 if fraction > 0 and few_shot == 0 else 0  # without shots, some context has to show perturbations
        n_seen = min(max(int(np.rint(fraction * n_contexts)), least), n_contexts - 1)
        held = np.sort(rng.permutation(n_contexts)[n_seen:])
    else:
        held = np.sort([cells.contexts.index(name) for name in _known_contexts(chosen, cells.contexts)])
    out = np.zeros(len(cells.context), dtype=bool)
    for context in held:
        inside = (cells.context == context) & ~cells.is_control
        sets = np.unique(cells.target_set[inside])
        n_kept = 0
        if few_shot > 0 and len(sets) > 1:
            n_kept = min(max(int(np.rint(few_shot * len(sets))), 1), len(sets) - 1)
        out |= inside & np.isin(cells.target_set, rng.permutation(sets)[n_kept:])
    blind = [cells.contexts[c] for c in held if not ((cells.context == c) & cells.is_control).any()]
    if blind:
        msg = (
            f"context_key: expected control cells in every held-out context, got none in {shorten(blind, limit=5)}. "
            "A model learns an unseen context from its controls: drop this context, or hold out others by name."
        )
        raise SplitError(msg)
    return HeldOut(out, [cells.contexts[c] for c in held], 1 - len(held) / n_contexts)


def hold_out_doses(
    cells: Cells, fraction: float, which: str, chosen: Sequence[Any] | None, rng: np.random.Generator
) -> HeldOut:
    """Doses of targets, with every cell that has one of them, in combinations too."""
    pairs, codes = cells.doses
    labels = [join_label([cells.design.names[int(j)]], [dose], sep=cells.design.sep) for j, dose in pairs]
    if chosen is None:
        held = _drawn_doses(pairs, fraction, which, rng)
    else:
        at = {label: code for code, label in enumerate(labels)}
        given = [as_perturbation(one, control=cells.design.control, sep=cells.design.sep) for one in chosen]
        wide = [str(one) for one in given if len(one) != 1]
        if wide:
            msg = (
                f"hold_out: expected one target with its dose, such as 'A@0.5', got {shorten(wide)}. Name its targets."
            )
            raise SplitError(msg)
        names = [join_label(one.names, one.doses, sep=cells.design.sep) for one in given]
        held = np.array([at[name] for name in _known(names, labels)])
    is_held = np.zeros(len(pairs), dtype=bool)
    is_held[held] = True
    names = sorted(label for label, out in zip(labels, is_held, strict=True) if out)
    return HeldOut(cells.any_entry(is_held[codes]), names, 1 - len(names) / len(pairs))


def _drawn_doses(pairs: np.ndarray, fraction: float, which: str, rng: np.random.Generator) -> np.ndarray:
    """Inner doses at random, or the outermost in turn from the top and the bottom, of every target that has enough."""
    inner = which == "inner"
    held = []
    for target in np.unique(pairs[:, 0]):
        levels = np.flatnonzero(pairs[:, 0] == target)  # sorted by dose
        n = len(levels)
        if n < (3 if inner else 2):
            continue
        n_held = min(max(n - int(np.rint(fraction * n)), 1), n - (2 if inner else 1))
        from_ends = np.column_stack([levels[::-1], levels]).ravel()[:n]
        held.append((rng.permutation(levels[1:-1]) if inner else from_ends)[:n_held])
    if not held:
        need = "three doses or more for doses='inner'" if inner else "two doses or more for doses='outer'"
        msg = f"axis: expected a target with {need}, found none. Name the column of doses (dose_key), or another axis."
        raise SplitError(msg)
    return np.concatenate(held)


def _without_doses(cells: Cells, chosen: Sequence[Any]) -> list[str]:
    """Canonical labels of named perturbations, without their doses."""
    given = [as_perturbation(one, control=cells.design.control, sep=cells.design.sep) for one in chosen]
    sep = cells.design.sep or "+"
    if all(len(one) == 1 for one in given):  # names of targets as they are registered, without quotes
        return [one.names[0] for one in given]
    return [join_label(one.names, [1.0] * len(one), sep=sep) for one in given]


def _known(names: Sequence[str], known: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in set(known)]
    if unknown:
        raise UnknownPerturbation.among(unknown, list(known), argument="hold_out")
    return list(dict.fromkeys(names))


def _known_contexts(chosen: Sequence[Any], contexts: Sequence[str]) -> list[str]:
    names = [str(one) for one in chosen]
    unknown = [name for name in names if name not in contexts]
    if unknown:
        nearest = ", ".join(nearest_names(unknown[0], contexts))
        msg = f"hold_out: expected contexts of the data, got {shorten(unknown, limit=5)} (nearest: {nearest})."
        raise LabelError(msg)
    return list(dict.fromkeys(names))
