"""Runs of a benchmark: kept in a file as they finish, side by side on several cores, and not made twice."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options `--runs` and `--jobs`."""
    from pathlib import Path

    parser.add_argument("--runs", type=Path, default=None, help="file of finished runs, to go on from")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")


def make_runs(
    function: Callable[..., list[dict]], tasks: list[dict[str, Any]], *, runs: Path | None = None, jobs: int = 1
) -> pd.DataFrame:
    """Rows of `function(**task)` for all tasks, each row with the items of its task, in the order of the tasks."""
    table = pd.read_csv(runs) if runs is not None and runs.exists() else pd.DataFrame()
    keys = list(tasks[0])
    finished = set(table[keys].astype(str).itertuples(index=False, name=None)) if len(table) else set()
    missing = [task for task in tasks if tuple(str(task[key]) for key in keys) not in finished]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # read by the new processes when they load their libraries
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)
    with pool:
        futures = {pool.submit(function, **task): task for task in missing}
        for future in as_completed(futures):
            rows = [{**futures[future], **row} for row in future.result()]
            table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
            if runs is not None:
                table.to_csv(runs, index=False)
    order = {tuple(str(task[key]) for key in keys): place for place, task in enumerate(tasks)}
    place = [order.get(tuple(row)) for row in table[keys].astype(str).itertuples(index=False)]
    asked = table.assign(_place=place).dropna(subset="_place")
    return asked.sort_values("_place", kind="stable").drop(columns="_place").reset_index(drop=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
