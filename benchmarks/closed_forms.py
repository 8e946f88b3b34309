"""What the mechanism family computes in closed form, beside the same by sampling, by summing up or by another route.

Every model is trained for a moment on a small simulated screen, so that nothing holds by symmetry. Divergences are set beside
means of 20,000 draws, in standard errors of these; all else is the largest deviation found.

Run with `python benchmarks/closed_forms.py [--steps 400]`.
"""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from _tables import publish, to_markdown
from torch.distributions import Normal

import perturbia as pb
from perturbia.nn import GivenTreatments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
N_LATENT, N_DRAWS, ORDER = 3, 20_000, [2, 0, 3, 1]
PUBLISHED = {"basal_encoder": "correlated", "global_update": "gradient", "global_kl": "plated"}
#: Class, options of the model, whether combinations may be asked of it.
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "SAMSVAE": ("SAMSVAE", {}, True),
    "SAMSVAE, published": ("SAMSVAE", PUBLISHED, True),
    "CPAVAE": ("CPAVAE", {}, True),
    "SVAE": ("SVAE", {}, False),
    "ConditionalVAE": ("ConditionalVAE", {}, True),
    "ComparativeVAE, label means": ("ComparativeVAE", {"salient_prior": "label"}, True),
}
ROWS = {
    "kl_global": "KL of masks and embeddings, closed minus sampled, standard errors",
    "kl_local": "KL of a cell's latents, closed minus sampled, standard errors",
    "plated": "KL summed over an epoch's cells / closed − 1",
    "additive": "shift of A+B minus shifts of A and B, basal standard deviations",
    "order": "bound per cell with treatments in another order, nats",
    "unseen": "effect of a treatment without training cells, log1p CP10k",
    "rotation": "log likelihood of a cell after turning the latent basis, nats",
}


def screen() -> AnnData:
    """Four singles and, but for the fourth, their pairs."""
    return pb.datasets.simulate_screen(
        n_perturbations=4, n_combinations=3, n_genes=30, n_latent=2, cells_per_perturbation=60, n_controls=150, seed=1
    )


def fit(name: str, adata: AnnData, steps: int, **setup: Any) -> Any:
    """One model, trained for a moment."""
    kind, init, combines = MODELS[name]
    if not combines:
        labels = adata.obs["perturbation"].astype(str)
        adata = adata[~labels.str.contains("+", regex=False)].copy()
    cls = getattr(pb.model, kind)
    cls.setup_anndata(adata, **{"perturbation_key": "perturbation", **setup})
    comparative = kind == "ComparativeVAE"
    sizes = {"n_latent_shared": N_LATENT, "n_latent_salient": N_LATENT} if comparative else {"n_latent": N_LATENT}
    model = cls(adata, n_hidden=16, **sizes, **init)
    model.train(max_steps=steps, batch_size=64, **QUIET, **({"n_restarts": 1} if comparative else {"train_size": 1.0}))
    return model


