"""Which of the user's gene sets move along which latent."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import shorten
from perturbia.stats import set_enrichment
from perturbia.stats._false_discovery import q_values
from perturbia.stats._settings import check_positive_integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["latent_enrichment"]


def latent_enrichment(
    loadings: pd.DataFrame, gene_sets: Mapping[str, Sequence[str]], *, min_genes: int = 5
) -> pd.DataFrame:
    """Test whether the genes of a set load higher, or lower, on a latent than all other genes.

    A two-sided rank-sum test without any threshold on loadings, for every latent and set, adjusted by
    Benjamini-Hochberg over all of them.

    Parameters
    ----------
    loadings
        Latents × genes, as :func:`latent_loadings` returns them.
    gene_sets
        Names of genes by the name of their set. A gene counts once in a set; genes that are no columns of `loadings`
        are left out, as they were not measured.
    min_genes
        Sets with fewer known genes, or fewer genes outside of them, are left out with a warning.

    Returns
    -------
    Data frame, a row for each latent and set, smallest p-value first: `latent`, `gene_set`, `n_genes` of the set that
    are known, `statistic`, the rank-biserial correlation (1: every gene of the set loads higher than every other, 0: as
    often higher as lower, -1: always lower), `pvalue` and `padj`.

    Raises
    ------
    TypeError
        If `gene_sets` is no mapping of sequences, or `loadings` no data frame.
    ValueError
        If there are no sets, none has enough known genes, or loadings are not finite.

    Warns
    -----
    UserWarning
        If sets are left out.

    Notes
    -----
    Genes take the place of samples, and genes of one programme move together also by what the test does not ask for:
    p-values order latents and sets, and are too small as probabilities. A latent that moves no gene to speak of can
    still order them: look at the size of its loadings first.

    Examples
    --------
    >>> import numpy as np, pandas as pd, perturbia as pb
    >>> genes = [f"G{i}" for i in range(40)]
    >>> loadings = pd.DataFrame([np.r_[np.ones(8), np.zeros(32)] + np.arange(40) / 100], index=["z0"], columns=genes)
    >>> table = pb.tl.latent_enrichment(loadings, {"up": genes[:8], "spread": genes[::5]})
    >>> table[["latent", "gene_set", "n_genes", "statistic"]].round(2).values.tolist()
    [['z0', 'up', 8, 1.0], ['z0', 'spread', 8, 0.0]]
    """
    if not isinstance(loadings, pd.DataFrame):
        msg = (
            f"loadings: expected a data frame, latents × genes, got {type(loadings).__name__}. "
            "Make one with perturbia.tl.latent_loadings."
        )
        raise TypeError(msg)
    if not np.isfinite(loadings.to_numpy(np.float64)).all():
        msg = "loadings: expected finite numbers, got NaN or infinity. Drop these genes or latents."
        raise ValueError(msg)
    members = _known_members(gene_sets, loadings.columns, min_genes=min_genes)
    test = set_enrichment(loadings.to_numpy(), members.to_numpy())
    n_latents, n_sets = test.p_value.shape
    table = pd.DataFrame(
        {
            "latent": np.repeat(loadings.index.astype(str), n_sets),
            "gene_set": np.tile(members.index, n_latents),
            "n_genes": np.tile(members.sum(axis=1).to_numpy(np.int64), n_latents),
            "statistic": test.statistic.ravel(),
            "pvalue": test.p_value.ravel(),
        }
    )
    table["padj"] = q_values(table["pvalue"].to_numpy())
    return table.sort_values("pvalue", kind="stable", ignore_index=True)


def _known_members(gene_sets: Mapping[str, Sequence[str]], features: Iterable[str], *, min_genes: int) -> pd.DataFrame:
    """Which features each set has, boolean, sets × features, for the sets with enough of them."""
    check_positive_integer("min_genes", min_genes)
    if not isinstance(gene_sets, Mapping) or not gene_sets:
        error = ValueError if isinstance(gene_sets, Mapping) else TypeError
        got = "none" if isinstance(gene_sets, Mapping) else type(gene_sets).__name__
        msg = (
            f"gene_sets: expected a mapping of names to genes, got {got}. Write {{'interferon': ['STAT1', 'IRF1', …]}}."
        )
        raise error(msg)
    columns = pd.Index(features).astype(str)
    found = {}
    for name, genes in gene_sets.items():
        if isinstance(genes, str) or not hasattr(genes, "__iter__"):
            msg = f"gene_sets[{name!r}]: expected several names of genes, got {genes!r}. Put them in a list."
            raise TypeError(msg)
        found[str(name)] = columns.isin({str(gene) for gene in genes})
    members = pd.DataFrame(np.stack(list(found.values())), index=list(found), columns=columns)
    size = members.sum(axis=1)
    enough = (size >= min_genes) & (len(columns) - size >= min_genes)
    rule = f"at least {min_genes} genes among the {len(columns)} features, and as many outside of the set"
    if not enough.any():
        example = next((str(gene) for genes in gene_sets.values() for gene in genes), "none")
        msg = (
            f"gene_sets: expected {rule}, got none among {len(size)} sets; the largest has {int(size.max())}. Spell genes "
            f"as the features are: a gene is {example!r}, features are {shorten(columns)}. Or lower min_genes."
        )
        raise ValueError(msg)
    if not enough.all():
        left_out = size.index[~enough]
        msg = f"gene_sets: expected {rule}; {len(left_out)} of {len(size)} sets are left out: {shorten(left_out)}."
        warnings.warn(msg, UserWarning, stacklevel=3)
    return members[enough]
