"""BibTeX entries of methods, libraries and data."""

from __future__ import annotations

__all__ = ["ENTRIES"]

# Key → (entry type, fields). DOIs were checked against independent sources that quote them.
ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
    "perturbia": (
        "software",
        {"author": "{Perturbia developers}", "title": "Perturbia: single-cell perturbation modelling"},
    ),
    "bereket2023": (
        "inproceedings",
        {
            "author": "Bereket, Michael and Karaletsos, Theofanis",
            "title": "Modelling Cellular Perturbations with the Sparse Additive Mechanism Shift Variational Autoencoder",
            "booktitle": "Advances in Neural Information Processing Systems",
            "volume": "36",
            "year": "2023",
            "eprint": "2311.02794",
            "archiveprefix": "arXiv",
        },
    ),
    "lopez2023": (
        "inproceedings",
        {
            "author": "Lopez, Romain and Tagasovska, Nata{\\v{s}}a and Ra, Stephen and Cho, Kyunghyun and "
            "Pritchard, Jonathan K. and Regev, Aviv",
            "title": "Learning Causal Representations of Single Cells via Sparse Mechanism Shift Modeling",
            "booktitle": "Conference on Causal Learning and Reasoning",
            "pages": "662--691",
            "year": "2023",
            "eprint": "2211.03553",
            "archiveprefix": "arXiv",
        },
    ),
    "lopez2024": (
        "inproceedings",
        {
            "author": "Lopez, Romain and Huetter, Jan-Christian and Hajiramezanali, Ehsan and Pritchard, Jonathan and "
            "Regev, Aviv",
            "title": "Toward the Identifiability of Comparative Deep Generative Models",
            "booktitle": "Conference on Causal Learning and Reasoning",
            "year": "2024",
            "eprint": "2401.15903",
            "archiveprefix": "arXiv",
        },
    ),
    "sohn2015": (
        "inproceedings",
        {
            "author": "Sohn, Kihyuk and Lee, Honglak and Yan, Xinchen",
            "title": "Learning Structured Output Representation using Deep Conditional Generative Models",
            "booktitle": "Advances in Neural Information Processing Systems",
            "volume": "28",
            "year": "2015",
        },
    ),
    "gayoso2022": (
        "article",
        {
            "author": "Gayoso, Adam and Lopez, Romain and Xing, Galen and others",
            "title": "A Python library for probabilistic analysis of single-cell omics data",
            "journal": "Nature Biotechnology",
            "volume": "40",
            "pages": "163--166",
            "year": "2022",
            "doi": "10.1038/s41587-021-01206-w",
        },
    ),
    "virshup2024": (
        "article",
        {
            "author": "Virshup, Isaac and Rybakov, Sergei and Theis, Fabian J. and Angerer, Philipp and Wolf, F. Alexander",
            "title": "anndata: Access and store annotated data matrices",
            "journal": "Journal of Open Source Software",
            "volume": "9",
            "number": "101",
            "pages": "4371",
            "year": "2024",
            "doi": "10.21105/joss.04371",
        },
    ),
    "wolf2018": (
        "article",
        {
            "author": "Wolf, F. Alexander and Angerer, Philipp and Theis, Fabian J.",
            "title": "SCANPY: large-scale single-cell gene expression data analysis",
            "journal": "Genome Biology",
            "volume": "19",
            "pages": "15",
            "year": "2018",
            "doi": "10.1186/s13059-017-1382-0",
        },
    ),
    "james1961": (
        "inproceedings",
        {
            "author": "James, W. and Stein, Charles",
            "title": "Estimation with quadratic loss",
            "booktitle": "Proceedings of the Fourth Berkeley Symposium on Mathematical Statistics and Probability",
            "volume": "1",
            "pages": "361--379",
            "year": "1961",
        },
    ),
    "szekely2013": (
        "article",
        {
            "author": "Székely, Gábor J. and Rizzo, Maria L.",
            "title": "Energy statistics: A class of statistics based on distances",
            "journal": "Journal of Statistical Planning and Inference",
            "volume": "143",
            "pages": "1249--1272",
            "year": "2013",
            "doi": "10.1016/j.jspi.2013.03.018",
        },
    ),
    "peidli2024": (
        "article",
        {
            "author": "Peidli, Stefan and Green, Tessa D. and Shen, Ciyue and others",
            "title": "scPerturb: harmonized single-cell perturbation data",
            "journal": "Nature Methods",
            "volume": "21",
            "pages": "531--540",
            "year": "2024",
            "doi": "10.1038/s41592-023-02144-y",
        },
    ),
    "mukherjee2011": (
        "article",
        {
            "author": "Mukherjee, Ashin and Zhu, Ji",
            "title": "Reduced rank ridge regression and its kernel extensions",
            "journal": "Statistical Analysis and Data Mining",
            "volume": "4",
            "pages": "612--622",
            "year": "2011",
            "doi": "10.1002/sam.10138",
        },
    ),
    "ahlmanneltze2025": (
        "article",
        {
            "author": "Ahlmann-Eltze, Constantin and Huber, Wolfgang and Anders, Simon",
            "title": "Deep-learning-based gene perturbation effect prediction does not yet outperform simple linear baselines",
            "journal": "Nature Methods",
            "volume": "22",
            "pages": "1657--1661",
            "year": "2025",
            "doi": "10.1038/s41592-025-02772-6",
        },
    ),
    "xi2024": (
        "inproceedings",
        {
            "author": "Xi, Johnny and Osea, Jana and Xu, Zuheng and Hartford, Jason",
            "title": "Propensity Score Alignment of Unpaired Multimodal Data",
            "booktitle": "Advances in Neural Information Processing Systems",
            "volume": "37",
            "year": "2024",
            "eprint": "2404.01595",
            "archiveprefix": "arXiv",
        },
    ),
    "yang2021": (
        "article",
        {
            "author": "Yang, Karren Dai and Belyaeva, Anastasiya and Venkatachalapathy, Saradha and others",
            "title": "Multi-domain translation between single-cell imaging and sequencing data using autoencoders",
            "journal": "Nature Communications",
            "volume": "12",
            "pages": "31",
            "year": "2021",
            "doi": "10.1038/s41467-020-20249-2",
        },
    ),
    "papalexi2021": (
        "article",
        {
            "author": "Papalexi, Efthymia and others",
            "title": "Characterizing the molecular regulation of inhibitory immune checkpoints with multimodal single-cell screens",
            "journal": "Nature Genetics",
            "volume": "53",
            "pages": "322--331",
            "year": "2021",
            "doi": "10.1038/s41588-021-00778-2",
        },
    ),
    "norman2019": (
        "article",
        {
            "author": "Norman, Thomas M. and others",
            "title": "Exploring genetic interaction manifolds constructed from rich single-cell phenotypes",
            "journal": "Science",
            "volume": "365",
            "pages": "786--793",
            "year": "2019",
            "doi": "10.1126/science.aax4438",
        },
    ),
    "replogle2022": (
        "article",
        {
            "author": "Replogle, Joseph M. and others",
            "title": "Mapping information-rich genotype-phenotype landscapes with genome-scale Perturb-seq",
            "journal": "Cell",
            "volume": "185",
            "pages": "2559--2575.e28",
            "year": "2022",
            "doi": "10.1016/j.cell.2022.05.013",
        },
    ),
    "schraivogel2020": (
        "article",
        {
            "author": "Schraivogel, Daniel and others",
            "title": "Targeted Perturb-seq enables genome-scale genetic screens in single cells",
            "journal": "Nature Methods",
            "volume": "17",
            "pages": "629--635",
            "year": "2020",
            "doi": "10.1038/s41592-020-0837-5",
        },
    ),
    "datlinger2021": (
        "article",
        {
            "author": "Datlinger, Paul and others",
            "title": "Ultra-high-throughput single-cell RNA sequencing and perturbation screening with combinatorial fluidic indexing",
            "journal": "Nature Methods",
            "volume": "18",
            "pages": "635--642",
            "year": "2021",
            "doi": "10.1038/s41592-021-01153-z",
        },
    ),
    "cheow2016": (
        "article",
        {
            "author": "Cheow, Lih Feng and others",
            "title": "Single-cell multimodal profiling reveals cellular epigenetic heterogeneity",
            "journal": "Nature Methods",
            "volume": "13",
            "pages": "833--836",
            "year": "2016",
            "doi": "10.1038/nmeth.3961",
        },
    ),
    "celik2024": (
        "article",
        {
            "author": "Celik, Safiye and others",
            "title": "Building, benchmarking, and exploring perturbative maps of transcriptional and morphological data",
            "journal": "PLOS Computational Biology",
            "volume": "20",
            "pages": "e1012463",
            "year": "2024",
            "doi": "10.1371/journal.pcbi.1012463",
        },
    ),
    "ando2017": (
        "article",
        {
            "author": "Ando, D. Michael and McLean, Cory Y. and Berndl, Marc",
            "title": "Improving phenotypic measurements in high-content imaging screens",
            "journal": "bioRxiv",
            "year": "2017",
            "doi": "10.1101/161422",
        },
    ),
    "kenyondean2024": (
        "article",
        {
            "author": "Kenyon-Dean, Kian and others",
            "title": "{ViTally} consistent: scaling biological representation learning for cell microscopy",
            "journal": "arXiv",
            "year": "2024",
            "eprint": "2411.02572",
            "doi": "10.48550/arXiv.2411.02572",
            "archiveprefix": "arXiv",
        },
    ),
    "kalinin2025": (
        "article",
        {
            "author": "Kalinin, Alexandr A. and others",
            "title": "A versatile information retrieval framework for evaluating profile strength and similarity",
            "journal": "Nature Communications",
            "volume": "16",
            "pages": "5181",
            "year": "2025",
            "doi": "10.1038/s41467-025-60306-2",
        },
    ),
    "ljosa2013": (
        "article",
        {
            "author": "Ljosa, Vebjorn and others",
            "title": "Comparison of methods for image-based profiling of cellular morphological responses to small-molecule treatment",
            "journal": "Journal of Biomolecular Screening",
            "volume": "18",
            "pages": "1321--1329",
            "year": "2013",
            "doi": "10.1177/1087057113503553",
        },
    ),
    "gillespie2022": (
        "article",
        {
            "author": "Gillespie, Marc and others",
            "title": "The reactome pathway knowledgebase 2022",
            "journal": "Nucleic Acids Research",
            "volume": "50",
            "pages": "D687--D692",
            "year": "2022",
            "doi": "10.1093/nar/gkab1028",
        },
    ),
}
