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

    def test_one_after_the_other(self) -> None:
        """
        The next address is tried when the last has kept us waiting for 250 ms (RFC 8305 §5).
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

    def test_a_failure_brings_the_next_at_once(self) -> None:
        """
        There is nothing to wait for once an attempt has failed.
        """
        self.dial()
        self.addresses[0].dials[0].errback(Unreachable("connect", "network is unreachable"))
        self.assertEqual([1, 1, 0], self.dialled())
        self.clock.advance(STAGGER)
        self.assertEqual([1, 1, 1], self.dialled())

    def test_the_first_verified_wins(self) -> None:
        """
        The first connection that stands is the result; the others are dropped.
        """
        dialled = self.dial()
        self.clock.pump([STAGGER, STAGGER])
        self.addresses[1].dials[0].callback("connection")
        self.assertEqual("connection", self.successResultOf(dialled))
        self.assertEqual([1, 0, 1], [address.cancelled for address in self.addresses])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_a_win_before_the_others_are_tried(self) -> None:
        """
        When the first succeeds nobody else is dialled.
        """
        dialled = self.dial()
        self.addresses[0].dials[0].callback("connection")
        self.successResultOf(dialled)
        self.clock.advance(10)
        self.assertEqual([1, 0, 0], self.dialled())

    def test_the_winner_is_first_next_time(self) -> None:
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

    def test_when_all_fail_the_most_telling_failure_is_told(self) -> None:
        """
        That a certificate was wrong says more than that another address was unreachable.
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

    def test_cancelling(self) -> None:
        """
        Giving up gives up every attempt, and leaves nothing.
        """
        dialled = self.dial()
        self.clock.advance(STAGGER)
        dialled.cancel()
        self.failureResultOf(dialled, CancelledError)
        self.assertEqual([1, 1, 0], [address.cancelled for address in self.addresses])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_a_single_address(self) -> None:
        """
        With one address there is nothing to race, and no timer.
        """
        only = Address()
        dialled = RacingEndpoint(self.clock, [only]).connect(Factory())
        self.assertEqual([], self.clock.getDelayedCalls())
        failure = Unreachable("connect", "connection refused")
        only.dials[0].errback(failure)
        self.assertIs(failure, self.failureResultOf(dialled).value)

    def test_attempts_that_end_at_once(self) -> None:
        """
        An endpoint that fails before it returns is passed over, one that succeeds so wins.
        """

        class Instant(Address):
            def connect(self, factory: object) -> Deferred[object]:
                attempt = super().connect(factory)
                attempt.errback(Unreachable("tls", "TLS cannot be used on this system"))
                return attempt

        dialled = RacingEndpoint(self.clock, [Instant(), Instant()]).connect(Factory())
        self.assertEqual("tls", self.failureResultOf(dialled).value.phase)
