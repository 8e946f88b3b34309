"""Write pertpy's energy distances of a small data set into the fixture of our tests.

Run once with each pertpy whose convention is wanted: 1.0.3 counts the zero distances of cells to themselves
(V-statistic), 1.2.0 (Python 3.12) does not (U-statistic).

    .venv-peers/bin/python benchmarks/peers/energy_distance_fixture.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

FIXTURE = Path(__file__).parents[2] / "tests" / "stats" / "pertpy_energy_distance.json"
COUNT = {"a": 12, "b": 3, "c": 17, "control": 20}


def main() -> None:
    """Add the values of the installed pertpy to the fixture."""
    import pertpy

    rng = np.random.default_rng(0)
    labels = np.repeat(list(COUNT), list(COUNT.values()))
    points = np.round(
        rng.normal(size=(len(labels), 4)) + rng.normal(size=(4, 4))[np.unique(labels, return_inverse=True)[1]], 3
    )
    adata = AnnData(
        np.zeros((len(labels), 1)), obs=pd.DataFrame({"group": labels}, index=[f"cell{i}" for i in range(len(labels))])
    )
    adata.obsm["X_pca"] = points
    fixture = json.loads(FIXTURE.read_text()) if FIXTURE.exists() else {"values": {}, "squared": {}}
    fixture |= {"points": points.tolist(), "labels": labels.tolist(), "groups": list(COUNT)}
    for key, metric in (("values", "euclidean"), ("squared", "sqeuclidean")):
        distance = pertpy.tools.Distance("edistance", obsm_key="X_pca", cell_wise_metric=metric)
        pairs = distance.pairwise(adata, groupby="group", show_progressbar=False)
        fixture.setdefault(key, {})[version("pertpy")] = pairs.loc[list(COUNT), list(COUNT)].to_numpy(float).tolist()
    FIXTURE.write_text(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main()
