"""Real-time factor of beam search on one thread: ours, the textbook's and sherpa-onnx's, on the same exported model.

    . ./path.sh && python benchmarks/search_speed.py --model exp/residual --cuts data/manifests/cuts_test.jsonl.gz \
        [--utterances 20] [--beam 16] [--type nemo ebranchformer] [--json FILE]

The model is exported with a stateless predictor. Where it has an LSTM, that is written out as a table of what it says
after two labels, on average over the transcripts of the cuts; so the vocabulary must be small. `ebranchformer` computes
other features, whose mean and variance are then taken from the audio: the words get worse, the work stays that of a
trained model. sherpa-onnx takes part if it is installed: on type `nemo` it runs hypotheses one by one, on
`ebranchformer` in a batch; there a frame writes one label at most, and no blank after it, which is less work.

One row is our search with 100 hotwords, words of the cuts' transcripts.

Programs take turns, utterance by utterance, in pieces of 100 ms; times are processor time of the process. `search` is a
program's time without that of features and encoder, which our own program without a search takes.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jiwer
import numpy as np
import torch
from plain_beam import PlainBeamSearch

from residualformer.config.schema import PredictorConfig
from residualformer.context.scorer import Context
from residualformer.data.fbank import compute_fbank
from residualformer.data.manifest import read_cuts
from residualformer.errors import run_main
from residualformer.export.audio import utterances_of_cuts
from residualformer.export.check import sherpa_recognizer, sherpa_symbols, with_tail
from residualformer.export.contracts import CONTRACTS
from residualformer.export.folder import encoder_graph, write_folder
from residualformer.files import write_json
from residualformer.model.checkpoint import Bundle, load_model
from residualformer.nn.transducer import build_model
from residualformer.optional import is_installed
from residualformer.runtime import Recognizer, load_exported
from residualformer.runtime.greedy import GreedySearch
from residualformer.runtime.settings import ModelSettings
from residualformer.workflow.options import OptionParser

PIECE, RATE = 1600, 16000
CONTEXT = 2
OURS, SHERPA = "ours", "sherpa-onnx"
ENCODER = "features and encoder"
HOTWORDS = 100


class Row(NamedTuple):
    """`words_wrong` in %, `same` the share of utterances with the text of our beam search."""

    type: str
    program: str
    rtf: float
    search_rtf: float | None
    ratio: float  # of our beam search
    words_wrong: float | None
    same: float | None


class NoSearch(GreedySearch):
    """Reads frames and writes nothing."""

    def advance(self, states, encoded) -> None:
        for state, frames in zip(states, encoded, strict=True):
            state.num_frames += len(frames)


@torch.no_grad()
def with_stateless_predictor(bundle: Bundle, transcripts: list[str]) -> Bundle:
    """The same model with what its LSTM predictor says after two labels as a table: the mean of its answers.

    One hidden unit stands for each pair of labels: relu of two indicators less one.
    """
    model, config = bundle.model, bundle.config
    if config.predictor.kind == "stateless":
        return bundle
    size = model.vocab_size
    predictor = PredictorConfig("stateless", embedding_dim=size, hidden_dim=size**2, context_size=CONTEXT)
    config = replace(config, predictor=predictor)
    new = build_model(config, size).eval()
    new.load_state_dict({k: v for k, v in model.state_dict().items() if k in kept(new)}, strict=False)
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    said, count = model.predictor(pairs)[:, 2], torch.ones(size**2, 1)  # of a pair that never was: as if it came first
    said, count = 1e-3 * said, 1e-3 * count
    for transcript in transcripts:
        labels = torch.tensor(bundle.tokenizer.encode(transcript))
        last = torch.nn.functional.pad(labels, (CONTEXT, 0)).unfold(0, CONTEXT, 1)  # label 0 is the start
        said.index_add_(0, last[:, 0] * size + last[:, 1], model.predictor(labels[None])[0])
        count.index_add_(0, last[:, 0] * size + last[:, 1], torch.ones(len(last), 1))
    said /= count
    new.predictor.embedding.table.weight.copy_(torch.eye(size))
    new.predictor.conv.weight.copy_(torch.nn.functional.one_hot(pairs, size).transpose(1, 2))
    new.predictor.conv.bias.fill_(-1)
    new.joiner.project_predictor.weight.copy_(model.joiner.project_predictor(said).T)
    new.joiner.project_predictor.bias.zero_()
    return Bundle(new, config, bundle.tokenizer, bundle.info)


def kept(model: torch.nn.Module) -> set[str]:
    """Names of the weights that do not depend on the predictor."""
    return {name for name in model.state_dict() if not name.startswith(("predictor.", "joiner.project_predictor."))}


@torch.no_grad()
def with_features(bundle: Bundle, preset: str, audio: list[np.ndarray]) -> Bundle:
    """The model on features of another preset, normalized by those of `audio`."""
    if bundle.config.features.preset == preset:
        return bundle
    config = replace(bundle.config, features=replace(bundle.config.features, preset=preset))
    frames = torch.from_numpy(np.concatenate([compute_fbank(samples, config.features) for samples in audio]))
    bundle.model.encoder.mean.copy_(frames.mean(0))
    bundle.model.encoder.std.copy_(frames.std(0))
    return Bundle(bundle.model, config, bundle.tokenizer, bundle.info)


def stream(recognizer: Recognizer, samples: np.ndarray, context: Context | None = None) -> str:
    """Return the text that our runtime writes for samples (S,), fed in pieces."""
    stream = recognizer.create_stream(context)
    for start in range(0, len(samples), PIECE):
        stream.accept_waveform(samples[start : start + PIECE])
        recognizer.decode([stream])
    stream.finish()
    recognizer.decode([stream])
    return " ".join(segment.text for segment in stream.pop_segments())


def long_words(text: Iterable[str]) -> list[str]:
    """Return words of the text to be hotwords."""
    words = sorted({word for line in text for word in line.split() if len(word) > 4})
    return random.Random(1).sample(words, min(HOTWORDS, len(words)))


def programs(
    folder: Path, settings: ModelSettings, beam: int, text: Iterable[str]
) -> dict[str, Callable[[np.ndarray], str]]:
    """By name, what turns samples (S,) into text; hotwords are taken from `text`."""
    model = load_exported(folder)
    decode = replace(model.decode, kind="beam", beam=beam, blank_penalty=0.0)
    searches = {f"{OURS}, beam {beam}": None, ENCODER: NoSearch(model, model.blank, decode)}
    searches["textbook"] = PlainBeamSearch(model, model.blank, beam)
    found = {}
    for name, search in searches.items():
        recognizer = Recognizer(model, decode)
        recognizer._search = search or recognizer._search
        found[name] = lambda samples, recognizer=recognizer: stream(recognizer, samples)
    helped, words = Recognizer(model, decode), long_words(text)
    hotwords = helped.hotwords(words)
    found[f"{OURS}, {len(words)} hotwords"] = lambda samples: stream(helped, samples, hotwords)
    if is_installed("sherpa_onnx"):
        for name, options in (  # which wants the silence behind an utterance given; our runtime adds what it needs
            (f"{SHERPA}, beam {beam}", {"decoding_method": "modified_beam_search", "max_active_paths": beam}),
            (f"{SHERPA}, greedy", {}),
        ):
            recognizer = sherpa_recognizer(folder, settings, blank_penalty=0.0, **options)
            found[name] = lambda samples, recognizer=recognizer: "".join(
                sherpa_symbols(recognizer, with_tail(samples, settings), RATE)
            ).strip()
    return found


def measure(
    kind: str, bundle: Bundle, audio: list[np.ndarray], references: list[str], beam: int, text: Iterable[str]
) -> list[Row]:
    """The rows of one type of folder."""
    with tempfile.TemporaryDirectory() as folder:
        contract = CONTRACTS[kind](bundle.model, encoder_graph(bundle.model))
        settings = write_folder(Path(folder), "model", bundle, contract, "factored", int8=False)
        runs = programs(Path(folder), settings, beam, text)
        texts, seconds = {name: [] for name in runs}, dict.fromkeys(runs, 0.0)
        for run in runs.values():
            run(audio[0][:RATE])  # warm-up
        for turn, samples in enumerate(audio):
            order = list(runs)
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                start = time.process_time()
                texts[name].append(runs[name](samples))
                seconds[name] += time.process_time() - start
    duration, ours = sum(map(len, audio)) / RATE, next(iter(runs))
    rows = []
    for name, taken in seconds.items():
        writes = name != ENCODER
        same = np.mean([a == b for a, b in zip(texts[name], texts[ours], strict=True)]) if writes else None
        wrong = 100 * jiwer.wer(references, texts[name]) if writes else None
        search = (taken - seconds[ENCODER]) / duration if writes else None
        rows.append(Row(kind, name, taken / duration, search, taken / seconds[ours], wrong, same))
    return rows


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    cuts = list(read_cuts(args.cuts, stage=1))
    chosen = utterances_of_cuts(args.cuts, args.utterances, RATE)
    text = {cut.id: cut.supervisions[0].text for cut in cuts}
    audio, references = [each.samples for each in chosen], [text[each.id] for each in chosen]
    print(f"{len(audio)} utterances, {sum(map(len, audio)) / RATE:.0f} s, one thread, processor time")
    head = f"{'type':14} {'program':26} {'RTF':>7} {'search':>7} {'x ours':>7} {'WER %':>6} {'same text':>9}"
    print(head)
    rows = []
    for kind in args.type:
        bundle = with_stateless_predictor(load_model(args.model), list(text.values()))
        bundle = with_features(bundle, CONTRACTS[kind].preset, audio)
        for row in measure(kind, bundle, audio, references, args.beam, text.values()):
            rest = ["-" if row.search_rtf is None else f"{row.search_rtf:.4f}", f"{row.ratio:.2f}"]
            rest += ["-", "-"] if row.same is None else [f"{row.words_wrong:.1f}", f"{100 * row.same:.0f}%"]
            cells = " ".join(f"{cell:>{width}}" for cell, width in zip(rest, (7, 7, 6, 9), strict=True))
            print(f"{row.type:14} {row.program:26} {row.rtf:7.4f} {cells}", flush=True)
            rows.append(row._asdict())
    if args.json:
        write_json(args.json, {"rows": rows, "utterances": len(audio), "beam": args.beam})


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a run folder, or its model.safetensors")
    parser.add_argument("--cuts", type=Path, required=True, help="what to recognize")
    parser.add_argument("--utterances", type=int, default=20)
    parser.add_argument("--beam", type=int, default=16)
    parser.add_argument("--type", nargs="+", choices=list(CONTRACTS), default=list(CONTRACTS))
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
