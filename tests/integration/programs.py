"""
Real programs as the tests use them: started on free ports of 127.0.0.1, waited for, ended by pid.
"""

import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.ports import free_port

#: How long anything here may take to get going, on a slow and busy machine.
PATIENCE = 30.0


def find(program: str) -> str | None:
    """
    Where a program is, if it is installed; servers are where a plain user's PATH does not look.
    """
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


def which(program: str) -> str:
    """
    Where a program is; the test is skipped if it is not there.
    """
    path = find(program)
    if path is None:
        pytest.skip(f"{program} is not installed (tests/integration/packages.txt lists its package)")
    return path


class Late(AssertionError):
    """
    Something did not happen in time.
    """


def wait_until(true: Callable[[], object], what: object, patience: float = PATIENCE) -> None:
    """
    Look again and again until something is so.
    """
    deadline = time.monotonic() + patience
    pause = 0.01
    while not true():
        if time.monotonic() > deadline:
            raise Late(f"not within {patience} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


class Program:
    """
    A program that runs until it is stopped; what it says goes to a file.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """
        Of the process that was started.
        """
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        """
        How it is started.
        """
        raise AssertionError

    def is_ready(self) -> bool:
        """
        Whether it can be used.
        """
        raise AssertionError

    def environment(self) -> dict[str, str]:
        """
        The environment without anything that is meant for another dotproxy.
        """
        return {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}

    def start(self) -> None:
        """
        Start it, and wait until it can be used.
        """
        self.start_within(PATIENCE)

    def launch(self) -> None:
        """
        Start it, and wait for nothing.
        """
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command(),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                cwd=self.log.parent,
            )

    def start_within(self, patience: float) -> None:
        """
        Start it, and wait so long until it can be used.
        """
        self.launch()

        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"{self.command()[0]} ended: {self.said()}")
            return self.is_ready()

        wait_until(ready, self, patience)

    def __str__(self) -> str:
        return f"{self.command()[0]} runs: {self.said()}"

    def stop(self, how: int = signal.SIGTERM) -> int:
        """
        End it; return its exit code.
        """
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10)

    def said(self) -> str:
        """
        What it said so far.
        """
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


def connections_to(port: int) -> int:
    """
    How many TCP connections to this port of 127.0.0.1 stand, as the kernel has it.
    """
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2:4] == [f"0100007F:{port:04X}", "01"] for line in lines)


def read_message(stream: socket.socket) -> bytes:
    """
    One message off a stream.
    """
    size = struct.unpack("!H", _read_exactly(stream, 2))[0]
    return _read_exactly(stream, size)


def _read_exactly(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = stream.recv(count - len(data))
        if not piece:
            raise EOFError(f"the stream ended after {len(data)} of {count} octets")
        data += piece
    return data


class Proxy(Program):
    """
    dotproxy, by twistd; without a cache, so that what it is asked shows at its upstreams, unless it is to have one.

    PROXY_OPTIONS are options it is given in all tests, as ``--workers 2``.
    """

    def __init__(
        self,
        log: Path,
        ca_file: Path,
        upstreams: tuple[str, ...],
        options: tuple[str, ...] = (),
        listen: str = "",
        *,
        cache: bool = False,
    ) -> None:
        super().__init__(log)
        self.port = free_port()
        self.host = "127.0.0.1"
        listen = listen or f"{self.host}:{self.port}"
        self.arguments = ["--listen", listen, "--ca-file", str(ca_file), "--log-format", "text", *options]
        self.arguments += shlex.split(os.environ.get("PROXY_OPTIONS", ""))
        if not cache:
            self.arguments += ["--cache-size", "0"]
        for upstream in upstreams:
            self.arguments += ["--upstream", upstream]
        self.workers = int(dict(zip(self.arguments, self.arguments[1:], strict=False)).get("--workers", 1))

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [sys.executable, "-m", "dotproxy", "run", *self.arguments]

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "ready: " in self.said()

    def ask(self, query: bytes, *, tcp: bool = False, timeout: float = 10.0, source: str = "") -> bytes:
        """
        Ask it, and return what it says, octet for octet.
        """
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(timeout)
            if source:
                client.bind((source, 0))
            client.connect((self.host, self.port))
            if not tcp:
                client.send(query)
                return client.recv(65535)
            client.sendall(struct.pack("!H", len(query)) + query)
            return read_message(client)


def run(*command: str, timeout: float = 60.0) -> str:
    """
    Run a program to its end; return what it prints.
    """
    found = which(command[0])
    done = subprocess.run(
        [found, *command[1:]], capture_output=True, timeout=timeout, check=False, text=True, errors="replace"
    )
    return done.stdout + done.stderr
