"""Turning the axes of any latent space towards sparse effects of perturbations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from perturbia.errors import FeatureMismatch, UnsupportedQuery
from perturbia.perturbation._cell_design import design_of
from perturbia.perturbation._copies import in_memory
from perturbia.perturbation._representation import read_representation
from perturbia.stats import geometric_median
from perturbia.stats import sparse_rotation as rotation_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.perturbation import Design

__all__ = ["sparse_rotation"]


def sparse_rotation(
    adata: AnnData,
    *,
    use_rep: str,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] | None = "control",
    sep: str = "+",
    cells: np.ndarray | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    r"""Turn a latent space so that perturbations move few of its axes.

    Latents of most models are identified up to a rotation at best: the likelihood does not care about their axes. If each
    perturbation moves few mechanisms, the rotation in which the matrix of mean effects has the smallest sum of absolute
    entries shows them. It needs no model, only the cells' coordinates: those of scVI, sVAE+ as published, or PCA.

    Effects are a least-squares fit of the coordinates on the dosage matrix :math:`D`, controls at the origin,

    .. math:: E = \arg\min \sum_i \lVert z_i - o - \sum_t d_{it} e_t \rVert^2, \qquad
              R = \arg\min_{R^\top R = I} \sum_{tl} |(\bar E R)_{tl}|

    with rows of :math:`\bar E` scaled to unit length. The origin :math:`o` is the mean of the control cells; without
    controls it is the geometric median of the group means, and after the rotation the median of each latent.

    Parameters
    ----------
    adata
        Annotated data with perturbation labels.
    use_rep
        Key of `obsm` with the coordinates, dense.
    perturbation_key
        Column of `obs` with the labels.
    control
        Label or labels of control cells; None for data without any, of single perturbations.
    sep
        Text between the members of a combination.
    cells
        Cells to learn the rotation from, positions or a boolean mask, such as the training cells; all by default.
    key_added
        Key to write to, by default `use_rep` with ``_rotated`` behind it.
    copy
        Return a copy in place of writing to `adata`.

    Returns
    -------
    None, or the copy. Written are `obsm[key_added]`, float32 `(n_obs, n_latent)`: all cells about the origin, turned;
    and `uns[key_added]`: `rotation`, float64 `(n_latent, n_latent)`, `origin`, float64 `(n_latent,)` in the old axes,
    `effects`, float64 `(n_perturbations, n_latent)` in the new ones, and `names` of its rows.

    Raises
    ------
    FeatureMismatch
        If the coordinates are missing, sparse, or not finite.
    LabelError, ControlError
        If labels are missing or malformed, or there are no control cells although `control` names some.
    UnsupportedQuery
        If there are combinations but no controls.

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=0, n_genes=30, n_latent=3)
    >>> turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    >>> adata.obsm["X_turned"] = adata.obsm["truth_latent"] @ turn
    >>> pb.tl.sparse_rotation(adata, use_rep="X_turned")
    >>> adata.obsm["X_turned_rotated"].shape, adata.uns["X_turned_rotated"]["effects"].shape
    ((960, 3), (6, 3))
    """
    values = _coordinates(adata, use_rep)
    design = _design(adata, perturbation_key, control, sep)
    chosen = np.arange(adata.n_obs)[slice(None) if cells is None else np.asarray(cells)]
    dosage = design.matrix[chosen].astype(np.float64)
    effects, noise, origin = _effects(values[chosen], dosage, centre=control is None)
    matrix = rotation_of(effects, noise=noise)
    effects = effects @ matrix
    if control is None:
        shift = np.median(effects, axis=0)
        effects, origin = effects - shift, origin + matrix @ shift
    out = in_memory(adata) if copy else adata
    key_added = key_added or f"{use_rep}_rotated"
    out.obsm[key_added] = ((values - origin) @ matrix).astype(np.float32)
    out.uns[key_added] = {
        "rotation": matrix,
        "origin": origin,
        "effects": effects,
        "names": np.asarray(design.names, dtype=str),
        "use_rep": use_rep,
    }
    return out if copy else None


def _coordinates(adata: AnnData, use_rep: str) -> np.ndarray:
    values = read_representation(adata, use_rep)
    if sparse.issparse(values) or use_rep == "X":
        msg = f"use_rep: expected a key of adata.obsm with dense coordinates, got {use_rep!r}. Use a latent space."
        raise FeatureMismatch(msg)
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        msg = f"use_rep: expected finite coordinates in adata.obsm[{use_rep!r}], got {(~np.isfinite(values)).sum()} that are not."
        raise FeatureMismatch(msg)
    return values


def _design(adata: AnnData, perturbation_key: str, control: str | Sequence[str] | None, sep: str) -> Design:
    design = design_of(adata, perturbation_key=perturbation_key, control=control, sep=sep)
    if control is None and (np.diff(design.matrix.indptr) > 1).any():
        msg = "control: expected the label of control cells for data with combinations, got None."
        raise UnsupportedQuery(msg)
    return design


def _effects(values: np.ndarray, dosage: sparse.csr_matrix, *, centre: bool) -> tuple[np.ndarray, float, np.ndarray]:
    """Mean effects, the length of one that is none, and the origin they are about."""
    gram = (dosage.T @ dosage).toarray()
    counts = np.asarray((dosage != 0).sum(0)).ravel()
    if centre:
        means = np.divide(
            dosage.T @ values, counts[:, None], out=np.zeros((len(gram), values.shape[1])), where=counts[:, None] > 0
        )
        origin = geometric_median(means[counts > 0])
    else:
        origin = values[np.diff(dosage.indptr) == 0].mean(0)
    # treatments without cells among the chosen ones get no effect
    effects = np.linalg.pinv(gram, hermitian=True) @ (dosage.T @ (values - origin))
    residual = values - origin - dosage @ effects
    noise = float(np.sqrt((residual**2).mean(0).sum() * np.median(1 / counts[counts > 0])))
    return effects, noise, origin
