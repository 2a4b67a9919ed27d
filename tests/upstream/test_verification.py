"""
Who an upstream must be: every certificate that must not pass, on full and on resumed handshakes.
"""

from datetime import UTC, datetime, timedelta

from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionGone, Untrusted
from dotproxy.policy.pins import show_pin
from dotproxy.testing.certificates import Issued
from dotproxy.testing.server import DotServer, MemoryNetwork
from dotproxy.upstream.tls_errors import closed_how, lost
from dotproxy.upstream.verification import TlsChoices
from tests.upstream.scenes import ADDRESS, AUTHORITY, GOOD, NAME, STRANGER, ZONE, Scene, later, make_verifier

#: subjectAltName extensions that say nothing a name could be verified by: why → DER.
BAD_SANS = {
    "not DER at all": b"\xff\xff\xff",
    "cut short": b"\x30\x0a\x82\x08dot",
    "an e-mail address only": b"\x30\x0c\x81\x0ame@dot.tes",
    "an invalid wildcard": b"\x30\x08\x82\x06*.test",
    "a name that is not ASCII": b"\x30\x0a\x82\x08d\xc3\xb6t.tes",
    "an empty list": b"\x30\x00",
}


class RefusalTests(SynchronousTestCase):
    """
    What is refused, and that the server then has no octet of a query.
    """

    def refused(self, certificate: Issued, **changes: object) -> str:
        """
        Ask a server with ``certificate``; return why that failed, having seen that nothing leaked.
        """
        scene = Scene(certificate, make_verifier(**changes))
        scene.connect("question")
        self.assertEqual([], scene.told.answers)
        ((token, error, is_final),) = scene.told.failures
        self.assertEqual(("question", True), (token, is_final))
        self.assertIsInstance(error, Untrusted)
        self.assertEqual("verify", error.phase)
        self.assertEqual([], scene.server.queries)
        self.assertEqual([], scene.server.connections)
        return error.reason

    def test_certificate_for_another_name_is_refused(self) -> None:
        """
        The error has the names of the certificate (RFC 8310 §8.1).
        """
        reason = self.refused(AUTHORITY.issue(["other.test", "192.0.2.99"]))
        self.assertEqual("the certificate is for other.test, 192.0.2.99, not for dot.test", reason)
        reason = self.refused(AUTHORITY.issue([f"n{n}.test" for n in range(9)]))
        self.assertIn("n0.test, n1.test, n2.test, n3.test and 5 more", reason)

    def test_common_name_is_not_used(self) -> None:
        """
        RFC 8310 §8.1.
        """
        self.assertIn("names cannot be used", self.refused(AUTHORITY.issue([], common_name=NAME)))

    def test_certificate_without_subjectaltname_is_refused(self) -> None:
        """
        A certificate without subjectAltName is refused, for a name and for an address.
        """
        for name in (NAME, None):
            self.assertIn("names cannot be used", self.refused(AUTHORITY.issue([]), name=name))

    def test_certificate_with_unusable_names_is_refused(self) -> None:
        """
        A subjectAltName that is malformed, or names no host, is refused, for a name and for an address.
        """
        for why, san in BAD_SANS.items():
            for name in (NAME, None):
                self.assertTrue(self.refused(AUTHORITY.issue([], san=san), name=name), why)

    def test_wildcard_matches_one_label_only(self) -> None:
        """
        A wildcard matches the first label and no more (RFC 6125 §6.4.3).
        """
        wildcard = AUTHORITY.issue(["*.dot.test"])
        self.assertIn("is for *.dot.test, not", self.refused(wildcard, name="a.b.dot.test"))
        self.assertIn("is for *.dot.test, not", self.refused(wildcard, name="dot.test"))

    def test_certificate_for_another_address_is_refused(self) -> None:
        """
        Without a name the IP address must be in the certificate; DNS names do not count.
        """
        reason = self.refused(AUTHORITY.issue(["192.0.2.54"]), name=None)
        self.assertEqual("the certificate is for 192.0.2.54, not for 192.0.2.53", reason)
        self.assertIn("not for 192.0.2.53", self.refused(AUTHORITY.issue([NAME]), name=None))

    def test_expired_and_not_yet_valid_certificates_are_refused(self) -> None:
        """
        Expired and not yet valid certificates are refused.
        """
        expired = AUTHORITY.issue([NAME], starts=timedelta(days=-2), ends=timedelta(days=-1))
        self.assertEqual("the certificate has expired", self.refused(expired))
        early = AUTHORITY.issue([NAME], starts=timedelta(days=1))
        self.assertEqual("the certificate is not yet valid", self.refused(early))

    def test_dates_are_checked_by_our_own_clock(self) -> None:
        """
        Dates are checked by us too, for OpenSSL does not when a session is resumed.
        """
        self.assertIn("the certificate expired on", self.refused(GOOD, now=later(days=31)))
        self.assertIn("the certificate is not valid before", self.refused(GOOD, now=later(days=-2)))

    def test_certificate_of_an_unknown_ca_is_refused(self) -> None:
        """
        So is one that is self-signed.
        """
        self.assertIn("is from an unknown CA", self.refused(STRANGER.issue([NAME])))
        self.assertEqual("the certificate is self-signed", self.refused(AUTHORITY.issue([NAME], self_signed=True)))
        self.assertIn("certificate", self.refused(GOOD, ca=None))

    def test_certificate_signed_by_a_non_ca_is_refused(self) -> None:
        """
        Being signed by a certificate that is no CA's is not enough.
        """
        impostor = STRANGER.issue(["dot.test"])
        self.assertIn("certificate", self.refused(impostor, ca=GOOD.certificate_pem))

    def test_connection_without_a_matching_pin_is_refused(self) -> None:
        """
        With pins, one of them has to match besides, and the pin that was seen is named (RFC 7858 §4.2).
        """
        reason = self.refused(GOOD, pins=(b"\0" * 32,))
        self.assertEqual(f"none of the pins matches; the key's pin is {show_pin(GOOD.pin)}", reason)

    def test_matching_pin_does_not_replace_the_name_check(self) -> None:
        """
        A matching pin does not make a wrong name acceptable.
        """
        other = AUTHORITY.issue(["other.test"])
        self.assertIn("not for dot.test", self.refused(other, pins=(other.pin,)))

    def test_unexpected_exception_in_verification_is_a_refusal(self) -> None:
        """
        Any exception refuses the connection.
        """
        verifier = make_verifier()
        self.patch(verifier, "_check_dates", lambda x509: 1 / 0)
        scene = Scene(verifier=verifier)
        scene.connect("question")
        self.assertIn("the check itself failed: ZeroDivisionError", scene.told.failures[0][1].reason)
        self.assertEqual([], scene.server.queries)


