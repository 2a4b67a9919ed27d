"""
The ``dotproxy`` command.

Decides which module runs each subcommand, and the exit codes.  ``run`` is twistd in the foreground; the options of
``run`` and ``check`` are those of ``twistd dotproxy``.  If the configuration is not usable, ``run`` exits with 78
(EX_CONFIG), ``check`` with 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dotproxy import __version__

if TYPE_CHECKING:
    from dotproxy.service.reactor import IServiceReactor

_USAGE = """\
Usage: dotproxy COMMAND [options]

  run      forward DNS, in the foreground (the same as: twistd --nodaemon dotproxy)
  check    check the configuration, print it, and where each value came from
  status   show a running dotproxy's upstreams, cache and query rate (--json)
  cache    stats | flush [NAME [--subtree]]: show or flush its cache
  reload   reload its configuration (as SIGHUP does)
  log      info | debug: set its log level
  drain    answer outstanding queries, then stop it
  healthcheck  check that it responds, for containers: exit code 0 or 1
  doctor   check that this machine's resolver is dotproxy, and that nothing leaves on port 53 (--json)
  probe    [SPEC…]: examine upstreams: TLS, latency, EDNS, DNSSEC (--json, --idle SECONDS)
  query    NAME [TYPE] [@SPEC]: send one query over authenticated TLS, and print the response
  demo     run a demonstration on this machine alone, then stay up to be tried (--once: exit)
  example  print an example configuration file
  version  print the version

dotproxy COMMAND --help lists a command's options; those of run and check are the same.
"""

#: The exit code that a shell gives a program ended by SIGPIPE: 128 + 13.
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a subcommand; return the exit code.
    """
    try:
        try:
            return _command(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe, as head(1) does.  What is left in the buffer goes to /dev/null, so that the
        # interpreter reports no error at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _command(arguments: list[str]) -> int:
    name = arguments.pop(0) if arguments else ""
    if name == "help" and arguments:
        name, arguments = arguments[0], ["--help"]
    if name in ("", "help", "--help", "-h"):
        print(_USAGE, end="")
        return 0 if name else 2
    command = _COMMANDS.get(name.lstrip("-"))
    if command is None:
        print(f"dotproxy: there is no command {name!r}\n\n{_USAGE}", end="", file=sys.stderr)
        return 2
    return command(arguments)


def _run(arguments: list[str]) -> int:
    from twisted.python.usage import UsageError
    from twisted.scripts.twistd import run

    from dotproxy.config.choices import LogFormat
    from dotproxy.tap import Options, refuse

    options = Options()
    options.synopsis = "Usage: dotproxy run [options]"
    try:
        options.parseOptions(arguments)
    except UsageError as error:
        return refuse("dotproxy run", error)
    assert options.loaded is not None
    form = options.loaded.config.log_format
    maker = {LogFormat.TEXT: "as_text", LogFormat.JSON: "as_json", LogFormat.JOURNAL: "for_journal"}.get(form, "auto")
    logger = f"--logger=dotproxy.telemetry.lines.{maker}"
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", logger, "dotproxy", *arguments]
    run()
    return 0


def _check(arguments: list[str]) -> int:
    from twisted.python.usage import UsageError

    from dotproxy.config.describe import effective
    from dotproxy.tap import Options

    options = Options()
    options.synopsis = "Usage: dotproxy check [options]"
    try:
        options.parseOptions(arguments)
    except UsageError as error:
        print(f"dotproxy check: {error}", file=sys.stderr)
        return 1
    assert options.loaded is not None
    for line in (*options.loaded.warnings, *options.loaded.notes):
        print(f"dotproxy check: {line}", file=sys.stderr)
    print(effective(options.loaded), end="")
    return 0


def _demo(arguments: list[str]) -> int:
    import argparse

    from twisted.internet import defer
    from twisted.internet.task import react

    from dotproxy.cli.demo import DemoFailed, demonstrate
    from dotproxy.downstream.sockets import CannotBind
    from dotproxy.errors import DotproxyError

    parser = argparse.ArgumentParser("dotproxy demo", description="Show dotproxy working, on this machine alone.")
    parser.add_argument("--once", action="store_true", help="exit after the demonstration, with 0 if all of it worked")
    parser.add_argument("--port", type=int, help="the port on 127.0.0.1 (default: 5300, or a free one)")
    given = parser.parse_args(arguments)

    async def demonstration(reactor: IServiceReactor) -> None:
        try:
            await demonstrate(reactor, _say, once=given.once, port=given.port)
        except (DemoFailed, DotproxyError, CannotBind, defer.TimeoutError) as error:
            print(f"the demo failed: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except BrokenPipeError:
            raise SystemExit(_BROKEN_PIPE) from None

    react(demonstration)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _example(arguments: list[str]) -> int:
    from dotproxy.config.describe import example_file

    _no_options("example", "Print a configuration file with every setting and its default.", arguments)
    print(example_file(), end="")
    return 0


def _version(arguments: list[str]) -> int:
    from importlib.util import find_spec

    from dotproxy.telemetry.versions import versions

    _no_options("version", "Print the version of dotproxy, and those of the software it uses.", arguments)
    spec = find_spec("dotproxy.forwarding.forwarder")
    is_compiled = spec is not None and not str(spec.origin).endswith(".py")
    print(f"dotproxy {__version__}{' (compiled)' if is_compiled else ''}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    return 0


def _no_options(name: str, description: str, arguments: list[str]) -> None:
    """
    Parse the arguments of a command without options; ``--help`` and mistakes end the program.
    """
    import argparse

    argparse.ArgumentParser(f"dotproxy {name}", description=description).parse_args(arguments)


def _doctor(arguments: list[str]) -> int:
    from dotproxy.cli.diagnostic_commands import doctor

    return doctor(arguments)


def _probe(arguments: list[str]) -> int:
    from dotproxy.cli.diagnostic_commands import probe

    return probe(arguments)


def _query(arguments: list[str]) -> int:
    from dotproxy.cli.diagnostic_commands import query

    return query(arguments)


def _control(name: str) -> Callable[[list[str]], int]:
    def command(arguments: list[str]) -> int:
        from dotproxy.cli.control import main as control

        return control(name, arguments)

    return command


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "check": _check,
    **{name: _control(name) for name in ("status", "cache", "reload", "log", "drain", "healthcheck")},
    "doctor": _doctor,
    "probe": _probe,
    "query": _query,
    "demo": _demo,
    "example": _example,
    "version": _version,
}
