"""Conditional variational autoencoder: networks read the perturbation of the cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbia.model.mechanism._latent_shift import LatentShiftModel
from perturbia.model.mechanism._mechanism_module import MechanismModule
from perturbia.model.mechanism._model_options import build_module

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.nn.decoder import Likelihood

__all__ = ["ConditionalVAE"]


class ConditionalVAE(LatentShiftModel):
    r"""Variational autoencoder whose encoder and decoder read the dosage of the cell.

    .. math::
        z_i \sim N(0, I), \quad x_i \sim \mathrm{NB}(l_i\, \mathrm{softmax}\, f(z_i, d_i), \theta), \quad
        q(z_i \mid x_i, d_i)

    The latent is basal throughout. Nothing ties the effect of a combination to those of its members but the decoder, and
    a perturbation may do something else to every state of the cell. There is no mask and no embedding to read.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    n_latent
        Number of latent dimensions.
    n_hidden
        Width of encoder and decoder. More perturbations than this are read through as many learnt dimensions.
    n_layers
        Hidden layers of encoder and decoder.
    gene_likelihood
        ``"nb"``, ``"zinb"`` and ``"poisson"`` for counts, ``"normal"`` for any other scale.
    n_particles
        Draws of the latent per cell and step.
    seed
        Seed of initial weights and of training.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.ConditionalVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.ConditionalVAE(adata, n_latent=5)
    >>> model.train(max_steps=20, enable_progress_bar=False)
    >>> model.estimate_ate(["P01"], n_draws=0).shape
    (1, 30)

    References
    ----------
    Sohn, K. et al. (2015). Learning structured output representation using deep conditional generative models. NeurIPS;
    in the form of the baseline of Bereket and Karaletsos (2023).
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
        n_particles: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        self.global_update = "gradient"
        self.seed = seed
        self.module = build_module(self, locals(), seed=seed, effects="decoded", global_update="gradient")
        self._model_summary_string = self._summary(n_latent, n_hidden, n_layers, gene_likelihood)
        self.init_params_ = self._get_init_params(locals())

    def train(self, *args: Any, **kwargs: Any) -> None:
        """Train the model, as :meth:`SAMSVAE.train`; arguments about masks and rotations have nothing to act on."""
        super().train(*args, **kwargs)

    @property
    def capabilities(self) -> frozenset:
        """As :class:`~perturbia.model.base.VirtualCellModel`; there is no mechanism to read."""
        return super().capabilities - {"mechanism"}
