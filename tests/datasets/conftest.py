"""A stand-in for the publisher of public screens, on this machine: nothing is fetched from outside."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest


@dataclass
class Publisher:
    """What it serves, what it was asked, and how it misbehaves."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # what, and the range
    stated: dict[str, str] = field(default_factory=dict)  # checksums in place of the true ones
    breaks: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # of the next answers, in place of content
    knows_ranges: bool = True

    def downloads(self) -> list[str | None]:
        """Ranges of the downloads so far."""
        return [asked for what, asked in self.asked if what != "record"]

    def record(self) -> bytes:
        """Its record as the API of Zenodo describes one."""
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in self.files.items()} | self.stated
        return json.dumps(
            {"id": 13350497, "files": [{"key": k, "checksum": f"md5:{v}"} for k, v in md5.items()]}
        ).encode()


def handler_of(publisher: Publisher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/api/records/13350497":
                publisher.asked.append(("record", None))
                self.answer(200, publisher.record())
                return
            name = re.fullmatch(r"/records/13350497/files/(.+)", path)
            asked = self.headers.get("Range")
            publisher.asked.append((path if name is None else name[1], asked))
            if publisher.statuses:
                self.answer(publisher.statuses.pop(0), b"")
            elif name is None or name[1] not in publisher.files:
                self.answer(404, b"")
            else:
                self.send_file(publisher.files[name[1]], asked)

        def send_file(self, content: bytes, asked: str | None) -> None:
            if asked is None or not publisher.knows_ranges:
                self.answer(200, content)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(206, content[start:], {"Content-Range": where})

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            breaks = publisher.breaks if publisher.asked[-1][0] != "record" else []
            cut = breaks.pop(0) if breaks else None
            self.wfile.write(content[:cut])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def publisher():
    """A publisher that listens as long as the test runs."""
    out = Publisher()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(out))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    out.url = f"http://127.0.0.1:{server.server_port}"
    yield out
    server.shutdown()
    server.server_close()
    thread.join()
