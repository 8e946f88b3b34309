"""The baseline that carries effects from one context to another."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import anndata as ad
import numpy as np
from scipy import sparse
from scvi import REGISTRY_KEYS

from perturbia import _keys
from perturbia.errors import ControlError, ExtrapolationWarning, UnsupportedQuery, shorten
from perturbia.model.baseline._closed_form import ClosedFormModel
from perturbia.model.baseline._context_effects import ContextEffects, measure_by_context
from perturbia.model.baseline._mixing import find_rows
from perturbia.perturbation import Perturbation, unique_dosages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.base._features import Scale
    from perturbia.model.baseline._training_effects import TrainingEffects
    from perturbia.perturbation.value import Query

__all__ = ["ContextMean"]

# positions of what is no registered context
_EVERYWHERE, _NOT_REGISTERED = -1, -2


class ContextMean(ClosedFormModel):
    r"""A perturbation has the mean of the effects that it has in other contexts: :math:`\frac{1}{|C_p \setminus c|} \sum_{c' \in C_p \setminus c} \delta_{pc'}`.

    Each effect is measured against the controls of its own context (and, within it, of its batches), and contexts count
    alike, whatever their numbers of cells. A query names its context, as in
    ``Perturbation("A", context={"cell_type": "K562"})``: what that context has of the perturbation is left out, so that
    the answer is the one for an unseen context even where it was measured. Without a context, all contexts with the
    perturbation are averaged.

    Answers perturbations, combinations and doses included, that were measured in a context other than the one asked
    for. A context that was not registered has nothing to leave out; the model warns of it, since a misspelt name would
    pass for one.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    context_key
        Column of `obs` with the contexts: the registered `batch_key`, or one of `categorical_covariate_keys`.

    Raises
    ------
    UnsupportedQuery
        If `context_key` is not given, or not registered.

    Warns
    -----
    ExtrapolationWarning
        If a query names a context that was not registered.

    Examples
    --------
    >>> import numpy as np, perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=20, n_latent=2)
    >>> adata.obs["line"] = np.arange(adata.n_obs) % 2
    >>> adata.obs["line"] = adata.obs["line"].map({0: "K562", 1: "RPE1"})
    >>> pb.model.ContextMean.setup_anndata(adata, perturbation_key="perturbation", categorical_covariate_keys=["line"])
    >>> model = pb.model.ContextMean(adata, context_key="line")
    >>> model.train()
    >>> queries = [pb.Perturbation("P01", context={"line": line}) for line in ("K562", "RPE1")]
    >>> model.estimate_ate(["P01", *queries]).obs_names.tolist()
    ['P01', 'P01 (K562)', 'P01 (RPE1)']
    """

    _capabilities = frozenset({"unseen_context", "uncertainty"})
    _answers = "a perturbation that training cells of another context have"
    _instead = "Additive sums the effects of members; Ridge and SAMSVAE know doses, too."

    _asked = _EVERYWHERE  # context of the query that a copy of the model is made for
    _asked_name: str | None = None

    def __init__(
        self, adata: AnnData | None = None, registry: dict | None = None, *, context_key: str | None = None
    ) -> None:
        super().__init__(adata, registry)
        setup, fields = self.registry["setup_args"], self.registry["field_registries"]
        covariates = list(setup.get("categorical_covariate_keys") or [])
        batch_key = setup.get("batch_key")
        if context_key is None or context_key not in [batch_key, *covariates]:
            registered = [key for key in (batch_key, *covariates) if key is not None]
            msg = (
                f"context_key: expected the registered column of the contexts, got {context_key!r}; "
                f"{shorten(registered) or 'none'} registered. Register it with setup_anndata, as a batch or a covariate."
            )
            raise UnsupportedQuery(msg)
        self.context_key = context_key
        self._from_batch = context_key not in covariates
        field = fields[REGISTRY_KEYS.BATCH_KEY if self._from_batch else REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]
        known = field["categorical_mapping"] if self._from_batch else field["mappings"][context_key]
        self.contexts = [str(name) for name in known]
        self._model_summary_string += f", over {len(self.contexts)} contexts of {context_key!r}"
        self.init_params_ = self._get_init_params(locals())

    # queries with a context: each step is taken by a copy of the model that knows which one ------------------------

    def perturb(self, latent: AnnData, query: Query, *, n_draws: int = 1, seed: int | None = 0) -> AnnData:
        """Give cells a perturbation in place of whatever they had, as :meth:`Mean.perturb` does.

        The context of `query` says which effects are left out; the cells are taken as they are, wherever they are from.
        """
        return super(ContextMean, self._asked_for(query)).perturb(latent, query, n_draws=n_draws, seed=seed)

    def predict(
        self,
        adata: AnnData | None,
        query: Query,
        *,
        cells: Literal["control", "all"] = "control",
        scale: Scale | None = None,
        n_draws: int = 1,
        seed: int | None = 0,
        batch_size: int | None = None,
    ) -> AnnData:
        """Predict a population of cells, as :meth:`Mean.predict` does.

        If `query` names a context and `cells` is ``"control"``, the controls of that context are started from; it is an
        error if `adata` has none.
        """
        options: dict[str, Any] = {"scale": scale, "n_draws": n_draws, "seed": seed, "batch_size": batch_size}
        return super(ContextMean, self._asked_for(query)).predict(adata, query, cells=cells, **options)

    def sample(
        self, query: Query, n_samples: int = 100, *, scale: Scale | None = None, seed: int | None = 0
    ) -> AnnData:
        """Draw cells under a perturbation, as :meth:`Mean.sample` does.

        If `query` names a context, training controls of that context are drawn; it is an error if it has none.
        Otherwise those of all contexts are, each cell alike.
        """
        return super(ContextMean, self._asked_for(query)).sample(query, n_samples, scale=scale, seed=seed)

    def estimate_ate(
        self,
        perturbations: Sequence[Query] | None = None,
        *,
        scale: Literal["log1p_cp10k", "perturbseq", "registered"] | None = None,
    ) -> AnnData:
        """Average treatment effects: the shift that the model gives to every cell, as :meth:`Mean.estimate_ate`.

        Queries may name contexts, each its own. If one does, rows are in the order of the queries, those with a context
        are called ``"A (K562)"``, and `obs["pb_context"]` holds the context, empty text without one.
        """
        queries = [perturbations] if isinstance(perturbations, str | Perturbation | Mapping) else perturbations
        queries = queries if queries is None else list(queries)
        if not any(isinstance(query, Perturbation) and query.context for query in queries or []):
            return super().estimate_ate(queries, scale=scale)
        asked = [self._asked_for(query) for query in queries or []]
        contexts = np.array([one._asked_name or "" for one in asked], dtype=object)
        parts, order = [], []
        for context in dict.fromkeys(contexts):
            rows = np.flatnonzero(contexts == context)
            part = super(ContextMean, asked[rows[0]]).estimate_ate([(queries or [])[i] for i in rows], scale=scale)
            part.obs[_keys.OBS_CONTEXT] = context
            if context:
                part.obs_names = part.obs_names + f" ({context})"
            parts.append(part)
            order += rows.tolist()
        out = ad.concat(parts)[np.argsort(order)].copy()
        out.uns = parts[0].uns
        return out

    def _asked_for(self, query: Query) -> ContextMean:
        """The model as it answers for the context of a query."""
        self._require_trained()
        context = query.context if isinstance(query, Perturbation) else {}
        if not context or self._asked_name is not None:
            return self
        self._read_query(query)
        asked = self._in_context(context)
        if asked._asked == _NOT_REGISTERED:
            msg = (
                f"query: {asked._asked_name!r} of {self.context_key!r} was not registered, so all contexts are averaged. "
                f"Registered: {shorten(self.contexts, limit=5)}."
            )
            warnings.warn(msg, ExtrapolationWarning, stacklevel=3)
        return asked

    def _in_context(self, context: Mapping[str, str]) -> ContextMean:
        name = context.get(self.context_key)
        if name is None:
            return self
        asked = copy.copy(self)
        asked._asked_name = name
        asked._asked = self.contexts.index(name) if name in self.contexts else _NOT_REGISTERED
        return asked

    def _check_capabilities(self, perturbation: Perturbation) -> None:
        context = perturbation.context
        if set(context) - {self.context_key}:
            msg = (
                f"query: expected a context of {self.context_key!r}, got {context!r}; {self._kind} has the capability "
                f"'unseen_context' for that column alone. Write context={{{self.context_key!r}: ...}}."
            )
            raise UnsupportedQuery(msg)
        super(ContextMean, self._in_context(context))._check_capabilities(perturbation)

    def _refusal(self, perturbation: Perturbation) -> str:
        if not perturbation.context:
            return super()._refusal(perturbation)
        return f"query: expected {self._answers}, got {perturbation!r}. {self._instead}"

    # effects -------------------------------------------------------------------------------------------------------

    def _measure(
        self, features: np.ndarray | sparse.csr_matrix, dosage: sparse.csr_matrix, batch: np.ndarray, cells: np.ndarray
    ) -> ContextEffects:
        return measure_by_context(features, dosage, batch, self._context_of(self.adata, cells), self.contexts)

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        return measured.context[:, None] if isinstance(measured, ContextEffects) else super()._solve(measured)

    def _averages(self, dosage: sparse.csr_matrix) -> sparse.csr_matrix:
        """Which of the measured effects each query averages, `(n_queries, K)`."""
        measured = self.module.measured()
        taken = self.module.solution.cpu().numpy()[:, 0] != self._asked
        table, row = unique_dosages(measured.dosage)
        every = sparse.csr_matrix((taken.astype(float), (row, np.arange(len(row)))), shape=(table.shape[0], len(row)))
        every.eliminate_zeros()
        position = find_rows(dosage, table)
        return sparse.csr_matrix(sparse.diags((position >= 0).astype(float)) @ every[np.maximum(position, 0)])

    def _answerable(self, dosage: sparse.csr_matrix) -> np.ndarray:
        return (np.diff(dosage.indptr) == 0) | (np.asarray(self._averages(dosage).sum(1)).ravel() > 0)

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        del measured
        averages = self._averages(dosage)
        return sparse.diags(1 / np.maximum(np.asarray(averages.sum(1)).ravel(), 1)) @ averages

    # cells ---------------------------------------------------------------------------------------------------------

    def _context_of(self, adata: AnnData, cells: np.ndarray) -> np.ndarray:
        """Context of cells, int64 positions in `contexts`."""
        manager = self.get_anndata_manager(adata, required=True)
        if self._from_batch:
            codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        else:
            codes = manager.get_from_registry(REGISTRY_KEYS.CAT_COVS_KEY)[self.context_key].to_numpy()
        return codes[cells].astype(np.int64)

    def _control_cells(self, adata: AnnData, indices: np.ndarray) -> np.ndarray:
        return self._of_context(adata, super()._control_cells(adata, indices))

    def _control_pool(self, dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray | None]:
        del dosage
        return self._of_context(self.adata, self._training_controls()[0]), None

    def _of_context(self, adata: AnnData, cells: np.ndarray) -> np.ndarray:
        if self._asked_name is None:
            return cells
        chosen = cells[self._context_of(adata, cells) == self._asked]
        if len(chosen) == 0:
            msg = (
                f"adata: expected control cells of the {self.context_key} {self._asked_name!r} to start from, found none. "
                "Pass some, or ask without a context."
            )
            raise ControlError(msg)
        return chosen
