"""A small alignment with everything that goes wrong in one, and profiles in every form that data come in.

The alignment has unequal groups, cells without partner, and cells without mass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbia.stats import Coupling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FORMS = ["dense", "float32", "int", "csr", "csc", "view", "backed", "obsm", "frame in obsm", "frame"]

SOURCE_SIZES = {"a": 5, "b": 9, "only_source": 2, "single": 1}
TARGET_SIZES = {"a": 7, "b": 6, "only_target": 3, "single": 1}


@dataclass(frozen=True)
class Alignment:
    """A coupling of 17 source and 17 target cells, and all that is known of them."""

    plan: np.ndarray
    pairs: np.ndarray
    source_groups: np.ndarray
    target_groups: np.ndarray
    x_source: np.ndarray
    x_target: np.ndarray
    source_labels: np.ndarray
    target_labels: np.ndarray

    @property
    def groups(self) -> dict[str, np.ndarray]:
        return {"source_groups": self.source_groups, "target_groups": self.target_groups}

    @property
    def weights(self) -> np.ndarray:
        """Row-conditionals, NaN without mass."""
        with np.errstate(invalid="ignore"):
            return self.plan / self.plan.sum(axis=1, keepdims=True)

    def shuffled(self, seed: int) -> Alignment:
        """The same with cells of both sides in another order."""
        rng = np.random.default_rng(seed)
        rows, columns = rng.permutation(len(self.source_groups)), rng.permutation(len(self.target_groups))
        moved = np.r_[np.argsort(columns), -1][self.pairs[rows]]
        source = {name: getattr(self, name)[rows] for name in ("source_groups", "x_source", "source_labels")}
        target = {name: getattr(self, name)[columns] for name in ("target_groups", "x_target", "target_labels")}
        return replace(self, plan=self.plan[np.ix_(rows, columns)], pairs=moved, **source, **target)


class Streamed:
    """A plan that is read in tiles of a few rows, as those that are too large to be held."""

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment
        self.shape = alignment.plan.shape

    def tiles(self, max_rows: int = 1024) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        one = self.alignment
        for group in np.intersect1d(one.source_groups, one.target_groups):
            rows, columns = np.flatnonzero(one.source_groups == group), np.flatnonzero(one.target_groups == group)
            for start in range(0, len(rows), min(max_rows, 2)):
                some = rows[start : start + min(max_rows, 2)]
                yield some, columns, one.plan[np.ix_(some, columns)]


def held_as(kind: str, alignment: Alignment) -> Any:
    """The plan in one of the forms that scores take."""
    return {
        "dense": lambda: alignment.plan,
        "csr": lambda: sp.csr_matrix(alignment.plan),
        "csc": lambda: sp.csc_array(7.0 * alignment.plan),
        "tiles": lambda: Streamed(alignment),
        "coupling": lambda: Coupling.from_matrix(alignment.plan, **alignment.groups),
    }[kind]()


def labels_of(sizes: dict[str, int]) -> np.ndarray:
    return np.repeat(list(sizes), list(sizes.values()))


@pytest.fixture
def alignment() -> Alignment:
    rng = np.random.default_rng(0)
    source, target = labels_of(SOURCE_SIZES), labels_of(TARGET_SIZES)
    plan = rng.gamma(0.5, size=(len(source), len(target))) * (source[:, None] == target)
    plan[[2, 9]] = 0.0
    pairs = np.full(len(source), -1)
    pairs[:5] = [3, 0, 6, 1, 2]
    pairs[5:14] = [7, 9, 8, -1, 12, 10, -1, 11, -1]
    pairs[16] = 16
    x_target = rng.normal(size=(len(target), 3)) + 4.0
    x_source = np.where(pairs[:, None] >= 0, x_target[pairs], 4.0) + rng.normal(scale=0.4, size=(len(source), 3))
    labels = np.array(["T", "B", "NK"])
    return Alignment(
        plan=plan,
        pairs=pairs,
        source_groups=source,
        target_groups=target,
        x_source=x_source,
        x_target=x_target,
        source_labels=labels[rng.integers(3, size=len(source))],
        target_labels=labels[rng.integers(3, size=len(target))],
    )


@pytest.fixture(params=["dense", "csr", "csc", "tiles", "coupling"])
def held(request: pytest.FixtureRequest, alignment: Alignment) -> Any:
    """The plan of `alignment` in every form."""
    return held_as(request.param, alignment)


@pytest.fixture(params=FORMS)
def in_form(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Profiles and labels in one of the forms that data come in, and what a metric is told to read them.

    Labels are given by argument: ``perturbation_key`` becomes column ``perturbation``, and the first has a category more.
    """

    def make(values: np.ndarray, **labels: np.ndarray) -> tuple[Any, dict[str, Any]]:
        form = request.param
        if form == "frame":
            return pd.DataFrame(values), dict(zip(labels, map(list, labels.values()), strict=True))
        keys = {argument: argument.removesuffix("_key") for argument in labels}
        obs = pd.DataFrame({keys[argument]: column for argument, column in labels.items()})
        obs.index = [f"w{i}" for i in range(len(values))]
        first = obs.columns[0]
        obs[first] = pd.Categorical(obs[first], categories=[*sorted(set(obs[first])), "unused"])
        adata = ad.AnnData(values, obs=obs)
        if form == "view":
            more = adata[:3].copy()
            more.X += 1
            adata = ad.concat([adata, more], index_unique="-")[: len(values)]
            assert adata.is_view
        elif form == "backed":
            adata.write_h5ad(tmp_path / "a.h5ad")
            adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        elif form in ("obsm", "frame in obsm"):
            adata.obsm["X_rep"] = values if form == "obsm" else pd.DataFrame(values, index=obs.index)
            adata.X = values * np.nan
            keys["use_rep"] = "X_rep"
        elif form in ("csr", "csc"):
            adata.X = getattr(sp, f"{form}_matrix")(values)
        elif form != "dense":
            adata.X = values.astype(form)
        return adata, keys

    return make


@pytest.fixture
def fitted_screen() -> ad.AnnData:
    """Six perturbations and 20 controls, half of which column `fit` marks, whose `obsm["X_white"]` is said to be whitened."""
    rng = np.random.default_rng(0)
    labels = np.repeat([*"abcdef", "control"], [6] * 6 + [20])
    obs = pd.DataFrame({"perturbation": labels, "fit": (labels == "control") & (np.arange(56) % 2 == 0)})
    adata = ad.AnnData(rng.normal(size=(56, 4)), obs=obs.set_axis([f"w{i}" for i in range(56)]))
    adata.obsm["X_white"] = adata.X.copy()
    adata.uns["X_white"] = {"whitened": True, "fit_on": None}
    return adata
