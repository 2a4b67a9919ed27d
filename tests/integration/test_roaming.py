"""
The network moves under dotproxy: another address, a cable that is pulled, packets that vanish.
"""

import socket
import time
from pathlib import Path

import pytest

from tests.integration.namespaces import FAR, NEAR, Namespace, joined
from tests.integration.programs import Proxy
from tests.misbehaving.matrix import Misbehaving
from tests.misbehaving.steady import Counted, Steady

RATE = 100.0


class Far(Misbehaving):
    """
    A healthy server at the far end of the cable.
    """

    def __init__(self, far: Namespace, *arguments) -> None:
        super().__init__(*arguments)
        self.far = far

    def command(self) -> list[str]:
        """
        Inside.
        """
        return self.far.inside([*super().command(), "--interface", FAR])


class Near(Proxy):
    """
    dotproxy at the near end.
    """

    def __init__(self, near: Namespace, *arguments) -> None:
        super().__init__(*arguments)
        self.near = near

    def command(self) -> list[str]:
        """
        Inside.
        """
        return self.near.inside(super().command())


@pytest.fixture
def scene(authority, ca_file, tmp_path: Path):
    """
    A proxy with one upstream at the other end of a cable, and a client of it.
    """
    near, far = joined()
    certificate, key = authority.issue(["dot.test"]).write(tmp_path, "server")
    server = Far(far, tmp_path, "healthy", certificate, key, 1)
    proxy = Near(near, tmp_path / "proxy.log", ca_file, (f"tls://{FAR}:{server.port}#dot.test",))
    client = near.socket(socket.SOCK_DGRAM)
    try:
        server.start()
        proxy.start()
        yield near, far, Steady(client, proxy.host, proxy.port)
    finally:
        client.close()
        proxy.stop()
        server.stop()
        near.remove()
        far.remove()


def back_after(counted: Counted, restored: float) -> float:
    """
    How long after the network was back the first right answer came, in seconds.
    """
    assert (counted.servfail, counted.wrong, counted.lost, counted.right) == (0, 0, 0, counted.asked)
    return min(at for at in counted.answered_at if at > restored) - restored


def test_lost_address_is_redialled_at_once(scene):
    """
    The address our connections come from is gone: they are dropped and made anew at once.
    """
    near, _, client = scene
    assert client.ask(RATE, 0.5).right
    moved: list[float] = []

    def move() -> None:
        near.ip("addr", "del", f"{NEAR}/24", "dev", "cable")
        near.ip("addr", "add", "10.77.0.3/24", "dev", "cable")
        moved.append(time.monotonic())

    assert back_after(client.ask(RATE, 2.5, {0.5: move}), moved[0]) < 2


def test_queries_are_answered_after_a_pulled_cable(scene):
    """
    Nothing reaches the upstream for a second, and the kernel says so.
    """
    near, _, client = scene
    assert client.ask(RATE, 0.5).right
    plugged: list[float] = []

    def plug() -> None:
        near.ip("link", "set", "cable", "up")
        plugged.append(time.monotonic())

    events = {0.5: lambda: near.ip("link", "set", "cable", "down"), 1.5: plug}
    assert back_after(client.ask(RATE, 3.0, events), plugged[0]) < 2


def test_queries_are_answered_after_lost_packets(scene):
    """
    Nothing reaches the upstream for a second and a half, and nobody says so.
    """
    _, far, client = scene
    assert client.ask(RATE, 0.5).right
    restored: list[float] = []

    def restore() -> None:
        far.ip("addr", "add", f"{FAR}/24", "dev", "cable")
        restored.append(time.monotonic())

    events = {0.5: lambda: far.ip("addr", "del", f"{FAR}/24", "dev", "cable"), 2.0: restore}
    assert back_after(client.ask(RATE, 3.5, events), restored[0]) < 2
