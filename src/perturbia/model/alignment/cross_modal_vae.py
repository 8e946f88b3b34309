"""Cross-modal autoencoders: two modalities in one latent space that an adversary can not tell apart."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.model._utils import use_distributed_sampler
from scvi.train import TrainRunner

from perturbia import _keys
from perturbia.errors import ModalityError
from perturbia.model.alignment._cell_matching import CellMatching
from perturbia.model.alignment._cross_modal_module import CrossModalModule
from perturbia.model.alignment._cross_modal_training import CrossModalTrainingPlan, PairedMinibatches
from perturbia.model.alignment._early_stopping import default_epochs, stopping_callbacks
from perturbia.model.alignment._feature_rows import dense_rows
from perturbia.model.alignment._labelled_cells import check_split_key, training_parts
from perturbia.model.alignment._registration import ROLES
from perturbia.model.base._arguments import check_positive_integer, check_train_size
from perturbia.model.base._best_epoch import BestEpoch
from perturbia.model.base._positions import read_positions
from perturbia.model.base._third_party_notices import quiet_third_parties
from perturbia.stats import group_means

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData
    from torch import nn

__all__ = ["CrossModalVAE"]

logger = logging.getLogger(__name__)


class CrossModalVAE(CellMatching):
    r"""Cross-modal autoencoders of Yang et al. (2021), a baseline of alignment by propensity scores.

    Each modality has a Gaussian variational autoencoder of its own. What makes their latents :math:`z` comparable are two
    networks that read those of both: a linear classifier of the shared label, which encoders help, and an adversary that
    tells modalities apart, which they deceive. Encoders, decoders and the classifier minimise the mean over modalities of

    .. math::
        \|x - \hat x(z)\|^2 / d + \lambda \, \mathrm{KL}(q(z \mid x) \,\|\, N(0, I))
        - \alpha \log p(t \mid z) - \beta \log p(\text{other modality} \mid z)

    with :math:`d` features, standardised by the training cells. Cells are matched by the means of their posteriors.

    Parameters
    ----------
    mdata
        Data registered with :meth:`setup_mudata`.
    registry
        Registry of a saved model, in place of data.
    n_latent
        Number of latents.
    n_hidden, n_layers
        Width and number of the hidden layers of encoders, decoders and adversary.
    dropout_rate
        Of the encoders.
    encoders
        Modality → :class:`torch.nn.Module` from its features to any width, in place of a perceptron. It is copied.
    kl_weight
        :math:`\lambda`. As published it is next to nothing: autoencoders with a little noise.
    label_weight
        :math:`\alpha`.
    modality_weight
        :math:`\beta`; 0 leaves an adversary that only watches.
    seed
        Seed of initial weights, splits and training.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> pb.model.CrossModalVAE.setup_mudata(mdata, perturbation_key="perturbation", control="control")
    >>> model = pb.model.CrossModalVAE(mdata, n_latent=8, n_hidden=16)
    >>> model.train(max_epochs=5, enable_progress_bar=False)
    >>> model.get_latent_representation("target").shape
    (100, 8)
    >>> model.align()
    Coupling: 100 source x 100 target cells in 5 group(s), method='ot'

    References
    ----------
    Yang, K. D., Belyaeva, A., Venkatachalapathy, S., Damodaran, K., Katcoff, A., Radhakrishnan, A., Shivashankar, G. V.
    and Uhler, C. (2021). Multi-domain translation between single-cell imaging and sequencing data using autoencoders.
    Nature Communications 12, 31.

    Mescheder, L., Geiger, A. and Nowozin, S. (2018). Which training methods for GANs do actually converge? ICML.

    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.

    Notes
    -----
    Beside the published models: both modalities train together and stop early, for over-trained encoders match several times
    worse; features are standardised; matches are made of posterior means, not of draws; a penalty on the gradient of the
    adversary (Mescheder et al. 2018) lets the game settle, without which modalities drift apart. Weights are those that
    Xi et al. (2024) state for this baseline.
    """

    _module_cls = CrossModalModule
    _obsm_key = _keys.OBSM_CROSS_MODAL

    def __init__(
        self,
        mdata: MuData | None = None,
        registry: dict | None = None,
        *,
        n_latent: int = 32,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        encoders: Mapping[str, nn.Module] | None = None,
        kl_weight: float = 1e-7,
        label_weight: float = 1.0,
        modality_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(mdata, registry)
        sizes: dict[str, Any] = {"n_latent": n_latent, "n_hidden": n_hidden, "n_layers": n_layers}
        weights: dict[str, Any] = {
            "kl_weight": kl_weight,
            "label_weight": label_weight,
            "modality_weight": modality_weight,
        }
        _check_options(sizes, weights, dropout_rate)
        options = {**sizes, "dropout_rate": dropout_rate, **weights}
        self.seed = seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = self._module_cls(
                {role: self._n_features(role) for role in ROLES},
                len(self.labels),
                encoders={self._role(name): encoder for name, encoder in (encoders or {}).items()},
                **options,
            )
        # training and validation cells of each modality; saved with the model
        self.splits_: dict[str, list[np.ndarray]] = {}
        roles = self.modalities
        described = ", ".join(f"{name}={value}" for name, value in options.items())
        self._model_summary_string = f"CrossModalVAE of {roles['source']!r} and {roles['target']!r}, {len(self.labels)} shared labels: {described}"
        self.init_params_ = self._get_init_params(locals())

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        split_key: str | None = _keys.OBS_SPLIT,
        train_size: float = 0.9,
        batch_size: int = 256,
        early_stopping: bool = True,
        patience: int = 20,
        plan_kwargs: dict | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both autoencoders together, and keep the best epoch; a trained model goes on from where it is.

        Cells whose label the other modality lacks take no part.

        Parameters
        ----------
        max_epochs
            Passes through the modality with more cells, at most; by default enough for 3,000 steps, between 100 and 1,000.
        accelerator, devices
            Where to train, as in scvi-tools; ``accelerator="gpu"`` for one GPU.
        split_key
            Column of `obs` of a modality with ``train``, ``valid`` and ``test``, where there is one; None ignores it.
        train_size
            Share of the cells of every label that train without such a column; the others say when to stop.
        batch_size
            Cells of each modality a step.
        early_stopping, patience
            Whether to stop after so many epochs without a lower loss of held-out cells.
        plan_kwargs
            ``lr`` (0.001), ``weight_decay`` (0.001), ``optimizer`` (``"AdamW"``), ``gradient_penalty`` (10), how strongly
            the adversary is kept from being steep, and further arguments of :class:`scvi.train.TrainingPlan`. A larger
            `modality_weight` asks for a larger penalty.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``enable_progress_bar``.

        Returns
        -------
        Nothing; the model is trained in place. `history` has ``train_loss`` and ``validation_loss``, both without the
        adversary, and for either part ``reconstruction_loss``, ``kl_local``, ``classification_loss``, ``label_accuracy``,
        ``modality_loss`` and ``modality_accuracy``, the last two of the adversary. `splits_` has the cells.

        Raises
        ------
        ValueError, SplitError
            If settings are out of range, or a split has no training cells.
        """
        counts = {"max_epochs": max_epochs, "batch_size": batch_size, "patience": patience}
        _check_training({name: value for name, value in counts.items() if value is not None}, train_size)
        parts = self._parts(split_key, train_size)
        strategy = trainer_kwargs.get("strategy")
        cells = PairedMinibatches(self.adata_manager, parts, batch_size, distributed=use_distributed_sampler(strategy))
        if not self.is_trained_:
            self._standardise(parts)
        if max_epochs is None:
            max_epochs = default_epochs(max(len(train) for train, _ in parts.values()), batch_size)
        best = BestEpoch(self.module)
        stopping = stopping_callbacks(best, patience if early_stopping else None) if cells.validates else []
        callbacks = [*(trainer_kwargs.pop("callbacks", None) or []), *stopping]
        with quiet_third_parties(), torch.random.fork_rng():
            # processes of a distributed training draw noise of their own
            torch.manual_seed(self.seed + int(os.environ.get("LOCAL_RANK", "0")))
            self.module.train()
            TrainRunner(
                self,
                training_plan=CrossModalTrainingPlan(self.module, **(plan_kwargs or {})),
                data_splitter=cells,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                callbacks=callbacks,
                **{
                    "check_val_every_n_epoch": 1 if cells.validates else None,
                    **trainer_kwargs,
                },
            )()
        self.splits_ = {role: list(part) for role, part in parts.items()}
        if cells.validates:
            logger.info("Kept epoch %d, validation loss %.3f.", best.epoch, best.lowest)

    def _parts(self, split_key: str | None, train_size: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Role → training and validation cells."""
        obs = {role: self._modality(role).obs for role in ROLES}
        check_split_key(split_key, obs.values())
        return {
            role: training_parts(
                obs[role],
                self._codes_of(role),
                modality=self.modalities[role],
                split_key=split_key,
                train_size=train_size,
                rng=np.random.default_rng([self.seed, which]),
            )
            for which, role in enumerate(ROLES)
        }

    @torch.no_grad()
    def _standardise(self, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Means and standard deviations of the training cells."""
        for role, (train, _) in parts.items():
            moments = group_means(self._features_of(role)[train], np.zeros(len(train), dtype=int))
            scale = np.sqrt(np.nan_to_num(moments.variance[0]))
            # a feature that does not vary says nothing; its few other values later must not explode
            scale[scale <= 1e-6 * max(1.0, float(scale.max()))] = 1.0
            self.module.vae(role).mean.copy_(torch.as_tensor(moments.mean[0]))
            self.module.vae(role).scale.copy_(torch.as_tensor(scale))

    @torch.inference_mode()
    def get_latent_representation(
        self,
        modality: str | None = None,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        batch_size: int = 8192,
    ) -> np.ndarray:
        """Means of the posteriors of the latents, comparable between modalities.

        Parameters
        ----------
        modality
            Name of the modality, or ``"source"`` or ``"target"``. May be left out where `adata` tells it: MuData with one
            of the two alone, or AnnData that is a modality of the registered data.
        adata
            Cells of it, as AnnData or MuData with the registered features; those of the model by default.
        indices
            Positions of cells within the modality, or a mask; all by default.
        batch_size
            Cells at a time.

        Returns
        -------
        float32, shape (n_cells, n_latent).

        Raises
        ------
        NotTrainedError
            Before training.
        ModalityError
            If `modality` is unknown, or missing where it can not be told.
        FeatureMismatch, ScaleError, ValueError, IndexError
            If features of new cells are missing, not finite, or others than those registered, or `indices` are no positions.
        """
        self._require_trained()
        check_positive_integer("batch_size", batch_size)
        role = self._only_role(adata) if modality is None else self._role(modality)
        X = self._features_of(role, adata)
        X = X[read_positions(indices, X.shape[0], argument="indices")]
        self.module.eval()
        means = []
        for start in range(0, X.shape[0], batch_size):
            x = torch.as_tensor(dense_rows(X, slice(start, start + batch_size)))
            means.append(self.module.inference(x, role)["z"].cpu().numpy())
        return np.concatenate(means)

    def _only_role(self, adata: AnnData | MuData | None) -> str:
        """The modality that data can only be of."""
        names = self.modalities
        if adata is not None and hasattr(adata, "mod"):
            found = [role for role, name in names.items() if name in adata.mod]
        else:
            held = {} if self.adata is None else self.adata.mod
            found = [role for role, name in names.items() if adata is not None and adata is held.get(name)]
        if len(found) != 1:
            msg = (
                f"modality: expected {names['source']!r} or {names['target']!r}, got None, and the data may be of either. "
                "Name one: both are in one space, so that rows of two calls can be stacked."
            )
            raise ModalityError(msg)
        return found[0]

    def _matching_points(self, role: str, **options: Any) -> np.ndarray:
        if options:
            msg = f"align: expected no options of a score, which {type(self).__name__} lacks, got {sorted(options)}."
            raise ValueError(msg)
        return self.get_latent_representation(self.modalities[role])


def _check_options(sizes: dict[str, int], weights: dict[str, float], dropout_rate: float) -> None:
    for name, size in sizes.items():
        check_positive_integer(name, size)
    for name, weight in weights.items():
        if not (np.isfinite(weight) and weight >= 0):
            msg = f"{name}: expected a number of at least 0, got {weight!r}."
            raise ValueError(msg)
    if not 0 <= dropout_rate < 1:
        msg = f"dropout_rate: expected a share in [0, 1), got {dropout_rate!r}."
        raise ValueError(msg)


def _check_training(counts: dict[str, int], train_size: float) -> None:
    for name, count in counts.items():
        check_positive_integer(name, count)
    check_train_size(train_size)
