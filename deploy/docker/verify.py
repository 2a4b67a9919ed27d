"""
Build the container image without an engine, and run it (``run_image.py``): root on a Debian system is enough.

Decides how the image is built here: by buildah with chroot isolation, on a Debian from debootstrap in the place of the
base that the Dockerfile names.  What pip and apt need to reach their servers from this machine is handed to the build,
and is no part of the image.  What the image must do is ``run_image``'s.

``--keep FOLDER`` keeps the base and the layers there, for the next time.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent

#: Programs that are needed, and the Debian packages that have them.
_PROGRAMS = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "dig": "bind9-dnsutils",
    "ip": "iproute2",
    "unshare": "util-linux",
}
#: What python:3.13-slim has.  The build stage installs its compiler itself, as it does there.
_BASE_PACKAGES = ("python3", "python3-venv", "python3-dev", "python-is-python3", "ca-certificates")
_BASE = "localhost/dotproxy-base"
_IMAGE = "localhost/dotproxy"

#: Options of pip's that say where packages come from, and how they are reached.
_PIP_OPTIONS = (
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host"),
    *("cert", "proxy", "timeout", "default-timeout", "retries"),
)
#: Where the build sees what it is handed.
_HANDED = "/run/build"


class NotTested(Exception):
    """
    The image cannot be built on this machine; the text says why.
    """


def main() -> int:
    """
    Build and run it; return the exit code: 0 also where it cannot be tested, which is said.
    """
    parser = argparse.ArgumentParser(description="Build the container image without an engine, and run it.")
    parser.add_argument("--keep", type=Path, help="keep the base and the layers in this folder")
    keep: Path | None = parser.parse_args().keep
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dotproxy-image-", dir="/var/tmp")) if keep is None else keep.resolve()
    try:
        _look_for_programs()
        _verify(folder)
    except NotTested as reason:
        print(f"THE CONTAINER IMAGE WAS NOT TESTED: {reason}")
    except subprocess.CalledProcessError as error:
        print(f"failed with exit code {error.returncode}: {' '.join(map(str, error.cmd))}\n{error.stderr or ''}")
        return 1
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _verify(folder: Path) -> None:
    store = Store(folder)
    if not store.has(_BASE):
        with _step("base"):
            _make_base(store, folder)
    with _step("build"):
        _build(store, folder)
    image = store.inspect(_IMAGE)["Docker"]["config"]
    print(json.dumps(image, indent=2, sort_keys=True))
    with _step("the same image in the OCI format"):
        _show_oci(store, folder)
    with _step("run"), store.mounted(_IMAGE) as root:
        described = folder / "image.json"
        described.write_text(json.dumps(image), "utf-8")
        # In a network of its own, in which there is nobody but this machine.
        _run("unshare", "--net", "--", sys.executable, HERE / "run_image.py", root, described)


class Store:
    """
    Images and containers of buildah's, in a folder of their own.
    """

    def __init__(self, folder: Path) -> None:
        self._options = ["--root", str(folder / "images"), "--runroot", str(folder / "run")]
        overlay = ["--storage-driver", "overlay"]
        works = _succeeds("buildah", *self._options, *overlay, "images")
        self._options += overlay if works else ["--storage-driver", "vfs"]

    def run(self, *arguments: object) -> None:
        """
        Run buildah, with its output shown.
        """
        _run("buildah", *self._options, *arguments)

    def output(self, *arguments: object) -> str:
        """
        Run buildah; return what it prints.
        """
        return _output("buildah", *self._options, *arguments)

    def has(self, image: str) -> bool:
        """
        Return whether there is such an image.
        """
        return _succeeds("buildah", *self._options, "inspect", "--type", "image", image)

    def inspect(self, image: str) -> dict[str, Any]:
        """
        Return all that buildah knows of an image.
        """
        found: dict[str, Any] = json.loads(self.output("inspect", "--type", "image", image))
        return found

    @contextmanager
    def mounted(self, image: str) -> Any:
        """
        Make a container from an image; give the folder in which its files are.
        """
        container = self.output("from", "--pull-never", image)
        try:
            yield Path(self.output("mount", container))
        finally:
            self.run("rm", container)


def _look_for_programs() -> None:
    """
    Install what is missing.

    :raises NotTested: if it cannot be, or if this machine does not let its root do what an engine does.
    """
    if os.geteuid() != 0:
        raise NotTested("it takes root")
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        if shutil.which("apt-get") is None:
            raise NotTested(f"no apt-get here, and these are missing: {' '.join(missing)}")
        print(f"installing {' '.join(missing)}", flush=True)
        apt = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq")
        _succeeds(*apt, "update")
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if not _succeeds(*apt, "install", "-y", "--no-install-recommends", *missing, environ=environ):
            raise NotTested(f"could not be installed: {' '.join(missing)}")
    if not _succeeds("unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "true"):
        raise NotTested("this machine's root may not make namespaces")


def _make_base(store: Store, folder: Path) -> None:
    """
    Make a Debian of this machine's release, with Python.

    :raises NotTested: if this is no Debian.
    """
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text("utf-8").splitlines() if "=" in line
    )
    if release.get("ID") != "debian":
        raise NotTested("this is no Debian")
    suite = release["VERSION_CODENAME"].strip('"')
    found = _output(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"
    ).splitlines()
    mirrors = [line.split()[0] for line in found if line.split()[1:] == [suite]]
    root = folder / "base"
    shutil.rmtree(root, ignore_errors=True)
    packages = ",".join(_BASE_PACKAGES)
    _run("debootstrap", "--variant=minbase", f"--include={packages}", suite, root, *mirrors[:1], out=subprocess.DEVNULL)
    proxies = [line for line in _output("apt-config", "dump").splitlines() if line.startswith("Acquire::http")]
    (root / "etc/apt/apt.conf.d/90machine").write_text("\n".join([*proxies, ""]), "utf-8")
    archive = folder / "base.tar"
    _run("tar", "-C", root, "-cf", archive, ".")
    container = store.output("from", "scratch")
    store.run("add", "--quiet", container, archive, "/")
    store.run("commit", "--quiet", "--rm", container, _BASE)
    archive.unlink()
    shutil.rmtree(root, ignore_errors=True)


def _build(store: Store, folder: Path) -> None:
    store.run(
        *("build", "--isolation", "chroot", "--pull-never", "--layers", "--format", "docker"),
        *("--build-arg", f"BASE={_BASE}"),
        *(f"--volume={volume}" for volume in _handed(folder / "handed")),
        *("--tag", _IMAGE, TOP),
    )


def _handed(folder: Path) -> list[str]:
    """
    Write down how pip reaches its index on this machine; return what has to be mounted, as buildah wants it.

    The base's own file of CAs stays as it is, since the build replaces it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    options = _pip_options()
    cert = options.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if cert and Path(cert).is_file():
        shutil.copyfile(cert, folder / "ca.pem")
        options["cert"] = f"{_HANDED}/ca.pem"
    lines = ["[global]", *(f"{name} = {value}" for name, value in sorted(options.items())), ""]
    (folder / "pip.conf").write_text("\n".join(lines), "utf-8")
    # Of a folder laid out as an index the packages are beside it.
    words = " ".join(options.get(name, "") for name in ("index-url", "extra-index-url", "find-links")).split()
    places = [Path(urlsplit(word).path) for word in words if urlsplit(word).scheme in ("", "file")]
    places = [place.parent if place.name == "simple" else place for place in places]
    local = {place for place in places if place.is_dir() and len(place.parts) > 1}
    return [
        f"{folder}:{_HANDED}:ro",
        f"{folder / 'pip.conf'}:/etc/pip.conf:ro",
        *(f"{place}:{place}:ro" for place in sorted(local)),
    ]


