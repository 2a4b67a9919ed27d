"""
The supervisor of workers that are not there.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import Loaded, load, load_text
from dotproxy.config.model import Config
from dotproxy.config.schema import BY_KEY
from dotproxy.downstream.sockets import bind_both
from dotproxy.errors import ConfigError
from dotproxy.service.admin_commands import reload_command
from dotproxy.service.listening import ListeningSockets
from dotproxy.service.proxy import DRAIN
from dotproxy.service.readiness import START_INTERVAL, START_TIMEOUT
from dotproxy.service.reload import ConfigSource
from dotproxy.service.systemd import ServiceNotifier
from dotproxy.service.workers.channel import Refused
from dotproxy.service.workers.supervisor import WORKER_STOP_TIMEOUT, Supervisor
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.telemetry.report import UpstreamReport
from dotproxy.telemetry.status import State, UpstreamStatus
from dotproxy.testing.certificates import Authority
from tests.config.test_schema import folder
from tests.service.workers.processes import Process, Processes


class Told(ServiceNotifier):
    """
    What systemd is told.
    """

    def __init__(self) -> None:
        super().__init__({}, Processes())
        self.lines: list[str] = []

    def tell(self, *lines: str) -> None:
        self.lines += lines[:1]


class SupervisorTests(SynchronousTestCase):
    """
    Two or three of them.
    """

    def setUp(self) -> None:
        """
        See what is logged.
        """
        self.processes = Processes()
        self.manager = Told()
        self.loaded: Callable[[], Loaded] = ConfigSource().load_config
        self.logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def begin(self, count: int = 2, sockets: ListeningSockets | None = None, **settings: str) -> Supervisor:
        """
        Start one.
        """
        options = {"listen": ["127.0.0.1:0"], **{key: [value] for key, value in settings.items()}}
        config = load(options, {}).config
        supervisor = self.build(config, count, sockets)
        self.addCleanup(supervisor.sockets.close)
        supervisor.startService()
        return supervisor

    def build(self, config: Config, count: int = 2, sockets: ListeningSockets | None = None) -> Supervisor:
        """
        One that is not started; a reload loads ``self.loaded``.
        """
        source = ConfigSource(self.load_config)
        return Supervisor(
            config,
            self.processes,
            count,
            notifier=self.manager,
            source=source,
            sockets=sockets or ListeningSockets(),
        )

    def load_config(self) -> Loaded:
        return self.loaded()

    def told(self, process: Process, *names: str) -> list[Any]:
        """
        Which of these it was told since.
        """
        return [(message[2], message[3].get("name")) for message in process.said() if message[2] in names]

    def asked(self, process: Process, name: str) -> list[Any]:
        """
        The question of this name it was asked since.
        """
        return [message for message in process.said() if message[2] == name][-1]

    def test_workers_get_every_socket_and_their_part_of_totals(self) -> None:
        """
        Of every address one socket for each, on one port; a listening one is everybody's.  Each keeps a file of its own.
        """
        supervisor = self.begin(3, cache_size="100", cache_memory="300001", max_outstanding="7", cache_file="/tmp/kept")
        begun = [process.serve() for process in self.processes.all]
        self.assertEqual([["1", "2", "3", ""]] * 3, [each["sockets"] for each in begun])
        files = [load_text(each["config"]).config.cache_file for each in begun]
        self.assertEqual([Path("/tmp/kept.1"), Path("/tmp/kept.2"), Path("/tmp/kept.3")], files)
        config = load_text(begun[0]["config"]).config
        self.assertEqual((34, 100001, 3), (config.cache_size, config.cache_memory, config.max_outstanding))
        self.assertEqual(math.ceil(supervisor.config.client_rate / 3), config.client_rate)
        expected = replace(supervisor.config, cache_size=34, cache_file=Path("/tmp/kept.1"))
        self.assertEqual(expected, replace(config, **whole(supervisor.config)))
        files = [process.files for process in self.processes.all]
        self.assertEqual(files[0].keys(), files[1].keys())
        self.assertEqual({fd: files[0][fd] for fd in range(4, 8)}, {fd: files[2][fd] for fd in range(4, 8)})
        ports = {bound.getsockname()[1] for _, bound in supervisor.sockets.owned()}
        self.assertEqual((1, 4), (len(ports), len(supervisor.sockets.owned())))
        self.assertEqual([("127.0.0.1", *ports)], supervisor.addresses)

    def test_workers_share_sockets_for_tls_and_a_reload_takes_new_certificates(self) -> None:
        """
        They are everybody's; each reads the certificate by itself, and a reload with another one is told.
        """
        authority, where = Authority(), folder(self)
        authority.issue(["dot.test"]).write(where, "dot")
        supervisor = self.begin(
            listen_tls="127.0.0.1:0", tls_certificate=str(where / "dot.pem"), tls_key=str(where / "dot.key")
        )
        begun = [process.serve() for process in self.processes.all]
        self.assertEqual([["1", "2", "tls", ""]] * 2, [each["sockets"] for each in begun])
        self.assertEqual(1, len(supervisor._total_report().tls_addresses))
        authority.issue(["dot.test"]).write(where, "dot")
        self.loaded = lambda: Loaded(supervisor.config, dict.fromkeys(BY_KEY, "DOTPROXY"))
        self.assertEqual(["tls_certificate: new contents", "tls_key: new contents"], supervisor.reload())
        (where / "dot.pem").write_bytes(b"")
        self.assertRaises(ConfigError, supervisor.reload)

    def test_an_address_in_use_is_refused(self) -> None:
        """
        What is bound by another program is an error, as it is for one process.
        """
        datagrams, streams = bind_both("127.0.0.1", 0)
        for bound in (datagrams, streams):
            self.addCleanup(bound.close)
        config = load({"listen": [f"127.0.0.1:{datagrams.getsockname()[1]}"]}, {}).config
        supervisor = self.build(config)
        with self.assertRaisesRegex(Exception, "the address is in use"):
            supervisor.privilegedStartService()
        self.assertEqual([], supervisor.sockets.owned())

    def test_ready_when_all_workers_serve_and_upstreams_were_tried(self) -> None:
        """
        And each upstream was tried by one of them; systemd is told so once.
        """
        self.begin()
        self.processes.all[0].serve()
        self.assertEqual([], self.manager.lines)
        self.processes.all[1].serve()
        self.processes.advance(0)
        self.processes.all[0].report(upstreams=[upstream(State.UNVERIFIED)])
        self.processes.all[1].report(upstreams=[upstream(State.UNVERIFIED)])
        self.processes.advance(START_INTERVAL)
        self.assertEqual([], self.manager.lines)
        self.processes.all[1].report(upstreams=[upstream(State.UP)])
        self.processes.advance(START_INTERVAL)
        self.assertEqual(["READY=1"], self.manager.lines)
        self.assertIn("ready: 1 of 1 upstreams verified", [formatEvent(event) for event in self.logged])
        self.assertEqual(5, len(self.logged), "few lines at a start")
        self.processes.all[1].end(9)
        self.processes.advance(0)
        self.processes.all[2].serve()
        self.assertEqual(1, self.manager.lines.count("READY=1"))
        self.assertEqual("worker 2 (102) serves", formatEvent(self.logged[-1]))

    def test_ready_after_the_start_timeout_without_reports(self) -> None:
        """
        systemd does not wait for ever.
        """
        self.begin()
        for process in self.processes.all:
            process.serve()
        self.processes.pump([START_INTERVAL] * (int(START_TIMEOUT / START_INTERVAL) + 2))
        self.assertEqual(["READY=1"], self.manager.lines)

    def test_sockets_of_an_ended_worker_are_taken_over_and_released(self) -> None:
        """
        For one that cannot serve another reads, until it can again; for two, two, if there are two.
        """
        self.begin(3)
        one, two, three = self.processes.all
        one.serve()
        self.assertEqual([("take_over", "2"), ("take_over", "3")], self.told(one, "take_over", "release"))
        two.serve()
        three.serve()
        self.assertEqual([("release", "2"), ("release", "3")], self.told(one, "take_over", "release"))
        two.end(9)
        self.assertEqual([("take_over", "2")], self.told(one, "take_over"))
        one.end(9)
        self.assertEqual([("take_over", "1"), ("take_over", "2")], self.told(three, "take_over"))
        self.processes.advance(0)
        four, five = self.processes.all[3:]
        four.serve()
        self.assertEqual([("release", "2")], self.told(three, "take_over", "release"))
        five.serve()
        self.assertEqual([("release", "1")], self.told(three, "take_over", "release"))
        three.end(9)
        self.assertEqual([("take_over", "3")], self.told(five, "take_over") + self.told(four, "take_over"))

    def test_the_first_worker_to_return_takes_over_every_socket(self) -> None:
        """
        Whoever comes first stands in for all.
        """
        self.begin()
        for process in self.processes.all:
            process.serve()
        for process in self.processes.all[:2]:
            process.end(9)
        self.processes.advance(0)
        self.processes.all[3].serve()
        self.assertEqual([("take_over", "1")], self.told(self.processes.all[3], "take_over"))

    def test_passed_sockets_are_read_by_all_workers(self) -> None:
        """
        Are everybody's, and nobody has to stand in.
        """
        sockets = [bind_both("127.0.0.1", 0) for _ in range(2)]
        supervisor = self.begin(2, ListeningSockets(*map(list, zip(*sockets, strict=True))))
        begun = [process.serve() for process in self.processes.all]
        self.assertEqual([["1", "1", "", ""], ["2", "2", "", ""]], [each["sockets"] for each in begun])
        self.assertEqual([udp.getsockname() for udp, _ in sockets], supervisor.addresses)
        self.processes.all[0].end(9)
        self.assertEqual([], self.told(self.processes.all[1], "take_over", "release"))

    def test_report_is_the_sum_of_all_workers(self) -> None:
        """
        Those of all, once all have said; or what is known, if one does not.
        """
        supervisor = self.begin()
        self.assertEqual("nobody serves yet", self.successResultOf(supervisor.report()).not_ready)
        for process in self.processes.all:
            process.serve()
        report = supervisor.report()
        self.processes.all[0].report(entries=3, udp_drops=5)
        self.assertNoResult(report)
        self.processes.all[1].report(entries=4, udp_drops=5)
        whole = self.successResultOf(report)
        self.assertEqual((7, 0, 0, ""), (whole.entries, whole.udp_drops, whole.restarts, whole.not_ready))
        report = supervisor.report()
        self.processes.all[0].report(entries=30)
        self.processes.advance(2)
        self.assertEqual(34, self.successResultOf(report).entries)
        self.processes.all[1].report(entries=40)
        self.processes.all[0].end(9)
        self.assertEqual((40, 1), (supervisor._total_report().entries, supervisor._total_report().restarts))

    def test_reports_are_requested_each_second(self) -> None:
        """
        So that not more than a second of counting is lost with a process.
        """
        supervisor = self.begin()
        for process in self.processes.all:
            process.serve()
        self.processes.advance(1)
        self.processes.all[0].report(evicted=7)
        self.processes.all[1].report()
        self.processes.all[0].end(9)
        self.assertEqual(7, supervisor._total_report().evicted)

    def test_a_reload_reaches_every_worker(self) -> None:
        """
        All get it, and those that come later; what takes a restart stays; what cannot be used changes nothing.
        """
        supervisor = self.begin()
        for process in self.processes.all:
            process.serve()
        self.assertRaises(ConfigError, supervisor.reload)

        def load_config(**settings: str) -> Loaded:
            return load({key: [value] for key, value in settings.items()}, {})

        self.loaded = lambda: load_config(query_timeout="3", listen="127.0.0.1:1")
        changes = supervisor.reload()
        self.assertEqual(["listen changes with the next start", "query_timeout is 3s, was 4s"], changes)
        for process in self.processes.all:
            apply_config = self.asked(process, "apply_config")
            config = load_text(apply_config[3]["config"]).config
            self.assertEqual((3.0, supervisor.config.listen), (config.query_timeout, config.listen))
            process.answer(apply_config, "the CA is gone", "refuse")
        self.assertIn("worker 2 keeps its configuration: the CA is gone", [formatEvent(event) for event in self.logged])
        self.assertEqual(["RELOADING=1", "READY=1"], self.manager.lines[-2:])
        self.loaded = lambda: load_config(query_timeout="-1")
        self.assertRaises(ConfigError, supervisor.reload)
        with self.assertRaisesRegex(ValueError, "query_timeout"):
            reload_command(supervisor)
        self.processes.all[0].end(9)
        self.processes.advance(0)
        self.assertEqual(3.0, load_text(self.processes.all[2].serve()["config"]).config.query_timeout)
        self.loaded = lambda: load_config(query_timeout="2")
        self.assertEqual({"changes": ["query_timeout is 2s, was 3s"]}, without_listen(reload_command(supervisor)))

    def test_a_starting_worker_gets_a_reload_after_its_first_configuration(self) -> None:
        """
        It has begun with the old one, and gets the new one after that.
        """
        supervisor = self.begin()
        self.processes.all[0].serve()
        self.loaded = lambda: load({"query_timeout": ["3"]}, {})
        supervisor.reload()
        said = [
            (message[2], load_text(message[3]["config"]).config.query_timeout)
            for message in self.processes.all[1].said()
        ]
        self.assertEqual([("begin", 4.0), ("apply_config", 3.0)], said)

    def test_flush_runs_in_every_worker(self) -> None:
        """
        Everybody does them; what one cannot is not done.
        """
        supervisor = self.begin()
        for process in self.processes.all:
            process.serve()
        flushed = supervisor.flush({"name": "x"})
        for number, process in enumerate(self.processes.all):
            asked = self.asked(process, "flush")
            self.assertEqual({"name": "x"}, asked[3])
            process.answer(asked, {"flushed": number + 3})
        self.assertEqual({"flushed": 7}, self.successResultOf(flushed))
        flushed = supervisor.flush({})
        self.processes.all[1].answer(self.asked(self.processes.all[1], "flush"), "there is no cache", "refuse")
        self.assertEqual("there is no cache", str(self.failureResultOf(flushed, Refused).value))

    def test_log_level_reaches_present_and_later_workers(self) -> None:
        """
        Also for those that come later.
        """
        supervisor = self.begin()
        for process in self.processes.all:
            process.serve()
        logged = supervisor.log({"level": "debug"})
        for process in self.processes.all:
            process.answer(self.asked(process, "log"), {"level": "debug"})
        self.assertEqual({"level": "debug"}, self.successResultOf(logged))
        self.processes.all[0].end(9)
        self.processes.advance(0)
        self.assertEqual("debug", load_text(self.processes.all[2].serve()["config"]).config.log_level)
        self.loaded = lambda: load({"log_level": ["debug"]}, {})
        supervisor.reload()
        self.loaded = lambda: load({}, {})
        self.assertIn("log_level is info, was debug", supervisor.reload())
        config = load_text(self.asked(self.processes.all[2], "apply_config")[3]["config"]).config
        self.assertEqual("info", config.log_level)

    def test_stop_drains_workers_and_kills_the_slow_ones(self) -> None:
        """
        No more questions; what is outstanding is answered; who does not end is ended.
        """
        supervisor = self.begin()
        for process in self.processes.all:
            process.serve()
        stopped = supervisor.stopService()
        self.assertEqual("it is stopping", supervisor._total_report().not_ready)
        self.assertEqual([], supervisor.addresses)
        supervisor.stop_now()
        for process in self.processes.all:
            self.assertEqual([("stop", None), ("stop_now", None)], self.told(process, "stop", "stop_now"))
        self.processes.all[0].end()
        self.processes.advance(DRAIN + WORKER_STOP_TIMEOUT - 0.1)
        self.assertNoResult(stopped)
        self.processes.advance(0.2)
        self.successResultOf(stopped)
        self.assertEqual(["KILL"], self.processes.all[1].signals)
        self.assertEqual((2, "STOPPING=1"), (len(self.processes.all), self.manager.lines[-1]))
        self.assertEqual([], self.processes.getDelayedCalls())

    def test_drain_command_stops_the_reactor(self) -> None:
        """
        By command.
        """
        supervisor = self.begin()
        stopped: list[str] = []
        self.processes.stop = lambda: stopped.append("stopped")
        self.assertEqual({"draining": True}, supervisor.drain({}))
        self.processes.advance(0)
        self.assertEqual(["stopped"], stopped)


def upstream(state: State) -> UpstreamReport:
    """
    An upstream in this state.
    """
    return UpstreamReport("u", UpstreamCounters(), UpstreamStatus(state), 0)


def whole(config: Config) -> dict[str, Any]:
    """
    What workers have parts of.
    """
    return {"cache_memory": config.cache_memory, "max_outstanding": config.max_outstanding} | {
        "tcp_max_connections": config.tcp_max_connections,
        "client_rate": config.client_rate,
    }


def without_listen(answer: dict[str, Any]) -> dict[str, Any]:
    """
    Where it listens has to be another port in each of these tests.
    """
    return {"changes": [change for change in answer["changes"] if not change.startswith("listen")]}
