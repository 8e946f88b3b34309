"""The paired screens of ``perturbia.datasets`` as they are written, and the cell types of the CITE-seq cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from raw_counts import refuse_empty_cells, whole_counts

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

LEAST_CELLS = 10  # that a gene is seen in
N_VARIABLE = 1500
N_COMPONENTS = 10
N_CLUSTERS = 20

# What names a cluster: proteins and genes that its cells have more of than others, or less where a minus stands.
MARKERS = {
    "naive CD4 T": ("CD3 CD4 CD45RA -CD45RO -CD8a", "CD3D CD3E TCF7 LEF1 CCR7 -CD8B -S100A4"),
    "memory CD4 T": ("CD3 CD4 CD45RO -CD45RA -CD8a", "CD3D CD3E IL7R LTB IL32 -CD8B S100A4"),
    "naive CD8 T": ("CD3 CD8a CD45RA -CD45RO -CD4", "CD3D CD3E CD8A CD8B LEF1 CCR7 -CCL5"),
    "memory CD8 T": ("CD3 CD8a CD45RO -CD45RA -CD4", "CD3D CD3E CD8A CCL5 GZMK -LEF1 -CCR7"),
    "B": ("CD19 -CD3 -CD14", "MS4A1 CD79A CD79B HLA-DQA1"),
    "NK": ("CD56 CD16 -CD3 -CD14 -CD4", "GNLY NKG7 KLRF1 PRF1 -CD3D"),
    "CD14 monocytes": ("CD14 CD4 -CD16 -CD3", "CD14 S100A8 S100A9 LYZ"),
    "CD16 monocytes": ("CD16 CD4 -CD56 -CD3 -CD14", "FCGR3A MS4A7 LST1 CST3 -NKG7"),
    "dendritic": ("CD4 -CD14 -CD3 -CD16 -CD19", "FCER1A CLEC10A CD1C CST3 -S100A8"),
    "plasmacytoid dendritic": ("CD4 CD45RA -CD14 -CD3 -CD16", "IRF7 TCF4 PLD4 ITM2C -LYZ"),
}
# too few cells to be a type of their own
MERGED = {"plasmacytoid dendritic": "dendritic"}

SCGEM_TYPES = ["BJ", "d8", "d16T+", "d24T+", "iPS"]


def citeseq(folder: Path) -> AnnData:
    """Transcripts and proteins of both files: shared genes that enough cells have, shared proteins, and cell types."""
    import anndata

    parts = {
        f"pbmc_{size}": anndata.read_h5ad(folder / f"pbmc_{size}_citeseq_200_cells.h5ad") for size in ("5k", "10k")
    }
    first, second = parts.values()
    genes = [gene for gene in first.var_names if gene in set(second.var_names)]
    proteins = [name for name in second.uns["protein_names"] if name in set(first.uns["protein_names"])]
    rna = sp.vstack([part[:, genes].X for part in parts.values()]).tocsr()
    columns = [[list(part.uns["protein_names"]).index(name) for name in proteins] for part in parts.values()]
    protein = np.vstack([part.obsm["protein_counts"][:, c] for part, c in zip(parts.values(), columns, strict=True)])
    batch = np.repeat(list(parts), [part.n_obs for part in parts.values()])
    barcodes = np.concatenate([part.obs_names for part in parts.values()])

    is_seen = np.asarray((rna > 0).sum(0)).ravel() >= LEAST_CELLS
    rna, genes = rna[:, is_seen], np.array(genes)[is_seen]
    raw = {"rna": whole_counts(rna, "rna"), "protein": whole_counts(protein, "protein")}
    for name, counts in raw.items():
        refuse_empty_cells(counts, name)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(batch, categories=list(parts)),
            "cell_type": consensus_types(rna, genes, protein, proteins, batch),
        },
        # two barcodes are in both files
        index=[f"{name}:{barcode}" for name, barcode in zip(batch, barcodes, strict=True)],
    )
    return two_modalities(obs, rna=(raw["rna"], genes), protein=(raw["protein"], proteins))


def consensus_types(
    rna: sp.csr_matrix, genes: np.ndarray, protein: np.ndarray, proteins: list[str], batch: np.ndarray
) -> pd.Categorical:
    """Cell types from both modalities with equal weight: k-means, then the type whose markers a cluster has most of."""
    from sklearn.cluster import KMeans

    logged = rna.multiply(1e4 / rna.sum(1)).tocsr().log1p().toarray().astype(np.float64)
    ratio = np.log1p(protein.astype(np.float64))
    ratio -= ratio.mean(1, keepdims=True)
    expression = pd.DataFrame(standardised(logged, batch), columns=genes)
    surface = pd.DataFrame(standardised(ratio, batch), columns=[name.split("_")[0] for name in proteins])

    variable = expression.loc[:, most_variable(logged, genes, batch)].clip(-3, 3).to_numpy()
    left, scale, _ = np.linalg.svd(variable - variable.mean(0), full_matrices=False)
    components = left[:, :N_COMPONENTS] * scale[:N_COMPONENTS]
    # the same total variance from either modality
    joint = np.hstack([block / np.linalg.norm(block) for block in (components, surface.to_numpy())])
    cluster = KMeans(N_CLUSTERS, n_init=50, random_state=0).fit_predict(joint)

    score = pd.DataFrame(
        {
            name: marker_score(surface, on_surface, cluster) + marker_score(expression, expressed, cluster)
            for name, (on_surface, expressed) in MARKERS.items()
        }
    )
    names = score.idxmax(axis=1).replace(MERGED)
    return pd.Categorical(names.loc[cluster], categories=[name for name in MARKERS if name not in MERGED])


def marker_score(values: pd.DataFrame, markers: str, cluster: np.ndarray) -> pd.Series:
    """Mean standardised value of markers by cluster."""
    signs = {name.removeprefix("-"): -1 if name.startswith("-") else 1 for name in markers.split()}
    return (values[list(signs)] * pd.Series(signs)).groupby(cluster).mean().mean(axis=1)


def standardised(values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Columns of mean 0 in each batch and of unit variance."""
    out = values.copy()
    for name in np.unique(batch):
        out[batch == name] -= out[batch == name].mean(0)
    return out / np.maximum(out.std(0), 1e-12)


