"""The model card of an exported folder: what it is, how well it does, how large it is, how to run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from residualformer.config.schema import Config
from residualformer.export.check import Report, sherpa_blank_penalty
from residualformer.export.folder import BPE_VOCAB_FILE
from residualformer.export.rates import Rates, rate_lines, rate_warnings
from residualformer.files import read_json
from residualformer.runtime.settings import TOKENS_FILE, ModelSettings

CARD_FILE = "README.md"


def scores_of(run: Path, loops: int | None = None) -> list[dict[str, Any]]:
    """Read the scores of a run at the depth `loops`, the contents of `decode_*/score.json`.

    Those of an arbitrator's controls are left out.
    """
    scores = [read_json(path, "run stage 8 again") for path in sorted(run.glob("decode_*/score.json"))]
    decodings = [score.get("decoding", {}) for score in scores]
    of_depth = [not each.get("branches") and each.get("loops") == loops for each in decodings]
    return [score for score, kept in zip(scores, of_depth, strict=True) if kept]


def model_card(
    folder: Path,
    settings: ModelSettings,
    config: Config,
    info: dict[str, Any],
    scores: Sequence[dict[str, Any]],
    report: Report,
    rates: Rates,
    checked_on: str,
) -> str:
    """Return the card as Markdown, with the sizes of the files in `folder`."""
    parts = [
        f"# {settings.name}",
        f"A streaming speech recognizer: {_described(config)}. It works in chunks of {settings.chunk_ms} ms and "
        f"looks {settings.look_ahead_ms} ms ahead.",
        _training(config, info),
        "## Error rates\n" + _rates(scores),
        "Of these files, by greedy search, chunk by chunk:\n\n" + _file_rates(rates, checked_on),
        "## Files\n" + _sizes(folder, settings),
        "## Check\n" + _checked(report, checked_on),
        "## Use\n" + _commands(settings),
    ]
    return "\n\n".join(parts) + "\n"


def megabytes(path: Path) -> str:
    """Return the size of a file in words."""
    return f"{path.stat().st_size / 1e6:.2f} MB"


def agreement(report: Report) -> str:
    """Return the outcome of the check as a sentence."""
    fp32, int8 = (report.differing.get(kind, {}) for kind in ("fp32", "int8"))
    found = f"PyTorch and, in fp32, {' and '.join(fp32)} write the same tokens"
    if int8:
        counts = (f"{count} of {report.utterances} differ ({name})" for name, count in int8.items())
        found += "; in int8 " + ", ".join(counts)
    return found


def _described(config: Config) -> str:
    encoder, predictor = config.encoder, config.predictor
    found = f"{encoder.num_layers} {'Transformer' if encoder.kind == 'transformer' else encoder.kind.upper()} layers "
    found += f"of {encoder.dim}"
    if encoder.kind == "transformer" and encoder.sharing != 1:
        found += f", weights shared (K = {encoder.sharing}"
        found += f", residuals of rank {encoder.residual.rank}" if encoder.residual.rank else ""
        found += " and a diagonal)" if encoder.residual.diagonal else ")"
    if encoder.depth.arbitrator:
        found += f", of each group the first {', '.join(map(str, encoder.depth.loops))} as a network chooses by chunk"
    if config.amnet.method != "none":
        found += f", {len(config.amnet.compression)} {config.amnet.method} branches"
    return f"{found}, {'an LSTM' if predictor.kind == 'lstm' else 'a stateless'} predictor"


def _training(config: Config, info: dict[str, Any]) -> str:
    lines = [f"- experiment: {config.description}" if config.description else ""]
    lines += [f"- trained on: {info['data']}" if "data" in info else "- trained on: unknown"]
    if "parameters" in info:
        lines += [f"- parameters: {info['parameters']['total']:,}"]
    lines += [f"- {key}: `{info[key]}`" for key in ("command", "commit", "fingerprint") if key in info]
    return "\n".join(line for line in lines if line)


def _rates(scores: Sequence[dict[str, Any]]) -> str:
    rows = []
    for score in scores:
        metric = score.get("metric", "WER")
        rate = score.get(metric.lower())
        if isinstance(rate, dict):
            data = score.get("decoding", {}).get("cuts", "")
            streaming = "streaming" if score.get("decoding", {}).get("streaming") else "full pass"
            rows.append(
                f"| `{data}` | {score.get('search', '')}, {streaming} | {metric} | {rate['value']:.2f} | "
                f"{rate['low']:.2f} to {rate['high']:.2f} | {score.get('utterances', '')} |"
            )
    if not rows:
        return "Not measured: the run had not been decoded and scored."
    head = "| set | search | score | % | 95% interval | utterances |\n|---|---|---|---|---|---|\n"
    return "Of the trained model, in PyTorch:\n\n" + head + "\n".join(rows)


def _file_rates(rates: Rates, checked_on: str) -> str:
    lines = [f"- {line}" for line in rate_lines(rates)]
    lines[0] += f" ({checked_on})" if rates.trained else ""
    return "\n".join([*lines, *(f"\n**Warning:** {warning}" for warning in rate_warnings(rates))])


def _sizes(folder: Path, settings: ModelSettings) -> str:
    lines = [f"Type `{settings.type}`, weights {settings.weights}.", ""]
    lines += ["| precision | encoder | decoder | joiner |", "|---|---|---|---|"]
    for precision, files in settings.files.items():
        cells = (f"`{file}` {megabytes(folder / file)}" for file in asdict(files).values())
        lines.append(f"| {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _checked(report: Report, checked_on: str) -> str:
    return f"On {report.size} ({checked_on}): {agreement(report)}."


def _commands(settings: ModelSettings) -> str:
    files = asdict(settings.files.get("int8", settings.files["fp32"]))
    options = " ".join(f"--{part}={file}" for part, file in files.items())
    arguments = "\n    ".join(f'{part}="{file}",' for part, file in {"tokens": TOKENS_FILE, **files}.items())
    bins, penalty = settings.features.num_mel_bins, sherpa_blank_penalty(settings.decode)
    options += f" --feat-dim={bins}" if bins != 80 else ""
    options += f" --blank-penalty={penalty:g}" if penalty else ""
    arguments += f"\n    feature_dim={bins}," if bins != 80 else ""
    arguments += f"\n    blank_penalty={penalty:g}," if penalty else ""
    return f"""```sh
residualformer transcribe --model . audio.wav
residualformer transcribe --model . --hotwords words.txt audio.wav  # a word or phrase a line
sherpa-onnx --tokens={TOKENS_FILE} {options} audio.wav
sherpa-onnx --tokens={TOKENS_FILE} {options} --decoding-method=modified_beam_search \\
  --modeling-unit=bpe --bpe-vocab={BPE_VOCAB_FILE} --hotwords-file=words.txt --hotwords-score=0.5 audio.wav
```

```python
import sherpa_onnx  # pip install sherpa-onnx
import soundfile

recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
    {arguments}
)
samples, rate = soundfile.read("audio.wav", dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
stream.accept_waveform(rate, [0.0] * int({settings.tail_padding_ms / 1000} * rate))  # or the last words are lost
stream.input_finished()
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream))
```"""
