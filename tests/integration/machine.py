"""
A Debian of its own for tests that configure a system's resolver: a root file system in a network namespace.

The root file system is made by debootstrap once a run, in memory.  Each machine is an overlay over it in memory, with mounts and
processes of its own: nothing that is installed, written or started there is left when it has ended.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from tests.integration.namespaces import FAR, Namespace
from tests.integration.programs import Program, wait_until, which

#: In the root file system; what conflicts with one of them is downloaded there, to be installed by who wants it.
PACKAGES = (
    *("dbus", "dnsmasq-base", "ifupdown", "iproute2", "isc-dhcp-client", "network-manager", "systemd-resolved"),
    "sysvinit-utils",
)
DOWNLOADED = ("openresolv", "resolvconf")

#: What the link's DNS server answers: not what dotproxy's upstream does.
WRONG = "192.0.2.66"

#: The domain that the link's DHCP server gives.
DOMAIN = "corp.example"

_ETH_P_ALL = 3

_LAST = dns.message.make_query("the.last.invalid.", "NULL", id=1).to_wire()
_LAST_SEEN = "the.last.invalid. IN NULL"

#: Inside the root file system; nothing is started there, and what systemd-resolved writes at its end is removed.
_SCRIPT = f"""
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get update -qq
mkdir -p /var/cache/wanted
cd /var/cache/wanted
apt-get download -qq {" ".join(DOWNLOADED)}
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-unsafe-io \\
    {" ".join(PACKAGES)}
