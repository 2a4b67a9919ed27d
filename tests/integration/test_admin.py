"""
The operator's view, in this process: pages, commands, and another configuration.
"""

import http.client
import json
import re
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from dotproxy.cli import control
from dotproxy.config.load import load
from dotproxy.errors import ConfigError
from dotproxy.service.admin_commands import report_of
from dotproxy.service.assembly import build
from dotproxy.service.reload import ConfigSource
from dotproxy.telemetry.counters import PlaintextCounters
from dotproxy.telemetry.status import State
from dotproxy.testing.certificates import Authority
from dotproxy.testing.client import ask_udp, make_query
from dotproxy.testing.server import DotServer
from dotproxy.testing.zone import A, Zone, address_rdata
from tests.integration.programs import free_port

ZONE = Zone({("www.test.", A): [address_rdata("192.0.2.1")]})


@pytest.fixture
def servers(authority):
    """
    Two upstreams.
    """
    made = [DotServer(ZONE, authority.issue(["dot.test"])) for _ in range(2)]
    ports = [reactor.listenTCP(0, server.over_tls(reactor), interface="127.0.0.1") for server in made]
    for server, port in zip(made, ports, strict=True):
        server.address = f"127.0.0.1:{port.getHost().port}"
        server.spec = f"tls://{server.address}#dot.test"
    yield made
    for server, port in zip(made, ports, strict=True):
        server.abort_connections()
        pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def running(servers, ca_file, tmp_path):
    """
    A proxy with both admin addresses; ``options`` are its settings, to be changed.
    """
    options = {
        "listen": ["127.0.0.1:0"],
        "forward_special": ["test"],
        "upstream": [servers[0].spec],
        "ca_file": [str(ca_file)],
        "admin_listen": [f"127.0.0.1:{free_port()}"],
        "admin_socket": [str(tmp_path / "admin")],
        "query_log": ["hashed"],
    }
    proxy: Any = build(load(options, {}).config, reactor, source=ConfigSource(lambda: load(options, {})))
    proxy.options = options
    proxy.startService()
    yield proxy
    pytest_twisted.blockon(proxy.stopService())


async def get(proxy: Any, path: str, method: str = "GET") -> tuple[int, str]:
    """
    A page.
    """

    def fetch() -> tuple[int, str]:
        where = proxy.config.admin_listen
        connection = http.client.HTTPConnection(where.host, where.port, timeout=10)
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    return await deferToThread(fetch)


