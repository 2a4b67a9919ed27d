"""
Queries in flight: when each is looked at, and which have been finished.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import BadReply, ConnectionGone, Unreachable
from dotproxy.forwarding.inflight import ClientRequest, InflightQueries, Query, explain
from dotproxy.policy.client import Client
from dotproxy.policy.client_shares import ClientShare
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener
from dotproxy.testing.zone import A
from dotproxy.wire.edns import EDE_NETWORK_ERROR, EDE_NO_REACHABLE_AUTHORITY
from dotproxy.wire.message import parse_query

OCTETS = make_query("www.test.", A)
LABELS = ("one", "two", "three")


def make(
    asked_at: float = 0.0, deadline: float = 4.0, order: tuple[int, ...] = (0, 1), octets: bytes = OCTETS
) -> Query:
    """
    Return a query that was asked at some time.
    """
    return Query(octets, parse_query(octets), octets, order, asked_at, deadline)


def request_of(octets: bytes) -> ClientRequest:
    """
    Return a client's request that has these octets.
    """
    account = ClientShare("127.0.0.1", 0.0, 0.0)
    return ClientRequest(RecordingListener(), Client("127.0.0.1", 4000), octets, parse_query(octets), account)


class InflightTests(SynchronousTestCase):
    """
    What is due, and when the next one is.
    """

    def setUp(self) -> None:
        self.inflight = InflightQueries(2)

    def add(self, upstream: int = 0, asked_at: float = 0.0, deadline: float = 4.0) -> Query:
        query = make(asked_at, deadline)
        self.inflight.add(query, (upstream,))
        return query

    def test_repr_counts_queries(self) -> None:
        """
        All queries in flight, and those of them that are rescheduled.
        """
        self.assertEqual("<InflightQueries: 0 in flight (0 rescheduled)>", repr(self.inflight))
        self.add(0)
        self.add(1)
        self.inflight.reschedule(self.add(0), 2.0)
        self.assertEqual("<InflightQueries: 3 in flight (1 rescheduled)>", repr(self.inflight))

    def test_repr_of_a_query(self) -> None:
        """
        Its type, the slots it was sent to, those that may still respond, and how many clients wait.  Never its name:
        the traceback of a KeyError has the repr of its key, and tracebacks are logged.
        """
        query = make()
        self.assertEqual("<Query A: sent to none, awaiting none, 0 clients>", repr(query))
        self.inflight.add(query, (1, 0))
        query.awaiting = (0,)
        query.waiting += [request_of(OCTETS)] * 2
        self.assertEqual("<Query A: sent to 1+0, awaiting 0, 2 clients>", repr(query))
        self.assertEqual("<Query TYPE65300: sent to none", repr(make(octets=make_query("www.test.", 65300)))[:30])

    def test_nothing(self) -> None:
        """
        Without queries nothing is due.
        """
        self.assertIsNone(self.inflight.next_due([1.0, 1.0]))
        self.assertEqual([], self.inflight.overdue(1e9, [1.0, 1.0]))
        self.assertEqual((0, []), (len(self.inflight), list(self.inflight)))

    def test_each_upstream_has_its_delay(self) -> None:
        """
        A query is due when the delay of the upstream it was sent to has passed since it was asked.
        """
        quick, slow = self.add(0, 1.0), self.add(1, 1.0)
        delays = [0.25, 0.5]
        self.assertEqual([], self.inflight.overdue(1.2, delays))
        self.assertEqual([quick], self.inflight.overdue(1.25, delays))
        self.assertEqual([quick, slow], self.inflight.overdue(1.5, delays))
        self.assertEqual(1.25, self.inflight.next_due(delays))
        self.assertEqual(1.5, self.inflight.next_due([1.0, 0.5]))

    def test_in_the_order_they_were_asked(self) -> None:
        """
        The oldest is due first; what follows it may not be.
        """
        first, second, third = self.add(0, 1.0), self.add(0, 1.1), self.add(0, 1.2)
        self.assertEqual([first, second], self.inflight.overdue(2.1, [1.0, 1.0]))
        self.assertEqual([first, second, third], list(self.inflight))
        self.inflight.take(first)
        self.assertEqual(2.1, self.inflight.next_due([1.0, 1.0]))

    def test_postponed(self) -> None:
        """
        It has a time of its own then, whatever the delays.
        """
        query = self.add(0, 1.0)
        self.inflight.reschedule(query, 3.0)
        self.assertEqual(1, len(self.inflight))
        self.assertEqual([], self.inflight.overdue(2.9, [0.0, 0.0]))
        self.assertEqual([query], self.inflight.overdue(3.0, [9.0, 9.0]))
        self.assertEqual(3.0, self.inflight.next_due([0.0, 0.0]))
        self.inflight.reschedule(query, 2.0)
        self.assertEqual((2.0, [query]), (self.inflight.next_due([0.0, 0.0]), list(self.inflight)))

    def test_never_later_than_its_deadline(self) -> None:
        """
        At the deadline it is looked at in any case.
        """
        query = self.add(deadline=4.0)
        self.inflight.reschedule(query, 5.0)
        self.assertEqual(4.0, self.inflight.next_due([1.0, 1.0]))
        self.assertEqual([query], self.inflight.overdue(4.0, [1.0, 1.0]))

    def test_the_soonest_of_all(self) -> None:
        """
        Of those sent once and those postponed.
        """
        late = self.add(0, 0.0)
        self.add(1, 1.0)
        self.inflight.reschedule(late, 1.5)
        self.assertEqual(1.5, self.inflight.next_due([9.0, 1.0]))
        self.inflight.reschedule(late, 2.5)
        self.assertEqual(2.0, self.inflight.next_due([9.0, 1.0]))

    def test_taken_once(self) -> None:
        """
        Whoever takes it finishes it; nobody can take it again, wherever it was.
        """
        fresh, late = self.add(0), self.add(1)
        self.inflight.reschedule(late, 2.0)
        for query in (fresh, late):
            self.assertTrue(self.inflight.take(query))
            self.assertFalse(self.inflight.take(query))
        self.assertEqual((0, None), (len(self.inflight), self.inflight.next_due([1.0, 1.0])))

    def test_one_that_was_never_sent(self) -> None:
        """
        It can be postponed all the same, and is not there before.
        """
        query = make()
        self.assertFalse(self.inflight.take(query))
        self.inflight.reschedule(query, 1.0)
        self.assertEqual([query], list(self.inflight))
        self.assertTrue(self.inflight.take(query))


class QueryTests(SynchronousTestCase):
    """
    What is known of one query.
    """

    def test_untried(self) -> None:
        """
        An upstream is untried while it was not sent the query and is not given up.
        """
        query = make(order=(0, 1, 2))
        self.assertTrue(query.is_untried)
        query.attempts = (0, 0)
        query.given_up = (1,)
        self.assertTrue(query.is_untried)
        query.attempts += (2,)
        self.assertFalse(query.is_untried)

    def test_the_least_opt(self) -> None:
        """
        It is sent once more to the same upstream, without an OPT, and only once.
        """
        octets = OCTETS[:-2] + b"\0\4\xff\xfe\0\0"
        query = make(octets=octets)
        query.attempts, query.awaiting = (1, 0), (1, 0)
        self.assertTrue(query.reduce_opt(0))
        self.assertEqual(make_query("www.test.", A, edns=False), query.sent)
        self.assertEqual(((1, 0, 0), (1, 0)), (query.attempts, query.awaiting))
        sent = query.sent
        self.assertFalse(query.reduce_opt(0))
        self.assertEqual((sent, (1, 0, 0)), (query.sent, query.attempts))

    def test_not_more_than_three_sends(self) -> None:
        """
        RFC 9520 §3.1: three to one upstream are the most; others do not count.
        """
        octets = OCTETS[:-2] + b"\0\4\xff\xfe\0\0"
        query = make(octets=octets)
        query.attempts = (0, 0, 0)
        self.assertFalse(query.reduce_opt(0))
        self.assertEqual(octets, query.sent)
        query.attempts = (0, 0, 1)
        self.assertTrue(query.reduce_opt(0))


class ExplainTests(SynchronousTestCase):
    """
    What a client is told when no upstream responded.
    """

    def test_each_upstream_and_how_it_failed(self) -> None:
        """
        Errors in their order, then those that were sent the query and said nothing.
        """
        query = make(order=(0, 1, 2))
        query.attempts = (0, 1, 1, 0)
        query.errors = (ConnectionGone("read", "gone", "two"),)
        error = explain(query, LABELS)
        self.assertEqual(EDE_NETWORK_ERROR, error.code)
        self.assertEqual("two: read: gone; one: read: no answer in time", error.text)

    def test_no_upstream_was_reached(self) -> None:
        """
        The code says so if the query was sent to none (RFC 8914 §4.23).
        """
        query = make()
        query.errors = (Unreachable("tls", "no", "one"), Unreachable("connect", "refused", "two"))
        error = explain(query, LABELS)
        self.assertEqual(EDE_NO_REACHABLE_AUTHORITY, error.code)
        self.assertEqual("one: tls: no; two: connect: refused", error.text)
        query.errors += (BadReply("read", "odd", "three"),)
        self.assertEqual(EDE_NETWORK_ERROR, explain(query, LABELS).code)
