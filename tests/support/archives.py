"""A server of archives, as OpenSLR is one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Archives(BaseHTTPRequestHandler):
    """Serves files of a folder, from where a Range asks; `asked` records (file, first byte), `paths` all of each."""

    folder: Path
    asked: list[tuple[str, int]]
    paths: list[str]
    url: str
    knows_ranges = True
    breaks_after: int | None = None  # bytes of a reply, then the connection ends

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        if not (self.folder / name).is_file():
            return self.send_error(404)
        content = (self.folder / name).read_bytes()
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.asked.append((name, first))
        self.paths.append(self.path)
        first = first if self.knows_ranges else 0
        if first >= len(content):
            return self.send_error(416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.breaks_after])

    def log_message(self, *_):
        pass


@contextmanager
def serve(folder: Path) -> Iterator[type[Archives]]:
    """Serve a folder at the handler's `url`."""
    handler = type("Here", (Archives,), {"folder": folder, "asked": [], "paths": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{http.server_address[1]}/resources"
    yield handler
    http.shutdown()
    http.server_close()
