"""A Census in a bucket, over HTTP, with faults on demand: enough of S3 for TileDB to read it.

It also serves the directory of releases, so that the hosted path can be gone without a network.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Fault = Literal["unavailable", "cut off", "stall"]
LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Name>bucket</Name><KeyCount>{n}</KeyCount><IsTruncated>false</IsTruncated>{entries}
</ListBucketResult>"""
OBJECT = (
    "<Contents><Key>{key}</Key><Size>{size}</Size>"
    "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
)
FOLDER = "<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"


class CensusServer(ThreadingHTTPServer):
    """Serves the files of a folder as the bucket ``bucket``."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.reset()
        self.stalled = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def reset(self) -> None:
        """Serve without faults, and no releases."""
        self.fault: Callable[[str], Fault | None] = lambda key: None
        """Asked before each object is sent, with its key."""
        self.releases: dict[str, Any] = {}
        """Content of the directory of releases."""

    @property
    def tiledb(self) -> dict[str, str]:
        """Options with which TileDB reads from here, and hardly tries again by itself."""
        return {
            "vfs.s3.endpoint_override": self.url.removeprefix("http://"),
            "vfs.s3.scheme": "http",
            "vfs.s3.use_virtual_addressing": "false",
            "vfs.s3.connect_max_tries": "1",
            "vfs.s3.connect_scale_factor": "1",
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or that went away from a fault, is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CensusServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path in ("/release.json", "/mirrors.json"):
            mirrors = {"default": "here", "here": {"provider": "S3", "base_uri": "", "region": ""}}
            content = self.server.releases if url.path == "/release.json" else mirrors
            self._send(json.dumps(content).encode())
        elif "list-type" in url.query:
            self._send(self._listing(parse_qs(url.query)).encode())
        else:
            self._send_object(unquote(url.path).removeprefix("/bucket/"))

    do_HEAD = do_GET

    def _listing(self, query: dict[str, list[str]]) -> str:
        prefix, delimiter = query["prefix"][0], query.get("delimiter", ["\0"])[0]
        sizes, folders = {}, set()
        for file in self.server.root.rglob("*"):
            key = file.relative_to(self.server.root).as_posix()
            if file.is_file() and key.startswith(prefix):
                inner, found, _ = key.removeprefix(prefix).partition(delimiter)
                if found:
                    folders.add(prefix + inner + delimiter)
                else:
                    sizes[key] = file.stat().st_size
        entries = [OBJECT.format(key=escape(key), size=sizes[key]) for key in sorted(sizes)]
        entries += [FOLDER.format(key=escape(key)) for key in sorted(folders)]
        return LISTING.format(n=len(entries), entries="".join(entries))

    def _send_object(self, key: str) -> None:
        path = self.server.root / key
        fault = self.server.fault(key)
        if fault == "stall":
            self.server.stalled.set()
            threading.Event().wait()
        if fault == "unavailable" or not path.is_file():
            self._send(b"", status=503 if fault else 404)
            return
        content, headers, status = path.read_bytes(), {}, 200
        if "Range" in self.headers:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        sent = content[: len(content) // 2] if fault == "cut off" else content
        self._send(sent, status=status, length=len(content), **headers)

    def _send(
        self, body: bytes, *, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        if length is not None and len(body) < length:
            self.close_connection = True


@contextmanager
def serve(root: Path) -> Iterator[CensusServer]:
    """Serve a folder until the block ends."""
    server = CensusServer(root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
