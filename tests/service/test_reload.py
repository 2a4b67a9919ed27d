"""
Half-written configuration files: what a reload, and a start, make of a file that was cut off at any octet.

What must hold is said here once more and independently of the rule in ``config.reload_refusals``: whoever is asked, believed
or served after it was asked, believed or served before.
"""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import Loaded, load
from dotproxy.config.model import Config
from dotproxy.errors import ConfigError
from dotproxy.service.assembly import build
from dotproxy.service.listening import ListeningSockets
from dotproxy.service.proxy import Proxy
from dotproxy.service.reload import ConfigSource, log
from dotproxy.service.workers.supervisor import Supervisor
from dotproxy.testing.certificates import Authority
from tests import rounds
from tests.config.test_schema import folder
from tests.service.workers.test_supervisor import Processes, Told

#: How many octets one beginning of a file is longer than the one before.
STEP = rounds(1, quick=2)

PIN = "sxDbe4S5sNkmkqq8b5EdBi7RKtEY5hhR23rHRLMRTMs="

#: As an office has it: two servers of its own, one in tables with pins.
IN_A_LIST = """\
# DNS for the office
listen = ["127.0.0.1:0"]
query_timeout = 3
upstream = ["tls://10.0.0.53#dns.corp.example?pin-sha256={pin}", "tls://10.0.0.54:8853#dns.corp.example"]
policy = "fastest"
ca_file = "{ca_file}"
client_certificate = "{certificate}"
client_key = "{key}"
tls_minimum = "1.3"
tls_ciphers = "ECDHE+AESGCM"
bootstrap = ["tls://10.0.0.54#dns.corp.example"]
allow_from = ["10.0.0.0/24"]  # the office, not the guests
padding = 256
"""

IN_TABLES = """\
listen = ["127.0.0.1:0"]
ca_file = "{ca_file}"
allow_from = "10.0.0.0/24"

[[upstream]]
address = "10.0.0.53"
name = "dns.corp.example"
port = 8853
pin_sha256 = ["{pin}"]
weight = 30

[[upstream]]
address = "10.0.0.54"
pin_sha256 = "{pin}"
name = "dns.corp.example"
"""


def believed(config: Config) -> set[tuple[Any, ...]]:
    """
    Who is asked, and how each has to show who it is; whatever the port, which may lose digits.
    """
    return {
        (tuple(host for host, _ in one.addresses), one.host, one.name, one.pins, one.preset) for one in config.upstream
    }


def is_no_wider(config: Config, before: Config) -> bool:
    """
    Whether nobody is asked, believed or served who was not before.
    """
    others = ("ca_file", "client_certificate", "client_key", "tls_minimum", "tls_ciphers", "bootstrap")
    return (
        believed(config) <= believed(before)
        and set(config.allow_from) <= set(before.allow_from)
        and all(getattr(config, key) == getattr(before, key) for key in others)
    )


