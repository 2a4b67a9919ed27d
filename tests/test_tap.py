"""
The twistd plugin, and the command.
"""

import os
import signal
import sys
from io import StringIO
from typing import Any

import OpenSSL
from OpenSSL import SSL
from twisted.application.service import IService, IServiceMaker
from twisted.application.twist._options import TwistOptions
from twisted.internet.task import Clock
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

import dotproxy
from dotproxy import tap
from dotproxy.cli import control
from dotproxy.cli import main as cli
from dotproxy.config.describe import example_file
from dotproxy.config.load import load
from dotproxy.config.schema import SETTINGS
from dotproxy.downstream.sockets import CannotBind, bind_both
from dotproxy.service import gc_tuning, twistd_service
from dotproxy.service.assembly import build
from dotproxy.service.gc_tuning import freeze
from dotproxy.service.proxy import Proxy
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

    def test_twistd_finds_the_plugin(self) -> None:
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

    def test_environment_wins_over_the_file(self) -> None:
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

    def test_service_has_its_sources(self) -> None:
        """
        The service knows the file, the variables and the options.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text("query_timeout = 2")
        os.environ |= {"DOTPROXY_CONFIG": str(path), "DOTPROXY_PADDING": "64"}
        service: Any = makeService(self.parse("-l", "127.0.0.1:0", "-l", "[::1]:0"))
        self.assertEqual(f"{path}, --listen, DOTPROXY_PADDING", service.proxy._source.origin)

    def test_help_has_every_option_and_fits_the_terminal(self) -> None:
        """
        Every option with what it takes, no wider than the terminal.
        """
        text = Options().getUsage(width=72)
        for setting in SETTINGS:
            self.assertIn(f"--{setting.option}={setting.metavar}\n", text)
        self.assertIn("  -l, --listen=ADDR:PORT\n", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 72)

    def test_no_pid_file_as_another_user_in_the_foreground(self) -> None:
        """
        In the foreground, as another user, there is none, unless it is asked for.
        """

        def pid_file(*arguments: str) -> str:
            parent = ServerOptions()
            parent.parseOptions([*arguments, "dotproxy"])
            return str(parent["pidfile"])

        self.assertEqual("", pid_file("--nodaemon", "--uid", "65534"))
        self.assertEqual("/run/x.pid", pid_file("--nodaemon", "--uid", "65534", "--pidfile", "/run/x.pid"))
        for others in (("--nodaemon",), ("--uid", "65534")):
            self.assertTrue(pid_file(*others).endswith("/twistd.pid"))
        TwistOptions().parseOptions(["dotproxy"])  # which has no such options

    def test_version_option_prints_the_version(self) -> None:
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

    def setUp(self) -> None:
        """
        Hear what systemd is told.
        """
        super().setUp()
        self.told: list[str] = []
        self.patch(twistd_service, "notify", lambda address, *lines: self.told.extend(lines))

    def options(self, *arguments: str) -> Options:
        """
        Options for a service that listens where nobody minds.
        """
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def test_make_service_returns_a_proxy(self) -> None:
        """
        makeService returns a service whose child is what assembly builds.
        """
        service: Any = makeService(self.options("-l", "127.0.0.1:0"))
        self.assertTrue(IService.providedBy(service))
        self.assertIsInstance(service.proxy, Proxy)
        self.assertEqual([service.proxy], list(service))

    def test_unknown_variable_is_logged_at_the_start_only(self) -> None:
        """
        The start logs it once; a reload does not repeat it.
        """
        os.environ["DOTPROXY_POLICI"] = "random"
        lines: list[str] = []
        from dotproxy.service import reload as reload_module

        self.patch(reload_module.log, "observer", lambda event: lines.append(str(event.get("warning"))))
        service: Any = makeService(self.options("-l", "127.0.0.1:0"))
        self.assertEqual("failover", service.proxy._source.load_config().config.policy)
        warning = "DOTPROXY_POLICI (environment): no such setting, ignored; did you mean DOTPROXY_POLICY?"
        self.assertEqual([warning], lines)

    def test_bind_error_is_logged_and_exit_code_1(self) -> None:
        """
        Each listener that cannot be is a line in the log, and the exit code is 1; the others are not kept.
        """
        taken = bind_both("127.0.0.1", 0)
        for bound in taken:
            self.addCleanup(bound.close)
        number = taken[0].getsockname()[1]
        service: Any = makeService(self.options("-l", f"127.0.0.1:0,127.0.0.1:{number},0.0.0.0:{number}"))
        lines: list[str] = []
        self.patch(gc_tuning, "gc", None)
        self.patch(twistd_service.log, "observer", lambda event: lines.append(event["line"]))
        error = self.assertRaises(SystemExit, service.privilegedStartService)
        self.assertEqual(1, error.code)
        self.assertEqual(2, len(lines))
        self.assertIn(f"cannot listen on 127.0.0.1 port {number} (UDP): the address is in use", lines[0])
        self.assertIn(f"cannot listen on 0.0.0.0 port {number} (UDP): the address is in use", lines[1])
        self.assertEqual(f"STATUS={'; '.join(lines)}", self.told[-1])

    def test_binding_fails_as_a_whole(self) -> None:
        """
        As a library it raises, and keeps no socket.
        """
        taken = bind_both("127.0.0.1", 0)
        for bound in taken:
            self.addCleanup(bound.close)
        number = taken[0].getsockname()[1]
        proxy = build(load({"listen": [f"127.0.0.1:0,127.0.0.1:{number}"]}, {}).config, Clock())
        self.assertRaises(CannotBind, proxy.privilegedStartService)
        self.assertEqual([], proxy.addresses)

    def test_gc_is_frozen_after_the_start(self) -> None:
        """
        After the start the collector is told that what is there stays.
        """
        calls: list[str] = []

        class Collector:
            def __getattr__(self, name: str) -> Any:
                return lambda *given: calls.append(name)

        self.patch(gc_tuning, "gc", Collector())
        freeze()
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

    def test_usage_lists_the_commands(self) -> None:
        """
        Without a command it says which there are; a wrong one is named.
        """
        self.assertEqual((2, cli._USAGE, ""), self.run_command())
        self.assertEqual((0, cli._USAGE, ""), self.run_command("--help"))
        code, _, complaint = self.run_command("dance")
        self.assertEqual(2, code)
        self.assertIn("there is no command 'dance'", complaint)

    def test_version_and_example_print_and_succeed(self) -> None:
        """
        Both print and succeed.
        """
        code, out, err = self.run_command("--version")
        first, second = out.replace(" (compiled)", "").splitlines()
        self.assertEqual((0, f"dotproxy {dotproxy.__version__}", ""), (code, first, err))
        openssl = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[1]
        self.assertRegex(second, rf"^Python .*, Twisted .*, OpenSSL {openssl}, pyOpenSSL {OpenSSL.__version__}$")
        self.assertEqual((0, example_file(), ""), self.run_command("example"))

    def test_every_command_has_help(self) -> None:
        """
        --help of each says how it is used, on standard output, and does nothing else; so does help COMMAND.
        """
        for name in cli._COMMANDS:
            if name == "run":  # which is twistd
                continue
            out = StringIO()
            self.patch(sys, "stdout", out)
            try:
                self.assertFalse(cli.main([name, "--help"]), name)
            except SystemExit as done:
                self.assertFalse(done.code, name)
            self.assertRegex(out.getvalue().lower(), rf"^usage: dotproxy {name}\b", name)
            self.assertNotIn("doc", out.getvalue().splitlines()[0].replace("doctor", ""))
        out = StringIO()
        self.patch(sys, "stdout", out)
        self.assertRaises(SystemExit, cli.main, ["help", "example"])
        self.assertIn("usage: dotproxy example", out.getvalue())

    def test_every_command_refuses_unknown_options(self) -> None:
        """
        On standard error, with an exit code that is not 0, and nothing on standard output.
        """
        wanted = {"cache": ["stats"], "log": ["info"], "query": ["a"]}
        for name in cli._COMMANDS:
            if name == "run":
                continue
            out, err = StringIO(), StringIO()
            self.patch(sys, "stdout", out)
            self.patch(sys, "stderr", err)
            try:
                code: object = cli.main([name, *wanted.get(name, []), "--nonsense"])
            except SystemExit as done:
                code = done.code
            self.assertIn(code, (1, 2), name)
            self.assertEqual("", out.getvalue(), name)
            self.assertIn("nonsense", err.getvalue(), name)

    def test_closed_pipe_ends_a_command_silently(self) -> None:
        """
        A pipe that was closed ends a command as SIGPIPE would, without a word, whether that is noticed while it
        writes or at its end.
        """

        class Closed(StringIO):
            def __init__(self, limit: int, descriptor: int) -> None:
                super().__init__()
                self.limit, self.descriptor = limit, descriptor

            def write(self, text: str) -> int:
                self.limit -= len(text)
                if self.limit < 0:
                    raise BrokenPipeError(32, "Broken pipe")
                return len(text)

            def flush(self) -> None:
                raise BrokenPipeError(32, "Broken pipe")

            def fileno(self) -> int:
                return self.descriptor

        self.patch(control, "_request", lambda *given: {"changes": ["one"] * 100})
        for arguments in (["example"], ["check"], ["version"], ["reload"], ["--help"], ["probe", "--help"]):
            for limit in (0, 10**6):
                file = (folder(self) / "out").open("wb")
                self.addCleanup(file.close)
                err = StringIO()
                self.patch(sys, "stdout", Closed(limit, file.fileno()))
                self.patch(sys, "stderr", err)
                self.assertEqual((141, ""), (cli.main(arguments), err.getvalue()), (arguments, limit))

    def test_check_prints_configuration_or_problems(self) -> None:
        """
        A good configuration is printed with its sources, of a bad one every problem.
        """
        code, text, _ = self.run_command("check", "-u", "quad9")
        self.assertEqual(0, code)
        self.assertIn('["quad9"]  # --upstream', text)
        code, text, complaint = self.run_command("check", "-u", "quad", "--policy", "x")
        self.assertEqual((1, ""), (code, text))
        self.assertEqual(3, len(complaint.splitlines()))

    def test_check_warns_of_an_unknown_variable(self) -> None:
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

    def test_run_with_problems_exits_with_78(self) -> None:
        """
        The problems and nothing else, exit code 78; twistd does not run.  systemd and the journal are told, too.
        """
        from twisted.scripts import twistd

        self.patch(twistd, "run", lambda: self.fail("it ran"))
        told: list[str] = []
        self.patch(tap, "notify", lambda address, *lines: told.extend(lines))
        code, out, complaint = self.run_command("run", "-u", "quad", "--policy", "x")
        self.assertEqual((78, ""), (code, out))
        first, second, third = complaint.splitlines()
        self.assertEqual("dotproxy run: the configuration cannot be used:", first)
        self.assertIn("upstream (--upstream): 'quad'", second)
        self.assertIn("policy (--policy): 'x' is not a policy", third)
        self.assertEqual([f"STATUS=the configuration cannot be used: {second}; {third}"], told)
        code, out, complaint = self.run_command("run", "--nonsense")
        self.assertEqual((78, "", "dotproxy run: option --nonsense not recognized\n"), (code, out, complaint))
        self.patch(tap, "suitable_format", lambda *given: "journal")
        complaint = self.run_command("run", "--policy", "x")[2]
        self.assertTrue(all(line.startswith("<3>") for line in complaint.splitlines()))

    def test_twistd_with_problems_exits_with_78(self) -> None:
        """
        Likewise, by its own name.
        """
        err = StringIO()
        self.patch(sys, "stderr", err)
        error = self.assertRaises(SystemExit, ServerOptions().parseOptions, ["-n", "dotproxy", "--policy", "x"])
        self.assertEqual(78, error.code)
        self.assertEqual("twistd dotproxy: the configuration cannot be used:", err.getvalue().splitlines()[0])
        self.assertEqual(2, len(err.getvalue().splitlines()))

    def test_run_help_is_about_dotproxy_run(self) -> None:
        """
        Is about `dotproxy run`.
        """
        out = StringIO()
        self.patch(sys, "stdout", out)
        error = self.assertRaises(SystemExit, cli.main, ["run", "--help"])
        self.assertEqual(0, error.code)
        self.assertTrue(out.getvalue().startswith("Usage: dotproxy run [options]\n"))
        self.assertNotIn("twistd [options]", out.getvalue())


class ReloadTests(CleanEnvironment):
    """
    `dotproxy reload --pid`, as a unit's ExecReload has it.
    """

    def reload(self, text: str, *arguments: str) -> tuple[int, list[tuple[int, int]]]:
        """
        The exit code with a configuration, and the signals that were sent.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text(text)
        sent: list[tuple[int, int]] = []
        self.patch(os, "kill", lambda pid, number: sent.append((pid, number)))
        for name in ("stdout", "stderr"):
            self.patch(sys, name, StringIO())
        return cli.main(["reload", "--config", str(path), *arguments]), sent

    def test_reload_without_admin_socket_sends_sighup(self) -> None:
        """
        The process is sent SIGHUP; without --pid nobody is reached.
        """
        self.assertEqual((0, [(4711, signal.SIGHUP)]), self.reload("padding = 64", "--pid", "4711"))
        self.assertEqual((1, []), self.reload("padding = 64"))

    def test_reload_with_unused_admin_socket_sends_sighup(self) -> None:
        """
        As one that was put into the configuration after the start: SIGHUP does it.
        """
        text = f'admin_socket = "{folder(self) / "admin"}"'
        self.assertEqual((0, [(4711, signal.SIGHUP)]), self.reload(text, "--pid", "4711"))

    def test_reload_with_problems_sends_no_signal(self) -> None:
        """
        Is told, and no signal is sent.
        """
        self.assertEqual((1, []), self.reload('policy = "x"', "--pid", "4711"))


class PackageTests(SynchronousTestCase):
    """
    What `import dotproxy` gives.
    """

    def test_package_exports_version_and_resolver_only(self) -> None:
        """
        A version, the resolver when it is asked for, and nothing else.
        """
        from dotproxy.resolver import DoTResolver

        self.assertIs(DoTResolver, dotproxy.DoTResolver)
        self.assertRaises(AttributeError, lambda: dotproxy.Nonsense)
