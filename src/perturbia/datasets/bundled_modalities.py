"""Real cells measured in two modalities, in the package: both sides apart, and which cells are the same.

Source, licence and making of every file are in the note beside it, ``data/<name>.md``.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

__all__ = ["pbmc_citeseq", "scgem"]


def pbmc_citeseq() -> MuData:
    """Transcripts and surface proteins of blood mononuclear cells, as two modalities (CITE-seq, 10x Genomics).

    400 cells of two samples: 9,609 genes, each seen in at least 10 cells, and 14 proteins. The modalities have names of
    cells apart, so that they can be aligned as if they came from different cells; ``obs["pair"]`` tells the truth.

    Returns
    -------
    A new MuData of ``"rna"`` and ``"protein"``, whose cells are in another order. Each modality has

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["pair"]``: sample and barcode, the same in both modalities; the name of the cell is that of the modality and
      this, as in ``rna:pbmc_5k:AAACCCAAGAGACAAG-1``;
    - ``obs["batch"]``: the sample, ``"pbmc_5k"`` or ``"pbmc_10k"``, 200 cells each;
    - ``obs["cell_type"]``: one of nine types, from both modalities with equal weight.

    Notes
    -----
    Cell types were made for this package: k-means of standardised principal components of transcripts and centred
    log-ratios of proteins, scaled to the same variance; then each of 20 clusters was named by marker genes and marker
    proteins (the note beside the file has all steps and markers). Both modalities decide alike, which is what alignment
    by label asks for; noise of either still has a small say. Of CD16 monocytes (7 cells) and dendritic cells (12) there
    are few. No cell is empty, and no cell was removed here.

    Source: 10x Genomics, 5k and 10k peripheral blood mononuclear cells from healthy donors with a panel of TotalSeq-B
    antibodies (v3 chemistry); cut from the test data that scvi-tools publishes under the BSD-3-Clause licence.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.pbmc_citeseq()
    >>> mdata["rna"].shape, mdata["protein"].shape
    ((400, 9609), (400, 14))
    >>> mdata["rna"].obs["cell_type"].value_counts().head(2).to_dict()
    {'CD14 monocytes': 111, 'naive CD4 T': 86}
    """
    return _load("pbmc_citeseq")


def scgem() -> MuData:
    """Expression and DNA methylation of human fibroblasts on their way to stem cells, as two modalities (sc-GEM).

    177 cells: expression of 34 genes and methylation of 27 sites, in five types along the reprogramming. A tiny set
    that many methods of alignment were shown on. The modalities have names of cells apart; ``obs["pair"]`` tells which
    cells are the same.

    Returns
    -------
    A new MuData of ``"expression"`` and ``"methylation"``, whose cells are in another order. Each modality has

    - ``X``: dense float32, as published; expression from 0, not detected, to 25, methylation 0 or 1;
    - ``obs["pair"]``: ``"cell_001"``, …, the same in both modalities; the name of the cell is that of the modality and
      this, as in ``expression:cell_001``;
    - ``obs["cell_type"]``: ``"BJ"`` (fibroblasts), ``"d8"``, ``"d16T+"``, ``"d24T+"`` (days) and ``"iPS"``, in this order.

    Notes
    -----
    Sites of methylation have the ending ``_methylation``, because KCNQ2 and TFAP2A are measured in both modalities.
    No cell was removed here.

    Source: Cheow et al., *Nature Methods* 13, 833–836 (2016), doi:10.1038/nmeth.3961, published under the MIT licence in
    the repositories SCOT and Pamona.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.scgem()
    >>> mdata["expression"].obs["cell_type"].value_counts(sort=False).to_dict()
    {'BJ': 35, 'd8': 40, 'd16T+': 32, 'd24T+': 36, 'iPS': 34}
    """
    return _load("scgem")


def _load(name: str) -> MuData:
    """Read a bundled data set and give both modalities their own cells."""
    import anndata
    import mudata

    with resources.as_file(resources.files("perturbia.datasets") / "data" / f"{name}.h5ad") as path:
        stored = anndata.read_h5ad(path)
    first, second = stored.uns["modalities"]
    order = stored.obs.pop(f"{second}_order").to_numpy()
    obs = stored.obs.copy()
    obs.insert(0, _keys.OBS_PAIR, stored.obs_names)
    other = pd.Index(stored.uns[f"{second}_names"])
    modalities = {
        first: _modality(first, stored.X, obs, stored.var_names),
        # a method that takes the n-th cells for a pair must not look right
        second: _modality(second, stored.obsm[second][order], obs.iloc[order], other),
    }
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(modalities)


def _modality(name: str, matrix: np.ndarray, obs: pd.DataFrame, features: pd.Index) -> AnnData:
    """One modality; where `X` is sparse it holds counts, of which normalising `X` in place must leave a copy."""
    from anndata import AnnData
    from scipy import sparse

    cells = pd.Index([f"{name}:{pair}" for pair in obs[_keys.OBS_PAIR]])
    adata = AnnData(matrix.astype(np.float32), obs=obs.set_index(cells), var=pd.DataFrame(index=features))
    if sparse.issparse(adata.X):
        adata.layers["counts"] = adata.X.copy()
    return adata
