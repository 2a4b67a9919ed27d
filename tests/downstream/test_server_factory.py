"""
The server factory: connections it builds, and what it counts.
"""

from collections import Counter
from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.names.client import Resolver
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.share_settings import ShareSettings


class FactoryTests(SynchronousTestCase):
    """
    A factory with room for two connections.
    """

    def setUp(self) -> None:
        clock = Clock()
        self.shares = ClientShares(ShareSettings(lambda host: True, max_in_flight=10))
        self.receiver = SimpleNamespace(handle_batch=lambda listener, batch: 0, counters=object())
        self.asked: list[str] = []
        self.ended: Counter[str] = Counter()
        receiver: Any = self.receiver
        self.factory = ListenerFactory(
            receiver,
            Resolver(servers=[("127.0.0.1", 1)], reactor=clock),
            clock=clock,
            now=clock.seconds,
            idle_timeout=10.0,
            max_connections=2,
            max_outstanding=4,
            share_of=self.share_of,
            ended_counts=self.ended,
        )

    def share_of(self, host: str) -> Any:
        self.asked.append(host)
        return self.shares.share_of(host, 0.0)

    def build(self, host: str = "192.0.2.1") -> Any:
        return self.factory.buildProtocol(IPv4Address("TCP", host, 4711))

    def test_connection_has_its_factory_and_share(self) -> None:
        """
        The share is that of the client's address.
        """
        connection = self.build()
        self.assertIs(self.factory, connection.factory)
        self.assertIs(self.shares.share_of("192.0.2.1", 0.0), connection.share)
        self.assertEqual(["192.0.2.1"], self.asked)
        self.assertIs(self.factory.counters, self.receiver.counters)

    def test_address_without_host_has_the_share_of_the_empty_host(self) -> None:
        """
        The share of such a client is that of the empty host.
        """
        self.assertIsNotNone(self.factory.buildProtocol(None))
        self.assertEqual([""], self.asked)

    def test_connection_is_refused_without_room(self) -> None:
        """
        With two connections that are in use a third is refused and counted.
        """
        for _ in range(2):
            connection = self.build()
            connection._outstanding = 1  # in use
            self.factory.connectionMade(connection)
        self.assertIsNone(self.build())
        self.assertEqual({ClientEnd.REFUSED: 1}, dict(self.ended))
        self.factory.connectionLost(connection)
        self.assertIsNotNone(self.build())

    def test_ends_without_a_reason_are_not_counted(self) -> None:
        """
        Only an end with a reason is counted.
        """
        self.factory.count_end(None)
        self.factory.count_end(ClientEnd.IDLE)
        self.assertEqual({ClientEnd.IDLE: 1}, dict(self.ended))

    def test_nothing_is_logged_of_each_connection(self) -> None:
        """
        Twisted would log two lines for each connection.
        """
        self.assertFalse(self.factory.noisy)
