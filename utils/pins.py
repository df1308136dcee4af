"""Does this interpreter have the packages that pyproject.toml pins? Status 0 if so; else 1, and names what is amiss.

`pins.py PACKAGE` prints the pin of one package instead. Only the standard library is used: nothing else may be there.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def pins() -> dict[str, str]:
    """{package: version} of all dependencies, the tests' included."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["test"]
    return dict(line.split("==") for line in lines)


def installed(package: str) -> str:
    try:
        return version(package).split("+")[0]  # 2.13.0+cpu is 2.13.0, built for the CPU
    except PackageNotFoundError:
        return "nothing"


def main() -> None:
    wanted = pins()
    if len(sys.argv) > 1:
        print(f"{sys.argv[1]}=={wanted[sys.argv[1]]}")
        return
    amiss = [f"{name} {installed(name)} (not {pin})" for name, pin in wanted.items() if installed(name) != pin]
    if amiss:
        sys.exit("found " + ", ".join(amiss))


if __name__ == "__main__":
    main()
