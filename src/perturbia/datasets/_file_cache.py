"""The cache of downloaded screens: a file is used only if it has the checksum that it should have."""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from perturbia.datasets._resuming_download import TIMEOUT, ResumingDownload
from perturbia.datasets._screen_files import BASE_URL, RECORD
from perturbia.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perturbia.datasets._screen_files import ScreenFile

__all__ = ["Checksum", "cached_file"]

logger = logging.getLogger(__name__)

Checksum = Literal["pinned", "record"]
CACHE_VARIABLE, URL_VARIABLE = "PERTURBIA_DATA_DIR", "PERTURBIA_DATA_URL"


def cached_file(
    file: ScreenFile,
    *,
    cache_dir: str | Path | None = None,
    base_url: str | None = None,
    checksum: Checksum = "pinned",
    progress: bool = True,
) -> tuple[Path, str]:
    """Path of a file in the cache, downloaded if it is not there or is not what it should be.

    Parameters
    ----------
    file
        What to fetch.
    cache_dir
        Folder of the cache; None takes the environment variable ``PERTURBIA_DATA_DIR``, or else the cache folder of the
        user.
    base_url
        Server that has the record; None takes ``PERTURBIA_DATA_URL``, or else the publisher.
    checksum
        ``"pinned"``: the one that Perturbia knows. ``"record"``: the one that the record states when the file is first
        fetched; it is kept beside the file, and later loads are checked against it.
    progress
        Show a progress bar.

    Returns
    -------
    The path, and the MD5 of the file.

    Raises
    ------
    DownloadError
        If the file can not be fetched or has another checksum. Of a wrong file nothing is left.
    ValueError
        If `checksum` is none of those above.
    """
    if checksum not in get_args(Checksum):
        msg = f"checksum: expected 'pinned' or 'record', got {checksum!r}. Use 'pinned' when in doubt."
        raise ValueError(msg)
    import pooch

    folder = Path(cache_dir or os.environ.get(CACHE_VARIABLE) or pooch.os_cache("perturbia")).expanduser()
    base = (base_url or os.environ.get(URL_VARIABLE) or BASE_URL).rstrip("/")
    path, note = folder / file.name, folder / f"{file.name}.md5"
    md5 = file.md5 if checksum == "pinned" else _md5_on_record(file, base, note if path.exists() else None)
    _retrieve(file, base + file.path, md5, path, progress=progress)
    if not note.exists() or note.read_text(encoding="ascii").strip() != md5:
        with suppress(OSError):  # a folder that others fill may be read-only; the file itself was checked
            note.write_text(md5 + "\n", encoding="ascii")
    return path, md5


def _retrieve(file: ScreenFile, url: str, md5: str, path: Path, *, progress: bool) -> None:
    """Have pooch check the file, and fetch it where there is none of this checksum."""
    import pooch

    part = path.with_name(f"{file.name}.{md5[:8]}.part")  # parts of different versions are different files

    def download(url: str, output_file: str, _: object) -> None:
        if path.exists():
            logger.warning("%s has another checksum than it should have and is fetched anew.", path)
        logger.info("Fetching %s (%.0f MB) from %s.", file.name, file.size / 1e6, url)
        ResumingDownload(part, progress=progress)(url, output_file)

    downloader: Any = download  # pooch calls by position, but its types ask for its own names
    try:
        with _quiet(pooch.get_logger()):
            pooch.retrieve(url, known_hash=f"md5:{md5}", fname=file.name, path=path.parent, downloader=downloader)
    except OSError as error:
        msg = (
            f"base_url: expected {file.name} ({file.size / 1e6:,.0f} MB) at {url}, got {type(error).__name__}: {error}. "
            "Load again to go on where it broke off, or name a mirror in `base_url`, or fetch the file by other means and "
            f"put it into the folder of the cache (cache_dir={str(path.parent)!r})."
        )
        raise DownloadError(msg) from error
    except ValueError as error:
        found = re.search(r"but got (\w+)", str(error))
        msg = (
            f"checksum: expected {file.name} with MD5 {md5}, got {found[1] if found else 'another'} from {url}. Nothing of "
            "it was kept. Load again; if that gives the same, the publisher has changed the file: checksum='record' takes "
            "the checksum that the record states today."
        )
        raise DownloadError(msg) from error


def _md5_on_record(file: ScreenFile, base: str, note: Path | None) -> str:
    """MD5 of a file: as noted when it was fetched, else as the record states it now."""
    if note is not None and note.exists():
        return note.read_text(encoding="ascii").strip()
    import requests

    url = base + file.record_path
    try:
        answer = requests.get(url, timeout=TIMEOUT)
        answer.raise_for_status()
        files = {one.get("key", one.get("filename")): str(one.get("checksum", "")) for one in answer.json()["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"checksum: expected record {RECORD} at {url} to state checksums, got {type(error).__name__}: {error}. "
            "Try later, or use checksum='pinned'."
        )
        raise DownloadError(msg) from error
    md5 = files.get(file.name, "").removeprefix("md5:")
    if not re.fullmatch(r"[0-9a-f]{32}", md5):
        msg = f"checksum: expected an MD5 of {file.name} in {url}, got {md5 or 'none'!r}. Use checksum='pinned'."
        raise DownloadError(msg)
    return md5


@contextmanager
def _quiet(theirs: logging.Logger) -> Iterator[None]:
    """Silence a logger that writes to the screen by itself."""
    level = theirs.level
    theirs.setLevel(logging.WARNING)
    try:
        yield
    finally:
        theirs.setLevel(level)
