"""The documentation holds every public name, its examples run, and the tutorials are stored as they were executed."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import perturbia

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
TUTORIAL_SECONDS = 180
MACHINE_PATH = re.compile(r"(?<![\w./])/(home|root|tmp|usr|work|Users|opt|private|var)/\w")

# Not every copy of the tests comes with the documentation (the source distribution does not).
with_docs = pytest.mark.skipif(not (DOCS / "conf.py").exists(), reason="needs the folder docs")
with_tutorials = pytest.mark.skipif(not NOTEBOOKS, reason="needs the folder tutorials")


def public_names() -> ModuleType:
    spec = spec_from_file_location("public_names", DOCS / "_ext" / "public_names.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables() -> dict[str, str]:
    """Namespace → page, for every table of names in the API pages."""
    found = {}
    for page in (DOCS / "api").glob("*.md"):
        for namespace in re.findall(r"^\.\. api-table:: (\S+)$", page.read_text("utf-8"), re.MULTILINE):
            found[namespace] = page.name
    return found


def exporting_packages() -> list[str]:
    """Packages that a user may import from: those with exports."""
    packages = [info.name for info in pkgutil.walk_packages(perturbia.__path__, "perturbia.") if info.ispkg]
    return ["perturbia", *(name for name in packages if getattr(importlib.import_module(name), "__all__", []))]


@with_docs
def test_every_public_name_is_on_an_api_page():
    documented = {
        getattr(importlib.import_module(namespace), name)
        for namespace in tables()
        for name in public_names().public_names(namespace)
    }
    assert documented
    missing = [
        f"{package}.{name}"
        for package in exporting_packages()
        for name in public_names().public_names(package)
        if getattr(importlib.import_module(package), name) not in documented
    ]
    assert not missing, missing


@with_docs
def test_tables_list_the_exports_of_their_namespace_today():
    listed = public_names().public_names("perturbia.metrics")
    assert sorted(listed) == sorted(perturbia.metrics.__all__)
    assert "api" in {path.parent.name for path in DOCS.glob("api/*.md")}
    index = (DOCS / "api" / "index.md").read_text("utf-8")
    for page in tables().values():
        assert page.removesuffix(".md") in index.split()


@with_docs
def test_every_namespace_with_a_table_gets_stubs():
    configured = re.findall(r'^    "(perturbia[\w.]*)",$', (DOCS / "conf.py").read_text("utf-8"), re.MULTILINE)
    assert sorted(configured) == sorted(tables())


@with_docs
def test_stubs_name_methods_that_perturbia_defines():
    text = public_names().stub("perturbia.model", "SAMSVAE")
    members = next(line for line in text.splitlines() if ":members:" in line)
    assert {"train", "estimate_ate", "predict", "setup_anndata"} <= set(re.findall(r"\w+", members))
    assert "``save``" in text  # inherited, named but not documented again


@with_docs
def test_no_page_refers_to_a_missing_public_name():
    # the build finds roles without a target; code in running text it does not read
    spaces = "datasets|metrics|model|pl|pp|tl"
    unknown = set()
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        for space, name in re.findall(rf"\bpb\.({spaces})\.(\w+)", page.read_text("utf-8")):
            if name not in getattr(perturbia, space).__all__:
                unknown.add(f"{page.name}: pb.{space}.{name}")
    assert not unknown, sorted(unknown)


def modules_with_examples() -> list[str]:
    found = []
    for path in sorted((ROOT / "src" / "perturbia").rglob("*.py")):
        if ">>>" in path.read_text("utf-8"):
            parts = path.relative_to(ROOT / "src").with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    tests = [test for test in doctest.DocTestFinder().find(module, name) if test.examples]
    assert tests
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    assert not runner.failures, "".join(report)


@with_docs
def test_examples_of_pages_run():
    for page in sorted(DOCS.rglob("*.md")):
        if ">>>" in page.read_text("utf-8"):
            blocks = re.findall(r"```pycon\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
            test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
            assert test.examples
            assert not doctest.DocTestRunner(verbose=False).run(test).failed


@with_tutorials
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_executed_and_clean(path):
    notebook = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    noise = ["".join(output["text"]) for output in outputs if output.get("name") == "stderr"]
    assert not noise, noise
    assert not any(cell["metadata"] for cell in notebook["cells"])
    shown = [{k: v for k, v in output.get("data", {}).items() if k != "image/png"} for output in outputs]
    texts = json.dumps([shown, [output.get("text") for output in outputs], [cell["source"] for cell in cells]])
    assert not MACHINE_PATH.search(texts), MACHINE_PATH.search(texts)


def test_the_guard_against_machine_paths_sees_them():
    assert MACHINE_PATH.search("in /home/me/venv/lib/x.py:3: Warning")
    assert not MACHINE_PATH.search("10^4 x / l, https://perturbia.readthedocs.io/en/latest")


@pytest.mark.slow
@with_tutorials
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_in_time(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    pytest.importorskip("ipykernel")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    # processor time: what else the machine does is not the notebook's doing
    notebook.cells.append(nbformat.v4.new_code_cell("import time\nprint(time.process_time())"))
    client(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert float(notebook.cells[-1].outputs[0].text) < TUTORIAL_SECONDS
