"""The command line: `perturbia demo` and `perturbia info`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from perturbia.demo.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

BAD_INPUT = 2
LIBRARIES = ("anndata", "scanpy", "scvi-tools", "torch", "lightning", "numpy", "scipy", "pandas", "matplotlib")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments, by default those of the process.

    Returns
    -------
    Exit status: 0, or 2 if the input can not be used (argparse exits with 2 by itself on wrong options).
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        return _demo(arguments)
    if arguments.command == "info":
        return _info()
    parser.print_help()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="perturbia", description="Single-cell perturbation modelling.")
    parser.add_argument("--version", action="version", version=f"perturbia {version_of('perturbia')}")
    commands = parser.add_subparsers(dest="command", title="commands")
    demo = commands.add_parser(
        "demo",
        help="train SAMS-VAE on a CRISPR screen and judge it beside every baseline",
        description="Register a screen, hold out cells, train SAMS-VAE, judge it beside every baseline and the noise of "
        "the data, and write a report. Without --data the screen is the one in the package.",
    )
    demo.add_argument("--out", type=Path, default=Path("perturbia-demo"), help="folder to write (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of split, model and simulation (default: %(default)s)")
    demo.add_argument("--fast", action="store_true", help="few cells and steps, to see that everything runs")
    own = demo.add_argument_group("your own screen")
    own.add_argument("--data", type=Path, metavar="FILE", help="an h5ad file of raw counts")
    own.add_argument("--perturbation-key", default="perturbation", metavar="COLUMN",
                     help="column of obs with labels such as A or A+B (default: %(default)s)")  # fmt: skip
    own.add_argument("--control", default="control", metavar="LABEL", help="label of controls (default: %(default)s)")
    own.add_argument("--layer", metavar="LAYER", help="layer with raw counts (default: X)")
    own.add_argument("--batch-key", metavar="COLUMN", help="column of obs with the batch")
    commands.add_parser("info", help="versions and devices")
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    # Before NumPy and torch start their thread pools: these networks are too small to share, and figures need no screen.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    from rich.console import Console

    from perturbia.demo import DemoOptions, run_demo
    from perturbia.errors import PerturbiaError

    try:
        options = DemoOptions(
            out=arguments.out,
            seed=arguments.seed,
            fast=arguments.fast,
            data=arguments.data,
            perturbation_key=arguments.perturbation_key,
            control=arguments.control,
            layer=arguments.layer,
            batch_key=arguments.batch_key,
        )
        run_demo(options, Console())
    except PerturbiaError as error:
        sys.stderr.write(f"perturbia demo: error: {error}\n")
        return BAD_INPUT
    return 0


def _info() -> int:
    from rich.console import Console

    console = Console()
    for name in ("perturbia", *LIBRARIES):
        console.print(f"{name:<12} {version_of(name)}", highlight=False)
    console.print(
        f"{'python':<12} {platform.python_version()} on {platform.system()} {platform.machine()}", highlight=False
    )
    console.print(f"{'devices':<12} {', '.join(_devices())}", highlight=False)
    return 0


def _devices() -> list[str]:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
