"""How a result shows itself: a table of the leading measures, best values marked, and what to know before quoting it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from perturbia.tl._evaluation.matched_cells import FEW_TESTED
from perturbia.tl._evaluation.summary import RANKED

if TYPE_CHECKING:
    import pandas as pd

    from perturbia.tl.evaluation_result import EvaluationResult

__all__ = ["as_html", "as_text", "cautions"]

N_LEADING = 8
FEW_CONTROLS = 300


def headline(result: EvaluationResult) -> str:
    """One line: what was judged, by what."""
    info = result.info
    contexts = f" in {info['n_contexts']} contexts" if info["n_contexts"] else ""
    return (
        f"EvaluationResult: {info['n_perturbations']} perturbations{contexts} × {info['n_genes']:,} genes, "
        f"{info['n_judging_cells']:,} cells, protocol {info['protocol']!r}, axis {info['axis']!r}"
    )


def cautions(result: EvaluationResult) -> list[str]:
    """What to know before quoting the numbers, in sentences."""
    info = result.info
    found = []
    if info["tests"]:
        found.append(f"Tests {info['tests']}.")
    if info["note"]:
        found.append(info["note"])
    if info["controls_shared"]:
        found.append("No control cells were held out: predictions and truth share the noise of their controls.")
    if info["training_unknown"]:
        found.append(
            f"No record of training cells, so that leaks can not be seen: {', '.join(info['training_unknown'])}. Attach the "
            "data that trained the model."
        )
    if info["axis"] == "unknown":
        found.append("The split was not made by tl.split, which would have checked what it holds out.")
    if info["n_test_controls"] < FEW_CONTROLS and info["truth"] != "known":
        found.append(
            f"{info['n_test_controls']} control cells are held out: intervals and p-values do not know of their noise, which "
            "all effects share."
        )
    if info["too_few_cells"]:
        n_few = len(info["too_few_cells"])
        verb = (
            "perturbation has too few held-out cells and is"
            if n_few == 1
            else "perturbations have too few held-out cells and are"
        )
        found.append(f"{n_few} {verb} not judged.")
    if info["n_unmatched_cells"]:
        found.append(
            f"{info['n_unmatched_cells']:,} held-out cells of {info['n_unmatched_perturbations']} perturbations are in "
            "batches without controls and are compared with the controls of all batches: their effects hold what batches "
            "differ by."
        )
    if info["n_unmatched_training_cells"]:
        found.append(
            f"{info['n_unmatched_training_cells']:,} training cells are in batches without training controls: what baselines "
            "learn of them holds what batches differ by."
        )
    found += [*_few_tested(result), *_undefined(result)]
    if info["left_out"]:
        found.append(f"Not applicable: {', '.join(info['left_out'])}.")
    return found


def _few_tested(result: EvaluationResult) -> list[str]:
    """How many cells differential expression was called on, where these are few."""
    names = result.metrics.index[result.metrics["tests"].astype(bool)]
    table = result.table[result.table["metric"].isin(names) & result.table["role"].isin(RANKED)]
    cells = table.loc[(table["perturbation"] != "") & (table["n"] > 0), ["perturbation", "context", "n_cells"]]
    n_cells = cells.drop_duplicates()["n_cells"]
    few = int((n_cells < FEW_TESTED).sum())
    if few == 0:
        return []
    return [
        f"Differential expression is called on {n_cells.min()} to {n_cells.max()} cells a perturbation, as many on every "
        f"side as the smallest has (held-out cells, training controls in their batches, given predictions): fewer than "
        f"{FEW_TESTED} for {few} of {len(n_cells)}."
    ]


def _undefined(result: EvaluationResult) -> list[str]:
    """Measures that some, or all, of the judged perturbations have no score of."""
    summary = result.summary()
    ranked = result.names(*RANKED)
    few = len(result.info["too_few_cells"])
    n = summary.loc[ranked, "n"]
    # the most that a method lacks which has a score at all
    undefined = summary.loc[ranked, "n_undefined"].where(n > 0).max() - few
    title = result.metrics["title"]
    found = []
    nothing = (n == 0).all()
    interactions = [name for name in nothing.index if name.startswith("interaction")]
    if interactions and nothing[interactions].all() and combinations(result):
        found.append(
            "Interactions are not judged: that takes more validation cells of the members, tl.split(valid=...)."
        )
    none = [str(title[name]) for name in nothing.index[nothing] if name not in interactions]
    if none:
        found.append(f"No score of any method: {', '.join(none)}.")
    total = (n + summary.loc[ranked, "n_undefined"]).max() - few
    some = [f"{title[name]} ({k:.0f} of {total[name]:.0f})" for name, k in undefined.items() if k > 0]
    if some:
        found.append(f"Perturbations without a score are left out: {', '.join(some)}.")
    return found


def combinations(result: EvaluationResult) -> bool:
    """Whether combinations were judged."""
    return bool((result.table["n_targets"].fillna(0) > 1).any())


def _leading(result: EvaluationResult) -> tuple[pd.DataFrame, list[str]]:
    summary = result.summary()
    names = [name for name in result.metrics.index if summary["value"][name].notna().any()][:N_LEADING]
    return summary, names


def as_text(result: EvaluationResult) -> str:
    """The result as plain text."""
    summary, names = _leading(result)
    table = summary["value"][names].map(lambda value: "" if not np.isfinite(value) else f"{value:.3f}")
    more = len(result.metrics) - len(names)
    lines = [headline(result), table.rename_axis(None).rename_axis(columns=None).to_string()]
    if more:
        lines.append(f"and {more} more measures: .summary(), .metrics")
    return "\n".join([*lines, *cautions(result)])


def as_html(result: EvaluationResult) -> str:
    """The result as a table of a notebook."""
    summary, names = _leading(result)
    roles = result.table.drop_duplicates("model").set_index("model")["role"]
    titles = "".join(
        f"<th title='{html.escape(str(result.metrics.loc[name, 'description']))}'>"
        f"{html.escape(str(result.metrics.loc[name, 'title']))} "
        f"{'↑' if result.metrics.loc[name, 'higher_is_better'] else '↓'}</th>"
        for name in names
    )
    rows = []
    for method in summary.index:
        cells = []
        for name in names:
            value, low, high, rank = (
                summary.loc[method, (statistic, name)] for statistic in ("value", "low", "high", "rank")
            )
            text = "" if not np.isfinite(value) else f"{value:.3f}"
            spread = f" title='{low:.3f} to {high:.3f}'" if np.isfinite(low) else ""
            cells.append(f"<td{spread}>{'<b>' if rank == 1 else ''}{text}{'</b>' if rank == 1 else ''}</td>")
        label = html.escape(str(method))
        label = (
            f"<b>{label}</b>" if roles[method] == "model" else label if roles[method] in RANKED else f"<i>{label}</i>"
        )
        rows.append(f"<tr><td style='text-align:left'>{label}</td>{''.join(cells)}</tr>")
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in cautions(result))
    return (
        f"<p><b>{html.escape(headline(result))}</b></p><table><thead><tr><th style='text-align:left'>method</th>{titles}"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p>Means over perturbations; bold is best of models and baselines. Point at a number for its "
        f"{result.info['confidence']:.0%} interval, at a title for what it means.</p><ul>{notes}</ul>"
    )
