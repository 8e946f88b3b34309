"""Several h5ad files as one screen, features left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
from anndata.experimental import AnnCollection
from scvi.dataloaders import CollectionAdapter

from perturbia.errors import FeatureMismatch, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["ScreenFiles", "open_files"]


class ScreenFiles(CollectionAdapter):
    """Backed AnnData objects, one behind the other, that registration and training take for one.

    `obs` is that of all files together, in memory; `X` and `layers` are read a minibatch at a time. What registration
    writes is kept here and never reaches the files.

    Parameters
    ----------
    collection
        The joined objects.
    """

    def __init__(self, collection: AnnCollection) -> None:
        super().__init__(collection)
        self.uns: dict[str, Any] = {}
        self.obsm: dict[str, Any] = {}
        self.obsp: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "collection":  # not there yet, while being unpickled
            raise AttributeError(name)
        return getattr(self.collection, name)

    def __repr__(self) -> str:
        n_files = len(self.collection.adatas)
        return (
            f"ScreenFiles of {n_files} files: {self.n_obs} cells × {self.n_vars} features, obs {list(self.obs.columns)}"
        )

    @property
    def X(self) -> _Rows:
        """Features, read when rows are asked for."""
        return _Rows(self.collection, None)

    @property
    def layers(self) -> dict[str, _Rows]:
        """Layers that all files have, read when rows are asked for."""
        shared = set.intersection(*(set(part.layers.keys()) for part in self.collection.adatas))
        return {key: _Rows(self.collection, key) for key in sorted(shared)}


class _Rows:
    """A matrix on disk in several pieces."""

    def __init__(self, collection: AnnCollection, layer: str | None) -> None:
        self.collection, self.layer = collection, layer
        self.shape = collection.shape

    def __getitem__(self, rows: Any) -> Any:
        view = self.collection[rows]
        return view.X if self.layer is None else view.layers[self.layer]


def open_files(files: Sequence[str | Path | ad.AnnData], *, label: str = "file") -> ScreenFiles:
    """Open several h5ad files as one screen, without reading their features.

    The result goes to `setup_anndata` and to models in place of an AnnData; training reads minibatches from the files.

    Parameters
    ----------
    files
        Paths of h5ad files, or backed AnnData objects, with the same features in the same order.
    label
        Column of `obs` that says which file a cell comes from, by the name of the file.

    Returns
    -------
    A :class:`ScreenFiles` with the columns of `obs` that all files have. Cells are named by file and name.

    Raises
    ------
    FeatureMismatch
        If files differ in their features.
    ValueError
        If there is no file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=1, n_genes=20, n_latent=2)
    >>> folder = Path(tempfile.mkdtemp())
    >>> adata[:300].copy().write_h5ad(folder / "one.h5ad")
    >>> adata[300:].copy().write_h5ad(folder / "two.h5ad")
    >>> screen = pb.pp.open_files([folder / "one.h5ad", folder / "two.h5ad"])
    >>> pb.model.SAMSVAE.setup_anndata(screen, perturbation_key="perturbation", batch_key="file")
    >>> pb.model.SAMSVAE(screen).adata.shape
    (840, 20)
    """
    if len(files) == 0:
        msg = "files: expected at least one h5ad file, got none."
        raise ValueError(msg)
    parts, names = [], []
    for i, file in enumerate(files):
        parts.append(ad.read_h5ad(file, backed="r") if isinstance(file, str | Path) else file)
        names.append(Path(file).stem if isinstance(file, str | Path) else f"{label}{i}")
    names = [f"{name}.{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    for name, part in zip(names[1:], parts[1:], strict=True):
        if not part.var_names.equals(parts[0].var_names):
            differing = set(part.var_names) ^ set(parts[0].var_names)
            what = f"without or with {shorten(sorted(differing), limit=5)}" if differing else "in another order"
            msg = f"files: expected the features of {names[0]!r} in all files, got {name!r} {what}. Align them first."
            raise FeatureMismatch(msg)
    joined = AnnCollection(
        dict(zip(names, parts, strict=True)), join_obs="inner", join_vars="inner", label=label, index_unique="-"
    )
    _keep_categories(joined.obs, parts)
    return ScreenFiles(joined)


def _keep_categories(obs: pd.DataFrame, parts: list[ad.AnnData]) -> None:
    """Categories of files may differ; joined they are text, which is made categorical again."""
    for column in obs.columns:
        was = [column in part.obs and hasattr(part.obs[column], "cat") for part in parts]
        if obs[column].dtype == object or any(was):
            obs[column] = obs[column].astype("category") if any(was) else np.asarray(obs[column])
