"""Rows in units of how far the controls of their batch vary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from perturbia import _keys
from perturbia.perturbation.labels import check_control
from perturbia.pp._control_profiles import (
    Missing,
    read_control_profiles,
    write_profiles,
)
from perturbia.stats._settings import check_choice, check_count, check_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["standardize_by_controls"]


def standardize_by_controls(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    batch_key: str | None = None,
    method: Literal["standard", "robust"] = "standard",
    scale: bool = True,
    prior: float = 10.0,
    min_controls: int = 1,
    missing: Missing = "raise",
    fit_on: str | None = None,
    key_added: str = _keys.OBSM_STANDARDIZED,
    copy: bool = False,
) -> AnnData | None:
    r"""Subtract the mean of the controls of the same batch, and divide by their standard deviation.

    .. math:: y_{ij} = \frac{x_{ij} - m_{bj}}{s_{bj}}, \qquad
        s_{bj}^2 = \frac{(n_b - 1)\, v_{bj} + \nu\, \bar v_j}{n_b - 1 + \nu}

    with mean :math:`m_b` and variance :math:`v_b` of the :math:`n_b` controls of batch :math:`b`, and :math:`\bar v` the
    variance within batches over all of them. The prior :math:`\nu` steadies the scale where a plate has few controls;
    0 is the standardisation of published pipelines.

    Parameters
    ----------
    adata
        Wells or cells in rows. A view and backed data are fine.
    use_rep
        Key of `obsm` with the profiles; `None` reads `X`.
    perturbation_key
        Column of `obs` with perturbation labels.
    control
        Label or labels of the controls.
    sep
        Text between the members of a combination.
    batch_key
        Column of `obs` with the batch (plate, experiment, replicate); `None` for one batch.
    method
        ``"standard"``: mean and standard deviation. ``"robust"``: median and 1.4826 times the median absolute deviation.
    scale
        `False` centres and does not divide: for latents of a model, whose units are alike. Those that hold nothing vary next to not
        at all, and dividing would make their noise as large as any signal.
    prior
        Controls' worth of the scale that batches share.
    min_controls
        Controls that a batch needs.
    missing
        What to do with batches that have fewer: ``"raise"``, or ``"pool"``, which gives them centre and scale of all
        controls and leaves in what sets these batches apart.
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
    and `batches`, a DataFrame with the number of controls of each.

    Raises
    ------
    LabelError
        If labels or batches are missing or can not be read.
    ControlError
        If no row is a control, or a batch has too few of them.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If a row holds NaN, or an option is none of the above.
    UnsupportedQuery
        If `adata` is a view of a backed file and `copy` is False.

    Notes
    -----
    Features that do not vary among controls are centred, not scaled, with a message in the log. The result is dense.

    References
    ----------
    The step "centre-scale" of Celik, S. et al. (2024). Building, benchmarking, and exploring perturbative maps of
    transcriptional and morphological data. PLOS Computational Biology 20.

    Examples
    --------
    >>> import perturbia as pb
    >>> wells = pb.datasets.simulate_plates(n_complexes=3, n_single_genes=2, n_plates=2)
    >>> pb.pp.standardize_by_controls(wells, batch_key="plate")
    >>> controls = wells.obsm["X_standardized"][wells.obs["perturbation"] == "control"]
    >>> bool(abs(controls.mean(axis=0)).max() < 1e-5)
    True
    """
    check_choice("method", method, ("standard", "robust"))
    check_choice("missing", missing, ("raise", "pool"))
    check_number("prior", prior)
    check_count("min_controls", min_controls)
    profiles = read_control_profiles(
        adata,
        use_rep=use_rep,
        perturbation_key=perturbation_key,
        control=control,
        sep=sep,
        batch_key=batch_key,
        fit_on=fit_on,
        key_added=key_added,
        copy=copy,
    )
    least = max(min_controls, 2) if prior == 0 and scale else min_controls
    values = profiles.standardized(min_controls=least, missing=missing, scale=scale, method=method, prior=prior)
    parameters = {
        "use_rep": use_rep or "X",
        "perturbation_key": perturbation_key,
        "control": np.array(check_control(control), dtype=object),
        "sep": sep,
        "batch_key": batch_key,
        "method": method,
        "scale": scale,
        "prior": float(prior),
        "min_controls": int(min_controls),
        "missing": missing,
        "fit_on": fit_on,
        "whitened": False,
        "batches": profiles.control_table(),
    }
    return write_profiles(adata, values, parameters, key_added=key_added, copy=copy)
