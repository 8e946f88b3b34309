"""Metadata that every AnnData leaving a model carries."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from perturbia import _keys
from perturbia.errors import RepresentationMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from anndata import AnnData

__all__ = ["check_source", "representation_id", "stamp"]

Kind = Literal["latent", "readout", "effect", "screen"]


def stamp(
    adata: AnnData,
    *,
    kind: Kind,
    ur_id: str,
    model: str,
    scale: str,
    control: Literal["observed", "predicted"] = "observed",
    modality: str = "rna",
    seed: int | None = None,
) -> AnnData:
    """Write the metadata to `uns["perturbia"]`: plain types that survive h5ad and zarr."""
    adata.uns[_keys.UNS_RESULT] = {
        "schema": 1,
        "kind": kind,
        "ur_id": ur_id,
        "model": model,
        "modality": modality,
        "scale": scale,
        "control": control,
        "seed": -1 if seed is None else int(seed),
    }
    return adata


def check_source(latent: AnnData, *, ur_id: str, model: str) -> None:
    """Refuse a latent AnnData that another model, or the same one before more training, has written."""
    found = latent.uns.get(_keys.UNS_RESULT)
    if found is None or found.get("kind") != "latent":
        msg = f"latent: expected the result of {model}.encode, got an AnnData without its metadata."
        raise RepresentationMismatch(msg)
    if found["ur_id"] != ur_id:
        msg = (
            f"latent: expected coordinates of this {model} (ur_id {ur_id}), got those of a {found['model']} "
            f"(ur_id {found['ur_id']}). Encode the cells with this model."
        )
        raise RepresentationMismatch(msg)


def representation_id(state: dict[str, torch.Tensor], names: Sequence[str]) -> str:
    """Short hash of all weights and registered names: equal ids mean comparable coordinates."""
    digest = hashlib.sha256("\n".join(names).encode())
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
