"""sVAE+: interventions shift few latents, and enter through the prior of the latent alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from perturbia import _keys
from perturbia.errors import UnsupportedQuery
from perturbia.model.base._arguments import check_choice
from perturbia.model.mechanism._mechanism_module import MechanismModule
from perturbia.model.mechanism._model_options import build_module
from perturbia.model.mechanism._shift_model import ShiftModel
from perturbia.model.mechanism._training_cells import SplitCells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from perturbia.model.mechanism._global_updates import Rotation
    from perturbia.nn.decoder import Likelihood
    from perturbia.nn.mask_prior import MaskPriorKind
    from perturbia.nn.straight_through_effects import Sparsity

__all__ = ["SVAE"]


class SVAE(ShiftModel):
    r"""Sparse mechanism shift variational autoencoder (sVAE+), with sVAE and iVAE behind switches.

    A cell has one intervention, which says where its latent is expected; the networks never see it:

    .. math::
        z_i \sim N(m_{a_i} \odot \mu_{a_i}, I), \quad m_{al} \sim \mathrm{Bernoulli}(p), \quad
        x_i \sim \mathrm{NB}(l_i\, \mathrm{softmax}\, f(z_i), \theta), \quad q(z_i \mid x_i)

    By default masks and shifts are found in closed form from the encoded cells, the rate of masks and the width of what
    counts as no shift are estimated, and the latent basis is turned towards sparse shifts at 30 %, 50 % and the end of the
    training. Without control cells (``setup_anndata(control=None)``) the origin is free: it is moved to where most
    interventions leave a latent.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`; a cell has one perturbation at most.
    registry
        Registry of a saved model, in place of data.
    n_latent
        Number of latent dimensions. A few more than there are mechanisms cost little.
    n_hidden
        Width of encoder and decoder.
    n_layers
        Hidden layers of encoder and decoder.
    gene_likelihood
        ``"nb"``, ``"zinb"`` and ``"poisson"`` for counts, ``"normal"`` for any other scale.
    inference
        ``"closed_form"``, or ``"straight_through"`` gradients with a mask drawn for every cell, as published.
    sparsity
        What the published inference charges: ``"beta"`` (sVAE+), a :math:`\mathrm{Beta}(1, K)` prior of mask
        probabilities; ``"l1"`` (sVAE), their mean; ``"none"`` (iVAE), nothing, all masks being open.
    sparsity_weight
        :math:`K` of ``"beta"``; 1 is no sparsity. Nats per cell of ``"l1"``.
    mask_prior
        Rate of open masks in closed form: ``"learned"``, ``"fixed"`` or ``"beta"``, as in :class:`SAMSVAE`.
    mask_prior_prob
        That rate, or where it starts.
    embedding_prior_scale
        Prior standard deviation of shifts in closed form, in units of the basal one; ``"learned"`` estimates it.
    seed
        Seed of initial weights and of training.

    Raises
    ------
    UnsupportedQuery
        If cells have several perturbations, or doses other than one.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=0, n_genes=30, n_latent=2)
    >>> pb.model.SVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SVAE(adata, n_latent=5, n_layers=1)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> model.get_intervention_targets().shape
    (4, 5)

    References
    ----------
    Lopez, R., Tagasovska, N., Ra, S., Cho, K., Pritchard, J. and Regev, A. (2023). Learning causal representations of
    single cells via sparse mechanism shift modeling. CLeaR.
    """

    _module_cls = MechanismModule
    _may_lack_controls = True

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        n_layers: int = 2,
        gene_likelihood: Likelihood = "nb",
        inference: Literal["closed_form", "straight_through"] = "closed_form",
        sparsity: Sparsity = "beta",
        sparsity_weight: float = 2.0,
        mask_prior: MaskPriorKind = "learned",
        mask_prior_prob: float = 0.1,
        embedding_prior_scale: float | Literal["learned"] = "learned",
        seed: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        check_choice("inference", inference, ("closed_form", "straight_through"))
        if self.adata is not None:
            _require_single(self.adata_manager.get_from_registry(_keys.PERTURBATION))
        self.inference = inference
        self.global_update = "closed_form" if inference == "closed_form" else "gradient"
        self.seed = seed
        learn_scale = embedding_prior_scale == "learned"
        effects = "sparse" if inference == "closed_form" else "straight_through"
        self.module = build_module(
            self,
            {**locals(), "embedding_prior_scale": 2.0 if learn_scale else embedding_prior_scale},
            seed=seed,
            effects=effects,
            learn_scale=learn_scale,
            basal_encoder="residual",
            global_update=self.global_update,
        )
        self._model_summary_string = self._summary(n_latent, n_hidden, n_layers, gene_likelihood, inference)
        self.init_params_ = self._get_init_params(locals())

    def train(
        self,
        max_epochs: int | None = None,
        *,
        rotation: Rotation | None = None,
        rotate_at: Sequence[float] = (0.3, 0.5, 1.0),
        update_every: int = 50,
        sparsify_at: float = 0.5,
        spike_width: float | Literal["em"] = "em",
        plan_kwargs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Train the model, as :meth:`SAMSVAE.train` with all its arguments; these have other defaults.

        Parameters
        ----------
        max_epochs
            Passes through the training cells; by default as many as `max_steps`, 4,000 unless given, needs.
        rotation
            ``"l1"`` by default in closed form, ``"none"`` under the published inference.
        rotate_at
            Fractions of the training at which the basis is turned.
        update_every
            Steps between closed-form updates.
        sparsify_at
            Fraction of the training from which masks feel their prior.
        spike_width
            Width of shifts that count as none; ``"em"`` estimates it.
        plan_kwargs
            Arguments of the training plan; divergences rise over the first quarter of the training unless `kl_warmup` is
            given.
        **kwargs
            Further arguments of :meth:`SAMSVAE.train`.

        Returns
        -------
        Nothing; the model is trained in place.
        """
        super().train(
            max_epochs,
            rotation=rotation,
            rotate_at=rotate_at,
            update_every=update_every,
            sparsify_at=sparsify_at,
            spike_width=spike_width,
            plan_kwargs={"kl_warmup": 0.25, **(plan_kwargs or {})},
            **kwargs,
        )

    @property
    def capabilities(self) -> frozenset:
        """As :class:`~perturbia.model.base.VirtualCellModel`, for single perturbations without doses."""
        return super().capabilities - {"combination", "dose"}

    def get_intervention_targets(
        self, *, kind: Literal["prob", "binary"] = "prob", min_effect: float | Literal["gap"] | None = None
    ) -> pd.DataFrame:
        """Which latents each intervention targets.

        Parameters
        ----------
        kind
            Posterior probabilities, or 1 where they exceed one half.
        min_effect
            Least absolute shift, in basal standard deviations, of what counts as a target: smaller ones get 0. ``"gap"``
            finds it as the cut between two groups of absolute shifts (two-means), for screens in which targets are hit
            hard or not at all.

        Returns
        -------
        float32 data frame, interventions × latents.

        Raises
        ------
        ValueError
            If `kind` is unknown or `min_effect` negative.
        """
        self._require_trained()
        check_choice("kind", kind, ("prob", "binary"))
        if not (min_effect in {None, "gap"} or (isinstance(min_effect, int | float) and min_effect >= 0)):
            msg = f"min_effect: expected None, 'gap' or a number that is not negative, got {min_effect!r}."
            raise ValueError(msg)
        effects = self.module.effects
        prob = effects.inclusion.detach().cpu().numpy()
        prob = (prob > 0.5).astype(np.float32) if kind == "binary" else prob
        if min_effect is not None:
            shift = np.abs(effects.mean.detach().cpu().numpy())
            prob = np.where(shift >= (_two_means_cut(shift) if min_effect == "gap" else min_effect), prob, 0)
        return self._by_treatment(prob.astype(np.float32))

    def fit_interventions(
        self, adata: AnnData, *, sparse: bool = False, split_key: str | None = _keys.OBS_SPLIT
    ) -> Self:
        """Add interventions that the model has not seen, networks as they are.

        The bound is highest where the shift of a new intervention is the mean of its encoded cells, which needs no
        optimiser.

        Parameters
        ----------
        adata
            Cells of the new interventions, registered features and columns; see :meth:`extend_treatments`.
        sparse
            Find masks as well, as :meth:`extend_treatments` does in closed form.
        split_key
            Column of `obs` that marks the cells to learn from as ``train``; used if it exists, ``None`` ignores it.

        Returns
        -------
        A new, trained model of `adata`, its new interventions behind the known ones.

        Raises
        ------
        UnsupportedQuery
            If no intervention of `adata` is new.
        """
        if sparse:
            return self.extend_treatments(adata, split_key=split_key)
        self._require_trained()
        return self._extended(adata, split_key, _fit_means)

    def _centres(self, dosage: sparse.csr_matrix) -> bool:
        return bool((np.diff(dosage.indptr) > 0).all())


def _fit_means(new: SVAE, fresh: np.ndarray, splits: list[np.ndarray]) -> None:
    """Means of the encoded cells of new interventions as their shifts."""
    module = new.module
    dosage = new._registered_dosage(new.adata, splits[0])
    counts = np.diff(dosage.tocsc().indptr)[fresh]
    cross = SplitCells(new, splits, batch_size=1).encoded("remembered", len(splits[0])).exact(dosage.astype(np.float64))
    shape = (module.design.n_rows, module.n_latent)
    inclusion, mean, sd = np.ones(shape), np.zeros(shape), np.ones(shape)
    seen = fresh[counts > 0]
    mean[seen] = cross[seen] / counts[counts > 0][:, None]
    sd[seen] = counts[counts > 0][:, None] ** -0.5
    rows = torch.from_numpy(seen).to(new.device)
    module.effects.assign(*(torch.from_numpy(array) for array in (inclusion, mean, sd)), rows=rows)
    module.n_treated[torch.from_numpy(fresh)] = torch.from_numpy(counts).to(module.n_treated)
    module.effects.reset_to_prior(module.n_treated == 0)


def _two_means_cut(values: np.ndarray) -> float:
    """Cut between the two groups of least spread."""
    ordered = np.sort(values.ravel().astype(np.float64))
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return float(ordered[0]) if len(ordered) else 0.0
    n = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)[:-1]
    between = sums**2 / n + (ordered.sum() - sums) ** 2 / (len(ordered) - n)
    best = int(between.argmax())
    return float(ordered[best : best + 2].mean())


def _require_single(dosage: sparse.csr_matrix) -> None:
    several = int((np.diff(dosage.indptr) > 1).sum())
    if several:
        msg = (
            f"adata: expected one perturbation a cell, got {several} cells of combinations. Leave them out, or use SAMSVAE, "
            "whose shifts add up."
        )
        raise UnsupportedQuery(msg)
    if not np.isin(dosage.data, (0.0, 1.0)).all():
        msg = f"adata: expected doses of 1, got {dosage.data[dosage.data != 1][0]:g}. Use SAMSVAE, which knows doses."
        raise UnsupportedQuery(msg)
