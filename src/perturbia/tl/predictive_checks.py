"""Posterior predictive checks: does a model bring forth data like those it was shown?"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys
from perturbia.errors import ControlError, LabelError, SplitError, UnsupportedQuery, shorten
from perturbia.model.base._minified import require_features
from perturbia.model.base._positions import read_positions
from perturbia.perturbation import dosage_labels, unique_dosages
from perturbia.perturbation._copies import for_models
from perturbia.stats._settings import check_choice, check_positive_integer, check_seed
from perturbia.tl._predictive_statistics import SHIPPED, StatisticSet, caveat, check_names
from perturbia.tl._registered_batch import batch_codes
from perturbia.tl._replicate_band import ReplicateBand, least_replicates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from perturbia.model.base import PerturbationModel
    from perturbia.perturbation.value import Query

__all__ = ["PredictiveCheck", "posterior_predictive_check"]

logger = logging.getLogger(__name__)

LEVEL = 0.9


@dataclass(frozen=True)
class PredictiveCheck:
    """Statistics of the data among those of replicated data.

    Attributes
    ----------
    table
        One row an entry of a statistic: `statistic`, `perturbation` (``"all"`` where it is of all cells), `gene` (empty
        where it is of none, ``"A|B"`` for a pair), `observed`, `rep_mean`, `rep_low` and `rep_high` (the 5 % and 95 %
        points of the replicates), `p_value` (two-sided).
    model
        Class of the model.
    basal
        Where the basal states of the replicates came from.
    n_replicates
        Number of replicated data sets.
    n_cells
        Cells in each.
    seed
        Seed of the draws.
    library_given
        Whether the replicates were given the totals of the data as library sizes, as without a registered size factor.
    """

    table: pd.DataFrame
    model: str
    basal: str
    n_replicates: int
    n_cells: int
    seed: int
    library_given: bool = False

    @property
    def summary(self) -> pd.DataFrame:
        """One row a statistic: `n` entries, `coverage` of the 90 % band, and where the data lie outside of it.

        `below` and `above` are the shares of entries that lie under and over the band, `small_p` the share of
        p-values of .05 or less, `no_spread` the share of entries in which all replicates agree, which hardly test anything.
        """
        table = self.table
        flags = pd.DataFrame(
            {
                "below": table["observed"] < table["rep_low"],
                "above": table["observed"] > table["rep_high"],
                "small_p": table["p_value"] <= 0.05,
                "no_spread": table["rep_low"] == table["rep_high"],
            }
        )
        groups = flags.groupby(table["statistic"], observed=True, sort=False)
        shares = groups.mean()
        shares.insert(0, "n", groups.size())
        shares.insert(1, "coverage", 1 - shares["below"] - shares["above"])
        return shares

    def __repr__(self) -> str:
        head = (
            f"PredictiveCheck of {self.model}: {self.n_replicates} replicates of {self.n_cells} cells, "
            f"basal states from the {self.basal}"
        )
        lines = [f"  {name}: {row.coverage:.1%} of {row.n} in the 90 % band" for name, row in self._rows()]
        return "\n".join([head, *lines, *(f"  ({name}: {text})" for name, text in self._caveats())])

    def _repr_html_(self) -> str:
        head = repr(self).partition("\n")[0]
        notes = "".join(f"<p>{name}: {text}</p>" for name, text in self._caveats())
        table = self.summary.to_html(float_format="{:.3f}".format)
        return f"<p>{head}; share of entries of the data in the 90 % band</p>{table}{notes}"

    def _caveats(self) -> list[tuple[str, str]]:
        notes = [(str(name), caveat(str(name), library_given=self.library_given)) for name in self.summary.index]
        return [(name, text) for name, text in notes if text]

    def _rows(self) -> list[tuple[str, pd.Series]]:
        # an object row keeps the whole numbers whole
        return [(str(name), row) for name, row in self.summary.astype(object).iterrows()]


def posterior_predictive_check(
    model: PerturbationModel,
    adata: AnnData | None = None,
    *,
    statistics: Sequence[str | Callable] | None = None,
    perturbations: Sequence[Query] | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    split: Literal["train", "valid", "test"] | None = None,
    basal: Literal["prior", "posterior"] = "prior",
    n_replicates: int = 100,
    n_top_genes: int = 20,
    n_comps: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
) -> PredictiveCheck:
    r"""Compare statistics of the data with those of data sets that the model draws for the same design.

    A replicate has the perturbations, library sizes and covariates of the data, one draw of the effects of
    perturbations, and new basal states and counts for every cell. With :math:`R` replicates,

    .. math::
        p = \min\left(1,\; 2\,\frac{1 + \min(\#\{T(x^{rep}) \ge T(x)\},\ \#\{T(x^{rep}) \le T(x)\})}{R + 1}\right)

    and for a model that is right 90 % of the entries lie in the 90 % band of a statistic that is continuous and whose
    replicates are drawn as the data were: of those below, all but ``"zero_fraction"``, ``"n_de_genes"`` and, without a
    registered size factor, ``"library_size"`` and ``"library_spread"``; see the notes.

    Parameters
    ----------
    model
        Trained model that draws features: :class:`~perturbia.model.SAMSVAE`.
    adata
        Data with the registered features; by default the data of the model.
    statistics
        Names of statistics, or functions. By default all that the scale defines, of

        - ``"ate"``: mean of log1p(CP10K) minus that of controls, of the registered batches where there are any (a batch
          without controls is compared with those of all), per perturbation and gene;
        - ``"variance_mean_ratio"``, ``"zero_fraction"``: of counts, per group and gene (control included);
        - ``"library_size"``, ``"library_spread"``: mean and coefficient of variation of the counts per cell, per group;
        - ``"gene_correlation"``: of log1p(CP10K) over all cells, per pair of the `n_top_genes` most variable genes;
        - ``"n_de_genes"``: genes that differ from control in Welch's t test at FDR .05, per perturbation;
        - ``"edistance"``: unbiased Euclidean energy distance to control on `n_comps` components, per perturbation.

        A function takes the features `(n_cells, n_features)` (CSR for counts) and the labels of the cells, and returns a
        number, one number a feature, or a data frame of perturbations × features.
    perturbations
        Perturbations to check, all by default. Controls are always among the cells.
    indices
        Cells to check, positions or a boolean mask; all by default.
    split
        Check the cells that `obs["pb_split"]` marks so, in place of `indices`.
    basal
        ``"prior"``: replicates are new cells. ``"posterior"``: each cell is drawn from the guide that has seen it; this
        tests the likelihood alone, because a guide puts cells right that the model of the population has wrong.
    n_replicates
        Number of replicates, at least 19. The smallest p-value is `2 / (n_replicates + 1)`.
    n_top_genes
        Genes of ``"gene_correlation"``, chosen on the data.
    n_comps
        Components of ``"edistance"``, fitted to the data.
    batch_size
        Cells per batch.
    seed
        Seed of the draws.

    Returns
    -------
    :class:`PredictiveCheck`. Replicates are drawn and forgotten one by one.

    Raises
    ------
    UnsupportedQuery
        If the model can not draw features; the closed-form baselines have no likelihood.
    ControlError, LabelError, SplitError
        If the chosen cells hold fewer than two controls, or no perturbation of two cells.
    ScaleError
        If a statistic of counts is asked of other features.
    ValueError
        If a statistic is unknown, or returns NaN.

    Notes
    -----
    A model that was trained on the checked cells fits them better than new ones, and p-values are conservative
    (Gelman, Meng and Stern, 1996): check held-out cells with `split="test"` where there are enough. Perturbations of a
    single cell are left out.

    What a right model shows in `coverage`, measured on data that a model drew itself:

    - .90 for ``"ate"``, ``"variance_mean_ratio"``, ``"gene_correlation"`` and ``"edistance"``;
    - .90 or more for ``"zero_fraction"`` (.97) and ``"n_de_genes"``, which have few values: ties lie inside;
    - 1 for ``"library_size"`` without a registered size factor, because replicates are given the totals of the data: it
      can not fail. With a registered size factor it is a check like the others;
    - less for ``"library_spread"`` without a registered size factor (.85), all misses `below`: replicates add the noise of
      counts to totals that already hold it. Read it as what the likelihood adds; a model fails it where entries lie
      `above`, or most of them `below`.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> check = pb.tl.posterior_predictive_check(model, statistics=["ate", "zero_fraction"], n_replicates=19)
    >>> check.summary["n"].to_dict()
    {'ate': 150, 'zero_fraction': 180}
    """
    if not hasattr(model, "posterior_predictive_sample"):
        msg = f"model: expected one that draws features, got {type(model).__name__}, which has no likelihood. Use SAMSVAE."
        raise UnsupportedQuery(msg)
    check_seed(seed)
    model._require_trained()
    is_counts = model.scale == "counts"
    if statistics is None:
        statistics = [name for name, (*_, counts_only) in SHIPPED.items() if is_counts or not counts_only]
    if isinstance(statistics, str) or callable(statistics):
        statistics = [statistics]
    statistics = list(statistics)
    check_names(statistics, is_counts=is_counts)
    check_choice("basal", basal, ("prior", "posterior"))
    for name, number in (("n_replicates", n_replicates), ("n_top_genes", n_top_genes), ("n_comps", n_comps)):
        check_positive_integer(name, number)
    if n_replicates < (least := least_replicates(LEVEL)):
        msg = f"n_replicates: expected at least {least}, got {n_replicates}. Fewer have no 5 % and 95 % points."
        raise ValueError(msg)
    adata, _ = model._cells(for_models(adata), None)
    chosen = read_positions(_marked(adata, indices, split), adata.n_obs, argument="indices")
    chosen, codes, groups = _groups(model, adata, np.unique(chosen % adata.n_obs), perturbations)
    observed = _features(model, adata, chosen)
    checked = StatisticSet(
        observed,
        codes=codes,
        batch=batch_codes(model, adata, chosen, batch_key=None),
        groups=groups,
        genes=np.asarray(model.get_var_names(), dtype=str),
        statistics=statistics,
        is_counts=is_counts,
        n_top_genes=n_top_genes,
        n_comps=n_comps,
    )
    bands = {
        name: ReplicateBand(values, n_replicates=n_replicates, level=LEVEL) for name, values in checked.observed.items()
    }
    for one in np.random.SeedSequence(seed).generate_state(n_replicates).tolist():
        replicate = model.posterior_predictive_sample(adata, chosen, basal=basal, batch_size=batch_size, seed=one)
        for name, values in checked.of(replicate).items():
            bands[name].add(values)
    parts = [
        pd.DataFrame(
            {"statistic": name, "perturbation": checked.names[name][0], "gene": checked.names[name][1]} | band.columns()
        )
        for name, band in bands.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    for column in ("statistic", "perturbation", "gene"):
        table[column] = pd.Categorical(table[column], categories=pd.unique(table[column]))
    library_given = is_counts and model.registry["setup_args"].get("size_factor_key") is None
    return PredictiveCheck(table, model._kind, basal, n_replicates, len(chosen), seed, library_given)


def _marked(
    adata: AnnData, indices: Sequence[int] | np.ndarray | None, split: str | None
) -> Sequence[int] | np.ndarray | None:
    """The cells asked for, by position or by their part of the split."""
    if split is None:
        return indices
    if indices is not None:
        msg = f"split: expected either split or indices, got split={split!r} and indices."
        raise SplitError(msg)
    check_choice("split", split, _keys.SPLIT_VALUES)
    obs = adata.obs
    if _keys.OBS_SPLIT not in obs:
        msg = f"split: expected the column obs[{_keys.OBS_SPLIT!r}], found none. Make it with perturbia.tl.split."
        raise SplitError(msg)
    marked = np.flatnonzero((obs[_keys.OBS_SPLIT].astype(str) == split).to_numpy())
    if len(marked) == 0:
        msg = f"split: expected cells marked {split!r} in obs[{_keys.OBS_SPLIT!r}], found none."
        raise SplitError(msg)
    return marked


def _groups(
    model: PerturbationModel, adata: AnnData, chosen: np.ndarray, perturbations: Sequence[Query] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells to check, their groups and the names of these; the control comes first."""
    unique, codes = unique_dosages(model._registered_dosage(adata, chosen))
    labels = dosage_labels(unique, model.perturbations).astype(str)
    is_control = np.diff(unique.indptr) == 0
    count = np.bincount(codes, minlength=len(labels))
    if count[is_control].sum() < 2:
        msg = f"adata: expected at least 2 control cells to check, got {count[is_control].sum()}. Choose more cells."
        raise ControlError(msg)
    wanted = (count > 1) & ~is_control
    if perturbations is not None:
        asked = dosage_labels(model._query_matrix(perturbations), model.perturbations).astype(str)
        absent = sorted(set(asked) - set(labels[wanted]))
        if absent:
            msg = f"perturbations: expected two cells or more of each, lacking for {shorten(absent, limit=5)}."
            raise LabelError(msg)
        wanted &= np.isin(labels, asked)
    elif (n_single := int((~wanted & ~is_control).sum())) > 0:
        logger.info("%d perturbations have a single cell and are left out.", n_single)
    if not wanted.any():
        msg = "adata: expected a perturbation of two cells or more, found none. Choose more cells."
        raise LabelError(msg)
    order = np.r_[np.flatnonzero(is_control), np.flatnonzero(wanted)]
    position = np.full(len(labels), -1)
    position[order] = np.arange(len(order))
    kept = position[codes] >= 0
    return chosen[kept], position[codes][kept], labels[order]


def _features(model: PerturbationModel, adata: AnnData, chosen: np.ndarray) -> sparse.csr_matrix | np.ndarray:
    """Registered features of cells in rising order, in the type of a replicate."""
    from scvi import REGISTRY_KEYS

    require_features(adata, "adata")
    matrix = model.get_anndata_manager(adata, required=True).get_from_registry(REGISTRY_KEYS.X_KEY)[chosen]
    if model.scale == "counts":
        out = sparse.csr_matrix(matrix, dtype=np.float32)
        out.sum_duplicates()
        out.eliminate_zeros()
        return out
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, dtype=np.float32)
