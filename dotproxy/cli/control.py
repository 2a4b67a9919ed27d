"""
``dotproxy status``, ``cache``, ``reload``, ``drain``, ``log`` and ``healthcheck``: what is said to a running dotproxy.

Decides how an answer is shown, and the exit codes: 0 it was done, 1 it could not be, 2 it was not understood.
Where to find the running one is read from the same configuration that it reads, unless ``--socket`` says it; of that
configuration nothing else is looked at, so that any user who may use the socket can use the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from dotproxy.cli.admin_client import NotDotproxy, UnixConnection, fetch
from dotproxy.config.load import load
from dotproxy.config.values import ListenAddress
from dotproxy.downstream.sockets import has_address
from dotproxy.errors import ConfigError
from dotproxy.telemetry.words import pluralized
from dotproxy.wire.message import HEADER, IN
from dotproxy.wire.printable import printable
from dotproxy.wire.rrtypes import AXFR

#: A query that dotproxy answers by itself, whatever its upstreams do: the root's zone transfer, over UDP, is REFUSED.
_QUESTION = HEADER.pack(0x6470, 0, 1, 0, 0, 0) + b"\0" + AXFR.to_bytes(2, "big") + IN.to_bytes(2, "big")

_OK = 200


class Failed(Exception):
    """
    It could not be done; the text says why.
    """


class NotReached(Failed):
    """
    There is no admin_socket, or nobody listens there.
    """


def main(name: str, arguments: Sequence[str]) -> int:
    """
    Run one of the commands; return the exit code.
    """
    given = _parser(name).parse_args(arguments)
    try:
        return _COMMANDS[name](given)
    except ConfigError as error:
        print(f"dotproxy {name}: the configuration cannot be used:", *error.problems, sep="\n", file=sys.stderr)
    except BrokenPipeError:  # of our output: ``cli`` sees to that
        raise
    except (Failed, OSError) as error:
        print(f"dotproxy {name}: {error}", file=sys.stderr)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = f"{type(error).__name__}: {printable(str(error))}"
        print(f"dotproxy {name}: the answer is not that of this version of dotproxy ({reason})", file=sys.stderr)
    return 1


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"dotproxy {name}", description=_DESCRIPTIONS[name])
    parser.add_argument("--config", help="the configuration file of the running dotproxy")
    if name == "healthcheck":
        return parser
    parser.add_argument("--socket", help="its admin_socket (default: what the configuration says)")
    if name == "status":
        parser.add_argument("--json", action="store_true", help="as JSON")
    elif name == "cache":
        parser.add_argument("action", choices=("stats", "flush"))
        parser.add_argument("name", nargs="?", default="", help="flush this name only")
        parser.add_argument("--subtree", action="store_true", help="and all names below it")
    elif name == "reload":
        parser.add_argument("--pid", type=int, help="its process, sent SIGHUP if it has no admin_socket")
    elif name == "log":
        parser.add_argument("level", choices=("info", "debug"))
    return parser


def _ask(given: Any, method: str, path: str, arguments: dict[str, str] | None = None) -> Any:
    where = given.socket
    if not where:
        configured = load({}, os.environ, given.config, needed=("admin_socket",)).config.admin_socket
        if configured is None:
            raise NotReached("there is no admin_socket in the configuration; --socket PATH says where it is")
        where = str(configured)
    try:
        code, answer = fetch(UnixConnection(where), method, path, arguments)
    except ConnectionRefusedError:
        raise NotReached(f"nobody listens on {where}: is dotproxy running?") from None
    except OSError as error:
        raise NotReached(f"{where}: {error.strerror or error}") from None
    except NotDotproxy as error:
        raise Failed(f"{where}: {error}") from None
    if code != _OK:
        raise Failed(str(answer.get("error", f"HTTP status {code}")))
    return answer


def _status(given: Any) -> int:
    status = _ask(given, "GET", "/status")
    if given.json:
        print(json.dumps(status, indent=2))
        return 0
    print(f"dotproxy {status['version']}, up for {_duration(status['seconds'])}, {_ready(status)}")
    where = ", ".join(status["listening"])
    rate = status["queries_per_second"]
    answers = pluralized(status["answers"], "answer") + ("" if rate is None else f" ({rate:g}/s)")
    print(f"listening on {where}; {answers}, {status['outstanding']} outstanding")
    if status["listening_tls"]:
        where = ", ".join(status["listening_tls"])
        print(f"listening for TLS on {where}; the certificate expires on {status['tls_certificate_expires']}")
    plaintext = {purpose: count for purpose, count in status["plaintext_queries"].items() if count}
    if plaintext:
        told = (f"{pluralized(count, 'query', 'queries')} for {purpose}" for purpose, count in plaintext.items())
        print("left without TLS:", ", ".join(told))
    workers = status["workers"]
    if len(workers) > 1 or status["worker_restarts"]:
        memory = ", ".join(f"{one['name']}: {one['resident'] / 1e6:.0f} MB" for one in workers)
        print(f"{pluralized(len(workers), 'worker')} ({memory}), {status['worker_restarts']} restarted")
    _print_cache(status["cache"])
    rows = [_HEAD, *map(_row, status["upstreams"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        shown = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print(first.ljust(widths[0]), *shown, sep="  ")
    for one in status["upstreams"]:
        _print_trouble(one)
    return 0


def _print_trouble(one: dict[str, Any]) -> None:
    """
    Say why an upstream is down, and that its certificate expires soon.
    """
    if one["failed_attempts"]:
        attempts = pluralized(one["failed_attempts"], "failed attempt")
        duration = _duration(round(one["down_seconds"]))
        print(f"{one['name']}: failing since {one['down_since']} ({duration}), {attempts}: {one['error']}")
    days = one["certificate_days_left"]
    if days is not None and days < _SOON:
        print(f"{one['name']}: its certificate expires in {days:g} days, {one['certificate_expires']}")


#: A certificate that expires in fewer days is told of.
_SOON = 7

#: "errors" are responses with SERVFAIL or REFUSED, "failed" connections that did not come about.
_HEAD = (
    *("upstream", "state", "p50 ms", "p95 ms", "answers", "errors", "out", "opened", "failed", "resumed", "retries"),
    "certificate",
)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(one["name"], one["state"], _shown(one["p50_ms"]), _shown(one["p95_ms"]), str(one["answers"])),
        *(str(one["failures"]), str(one["outstanding"]), str(one["connections_opened"])),
        str(one["failed_connections"]),
        *("–" if one["resumed"] is None else f"{one['resumed']:.0%}", str(one["retries"])),
        "–" if one["certificate_days_left"] is None else f"{one['certificate_days_left']:.0f} d",
    )


def _ready(status: dict[str, Any]) -> str:
    return "ready" if status["ready"] else f"not ready: {status['not_ready']}"


def _cache(given: Any) -> int:
    if given.action == "stats":
        _print_cache(_ask(given, "GET", "/status")["cache"])
        return 0
    arguments = {"name": given.name, "subtree": "yes" if given.subtree else ""}
    print(f"{pluralized(_ask(given, 'POST', '/flush', arguments)['flushed'], 'answer')} forgotten")
    return 0


def _print_cache(cache: dict[str, Any]) -> None:
    rate = "nothing asked yet" if cache["hit_rate"] is None else f"{cache['hit_rate']:.1%} of queries found"
    print(
        f"cache: {pluralized(cache['entries'], 'answer')}, {cache['octets'] / 1e6:.1f} MB, {rate}"
        f" ({cache['memo'] + cache['fresh']} fresh, {cache['stale']} stale, {cache['joined']} joined,"
        f" {cache['missed']} missed), {cache['evicted']} thrown out"
    )


def _reload(given: Any) -> int:
    try:
        changes = _ask(given, "POST", "/reload")["changes"]
    except NotReached:
        if given.pid is None:
            raise
        load({}, os.environ, given.config)  # a signal brings no answer: what is wrong is told here
        os.kill(given.pid, signal.SIGHUP)
        print(f"process {given.pid} was sent SIGHUP; its log tells what changed")
        return 0
    print(*(changes or ["nothing has changed"]), sep="\n")
    return 0


def _drain(given: Any) -> int:
    _ask(given, "POST", "/drain")
    print("it is stopping")
    return 0


def _log(given: Any) -> int:
    _ask(given, "POST", "/log", {"level": given.level})
    return 0


def _healthcheck(given: Any) -> int:
    listening = load({}, os.environ, given.config, needed=("listen",)).config.listen
    address = next((one for one in listening if has_address(one.host)), listening[0])
    try:
        answer = ask_directly(address)
    except OSError as error:
        raise Failed(f"no answer from {address}: {error}") from None
    return 0 if answer[:2] == _QUESTION[:2] else 1


def ask_directly(address: ListenAddress, query: bytes = _QUESTION, timeout: float = 2.0) -> bytes:
    """
    Ask a proxy at one of its listen addresses, over UDP, and return the answer.

    :raises OSError: if there is none in time.
    """
    host = reachable(address.host)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect((host, address.port))
        client.send(query)
        return client.recv(65535)


def reachable(host: str) -> str:
    """
    Return where something can be reached on this machine that listens on ``host``.
    """
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _shown(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else f"{milliseconds:g}"


_DESCRIPTIONS = {
    "status": "Show how a running dotproxy is: upstreams, cache, rates.",
    "cache": "Show what a running dotproxy's cache holds, or have it forget answers.",
    "reload": "Have a running dotproxy read its configuration again, as SIGHUP does, and show what has changed.",
    "drain": "Have a running dotproxy answer what is outstanding, and stop.",
    "log": "Set what a running dotproxy logs: info, or debug.",
    "healthcheck": "Ask a running dotproxy something that it answers by itself; the exit code is 0 if it does, else 1.",
}

_COMMANDS = {
    "status": _status,
    "cache": _cache,
    "reload": _reload,
    "drain": _drain,
    "log": _log,
    "healthcheck": _healthcheck,
}
NAMES = tuple(_COMMANDS)
