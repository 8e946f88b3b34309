"""Which cells responded to their perturbation, and which escaped it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys
from perturbia.errors import ControlError, LabelError, ScaleError
from perturbia.model.base._features import check_features
from perturbia.perturbation import dosage_labels, unique_dosages
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._copies import in_memory
from perturbia.perturbation._row_order import rank_by_name
from perturbia.stats import log1p_cp10k, shifted_mixture
from perturbia.stats._settings import check_positive_integer, check_seed
from perturbia.tl._responder_scores import FDR, cross_fitted_scores, signature_test
from perturbia.tl._signatures import Signatures, control_neighbours, folds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["responders"]

logger = logging.getLogger(__name__)


def responders(
    adata: AnnData,
    *,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] = "control",
    sep: str = "+",
    layer: str | None = None,
    use_rep: str | None = None,
    batch_key: str | None = None,
    n_neighbors: int = 20,
    n_comps: int = 20,
    min_de: int = 5,
    min_cells: int = 10,
    n_folds: int = 5,
    max_iter: int = 10,
    threshold: float = 0.5,
    seed: int = 0,
    n_jobs: int | None = None,
    key_added: str = _keys.OBS_RESPONDER,
    copy: bool = False,
) -> AnnData | None:
    r"""Call the cells that responded to their perturbation, in the manner of Mixscape.

    The signature of a cell is its log1p(CP10K) minus the mean of its nearest control cells of the batch. Along the mean
    signature of a perturbation, over the genes that differ, its cells are a mixture of the distribution of controls and
    one Gaussian; the direction is taken anew from those called until the calls stay.

    Three things keep the call honest where Mixscape is not. Directions and genes are learnt from other folds of cells
    than those they score (`n_folds`), because the projection of noise on its own mean is always shifted. The control
    distribution may have tails (it is a Gaussian mixture chosen by BIC). And a shifted component is accepted where it is
    clearly better than none by BIC, because the share of one that lies on top of the controls is arbitrary.

    Parameters
    ----------
    adata
        Annotated data with raw counts and perturbation labels.
    perturbation_key
        Column of `obs` with the labels; each combination and dose is a group of its own.
    control
        Label or labels of control cells.
    sep
        Text between the members of a combination.
    layer
        Layer with the counts, ``None`` for `X`.
    use_rep
        Key of `obsm` in which neighbours are found; by default `n_comps` principal components of the control cells, in
        which cells differ by what perturbations did not do.
    batch_key
        Column of `obs` with the batch; neighbours are found within.
    n_neighbors
        Control cells that a cell is compared with.
    n_comps
        Components to find neighbours in, without `use_rep`.
    min_de
        Perturbations with fewer genes at FDR .05 have no responders.
    min_cells
        Perturbations with fewer cells have no responders.
    n_folds
        Folds of the cross-fit. 1 scores cells along a direction they have chosen themselves, as published.
    max_iter
        Most rounds of choosing responders and taking the direction anew.
    threshold
        Least probability of a responder.
    seed
        Seed of the folds, which are drawn by the names of cells: their order does not matter.
    n_jobs
        Threads of the search for neighbours.
    key_added
        Column of `obs`, and key of `uns`, to write.
    copy
        Return a changed copy, in memory where `adata` is backed by a file, and leave `adata` as it is.

    Returns
    -------
    Nothing, or the copy. Writes

    - `obs[key_added]`: ``"control"``, ``"responder"`` or ``"non-responder"``;
    - `obs[key_added + "_probability"]`: probability of a response, float64, 0 for controls;
    - `uns[key_added]["table"]`: a data frame over perturbations: `n_cells`, `n_de` genes at FDR .05, `n_responders`,
      their `share`, the `weight`, `mean` and `sd` of the shifted component in standard deviations of the controls (NaN
      where nothing was fitted), its `evidence` over one distribution of these cells and the controls (log Bayes factor
      by BIC), the `expected_error`, the share of cells that the calls get wrong if the mixture is right, and the
      `outcome`: ``"fitted"``, ``"no shift"``, ``"few genes"`` or ``"few cells"``; beside it the arguments.

    Raises
    ------
    LabelError, ControlError
        If labels, batches or controls are missing, or a batch has too few controls.
    ScaleError
        If the features are not counts.
    KeyError
        If `layer` or `use_rep` does not exist.
    ValueError
        If a number is out of range.

    References
    ----------
    Papalexi, E. et al. (2021). Characterizing the molecular regulation of inhibitory immune checkpoints with multimodal
    single-cell screens. Nature Genetics 53, 322-331.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.papalexi()
    >>> adata = adata[adata.obs["perturbation"].isin(["control", "STAT1", "CD86"])].copy()
    >>> pb.tl.responders(adata, layer="counts", batch_key="replicate")
    >>> bool(adata.uns["pb_responder"]["table"].loc["STAT1", "share"] > 0.5)
    True
    """
    numbers = {"n_neighbors": n_neighbors, "n_comps": n_comps, "n_folds": n_folds, "max_iter": max_iter}
    for name, number in numbers.items():
        check_positive_integer(name, number)
    check_seed(seed)
    if min_de < 0 or min_cells < 3:
        msg = f"min_de, min_cells: expected at least 0 genes and 3 cells, got {min_de} and {min_cells}."
        raise ValueError(msg)
    if not 0 < threshold < 1:
        msg = f"threshold: expected a probability strictly between 0 and 1, got {threshold!r}."
        raise ValueError(msg)
    if key_added == perturbation_key:
        msg = f"key_added: expected another column than perturbation_key, got {key_added!r} for both. Rename it."
        raise LabelError(msg)
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    batch = _batches(adata, batch_key)
    check_features(adata, layer, "counts")
    # in the order of names throughout: where cells stand in the data decides neither folds nor ties
    order = np.argsort(rank_by_name(adata.obs_names))
    is_control, batch = design.is_control[order], batch[order]
    controls = np.flatnonzero(is_control)
    if len(controls) < max(3, n_folds, n_neighbors + 1):
        msg = f"control: expected more than {n_neighbors} control cells, got {len(controls)}. Ask for fewer neighbours."
        raise ControlError(msg)
    logs = sparse.csr_matrix(log1p_cp10k((adata.X if layer is None else adata.layers[layer])[:]))[order]
    coordinates = _coordinates(adata, order, logs, controls, use_rep=use_rep, n_comps=n_comps)
    neighbours = control_neighbours(coordinates, is_control, batch, n_neighbors=n_neighbors, n_jobs=n_jobs)
    signatures = Signatures(logs, neighbours, controls)
    unique, codes = unique_dosages(design.matrix[order])
    labels = dosage_labels(unique, design.names).astype(str)
    rng = np.random.default_rng(seed)
    control_folds = folds_of(len(controls), n_folds, rng)
    variance = signatures.control_variance()
    probability, rows = np.zeros(adata.n_obs), {}
    for i in np.flatnonzero(np.diff(unique.indptr) > 0):
        cells = np.flatnonzero(codes == i)
        probability[cells], rows[labels[i]] = _call(
            signatures,
            cells,
            variance,
            rng,
            control_folds,
            min_de=min_de,
            min_cells=min_cells,
            n_folds=n_folds,
            max_iter=max_iter,
        )
        responds = probability[cells] >= threshold
        rows[labels[i]]["n_responders"] = int(responds.sum())
        if rows[labels[i]]["weight"] > 0:
            rows[labels[i]]["expected_error"] = float(np.abs(responds - probability[cells]).mean())
    arguments = numbers | {"min_de": min_de, "min_cells": min_cells, "threshold": threshold, "seed": seed}
    probability = probability[np.argsort(order)]
    return _write(adata, design.is_control, probability, rows, threshold, key_added, arguments, copy=copy)


def _call(
    signatures: Signatures,
    cells: np.ndarray,
    variance: np.ndarray,
    rng: np.random.Generator,
    control_folds: np.ndarray,
    *,
    min_de: int,
    min_cells: int,
    n_folds: int,
    max_iter: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Probabilities of a response of the cells of one perturbation, and its row of the table."""
    row: dict[str, Any] = {"n_cells": len(cells), "n_de": 0, "weight": 0.0}
    row |= dict.fromkeys(("mean", "sd", "evidence", "expected_error"), np.nan)
    nobody = np.zeros(len(cells))
    if len(cells) < max(min_cells, n_folds):
        return nobody, row | {"outcome": "few cells"}
    own, near = signatures.of(cells), signatures.neighbours[cells]
    folds = folds_of(len(cells), n_folds, rng)
    t, fdr = signature_test(own, near, variance)
    row["n_de"] = int((fdr < FDR).sum())
    if row["n_de"] < min_de:
        return nobody, row | {"outcome": "few genes"}
    # every fold takes its genes among the few hundred that stand out at all, so that controls fit in memory
    genes = np.sort(np.argsort(-np.abs(t), kind="stable")[: max(200, 2 * row["n_de"])])
    scores, reference = cross_fitted_scores(
        own[:, genes],
        near,
        signatures.of(signatures.controls, genes),
        folds=folds,
        control_folds=control_folds,
        min_de=min_de,
        max_iter=max_iter,
    )
    fit = shifted_mixture(scores, reference)
    row |= {"weight": fit.weight, "mean": fit.mean, "sd": fit.sd, "evidence": fit.evidence}
    return fit.probability, row | {"outcome": "fitted" if fit.weight else "no shift"}


