"""What the tables say, in sentences that are computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.spatial.distance import cdist

from perturbia.tl import clade_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from anndata import AnnData

__all__ = ["Comparison", "compare", "judge", "pathway_sentence", "silent_sentence"]

Outcome = Literal["ahead", "behind", "level"]

# differences below this say nothing: another seed would turn them
TIE = 0.005
LOWER_IS_BETTER = frozenset({"e-distance"})


@dataclass(frozen=True)
class Comparison:
    """A model against the best of the baselines on one score.

    Attributes
    ----------
    score
        Column of the table.
    value
        Score of the model.
    baseline, baseline_value
        The best baseline and its score.
    outcome
        ``"ahead"``, ``"behind"`` or ``"level"``, of the model.
    """

    score: str
    value: float
    baseline: str
    baseline_value: float
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.score} ({self.value:.3f}; {self.baseline} {self.baseline_value:.3f})"


def compare(table: pd.DataFrame, score: str, *, model: str, baselines: Sequence[str]) -> Comparison:
    """Compare a model with the best of the baselines.

    Parameters
    ----------
    table
        Methods × scores.
    score
        Column.
    model
        Row of the model.
    baselines
        Rows of baselines; those that the table lacks, or without this score, do not count.

    Returns
    -------
    The comparison. Scores that differ by less than 0.005 are level.
    """
    sign = -1 if score in LOWER_IS_BETTER else 1
    column = table[score].reindex([name for name in baselines if name in table.index]).dropna()
    best = str((sign * column).idxmax())
    value, other = float(table.loc[model, score]), float(column[best])
    lead = sign * (value - other)
    outcome: Outcome = "level" if abs(lead) < TIE else "ahead" if lead > 0 else "behind"
    return Comparison(score, value, best, other, outcome)


def judge(table: pd.DataFrame, *, model: str, scores: Iterable[str], baselines: Sequence[str]) -> str:
    """Say where a model wins and, first, where a baseline does.

    Parameters
    ----------
    table
        Methods × scores.
    model
        Row of the model.
    scores
        Columns to compare on; those that the model or every baseline lacks (NaN) do not count.
    baselines
        Rows of baselines.

    Returns
    -------
    A sentence.
    """
    rivals = table.reindex([name for name in baselines if name in table.index])
    defined = [score for score in scores if table.loc[[model], score].notna().all() and rivals[score].notna().any()]
    found = [compare(table, score, model=model, baselines=baselines) for score in defined]
    texts = {
        "behind": "is beaten by a baseline on",
        "ahead": "is ahead of every baseline on",
        "level": "is level with the best baseline on",
    }
    parts = []
    for outcome, text in texts.items():
        those = [str(one) for one in found if one.outcome == outcome]
        if those:
            parts.append(f"{text} {_list(those)}")
    return f"{model} {'; it '.join(parts)}."


def _list(parts: Iterable[str]) -> str:
    *first, last = list(parts)
    return f"{', '.join(first)} and {last}" if first else last


def pathway_sentence(tree: AnnData, pathway: Sequence[str]) -> str:
    """Whether known partners came out as one group of the tree, with the distances that say so.

    Parameters
    ----------
    tree
        Result of :func:`perturbia.tl.mechanisms`.
    pathway
        Perturbations that are known to act together.

    Returns
    -------
    A sentence; empty if fewer than two of them are in the tree.
    """
    members = [name for name in pathway if name in set(tree.obs_names)]
    if len(members) < 2:
        return ""
    branch = clade_of(tree, members)
    inside = tree.obs_names.isin(members)
    shifts = tree.X.astype(float)
    within, between = cdist(shifts[inside], shifts[inside]).max(), cdist(shifts[inside], shifts[~inside]).min()
    distances = (
        f"the largest distance between two of them is {within:.2f}, the smallest from one of them to any other "
        f"perturbation {between:.2f} basal standard deviations"
    )
    if set(branch) == set(members):
        return f"{_list(members)} form one branch of the tree, which nobody told the model: {distances}."
    others = [name for name in branch if name not in members]
    shown = _list(others) if len(others) <= 5 else f"{len(others)} others"
    return f"{_list(members)} do not form one branch of the tree: the smallest that holds them all also holds {shown}; {distances}."


def silent_sentence(tree: AnnData) -> str:
    """How many perturbations move anything at all.

    Parameters
    ----------
    tree
        Result of :func:`perturbia.tl.mechanisms`.

    Returns
    -------
    A sentence.
    """
    silent = tree.obs_names[tree.obs["n_moved"].to_numpy() == 0]
    share = float(np.mean(np.asarray(tree.layers["mask"]) > 0.5))
    return (
        f"{len(silent)} of {tree.n_obs} perturbations move no latent with probability above one half; "
        f"{share:.1%} of all masks are open."
    )
