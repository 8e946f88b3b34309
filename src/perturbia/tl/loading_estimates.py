"""Which genes every latent of a model moves, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.stats._settings import check_positive_integer, check_seed

if TYPE_CHECKING:
    from perturbia.model.comparative import ComparativeVAE
    from perturbia.model.mechanism._latent_shift import LatentShiftModel

__all__ = ["latent_loadings"]


def latent_loadings(
    model: LatentShiftModel | ComparativeVAE, *, n_cells: int = 300, step: float = 1.0, seed: int = 0
) -> pd.DataFrame:
    r"""Change of mean expression along each latent, by a central difference through the decoder.

    .. math::
        W_{lg} = \frac{1}{n h} \sum_{i=1}^{n} \Big( E\big[y_g \mid z_i + \tfrac{h}{2} e_l\big]
        - E\big[y_g \mid z_i - \tfrac{h}{2} e_l\big] \Big)

    over the basal states :math:`z_i` of control cells, with :math:`y` the log-normalised counts (or the registered
    features) and :math:`h` the `step`. Batches, covariates and library sizes are those of the cells, measurement noise
    is integrated out.

    Parameters
    ----------
    model
        A trained model with a decoder of latents: :class:`~perturbia.model.SAMSVAE`, `SVAE`, `CPAVAE`,
        `ConditionalVAE`, `ComparativeVAE`. Its data may be minified.
    n_cells
        Number of control cells, those that trained where the model has them. Without control cells, as in screens that
        have none, or without data, as many draws from the prior. Time grows with it, memory does not.
    step
        Width :math:`h` of the difference, in units of the basal standard deviation. Small ones give the derivative, 1 what
        lies between half a deviation below and above.
    seed
        Seed of the choice of cells and of their states.

    Returns
    -------
    float32 data frame, latents × genes: change per basal standard deviation of the latent, in units of log1p CP10K for
    counts, else of the registered scale. The sign is that of the positive direction of the latent, which itself is
    arbitrary: compare it with that of the shifts.

    Raises
    ------
    TypeError
        If `model` has no decoder of latents, such as a baseline.
    NotTrainedError
        Before training.
    ValueError
        If `n_cells`, `step` or `seed` is no positive number.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.SAMSVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> loadings = pb.tl.latent_loadings(model)
    >>> loadings.shape
    (5, 30)
    >>> strongest = loadings.loc["z0"].nlargest(10)  # genes that rise along the first latent
    """
    from perturbia.model.comparative._latent_blocks import LatentBlockModel
    from perturbia.model.mechanism._latent_shift import LatentShiftModel
    from perturbia.model.mechanism._loadings import estimate_loadings

    if not isinstance(model, LatentShiftModel | LatentBlockModel):
        msg = (
            f"model: expected a model that decodes latents, such as SAMSVAE or ComparativeVAE, got {type(model).__name__}. "
            "Train one of those."
        )
        raise TypeError(msg)
    check_positive_integer("n_cells", n_cells)
    check_seed(seed)
    if isinstance(step, bool) or not isinstance(step, int | float | np.number) or not 0 < step < np.inf:
        msg = f"step: expected a positive number of basal standard deviations, got {step!r}. Leave it at 1."
        raise ValueError(msg)
    values = estimate_loadings(model, n_cells=n_cells, step=float(step), seed=seed)
    latents = model._latent_var().index.astype(str)
    return pd.DataFrame(values, index=latents, columns=pd.Index(model.get_var_names(), name=None))
