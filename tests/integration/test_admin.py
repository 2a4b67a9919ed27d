"""
The operator's view, in this process: pages, commands, and another configuration.
"""

import http.client
import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from dotproxy import control
from dotproxy.assembly import build
from dotproxy.config.load import load
from dotproxy.errors import ConfigError
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
        server.spec = f"tls://127.0.0.1:{port.getHost().port}#dot.test"
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
    proxy: Any = build(load(options, {}).config, reactor)
    proxy.options = options
    proxy.reread = lambda: load(options, {}).config
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
    With every upstream down there is what is stale, or nothing.
    """
    upstream = running.forwarder.asking.roster.asked[0]
    upstream.tier = 2
    assert await get(running, "/readyz") == (503, "not ready: every upstream is down\n")
    upstream.tier = 0
    await ask(running)
    upstream.tier = 2
    assert (await get(running, "/readyz"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_commands(running, capsys):
    """
    Each does what it says, and says what it did.
    """
    await ask(running)
    code, text = await tell(running, capsys, "status")
    assert (code, "ready" in text, "dot.test" in text) == (0, True, True)
    assert json.loads((await tell(running, capsys, "status", "--json"))[1])["ready"]
    assert (await tell(running, capsys, "cache", "stats"))[1].startswith("cache: 1 answer, ")
    assert await tell(running, capsys, "cache", "flush", "nothing.test") == (0, "0 answers forgotten\n")
    assert await tell(running, capsys, "cache", "flush", "test", "--subtree") == (0, "1 answer forgotten\n")
    assert await tell(running, capsys, "cache", "flush") == (0, "0 answers forgotten\n")
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
    running.forwarder.flushed()
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


def test_nothing_to_read(running):
    """
    A proxy that was not made from anything cannot be made anew.
    """
    running.reread = None
    with pytest.raises(ConfigError):
        running.reload()
