"""Whitening of profiles, as image-based profiling does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbia import _keys
from perturbia.errors import ControlError
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._copies import require_writable
from perturbia.perturbation._profiles import profile_matrix
from perturbia.perturbation.labels import check_control
from perturbia.pp._control_profiles import check_key, controls_to_fit, write_profiles
from perturbia.stats._settings import check_choice, check_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.stats import Whitening

__all__ = ["spherize"]

Method = Literal["ZCA", "PCA", "ZCA-cor", "PCA-cor"]
_DEFAULT_EPSILON = 1e-6  # of the mean variance


def spherize(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    method: Method = "ZCA",
    epsilon: float | None = None,
    perturbation_key: str | None = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    fit_on: str | None = None,
    key_added: str = _keys.OBSM_SPHERIZED,
    copy: bool = False,
) -> AnnData | None:
    r"""Centre profiles by the controls, and give the controls unit variance in every direction.

    .. math:: z = (y - m)\, V (\Lambda + \epsilon I)^{-1/2} \quad \text{(PCA)}, \qquad
        z = (y - m)\, V (\Lambda + \epsilon I)^{-1/2} V^\top \quad \text{(ZCA)}

    with mean :math:`m` and covariance :math:`V \Lambda V^\top` of the controls; the `-cor` forms divide features by their
    standard deviations first and decompose correlations. PCA turns to principal axes, ZCA stays as close to the features
    as whitening can. Cosines are the same under both.

    Parameters
    ----------
    adata
        Wells or cells in rows. A view and backed data are fine.
    use_rep
        Key of `obsm` with the profiles; `None` reads `X`.
    method
        ``"ZCA"``, ``"PCA"``, ``"ZCA-cor"`` or ``"PCA-cor"``.
    epsilon
        Variance added to that along every axis: a direction in which controls vary by less is not magnified beyond
        :math:`1/\sqrt{\epsilon}`. By default a millionth of the mean variance, which whitens fully. With fewer controls than features some directions
        have no variance among them, and what they are multiplied by is epsilon's choice alone: then it has to be
        given, in squared units of the features (of correlations, for ``-cor``).
    perturbation_key
        Column of `obs` with perturbation labels; `None` centres and whitens by all rows.
    control
        Label or labels of the controls.
    sep
        Text between the members of a combination.
    fit_on
        Boolean column of `obs`: the control rows to learn from, all by default. The others are aligned like any other row. Scores
        that compare with controls need such: to controls that it learnt from, alignment makes everything else look far.
    key_added
        Key to write to.
    copy
        Return a changed copy, in memory, and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are `obsm[key_added]`, float32 (n_obs, n_features), and `uns[key_added]`: the arguments,
    `n_controls`, and `epsilon` as used.

    Raises
    ------
    LabelError
        If labels are missing or can not be read.
    ControlError
        If no row is a control, or there are no more controls than features and no `epsilon`.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If a row holds NaN, a feature does not vary among controls under ``-cor``, or an option is none of the above.
    UnsupportedQuery
        If `adata` is a view of a backed file and `copy` is False.

    See Also
    --------
    typical_variation_normalization : whitening by batch that chooses how far to go.

    References
    ----------
    Kessy, A., Lewin, A. and Strimmer, K. (2018). Optimal whitening and decorrelation. The American Statistician 72. The
    names of methods and `epsilon` are those of pycytominer.

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> wells = pb.datasets.simulate_plates(n_controls=20)
    >>> pb.pp.spherize(wells)
    >>> controls = wells.obsm["X_spherized"][wells.obs["perturbation"] == "control"]
    >>> bool(np.allclose(np.cov(controls.T), np.eye(120), atol=1e-3))
    True
    """
    from perturbia.stats.whitening import fit_whitening

    check_choice("method", method, ("ZCA", "PCA", "ZCA-cor", "PCA-cor"))
    if epsilon is not None:
        check_number("epsilon", epsilon)
    check_key(key_added)
    if not copy:
        require_writable(adata)
    chosen = np.ones(adata.n_obs, dtype=bool)
    if perturbation_key is not None:
        chosen = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep).is_control
    chosen = controls_to_fit(adata, chosen, fit_on)
    values = profile_matrix(adata, use_rep=use_rep)
    if chosen.sum() < 2:
        msg = f"control: expected two control rows or more, got {chosen.sum()}. Name other controls, or perturbation_key=None."
        raise ControlError(msg)
    rows = values.astype(np.float64) - values[chosen].mean(axis=0, dtype=np.float64)
    if method.endswith("cor"):
        rows = rows / _spread(rows[chosen])
    whitening = fit_whitening(rows[chosen])
    used = _epsilon(epsilon, whitening, int(chosen.sum()))
    parameters: dict[str, Any] = {
        "use_rep": use_rep or "X",
        "perturbation_key": perturbation_key,
        "control": np.array(check_control(control), dtype=object),
        "sep": sep,
        "method": method,
        "epsilon": float(used),
        "fit_on": fit_on,
        "whitened": perturbation_key is not None,
        "n_controls": int(chosen.sum()),
    }
    white = _whiten(rows, whitening, used, as_axes=method.startswith("PCA"))
    return write_profiles(adata, white, parameters, key_added=key_added, copy=copy)


def _spread(controls: np.ndarray) -> np.ndarray:
    scale = controls.std(axis=0, ddof=1)
    constant = scale <= 1e-12 * max(float(scale.max(initial=0.0)), np.finfo(np.float64).tiny)
    if constant.any():
        msg = (
            f"method: expected features that vary among controls for correlations, got {constant.sum()} of {len(scale)} that "
            "do not. Drop these features, or use method='ZCA' with an epsilon."
        )
        raise ValueError(msg)
    return scale


def _epsilon(epsilon: float | None, whitening: Whitening, n_controls: int) -> float:
    n_features, n_axes = whitening.axes.shape
    if n_axes < n_features and not epsilon:
        msg = (
            f"epsilon: expected a number above 0, since {n_controls} controls leave {n_features - n_axes} of {n_features} "
            f"directions without variance, got {epsilon!r}. Their mean variance is {whitening.mean_variance:.3g}: pass a share "
            "of it, or use perturbia.pp.typical_variation_normalization, which chooses by itself."
        )
        raise ControlError(msg)
    return _DEFAULT_EPSILON * whitening.mean_variance if epsilon is None else epsilon


def _whiten(rows: np.ndarray, whitening: Whitening, epsilon: float, *, as_axes: bool) -> np.ndarray:
    n_features, n_axes = whitening.axes.shape
    axes = whitening.basis(n_features)
    scale = 1 / np.sqrt(np.r_[whitening.variances, np.zeros(n_features - n_axes)] + epsilon)
    coordinates = (rows @ axes) * scale
    return coordinates if as_axes else coordinates @ axes.T
