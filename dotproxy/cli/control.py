"""
The commands for a running dotproxy: ``status``, ``cache``, ``reload``, ``drain``, ``log``, ``healthcheck``.

Decides how responses are shown, and the exit codes: 0 done, 1 failed, 2 usage.  The socket's path comes from
``--socket``, or from the configuration that the running dotproxy reads; no other setting is read, so that every user
who may use the socket can use the commands.
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
from dotproxy.telemetry.plural import pluralized
from dotproxy.wire.message import HEADER, IN
from dotproxy.wire.printable import printable
from dotproxy.wire.rrtypes import AXFR

#: A query that dotproxy answers itself, independent of upstreams: AXFR of the root over UDP, which it refuses.
_LOCAL_QUERY = HEADER.pack(0x6470, 0, 1, 0, 0, 0) + b"\0" + AXFR.to_bytes(2, "big") + IN.to_bytes(2, "big")

_OK = 200


class Failed(Exception):
    """
    A command failed; the text says why.
    """


class NotReached(Failed):
    """
    There is no admin_socket, or no process listens on it.
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
    except BrokenPipeError:  # of our output: handled by ``main``
        raise
    except (Failed, OSError) as error:
        print(f"dotproxy {name}: {error}", file=sys.stderr)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = f"{type(error).__name__}: {printable(str(error))}"
        print(f"dotproxy {name}: the response is not one of this version of dotproxy ({reason})", file=sys.stderr)
    return 1


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"dotproxy {name}", description=_DESCRIPTIONS[name])
    parser.add_argument("--config", help="the configuration file of the running dotproxy")
    if name == "healthcheck":
        return parser
    parser.add_argument("--socket", help="its admin_socket (default: from the configuration)")
    if name == "status":
        parser.add_argument("--json", action="store_true", help="print JSON")
    elif name == "cache":
        parser.add_argument("action", choices=("stats", "flush"))
        parser.add_argument("name", nargs="?", default="", help="flush this name only")
        parser.add_argument("--subtree", action="store_true", help="flush all names below it, too")
    elif name == "reload":
        parser.add_argument("--pid", type=int, help="its process ID, for SIGHUP if it has no admin_socket")
    elif name == "log":
        parser.add_argument("level", choices=("info", "debug"))
    return parser


def _request(given: argparse.Namespace, method: str, path: str, arguments: dict[str, str] | None = None) -> Any:
    where = given.socket
    if not where:
        configured = load({}, os.environ, given.config, needed=("admin_socket",)).config.admin_socket
        if configured is None:
            raise NotReached("there is no admin_socket in the configuration; give its path by --socket")
        where = str(configured)
    try:
        code, answer = fetch(UnixConnection(where), method, path, arguments)
    except ConnectionRefusedError:
        raise NotReached(f"no process listens on {where}: is dotproxy running?") from None
    except OSError as error:
        raise NotReached(f"{where}: {error.strerror or error}") from None
    except NotDotproxy as error:
        raise Failed(f"{where}: {error}") from None
    if code != _OK:
        raise Failed(str(answer.get("error", f"HTTP status {code}")))
    return answer


def _status(given: argparse.Namespace) -> int:
    status = _request(given, "GET", "/status")
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
    Print why an upstream is down, and whether its certificate expires soon.
    """
    if one["failed_attempts"]:
        attempts = pluralized(one["failed_attempts"], "failed attempt")
        duration = _duration(round(one["down_seconds"]))
        print(f"{one['name']}: failing since {one['down_since']} ({duration}), {attempts}: {one['error']}")
    days = one["certificate_days_left"]
    if days is not None and days < _EXPIRY_DAYS:
        print(f"{one['name']}: its certificate expires in {days:g} days, {one['certificate_expires']}")


#: A certificate that expires in fewer days is shown.
_EXPIRY_DAYS = 7

#: "errors" are responses with SERVFAIL or REFUSED, "failed" failed connection attempts.
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


def _cache(given: argparse.Namespace) -> int:
    if given.action == "stats":
        _print_cache(_request(given, "GET", "/status")["cache"])
        return 0
    arguments = {"name": given.name, "subtree": "yes" if given.subtree else ""}
    print(f"{pluralized(_request(given, 'POST', '/flush', arguments)['flushed'], 'response')} flushed")
    return 0


def _print_cache(cache: dict[str, Any]) -> None:
    rate = "no queries yet" if cache["hit_rate"] is None else f"{cache['hit_rate']:.1%} hit rate"
    print(
        f"cache: {pluralized(cache['entries'], 'answer')}, {cache['octets'] / 1e6:.1f} MB, {rate}"
        f" ({cache['memo'] + cache['fresh']} fresh, {cache['stale']} stale, {cache['joined']} joined,"
        f" {cache['missed']} missed), {cache['evicted']} evicted"
    )


def _reload(given: argparse.Namespace) -> int:
    try:
        changes = _request(given, "POST", "/reload")["changes"]
    except NotReached:
        if given.pid is None:
            raise
        load({}, os.environ, given.config)  # a signal has no response: mistakes are reported here
        os.kill(given.pid, signal.SIGHUP)
        print(f"process {given.pid} was sent SIGHUP; its log says what changed")
        return 0
    print(*(changes or ["nothing has changed"]), sep="\n")
    return 0


def _drain(given: argparse.Namespace) -> int:
    _request(given, "POST", "/drain")
    print("stopping")
    return 0


def _log(given: argparse.Namespace) -> int:
    _request(given, "POST", "/log", {"level": given.level})
    return 0


def _healthcheck(given: argparse.Namespace) -> int:
    listening = load({}, os.environ, given.config, needed=("listen",)).config.listen
    first, *_ = listening
    address = next((one for one in listening if has_address(one.host)), first)
    try:
        answer = query_udp(address)
    except OSError as error:
        raise Failed(f"no response from {address}: {error}") from None
    return 0 if answer[:2] == _LOCAL_QUERY[:2] else 1


def query_udp(address: ListenAddress, query: bytes = _LOCAL_QUERY, timeout: float = 2.0) -> bytes:
    """
    Send a query to a proxy over UDP, and return the response.

    :raises OSError: if there is none within ``timeout`` seconds.
    """
    host = reachable(address.host)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect((host, address.port))
        client.send(query)
        return client.recv(65535)


def reachable(host: str) -> str:
    """
    Return the address at which a listener on ``host`` is reached from this machine.
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
    "status": "Show a running dotproxy's upstreams, cache and query rate.",
    "cache": "Show the numbers of a running dotproxy's cache, or flush it.",
    "reload": "Reload a running dotproxy's configuration, as SIGHUP does, and show what has changed.",
    "drain": "Stop a running dotproxy after it has answered outstanding queries.",
    "log": "Set the log level of a running dotproxy: info or debug.",
    "healthcheck": "Send a running dotproxy a query that it answers itself; the exit code is 0 if it responds, else 1.",
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
