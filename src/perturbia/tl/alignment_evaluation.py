"""Scores of a stored coupling against what is known of the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.errors import ModalityError, shorten
from perturbia.metrics import alignment
from perturbia.model.alignment._modalities import check_mudata, dense, obs_column, read_features, true_partners
from perturbia.model.alignment.coupling_storage import read_coupling

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from perturbia.stats.coupling import Coupling

__all__ = ["evaluate_alignment"]


def evaluate_alignment(
    mdata: MuData,
    *,
    coupling: str | Coupling = "coupling",
    pairs: str | None = None,
    use_rep: str | Mapping[str, str] | None = None,
    labels: str | None = None,
    distribution: bool = False,
    source: str | None = None,
    target: str | None = None,
) -> pd.Series:
    """Score an alignment in every way that what is known allows, within perturbations.

    Parameters
    ----------
    mdata
        Data with a stored coupling.
    coupling
        Its key; or the object that an aligner returned, whose plan is whole, for the modalities `source` and `target`.
    pairs
        Column of `obs` of both modalities that is the same for true partners, such as a barcode; for evaluation alone.
    use_rep
        Key of `obsm` of both modalities with coordinates in one space, such as true latents of a simulation; or modality →
        key. With `pairs` alone, the key of the target is enough.
    labels
        Column of `obs` of both modalities with a finer label, such as a cell type, which was not used to align.
    distribution
        Whether to compare predicted populations with real ones, too.
    source, target
        Modalities; as stored by default.

    Returns
    -------
    Series of scores, as :func:`perturbia.metrics.alignment` describes them.

    Raises
    ------
    KeyError, ModalityError
        If there is no such coupling.
    LabelError
        If `pairs` or `labels` are no columns, or pairs are not unique.
    ValueError
        If there is nothing to score against, or a coupling is of other numbers of cells.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> _ = pb.tl.align(mdata, use_rep="truth_log_ratio", method="emd")
    >>> scores = pb.tl.evaluate_alignment(mdata, pairs="pair", use_rep="truth_latent")
    >>> round(float(scores["trace_macro"]), 2)
    1.0
    """
    check_mudata(mdata, writes=False)
    names, modalities, held, groups = _read(mdata, coupling, source, target)
    first, second = modalities
    given: dict[str, Any] = {"source_groups": groups[0], "target_groups": groups[1]} if groups else {}
    if pairs is not None:
        columns = (
            obs_column(adata, pairs, modality=name, argument="pairs")
            for adata, name in zip(modalities, names, strict=True)
        )
        given["pairs"] = true_partners(*columns, key=pairs, names=names)
    if labels is not None:
        given |= {
            f"{role}_labels": obs_column(adata, labels, modality=name, argument="labels").astype(str).to_numpy()
            for role, adata, name in zip(("source", "target"), modalities, names, strict=True)
        }
    if use_rep is not None:
        reps = dict.fromkeys(names, use_rep) if isinstance(use_rep, str) else dict(use_rep)
        if not {names[1]} <= set(reps) <= set(names):
            msg = f"use_rep: expected a key of obsm for {names[1]!r}, and maybe for {names[0]!r}, got {reps!r}."
            raise ValueError(msg)
        given["x_target"] = dense(read_features(second, use_rep=reps[names[1]], layer=None, modality=names[1]))
        if names[0] in reps:
            given["x_source"] = dense(read_features(first, use_rep=reps[names[0]], layer=None, modality=names[0]))
    return alignment(held, distribution=distribution, **given)


def _read(
    mdata: MuData, coupling: str | Coupling, source: str | None, target: str | None
) -> tuple[tuple[str, str], tuple[AnnData, AnnData], Any, tuple[np.ndarray, np.ndarray] | None]:
    if isinstance(coupling, str):
        stored = read_coupling(mdata, coupling, source=source, target=target)
        names, modalities = (stored.source_name, stored.target_name), (stored.source, stored.target)
        codes = stored.codes()
        groups = (np.where(codes[0] < 0, np.nan, codes[0]), np.where(codes[1] < 0, np.nan, codes[1]))
        return names, modalities, stored.matrix, groups
    names = tuple(mdata.mod)[:2] if source is None or target is None else (source, target)
    for name in names:
        if name not in mdata.mod:
            msg = f"source, target: expected names of modalities, {shorten(mdata.mod)}, got {name!r}."
            raise ModalityError(msg)
    shape = (mdata.mod[names[0]].n_obs, mdata.mod[names[1]].n_obs)
    if tuple(coupling.shape) != shape:
        msg = (
            f"coupling: expected one of {shape[0]} {names[0]!r} and {shape[1]} {names[1]!r} cells, got "
            f"{coupling.shape[0]} and {coupling.shape[1]}. Name the modalities: source=, target=."
        )
        raise ValueError(msg)
    return names, (mdata.mod[names[0]], mdata.mod[names[1]]), coupling, None
