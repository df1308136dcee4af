"""Models: tokens, trained and exported ones, adapters, states of trainings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mutated_common import BINS, CONFIG, RATE, TOKENS, Loader, bundle, noise

from residualformer.constants import MODEL_FILE
from residualformer.data.tokenizer import Tokenizer
from residualformer.decode.recognize import recognize
from residualformer.export.contracts import CONTRACTS
from residualformer.export.folder import encoder_graph, write_folder
from residualformer.model.adapter import apply_adapter, write_adapter
from residualformer.model.checkpoint import load_model, read_run, save_model
from residualformer.runtime import Recognizer
from residualformer.runtime.loading import load_exported
from residualformer.train.optimizer import Optimizer
from residualformer.train.state import CheckpointFolder


def write_model(folder: Path) -> None:
    one = bundle()
    save_model(folder / MODEL_FILE, one.model.state_dict(), one.config, one.tokenizer, one.info)


def read_model(folder: Path) -> None:
    loaded = load_model(folder)
    recognize(loaded.model, loaded.config.decode, [noise(0.005).reshape(-1, BINS)])


def write_adapted(folder: Path) -> None:
    write_model(folder / "base")
    base = read_run(folder / "base")
    [name, *_] = [name for name in base.weights if name.startswith("joiner")]
    own = replace(base, weights={**base.weights, name: base.weights[name] + 1})
    write_adapter(folder / "adapter.safetensors", base, own)


def read_adapted(folder: Path) -> None:
    apply_adapter(read_run(folder / "base"), folder / "adapter.safetensors").build()


def _optimizer() -> Optimizer:
    return Optimizer(bundle().model, CONFIG.train)


def write_state(folder: Path) -> None:
    optimizer, model = _optimizer(), bundle().model
    CheckpointFolder(folder).save_state(
        {
            **dict(identity={"config": {}}, weights=model.state_dict(), optimizer=optimizer.state_dict(), phases={}),
            **dict(step=2, epoch=0, update_in_epoch=1, clock={"wall_s": 1.0}, changes=[], validations=[]),
            "left_out": {"reasons": {"u1": "its loss is infinite"}, "times": 1, "asked": 4},
        }  # type: ignore[typeddict-item]
    )


def read_state(folder: Path) -> None:
    if state := CheckpointFolder(folder).load_state():
        _optimizer().load_state_dict(state["optimizer"])


def write_exported(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        one = bundle()
        contract = CONTRACTS[kind](one.model, encoder_graph(one.model))
        write_folder(folder, "sample", one, contract, "factored", int8=True)

    return write


def read_exported(lean: bool, int8: bool) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        recognizer = Recognizer(load_exported(folder, lean=lean, int8=int8))
        stream = recognizer.create_stream()
        stream.accept_waveform(noise(0.4)[:, 0], RATE)
        stream.finish()
        recognizer.decode([stream])
        json.dumps([segment.text for segment in stream.pop_segments()])

    return read


LOADERS: dict[str, Loader] = {
    "tokens": Loader(lambda folder: TOKENS.save(folder / "t.json"), lambda folder: Tokenizer.load(folder / "t.json")),
    "model": Loader(write_model, read_model),
    "adapter": Loader(write_adapted, read_adapted, "adapter*"),
    "training state": Loader(write_state, read_state),
    "exported, nemo": Loader(write_exported("nemo"), read_exported(False, False)),
    "exported, settings": Loader(write_exported("nemo"), read_exported(False, False), "*.json"),
    "exported, lean": Loader(write_exported("nemo"), read_exported(True, False)),
    "exported, lean, int8": Loader(write_exported("nemo"), read_exported(True, True), "*int8*"),
}
