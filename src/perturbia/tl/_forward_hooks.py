"""Outputs of modules inside a network, recorded while it runs on data."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.nn import FCLayers
from torch.distributions import Distribution

from perturbia.errors import FeatureMismatch, nearest_names, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

__all__ = ["BlockRecorder", "encoder_blocks", "evaluation_mode", "named_blocks"]


@contextmanager
def evaluation_mode(module: nn.Module, *, seed: int) -> Iterator[None]:
    """Run a module without gradients, dropout or running statistics, under random numbers of its own.

    Afterwards each of its parts is in the mode it was in, and random numbers go on as if nothing had run.
    """
    modes = {part: part.training for part in module.modules()}
    devices = sorted({tensor.device.index for tensor in module.parameters() if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        try:
            module.eval()
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def encoder_blocks(module: nn.Module) -> dict[str, nn.Module]:
    """Layers of every `FCLayers` of a module, and what encloses them, the encoder with its mean; encoders of library sizes left out.

    Parameters
    ----------
    module
        Module of a scvi-tools model.

    Returns
    -------
    Modules by short name: ``z_encoder_1``, ``z_encoder_2``, …, ``z_encoder_mean``. Decoders are among them: what does not
    run while cells are encoded has to be dropped.
    """
    found = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, FCLayers) and not any(step.startswith(("l_", "d_")) for step in name.split("."))
    }
    owners = Counter(name.rpartition(".")[0] for name in found)
    blocks: dict[str, nn.Module] = {}
    for name, part in found.items():
        owner = name.rpartition(".")[0]
        prefix = owner if owner and owners[owner] == 1 else name
        blocks |= {f"{prefix}_{i + 1}": layer for i, (_, layer) in enumerate(_last_steps(part))}
        if owner:
            blocks[f"{owner}_mean"] = module.get_submodule(owner)
    return blocks


def named_blocks(module: nn.Module, layers: Mapping[str, str]) -> dict[str, nn.Module]:
    """Modules by the names that `layers` gives them; its values are names of `named_modules`.

    Raises
    ------
    FeatureMismatch
        If there is no such module, or one is named twice.
    """
    known = {name: part for name, part in module.named_modules() if name}
    # FCLayers walks over the steps of a layer and never calls the layer: its last step has the same output
    for name, part in list(known.items()):
        if isinstance(part, FCLayers):
            known |= {f"{name}.fc_layers.{step}": layer for step, layer in _last_steps(part)}
            known[f"{name}.fc_layers"] = part
    for layer in layers.values():
        if layer not in known:
            near = ", ".join(map(repr, nearest_names(str(layer), list(known)))) or "none"
            msg = (
                f"layers: expected names of model.module.named_modules(), got {layer!r} (nearest: {near}). {len(known)} modules "
                "are there."
            )
            raise FeatureMismatch(msg)
    blocks = {name: known[layer] for name, layer in layers.items()}
    twice = [name for name, part in blocks.items() if sum(part is other for other in blocks.values()) > 1]
    if twice:
        msg = f"layers: expected every module once, got {shorten(twice)}, which are one. Name one of them."
        raise FeatureMismatch(msg)
    return blocks


def _last_steps(part: FCLayers) -> Iterator[tuple[str, nn.Module]]:
    """Name of each layer, and its last step."""
    for name, layer in part.fc_layers.named_children():
        yield name, list(layer.children())[-1]


class BlockRecorder:
    """Records what modules return, one minibatch after the other, while it is entered.

    Parameters
    ----------
    blocks
        Modules by name.
    n_rows
        Rows of all minibatches.
    pool
        ``"mean"`` or ``"first"`` of the tokens of a row.
    optional
        Whether blocks that do not run, or return no features, are dropped at the first minibatch, else refused.
    """

    def __init__(self, blocks: dict[str, nn.Module], n_rows: int, *, pool: str, optional: bool) -> None:
        self.values: dict[str, np.ndarray] = {}
        self._blocks, self._n_rows, self._pool, self._optional = dict(blocks), n_rows, pool, optional
        self._calls: Counter[str] = Counter()
        self._start = self._size = 0
        self._handles: dict[str, Any] = {}

    def __enter__(self) -> BlockRecorder:
        for name, part in self._blocks.items():
            self._handles[name] = part.register_forward_hook(self._hook(name))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            handle.remove()

    @contextmanager
    def minibatch(self, size: int) -> Iterator[None]:
        """What modules return meanwhile belongs to the next `size` rows."""
        self._size = size
        self._calls.clear()
        yield
        for name in list(self._blocks):
            if self._calls[name] != 1:
                self._misses(name)
        self._start += size

    def _misses(self, name: str) -> None:
        n_calls = self._calls[name]
        if n_calls == 0 and self._optional and self._start == 0:
            self._handles.pop(name).remove()
            del self._blocks[name]
            return
        problem = "which does not run" if n_calls == 0 else f"which runs {n_calls} times"
        ran = shorten(self.values) or "none"
        msg = f"layers: expected modules that run once while cells are encoded, got {name!r}, {problem}. Of those named, {ran} ran."
        raise FeatureMismatch(msg)

    def _hook(self, name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            features = self._features(output)
            if features is None:
                if not self._optional:
                    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                    msg = (
                        f"layers: expected features (n_cells, d) or tokens (n_cells, n_tokens, d) of {self._size} cells, got "
                        f"{shape} from {name!r}. Name a module inside of it, or one before."
                    )
                    raise FeatureMismatch(msg)
                return
            self._calls[name] += 1
            if name not in self.values:
                self.values[name] = np.empty((self._n_rows, features.shape[1]), dtype=np.float32)
            # at once: a later module may work in place
            self.values[name][self._start : self._start + self._size] = (
                features.detach().to("cpu", torch.float32).numpy()
            )

        return record

    def _features(self, output: Any) -> torch.Tensor | None:
        """Features of each row, (n_rows, d), or None if there are none in the output."""
        while isinstance(output, tuple | list) and len(output):
            output = output[0]
        if isinstance(output, Distribution):
            output = output.mean
        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3) or len(output) != self._size:
            return None
        if output.ndim == 2:
            return output
        return output.float().mean(dim=1) if self._pool == "mean" else output[:, 0]
