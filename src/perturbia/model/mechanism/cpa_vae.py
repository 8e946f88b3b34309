"""CPA-VAE: additive dense shifts of perturbations in the latent space of a variational autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbia.model.mechanism._mechanism_module import MechanismModule
from perturbia.model.mechanism._model_options import build_module
from perturbia.model.mechanism._shift_model import ShiftModel

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.model.mechanism._mechanism_module import BasalEncoder, GlobalKL, GlobalUpdate
    from perturbia.nn.decoder import Likelihood
    from perturbia.nn.treatment_design import DoseResponse

__all__ = ["CPAVAE"]


class CPAVAE(ShiftModel):
    r"""Additive shift variational autoencoder without sparsity, "CPA-VAE" of the SAMS-VAE paper.

    SAMS-VAE with every mask open: each perturbation moves all latents,

    .. math::
        z_i = z_i^b + \sum_t d_{it}\, e_t, \quad e_t \sim N(0, s_E^2 I), \quad
        x_i \sim \mathrm{NB}(l_i\, \mathrm{softmax}\, f(z_i), \theta)

    It is a Bayesian relative of the compositional perturbation autoencoder without adversary. By default the guide encodes
    the total latent and embeddings are found in closed form, as in :class:`SAMSVAE`; the published inference is
    ``basal_encoder="correlated", global_kl="plated", n_particles=5``.

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
        ``"residual"`` (ours), ``"informed"``, or the published guides ``"correlated"`` and ``"mean_field"``, as in
        :class:`SAMSVAE`.
    global_update
        ``"closed_form"`` (with the residual or informed guide) or ``"gradient"``.
    global_kl
        ``"closed"``, or ``"plated"`` as published.
    embedding_prior_scale
        Prior standard deviation :math:`s_E` of a shift, in units of the basal standard deviation.
    dose_response
        ``"linear"``, or ``"power"`` for one exponent of the dose a perturbation.
    n_particles
        Draws of the latent per cell and step.
    seed
        Seed of initial weights and of training.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.CPAVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.CPAVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> model.get_treatment_embeddings().shape
    (4, 5)

    References
    ----------
    Bereket, M. and Karaletsos, T. (2023). Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder. NeurIPS. Section 5, baselines.
    """

    _module_cls = MechanismModule

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
        embedding_prior_scale: float = 1.0,
        dose_response: DoseResponse = "linear",
        n_particles: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        if global_update is None:
            global_update = "closed_form" if basal_encoder in {"residual", "informed"} else "gradient"
        self.global_update = global_update
        self.seed = seed
        self.module = build_module(self, locals(), seed=seed, effects="dense")
        self._model_summary_string = self._summary(n_latent, n_hidden, n_layers, gene_likelihood, basal_encoder)
        self.init_params_ = self._get_init_params(locals())

    def train(self, *args: Any, **kwargs: Any) -> None:
        """Train the model, as :meth:`SAMSVAE.train` with the same arguments.

        `rotation` is ``"none"`` unless given: dense shifts have no axes of their own.
        """
        kwargs.setdefault("rotation", "none")
        super().train(*args, **kwargs)
