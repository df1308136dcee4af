"""Configuration values for data of any size: a table by hours of training speech, and rules for tokens and steps.

The first row is that of conf/an4, measured on 0.6 h of real speech; the last is the paper's model; those in between
are not measured. `--set` overrides all values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import yaml

from residualformer.data.text import is_unspaced


@dataclass(frozen=True)
class Size:
    """A row of the table."""

    hours: float  # of training speech, at most
    layers: int
    dim: int  # the feed-forward layers have four times as many
    heads: int
    conv_channels: int
    predictor: tuple[int, int, int]  # embedding, hidden, layers
    joiner: int
    predictor_dropout: float
    batch_s: int  # seconds of speech in an update


SIZES = (
    #    hours layers dim heads conv  predictor  joiner drop batch
    Size(1, 12, 192, 4, 32, (128, 256, 1), 256, 0.3, 30),
    Size(5, 12, 192, 4, 32, (128, 256, 1), 256, 0.2, 30),
    Size(30, 12, 256, 4, 64, (256, 320, 1), 320, 0.1, 60),
    Size(200, 18, 384, 6, 128, (256, 512, 1), 512, 0.1, 120),
    Size(float("inf"), 18, 512, 8, 256, (320, 1024, 2), 512, 0.1, 200),
)
FEWEST_STEPS, MOST_PASSES = 1500, 100.0
BATCHES_PER_UPDATE = 2  # which as many processes share
BPE = ((200, 2000), (30, 500))  # (at least so many hours, pieces); characters for less (docs/training.md)
EXACT_LOSS_UP_TO = 256  # tokens; above that the pruned loss is much faster


def choose(hours: float, texts: list[str], target: str, longest_s: float) -> dict[str, Any]:
    """Choose configuration values, by section.

    Args:
        hours: hours of training speech.
        texts: target texts of the training utterances.
        target: `text` or `translation`.
        longest_s: longest utterance that is kept, in seconds.
    """
    size = next(row for row in SIZES if hours <= row.hours)
    tokens = {**choose_tokens(hours, texts), "target": target}
    exact = tokens["vocab_size"] <= EXACT_LOSS_UP_TO
    embedding, hidden, layers = size.predictor
    translates = target == "translation"  # docs/translation.md tells why these values are needed
    return {
        "tokens": tokens,
        "encoder": {
            "num_layers": size.layers,
            "dim": size.dim,
            "num_heads": size.heads,
            "ffn_dim": 4 * size.dim,
            "conv_channels": size.conv_channels,
        },
        "predictor": {
            **({"kind": "stateless"} if translates else {}),
            "embedding_dim": embedding,
            "hidden_dim": hidden,
            **({} if translates else {"num_layers": layers}),
            "dropout": size.predictor_dropout,
        },
        "joiner": {"dim": size.joiner},
        "loss": {
            **({"kind": "exact"} if exact else {"kind": "pruned", "prune_range": 10}),
            **({"ctc_target": "transcript"} if translates else {}),
        },
        **({"decode": {"token_reward": 1.0, "length_norm": True}} if translates else {}),
        **_schedule(hours, size, longest_s),
    }


def choose_tokens(hours: float, texts: list[str]) -> dict[str, Any]:
    """Choose BPE pieces for much text in a script with spaces and few letters, else characters."""
    characters = Counter(chain.from_iterable(texts))
    words = {word for text in texts for word in text.split()}
    letters = sum(count for character, count in characters.items() if character.isalpha())
    unspaced = 2 * sum(count for character, count in characters.items() if is_unspaced(character)) > letters
    for from_hours, pieces in BPE:
        # fewer words would yield too few pieces
        if hours >= from_hours and not unspaced and 4 * len(characters) <= pieces and len(words) >= 4 * pieces:
            return {"kind": "bpe", "vocab_size": pieces}
    return {"kind": "char", "vocab_size": len({*characters, " "}) + 2}


def passes(hours: float) -> float:
    """Return the number of epochs: 55 for one hour of speech, halved for each 16-fold amount."""
    return min(55 * hours**-0.25, MOST_PASSES) if hours else MOST_PASSES


def _schedule(hours: float, size: Size, longest_s: float) -> dict[str, Any]:
    """Choose the values of `data` and `train`, which follow from the number of steps."""
    steps = max(FEWEST_STEPS, round(hours * 3600 * passes(hours) / size.batch_s, -2))
    tenth = round(steps / 10)
    return {
        "data": {
            "max_batch_s": size.batch_s / BATCHES_PER_UPDATE,
            "max_utterance_s": round(longest_s / 0.9 + 0.1, 1),  # at the slowest speed of the augmentation
            "specaugment": {"start_step": min(tenth, 4000)},
        },
        "train": {
            "batches_per_update": BATCHES_PER_UPDATE,
            "max_steps": int(steps),
            "optimizer": {"warmup_steps": min(max(tenth // 2, 50), 2000)},
            "save_every_steps": max(10, tenth // 10),  # the last ten are averaged
            "valid_every_steps": 2 * tenth,
            "log_every_steps": max(10, tenth // 10),
        },
    }


def as_yaml(values: dict[str, Any], hours: float, count: int) -> str:
    """Return chosen values as a YAML file with a header that tells their origin."""
    return (
        f"# Chosen for {hours:.2f} h of speech to train on ({count} utterances) by the table in\n"
        "# local/custom_data/choices.py. To override one: --set encoder.dim=192. Stage 1 overwrites this file.\n"
        + yaml.safe_dump(values, sort_keys=False)
    )


def as_lines(values: dict[str, Any]) -> str:
    """Return chosen values for the terminal, one line per section."""
    return "\n".join(f"  {section}: {_flat(content)}" for section, content in values.items())


def _flat(section: dict[str, Any], prefix: str = "") -> str:
    """Return the values of a section, nested ones by dotted names."""
    return ", ".join(
        _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else f"{prefix}{name} {value}"
        for name, value in section.items()
    )