async def tell(proxy: Any, capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> tuple[int, str]:
    """
    A command, as the command line has it.
    """
    words = [*arguments, "--socket", str(proxy.config.admin_socket)]
    code = await deferToThread(control.main, name, words)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


async def ask(proxy: Any) -> bytes:
    """
    Ask for www.
    """
    host, port = proxy.addresses[0]
    return await ask_udp(reactor, host, port, make_query("www.test.", A))


@pytest_twisted.ensureDeferred
async def test_pages(running, servers):
    """
    Metrics, health, readiness, status; nothing else, and nothing to be done there.
    """
    await verified(running)
    await ask(running)
    await ask(running)
    code, text = await get(running, "/metrics")
    assert code == 200
    assert 'dotproxy_answers_total{rcode="NOERROR",transport="udp",type="A"} 2.0' in text
    assert await get(running, "/healthz") == (200, "ok\n")
    assert await get(running, "/readyz") == (200, "ready\n")
    assert json.loads((await get(running, "/status"))[1])["cache"]["entries"] == 1
    assert (await get(running, "/nothing"))[0] == 404
    assert (await get(running, "/flush", "POST"))[0] == 404
    running.is_draining = True
    assert await get(running, "/readyz") == (503, "not ready: it is stopping\n")
    running.is_draining = False


@pytest_twisted.ensureDeferred
async def test_ready_or_not(running):
    """
    One upstream has to be verified, and not to have failed since; what is in the cache does not count.
    """
    upstream = running.forwarder.dispatcher.upstream_table.active_upstreams[0]
    await verified(running)
    await ask(running)
    upstream.tier = 2
    code, text = await get(running, "/readyz")
    assert (code, text) == (
        503,
        f"not ready: every upstream is down: 0 of 1 upstreams verified ({upstream.label}: down)\n",
    )
    upstream.tier = 0
    assert await get(running, "/readyz") == (200, "ready\n")


@pytest_twisted.ensureDeferred
async def test_not_ready_without_a_verified_upstream(running, servers):
    """
    An upstream with the wrong name is found out without a query; nothing says that it is up.
    """
    await verified(running)
    running.options["upstream"] = [servers[1].spec.replace("#dot.test", "#other.test")]
    running.reload()
    assert report_of(running, None, PlaintextCounters()).not_ready == (
        f"no upstream is verified: 0 of 1 upstreams verified (other.test ({servers[1].address}): not verified yet)"
    )
    while running.forwarder.dispatcher.upstream_table.active_upstreams[0].status_record.status.state != State.DOWN:
        await pause()
    text = (await get(running, "/readyz"))[1]
    assert "every upstream is down" in text
    assert "verify: the certificate is for dot.test, not for other.test" in text
    text = (await get(running, "/metrics"))[1]
    label = running.forwarder.dispatcher.upstream_table.active_upstreams[0].label
    assert f'dotproxy_upstream_up{{upstream="{label}"}} 0.0' in text
    assert f'dotproxy_upstream_verified{{upstream="{label}"}} 0.0' in text
    assert "dotproxy_ready 0.0" in text
    (counted,) = re.findall(r'^dotproxy_upstream_connect_failures_total{phase="verify",.*} (.*)$', text, re.MULTILINE)
    (upstream,) = json.loads((await get(running, "/status"))[1])["upstreams"]
    assert upstream["failed_connections"] >= float(counted) >= upstream["failed_attempts"] - 1
    assert upstream["failed_attempts"] >= 1
    assert servers[1].queries == []


@pytest_twisted.ensureDeferred
async def test_tried_without_being_asked(running, servers):
    """
    At the start, and when a reload adds one.
    """
    await verified(running)
    assert (servers[0].accepted, servers[0].queries, servers[1].accepted) == (1, [], 0)
    status = json.loads((await get(running, "/status"))[1])["upstreams"][0]
    assert (status["state"], status["verified"], status["failed_attempts"]) == ("up", True, 0)
    assert 29 <= status["certificate_days_left"] <= 30
    running.options["upstream"] = [servers[0].spec, servers[1].spec]
    running.reload()
    await verified(running, 2)
    assert (servers[0].accepted, servers[1].accepted) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_reload_reads_files_again(running, servers, authority, tmp_path):
    """
    New contents of the CA file count, and are told of; what cannot be used changes nothing.
    """
    ca_file = tmp_path / "own.pem"
    ca_file.write_bytes(authority.pem)
    running.options["ca_file"] = [str(ca_file)]
    before = running.config.ca_file
    assert running.reload() == [f"ca_file is {ca_file}, was {before}"]
    await verified(running)
    assert running.reload() == []
    accepted = servers[0].accepted
    ca_file.write_bytes(Authority("another").pem + authority.pem)
    assert running.reload() == ["ca_file: new contents"]
    await verified(running)
    assert servers[0].accepted == accepted + 1
    ca_file.write_bytes(Authority("another").pem)
    assert running.reload() == ["ca_file: new contents"]
    assert (await ask(running))[3] & 15 == 2
    assert servers[0].queries == []
    ca_file.write_bytes(authority.pem[:-100])
    with pytest.raises(ConfigError):
        running.reload()


@pytest_twisted.ensureDeferred
async def test_system_store_is_read_again(running, servers, authority, tmp_path, monkeypatch):
    """
    Without a CA file it is the system's CAs whose new contents count, by a reload and without one.
    """
    store = tmp_path / "system.pem"
    store.write_bytes(Authority("another").pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    running.options["ca_file"] = [""]
    running.reload()
    upstream = running.forwarder.dispatcher.upstream_table.active_upstreams[0]
    while upstream.status_record.status.state != State.DOWN:
        await pause()
    store.write_bytes(authority.pem)
    assert running.reload() == ["the system's trust store: new contents"]
    await verified(running)
    store.write_bytes(Authority("another").pem)
    while upstream.status_record.status.state != State.DOWN:
        await pause()
    assert "from an unknown CA" in upstream.status_record.status.error


async def pause() -> None:
    """
    Let the reactor turn.
    """
    await deferLater(reactor, 0.01, lambda: None)


async def verified(proxy: Any, count: int = 1) -> None:
    """
    Wait until so many upstreams are verified.
    """
    while (
        sum(one.status_record.status.is_working for one in proxy.forwarder.dispatcher.upstream_table.active_upstreams)
        < count
    ):
        await pause()


@pytest_twisted.ensureDeferred
async def test_commands(running, capsys):
    """
    Each does what it says, and says what it did.
    """
    await ask(running)
    code, text = await tell(running, capsys, "status")
    assert (code, ", ready\n" in text, "dot.test" in text) == (0, True, True)
    assert f"listening on 127.0.0.1:{running.addresses[0][1]}; " in text
    assert json.loads((await tell(running, capsys, "status", "--json"))[1])["ready"]
    assert (await tell(running, capsys, "cache", "stats"))[1].startswith("cache: 1 answer, ")
    assert await tell(running, capsys, "cache", "flush", "nothing.test") == (0, "0 responses flushed\n")
    assert await tell(running, capsys, "cache", "flush", "test", "--subtree") == (0, "1 response flushed\n")
    assert await tell(running, capsys, "cache", "flush") == (0, "0 responses flushed\n")
    assert (await tell(running, capsys, "cache", "flush", "a..b"))[0] == 1
    assert await tell(running, capsys, "log", "debug") == (0, "")
    assert await tell(running, capsys, "reload") == (0, "nothing has changed\n")
    running.options["padding"] = ["-1"]
    assert "padding" in (await tell(running, capsys, "reload"))[1]
    del running.options["padding"]


def test_nobody_there(capsys, tmp_path):
    """
    One line that says so.
    """
    assert control.main("status", ["--socket", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert control.main("status", []) == 1
    assert "there is no admin_socket in the configuration" in capsys.readouterr().err


@pytest_twisted.ensureDeferred
async def test_healthcheck(running, monkeypatch, capsys):
    """
    It answers, or it does not; an address that is not there yet is not asked.
    """
    host, port = running.addresses[0]
    monkeypatch.setenv("DOTPROXY_LISTEN", f"{host}:{port}")
    assert await deferToThread(control.main, "healthcheck", []) == 0
    monkeypatch.setenv("DOTPROXY_LISTEN", f"192.0.2.1:53 {host}:{port}")
    assert await deferToThread(control.main, "healthcheck", []) == 0
    monkeypatch.setenv("DOTPROXY_LISTEN", f"{host}:{free_port()}")
    assert control.main("healthcheck", []) == 1
    monkeypatch.setenv("DOTPROXY_LISTEN", "nonsense:")
    assert control.main("healthcheck", []) == 1
    capsys.readouterr()


@pytest_twisted.ensureDeferred
async def test_another_configuration(running, servers):
    """
    What is new is asked, what is gone is not, what stays keeps its connection; the rest holds from then on.
    """
    await ask(running)
    first, second = servers
    options = running.options
    options["upstream"] = [second.spec, first.spec]
    options["cache_max_ttl"] = ["5"]
    changes = running.reload()
    assert [change for change in changes if "is new" in change]
    assert "cache_max_ttl is 5s, was 1d" in changes
    running.forwarder.cache_flushed()
    host, port = running.addresses[0]
    await ask_udp(reactor, host, port, make_query("other.test.", A))
    assert (len(second.queries), first.accepted) == (1, 1)
    options["upstream"] = [first.spec]
    options["policy"] = ["round_robin"]
    options["listen"] = ["127.0.0.1:1"]
    assert {"policy is round_robin, was failover", "listen changes with the next start"} < set(running.reload())
    await ask_udp(reactor, host, port, make_query("third.test.", A))
    assert first.accepted == 1
    options["upstream"] = [first.spec]
    options["tls_minimum"] = ["1.3"]
    assert running.reload() == ["listen changes with the next start", "tls_minimum is 1.3, was 1.2"]
    assert running.reload() == ["listen changes with the next start"]
    await ask_udp(reactor, host, port, make_query("fourth.test.", A))
    assert first.accepted == 2


def test_a_proxy_without_a_source_cannot_reload(running):
    """
    A proxy that was built from a configuration alone has nothing to load again.
    """
    with pytest.raises(ConfigError, match="there is no configuration to read"):
        build(running.config, reactor).reload()
