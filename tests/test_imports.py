"""The shape of the house: imports run one way, `import perturbia` is cheap, and every public name is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "perturbia"

# A room may import from its own floor and from the floors below it.
FLOORS = [
    {"_bibliography", "_keys", "citation", "errors", "perturbation", "stats", "nn", "metrics"},
    {"datasets", "pp", "model"},
    {"tl"},
    {"design", "virtual"},
    {"pl"},
    {"demo"},
    {"cli", "__main__"},
    {"__init__"},
]
HEAVY = {
    "torch",
    "scvi",
    "ot",
    "matplotlib",
    "scanpy",
    "anndata",
    "mudata",
    "lightning",
    "pandas",
    "sklearn",
    "seaborn",
}
SECONDS = 0.3


@dataclass(frozen=True)
class Edge:
    """One import statement: the importing module, the imported one, and whether only a type checker sees it."""

    source: str
    target: str
    line: int
    typing_only: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def trees() -> dict[str, tuple[Path, ast.Module]]:
    return {module_name(path): (path, ast.parse(path.read_text("utf-8"))) for path in sorted(SOURCE.rglob("*.py"))}


def lazy_attributes(tree: ast.Module) -> dict[str, str]:
    """Exported name → submodule, as the ``submod_attrs`` of a lazy package say it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            table = ast.literal_eval(node.value)
            return {name: module for module, names in table.items() for name in names}
    return {}


def resolve(module: str, name: str | None) -> str:
    """The module that ``from module import name`` reaches, through lazy packages."""
    if name is not None and f"{module}.{name}" in trees():
        return f"{module}.{name}"
    if name is not None and module in trees():
        submodule = lazy_attributes(trees()[module][1]).get(name)
        if submodule is not None:
            return f"{module}.{submodule}"
    return module


def typing_only_nodes(tree: ast.Module) -> set[ast.AST]:
    blocks = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    ]
    return {child for block in blocks for statement in block.body for child in ast.walk(statement)}


def imports_of(name: str) -> list[Edge]:
    path, tree = trees()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    typing_only = typing_only_nodes(tree)
    edges = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, *filter(None, [node.module])])
            targets = [resolve(base, alias.name) for alias in node.names]
        else:
            continue
        edges += [Edge(name, target, node.lineno, node in typing_only) for target in targets]
    return edges


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def all_edges() -> list[Edge]:
    return [edge for name in trees() for edge in imports_of(name)]


def inner_edges() -> list[Edge]:
    return [edge for edge in all_edges() if edge.target.split(".")[0] == "perturbia"]


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A circle of the graph as the list of its nodes, or None."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return None
        for successor in sorted(graph.get(node, ())):
            circle = visit(successor, [*trail, node])
            if circle:
                return circle
        done.add(node)
        return None

    for start in sorted(graph):
        circle = visit(start, [])
        if circle:
            return circle
    return None


def as_graph(pairs: list[tuple[str, str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for source, target in pairs:
        if source != target:
            graph.setdefault(source, set()).add(target)
    return graph


def test_the_walk_sees_imports():
    """Guards the tests below against passing because nothing was found."""
    assert {"perturbia", "perturbia._keys", "perturbia.errors"} <= set(trees())
    assert any(edge.target == "perturbia._keys" for edge in inner_edges())
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}}) is None
    assert resolve("perturbia.perturbation", "Perturbation") == "perturbia.perturbation.value"


def test_every_room_has_a_floor():
    rooms = {room(name) for name in trees()}
    assert rooms <= set().union(*FLOORS)


def test_imports_run_one_way():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    upward = [
        f"{edge.source}:{edge.line} imports {edge.target}"
        for edge in inner_edges()
        if floor[room(edge.target)] > floor[room(edge.source)]
    ]
    assert not upward, "\n".join(upward)


def test_no_circle_of_rooms():
    assert find_circle(as_graph([(room(edge.source), room(edge.target)) for edge in inner_edges()])) is None


def test_no_circle_of_modules():
    at_run_time = [(edge.source, edge.target) for edge in inner_edges() if not edge.typing_only]
    assert find_circle(as_graph(at_run_time)) is None


@pytest.mark.parametrize(
    ("rooms", "libraries"),
    [
        ({"stats", "metrics", "nn"}, {"anndata", "mudata", "scanpy"}),
        ({"stats", "metrics"}, {"scvi", "lightning", "matplotlib"}),
        ({"datasets", "pp", "model", "tl", "nn", "perturbation", "design"}, {"matplotlib", "seaborn"}),
    ],
)
def test_rooms_do_not_know_these_libraries(rooms, libraries):
    known = [
        f"{edge.source}:{edge.line} imports {edge.target}"
        for edge in all_edges()
        if room(edge.source) in rooms and edge.target.split(".")[0] in libraries
    ]
    assert not known, "\n".join(known)


def third_party() -> set[str]:
    names = {edge.target.split(".")[0] for edge in all_edges()}
    return names - set(sys.stdlib_module_names) - {"perturbia", "__future__"}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    optional = [requirement for group in project.get("optional-dependencies", {}).values() for requirement in group]
    return {requirement.split(">=")[0].split("[")[0].strip() for requirement in [*project["dependencies"], *optional]}


DISTRIBUTION = {"sklearn": "scikit-learn", "scvi": "scvi-tools", "lazy_loader": "lazy-loader", "ot": "pot"}


def test_imported_libraries_are_declared():
    needed = {DISTRIBUTION.get(name, name) for name in third_party()}
    assert needed <= declared()


def public_packages() -> list[str]:
    """Packages that export names lazily."""
    return [name for name, (path, tree) in trees().items() if path.name == "__init__.py" and lazy_attributes(tree)]


@pytest.mark.parametrize("package", public_packages())
def test_public_names_resolve_and_are_documented(package):
    module = importlib.import_module(package)
    assert module.__doc__, package
    for name in module.__all__:
        value = getattr(module, name)
        assert not inspect.ismodule(value) or name not in lazy_attributes(trees()[package][1]), f"{name} is shadowed"
        if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
            continue  # a constant or a type alias has no docstring to carry
        # A class must say what it is itself: inspect.getdoc would take its parent's word.
        text = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
        assert text, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", public_packages())
def test_no_module_shadows_an_exported_name(package):
    table = lazy_attributes(trees()[package][1])
    assert not {name for name in table if f"{package}.{name}" in trees()}


def in_fresh_process(code: str) -> dict:
    environment = {
        key: value for key, value in os.environ.items() if key not in {"EAGER_IMPORT", "PYTHONPROFILEIMPORTTIME"}
    }
    # A subprocess without coverage's start-up hook: the cost of measuring is not the cost of importing.
    environment = {key: value for key, value in environment.items() if not key.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = str(SOURCE.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


MEASURE = """
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
import perturbia
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "loaded": sorted(set(sys.modules) - before)}))
"""

OPEN_ALL = """
import importlib, json, sys
import perturbia
for package in %r:
    dir(importlib.import_module(package))
print(json.dumps(sorted(sys.modules)))
"""


def test_import_is_fast_and_light():
    runs = [in_fresh_process(MEASURE) for _ in range(7)]
    assert statistics.median(run["seconds"] for run in runs) < SECONDS
    for run in runs:
        assert not HEAVY & set(run["loaded"])
        assert "numpy" not in run["loaded"]


def test_opening_every_namespace_loads_nothing_heavy():
    rooms = sorted(name for name in public_packages() if name.count(".") <= 1)
    assert not HEAVY & set(in_fresh_process(OPEN_ALL % rooms))


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    import perturbia

    assert perturbia.__version__ == version("perturbia")
