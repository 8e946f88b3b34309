"""How scores grow with the data that a model was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import SplitError, shorten
from perturbia.perturbation._copies import in_memory
from perturbia.stats._settings import check_choice, check_positive_integer, check_seed
from perturbia.tl._split_cells import read_cells
from perturbia.tl._split_guarantee import TEST, UNUSED
from perturbia.tl.split_checking import labels_of_split, read_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anndata import AnnData

    from perturbia.tl._split_cells import Cells
    from perturbia.tl.evaluation_result import EvaluationResult

__all__ = ["learning_curve"]

STATISTICS = ("value", "low", "high", "n", "n_undefined")
# marks by which scvi-tools would take a part of the data for the whole
REGISTRATION_MARKS = ("_scvi_uuid", "_scvi_manager_uuid")


@dataclass(frozen=True)
class Step:
    """One training set: its cells, and what was asked for."""

    rows: np.ndarray
    fraction: float
    repeat: int


def learning_curve(
    fit: Callable[[AnnData], Any],
    adata: AnnData,
    *,
    over: Literal["perturbations", "cells"] = "perturbations",
    fractions: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    n_perturbations: Sequence[int] | None = None,
    n_repeats: int = 3,
    protocol: str | Sequence[str] = ("correlation", "correlation_systema", "rmse"),
    baselines: Literal["auto"] | Sequence[str] | None = "auto",
    split_key: str = _keys.OBS_SPLIT,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    sep: str | None = None,
    dose_key: str | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
    **evaluate_options: Any,
) -> pd.DataFrame:
    """Scores of a model and of the baselines against the number of perturbations, or cells, that they were shown.

    The test cells stay the same. In each repeat the perturbations (or cells) that a model may see are put in a random
    order, and every training set is a beginning of it: a larger one holds all smaller ones. The model and all baselines
    are fitted to each and judged by :func:`evaluate`.

    Parameters
    ----------
    fit
        Registers, builds and trains: takes AnnData with the cells of one training set and the test cells, `obs[split_key]`
        telling them apart, and returns a trained model, or whatever else :func:`evaluate` takes.
    adata
        Data with `obs[split_key]`. Not written to.
    over
        ``"perturbations"`` shows fewer perturbations (sets of targets, with all their doses) by all of their cells, and
        all control cells. ``"cells"`` shows fewer cells of each perturbation and of the controls, two
        training cells of each at the least.
    fractions
        Shares of the seen perturbations, or of the seen cells of each.
    n_perturbations
        Numbers of perturbations in place of `fractions`; for ``over="perturbations"``.
    n_repeats
        Random orders. What holds all the data is the same in each and is fitted once.
    protocol, baselines, n_resamples
        As in :func:`evaluate`; `protocol` may list measures.
    split_key
        Column of `obs` with ``train``, ``valid`` and ``test``, such as :func:`split` writes.
    perturbation_key, control, sep, dose_key
        Where labels are; None reads what :func:`split` wrote, then its defaults.
    seed
        Seed of the orders and of the evaluation.
    progress
        Show a progress bar.
    **evaluate_options
        Further arguments of :func:`evaluate`, such as `batch_key`, `context_key` or `allow_seen`.

    Returns
    -------
    Long table, one row for each training set, method and measure: `over`, `fraction`, `repeat`, `n_perturbations` and
    `n_cells` (perturbed cells, and their sets of targets, that were seen for training or validation), `n_controls`,
    `model`, `role`, `metric`, `value` (mean over test perturbations), `low`, `high` (bootstrap interval over them), `n`
    and `n_undefined` (test perturbations with and without a score).

    Raises
    ------
    TypeError
        If `fit` is a model or its class: a model that is trained already has seen one training set.
    SplitError
        If the split is missing or marks no test or training cells, or a size is out of range.
    Exception
        Whatever `fit` or :func:`evaluate` raises, with a note on the training set.

    Notes
    -----
    Methods that need every member of a combination, such as `Additive`, answer less at small sizes; :func:`evaluate`
    leaves out baselines that can not answer, so that their curves may start later.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=8, n_combinations=8, n_genes=20, n_latent=2)
    >>> pb.tl.split(adata, axis="combination", fraction=0.5)
    >>> def fit(part):
    ...     pb.model.Ridge.setup_anndata(part, perturbation_key="perturbation")
    ...     model = pb.model.Ridge(part)
    ...     model.train()
    ...     return model
    >>> curve = pb.tl.learning_curve(
    ...     fit, adata, n_perturbations=[6, 12], n_repeats=2, baselines=["Mean"], progress=False
    ... )
    >>> curve.loc[curve["model"] == "Ridge", ["repeat", "n_perturbations"]].drop_duplicates().values.tolist()
    [[0, 6], [0, 12], [1, 6]]
    """
    from rich.progress import track

    if not callable(fit) or hasattr(fit, "setup_anndata"):
        kind = f"the class {fit.__name__}" if isinstance(fit, type) else f"an object of {type(fit).__name__}"
        msg = (
            f"fit: expected a function that takes AnnData and returns a trained model, got {kind}. Every training set needs "
            "a model of its own: register, build and train it in a function."
        )
        raise TypeError(msg)
    check_choice("over", over, ("perturbations", "cells"))
    check_positive_integer("n_repeats", n_repeats)
    check_seed(seed)
    part = read_part(adata, split_key)
    where = labels_of_split(
        adata, split_key, perturbation_key=perturbation_key, control=control, sep=sep, dose_key=dose_key
    )
    cells = read_cells(adata, **{name: value for name, value in where.items() if name != "context_key"})
    seen = (part != TEST) & (part != UNUSED)
    if not (seen & ~cells.is_control).any():
        msg = f"split_key: expected perturbed cells to train on in obs[{split_key!r}], got none. Split again."
        raise SplitError(msg)
    shares = _shares(cells, seen, over, fractions, n_perturbations)
    labels = {name: where[name] for name in ("perturbation_key", "control", "sep")}
    if "context_key" in where:
        evaluate_options.setdefault("context_key", where["context_key"])
    options = {**labels, "protocol": protocol, "baselines": baselines, "n_resamples": n_resamples, **evaluate_options}
    parts = []
    steps = list(_steps(cells, part, over, shares, n_repeats, seed))
    for step in track(steps, "Learning curve", disable=not progress):
        try:
            result = _judge(fit, adata, step, split_key=split_key, seed=seed, **options)
        except Exception as error:
            error.add_note(f"learning_curve: fraction {step.fraction:g} of the seen {over}, repeat {step.repeat}.")
            raise
        parts.append(_rows(result, step, cells, seen, over))
    return pd.concat(parts, ignore_index=True)


def _shares(
    cells: Cells, seen: np.ndarray, over: str, fractions: Sequence[float], n_perturbations: Sequence[int] | None
) -> list[float]:
    """Sizes as shares, ascending."""
    n = len(np.unique(cells.target_set[seen & ~cells.is_control]))
    if n_perturbations is not None:
        if over == "cells":
            msg = "n_perturbations: expected None for over='cells', got numbers. Pass fractions."
            raise SplitError(msg)
        for one in n_perturbations:
            check_positive_integer("n_perturbations", one)
        large = [one for one in n_perturbations if one > n]
        if large or not len(n_perturbations):
            msg = f"n_perturbations: expected numbers from 1 to the {n} that are seen, got {large or 'none'}."
            raise SplitError(msg)
        return sorted({one / n for one in n_perturbations})
    wrong = [one for one in fractions if not 0 < one <= 1]
    if wrong or not len(fractions):
        msg = f"fractions: expected shares in (0, 1], got {shorten(wrong) or 'none'}."
        raise SplitError(msg)
    return sorted({float(one) for one in fractions})


def _steps(cells: Cells, part: np.ndarray, over: str, shares: list[float], n_repeats: int, seed: int) -> Iterator[Step]:
    test, seen = part == TEST, (part != TEST) & (part != UNUSED)
    sets = np.unique(cells.target_set[seen & ~cells.is_control])
    visible = np.flatnonzero(seen)
    for repeat in range(n_repeats):
        rng = np.random.default_rng([seed, repeat])
        order, place = rng.permutation(sets), rng.random(len(visible))
        for share in shares:
            if share == 1 and repeat > 0:
                continue
            if over == "perturbations":
                kept = order[: max(int(np.rint(share * len(sets))), 1)]
                shown = seen & (cells.is_control | np.isin(cells.target_set, kept))
            else:
                shown = np.zeros(len(seen), dtype=bool)
                shown[visible[_first(cells.condition[visible], part[visible] == 0, place, share)]] = True
            yield Step(np.flatnonzero(shown | test), share, repeat)


def _first(condition: np.ndarray, trains: np.ndarray, place: np.ndarray, share: float) -> np.ndarray:
    """Mask of the first share of every group's rows in the order of `place`; of training cells two at the least."""
    group = 2 * condition + trains
    order = np.lexsort((place, group))
    count = np.bincount(group)
    rank = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    wanted = np.maximum(np.rint(share * count), 2 * (np.arange(len(count)) % 2))
    taken = np.empty(len(group), dtype=bool)
    taken[order] = rank < np.repeat(wanted, count)
    return taken