class AcceptanceTests(SynchronousTestCase):
    """
    What is accepted, and what is known of it.
    """

    def accepted(self, certificate: Issued = GOOD, **changes: object) -> Scene:
        """
        A scene in which a question was answered.
        """
        scene = Scene(certificate, make_verifier(**changes))
        scene.connect("question")
        self.assertEqual(["question"], scene.told.answered_tokens)
        self.assertEqual([], scene.told.failures)
        return scene

    def test_matching_name_is_accepted(self) -> None:
        """
        The name, exactly or by a wildcard, verifies.
        """
        scene = self.accepted()
        self.assertEqual([("connected", "192.0.2.53:853", "TLSv1.3", NAME, False)], scene.heard.events)
        self.accepted(AUTHORITY.issue(["*.dot.test"]), name="a.dot.test")

    def test_matching_address_is_accepted_without_a_name(self) -> None:
        """
        The address verifies when no name is wanted.
        """
        scene = self.accepted(name=None)
        self.assertEqual(ADDRESS, scene.heard.events[0][3])

    def test_pin_of_key_backup_or_ca_is_accepted(self) -> None:
        """
        The pin may be of the key, one of several, or of the CA that signed it (RFC 7858 §4.2).
        """
        self.accepted(pins=(GOOD.pin,))
        self.accepted(pins=(b"\0" * 32, GOOD.pin))
        self.accepted(pins=(AUTHORITY.root.pin,))

    def test_sni_has_the_name_and_alpn_is_dot(self) -> None:
        """
        The name is sent as SNI, an address is not (RFC 6066 §3); ALPN is dot (RFC 7858, RFC 8310).
        """
        for name, expected in ((NAME, NAME.encode()), (None, None)):
            scene = Scene(verifier=make_verifier(name=name))
            scene.connect("question")
            tls = scene.server.connections[0].transport
            self.assertEqual(expected, tls.getHandle().get_servername())
            self.assertEqual(b"dot", tls.negotiatedProtocol)

    def test_tls_1_2_is_refused_if_1_3_is_the_minimum(self) -> None:
        """
        The connection is refused and no query is sent (RFC 8310 §9).
        """
        for version, accepted in ((SSL.TLS1_2_VERSION, False), (SSL.TLS1_3_VERSION, True)):
            scene = Scene(verifier=make_verifier(tls=TlsChoices("1.3")))
            options = GOOD.server_options()
            options.getContext().set_max_proto_version(version)
            scene.server._options = (GOOD, options)
            scene.connect("question")
            self.assertEqual(accepted, bool(scene.told.answers))

    def test_tls_1_2_uses_a_listed_cipher_or_fails(self) -> None:
        """
        With TLS 1.2 one of the ciphers on the list is used, or there is no connection.
        """
        for ciphers, used in (
            ("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384", "AES256-GCM"),
            ("ECDHE+CHACHA20", "CHACHA20"),
        ):
            scene = Scene(verifier=make_verifier(tls=TlsChoices(ciphers=ciphers)))
            options = GOOD.server_options()
            options.getContext().set_max_proto_version(SSL.TLS1_2_VERSION)
            scene.server._options = (GOOD, options)
            scene.connect("question")
            self.assertIn(used, scene.upstream._pool.select().identity.cipher)

    def test_client_certificate_is_sent_on_request(self) -> None:
        """
        An upstream that asks for a certificate is shown ours, with its chain; without one there is no connection.
        """
        mine = AUTHORITY.issue(["client.test"])
        shown: list[str] = []

        def look(connection: object, certificate: X509, error: int, depth: int, preverified: int) -> bool:
            if not depth:
                shown.append(certificate.get_subject().CN)
            return True

        for tls, accepted in (
            (TlsChoices(certificate=mine.certificate_pem, key=mine.key_pem), True),
            (TlsChoices(), False),
        ):
            scene = Scene(verifier=make_verifier(tls=tls))
            options = GOOD.server_options()
            options.getContext().set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, look)
            options.getContext().set_session_id(b"one")
            scene.server._options = (GOOD, options)
            scene.connect("question")
            self.assertEqual(accepted, bool(scene.told.answers))
        self.assertTrue(shown)

    def test_tls_1_2_is_accepted_and_1_1_refused(self) -> None:
        """
        TLS 1.2 is spoken if need be, and nothing older (RFC 8310 §9, RFC 9325 §3).
        """
        for version, accepted in ((SSL.TLS1_2_VERSION, True), (SSL.TLS1_1_VERSION, False)):
            scene = Scene()
            options = GOOD.server_options()
            context = options.getContext()
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_max_proto_version(version)
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
            scene.server._options = (GOOD, options)
            scene.connect("question")
            self.assertEqual(accepted, bool(scene.told.answers))
            if accepted:
                self.assertEqual("TLSv1.2", scene.heard.events[0][2])
            else:
                self.assertEqual("tls", scene.told.failures[0][1].phase)


