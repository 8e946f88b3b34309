"""Tables in the terminal, and silence of what is not ours."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from perturbia.demo.report import TableSection

__all__ = ["print_table", "quiet"]

NAME_WIDTH = 30
PADDING = 3  # between columns


def quiet() -> None:
    """Keep notices of libraries about themselves out of the terminal of the command."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def print_table(console: Console, section: TableSection) -> None:
    """Print a table of the report.

    Parameters
    ----------
    console
        Where to print.
    section
        The table; best values are bold, models coloured, references dim.
    """
    table = Table(title=section.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("method", overflow="fold", ratio=1)
    columns, left_out = _fitting(console, section)
    best = {column: section.best(column) for column in columns}
    for column in columns:
        table.add_column(str(column), justify="right", no_wrap=True)
    for name, values in section.table.iterrows():
        style = "dark_orange" if name in section.models else "dim italic" if name in section.references else ""
        cells = [
            f"[bold]{section.cell(column, values[column])}[/bold]"
            if name in best[column]
            else section.cell(column, values[column])
            for column in columns
        ]
        table.add_row(str(name), *cells, style=style)
    console.print(table)
    if left_out:
        console.print(f"In the report, too: {', '.join(left_out)}.", style="dim", highlight=False)


def _fitting(console: Console, section: TableSection) -> tuple[list[str], list[str]]:
    """Columns that fit beside readable names, and those that do not."""
    room = console.width - NAME_WIDTH
    columns = [str(column) for column in section.table.columns]
    fitting: list[str] = []
    for column in columns:
        cells = [len(section.cell(column, value)) for value in section.table[column]]
        room -= max(len(column), *cells) + PADDING
        if room < 0:
            break
        fitting.append(column)
    return fitting, columns[len(fitting) :]
