"""Your own data in each of the four layouts, up to tokens: what is kept, what is dropped and why."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from custom_data import CHINESE, FRENCH, LAYOUTS, kaldi, pairs, table, utterances, write_audio
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from local.custom_data import layouts
from local.custom_data.entries import LAYOUT_NAMES
from local.custom_data.layouts import read_data, recognize_layout
from residualformer.config.loading import load_config
from residualformer.config.schema import FeatureConfig
from residualformer.data.audio import read_audio
from residualformer.data.fbank import compute_fbank
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.workflow.inputs import content

SPLITS = ("train", "dev", "test")


def test_the_names_that_the_options_offer_are_those_of_the_layouts():
    assert tuple(layouts.LAYOUTS) == LAYOUT_NAMES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognized_and_read_the_same(layout, tmp_path, run):
    said = utterances()
    printed = run(LAYOUTS[layout](tmp_path / "data", said))
    assert f"layout {layout}" in printed and "12 utterances; no splits given" in printed
    found = [cut.supervisions[0] for cut in run.all()]
    expected = Counter((one.speaker, one.text, one.translation) for one in said)
    assert Counter((each.speaker, each.text, each.custom["translation"]) for each in found) == expected
    speakers = {name: {cut.supervisions[0].speaker for cut in cuts} for name, cuts in run.cuts.items()}
    assert all(speakers.values()) and sum(map(len, speakers.values())) == 6  # none in two splits
    assert len(speakers["train"]) == 4 and "held out by speaker" in printed
    assert run.dropped == {} and "dropped 0 of 12 utterances" in printed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_that_are_given_stay(layout, tmp_path, run):
    said = utterances()
    for split, part in {"train": said[:8], "valid": said[8:10], "test": said[10:]}.items():
        LAYOUTS[layout](tmp_path / "data", part, split)
    printed = run(tmp_path / "data")
    texts = {name: [cut.supervisions[0].text for cut in cuts] for name, cuts in run.cuts.items()}
    assert {name: len(each) for name, each in texts.items()} == {"train": 8, "dev": 2, "test": 2}
    assert sorted(texts["dev"]) == sorted(one.text for one in said[8:10])
    assert "train 8, dev 2, test 2" in printed and "held out" not in printed


def test_a_missing_dev_is_held_out_of_train(tmp_path, run):
    said = utterances()
    for split, part in {"train": said[:10], "test": said[10:]}.items():
        pairs(tmp_path / "data", part, split)
    assert "note: dev held out by speaker" in run(tmp_path / "data")
    assert {name: len(cuts) for name, cuts in run.cuts.items()} == {"train": 8, "dev": 2, "test": 2}


def test_the_same_at_every_call_and_in_every_order(tmp_path, run):
    said = utterances()
    run(table(tmp_path / "a", said))
    first = {name: {cut.supervisions[0].speaker for cut in cuts} for name, cuts in run.cuts.items()}
    run(table(tmp_path / "b", said[::-1]))
    assert first == {name: {cut.supervisions[0].speaker for cut in cuts} for name, cuts in run.cuts.items()}


def test_too_few_speakers_are_told(tmp_path, run):
    printed = run(kaldi(tmp_path / "data", utterances(speakers=2, each=10)))
    assert "held out by recording, not by speaker (only 2 speakers named)" in printed
    assert {name: len(cuts) for name, cuts in run.cuts.items()} == {"train": 16, "dev": 2, "test": 2}
    with pytest.raises(UserError, match="3 utterances are too few to hold out dev and test: give ten"):
        run(kaldi(tmp_path / "few", utterances(speakers=1, each=3)))


def test_segments_of_long_recordings(tmp_path, run):
    folder = tmp_path / "data"
    for number in range(10):
        write_audio(folder / f"long{number}.wav", str(number), seconds=3.0)
    names = [f"long{number}-{part}" for number in range(10) for part in (0, 1)]
    (folder / "wav.scp").write_text("".join(f"long{n} {folder}/long{n}.wav\n" for n in range(10)))
    (folder / "text").write_text("".join(f"{name} bonjour\n" for name in [*names, "late", "none"]))
    times = {"0": "0.25 1.00", "1": "1.00 3.20"}  # the second ends 0.2 s too late, as Kaldi lets it
    segments = [f"{name} {name[:-2]} {times[name[-1]]}\n" for name in names]
    (folder / "segments").write_text("".join([*segments, "late long0 2.0 4.0\n"]))
    assert "held out by recording, not by speaker (no speakers are named)" in run(folder)
    cuts = {cut.id: cut for cut in run.all()}
    assert set(cuts) == set(names)
    assert {(cut.start, cut.duration) for cut in cuts.values()} == {(0.25, 0.75), (1.0, 2.0)}
    whole = read_audio(folder / "long7.wav", 16000)
    np.testing.assert_array_equal(cuts["long7-0"].load_audio()[0], whole[4000:16000])
    recordings = {name: {cut.id[:-2] for cut in cuts} for name, cuts in run.cuts.items()}
    assert not recordings["train"] & (recordings["dev"] | recordings["test"])
    assert run.dropped["late"][1] == "it goes from 2 to 4 s, but its recording is 3 s long"
    assert run.dropped["none"][0] == "missing audio"


def test_what_is_dropped_is_counted_and_named(tmp_path, run):
    folder = table(tmp_path / "data", utterances())
    write_audio(folder / "clips/short.wav", "short", seconds=0.1)
    write_audio(folder / "clips/long.wav", "long", seconds=4.0)
    write_audio(folder / "clips/fast.wav", "fast")
    write_audio(folder / "clips/silent.wav", "silent")
    (folder / "clips/noise.wav").write_bytes(b"no audio" * 100)
    (folder / "clips/copy.flac").write_bytes((folder / "clips/s0-u0.flac").read_bytes())
    rows = dict.fromkeys(("gone.wav", "short.wav", "long.wav", "noise.wav", "copy.flac", "s1-u0.flac"), "ici")
    rows |= {"silent.wav": " \t ", "fast.wav": "a" * 41}
    with (folder / "all.tsv").open("a", encoding="utf-8") as file:
        file.writelines(f"x\t{path}\t{text.strip()}\t\t\n" for path, text in rows.items())
    printed = run(folder, "--max-seconds", 3)
    assert {name: reason for name, (reason, _) in run.dropped.items()} == {
        "gone": "missing audio",
        "short": "too short",
        "long": "too long",
        "fast": "more text than can be said",
        "silent": "empty text",
        "noise": "unreadable audio",
        "copy": "duplicate",
        "s1-u0": "duplicate",
    }
    assert run.dropped["copy"][1] == "the same audio as s0-u0"
    assert "dropped 8 of 20 utterances: 2 duplicate, 1 " in printed and len(run.all()) == 12


def test_audio_without_text_and_text_without_audio(tmp_path, run):
    folder = pairs(tmp_path / "data", utterances())
    write_audio(folder / "s0/alone.wav", "alone")
    (folder / "s1/lost.txt").write_text("perdu")
    run(folder)
    assert {name: reason for name, (reason, _) in run.dropped.items()} == {
        "s0/alone": "no transcript",
        "s1/lost": "missing audio",
    }


def test_text_is_kept_as_it_is_but_on_request(tmp_path, run):
    said = utterances(text=("Où  e\u0301tait-il ?", "L’été !"))
    folder = kaldi(tmp_path / "data", said)
    run(folder)
    assert {cut.supervisions[0].text for cut in run.all()} == {"Où était-il ?", "L’été !"}
    run(folder, "--case", "upper", "--punctuation", "remove")
    assert {cut.supervisions[0].text for cut in run.all()} == {"OÙ ÉTAIT IL", "L'ÉTÉ"}


def test_translations(tmp_path, run):
    folder = table(tmp_path / "data", utterances())
    write_audio(folder / "clips/more.wav", "more")
    with (folder / "all.tsv").open("a", encoding="utf-8") as file:
        file.write("s9\tmore.wav\tencore\t\t\n")
    run(folder, "--target", "translation")
    assert run.dropped == {"more": ["no translation", ""]}
    letters = set("".join(CHINESE[i] for i in range(4)))
    assert run.chosen["tokens"] == {"kind": "char", "vocab_size": len(letters) + 3, "target": "translation"}


def test_what_is_not_run_or_read_is_refused(tmp_path, run):
    folder = kaldi(tmp_path / "data", utterances())
    scp = (folder / "wav.scp").read_text()
    for value, words in (("sph2pipe -f wav a.sph |", "is made by a command"), ("raw.ark:123", "lies in an archive")):
        (folder / "wav.scp").write_text(f"{scp}s9 {value}\n")
        with pytest.raises(UserError, match=f"wav.scp: 's9' {words} .*, which is not .* list the"):
            run(folder)


def test_audio_may_be_named_without_wav_scp(tmp_path, run):
    folder = kaldi(tmp_path / "data", utterances())
    (folder / "wav.scp").unlink()
    run(folder)
    assert len(run.all()) == 12 and run.dropped == {}


def test_two_files_of_the_name_in_text_are_told(tmp_path, run):
    folder = kaldi(tmp_path / "data", utterances())
    (folder / "wav.scp").unlink()
    (folder / "text").write_text("a hello\n")
    for part in ("one", "two"):
        (folder / part).mkdir()
        (folder / part / "a.wav").write_bytes(b"")
    with pytest.raises(UserError, match="'a' may be .*one/a.wav or .*two/a.wav: write paths"):
        run(folder)


def test_layouts_can_be_forced_and_wrong_ones_are_named(tmp_path, run):
    folder = pairs(table(tmp_path / "data", utterances()), utterances(speakers=10))
    assert "layout table (it could also be read as pairs: --layout), 12 utterances" in run(folder)
    assert "layout pairs, 20 utterances" in run(folder, "--layout", "pairs")
    with pytest.raises(UserError, match="does not have the layout 'kaldi'. Allowed are: kaldi .a folder"):
        run(folder, "--layout", "kaldi")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has none of the known layouts.*NAME.wav beside NAME.txt"):
        recognize_layout(tmp_path / "empty")
    with pytest.raises(UserError, match="nowhere does not exist"):
        recognize_layout(tmp_path / "nowhere")
    with pytest.raises(UserError, match="allowed: auto, cuts, kaldi, table, pairs. Did you mean 'pairs'"):
        read_data(folder, "pair")


def test_tables_as_others_write_them(tmp_path):
    write_audio(tmp_path / "a.wav", "a", seconds=3)
    (tmp_path / "one.csv").write_text('\ufefffile_name;transcription;start;end\na.wav;"x; y";0.5;2\na.wav;z;2;?\n')
    data = read_data(tmp_path / "one.csv", "table")
    ((entry,), (dropped,)) = data.entries, data.dropped
    utterance = entry.utterance
    assert (utterance.id, utterance.text, utterance.start, utterance.duration) == ("a-0.5", "x; y", 0.5, 1.5)
    assert (dropped.reason, dropped.detail) == (
        "row that cannot be read",
        f"{tmp_path / 'one.csv'}, row 3: start, duration and end must be seconds",
    )
    (tmp_path / "two.csv").write_text("path,text\na.wav,x\n")
    with pytest.raises(UserError, match="several tables .one.csv, two.csv., none named train"):
        read_data(tmp_path, "table")


def test_a_text_does_not_end_within_its_line(tmp_path, run):
    """Unicode has more line ends than text files; a delimiter within an unquoted text is a fault to be told."""
    folder = kaldi(tmp_path / "kaldi", utterances(text=("oui\u2028ou\x85non",)))
    run(folder)
    assert {cut.supervisions[0].text for cut in run.all()} == {"oui ou non"} and not run.dropped
    (tmp_path / "a.csv").write_text('path,text\na.wav,oui, ou non\nb.wav,"oui, ou non"\nc.wav,oui,\n')
    data = read_data(tmp_path / "a.csv", "table")
    assert [entry.utterance.text for entry in data.entries] == ["oui, ou non", "oui"]
    ((name, reason, detail),) = [(each.id, each.reason, each.detail) for each in data.dropped]
    assert (name, reason) == ("a", "row that cannot be read")
    assert detail.endswith("row 2: it has more cells than there are columns")


@pytest.mark.parametrize("row", ['b.wav,"is it\nc.wav,"no"\n', 'b.wav,yes\nc.wav,"is it\n', 'b.wav,"oh" no\n'])
def test_a_quotation_mark_does_not_swallow_rows(row, tmp_path):
    (tmp_path / "a.csv").write_text(f'path,text\na.wav,"two\nlines, one ""cell"""\n{row}')
    line = 5 if "yes" in row else 4
    with pytest.raises(UserError, match=rf"a\.csv, line {line}: a cell that begins with a quotation mark must end"):
        read_data(tmp_path / "a.csv", "table")
    (tmp_path / "b.csv").write_text('"note,\n' + "not a table")  # beside it: passed over
    (tmp_path / "a.csv").write_text('path,text\na.wav,"two\nlines, one ""cell"""\n')
    assert [entry.utterance.text for entry in read_data(tmp_path, "table").entries] == ['two\nlines, one "cell"']


