"""How a result shows itself: a table of the leading measures, best values marked, and what to know before quoting it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

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
    summary = result.summary()
    undefined = summary.loc[result.names(*RANKED), "n_undefined"].max().fillna(0)
    few = len(info["too_few_cells"])
    metrics = [str(result.metrics.loc[name, "title"]) for name, n in undefined.items() if n > few]
    if metrics:
        found.append(f"Not defined for some perturbations, which are left out of the mean: {', '.join(metrics)}.")
    if (
        "interaction_r" in result.metrics.index
        and summary["value"]["interaction_r"].isna().all()
        and combinations(result)
    ):
        found.append(
            "Interactions are not judged: that takes more validation cells of the members, tl.split(valid=...)."
        )
    if info["left_out"]:
        found.append(f"Not applicable: {', '.join(info['left_out'])}.")
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
