"""
How connections end, as metrics count it, and in the words that a log line and an Extended DNS Error have for it.
"""

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import BadReply, ConnectionEnd, ConnectionGone, Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.upstream.tls_errors import lost
from tests.upstream.scenes import Scene


class CodeTests(SynchronousTestCase):
    """
    A code beside the words.
    """

    def test_twisted_and_openssl_errors_have_codes_and_words(self) -> None:
        """
        What Twisted and OpenSSL report has a code, and words for a person.
        """
        expected = {
            ConnectionDone(): (ConnectionEnd.PEER_CLOSED, "the upstream closed the connection"),
            ConnectionLost(): (ConnectionEnd.CONNECTION_LOST, "the connection broke"),
            ConnectionAborted(): (ConnectionEnd.ABORTED, "the connection was given up"),
            SSL.Error([("SSL routines", "", "bad record mac")]): (
                ConnectionEnd.TLS_ERROR,
                "TLS failed: bad record mac",
            ),
            OSError(5, "Input/output error"): (
                ConnectionEnd.CONNECTION_LOST,
                "the connection broke ([Errno 5] Input/output error)",
            ),
        }
        for error, (code, reason) in expected.items():
            gone = lost(Failure(error))
            self.assertEqual((code, reason), (gone.code, gone.reason))

    def test_each_error_class_has_a_code(self) -> None:
        """
        An error that says nothing more exact has the code of its kind.
        """
        for kind, code in (
            (UpstreamError, "other"),
            (Unreachable, "other"),
            (Timeout, "silence"),
            (ConnectionGone, "connection_lost"),
            (BadReply, "invalid_message"),
            (Untrusted, "other"),
        ):
            self.assertEqual(code, kind("read", "in words").code)


class CountedTests(SynchronousTestCase):
    """
    What is counted of one upstream's connections.
    """

    def setUp(self) -> None:
        """
        An upstream with one connection, over which one question was answered.
        """
        self.scene = Scene()
        self.scene.connect("q")
        self.scene.network.settle()

    def closed(self) -> dict[tuple[str, str], int]:
        """
        What was counted of connections that ended, when that has come about.
        """
        self.scene.network.settle()
        return dict(self.scene.upstream.counters.connections_closed)

    def test_close_by_the_upstream_is_counted_and_logged(self) -> None:
        """
        The metric has a code, the log line has words.
        """
        self.scene.server.close_connections()
        self.assertEqual({("peer", "peer_closed"): 1}, self.closed())
        self.assertIn(("closed", "the upstream closed the connection", 0), self.scene.heard.events)

    def test_malformed_message_is_counted_and_logged(self) -> None:
        """
        A message that cannot be DNS ends the connection.
        """
        self.scene.server.connections[0].transport.write(b"\0\2ab")
        self.assertEqual({("us", "invalid_message"): 1}, self.closed())
        (closed,) = [event for event in self.scene.heard.events if event[0] == "closed"]
        self.assertEqual("the upstream sent a message of 2 octets", closed[1])

    def test_network_change_is_counted_and_logged(self) -> None:
        """
        A network change ends the connection.
        """
        self.scene.upstream.network_moved()
        self.assertEqual({("us", "network"): 1}, self.closed())

    def test_idle_timeout_is_counted_and_logged(self) -> None:
        """
        The idle timeout ends the connection.
        """
        self.scene.network.advance(31)
        self.assertEqual({("us", "idle"): 1}, self.closed())
