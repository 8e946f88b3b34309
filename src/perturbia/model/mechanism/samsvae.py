"""SAMS-VAE: sparse additive mechanism shifts of perturbations in the latent space of a variational autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from perturbia import _keys
from perturbia.errors import UnsupportedQuery
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._embedding import read_embedding
from perturbia.model.mechanism._extension import extend, fit_new_rows, known_rows
from perturbia.model.mechanism._feature_prior import FeaturePrior
from perturbia.model.mechanism._latent_shift import LatentShiftModel
from perturbia.model.mechanism._model_options import check_switches, interacting_pairs, observed_pairs, target_genes
from perturbia.model.mechanism._samsvae_module import SAMSVAEModule
from perturbia.model.mechanism._training import identity_of
from perturbia.perturbation.field import registered_perturbations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from perturbia.model.mechanism._samsvae_module import BasalEncoder, EmbeddingGuide, GlobalKL, GlobalUpdate
    from perturbia.nn.decoder import Likelihood
    from perturbia.nn.mask_prior import MaskPriorKind
    from perturbia.nn.treatment_design import DoseResponse

__all__ = ["SAMSVAE"]


class SAMSVAE(LatentShiftModel):
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
        Let each perturbation act on its own target's expression directly, beyond its shift: `True` for perturbations
        named after a feature, or a mapping of perturbations to features (:meth:`get_target_effects`).
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

    _module_cls = SAMSVAEModule

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
        target_effect: bool | Mapping[str, str] = False,
        perturbation_embedding: pd.DataFrame | np.ndarray | None = None,
        n_particles: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        if global_update is None and basal_encoder in {"residual", "informed"}:
            global_update = "closed_form"
        global_update = global_update or "gradient"
        check_switches(locals(), scale=self.scale)
        sizes = {"n_latent": n_latent, "n_hidden": n_hidden, "n_layers": n_layers, "n_particles": n_particles}
        for name, size in sizes.items():
            check_positive_integer(name, size)
        # as labels: a model that is loaded without data has to find the same pairs
        interactions = self._read_interactions(interactions)
        self.global_update = global_update
        self.seed = seed
        stats, registered = self.summary_stats, registered_perturbations(self.registry)
        self._embedding = (
            None if perturbation_embedding is None else read_embedding(perturbation_embedding, self.perturbations)
        )
        options = {"control": registered["control"], "sep": registered["sep"]}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = SAMSVAEModule(
                n_input=stats.n_vars,
                n_treatments=len(self.perturbations),
                **sizes,
                n_batch=stats.n_batch,
                n_cats_per_cov=self._covariate_categories(),
                n_continuous_cov=stats.get("n_extra_continuous_covs", 0),
                gene_likelihood=gene_likelihood,
                basal_encoder=basal_encoder,
                global_update=global_update,
                global_kl=global_kl,
                embedding_guide=embedding_guide,
                mask_prior_prob=mask_prior_prob,
                mask_prior=mask_prior,
                embedding_prior_scale=embedding_prior_scale,
                dose_response=dose_response,
                pairs=interacting_pairs(interactions, self.perturbations, **options),
                pair_prior_prob=interaction_prior_prob,
                target_genes=target_genes(target_effect, self.perturbations, list(self.get_var_names())),
                conditioned=perturbation_embedding is not None,
                temperature=temperature,
            )
        self._model_summary_string = (
            f"SAMSVAE of {stats.n_vars} features and {len(self.perturbations)} perturbations: "
            f"n_latent={n_latent}, n_hidden={n_hidden}, n_layers={n_layers}, gene_likelihood={gene_likelihood}, "
            f"basal_encoder={basal_encoder}, global_update={global_update}, mask_prior_prob={mask_prior_prob}"
        )
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

    def get_treatment_embeddings(self, *, masked: bool = True) -> pd.DataFrame:
        """How far each perturbation moves each latent, in units of the basal standard deviation.

        Parameters
        ----------
        masked
            Posterior mean of mask times embedding, or of the embedding given an open mask.

        Returns
        -------
        float32 data frame, perturbations × latents.
        """
        self._require_trained()
        effects = self.module.effects
        return self._by_treatment((effects.effect() if masked else effects.mean).detach().cpu().numpy())

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

    def extend_treatments(
        self,
        adata: AnnData,
        *,
        split_key: str | None = _keys.OBS_SPLIT,
        perturbation_embedding: pd.DataFrame | np.ndarray | None = None,
        max_steps: int = 500,
        **trainer_kwargs: Any,
    ) -> SAMSVAE:
        """Add perturbations that the model has not seen, from cells of them, without training the networks again.

        Networks, and everything that the model knows of its perturbations, stay as they are, bit by bit; masks,
        embeddings, exponents and target effects of the new perturbations are fitted to their cells.

        Parameters
        ----------
        adata
            Cells of the new perturbations, with the columns and features that were registered. It may hold cells of
            known perturbations besides, and should hold controls: effects are measured on them. Gains the columns of
            :meth:`setup_anndata`.
        split_key
            Column of `obs` that marks the cells to learn from as ``train``; used if it exists, ``None`` ignores it.
        perturbation_embedding
            Features of all perturbations, known and new, for a model that has some.
        max_steps
            Optimiser steps for what gradients move: everything under ``global_update="gradient"``, else exponents and
            target effects. Masks and embeddings in closed form need none.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`.

        Returns
        -------
        A new, trained model of `adata`, its new perturbations behind the known ones.

        Raises
        ------
        UnsupportedQuery
            If no perturbation of `adata` is new, or a batch or covariate was not registered.
        NotTrainedError, FeatureMismatch, LabelError, ScaleError, SplitError
            As for other data that are shown to a model.

        Examples
        --------
        >>> import perturbia as pb
        >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=0, n_genes=30, n_latent=2)
        >>> known = adata[adata.obs["perturbation"] != "P04"].copy()
        >>> pb.model.SAMSVAE.setup_anndata(known, perturbation_key="perturbation")
        >>> model = pb.model.SAMSVAE(known, n_latent=5)
        >>> model.train(max_steps=20, enable_progress_bar=False)
        >>> later = adata[adata.obs["perturbation"].isin(["P04", "control"])].copy()
        >>> model.extend_treatments(later).perturbations
        ['P01', 'P02', 'P03', 'P04']
        """
        self._require_trained()
        check_positive_integer("max_steps", max_steps)
        changed = {} if perturbation_embedding is None else {"perturbation_embedding": perturbation_embedding}
        if self._embedding is not None and not changed:
            msg = "perturbation_embedding: expected features of all perturbations, known and new, got None."
            raise UnsupportedQuery(msg)
        new = extend(self, adata, **changed)
        marked = new._marked_splits(split_key)
        nobody = np.array([], dtype=int)
        splits = [np.arange(new.adata.n_obs), nobody, nobody] if marked is None else marked
        fresh = np.setdiff1d(np.arange(new.module.design.n_rows), known_rows(self, new))
        fit_new_rows(new, fresh, splits, max_steps=max_steps, **trainer_kwargs)
        new.train_indices, new.validation_indices, new.test_indices = splits
        new.trained_on_, new.history_, new.is_trained_ = identity_of(new.adata), self.history_, True
        new.module.eval()
        return new

    @property
    def capabilities(self) -> frozenset:
        """As :class:`~perturbia.model.base.VirtualCellModel`; perturbations without cells if they have features."""
        return super().capabilities | ({"unseen_perturbation"} if self._embedding is not None else set())

    def _by_treatment(self, values: np.ndarray) -> pd.DataFrame:
        n = len(self.perturbations)
        return pd.DataFrame(values[:n], index=self.perturbations, columns=self._latent_var().index)

    def _pairs(self) -> list[str]:
        """Labels of the interacting pairs, in the order of their rows."""
        names = np.asarray(self.perturbations, dtype=object)
        first, second = np.divmod(self.module.design.pair_codes, len(names))
        sep = registered_perturbations(self.registry)["sep"]
        return [sep.join(sorted(pair)) for pair in zip(names[first], names[second], strict=True)]

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
