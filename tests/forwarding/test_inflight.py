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

    def test_nothing_is_due_without_queries(self) -> None:
        """
        Without queries nothing is due.
        """
        self.assertIsNone(self.inflight.next_due([1.0, 1.0]))
        self.assertEqual([], self.inflight.overdue(1e9, [1.0, 1.0]))
        self.assertEqual((0, []), (len(self.inflight), list(self.inflight)))

    def test_query_is_due_after_the_delay_of_its_upstream(self) -> None:
        """
        A query is due when the delay of the upstream it was sent to has passed since the send.
        """
        quick, slow = self.add(0, 1.0), self.add(1, 1.0)
        delays = [0.25, 0.5]
        self.assertEqual([], self.inflight.overdue(1.2, delays))
        self.assertEqual([quick], self.inflight.overdue(1.25, delays))
        self.assertEqual([quick, slow], self.inflight.overdue(1.5, delays))
        self.assertEqual(1.25, self.inflight.next_due(delays))
        self.assertEqual(1.5, self.inflight.next_due([1.0, 0.5]))

    def test_queries_are_due_in_the_order_of_their_sends(self) -> None:
        """
        The oldest is due first; the next one may not be due yet.
        """
        first, second, third = self.add(0, 1.0), self.add(0, 1.1), self.add(0, 1.2)
        self.assertEqual([first, second], self.inflight.overdue(2.1, [1.0, 1.0]))
        self.assertEqual([first, second, third], list(self.inflight))
        self.inflight.take(first)
        self.assertEqual(2.1, self.inflight.next_due([1.0, 1.0]))

    def test_rescheduled_query_has_its_own_time(self) -> None:
        """
        It is due then, whatever the delays.
        """
        query = self.add(0, 1.0)
        self.inflight.reschedule(query, 3.0)
        self.assertEqual(1, len(self.inflight))
        self.assertEqual([], self.inflight.overdue(2.9, [0.0, 0.0]))
        self.assertEqual([query], self.inflight.overdue(3.0, [9.0, 9.0]))
        self.assertEqual(3.0, self.inflight.next_due([0.0, 0.0]))
        self.inflight.reschedule(query, 2.0)
        self.assertEqual((2.0, [query]), (self.inflight.next_due([0.0, 0.0]), list(self.inflight)))

    def test_query_is_due_at_its_deadline_at_the_latest(self) -> None:
        """
        At the deadline it is due in any case.
        """
        query = self.add(deadline=4.0)
        self.inflight.reschedule(query, 5.0)
        self.assertEqual(4.0, self.inflight.next_due([1.0, 1.0]))
        self.assertEqual([query], self.inflight.overdue(4.0, [1.0, 1.0]))

    def test_next_due_time_is_the_soonest_of_all(self) -> None:
        """
        Of the first attempts and the rescheduled ones.
        """
        late = self.add(0, 0.0)
        self.add(1, 1.0)
        self.inflight.reschedule(late, 1.5)
        self.assertEqual(1.5, self.inflight.next_due([9.0, 1.0]))
        self.inflight.reschedule(late, 2.5)
        self.assertEqual(2.0, self.inflight.next_due([9.0, 1.0]))

    def test_query_is_taken_once(self) -> None:
        """
        Taking it removes it from every table; it cannot be taken again.
        """
        fresh, late = self.add(0), self.add(1)
        self.inflight.reschedule(late, 2.0)
        for query in (fresh, late):
            self.assertTrue(self.inflight.take(query))
            self.assertFalse(self.inflight.take(query))
        self.assertEqual((0, None), (len(self.inflight), self.inflight.next_due([1.0, 1.0])))

    def test_unsent_query_can_be_rescheduled(self) -> None:
        """
        It is in no table before that.
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

    def test_upstream_is_untried_until_sent_or_given_up(self) -> None:
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

    def test_query_is_resent_without_opt_once(self) -> None:
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

    def test_upstream_has_three_sends_at_most(self) -> None:
        """
        RFC 9520 §3.1: three sends to one upstream; those to others do not count.
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

    def test_explanation_names_each_upstream_and_its_failure(self) -> None:
        """
        Errors in their order, then upstreams that were sent the query and did not reply.
        """
        query = make(order=(0, 1, 2))
        query.attempts = (0, 1, 1, 0)
        query.errors = (ConnectionGone("read", "gone", "two"),)
        error = explain(query, LABELS)
        self.assertEqual(EDE_NETWORK_ERROR, error.code)
        self.assertEqual("two: read: gone; one: read: no answer in time", error.text)

    def test_explanation_code_tells_whether_an_upstream_was_reached(self) -> None:
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