def test_hidden_files_and_folders_are_none(tmp_path, run):
    """Such as those that a Mac leaves in archives and on foreign disks, and .git."""
    folder = pairs(tmp_path / "data", utterances())
    pairs(tmp_path / "data", utterances(speakers=1, each=1), split=".Trashes")
    write_audio(folder / "s0" / "._s0-u0.wav", "junk")
    run(folder)
    assert len(run.all()) == 12 and not run.dropped


def test_folders_behind_links_are_read(tmp_path, run):
    folder = pairs(tmp_path / "data", utterances())
    (folder / "s0").rename(tmp_path / "elsewhere")
    (folder / "s0").symlink_to(tmp_path / "elsewhere")
    run(folder)
    assert len(run.all()) == 12 and {cut.supervisions[0].speaker for cut in run.all()} == {f"s{i}" for i in range(6)}


def test_cuts_with_several_supervisions_become_utterances(tmp_path, run):
    path = write_audio(tmp_path / "data/long.wav", "long", seconds=24.0)
    texts = [FRENCH[i % 4] for i in range(12)]
    supervisions = [SupervisionSegment(f"u{i}", "long", 2.0 * i, 1.5, text=text) for i, text in enumerate(texts)]
    cut = MonoCut("long", 0.0, 24.0, 0, supervisions, recording=Recording.from_file(path, recording_id="long"))
    CutSet.from_cuts([cut]).to_file(tmp_path / "data/all.jsonl.gz")
    assert "held out by utterance, not by speaker" in run(tmp_path / "data")
    found = {cut.id: (cut.start, cut.duration, cut.supervisions[0].text) for cut in run.all()}
    assert found == {f"u{i}": (2.0 * i, 1.5, text) for i, text in enumerate(texts)}