def _judge(
    fit: Callable[[AnnData], Any], adata: AnnData, step: Step, *, split_key: str, seed: int, **options: Any
) -> EvaluationResult:
    from perturbia.tl.evaluation import evaluate

    subset = in_memory(adata[step.rows])
    for mark in REGISTRATION_MARKS:
        subset.uns.pop(mark, None)
    model = fit(subset)
    return evaluate(model, subset, split_key=split_key, seed=seed, **options)


def _rows(result: EvaluationResult, step: Step, cells: Cells, seen: np.ndarray, over: str) -> pd.DataFrame:
    long = result.summary().stack("metric", future_stack=True)[list(STATISTICS)].reset_index()
    long.columns.name = None
    roles = result.table.drop_duplicates("model").set_index("model")["role"]
    shown = step.rows[seen[step.rows]]
    perturbed = shown[~cells.is_control[shown]]
    facts = {
        "over": over,
        "fraction": step.fraction,
        "repeat": step.repeat,
        "n_perturbations": len(np.unique(cells.target_set[perturbed])),
        "n_cells": len(perturbed),
        "n_controls": len(shown) - len(perturbed),
    }
    for i, (name, value) in enumerate(facts.items()):
        long.insert(i, name, value)
    long.insert(long.columns.get_loc("model") + 1, "role", long["model"].map(roles))
    return long
