"""Training of a small neural language model on text alone."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import nll_loss
from torch.nn.utils.rnn import pad_sequence

from residualformer.config.language_model import LanguageModelConfig
from residualformer.config.schema import TrainConfig
from residualformer.config.training import OptimizerConfig
from residualformer.constants import BLANK
from residualformer.errors import UserError
from residualformer.files import digest
from residualformer.model.tensors import read_tensors, write_tensors
from residualformer.nn.language_model import LanguageModel
from residualformer.train.optimizer import Optimizer

log = logging.getLogger("residualformer")

Sentences = Sequence[Sequence[int]]  # labels, without blanks
_KIND = "the state of a language model's training"
_IGNORED = -100  # the target beyond a sentence's end


@dataclass
class _Best:
    """The weights after the best epoch, and its loss on the dev set in nats per token."""

    loss: float
    epoch: int
    weights: dict[str, Tensor]


def train_language_model(
    train: Sentences, dev: Sentences, vocab_size: int, config: LanguageModelConfig, seed: int, state: Path
) -> LanguageModel:
    """Train a language model; return it with the weights of its best epoch on `dev`, in eval mode.

    After each epoch all that a training needs to go on is written to the file `state`, from which an interrupted one of
    the same data and configuration continues with the same result.

    Raises:
        UserError: there is no sentence to train on, or none to choose the epoch by.
    """
    if not train or not dev:
        raise UserError(f"there is no text to {'choose the best epoch by' if train else 'train a language model on'}.")
    torch.manual_seed(seed)
    model = LanguageModel(vocab_size, config)
    batches = _batches(train, config.batch_tokens)
    steps = config.max_epochs * len(batches)
    optimizer = Optimizer(model, _optimizer_config(config, steps))
    identity = digest([vars(config), seed, vocab_size, list(map(list, train)), list(map(list, dev))])
    first, best = _resume(state, identity, model, optimizer)
    for epoch in range(first, config.max_epochs):
        started = time.perf_counter()
        torch.manual_seed(seed + epoch)  # of dropout
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        loss = _epoch(model, optimizer, [batches[number] for number in order])
        dev_loss = evaluate(model, dev, config.batch_tokens)
        if dev_loss < best.loss:
            best = _Best(dev_loss, epoch, {name: value.clone() for name, value in model.state_dict().items()})
        log.info(
            "epoch %d/%d | train %.3f nats/token | dev %.3f nats/token, perplexity %.2f%s | %.0f s",
            *(epoch + 1, config.max_epochs, loss, dev_loss, math.exp(min(dev_loss, 700))),
            *(" (best)" if best.epoch == epoch else "", time.perf_counter() - started),
        )
        _save(state, identity, model, optimizer, best, epoch + 1)
    model.load_state_dict(best.weights)
    return model.eval()


@torch.no_grad()
def evaluate(model: LanguageModel, sentences: Sentences, batch_tokens: int) -> float:
    """Return -log P of `sentences` in nats per token, the ends of sentences included."""
    model.eval()
    total = sum(float(_loss(model, batch, "sum")) for batch in _batches(sentences, batch_tokens))
    return total / sum(len(labels) + 1 for labels in sentences)


def _epoch(model: LanguageModel, optimizer: Optimizer, batches: Sequence[Tensor]) -> float:
    """Make an update with each batch; return the loss in nats per token."""
    model.train()
    total, tokens = 0.0, 0
    for batch in batches:
        loss, count = _loss(model, batch, "sum"), int((_targets(batch) != _IGNORED).sum())
        (loss / count).backward()
        optimizer.step()
        total, tokens = total + float(loss.detach()), tokens + count
    return total / tokens


def _loss(model: LanguageModel, batch: Tensor, reduction: str) -> Tensor:
    """Return -log P of a batch (N, S) of labels, padded with blanks behind each sentence."""
    logp = model(batch)
    return nll_loss(logp.flatten(0, 1), _targets(batch).flatten(), ignore_index=_IGNORED, reduction=reduction)


def _targets(batch: Tensor) -> Tensor:
    """Return the targets (N, S + 1): the labels of (N, S), a blank as the end, and nothing beyond it."""
    targets = torch.nn.functional.pad(batch, (0, 1), value=BLANK)
    beyond = (targets == BLANK).cumsum(1) > 1
    return targets.masked_fill(beyond, _IGNORED)


def _batches(sentences: Sentences, batch_tokens: int) -> list[Tensor]:
    """Return batches (N, S) of sentences of similar length, with at most `batch_tokens` labels, or a single one."""
    return [_padded(group) for group in _groups(sorted(sentences, key=len), batch_tokens)]


def _groups(sentences: Sentences, batch_tokens: int) -> Iterator[list[Sequence[int]]]:
    group: list[Sequence[int]] = []
    for labels in sentences:  # the shortest first
        if group and (len(group) + 1) * (len(labels) + 1) > batch_tokens:
            yield group
            group = []
        group.append(labels)
    if group:
        yield group


def _padded(group: Sentences) -> Tensor:
    return pad_sequence([torch.tensor(labels, dtype=torch.int64) for labels in group], True, BLANK)


def _optimizer_config(config: LanguageModelConfig, steps: int) -> TrainConfig:
    optimizer = OptimizerConfig(
        kind="adamw", lr=config.lr, weight_decay=0.01, schedule="cosine", warmup_steps=min(100, steps // 10)
    )
    return TrainConfig(max_steps=steps, optimizer=optimizer)


def _save(path: Path, identity: str, model: LanguageModel, optimizer: Optimizer, best: _Best, epochs: int) -> None:
    state: dict[str, Any] = optimizer.state_dict()
    [moments] = state["parts"]
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.weights.items()}
    tensors |= {f"moments/{number}/{name}": value for number, each in moments.items() for name, value in each.items()}
    values = {"identity": identity, "epochs": epochs, "updates": state["updates"]}
    write_tensors(path, _KIND, tensors, {**values, "best_loss": best.loss, "best_epoch": best.epoch})


def _resume(path: Path, identity: str, model: LanguageModel, optimizer: Optimizer) -> tuple[int, _Best]:
    """Restore what `_save` wrote; return the epochs that are done and the best one so far."""
    best = _Best(math.inf, -1, {})
    if not path.exists():
        return 0, best
    try:
        tensors, values = read_tensors(path, _KIND)
    except UserError as error:
        log.warning("%s; the language model is trained from the start", error)
        return 0, best
    if values["identity"] != identity:
        return 0, best
    of = {part: {} for part in ("model", "best", "moments")}  # type: dict[str, dict[str, Tensor]]
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        of[part][rest] = tensor
    model.load_state_dict(of["model"])
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in of["moments"].items():
        number, _, kind = name.partition("/")
        moments.setdefault(number, {})[kind] = tensor
    optimizer.load_state_dict({"updates": values["updates"], "parts": [moments]})
    return values["epochs"], _Best(values["best_loss"], values["best_epoch"], of["best"])
