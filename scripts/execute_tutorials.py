"""Execute notebooks in place, and keep out of them what only one machine knows: clock times, versions, warnings with paths.

Run with `python scripts/execute_tutorials.py`, which takes all of them, or name some.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FOLDERS = ("tutorials", "docs/evaluation")
SECONDS = 600


def execute(path: Path) -> None:
    """Run a notebook in a fresh kernel, in its own folder, and write it back."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, path)


def main() -> None:
    """Execute the notebooks named on the command line, by default all."""
    os.environ.pop("MPLBACKEND", None)  # figures belong into the notebook
    # a reader with widgets sees no such advice
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    named = [Path(name) for name in sys.argv[1:]]
    for path in named or [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.ipynb"))]:
        start = time.perf_counter()
        execute(path)
        sys.stdout.write(f"{path.stem}: {time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
