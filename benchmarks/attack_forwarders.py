"""
The forwarders that are attacked: dotproxy from one checkout or from several, Unbound and dnsdist.

Decides what differs from ``peers``: as many TCP clients as dotproxy has by default, and more than one upstream where
the attack has more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.forwarders import Forwarder, Source, TriedDotproxy
from benchmarks.peers import Dnsdist, Peer, Unbound


class AttackedDotproxy(TriedDotproxy):
    """
    By its defaults, or with options of its own.
    """

    options: Sequence[str] = ()

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [*super().command(), *self.options]


class AttackedUnbound(Unbound):
    """
    256 TCP clients, and any number of upstreams.
    """

    ports: Sequence[int] = ()

    def configuration(self) -> str:
        """
        Unbound's.
        """
        text = super().configuration().replace("incoming-num-tcp: 100", "incoming-num-tcp: 256")
        return text + "".join(f"    forward-addr: 127.0.0.1@{port}#dot.test\n" for port in self.ports[1:])


class AttackedDnsdist(Dnsdist):
    """
    Any number of upstreams.
    """

    ports: Sequence[int] = ()

    def configuration(self) -> str:
        """
        dnsdist's.
        """
        text = super().configuration()
        begin = text.index("newServer")
        server = text[begin : text.index(":setUp()") + len(":setUp()")]
        more = (server.replace(f":{self.ports[0]}", f":{port}") for port in self.ports[1:])
        return "\n".join([text, *more]) + "\n"


def attacked_dotproxies(sources: Sequence[Source], options: Sequence[str]) -> list[Forwarder]:
    """
    dotproxy from each source, with one worker and with two.
    """

    def row(source: Source, workers: int) -> Forwarder:
        def make(folder: Path, ca_file: Path, ports: Sequence[int]) -> Peer:
            peer = AttackedDotproxy(folder, ca_file, ports, source, workers)
            peer.options = options
            return peer

        return Forwarder(source.label + (f", {workers} workers" if workers > 1 else ""), make, workers, True)

    return [row(source, workers) for source in sources for workers in (1, 2)]


def attacked_others() -> list[Forwarder]:
    """
    Unbound and dnsdist, if they are installed.
    """

    def row(kind: type[AttackedUnbound] | type[AttackedDnsdist]) -> Forwarder:
        def make(folder: Path, ca_file: Path, ports: Sequence[int]) -> Peer:
            peer = kind(folder, ca_file, ports[0])
            peer.ports = ports
            return peer

        return Forwarder(kind.name, make)

    return [row(kind) for kind in (AttackedUnbound, AttackedDnsdist) if kind.executable() is not None]
