"""
dotproxy doctor beside a proxy in this process: what it asks of it, and of upstreams.
"""

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from dotproxy.cli.doctor import examination
from dotproxy.cli.doctor.checks import Check, Level
from dotproxy.cli.doctor.examination import Running, _listen_address, examine_system, examine_upstreams
from dotproxy.config.load import load
from dotproxy.service.assembly import build
from dotproxy.testing.client import make_query
from dotproxy.testing.server import DotServer
from dotproxy.testing.zone import Zone, address_rdata
from dotproxy.wire.rrtypes import A
from tests.integration.programs import free_port

NS = 2
ZONE = Zone({(".", NS): [], ("dot.example.", A): [address_rdata("127.0.0.1")]})


@pytest.fixture
def upstream(authority) -> Any:
    """
    An upstream's port, for the names dot.test and dot.example.
    """
    server = DotServer(ZONE, authority.issue(["dot.test", "dot.example"]))
    port = reactor.listenTCP(0, server.over_tls(reactor), interface="127.0.0.1")
    yield port.getHost().port
    server.abort_connections()
    pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def running(upstream, ca_file, tmp_path):
    """
    A proxy with both admin addresses.
    """
    options = {
        "listen": [f"127.0.0.1:{free_port()}"],
        "upstream": [f"tls://127.0.0.1:{upstream}#dot.test"],
        "ca_file": [str(ca_file)],
        "admin_socket": [str(tmp_path / "admin")],
        "admin_listen": [f"127.0.0.1:{free_port()}"],
    }
    proxy: Any = build(load(options, {}).config, reactor)
    proxy.startService()
    yield proxy
    pytest_twisted.blockon(proxy.stopService())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """
    The files of a machine that asks 127.0.0.1.
    """
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    return tmp_path


def dispatcher(port: int) -> Any:
    """
    What looks names up at a port of 127.0.0.1.
    """

    def look_up(names: Sequence[str]) -> None:
        for name in names:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.connect(("127.0.0.1", port))
                client.send(make_query(f"{name}.", A))
                client.recv(512)

    return look_up


def by_name(checks: Sequence[Check]) -> dict[str, Check]:
    """
    Findings, by what was looked at.
    """
    return {check.name: check for check in checks}


@pytest.mark.parametrize("by", ["socket", "http"])
@pytest_twisted.ensureDeferred
async def test_lookups_are_seen_at_dotproxy(by, running, root):
    """
    What is looked up at dotproxy arrives there, by its own count, over the socket or over HTTP.
    """
    config = running.config if by == "socket" else replace(running.config, admin_socket=None)
    look_up = dispatcher(config.listen[0].port)
    found = by_name(await deferToThread(examine_system, config, Running(config, None), root, look_up))
    assert found["dotproxy"].level is Level.OK
    assert (found["arrival"].level, found["arrival"].found[:6]) == (Level.OK, "4 of 4")
    assert found["sent without TLS"].level is Level.OK
    assert found["bootstrap"].level is Level.OK


@pytest_twisted.ensureDeferred
async def test_running_listeners_count_before_the_configuration(running):
    """
    What the running one tells counts, not what the configuration says; without it, the configuration does.
    """
    config = replace(running.config, listen=load({"listen": ["127.0.0.1:9"]}, {}).config.listen)
    assert await deferToThread(Running(config, None).listening) == running.config.listen
    unreachable = replace(config, admin_socket=None, admin_listen=None)
    assert await deferToThread(Running(unreachable, None).listening) == config.listen
    assert str(_listen_address("[::1]:53")) == str(_listen_address("::1 53")) == "[::1]:53"


@pytest_twisted.ensureDeferred
async def test_no_upstream_name_is_sent_to_another_machine(running, monkeypatch):
    """
    Where dotproxy is said to listen on another machine, no upstream's name is looked up there.
    """
    asked: list[Any] = []
    monkeypatch.setattr(examination, "query_udp", lambda *arguments: asked.append(arguments) or b"")
    config = load({"listen": ["192.0.2.1:53"], "upstream": ["192.0.2.2#x"]}, {}).config
    assert await deferToThread(Running(config, None).addresses_of, "dot.example") == []
    assert asked == []


@pytest_twisted.ensureDeferred
async def test_lookups_elsewhere_are_reported(running, root):
    """
    What is looked up elsewhere does not arrive.
    """
    config = running.config
    running_one = Running(config, str(config.admin_socket))
    found = by_name(await deferToThread(examine_system, config, running_one, root, lambda names: None))
    assert (found["arrival"].level, found["arrival"].found[:6]) == (Level.PROBLEM, "0 of 4")


@pytest_twisted.ensureDeferred
async def test_listener_that_does_not_answer_is_a_problem(running, root):
    """
    An address that does not answer is a problem, and nothing is known of what arrives but what was seen.
    """
    config = load({"listen": [f"127.0.0.1:{free_port()}"], "upstream": ["tls://127.0.0.1#x"]}, {}).config
    found = by_name(await deferToThread(examine_system, config, Running(config, None), root, lambda names: None))
    assert found["dotproxy"].level is Level.PROBLEM
    assert found["arrival"].level is not Level.OK
    assert "sent without TLS" not in found


@pytest_twisted.ensureDeferred
async def test_each_upstream_is_judged(running, upstream, ca_file):
    """
    One that verifies; one that is somebody else; one that is not there; one by name, which dotproxy looks up over TLS.
    """
    for spec, level, part in (
        (f"tls://127.0.0.1:{upstream}#dot.test", Level.OK, "verified as dot.test at 127.0.0.1"),
        (f"tls://127.0.0.1:{upstream}#other.test", Level.PROBLEM, "verify"),
        (f"tls://127.0.0.1:{free_port()}#dot.test", Level.PROBLEM, "connect: connection refused"),
        (f"tls://dot.example:{upstream}", Level.OK, "verified as dot.example at 127.0.0.1"),
        (f"tls://gone.example:{upstream}", Level.PROBLEM, "cannot resolve gone.example"),
    ):
        options = {"upstream": [spec], "ca_file": [str(ca_file)], "bootstrap": ["tls://127.0.0.1#dot.test"]}
        config = replace(load(options, {}).config, listen=running.config.listen)
        (check,) = await examine_upstreams(config, Running(config, None), reactor)
        assert check.level is level, check
        assert part in check.found


@pytest_twisted.ensureDeferred
async def test_upstream_answering_servfail_is_a_problem(authority, ca_file):
    """
    An upstream that verifies and answers SERVFAIL is of no use.
    """

    def servfail(query: bytes) -> bytes:
        return query[:2] + b"\x81\x82" + query[4:]

    server = DotServer(servfail, authority.issue(["dot.test"]))
    port = reactor.listenTCP(0, server.over_tls(reactor), interface="127.0.0.1")
    try:
        options = {"upstream": [f"tls://127.0.0.1:{port.getHost().port}#dot.test"], "ca_file": [str(ca_file)]}
        config = load(options, {}).config
        (check,) = await examine_upstreams(config, Running(config, None), reactor)
        assert (check.level, "responds with rcode 2" in check.found) == (Level.PROBLEM, True)
    finally:
        server.abort_connections()
        await port.stopListening()
