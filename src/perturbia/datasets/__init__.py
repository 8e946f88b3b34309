"""Real screens in the package or fetched from where they were published, and simulated screens with known truth."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "bundled_screens": ["datlinger", "norman", "papalexi", "tapseq"],
        "public_screens": ["norman_2019", "papalexi_2021", "replogle_2022_k562_essential"],
        "bundled_modalities": ["pbmc_citeseq", "scgem"],
        "comparative_simulator": ["simulate_comparative"],
        "modality_simulator": ["simulate_modalities"],
        "sams_simulator": ["simulate_sams"],
        "scene_image_simulator": ["simulate_scene_images"],
        "screen_simulator": ["simulate_screen"],
        "svae_simulator": ["simulate_svae"],
        "plate_simulator": ["simulate_plates"],
        "gene_relations": ["reactome_pairs", "read_relationships"],
    },
)
