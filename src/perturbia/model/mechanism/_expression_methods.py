"""Normalized and differential expression of latent-shift models, with the arguments of scvi-tools and a perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS

from perturbia.errors import FeatureMismatch, ScaleError, UnsupportedQuery, nearest_names, shorten
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.mechanism._comparisons import (
    comparisons_of_groups,
    counterfactual_comparison,
    observed_comparison,
)
from perturbia.model.mechanism._differential_expression import check_options, compare
from perturbia.model.mechanism._normalized_expression import CellStates, Readout, balanced_draw, draw_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from perturbia.perturbation.value import Query

__all__ = ["ExpressionMethods"]


class ExpressionMethods:
    """`get_normalized_expression` and `differential_expression`."""

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        perturbation: Query | None = None,
        transform_batch: str | int | Sequence[str | int] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        seed: int | None = 0,
    ) -> pd.DataFrame | np.ndarray:
        """Decoded expression of cells, as they are or as they would be under another perturbation.

        Latents are drawn from their posterior, as in scvi-tools. Under a `perturbation` a cell keeps its basal state;
        masks and embeddings of what it loses and of what it gains are drawn as well, once a sample for all cells. One
        seed gives the same draws for every `perturbation`, so that two results differ in what the perturbations do.

        Parameters
        ----------
        adata
            Data with the registered features, or minified; by default the data of the model.
        indices
            Cells, positions or a boolean mask; all by default.
        perturbation
            Perturbation to put the cells under, in place of their own; ``"control"`` removes what they have. ``None``
            leaves each cell its own.
        transform_batch
            Batch to decode under, or several to average over; each cell's own by default.
        gene_list
            Features to return, in the order of the data; all by default.
        library_size
            Counts that the expression of a cell adds up to over all features; ``"latent"`` for the library size of
            each cell.
        n_samples
            Draws of each cell.
        n_samples_overall
            Number of draws in all, in place of `n_samples`: cells in random order, each as often as any other, and
            with draws of masks and embeddings of their own.
        batch_size
            Cells per batch of the encoder and of the decoder. Memory grows with it, and not with averaged samples.
        return_mean
            Average the samples.
        return_numpy
            Return an array; by default only where a data frame would not do.
        seed
            Seed of the draws; ``None`` draws afresh.

        Returns
        -------
        Data frame `(n_cells, n_features)`, float32. An array `(n_samples, n_cells, n_features)` for several samples
        without `return_mean`, `(n_samples_overall, n_features)` for a number of draws in all, or as `return_numpy`
        asks. For counts expected proportions times `library_size`; means of the decoder for other scales.

        Raises
        ------
        ScaleError
            If `library_size` is given for features that are not counts, or is no positive number.
        FeatureMismatch
            If a gene was not registered.
        UnsupportedQuery
            If a batch was not registered.
        UnknownPerturbation, NotTrainedError, ValueError
            If the perturbation, the model or the number of samples can not be used.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
        >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
        >>> model = pb.model.SAMSVAE(adata, n_latent=5)
        >>> model.train(max_steps=20, enable_progress_bar=False)
        >>> own = model.get_normalized_expression(library_size=1e4, n_samples=5)
        >>> without = model.get_normalized_expression(library_size=1e4, n_samples=5, perturbation="control")
        >>> own.shape, round(float(without.iloc[0].sum()))
        ((900, 30), 10000)
        """
        adata, chosen = self._cells(adata, indices)  # type: ignore[attr-defined]
        chosen = chosen % adata.n_obs
        check_positive_integer("n_samples", n_samples)
        if n_samples_overall is not None:
            check_positive_integer("n_samples_overall", n_samples_overall)
            if n_samples != 1:
                msg = f"n_samples: expected 1 with n_samples_overall, got {n_samples}. Give one of the two."
                raise ValueError(msg)
            chosen = chosen[balanced_draw(len(chosen), n_samples_overall, seed)]
        stacked = n_samples > 1 and not return_mean
        if stacked and return_numpy is False:
            msg = f"return_numpy: expected True or None for {n_samples} samples without return_mean, got False."
            raise ValueError(msg)
        features = self._feature_positions(gene_list)
        readout = Readout(features, self._checked_library(library_size), self._batch_codes(transform_batch))
        query = None if perturbation is None else self._query_matrix([perturbation])  # type: ignore[attr-defined]
        states = CellStates.of(self, adata, chosen, query, batch_size)  # type: ignore[arg-type]
        values = draw_expression(
            self,  # type: ignore[arg-type]
            states,
            readout,
            n_samples=n_samples,
            return_mean=not stacked,
            shared=n_samples_overall is None,
            batch_size=batch_size,
            seed=seed,
        )
        as_array = (stacked or n_samples_overall is not None) if return_numpy is None else return_numpy
        if as_array:
            return values
        return pd.DataFrame(values, index=adata.obs_names[chosen], columns=adata.var_names[features])

    def differential_expression(
        self,
        adata: AnnData | None = None,
        *,
        perturbation: Query | None = None,
        control: Query = "control",
        counterfactual: bool = False,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        idx1: Sequence[int] | np.ndarray | str | None = None,
        idx2: Sequence[int] | np.ndarray | str | None = None,
        mode: Literal["change", "vanilla"] = "change",
        delta: float | None = 0.25,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Sequence[str] | None = None,
        batchid2: Sequence[str] | None = None,
        fdr_target: float = 0.05,
        filter_outlier_cells: bool = False,
        seed: int = 0,
        **options: int | float | str | Sequence[float] | Callable | None,
    ) -> pd.DataFrame:
        r"""Genes that differ between populations of cells, by scvi-tools' Bayesian comparison.

        Draws of normalized expression of one population are compared with draws of the other; a gene is called by the
        posterior probability that its fold change exceeds `delta`. Say what to compare in one of four ways:

        - ``perturbation="A"``: the cells that were given exactly A against the control cells;
        - ``perturbation="A", counterfactual=True``: control cells as the model expects them under A against *the same*
          cells as they are. Basal state, batch and library size are shared, draw by draw, so that the composition of
          the two groups plays no part, and differences between cells do not drown those between perturbations. Needs
          no cells of A;
        - `groupby`, `group1`, `group2`: groups of a column of `obs`, as in scvi-tools;
        - `idx1`, `idx2`: two sets of cells.

        Parameters
        ----------
        adata
            Data with the registered features, or minified; by default the data of the model.
        perturbation
            The perturbation to compare with `control`.
        control
            What to compare it with: the control, or another perturbation.
        counterfactual
            Compare the same cells under both, by default all control cells. `idx1` names others, whose own perturbation
            is then removed from both sides.
        groupby, group1, group2
            Column of `obs`; its groups of interest, one after another, all by default; and what to compare them with,
            by default all other cells.
        idx1, idx2
            Cells to compare: positions, boolean masks or expressions for :meth:`pandas.DataFrame.query`; `idx2` is by
            default all other cells.
        mode
            ``"change"``: log2 fold changes and the probability that they exceed `delta`; ``"vanilla"``: the probability
            that one population expresses more than the other.
        delta
            Smallest absolute log2 fold change that counts; ``None`` estimates it.
        batch_size
            Cells per batch.
        all_stats
            Add means of the observed counts of both populations, NaN for minified data and, for a `counterfactual`,
            where no cell has the perturbation.
        batch_correction
            Decode both populations under all batches, or under `batchid1` and `batchid2`.
        batchid1, batchid2
            Batches for `batch_correction`, all by default.
        fdr_target
            Expected share of false discoveries among the genes that are called.
        filter_outlier_cells
            Leave out cells that lie apart in latent space.
        seed
            Seed of all draws.
        **options
            Options of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`, such as
            ``n_samples_overall=5000``, ``pseudocounts`` or ``test_mode``.

        Returns
        -------
        Data frame with a row for each gene, most certain first, for one comparison after another: `proba_de`,
        `proba_not_de`, `bayes_factor`, `scale1`, `scale2`, `pseudocounts`, `delta`, `lfc_mean`, `lfc_median`, `lfc_std`,
        `lfc_min`, `lfc_max`, raw statistics under `all_stats`, ``is_de_fdr_…``, `comparison`, `group1` and `group2`; in
        vanilla mode `proba_m1`, `proba_m2`, `bayes_factor` and the scales. Positive: more in group 1.

        Raises
        ------
        ScaleError
            If the features are not counts: fold changes need proportions.
        UnsupportedQuery, ControlError
            If no cell has the perturbation or the control.
        UnknownPerturbation, NotTrainedError, LabelError, KeyError, TypeError, ValueError
            If a query, the model, a group, a column or an option can not be used.

        Notes
        -----
        The FDR of a table of observed cells is one over pairs of cells. As cells differ by much besides their
        perturbation, few genes reach it; ranks are informative all the same.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
        >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
        >>> model = pb.model.SAMSVAE(adata, n_latent=5)
        >>> model.train(max_steps=20, enable_progress_bar=False)
        >>> table = model.differential_expression(perturbation="P01+P02", counterfactual=True, n_samples_overall=500)
        >>> table.shape[0], table["comparison"].iloc[0]
        (30, 'P01+P02 vs control')
        """
        adata, _ = self._cells(adata, None)  # type: ignore[attr-defined]
        if not self.module.is_count_model:  # type: ignore[attr-defined]
            msg = f"differential_expression: expected a model of counts, got scale {self.scale!r}. Compare with estimate_ate."  # type: ignore[attr-defined]
            raise ScaleError(msg)
        check_choice("mode", mode, ("change", "vanilla"))
        _check_one_way(perturbation, groupby, idx1, idx2, counterfactual=counterfactual)
        if not 0 < fdr_target < 1:
            msg = f"fdr_target: expected a share strictly between 0 and 1, got {fdr_target!r}."
            raise ValueError(msg)
        check_options(options, paired=counterfactual)
        batches = {"batchid1": batchid1, "batchid2": batchid2}
        for name, batch in batches.items():
            if batch is not None and not batch_correction:
                msg = f"{name}: expected None without batch_correction, got {batch!r}. Pass batch_correction=True."
                raise ValueError(msg)
            self._batch_codes(batch)
        if perturbation is None:
            comparisons = comparisons_of_groups(
                adata, groupby=groupby, group1=group1, group2=group2, idx1=idx1, idx2=idx2
            )
        elif counterfactual:
            comparisons = [counterfactual_comparison(self, adata, perturbation, control, idx1)]  # type: ignore[arg-type]
        else:
            comparisons = [observed_comparison(self, adata, perturbation, control)]  # type: ignore[arg-type]
        return compare(
            self,  # type: ignore[arg-type]
            adata,
            comparisons,
            mode=mode,
            fdr_target=fdr_target,
            all_stats=all_stats,
            filter_outlier_cells=filter_outlier_cells,
            batch_size=batch_size,
            seed=seed,
            delta=delta,
            use_observed_batches=not batch_correction,
            **batches,
            **options,
        )

    def _feature_positions(self, gene_list: Sequence[str] | None) -> np.ndarray:
        names = np.array([str(name) for name in self.get_var_names()])  # type: ignore[attr-defined]
        if gene_list is None:
            return np.arange(len(names))
        wanted = [gene_list] if isinstance(gene_list, str) else [str(gene) for gene in gene_list]
        unknown = sorted(set(wanted) - set(names))
        if unknown or not wanted:
            what = (
                f"{unknown[0]!r} (nearest: {', '.join(nearest_names(unknown[0], list(names)))})" if unknown else "none"
            )
            msg = f"gene_list: expected registered features, got {what}. Leave it out for all {len(names)}."
            raise FeatureMismatch(msg)
        return np.flatnonzero(np.isin(names, wanted))

    def _checked_library(self, library_size: float | str) -> Any:
        is_number = isinstance(library_size, int | float | np.number) and not isinstance(library_size, bool)
        if not self.module.is_count_model and library_size != 1:  # type: ignore[attr-defined]
            msg = f"library_size: expected 1 for features that are not counts, got {library_size!r}. Leave it out."
            raise ScaleError(msg)
        if library_size != "latent" and not (is_number and np.isfinite(library_size) and float(library_size) > 0):
            msg = f"library_size: expected a positive number or 'latent', got {library_size!r}."
            raise ScaleError(msg)
        return library_size if library_size == "latent" else float(library_size)

    def _batch_codes(self, batches: str | int | Sequence[str | int] | None) -> list[int | None]:
        """Codes of registered batches; None for each cell's own."""
        if batches is None:
            return [None]
        state = self.registry["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]  # type: ignore[attr-defined]
        known = [str(category) for category in state["categorical_mapping"]]
        wanted = [str(batch) for batch in np.atleast_1d(np.asarray(batches, dtype=object))]
        unknown = [batch for batch in wanted if batch not in known]
        if unknown or not wanted:
            msg = f"transform_batch: expected registered batches, got {shorten(unknown) or 'none'}. Registered: {shorten(known)}."
            raise UnsupportedQuery(msg)
        return [known.index(batch) for batch in wanted]


def _check_one_way(perturbation: Any, groupby: Any, idx1: Any, idx2: Any, *, counterfactual: bool) -> None:
    """Check that what to compare is said once."""
    if counterfactual and perturbation is None:
        msg = "counterfactual: expected a perturbation to put cells under, got none. Pass perturbation='A'."
        raise ValueError(msg)
    given = {
        "perturbation": perturbation is not None,
        "groupby": groupby is not None,
        "idx1": idx1 is not None and not counterfactual,
    }
    named = [name for name, is_given in given.items() if is_given]
    if len(named) != 1:
        msg = (
            f"perturbation, groupby, idx1: expected exactly one of them, got {' and '.join(named) or 'none'}. "
            "Say what to compare in one way."
        )
        raise ValueError(msg)
    if idx2 is not None and named != ["idx1"]:
        msg = f"idx2: expected None with {named[0]}, got cells. They are compared with idx1."
        raise ValueError(msg)
