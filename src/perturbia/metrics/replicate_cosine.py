"""Do replicates of a perturbation look alike, more than rows of different perturbations do?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia.errors import ControlError, shorten
from perturbia.metrics._batch_draws import compare_with_draws
from perturbia.metrics._distribution_gap import distribution_gap
from perturbia.metrics._replicate_pairs import different_pairs, same_pairs
from perturbia.metrics._replicate_sets import mean_cosines, replicate_sets
from perturbia.metrics._row_directions import unit_or_zero_rows
from perturbia.metrics._screen_rows import read_screen, warn_left_out, warn_of_fitted_controls
from perturbia.stats._false_discovery import q_values
from perturbia.stats._settings import check_choice, check_count, check_seed
from perturbia.stats.row_cosines import pair_cosines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics._replicate_sets import ReplicateSets
    from perturbia.metrics._screen_rows import ScreenRows

Null = Literal["mismatched", "controls"]

_LEVEL = 0.05
_FEWEST_CONTROL_SETS = 20  # with fewer there is no p-value of 0.05


@dataclass(frozen=True)
class ReplicateConsistency:
    """How alike the replicates of every perturbation are, and of the screen as a whole.

    Attributes
    ----------
    table
        One row a perturbation: `n_obs` and `n_batches`, rows and batches; `n_pairs`, pairs of rows that count;
        `consistency`, their mean cosine; `null_mean`, its mean over random sets of rows; `p_value`; `q_value`, by Benjamini
        and Hochberg. NaN where no pair counts, or replicates are too few.
    ks
        Kolmogorov-Smirnov distance between the cosines of same and of different perturbations, from 0 to 1.
    ks_location
        The cosine at which it is reached.
    cvm
        Cramér-von Mises statistic of both samples. It grows with the number of pairs.
    cvm_scaled
        The same divided by nm / (n + m): the mean squared difference of both distribution functions, from 0 to 1/3, and
        1/(6nm) more with n and m pairs.
    share_significant
        Share of perturbations with `p_value` and with `q_value` of at most 0.05, among those that have one.
    same_cosines, different_cosines
        Cosines of pairs of rows of one perturbation, and of different ones from the same batches, shape (n_pairs,), each
        pair once.
    different_weights
        Weight of each of `different_cosines` in KS and CvM, 1 in all: two batches weigh as much as they have pairs of one
        perturbation. Equal without batches.
    null
        What random rows were drawn from.
    n_null
        Random sets for each perturbation; the smallest possible p-value is 1 / (1 + n_null).
    across
        Whether only pairs of rows of different batches count.
    """

    table: pd.DataFrame
    ks: float
    ks_location: float
    cvm: float
    cvm_scaled: float
    share_significant: pd.Series
    same_cosines: np.ndarray
    different_cosines: np.ndarray
    different_weights: np.ndarray
    null: Null
    n_null: int
    across: bool

    def __repr__(self) -> str:
        n_scored = int(self.table["p_value"].notna().sum())
        pairs = "pairs of rows across batches" if self.across else "pairs of rows"
        share = self.share_significant
        return (
            f"ReplicateConsistency: {n_scored} of {len(self.table)} perturbations, {pairs}, null of "
            f"{'controls' if self.null == 'controls' else 'mismatched rows'} ({self.n_null} draws)\n"
            f"  mean cosine {self.table['consistency'].mean():.3f}, by chance {self.table['null_mean'].mean():.3f}\n"
            f"  KS {self.ks:.3f}, scaled CvM {self.cvm_scaled:.4f} (raw {self.cvm:.4g})\n"
            f"  consistent: {share['p_value']:.0%} with p <= {_LEVEL}, {share['q_value']:.0%} with q <= {_LEVEL}"
        )

    def _repr_html_(self) -> str:
        head = repr(self).replace("\n", "<br>").replace("<=", "&le;")
        top = self.table.sort_values("consistency", ascending=False).head(10)
        return f"<p>{head}</p>{top.to_html(float_format='{:.3g}'.format)}"


def replicate_consistency(
    data: Any,
    perturbation_key: Any,
    *,
    use_rep: str | None = None,
    control: str | Sequence[str] | None = None,
    batch_key: Any = None,
    sep: str = "+",
    null: Null = "mismatched",
    across: bool = True,
    n_null: int = 1000,
    min_replicates: int = 2,
    max_pairs: int = 100_000,
    seed: int = 0,
) -> ReplicateConsistency:
    r"""Mean cosine among the replicates of each perturbation, with p-values, and its distribution against different ones.

    With the rows :math:`u_i` of a perturbation at length 1, n of them and :math:`n_b` in batch b,

    .. math::
        s = \frac{\lVert \sum_i u_i \rVert^2 - \sum_b \lVert \sum_{i \in b} u_i \rVert^2}{n^2 - \sum_b n_b^2}, \qquad
        p = \frac{1 + \#\{s_\text{null} \ge s\}}{1 + n_\text{null}}

    The null is the same statistic of random rows, as many from every batch as the perturbation has there.

    **Range** [-1, 1]; **chance** is `null_mean`, which is above 0 where rows have something in common or perturbations are
    few, and p-values are uniform as long as rows of one batch could change places. Of the whole screen, KS is in [0, 1] and
    the scaled Cramér-von Mises statistic in [0, 1/3]. Both are 0 by chance in large screens alone, as two samples never agree
    quite: without effects KS is about 0.16 for 10 perturbations of 3 replicates
    on as many plates, 0.08 for 20 of 4, 0.03 for 100 of 4 and 0.01 for 1,000 of 4; CvM 0.005, 0.001 and less.
    **Not seen**: the size of effects (a cosine has none; see :func:`perturbation_magnitude`), and whether perturbations
    differ from one another: if all do the same, replicates are no more alike than other rows. A perturbation that has the
    same place or neighbours in every plate looks consistent for those.

    Parameters
    ----------
    data
        Profiles (wells, cells, guides): AnnData, or a DataFrame or array, (n_rows, n_features). Align them first
        (:func:`perturbia.pp.standardize_by_controls`): a cosine is one to the origin.
    perturbation_key
        Column of `obs` with the labels, or one label a row.
    use_rep
        Key of `obsm`; by default `X`.
    control
        Label or labels of control rows, which are no perturbation and not in the mismatched null. `None`: rows labelled
        ``control``, if there are any. Rows that `obs["is_control"]` marks are controls in any case.
    batch_key
        Column of `obs` with the batch, or one a row: what replicates must agree across, plates or experiments. Random rows
        are drawn within batches, so that a batch has to hold several perturbations. Guides hold one each: to ask whether
        the guides of a gene agree, aggregate cells or wells to guides first, and pass those as rows.
    sep
        Text between the members of a combination.
    null
        ``"mismatched"``: rows of all perturbations, those of its own among them, so that the test is one of permutation
        and exact. ``"controls"``: control rows, which asks for a likeness that controls of these batches do not have; p-values
        are then as good as the controls are many, and too small where alignment was fitted to these controls (see Notes).
    across
        Whether to count only pairs of rows of different batches, where batches are given.
    n_null
        Random sets for each perturbation. Perturbations with as many rows in every batch share theirs, up to n_null / 50 of
        them.
    min_replicates
        Rows that a perturbation needs, at least 2.
    max_pairs
        Most cosines of same and of different perturbations to keep, for KS, CvM and figures alone: all pairs, or where
        there are more, so many at random, none of them twice.
    seed
        Seed of all draws.

    Returns
    -------
    :class:`ReplicateConsistency`.

    Raises
    ------
    LabelError
        If labels or batches are missing or can not be read, or there are fewer than two perturbations.
    ControlError
        If no row is labelled `control`, or with ``null="controls"`` a batch has too few controls.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If values are missing, no perturbation has a pair of rows that counts, or a number or choice is impossible.

    Warns
    -----
    RuntimeWarning
        Perturbations without a score; rows that are zero; perturbations that are alone in their batches, for which nothing
        else can be drawn, so that their p-value is 1; with ``null="controls"`` a representation whitened by these controls.

    Notes
    -----
    No pair is visited for scores: O(n_rows n_features) for all of them, and n_null times the same for the null at most;
    perturbations of one layout share their draws, which for a library on the same plates makes it a twentieth. Results do
    not depend on the order of rows. `cvm_scaled` divides by how T depends on n, :math:`\omega^2 = T (n + m) / (nm)`, which
    is :math:`\int (F - G)^2 dF` whatever the numbers of pairs n and m. Pairs that share a row are not independent: neither
    statistic has a p-value here.
    Whitening makes the controls that it is fitted to less alike, and nearer to the origin, than other rows without effect.
    In simulated
    screens without effects, 45 % of genes had p <= 0.05 against six such controls a plate, and 26 % against twelve. Fit to some controls (``fit_on`` of
    :func:`perturbia.pp.typical_variation_normalization` and :func:`perturbia.pp.spherize`) and leave those rows out here; the
    mismatched null needs no controls.

    References
    ----------
    Kenyon-Dean et al., arXiv:2411.02572 (2024); Celik et al., PLoS Computational Biology 20 (2024); Phipson and Smyth,
    Statistical Applications in Genetics and Molecular Biology 9 (2010); Anderson, Annals of Mathematical Statistics 33 (1962).

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> genes, plates = np.repeat([f"G{i}" for i in range(20)], 4), np.tile(["p1", "p2", "p3", "p4"], 20)
    >>> effects = np.repeat(rng.normal(size=(20, 30)) * (np.arange(20) < 10)[:, None], 4, axis=0)
    >>> profiles = effects + rng.normal(size=(80, 30))
    >>> result = pb.metrics.replicate_consistency(profiles, genes, batch_key=plates)
    >>> bool((result.table["q_value"] < 0.05).loc[[f"G{i}" for i in range(10)]].all()), round(result.ks, 1)
    (True, 0.5)
    """
    check_choice("null", null, ("mismatched", "controls"))
    check_count("n_null", n_null)
    check_count("min_replicates", min_replicates, least=2)
    check_count("max_pairs", max_pairs)
    check_seed(seed)
    screen = read_screen(
        data,
        perturbation_key,
        use_rep=use_rep,
        control=control,
        batch_key=batch_key,
        sep=sep,
        require_control=null == "controls",
    )
    if null == "controls":
        warn_of_fitted_controls(data, use_rep, screen, instead=", or use null='mismatched'")
    across = bool(across) and batch_key is not None
    every = replicate_sets(screen.codes, screen.batches, len(screen.names), across=across)
    scored = _scored(screen, every, min_replicates)
    sets = every.take(scored)
    unit, squares = unit_or_zero_rows(screen.values)
    pool = _pool(screen, sets, scored, null)
    # draws of their own for scores and for figures, so that neither changes with the other
    draws, pairs = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2))
    observed = mean_cosines(unit, squares, sets, sets.rows[None])[0]
    at_least, null_mean = compare_with_draws(
        unit, squares, sets, pool=pool, pool_batches=screen.batches[pool], observed=observed, n_null=n_null, rng=draws
    )
    table = _table(screen, every, scored, observed, null_mean, (1 + at_least) / (1 + n_null))
    same, different, weights = _cosines(screen, sets, unit, max_pairs, pairs)
    gap = distribution_gap(same, different, weights)
    level = {name: float((table[name].dropna() <= _LEVEL).mean()) for name in ("p_value", "q_value")}
    return ReplicateConsistency(
        table=table,
        **gap._asdict(),
        share_significant=pd.Series(level, name="share_significant"),
        same_cosines=same,
        different_cosines=different,
        different_weights=weights,
        null=null,
        n_null=n_null,
        across=across,
    )


def _scored(screen: ScreenRows, sets: ReplicateSets, min_replicates: int) -> np.ndarray:
    """Positions of the perturbations that have a score; the others are named in warnings."""
    few = screen.n_rows < min_replicates
    alone = ~few & (sets.n_pairs == 0)
    if (few | alone).all():
        needed, fix = "", "Pass replicates, not their means."
        if alone.any():
            needed = " in two batches or more, since only pairs across batches count"
            fix = "Pass across=False to count all pairs, or leave out batch_key."
        msg = (
            f"perturbation_key: expected a perturbation with {min_replicates} rows or more{needed}, got none among "
            f"{len(few)}. {fix}"
        )
        raise ValueError(msg)
    warn_left_out(screen.names[few], f"fewer than {min_replicates} replicates")
    warn_left_out(screen.names[alone], "no two replicates in different batches")
    return np.flatnonzero(~few & ~alone)


def _pool(screen: ScreenRows, sets: ReplicateSets, scored: np.ndarray, null: Null) -> np.ndarray:
    """Rows that the null draws from, by batch."""
    rows = np.flatnonzero((screen.codes < 0) == (null == "controls"))
    rows = rows[np.argsort(screen.batches[rows], kind="stable")]
    have = np.bincount(screen.batches[rows], minlength=len(screen.batch_names))[sets.cell_batch]
    if null == "controls":
        _check_controls(screen, sets, scored, have)
    else:
        alone = np.bincount(sets.cell_set, have > sets.cell_size, minlength=len(scored)) == 0
        if alone.any():
            warnings.warn(
                f"batch_key: {alone.sum()} perturbations are alone in their batches; no other rows can be drawn and their p-value "
                f"is 1 ({shorten(screen.names[scored[alone]].tolist(), limit=3)}).",
                RuntimeWarning,
                stacklevel=3,
            )
    return rows


def _check_controls(screen: ScreenRows, sets: ReplicateSets, scored: np.ndarray, have: np.ndarray) -> None:
    """Refuse batches whose controls, `have` in the batch of each cell, can not stand in for replicates."""
    from scipy.special import comb

    need = sets.cell_size
    n_draws = np.ones(len(scored))
    with np.errstate(over="ignore"):
        np.multiply.at(n_draws, sets.cell_set, comb(have, need))  # 0 where there are too few
    poor = (n_draws < _FEWEST_CONTROL_SETS)[sets.cell_set]
    if not poor.any():
        return
    worst = np.flatnonzero(poor)[np.argmax((need - have)[poor])]
    batch = str(screen.batch_names[sets.cell_batch[worst]])
    name = str(screen.names[scored[sets.cell_set[worst]]])
    place = f" in batch {batch!r}" if batch else ""
    n_poor = len(np.unique(sets.cell_set[poor]))
    msg = (
        f"control: expected controls to draw {_FEWEST_CONTROL_SETS} different sets from in place of replicates, got "
        f"{have[worst]} controls for {need[worst]} replicates of {name!r}{place}, and "
        f"too few for {n_poor} perturbations in all. Pass null='mismatched', or leave these perturbations or batches out."
    )
    raise ControlError(msg)


def _table(
    screen: ScreenRows,
    every: ReplicateSets,
    scored: np.ndarray,
    observed: np.ndarray,
    null_mean: np.ndarray,
    p_value: np.ndarray,
) -> pd.DataFrame:
    columns = {"consistency": observed, "null_mean": null_mean, "p_value": p_value, "q_value": q_values(p_value)}
    table = pd.DataFrame(
        {"n_obs": screen.n_rows, "n_batches": screen.n_batches(), "n_pairs": every.n_pairs},
        index=pd.Index(screen.names, name="perturbation"),
    )
    for name, values in columns.items():
        table[name] = np.nan
        table.iloc[scored, table.columns.get_loc(name)] = values
    return table


def _cosines(
    screen: ScreenRows, sets: ReplicateSets, unit: np.ndarray, max_pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines of pairs of the same and of different perturbations, and weights of the latter."""
    same = same_pairs(sets, max_pairs, rng)
    different, weights = different_pairs(same, screen.codes, screen.batches, max_pairs=max_pairs, rng=rng)
    if not len(different):
        warnings.warn(
            "batch_key: no two perturbations are in the batches of each other's replicates; KS and CvM are NaN. Batches have "
            "to hold several perturbations; guides and the like do not, aggregate rows to those first.",
            RuntimeWarning,
            stacklevel=3,
        )
    return _clipped_cosines(unit, same), _clipped_cosines(unit, different), weights


def _clipped_cosines(unit: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.clip(pair_cosines(unit, *pairs.T), -1.0, 1.0)
