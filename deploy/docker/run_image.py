"""
Run the container image as an engine would, and say whether it does what it must.

Decides what must hold: as user 65532, as process 1, without a capability and on a read-only root it starts, answers
over verified TLS, is healthy, says so when it is not, and stops at SIGTERM with exit code 0.  Called as ``run_image.py
ROOT CONFIG``: the folder of the image's files, and its configuration as JSON.  It has to be alone in its network
namespace.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dotproxy.testing.certificates import Authority
from dotproxy.testing.server import DotServer
from dotproxy.testing.zone import A, Zone, address_rdata

_NAME = "www.image.example."
_ADDRESS = "192.0.2.80"
_UPSTREAM = "tls://127.0.0.1:853#dot.image.example"

#: How long anything may take on a slow and busy machine, in seconds; and stopping, with nothing outstanding.
_LIMIT = 60.0
_STOP_LIMIT = 5.0

#: What an engine does before the program runs.  $1 is the root, $2 a folder that is seen as /mnt; the rest a command.
_ENTER = """
root=$1 shared=$2; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o size=64k,mode=755 tmpfs "$root/dev"
for node in null zero random urandom; do : >"$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
mount --bind "$shared" "$root/mnt"
mount -o remount,bind,ro "$root/mnt"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


class Container:
    """
    The image, running; ended with its namespaces.
    """

    def __init__(
        self, root: Path, image: Mapping[str, Any], shared: Path, log: Path, environ: Mapping[str, str]
    ) -> None:
        self._image = image
        self._environ = [*image["Env"], *(f"{name}={value}" for name, value in environ.items())]
        self._log = log
        command = self._as_user([*image["Entrypoint"], *image["Cmd"]])
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--"),
                    *("sh", "-eu", "-c", _ENTER, "sh", str(root), str(shared), *command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def pid(self) -> int:
        """
        Its first process, as this machine counts.
        """
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text("utf-8").split()[0])

    def said(self) -> str:
        """
        What it has logged.
        """
        return self._log.read_text("utf-8", "replace")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """
        Run a command in it, as `docker exec` does.
        """
        inside = ("nsenter", "--target", str(self.pid), "--mount", "--pid", "--ipc", "--uts", "--root", "--wd=/")
        words = [*inside, *self._as_user(list(command))]
        return subprocess.run(
            words, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT
        )

    def stop(self) -> tuple[int, float]:
        """
        Send it SIGTERM; return its exit code, and how long it took.
        """
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(_LIMIT), time.monotonic() - began

    def kill(self) -> None:
        """
        End it, and with it all that runs in its namespaces, if it still runs.
        """
        # --kill-child is no help: the kernel forgets it when setpriv changes the user.
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait(_LIMIT)

    def _as_user(self, command: list[str]) -> list[str]:
        uid, gid = self._image["User"].split(":")
        rights = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
        user = ("setpriv", f"--reuid={uid}", f"--regid={gid}", *rights)
        return [*user, "env", "--ignore-environment", f"--chdir={self._image['WorkingDir']}", *self._environ, *command]


