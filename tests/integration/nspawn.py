"""
Debian with a booted systemd, in a container of systemd-nspawn: what a unit file does there, it does on a machine.

Decides how the tree is made (debootstrap, once for each set of packages, kept under ``build/nspawn``), booted and ended.
The container writes to an overlay in memory and has a network of its own, with a loopback device and nothing else.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.programs import find, wait_until

TOP = Path(__file__).parent.parent.parent

#: What every tree has.
BASE = ("systemd", "systemd-sysv", "dbus", "iproute2", "python3", "python3-venv")

_SUITE = "bookworm"
_BOOT = 90.0


def require_nspawn() -> None:
    """
    Skip the test where containers cannot be made.
    """
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn and debootstrap need root")
    for program in ("systemd-nspawn", "debootstrap", "nsenter"):
        if find(program) is None:
            pytest.skip(f"{program} is not installed (tests/integration/packages.txt lists its package)")


def debian(*packages: str) -> Path:
    """
    Return the tree of a Debian with ``BASE`` and ``packages``; the first time that takes a minute.

    ``DEBIAN_MIRROR`` is where packages come from, if not from deb.debian.org.
    """
    require_nspawn()
    wanted = ",".join((*BASE, *sorted(packages)))
    folder = TOP / "build" / "nspawn"
    root = folder / f"{_SUITE}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{root.name}.{os.getpid()}"
    command = ["debootstrap", "--variant=minbase", f"--include={wanted}", _SUITE, str(unfinished)]
    mirror = os.environ.get("DEBIAN_MIRROR")
    with (folder / f"{root.name}.log").open("wb") as log:
        made = subprocess.run([*command, *([mirror] if mirror else [])], stdout=log, stderr=log, check=False)
    if made.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        last = (folder / f"{root.name}.log").read_text(errors="replace").splitlines()[-1:]
        pytest.skip(f"debootstrap could not make a Debian: {' '.join(last)}")
    unfinished.rename(root)
    return root


class Machine:
    """
    A booted container on ``root``, which it does not change; ``binds`` are paths of this machine, with the paths where
    they are seen there, read-only.
    """

    def __init__(self, root: Path, log: Path, *, binds: dict[Path, str] | None = None) -> None:
        self._root = root
        self._log = log
        self._binds = binds or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = ""

    def start(self) -> None:
        """
        Boot, and wait until systemd has started all it starts; the test is skipped where that cannot be.
        """
        command = ["systemd-nspawn", "--quiet", "--boot", "--private-network", "--volatile=overlay", "--console=pipe"]
        command += ["--register=no", "--keep-unit", f"--machine=dotproxy{os.getpid()}", f"--directory={self._root}"]
        command += [f"--bind-ro={path}:{seen}" for path, seen in self._binds.items()]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(self._is_up, "the container has booted", _BOOT)
        except AssertionError:
            self.stop()
            pytest.skip(f"systemd-nspawn cannot boot here: {self.console()[-400:]}")

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("systemd-nspawn has ended")
        self._leader = _init_of(self._process.pid)
        if not self._leader:
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def run(self, *command: str, check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """
        Run a command as root inside, in a new environment; return how it ended and all that it printed.
        """
        inside = ["nsenter", "--target", self._leader, "--all", "--root", "--wd"]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            [*inside, "/usr/bin/env", "-i", f"PATH={path}", "HOME=/root", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
        return done

    def shell(self, script: str, *, check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """
        Run lines of shell as root inside.
        """
        return self.run("/bin/sh", "-euc", script, check=check, timeout=timeout)

    def write(self, path: str, text: str) -> None:
        """
        Have a file inside, and the folder for it.
        """
        inside = ["nsenter", "--target", self._leader, "--all", "--root", "--wd", "/bin/sh", "-euc"]
        script = f'mkdir -p "$(dirname {path})"; cat >{path}'
        subprocess.run([*inside, script], input=text.encode(), check=True, timeout=30)

    def journal(self, unit: str) -> str:
        """
        What a unit has logged since the boot, with what systemd has said of it; the messages only.
        """
        self.run("journalctl", "--sync", check=False)
        return self.run("journalctl", "--unit", unit, "--output=cat", check=False).stdout

    def console(self) -> str:
        """
        What was printed while it booted.
        """
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """
        Power off; pull the plug if that takes long.
        """
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        self._process = None


def _init_of(nspawn: int) -> str:
    """
    Return the first process of a container, "" until it is systemd, in namespaces of its own: what is run there must
    never be run on this machine.
    """
    for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
        process = Path("/proc") / child
        try:
            is_first = re.search(r"^NSpid:.*\t1$", (process / "status").read_text(), re.MULTILINE)
            is_systemd = (process / "comm").read_text().strip() == "systemd"
            is_apart = all(
                (process / "ns" / kind).readlink() != Path(f"/proc/self/ns/{kind}").readlink()
                for kind in ("mnt", "pid", "net")
            )
        except OSError:  # it has ended
            continue
        if is_first and is_systemd and is_apart:
            return child
    return ""