def batches(model: Any, size: int = 50, n: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """Minibatches of the training cells, in order."""
    cells = np.sort(np.asarray(model.train_indices))[:n]
    yield from model._make_data_loader(adata=model.adata, indices=cells, batch_size=size)


def beside_draws(closed: float, draws: torch.Tensor) -> str:
    """A closed form in standard errors of the mean of draws."""
    error = float(draws.std()) / len(draws) ** 0.5
    return (
        f"{(closed - float(draws.mean())) / error:+.1f}" if error > 0 else f"{closed - float(draws.mean()):.0e} (exact)"
    )


@torch.inference_mode()
def kl_global(model: Any) -> str:
    """Masks and embeddings."""
    effects = model.module.effects
    if isinstance(effects, pb.nn.LabelMeans) or not hasattr(model, "get_treatment_embeddings"):
        return "–"
    mask, embedding = effects.sample(N_DRAWS, generator=torch.Generator().manual_seed(0))
    return beside_draws(float(effects.kl().sum()), -effects.log_ratio(mask, embedding).double().sum((1, 2)))


@torch.inference_mode()
def kl_local(model: Any) -> str:
    """Latents of 50 cells together, over draws of latents, masks and embeddings."""
    module = model.module
    torch.manual_seed(0)
    tensors = next(batches(model))
    inputs = module._get_inference_input(tensors)
    outputs = module.inference(**inputs)
    qz = outputs["qz"]
    if "qs" in outputs:
        closed = sum(float(part.sum()) for part in module.kl_local(outputs).values())
        z, s = qz.sample((N_DRAWS,)), outputs["qs"].sample((N_DRAWS,))
        own = module.block[outputs["group"]]
        offset, _ = module.salient_offset(outputs["given"])
        draws = _log_ratio(qz, z, 0.0).sum((1, 2)) + (_log_ratio(outputs["qs"], s, offset) * own).sum((1, 2))
        return beside_draws(closed, draws.double())
    if not module.encodes_total:  # sampled masks: the closed form is that of one draw
        closed, given_draw = float(module.kl_local(outputs).sum()), qz.sample((N_DRAWS,))
        return beside_draws(closed, _log_ratio(qz, given_draw, 0.0).flatten(1).sum(1).double())
    closed = float(module.kl_local(outputs).sum())
    rows, within = outputs["given"].within()
    mask, embedding = module.effects.sample(N_DRAWS, rows=rows, generator=torch.Generator().manual_seed(0))
    offset = within.sum_of(mask * embedding)
    return beside_draws(closed, _log_ratio(qz, qz.sample((N_DRAWS,)), offset).sum((1, 2)).double())


def _log_ratio(guide: Normal, z: torch.Tensor, mean: torch.Tensor | float) -> torch.Tensor:
    return guide.log_prob(z) - Normal(mean, 1.0).log_prob(z)


@torch.inference_mode()
def plated(model: Any) -> str:
    """Shares of the KL that cells carry."""
    module = model.module
    if not hasattr(module, "plated_kl") or not hasattr(model, "get_treatment_embeddings"):
        return "–"
    closed = float(module.effects.kl().sum())

    def epoch() -> float:
        return sum(
            float(module.plated_kl(module.inference(**module._get_inference_input(tensors), n_samples=1)).sum())
            for tensors in batches(model)
        )

    if module.encodes_total:
        return f"{epoch() / closed - 1:.0e}"
    torch.manual_seed(0)
    sums = torch.tensor([epoch() for _ in range(300)])
    return f"{float(sums.mean()) / closed - 1:+.3f} ± {float(sums.std()) / 300**0.5 / closed:.3f} (sampled)"


def additive(model: Any) -> str:
    """What a pair does beyond its members."""
    if "combination" not in model.capabilities or not hasattr(model, "get_treatment_embeddings") and not _labels(model):
        return "–"
    names = list(model.perturbations)[:2]
    shift = {query: _shift(model, query) for query in (*names, "+".join(names))}
    together = shift.pop("+".join(names))
    return f"{float((together - sum(shift.values())).abs().max()):.0e} of {float(together.abs().max()):.2f}"


@torch.inference_mode()
def _shift(model: Any, query: str) -> torch.Tensor:
    module = model.module
    given = GivenTreatments.of_doses(torch.from_numpy(model._query_matrix([query]).toarray()))
    if _labels(model):
        return module.salient_offset(given)[0]
    return module.effects.offset(module.design(given))[0]


def _labels(model: Any) -> bool:
    return isinstance(model.module.effects, pb.nn.LabelMeans)


def order(name: str, model: Any, adata: AnnData) -> str:
    """The same weights, rows of treatments in another order."""
    names = list(model.perturbations)
    source = model.adata
    permuted = adata[source.obs_names].copy()
    permuted.obsm["design"] = pd.DataFrame(
        source.obsm["_perturbia_dosage"].toarray()[:, ORDER], index=source.obs_names, columns=[names[k] for k in ORDER]
    )
    kind, init, _ = MODELS[name]
    cls = getattr(pb.model, kind)
    cls.setup_anndata(permuted, perturbation_obsm_key="design")
    if kind == "ComparativeVAE":
        other = cls(permuted, n_hidden=16, n_latent_shared=N_LATENT, n_latent_salient=N_LATENT, **init)
    else:
        other = cls(permuted, n_hidden=16, n_latent=N_LATENT, **init)
    state = model.module.state_dict()
    other.module.load_state_dict({key: _permuted(key, value, len(names)) for key, value in state.items()})
    other.is_trained_ = True
    n_draws = 1 if getattr(model.module, "encodes_total", True) else 100
    bounds = []
    for one in (model, other):
        torch.manual_seed(0)
        cells = np.arange(one.adata.n_obs)
        bounds.append([float(np.mean(np.asarray(one.get_elbo(indices=cells)))) for _ in range(n_draws)])
    change = np.mean(bounds[0]) - np.mean(bounds[1])
    if n_draws == 1:
        return f"{abs(change):.0e}"
    error = np.sqrt(sum(np.var(values, ddof=1) / n_draws for values in bounds))
    return f"{change:+.3f} ± {error:.3f} (sampled)"


def _permuted(key: str, value: torch.Tensor, n_treatments: int) -> torch.Tensor:
    """Rows of a table of treatments, or the inputs of a layer that reads their one-hot code, in the other order."""
    if key.endswith("treatment_code.table"):
        return value
    if (
        value.ndim
        and len(value) == n_treatments
        and key.split(".", maxsplit=1)[0] in {"effects", "n_treated", "design"}
    ):
        return value[ORDER]
    if key == "treatment_code.known":
        return value[ORDER]
    return value


def unseen(name: str, steps: int) -> str:
    """The effect of what no training cell received."""
    adata = screen()
    has_last = adata.obs["perturbation"].astype(str).str.contains("P04")
    adata.obs["pb_split"] = np.where(has_last, "test", "train")
    if MODELS[name][0] == "ComparativeVAE":
        valid = np.random.default_rng(0).random(adata.n_obs) < 0.1  # cells of both groups
        adata.obs["pb_split"] = np.where(has_last, "test", np.where(valid, "valid", "train"))
    model = fit(name, adata, steps)
    if _labels(model):  # salient latents of its cells vary, so that their mean is not that of the background
        means = model.module.effects.mean.detach()[[3, 0]].abs().amax(1)
        return f"{float(means[0]):.0e} beside {float(means[1]):.2f} (label means)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        effects = model.estimate_ate(["P04", "P01"], n_draws=0).X
    return f"{np.abs(effects[0]).max():.0e} beside {np.abs(effects[1]).max():.2f}"


@torch.inference_mode()
def rotation(model: Any) -> str:
    """Encoder, decoder and shifts turned together."""
    if not hasattr(model, "get_treatment_embeddings"):
        return "–"
    module = model.module.double()
    tensors = next(batches(model))
    tensors = {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
    inputs = module._get_inference_input(tensors)
    covariates = {key: inputs[key] for key in ("batch_index", "cat_covs", "cont_covs")}
    offset = module.effects.offset(module.design(inputs["given"]))[0]

    def log_likelihood(shift: torch.Tensor) -> torch.Tensor:
        mean = module.encode(inputs["x"], shift, **covariates).loc
        total = mean if module.encodes_total else mean + shift
        outputs = module.generative(total, inputs["x"].sum(-1, keepdim=True), **covariates)
        return outputs["px"].log_prob(inputs["x"]).sum(-1)

    before = log_likelihood(offset)
    turn = torch.linalg.qr(torch.randn(N_LATENT, N_LATENT, generator=torch.Generator().manual_seed(0)).double())[0]
    module.rotate(turn)
    change = float((log_likelihood(offset @ turn) - before).abs().max())
    module.rotate(turn.T)
    return f"{change:.0e}"


def column(name: str, steps: int) -> dict[str, str]:
    """All rows for one model."""
    adata = screen()
    model = fit(name, adata, steps)
    has_table = hasattr(model, "get_treatment_embeddings") or _labels(model)
    return {
        ROWS["kl_global"]: kl_global(model),
        ROWS["kl_local"]: kl_local(model),
        ROWS["plated"]: plated(model),
        ROWS["additive"]: additive(model),
        ROWS["order"]: order(name, model, adata) if has_table else "–",
        ROWS["unseen"]: unseen(name, steps),
        ROWS["rotation"]: rotation(model),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = pd.DataFrame({name: column(name, options.steps) for name in MODELS}).rename_axis("property")
    publish("closed_forms", [to_markdown(table)], note="A dash stands where a model has no such thing.")


if __name__ == "__main__":
    main()
