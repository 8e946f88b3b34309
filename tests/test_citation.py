"""Citations: valid BibTeX, each entry once, nothing invented."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pytest

import perturbia as pb
from perturbia._bibliography import ENTRIES
from perturbia.citation import _SOURCES


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),", text, flags=re.MULTILINE)


def test_every_source_is_an_entry_and_every_entry_has_its_fields():
    assert {key for sources in _SOURCES.values() for key in sources} <= set(ENTRIES)
    for key, (kind, fields) in ENTRIES.items():
        assert {"author", "title"} <= set(fields), key
        assert kind != "article" or {"journal", "year", "doi"} <= set(fields), key


def test_every_model_and_data_set_can_be_cited():
    for name in pb.model.__all__:
        assert keys(pb.cite(getattr(pb.model, name)))[0] == "perturbia"
    for name in ("papalexi", "norman", "tapseq", "datlinger"):
        assert len(keys(pb.cite(getattr(pb.datasets, name)))) == 2
    for name, paper in (
        ("simulate_svae", "lopez2023"),
        ("simulate_sams", "bereket2023"),
        ("simulate_comparative", "lopez2024"),
        ("simulate_modalities", "xi2024"),
        ("simulate_scene_images", "xi2024"),
    ):
        assert keys(pb.cite(getattr(pb.datasets, name))) == ["perturbia", paper]
    for name, study in (
        ("norman_2019", "norman2019"),
        ("replogle_2022_k562_essential", "replogle2022"),
        ("papalexi_2021", "papalexi2021"),
    ):
        assert keys(pb.cite(getattr(pb.datasets, name))) == ["perturbia", study, "peidli2024"]


def test_scores_of_maps_and_their_results_can_be_cited():
    assert keys(pb.cite(pb.metrics.relationship_recall)) == ["perturbia", "celik2024"]
    assert keys(pb.cite(pb.pp.typical_variation_normalization)) == ["perturbia", "ando2017", "celik2024"]
    assert keys(pb.cite(pb.datasets.reactome_pairs)) == ["perturbia", "gillespie2022"]
    profiles = np.random.default_rng(0).normal(size=(8, 3))
    result = pb.metrics.replicate_consistency(profiles, np.repeat(["A", "B", "C", "D"], 2), n_null=20)
    assert keys(pb.cite(result)) == ["perturbia", "celik2024", "kenyondean2024"]


def test_entries_come_once_and_braces_balance():
    text = pb.cite("SAMSVAE", "JamesStein", pb.datasets.papalexi)
    assert keys(text) == ["perturbia", "bereket2023", "gayoso2022", "virshup2024", "james1961", "papalexi2021"]
    assert text.count("{") == text.count("}")


def test_results_and_models_lead_to_their_method():
    result = ad.AnnData(np.zeros((1, 1)))
    result.uns["perturbia"] = {"model": "SAMSVAE"}
    assert "bereket2023" in pb.cite(result)
    adata = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=0, n_genes=10, n_latent=2, n_truth_cells=10)
    pb.model.JamesStein.setup_anndata(adata, perturbation_key="perturbation")
    assert "james1961" in pb.cite(pb.model.JamesStein(adata))
    mdata = pb.datasets.simulate_modalities(n_cells=10, n_perturbations=3, n_latent=2)
    pb.model.PropensityAligner.setup_mudata(mdata)
    aligner = pb.model.PropensityAligner(mdata, n_hidden=4)
    assert keys(pb.cite(aligner)) == ["perturbia", "xi2024", "gayoso2022", "virshup2024"]


@pytest.mark.parametrize("unknown", ["scGPT", ad.AnnData(np.zeros((1, 1))), 3])
def test_nothing_is_invented(unknown):
    with pytest.raises(ValueError, match="objects"):
        pb.cite(unknown)
