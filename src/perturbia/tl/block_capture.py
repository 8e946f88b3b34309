"""Features of every block of a trained model, from one pass over the data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbia.errors import UnsupportedQuery, shorten
from perturbia.perturbation._copies import require_writable
from perturbia.stats._settings import check_choice, check_positive_integer, check_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from anndata import AnnData
    from scvi.model.base import BaseModelClass

__all__ = ["block_representations"]


def block_representations(
    model: BaseModelClass,
    adata: AnnData | None = None,
    *,
    layers: Sequence[str] | Mapping[str, str] | None = None,
    pool: Literal["mean", "first"] = "mean",
    batch_size: int | None = None,
    prefix: str = "X_",
    seed: int = 0,
    progress: bool = False,
) -> list[str]:
    """Write the outputs of the layers of a model to `obsm`, all of them from one pass, for :func:`block_search`.

    The model runs as it does when it encodes cells, without dropout, gradients or updates of running statistics, and is left
    as it was; so are the random numbers of torch.

    Parameters
    ----------
    model
        Any model of scvi-tools or Perturbia with an encoder; not necessarily trained, for its untrained layers are what
        training has to surpass.
    adata
        Data with the registered features; by default the data of the model.
    layers
        Names in ``model.module.named_modules()``, or a mapping of names of your own to these. By default the layers of
        every `FCLayers` that encodes cells, ``z_encoder_1``, ``z_encoder_2``, …, and the mean of the latents that it leads
        to, ``z_encoder_mean``; encoders of library sizes are left out. A layer inside `FCLayers` may be named as a whole,
        such as ``"z_encoder.encoder.fc_layers.Layer 0"``: its last step is taken.
    pool
        What is kept of outputs (n_cells, n_tokens, d): the ``"mean"`` of the tokens, or the ``"first"``, as for a class token.
    batch_size
        Cells a minibatch, 1024 by default.
    prefix
        Beginning of the keys.
    seed
        Seed of what a model draws while it encodes; encoders of scvi-tools read no draws.
    progress
        Show a progress bar.

    Returns
    -------
    Keys of `obsm` in the order in which the layers run, that is of depth. Written are

    - `obsm[prefix + layer]`: float32 (n_obs, d). Of a distribution the mean is written, of several outputs the first.

    Data that were not registered yet are, as by any method of the model.

    Raises
    ------
    TypeError
        If `model` is no model of scvi-tools.
    FeatureMismatch
        If a layer does not exist (the message has the nearest names), does not run or runs several times while cells are
        encoded, or returns no features of cells.
    UnsupportedQuery
        If the model has no inference step, the data hold latents in place of features, or nothing can be written to a view
        of a backed file.
    ValueError
        If outputs are not finite, or an option is none of the above.

    Warns
    -----
    UserWarning
        The model is not trained.
    RuntimeWarning
        The encoder reads the perturbations of cells: its layers tell them apart because they were told.

    Notes
    -----
    Needs memory for the outputs, 4 n_obs d bytes a layer, and the time of one pass of the encoder.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=0, n_genes=20, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=3, n_hidden=8, n_layers=2)
    >>> model.train(max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False)
    >>> pb.tl.block_representations(model)
    ['X_encoder_1', 'X_encoder_2', 'X_encoder_mean']
    >>> adata.obsm["X_encoder_2"].shape[1]
    8
    """
    from perturbia.tl._forward_hooks import BlockRecorder, encoder_blocks, evaluation_mode, named_blocks

    _check(model, adata, pool, batch_size, prefix, seed)
    own = None if layers is None else _names_of(layers)
    blocks = encoder_blocks(model.module) if own is None else named_blocks(model.module, own)
    if not blocks:
        names = [name for name, _ in model.module.named_modules() if name]
        msg = f"layers: expected names of modules, since no FCLayers are in {type(model).__name__}, got None. Modules are {shorten(names) or 'none'}."
        raise UnsupportedQuery(msg)
    target = model.adata if adata is None else adata
    data = model._validate_anndata(adata)
    _require_features(data)
    with (
        evaluation_mode(model.module, seed=seed),
        BlockRecorder(blocks, data.n_obs, pool=pool, optional=own is None) as recorder,
    ):
        _encode(model, data, recorder, batch_size or 1024, progress=progress)
    broken = [name for name, values in recorder.values.items() if not np.isfinite(values).all()]
    if broken or not recorder.values:
        got = f"NaN or infinity from {shorten(broken)}" if broken else "none"
        msg = f"layers: expected finite outputs of layers, got {got}."
        raise ValueError(msg)
    for name, values in recorder.values.items():
        target.obsm[prefix + name] = values
    return [prefix + name for name in recorder.values]


def _check(model: Any, adata: AnnData | None, pool: str, batch_size: int | None, prefix: str, seed: int) -> None:
    from scvi.model.base import BaseModelClass

    if not isinstance(model, BaseModelClass):
        msg = f"model: expected a model of scvi-tools, such as perturbia.model.SAMSVAE, got {type(model).__name__}."
        raise TypeError(msg)
    check_choice("pool", pool, ("mean", "first"))
    check_seed(seed)
    if batch_size is not None:
        check_positive_integer("batch_size", batch_size)
    if not isinstance(prefix, str):
        msg = f"prefix: expected text, got {prefix!r}."
        raise ValueError(msg)
    if not hasattr(model.module, "inference"):
        msg = f"model: expected a model that encodes cells, got {type(model).__name__}, whose module has no inference step."
        raise UnsupportedQuery(msg)
    target = model.adata if adata is None else adata
    if target is None:
        msg = f"adata: expected data, got None, and this {type(model).__name__} was made without any. Pass the cells."
        raise ValueError(msg)
    require_writable(target, fix="Pass a copy, .to_memory().")
    if not model.is_trained:
        msg = f"model: this {type(model).__name__} is not trained; its layers are those of random weights."
        warnings.warn(msg, UserWarning, stacklevel=3)
    if getattr(getattr(model.module, "encoder", None), "n_condition", 0):
        msg = (
            "model: its encoder reads the perturbation of each cell, so that its layers tell perturbations apart because "
            "they were told. Do not search its blocks for perturbations."
        )
        warnings.warn(msg, RuntimeWarning, stacklevel=3)


def _names_of(layers: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(layers, Mapping):
        names = {str(name): layer for name, layer in layers.items()}
    else:
        listed = [layers] if isinstance(layers, str) else list(layers)
        names = dict(zip(listed, listed, strict=True))
        if len(names) < len(listed):
            msg = f"layers: expected every module once, got {shorten(listed)}."
            raise ValueError(msg)
    if not names:
        msg = "layers: expected names of modules, or None for those of encoders, got none."
        raise ValueError(msg)
    return names


def _require_features(data: AnnData) -> None:
    from perturbia import _keys

    if data.uns.get(_keys.UNS_MINIFY_TYPE) is not None:
        msg = "adata: expected data with features, got minified data, whose latents are stored and not encoded. Pass the original data."
        raise UnsupportedQuery(msg)


def _encode(model: BaseModelClass, data: AnnData, recorder: Any, batch_size: int, *, progress: bool) -> None:
    """One pass of the encoder over all cells in order."""
    from rich.progress import track
    from scvi import REGISTRY_KEYS

    from perturbia.model.mechanism._mechanism_module import MechanismModule

    module = model.module
    loader = model._make_data_loader(adata=data, batch_size=batch_size)
    for tensors in track(loader, "Encoding", disable=not progress, transient=True):
        own = _on_device(tensors, model.device)
        first = own.get(REGISTRY_KEYS.X_KEY, next(iter(own.values())))
        with recorder.minibatch(len(first)):
            if isinstance(module, MechanismModule):
                module.guide(own)  # under the expected effects of perturbations, where inference draws them
            else:
                module.inference(**module._get_inference_input(own))


def _on_device(tensors: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: values.to(device) if hasattr(values, "to") else values for name, values in tensors.items()}