def main(root: Path, image: Mapping[str, Any]) -> None:
    """
    Run it with one upstream, and check everything.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = folder / "shared"
        shared.mkdir()
        folder.chmod(0o755)
        upstream = subprocess.Popen([sys.executable, __file__, "upstream", str(shared)])
        try:
            _until((shared / "ready").exists, "the upstream serves")
            environ = {"DOTPROXY_UPSTREAM": _UPSTREAM, "DOTPROXY_CA_FILE": "/mnt/ca.pem"}
            container = Container(root, image, shared, folder / "log", environ)
            try:
                _check(container, image)
            finally:
                print(f"the container's log:\n{container.said()}", end="", flush=True)
                container.kill()
        finally:
            upstream.kill()
    print("the image does what it must")


def _check(container: Container, image: Mapping[str, Any]) -> None:
    _until(lambda: container.process.poll() is not None or _get("/readyz")[0] == 200, "/readyz is 200")
    _check_rights(container)
    for transport in ("+notcp", "+tcp"):
        digging = ("dig", "@127.0.0.1", "-p", "5300", "+short", "+tries=1", transport, _NAME, "A")
        answer = subprocess.run(digging, check=False, capture_output=True, text=True, timeout=_LIMIT).stdout
        _expect(f"dig {transport} {_NAME}", answer.strip(), _ADDRESS)
    metrics = _get("/metrics")[1].splitlines()
    for transport in ("udp", "tcp"):
        ours = [line for line in metrics if line.startswith("dotproxy_answers_total{")]
        counted = sum(float(line.split()[-1]) for line in ours if f'transport="{transport}"' in line)
        _expect(f"/metrics: responses over {transport}", counted, 1.0)
    kind, *health = image["Healthcheck"]["Test"]
    _expect("HEALTHCHECK is", kind, "CMD")
    _expect(f"HEALTHCHECK {' '.join(health)}", container.run(*health).returncode, 0)
    _expect("/healthz", _get("/healthz")[0], 200)
    os.kill(container.pid, signal.SIGSTOP)
    _expect("HEALTHCHECK while it hangs", container.run(*health).returncode, 1)
    os.kill(container.pid, signal.SIGCONT)
    _until(lambda: container.run(*health).returncode == 0, "it is healthy again")
    code, seconds = container.stop()
    _expect("exit code at SIGTERM", code, 0)
    _expect(f"stopped in {seconds:.1f} s, within {_STOP_LIMIT:g} s", seconds < _STOP_LIMIT, True)
    _expect("a traceback in the log", "Traceback" in container.said(), False)


def _check_rights(container: Container) -> None:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{container.pid}/status").read_text("utf-8").splitlines()
    )
    _expect("user", status["Uid"].split(), ["65532"] * 4)
    _expect("group", (status["Gid"].split(), status["Groups"].split()), (["65532"] * 4, []))
    _expect("process", status["NSpid"].split()[-1], "1")
    _expect("capabilities", {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")}, {"0" * 16})
    _expect("no new privileges", status["NoNewPrivs"], "1")
    for folder in ("/", "/tmp", "/opt/dotproxy", "/var/tmp"):
        said = container.run("touch", f"{folder}/file").stderr
        _expect(f"writing to {folder}", "Read-only file system" in said, True)
    version = container.run("dotproxy", "version").stdout.partition("\n")[0]
    _expect(f"{version}: compiled", version.endswith("(compiled)"), True)
    _expect("twistd has the plugin", "dotproxy" in container.run("twistd", "--help").stdout, True)


def _expect(what: str, found: object, wanted: object) -> None:
    print(f"{what}: {found}" + ("" if found == wanted else f", but has to be {wanted}"), flush=True)
    if found != wanted:
        raise SystemExit(1)


def _until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _LIMIT
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {_LIMIT:g} s: {what}")
        time.sleep(0.1)


def _get(path: str) -> tuple[int, str]:
    """
    Return status and text of a page of the admin address, 0 if nobody serves it.
    """
    connection = http.client.HTTPConnection("127.0.0.1", 9953, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def serve_upstream(shared: Path) -> None:
    """
    Serve one name over TLS, with a certificate from a throw-away CA, whose own goes to ``ca.pem``.
    """
    from twisted.internet import reactor

    authority = Authority()
    (shared / "ca.pem").write_bytes(authority.pem)
    server = DotServer(Zone({(_NAME, A): [address_rdata(_ADDRESS)]}), authority.issue(["dot.image.example"]))
    options: Any = reactor
    options.listenTCP(853, server.over_tls(options), interface="127.0.0.1")
    options.callWhenRunning((shared / "ready").touch)
    options.run()


if __name__ == "__main__":
    if sys.argv[1] == "upstream":
        serve_upstream(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text("utf-8")))
