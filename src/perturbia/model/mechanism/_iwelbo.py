"""Importance-weighted bound on the likelihood of cells, streamed over particles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributions import Normal

from perturbia.model.mechanism._seeds import mixed_seed

if TYPE_CHECKING:
    from perturbia.model.mechanism._mechanism_module import MechanismModule

__all__ = ["iwelbo_of_batch"]


def iwelbo_of_batch(
    module: MechanismModule,
    tensors: dict[str, torch.Tensor],
    *,
    n_particles: int,
    seed: int,
    batch: int = 0,
    chunk: int = 10,
) -> torch.Tensor:
    r"""Bound of each cell of a batch.

    .. math::
        \log \frac1P \sum_p \frac{p(x_i \mid z_{ip}, l_i)\, p(z^b_{ip})}{q(z^b_{ip} \mid x_i, M_p, E_p)}

    Masks and embeddings are drawn from their posterior and not scored; draw :math:`p` is the same for every `batch`,
    because it is seeded by its chunk alone. A running log-sum-exp keeps memory at `chunk` particles.

    Returns
    -------
    Tensor `(n_cells,)`, float64, in nats.
    """
    inputs = module._get_inference_input(tensors)
    x, given = inputs["x"], module.design(inputs["given"])
    covariates = {key: inputs[key] for key in ("batch_index", "cat_covs", "cont_covs")}
    library = x.sum(-1, keepdim=True) if inputs["size_factor"] is None else inputs["size_factor"]
    noise = torch.Generator().manual_seed(mixed_seed(seed, batch, 1))
    total = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    # guides that do not see the drawn offset are the same for every particle
    fixed = None
    if module.basal_encoder != "correlated":
        fixed = module.encode(x, module.condition(inputs["given"]), **covariates)
    for start in range(0, n_particles, chunk):
        size = min(chunk, n_particles - start)
        shared = torch.Generator().manual_seed(mixed_seed(seed, start, 0))
        mask, embedding = module.effects.sample(size, generator=shared)
        offset = given.sum_of(mask * embedding)
        guide = fixed if fixed is not None else module.encode(x, offset, **covariates)
        draw = torch.randn((size, len(x), module.n_latent), generator=noise).to(x.device)
        latent = guide.loc + guide.scale * draw
        basal, total_latent = (latent - offset, latent) if module.encodes_total else (latent, latent + offset)
        log_q = Normal(guide.loc, guide.scale, validate_args=False).log_prob(latent).sum(-1)
        log_prior = Normal(0.0, 1.0).log_prob(basal).sum(-1)
        px = module.generative(total_latent, library, **covariates, given=inputs["given"])["px"]
        weight = px.log_prob(x).sum(-1).double() + (log_prior - log_q).double()
        total = torch.logaddexp(total, torch.logsumexp(weight, 0))
    return total - torch.log(torch.tensor(float(n_particles), dtype=torch.float64))
