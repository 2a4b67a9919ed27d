"""
Several addresses of one upstream.
"""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Unreachable, Untrusted
from dotproxy.upstream.happy_eyeballs import STAGGER, RacingEndpoint


class Address:
    """
    An endpoint in whose place a test decides.
    """

    def __init__(self) -> None:
        self.dials: list[Deferred[object]] = []
        self.cancelled = 0

    def connect(self, factory: object) -> Deferred[object]:
        """
        Called by the race.
        """

        def cancel(_: object) -> None:
            self.cancelled += 1

        self.dials.append(Deferred(cancel))
        return self.dials[-1]


class RaceTests(SynchronousTestCase):
    """
    Who is dialled when, and who wins.
    """

    def setUp(self) -> None:
        """
        Three addresses.
        """
        self.clock = Clock()
        self.addresses = [Address(), Address(), Address()]
        self.endpoint = RacingEndpoint(self.clock, self.addresses)

    def dial(self) -> Deferred[object]:
        """
        Dial the upstream.
        """
        return self.endpoint.connect(Factory())

    def dialled(self) -> list[int]:
        """
        How often each address was dialled.
        """
        return [len(address.dials) for address in self.addresses]

    def test_next_address_is_tried_after_the_delay(self) -> None:
        """
        The next address is tried when an attempt has taken 250 ms (RFC 8305 §5).
        """
        self.dial()
        self.assertEqual([1, 0, 0], self.dialled())
        self.clock.advance(0.24)
        self.assertEqual([1, 0, 0], self.dialled())
        self.clock.advance(0.01)
        self.assertEqual([1, 1, 0], self.dialled())
        self.clock.advance(STAGGER)
        self.assertEqual([1, 1, 1], self.dialled())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_failed_attempt_starts_the_next_at_once(self) -> None:
        """
        The delay is not waited for once an attempt has failed.
        """
        self.dial()
        self.addresses[0].dials[0].errback(Unreachable("connect", "network is unreachable"))
        self.assertEqual([1, 1, 0], self.dialled())
        self.clock.advance(STAGGER)
        self.assertEqual([1, 1, 1], self.dialled())

    def test_first_verified_connection_is_the_result(self) -> None:
        """
        The first verified connection is the result; the others are dropped.
        """
        dialled = self.dial()
        self.clock.pump([STAGGER, STAGGER])
        self.addresses[1].dials[0].callback("connection")
        self.assertEqual("connection", self.successResultOf(dialled))
        self.assertEqual([1, 0, 1], [address.cancelled for address in self.addresses])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_success_before_the_delay_dials_no_other_address(self) -> None:
        """
        When the first succeeds nobody else is dialled.
        """
        dialled = self.dial()
        self.addresses[0].dials[0].callback("connection")
        self.successResultOf(dialled)
        self.clock.advance(10)
        self.assertEqual([1, 0, 0], self.dialled())

    def test_successful_address_is_tried_first_next_time(self) -> None:
        """
        An address that worked is tried before those that did not.
        """
        self.dial()
        self.clock.pump([STAGGER, STAGGER])
        self.addresses[2].dials[0].callback("connection")
        self.dial()
        self.assertEqual([1, 1, 2], self.dialled())
        self.clock.advance(STAGGER)
        self.assertEqual([2, 1, 2], self.dialled())

    def test_most_specific_failure_is_reported_if_all_fail(self) -> None:
        """
        A wrong certificate is reported rather than another address that was unreachable.
        """
        dialled = self.dial()
        self.clock.pump([STAGGER, STAGGER])
        self.addresses[0].dials[0].errback(Unreachable("connect", "no route to host"))
        wrong = Untrusted("verify", "the certificate has expired")
        self.addresses[1].dials[0].errback(wrong)
        self.assertNoResult(dialled)
        self.addresses[2].dials[0].errback(ValueError("odd"))
        self.assertIs(wrong, self.failureResultOf(dialled).value)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_cancel_ends_every_attempt(self) -> None:
        """
        Cancelling cancels every attempt, and leaves no timer.
        """
        dialled = self.dial()
        self.clock.advance(STAGGER)
        dialled.cancel()
        self.failureResultOf(dialled, CancelledError)
        self.assertEqual([1, 1, 0], [address.cancelled for address in self.addresses])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_single_address_has_no_timer(self) -> None:
        """
        With one address there is no race, and no timer.
        """
        only = Address()
        dialled = RacingEndpoint(self.clock, [only]).connect(Factory())
        self.assertEqual([], self.clock.getDelayedCalls())
        failure = Unreachable("connect", "connection refused")
        only.dials[0].errback(failure)
        self.assertIs(failure, self.failureResultOf(dialled).value)

    def test_synchronous_failures_and_successes_are_accepted(self) -> None:
        """
        An endpoint that fails before it returns is passed over; one that succeeds is the result.
        """

        class Instant(Address):
            def connect(self, factory: object) -> Deferred[object]:
                attempt = super().connect(factory)
                attempt.errback(Unreachable("tls", "TLS cannot be used on this system"))
                return attempt

        dialled = RacingEndpoint(self.clock, [Instant(), Instant()]).connect(Factory())
        self.assertEqual("tls", self.failureResultOf(dialled).value.phase)
