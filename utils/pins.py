"""Check that this interpreter has the direct dependencies of pyproject.toml in the versions of constraints.txt.

Exit status 0 if so, else 1, naming what differs. `pins.py PACKAGE` prints the pin of one package instead. Only the
standard library is used: nothing else may be installed yet.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("train", "synthesis", "grammar", "dev")  # what utils/environment.sh installs


def read_pins() -> dict[str, str]:
    """Return {package: version} of constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def direct_dependencies() -> list[str]:
    """Return the normalized names of the packages that pyproject.toml asks for, those of EXTRAS included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(each for name in EXTRAS for each in extras[name])]
    return [re.split(r"[^A-Za-z0-9._-]", each)[0].lower().replace("_", "-") for each in requirements]


def installed_version(package: str) -> str:
    """Return the version of an installed package, or `nothing`."""
    try:
        return version(package).split("+")[0]  # 2.13.0+cpu is 2.13.0, built for the CPU
    except PackageNotFoundError:
        return "nothing"


def main() -> None:
    pins = read_pins()
    if len(sys.argv) > 1:
        print(f"{sys.argv[1]}=={pins[sys.argv[1]]}" if sys.argv[1] in pins else __doc__)
        return
    found = {name: installed_version(name) for name in direct_dependencies()}
    wrong = [f"{name} {held} (not {pins[name]})" for name, held in found.items() if held != pins[name]]
    if wrong:
        sys.exit("found " + ", ".join(wrong))


if __name__ == "__main__":
    main()
