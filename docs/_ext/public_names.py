"""What every namespace exports, read from the package itself, and the page on which each name is documented.

No import of Sphinx here: the tests read this module, too.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = "perturbia"


def public_names(namespace: str) -> list[str]:
    """Sorted exports of a namespace, submodules left out."""
    module = importlib.import_module(namespace)
    names = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    return sorted(names, key=str.casefold)


def home(namespace: str, name: str, namespaces: Sequence[str]) -> str:
    """The shortest of the namespaces that export this very object under this name: its page is there."""
    value = getattr(importlib.import_module(namespace), name)
    exporters = [other for other in namespaces if name in public_names(other)]
    same = [other for other in exporters if getattr(importlib.import_module(other), name) is value]
    return min([*same, namespace], key=len)


def public_members(cls: type) -> tuple[list[str], list[str]]:
    """Public methods and properties of a class that Perturbia defines, and the names of those it inherits from others.

    An attribute belongs to the class of the method resolution order that defines it first.
    """
    own, foreign = [], []
    for name in dir(cls):
        if name.startswith("_"):
            continue
        owner = next(base for base in cls.__mro__ if name in vars(base))
        value = vars(owner)[name]
        described = callable(value) or isinstance(value, (property, classmethod, staticmethod))
        if owner.__module__.split(".")[0] == PACKAGE:
            if described:
                own.append(name)
        elif described and owner.__module__.split(".")[0] == "scvi":
            foreign.append(name)
    return own, foreign


def stub(namespace: str, name: str) -> str:
    """reStructuredText of the page of one export."""
    value = getattr(importlib.import_module(namespace), name)
    lines = [name, "=" * len(name), "", f".. currentmodule:: {namespace}", ""]
    if not inspect.isclass(value):
        kind = "autofunction" if inspect.isroutine(value) else "autodata"
        return "\n".join([*lines, f".. {kind}:: {name}", ""])
    if issubclass(value, BaseException):
        return "\n".join([*lines, f".. autoexception:: {name}", "   :show-inheritance:", "   :members:", ""])
    own, foreign = public_members(value)
    lines += [f".. autoclass:: {name}", *([f"   :members: {', '.join(own)}"] if own else []), ""]
    if foreign:
        inherited = ", ".join(f"``{member}``" for member in foreign)
        lines += [".. rubric:: From scvi-tools", "", f"As every model of scvi-tools, it also has {inherited}.", ""]
    return "\n".join(lines)
