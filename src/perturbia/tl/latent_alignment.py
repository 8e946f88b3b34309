"""Do runs that differ in their seed find the same latents?"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.errors import FeatureMismatch
from perturbia.metrics import match_latents

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["align_latents"]


def align_latents(runs: Mapping[str, Any], *, reference: str | None = None) -> pd.DataFrame:
    """Match the latents of several runs to those of one of them.

    Latents are named by chance: their order and sign mean nothing, and only what several runs find deserves a name. Each
    latent of the reference is matched one to one with a latent of every other run by the correlation over cells.

    Parameters
    ----------
    runs
        Latents of the same cells in the same order, arrays `(n_cells, n_latent)` by the name of their run; models may
        stand in their place, whose latents are then encoded.
    reference
        Name of the run that the others are matched to; by default the one whose matches correlate best.

    Returns
    -------
    Data frame, one row a latent of the reference and another run: `latent` and `run`, the position `matched` of the latent
    there (-1 for none), the signed `correlation` with it (0 for none), and `stability`, the mean absolute correlation of
    the latent of the reference over all other runs. `attrs` holds `reference` and `mcc`, the mean of the stabilities.

    Raises
    ------
    ValueError
        If there are fewer than two runs, or `reference` names none of them.
    FeatureMismatch
        If runs have different numbers of cells.

    Examples
    --------
    >>> import numpy as np
    >>> import perturbia as pb
    >>> z = np.random.default_rng(0).normal(size=(100, 2))
    >>> table = pb.tl.align_latents({"seed 0": z, "seed 1": -z[:, ::-1]}, reference="seed 0")
    >>> table[["latent", "matched", "correlation"]].round(2).values.tolist()
    [[0.0, 1.0, -1.0], [1.0, 0.0, -1.0]]
    """
    if len(runs) < 2:
        msg = f"runs: expected two runs at least, got {len(runs)}. Train again under another seed."
        raise ValueError(msg)
    if reference is not None and reference not in runs:
        msg = f"reference: expected one of {list(runs)}, got {reference!r}."
        raise ValueError(msg)
    latents = {name: _latents(run) for name, run in runs.items()}
    sizes = {name: len(values) for name, values in latents.items()}
    if len(set(sizes.values())) > 1:
        msg = f"runs: expected latents of the same cells, got {sizes} cells. Encode the same cells with every run."
        raise FeatureMismatch(msg)
    if reference is None:
        agreement = dict.fromkeys(latents, 0.0)
        for one, other in combinations(latents, 2):
            shared = float(np.abs(match_latents(latents[one], latents[other]).correlation).sum())
            agreement[one] += shared
            agreement[other] += shared
        reference = max(agreement, key=agreement.__getitem__)
    rows = []
    for name, values in latents.items():
        if name == reference:
            continue
        matching = match_latents(latents[reference], values)
        place = dict(
            zip(matching.truth.tolist(), zip(matching.estimate, matching.correlation, strict=True), strict=True)
        )
        for latent in range(latents[reference].shape[1]):
            matched, correlation = place.get(latent, (-1, 0.0))
            rows.append({"latent": latent, "run": name, "matched": int(matched), "correlation": float(correlation)})
    table = pd.DataFrame(rows)
    table["stability"] = table["correlation"].abs().groupby(table["latent"]).transform("mean")
    table.attrs = {"reference": reference, "mcc": float(table["correlation"].abs().mean())}
    return table


def _latents(run: Any) -> np.ndarray:
    if hasattr(run, "get_latent_representation"):
        return run.get_latent_representation()
    values = np.asarray(run)
    if values.ndim != 2:
        msg = f"runs: expected arrays (n_cells, n_latent) or models, got shape {values.shape}."
        raise ValueError(msg)
    return values
