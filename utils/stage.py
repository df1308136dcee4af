"""Run one command of a stage, unless it has already finished with the same options and inputs.

What was run is remembered in a marker beside its output (`data/.fbank.done` for `data/fbank`): the command, the
sections of the configuration that it reads, and the markers of the stages it builds on. A marker says `finished` only
after success, and what was made. An interrupted command, or one whose output was lost or damaged since, runs again over
what is there, and may go on from it; one with other options or inputs runs again and says what changed.

    stage.py --number 2 --title "features" --out data/fbank --makes cmvn.json --after data/.manifests.done \\
        --config conf/mini/base.yaml --sections features -- python steps/compute_fbank.py --jobs 2 ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import residualformer
from residualformer.config.loading import complete, flat, load_config
from residualformer.errors import UserError, run_main
from residualformer.files import set_aside, write_json

# Options that cannot change what is written: how fast, and what `sections` of the configuration tell already.
_WITHOUT_EFFECT = ("--jobs", "--set", "--config")


def main() -> None:
    args = _arguments()
    head = f"stage {args.number}: {args.title}"
    marker = args.marker or args.out.with_name(f".{args.out.name}.done")
    wanted = _identity(args)
    found = _read(marker)
    changes = _changes(found["identity"], wanted) if found else []
    made = _made(args)
    lost = [name for name, content in found.get("made", {}).items() if made.get(name) != content] if found else []
    if found and found["finished"] and made and not (changes or lost or args.overwrite):
        print(f"== {head}: skipped, done before with the same options and inputs ({args.out})", flush=True)
        return
    print(f"== {head}", flush=True)
    if changes or lost:
        why = changes or [f"{args.out / name} is not as it was made" for name in lost]
        print("   runs again: " + "; ".join(why), flush=True)
    kept = set_aside(args.out) if args.aside and args.out.exists() and (changes or args.overwrite) else None
    if kept:
        print(f"   what was there is kept in {kept}", flush=True)
    if args.log:
        print(f"   log: {args.log}", flush=True)
    write_json(marker, {"finished": False, "identity": wanted})
    start = time.monotonic()
    status = _run(args.command)
    if status:
        if kept and found and not args.out.exists():  # refused or interrupted before it wrote anything
            kept.rename(args.out)
            write_json(marker, found)
            print(f"   {args.out} is as it was", flush=True)
        sys.exit(status)
    write_json(marker, {"finished": True, "identity": wanted, "made": _made(args)})
    print(f"stage {args.number} done in {time.monotonic() - start:.0f} s: {args.out}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", required=True, help="of the stage")
    parser.add_argument("--title", required=True, help="what the command does, in a few words")
    parser.add_argument("--out", type=Path, required=True, help="folder it writes")
    parser.add_argument("--makes", nargs="*", default=["*"], help="files of OUT that later stages read (glob patterns)")
    parser.add_argument("--marker", type=Path, help="marker file, when OUT is not the command's alone")
    parser.add_argument("--aside", action="store_true", help="move an OUT of other options to old/")
    parser.add_argument("--after", type=Path, nargs="*", default=[], help="markers of the stages this one builds on")
    parser.add_argument("--config", type=Path, help="configuration the command reads")
    parser.add_argument("--sections", nargs="*", default=[], help="its keys or sections that matter (all)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="another value in it")
    parser.add_argument("--log", help="where the command logs, to be told before it starts")
    parser.add_argument("--overwrite", action="store_true", help="run even if finished")
    parser.add_argument("command", nargs="+", help="after `--`")
    return parser.parse_args()


def _identity(args: argparse.Namespace) -> dict[str, Any]:
    """All that decides what the command writes, as {name: value}."""
    for marker in args.after:
        if not (_read(marker) or {}).get("finished"):
            raise UserError(
                f"stage {args.number} needs {_result(marker)}, which is not finished; run the stages before it."
            )
    config = flat(load_config(args.config, args.set)) if args.config else {}
    sections = [name + "." for name in args.sections] or [""]
    return {
        "version": residualformer.__version__,
        "command": " ".join(_essential(args.command[1:])),  # without the interpreter, which may move
        **{key: value for key, value in config.items() if any(f"{key}.".startswith(name) for name in sections)},
        **{f"input {_result(marker)}": _fingerprint(_read(marker)) for marker in args.after},
    }


def _fingerprint(content: dict[str, Any]) -> str:
    """Changes when the options or the inputs of a stage do; the same work done again leaves it as it was."""
    decisive = {name: content[name] for name in ("finished", "identity")}
    return hashlib.sha256((json.dumps(decisive, indent=2, ensure_ascii=False) + "\n").encode()).hexdigest()[:12]


def _made(args: argparse.Namespace) -> dict[str, str]:
    """{name: content} of the files that a finished command leaves; a large one is told by its size."""
    files = sorted(path for pattern in args.makes for path in args.out.glob(pattern) if path.is_file())
    return {str(path.relative_to(args.out)): _content(path) for path in files}


def _content(path: Path) -> str:
    size = path.stat().st_size
    return f"{size} bytes" if size > 1 << 20 else hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _result(marker: Path) -> str:
    """The path that a marker, `.<name>.done`, stands for."""
    return str(marker.with_name(marker.name.removeprefix(".").removesuffix(".done")))


def _essential(command: list[str]) -> list[str]:
    skipped = {i + step for i, word in enumerate(command) if word in _WITHOUT_EFFECT for step in (0, 1)}
    return [word for i, word in enumerate(command) if i not in skipped]


def _read(marker: Path) -> dict[str, Any] | None:
    """The marker's content, None when there is none or it cannot be trusted."""
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(content, dict) or "finished" not in content:
        return None
    parts = [content.get("identity"), content.get("made", {})]
    return content if all(isinstance(part, dict) for part in parts) else None


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is not as it was. What an older marker does not tell was as it is now: inputs, which follow from the
    configuration; and a key of the configuration that did not exist then had the default that it has now."""
    before = {key: new[key] for key in new if key.startswith("input ")} | complete(old)
    changes = []
    for name in {**{name: None for name in old if name in before}, **new}:
        if before.get(name) != new.get(name):
            told = f"{before.get(name)} -> {new.get(name)}"
            what = "was made with other options" if name.startswith("input ") else told
            changes.append(f"{name} {what}")
    return changes


def _run(command: list[str]) -> int:
    """The command's exit status, as a shell would give it; what ends this process ends the command, by SIGTERM."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the command: Ctrl-C comes to it from here alone,
    with subprocess.Popen(command) as process:  # and so does no harm while it still imports
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        interrupted = False
        while True:
            try:
                status = process.wait()
                return 130 if interrupted else status if status >= 0 else 128 - status
            except KeyboardInterrupt:
                interrupted = True
                process.terminate()  # it saves and ends
                print("\ninterrupted; the same command goes on from here", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
