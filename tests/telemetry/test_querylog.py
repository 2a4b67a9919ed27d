"""
What the query log says of each response: how long it took, where it came from, and what is wrong with it.
"""

import io
import json
from typing import Any

import dns.edns
import dns.message
import dns.rcode
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout, Unreachable
from dotproxy.forwarding.forwarder import STALE_AFTER
from dotproxy.telemetry.lines import as_json
from dotproxy.telemetry.querylog import QueryLog
from tests.forwarding.test_forwarder import OUTSIDER
from tests.forwarding.test_forwarder_cache import TTL, CachedScene, question, reply_to


class LoggedScene(CachedScene):
    """
    A forwarder with a query log, whose lines are JSON.
    """

    def __init__(self, upstreams: int = 1, **settings: Any) -> None:
        super().__init__(upstreams, **settings)
        queries = QueryLog(is_clear=True, sample=1.0, key=b"", chance=lambda: 0.0)
        self.forwarder.delivery.query_log = queries
        self._out = io.StringIO()
        self._observer = as_json(self._out)

    def __enter__(self) -> "LoggedScene":
        globalLogPublisher.addObserver(self._observer)
        return self

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self._observer)

    def lines(self) -> list[dict[str, Any]]:
        """
        What was logged, and taken away.
        """
        text = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        events = [json.loads(line) for line in text.splitlines()]
        return [event for event in events if event["namespace"] == "dotproxy.queries"]

    def line(self) -> dict[str, Any]:
        """
        The one line there is.
        """
        (line,) = self.lines()
        return line


def told(line: dict[str, Any], *keys: str) -> tuple[Any, ...]:
    """
    Some fields of a line; None for one that is not there.
    """
    return tuple(line.get(key) for key in keys)


