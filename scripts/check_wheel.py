"""Check that a built wheel holds what an installed Perturbia needs beside its modules.

Usage: python scripts/check_wheel.py dist/perturbia-*.whl
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def missing(wheel: Path) -> list[str]:
    """Files of ``src/perturbia`` that the wheel lacks, and required metadata that it lacks."""
    source = ROOT / "src"
    wanted = {p.relative_to(source).as_posix() for p in (source / "perturbia").rglob("*") if p.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name and not name.endswith(".pyc")}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    lacking = sorted(wanted - held)
    if not any(name.endswith("licenses/LICENSE") for name in held):
        lacking.append("LICENSE")
    return lacking


def main() -> int:
    """Report on every wheel named on the command line."""
    lacking = {path: missing(Path(path)) for path in sys.argv[1:]}
    for path, names in lacking.items():
        sys.stdout.write(f"{Path(path).name}: {'lacks ' + ', '.join(names) if names else 'complete'}\n")
    return int(not lacking or any(lacking.values()))


if __name__ == "__main__":
    sys.exit(main())