@pytest.mark.parametrize(("layout", "text"), [("pairs", FRENCH), ("kaldi", CHINESE)])
def test_features_and_tokens_of_the_chosen_values(layout, text, tmp_path, run, root):
    from steps import compute_fbank as stage_2
    from steps import train_tokenizer as stage_3

    folder = LAYOUTS[layout](tmp_path / "data", utterances(text=text))
    run(folder)
    manifests, fbank = run.folder / "manifests", run.folder / "fbank"
    values = ["--config", root / "conf/custom/baseline.yaml", "--set", f"@{manifests / 'chosen.yaml'}"]
    common = ["--manifests", manifests, *values]
    run.call(stage_3, *common, "--out", run.folder / "lang")
    tokenizer = Tokenizer.load(run.folder / "lang/tokenizer.json")
    train = [cut.supervisions[0].text for cut in run.cuts["train"]]
    assert tokenizer.kind == "char" and all(tokenizer.decode(tokenizer.encode(line)) == line for line in train)
    assert tokenizer.vocab_size in (run.chosen["tokens"]["vocab_size"], run.chosen["tokens"]["vocab_size"] - 1)
    run.call(stage_2, *common, "--out", fbank, "--jobs", 1, "--set", "data.speeds=[1.0]")
    (test, *_) = CutSet.from_file(fbank / "cuts_test.jsonl.gz")
    audio = read_audio(test.recording.sources[0].source, 16000)  # as a file is transcribed
    assert test.recording.sampling_rate in (8000, 44100)
    np.testing.assert_array_equal(test.load_features(), compute_fbank(audio, FeatureConfig()))


def test_new_data_are_noticed(tmp_path):
    folder = pairs(tmp_path / "data", utterances(speakers=1))
    states = {content(folder)}
    (folder / "s0/s0-u0.txt").write_text("autre")
    states.add(content(folder))
    write_audio(folder / "s0/new.wav", "new")
    states.add(content(folder))
    assert len(states) == 3 and content(folder) in states
    (folder / "s0/.DS_Store").write_text("not data")
    assert content(folder) in states


def test_the_configuration_is_that_of_the_experiment_with_the_chosen_values(tmp_path, run, root):
    run(pairs(tmp_path / "data", utterances()))
    chosen = f"@{run.folder / 'manifests/chosen.yaml'}"
    config = load_config(root / "conf/custom/residual.yaml", [chosen, "encoder.dim=96"])
    assert (config.encoder.num_layers, config.encoder.dim, config.encoder.ffn_dim) == (12, 96, 768)
    assert (config.encoder.sharing, config.encoder.residual.rank) == (3, 16)
