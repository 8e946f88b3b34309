"""Adding perturbations to a trained model: only what is new is fitted, networks and old effects stay as they are."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.data._constants import _SETUP_ARGS_KEY

from perturbia.errors import UnsupportedQuery
from perturbia.model.base._covariates import check_categories, check_columns
from perturbia.model.base._features import check_anndata, check_features, match_features
from perturbia.model.mechanism._global_updates import ClosedFormUpdates
from perturbia.model.mechanism._training_cells import SplitCells
from perturbia.model.mechanism._update_schedule import UpdateSchedule
from perturbia.perturbation.field import PerturbationField, registered_perturbations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from perturbia.model.mechanism._mechanism_module import MechanismModule
    from perturbia.model.mechanism._shift_model import ShiftModel

__all__ = ["extend", "fit_new_rows", "known_rows"]

#: Parameters and buffers with one row (or entry) a treatment.
_ROWS = (
    "effects.mask_logit",
    "effects.mean",
    "effects.log_sd",
    "effects.row_input",
    "effects.at_prior",
    "effects.prior_mean",
    "effects.mask_prior.log_open",
    "effects.mask_prior.log_closed",
    "effects.mask_prior.counts",
    "n_treated",
    "design.log_power",
    "target_shift.shift",
)


def extend(model: ShiftModel, adata: AnnData, **changed: Any) -> ShiftModel:
    """An untrained model on `adata` with the rows of `model` and new ones behind; `changed` replaces its options.

    Raises
    ------
    UnsupportedQuery
        If `adata` holds no perturbation that is new.
    PerturbiaError
        As :meth:`setup_anndata` and the transfer of a model raise it; `adata` is then left as it was.
    """
    check_anndata(adata)
    adata = match_features(adata, model.get_var_names())
    setup_args = model.registry[_SETUP_ARGS_KEY]
    check_columns(adata, setup_args)
    check_categories(adata, model.registry)
    check_features(adata, setup_args.get("layer"), model.scale)
    registered = registered_perturbations(model.registry)
    keys = ("perturbation_key", "perturbation_obsm_key", "dose_key", "control", "sep")
    if not PerturbationField(**{key: setup_args.get(key) for key in keys}).new_names(registered, adata):
        msg = "adata: expected cells of perturbations that the model does not know, got none. Predict with the model as it is."
        raise UnsupportedQuery(msg)
    cls = type(model)
    cls.setup_anndata(adata, source_registry=model.registry, extend_categories=True, **setup_args)
    options = {**model.init_params_["non_kwargs"], **changed}
    new = cls(adata, **options)
    _copy_weights(model, new)
    return new


def _copy_weights(model: ShiftModel, new: ShiftModel) -> None:
    """Networks as they are; rows of treatments and pairs to the places of their labels."""
    theirs, rows = model.module.state_dict(), known_rows(model, new)
    with torch.no_grad():
        for name, value in new.module.state_dict().items():
            if name in _ROWS:
                # tables of treatments alone end before the pairs
                known = torch.from_numpy(rows[: len(theirs[name])])
                value[known.to(value.device)] = theirs[name].to(value.device)
            else:
                value.copy_(theirs[name])
        if new.module.effects.mask_prior.kind == "learned":
            prior = new.module.effects.mask_prior
            fresh = np.setdiff1d(np.arange(len(new.perturbations)), rows)
            for rate in (prior.log_open, prior.log_closed):
                rate[fresh] = rate[rows[0]].clone()


def known_rows(model: ShiftModel, new: ShiftModel) -> np.ndarray:
    """Position of each row of `model`, treatments before pairs, among the rows of `new`."""
    place = {label: i for i, label in enumerate([*new.perturbations, *new._pairs()])}
    return np.array([place[label] for label in [*model.perturbations, *model._pairs()]], dtype=np.int64)


def fit_new_rows(
    new: ShiftModel, fresh: np.ndarray, splits: list[np.ndarray], *, max_steps: int, **trainer: Any
) -> None:
    """Fit the rows `fresh` to the training cells that call them; nothing else moves by a bit.

    Masks and embeddings take their optimum in one update where the model has closed-form updates. What only gradients
    move, such as target effects, takes `max_steps` optimiser steps with all else frozen.
    """
    module = new.module
    dosage = new._registered_dosage(new.adata, splits[0])
    design = module.design.matrix(dosage)
    called = np.asarray((design[:, fresh] != 0).sum(1)).ravel() > 0
    cells = [splits[0][called], *splits[1:]]
    counts = np.asarray((design[:, fresh] != 0).sum(0)).ravel()
    module.n_treated[torch.from_numpy(fresh)] = torch.from_numpy(counts).to(module.n_treated)
    by_gradient = _rows_by_gradient(module, fresh)
    if by_gradient:
        with _frozen_but(module, by_gradient):
            new._train_steps(cells, max_steps=max_steps, **trainer)
    if new.global_update == "closed_form":
        source = SplitCells(new, cells, batch_size=1)
        updates = ClosedFormUpdates(
            module,
            source.encoded("remembered", len(cells[0])),
            dosage[called],
            schedule=UpdateSchedule(1),
            feature_prior=new._feature_prior(),
        )
        updates.finish_rows(fresh)
    else:
        module.settle_effects(torch.from_numpy(fresh).to(new.device))


def _rows_by_gradient(module: MechanismModule, fresh: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters that gradients move, with the rows that may."""
    rows = {}
    for name, parameter in module.named_parameters():
        if name in _ROWS and parameter.requires_grad:
            mine = fresh[fresh < len(parameter)]
            if module.target_shift is not None and name == "target_shift.shift":
                mine = mine[module.target_shift.genes.cpu().numpy()[mine] >= 0]
            if len(mine):
                rows[name] = mine
    return rows


@contextmanager
def _frozen_but(module: torch.nn.Module, rows: dict[str, np.ndarray]) -> Iterator[None]:
    """Let gradients reach some rows of some parameters alone."""
    moved = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    hooks = []
    for name, parameter in moved.items():
        if name not in rows:
            parameter.requires_grad_(False)
            continue
        keep = torch.zeros(len(parameter), dtype=torch.bool, device=parameter.device)
        keep[torch.from_numpy(rows[name])] = True
        keep = keep.reshape(-1, *[1] * (parameter.ndim - 1))
        hooks.append(parameter.register_hook(partial(_masked, keep=keep)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in moved.values():
            parameter.requires_grad_(True)


def _masked(gradient: torch.Tensor, *, keep: torch.Tensor) -> torch.Tensor:
    # Adam leaves an entry whose gradients were always zero where it is
    return torch.where(keep.to(gradient.device), gradient, 0.0)
