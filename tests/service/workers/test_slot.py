"""
Worker slots: how a worker process is started, watched, replaced and stopped.
"""

import os
import signal
import socket
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.logger import LogLevel, eventAsJSON, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.workers import slot as module
from dotproxy.service.workers.channel import Gone
from dotproxy.service.workers.slot import MISSED_CHECKS, MISSED_CHECKS_AT_START, WorkerSlot
from tests.service.workers.processes import Process, Processes


class WorkerSlotTests(SynchronousTestCase):
    """
    One of them.
    """

    def setUp(self) -> None:
        """
        Start it.
        """
        self.processes = Processes()
        self.events: list[str] = []
        self.findings: list[dict[str, Any]] = []
        self.socket = socket.socket()
        self.addCleanup(self.socket.close)
        self.logged: list[dict[str, Any]] = []
        self.slot = WorkerSlot(
            "2",
            [self.socket],
            self.processes,
            self,
        )
        self.patch(os, "environ", {"HOME": "/x", "NOTIFY_SOCKET": "/n", "LISTEN_FDS": "1", "DOTPROXY_WORKERS": "2"})
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)
        self.slot.start()

    def first_message(self, slot: WorkerSlot) -> dict[str, Any]:
        return {"name": slot.name}

    def on_ready(self, slot: WorkerSlot) -> None:
        self.events.append("ready")

    def on_findings(self, slot: WorkerSlot, given: dict[str, Any]) -> None:
        self.findings.append(given)

    def on_exit(self, slot: WorkerSlot) -> None:
        self.events.append("exit")

    @property
    def process(self) -> Process:
        """
        The last one.
        """
        return self.processes.all[-1]

    def said(self) -> list[str]:
        """
        What was logged, as it is shown.
        """
        return [formatEvent(event) for event in self.logged]

    def test_process_gets_its_sockets_and_serves(self) -> None:
        """
        It is handed its sockets, and nothing of what is the supervisor's; it serves when it says so.
        """
        self.assertEqual([0, 1, 2, 3, 4], sorted(self.process.files))
        self.assertEqual(self.socket.fileno(), self.process.files[4])
        self.assertEqual({"HOME", "PYTHONPATH"}, set(self.process.environment))
        self.assertFalse(self.slot.is_serving)
        self.assertEqual({"name": "2"}, self.process.serve())
        self.assertEqual((True, 100, ["ready"]), (self.slot.is_serving, self.slot.pid, self.events))

    def test_the_first_restart_is_immediate_and_later_ones_back_off(self) -> None:
        """
        One that dies again soon after has to wait, each time longer; one that has lived a while has not.
        """
        self.process.serve()
        waits = []
        for lives in (20.0, 1.0, 1.0, 1.0, 1.0, 11.0, 0.0):
            self.processes.advance(lives)
            count = len(self.processes.all)
            self.process.end(9)
            began = self.processes.seconds()
            while len(self.processes.all) == count:
                self.processes.advance(0.05)
            waits.append(round(self.processes.seconds() - began - 0.05, 2))
            self.process.serve()
        self.assertEqual([0.0, 0.0, 0.05, 0.15, 0.35, 0.0, 0.0], waits)
        self.assertEqual(7, self.slot.restarts)
        self.assertEqual(["ready", *["exit", "ready"] * 7], self.events)
        self.assertIn("worker 2 (100) has ended: signal 9; the next is started at once", self.said())
        self.assertIn("worker 2 (102) has ended: signal 9; the next is started in 0.1 s", self.said())

    def test_counters_of_ended_processes_are_kept(self) -> None:
        """
        What was counted stays; what was so then is not so any more.
        """
        self.process.serve()
        for _ in range(2):
            self.slot.update()
            self.process.report(outstanding=3, evicted=5, udp_errors=1, processes=[["2", 1.5, 7]])
            whole = self.slot.whole_report()
            self.assertEqual((3, [("2", 1.5, 7)]), (whole.outstanding, whole.processes))
            self.process.end(11)
            whole = self.slot.whole_report()
            self.assertEqual((0, [], False), (whole.outstanding, whole.processes, not whole.not_ready))
            self.processes.advance(1)
            self.process.serve()
        self.assertEqual((10, 2), (whole.evicted, whole.udp_errors))

    def test_a_process_that_does_not_respond_is_killed(self) -> None:
        """
        Is ended; and is not, as long as it says anything.
        """
        self.process.serve()
        for _ in range(3 * MISSED_CHECKS):
            self.slot.check()
            self.process.report()
        for _ in range(MISSED_CHECKS):
            self.slot.check()
        self.assertEqual([], self.process.signals)
        self.slot.check()
        self.assertEqual((["KILL"], ["ready", "exit"]), (self.process.signals, self.events))
        self.assertIn("worker 2 (100) does not respond: it is killed", self.said())

    def test_killing_a_process_that_has_ended_already(self) -> None:
        """
        Cannot be ended any more, and that is no reason not to look at the others.
        """
        self.process.serve()

        def too_late(name: str) -> None:
            raise ProcessExitedAlready

        self.process.signalProcess = too_late
        self.slot.kill()
        self.assertTrue(self.slot.is_serving)

    def test_a_starting_process_may_be_silent_for_longer(self) -> None:
        """
        Has longer.
        """
        for _ in range(MISSED_CHECKS_AT_START - 1):
            self.slot.check()
        self.assertEqual([], self.process.signals)
        self.slot.check()
        self.assertEqual(["KILL"], self.process.signals)
        self.slot.check()

    def test_a_process_that_refuses_to_begin_is_killed(self) -> None:
        """
        Says why, and is ended.
        """
        (begin,) = self.process.said()
        self.process.answer(begin, "no such file", "refuse")
        self.assertIn("worker 2 cannot serve: no such file", self.said())
        self.assertEqual((["KILL"], False), (self.process.signals, self.slot.is_serving))

    def test_failed_spawn_is_retried_with_back_off(self) -> None:
        """
        Is tried again, each time later.
        """
        self.process.serve()
        real, failures = self.processes.spawnProcess, [OSError(13, "Permission denied", "python")] * 2

        def spawn(*given: Any, **more: Any) -> Any:
            if failures:
                raise failures.pop()
            return real(*given, **more)

        self.processes.spawnProcess = spawn
        self.process.end(9)
        self.processes.pump([0.05] * 40)
        self.process.serve()
        self.assertTrue(self.slot.is_serving)
        self.assertIn("it cannot be started: [Errno 13] Permission denied: 'python'", "".join(self.said()))

    def test_a_stopped_process_is_not_replaced(self) -> None:
        """
        It is told to stop, and not followed.
        """
        self.process.serve()
        left = self.slot.stop()
        self.assertEqual(["stop"], [message[2] for message in self.process.said()])
        self.assertNoResult(left)
        self.process.end()
        self.successResultOf(left)
        self.processes.advance(60)
        self.assertEqual((1, ["ready"]), (len(self.processes.all), self.events))
        self.successResultOf(self.slot.stop())
        self.slot.kill()
        self.slot.tell("stop")
        self.failureResultOf(self.slot.ask("flush"), Gone)

    def test_stop_cancels_a_pending_restart(self) -> None:
        """
        Then there is none.
        """
        self.process.end(9)
        self.processes.advance(0)
        self.process.end(9)
        count = len(self.processes.all)
        self.successResultOf(self.slot.stop())
        self.processes.advance(60)
        self.assertEqual(count, len(self.processes.all))

    def test_log_lines_and_output_carry_the_worker_name(self) -> None:
        """
        Lines of its are logged as its, also such as come from the interpreter itself.
        """
        event = {"log_format": "{upstream}: down", "upstream": "x", "log_namespace": "dotproxy", "log_time": 1.0}
        event |= {"log_level": LogLevel.info}
        self.process.say(["ask", 0, "log", {"event": eventAsJSON(event)}])
        self.process.protocol.errReceived(b"Fatal Python err")
        self.process.protocol.outReceived(b"or\nmore")
        self.assertEqual(["worker 2: x: down", "worker 2 printed: Fatal Python error"], self.said())
        self.assertEqual("2", self.logged[0]["worker"])

    def test_a_start_may_take_longer_than_a_reply(self) -> None:
        """
        A machine that is slow to start it is not taken for a fault.
        """
        self.assertLess(module.MISSED_CHECKS, module.MISSED_CHECKS_AT_START)
        self.assertEqual(9, signal.SIGKILL)
