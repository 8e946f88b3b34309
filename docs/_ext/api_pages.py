"""API pages that can not lag behind: tables and stubs are made from each namespace's ``__all__`` at every build.

Directives: ``api-table`` lists a namespace, or those of its exports that are named in the content; ``command-help`` shows
what a command of the command line says of itself.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.statemachine import StringList
from public_names import home, public_names, stub
from sphinx import addnodes
from sphinx.ext.autosummary import Autosummary
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

STUBS = "generated"
_HELD: dict[str, list[str]] = {}


class ApiTable(Autosummary):
    """Table of the exports of a namespace, each linked to its page."""

    required_arguments = 1
    optional_arguments = 0
    has_content = True

    def run(self) -> list:
        """Fill the content of an autosummary."""
        (namespace,) = self.arguments
        chosen = [line.strip() for line in self.content if line.strip()] or public_names(namespace)
        unknown = sorted(set(chosen) - set(public_names(namespace)))
        if unknown:
            message = f"api-table: {namespace} does not export {', '.join(unknown)}"
            raise self.error(message)
        self.options["toctree"] = os.path.relpath(STUBS, os.path.dirname(self.env.docname) or ".")  # noqa: PTH120
        self.options.setdefault("nosignatures", None)
        homes = [home(namespace, name, self.config.api_namespaces) for name in chosen]
        entries = [f"~{place}.{name}" for place, name in zip(homes, chosen, strict=True)]
        self.content = StringList(entries, source="api-table")
        return super().run()


class CommandHelp(SphinxDirective):
    """Help text of a command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Ask the command line."""
        from perturbia.cli import main

        os.environ["COLUMNS"] = "86"
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([self.arguments[0], "--help"])
        # argparse takes the name of the process that asks
        shown = "usage: perturbia" + text.getvalue().removeprefix("usage: ").partition("perturbia")[2]
        return [nodes.literal_block(shown, shown, language="text")]


def write_stubs(app: Sphinx, config: Config) -> None:
    """Write the page of every export of the namespaces in ``api_namespaces``; leave files alone that would not change."""
    folder = Path(app.srcdir) / STUBS
    folder.mkdir(exist_ok=True)
    wanted = {
        f"{namespace}.{name}.rst": stub(namespace, name)
        for namespace in config.api_namespaces
        for name in public_names(namespace)
        if home(namespace, name, config.api_namespaces) == namespace
    }
    for path in folder.glob("*.rst"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def tidy_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Prepare a docstring for napoleon."""
    if what in {"property", "attribute", "data"}:
        # kept from napoleon, which would take what stands before a colon in the first line for a type
        _HELD[name] = lines.copy()
        lines[:] = ["held"]
        return
    out: list[str] = []
    inside = False
    for position, line in enumerate(lines):
        if position + 1 < len(lines) and set(lines[position + 1].strip()) == {"-"}:
            inside = line in {"Attributes", "Raises", "Warns"}
        if inside and ", " in line and not line.startswith(" "):
            # an entry of its own for each name of a line
            body = []
            for follower in lines[position + 1 :]:
                if not follower.startswith(" "):
                    break
                body.append(follower)
            for entry in line.split(", ")[:-1]:
                out += [entry, *body]
            out.append(line.split(", ")[-1])
        else:
            out.append(line)
    lines[:] = out


def restore_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put back what :func:`tidy_docstring` has kept from napoleon."""
    if name in _HELD and lines[:1] == ["held"]:
        lines[:] = _HELD.pop(name)


def public_bases(app: Sphinx, name: str, obj: type, unused: object, bases: list[type]) -> None:
    """Show the bases of a private base in its place."""
    bases[:] = [
        base for parent in bases for base in (parent.__bases__ if parent.__name__.startswith("_") else [parent])
    ]


def leave_signatures(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, shown: nodes.Element
) -> nodes.Node | None:
    """Types in signatures are code: those without a page stay text. References that someone wrote must have a target."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, addnodes.desc_signature):
            return shown
        parent = parent.parent
    return None


def setup(app: Sphinx) -> dict:
    """Register the directive and the hooks."""
    app.setup_extension("sphinx.ext.autosummary")
    app.add_config_value("api_namespaces", [], "env")
    app.add_directive("api-table", ApiTable)
    app.add_directive("command-help", CommandHelp)
    app.connect("config-inited", write_stubs)
    app.connect("autodoc-process-docstring", tidy_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", restore_docstring, priority=600)  # after it
    app.connect("autodoc-process-bases", public_bases)
    app.connect("missing-reference", leave_signatures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
