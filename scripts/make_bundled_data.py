"""Make the h5ad files of ``perturbia.datasets`` from the extracts that they were cut from.

Usage: python scripts/make_bundled_data.py SOURCE [--out src/perturbia/datasets/data]

SOURCE holds one folder per data set with an extract of the publisher's repository (which repository, and what the
extract took from it, is in the note beside every file). This step changes no count: it checks the
counts, writes labels in canonical form, narrows the types on disk and leaves out what can be computed again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from paired_extracts import citeseq, scgem
from raw_counts import refuse_empty_cells, whole_counts

if TYPE_CHECKING:
    from anndata import AnnData

EXTRACTS = {
    "papalexi": "perturbseq_papalexi21/papalexi21_rep12.h5ad",
    "norman": "perturbseq_norman19/norman19_devel_subset.h5ad",
    "tapseq": "perturbseq_tapseq20/tapseq20_small.h5ad",
    "datlinger": "perturbseq_datlinger21/datlinger21_scifi_subset.h5ad",
}
PAIRED = {"pbmc_citeseq": (citeseq, "citeseq_10x_pbmc"), "scgem": (scgem, "paired_scgem")}
LEFT_OUT = {"norman": ["dataset", "count_recovery_error"], "datlinger": ["percent_mito"]}


def canonical(label: str) -> str:
    """The label with the names of a combination in alphabetical order."""
    return "+".join(sorted(label.split("+")))


def control_first(labels: pd.Series) -> pd.Series:
    """Labels as a category whose first level is the control."""
    labels = labels.astype(str).map(canonical)
    levels = sorted(set(labels) - {"control"})
    return labels.astype(pd.CategoricalDtype(["control", *levels]))


def narrow(column: pd.Series) -> pd.Series:
    """Whole numbers in the smallest unsigned type, other numbers as float32, text as categories in use."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories()
    values = column.to_numpy()
    if np.array_equal(values, np.round(values)):
        return column.astype(np.min_scalar_type(int(values.max())))
    return column.astype(np.float32)


def library_size(adata: AnnData) -> np.ndarray:
    """The library size that turned the counts into ``layers["lognorm"] = log1p(1e4 * count / size)``."""
    counts, lognorm = sp.csr_matrix(adata.X), sp.csr_matrix(adata.layers["lognorm"])
    counts.sort_indices()
    lognorm.sort_indices()
    sizes = counts.data * 1e4 / np.expm1(lognorm.data.astype(np.float64))
    cell = np.repeat(np.arange(adata.n_obs), np.diff(counts.indptr))
    found = np.round(pd.Series(sizes).groupby(cell).median().to_numpy())
    if np.abs(np.log1p(counts.data * 1e4 / found[cell]) - lognorm.data).max() > 1e-6:
        msg = "norman: the log-normalised layer does not follow from the counts and one size per cell."
        raise ValueError(msg)
    return found.astype(np.uint32)


def compact(adata: AnnData, name: str) -> AnnData:
    """The screen as it is written: raw counts in ``X``, canonical labels, narrow types."""
    from anndata import AnnData

    obs = adata.obs.drop(columns=LEFT_OUT.get(name, []))
    obs = obs.assign(perturbation=control_first(obs["perturbation"]))
    if name == "norman":
        obs["library_size"] = library_size(adata)
    if name == "tapseq":
        obs["sample"] = pd.Categorical(adata.obs_names.str.split("-").str[0])
    out = AnnData(
        X=whole_counts(adata.X, name),
        obs=obs.apply(narrow),
        var=pd.DataFrame(index=adata.var_names),
    )
    refuse_empty_cells(out.X, name)
    if "guide_counts" in adata.obsm:
        out.obsm["guide_counts"] = whole_counts(adata.obsm["guide_counts"], f"{name} guides")
        out.uns["guide_names"] = np.asarray(adata.uns["guide_names"], dtype=str)
    return out


def write(adata: AnnData, path: Path) -> None:
    """Write with the byte shuffle before gzip, which halves the size of sorted column indices."""
    import h5py
    from anndata.io import write_elem

    with h5py.File(path, "w") as file:
        write_elem(file, "/", adata, dataset_kwargs={"compression": "gzip", "compression_opts": 9, "shuffle": True})


def main() -> None:
    """Write one h5ad per data set."""
    import anndata

    parser = argparse.ArgumentParser(description="Make the bundled data sets.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "src/perturbia/datasets/data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, extract in EXTRACTS.items():
        write(compact(anndata.read_h5ad(options.source / extract), name), options.out / f"{name}.h5ad")
    for name, (make, folder) in PAIRED.items():
        write(make(options.source / folder), options.out / f"{name}.h5ad")


if __name__ == "__main__":
    main()
