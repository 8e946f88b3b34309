"""Formulas as MathML, written at build time: pages need no script and no network to show them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

_SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])")  # no meaning, and unknown to docutils
_DIGITS = re.compile(r"\\([td]?frac)\s*(\d)(\d)")  # docutils reads "\frac12" as a fraction of twelve
_ACCENTS = re.compile(r"\\(hat|bar|tilde)\s*(\\[a-zA-Z]+|[a-zA-Z])")  # docutils puts indices below them


def _convert(node: nodes.Node, *, block: bool) -> str:
    source = _DIGITS.sub(r"\\\1{\2}{\3}", _SIZES.sub("", node.astext()))
    source = _ACCENTS.sub(r"{{}\\\1{\2}}", source).replace("&", "&{}")  # a relation after & needs its space
    if block and ("\\\\" in source or "&" in source) and "\\begin" not in source:
        source = rf"\begin{{aligned}}{source}\end{{aligned}}"
    try:
        return tex2mathml(source, as_block=block)
    except MathError as error:
        logger.warning("formula %r: %s", source, error, location=node)
        return f"<code>{source}</code>"


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula of a sentence."""
    self.body.append(_convert(node, block=False))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, with its number if it has a label."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(_convert(node, block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    """Register the renderer under the name ``mathml``."""
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
