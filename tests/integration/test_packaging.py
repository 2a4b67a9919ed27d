"""
What is distributed: the source distribution has everything, and installs; the manual pages can be formatted.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.integration.programs import which

TOP = Path(__file__).parent.parent.parent

#: What somebody who has the source distribution and nothing else needs: to run it, to read, to report, to test.
NEEDED = {
    "CHANGELOG.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "PKG-INFO",
    "README.md",
    "SECURITY.md",
    "deploy/dotproxy.toml",
    "deploy/systemd/dotproxy.service",
    "deploy/systemd/dotproxy.socket",
    "docs/configuration.md",
    "docs/conformance.md",
    "docs/deploy.md",
    "docs/man/dotproxy.1",
    "docs/man/dotproxy.toml.5",
    "docs/metrics.md",
    "dotproxy/py.typed",
    "mypy.ini",
    "pyproject.toml",
    "tests/test_docs.py",
    "tests/integration/packages.txt",
    "twisted/plugins/dotproxy_plugin.py",
}


def python(*arguments: str | Path, **changes) -> str:
    """
    Run Python, without this checkout on its path; return what it prints.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DOTPROXY_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment | changes.pop("env", {}),
        **changes,
    )
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The source distribution of this checkout.
    """
    folder = tmp_path_factory.mktemp("sdist")
    python("-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=TOP)
    (path,) = folder.glob("*.tar.gz")
    return path


def contents(path: Path) -> set[str]:
    """
    The files in a source distribution, without its top folder.
    """
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def test_sdist_has_every_tracked_file(sdist):
    """
    Documents, units, manual pages and tests are in it, and whatever else is in version control.
    """
    found = contents(sdist)
    assert NEEDED - found == set()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, check=False)
    tracked = {name for name in listed.stdout.split("\0") if name and (TOP / name).is_file()}
    assert tracked - found == set()
    assert not [name for name in found if name.startswith((".venv", "dist/", "build/")) or "__pycache__" in name]


def test_wheel_has_exactly_the_package(tmp_path):
    """
    The package, twistd's plugin, two manual pages, its metadata; no test, no cache of twistd's, nothing compiled.
    """
    python("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=TOP)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        found = set(archive.namelist())
    sources = {str(one.relative_to(TOP)) for one in TOP.glob("dotproxy/**/*") if one.is_file()}
    sources = {name for name in sources if "__pycache__" not in name and not name.endswith(".so")}
    version = path.name.split("-")[1]
    info, data = (f"dotproxy-{version}.{kind}" for kind in ("dist-info", "data"))
    meta = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    pages = {f"{data}/data/share/man/{page}" for page in ("man1/dotproxy.1", "man5/dotproxy.toml.5")}
    assert found == sources | {"twisted/plugins/dotproxy_plugin.py"} | meta | pages


def test_sdist_installs_command_plugin_and_manual(sdist, tmp_path):
    """
    pip builds a wheel of it and installs that: the command, the plugin and the manual pages are where they belong.
    """
    prefix = tmp_path / "prefix"
    install = ("install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed")
    python("-m", "pip", *install, "--prefix", prefix, sdist, cwd=tmp_path)
    (packages,) = prefix.glob("lib/python*/site-packages")
    installed = {"env": {"PYTHONPATH": str(packages)}, "cwd": tmp_path}
    where = python("-c", "import dotproxy.tap; print(dotproxy.tap.__file__)", **installed)
    assert where.startswith(str(packages))
    assert python(prefix / "bin" / "dotproxy", "version", **installed).startswith("dotproxy ")
    assert "policy" in python(prefix / "bin" / "dotproxy", "check", **installed)
    assert " dotproxy " in python("-c", "from twisted.scripts.twistd import run; run()", "--help", **installed)
    for page in ("man1/dotproxy.1", "man5/dotproxy.toml.5"):
        assert (prefix / "share" / "man" / page).read_bytes() == (TOP / "docs" / "man" / Path(page).name).read_bytes()


@pytest.mark.parametrize("page", ["dotproxy.1", "dotproxy.toml.5"])
def test_manual_pages_pass_mandoc(page):
    """
    mandoc has nothing to say against a page, not even against its style, and formats it.
    """
    mandoc, path = which("mandoc"), str(TOP / "docs" / "man" / page)
    done = subprocess.run([mandoc, "-Tlint", "-Wstyle", path], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
    text = subprocess.run([mandoc, "-Tascii", path], capture_output=True, text=True, check=True).stdout
    assert "dotproxy" in text
