"""
The command lines of ``dotproxy doctor``, ``dotproxy probe`` and ``dotproxy query``.

Decides options and exit codes: 0 all is well, 1 it is not, 2 it was not understood.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from dotproxy.config.load import load
from dotproxy.errors import ConfigError, DotproxyError
from dotproxy.wire.printable import printable, printable_lines

#: The settings that matter here; a configuration's others may concern files that only the running proxy may read.
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
    Probe upstreams; those of the configuration if none is given.
    """
    from twisted.internet.task import react

    from dotproxy.cli.probe import Prober, probe_all

    parser = argparse.ArgumentParser("dotproxy probe", description="Look at upstreams, and say what they are like.")
    parser.add_argument("spec", nargs="*", help="upstreams, as --upstream takes them; default: the configuration's")
    parser.add_argument("--config", help="the configuration file")
    parser.add_argument("--ca-file", help="CAs to trust instead of the system's")
    parser.add_argument("--name", default=".", help="a name to ask about (default: the root)")
    parser.add_argument("--idle", type=float, default=0, metavar="SECONDS", help="see when an idle one is closed")
    parser.add_argument("--json", action="store_true", help="as JSON")
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

    async def probing(reactor: object) -> None:
        prober = Prober(config, reactor, given.name, given.idle)
        good.append(await probe_all(prober, config.upstream, print, as_json=given.json))

    _run(react, probing)
    return 0 if good == [True] else 1


def query(arguments: Sequence[str]) -> int:
    """
    Ask one question.
    """
    from twisted.internet.task import react

    from dotproxy.cli.query import query as ask

    parser = argparse.ArgumentParser(
        "dotproxy query", description="Ask one question over authenticated TLS: NAME [TYPE] [@UPSTREAM]."
    )
    parser.add_argument("words", nargs="+", metavar="NAME [TYPE] [@UPSTREAM]")
    parser.add_argument("--config", help="the configuration file")
    parser.add_argument("--ca-file", help="CAs to trust instead of the system's")
    parser.add_argument("--dnssec", action="store_true", help="ask for signatures, too")
    given = parser.parse_args(arguments)
    words = [word for word in given.words if not word.startswith("@")]
    specs = [word[1:] for word in given.words if word.startswith("@")]
    if not 1 <= len(words) <= 2 or len(specs) > 1:
        parser.error("NAME [TYPE] [@UPSTREAM]")
    failed: list[str] = []
    try:
        options = {"upstream": specs} if specs else {}
        if given.ca_file:
            options["ca_file"] = [given.ca_file]
        config = load(options, os.environ, given.config, needed=_NEEDED).config
    except ConfigError as error:
        print("dotproxy query:", *error.problems, sep="\n", file=sys.stderr)
        return 2

    async def dispatcher(reactor: object) -> None:
        try:
            rtype = words[1] if len(words) > 1 else "A"
            text = await ask(reactor, config, config.upstream[0], words[0], rtype, dnssec=given.dnssec)
            print(printable_lines(text))
        except DotproxyError as error:
            failed.append(str(error))

    _run(react, dispatcher)
    for line in failed:
        print(f"dotproxy query: {printable(line)}", file=sys.stderr)
    return 1 if failed else 0


def doctor(arguments: Sequence[str]) -> int:
    """
    Examine this machine and the upstreams.
    """
    from twisted.internet.task import react

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

    async def examining(reactor: object) -> None:
        checks.extend(await examine_upstreams(config, running, reactor))

    _run(react, examining)
    print(as_json(checks) if given.json else as_text(checks))
    return exit_code(checks)


def _doctor_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dotproxy doctor",
        description="Tell whether this machine's resolver is dotproxy, whether anything leaves on port 53, and whether"
        " each upstream verifies. Looks up four names below .test, which do not exist. As root it watches what leaves.",
        epilog="Exit code: 0 no problem (there may be warnings), 1 a problem, 2 the configuration cannot be used.",
    )
    parser.add_argument("--config", help="the configuration file of the running dotproxy")
    parser.add_argument("--socket", metavar="PATH", help="its admin_socket (default: what the configuration says)")
    parser.add_argument("--listen", action="append", metavar="ADDR:PORT", help="where it listens; may be repeated")
    parser.add_argument("--upstream", action="append", metavar="SPEC", help="an upstream to verify; may be repeated")
    parser.add_argument("--ca-file", metavar="FILE", help="CAs to trust instead of the system's")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _run(react: Any, main: Callable[[object], Awaitable[None]]) -> None:
    """
    Run a coroutine under the reactor; what it prints is all there is.

    :raises BrokenPipeError: if nobody reads that any more.
    """
    broken: list[BrokenPipeError] = []

    async def guarded(reactor: object) -> None:
        try:
            await main(reactor)
        except BrokenPipeError as error:  # the reactor would log it
            broken.append(error)

    try:
        react(guarded)
    except SystemExit as done:
        if done.code:
            raise
    if broken:
        raise broken[0]
