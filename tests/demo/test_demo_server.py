"""The page's server: what is streamed is what `transcribe` writes; who may connect; what is bounded."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import soundfile
from support.loud_model import RATE

from residualformer.demo import session
from residualformer.library.transcriber import SpeechStream, hear
from residualformer.runtime import Recognizer
from residualformer.runtime.audio import file_blocks

websockets = pytest.importorskip("websockets")

SETTINGS = json.dumps({"rate": RATE})


@pytest.fixture(scope="module")
def speech(folder) -> np.ndarray:
    return soundfile.read(folder / "speech.wav", dtype="int16")[0]


def pieces(samples: np.ndarray, size: int) -> list[bytes]:
    return [samples[start : start + size].astype("<i2").tobytes() for start in range(0, len(samples), size)]


def without_latencies(segment: dict) -> dict:
    return {name: value for name, value in segment.items() if name != "latencies"}


@pytest.mark.parametrize("size", [1600, 777, 10**6])
def test_a_streamed_file_gives_what_transcribe_writes(served, recognizer, folder, speech, size):
    async def run():
        async with served() as server:
            return await server.stream(pieces(np.tile(speech, 3), size) if size < 10**5 else pieces(speech, size))

    greeting, *messages = asyncio.run(run())
    soundfile.write(folder / "again.wav", np.tile(speech, 3) if size < 10**5 else speech, RATE, subtype="PCM_16")
    heard = hear(SpeechStream(recognizer), file_blocks(folder / "again.wav"), "again")
    expected = [each.transcript.to_dict() for each in heard]
    found = [segment for message in messages for segment in message["segments"]]
    assert [*map(without_latencies, found)] == [*map(without_latencies, expected)]
    assert found and all(word["confidence"] > 0 for segment in found for word in segment["words"])
    assert greeting == {"model": "loud", "branches": 1}
    last = messages[-1]
    assert last["ended"] and last["received"] == round(soundfile.info(folder / "again.wav").duration, 3)
    assert last["rtf"] > 0 and last["latency"] >= 0 and last["branch"] is None
    assert len(messages) == len(pieces(np.tile(speech, 3), size)) + 1 or size > 10**5


def test_words_are_there_while_somebody_speaks(served, speech):
    async def run():
        async with served() as server:
            return await server.stream(pieces(speech, 1600))

    partials = [message["partial"] for message in asyncio.run(run())[1:]]
    told = [text for n, text in enumerate(partials) if text and text != partials[n - 1]]
    assert told == ["a", "a b", "a b a"]


def test_streams_at_once_do_not_mix(served, speech):
    async def run():
        async with served() as server:
            halves = pieces(speech, 800), pieces(speech[RATE // 2 :], 1600)
            return await asyncio.gather(*(server.stream(each) for each in halves))

    texts = ["".join(s["text"] for m in messages[1:] for s in m["segments"]) for messages in asyncio.run(run())]
    assert texts == ["a b a", "a b a"]


def test_the_page_keeps_to_its_server(served):
    async def run():
        async with served() as server:
            return [await server.get(path) for path in ("/", "/app.js", "/recorder.js", "/style.css")], server.port

    answers, port = asyncio.run(run())
    for status, headers, body in answers:
        assert status == "HTTP/1.1 200 OK" and len(body.encode()) == int(headers["content-length"])
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "*" not in policy
        assert f"connect-src 'self' ws://localhost:{port}" in policy and headers["x-content-type-options"] == "nosniff"
        assert "://" not in body.replace("ws://${location.host}", "")  # nothing from elsewhere
        assert "innerHTML" not in body and "eval(" not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost", "localhost:1", "127.0.0.1.evil:{port}"]
)
def test_another_name_for_this_machine_is_refused(served, host):
    async def run():
        async with served() as server:
            given = host.format(port=server.port)
            page, *_ = await server.get("/", Host=given)
            stream, *_ = await server.get("/stream", Host=given, Upgrade="websocket", Connection="Upgrade")
            return page, stream

    assert [status.split()[1] for status in asyncio.run(run())] == ["403", "403"]


def test_a_page_from_elsewhere_is_refused(served):
    async def run():
        async with served(names=["localhost", "[::1]", "box.example"]) as server:
            port, codes = server.port, []
            for origin in (
                *("http://evil.example", f"http://evil.example:{port}", "http://localhost", "null"),
                *(f"https://localhost:{port}", f"http://localhost:{port}", f"http://box.example:{port}", None),
            ):
                try:
                    async with server.connect(origin=origin):
                        codes.append(101)
                except websockets.exceptions.InvalidStatus as error:
                    codes.append(error.response.status_code)
            return codes

    assert asyncio.run(run()) == [403] * 5 + [101] * 3


@pytest.mark.parametrize("path", ["/index.html", "/../session.py", "//", "/style.css?x", "/%2e%2e/session.py"])
def test_nothing_else_is_served(served, path):
    async def run():
        async with served() as server:
            return (await server.get(path))[0]

    assert asyncio.run(run()) == "HTTP/1.1 404 Not Found"


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("hello", "the first message must be like"),
        ("[" * 10**5, "the first message must be like"),
        (b"\0\0", "the first message must be like"),
        ({"rate": "16000"}, "the first message must be like"),
        ({"rate": True}, "the first message must be like"),
        ({"rate": RATE, "beam": 3}, "the first message must be like"),
        ({"rate": RATE, "hotwords": [1]}, "the first message must be like"),
        ({"rate": RATE, "hotwords": ["A"] * 1001}, "give at most 1000 hotwords, of 100 characters each"),
        ({"rate": RATE, "hotwords": ["A" * 101]}, "give at most 1000 hotwords, of 100 characters each"),
        ({"rate": 1}, "states a sampling rate of 1 Hz"),
        ({"rate": -5}, "states a sampling rate of -5 Hz"),
        ({"rate": 10**9}, "states a sampling rate of 1000000000 Hz"),
        ({"rate": 10**400}, "states a sampling rate of 1000"),  # more than a float can be
        ({"rate": RATE, "hotwords": ["\ud800"]}, "the model writes no '\ud800'"),  # half a surrogate pair
        ({"rate": RATE, "hotwords": ["b :1e300"]}, "the score '1e300' is no number above 0 and up to 100"),
    ],
)
def test_wrong_settings_end_in_a_sentence(served, first, words):
    async def run():
        async with served() as server, server.connect() as connection:
            await connection.recv()
            await connection.send(json.dumps(first) if isinstance(first, dict) else first)
            await connection.send(b"\0\0" * 160)
            told = json.loads(await connection.recv())
            await connection.wait_closed()
            return told, connection.close_code

    told, code = asyncio.run(run())
    assert words in told["error"] and code == 1008


def test_samples_are_whole_and_a_stream_has_an_end(served, monkeypatch):
    monkeypatch.setattr(session, "MAX_STREAM_S", 0.25)

    async def run(*messages):
        async with served() as server, server.connect() as connection:
            for message in (SETTINGS, *messages):
                await connection.send(message)
            told = []
            with pytest.raises(websockets.exceptions.ConnectionClosedError, match="1008"):
                while True:
                    told.append(json.loads(await connection.recv()).get("error"))
            return told[1:]

    for count in (0, 3):
        sentence = f"samples have 2 bytes each; a message of {count} bytes came: send whole samples."
        assert asyncio.run(run(bytes(count))) == [sentence]
    tenth = bytes(RATE // 10 * 2)
    sentence = "a stream may last 0.25 s at most: start another one."
    assert asyncio.run(run(tenth, tenth, tenth)) == [None, None, sentence]


def test_a_message_may_not_be_large(served):
    async def run():
        async with served() as server, server.connect() as connection:
            await connection.send(SETTINGS)
            await connection.send(bytes((1 << 18) + 2))
            await connection.wait_closed()
            return connection.close_code

    assert asyncio.run(run()) == 1009


def test_there_are_no_more_streams_than_may_be(served):
    async def run():
        async with served(max_streams=2) as server:
            async with server.connect() as one, server.connect() as two:
                await asyncio.gather(one.recv(), two.recv())
                with pytest.raises(websockets.exceptions.InvalidStatus, match="503"):
                    async with server.connect():
                        pass
                await one.close()
                while server.server.streams == 2:
                    await asyncio.sleep(0.01)
                async with server.connect() as three:
                    return json.loads(await three.recv())

    assert asyncio.run(run())["model"] == "loud"


def test_a_silent_page_is_let_go(served, monkeypatch):
    monkeypatch.setattr("residualformer.demo.server.IDLE_S", 0.05)

    async def run():
        async with served() as server, server.connect() as connection:
            await connection.wait_closed()
            return connection.close_code, connection.close_reason

    assert asyncio.run(run()) == (1008, "idle")


def test_hotwords_reach_the_search(served, recognizer, monkeypatch):
    asked = []
    monkeypatch.setattr(recognizer, "hotwords", lambda phrases: asked.append(list(phrases)))

    async def run():
        async with served() as server:
            await server.stream([], {"rate": RATE, "hotwords": [" a b ", "", "b :2.5"]})
            await server.stream([], {"rate": RATE})

    asyncio.run(run())
    assert asked == [["a b", "b :2.5"]]  # nothing is asked for without hotwords


def test_names_are_the_same_in_any_case(served):
    async def run():
        async with served(names=["Box.Example"]) as server:
            return await server.get("/", Host=f"BOX.example:{server.port}")

    assert asyncio.run(run())[0] == "HTTP/1.1 200 OK"


def test_every_stream_has_the_grammar_of_the_page(recognizer, monkeypatch):
    monkeypatch.setattr(Recognizer, "create_stream", lambda self, context=None: context)
    settings, grammar = session.Settings(RATE, []), object()
    assert session.Session(recognizer, settings, grammar)._stream.parts == (grammar,)
    assert session.Session(recognizer, settings)._stream is None