class ResumptionTests(SynchronousTestCase):
    """
    The second connection: a resumed handshake, to which everything applies that does to the first.
    """

    def reconnected(self, **changes: object) -> Scene:
        """
        A scene whose first connection was closed by the server, with a question waiting for the second.
        """
        self.verifier = make_verifier(**changes)
        scene = Scene(verifier=self.verifier)
        scene.connect("first")
        self.assertEqual(["first"], scene.told.answered_tokens)
        scene.server.close_connections()
        scene.network.settle()
        return scene

    def test_second_connection_resumes_and_is_verified(self) -> None:
        """
        It resumes the first one's session, and has the identity verified then.
        """
        scene = self.reconnected(pins=(GOOD.pin,))
        scene.connect("second")
        self.assertEqual(["first", "second"], scene.told.answered_tokens)
        self.assertEqual([False, True], [event[4] for event in scene.heard.events if event[0] == "connected"])

    def test_pin_of_the_ca_is_accepted_on_resumption(self) -> None:
        """
        The chain is not sent again; the chain verified before counts.
        """
        scene = self.reconnected(pins=(AUTHORITY.root.pin,))
        scene.connect("second")
        self.assertTrue(scene.heard.events[-1][4])
        self.assertEqual(["first", "second"], scene.told.answered_tokens)

    def refused(self, scene: Scene) -> str:
        """
        Connect again; return why that was refused, having seen that nothing leaked.
        """
        asked = len(scene.server.queries)
        scene.connect("second")
        self.assertEqual(["second"], scene.told.failed_tokens)
        self.assertEqual(asked, len(scene.server.queries))
        return scene.told.failures[0][1].reason

    def test_session_does_not_outlive_its_certificate(self) -> None:
        """
        A session does not outlive its certificate.
        """
        scene = self.reconnected()
        self.verifier._now = later(days=31)
        self.assertIn("the certificate expired on", self.refused(scene))

    def test_name_is_verified_on_resumption(self) -> None:
        """
        The name is verified on resumed handshakes too.
        """
        scene = self.reconnected()
        self.verifier.name = "other.test"
        self.assertIn("not for other.test", self.refused(scene))

    def test_address_is_verified_on_resumption(self) -> None:
        """
        The address is verified on resumed handshakes too.
        """
        scene = self.reconnected(name=None)
        self.verifier.address = "192.0.2.99"
        self.assertIn("not for 192.0.2.99", self.refused(scene))

    def test_pins_are_verified_on_resumption(self) -> None:
        """
        Pins are verified on resumed handshakes too.
        """
        scene = self.reconnected()
        self.verifier.pins = (b"\0" * 32,)
        self.assertIn("none of the pins matches", self.refused(scene))

    def test_new_certificate_is_verified_without_resumption(self) -> None:
        """
        A server that does not resume sends its certificate, which is verified.
        """
        scene = self.reconnected()
        scene.server.certificate = AUTHORITY.issue(["other.test"])
        self.assertIn("not for dot.test", self.refused(scene))

    def test_sessions_are_not_shared_between_upstreams(self) -> None:
        """
        Another upstream, with another CA, cannot resume the session.
        """
        first = self.reconnected()
        second = Scene(verifier=make_verifier(ca=STRANGER.pem))
        second.server = first.server
        second.connect("question")
        self.assertEqual(["question"], second.told.failed_tokens)
        self.assertIn("unknown", second.told.failures[0][1].reason)


