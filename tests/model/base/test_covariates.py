from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbia.errors import ScaleError, UnsupportedQuery
from perturbia.model.base._covariates import check_categories, check_columns


@pytest.fixture
def adata() -> ad.AnnData:
    obs = pd.DataFrame({"lane": ["1", "2"], "phase": ["S", "G1"], "size": [10.0, 20.0]}, index=["a", "b"])
    return ad.AnnData(np.ones((2, 2)), obs=obs)


@pytest.mark.parametrize(
    "setup",
    [
        {"batch_key": "plate"},
        {"size_factor_key": "plate"},
        {"categorical_covariate_keys": ["phase", "plate"]},
        {"continuous_covariate_keys": ["plate"]},
    ],
)
def test_columns_must_exist(adata: ad.AnnData, setup: dict) -> None:
    with pytest.raises(KeyError, match=r"\['plate'\].*'lane'"):
        check_columns(adata, setup)


def test_no_covariates_pass(adata: ad.AnnData) -> None:
    check_columns(adata, {})
    check_columns(adata, {"batch_key": None, "categorical_covariate_keys": None, "size_factor_key": "size"})


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "big"])
def test_size_factors_are_positive(adata: ad.AnnData, value: object) -> None:
    adata.obs["size"] = [10.0, value]
    with pytest.raises(ScaleError, match=r"obs\['size'\].*1 cell"):
        check_columns(adata, {"size_factor_key": "size"})


def test_categories_must_be_registered(adata: ad.AnnData) -> None:
    registry = {
        "setup_args": {"batch_key": "lane"},
        "field_registries": {
            "batch": {"state_registry": {"categorical_mapping": np.array([1, 2, 3])}},
            "extra_categorical_covs": {"state_registry": {"mappings": {"phase": np.array(["G1", "S"])}}},
        },
    }
    check_categories(adata, registry)
    adata.obs["phase"] = ["S", "M"]
    with pytest.raises(UnsupportedQuery, match=r"obs\['phase'\], got 'M'.*'G1', 'S'"):
        check_categories(adata, registry)
    adata.obs["phase"], adata.obs["lane"] = "S", "4"
    with pytest.raises(UnsupportedQuery, match=r"obs\['lane'\], got '4'"):
        check_categories(adata, registry)
