"""
Write the lock files of the container image: python deploy/docker/lock.py (`make lock`).

Decides what is locked: what dotproxy needs to run (``requirements.lock``), and that together with what builds its wheel
with mypyc (``build-requirements.lock``), each with every version and the hashes of all files of it, for any platform.
Ranges come from pyproject.toml.  Versions that are locked stay as long as they are in range; ``--upgrade`` takes the
newest.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent / "pyproject.toml"

RUNTIME = HERE / "requirements.lock"
BUILD = HERE / "build-requirements.lock"

_HEAD = "# Made by `make lock` from pyproject.toml; installed by the Dockerfile with --require-hashes.\n"

#: The oldest Python that pyproject.toml allows; markers in the lock are for all from there on.
_PYTHON = "3.11"


def runtime_requirements() -> list[str]:
    """
    Return what dotproxy needs to run, as pyproject.toml has it.
    """
    project: list[str] = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["dependencies"]
    return project


def build_requirements() -> list[str]:
    """
    Return what the compiled wheel is built with; the compiler sees what dotproxy imports, so that is part of it.
    """
    whole = tomllib.loads(PROJECT.read_text("utf-8"))
    hook = whole["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    return [*whole["build-system"]["requires"], *hook["dependencies"], *runtime_requirements()]


def lock(requirements: list[str], path: Path, options: list[str]) -> None:
    """
    Resolve requirements and write all that follows from them.
    """
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-config", "--no-header"),
        *("--universal", "--python-version", _PYTHON, "--generate-hashes", "--output-file", str(path), *options),
    ]
    subprocess.run(command, input="\n".join(requirements), text=True, check=True)
    path.write_text(_HEAD + path.read_text("utf-8").removeprefix(_HEAD), "utf-8")


def main(options: list[str]) -> int:
    """
    Write both; what is in both has the same version.
    """
    lock(runtime_requirements(), RUNTIME, options)
    lock(build_requirements(), BUILD, [*options, "--constraints", str(RUNTIME)])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