def _pip_options() -> dict[str, str]:
    """
    Return what pip's files say on this machine, and its variables, which win.
    """
    listed = _output(sys.executable, "-m", "pip", "config", "list").splitlines()
    pairs = [line.split("=", 1) for line in listed if "=" in line]
    in_order = sorted(pairs, key=lambda pair: pair[0].startswith(":env:"))
    options = {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, value in in_order}
    return {name: " ".join(value.split()) for name, value in options.items() if name in _PIP_OPTIONS}


def _show_oci(store: Store, folder: Path) -> None:
    """
    Convert the image, and show that what is lost is its HEALTHCHECK and nothing else.
    """
    layout = folder / "oci"
    shutil.rmtree(layout, ignore_errors=True)
    store.run("push", "--quiet", "--format", "oci", _IMAGE, f"oci:{layout}:latest")
    blob: Any = json.loads((layout / "index.json").read_text("utf-8"))["manifests"][0]
    for part in ("manifest", "config"):
        blob = json.loads((layout / "blobs" / blob["digest"].replace(":", "/", 1)).read_text("utf-8"))
        blob = blob["config"] if part == "manifest" else blob
    docker = store.inspect(_IMAGE)["Docker"]["config"]
    for key in ("User", "Env", "Entrypoint", "Cmd", "WorkingDir", "ExposedPorts"):
        if blob["config"][key] != docker[key]:
            raise SystemExit(f"{key} is {blob['config'][key]} in the OCI format, {docker[key]} in Docker's")
    print(f"HEALTHCHECK: {'kept' if 'Healthcheck' in blob['config'] else 'dropped'}; everything else is the same")
    shutil.rmtree(layout)


@contextmanager
def _step(what: str) -> Any:
    began = time.monotonic()
    print(f"--- {what}", flush=True)
    yield
    print(f"--- {what}: {time.monotonic() - began:.0f} s", flush=True)


def _run(*command: object, out: int | None = None) -> None:
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL, stdout=out)


def _output(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()


def _succeeds(*command: object, environ: Mapping[str, str] | None = None) -> bool:
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, stdin=subprocess.DEVNULL, capture_output=True, env=environ)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
