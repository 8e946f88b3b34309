"""What every perturbation does to the latents of a model, and which perturbations do alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import UnknownPerturbation
from perturbia.model.base._result import stamp
from perturbia.tl.gene_set_testing import latent_enrichment
from perturbia.tl.loading_estimates import latent_loadings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData

__all__ = ["clade_of", "mechanisms"]


class HasMechanisms(Protocol):
    """A model that says how far every perturbation moves every latent."""

    def get_treatment_embeddings(self, *, masked: bool = True) -> pd.DataFrame:
        """Shifts, perturbations × latents."""


def mechanisms(
    model: HasMechanisms,
    *,
    linkage: Literal["average", "complete", "single", "ward"] = "average",
    metric: str = "euclidean",
    loadings: bool = False,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
    min_genes: int = 5,
    n_cells: int = 300,
    seed: int = 0,
) -> AnnData:
    """Shifts of all perturbations as AnnData, with the tree of their likeness, and the genes behind each latent.

    Parameters
    ----------
    model
        A trained model with embeddings: :class:`~perturbia.model.SAMSVAE` and :class:`~perturbia.model.SVAE`, or
        :class:`~perturbia.model.CPAVAE`, in which every perturbation moves every latent.
    linkage
        How the distance between groups follows from that between perturbations.
    metric
        Distance between the shifts of two perturbations, as :func:`scipy.spatial.distance.pdist` names it.
    loadings
        Decode how far each latent moves each gene, as :func:`latent_loadings` does, within seconds.
    gene_sets
        Names of genes by the name of their set, to be tested against the loadings as :func:`latent_enrichment` does;
        computes the loadings as well.
    min_genes
        Sets with fewer known genes are left out with a warning.
    n_cells
        Control cells that loadings are averaged over.
    seed
        Seed of their choice.

    Returns
    -------
    AnnData `(n_perturbations, n_latent)`, float32: `X` expected shifts in units of the basal standard deviation,
    `layers["mask"]` probabilities that a latent is moved, `obs["order"]` positions of the rows in the tree,
    `obs["n_moved"]` latents moved with probability above one half, and, with three perturbations or more,
    `uns["linkage"]`, the tree as SciPy writes it, float64 `(n_perturbations - 1, 4)`.

    With `loadings`, `varm["loadings"]`, float32 `(n_latent, n_features)`, changes per basal standard deviation in units
    of log1p CP10K (registered units where features are no counts), `uns["features"]`, the names of their columns, and
    `var["rms_loading"]`, their root mean square: how much a latent moves at all. An array, because files of thousands of
    named columns in `varm` are slow, or refused by HDF5. With `gene_sets`, `uns["enrichment"]`, the data frame of
    :func:`latent_enrichment`.

    Raises
    ------
    TypeError
        If `model` has no embeddings, cannot decode latents (with `loadings`), or `gene_sets` is no mapping of sequences.
    ValueError
        If no gene set has enough known genes.
    NotTrainedError
        Before training.

    Examples
    --------
    >>> import pandas as pd, perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> pb.tl.mechanisms(model).uns["linkage"].shape
    (3, 4)
    >>> tree = pb.tl.mechanisms(model, gene_sets={"first ten": list(adata.var_names[:10])})
    >>> pd.DataFrame(tree.varm["loadings"], tree.var_names, tree.uns["features"]).shape
    (5, 30)
    >>> tree.uns["enrichment"].columns.tolist()
    ['latent', 'gene_set', 'n_genes', 'statistic', 'pvalue', 'padj']
    """
    from anndata import AnnData
    from scipy.cluster import hierarchy

    if not hasattr(model, "get_treatment_embeddings"):
        msg = (
            f"model: expected a model with embeddings of perturbations, such as SAMSVAE, got {type(model).__name__}. "
            "tl.latent_loadings reads any model that decodes latents."
        )
        raise TypeError(msg)
    shifts = model.get_treatment_embeddings(masked=True)
    masks = _masks_of(model, shifts)
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
    if loadings or gene_sets is not None:
        _add_genes(out, latent_loadings(model, n_cells=n_cells, seed=seed), gene_sets, min_genes)
    ur_id = str(getattr(model, "ur_id", "unknown"))
    return stamp(out, kind="effect", ur_id=ur_id, model=type(model).__name__, scale="embedding")


def _masks_of(model: HasMechanisms, shifts: pd.DataFrame) -> pd.DataFrame:
    """Probabilities that latents are moved, by whatever name the model gives them; 1 in models without masks."""
    own: Any = getattr(model, "get_treatment_masks", None) or getattr(model, "get_intervention_targets", None)
    if own is None:
        return pd.DataFrame(1.0, index=shifts.index, columns=shifts.columns)
    return own().loc[shifts.index, shifts.columns]


def _add_genes(
    tree: AnnData, loadings: pd.DataFrame, gene_sets: Mapping[str, Sequence[str]] | None, min_genes: int
) -> None:
    if gene_sets is not None:
        tree.uns[_keys.UNS_ENRICHMENT] = latent_enrichment(loadings, gene_sets, min_genes=min_genes)
    values = loadings.loc[tree.var_names].to_numpy()
    tree.varm[_keys.VARM_LOADINGS] = values
    tree.uns[_keys.UNS_FEATURES] = loadings.columns.to_numpy(dtype=object)
    tree.var["rms_loading"] = np.sqrt(np.square(values, dtype=np.float64).mean(axis=1)).astype(np.float32)


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
