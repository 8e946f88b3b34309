"""Which measures a protocol is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perturbia.errors import nearest_names
from perturbia.tl._evaluation.measures import MEASURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.tl._evaluation.measure import Measure

__all__ = ["PROTOCOLS", "Protocol", "read_protocol"]


@dataclass(frozen=True)
class Protocol:
    """A way to judge.

    Attributes
    ----------
    name
        What the user asked for.
    measures
        Its measures, in order; the first is the one that reports lead with.
    every_cell
        Whether effects are measured by all cells of a perturbation, training cells too, as published.
    note
        What to know before quoting it.
    """

    name: str
    measures: tuple[str, ...]
    every_cell: bool = False
    note: str = ""

    def resolved(self) -> list[Measure]:
        """The measures themselves."""
        return [MEASURES[name] for name in self.measures]


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "core",
            (
                "correlation",
                "correlation_systema",
                "r2",
                "cosine",
                "rmse",
                "top20",
                "jaccard20",
                "direction",
                "retrieval_cosine",
                "retrieval_l1",
                "edistance",
                "correlation_cells",
                "correlation_all",
                "r2_all",
                "top20_all",
                "interaction_r",
                "interaction_r2",
            ),
        ),
        Protocol(
            "sams-vae",
            ("correlation_all", "r2_all", "top20_truth_r", "top20_truth_r2", "iwelbo"),
            every_cell=True,
            note="Effects are measured by all cells of a perturbation, those that trained too, and choose the genes that "
            "they score: the published choice, which flatters whatever was fitted to these cells. Where a batch is "
            "registered, effects are weighted by batch, and the published ones are not. Perturbations with test cells "
            "judge; the published sets are train, val, test and all.",
        ),
        Protocol(
            "systema",
            ("correlation_systema", "correlation_systema_top20", "centroid_accuracy", "correlation", "rmse"),
            note="The 20 genes are those of largest observed effect and are chosen by the cells that judge them.",
        ),
        Protocol(
            "perturbench",
            ("rmse_means", "cosine_logfc", "rmse_means_rank", "cosine_logfc_rank"),
            note="Means and log fold changes are those of cells, as PerturBench aggregates them. Ranks are turned so that 1 is "
            "best and ties are averaged; PerturBench has 0 for the best and shuffles ties. Held-out cells have held-out "
            "controls, where PerturBench takes the same for both sides.",
        ),
        Protocol(
            "vcc",
            ("mae_means", "discrimination_l1", "overlap_at_n"),
            note="The three scores of the Virtual Cell Challenge, by the rules of the protocol cell-eval.",
        ),
        Protocol(
            "cell-eval",
            (
                "discrimination_l1",
                "overlap_at_n",
                "mae_means",
                "discrimination_l2",
                "discrimination_cosine",
                "mse_means",
                "mae_delta",
                "mse_delta",
                "correlation_cells",
                "precision_at_n",
                "de_recall",
                "de_direction",
                "de_spearman_lfc",
                "de_pr_auc",
                "de_roc_auc",
                "de_spearman_significant",
                "de_edistance",
                "clustering",
            ),
            note="Predicted cells are tested against the observed controls that models may have seen, held-out cells against "
            "held-out ones; predicted controls are never used. Tests pool batches, as cell-eval does: where batches and "
            "perturbations are confounded, they find batches.",
        ),
    )
}


def read_protocol(protocol: str | Sequence[str]) -> Protocol:
    """A protocol by its name, or a list of names of protocols and measures.

    Parameters
    ----------
    protocol
        The name or names.

    Returns
    -------
    The protocol; a list keeps its order and drops repetitions.

    Raises
    ------
    ValueError
        If a name is unknown, or protocols disagree on which cells judge.
    """
    names = [protocol] if isinstance(protocol, str) else list(protocol)
    known = [*PROTOCOLS, *MEASURES]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "an empty list"
        near = f" Nearest: {', '.join(nearest_names(unknown[0], known))}." if unknown else ""
        msg = f"protocol: expected {', '.join(map(repr, PROTOCOLS))} or names of measures, got {got}.{near}"
        raise ValueError(msg)
    if len(names) == 1 and names[0] in PROTOCOLS:
        return PROTOCOLS[names[0]]
    parts = [PROTOCOLS.get(name, Protocol(name, (name,))) for name in names]
    whole = [part for part in parts if part.name in PROTOCOLS]
    if len({part.every_cell for part in whole}) > 1:
        msg = (
            f"protocol: expected protocols that agree on the cells that judge, got {names}: 'sams-vae' measures effects by "
            "all cells, the others by held-out cells. Evaluate twice."
        )
        raise ValueError(msg)
    measures = tuple(dict.fromkeys(name for part in parts for name in part.measures))
    notes = " ".join(part.note for part in whole if part.note)
    return Protocol(" + ".join(names), measures, every_cell=any(part.every_cell for part in whole), note=notes)
