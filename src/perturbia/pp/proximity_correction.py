"""Profiles without what genes of one chromosome arm have in common."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import LabelError, shorten
from perturbia.metrics._arm_labels import arm_codes
from perturbia.perturbation._copies import require_writable
from perturbia.perturbation._profiles import label_design, marked_controls, profile_matrix
from perturbia.pp._arm_shifts import ArmMethod, ArmShifts, arm_shifts
from perturbia.pp._control_profiles import write_profiles
from perturbia.stats._settings import check_choice, check_count
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["correct_proximity_bias"]

logger = logging.getLogger("perturbia.pp")


def correct_proximity_bias(
    adata: AnnData,
    *,
    arm_key: str,
    use_rep: str | None = None,
    perturbation_key: str = "perturbation",
    control: str | Sequence[str] | None = None,
    sep: str = "+",
    method: ArmMethod = "balanced",
    exclude: Sequence[str] | None = None,
    use_only: Sequence[str] | None = None,
    leave_one_out: bool = True,
    keep_common: bool = True,
    min_genes: int = 5,
    key_added: str = _keys.OBSM_PROXIMITY,
    copy: bool = False,
) -> AnnData | None:
    r"""Subtract what the genes of each chromosome arm have in common, which CRISPR cutting causes and not their function.

    .. math:: x_r \leftarrow x_r - w_a m_a

    for the rows r of the genes of arm a, with the centre :math:`m_a` of these genes around the centre of all genes. Genes
    count once, by the mean of their rows. Measure what is gained with :func:`perturbia.metrics.proximity_bias`.

    Parameters
    ----------
    adata
        Aligned wells, cells or guides, or a map of perturbations, in rows. A view and backed data are fine.
    arm_key
        Column of `obs` with the chromosome arm of the target, such as ``"1p"``. Rows without (NaN, empty) stay as they are,
        and so do controls.
    use_rep
        Key of `obsm` with the profiles; None and ``"X"`` read `X`.
    perturbation_key
        Column of `obs` with perturbation labels. A combination counts as a gene of its own; leave its arm empty if its
        targets are on several.
    control
        Label or labels of the controls; None: none but those called ``control``. Rows with `obs["is_control"]` are controls
        as well.
    sep
        Text between the members of a combination.
    method
        ``"arm_mean"``: subtract the mean of the arm, as published. Each gene is part of that mean, so that genes of one arm
        are driven apart, the more the fewer they are: their products become :math:`-1/n` of their squares.
        ``"balanced"``: the geometric median, which strong genes do not pull, and only the share :math:`w_a` of it at which
        the cosines within the arm are 0 on average. Arms whose genes are not alike to begin with are left as they are.
    exclude
        Genes that are shifted as the others of their arm and take no part in centres: strong ones, or expressed ones.
    use_only
        Genes that alone take part: those that the cells do not express are the best, whose knock-outs can do nothing but
        cut. Names that the data do not have are ignored, here and in `exclude`.
    leave_one_out
        Compare a gene with the centre of the *other* genes of its arm, so that nothing of its own signal is subtracted.
        This changes its length, by :math:`n / (n - w)`, and no direction: cosines are the same with and without. Genes
        that take no part in centres need no such thing.
    keep_common
        Leave in what all genes have in common, so that rows with and without an arm stay comparable and profiles without
        proximity bias do not change. False subtracts it from rows with an arm, as published.
    min_genes
        Genes that the centre of an arm needs, at least 2. Genes of arms with fewer are not shifted, which the log says.
    key_added
        Key to write to.
    copy
        Return a changed copy, in memory, and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are `obsm[key_added]`, float32 (n_obs, n_features), and `uns[key_added]`: the choices above,
    `n_genes`, `n_rows_kept` as they were, and `arms`, a DataFrame with, for each arm, `n_genes`, `n_reference` genes behind
    the centre, the `length` of the centre and the `share` :math:`w` of it that was subtracted.

    Raises
    ------
    LabelError
        If labels or arms are missing altogether or can not be read, the rows of one gene are on several arms, no gene is
        left for the centres, or no arm has enough of them.
    ControlError
        If no row is labelled `control`.
    FeatureMismatch
        If the representation does not exist.
    ValueError
        If a row holds NaN, or an option is none of the above.
    UnsupportedQuery
        If `adata` is a view of a backed file and `copy` is False.

    Notes
    -----
    What cannot be told apart: genes of one arm that do work together are alike for that reason too. A complex that makes up
    much of its arm loses a part of its similarity, so name its genes in `exclude`, or better the unexpressed genes in
    `use_only`. Genes outside the centre share its error: their cosines stay about 1/n too high for n genes in it.

    References
    ----------
    Lazar, N. H. et al. (2024). High-resolution genome-wide mapping of chromosome-arm-scale truncations induced by
    CRISPR-Cas9 editing. Nature Genetics 56; bioRxiv 2023.04.15.537038.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"arm": np.repeat(["1p", "1q", "2p"], 30)}, index=[f"G{i}" for i in range(90)])
    >>> obs["perturbation"] = obs.index
    >>> lost = 0.5 * rng.normal(size=(3, 40)).repeat(30, axis=0)
    >>> genes = ad.AnnData(rng.normal(size=(90, 40)) + lost, obs=obs)
    >>> pb.pp.correct_proximity_bias(genes, arm_key="arm")
    >>> before = pb.metrics.proximity_bias(genes, "arm", n_permutations=0)
    >>> after = pb.metrics.proximity_bias(genes, "arm", use_rep="X_proximity", n_permutations=0)
    >>> round(before.probability, 1), round(after.probability, 1)
    (0.8, 0.5)
    """
    check_choice("method", method, ("balanced", "arm_mean"))
    check_count("min_genes", min_genes, least=2)
    if not copy:
        require_writable(adata)
    labels, arms, names = _genes_and_arms(adata, arm_key, perturbation_key, control, sep)
    corrected = arms >= 0
    genes, first, codes = np.unique(labels[corrected], return_index=True, return_inverse=True)
    arm_of = arms[corrected][first]
    _check_one_arm(labels, arms, genes, arm_of, arm_key)
    reference = _reference(genes, exclude, use_only)
    values = profile_matrix(adata, use_rep=use_rep)
    used, arm_of = np.unique(arm_of, return_inverse=True)
    _check_enough(np.bincount(arm_of[reference], minlength=len(used)), min_genes, names[used])
    shifts = arm_shifts(
        group_means(values[corrected], codes, with_variance=False).mean,
        arm_of,
        reference,
        method=method,
        leave_one_out=leave_one_out,
        keep_common=keep_common,
        min_genes=min_genes,
    )
    moved = values.astype(np.float32)
    moved[corrected] = values[corrected] - shifts.shift[codes]
    parameters = {
        "use_rep": use_rep or "X",
        "arm_key": arm_key,
        "method": method,
        "leave_one_out": leave_one_out,
        "keep_common": keep_common,
        "min_genes": min_genes,
        "n_genes": len(genes),
        "n_rows_kept": int((~corrected).sum()),
        "arms": _table(names[used], arm_of, shifts),
    }
    return write_profiles(adata, moved, parameters, key_added=key_added, copy=copy)


def _genes_and_arms(
    adata: AnnData, arm_key: str, perturbation_key: str, control: str | Sequence[str] | None, sep: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical label and arm of every row, -1 for controls and where it is missing, and the names of the arms."""
    design = label_design(adata, perturbation_key, control=control, sep=sep)
    names, arms = arm_codes(adata, arm_key, adata.obs_names.astype(str).tolist(), argument="arm_key")
    is_control = design.is_control | marked_controls(adata)
    labels = design.labels(plain=True).astype(str)
    labels[is_control] = ""  # a control is no gene, whatever its label
    arms[is_control] = -1
    if (arms < 0).all():
        msg = f"arm_key: expected the arm of some perturbed rows, got those of controls only in {arm_key!r}. Fill it."
        raise LabelError(msg)
    return labels, arms, names


