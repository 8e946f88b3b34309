"""Alignment of unpaired modalities by propensity scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from perturbia import _keys
from perturbia.model.alignment._aligner_training import DEFAULT_TRAINING, AlignerTraining
from perturbia.model.alignment._alignment_diagnostics import batch_leakage, diagnose
from perturbia.model.alignment._propensity_module import PropensityModule
from perturbia.model.alignment._registration import ROLES
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.stats.log_ratios import ScoreKind, propensity_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from torch import nn

__all__ = ["PropensityAligner"]


class PropensityAligner(AlignerTraining):
    r"""Alignment of two modalities whose cells share a perturbation label, and nothing else.

    If perturbations act on the state of a cell and not on the noise of an assay, and each assay loses nothing of that
    state, then the propensity score :math:`\pi(x) = p(t \mid x)` of a cell is the same in both modalities: ordinary
    classifiers of the perturbation, one a modality, put cells of both into one space. Within a perturbation, cells are
    matched by optimal transport between their scores: by which *other* perturbations they look like, and how strongly
    they responded.

    Parameters
    ----------
    mdata
        Data registered with :meth:`setup_mudata`.
    registry
        Registry of a saved model, in place of data.
    n_hidden, n_layers, dropout_rate
        Of the classifiers.
    encoders
        Modality → :class:`torch.nn.Module` from its features to any width, in place of a perceptron: a convolutional
        network for images, say. It is copied.
    n_folds
        Classifiers of a modality. With several, the scores of a cell come from those that did not see it. They help where
        classifiers are over-trained, which stopping early prevents, and cost a tenth of the matches otherwise.
    seed
        Seed of initial weights, splits and training.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> pb.model.PropensityAligner.setup_mudata(mdata, perturbation_key="perturbation", control="control")
    >>> model = pb.model.PropensityAligner(mdata, n_hidden=16)
    >>> model.train(max_epochs=5, enable_progress_bar=False)
    >>> model.align()
    Coupling: 100 source x 100 target cells in 5 group(s), method='ot'
    >>> pb.tl.impute(mdata, source="source", target="target")
    >>> mdata["source"].obsm["imputed_target"].shape
    (100, 30)

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.

    Notes
    -----
    Beside the paper: scores are log-ratios, without the constant of each cell that logits are defined up to, and without
    class frequencies, which may differ between modalities (:func:`perturbia.stats.propensity_scores`); classifiers stop
    early; epsilon is relative to the mean cost; cells of both modalities are matched within perturbations only.
    ``align(preset="paper")`` is the published matching.
    """

    _module_cls = PropensityModule
    _obsm_key = _keys.OBSM_PROPENSITY

    def __init__(
        self,
        mdata: MuData | None = None,
        registry: dict | None = None,
        *,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        encoders: Mapping[str, nn.Module] | None = None,
        n_folds: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(mdata, registry)
        for name, value in (("n_hidden", n_hidden), ("n_layers", n_layers), ("n_folds", n_folds)):
            check_positive_integer(name, value)
        if not 0 <= dropout_rate < 1:
            msg = f"dropout_rate: expected a share in [0, 1), got {dropout_rate!r}."
            raise ValueError(msg)
        by_role = {self._role(name): encoder for name, encoder in (encoders or {}).items()}
        self.seed, self.n_folds = seed, n_folds
        self._classifier_options: dict[str, Any] = {
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout_rate": dropout_rate,
        }
        self._encoders = by_role
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = self._module_cls(
                {role: self._n_features(role) for role in ROLES},
                len(self.labels),
                encoders=by_role,
                n_folds=n_folds,
                **self._classifier_options,
            )
        # what training learns besides weights; saved with the model
        self.temperatures_: dict[str, float] = {}
        self.cells_: dict[str, np.ndarray] = {}  # their names: positions below are among them
        self.folds_: dict[str, np.ndarray] = {}
        self.splits_: dict[str, list[np.ndarray]] = {}
        self.held_out_: dict[str, np.ndarray] = {}
        self.classification_: pd.DataFrame | None = None
        self.use_temperature_ = False
        roles = self.modalities
        self._model_summary_string = (
            f"PropensityAligner of {roles['source']!r} and {roles['target']!r}, {len(self.labels)} shared labels: "
            f"n_hidden={n_hidden}, n_layers={n_layers}, dropout_rate={dropout_rate}, n_folds={n_folds}"
        )
        self.init_params_ = self._get_init_params(locals())

    def get_propensity(
        self,
        modality: str,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        kind: ScoreKind = "log_ratio",
        floor: float = 1e-6,
        batch_size: int = 8192,
    ) -> np.ndarray:
        """Propensity scores of cells.

        Parameters
        ----------
        modality
            Name of the modality, or ``"source"`` or ``"target"``.
        adata
            New cells of it, as AnnData or MuData with the registered features; those of the model by default.
        indices
            Positions of cells; all by default.
        kind
            ``"log_ratio"``: comparable between modalities; ``"clr"``, ``"logits"``, ``"probs"``, ``"sqrt_probs"`` as in
            :func:`perturbia.stats.propensity_scores`.
        floor
            Least probability.
        batch_size
            Cells at a time.

        Returns
        -------
        float64, shape (n_cells, n_labels), columns in the order of `labels`. With several folds, cells of the training
        (known by their names) get the scores of the classifier that did not see them, new cells the mean over classifiers.
        """
        self._require_trained()
        check_positive_integer("batch_size", batch_size)
        role = self._role(modality)
        check_choice("kind", kind, get_args(ScoreKind))
        temperature = self.temperatures_[role] if self.use_temperature_ else 1.0
        logits = self._logits(role, adata, batch_size)
        scores = [
            propensity_scores(
                one,
                kind=kind,
                class_counts=classifier.class_counts.cpu().numpy(),
                temperature=temperature,
                floor=floor,
            )
            for one, classifier in zip(logits, self._classifiers(role), strict=True)
        ]
        result = np.mean(scores, axis=0) if len(scores) > 1 else scores[0]
        if len(scores) > 1:
            fold = self._folds_now(role, adata)
            inside = fold >= 0
            result[inside] = np.stack(scores)[fold[inside], np.flatnonzero(inside)]
        return result if indices is None else result[np.asarray(indices)]

    def get_latent_representation(
        self,
        modality: str,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """The same as :meth:`get_propensity`, under the name that scvi-tools models use.

        Parameters
        ----------
        modality, adata, indices
            As in :meth:`get_propensity`.
        **kwargs
            Its further arguments.

        Returns
        -------
        float64, shape (n_cells, n_labels).
        """
        return self.get_propensity(modality, adata, indices, **kwargs)

    def diagnose(
        self, *, key: str = "coupling", n_permutations: int = 500, max_cells: int = 500, seed: int = 0
    ) -> pd.DataFrame:
        """What speaks for and against the matches, one row a perturbation.

        Parameters
        ----------
        key
            Key of the alignment stored by :meth:`align`; without one, columns about matches are missing.
        n_permutations
            Permutations of the two-sample tests.
        max_cells
            Cells of a perturbation in each modality that are tested at most.
        seed
            Seed of draws and permutations.

        Returns
        -------
        Columns

        - `n_source`, `n_target`: cells;
        - `auroc_source`, `auroc_target`: how well held-out cells are told from those of all other perturbations, 0.5 by
          chance: the worse modality limits the matches;
        - `energy_distance`, `p_value`, `p_adjusted`: whether scores of both modalities have one distribution, which they
          have if the assumptions hold, neither modality is noisier and populations are the same; and `relative_distance`,
          how far apart they are, from 0 to 1: with many cells the slightest difference of the classifiers is significant;
        - `n_effective`: median effective number of matches of a source cell; `max_hubness`: largest mass that a target cell
          receives, relative to an even share; `iterations`, `marginal_error`, `converged`, `kept_mass` of the solver.

        Accuracies and calibration of the classifiers are in `classification_`.

        Raises
        ------
        NotTrainedError
            Before training.

        Warns
        -----
        UserWarning
            Perturbations whose scores differ between modalities, hubs, labels that one modality names nearly always and the
            other does not.
        """
        self._require_trained()
        return diagnose(self, key=key, n_permutations=n_permutations, max_cells=max_cells, seed=seed)

    def check_batches(self, group_key: str | None = None, *, n_folds: int = 3, **training: Any) -> pd.DataFrame:
        """Compare how well cells of unseen batches and of seen ones are told apart: much worse means a shortcut.

        Trains `n_folds` classifiers of either kind a modality and leaves the model as it is.

        Parameters
        ----------
        group_key
            Column of `obs` with batches or donors; the registered batch by default. A modality without it is left out.
        n_folds
            Folds; at most as many as batches.
        **training
            Arguments of :meth:`train` in place of those of the last training: `max_epochs`, `batch_size`, `accelerator`, ….

        Returns
        -------
        Rows (modality, ``"random"`` or ``"batches"``), columns as in `classification_`.

        Raises
        ------
        KeyError, SplitError
            If no modality has such a column, or there are fewer batches than folds.
        """
        self._require_trained()
        check_positive_integer("n_folds", n_folds)
        if group_key is None and self._setup_argument("batch_key") is None:
            msg = "group_key: expected a column of obs of each modality, got None, and no batch_key was registered."
            raise KeyError(msg)
        options = {**DEFAULT_TRAINING, **getattr(self, "_training_options", {}), **training}
        return batch_leakage(self, group_key or self._setup_argument("batch_key"), n_folds=n_folds, **options)

    def _matching_points(self, role: str, **options: Any) -> np.ndarray:
        return self.get_propensity(self.modalities[role], **options)
