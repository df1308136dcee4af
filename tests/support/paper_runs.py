"""Made-up decoding runs of the experiments of a paper's table, with known numbers of errors and known losses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from residualformer.config.schema import Config
from residualformer.data.tokenizer import Tokenizer
from residualformer.files import write_json, write_text
from residualformer.model import checkpoint
from residualformer.report.paper_table import PaperTable, TableCell

WORDS, UTTERANCES = 10, 200
# Of each word, the chance of an error, and nats. Systems draw from one seed, so that they err at like places.
SYSTEMS = {
    "baseline": (0.10, 0.50), "shared": (0.14, 0.60), "control": (0.13, 0.58), "residual": (0.10, 0.49),
    "shallow6": (0.30, 0.90), "last_unique": (0.12, 0.55), "shared6": (0.14, 0.61),
}  # fmt: skip
TOKENIZER = Tokenizer(["<blk>", "<unk>", "A"])
TRAINED = {"wall_s": 90.0, "steps": 3000, "parameters": {"transformer": 2_000_000, "residual": 150_000}}


def errors_and_nats(name: str) -> tuple[np.ndarray, np.ndarray]:
    chance, nats = SYSTEMS[name]
    generator = np.random.default_rng(5)
    errors = (generator.random((UTTERANCES, WORDS)) < chance).sum(1)
    own = np.random.default_rng(list(SYSTEMS).index(name))
    return errors, (nats * WORDS * (0.5 + generator.random(UTTERANCES) + 0.5 * own.random(UTTERANCES))).round(4)


def write_run(egs: Path, name: str, search: str = "beam16", target: str = "text", split: str = "test") -> None:
    """A decoding run with these numbers of wrong words and these losses, and a model that tells of its training."""
    errors, nats = errors_and_nats(name)
    lines = []
    for number, (wrong, loss) in enumerate(zip(errors.tolist(), nats.tolist(), strict=True)):
        said = ["b"] * wrong + ["a"] * (WORDS - wrong)
        record = {"id": f"u{number:03}", "ref": " ".join(["a"] * WORDS), "hyp": " ".join(said)}
        lines.append(json.dumps(record | {"ref_tokens": WORDS, "ref_nats": loss}))
    run = egs / "exp" / name / f"decode_{split}_{search}"
    write_text(run / "hyp.jsonl", "\n".join(lines) + "\n")
    write_json(run / "decode.json", {"target": target, "search": search, "utterances": UTTERANCES, "skipped": []})
    config = Config(description=name, warm_start="shared" if name in ("residual", "control") else None)
    checkpoint.save_model(egs / "exp" / name / "model.safetensors", {}, config, TOKENIZER, TRAINED)


def cell(result: PaperTable, name: str) -> TableCell:
    return next(cell for cell in result.cells() if cell.experiment == name)
