"""Comparative VAE: what a target population shares with a background, and what is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from scvi.data._constants import _SETUP_ARGS_KEY

from perturbia.errors import ScaleError
from perturbia.model.base._arguments import check_choice, check_positive_integer
from perturbia.model.base._features import check_anndata
from perturbia.model.comparative._cell_readouts import CellReadouts
from perturbia.model.comparative._comparative_module import ComparativeModule, SalientPrior, TargetPrior
from perturbia.model.comparative._comparative_registration import group_field
from perturbia.model.comparative._label_effects import estimate_ate, sample_cells
from perturbia.nn.decoder import Likelihood

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.base._features import Scale
    from perturbia.perturbation.value import Query

__all__ = ["ComparativeVAE"]


class ComparativeVAE(CellReadouts):
    r"""Comparative (contrastive) variational autoencoder with shared and salient latents.

    Background cells have shared latents :math:`z` alone, target cells salient ones :math:`s` besides, and one decoder
    reads both:

    .. math::
        \text{background: } x \sim p\big(x \mid f(z, 0)\big), \qquad
        \text{target: } x \sim p\big(x \mid f(z, s)\big), \qquad z, s \sim N(0, I)

    Several target groups have blocks of :math:`s` of their own. The decoder is piece-wise affine, without batch
    normalisation or dropout, as the identifiability of both blocks asks.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    n_latent_shared
        Number of shared latents. Rather few: spare ones take what is salient. The smallest number at which
        the bound of the background (:meth:`get_elbo`) no longer rises is right.
    n_latent_salient
        Number of salient latents of each target group. Rather many: spare ones stay empty
        (:meth:`get_active_dimensions`).
    n_hidden
        Width of encoders and decoder.
    n_layers
        Hidden layers of encoders and decoder.
    gene_likelihood
        ``"nb"``, ``"zinb"`` and ``"poisson"`` for counts, ``"normal"`` for any other scale.
    salient_prior
        ``"standard"``, or ``"label"``: salient latents lie around a mean of their perturbation (or group), the sum of
        those of its members times their doses. It helps where counts are few, and answers queries of perturbations.
    target_prior
        Prior of the shared latents in target cells: ``"standard"``, or ``"learned"``, a diagonal Gaussian for targets
        of another composition than the background.
    seed
        Seed of initial weights and of training.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=30, n_latent=2)
    >>> pb.model.ComparativeVAE.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.ComparativeVAE(adata, n_latent_shared=3, n_latent_salient=2)
    >>> model.train(max_steps=20, n_restarts=1, enable_progress_bar=False)
    >>> model.get_latent_representation(kind="salient").shape
    (900, 2)

    References
    ----------
    Lopez, R., Huetter, J.-C., Hajiramezanali, E., Pritchard, J. and Regev, A. (2024). Toward the identifiability of
    comparative deep generative models. CLeaR.
    """

    _module_cls = ComparativeModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_latent_shared: int = 10,
        n_latent_salient: int = 8,
        n_hidden: int = 128,
        n_layers: int = 2,
        gene_likelihood: Likelihood = "nb",
        salient_prior: SalientPrior = "standard",
        target_prior: TargetPrior = "standard",
        seed: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        sizes = {
            "n_latent_shared": n_latent_shared,
            "n_latent_salient": n_latent_salient,
            "n_hidden": n_hidden,
            "n_layers": n_layers,
        }
        for name, size in sizes.items():
            check_positive_integer(name, size)
        choices = {"gene_likelihood": gene_likelihood, "salient_prior": salient_prior, "target_prior": target_prior}
        for name, options in zip(choices, (Likelihood, SalientPrior, TargetPrior), strict=True):
            check_choice(name, choices[name], get_args(options))
        if (gene_likelihood == "normal") == (self.scale == "counts"):
            msg = f"gene_likelihood: {gene_likelihood!r} does not fit data registered with scale={self.scale!r}."
            raise ScaleError(msg)
        self.seed = seed
        self._module_options: dict[str, Any] = {**sizes, **choices}
        self.module = self._make_module(seed)
        described = ", ".join(f"{name}={value}" for name, value in self._module_options.items())
        self._model_summary_string = (
            f"ComparativeVAE of {self.summary_stats.n_vars} features, background {self.groups[0]!r} and "
            f"{len(self.groups) - 1} target group(s): {described}"
        )
        self.init_params_ = self._get_init_params(locals())

    def _make_module(self, seed: int) -> ComparativeModule:
        stats = self.summary_stats
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._module_cls(
                n_input=stats.n_vars,
                n_treatments=len(self.perturbations),
                n_groups=len(self.groups) - 1,
                n_batch=stats.n_batch,
                n_cats_per_cov=self._covariate_categories(),
                n_continuous_cov=stats.get("n_extra_continuous_covs", 0),
                **self._module_options,
            )

    @classmethod
    def setup_anndata(  # type: ignore[override]
        cls,
        adata: AnnData,
        layer: str | None = None,
        *,
        group_key: str | None = None,
        background: str | None = None,
        scale: Scale = "counts",
        perturbation_key: str | None = None,
        perturbation_obsm_key: str | None = None,
        dose_key: str | None = None,
        control: str | Sequence[str] = "control",
        sep: str = "+",
        batch_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        size_factor_key: str | None = None,
        **kwargs: object,
    ) -> None:
        """Register features, groups and covariates.

        Parameters
        ----------
        adata
            Annotated data; not a view. May be backed.
        layer
            Layer with the features, ``None`` for `X`.
        group_key
            Column of `obs` with the background and one or several target groups.
        background
            Label of the background in that column.
        scale
            What the features are. Counts are checked: whole, not negative, no cell without any.
        perturbation_key, perturbation_obsm_key
            In place of `group_key`: perturbations, whose controls are the background and whose other cells are one
            target group, as in the other models.
        dose_key, control, sep
            How to read perturbations, as in the other models.
        batch_key
            Column of `obs` with the batch.
        categorical_covariate_keys, continuous_covariate_keys
            Columns of `obs` with further covariates.
        size_factor_key
            Column of `obs` with library sizes to use in place of the sum of the registered features.
        **kwargs
            Used when a model is loaded or transferred, such as `source_registry`.

        Returns
        -------
        Nothing; writes what the registration of the other models writes, groups as treatments.

        Raises
        ------
        LabelError, ControlError
            If groups are not named once, missing, or without background.
        ScaleError, DoseError, KeyError, TypeError
            As in the other models.
        """
        check_anndata(adata)
        setup_method_args = cls._get_setup_method_args(
            **{k: v for k, v in locals().items() if k not in {"adata", "kwargs"}}, adata=adata
        )
        transfer = kwargs.get("source_registry") is not None
        groups = group_field(adata, setup_method_args[_SETUP_ARGS_KEY], transfer=transfer)
        cls._register(adata, setup_method_args, groups, **kwargs)

    def estimate_ate(
        self,
        perturbations: Sequence[Query] | None = None,
        *,
        scale: Literal["log1p_cp10k", "perturbseq", "counts", "registered"] | None = None,
        n_cells: int = 300,
        n_draws: int = 10,
        seed: int = 0,
    ) -> AnnData:
        r"""Average treatment effects: expected features of control cells with the salient latents of a label, minus without.

        Parameters
        ----------
        perturbations
            Queries; by default every perturbation and combination in the registered data.
        scale
            ``"log1p_cp10k"``: difference of :math:`E[\log(1 + 10^4 x / l)]`; ``"perturbseq"``: the same in base 2;
            ``"counts"``: difference of expected counts. ``"registered"`` for features that are not counts.
        n_cells
            Number of control cells.
        n_draws
            Draws of label means for `layers["sd"]`; 0 leaves it zero.
        seed
            Seed of all draws.

        Returns
        -------
        AnnData `(n_perturbations, n_features)`, float32: `X` effects, `layers["se"]` Monte Carlo standard errors,
        `layers["sd"]` standard deviations from the uncertainty of label means, `obs["n_cells"]` training cells.

        Raises
        ------
        UnsupportedQuery
            If ``salient_prior="standard"``, which knows nothing of single labels.
        UnknownPerturbation, NotTrainedError, ScaleError
            If a query, the model or the scale can not be used.
        """
        return estimate_ate(self, perturbations, scale=scale, n_cells=n_cells, n_draws=n_draws, seed=seed)

    def sample(self, query: Query, n_samples: int = 100, *, seed: int = 0) -> AnnData:
        """Draw cells under a perturbation from the prior of the shared latents and that of its salient ones.

        Parameters
        ----------
        query
            The perturbation.
        n_samples
            Number of cells.
        seed
            Seed of the draws.

        Returns
        -------
        AnnData `(n_samples, n_features)` of sampled features, float32, in the registered scale.
        """
        return sample_cells(self, query, n_samples, seed=seed)