class QueryLogTests(SynchronousTestCase):
    """
    A line for each response.
    """

    def scene(self, upstreams: int = 1, **settings: Any) -> LoggedScene:
        """
        A scene that is logged until the test ends.
        """
        scene = LoggedScene(upstreams, **settings)
        scene.__enter__()
        self.addCleanup(scene.__exit__)
        return scene

    def test_miss_has_the_upstream_and_its_time(self) -> None:
        """
        A cache miss has its upstream's label, and the time until the response came.
        """
        scene = self.scene()
        scene.ask(question())
        scene.clock.advance(0.0125)
        scene.reply()
        line = scene.line()
        self.assertEqual(
            ("udp", "127.0.0.1", "www.lab.example.", "A", 1, "NOERROR"),
            told(line, "transport", "client", "name", "type", "qtype", "rcode"),
        )
        self.assertEqual(("upstream", "u0", 12.5, None), told(line, "source", "upstream", "duration_ms", "ede"))
        ((octets, _),) = scene.listener.answers
        self.assertEqual(len(octets), line["octets"])
        self.assertEqual(f"udp 127.0.0.1 www.lab.example. A NOERROR {len(octets)} 12.5 upstream u0 -", line["message"])

    def test_cache_hit_has_no_upstream(self) -> None:
        """
        A cache hit says so, whether by the same octets or others; there is no upstream to it.
        """
        scene = self.scene()
        scene.know(question())
        scene.lines()
        scene.ask(question("WWW.lab.example.", id=7))
        scene.ask(question("WWW.lab.example.", id=8))
        scene.ask(question("www.LAB.example."), question("WWW.lab.example.", id=9))
        self.assertEqual(
            [("cache", None, 0.0)] * 4, [told(x, "source", "upstream", "duration_ms") for x in scene.lines()]
        )

    def test_joined_query_is_marked_and_has_its_own_time(self) -> None:
        """
        Who waited with a query in flight is told apart, and its time begins with its own query.
        """
        scene = self.scene()
        scene.ask(question(id=1))
        scene.clock.advance(0.1)
        scene.ask(question(id=2))
        scene.clock.advance(0.1)
        scene.reply()
        self.assertEqual(
            [("upstream", "u0", 200.0), ("joined", "u0", 100.0)],
            [told(line, "source", "upstream", "duration_ms") for line in scene.lines()],
        )

    def test_line_has_the_upstream_that_responded(self) -> None:
        """
        If the first upstream did not, the line has the label of the one that did.
        """
        scene = self.scene(2)
        scene.ask(question())
        sent = scene.asked[0]
        scene.upstreams[0].fail(Timeout("read", "silent"), is_final=True)
        scene.upstreams[1].answer(reply_to(sent))
        self.assertEqual(("upstream", "u1"), told(scene.line(), "source", "upstream"))

    def test_fallback_servfail_has_the_upstream_that_sent_it(self) -> None:
        """
        A SERVFAIL that turned out to be the best there is has the label of who gave it.
        """
        scene = self.scene(2)
        scene.ask(question())
        sent = scene.asked[0]
        scene.upstreams[0].answer(reply_to(sent, rcode=2))
        scene.upstreams[1].fail(Unreachable("connect", "refused"), is_final=True)
        self.assertEqual(("upstream", "u0", "SERVFAIL"), told(scene.line(), "source", "upstream", "rcode"))

    def test_failure_has_the_extended_error_code(self) -> None:
        """
        The line has the code of the Extended DNS Error, also if the client has no EDNS to be told it by.
        """
        for edns in (0, -1):
            scene = self.scene()
            scene.ask(question(use_edns=edns))
            scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
            self.assertEqual(("failed", None, "SERVFAIL", 22), told(scene.line(), "source", "upstream", "rcode", "ede"))
            scene.ask(question("WWW.lab.example.", use_edns=edns))

    def test_cached_failure_is_marked_with_its_code(self) -> None:
        """
        It comes from the failure cache (RFC 9520 §3.2), with the code of the upstream's reason, if it gave one.
        """
        scene = self.scene()
        scene.ask(question())
        reply = dns.message.from_wire(reply_to(scene.asked[0], rcode=2))
        reply.use_edns(0, options=[dns.edns.EDEOption(6, "bogus")])
        scene.upstreams[0].answer(reply.to_wire())
        self.assertEqual(("upstream", "u0", 6), told(scene.line(), "source", "upstream", "ede"))
        scene.ask(question())
        self.assertEqual(("failure_cache", None, 6), told(scene.line(), "source", "upstream", "ede"))

    def test_stale_response_is_marked(self) -> None:
        """
        A stale response says so, however it came to be given: patience at an end, a failure, a failure before.
        """
        scene = self.scene()
        scene.know(question())
        scene.lines()
        scene.pass_time(TTL + 1)
        scene.ask(question())
        scene.clock.advance(STALE_AFTER)
        self.assertEqual(("stale", None, 3), told(scene.line(), "source", "upstream", "ede"))
        scene.clock.advance(0.1)
        scene.ask(question("WWW.lab.example."))
        self.assertEqual(("stale", 0.0), told(scene.line(), "source", "duration_ms"))
        scene.clock.advance(4)
        scene.ask(question("wWW.lab.example."))
        self.assertEqual(("stale", 0.0), told(scene.line(), "source", "duration_ms"))

    def test_local_responses_are_marked(self) -> None:
        """
        What is refused or answered here is local: a client that is not served, a special name, rubbish, too much.
        """
        scene = self.scene(forwarded=(), max_outstanding=0)
        scene.ask(question("x.onion."), b"\0\7\1\0\0\2" + bytes(6))
        scene.ask(question(), client=OUTSIDER)
        scene.ask(question())
        self.assertEqual(
            [
                ("local", "NXDOMAIN", "A", None),
                ("local", "FORMERR", "-", None),
                ("local", "REFUSED", "A", 18),
                ("local", "SERVFAIL", "A", 0),
            ],
            [told(line, "source", "rcode", "type", "ede") for line in scene.lines()],
        )

    def test_type_is_logged_by_name_or_number(self) -> None:
        """
        A type has its name, one without a name its number (RFC 3597 §5).
        """
        scene = self.scene(forwarded=())
        for rtype in ("HTTPS", "TYPE65280"):
            scene.ask(dns.message.make_query("x.onion.", rtype).to_wire())
        self.assertEqual([("HTTPS", 65), ("TYPE65280", 65280)], [told(x, "type", "qtype") for x in scene.lines()])

    def test_each_query_of_a_batch_has_its_line(self) -> None:
        """
        Of what came together each has its own line.
        """
        scene = self.scene(forwarded=())
        scene.know(question())
        scene.lines()
        scene.ask(question("x.onion."), question(), question("other.lab.example."), question("y.invalid."))
        self.assertEqual(["local", "cache", "local"], [line["source"] for line in scene.lines()])
        self.assertEqual(1, len(scene.asked))
        scene.reply()
        self.assertEqual("upstream", scene.line()["source"])

    def test_log_holds_nothing_after_the_responses(self) -> None:
        """
        When everybody is answered the log holds nothing any more.
        """
        scene = self.scene()
        scene.ask(question(id=1), question(id=2), question("x.lab.example."))
        scene.clock.advance(5)
        self.assertEqual(3, len(scene.lines()))
        queries = scene.forwarder.delivery.query_log
        self.assertEqual(({}, {}), (queries._notes, queries._joined))


class NoQueryLogTests(SynchronousTestCase):
    """
    Without a query log.
    """

    def test_nothing_is_recorded_without_a_query_log(self) -> None:
        """
        There is nobody to be told, by default.
        """
        self.assertIsNone(CachedScene().forwarder.delivery.query_log)
