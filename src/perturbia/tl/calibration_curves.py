"""Do effects lie as far from their predictions as the predictions say?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys
from perturbia.errors import LabelError, LeakageError, SplitError, shorten
from perturbia.metrics import coverage_curve, crps_gaussian, effect_rank_correlation, interval_coverage, mae, rmse
from perturbia.model.base._minified import require_features
from perturbia.model.base._positions import read_positions
from perturbia.perturbation import dosage_labels
from perturbia.perturbation._copies import for_models
from perturbia.stats import bootstrap_mean, log1p_cp10k
from perturbia.stats._settings import check_choice, check_seed
from perturbia.tl._effect_freedom import freedom_of_sum, gaussian_equivalent, student_limit, welch_freedom
from perturbia.tl._registered_batch import batch_codes
from perturbia.tl.observed_effects import effects

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from perturbia.model.base import PerturbationModel
    from perturbia.perturbation.value import Query

__all__ = ["Calibration", "calibration"]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
FREEDOM = "freedom"
N_STEPS = 20  # of the selection among entries


@dataclass(frozen=True)
class Calibration:
    """How the stated uncertainty of effects agrees with their errors.

    Attributes
    ----------
    coverage
        One row a level: `nominal`, `empirical` share of held-out effects inside the interval, `lower` and `upper` limits
        of its 95 % bootstrap interval over perturbations, which does not know that all effects share the error of the
        control means, `noise_only`, the share inside intervals of the measuring error alone.
    perturbations
        One row a perturbation: `n_cells` held out, `n_training_cells`, `rmse`, `mae`, `crps` (unit of the effects),
        `coverage_90`, `sd` and `se_observed`, the root mean squares of the stated and of the measuring error.
    ranks
        Spearman correlation of absolute errors with the stated uncertainty: `entries`, over all perturbations and genes;
        `within`, over genes, mean of the perturbations; `between`, of `rmse` with `sd` over perturbations. 0 where the
        uncertainty is constant.
    selection
        Error of the most certain part: `unit` (``"entry"`` or ``"perturbation"``), `kept` share, `rmse` of what is kept,
        `best`, had the largest errors been dropped, and `noise`, the root mean square of its measuring error.
    model
        Class of the model.
    scale
        Scale of the effects.
    """

    coverage: pd.DataFrame
    perturbations: pd.DataFrame
    ranks: pd.Series
    selection: pd.DataFrame
    model: str
    scale: str

    def __repr__(self) -> str:
        at = self.coverage.set_index("nominal")["empirical"]
        levels = ", ".join(f"{at[level]:.0%} in {level:.0%}" for level in (0.5, 0.9, 0.99) if level in at.index)
        ranks = ", ".join(f"{name} {value:.2f}" for name, value in self.ranks.items())
        return (
            f"Calibration of {self.model}: {len(self.perturbations)} perturbations, {self.scale}\n"
            f"  coverage: {levels or 'see .coverage'}\n"
            "  (its interval is over perturbations; the error of the control means, which they share, is not in it)\n"
            f"  CRPS {self.perturbations['crps'].mean():.4g}, RMSE {self.perturbations['rmse'].mean():.4g}, means over "
            "perturbations\n"
            f"  errors rank with stated uncertainty: {ranks}"
        )

    def _repr_html_(self) -> str:
        head = repr(self).replace("\n", "<br>")
        return f"<p>{head}</p>{self.coverage.to_html(index=False, float_format='{:.3f}'.format)}"


def calibration(
    model: PerturbationModel,
    adata: AnnData | None = None,
    *,
    perturbations: Sequence[Query] | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    split: str = "test",
    batch_key: str | None = None,
    levels: Sequence[float] = LEVELS,
    min_cells: int = 10,
    estimate_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Calibration:
    r"""Compare the uncertainty that a model states of its effects with their errors on held-out cells.

    An effect that cells show differs from the true one by their sampling error, so that a perfect model with
    :math:`\sigma = 0` would still miss it. The interval has to hold the observed effect:

    .. math::
        \delta^{obs}_{pg} \sim N\left(\hat\delta_{pg},\;
        \sigma_{pg}^2 + \operatorname{se}(\hat\delta_{pg})^2 + \operatorname{se}(\delta^{obs}_{pg})^2\right)

    with :math:`\sigma` the posterior standard deviation (`layers["sd"]` of `estimate_ate`; 0 for closed-form baselines),
    :math:`\operatorname{se}(\hat\delta)` the error of the estimate (`layers["se"]`: Monte Carlo error of SAMS-VAE, sampling
    error of the baselines) and :math:`\operatorname{se}(\delta^{obs})` that of :func:`perturbia.tl.effects`. The last is
    itself estimated, from the held-out cells, of which there may be few: intervals are those of Student's t with the degrees of freedom of Welch and Satterthwaite for the sum, in which the first two parts count as
    known. `crps` is that of the Gaussian.

    Parameters
    ----------
    model
        Trained model with `estimate_ate`.
    adata
        Data with the registered features; by default the data of the model.
    perturbations
        Perturbations to judge; by default all of which enough cells are held out.
    indices
        Held-out cells, positions or a boolean mask, in place of `split`. Controls must be among them.
    split
        Which cells of `obs["pb_split"]` are held out: ``"test"`` or ``"valid"``.
    batch_key
        Column of `obs` with the batch, within which observed effects are taken; None takes the one that the model was
        registered with, as :func:`evaluate` does.
    levels
        Nominal levels of the intervals.
    min_cells
        Perturbations with fewer held-out cells are left out.
    estimate_kwargs
        Further arguments of `model.estimate_ate`, such as `n_draws`.
    seed
        Seed of the bootstrap.

    Returns
    -------
    :class:`Calibration`.

    Raises
    ------
    SplitError
        If no split is stored, or it holds no such cells.
    LeakageError
        If the model has trained on some of the cells.
    LabelError, ControlError
        If a perturbation, or the control, has too few held-out cells.
    UnknownPerturbation, UnsupportedQuery, NotTrainedError, ValueError
        If the model can not answer, or an argument is out of range.

    Notes
    -----
    The effects of a data set share the error of its control means, and genes go together: the bootstrap over perturbations
    knows the second and not the first, so that its interval is too narrow where there are few held-out controls. Where `noise_only` is near `empirical`, measuring error hides what the model states.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=6, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.tl.split(adata, axis="random", fraction=0.5)
    >>> pb.model.JamesStein.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.JamesStein(adata)
    >>> model.train()
    >>> pb.tl.calibration(model).perturbations.shape
    (7, 8)
    """
    model._require_trained()
    check_seed(seed)
    asked = np.asarray(levels, dtype=np.float64)
    if asked.ndim != 1 or len(asked) == 0 or not ((asked > 0) & (asked < 1)).all():
        msg = f"levels: expected shares strictly between 0 and 1, got {levels!r}."
        raise ValueError(msg)
    adata, _ = model._cells(for_models(adata), None)
    cells = _held_out(model, adata, indices, split)
    observed = _observed(model, adata, cells, batch_key, min_cells)
    if perturbations is not None:
        wanted = dosage_labels(model._query_matrix(perturbations), model.perturbations).astype(str)
        if absent := sorted(set(wanted) - set(observed.obs_names)):
            msg = f"perturbations: expected {min_cells} held-out cells or more of each, lacking for {shorten(absent, limit=5)}."
            raise LabelError(msg)
        observed = observed[list(dict.fromkeys(wanted))]
    predicted = model.estimate_ate(list(observed.obs_names), **(estimate_kwargs or {}))
    if predicted.uns[_keys.UNS_RESULT]["scale"] != _scale(model):
        msg = f"estimate_kwargs: expected effects on the scale {_scale(model)!r}. Leave `scale` out."
        raise ValueError(msg)
    return _judge(predicted, observed, asked, seed=seed, model=model)


def _scale(model: PerturbationModel) -> str:
    """Scale on which effects are compared."""
    return "log1p_cp10k" if model.scale == "counts" else model.scale


def _held_out(
    model: PerturbationModel, adata: AnnData, indices: Sequence[int] | np.ndarray | None, split: str
) -> np.ndarray:
    """Positions of the cells that judge."""
    if indices is None:
        check_choice("split", split, _keys.SPLIT_VALUES[1:])
        if _keys.OBS_SPLIT not in adata.obs:
            msg = f"split: expected the column obs[{_keys.OBS_SPLIT!r}], found none. Make it with perturbia.tl.split."
            raise SplitError(msg)
        cells = np.flatnonzero((adata.obs[_keys.OBS_SPLIT].astype(str) == split).to_numpy())
        if len(cells) == 0:
            msg = f"split: expected cells marked {split!r} in obs[{_keys.OBS_SPLIT!r}], found none."
            raise SplitError(msg)
    else:
        cells = np.unique(read_positions(indices, adata.n_obs, argument="indices") % adata.n_obs)
    trained = _trained_on(model, adata)
    if trained is not None and (n_seen := len(np.intersect1d(cells, trained))):
        msg = f"split: expected held-out cells, but the model was trained on {n_seen} of {len(cells)}. Split before training."
        raise LeakageError(msg)
    return cells


def _trained_on(model: PerturbationModel, adata: AnnData) -> np.ndarray | None:
    """Positions of training cells, if these data or a copy of them trained the model."""
    if model.adata is None or not adata.obs_names.equals(model.adata.obs_names):
        return None
    recorded = getattr(model, "_training_cells", None)  # knows when a model was loaded with other data
    return getattr(model, "train_indices_", None) if recorded is None else recorded()


def _observed(
    model: PerturbationModel, adata: AnnData, cells: np.ndarray, batch_key: str | None, min_cells: int
) -> AnnData:
    """Observed effects of the registered features, whatever layer and labels they were registered by.

    Beside the standard errors, the layer `FREEDOM` holds their degrees of freedom.
    """
    from anndata import AnnData
    from scvi import REGISTRY_KEYS

    require_features(adata, "adata")
    batch = batch_codes(model, adata, cells, batch_key=batch_key)
    matrix = model.get_anndata_manager(adata, required=True).get_from_registry(REGISTRY_KEYS.X_KEY)[cells]
    dosage = model._registered_dosage(adata, cells)
    labels = dosage_labels(dosage, model.perturbations).astype(str)
    obs = pd.DataFrame({"perturbation": labels, "batch": batch}, index=adata.obs_names[cells])
    bare = AnnData(matrix, obs=obs, var=pd.DataFrame(index=adata.var_names))
    observed = effects(
        bare,
        batch_key="batch",
        scale="log1p_cp10k" if model.scale == "counts" else "registered",
        min_cells=min_cells,
    )
    is_control = np.diff(dosage.indptr) == 0
    used = is_control | np.isin(labels, observed.obs_names)
    features = log1p_cp10k(matrix[used]) if model.scale == "counts" else matrix[used]
    found, freedom = welch_freedom(features, dosage[used], batch[used])
    row = {label: i for i, label in enumerate(dosage_labels(found, model.perturbations).astype(str))}
    observed.layers[FREEDOM] = freedom[[row[label] for label in observed.obs_names]]
    return observed


def _judge(
    predicted: AnnData, observed: AnnData, levels: np.ndarray, *, seed: int, model: PerturbationModel
) -> Calibration:
    truth, noise = (_dense(part) for part in (observed.X, observed.layers[_keys.LAYER_SE]))
    mean, sd, se = (
        _dense(part) for part in (predicted.X, predicted.layers[_keys.LAYER_SD], predicted.layers[_keys.LAYER_SE])
    )
    stated = np.hypot(sd, se)
    total = np.hypot(stated, noise)
    of_noise = _dense(observed.layers[FREEDOM])
    freedom = freedom_of_sum(of_noise, noise, stated)
    error = np.abs(truth - mean)
    inside = np.stack([_inside(*row, levels) for row in zip(error, total, freedom, strict=True)])
    interval = bootstrap_mean(inside, seed=seed) if len(inside) > 1 else None
    coverage = pd.DataFrame(
        {
            "nominal": levels,
            "empirical": inside.mean(0),
            "lower": np.nan if interval is None else interval.lower,
            "upper": np.nan if interval is None else interval.upper,
            "noise_only": _inside(error, noise, of_noise, levels),
        }
    )
    half = student_limit(freedom, 0.9) * total
    table = pd.DataFrame(
        {
            "n_cells": observed.obs["n_cells"].to_numpy(),
            "n_training_cells": predicted.obs["n_cells"].to_numpy(),
            "rmse": rmse(truth, mean, per_perturbation=True),
            "mae": mae(truth, mean, per_perturbation=True),
            "crps": crps_gaussian(truth, mean, total, per_perturbation=True),
            "coverage_90": interval_coverage(truth, mean - half, mean + half, per_perturbation=True),
            "sd": np.sqrt((stated**2).mean(1)),
            "se_observed": np.sqrt((noise**2).mean(1)),
        },
        index=pd.Index(observed.obs_names, name="perturbation"),
    )
    ranks = pd.Series(
        {
            "entries": effect_rank_correlation(error, stated),
            "within": float(np.mean(effect_rank_correlation(error, stated, per_perturbation=True))),
            "between": effect_rank_correlation(table["rmse"].to_numpy()[None], table["sd"].to_numpy()[None])
            if len(table) > 1
            else np.nan,
        }
    )
    selection = pd.concat(
        [
            _selection("entry", error.ravel() ** 2, stated.ravel(), noise.ravel() ** 2),
            _selection(
                "perturbation",
                table["rmse"].to_numpy() ** 2,
                table["sd"].to_numpy(),
                table["se_observed"].to_numpy() ** 2,
            ),
        ],
        ignore_index=True,
    )
    return Calibration(coverage, table, ranks, selection, model._kind, _scale(model))


def _inside(error: np.ndarray, sd: np.ndarray, freedom: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of errors inside the central intervals of Student's t, `(n_levels,)`."""
    z = np.atleast_2d(gaussian_equivalent(error, sd, freedom))
    return coverage_curve(z, mean=np.zeros_like(z), sd=np.ones_like(z), levels=levels).empirical


def _selection(unit: str, squared: np.ndarray, stated: np.ndarray, noise: np.ndarray) -> pd.DataFrame:
    """Root mean squares of the most certain part, for growing parts; the equally certain are taken in equal shares."""
    n = len(squared)
    _, tied = np.unique(stated, return_inverse=True)
    order, size = np.argsort(tied, kind="stable"), np.bincount(tied)
    number = np.unique(np.maximum(1, np.rint(np.arange(1, N_STEPS + 1) / N_STEPS * n).astype(int)))

    def kept(values: np.ndarray) -> np.ndarray:
        return np.sqrt((np.cumsum(values) / np.arange(1, n + 1))[number - 1])

    even, even_noise = ((np.bincount(tied, part) / size)[tied][order] for part in (squared, noise))
    return pd.DataFrame(
        {
            "unit": unit,
            "kept": number / n,
            "rmse": kept(even),
            "best": kept(np.sort(squared)),
            "noise": kept(even_noise),
        }
    )


def _dense(values: Any) -> np.ndarray:
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float64)
