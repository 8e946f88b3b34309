"""Reading the options of a mechanism model: which pairs interact, which genes are targets, what the switches allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from perturbia.errors import LabelError, ScaleError, shorten
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.mechanism._effects import EmbeddingGuide
from perturbia.model.mechanism._mechanism_module import BasalEncoder, GlobalKL, GlobalUpdate, MechanismModule
from perturbia.nn.decoder import Likelihood
from perturbia.nn.mask_prior import MaskPriorKind
from perturbia.nn.treatment_design import DoseResponse
from perturbia.perturbation import as_perturbation, unique_dosages

if TYPE_CHECKING:
    from scipy import sparse

    from perturbia.model.mechanism._latent_shift import LatentShiftModel

__all__ = ["build_module", "check_switches", "interacting_pairs", "observed_pairs", "target_genes"]


#: Arguments that models and their module name alike.
_OF_MODULE = (
    "n_latent",
    "n_hidden",
    "n_layers",
    "n_particles",
    "gene_likelihood",
    "basal_encoder",
    "global_update",
    "global_kl",
    "embedding_guide",
    "mask_prior",
    "mask_prior_prob",
    "embedding_prior_scale",
    "dose_response",
    "sparsity",
    "sparsity_weight",
    "temperature",
)
#: Switches that a model does not have, as :func:`check_switches` reads them.
_DEFAULTS: dict[str, Any] = {
    "basal_encoder": "residual",
    "global_update": "closed_form",
    "global_kl": "closed",
    "embedding_guide": "independent",
    "gene_likelihood": "nb",
    "mask_prior": "fixed",
    "mask_prior_prob": 0.1,
    "interaction_prior_prob": 0.01,
    "embedding_prior_scale": 1.0,
    "dose_response": "linear",
    "temperature": 1.0,
    "perturbation_embedding": None,
}


def build_module(model: LatentShiftModel, switches: Mapping[str, Any], *, seed: int, **options: Any) -> MechanismModule:
    """Module for the registered data of a model, its initial weights drawn under `seed`.

    Parameters
    ----------
    model
        The model, registered.
    switches
        Arguments of the user, checked here; those that the module shares are passed on.
    seed
        Seed of the initial weights.
    options
        Further arguments of the module.
    """
    switches = {**_DEFAULTS, **switches}
    check_switches(switches, scale=model.scale)
    shared = {name: switches[name] for name in _OF_MODULE if name in switches}
    for name in ("n_latent", "n_hidden", "n_layers", "n_particles"):
        if name in shared:
            check_positive_integer(name, shared[name])
    stats = model.summary_stats
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MechanismModule(
            n_input=stats.n_vars,
            n_treatments=len(model.perturbations),
            n_batch=stats.n_batch,
            n_cats_per_cov=model._covariate_categories(),
            n_continuous_cov=stats.get("n_extra_continuous_covs", 0),
            **{**shared, **options},
        )


def check_switches(switches: Mapping[str, Any], *, scale: str) -> None:
    """Check the switches of a model, and that they go together.

    Raises
    ------
    ValueError
        If one is unknown, out of range, or excludes another.
    ScaleError
        If the likelihood does not fit the registered scale.
    """
    choices: dict[str, tuple[Any, ...]] = {
        "basal_encoder": get_args(BasalEncoder),
        "global_update": get_args(GlobalUpdate),
        "global_kl": get_args(GlobalKL),
        "embedding_guide": get_args(EmbeddingGuide),
        "gene_likelihood": get_args(Likelihood),
        "mask_prior": get_args(MaskPriorKind),
        "dose_response": get_args(DoseResponse),
    }
    for name, options in choices.items():
        check_choice(name, switches[name], options)
    if switches["global_update"] == "closed_form" and switches["basal_encoder"] not in {"residual", "informed"}:
        msg = f"global_update: expected 'gradient' with basal_encoder={switches['basal_encoder']!r}, got 'closed_form'."
        raise ValueError(msg)
    if switches["embedding_guide"] == "correlated":
        needed = {"basal_encoder": ("correlated", "mean_field"), "global_kl": ("plated",), "mask_prior": ("fixed",)}
        for name, allowed in needed.items():
            if switches[name] not in allowed:
                expected = " or ".join(map(repr, allowed))
                msg = f"{name}: expected {expected} with embedding_guide='correlated', got {switches[name]!r}."
                raise ValueError(msg)
    for name in ("mask_prior_prob", "interaction_prior_prob"):
        if not 0 < switches[name] < 1:
            msg = f"{name}: expected a probability strictly between 0 and 1, got {switches[name]}."
            raise ValueError(msg)
    for name in ("embedding_prior_scale", "temperature"):
        if not switches[name] > 0:
            msg = f"{name}: expected a positive number, got {switches[name]}."
            raise ValueError(msg)
    if (switches["gene_likelihood"] == "normal") == (scale == "counts"):
        msg = f"gene_likelihood: {switches['gene_likelihood']!r} does not fit data registered with scale={scale!r}."
        raise ScaleError(msg)
    if switches["perturbation_embedding"] is not None:
        if switches["mask_prior"] != "fixed":
            msg = f"mask_prior: expected 'fixed' with perturbation_embedding, which sets the rates, got {switches['mask_prior']!r}."
            raise ValueError(msg)
        if switches["global_update"] != "closed_form":
            msg = "global_update: expected 'closed_form' with perturbation_embedding, got 'gradient'."
            raise ValueError(msg)


def observed_pairs(dosage: sparse.csr_matrix) -> list[tuple[int, int]]:
    """Pairs of treatments that some cell was given, as positions in rising order."""
    unique, _ = unique_dosages(dosage)
    together = (unique != 0).astype(np.int64)
    rows, columns = (together.T @ together).nonzero()
    upper = rows < columns
    return sorted(zip(rows[upper].tolist(), columns[upper].tolist(), strict=True))


def interacting_pairs(pairs: Sequence[str], names: Sequence[str], *, control: Any, sep: str) -> list[tuple[int, int]]:
    """Positions of the members of pairs written as labels.

    Raises
    ------
    LabelError
        If a label is no pair of registered treatments.
    """
    place = {name: i for i, name in enumerate(names)}
    found = []
    for label in pairs:
        members = as_perturbation(label, control=control, sep=sep).names
        if len(members) != 2 or not all(member in place for member in members):
            msg = (
                f"interactions: expected pairs of registered perturbations such as 'A+B', got {label!r}. "
                f"Registered: {shorten(names, limit=5)}."
            )
            raise LabelError(msg)
        found.append((place[members[0]], place[members[1]]))
    return found


def target_genes(
    target_effect: bool | Mapping[str, str],  # noqa: FBT001  a switch, or what it switches on
    names: Sequence[str],
    features: Sequence[str],
) -> list[int] | None:
    """Position of the feature that each treatment targets, -1 for none; None without target effects.

    Raises
    ------
    LabelError
        If no treatment has a target among the features, or a mapping names something that is not registered.
    """
    if target_effect is False:
        return None
    mapping = {name: name for name in names} if target_effect is True else target_effect
    if not isinstance(mapping, Mapping):
        msg = (
            f"target_effect: expected 'auto', a truth value or a mapping of perturbations to features, got {mapping!r}."
        )
        raise LabelError(msg)
    place = {str(feature): i for i, feature in enumerate(features)}
    if target_effect is not True:
        strangers = [name for name in mapping if name not in set(names)]
        strangers += [gene for gene in mapping.values() if str(gene) not in place]
        if strangers:
            msg = f"target_effect: expected registered perturbations and features, got {shorten(strangers, limit=5)}."
            raise LabelError(msg)
    genes = [place.get(str(mapping.get(name)), -1) for name in names]
    if max(genes, default=-1) < 0:
        msg = (
            "target_effect: expected perturbations that are named after a feature, found none. Pass a mapping of "
            "perturbations to features, or leave it out."
        )
        raise LabelError(msg)
    return genes
