"""SAMS-VAE: sparse additive mechanism shifts of perturbations in the latent space of a variational autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.model.base._arguments import check_choice
from perturbia.model.base._embedding import read_embedding
from perturbia.model.mechanism._feature_prior import FeaturePrior
from perturbia.model.mechanism._mechanism_module import MechanismModule
from perturbia.model.mechanism._model_options import build_module, interacting_pairs, observed_pairs, target_genes
from perturbia.model.mechanism._shift_model import ShiftModel
from perturbia.perturbation.field import registered_perturbations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from perturbia.model.mechanism._effects import EmbeddingGuide
    from perturbia.model.mechanism._mechanism_module import BasalEncoder, GlobalKL, GlobalUpdate
    from perturbia.nn.decoder import Likelihood
    from perturbia.nn.mask_prior import MaskPriorKind
    from perturbia.nn.treatment_design import DoseResponse

__all__ = ["SAMSVAE"]


class SAMSVAE(ShiftModel):
    r"""Sparse additive mechanism shift variational autoencoder.

    Cells have a basal state :math:`z^b`, perturbations shift it additively and sparsely, and a neural decoder turns
    the sum into counts:

    .. math::
        z_i = z_i^b + \sum_t d_{it}\, m_t \odot e_t, \quad
        m_{tl} \sim \mathrm{Bernoulli}(\alpha), \quad e_t \sim N(0, s_E^2 I), \quad
        x_i \sim \mathrm{NB}(l_i\, \mathrm{softmax}\, f(z_i), \theta)

    The default inference encodes the total latent and updates masks and embeddings in closed form, turning the latent
    basis towards sparse effects on the way; the published one is
    ``basal_encoder="correlated", embedding_guide="correlated", global_kl="plated", n_particles=5``.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    n_latent
        Number of latent dimensions.
    n_hidden
        Width of encoder and decoder.
    n_layers
        Hidden layers of encoder and decoder.
    gene_likelihood
        ``"nb"``, ``"zinb"`` and ``"poisson"`` for counts, ``"normal"`` for any other scale.
    basal_encoder
        ``"residual"`` (ours), ``"informed"``, the same with the expected shift of the cell among its inputs, or the
        published guides ``"correlated"`` and ``"mean_field"``; the last can not tell a perturbation from a state and
        is kept for comparison.
    global_update
        ``"closed_form"`` (with the residual or informed guide) or ``"gradient"``.
    global_kl
        ``"closed"``: the KL of masks and embeddings in closed form, once per data set; ``"plated"``: sampled, spread
        over the cells of each perturbation, as published.
    embedding_guide
        ``"independent"``: an embedding knows its own mask at most; ``"correlated"``: a network gives the embeddings of a
        perturbation from its whole mask, as published, with sampled masks and ``global_kl="plated"``.
    mask_prior_prob
        Prior probability :math:`\alpha` that a perturbation moves a latent.
    mask_prior
        ``"fixed"`` keeps `mask_prior_prob`; ``"learned"`` estimates one probability for all perturbations;
        ``"beta"`` gives each perturbation one of its own, with a Beta prior around `mask_prior_prob`.
    embedding_prior_scale
        Prior standard deviation :math:`s_E` of a shift, in units of the basal standard deviation.
    dose_response
        ``"linear"``: a dose multiplies the shift; ``"power"``: its power :math:`d^{\gamma_t}` does, with one exponent
        a perturbation (:meth:`get_dose_exponents`).
    interactions
        Pairs that move the cell beyond the sum of their members: ``"none"``, ``"observed"`` for every pair in the
        data, or labels such as ``["A+B"]``. A pair without training cells keeps its prior, which is no interaction.
    interaction_prior_prob
        Prior probability that a pair moves a latent; sparser than that of its members.
    target_effect
        Let each perturbation act on its own target's expression directly, beyond its shift: ``"auto"``, or `True`, for
        perturbations named after a feature (`True` insists that there are some), `False`, or a mapping of perturbations to
        features (:meth:`get_target_effects`).
    perturbation_embedding
        Features of perturbations, a data frame indexed by name or an array with a row for each. Perturbations
        without training cells are then expected to do what those with like features did, in place of nothing.
    n_particles
        Draws of the latent per cell and step.
    temperature
        Temperature of relaxed masks under the published guides.
    seed
        Seed of initial weights and of training.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> model.get_latent_representation().shape
    (900, 5)

    References
    ----------
    Bereket, M. and Karaletsos, T. (2023). Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder. NeurIPS.
    """

    _module_cls = MechanismModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        n_layers: int = 1,
        gene_likelihood: Likelihood = "nb",
        basal_encoder: BasalEncoder = "residual",
        global_update: GlobalUpdate | None = None,
        global_kl: GlobalKL = "closed",
        embedding_guide: EmbeddingGuide = "independent",
        mask_prior_prob: float = 0.1,
        mask_prior: MaskPriorKind = "fixed",
        embedding_prior_scale: float = 1.0,
        dose_response: DoseResponse = "linear",
        interactions: Sequence[str] | Literal["none", "observed"] = "none",
        interaction_prior_prob: float = 0.01,
        target_effect: bool | Literal["auto"] | Mapping[str, str] = "auto",
        perturbation_embedding: pd.DataFrame | np.ndarray | None = None,
        n_particles: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        if global_update is None:
            global_update = "closed_form" if basal_encoder in {"residual", "informed"} else "gradient"
        # as labels: a model that is loaded without data has to find the same pairs
        interactions = self._read_interactions(interactions)
        if target_effect == "auto":
            # settled by the data that the model is made of: an extended model keeps what this one has
            target_effect = not set(self.perturbations).isdisjoint(self.get_var_names())
        self.global_update = global_update
        self.seed = seed
        registered = registered_perturbations(self.registry)
        self._embedding = (
            None if perturbation_embedding is None else read_embedding(perturbation_embedding, self.perturbations)
        )
        labels = {"control": registered["control"], "sep": registered["sep"]}
        self.module = build_module(
            self,
            locals(),
            seed=seed,
            pairs=interacting_pairs(interactions, self.perturbations, **labels),
            pair_prior_prob=interaction_prior_prob,
            target_genes=target_genes(target_effect, self.perturbations, list(self.get_var_names())),
            conditioned=perturbation_embedding is not None,
        )
        self._model_summary_string = self._summary(n_latent, n_hidden, n_layers, gene_likelihood, basal_encoder)
        self.init_params_ = self._get_init_params(locals())

    def get_treatment_masks(self, *, kind: Literal["prob", "binary"] = "prob", threshold: float = 0.5) -> pd.DataFrame:
        """Which latents each perturbation moves.

        Parameters
        ----------
        kind
            Posterior probabilities, or 1 where they exceed `threshold`.
        threshold
            Cut of ``"binary"``.

        Returns
        -------
        float32 data frame, perturbations × latents (``z0``, ``z1``, …).
        """
        self._require_trained()
        check_choice("kind", kind, ("prob", "binary"))
        masks = self.module.effects.inclusion.detach().cpu().numpy()
        return self._by_treatment(masks if kind == "prob" else (masks > threshold).astype(np.float32))

    def get_interactions(self, *, kind: Literal["prob", "shift"] = "shift") -> pd.DataFrame:
        """How far each interacting pair moves each latent beyond the sum of its members.

        Parameters
        ----------
        kind
            ``"shift"``: posterior means, in units of the basal standard deviation; ``"prob"``: posterior probabilities
            that the pair moves the latent.

        Returns
        -------
        float32 data frame, pairs × latents; without rows if the model has no `interactions`.
        """
        self._require_trained()
        check_choice("kind", kind, ("prob", "shift"))
        effects, n = self.module.effects, len(self.perturbations)
        values = effects.inclusion if kind == "prob" else effects.effect()
        return pd.DataFrame(values[n:].detach().cpu().numpy(), index=self._pairs(), columns=self._latent_var().index)

    def get_dose_exponents(self) -> pd.Series:
        r"""Exponents :math:`\gamma_t` of the dose response of each perturbation; 1 if it is linear.

        Returns
        -------
        float32 series over perturbations. A perturbation that was given at one dose only keeps the prior's 1.
        """
        self._require_trained()
        power = self.module.design.log_power
        values = np.ones(len(self.perturbations)) if power is None else power.detach().exp().cpu().numpy()
        return pd.Series(values.astype(np.float32), index=self.perturbations, name="exponent")

    def get_target_effects(self) -> pd.DataFrame:
        """What each perturbation does to the expression of its own target, beyond its shift.

        Returns
        -------
        Data frame over the perturbations that have a target among the features: ``feature``, and ``shift``, the change
        of the decoder's output (log expression before normalisation for counts) at dose 1. Without rows if the model
        has no `target_effect`.
        """
        self._require_trained()
        own = self.module.target_shift
        if own is None:
            return pd.DataFrame({"feature": [], "shift": np.zeros(0, np.float32)})
        genes = own.genes.cpu().numpy()
        has = genes >= 0
        features = np.asarray(self.get_var_names())[genes[has]]
        index = pd.Index(np.asarray(self.perturbations, dtype=object)[has])
        return pd.DataFrame({"feature": features, "shift": own.shift.detach().cpu().numpy()[has]}, index=index)

    @property
    def capabilities(self) -> frozenset:
        """As :class:`~perturbia.model.base.VirtualCellModel`; perturbations without cells if they have features."""
        return super().capabilities | ({"unseen_perturbation"} if self._embedding is not None else set())

    def _read_interactions(self, interactions: Sequence[str] | str) -> list[str]:
        if not isinstance(interactions, str):
            return [str(label) for label in interactions]
        check_choice("interactions", interactions, ("none", "observed"))
        if interactions == "none":
            return []
        if self.adata is None:
            msg = "interactions: expected labels of pairs for a model without data, got 'observed'. Name the pairs."
            raise ValueError(msg)
        names, sep = self.perturbations, registered_perturbations(self.registry)["sep"]
        pairs = observed_pairs(self.adata_manager.get_from_registry(_keys.PERTURBATION))
        return [sep.join((names[one], names[other])) for one, other in pairs]

    def _feature_prior(self) -> FeaturePrior | None:
        if self._embedding is None:
            return None
        return FeaturePrior(*self._embedding, rate=self.module.effects.mask_prior.rates[0])
