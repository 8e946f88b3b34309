"""Matching of the cells of two modalities that share a perturbation label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from perturbia.model.alignment._modalities import check_mudata, dense, read_features, two_modalities
from perturbia.model.alignment._shared_labels import shared_labels
from perturbia.model.alignment.coupling_storage import write_coupling
from perturbia.stats.block_matching import couple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

    from perturbia.stats.block_matching import Aligner
    from perturbia.stats.coupling import Coupling
    from perturbia.stats.transport_cost import Cost

__all__ = ["align"]


def align(
    data: MuData | AnnData,
    other: AnnData | None = None,
    *,
    perturbation_key: str = "perturbation",
    modalities: Mapping[str, str] | None = None,
    use_rep: str | Mapping[str, str | None] | None = None,
    method: Aligner = "ot",
    cost: Cost = "sqeuclidean",
    epsilon: float | None = None,
    scale_cost: Literal["mean"] | float | None = "mean",
    unbalanced: tuple[float, float] | None = None,
    partial_mass: float | None = None,
    n_neighbors: int | None = None,
    control: str | Sequence[str] | None = None,
    sep: str | None = "+",
    min_cells: int = 10,
    paired: bool = False,
    max_block_size: int = 20_000,
    keep: tuple[float, int] = (0.99, 100),
    key_added: str | None = "coupling",
    tolerance: float = 1e-4,
    max_iterations: int = 5000,
    dtype: Literal["float32", "float64"] = "float32",
    device: str = "auto",
    progress: bool = False,
    seed: int = 0,
) -> Coupling:
    """Match cells of two modalities within every perturbation, in any representation and by any aligner.

    Parameters
    ----------
    data, other
        MuData with two modalities; or AnnData and a second AnnData, for which nothing is stored.
    perturbation_key
        Column of `obs` of **each modality** with the label that its cells share with those of the other.
    modalities
        ``{"source": name, "target": name}``; by default the two that there are, in their order.
    use_rep
        Key of `obsm` with coordinates in one space, such as ``"X_psa"``; or modality (``"source"``, ``"target"`` for two
        AnnData) → key; None for `X`. ``method="gw"`` takes any two spaces.
    method, cost, epsilon, scale_cost, unbalanced, partial_mass, n_neighbors, max_block_size, tolerance, max_iterations
        As in :func:`perturbia.stats.couple`.
    control, sep
        How labels are read: controls count as one label, ``"A+B"`` is ``"B+A"``; ``sep=None`` takes them as they are.
    min_cells
        Labels with fewer cells in a modality are named in a warning.
    paired
        Whether cells of the same name in both modalities are the same cell on purpose.
    keep
        What is stored: the fewest entries of a row with this share of its mass, and so many at most.
    key_added
        Where to store the coupling; None stores nothing.
    dtype, device
        Type and device of ``"ot"``.
    progress
        Whether to show a progress bar over perturbations.
    seed
        Seed of what is drawn.

    Returns
    -------
    The coupling. MuData gains `obsp[key_added]` (CSR float32: joint masses in the rows of source and the columns of target
    cells), `uns[key_added]` (how it was made, with a table of perturbations), and in `obs` of the modalities
    `f"{key_added}_n_eff"`, `f"{key_added}_cost"` (source) and `f"{key_added}_hubness"` (target). Everything is computed
    before anything is written.

    Raises
    ------
    LabelError, ModalityError, FeatureMismatch, ScaleError
        Labels, modalities or coordinates that are missing or can not be used.
    ValueError
        Cell names that both modalities have, different numbers of coordinates, or impossible settings.
    TypeError
        Anything but MuData, or two AnnData.

    Warns
    -----
    UserWarning
        Labels of one modality alone, or with few cells.
    ConvergenceWarning
        Perturbations whose solver stopped early.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> pb.tl.align(mdata, use_rep="truth_log_ratio", method="emd")
    Coupling: 100 source x 100 target cells in 5 group(s), method='emd'
    >>> mdata.uns["coupling"]["table"].columns[:4].tolist()
    ['perturbation', 'n_source', 'n_target', 'mass']

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.
    """
    mdata, names, chosen = _both(data, other, modalities, paired=paired)
    labels = shared_labels(chosen, perturbation_key, control=control, sep=sep, min_cells=min_cells)
    reps = _reps(use_rep, names)
    points = {
        role: dense(read_features(chosen[name], use_rep=reps[role], layer=None, modality=name))
        for role, name in names.items()
    }
    coupling = couple(
        points["source"],
        points["target"],
        labels.groups(names["source"]),
        labels.groups(names["target"]),
        method=method,
        cost=cost,
        epsilon=epsilon,
        scale_cost=scale_cost,
        unbalanced=unbalanced,
        partial_mass=partial_mass,
        n_neighbors=n_neighbors,
        max_block_size=max_block_size,
        tolerance=tolerance,
        max_iterations=max_iterations,
        dtype=dtype,
        device=device,
        seed=seed,
        progress=progress,
    )
    if mdata is not None and key_added is not None:
        write_coupling(
            mdata,
            coupling,
            names,
            key_added,
            points=points,
            cost=cost,
            keep=keep,
            about={"use_rep": {role: rep or "X" for role, rep in reps.items()}},
            perturbation_key=perturbation_key,
            control=control,
            sep=sep,
        )
    return coupling


def _both(
    data: MuData | AnnData, other: AnnData | None, modalities: Mapping[str, str] | None, *, paired: bool
) -> tuple[MuData | None, dict[str, str], dict[str, AnnData]]:
    from anndata import AnnData

    if other is None:
        check_mudata(data)
        names, chosen = two_modalities(data, modalities, paired=paired)
        return data, names, chosen
    if not (isinstance(data, AnnData) and isinstance(other, AnnData)):
        msg = f"data, other: expected MuData alone, or two AnnData, got {type(data).__name__}, {type(other).__name__}."
        raise TypeError(msg)
    return None, {"source": "source", "target": "target"}, {"source": data, "target": other}


def _reps(use_rep: str | Mapping[str, str | None] | None, names: Mapping[str, str]) -> dict[str, str | None]:
    if use_rep is None or isinstance(use_rep, str):
        return dict.fromkeys(names, use_rep)
    unknown = set(use_rep) - set(names.values())
    if unknown or len(use_rep) != 2:
        msg = f"use_rep: expected a key of obsm for each of {list(names.values())}, got {dict(use_rep)!r}."
        raise ValueError(msg)
    return {role: use_rep[name] for role, name in names.items()}
