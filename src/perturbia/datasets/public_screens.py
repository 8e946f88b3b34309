"""Whole public screens, fetched from where they were published and read into Perturbia's layout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from perturbia import _keys
from perturbia.datasets._file_cache import Checksum, cached_file
from perturbia.datasets._screen_files import LICENCE, NORMAN, PAPALEXI_PROTEIN, PAPALEXI_RNA, RECORD, REPLOGLE
from perturbia.datasets._screen_reading import read_counts, relabel, require_columns
from perturbia.errors import LabelError, ModalityError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from perturbia.datasets._screen_files import ScreenFile

__all__ = ["norman_2019", "papalexi_2021", "replogle_2022_k562_essential"]

logger = logging.getLogger(__name__)

NO_GUIDE = "no_reads_found"


def norman_2019(
    *,
    path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    base_url: str | None = None,
    checksum: Checksum = "pinned",
    progress: bool = True,
) -> AnnData:
    """The whole screen of single and double gene activations in K562 cells (CRISPRa Perturb-seq, Norman 2019).

    111,445 cells × 33,694 genes: 105 single activations, 131 doubles and control cells. The first call fetches 699 MB;
    later ones read the cache, after a check of the file. In memory the counts take 2.9 GB, twice. :func:`norman` is a
    small part that comes with the package.

    Parameters
    ----------
    path
        The file, if you have it: ``NormanWeissman2019_filtered.h5ad`` of scPerturb. It is read as it is; nothing is fetched
        and its checksum is not looked at.
    cache_dir
        Folder to keep the file in. None takes the environment variable ``PERTURBIA_DATA_DIR``, or else the cache folder
        of the user.
    base_url
        Server to fetch from. None takes ``PERTURBIA_DATA_URL``, or else Zenodo. A mirror has the paths of Zenodo.
    checksum
        ``"pinned"``: the file must have the MD5 that Perturbia knows. ``"record"``: the MD5 that the record states when
        the file is first fetched, which is trusted then, kept beside the file, and required of it ever after.
    progress
        Show a progress bar while fetching.

    Returns
    -------
    A new AnnData with

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["perturbation"]``: ``"A"``, ``"A+B"`` with the names in alphabetical order, or ``"control"`` (the first
      category);
    - the other columns of the file as they are, such as ``guide_id`` and ``gemgroup`` (the batch);
    - ``uns["source"]``: file, checksum, record and licence, and the DOI of the study.

    Raises
    ------
    DownloadError
        If the file can not be fetched, has another checksum, or is no h5ad file.
    LabelError, ControlError, ScaleError
        If a file is laid out in another way.

    Notes
    -----
    Read of the file are ``X`` (raw counts), ``obs["perturbation"]`` (``"A"``, ``"A_B"``, ``"control"``) and
    ``obs["guide_id"]``: what made the file labels cells without a guide (``no_reads_found``) as control; they would be
    left out here, but the pinned file is reported to have none. A fetch that breaks off is tried again, and goes on where
    it was; so does the next call.

    Source: Norman et al., *Science* 365, 786–793 (2019), doi:10.1126/science.aax4438, GEO GSE133344; harmonised by
    scPerturb (Peidli et al., *Nature Methods* 21, 531–540, 2024), doi:10.5281/zenodo.13350497, CC BY 4.0.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.norman_2019()  # doctest: +SKIP
    >>> adata.obs["perturbation"].nunique()  # doctest: +SKIP
    237
    """
    adata, source = _read(NORMAN, path, cache_dir, base_url, checksum, progress=progress)
    require_columns(adata, ("perturbation", "guide_id"), NORMAN.name)
    unassigned = adata.obs["guide_id"].astype(str).str.startswith(NO_GUIDE).to_numpy()
    if unassigned.any():
        logger.info("%s: %d cells without a guide are left out.", NORMAN.name, unassigned.sum())
        adata = adata[~unassigned].copy()
    relabel(adata, adata.obs["perturbation"], sep="_", control=("control",), name=NORMAN.name)
    adata.uns[_keys.UNS_SOURCE] = {**source, "doi": "10.1126/science.aax4438"}
    return adata


def replogle_2022_k562_essential(
    *,
    path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    base_url: str | None = None,
    checksum: Checksum = "pinned",
    progress: bool = True,
) -> AnnData:
    """Repression of common essential genes in K562 cells, six days on (CRISPRi Perturb-seq, Replogle 2022).

    310,385 cells × 8,563 genes, 10,691 control cells, 2,057 targets. The first call fetches 1.5 GB; later ones read the
    cache, after a check of the file. In memory the counts take about 9 GB, twice (3,600 genes in the mean cell).

    Parameters
    ----------
    path
        The file, if you have it: ``ReplogleWeissman2022_K562_essential.h5ad`` of scPerturb. It is read as it is; nothing
        is fetched and its checksum is not looked at.
    cache_dir, base_url, checksum, progress
        As in :func:`norman_2019`.

    Returns
    -------
    A new AnnData with

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["perturbation"]``: gene that is repressed, or ``"control"`` (the first category);
    - the other columns of the file as they are, such as ``guide_id`` (the pair of guides), ``batch`` (48 GEM groups) and
      ``percent_mito``;
    - ``uns["source"]``: file, checksum, record and licence, and the DOI of the study.

    Raises
    ------
    DownloadError
        If the file can not be fetched, has another checksum, or is no h5ad file.
    LabelError, ControlError, ScaleError
        If a file is laid out in another way.

    Notes
    -----
    Read of the file are ``X`` (raw counts; dense on disk, read in pieces) and ``obs["perturbation"]``, where control
    cells are ``"control"`` or, as in the authors' own file, ``"non-targeting"``. Both guides of a cell have one
    target, so that there are no combinations.

    Source: Replogle et al., *Cell* 185, 2559–2575.e28 (2022), doi:10.1016/j.cell.2022.05.013; harmonised by scPerturb
    (Peidli et al., *Nature Methods* 21, 531–540, 2024), doi:10.5281/zenodo.13350497, CC BY 4.0.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.replogle_2022_k562_essential()  # doctest: +SKIP
    >>> adata.shape  # doctest: +SKIP
    (310385, 8563)
    """
    adata, source = _read(REPLOGLE, path, cache_dir, base_url, checksum, progress=progress)
    require_columns(adata, ("perturbation",), REPLOGLE.name)
    relabel(adata, adata.obs["perturbation"], sep="", control=("control", "non-targeting"), name=REPLOGLE.name)
    adata.uns[_keys.UNS_SOURCE] = {**source, "doi": "10.1016/j.cell.2022.05.013"}
    return adata


def papalexi_2021(
    *,
    cache_dir: str | Path | None = None,
    base_url: str | None = None,
    checksum: Checksum = "pinned",
    progress: bool = True,
) -> MuData:
    """Transcripts and surface proteins of stimulated THP-1 cells with knock-outs (ECCITE-seq, Papalexi 2021).

    20,729 cells with all measured genes and four proteins: CD86, PDL1, PDL2 and CD366. The first call fetches 148 MB in
    two files; later ones read the cache, after a check of the files. :func:`papalexi` is a part that comes with the
    package, without proteins and with fewer cells and genes.

    Parameters
    ----------
    cache_dir, base_url, checksum, progress
        As in :func:`norman_2019`. Files that you have go into `cache_dir` under the names that scPerturb gives them.

    Returns
    -------
    A new MuData of the modalities ``"rna"`` and ``"protein"`` with the same cells in the same order, each with

    - ``X`` and ``layers["counts"]``: raw counts, CSR float32, each a copy of its own;
    - ``obs["perturbation"]``: gene knocked out, or ``"control"`` (the first category); also in `obs` of the whole;
    - the other columns of the files as they are, such as ``guide_id`` and ``hto`` (the replicate);
    - ``uns["source"]``: file, checksum, record and licence, and the DOI of the study.

    Raises
    ------
    DownloadError
        If a file can not be fetched, has another checksum, or is no h5ad file.
    LabelError, ControlError, ScaleError
        If a file is laid out in another way, or the two disagree on what a cell received.
    ModalityError
        If the files have no cell in common.

    Notes
    -----
    Read of both files are ``X`` (raw counts) and ``obs["perturbation"]``, which holds guides (``"IFNGR1g2"``) or
    ``"control"``; the number of the guide is cut off. A cell has the guide of most molecules, however small its lead.
    Cells that only one file has are left out.

    Source: Papalexi et al., *Nature Genetics* 53, 322–331 (2021), doi:10.1038/s41588-021-00778-2, GEO GSE153056;
    harmonised by scPerturb (Peidli et al., *Nature Methods* 21, 531–540, 2024), doi:10.5281/zenodo.13350497, CC BY 4.0.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.papalexi_2021()  # doctest: +SKIP
    >>> mdata["protein"].var_names.tolist()  # doctest: +SKIP
    ['CD86', 'PDL1', 'PDL2', 'CD366']
    """
    modalities = {}
    for modality, file in (("rna", PAPALEXI_RNA), ("protein", PAPALEXI_PROTEIN)):
        adata, source = _read(file, None, cache_dir, base_url, checksum, progress=progress)
        require_columns(adata, ("perturbation",), file.name)
        targets = adata.obs["perturbation"].astype("string").str.replace(r"g\d+$", "", regex=True)
        relabel(adata, targets, sep="", control=("control",), name=file.name)
        adata.uns[_keys.UNS_SOURCE] = {**source, "doi": "10.1038/s41588-021-00778-2"}
        modalities[modality] = adata
    return _paired(modalities["rna"], modalities["protein"])


def _read(
    file: ScreenFile,
    path: str | Path | None,
    cache_dir: str | Path | None,
    base_url: str | None,
    checksum: Checksum,
    *,
    progress: bool,
) -> tuple[AnnData, dict[str, str]]:
    """Counts of a file of the user or of the cache, and what is known of where they come from."""
    if path is not None:
        return read_counts(Path(path)), {"file": Path(path).name}
    where, md5 = cached_file(file, cache_dir=cache_dir, base_url=base_url, checksum=checksum, progress=progress)
    source = {"file": file.name, "md5": md5, "record": f"10.5281/zenodo.{RECORD}", "licence": LICENCE}
    return read_counts(where), source


def _paired(rna: AnnData, protein: AnnData) -> MuData:
    """Both modalities with the cells that they share, in the order of the first."""
    import mudata

    shared = rna.obs_names[rna.obs_names.isin(protein.obs_names)]
    if not len(shared):
        msg = f"cache_dir: expected {PAPALEXI_RNA.name} and {PAPALEXI_PROTEIN.name} of the same cells, got none in common."
        raise ModalityError(msg + " Remove both files and load again.")
    for name, adata in (("rna", rna), ("protein", protein)):
        if len(shared) < adata.n_obs:
            logger.info("%d cells that only %s has are left out.", adata.n_obs - len(shared), name)
    rna, protein = (adata if adata.obs_names.equals(shared) else adata[shared].copy() for adata in (rna, protein))
    differ = rna.obs["perturbation"].astype(str).to_numpy() != protein.obs["perturbation"].astype(str).to_numpy()
    if differ.any():
        msg = (
            f"cache_dir: expected one label for a cell in both files, got two for {int(differ.sum())} of {len(shared)}."
        )
        raise LabelError(msg + " Remove both files and load again.")
    with mudata.set_options(pull_on_update=False):
        out = mudata.MuData({"rna": rna, "protein": protein})
    out.obs["perturbation"] = rna.obs["perturbation"]
    return out
