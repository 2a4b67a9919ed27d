"""
Network namespaces, for tests that unplug cables: two of them, joined by a cable.
"""

import ctypes
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000

#: The two ends of the cable.
NEAR, FAR = "10.77.0.2", "10.77.0.1"


def sh(*command: str) -> None:
    """
    Run a command that must not fail.
    """
    subprocess.run(command, check=True, capture_output=True, timeout=10)


class Namespace:
    """
    One network namespace, by its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        sh("ip", "netns", "add", name)

    def inside(self, command: Sequence[str]) -> list[str]:
        """
        A command, to be run inside.
        """
        return ["ip", "netns", "exec", self.name, *command]

    def ip(self, *arguments: str) -> None:
        """
        Change something in it.
        """
        sh("ip", "-n", self.name, *arguments)

    def socket(
        self, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET, protocol: int = 0
    ) -> socket.socket:
        """
        A socket that belongs to it, for this process to use.
        """
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(path: Path) -> None:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if libc.setns(descriptor, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)

        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            enter(Path("/run/netns") / self.name)
            try:
                return socket.socket(family, kind, protocol)
            finally:
                if libc.setns(home, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(home)

    def remove(self) -> None:
        """
        Be gone, and what is in it.
        """
        sh("ip", "netns", "del", self.name)


def joined() -> tuple[Namespace, Namespace]:
    """
    Two namespaces with a cable between them: ``near`` (``NEAR`` on its device "cable"), and ``far`` (``FAR``).

    Where that is not allowed, the test is skipped.
    """
    made: list[Namespace] = []
    tag = f"dotproxy{os.getpid()}"
    try:
        near = Namespace(f"{tag}n")
        made.append(near)
        far = Namespace(f"{tag}f")
        made.append(far)
        near.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far.name)
        for namespace, address in ((near, NEAR), (far, FAR)):
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("addr", "add", f"{address}/24", "dev", "cable")
            namespace.ip("link", "set", "cable", "up")
    except (OSError, subprocess.SubprocessError) as error:
        for namespace in made:
            namespace.remove()
        pytest.skip(f"network namespaces cannot be made here: {error}")
    return near, far
