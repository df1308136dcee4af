"""`residualformer demo`: a local page to try an exported model on, with a microphone and files."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from residualformer.errors import UserError
from residualformer.runtime.settings import is_exported, read_settings

LOCAL = ("127.0.0.1", "::1", "localhost")
EVERYWHERE = ("", "0.0.0.0", "::")  # addresses that stand for all of this machine
# Defaults of options of a server.
SERVER = {"port": 8765, "host": "127.0.0.1", "name": (), "streams": 4, "threads": 1, "grammar": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", type=Path, metavar="EXPORT", help="an exported folder, which steps/export.py wrote")
    parser.add_argument("--port", type=int, metavar="N", help=f"0: any that is free (default {SERVER['port']})")
    parser.add_argument("--host", help="address to listen on (default: this machine alone)")
    name = "another host name by which browsers may address the page; may be repeated"
    parser.add_argument("--name", action="append", metavar="HOST", help=name)
    streams = f"streams at a time; more are refused (default {SERVER['streams']})"
    parser.add_argument("--streams", type=int, metavar="N", help=streams)
    parser.add_argument("--int8", action="store_true", help="use the folder's int8 files")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default 1)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--beam", type=int, metavar="N", help="beam search with N hypotheses (default: as in the model)")
    kind.add_argument("--greedy", action="store_true", help="greedy search")
    grammar = "allow only these sentences, see `residualformer transcribe --help`"
    parser.add_argument("--grammar", type=Path, metavar="FILE", help=grammar)
    static = "serve nothing; write a folder for any web server, whose page runs the model in the browser"
    parser.add_argument("--static", type=Path, metavar="FOLDER", help=static)
    package = "with --static: a folder of the npm package onnxruntime-web (default: npm downloads it)"
    parser.add_argument("--onnxruntime-web", type=Path, metavar="FOLDER", help=package)


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, or write it.

    Raises:
        UserError: the folder is no exported model, an option is out of range or means nothing here, the port is in use,
            or the page cannot be written (`write_static_page`).
    """
    if args.static:
        _write(args)
        return
    if args.onnxruntime_web:
        raise UserError("--onnxruntime-web is for the page without a server: give --static FOLDER, or leave it out.")
    for option, default in SERVER.items():
        if getattr(args, option) is None:
            setattr(args, option, default)
    for option, value, low, high in (
        ("--port", args.port, 0, 65535),
        ("--streams", args.streams, 1, 1000),
        ("--threads", args.threads, 1, 1000),
    ):
        if not low <= value <= high:
            raise UserError(f"{option} is {value}; give {low} to {high}.")
    if wrong := [name for name in args.name if "/" in name or name.count(":") == 1]:
        raise UserError(f"--name {wrong[0]}: give a host name alone, without http:// and port, such as box.example.")
    _check_exported(args.model)
    try:
        asyncio.run(_serve(args))
    except KeyboardInterrupt:
        print("stopped")


def _write(args: argparse.Namespace) -> None:
    """Write the page that needs no server of ours."""
    from residualformer.demo.static_page import write_static_page

    if useless := [f"--{option}" for option in SERVER if getattr(args, option) is not None]:
        raise UserError(f"{' and '.join(useless)}: --static serves nothing, so this means nothing: leave it out.")
    _check_exported(args.model)
    size = write_static_page(args.model, args.static, args.int8, args.greedy, args.beam, args.onnxruntime_web)
    print(f"{args.static}: {size / 1e6:.1f} MB; to try it: python -m http.server --directory {args.static}")
    print("then open http://localhost:8000/")


def _check_exported(folder: Path) -> None:
    if not is_exported(folder):
        raise UserError(f"{folder} is no exported folder: give one that steps/export.py wrote.")


async def _serve(args: argparse.Namespace) -> None:
    from residualformer.demo.server import LOOPBACK, DemoServer
    from residualformer.runtime import ENDPOINT_RULES, Recognizer, load_exported
    from residualformer.runtime.search import chosen_search

    model = load_exported(args.model, args.threads, args.int8)
    decode = chosen_search(model.decode, args.greedy, args.beam)
    recognizer = Recognizer(model, decode, ENDPOINT_RULES, words=model.target == "text")
    own = [_in_url(name) for name in args.name]
    own += [] if args.host in (*LOCAL, *EVERYWHERE) else [_in_url(args.host)]
    grammar = recognizer.grammar(args.grammar) if args.grammar else None
    server = DemoServer(recognizer, read_settings(args.model).name, {*LOOPBACK, *own}, args.streams, grammar)
    async with await server.start(args.host, args.port) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        print(f"the page is at http://{own[0] if own else 'localhost'}:{port}/ (Ctrl-C ends it)", flush=True)
        if args.host not in LOCAL:
            print("note: everybody who reaches this address can use the page; browsers allow the microphone only on")
            print("localhost and over https.")
        if args.host in EVERYWHERE and not args.name:
            print("note: other machines are refused until you give the name by which they call this one: --name HOST.")
        await listening.serve_forever()


def _in_url(host: str) -> str:
    """Return a host name or address as it stands in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
