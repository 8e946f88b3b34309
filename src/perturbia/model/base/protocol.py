"""The protocol that every perturbation model satisfies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.perturbation.value import Query

__all__ = ["Capability", "VirtualCellModel"]

#: What a query may ask of a model beyond a single perturbation that it has seen.
Capability = Literal[
    "combination",
    "dose",
    "unseen_perturbation",
    "unseen_context",
    "counts",
    "image",
    "uncertainty",
    "mechanism",
    "graph",
    "time",
]


@runtime_checkable
class VirtualCellModel(Protocol):
    """Encode cells, perturb their coordinates, decode them: prediction is the composition.

    The protocol is structural: any object with these members can be evaluated and screened, whatever it derives from.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What a query may ask for; anything else is refused before it is computed."""

    def encode(self, adata: AnnData | None = None, *, indices: object = None, batch_size: int | None = None) -> AnnData:
        """Cells to coordinates."""

    def perturb(self, latent: AnnData, query: Query, *, n_draws: int = 1, seed: int | None = 0) -> AnnData:
        """Coordinates under another perturbation."""

    def decode(self, latent: AnnData, *, scale: str | None = None, batch_size: int | None = None) -> AnnData:
        """Coordinates to a readout."""
