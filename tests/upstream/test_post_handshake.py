"""
What a server sends after the handshake: how much of it, and that tickets and keys in moderation do no harm.
"""

from typing import Any, cast

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream.post_handshake import MAX_MESSAGES, PostHandshakeWatch

START, DONE, LOOP, EXIT, ALERT = (
    SSL.SSL_CB_HANDSHAKE_START,
    SSL.SSL_CB_HANDSHAKE_DONE,
    SSL.SSL_CB_CONNECT_LOOP,
    SSL.SSL_CB_CONNECT_EXIT,
    SSL.SSL_CB_WRITE_ALERT,
)


class Connection:
    """
    Stands for a connection.
    """

    refusal = ""


class PostHandshakeWatchTests(SynchronousTestCase):
    """
    By what OpenSSL reports.
    """

    def refusal(self, *steps: tuple[int, int]) -> str:
        """
        Report a handshake and these steps; return why the connection has to end.
        """
        connection = Connection()
        watch = PostHandshakeWatch()
        # A handshake may wait for its peer, and send an alert that changes nothing.
        for where, value in ((START, 1), (LOOP, 1), (EXIT, -1), (START, 1), (LOOP, 1), (DONE, 1), (EXIT, 1), *steps):
            watch(cast(Any, connection), where, value)
        return connection.refusal

    def test_hundred_tickets_and_key_updates_are_accepted(self) -> None:
        """
        A hundred tickets and key updates are taken (RFC 8446 §4.6), each of which OpenSSL reports by several steps; one
        more is not.
        """
        message = ((LOOP, 1), (LOOP, 1), (LOOP, 1), (EXIT, 1))
        self.assertEqual("", self.refusal())
        self.assertEqual("", self.refusal(*message * MAX_MESSAGES))
        self.assertIn("more than 100 session tickets and key updates", self.refusal(*message * (MAX_MESSAGES + 1)))

    def test_renegotiation_is_reported_from_its_start(self) -> None:
        """
        Its start is enough, also if OpenSSL declined it.
        """
        for step in ((START, 1), (ALERT, 0x164)):
            self.assertIn("asked to renegotiate", self.refusal(step))

    def test_other_alerts_are_ignored(self) -> None:
        """
        A close_notify and fatal alerts are reported by other means.
        """
        for alert in (0x100, 0x22F, 0x264):
            self.assertEqual("", self.refusal((ALERT, alert)))