rm /etc/resolv.conf
"""


@contextlib.contextmanager
def debian(folder: Path) -> Iterator[Path]:
    """
    Make the root file system, in memory: about 350 MB.  Where that cannot be, the test is skipped.
    """
    if os.geteuid():
        pytest.skip("only root can set up another system's resolver (debootstrap, namespaces)")
    root = folder / "root"
    root.mkdir()
    if _run("mount", "-t", "tmpfs", "-o", "size=1g,mode=755", "tmpfs", str(root)).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        _install(root)
        yield root
    finally:
        _run("umount", "--lazy", str(root))


def _install(root: Path) -> None:
    """
    Install a Debian, and what the tests need.
    """
    made = _run(which("debootstrap"), "--variant=minbase", "bookworm", str(root))
    if "Failed getting release file" in made.stdout + made.stderr:
        pytest.skip("the Debian mirror cannot be reached")
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    for name in ("resolv.conf", "hosts"):
        (root / "etc" / name).unlink(missing_ok=True)
        shutil.copyfile(Path("/etc") / name, root / "etc" / name)
    installed = _run("chroot", str(root), "sh", "-ec", _SCRIPT)
    assert installed.returncode == 0, installed.stdout[-2000:] + installed.stderr[-2000:]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, stdin=subprocess.DEVNULL)


class Machine(Program):
    """
    A system in a network namespace: an overlay over ``root``, in memory.
    """

    def __init__(self, folder: Path, root: Path, namespace: Namespace) -> None:
        super().__init__(folder / "machine.log")
        self.namespace = namespace
        self.root = root
        self.folder = folder
        self._inside: list[str] = []

    def command(self) -> list[str]:
        """
        The first process: makes the mounts, and waits for its end.
        """
        work = self.folder / "machine"
        work.mkdir(exist_ok=True)
        mounts = f"""
            mount --make-rprivate /
            mount -t tmpfs tmpfs {work}
            mkdir {work}/upper {work}/work {work}/root
            mount -t overlay overlay -o lowerdir={self.root},upperdir={work}/upper,workdir={work}/work {work}/root
            cd {work}/root
            mount -t proc proc proc
            mount -t sysfs -o ro sysfs sys
            mount --rbind /dev dev
            mount -t tmpfs tmpfs run
            mkdir run/dbus run/systemd
            echo mounted
            exec chroot . sleep infinity
        """
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", mounts]
        return self.namespace.inside(unshare)

    def is_ready(self) -> bool:
        """
        The mounts are made.
        """
        if "mounted" not in self.said():
            return False
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        spaces = ["--mount", "--net", "--pid", "--root", "env", "--chdir=/"]
        self._inside = ["nsenter", "--target", children[0], *spaces] if children else []
        return bool(children) and self.run("true").returncode == 0

    def stop(self, how: int = signal.SIGKILL) -> int:
        """
        End it, and every process in it.
        """
        return super().stop(how)

    def run(self, *command: str, patience: float = 60.0) -> subprocess.CompletedProcess[str]:
        """
        Run a command to its end.
        """
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
        return subprocess.run(
            [*self._inside, *command],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=patience,
            env=clean,
            stdin=subprocess.DEVNULL,
        )

    def sh(self, script: str) -> str:
        """
        Run a script that must not fail; return what it prints.
        """
        done = self.run("sh", "-ec", script)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def daemon(self, *command: str) -> None:
        """
        Start what runs on, and ends with the machine; what it says is in the machine's /tmp.
        """
        self.sh(f"{shlex.join(command)} >>/tmp/{Path(command[0]).name}.log 2>&1 </dev/null &")

    def write(self, path: str, text: str) -> None:
        """
        Write a file.
        """
        script = f"mkdir -p {Path(path).parent}; rm -f {path}; cat >{path} <<'the end'\n{text}the end\n"
        self.sh(script)

    def read(self, path: str) -> str:
        """
        Read a file, "" if there is none.
        """
        return self.run("cat", path).stdout

    def addresses(self, name: str) -> list[str]:
        """
        Look a name up as any program does; return what is found, in order.
        """
        found = self.run("getent", "ahostsv4", name).stdout.splitlines()
        return list(dict.fromkeys(line.split()[0] for line in found))


class Link:
    """
    What is at the other end of the cable: a DNS server, and a look at everything that is sent to any port 53.

    Owns: its sockets and threads.  Ends with ``stop``.
    """

    def __init__(self, near: Namespace, far: Namespace) -> None:
        self._seen: list[str] = []
        self._is_over = threading.Event()
        self._datagrams = far.socket(socket.SOCK_DGRAM)
        self._datagrams.bind((FAR, 53))
        self._frames = far.socket(socket.SOCK_RAW, socket.AF_PACKET, socket.htons(_ETH_P_ALL))
        self._frames.bind(("cable", 0))
        self._last = near.socket(socket.SOCK_DGRAM)
        self._threads = [threading.Thread(target=loop) for loop in (self._answer, self._watch)]
        for one in (self._datagrams, self._frames):
            one.settimeout(0.2)
        for thread in self._threads:
            thread.start()

    def seen(self) -> list[str]:
        """
        What came for a port 53 since the last look, but for what this sends itself to know that nothing is on its way.
        """
        self._last.sendto(_LAST, (FAR, 53))
        wait_until(lambda: _LAST_SEEN in self._seen, "all that was sent to port 53")
        place = self._seen.index(_LAST_SEEN)
        seen, self._seen[: place + 1] = self._seen[:place], []
        return seen

    def _answer(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError, dns.exception.DNSException):
                octets, client = self._datagrams.recvfrom(65535)
                query = dns.message.from_wire(octets)
                reply = dns.message.make_response(query)
                if query.question[0].rdtype == dns.rdatatype.A:
                    reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", WRONG))
                self._datagrams.sendto(reply.to_wire(), client)

    def _watch(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                frame, address = self._frames.recvfrom(65535)
                if address[2] != socket.PACKET_OUTGOING and (told := _query_in(frame)):
                    self._seen.append(told)

    def stop(self) -> None:
        """
        End it.
        """
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        for one in (self._datagrams, self._frames, self._last):
            one.close()


def _query_in(frame: bytes) -> str:
    """
    Return what a frame asks a port 53, "" if it is none.
    """
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == 0x0800:
        protocol, start = frame[23], 14 + (frame[14] & 15) * 4
    elif kind == 0x86DD:
        protocol, start = frame[20], 54
    else:
        return ""
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) or struct.unpack_from("!H", frame, start + 2)[0] != 53:
        return ""
    if protocol == socket.IPPROTO_TCP:
        return "a segment of TCP"
    try:
        return str(dns.message.from_wire(frame[start + 8 :]).question[0])
    except (dns.exception.DNSException, IndexError):
        return "a datagram"