def _batches(adata: AnnData, batch_key: str | None) -> np.ndarray:
    if batch_key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    if batch_key not in adata.obs or adata.obs[batch_key].isna().any():
        msg = f"batch_key: expected a complete column of adata.obs, got {batch_key!r}; columns are {list(adata.obs)[:10]}."
        raise LabelError(msg)
    return pd.factorize(adata.obs[batch_key].astype(str))[0]


def _coordinates(
    adata: AnnData,
    order: np.ndarray,
    logs: sparse.csr_matrix,
    controls: np.ndarray,
    *,
    use_rep: str | None,
    n_comps: int,
) -> np.ndarray:
    """Where neighbours are found, `(n_cells, n_dimensions)`."""
    if use_rep is not None:
        if use_rep not in adata.obsm:
            msg = f"use_rep: expected one of {sorted(adata.obsm)}, got {use_rep!r}."
            raise KeyError(msg)
        coordinates = np.asarray(adata.obsm[use_rep])
        if coordinates.dtype.kind not in "fiu" or not np.isfinite(coordinates).all():
            msg = f"use_rep: expected finite numbers in obsm[{use_rep!r}], got NaN, infinity or other types."
            raise ScaleError(msg)
        return coordinates[order]
    from sklearn.decomposition import PCA

    pool = logs[controls]
    pca = PCA(min(n_comps, min(pool.shape) - 1), svd_solver="arpack", random_state=0).fit(pool)
    return np.asarray(logs @ pca.components_.T, dtype=np.float64)


def _write(
    adata: AnnData,
    is_control: np.ndarray,
    probability: np.ndarray,
    rows: dict[str, dict[str, Any]],
    threshold: float,
    key: str,
    arguments: dict[str, Any],
    *,
    copy: bool,
) -> AnnData | None:
    table = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    table["share"] = table["n_responders"] / table["n_cells"]
    columns = [
        "n_cells",
        "n_de",
        "n_responders",
        "share",
        "weight",
        "mean",
        "sd",
        "evidence",
        "expected_error",
        "outcome",
    ]
    code = np.where(is_control, 0, np.where(probability >= threshold, 1, 2))
    out = in_memory(adata) if copy else adata
    out.obs[key] = pd.Categorical.from_codes(code, categories=list(_keys.RESPONDER_VALUES))
    out.obs[f"{key}{_keys.SUFFIX_PROBABILITY}"] = probability
    out.uns[key] = {"table": table[columns], **arguments}
    n = np.bincount(code, minlength=3)
    logger.info("%s: %d responders, %d non-responders, %d controls.", key, n[1], n[2], n[0])
    return out if copy else None
