"""
The form of log lines, and the query log.
"""

import ast
import io
import json
import os
from pathlib import Path
from string import Formatter
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import (
    LogEvent,
    Logger,
    LogLevel,
    eventAsJSON,
    eventFromJSON,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout, Untrusted
from dotproxy.policy.client import NO_PORT, Client
from dotproxy.telemetry import querylog
from dotproxy.telemetry.counters import UDP
from dotproxy.telemetry.lines import CHOICES, FORMATS, as_json, as_text, auto, for_journal, suitable_format
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.telemetry.querylog import QueryLog
from dotproxy.testing.client import make_query

EVENT = {
    "log_format": "{upstream}: went {where}",
    "log_namespace": "dotproxy",
    "log_level": LogLevel.warn,
    "log_time": 0.25,
    "upstream": "u1",
    "where": "döwn",
    "odd": object(),
}


class LinesTests(SynchronousTestCase):
    """
    One event, in each form.
    """

    def written(self, maker: Any, event: dict[str, Any] = EVENT) -> str:
        """
        What an observer writes.
        """
        out = io.StringIO()
        maker(out)(event)
        return out.getvalue()

    def test_json_line_is_one_object(self) -> None:
        """
        An object a line, with what the message is made of.
        """
        self.assertEqual(
            {
                "time": "1970-01-01T00:00:00.250+00:00",
                "level": "warn",
                "namespace": "dotproxy",
                "message": "u1: went döwn",
                "upstream": "u1",
                "where": "döwn",
            },
            json.loads(self.written(as_json)),
        )
        self.assertEqual(1, self.written(as_json).count("\n"))

    def test_journal_lines_have_their_priority(self) -> None:
        """
        Every line of it has its priority.
        """
        self.assertEqual("<4>u1: went döwn\n", self.written(for_journal))
        self.assertEqual("<6>a\n<6>b\n", self.written(for_journal, {"log_format": "a\nb"}))

    def test_text_line_has_date_and_level(self) -> None:
        """
        With date and level.
        """
        self.assertRegex(self.written(as_text), r"^1970-01-01T.* \[dotproxy#warn\] u1: went döwn\n$")

    def test_twisted_info_lines_are_omitted(self) -> None:
        """
        Warnings and errors of Twisted are logged; so are lines of other libraries.
        """
        for namespace in ("twisted.internet.base", "twisted.scripts._twistd_unix.UnixAppLogger", "log_legacy"):
            event = {"log_format": "reactor class", "log_namespace": namespace, "log_level": LogLevel.info}
            for maker in (as_text, as_json, for_journal, auto):
                self.assertEqual("", self.written(maker, event), maker)
                self.assertIn("reactor class", self.written(maker, {**event, "log_level": LogLevel.warn}))
                self.assertIn("reactor class", self.written(maker, {**event, "log_namespace": "stdout"}))

    def test_traceback_is_part_of_the_message(self) -> None:
        """
        A traceback is part of the message.
        """
        event = {**EVENT, "log_failure": Failure(ValueError("some reason"))}
        for maker in (as_json, for_journal):
            self.assertIn("some reason", self.written(maker, event))

    def test_lines_cannot_be_forged(self) -> None:
        """
        An event is one line, and nothing in it commands a terminal, whatever a certificate or an upstream says.
        """
        forged = "x\n<0>2026-01-01T00:00:00 [dotproxy#critical] forged\r\x1b[2J\x9b2J\u2028\u202e"
        event = {**EVENT, "upstream": forged, "where": Untrusted("verify", forged)}
        for maker in (as_text, as_json, for_journal):
            written = self.written(maker, event)
            self.assertEqual(1, len(written.splitlines()), maker)
            self.assertTrue(written.removesuffix("\n").isprintable(), maker)
            self.assertIn("x\\n<0>2026", written.replace("\\\\", "\\"))
        whole = json.loads(self.written(as_json, event))
        self.assertTrue(all(value.isprintable() for value in whole.values()), whole)

    def test_tracebacks_cannot_forge_lines(self) -> None:
        """
        Their lines are indented, and without control characters.
        """
        event = {**EVENT, "log_failure": Failure(ValueError("x\n<0>forged\x1b[2J"))}
        for maker in (as_text, for_journal):
            written = self.written(maker, event)
            self.assertEqual([], [line for line in written.splitlines() if line.startswith(("<0>", "forged"))])
            self.assertEqual("", "".join(one for one in written if not one.isprintable() and one not in "\n\t"))

    def test_format_is_chosen_by_the_output(self) -> None:
        """
        Text for a terminal, priorities for the journal, JSON for a file or a pipe.
        """

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        self.assertEqual("text", suitable_format(Terminal(), {}))
        self.assertEqual("json", suitable_format(io.StringIO(), {"JOURNAL_STREAM": "1:2"}))
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        with os.fdopen(write, "w") as out:
            where = os.fstat(out.fileno())
            self.assertEqual("journal", suitable_format(out, {"JOURNAL_STREAM": f"{where.st_dev}:{where.st_ino}"}))
            self.assertEqual("json", suitable_format(out, {"JOURNAL_STREAM": "1:2"}))
        self.assertIn('"message"', self.written(auto))
        self.assertEqual(set(FORMATS), set(CHOICES))


class Heard(SynchronousTestCase):
    """
    What is logged, in text.
    """

    def setUp(self) -> None:
        """
        An ear.
        """
        self.lines: list[str] = []

        def hear(event: dict[str, Any]) -> None:
            if str(event.get("log_namespace")).startswith("dotproxy"):
                self.lines.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)
        self.assertIsInstance(Logger("dotproxy"), Logger)


