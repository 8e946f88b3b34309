"""What features of treatments say of their effects: prior rates and means of treatments that no cell had."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from perturbia.stats import SpikeSlab

__all__ = ["FeaturePrior"]

_PENALTIES = np.logspace(-2, 6, 17)
_HIGHEST_RATE = 0.95


class FeaturePrior:
    r"""Empirical-Bayes prior of masks and embeddings given features of treatments.

    Expected effects :math:`p_{tl} \mu_{tl}` and inclusion probabilities :math:`p_{tl}` of treatments with cells are
    regressed on their features by ridge regressions whose penalties leave-one-out errors choose, one a latent. With
    predictions :math:`\hat\delta_{tl}` and :math:`\hat p_{tl}`, the prior of a treatment with features is

    .. math:: m_{tl} \sim \mathrm{Bernoulli}(\hat p_{tl}), \quad e_{tl} \sim N(\hat\delta_{tl} / \hat p_{tl}, s_E^2)

    so that a treatment without cells is expected to do what treatments with like features did. Where features say
    nothing, penalties grow, and all treatments share the mean.

    Parameters
    ----------
    features
        One row a treatment, `(n_treatments, n_features)`; zero for treatments without features.
    known
        Which treatments have features, bool `(n_treatments,)`.
    rate
        Prior rate of masks where there are no features, and the lowest elsewhere.
    """

    def __init__(self, features: np.ndarray, known: np.ndarray, *, rate: float) -> None:
        centred = features - features[known].mean(0)
        spread = features[known].std(0)
        self.features = np.where(known[:, None], centred / np.where(spread > 0, spread, 1.0), 0.0)
        self.known = known
        self.rate = rate

    def fit(self, posterior: SpikeSlab, n_treated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prior rates and means, both `(n_rows, L)`, given the posterior of all rows and the cells of each.

        Rows behind the treatments (interacting pairs) and treatments without features keep rate and mean zero: the
        caller leaves them as they are.
        """
        n, n_latent = len(self.known), posterior.mean.shape[1]
        rates, means = np.zeros((n, n_latent)), np.zeros((n, n_latent))
        learn = self.known & (n_treated[:n] > 0)
        if learn.sum() < 3:
            rates[self.known] = self.rate
            return rates, means
        effect = self._predict(posterior.effect[:n], learn)
        rate = np.clip(self._predict(posterior.inclusion[:n], learn), self.rate, _HIGHEST_RATE)
        rates[self.known], means[self.known] = rate[self.known], (effect / rate)[self.known]
        return rates, means

    def _predict(self, values: np.ndarray, learn: np.ndarray) -> np.ndarray:
        from sklearn.linear_model import RidgeCV

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant columns: latents that no treatment moves
            model = RidgeCV(_PENALTIES, alpha_per_target=values.shape[1] > 1).fit(self.features[learn], values[learn])
        return model.predict(self.features).reshape(values.shape)
