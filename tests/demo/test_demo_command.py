"""The command `residualformer demo`: what it refuses, and what it says without its packages."""

from __future__ import annotations

import sys

import pytest

from residualformer.cli import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "70000"], "--port is 70000; give 0 to 65535."),
        (["--streams", "0"], "--streams is 0; give 1 to 1000."),
        (["--threads", "0"], "--threads is 0; give 1 to 1000."),
        (
            ["--name", "http://box"],
            "--name http://box: give a host name alone, without http:// and port, such as box.example.",
        ),
        (["--name", "box:80"], "--name box:80: give a host name alone, without http:// and port, such as box.example."),
    ],
)
def test_values_out_of_range_are_refused(folder, monkeypatch, capsys, words, told):
    assert called(monkeypatch, capsys, str(folder), *words) == f"error: {told}\n"


def test_a_run_folder_is_refused(tmp_path, monkeypatch, capsys):
    assert "is no exported folder: give one that steps/export.py wrote" in called(monkeypatch, capsys, str(tmp_path))


def test_without_the_server_library_the_command_that_installs_it_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "websockets", None)
    for name in [name for name in sys.modules if name.startswith(("websockets.", "residualformer.demo.server"))]:
        monkeypatch.delitem(sys.modules, name)
    told = called(monkeypatch, capsys, str(folder))
    assert told == "error: websockets is not installed; to get it: pip install '.[demo]' in the repository\n"


def test_a_taken_port_is_told(folder, monkeypatch, capsys):
    pytest.importorskip("websockets")
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = called(monkeypatch, capsys, str(folder), "--port", str(port))
    assert told.startswith(f"error: cannot listen on 127.0.0.1:{port} (") and told.endswith("give another --port.\n")


def called(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["residualformer", "demo", *words])
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr().err
