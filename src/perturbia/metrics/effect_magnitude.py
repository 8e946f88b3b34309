"""How far are the replicates of a perturbation from controls?"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia.errors import ControlError
from perturbia.metrics._screen_rows import read_screen, warn_left_out, warn_of_fitted_controls
from perturbia.stats._false_discovery import q_values
from perturbia.stats._settings import check_count, check_seed
from perturbia.stats.energy_permutation import energy_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics._screen_rows import ScreenRows


def perturbation_magnitude(
    data: Any,
    perturbation_key: Any,
    *,
    control: str | Sequence[str] | None = None,
    use_rep: str | None = None,
    batch_key: Any = None,
    sep: str = "+",
    metric: Literal["euclidean", "sqeuclidean"] = "euclidean",
    max_controls: int = 1000,
    min_replicates: int = 5,
    n_permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Energy distance of each perturbation to controls, with permutation p-values.

    .. math:: E(P, C) = 2\,\overline{d(x, y)} - \overline{d(x, x')} - \overline{d(y, y')}, \qquad
              p = \frac{1 + \#\{E_\text{permuted} \ge E\}}{1 + n_\text{permutations}}

    with x from the perturbation, y from controls and bars for means over pairs of different rows (Székely and Rizzo, 2013).

    **Range**: any number from about 0, in the units of the representation; **chance** is 0 on average without batches, as
    pairs of a row with itself are not counted. Batches that differ raise it where perturbation and controls have other
    shares of them, since it is one over all rows; p-values are uniform all the same, as rows change places within batches.
    That holds for controls like any other row without effect, which those that whitening was fitted to are not (see
    `use_rep`). **Not seen**: the direction of an effect, whether replicates agree
    in it (:func:`replicate_consistency`), and how it compares with the spread of controls. It is one of scale: standardise
    first.

    Parameters
    ----------
    data
        Profiles (wells, cells, guides): AnnData, or a DataFrame or array, (n_rows, n_features).
    perturbation_key
        Column of `obs` with the labels, or one label a row.
    control
        Label or labels of control rows. `None`: rows labelled ``control``. Rows that `obs["is_control"]` marks are controls in
        any case.
    use_rep
        Key of `obsm`; by default `X`. It must not have been made with the help of the labels, and that includes which rows
        are controls: whitening makes the controls that it is fitted to tighter than other rows without effect, so that
        p-values against these are too small (all genes of simulated screens without effects had p <= 0.05). Align with
        ``fit_on=``, a column of `obs` that marks some of the controls
        (:func:`perturbia.pp.typical_variation_normalization`, :func:`perturbia.pp.spherize`), and leave those rows out here.
    batch_key
        Column of `obs` with the batch, or one a row: rows change places within batches only, and batches without controls
        are left out. Give it whenever perturbations are not spread over batches as controls are.
    sep
        Text between the members of a combination.
    metric
        ``"euclidean"``, or ``"sqeuclidean"``, which sees differences of means only.
    max_controls
        Control rows that a perturbation is compared with at most, drawn at random for each.
    min_replicates
        Rows, in batches with controls, that a perturbation needs, at least 2.
    n_permutations
        Permutations of each perturbation.
    seed
        Seed of draws and permutations.

    Returns
    -------
    DataFrame, one row a perturbation: `energy_distance`, `p_value`, `q_value` (Benjamini and Hochberg), `n_obs` and
    `n_controls`, the rows that were compared, and `n_unmatched`, its rows in batches without controls. NaN where
    replicates are too few.

    Raises
    ------
    LabelError
        If labels or batches are missing or can not be read.
    ControlError
        If there are fewer than two control rows.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If values are missing, no perturbation has enough rows, or an option is impossible.

    Warns
    -----
    RuntimeWarning
        Perturbations with too few replicates, rows in batches without controls, and a representation whitened by these
        controls.

    Notes
    -----
    The test is :func:`perturbia.stats.energy_test`, made for each perturbation: O((n + m)² n_permutations) time for n rows
    and m controls, about 0.05 s for six rows and 1,000 controls, 0.2 s for 1,000 of both. Results do not depend on the
    order of rows.

    References
    ----------
    Székely, G. J. and Rizzo, M. L., Journal of Statistical Planning and Inference 143 (2013); Celik et al., PLoS Computational
    Biology 20 (2024).

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> genes = np.repeat(["A", "B", "control"], [8, 8, 40])
    >>> profiles = rng.normal(size=(56, 5)) + 2.0 * (genes == "A")[:, None]
    >>> table = pb.metrics.perturbation_magnitude(profiles, genes)
    >>> (table["q_value"] < 0.01).to_dict()
    {'A': True, 'B': False}
    """
    check_count("max_controls", max_controls, least=2)
    check_count("min_replicates", min_replicates, least=2)
    check_count("n_permutations", n_permutations)
    check_seed(seed)
    screen = read_screen(
        data,
        perturbation_key,
        use_rep=use_rep,
        control=control,
        batch_key=batch_key,
        sep=sep,
        least=1,
        require_control=True,
    )
    warn_of_fitted_controls(data, use_rep, screen)
    scored, used, n_unmatched = _compared(screen, min_replicates)
    labels = np.append(np.arange(len(screen.names)), -1)[screen.codes]
    test = energy_test(
        screen.values[used],
        labels[used],
        reference=-1,
        strata=screen.batches[used],
        metric=metric,
        n_permutations=n_permutations,
        max_reference=max_controls,
        seed=seed,
    )
    table = pd.DataFrame(
        np.nan, index=pd.Index(screen.names, name="perturbation"), columns=["energy_distance", "p_value"]
    )
    table.iloc[scored] = np.column_stack([test.statistic, test.p_value])
    table["q_value"] = q_values(table["p_value"].to_numpy())
    counts = np.zeros((2, len(table)), dtype=np.int64)
    counts[:, scored] = test.count, test.n_reference
    table["n_obs"], table["n_controls"], table["n_unmatched"] = *counts, n_unmatched
    return table


def _compared(screen: ScreenRows, min_replicates: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Perturbations with enough rows beside controls, the rows to compare, and rows of each without controls beside them."""
    is_control = screen.codes < 0
    if is_control.sum() < 2:
        msg = "control: expected 2 control rows or more, got 1."
        raise ControlError(msg)
    matched = np.isin(screen.batches, screen.batches[is_control])
    n_matched = np.bincount(screen.codes[matched & ~is_control], minlength=len(screen.names))
    n_unmatched = screen.n_rows - n_matched
    few = n_matched < min_replicates
    if few.all():
        msg = (
            f"perturbation_key: expected a perturbation with {min_replicates} rows or more in batches with controls, got "
            f"{n_matched.max()} at the most. Pass replicates, not their means, or a smaller min_replicates."
        )
        raise ValueError(msg)
    if n_unmatched.any():
        warnings.warn(
            f"batch_key: {n_unmatched.sum()} rows of {np.count_nonzero(n_unmatched)} perturbations are in batches without "
            "controls and are left out.",
            RuntimeWarning,
            stacklevel=3,
        )
    warn_left_out(screen.names[few], f"fewer than {min_replicates} rows in batches with controls")
    scored = np.flatnonzero(~few)
    return scored, matched & (is_control | np.isin(screen.codes, scored)), n_unmatched
