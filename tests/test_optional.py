"""Optional packages: found, missing, broken or too old, each with one sentence."""

import re
import sys
import tomllib

import pytest

from residualformer.errors import UserError, run_main
from residualformer.optional import EXTRAS, OPTIONAL, describe, extras_needed, is_installed, optional


@pytest.fixture
def fake_kaldifeat(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kaldifeat", raising=False)
    yield tmp_path / "kaldifeat.py"
    sys.modules.pop("kaldifeat", None)


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_a_missing_package_is_answered_with_its_install_command(name):
    if is_installed(name):
        pytest.skip(f"{name} is installed")
    command = rf"pip install ({name}|'\.\[[a-z]+\]' in the repository)"
    with pytest.raises(UserError, match=f"^{name} .* not installed; to get it: .*{command}"):
        optional(name)
    assert "is not installed" in describe([name])


def test_packages_of_an_extra_are_installed_by_it(root):
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, row in OPTIONAL.items():
        requirement = f"{row.distribution or name.replace('_', '-')}>={row.min_version}"
        holding = [extra for extra, packages in extras.items() if requirement in packages]
        told = re.findall(r"'\.\[(.+)\]'", row.install)
        assert told == holding, name


def test_a_found_package_is_returned(fake_kaldifeat):
    fake_kaldifeat.write_text("__version__ = '1.25.5.dev20250630+cuda'\n")
    assert optional("kaldifeat").__version__.startswith("1.25.5")
    assert describe(["kaldifeat"]) == "  kaldifeat 1.25.5.dev20250630+cuda: filterbank features on a GPU"


def test_a_package_that_is_too_old_is_named_with_both_versions(fake_kaldifeat):
    fake_kaldifeat.write_text("__version__ = '1.9'\n")
    with pytest.raises(UserError, match="kaldifeat 1.9 is too old, 1.25 or later"):
        optional("kaldifeat")


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
def test_a_package_that_does_not_import_says_why(fake_kaldifeat, error):
    fake_kaldifeat.write_text(f"raise {error}('libtorch.so has no such symbol')\n")
    with pytest.raises(UserError, match="installed but does not import .libtorch.so has no such symbol"):
        optional("kaldifeat")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="'kaldifeet'; known: .* Did you mean 'kaldifeat'"):
        optional("kaldifeet")


def test_a_package_of_an_extra_that_is_missing_is_answered_with_its_install_command(capsys):
    @extras_needed()
    def fail():
        raise ModuleNotFoundError(name="torch.nn")

    with pytest.raises(SystemExit) as ended:
        run_main(fail)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and len(printed.splitlines()) == 1
    assert "error: torch is not installed; to get it: pip install '.[train]' in the repository" in printed


def test_a_missing_module_that_is_part_of_no_extra_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError), extras_needed():
        raise ModuleNotFoundError(name="residualformer.no_such_module")


def test_every_package_of_an_extra_is_declared(root):
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        declared = {re.split(r"[^\w.-]", each)[0].replace("-", "_") for each in extras[extra]} - {"urllib3"}
        assert set(packages) == declared
