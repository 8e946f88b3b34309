"""Expected features of latents, with the measurement noise integrated out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import gammaincinv, roots_legendre

from perturbia.nn import ExpectedLogCounts, GivenTreatments, gamma_quantile_draws

if TYPE_CHECKING:
    from perturbia.model.mechanism._mechanism_module import MechanismModule

__all__ = ["Covariates", "common_noise", "expected_features", "predictive_moments"]


@dataclass(frozen=True)
class Covariates:
    """What the decoder needs besides latents: `(n, 1)` library sizes and batches, `(n, k)` further covariates.

    `given` are treatments that act on their own targets, None for none.
    """

    library: torch.Tensor
    batch_index: torch.Tensor
    cat_covs: torch.Tensor | None = None
    cont_covs: torch.Tensor | None = None
    given: GivenTreatments | None = None

    def rows(self, chosen: slice) -> Covariates:
        """The same for some of the cells."""
        design = {key: None if value is None else value[chosen] for key, value in self._design().items()}
        given = None if self.given is None else GivenTreatments(*(part[chosen] for part in self.given))
        return Covariates(self.library[chosen], **design, given=given)  # type: ignore[arg-type]

    def under(self, given: GivenTreatments) -> Covariates:
        """The same under treatments `(1, n_slots)` that all cells are given."""
        every = GivenTreatments(*(part.to(self.library.device).expand(len(self.library), -1) for part in given))
        return replace(self, given=every)

    def _design(self) -> dict[str, torch.Tensor | None]:
        return {"batch_index": self.batch_index, "cat_covs": self.cat_covs, "cont_covs": self.cont_covs}

    def decode(self, module: MechanismModule, z: torch.Tensor) -> Any:
        """Distribution of the features for latents `(..., n, n_latent)`."""
        return module.generative(z, self.library, **self._design(), given=self.given)["px"]


def common_noise(module: MechanismModule, n_cells: int, generator: torch.Generator) -> torch.Tensor | None:
    """Over-dispersion factors `(n_cells, n_features)` to share between conditions, None without over-dispersion."""
    if module.gene_likelihood not in {"nb", "zinb"}:
        return None
    theta = module.decoder.log_dispersion.exp()
    return gamma_quantile_draws(theta, n_cells, generator=generator)


def expected_features(px: Any, noise: torch.Tensor | None, layer: ExpectedLogCounts | None) -> torch.Tensor:
    """Expectation of features given latents and over-dispersion factors; log-normalised if `layer` is given."""
    if layer is None:
        return px.mean
    rate = px.rate if noise is None else px.mu * noise
    mean = layer.mean(rate)
    # an excess zero stays zero on the log scale
    return mean * (1 - px.zi_probs) if hasattr(px, "zi_probs") else mean


def predictive_moments(
    module: MechanismModule,
    mean: torch.Tensor,
    sd: torch.Tensor,
    covariates: Covariates,
    *,
    log_normalized: bool,
    n_pairs: int = 4,
    n_nodes: int = 8,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature of each cell, latent uncertainty included.

    Latents move by plus and minus a few random sign patterns, the same for every cell, so that a cell reads the same
    alone as among others; over-dispersion is integrated by Gauss quadrature and the count layer exactly.
    """
    bits = torch.randint(0, 2, (n_pairs, 1, mean.shape[1]), generator=torch.Generator().manual_seed(0))
    signs = (2 * bits - 1).to(mean)
    shifts = torch.cat([signs, -signs]) if bool((sd > 0).any()) else torch.zeros_like(signs[:1])
    quadrature = layer = None
    if log_normalized:
        quadrature = _gamma_quadrature(module, n_nodes)
        layer = ExpectedLogCounts(
            covariates.library.ravel(), max_rate=float(covariates.library.max() * quadrature[0].max())
        )
    first = second = torch.zeros(())
    for shift in shifts:
        px = covariates.decode(module, mean + sd * shift)
        if layer is None or quadrature is None:
            value, square = px.mean, px.variance + px.mean**2
        else:
            value, square = _log_moments(px, layer, *quadrature)
        first = first + value / len(shifts)
        second = second + square / len(shifts)
    return first, (second - first**2).clamp(min=0).sqrt()


def _log_moments(
    px: Any, layer: ExpectedLogCounts, nodes: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second moment of log-normalised counts, over-dispersion and counts integrated out."""
    rate = px.mu if hasattr(px, "mu") else px.rate
    first = sum(weight * layer.mean(rate * node) for node, weight in zip(nodes, weights, strict=True))
    second = sum(weight * layer.second_moment(rate * node) for node, weight in zip(nodes, weights, strict=True))
    if hasattr(px, "zi_probs"):
        first, second = first * (1 - px.zi_probs), second * (1 - px.zi_probs)
    return first, second


def _gamma_quadrature(module: MechanismModule, n_nodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights `(n_nodes, n_features)` of the unit-mean Gamma; a point mass without over-dispersion.

    Gauss-Legendre over quantiles: the logarithm of counts is far from a polynomial in the Gamma factor, where
    Gauss-Laguerre is off by up to a standard deviation, but tame in its quantile.
    """
    buffer = module.input_mean
    if module.gene_likelihood == "poisson":
        return torch.ones((1, 1)).to(buffer), torch.ones((1, 1)).to(buffer)
    theta = module.decoder.log_dispersion.detach().exp().double().cpu().numpy()
    points, weights = roots_legendre(n_nodes)
    nodes = gammaincinv(theta[None, :], (points[:, None] + 1) / 2) / theta
    return torch.from_numpy(nodes).to(buffer), torch.from_numpy(weights[:, None] / 2).to(buffer)