def most_variable(logged: np.ndarray, genes: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Genes whose variance within batches is highest among twentieths of like mean."""
    variance = np.mean([logged[batch == name].var(0) for name in np.unique(batch)], axis=0)
    excess = np.log(variance)
    for group in np.array_split(np.argsort(logged.mean(0)), 20):
        excess[group] -= np.median(excess[group])
    return genes[np.argsort(-excess)[:N_VARIABLE]]


def scgem(folder: Path) -> AnnData:
    """Expression and methylation of reprogrammed cells; the files agree on types, or this raises."""
    expression = np.loadtxt(folder / "expression.txt")
    methylation = np.loadtxt(folder / "methylation.txt")
    types = {
        name: np.loadtxt(folder / f"{name}.txt").astype(int)
        for name in ("expression_type", "methlation_type", "scGEM_typeExpression", "scGEM_typeMethylation")
    }
    code = types["expression_type"]
    same = [types["methlation_type"], types["scGEM_typeExpression"] - 1, types["scGEM_typeMethylation"] - 1]
    if not all(np.array_equal(code, other) for other in same):
        msg = "scgem: expected the same types in all files, got others."
        raise ValueError(msg)
    if np.abs(np.loadtxt(folder / "scGEM_expression.csv", delimiter=",") - expression).max() > 1e-9:
        msg = "scgem: expected the same expression in both repositories, got others."
        raise ValueError(msg)
    # the minus sign that a word processor left in names becomes a hyphen
    genes, sites = (
        [line.strip().replace("\N{MINUS SIGN}", "-") for line in path.read_text("utf-8").splitlines() if line.strip()]
        for path in (folder / "GeneName_experssion.txt", folder / "GeneName_methylation.txt")
    )
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical.from_codes(code, categories=SCGEM_TYPES)},
        index=[f"cell_{i + 1:03d}" for i in range(len(code))],
    )
    return two_modalities(
        obs,
        expression=(expression.astype(np.float32), genes),
        # two genes have both measurements, and names of features must differ
        methylation=(methylation.astype(np.uint8), [f"{site}_methylation" for site in sites]),
    )


def two_modalities(
    obs: pd.DataFrame, **modalities: tuple[np.ndarray | sp.csr_matrix, list[str] | np.ndarray]
) -> AnnData:
    """Both modalities in one object: the first in `X`, the second in `obsm`, and a random order for cells of the second."""
    from anndata import AnnData

    (first, (matrix, features)), (second, (other, names)) = modalities.items()
    order = np.random.default_rng(0).permutation(len(obs)).astype(np.uint16)
    out = AnnData(matrix, obs=obs.assign(**{f"{second}_order": order}), var=pd.DataFrame(index=list(features)))
    out.obsm[second] = other
    out.uns["modalities"] = np.array([first, second])
    out.uns[f"{second}_names"] = np.array(names, dtype=str)
    return out
