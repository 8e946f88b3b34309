"""Enrichment of gene sets in loadings written by hand; a screen's own programme is in test_mechanism_tree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu

from perturbia.tl import latent_enrichment

GENES = [f"G{i:03d}" for i in range(200)]


@pytest.fixture
def loadings() -> pd.DataFrame:
    """Two latents; the first twenty genes rise along z0 and fall along z1."""
    values = np.random.default_rng(0).normal(size=(2, 200))
    values[0, :20] += 2
    values[1, :20] -= 2
    return pd.DataFrame(values.astype(np.float32), index=["z0", "z1"], columns=GENES)


@pytest.fixture
def gene_sets() -> dict[str, list[str]]:
    rng = np.random.default_rng(1)
    return {"programme": GENES[:20], "random": rng.choice(GENES[20:], 30, replace=False).tolist()}


def test_the_planted_programme_is_found_with_its_sign(loadings, gene_sets):
    table = latent_enrichment(loadings, gene_sets)
    assert table.columns.tolist() == ["latent", "gene_set", "n_genes", "statistic", "pvalue", "padj"]
    assert table["gene_set"].tolist()[:2] == ["programme", "programme"]
    own = table.set_index(["gene_set", "latent"])
    assert own.loc[("programme", "z0"), "statistic"] > 0.5
    assert own.loc[("programme", "z1"), "statistic"] < -0.5
    assert (own.loc["programme", "padj"] < 1e-6).all()
    assert (own.loc["random", "padj"] > 0.05).all()
    for (name, latent), row in own.iterrows():
        inside = loadings.columns.isin(gene_sets[name])
        values = loadings.loc[latent].to_numpy(float)
        test = mannwhitneyu(values[inside], values[~inside], method="asymptotic")
        np.testing.assert_allclose(row["pvalue"], test.pvalue, rtol=1e-10)
    np.testing.assert_allclose(table["padj"], false_discovery_control(table["pvalue"]))


def test_unknown_and_repeated_genes_change_nothing(loadings, gene_sets):
    noisy = {name: [*genes, *genes[:3], "absent 1", "absent 2"] for name, genes in gene_sets.items()}
    expected = latent_enrichment(loadings, gene_sets)
    pd.testing.assert_frame_equal(latent_enrichment(loadings, noisy), expected)
    assert expected["n_genes"].tolist() == [20, 20, 30, 30]
    # order of genes and of columns means nothing
    turned = {name: pd.Index(genes[::-1]) for name, genes in noisy.items()}
    pd.testing.assert_frame_equal(latent_enrichment(loadings.iloc[:, ::-1], turned), expected)


def test_small_and_nearly_full_sets_are_left_out_with_a_warning(loadings, gene_sets):
    sets = {**gene_sets, "few": GENES[:4], "all": GENES[2:], "foreign": ["A", "B", "C", "D", "E"]}
    with pytest.warns(UserWarning, match="3 of 5 sets are left out: 'few', 'all', 'foreign'"):
        table = latent_enrichment(loadings, sets)
    pd.testing.assert_frame_equal(table, latent_enrichment(loadings, gene_sets))
    assert "few" in set(latent_enrichment(loadings, {"few": GENES[:4]}, min_genes=4)["gene_set"])


@pytest.mark.parametrize(
    ("gene_sets", "options", "error", "match"),
    [
        ({}, {}, ValueError, "gene_sets: expected a mapping .* got none"),
        ([GENES[:20]], {}, TypeError, "gene_sets: expected a mapping .* got list"),
        ({"a": "G001"}, {}, TypeError, r"gene_sets\['a'\]: expected several names of genes, got 'G001'"),
        ({"a": 3}, {}, TypeError, r"gene_sets\['a'\]: expected several names"),
        ({"a": ["g000", "g001"]}, {}, ValueError, "gene_sets: .*got none among 1 sets; .* a gene is 'g000', .*'G000'"),
        ({"a": GENES[:20]}, {"min_genes": 30}, ValueError, "gene_sets: expected at least 30 genes"),
        ({"a": GENES[:20]}, {"min_genes": 0}, ValueError, "min_genes: expected a positive integer"),
    ],
)
def test_bad_sets(loadings, gene_sets, options, error, match):
    with pytest.raises(error, match=match):
        latent_enrichment(loadings, gene_sets, **options)


def test_bad_loadings(loadings, gene_sets):
    with pytest.raises(TypeError, match="loadings: expected a data frame"):
        latent_enrichment(loadings.to_numpy(), gene_sets)
    loadings.iloc[0, 0] = np.nan
    with pytest.raises(ValueError, match="loadings: expected finite numbers"):
        latent_enrichment(loadings, gene_sets)
