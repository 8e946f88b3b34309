"""The published implementation of SAMS-VAE, from a checkout of its repository, on data of ours.

The checkout is only imported. Its data module wants the columns of one study, so that tensors are handed over directly,
and its training script reports to a web service, so that its Lightning module is trained by a trainer made here.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from perturbia.perturbation import dosage_matrix

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from perturbia.model.mechanism._mechanism_module import MechanismModule

N_LATENT, N_HIDDEN, N_LAYERS, MASK_PRIOR = 20, 128, 1, 0.1
BATCH_SIZE, N_PARTICLES, LR, CLIP = 128, 5, 2e-3, 100.0
#: What tells the forms apart; the local guide sees the cell and its offset in all of them.
FORMS = ("mean_field", "correlated", "cpa")


def find_reference(folder: Path) -> None:
    """Make the checkout importable."""
    if not (folder / "sams_vae" / "models").is_dir():
        msg = f"--reference: expected a checkout with the folder sams_vae/models, got {str(folder)!r}."
        raise SystemExit(msg)
    sys.path.insert(0, str(folder))
    # the name that it imports Lightning by
    sys.modules["pytorch_lightning"] = pl


class Reference:
    """One form of the published model on one screen.

    Parameters
    ----------
    adata
        Counts in `X`, ``obs["perturbation"]`` and ``obs["pb_split"]``.
    names
        Perturbations in the order of the columns of its dosage matrix.
    form
        ``"mean_field"``: SAMS-VAE with q(E) apart from q(M); ``"correlated"``: with q(E given M); ``"cpa"``: CPA-VAE.
    n_embedding_layers
        Hidden layers of q(E given M).
    seed
        Seed of initial weights and of training.
    """

    def __init__(
        self,
        adata: AnnData,
        names: list[str],
        *,
        form: str = "mean_field",
        n_embedding_layers: int = 2,
        seed: int = 0,
    ) -> None:
        from sams_vae import models
        from sams_vae.data.utils.batch_statistics import batch_log_mean, batch_log_std
        from sams_vae.data.utils.perturbation_datamodule import ObservationNormalizationStatistics
        from sams_vae.data.utils.perturbation_dataset import SCRNASeqTensorPerturbationDataset
        from sams_vae.models.utils.perturbation_lightning_module import PerturbationLightningModule

        self.names, self.seed = names, seed
        counts = torch.from_numpy(adata.X.toarray())
        dosage = torch.from_numpy(self._dosage(adata.obs["perturbation"].astype(str)))
        self.data = {}
        for part in ("train", "valid", "test"):
            rows = torch.from_numpy((adata.obs["pb_split"] == part).to_numpy())
            self.data[part] = SCRNASeqTensorPerturbationDataset(X=counts[rows], D=dosage[rows])
        x = self.data["train"].X
        mean = batch_log_mean(x)
        statistics = ObservationNormalizationStatistics(log_x_mean=mean, log_x_std=batch_log_std(x, mean))
        torch.manual_seed(seed)
        sizes = {"n_latent": N_LATENT, "n_treatments": len(names), "n_phenos": adata.n_vars}
        prior = {"embedding_prior_scale": 1.0} | ({} if form == "cpa" else {"mask_prior_prob": MASK_PRIOR})
        kind = "CPAVAE" if form == "cpa" else "SAMSVAE"
        decoder = {"likelihood_key": "library_nb", "decoder_n_layers": N_LAYERS, "decoder_n_hidden": N_HIDDEN}
        model = getattr(models, f"{kind}Model")(**sizes, **prior, **decoder)
        embedding = {"embedding_encoder_n_layers": n_embedding_layers, "embedding_encoder_n_hidden": N_HIDDEN}
        name = {"mean_field": "SAMSVAEMeanFieldNormalGuide", "correlated": "SAMSVAECorrelatedNormalGuide"}
        guide = getattr(models, name.get(form, "CPAVAENormalGuide"))(
            **sizes,
            **(embedding if form == "correlated" else {}),
            basal_encoder_n_layers=N_LAYERS,
            basal_encoder_n_hidden=N_HIDDEN,
            basal_encoder_input_normalization="log_standardize",
            x_normalization_stats=statistics,
            mean_field_encoder=False,
        )
        counted = {
            f"D_obs_counts_{key}": self.data[part].get_dosage_obs_per_dim()
            for key, part in (("train", "train"), ("val", "valid"), ("test", "test"))
        }
        self.plan = PerturbationLightningModule(
            getattr(models, f"{kind}_ELBOLossModule")(model, guide),
            lr=LR,
            n_treatments=len(names),
            n_particles=N_PARTICLES,
            predictor=getattr(models, f"{kind}Predictor")(model, guide),
            **counted,
        )
        self.model, self.guide = model, guide

    def train(self, max_epochs: int) -> float:
        """Train, and return CPU-seconds per epoch; keeps the last state and the one of the lowest validation loss."""
        with tempfile.TemporaryDirectory() as folder:
            best = ModelCheckpoint(folder, monitor="val/loss", filename="best")
            trainer = pl.Trainer(
                accelerator="cpu",
                max_epochs=max_epochs,
                gradient_clip_val=CLIP,
                callbacks=[best],
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            torch.manual_seed(self.seed)
            loaders = [DataLoader(self.data[part], BATCH_SIZE, shuffle=part == "train") for part in ("train", "valid")]
            started = time.process_time()
            trainer.fit(self.plan, *loaders)
            seconds = time.process_time() - started
            state = torch.load(best.best_model_path, weights_only=False)
            self.states = {"best": state["state_dict"], "last": self._copy()}
            self.best_epoch = state["epoch"] + 1
        return seconds / max_epochs

    def keep(self, state: str) -> None:
        """Return to the ``"best"`` or the ``"last"`` state."""
        self.plan.load_state_dict(self.states[state])

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.plan.state_dict().items()}

    def _dosage(self, labels) -> np.ndarray:
        return dosage_matrix(list(labels), self.names).toarray().astype("float32")

    def iwelbo(self, part: str, *, n_particles: int = 100) -> float:
        """Mean bound of cells by its own predictor."""
        torch.manual_seed(0)
        loader = DataLoader(self.data[part], BATCH_SIZE)
        return float(self.plan.predictor.compute_predictive_iwelbo(loader, n_particles)["IWELBO"].mean())

    def effects(self, labels: list[str], library: float, *, n_particles: int = 2_500) -> np.ndarray:
        """Effects by its own predictor, which samples counts at one library size, differences of log2."""
        return self.plan.predictor.estimate_average_treatment_effects(
            torch.from_numpy(self._dosage(labels)),
            torch.zeros((1, len(self.names))),
            method="perturbseq",
            n_particles=n_particles,
            condition_values={"library_size": torch.full((1,), library)},
        ).X

    def open_masks(self) -> float:
        """Share of masks above one half; all of them without masks."""
        logits = getattr(self.guide, "param_dict", {})
        return float((logits["q_mask_logits"] > 0).float().mean()) if "q_mask_logits" in logits else 1.0

    @torch.no_grad()
    def copy_into(self, module: MechanismModule) -> None:
        """Write networks, dispersions, masks, embeddings and statistics of a form of SAMS-VAE into a module of ours.

        Its network of q(E given M) has residual connections from the second layer on, which ours has not, so that one
        hidden layer is the form that can be copied.
        """
        ours, theirs = module.encoder, self.guide.z_basal_encoder
        _copy_linear(ours.trunk.fc_layers[0][0], theirs.mlp.layers[0][0])
        _copy_linear(ours.mean_head, theirs.mean_encoder)
        _copy_linear(ours.log_variance_head, theirs.log_var_encoder)
        _copy_linear(module.decoder.trunk.fc_layers[0][0], self.model.decoder.mlp.layers[0][0])
        _copy_linear(module.decoder.head, self.model.decoder.normalized_mean_decoder[0])
        module.decoder.log_dispersion.copy_(self.model.decoder.log_concentration)
        module.input_mean.copy_(self.guide.normalization_module.log_mean)
        module.input_sd.copy_(self.guide.normalization_module.log_scale)
        module.n_treated.copy_(self.plan.D_obs_counts_train)
        posterior, effects = self.guide.param_dict, module.effects
        effects.mask_logit.copy_(posterior["q_mask_logits"])
        if "q_E_loc" in posterior:
            effects.mean.copy_(posterior["q_E_loc"])
            effects.log_sd.copy_(torch.log(posterior["q_E_log_scale"].exp() + self.guide.var_eps))
            return
        network = self.guide.embedding_encoder
        (first,) = network.mlp.layers
        effects.mask_input.weight.copy_(first[0].weight[:, :N_LATENT])
        effects.mask_input.bias.copy_(first[0].bias)
        effects.row_input.copy_(first[0].weight[:, N_LATENT:].T)
        effects.head.weight.copy_(torch.cat([network.mean_encoder.weight, network.log_var_encoder.weight]))
        effects.head.bias.copy_(torch.cat([network.mean_encoder.bias, network.log_var_encoder.bias]))


def _copy_linear(to: torch.nn.Linear, source: torch.nn.Linear) -> None:
    to.weight.copy_(source.weight)
    to.bias.copy_(source.bias)
