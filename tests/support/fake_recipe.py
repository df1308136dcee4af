"""The stage script on a made-up corpus whose steps only leave a trace."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from support.programs import run_program

from residualformer.workflow.options import CALLED_FROM

CONFS = {
    "base": "encoder: {num_layers: 4}",
    "baseline": "base: base.yaml",
    "shared": "base: base.yaml\nencoder: {sharing: 2}",
    "residual": "base: shared.yaml\nwarm_start: shared\nencoder: {residual: {rank: 4}}",
}

# Each step notes its command in calls.txt, fails when its name is in fail.txt, and makes what the real one makes.
STEP = """
import sys
from pathlib import Path
name, args = Path(sys.argv[0]).name, sys.argv[1:]
if args[:1] == ["options"]:
    from residualformer.errors import run_main
    from residualformer.workflow.corpus import run_program
    from residualformer.workflow.options import caller_path, nonempty, real_number
    def options(parser):
        parser.add_argument("--corpus-dir", type=caller_path, help="an existing copy")
        parser.add_argument("--part", type=nonempty, help="which part")
        parser.add_argument("--hours", type=real_number, default=1.5, help="hours of speech")
    run_main(lambda: run_program("A made-up corpus.", None, None, options, ["corpus_dir", "part"]))
    sys.exit()
with open("calls.txt", "a") as calls:
    print(name, *args, file=calls)
fails = Path("fail.txt").exists() and Path("fail.txt").read_text().strip() in " ".join([name, *args])
option = lambda key: Path(args[args.index(key) + 1])
made = {
    "fake.py": lambda: option("--out") / ("x" if args[0] == "obtain" else "cuts_test.jsonl.gz"),
    "compute_fbank.py": lambda: option("--out") / "cuts_test.jsonl.gz",
    "train_tokenizer.py": lambda: option("--out") / "tokenizer.json",
    "train.py": lambda: option("--exp") / "model.safetensors",
    "decode.py": lambda: Path(args[0]) / "decode_test_beam16" / "hyp.jsonl",
    "export.py": lambda: Path(args[0]) / "export" / "model.json",
}[name]()
if fails and not Path("late.txt").exists():
    sys.exit(2)
made.parent.mkdir(parents=True, exist_ok=True)
if fails:
    sys.exit(2)
made.write_text("made")
"""


class Recipe:
    """A copy of the repository's stage script with a fake corpus."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        for name in ("run.sh", "path.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(root / name, folder)
        for name in ("utils", "residualformer"):
            (folder / name).symlink_to(root / name)
        self.write("local/fake.py", STEP)
        for step in ("compute_fbank", "train_tokenizer", "train", "decode", "export"):
            self.write(f"steps/{step}.py", STEP)
        self.write("local/score.sh", 'echo "score.sh $*" >> calls.txt\n')
        for name, text in CONFS.items():
            self.write(f"conf/fake/{name}.yaml", text)

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def run(self, *options: str, status: int = 0) -> subprocess.CompletedProcess:
        """Run the stages as run.sh does that is called from /, without the shell; `calls` is what ran."""
        self.write("calls.txt", "")
        environment = {"PYTHONPATH": str(self.folder), CALLED_FROM: "/"}
        command = ["utils/stages.py", "--corpus", "fake", *options]
        done = run_program(*command, cwd=self.folder, environment=environment)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def run_script(self, *options: str, status: int = 0) -> subprocess.CompletedProcess:
        """Call run.sh from another folder; `calls` is what ran."""
        self.write("calls.txt", "")
        command = [str(self.folder / "run.sh"), "--corpus", "fake", "--python", sys.executable, *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    @property
    def calls(self) -> list[str]:
        """The names of the scripts that ran; of trainings and decodings, of the run folder."""
        lines = [line.split() for line in (self.folder / "calls.txt").read_text().splitlines()]
        return [Path(next((word for word in line if "/exp/" in word), line[0])).name for line in lines]


DATA = ["fake.py", "fake.py", "compute_fbank.py", "train_tokenizer.py"]
RUNS = ["baseline", "shared", "residual"]
