"""What to cite: BibTeX of the methods, libraries and data behind an object."""

from __future__ import annotations

from contextlib import suppress

__all__ = ["cite"]

# Key → (entry type, fields). DOIs were checked against independent sources that quote them.
_ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
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
}

_MODEL = ("gayoso2022", "virshup2024")
_SOURCES: dict[str, tuple[str, ...]] = {
    "SAMSVAE": ("bereket2023", *_MODEL),
    "CPAVAE": ("bereket2023", *_MODEL),
    "ConditionalVAE": ("sohn2015", "bereket2023", *_MODEL),
    "SVAE": ("lopez2023", *_MODEL),
    "ComparativeVAE": ("lopez2024", *_MODEL),
    "PropensityAligner": ("xi2024", *_MODEL),
    "CrossModalVAE": ("yang2021", *_MODEL),
    "NoChange": _MODEL,
    "Mean": _MODEL,
    "MeanSameOrder": _MODEL,
    "MaxEffect": _MODEL,
    "Empirical": _MODEL,
    "Additive": _MODEL,
    "MatchingMean": _MODEL,
    "Ridge": _MODEL,
    "JamesStein": ("james1961", *_MODEL),
    "LowRank": ("mukherjee2011", *_MODEL),
    "LinearPCA": ("ahlmanneltze2025", *_MODEL),
    "Nearest": _MODEL,
    "ContextMean": _MODEL,
    "papalexi": ("papalexi2021",),
    "norman": ("norman2019",),
    "tapseq": ("schraivogel2020",),
    "datlinger": ("datlinger2021",),
    "scgem": ("cheow2016",),
    "norman_2019": ("norman2019", "peidli2024"),
    "replogle_2022_k562_essential": ("replogle2022", "peidli2024"),
    "papalexi_2021": ("papalexi2021", "peidli2024"),
    "simulate_svae": ("lopez2023",),
    "simulate_sams": ("bereket2023",),
    "simulate_comparative": ("lopez2024",),
    "simulate_modalities": ("xi2024",),
    "simulate_scene_images": ("xi2024",),
    "edistance": ("szekely2013",),
    "etest": ("szekely2013", "peidli2024"),
    "scanpy": ("wolf2018",),
    "anndata": ("virshup2024",),
    "scvi-tools": ("gayoso2022",),
    "perturbia": (),
}


def cite(*objects: object) -> str:
    """BibTeX of what is behind models, results, data sets and functions.

    Parameters
    ----------
    *objects
        Models or their classes, AnnData that a model returned, functions of :mod:`perturbia.datasets`, or names:
        ``"SAMSVAE"``, ``"papalexi"``, ``"scanpy"``, … Nothing gives the entry of Perturbia alone.

    Returns
    -------
    The entries, each once, Perturbia first.

    Raises
    ------
    ValueError
        If nothing is known about an object: better no citation than a wrong one.

    Examples
    --------
    >>> import perturbia as pb
    >>> print(pb.cite("papalexi").split("@article")[1].splitlines()[0])
    {papalexi2021,
    """
    keys = ["perturbia"]
    for one in objects:
        name = _known_name(one)
        keys += [key for key in _SOURCES[name] if key not in keys]
    return "\n\n".join(_entry(key) for key in keys) + "\n"


def _known_name(one: object) -> str:
    if isinstance(one, str):
        candidates = [one]
    elif hasattr(one, "uns"):
        candidates = [str(dict(one.uns).get("perturbia", {}).get("model", "AnnData without metadata of Perturbia"))]
    else:
        kind = one if isinstance(one, type) else type(one)
        candidates = [getattr(one, "__name__", ""), *(base.__name__ for base in kind.__mro__)]
    found = [name for name in candidates if name in _SOURCES]
    if not found:
        msg = (
            f"objects: expected models, results, data sets or one of {sorted(_SOURCES)}, got {candidates[0] or one!r}."
        )
        raise ValueError(msg)
    return found[0]


def _entry(key: str) -> str:
    kind, fields = _ENTRIES[key]
    if key == "perturbia":
        from importlib.metadata import PackageNotFoundError, version

        with suppress(PackageNotFoundError):  # a source tree on the path has no version
            fields = {**fields, "version": version("perturbia")}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}\n}}"
