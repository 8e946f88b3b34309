"""What a user can ask of the demo."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from perturbia.errors import PerturbiaError

__all__ = ["DemoInputError", "DemoOptions"]


class DemoInputError(PerturbiaError, ValueError):
    """A file or an option that the demo can not work with."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the demo.

    Attributes
    ----------
    out
        Folder to write to; made if it is missing, files in it are replaced.
    seed
        Seed of the split, the model and the simulation.
    fast
        Few cells and few steps: a check that everything runs, whose numbers mean nothing.
    data
        An h5ad file of raw counts, ``None`` for the bundled screen.
    perturbation_key, control, layer, batch_key
        Where that file has its labels, control label, counts and batches.
    """

    out: Path = Path("perturbia-demo")
    seed: int = 0
    fast: bool = False
    data: Path | None = None
    perturbation_key: str = "perturbation"
    control: str = "control"
    layer: str | None = None
    batch_key: str | None = None

    def __post_init__(self) -> None:
        """Refuse options that would fail late, or have no effect."""
        if self.seed < 0:
            msg = f"--seed: expected 0 or more, got {self.seed}."
            raise DemoInputError(msg)
        if self.out.exists() and not self.out.is_dir():
            msg = f"--out: expected a folder, got {str(self.out)!r}, which is a file. Name another."
            raise DemoInputError(msg)
        given = [
            f"--{one.name.replace('_', '-')}"
            for one in fields(self)
            if one.name in {"perturbation_key", "control", "layer", "batch_key"}
            and getattr(self, one.name) != one.default
        ]
        if given and self.data is None:
            msg = f"{', '.join(given)}: expected --data beside it, got none. Name the file that it describes."
            raise DemoInputError(msg)

    @property
    def train_options(self) -> dict[str, int]:
        """Arguments of `train`: its own defaults, unless everything is to be fast."""
        return {"max_steps": 150} if self.fast else {}

    @property
    def max_cells(self) -> int | None:
        """Cells of the screen to use."""
        return 4000 if self.fast else None

    @property
    def max_umap_cells(self) -> int:
        """Cells to embed in two dimensions."""
        return 600 if self.fast else 16_000
