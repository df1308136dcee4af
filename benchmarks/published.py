"""The files of a published result: its numbers, and a document that says how they came about."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from residualformer.files import write_json, write_text
from residualformer.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]


def portable(command: str) -> str:
    """Return a command without folders of this machine: paths in the project are relative, of others names remain."""
    command = command.replace(f"{ROOT}/", "")
    return re.sub(r"(^|[\s='\"])/(?:[^\s/'\"]+/)*([^\s/'\"]+)", r"\1.../\2", command)


class Publication:
    """Results of a benchmark for a folder such as docs/results/mini: NAME.md and name.json.

    Args:
        folder: None to write nothing.
        name: of the files.
        program: that writes them.
    """

    def __init__(self, folder: Path | None, name: str, program: str) -> None:
        self.folder, self.name, self.program = folder, name, program
        self.started = time.monotonic()

    def write(self, title: str, body: Sequence[str], numbers: Mapping[str, Any]) -> None:
        """Print the lines of Markdown, and write them with command, commit, machine and time beside the numbers."""
        print("\n".join(body))
        if self.folder is None:
            return
        made: dict[str, Any] = {**provenance(), "wall_s": round(time.monotonic() - self.started, 1)}
        made["command"] = portable(made["command"])
        head = [f"<!-- Written by benchmarks/{self.program} from {self.name}.json. Do not edit. -->", f"# {title}", ""]
        end = f"`{made['command']}` at commit {made['commit']}, {made['hardware']}, {made['versions']}; "
        text = "\n".join([*head, *body, "", f"{end}{made['wall_s'] / 60:.1f} min.", ""])
        write_json(self.folder / f"{self.name}.json", {**made, **numbers})
        write_text(self.folder / f"{self.name.upper()}.md", text)
