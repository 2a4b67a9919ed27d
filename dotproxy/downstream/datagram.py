"""
The UDP listener: datagrams in, datagrams out, in batches.

Decides nothing.
"""

from __future__ import annotations

from typing import Any

from twisted.names.dns import DNSDatagramProtocol

from dotproxy.downstream.batch import Datagram


class DatagramListener(DNSDatagramProtocol):
    """
    A twisted.names datagram protocol that passes octets to its factory undecoded.

    Belongs on a ``BatchPort``.
    """

    is_stream = False
    noisy = False
    transport: Any

    def __init__(self, factory: Any, clock: Any) -> None:
        super().__init__(factory, clock)
        self._questions_received = factory.questions_received

    def datagrams_received(self, batch: list[Datagram]) -> None:
        """
        Called by the port.
        """
        self._questions_received(self, batch)

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        """
        Called by any other port there may be.
        """
        self._questions_received(self, [(data, addr)])

    def send_answers(self, answers: list[Datagram]) -> None:
        """
        Send each answer to its client.
        """
        if self.transport is not None:
            self.transport.write_batch(answers)
