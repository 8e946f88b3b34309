"""Tables of measures and protocols, made from their registries at every build.

Directives: ``protocol-table`` lists the protocols of :func:`perturbia.tl.evaluate`; ``measure-table`` the measures of those
protocols that its argument names, without the ones that an earlier name of the argument has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sphinx.application import Sphinx

    from perturbia.tl._evaluation.measure import Measure

_Cell = str | nodes.Node


def _paragraph(cell: _Cell) -> nodes.paragraph:
    return nodes.paragraph("", "", nodes.Text(cell) if isinstance(cell, str) else cell)


def _table(widths: Sequence[int], head: Sequence[str], rows: Sequence[Sequence[_Cell]]) -> nodes.table:
    """A docutils table of text and inline nodes."""
    group = nodes.tgroup(cols=len(widths))
    group += [nodes.colspec(colwidth=width) for width in widths]
    for kind, content in ((nodes.thead, [head]), (nodes.tbody, rows)):
        filled = [nodes.row("", *(nodes.entry("", _paragraph(cell)) for cell in row)) for row in content]
        group += kind("", *filled)
    return nodes.table("", group, classes=["colwidths-given"])


def _number(value: float) -> str:
    if math.isnan(value):
        return "depends"
    return "∞" if math.isinf(value) else f"{value:g}"


def _names(measures: Sequence[str]) -> nodes.inline:
    out = nodes.inline()
    for i, name in enumerate(measures):
        out += nodes.Text(", " if i else "")
        out += nodes.literal(name, name)
    return out


def _row(measure: Measure) -> list[_Cell]:
    arrow = "" if measure.higher_is_better else " ↓"
    unit = {"": "", "scale of effects": " On the scale of effects."}.get(measure.unit, f" In {measure.unit}.")
    over = "each" if measure.level == "perturbation" else "all at once"
    return [
        nodes.literal(measure.name, measure.name),
        measure.description + unit,
        f"{_number(measure.best)}{arrow}",
        _number(measure.chance),
        over,
        measure.reads,
    ]


class ProtocolTable(SphinxDirective):
    """What each protocol is made of."""

    def run(self) -> list[nodes.Node]:
        """Read the registry."""
        from perturbia.tl._evaluation.protocols import PROTOCOLS

        rows: list[list[_Cell]] = [
            [
                nodes.literal(name, name),
                _names(protocol.measures),
                "every cell" if protocol.every_cell else "held-out cells",
                protocol.note,
            ]
            for name, protocol in PROTOCOLS.items()
        ]
        return [_table([12, 48, 12, 28], ["protocol", "measures", "judged by", "before you quote it"], rows)]


class MeasureTable(SphinxDirective):
    """What the measures of the last of some protocols are, without those of the others."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Read the registry."""
        from perturbia.tl._evaluation.protocols import PROTOCOLS

        *before, name = self.arguments[0].split()
        known = {measure for other in before for measure in PROTOCOLS[other].measures}
        rows = [_row(measure) for measure in PROTOCOLS[name].resolved() if measure.name not in known]
        head = ["measure", "what it is", "best", "chance", "over", "reads"]
        return [_table([20, 50, 8, 8, 8, 8], head, rows)]


def setup(app: Sphinx) -> dict:
    """Register the directives."""
    app.add_directive("protocol-table", ProtocolTable)
    app.add_directive("measure-table", MeasureTable)
    return {"parallel_read_safe": True}
