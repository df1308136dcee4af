"""The rules of the house that a program can check: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("residualformer", "steps", "local", "utils", "tests", "benchmarks", "egs")
PYTHON = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "exp" not in path.parts)
SHELL = [path for path in sorted(ROOT.rglob("*.sh")) if not {".venv", "exp", "data"} & set(path.parts)]
# May be missing; decided where they are used, not at import.
OPTIONAL = {"k2", "torchaudio", "kaldifeat", "fast_rnnt", "sherpa_onnx"}
MAX_FILE, MAX_FUNCTION, MAX_WIDTH = 350, 60, 120


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def under(folder: str) -> list[Path]:
    return [path for path in PYTHON if path.relative_to(ROOT).parts[0] == folder]


@dataclass
class Facts:
    """What there is in a file of Python."""

    docstring: str | None
    imports: set[str]  # top-level names of the modules imported anywhere in it, lazily too
    at_import: set[str]  # of those that it imports while it is imported
    from_package: set[str]  # modules of this package that it imports anywhere
    names: set[str]  # dotted names of modules, attributes and true options that it mentions
    functions: list[tuple[str, int]]  # their names and how many lines they have


@cache
def facts(path: Path) -> Facts:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return Facts(
        docstring=ast.get_docstring(tree),
        imports=set(imports(nodes)),
        at_import=set(imports(tree.body)),
        from_package=imported_modules(nodes) - {module_name(path)},
        names=names_used(nodes),
        functions=[(node.name, node.end_lineno - node.lineno + 1) for node in functions],
    )


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Top-level names of the modules that the nodes of a syntax tree import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def imported_modules(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules of the package that the nodes of a syntax tree import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in MODULES else node.module for each in names}
    return {each for each in found if each in MODULES}


def names_used(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the dotted names of modules, attributes and true options that the nodes of a syntax tree mention."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and node.value.value is True:
            found.add(f"{node.arg}=True")
    return found


@pytest.mark.parametrize("path", under("residualformer"), ids=name)
def test_the_library_knows_no_corpus_and_no_step(path):
    scripts = {script.stem for folder in ("steps", "local", "utils") for script in under(folder)}
    assert not facts(path).imports & (scripts | {"steps", "local", "utils", "egs", "tests", "benchmarks"})


@pytest.mark.parametrize("path", under("steps") + under("utils"), ids=name)
def test_steps_talk_through_files_only(path):
    scripts = {script.stem for folder in ("steps", "local", "utils") for script in under(folder)}
    assert not facts(path).imports & (scripts | {"steps", "local", "utils", "egs", "tests"})


@pytest.mark.parametrize("path", under("local"), ids=name)
def test_corpora_do_not_import_steps(path):
    assert not facts(path).imports & ({script.stem for script in under("steps")} | {"steps", "egs", "tests"})


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_optional_packages_are_not_needed_at_import(path):
    assert not facts(path).at_import & OPTIONAL


PACKAGE = under("residualformer")
# From the ground up: a room imports only from those before it (docs/architecture.md). The first are single files,
# which may import each other.
ROOMS = (
    [
        "constants",
        "errors",
        "files",
        "hypothesis",
        "journal",
        "optional",
        "parallel",
        "lock",
        "onnx_session",
        "padding",
        "provenance",
        "records",
        "tensor_files",
    ],
    ["words"],
    ["config"],
    ["kernels"],
    ["nn"],
    ["loss"],
    ["data"],
    ["model"],
    ["metrics"],
    ["context"],
    ["lm"],
    ["decode"],
    ["compress"],
    ["train"],
    ["runtime"],
    ["export"],
    ["report"],
    ["workflow"],
    ["library"],
    ["label"],
    ["demo"],
    ["cli"],
    ["__main__"],
)
LEVEL: dict[str | None, int] = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
LEVEL[None] = len(ROOMS)  # the package itself


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package, a folder's `__init__.py` by the folder's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PACKAGE}


def room(module: str) -> str | None:
    """Return the room of a module: the folder or the single file below the package; None of the package itself."""
    return module.split(".")[1] if "." in module else None


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_rooms_import_downwards_only(path):
    own = room(module_name(path))
    assert own is None or own in LEVEL, f"give the room '{own}' its place in ROOMS"
    others = {each for each in facts(path).from_package if room(each) not in (None, own)}
    above = {each for each in others if LEVEL[room(each)] > LEVEL[own]}
    beside = {each for each in others if LEVEL[room(each)] == LEVEL[own]}
    assert not above
    assert LEVEL[own] == 0 if beside else True


def test_no_file_imports_itself_through_others():
    """Files, `__init__.py` of folders aside, which import the files that they re-export."""
    graph = {module: facts(path).from_package for module, path in MODULES.items() if path.name != "__init__.py"}
    try:
        tuple(TopologicalSorter({m: {i for i in needed if i in graph} for m, needed in graph.items()}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", ["residualformer.config.loading", "residualformer.cli"])
def test_a_configuration_needs_no_torch(module):
    """So that wrong options are refused at once."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}).returncode == 0


CORPORA = sorted(path.name for path in (ROOT / "local").glob("*.py"))
QUICK = [
    *([f"local/{corpus}", "options", *words] for corpus in CORPORA for words in (["--"], ["--help"])),
    ["utils/stages.py", "--help"],
    ["utils/stages.py", "--stage", "5", "--stop-stage", "4"],  # refused, after all that checks options is imported
    ["utils/sweep.py", "--help"],
]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_options_are_read_without_torch_and_lhotse(words):
    """Each call of run.sh asks a corpus what its options mean, and importing these two takes seconds."""
    code = """if True:
        import runpy, sys
        sys.argv = sys.argv[1:]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            print(*sorted({"torch", "lhotse"} & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "", done.stderr


@pytest.mark.parametrize("path", PYTHON + SHELL, ids=name)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", PYTHON + SHELL, ids=name)
def test_lines_are_not_wide(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    wide = [f"line {number}: {len(line)}" for number, line in enumerate(lines, 1) if len(line) > MAX_WIDTH]
    assert not wide, f"wider than {MAX_WIDTH}"


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_functions_fit_a_screen(path):
    long = {name: lines for name, lines in facts(path).functions if lines > MAX_FUNCTION}
    assert not long, f"longer than {MAX_FUNCTION} lines"


@pytest.mark.parametrize("path", under("steps") + under("local") + under("utils"), ids=name)
def test_scripts_say_what_they_do(path):
    assert facts(path).docstring


UNPICKLING = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
    *("torch.load", "torch.save", "torch.jit.load", "allow_pickle=True", "yaml.unsafe_load", "yaml.full_load"),
}


@pytest.mark.parametrize("path", [path for path in PYTHON if path not in under("tests")], ids=name)
def test_nothing_that_is_read_may_hold_code(path):
    assert not facts(path).names & UNPICKLING


@pytest.mark.parametrize("path", under("tests"), ids=name)
def test_tests_share_helpers_not_tests(path):
    """Helpers are in tests/support and in the conftest files; a test file may run itself in another process."""
    assert not [module for module in facts(path).imports if module.startswith("test_")]
