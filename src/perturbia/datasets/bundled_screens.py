"""Real perturbation screens in the package: small, checked, ready for ``setup_anndata``.

Source, licence and making of every file are in the note beside it, ``data/<name>.md``.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["datlinger", "norman", "papalexi", "tapseq"]


def papalexi() -> AnnData:
    """Knock-outs of regulators of immune checkpoints in stimulated THP-1 cells (ECCITE-seq, Papalexi 2021).

    The default screen: 15,429 cells × 299 genes (a sample of the transcriptome), 25 knock-outs and 1,720
    control cells in two replicates. IFNGR1, IFNGR2, JAK2 and STAT1 act in one pathway, interferon-γ
    signalling, and have strong, alike effects; about half of the knock-outs have no visible effect.

    Returns
    -------
    A new AnnData with

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["perturbation"]``: gene knocked out, or ``"control"`` (the first category);
    - ``obs["guide"]``: the guide with most molecules in the cell (107 guides, ``NTg*`` are non-targeting);
    - ``obs["guide_umi"]``, ``obs["guide_umi_fraction"]``: molecules of that guide, and its share of all guide
      molecules of the cell;
    - ``obs["replicate"]``: ``"rep_1"`` or ``"rep_2"``;
    - ``obsm["guide_counts"]``: cells × 110 guides, raw counts, CSR float32, columns named in
      ``uns["guide_names"]``.

    Notes
    -----
    Every cell is labelled by its most abundant guide, however small the lead of that guide: a stricter
    screen keeps cells of high ``guide_umi_fraction``. No cell is empty, and no cell was removed here.

    Source: Papalexi et al., *Nature Genetics* 53, 322–331 (2021), doi:10.1038/s41588-021-00778-2, GEO GSE153056;
    cut from the example data that the R package sceptredata publishes under the MIT licence.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.papalexi()
    >>> adata.shape
    (15429, 299)
    >>> int((adata.obs["perturbation"] == "control").sum())
    1720
    """
    return _load("papalexi")


def norman() -> AnnData:
    """Single and double gene activations in K562 cells (CRISPRa Perturb-seq, Norman 2019).

    3,375 cells × 169 genes: 100 control cells, 18 single activations and 15 doubles with 80 to 100 cells each.
    Five doubles have both of their singles: KLF1+MAP2K6, KLF1+TGFBR2, MAP2K3+MAP2K6, MAP2K3+SLC38A2 and
    MAPK1+TGFBR2. The signal is weak (HBZ, HBG2, TMSB4X): a set to work with doubles on, not to rank methods on.

    Returns
    -------
    A new AnnData with

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["perturbation"]``: ``"A"``, ``"A+B"`` with the names in alphabetical order, or ``"control"`` (the
      first category);
    - ``obs["n_targets"]``: number of genes activated, 0 to 2;
    - ``obs["library_size"]``: counts of the cell over all genes that its publisher normalised by, so that
      ``log1p(1e4 * counts / library_size)`` is the publisher's log-normalised layer;
    - ``obs["ncounts"]``, ``obs["ngenes"]``: counts and genes of the cell over the whole transcriptome;
    - ``obs["perturbation_type"]``, ``obs["cell_type"]``: the same for all cells.

    Notes
    -----
    The counts were recovered from the publisher's log-normalised values, exactly but for one factor per cell: two
    cells, not known which, may carry half of their true counts. No cell is empty, and no cell was removed here.

    Source: Norman et al., *Science* 365, 786–793 (2019), doi:10.1126/science.aax4438, GEO GSE133344; cut
    from the development subset that perturbench publishes under the BSD-3-Clause licence.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.norman()
    >>> adata.obs["n_targets"].value_counts().sort_index().tolist()
    [100, 1795, 1480]
    """
    return _load("norman")


def tapseq() -> AnnData:
    """Repression of 14 promoters and enhancers in K562 cells, read out by targeted sequencing (Schraivogel 2020).

    1,800 cells × 72 genes: 100 cells for every target and 400 control cells. On-target effects are very strong and the
    truth is sparse: most targets move one or two of the measured genes.

    Returns
    -------
    A new AnnData with

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["perturbation"]``: target (a gene, or the enhancer HS2), or ``"control"`` (the first category);
    - ``obs["guide"]``: one of 86 guides, 30 of them non-targeting;
    - ``obs["guide_umi"]``, ``obs["guide_umi_fraction"]``: molecules of that guide (at least 10), and its share of all
      guide molecules of the cell (at least 0.8);
    - ``obs["sample"]``: ``"TAP1"`` or ``"TAP2"``, the prefix of the cell's barcode.

    Notes
    -----
    The gene MTBP is zero in all cells. No cell is empty, and no cell was removed here.

    Source: Schraivogel et al., *Nature Methods* 17, 629–635 (2020), doi:10.1038/s41592-020-0837-5, GEO GSE135497;
    cut from the example data that crispat publishes under the MIT licence.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.tapseq()
    >>> adata.obs["perturbation"].nunique()
    15
    """
    return _load("tapseq")


def datlinger() -> AnnData:
    """Knock-outs of T-cell-receptor signalling in resting and stimulated Jurkat cells (scifi, Datlinger 2021).

    7,500 cells × 2,000 genes, wide and very sparse (a median of 15 genes per cell): 20 knock-outs and 200 control
    cells, crossed with stimulation of the T-cell receptor. The effect of stimulation is clear; that of most
    knock-outs drowns in noise.

    Returns
    -------
    A new AnnData with

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["perturbation"]``: gene knocked out, or ``"control"`` (the first category);
    - ``obs["stimulation"]``: ``"stimulated"`` or ``"unstimulated"``;
    - ``obs["guide"]``: one of 40 guides, or ``"control"``;
    - ``obs["well"]``: one of 367 wells of the first indexing round;
    - ``obs["ncounts"]``, ``obs["ngenes"]``: counts and genes of the cell over the whole transcriptome.

    Notes
    -----
    No cell is empty, and no cell was removed here.

    Source: Datlinger et al., *Nature Methods* 18, 635–642 (2021), doi:10.1038/s41592-021-01153-z, GEO GSE168620;
    cut from the test data of scPerturb's R package, which is published under the MIT licence.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.datlinger()
    >>> adata.obs["stimulation"].value_counts().sort_index().tolist()
    [3859, 3641]
    """
    return _load("datlinger")


def _load(name: str) -> AnnData:
    """Read a bundled screen and widen its types: on disk they are narrow, in memory arithmetic must not overflow."""
    import anndata

    with resources.as_file(resources.files("perturbia.datasets") / "data" / f"{name}.h5ad") as path:
        adata = anndata.read_h5ad(path)
    adata.X = adata.X.astype(np.float32)
    # A copy, not a reference: normalising X in place must leave the counts as they are.
    adata.layers["counts"] = adata.X.copy()
    for key in adata.obsm:
        adata.obsm[key] = adata.obsm[key].astype(np.float32)
    for column in adata.obs.select_dtypes("unsignedinteger"):
        adata.obs[column] = adata.obs[column].astype(np.int64)
    return adata
