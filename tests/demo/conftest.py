"""An exported folder whose model is known in every number, a file of what it hears, and servers of the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import soundfile
from support.loud_model import RATE, SPEECH, save_folder

from residualformer.errors import UserError
from residualformer.runtime import ENDPOINT_RULES, Recognizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    folder = save_folder(tmp_path_factory.mktemp("demo") / "export")
    soundfile.write(folder / "speech.wav", SPEECH, RATE, subtype="PCM_16")
    return folder


@pytest.fixture(scope="session")
def recognizer(folder) -> Recognizer:
    return Recognizer(folder, endpoint_rules=ENDPOINT_RULES, words=True)


@pytest.fixture(scope="session")
def onnxruntime_web(tmp_path_factory) -> Path:
    """A folder of the npm package, which npm downloads."""
    from residualformer.demo.static_page import RUNTIME_FILES, load_runtime

    try:
        contents = load_runtime()
    except UserError as error:
        pytest.skip(str(error))
    package = tmp_path_factory.mktemp("onnxruntime-web")
    for name, content in contents.items():
        (package / RUNTIME_FILES[name][0]).write_bytes(content)
    return package


@pytest.fixture(scope="session")
def site():
    """A function that serves a folder as any web server does, within a context; it yields the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    @contextmanager
    def serve(folder: Path):
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
            thread = Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.server_address[1]}/"
            server.shutdown()

    return serve


class Served:
    """A server of the page, within an event loop of the test."""

    def __init__(self, server, port: int) -> None:
        self.server, self.port = server, port

    def connect(self, **options):
        from websockets.asyncio.client import connect

        return connect(f"ws://localhost:{self.port}/stream", **options)

    async def stream(self, pieces: Sequence[bytes], first: object = None, **options) -> list[dict]:
        """Return the messages of a stream of samples in pieces."""
        async with self.connect(**options) as connection:
            await connection.send(json.dumps({"rate": RATE} if first is None else first))
            for piece in pieces:
                await connection.send(piece)
            await connection.send("end")
            messages = []
            async for message in connection:
                messages.append(json.loads(message))
                if "ended" in messages[-1]:
                    break
            return messages

    async def get(self, path: str, **headers: str) -> tuple[str, dict[str, str], str]:
        """Return status line, headers by lower-case name, and body of the answer to a plain request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = {"Host": f"localhost:{self.port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", *(f"{n}: {v}" for n, v in lines.items()), "", ""]).encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        status, *rest = head.split("\r\n")
        return status, {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}, body


@pytest.fixture
def served(recognizer):
    """A function that serves the page within a context; options are those of the server."""

    @asynccontextmanager
    async def serve(**options):
        from residualformer.demo.server import DemoServer

        server = DemoServer(recognizer, "loud", **options)
        async with await server.start("127.0.0.1", 0) as listening:
            yield Served(server, next(iter(listening.sockets)).getsockname()[1])

    return serve
