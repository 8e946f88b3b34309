"""Tables of benchmark runs: spread over runs, paired differences, and Markdown files for the documentation."""

from __future__ import annotations

import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent.parent / "docs" / "models" / "_results"


def summarise(runs: pd.DataFrame, by: list[str], scores: list[str]) -> pd.DataFrame:
    """Median of each score over the runs of a method, with the lowest and highest value."""
    groups = runs.groupby(by, sort=False)[scores]
    middle, low, high = groups.median(), groups.min(), groups.max()
    text = middle.copy().astype(object)
    for row in middle.index:
        for score in scores:
            value, spread = middle.loc[row, score], high.loc[row, score] - low.loc[row, score]
            if pd.isna(value):
                text.loc[row, score] = "–"
            elif spread == 0:
                text.loc[row, score] = f"{value:.3f}"
            else:
                text.loc[row, score] = f"{value:.3f} ({low.loc[row, score]:.3f} to {high.loc[row, score]:.3f})"
    text.insert(0, "runs", groups.size())
    return text


def paired(runs: pd.DataFrame, ours: str, other: str, unit: list[str], scores: list[str]) -> str:
    """One line: in how many units ours is above the other, and by how much on average."""
    table = runs.pivot_table(index=unit, columns="method", values=scores)
    parts = []
    for score in scores:
        difference = (table[score][ours] - table[score][other]).dropna()
        wins = int((difference > 0).sum())
        parts.append(f"{score} {wins}/{len(difference)} (mean {difference.mean():+.3f})")
    return f"- {ours} against {other}: " + ", ".join(parts)


def to_markdown(table: pd.DataFrame) -> str:
    """A Markdown table with the index as first columns."""
    flat = table.reset_index()
    lines = ["| " + " | ".join(map(str, flat.columns)) + " |", "|" + "---|" * flat.shape[1]]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in flat.itertuples(index=False)]
    return "\n".join(lines)


def publish(
    name: str,
    parts: list[str],
    *,
    folder: Path = RESULTS,
    packages: tuple[str, ...] = ("perturbia", "torch", "scvi-tools", "anndata"),
    note: str = "Medians over runs, lowest and highest in brackets.",
    write: bool = True,
    script: str | None = None,
    device: str = "CPU, one thread",
) -> None:
    """Print the tables and write them where the documentation includes them, unless a part of them is missing.

    `script` is the file that made them where it has another name than they have.
    """
    # files of one machine say nothing to the reader: their names do
    arguments = [Path(argument).name if "/" in argument else argument for argument in sys.argv[1:]]
    command = " ".join(["python", f"benchmarks/{script or name}.py", *arguments])
    libraries = ", ".join(f"{package} {version(package)}" for package in packages)
    head = (
        f"Made on {date.today().isoformat()} by `{command}`; Python {platform.python_version()}, {libraries}, "
        f"{device}. {note}"
    )
    text = "\n\n".join([head, *parts]) + "\n"
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text)
    sys.stdout.write(text)
