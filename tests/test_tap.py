"""
The twistd plugin, and the command.
"""

import os
import sys
from io import StringIO
from typing import Any

from twisted.application.service import IService, IServiceMaker
from twisted.internet.task import Clock
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

import dotproxy
from dotproxy import cli, collector
from dotproxy.assembly import build
from dotproxy.collector import settle
from dotproxy.config.describe import example_file
from dotproxy.config.load import load
from dotproxy.config.schema import SETTINGS
from dotproxy.downstream.sockets import CannotBind, bind_both
from dotproxy.proxy import Proxy
from dotproxy.tap import Options, makeService
from tests.config.test_schema import folder


class CleanEnvironment(SynchronousTestCase):
    """
    Tests that no variable of the environment reaches.
    """

    def setUp(self) -> None:
        """
        Take away what is meant for another dotproxy.
        """
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}
        self.patch(os, "environ", clean)


class OptionsTests(CleanEnvironment):
    """
    twistd's command line.
    """

    def parse(self, *arguments: str) -> Options:
        """
        Options from arguments.
        """
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def test_the_plugin_is_found(self) -> None:
        """
        twistd finds one plugin named dotproxy, which makes a service of ours.
        """
        (maker,) = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "dotproxy"]
        self.assertIs(Options, maker.options)
        self.assertIs(makeService, maker.makeService)

    def test_every_setting_is_an_option(self) -> None:
        """
        Long and short forms, repeated or in lists.
        """
        for setting in SETTINGS:
            self.assertTrue(hasattr(Options, f"opt_{setting.key}"), setting.key)
        loaded = self.parse(
            "-l", "127.0.0.1:1,127.0.0.1:2", "-l", "[::1]:3", "-u", "quad9", "--udp-max-size", "4096"
        ).loaded
        assert loaded is not None
        self.assertEqual([1, 2, 3], [address.port for address in loaded.config.listen])
        self.assertEqual(("quad9", 4096), (str(loaded.config.upstream[0]), loaded.config.udp_max_size))

    def test_a_file_and_the_environment(self) -> None:
        """
        --config names a file; the environment wins over it.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text("query_timeout = 2\nattempt_timeout = 1")
        os.environ["DOTPROXY_ATTEMPT_TIMEOUT"] = "0.5"
        loaded = self.parse("--config", str(path)).loaded
        assert loaded is not None
        self.assertEqual((2.0, 0.5), (loaded.config.query_timeout, loaded.config.attempt_timeout))

    def test_mistakes_are_usage_errors(self) -> None:
        """
        Everything that is wrong is told, a line each.
        """
        error = self.assertRaises(UsageError, self.parse, "--policy", "best", "--query-timeout", "0")
        lines = str(error).splitlines()
        self.assertEqual(3, len(lines))
        self.assertIn("policy (--policy): 'best' is not a policy", lines[1])
        self.assertRaises(UsageError, self.parse, "--nonsense")

    def test_version(self) -> None:
        """
        --version prints ours and ends.
        """
        out = StringIO()
        self.patch(sys, "stdout", out)
        self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual(f"dotproxy {dotproxy.__version__}\n", out.getvalue())


class ServiceTests(CleanEnvironment):
    """
    The service twistd is given.
    """

    def options(self, *arguments: str) -> Options:
        """
        Options for a service that listens where nobody minds.
        """
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def test_it_is_a_proxy(self) -> None:
        """
        makeService gives what assembly builds.
        """
        service = makeService(self.options("-l", "127.0.0.1:0"))
        self.assertTrue(IService.providedBy(service))
        self.assertIsInstance(service, Proxy)

    def test_a_variable_that_means_nothing(self) -> None:
        """
        The start logs it once; a reload does not repeat it.
        """
        os.environ["DOTPROXY_POLICI"] = "random"
        lines: list[str] = []
        from dotproxy import proxy as proxy_module

        self.patch(proxy_module.log, "observer", lambda event: lines.append(str(event.get("warning"))))
        service: Any = makeService(self.options("-l", "127.0.0.1:0"))
        self.assertEqual("failover", service.reread().policy)
        warning = "DOTPROXY_POLICI (environment): no such setting, ignored; did you mean DOTPROXY_POLICY?"
        self.assertEqual([warning], lines)

    def test_an_address_that_cannot_be_bound(self) -> None:
        """
        Each listener that cannot be is a line in the log, and the exit code is 1; the others are not kept.
        """
        taken = bind_both("127.0.0.1", 0)
        for bound in taken:
            self.addCleanup(bound.close)
        number = taken[0].getsockname()[1]
        service: Any = makeService(self.options("-l", f"127.0.0.1:0,127.0.0.1:{number},192.0.2.1:1"))
        lines: list[str] = []
        self.patch(collector, "gc", None)
        from dotproxy import proxy as proxy_module

        self.patch(proxy_module.log, "observer", lambda event: lines.append(event["line"]))
        error = self.assertRaises(SystemExit, service.privilegedStartService)
        self.assertEqual(1, error.code)
        self.assertEqual(2, len(lines))
        self.assertIn("the address is in use", lines[0])
        self.assertIn("this machine has no such address", lines[1])

    def test_binding_fails_as_a_whole(self) -> None:
        """
        As a library it raises, and keeps no socket.
        """
        config = load({"listen": ["127.0.0.1:0,192.0.2.1:1"]}, {}).config
        proxy = build(config, Clock())
        self.assertRaises(CannotBind, proxy.privilegedStartService)

    def test_settling(self) -> None:
        """
        After the start the collector is told that what is there stays.
        """
        calls: list[str] = []

        class Collector:
            def __getattr__(self, name: str) -> Any:
                return lambda *given: calls.append(name)

        self.patch(collector, "gc", Collector())
        settle()
        self.assertEqual(["collect", "freeze", "set_threshold"], calls)


class CommandTests(CleanEnvironment):
    """
    The dotproxy command.
    """

    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        """
        Its exit code, output and complaints.
        """
        out, err = StringIO(), StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        return cli.main(arguments), out.getvalue(), err.getvalue()

    def test_usage(self) -> None:
        """
        Without a command it says which there are; a wrong one is named.
        """
        self.assertEqual((2, cli._USAGE, ""), self.run_command())
        self.assertEqual((0, cli._USAGE, ""), self.run_command("--help"))
        code, _, complaint = self.run_command("dance")
        self.assertEqual(2, code)
        self.assertIn("there is no command 'dance'", complaint)

    def test_version_and_example(self) -> None:
        """
        Both print and succeed.
        """
        code, out, err = self.run_command("--version")
        self.assertEqual((0, f"dotproxy {dotproxy.__version__}\n", ""), (code, out.replace(" (compiled)", ""), err))
        self.assertEqual((0, example_file(), ""), self.run_command("example"))

    def test_check(self) -> None:
        """
        A good configuration is printed with its sources, of a bad one every problem.
        """
        code, text, _ = self.run_command("check", "-u", "quad9")
        self.assertEqual(0, code)
        self.assertIn('["quad9"]  # --upstream', text)
        code, text, complaint = self.run_command("check", "-u", "quad", "--policy", "x")
        self.assertEqual((1, ""), (code, text))
        self.assertEqual(3, len(complaint.splitlines()))

    def test_check_with_a_variable_that_means_nothing(self) -> None:
        """
        A mistyped variable is one line beside the configuration, which is good; Kubernetes' are none.
        """
        os.environ |= {"DOTPROXY_POLICI": "random", "DOTPROXY_METRICS_SERVICE_HOST": "10.0.0.1"}
        code, text, complaint = self.run_command("check")
        self.assertEqual(0, code)
        self.assertIn('policy                 = "failover"  # default', text)
        warning = "DOTPROXY_POLICI (environment): no such setting, ignored; did you mean DOTPROXY_POLICY?"
        self.assertEqual(f"dotproxy check: {warning}\n", complaint)

    def test_run_is_twistd(self) -> None:
        """
        `dotproxy run` is twistd in the foreground, without a pid file, options passed on.
        """
        from twisted.scripts import twistd

        self.patch(sys, "argv", ["dotproxy"])
        ran: list[list[str]] = []
        self.patch(twistd, "run", lambda: ran.append(sys.argv))
        self.assertEqual(0, self.run_command("run", "-u", "quad9")[0])
        logger = "--logger=dotproxy.telemetry.lines.auto"
        self.assertEqual([["twistd", "--nodaemon", "--pidfile=", logger, "dotproxy", "-u", "quad9"]], ran)


class PackageTests(SynchronousTestCase):
    """
    What `import dotproxy` gives.
    """

    def test_what_there_is(self) -> None:
        """
        A version, the resolver when it is asked for, and nothing else.
        """
        from dotproxy.library import DoTResolver

        self.assertIs(DoTResolver, dotproxy.DoTResolver)
        self.assertRaises(AttributeError, lambda: dotproxy.Nonsense)
