"""Token sets: round trips, fixed ids, sizes, files, determinism."""

from __future__ import annotations

import json

import pytest

from residualformer.config.schema import TokenConfig
from residualformer.data.tokenizer import Tokenizer, train_tokenizer
from residualformer.errors import UserError
from residualformer.files import write_checked_json

ENGLISH = [
    "GO HOME NOW",
    "STOP AT THE THIRD HOUSE",
    "ENTER SIX TWO FOUR EIGHT",
    "P I T T S B U R G H",
    "DON'T ERASE THE SECOND HOUSE",
    "YES",
]
CHINESE = ["请在第三座房子停下", "现在回家吧。", "输入六二四八，谢谢！", "全角Ａ和半角A不同"]
BPE, CHAR = TokenConfig("bpe", 40), TokenConfig("char")


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE, ENGLISH + CHINESE], ids=["english", "chinese", "both"])
@pytest.mark.parametrize("config", [BPE, CHAR], ids=["bpe", "char"])
def test_round_trip(texts, config):
    if config.kind == "bpe":
        config = TokenConfig("bpe", len(set("".join(texts)) | {" "}) + 2 + 8)
    tokenizer = train_tokenizer(texts, config)
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids) > 1 and max(ids) < tokenizer.vocab_size
    unseen = "".join(reversed(texts[0])).strip()  # a new order of the same characters
    assert tokenizer.decode(tokenizer.encode(unseen)) == unseen


@pytest.mark.parametrize("config", [BPE, CHAR], ids=["bpe", "char"])
def test_blank_and_unknown(config):
    tokenizer = train_tokenizer(ENGLISH, config)
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.kind) == (0, 1, config.kind)
    assert tokenizer.pieces[:2] == ["<blk>", "<unk>"]
    assert len(tokenizer.pieces) == len(set(tokenizer.pieces)) == tokenizer.vocab_size
    ids = tokenizer.encode("GO Z HOME")  # no Z in the texts
    assert ids.count(1) == 1 and tokenizer.decode(ids) == "GO <unk> HOME"
    with_blanks = [0, *tokenizer.encode("GO HOME"), 0, 0]
    assert tokenizer.decode(with_blanks) == "GO HOME"
    assert 0 not in tokenizer.encode("<blk> <unk>")  # text cannot produce a blank
    assert tokenizer.encode("") == tokenizer.encode("  ") == [] and tokenizer.decode([]) == ""
    assert tokenizer.encode("  GO   HOME ") == tokenizer.encode("GO HOME")


def test_char_pieces_are_the_characters():
    tokenizer = train_tokenizer(["BA AB", "C"], CHAR)
    assert tokenizer.pieces == ["<blk>", "<unk>", "A", "B", "C", "▁"]
    assert tokenizer.encode("A B") == [2, 5, 3]


def test_bpe_size_is_exact_and_bounded():
    assert train_tokenizer(ENGLISH, BPE).vocab_size == 40
    with pytest.raises(UserError, match="vocab_size is 5000.*at most (\\d+) tokens") as error:
        train_tokenizer(ENGLISH, TokenConfig("bpe", 5000))
    largest = int(str(error.value).split("at most ")[1].split()[0])
    assert train_tokenizer(ENGLISH, TokenConfig("bpe", largest)).vocab_size == largest
    with pytest.raises(UserError, match="at least (\\d+)") as error:
        train_tokenizer(ENGLISH, TokenConfig("bpe", 10))
    smallest = int(str(error.value).split("at least ")[1].rstrip("."))
    assert smallest == len(set("".join(ENGLISH))) + 2
    assert train_tokenizer(ENGLISH, TokenConfig("bpe", smallest)).vocab_size == smallest


@pytest.mark.parametrize("config", [BPE, CHAR], ids=["bpe", "char"])
def test_same_text_same_tokens_and_files(tmp_path, config):
    tokenizer, again = train_tokenizer(ENGLISH, config), train_tokenizer(iter(ENGLISH), config)
    other = train_tokenizer([*ENGLISH, "Q Q Q"], config)
    assert tokenizer.fingerprint == again.fingerprint != other.fingerprint
    tokenizer.save(tmp_path / "lang" / "tokenizer.json")
    read = Tokenizer.load(tmp_path / "lang" / "tokenizer.json")
    copy = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    for one in (read, copy):
        assert one.fingerprint == tokenizer.fingerprint and one.pieces == tokenizer.pieces
        assert [one.encode(text) for text in ENGLISH] == [tokenizer.encode(text) for text in ENGLISH]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="'bpr'.*bpe, char.*Did you mean 'bpe'"):
        train_tokenizer(ENGLISH, TokenConfig("bpr"))
    with pytest.raises(UserError, match="no training text"):
        train_tokenizer(["", "  "], BPE)
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="tokenizer.json is missing: run stage 3 first"):
        Tokenizer.load(path)
    broken = ['{"kind": "bpe", "model": "AAAA"}', '{"kind": "bpe", "model": ""}', '{"kind": "bpe"}']
    broken += ['{"kind": "word", "pieces": []}', '{"kind": "char", "pieces": ["A", "B", "C"]}']
    broken += ['{"kind": "char", "pieces": "abc"}', '{"kind": "char", "pieces": ["<blk>", "<unk>", "A", "A"]}']
    broken += ['{"kind": "char", "pieces": ["<blk>", "<unk>", 0, "a"]}', '{"kind": ["char"], "pieces": []}', "{}"]
    broken += ['{"kind": "char", "pieces": {"<blk>": 0, "<unk>": 1}}', '{"kind": "bpe", "model": 7}']
    broken += ['{"kind": "bpe", "model": "é"}', '{"kind": "bpe", "model": "Z"}', '{"kind": "char"}']
    for content in broken:
        write_checked_json(path, json.loads(content))
        with pytest.raises(UserError, match="not a token set.*run stage 3 again"):
            Tokenizer.load(path)
    for content in ["{", "[]", "3", "{}", '{"kind": "char", "pieces": ["<blk>", "<unk>"]}']:
        path.write_text(content)
        with pytest.raises(UserError, match="(not JSON|not a JSON mapping|damaged).*: run stage 3 again"):
            Tokenizer.load(path)


@pytest.mark.parametrize("config", [BPE, TokenConfig("char")], ids=lambda config: config.kind)
def test_every_flipped_bit_of_a_file_is_noticed_or_changes_nothing(tmp_path, config):
    """White space, and the case of an escape such as \\u2581, change nothing."""
    path = tmp_path / "tokenizer.json"
    tokenizer = train_tokenizer(ENGLISH, config)
    tokenizer.save(path)
    content = path.read_bytes()
    for place in range(0, len(content), 1 + len(content) // 300):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            try:
                read = Tokenizer.load(path)
            except UserError:
                continue
            assert read.to_dict() == tokenizer.to_dict()
