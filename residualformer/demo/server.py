"""The server of the page: its files, and recognition over a WebSocket (docs/demo.md).

It answers only requests that are addressed to one of its own names (`Host`) and come from its own page or from a
program that is no browser (`Origin`), so that web pages from elsewhere cannot use it. Memory is bounded: the size of a
message, the number of messages that wait, the length of a stream and of its segments, and the number of streams.
"""

from __future__ import annotations

import asyncio
import http
import json
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Origin

from residualformer.context.scorer import Context
from residualformer.demo.session import Session, read_settings
from residualformer.errors import UserError
from residualformer.runtime.recognizer import Recognizer

STREAM_PATH = "/stream"
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/main.js": ("socket.js", "text/javascript; charset=utf-8"),
    "/recorder.js": ("recorder.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
MAX_MESSAGE_BYTES = 1 << 18  # more than a second of samples at 96 kHz
MAX_WAITING = 4  # messages of a connection; beyond, the sender has to wait
IDLE_S = 60.0  # without a message from the page
REFUSED, TOO_MANY = 1008, 1013  # codes of the WebSocket protocol

R = TypeVar("R")


class DemoServer:
    """A server of the page for one recognizer.

    Args:
        name: of the model, which the page shows.
        names: hosts by which browsers may address the server, without port.
        max_streams: connections at a time.
        grammar: all that may be said.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        name: str,
        names: Collection[str] = LOOPBACK,
        max_streams: int = 4,
        grammar: Context | None = None,
    ) -> None:
        self.recognizer, self.name, self.grammar = recognizer, name, grammar
        self.names, self.max_streams, self.streams = frozenset(map(str.lower, names)), max_streams, 0
        self._hosts: frozenset[str] = frozenset()  # with the port
        self._thread = ThreadPoolExecutor(1, "recognition")  # one: the streams share the model

    async def start(self, host: str, port: int) -> Server:
        """Listen on an address; port 0 is any that is free. Raises UserError if that is impossible."""
        origins: list[Origin | None] = [None]  # programs that are no browsers send none
        try:
            server = await serve(
                self._stream,
                host,
                port,
                origins=origins,
                process_request=self._answer,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=MAX_WAITING,
                server_header=None,
            )
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): give another --port.") from error
        port = next(iter(server.sockets)).getsockname()[1]
        self._hosts = frozenset(f"{name}:{port}" for name in self.names)
        if port == 80:
            self._hosts |= self.names
        origins += [Origin(f"http://{each}") for each in sorted(self._hosts)]
        return server

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return a file of the page, a refusal, or None for a stream."""
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _response(http.HTTPStatus.FORBIDDEN, b"This name is not one of this server's.\n")
        if request.path == STREAM_PATH:
            if self.streams >= self.max_streams:
                return _response(http.HTTPStatus.SERVICE_UNAVAILABLE, b"All streams of this server are in use.\n")
            return None
        if request.path not in PAGE:
            return _response(http.HTTPStatus.NOT_FOUND, b"There is nothing here.\n")
        file, kind = PAGE[request.path]
        content = files("residualformer.demo").joinpath("page", file).read_bytes()
        return _response(http.HTTPStatus.OK, content, kind, hosts[0])

    async def _stream(self, connection: ServerConnection) -> None:
        """Recognize a stream: settings, samples, and a text when they end."""
        if self.streams >= self.max_streams:
            await connection.close(TOO_MANY)
            return
        self.streams += 1
        try:
            await self._recognize(connection)
        except UserError as error:
            await _send(connection, {"error": str(error)})
            await connection.close(REFUSED)
        except TimeoutError:
            await connection.close(REFUSED, "idle")
        except ConnectionClosed:
            pass
        finally:
            self.streams -= 1

    async def _recognize(self, connection: ServerConnection) -> None:
        model = self.recognizer.model
        await _send(connection, {"model": self.name, "branches": model.num_branches})
        first = await asyncio.wait_for(connection.recv(), IDLE_S)
        settings = read_settings(first if isinstance(first, str) else "")
        session = await self._work(Session, self.recognizer, settings, self.grammar)
        while isinstance(data := await asyncio.wait_for(connection.recv(), IDLE_S), bytes):
            await _send(connection, await self._work(session.accept, data, time.perf_counter()))
        await _send(connection, await self._work(session.finish))

    async def _work(self, function: Callable[..., R], *args: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


async def _send(connection: ServerConnection, message: dict[str, object]) -> None:
    await connection.send(json.dumps(message, allow_nan=False))


def _response(
    status: http.HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8", host: str = ""
) -> Response:
    """Return an answer whose headers forbid the page to load anything from elsewhere."""
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    if host:
        policy += f"; script-src 'self'; style-src 'self'; connect-src 'self' ws://{host}"
    headers = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "microphone=(self)",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Connection": "close",
    }
    return Response(status.value, status.phrase, Headers(headers), body)