class SummedUpTests(Heard):
    """
    An upstream that goes down again and again.
    """

    def test_repeated_lines_are_summed_up_in_one(self) -> None:
        """
        Three times are told; what is more in the same minute is counted, and told at its end.
        """
        clock = Clock()
        events = LoggedEvents(clock=clock)
        for _ in range(12):
            events.upstream_went_down("u1", Timeout("read", "silent"))
            events.upstream_came_up("u1", 0.5, 1)
            clock.advance(1)
        events.upstream_went_down("u2", Timeout("read", "silent"))
        self.assertEqual(3, sum(line.startswith("u1: down: ") for line in self.lines))
        up_again = [line for line in self.lines if "up again" in line]
        self.assertEqual(["u1: up again after 0.5 s (1 failed attempt)"] * 3, up_again)
        clock.advance(60)
        self.assertEqual(["u1: down 12 times in 60 s"], [line for line in self.lines if "times" in line])
        self.lines.clear()
        events.upstream_went_down("u1", Timeout("read", "silent"))
        self.assertEqual(["u1: down: read: silent"], self.lines)


class FormatTests(SynchronousTestCase):
    """
    The formats of events.
    """

    def test_event_formats_have_no_format_specification(self) -> None:
        """
        What stands after a colon, as in {share:.0%}, is lost on the way from a worker to its supervisor.
        """
        package = Path(querylog.__file__).parent.parent
        found: list[str] = []
        formats = 0
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and "log" in ast.dump(node.func) and node.args:
                    text = node.args[0]
                    if isinstance(text, ast.Constant) and isinstance(text.value, str) and "{" in text.value:
                        formats += 1
                        found += [text.value for _, _, spec, _ in Formatter().parse(text.value) if spec]
        self.assertGreater(formats, 20)
        self.assertEqual([], found)


class QueryLogTests(Heard):
    """
    For those who want one.
    """

    def log_of(self, *, clear: bool = False, sample: float = 1.0, times: int = 1) -> list[str]:
        """
        What is logged of an answer.
        """
        chances = iter([0.0, 0.9] * 50)
        queries = QueryLog(is_clear=clear, sample=sample, key=b"k" * 32, chance=lambda: next(chances))
        queries.announce()
        reply = bytearray(make_query("WWW.test.", 1))
        reply[3] = 3
        queries.log_sent(UDP, [(bytes(reply), Client("192.0.2.7", 4711))] * times, 0.00125)
        return self.lines

    def test_names_and_clients_are_hashed(self) -> None:
        """
        Neither name nor client is to be read; both are the same each time.
        """
        announced, first, second = self.log_of(times=2)
        self.assertEqual("queries are logged: all of them, names and clients hashed", announced)
        self.assertEqual(first, second)
        self.assertRegex(first, r"^udp [0-9a-f]{16} [0-9a-f]{16} A NXDOMAIN 37 1.25 cache - -$")

    def test_the_share_survives_the_way_to_the_supervisor(self) -> None:
        """
        What a worker announces is a percentage also where its supervisor logs it.
        """
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        QueryLog(is_clear=False, sample=0.25, key=b"k", chance=lambda: 0.0).announce()
        passed_on = eventFromJSON(eventAsJSON(events[0]))
        self.assertEqual("queries are logged: 25 % of them, names and clients hashed", formatEvent(passed_on))

    def test_names_and_clients_are_clear_if_configured(self) -> None:
        """
        If that is what is wanted.
        """
        self.assertEqual("udp 192.0.2.7 www.test. A NXDOMAIN 37 1.25 cache - -", self.log_of(clear=True)[1])

    def test_configured_share_is_logged(self) -> None:
        """
        As many as were asked for.
        """
        self.assertEqual(1 + 5, len(self.log_of(sample=0.5, times=10)))

    def test_share_is_logged_in_words_or_percent(self) -> None:
        """
        Is told in words or percent, by a worker, too, whose events come to the supervisor as JSON without formats.
        """
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for sample, told in ((1.0, "all"), (0.1, "10 %"), (0.0005, "0.05 %"), (0.0, "none")):
            QueryLog(is_clear=True, sample=sample, key=b"", chance=lambda: 0.0).announce()
            expected = f"queries are logged: {told} of them, names and clients in clear"
            self.assertEqual([expected] * 2, [self.lines[-1], formatEvent(eventFromJSON(eventAsJSON(events[-1])))])

    def test_response_without_question_has_no_name(self) -> None:
        """
        Have no name.
        """
        queries = QueryLog(is_clear=True, sample=1.0, key=b"", chance=lambda: 0.0)
        queries.log_sent(UDP, [(bytes(12), Client("", NO_PORT))], 0.0)
        self.assertEqual(["udp - - - NOERROR 12 0.0 cache - -"], self.lines)
