"""What to cite: BibTeX of the methods, libraries and data behind an object."""

from __future__ import annotations

from contextlib import suppress

from perturbia._bibliography import ENTRIES

__all__ = ["cite"]

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
    "typical_variation_normalization": ("ando2017", "celik2024"),
    "standardize_by_controls": ("celik2024",),
    "curate_perturbations": ("kenyondean2024",),
    "relationship_recall": ("celik2024",),
    "RelationshipRecall": ("celik2024",),
    "replicate_consistency": ("celik2024", "kenyondean2024"),
    "ReplicateConsistency": ("celik2024", "kenyondean2024"),
    "mean_average_precision": ("kalinin2025",),
    "mechanism_accuracy": ("ljosa2013",),
    "MechanismAccuracy": ("ljosa2013",),
    "block_search": ("kenyondean2024",),
    "reactome_pairs": ("gillespie2022",),
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
    kind, fields = ENTRIES[key]
    if key == "perturbia":
        from importlib.metadata import PackageNotFoundError, version

        with suppress(PackageNotFoundError):  # a source tree on the path has no version
            fields = {**fields, "version": version("perturbia")}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}\n}}"
