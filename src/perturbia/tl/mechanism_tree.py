"""What every perturbation does to the latents of a model, and which perturbations do alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import UnknownPerturbation
from perturbia.model.base._result import stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

__all__ = ["clade_of", "mechanisms"]


class HasMechanisms(Protocol):
    """A model that says which latents every perturbation moves, and how far."""

    def get_treatment_masks(self) -> pd.DataFrame:
        """Probabilities, perturbations × latents."""

    def get_treatment_embeddings(self, *, masked: bool = True) -> pd.DataFrame:
        """Shifts, perturbations × latents."""


def mechanisms(
    model: HasMechanisms,
    *,
    linkage: Literal["average", "complete", "single", "ward"] = "average",
    metric: str = "euclidean",
) -> AnnData:
    """Shifts of all perturbations as AnnData, with the tree of their likeness.

    Parameters
    ----------
    model
        A trained model with masks and embeddings, such as :class:`~perturbia.model.SAMSVAE`.
    linkage
        How the distance between groups follows from that between perturbations.
    metric
        Distance between the shifts of two perturbations, as :func:`scipy.spatial.distance.pdist` names it.

    Returns
    -------
    AnnData `(n_perturbations, n_latent)`, float32: `X` expected shifts in units of the basal standard deviation,
    `layers["mask"]` probabilities that a latent is moved, `obs["order"]` positions of the rows in the tree,
    `obs["n_moved"]` latents moved with probability above one half, and, with three perturbations or more,
    `uns["linkage"]`, the tree as SciPy writes it, float64 `(n_perturbations - 1, 4)`.

    Raises
    ------
    NotTrainedError
        Before training.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> pb.tl.mechanisms(model).uns["linkage"].shape
    (3, 4)
    """
    from anndata import AnnData
    from scipy.cluster import hierarchy

    shifts = model.get_treatment_embeddings(masked=True)
    masks = model.get_treatment_masks().loc[shifts.index, shifts.columns]
    obs = pd.DataFrame(
        {_keys.OBS_PERTURBATION: shifts.index.astype(str), "n_moved": (masks > 0.5).sum(axis=1).to_numpy()},
        index=shifts.index.astype(str),
    )
    out = AnnData(shifts.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=shifts.columns.astype(str)))
    out.layers["mask"] = masks.to_numpy(np.float32)
    order = np.arange(out.n_obs)
    if out.n_obs > 2:
        tree = hierarchy.linkage(out.X.astype(np.float64), method=linkage, metric=metric, optimal_ordering=True)
        order = np.argsort(hierarchy.leaves_list(tree))
        out.uns["linkage"] = tree
    out.obs["order"] = order
    ur_id = str(getattr(model, "ur_id", "unknown"))
    return stamp(out, kind="effect", ur_id=ur_id, model=type(model).__name__, scale="embedding")


def linkage_of(tree: AnnData) -> np.ndarray | None:
    """Tree of :func:`mechanisms` as SciPy writes it, None where there is none; it counts rows, which must all be there.

    Parameters
    ----------
    tree
        Result of :func:`mechanisms`.

    Returns
    -------
    The linkage, float64 `(n_perturbations - 1, 4)`.

    Raises
    ------
    ValueError
        If rows of `tree` were left out or moved.
    """
    from scipy.cluster import hierarchy

    if "linkage" not in tree.uns:
        return None
    linkage = np.asarray(tree.uns["linkage"], dtype=np.float64)
    whole = len(linkage) + 1 == tree.n_obs
    if whole and "order" in tree.obs:
        whole = np.array_equal(np.argsort(hierarchy.leaves_list(linkage)), tree.obs["order"])
    if not whole:
        msg = (
            f"tree: expected the {len(linkage) + 1} rows of tl.mechanisms in their order, got {tree.n_obs} rows, some left "
            "out or moved. Pass the whole result, or delete uns['linkage']."
        )
        raise ValueError(msg)
    return linkage


def clade_of(tree: AnnData, members: Iterable[str]) -> list[str]:
    """Smallest branch of the tree that holds all `members`.

    Parameters
    ----------
    tree
        Result of :func:`mechanisms`.
    members
        Two perturbations or more.

    Returns
    -------
    Names of all perturbations of that branch, in the order of `tree`: the members alone if they form one group.

    Raises
    ------
    UnknownPerturbation
        If a member is not in the tree.
    ValueError
        If there are no members, or rows of `tree` were left out or moved.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, perturbia as pb
    >>> tree = ad.AnnData(np.zeros((3, 1)), obs=pd.DataFrame(index=["A", "B", "C"]))
    >>> tree.uns["linkage"] = np.array([[0, 1, 0.1, 2], [2, 3, 1.0, 3]])
    >>> pb.tl.clade_of(tree, ["A", "B"])
    ['A', 'B']
    """
    names = list(tree.obs_names)
    wanted = set(members)
    if not wanted:
        msg = "members: expected names of perturbations, got none."
        raise ValueError(msg)
    linkage = linkage_of(tree)
    unknown = sorted(wanted - set(names))
    if unknown:
        raise UnknownPerturbation.among(unknown, names, argument="members")
    branches = [{i} for i in range(len(names))]
    positions = {names.index(name) for name in wanted}
    for first, second, *_ in np.zeros((0, 4)) if linkage is None else linkage:
        branches.append(branches[int(first)] | branches[int(second)])
        if positions <= branches[-1]:
            break
    smallest = min((branch for branch in branches if positions <= branch), key=len, default=set(range(len(names))))
    return [names[i] for i in sorted(smallest)]