class HalfWrittenTests(SynchronousTestCase):
    """
    Two files, cut off at every octet.
    """

    def setUp(self) -> None:
        """
        Write the files of the office; see what is logged.
        """
        self.folder = folder(self)
        self.file = self.folder / "dotproxy.toml"
        authority = Authority()
        certificate, key = authority.issue(["client.corp.example"]).write(self.folder, "client")
        ca_file = self.folder / "ca.pem"
        ca_file.write_bytes(authority.pem)
        names = {"ca_file": ca_file, "certificate": certificate, "key": key, "pin": PIN}
        self.texts = [text.format(**names).encode() for text in (IN_A_LIST, IN_TABLES)]
        self.logged: list[str] = []
        self.patch(log, "observer", lambda event: self.logged.append(str(event.get("problem", ""))))

    def loaded(self) -> Loaded:
        """
        What is in the file now.
        """
        return load({}, {}, str(self.file))

    def proxy(self) -> Proxy:
        """
        A proxy with the file as it is.
        """
        return build(self.loaded().config, Clock(), source=ConfigSource(self.loaded))

    def supervisor(self) -> Supervisor:
        """
        Two workers with the file as it is.
        """
        processes = Processes()
        supervisor = Supervisor(
            self.loaded().config,
            processes,
            2,
            notifier=Told(),
            source=ConfigSource(self.loaded),
            sockets=ListeningSockets(),
        )
        supervisor.startService()
        self.addCleanup(supervisor.sockets.close)
        for process in processes.all:
            process.serve()
        return supervisor

    def cut_everywhere(self, text: bytes, running: Any) -> tuple[int, int]:
        """
        Reload each beginning of a file; return how many were refused, and how many accepted.
        """
        before, refused = running.config, 0
        lengths = range(0, len(text), STEP)
        for length in lengths:
            self.file.write_bytes(text[:length])
            self.logged.clear()
            try:
                running.reload()
            except ConfigError as error:
                refused += 1
                self.assertEqual(before, running.config, text[:length])
                self.assertEqual(error.problems, [line for line in self.logged if line])
            else:
                self.assertTrue(is_no_wider(running.config, before), text[:length])
                self.file.write_bytes(text)
                running.reload()
                self.assertEqual(before, running.config)
        return refused, len(lengths) - refused

    def test_reload_of_any_truncated_file_widens_nothing(self) -> None:
        """
        Either nothing changes, or nobody more is asked, believed or served.
        """
        for text in self.texts:
            self.file.write_bytes(text)
            refused, accepted = self.cut_everywhere(text, self.proxy())
            self.assertGreater(refused, len(text) / STEP * 0.8)
            self.assertGreater(accepted, 1, "the last settings may be missing")

    def test_reload_of_any_truncated_file_widens_nothing_with_workers(self) -> None:
        """
        The same, where the supervisor decides for them.
        """
        for text in self.texts:
            self.file.write_bytes(text)
            refused, accepted = self.cut_everywhere(text, self.supervisor())
            self.assertGreater(refused, len(text) / STEP * 0.8)
            self.assertGreater(accepted, 1)

    def test_start_with_any_truncated_file_is_refused_or_logged(self) -> None:
        """
        Either it is refused, or it names whom to ask, or a line says whom the default asks.
        """
        counts = {"refused": 0, "named": 0, "told": 0}
        for text in self.texts:
            for length in range(0, len(text), STEP):
                self.file.write_bytes(text[:length])
                try:
                    loaded = self.loaded()
                except ConfigError:
                    counts["refused"] += 1
                    continue
                if loaded.sources["upstream"] == str(self.file):
                    counts["named"] += 1
                    self.assertEqual((), loaded.notes)
                else:
                    counts["told"] += 1
                    self.assertEqual(
                        (f"no upstream in {self.file}: asking cloudflare and quad9, over TLS",), loaded.notes
                    )
        self.assertTrue(all(counts.values()), counts)

    def test_whole_file_is_accepted_and_changes_nothing(self) -> None:
        """
        Is accepted, and changes nothing.
        """
        for text in self.texts:
            self.file.write_bytes(text)
            self.assertEqual([], self.proxy().reload())
            self.assertEqual([], self.supervisor().reload())


class WarningTests(SynchronousTestCase):
    """
    What is said of a configuration that opens something.
    """

    def test_reload_logs_new_warnings_only(self) -> None:
        """
        Once, and not again with the next reload.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text('listen = ["0.0.0.0:0"]\nallow_from = ["10.0.0.0/8"]\n')
        source = ConfigSource(lambda: load({}, {}, str(path)))
        proxy = build(source.load_config().config, Clock(), source=source)
        lines: list[str] = []
        self.patch(log, "observer", lambda event: lines.append(str(event.get("warning", ""))))
        path.write_text('listen = ["0.0.0.0:0"]\nallow_from = ["0.0.0.0/0"]\n')
        proxy.reload()
        (warning,) = filter(None, lines)
        self.assertIn(f"allow_from ({path}): 0.0.0.0/0 with a listener on 0.0.0.0:0 is an open resolver", warning)
        proxy.reload()
        self.assertEqual([warning], list(filter(None, lines)))