def _check_one_arm(labels: np.ndarray, arms: np.ndarray, genes: np.ndarray, arm_of: np.ndarray, arm_key: str) -> None:
    """Refuse genes with several arms, or with an arm in some of their rows."""
    position = np.searchsorted(genes, labels)
    known = position < len(genes)
    known[known] = genes[position[known]] == labels[known]
    split = np.unique(labels[known][arms[known] != arm_of[position[known]]])
    if len(split):
        msg = (
            f"arm_key: expected one arm in all rows of a perturbation, got several, or missing ones, in {arm_key!r} for "
            f"{shorten(split.tolist(), limit=3)}. Correct the column."
        )
        raise LabelError(msg)


def _reference(genes: np.ndarray, exclude: Sequence[str] | None, use_only: Sequence[str] | None) -> np.ndarray:
    """Genes that centres are taken over."""
    if exclude is not None and use_only is not None:
        msg = "exclude, use_only: expected one of them, got both. Leave the excluded genes out of use_only."
        raise ValueError(msg)
    argument, given = ("exclude", exclude) if use_only is None else ("use_only", use_only)
    if given is None:
        return np.ones(len(genes), dtype=bool)
    if isinstance(given, str):
        msg = f"{argument}: expected names of genes in a list, got the text {given!r}. Pass [{given!r}]."
        raise ValueError(msg)
    named = np.isin(genes, np.array([str(gene) for gene in given], dtype=object).astype(str))
    if not named.any():
        msg = (
            f"{argument}: expected perturbations that have an arm, such as {shorten(genes[:3].tolist())}, got none of them "
            f"in {shorten(list(given), limit=3)}. Use the same names."
        )
        raise LabelError(msg)
    reference = named if argument == "use_only" else ~named
    if not reference.any():
        msg = "exclude: expected genes that are left for the centres of arms, got none. Exclude fewer."
        raise LabelError(msg)
    return reference


def _check_enough(count: np.ndarray, min_genes: int, names: np.ndarray) -> None:
    """Refuse data where no arm can be corrected, and say which cannot."""
    few = count < min_genes
    if few.all():
        msg = (
            f"min_genes: expected an arm with {min_genes} genes or more, got at most {count.max()} in {len(count)} arms. "
            "Ask for fewer, or name larger groups, such as chromosomes, in arm_key."
        )
        raise LabelError(msg)
    if few.any():
        logger.info(
            "%d of %d arms have fewer than %d genes and are left as they are: %s.",
            few.sum(), len(few), min_genes, shorten(names[few].tolist()),
        )  # fmt: skip


def _table(names: np.ndarray, arm_of: np.ndarray, shifts: ArmShifts) -> pd.DataFrame:
    """What was done to each arm."""
    return pd.DataFrame(
        {
            "n_genes": np.bincount(arm_of, minlength=len(names)),
            "n_reference": shifts.count,
            "length": shifts.length,
            "share": shifts.share,
        },
        index=pd.Index(names.astype(object), name="arm"),
    )
