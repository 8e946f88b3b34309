"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from perturbia.demo.figures import DrawnFigure

__all__ = ["Report", "TableSection"]

STYLE = """
:root { color-scheme: light; --ink: #1d1d1f; --muted: #5c5c66; --line: #e3e3e8; --accent: #b84a00; --wash: #f7f7f9; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: var(--ink);
  background: #fff; margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 60rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
p, li { max-width: 46rem; }
.lead { color: var(--muted); font-size: 1.05rem; margin: 0 0 1.5rem; }
.short { background: var(--wash); border-left: 4px solid var(--accent); padding: 1rem 1.4rem; border-radius: 4px; }
.short ul { margin: .3rem 0; padding-left: 1.1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .95rem; width: 100%; }
th, td { padding: .38rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--muted); font-weight: 600; border-bottom: 2px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tr.model td:first-child { color: var(--accent); font-weight: 600; }
tr.reference td { color: var(--muted); font-style: italic; }
td.best { font-weight: 700; }
.scroll { overflow-x: auto; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .3rem 1rem; font-size: .92rem; color: var(--muted); }
dt { font-weight: 600; color: var(--ink); } dd { margin: 0; }
figure { margin: 1rem 0 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--muted); font-size: .92rem; margin-top: .6rem; max-width: 46rem; }
pre { background: var(--wash); padding: 1rem; border-radius: 4px; overflow-x: auto; font-size: .82rem; line-height: 1.45; }
footer { margin-top: 3rem; color: var(--muted); font-size: .85rem; }
.warning { background: #fff4e5; border-left: 4px solid #e69f00; padding: .7rem 1.2rem; border-radius: 4px; }
@media print { body { padding: 0; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class TableSection:
    """A table with what its numbers mean.

    Attributes
    ----------
    title
        Heading.
    intro
        Sentences before the table.
    table
        Methods × scores.
    meaning
        What each column says.
    models, references
        Rows in colour, and rows that are no methods.
    lower_is_better
        Columns in which the smallest value is the best.
    digits
        Digits after the point, by column; three by default.
    """

    title: str
    intro: str
    table: pd.DataFrame
    meaning: dict[str, str]
    models: Sequence[str]
    references: Sequence[str] = ()
    lower_is_better: Sequence[str] = ()
    digits: dict[str, int] = field(default_factory=dict)

    def cell(self, column: str, value: float) -> str:
        """A number as it is printed."""
        return "n/a" if not np.isfinite(value) else f"{value:.{self.digits.get(column, 3)}f}"

    def best(self, column: str) -> set[str]:
        """Methods that score best, as printed; references do not compete."""
        column_values = self.table[column].drop(index=list(self.references), errors="ignore").dropna()
        if len(column_values) < 2:
            return set()
        best = column_values.min() if column in self.lower_is_better else column_values.max()
        printed = self.cell(column, best)
        return {str(name) for name, value in column_values.items() if self.cell(column, value) == printed}

    def to_html(self) -> str:
        """The section."""
        columns = list(self.table.columns)
        best = {column: self.best(column) for column in columns}
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in ("method", *columns))
        rows = []
        for name, values in self.table.iterrows():
            kind = "model" if name in self.models else "reference" if name in self.references else "baseline"
            cells = "".join(
                f"<td{' class=best' if name in best[column] else ''}>{self.cell(column, values[column])}</td>"
                for column in columns
            )
            rows.append(f'<tr class="{kind}"><td>{html.escape(str(name))}</td>{cells}</tr>')
        meaning = "".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(text)}</dd>" for key, text in self.meaning.items()
        )
        return (
            f"<h2>{html.escape(self.title)}</h2><p>{html.escape(self.intro)}</p>"
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
            f"<dl>{meaning}</dl>"
        )


@dataclass(frozen=True)
class Report:
    """Everything the report shows.

    Attributes
    ----------
    title, lead
        Heading, and one sentence under it.
    warning
        Printed in a box, if not empty.
    short
        Conclusions, one sentence or two each.
    tables
        Sections with tables; figures follow the first.
    figures
        The figures.
    code
        How to go on from the written files.
    citations
        BibTeX.
    footer
        Versions, seed, time.
    """

    title: str
    lead: str
    warning: str
    short: Sequence[str]
    tables: Sequence[TableSection]
    figures: Sequence[DrawnFigure]
    code: str
    citations: str
    footer: str

    def to_html(self) -> str:
        """The page: style and images inside, no scripts, no links."""
        first, *others = (section.to_html() for section in self.tables)
        figures = "".join(_figure(figure) for figure in self.figures)
        short = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.short)
        warning = f'<p class="warning">{html.escape(self.warning)}</p>' if self.warning else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head><body>"
            f'<h1>{html.escape(self.title)}</h1><p class="lead">{html.escape(self.lead)}</p>{warning}'
            f'<div class="short"><strong>In short</strong><ul>{short}</ul></div>'
            f"{first}{figures}{''.join(others)}"
            f"<h2>Go on from here</h2><pre>{html.escape(self.code)}</pre>"
            f"<h2>Cite</h2><pre>{html.escape(self.citations)}</pre>"
            f"<footer>{html.escape(self.footer)}</footer></body></html>\n"
        )


def _figure(figure: DrawnFigure) -> str:
    data = base64.b64encode(figure.path.read_bytes()).decode()
    title, caption = html.escape(figure.title), html.escape(figure.caption)
    return (
        f'<h2>{title}</h2><figure><img alt="{title}" width="{figure.width}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
