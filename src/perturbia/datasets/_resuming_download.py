"""A download that goes on where it broke off."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from requests import Response

__all__ = ["ResumingDownload"]

logger = logging.getLogger(__name__)

CHUNK = 2**20
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
RANGE_GIVEN, RANGE_BEYOND = 206, 416
WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})


class ResumingDownload:
    """Downloader in the form that pooch calls: fetches a URL into a file, through a part that survives failures.

    Parameters
    ----------
    part
        File that holds what has arrived. It is left where it is if the last attempt fails, so that the next call goes on
        from there; it must belong to one version of the file alone.
    attempts
        How often to try.
    wait
        Seconds before the second attempt, doubled each time.
    progress
        Show a progress bar.
    """

    def __init__(self, part: Path, *, attempts: int = 5, wait: float = 1.0, progress: bool = True) -> None:
        self.part = part
        self.attempts = attempts
        self.wait = wait
        self.progress = progress

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        """Fetch `url` into `output_file`.

        Raises
        ------
        requests.RequestException
            If the last attempt fails, or the server refuses for good.
        """
        import requests

        for attempt in range(1, self.attempts + 1):
            try:
                self._attempt(url)
                break
            except requests.RequestException as error:
                status = None if error.response is None else error.response.status_code
                if attempt == self.attempts or (status is not None and status not in WORTH_ANOTHER_TRY):
                    raise
                logger.info("Attempt %d of %d at %s broke off (%s).", attempt, self.attempts, url, error)
                time.sleep(self.wait * 2 ** (attempt - 1))
        self.part.replace(output_file)

    def _attempt(self, url: str) -> None:
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if have and response.status_code == RANGE_BEYOND:
                if _whole_size(response) == have:
                    return  # all of it was there
                self.part.unlink()
                msg = f"{url}: the server has nothing after byte {have}."
                raise requests.ConnectionError(msg)  # without a status, so that it is tried anew from the start
            response.raise_for_status()
            resumed = response.status_code == RANGE_GIVEN and _first_byte(response) == have
            self._write(response, have if resumed else 0)

    def _write(self, response: Response, start: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.progress) as bar, self.part.open("ab" if start else "wb") as file:
            task = bar.add_task(self.part.name.partition(".")[0], total=total, completed=start)
            for piece in response.iter_content(CHUNK):
                file.write(piece)
                bar.advance(task, len(piece))


def _first_byte(response: Response) -> int | None:
    """First byte that a partial answer holds: ``bytes 5-9/10`` starts at 5."""
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None


def _whole_size(response: Response) -> int | None:
    """Size of the whole file as an answer to a range states it: 10 in ``bytes */10``."""
    size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isdigit() else None
