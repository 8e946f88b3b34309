"""Wells in every form that data come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMS = ["view", "file", "csc", "csr", "float64", "integers", "unused categories", "text columns", "in obsm"]


@pytest.fixture(scope="session")
def _drawn_wells() -> ad.AnnData:
    return pb.datasets.simulate_plates(
        n_complexes=4, n_single_genes=4, n_plates=4, n_controls=12, n_features=40, n_factors=20
    )


@pytest.fixture
def wells(_drawn_wells) -> ad.AnnData:
    return _drawn_wells.copy()


@pytest.fixture
def in_form(tmp_path: Path) -> Callable[[ad.AnnData, str], tuple[ad.AnnData, dict]]:
    """The same wells in another form, and what a function is told to read them."""

    def make(wells: ad.AnnData, form: str) -> tuple[ad.AnnData, dict]:
        wells = wells.copy()
        wells.uns.clear()
        options: dict = {}
        if form == "view":
            more = ad.concat([wells, wells[:7].copy()])
            more.obs_names = [*wells.obs_names, *(f"more{i}" for i in range(7))]
            return more[: wells.n_obs], options
        if form == "file":
            wells.write_h5ad(tmp_path / "wells.h5ad")
            return ad.read_h5ad(tmp_path / "wells.h5ad", backed="r"), options
        if form in ("csc", "csr"):
            wells.X = getattr(sparse, f"{form}_matrix")(wells.X)
        elif form == "float64":
            wells.X = wells.X.astype(np.float64)
        elif form == "integers":
            wells.X = np.round(wells.X * 1000).astype(np.int32)
        elif form == "unused categories":
            for key in ("perturbation", "plate"):
                wells.obs[key] = wells.obs[key].cat.add_categories(["nobody"])
        elif form == "text columns":
            for key in ("perturbation", "plate"):
                wells.obs[key] = wells.obs[key].astype(str)
        elif form == "in obsm":
            wells.obsm["X_other"] = pd.DataFrame(wells.X, index=wells.obs_names)
            wells.X = np.zeros_like(wells.X)
            options["use_rep"] = "X_other"
        return wells, options

    return make
