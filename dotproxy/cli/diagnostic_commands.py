"""
The command lines of ``dotproxy doctor``, ``dotproxy probe`` and ``dotproxy query``.

Decides options and exit codes: 0 no problem, 1 a problem, 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dotproxy.config.load import load
from dotproxy.errors import ConfigError, DotproxyError
from dotproxy.wire.printable import printable, printable_lines

if TYPE_CHECKING:
    from dotproxy.service.reactor import IServiceReactor

#: The settings that these commands read; others may name files that only the running proxy may read.
_NEEDED = (
    "upstream",
    "bootstrap",
    "ca_file",
    "tls_minimum",
    "tls_ciphers",
    "connect_timeout",
    "padding",
    "client_subnet",
)


def probe(arguments: Sequence[str]) -> int:
    """
    Probe upstreams, by default those of the configuration; return the exit code.
    """
    from dotproxy.cli.probe import Prober, probe_all

    parser = argparse.ArgumentParser("dotproxy probe", description="Examine upstreams: TLS, latency, EDNS, DNSSEC.")
    parser.add_argument("spec", nargs="*", help="upstreams, as --upstream takes them (default: the configuration's)")
    parser.add_argument("--config", help="the configuration file")
    parser.add_argument("--ca-file", help="CAs to trust instead of the system's")
    parser.add_argument("--name", default=".", help="the name to query (default: the root)")
    parser.add_argument(
        "--idle",
        type=float,
        default=0,
        metavar="SECONDS",
        help="watch for so long whether an idle connection is closed",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    try:
        options: dict[str, list[str]] = {}
        if given.spec:
            options["upstream"] = given.spec
        if given.ca_file:
            options["ca_file"] = [given.ca_file]
        config = load(options, os.environ, given.config, needed=_NEEDED).config
    except ConfigError as error:
        print("dotproxy probe:", *error.problems, sep="\n", file=sys.stderr)
        return 2
    good: list[bool] = []

    async def run(reactor: IServiceReactor) -> None:
        prober = Prober(config, reactor, given.name, given.idle)
        good.append(await probe_all(prober, config.upstream, print, as_json=given.json))

    _react(run)
    return 0 if good == [True] else 1


class _QueryArguments(NamedTuple):
    """
    The command line of ``dotproxy query``; ``spec`` is an upstream, "" for the configuration's first one.
    """

    name: str
    rtype: str
    spec: str
    config: str | None
    ca_file: str | None
    dnssec: bool


def query(arguments: Sequence[str]) -> int:
    """
    Send one query and print the response; return the exit code.
    """
    from dotproxy.cli.query import query as send_query

    given = _query_arguments(arguments)
    options = {"upstream": [given.spec] if given.spec else [], "ca_file": [given.ca_file] if given.ca_file else []}
    try:
        given_options = {key: value for key, value in options.items() if value}
        config = load(given_options, os.environ, given.config, needed=_NEEDED).config
    except ConfigError as error:
        print("dotproxy query:", *error.problems, sep="\n", file=sys.stderr)
        return 2
    failed: list[str] = []

    async def run(reactor: IServiceReactor) -> None:
        upstream, *_ = config.upstream
        try:
            text = await send_query(reactor, config, upstream, given.name, given.rtype, dnssec=given.dnssec)
            print(printable_lines(text))
        except DotproxyError as error:
            failed.append(str(error))

    _react(run)
    for line in failed:
        print(f"dotproxy query: {printable(line)}", file=sys.stderr)
    return 1 if failed else 0


def _query_arguments(arguments: Sequence[str]) -> _QueryArguments:
    parser = argparse.ArgumentParser(
        "dotproxy query",
        description="Send one query over authenticated TLS, and print the response: NAME [TYPE] [@UPSTREAM].",
    )
    parser.add_argument("words", nargs="+", metavar="NAME [TYPE] [@UPSTREAM]")
    parser.add_argument("--config", help="the configuration file")
    parser.add_argument("--ca-file", help="CAs to trust instead of the system's")
    parser.add_argument("--dnssec", action="store_true", help="request DNSSEC signatures (DO)")
    given = parser.parse_args(arguments)
    words = [word for word in given.words if not word.startswith("@")]
    specs = [word.removeprefix("@") for word in given.words if word.startswith("@")]
    if not 1 <= len(words) <= 2 or len(specs) > 1:
        parser.error("NAME [TYPE] [@UPSTREAM]")
    name, rtype = words if len(words) == 2 else (*words, "A")
    return _QueryArguments(name, rtype, "".join(specs), given.config, given.ca_file, given.dnssec)


def doctor(arguments: Sequence[str]) -> int:
    """
    Check this machine's name resolution and the upstreams; return the exit code.
    """
    from dotproxy.cli.doctor.checks import Check, as_json, as_text, exit_code
    from dotproxy.cli.doctor.examination import Running, examine_system, examine_upstreams

    given = _doctor_parser().parse_args(arguments)
    options = {"listen": given.listen, "upstream": given.upstream, "ca_file": [given.ca_file] if given.ca_file else []}
    try:
        config = load({key: value for key, value in options.items() if value}, os.environ, given.config).config
    except ConfigError as error:
        print("dotproxy doctor: the configuration cannot be used:", *error.problems, sep="\n", file=sys.stderr)
        return 2
    running = Running(config, given.socket)
    checks: list[Check] = examine_system(config, running, Path("/"))

    async def run(reactor: IServiceReactor) -> None:
        checks.extend(await examine_upstreams(config, running, reactor))

    _react(run)
    print(as_json(checks) if given.json else as_text(checks))
    return exit_code(checks)


def _doctor_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dotproxy doctor",
        description="Check whether this machine's resolver is dotproxy, whether anything leaves on port 53, and whether"
        " each upstream verifies. Looks up four names below .test, which do not exist. As root it watches what leaves.",
        epilog="Exit code: 0 no problem (there may be warnings), 1 a problem, 2 the configuration cannot be used.",
    )
    parser.add_argument("--config", help="the configuration file of the running dotproxy")
    parser.add_argument("--socket", metavar="PATH", help="its admin_socket (default: from the configuration)")
    parser.add_argument("--listen", action="append", metavar="ADDR:PORT", help="where it listens; may be repeated")
    parser.add_argument("--upstream", action="append", metavar="SPEC", help="an upstream to verify; may be repeated")
    parser.add_argument("--ca-file", metavar="FILE", help="CAs to trust instead of the system's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _react(main: Callable[[IServiceReactor], Awaitable[None]]) -> None:
    """
    Run a coroutine under the reactor until it is done.

    :raises BrokenPipeError: if standard output was closed by its reader.
    """
    from twisted.internet.task import react

    broken: list[BrokenPipeError] = []

    async def guarded(reactor: IServiceReactor) -> None:
        try:
            await main(reactor)
        except BrokenPipeError as error:  # ``react`` would log it
            broken.append(error)

    try:
        react(guarded)
    except SystemExit as done:
        if done.code:
            raise
    for error in broken:
        raise error