class WordsTests(SynchronousTestCase):
    """
    How endings are told.
    """

    def test_each_end_of_a_connection_has_a_text(self) -> None:
        """
        Whatever ended a connection is said in words.
        """
        endings = {
            ConnectionDone(): "the upstream closed the connection",
            ConnectionLost(): "the connection broke",
            ConnectionAborted(): "the connection was given up",
            SSL.Error([("lib", "func", "an alert")]): "TLS failed: an alert",
            SSL.Error(): "TLS failed: Error",
            ValueError("odd"): "the connection broke (odd)",
        }
        for error, told in endings.items():
            self.assertEqual(told, closed_how(Failure(error)))
        gone = lost(Failure(ConnectionDone()))
        self.assertIsInstance(gone, ConnectionGone)
        self.assertEqual("read: the upstream closed the connection", str(gone))


class TwistedFactTests(SynchronousTestCase):
    """
    What is not relied on in Twisted, and why; if one of these fails, Twisted has changed.
    """

    def connect(self, certificate: Issued) -> tuple[list[str], DotServer]:
        """
        Connect the way Twisted offers; return what happened, in order, and the server.
        """
        events: list[str] = []
        network, server = MemoryNetwork(), DotServer(ZONE, certificate)

        class Client(Protocol):
            def connectionMade(self) -> None:
                events.append("made")

            def dataReceived(self, data: bytes) -> None:
                events.append("data")

        root = trustRootFromCertificates([Certificate.loadPEM(AUTHORITY.pem)])
        endpoint = wrapClientTLS(
            optionsForClientTLS(NAME, trustRoot=root),
            TCP4ClientEndpoint(network.reactor, ADDRESS, 853),
            network.reactor,
        )
        connected = endpoint.connect(Factory.forProtocol(Client))
        connected.addCallback(lambda protocol: events.append("connected") or protocol.transport.write(b"\0\1x"))
        network.accept(server)
        return events, server

    def test_twisted_endpoint_fires_before_the_handshake(self) -> None:
        """
        `wrapClientTLS` reports a connection whoever the peer turns out to be.
        """
        events, server = self.connect(AUTHORITY.issue(["other.test"]))
        self.assertEqual(["made", "connected"], events)
        self.assertEqual([], server.queries)

    def test_twisted_verification_accepts_a_certificate_without_names(self) -> None:
        """
        A certificate of a trusted CA without subjectAltName is accepted for any name.
        """
        _, server = self.connect(AUTHORITY.issue([]))
        self.assertEqual([b"x"], server.queries)
        self.assertTrue(self.flushLoggedErrors())

    def test_test_certificates_are_valid_today(self) -> None:
        """
        The certificates used here are valid today.
        """
        self.assertTrue(
            GOOD.certificate.not_valid_before_utc < datetime.now(UTC) < GOOD.certificate.not_valid_after_utc
        )
