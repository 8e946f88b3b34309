"""Whether a model agrees with itself: identities that hold for every perturbation model, whatever it has learnt."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import ExtrapolationWarning, LabelError, UnknownPerturbation, UnsupportedQuery
from perturbia.model.base._registered_model import RegisteredModel
from perturbia.perturbation import Perturbation, as_perturbation, dosage_labels, unique_dosages
from perturbia.perturbation._copies import for_models, in_memory
from perturbia.perturbation.labels import join_label
from perturbia.stats import log1p_cp10k
from perturbia.stats._settings import check_positive_integer, check_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData

    from perturbia.model.base import VirtualCellModel
    from perturbia.perturbation.value import Query

__all__ = ["consistency"]

ONE_CELL = "takes two cells or more"
N_SINGLES, N_COMBINATIONS, N_DRAWS = 3, 2, 8

# largest difference, in standard deviations of the values compared; float32 sums over other batches differ by about 1e-5
TOLERANCES = {
    "control is the identity": 1e-4,
    "order of targets is irrelevant": 1e-4,
    "reconstruction error": 1.05,
    "mean of a population is the mean of its cells": 1e-3,
    "predict is decode after perturb after encode": 1e-3,
    "same seed, same result": 0.0,
    "draws differ": 0.0,
    "results are finite": 0.0,
    "inputs stay as they are": 0.0,
}


def consistency(
    model: VirtualCellModel,
    adata: AnnData | None = None,
    *,
    queries: Sequence[Query] | None = None,
    n_cells: int = 200,
    layer: str | None = None,
    tolerances: Mapping[str, float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Check identities that hold for any perturbation model, whether it predicts well or not.

    - ``"control is the identity"``: cells that are given the control stay where they are.
    - ``"order of targets is irrelevant"``: A+B is B+A. For combinations.
    - ``"reconstruction error"``: control cells come back from encoding and decoding: root mean squared error, divided by
      the root of the mean variance of the features. A model that removes noise is below 1, where the mean cell is;
      one that only moves cells is at 0.
    - ``"mean of a population is the mean of its cells"``: the mean of decoded cells does not depend on which cells are
      decoded beside them, nor on their order.
    - ``"predict is decode after perturb after encode"``.
    - ``"same seed, same result"``: of draws.
    - ``"draws differ"``: largest standard deviation between draws of the effect of any query, above 0. For models that know
      uncertainty.
    - ``"results are finite"``: share of numbers that are not; no negative standard deviation.
    - ``"inputs stay as they are"``: share of inputs that were written to.

    Parameters
    ----------
    model
        A trained model with `encode`, `perturb`, `decode` and `capabilities`.
    adata
        Data of the model; by default those it holds. Not written to.
    queries
        Perturbations to try. By default three singles and two combinations of the data that the model can answer.
    n_cells
        Cells to try them on, drawn from the controls where the model knows its controls.
    layer
        Layer of the features, for models that were not registered by Perturbia; None for `X`. A registered model says
        where its features are.
    tolerances
        Tolerances by name of the check in place of the default ones.
    seed
        Seed of the cells, queries and draws.

    Returns
    -------
    One row for each check, and query where it has one: `check`, `query`, `value` (the largest difference in standard
    deviations of the values compared, unless said otherwise above), `tolerance`, `passed` (boolean; missing where a model
    lacks the capability, or one cell can not show it, as `note` says) and `note`.

    Raises
    ------
    NotTrainedError
        Before training.
    UnknownPerturbation, UnsupportedQuery
        If the model can not answer one of `queries`.
    LabelError
        If `queries` are needed and missing.
    ValueError
        If a number is not positive, or a tolerance is of no check.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=2, n_genes=20, n_latent=2)
    >>> pb.model.Additive.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Additive(adata)
    >>> model.train()
    >>> checks = pb.tl.consistency(model, n_cells=50)
    >>> bool(checks["passed"].all())
    True
    """
    check_positive_integer("n_cells", n_cells)
    check_seed(seed)
    wrong = sorted(set(tolerances or ()) - set(TOLERANCES))
    if wrong:
        msg = f"tolerances: expected names among {', '.join(TOLERANCES)}, got {wrong}."
        raise ValueError(msg)
    data = for_models(adata if adata is not None else getattr(model, "adata", None))
    if data is None:
        msg = "adata: expected data to encode, got None, and the model holds none. Pass them."
        raise ValueError(msg)
    if queries is not None and not len(queries):
        msg = "queries: expected perturbations to try, got none. Pass some, or leave them out."
        raise LabelError(msg)
    rng = np.random.default_rng(seed)
    rows = _rows_to_try(model, data, n_cells, rng)
    subject = _Subject(model, data, rows, seed, {**TOLERANCES, **(tolerances or {})}, layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        before = subject.state()
        subject.latent = model.encode(data, indices=rows)
        subject.latent_before = subject.latent.copy()
        chosen = _answered(subject, rng) if queries is None else [as_perturbation(one) for one in queries]
        found = [*subject.control_is_identity(), *subject.reconstruction()]
        for check in (subject.order_of_targets, subject.population, subject.composition, subject.draws):
            for query in chosen:
                found += list(check(query))
        found += [*subject.draws_differ(chosen), *subject.finite(chosen), *subject.untouched(before)]
    table = pd.DataFrame(found, columns=["check", "query", "value", "tolerance", "passed", "note"])
    return table.astype({"value": float, "tolerance": float, "passed": "boolean"})


def _rows_to_try(model: Any, adata: AnnData, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of control cells, of any cells where controls are not known."""
    pool = np.arange(adata.n_obs)
    if isinstance(model, RegisteredModel):
        validated, every = model._cells(adata, None)
        pool = model._control_cells(validated, every)
    return np.sort(rng.choice(pool, min(n_cells, len(pool)), replace=False))


def _answered(subject: _Subject, rng: np.random.Generator) -> list[Perturbation]:
    """Some singles and combinations of the data that the model answers."""
    model = subject.model
    if isinstance(model, RegisteredModel):
        unique, _ = unique_dosages(model._registered_dosage(model.adata, np.arange(model.adata.n_obs)))
        labels = [str(one) for one in dosage_labels(unique, model.perturbations)]
    elif _keys.OBS_PERTURBATION in subject.adata.obs:
        labels = sorted(set(subject.adata.obs[_keys.OBS_PERTURBATION].astype(str)))
    else:
        msg = f"queries: expected perturbations to try, got None, and {type(model).__name__} names none. Pass some."
        raise LabelError(msg)
    known = [as_perturbation(labels[i]) for i in rng.permutation(len(labels))]
    chosen: list[Perturbation] = []
    for least, most, n in ((1, 1, N_SINGLES), (2, 99, N_COMBINATIONS)):
        answered: list[Perturbation] = []
        for one in (one for one in known if least <= len(one) <= most):
            if len(answered) == n:
                break
            try:
                model.perturb(subject.latent[:1].copy(), one)
            except (UnknownPerturbation, UnsupportedQuery):
                continue
            answered.append(one)
        chosen += answered
    if not chosen:
        msg = f"queries: expected perturbations that {type(model).__name__} can answer, found none. Pass some."
        raise LabelError(msg)
    return chosen


def difference(one: Any, other: Any) -> float:
    """Largest difference, in standard deviations of the second; infinite where shapes differ or values are missing."""
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.shape != second.shape:
        return np.inf
    gap = np.abs(first - second).max(initial=0.0)
    spread = float(second.std())
    return float(gap / spread if spread > 0 else gap) if np.isfinite(gap) else np.inf


@contextmanager
def quiet_transfer() -> Iterator[None]:
    """Without the note of scvi-tools that new data are registered: it was not the user who brought them."""
    log = logging.getLogger("scvi")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


Row = tuple[str, str, float, float, Any, str]


@dataclass
class _Subject:
    """A model, the cells it is tried on, and the checks."""

    model: Any
    adata: AnnData
    rows: np.ndarray
    seed: int
    tolerances: dict[str, float]
    layer: str | None
    latent: AnnData = field(init=False)
    latent_before: AnnData = field(init=False)

    @cached_property
    def cells(self) -> AnnData:
        """The cells by themselves, as new data would come."""
        return in_memory(self.adata[self.rows])

    def row(self, check: str, query: Perturbation | None, value: float, *, above: bool = False, note: str = "") -> Row:
        limit = self.tolerances[check]
        passed = bool(value > limit if above else value <= limit)
        return check, "" if query is None else str(query), value, limit, passed, note

    def skipped(self, check: str, query: Perturbation | None, note: str) -> Row:
        return check, "" if query is None else str(query), np.nan, self.tolerances[check], pd.NA, note

    def control_is_identity(self) -> Iterator[Row]:
        check, control = "control is the identity", Perturbation()
        kept = self.model.perturb(self.latent, control)
        decoded = difference(self.model.decode(kept).X, self.model.decode(self.latent).X)
        yield self.row(check, control, max(difference(kept.X, self.latent.X), decoded))

    def order_of_targets(self, query: Perturbation) -> Iterator[Row]:
        if len(query) < 2:
            return
        check, names, doses = "order of targets is irrelevant", list(query.names), list(query.doses)
        forward, backward = join_label(names, doses), join_label(names[::-1], doses[::-1])
        one, other = (self.model.perturb(self.latent, label).X for label in (forward, backward))
        yield self.row(check, query, difference(one, other))

    def reconstruction(self) -> Iterator[Row]:
        check = "reconstruction error"
        if self.latent.n_obs < 2:
            yield self.skipped(check, None, ONE_CELL)
            return
        readout = self.model.decode(self.latent)
        observed = self._observed(readout)
        if observed is None:
            yield self.skipped(check, None, "the features of the data are not those of the readout")
            return
        error = np.sqrt(np.mean((np.asarray(readout.X, dtype=np.float64) - observed) ** 2))
        spread = np.sqrt(observed.var(axis=0).mean())
        yield self.row(check, None, float(error / spread) if spread > 0 else float(error))

    def population(self, query: Perturbation) -> Iterator[Row]:
        check = "mean of a population is the mean of its cells"
        if self.latent.n_obs < 2:
            yield self.skipped(check, query, ONE_CELL)
            return
        whole = self.model.decode(self.model.perturb(self.latent, query))
        order = np.random.default_rng(self.seed).permutation(self.latent.n_obs)
        sizes = np.array_split(order, min(3, len(order)))
        parts = [self.model.decode(self.model.perturb(self.latent[rows].copy(), query)).X for rows in sizes]
        alone = self.model.decode(self.model.perturb(self.latent[:1].copy(), query)).X
        means = difference(np.concatenate(parts).mean(axis=0), np.asarray(whole.X).mean(axis=0))
        cells = difference(np.concatenate([*parts, alone]), np.asarray(whole.X)[np.append(order, 0)])
        yield self.row(check, query, max(means, cells))

    def composition(self, query: Perturbation) -> Iterator[Row]:
        check = "predict is decode after perturb after encode"
        if not hasattr(self.model, "predict"):
            yield self.skipped(check, query, "the model has no predict")
            return
        with quiet_transfer():
            predicted = self.model.predict(self.cells, query)
        composed = self.model.decode(self.model.perturb(self.latent, query))
        yield self.row(check, query, difference(predicted.X, composed.X))

    def draws(self, query: Perturbation) -> Iterator[Row]:
        one, other = (self._drawn(query, self.seed) for _ in range(2))
        yield self.row("same seed, same result", query, difference(one, other))

    def draws_differ(self, queries: Sequence[Perturbation]) -> Iterator[Row]:
        # over all queries: the draws of one without any effect may well be equal
        check = "draws differ"
        if "uncertainty" not in self.model.capabilities:
            yield self.skipped(check, None, "the model does not know uncertainty")
            return
        value = 0.0
        for query in queries:
            one = self._drawn(query, self.seed)
            between = float(np.sqrt(one.reshape(N_DRAWS, self.latent.n_obs, -1).var(axis=0).mean()))
            value = max(value, min(between, difference(self._drawn(query, self.seed + 1), one)))
        yield self.row(check, None, value, above=True)

    def finite(self, queries: Sequence[Perturbation]) -> Iterator[Row]:
        bad = total = 0
        for query in (Perturbation(), *queries):
            perturbed = self.model.perturb(self.latent, query)
            for result in (perturbed, self.model.decode(perturbed)):
                sd = result.layers[_keys.LAYER_SD] if _keys.LAYER_SD in result.layers else np.zeros(1)
                broken = ~np.isfinite(np.asarray(result.X)), ~(np.asarray(sd) >= 0) | ~np.isfinite(np.asarray(sd))
                bad, total = bad + sum(int(one.sum()) for one in broken), total + sum(one.size for one in broken)
        yield self.row("results are finite", None, bad / total)

    def untouched(self, before: tuple[Any, ...]) -> Iterator[Row]:
        now, was = self.latent, self.latent_before
        changed = [
            not np.array_equal(np.asarray(now.X), np.asarray(was.X), equal_nan=True),
            not now.obs.equals(was.obs),
            *(one != other for one, other in zip(self.state(), before, strict=True)),
        ]
        yield self.row("inputs stay as they are", None, float(np.mean(changed)))

    def state(self) -> tuple[Any, ...]:
        """What a model must not change in its data, in a form that compares."""
        part = self.adata.X[self.rows] if self.layer is None else self.adata.layers[self.layer][self.rows]
        values = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
        columns = pd.util.hash_pandas_object(self.adata.obs.iloc[self.rows].astype(str), index=True)
        return values.tobytes(), columns.to_numpy().tobytes(), tuple(self.adata.obs), tuple(self.adata.layers)

    def _drawn(self, query: Perturbation, seed: int) -> np.ndarray:
        return np.asarray(self.model.perturb(self.latent, query, n_draws=N_DRAWS, seed=seed).X)

    def _observed(self, readout: AnnData) -> np.ndarray | None:
        """The cells on the scale of the readout, None where the data do not hold its features."""
        layer, counts = self.layer, False
        if isinstance(self.model, RegisteredModel):
            layer = self.model.registry["setup_args"].get("layer")
            counts = self.model.scale == "counts"
        if not pd.Index(readout.var_names).isin(self.adata.var_names).all() or not self.adata.var_names.is_unique:
            return None
        cells = (self.adata.X if layer is None else self.adata.layers[layer])[self.rows]
        if counts and readout.uns.get(_keys.UNS_RESULT, {}).get("scale") == "log1p_cp10k":
            cells = log1p_cp10k(cells)
        dense = cells.toarray() if hasattr(cells, "toarray") else np.asarray(cells)
        return dense[:, self.adata.var_names.get_indexer(readout.var_names)].astype(np.float64)
