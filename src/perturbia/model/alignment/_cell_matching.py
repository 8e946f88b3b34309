"""Matching of cells in the space that a model has learnt, for all models that align modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbia.errors import NotTrainedError
from perturbia.model.alignment._modalities import read_features
from perturbia.model.alignment._registration import RegisteredAligner
from perturbia.model.alignment.coupling_storage import write_coupling
from perturbia.stats import couple, group_means, principal_axes

if TYPE_CHECKING:
    from perturbia.model.alignment.feature_translator import FeatureTranslator
    from perturbia.stats.block_matching import Aligner
    from perturbia.stats.coupling import Coupling
    from perturbia.stats.transport_cost import Cost

__all__ = ["CellMatching"]

#: The published settings: Euclidean cost of raw logits and an absolute epsilon.
PAPER = {"kind": "logits", "cost": "euclidean", "scale_cost": None, "epsilon": 0.05, "centre": False}


class _NotAlignedError(NotTrainedError, AttributeError):
    """No coupling yet; an AttributeError, too, for what reads all attributes of a model, as saving does."""


class CellMatching(RegisteredAligner):
    """`align` of models that put both modalities in one space."""

    _coupling: Coupling | None = None
    _obsm_key = "X_aligned"

    def _matching_points(self, role: str, **options: Any) -> np.ndarray:
        """Coordinates of the cells of a modality."""
        raise NotImplementedError

    @property
    def coupling(self) -> Coupling:
        """The coupling that :meth:`align` made last, source × target."""
        if self._coupling is None:
            msg = f"{type(self).__name__}: expected an alignment. Call .align() first."
            raise _NotAlignedError(msg)
        return self._coupling

    def translate(
        self,
        source: str | None = None,
        target: str | None = None,
        *,
        layer: str | None = None,
        use_rep: str | None = None,
        loss: Literal["plain", "projected", "projected_exact"] = "plain",
        **training: Any,
    ) -> FeatureTranslator:
        """Learn to predict the features of one modality from those of the other, through the coupling.

        Parameters
        ----------
        source
            Modality that is known; the source of the model by default. Its registered features are what is read.
        target
            Modality that is predicted.
        layer, use_rep
            Layer or key of `obsm` of `target` with the features to predict; `X` by default. Real features rather than
            embeddings, and log-normalised values rather than counts.
        loss
            ``"plain"``: predictions for single matches are to equal the features of a target cell, which fits their mean,
            flattened by uncertain matches; ``"projected"``: predictions averaged over its matches are to, unbiased from two
            draws a cell, which undoes the flattening where matches are right and cells are many;
            ``"projected_exact"``: the same over all kept matches.
        **training
            Arguments of :func:`~perturbia.model.alignment.fit_translator`.

        Returns
        -------
        The translator: ``translator.predict(features)`` gives float32 predictions for any cells.
        """
        from perturbia.model.alignment.feature_translator import fit_translator

        self._require_trained()
        roles = self.modalities
        other = {"source": "target", "target": "source"}
        if source is None:
            source = roles[other[self._role(target)]] if target is not None else roles["source"]
        known = self._role(source)
        wanted = other[known]
        if target is not None and self._role(target) != wanted:
            msg = f"target: expected the other modality than {roles[known]!r}, got {target!r}."
            raise ValueError(msg)
        values = read_features(self._modality(wanted), use_rep=use_rep, layer=layer, modality=roles[wanted])
        coupling = self.coupling if wanted == "source" else self.coupling.transpose()
        return fit_translator(self._features_of(known), values, coupling, loss=loss, **training)

    def align(
        self,
        method: Aligner = "ot",
        *,
        preset: Literal["paper"] | None = None,
        epsilon: float | None = None,
        cost: Cost | None = None,
        scale_cost: Literal["mean"] | float | None = "mean",
        unbalanced: tuple[float, float] | None = None,
        partial_mass: float | None = None,
        n_neighbors: int | None = None,
        centre: bool = True,
        n_components: int | None = 50,
        max_block_size: int = 20_000,
        keep: tuple[float, int] = (0.99, 100),
        key_added: str | None = "coupling",
        tolerance: float = 1e-4,
        max_iterations: int = 5000,
        device: str = "auto",
        progress: bool = False,
        seed: int = 0,
        **score_options: Any,
    ) -> Coupling:
        """Couple source and target cells of every perturbation in the space of the model.

        Parameters
        ----------
        method
            ``"ot"``, ``"emd"``, ``"snn"``, ``"gw"`` or ``"random"``, as in :func:`perturbia.stats.couple`.
        preset
            ``"paper"``: the published settings for a propensity model, in place of `epsilon`, `cost`, `scale_cost`,
            `centre` and the kind of score: raw logits, Euclidean cost, epsilon 0.05 absolute.
        epsilon, cost, scale_cost, unbalanced, partial_mass, n_neighbors, max_block_size, tolerance, max_iterations
            As in :func:`perturbia.stats.couple`.
        centre
            Whether to take out, of each modality, the mean over perturbations of their mean scores: a constant between
            modalities leaves exact plans of squared cost as they are, but makes a relative `epsilon` too large.
        n_components
            Scores of more dimensions are projected on so many joint principal axes; None keeps all.
        keep
            What is stored: the fewest entries of a row with this share of its mass, and so many at most.
        key_added
            Where to store it; None stores nothing.
        device
            Where ``"ot"`` computes.
        progress
            Whether to show a progress bar over perturbations.
        seed
            Seed of what is drawn.
        **score_options
            Options of the score, such as ``kind=`` for a propensity model.

        Returns
        -------
        The coupling, source × target, also as `coupling` of the model. With `key_added`, `mdata` gains

        - `obsp[key_added]`: CSR float32, joint masses in the rows of source and the columns of target cells;
        - `uns[key_added]`: how it was made, with a table of perturbations;
        - in `obs` of each modality `f"{key_added}_n_eff"`, effective number of matches (source), and
          `f"{key_added}_cost"`, their expected cost (source), `f"{key_added}_hubness"`, received mass relative to an even
          share (target);
        - `obsm` of each modality: the scores, ``"X_psa"`` of a propensity model.

        Raises
        ------
        NotTrainedError
            Before training.
        ValueError
            If settings are out of range.

        Warns
        -----
        ConvergenceWarning
            Perturbations whose solver stopped early.
        """
        self._require_trained()
        if preset not in {None, "paper"}:
            msg = f"preset: expected 'paper' or None, got {preset!r}."
            raise ValueError(msg)
        if preset == "paper":
            chosen: dict[str, Any] = dict(PAPER)
            score_options = {"kind": chosen.pop("kind"), **score_options}
            centre = chosen.pop("centre")
            cost, scale_cost, epsilon = chosen["cost"], chosen["scale_cost"], chosen["epsilon"]
        scores = {role: self._matching_points(role, **score_options) for role in ("source", "target")}
        codes = {role: self._codes_of(role) for role in scores}
        points = {role: scores[role].astype(np.float32) for role in scores}
        if centre:
            points = {role: points[role] - _balanced_mean(points[role], codes[role]) for role in points}
        if n_components is not None and points["source"].shape[1] > n_components:
            points = _joint_axes(points, codes, n_components)
        names = np.array([*self.labels, None], dtype=object)
        coupling = couple(
            points["source"],
            points["target"],
            names[codes["source"]],
            names[codes["target"]],
            method=method,
            cost=cost or "sqeuclidean",
            epsilon=epsilon,
            scale_cost=scale_cost,
            unbalanced=unbalanced,
            partial_mass=partial_mass,
            n_neighbors=n_neighbors,
            max_block_size=max_block_size,
            tolerance=tolerance,
            max_iterations=max_iterations,
            device=device,
            seed=seed,
            progress=progress,
        )
        self._coupling = coupling
        if key_added is not None and self.adata is not None:
            about = {
                "model": type(self).__name__,
                "preset": preset or "",
                "use_rep": dict.fromkeys(scores, self._obsm_key),
                **{f"score_{name}": one for name, one in score_options.items() if isinstance(one, str | int | float)},
            }
            write_coupling(
                self.adata,
                coupling,
                self.modalities,
                key_added,
                points=points,
                cost=cost or "sqeuclidean",
                keep=keep,
                about=about,
                **{name: self._setup_argument(name) for name in ("perturbation_key", "control", "sep")},
            )
            for role, name in self.modalities.items():
                self.adata.mod[name].obsm[self._obsm_key] = scores[role].astype(np.float32)
        return coupling


def _balanced_mean(points: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean over perturbations of their means."""
    used = codes >= 0
    return group_means(points[used], codes[used], with_variance=False).mean.mean(0).astype(points.dtype)


def _joint_axes(
    points: dict[str, np.ndarray], codes: dict[str, np.ndarray], n_components: int
) -> dict[str, np.ndarray]:
    """Coordinates on the principal axes of both modalities together."""
    joint = principal_axes(np.concatenate([points[role][codes[role] >= 0] for role in points]), n_components)
    return {role: joint.coordinates(values).astype(np.float32) for role, values in points.items()}
