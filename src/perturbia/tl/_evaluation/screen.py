"""The screen that judges: labels, batches, contexts and the split of its cells, read once and checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import FeatureMismatch, LabelError, LeakageError, PerturbiaError, SplitError, shorten
from perturbia.model.base._features import check_features
from perturbia.model.base._registered_model import RegisteredModel
from perturbia.perturbation import as_perturbation, dosage_labels, dosage_matrix
from perturbia.perturbation._copies import in_memory
from perturbia.perturbation._row_order import rank_by_name
from perturbia.stats import log1p_cp10k, matched_effects
from perturbia.tl._evaluation.registration import Registration, read_dosage
from perturbia.tl.observed_effects import effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy import sparse

__all__ = ["JudgedScreen", "observed", "read_screen"]

UNUSED = ""  # cells that a split leaves out, as nested splits do
SMALL = 50_000_000  # entries that are worth a second copy
LABEL, BATCH, CONTEXT, STRATUM = "perturbation", "batch", "context", "stratum"


@dataclass(frozen=True)
class JudgedScreen:
    """A screen whose cells were read once.

    Attributes
    ----------
    adata
        A shallow AnnData of its own: `X` is the matrix of the user, `obs` holds canonical labels, batches, contexts and
        the split. The data of the user are not written to.
    source
        The data of the user, which are read and not written to.
    dosage, names
        Dosage of the cells, and the target of each column.
    labels
        Canonical label of each cell.
    contexts
        Context of each cell, empty text if there is none.
    part
        ``train``, ``valid`` or ``test`` of each cell, empty text for cells that the split does not use.
    batch_key
        ``"batch"`` where batches are known.
    scale
        Scale of effects: ``"log1p_cp10k"`` for counts, otherwise the scale of the features.
    registered_scale
        Scale of the features.
    context_key
        Column of the user that holds contexts.
    spelling
        Control labels and separator in the spelling of the user.
    split_key
        Column of the user that holds the split.
    split
        What `tl.split` wrote about the split, empty if it did not make it.
    """

    adata: AnnData
    source: AnnData
    dosage: sparse.csr_matrix
    names: list[str]
    labels: np.ndarray
    contexts: np.ndarray
    part: np.ndarray
    batch_key: str | None
    scale: str
    registered_scale: str
    context_key: str | None
    spelling: dict[str, Any]
    split_key: str
    split: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def is_control(self) -> np.ndarray:
        """Which cells are controls."""
        return np.diff(self.dosage.indptr) == 0

    @cached_property
    def rank(self) -> np.ndarray:
        """Rank of each cell by its name: draws in this order do not depend on how the cells are ordered."""
        return rank_by_name(self.adata.obs_names)

    def canonical(self, label: str) -> str:
        """Canonical spelling of a label that is canonical already or as the user spells it."""
        if label in self._known:
            return label
        try:
            return str(as_perturbation(label))
        except PerturbiaError:
            return str(as_perturbation(label, **self.spelling))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.labels)

    def by_name(self, rows: np.ndarray) -> np.ndarray:
        """Positions sorted by the names of their cells."""
        return rows[np.argsort(self.rank[rows], kind="stable")]

    @property
    def stratum_key(self) -> str | None:
        """Column of batches within contexts, None if there is neither."""
        return STRATUM if STRATUM in self.adata.obs else None

    @property
    def axis(self) -> str:
        """Axis of generalisation that the split tests, ``"unknown"`` if `tl.split` did not make it."""
        return str(self.split.get("axis", "unknown"))

    @property
    def effect_scale(self) -> str:
        """Scale argument of `tl.effects`."""
        return "log1p_cp10k" if self.registered_scale == "counts" else "registered"

    def cells(self, rows: np.ndarray) -> np.ndarray:
        """Cells on the scale of effects, dense float32, in the order of `rows`."""
        values = self.normalized(rows)
        dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        return dense.astype(np.float32, copy=False)

    def normalized(self, rows: np.ndarray) -> Any:
        """Cells on the scale of effects in the form of the data, sparse or dense."""
        if self._normalized is not None:
            return self._normalized[rows]
        matrix = self.adata.X[rows]
        return log1p_cp10k(matrix) if self.registered_scale == "counts" else matrix

    def mean_effects(self, rows: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Effects of groups of cells against controls of the same batch and context, without errors.

        `groups` holds the code of each of the `rows`, -1 for the controls; codes that occur, and float64 effects.
        """
        effects = matched_effects(self.normalized(rows), groups, self.stratum_codes[rows], reference=-1)
        return np.unique(groups[groups >= 0]), effects

    @cached_property
    def strata(self) -> np.ndarray:
        """Batch and context of each cell as one label, the same for all cells if there is neither."""
        if self.stratum_key is None:
            return np.full(self.adata.n_obs, "")
        return self.adata.obs[STRATUM].astype(str).to_numpy()

    @property
    def n_unmatched_training(self) -> int:
        """Perturbed training cells in batches and contexts without training controls."""
        trained = self.part == "train"
        known = np.isin(self.strata, np.unique(self.strata[trained & self.is_control]))
        return int((trained & ~self.is_control & ~known).sum())

    @cached_property
    def stratum_codes(self) -> np.ndarray:
        """Batch and context of each cell as integers."""
        return pd.factorize(self.strata)[0]

    @cached_property
    def label_codes(self) -> np.ndarray:
        """Perturbation of each cell as an integer, in the order of labels; -1 for controls."""
        codes = pd.factorize(self.labels, sort=True)[0]
        return np.where(self.is_control, -1, codes)

    @cached_property
    def _normalized(self) -> Any:
        """Log-normalised counts of all cells, where a second copy is small: the same cells are asked for many times."""
        matrix = self.adata.X
        size = matrix.nnz if hasattr(matrix, "nnz") else matrix.size
        return log1p_cp10k(matrix) if self.registered_scale == "counts" and size < SMALL else None

    def positions_in(self, adata: AnnData | None, rows: np.ndarray) -> np.ndarray | None:
        """Positions of cells of the screen in the data that a model holds, None if they are not all there."""
        if adata is self.source or adata is self.adata:
            return rows
        if adata is None or not (adata.obs_names.is_unique and self.adata.obs_names.is_unique):
            return None
        positions = adata.obs_names.get_indexer(self.adata.obs_names[rows])
        return None if (positions < 0).any() else positions

    def copy_of(self, rows: np.ndarray) -> AnnData:
        """Cells of the data of the user by themselves, in memory."""
        return in_memory(self.source[rows])

    @property
    def visible(self) -> np.ndarray:
        """Which cells a model may have seen."""
        return (self.part == "train") | (self.part == "valid")

    def members_seen(self, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Number of targets of each label, and how many of them occur in cells that a model may have seen."""
        visible = self.dosage[self.visible]
        seen = np.asarray((visible > 0).sum(axis=0)).ravel() > 0
        queries = dosage_matrix(list(labels), self.names)
        return np.diff(queries.indptr), np.asarray((queries > 0) @ seen.astype(np.int64)).ravel()

    def check_leakage(self, *, allow_seen: bool | None) -> None:
        """Refuse perturbations that train and judge, unless the split says that it holds out cells alone."""
        if allow_seen or (allow_seen is None and self.axis == "random"):
            return
        if self.context_key is not None and self.axis in {"context", "unknown"}:
            pairs = pd.Series(self.labels.astype(str)) + " in " + pd.Series(self.contexts.astype(str))
        else:
            pairs = pd.Series(self.labels.astype(str))
        pairs = pairs.to_numpy()
        perturbed, test = ~self.is_control, self.part == "test"
        both = sorted(set(pairs[perturbed & test]) & set(pairs[perturbed & self.visible]))
        if both:
            msg = (
                f"adata: expected perturbations that judge and others that train, got {len(both)} that do both: "
                f"{shorten(both, limit=5)}. Split with perturbia.tl.split(axis=...), name the context_key of a split of "
                "contexts, or pass allow_seen=True to judge how well noise was taken out of perturbations that were seen."
            )
            raise LeakageError(msg)


def read_screen(adata: AnnData, registration: Registration, *, models: Sequence[Any], split_key: str) -> JudgedScreen:
    """Read a screen and its split.

    Parameters
    ----------
    adata
        The data; not written to.
    registration
        Where things are.
    models
        Models whose registration fills the gaps, and whose registered dosage is used where they hold `adata`.
    split_key
        Column of `obs` with the split.

    Returns
    -------
    The screen.

    Raises
    ------
    FeatureMismatch
        If there are no cells, or fewer than two features.
    SplitError
        If the column is missing, or does not mark training and test cells.
    LabelError, ControlError, ScaleError
        If labels, covariates or features can not be read.
    """
    if adata.n_obs == 0 or adata.n_vars < 2:
        msg = (
            f"adata: expected cells and two features or more, got {adata.n_obs} × {adata.n_vars}. Check how the data were "
            "filtered: scores compare effects over features."
        )
        raise FeatureMismatch(msg)
    split = adata.uns.get(split_key, {})
    split = dict(split) if hasattr(split, "keys") else {}
    where = registration.filled(models, split)
    if split_key not in adata.obs:
        msg = f"split_key: expected a column of adata.obs, got {split_key!r}. Make one with perturbia.tl.split."
        raise SplitError(msg)
    marks = adata.obs[split_key]
    part = np.where(marks.isna(), UNUSED, marks.astype(str))
    unknown = sorted(set(part) - {*_keys.SPLIT_VALUES, UNUSED})
    if unknown or "test" not in part or "train" not in part:
        msg = (
            f"split_key: expected cells marked 'train', 'test' and perhaps 'valid' in obs[{split_key!r}], got "
            f"{shorten(sorted(set(part)), limit=5)}. Make them with perturbia.tl.split."
        )
        raise SplitError(msg)
    registered = next((one for one in models if isinstance(one, RegisteredModel) and one.adata is adata), None)
    if registered is not None and not registration.says_labels:
        dosage, names = registered._registered_dosage(adata, np.arange(adata.n_obs)), registered.perturbations
    else:
        dosage, names = read_dosage(adata, where)
    check_features(adata, where.layer, where.scale or "counts")  # type: ignore[arg-type]
    obs = pd.DataFrame(index=adata.obs_names.copy())
    obs[LABEL] = pd.Categorical(dosage_labels(dosage, names))
    obs[_keys.OBS_SPLIT] = pd.Categorical(part, categories=list(_keys.SPLIT_VALUES))
    for column, key, argument in ((BATCH, where.batch_key, "batch_key"), (CONTEXT, where.context_key, "context_key")):
        if key is not None:
            obs[column] = pd.Categorical(_complete(adata, key, argument))
    keys = [key for key in (BATCH, CONTEXT) if key in obs]
    if keys:
        obs[STRATUM] = (
            obs[keys[0]].astype(str) if len(keys) == 1 else obs[BATCH].astype(str) + "\0" + obs[CONTEXT].astype(str)
        )
    from anndata import AnnData as New

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicated names are the business of the data
        matrix = adata.X if where.layer is None else adata.layers[where.layer]
        if adata.isbacked:  # read once: judging asks for the same cells many times
            matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix[:]
        matrix = matrix.tocsr() if hasattr(matrix, "tocsr") else matrix  # rows are what is asked for
        shallow = New(matrix, obs=obs, var=pd.DataFrame(index=adata.var_names.copy()))
    scale = str(where.scale)
    return JudgedScreen(
        adata=shallow,
        source=adata,
        dosage=dosage,
        names=names,
        labels=np.asarray(obs[LABEL].astype(str)),
        contexts=np.asarray(obs[CONTEXT].astype(str)) if where.context_key else np.full(adata.n_obs, ""),
        part=part,
        batch_key=BATCH if where.batch_key else None,
        scale="log1p_cp10k" if scale == "counts" else scale,
        registered_scale=scale,
        context_key=where.context_key,
        spelling={"control": where.control or "control", "sep": "+" if where.sep is None else where.sep},
        split_key=split_key,
        split=split,
    )


def _complete(adata: AnnData, key: str, argument: str) -> np.ndarray:
    if key not in adata.obs or adata.obs[key].isna().any():
        msg = f"{argument}: expected a complete column of adata.obs, got {key!r}; columns are {shorten(adata.obs)}."
        raise LabelError(msg)
    return adata.obs[key].astype(str).to_numpy()


def observed(screen: JudgedScreen, rows: np.ndarray, *, batch_key: str | None) -> AnnData:
    """`tl.effects` of some cells of the screen; cells without controls in their batch are counted once, by the truth."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="batch_key: ", category=RuntimeWarning)
        return effects(
            screen.adata,
            perturbation_key=LABEL,
            batch_key=batch_key,
            scale=screen.effect_scale,  # type: ignore[arg-type]
            cells=rows,
        )
