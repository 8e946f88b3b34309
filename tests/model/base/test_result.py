from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

from perturbia.errors import RepresentationMismatch
from perturbia.model.base._result import check_source, representation_id, stamp


def latent(**changes: object) -> ad.AnnData:
    options = {"kind": "latent", "ur_id": "abc", "model": "M", "scale": "embedding", **changes}
    return stamp(ad.AnnData(np.zeros((1, 1)), layers={"sd": np.zeros((1, 1))}), **options)


def test_metadata_are_plain() -> None:
    metadata = latent(seed=3).uns["perturbia"]
    assert {key: type(value) for key, value in metadata.items()} == {
        "schema": int,
        "kind": str,
        "ur_id": str,
        "model": str,
        "modality": str,
        "scale": str,
        "control": str,
        "seed": int,
    }
    assert latent().uns["perturbia"]["seed"] == -1  # files know no None


def test_sources_are_told_apart() -> None:
    check_source(latent(), ur_id="abc", model="M", dimensions=["0"])
    with pytest.raises(RepresentationMismatch, match=r"ur_id xyz.*of a M \(ur_id abc\)"):
        check_source(latent(), ur_id="xyz", model="N", dimensions=["0"])
    for other in (ad.AnnData(np.zeros((1, 1))), latent(kind="readout")):
        with pytest.raises(RepresentationMismatch, match=r"M\.encode"):
            check_source(other, ur_id="abc", model="M", dimensions=["0"])
    with pytest.raises(RepresentationMismatch, match="2 dimensions of M"):
        check_source(latent(), ur_id="abc", model="M", dimensions=["0", "1"])


def test_identity_follows_weights_and_names() -> None:
    state = {"a": torch.zeros(2), "b": torch.ones(1)}
    base = representation_id(state, ["x"])
    assert base == representation_id(dict(reversed(state.items())), ["x"])
    others = [
        representation_id({**state, "a": torch.tensor([0.0, 1e-6])}, ["x"]),
        representation_id(state, ["y"]),
        representation_id({"a": torch.zeros(2), "c": torch.ones(1)}, ["x"]),
    ]
    assert len({base, *others}) == 4
    assert len(base) == 12
