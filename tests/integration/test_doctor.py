"""
dotproxy probe and dotproxy query.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from dotproxy.cli import diagnostic_commands
from dotproxy.cli.probe import Prober, probe_all
from dotproxy.cli.query import CannotAsk
from dotproxy.cli.query import query as ask
from dotproxy.config.load import load
from tests.integration.probed import everything, probed, silent
from tests.integration.servers import Unbound


async def probed_here(ca_file: Path, port: int, *, as_json: bool = False, idle: float = 0.0) -> tuple[int, str]:
    """
    The same in this process.
    """
    config = load({"upstream": [f"tls://127.0.0.1:{port}#dot.test"], "ca_file": [str(ca_file)]}, {}).config
    lines: list[str] = []
    prober = Prober(config, reactor, "lab.example", idle)
    good = await probe_all(prober, config.upstream, lines.append, as_json=as_json)
    return (0 if good else 1), "\n".join(lines)


async def asked_here(ca_file: Path, port: int, name: str, rtype: str, *, sni: str = "dot.test") -> str:
    """
    A query in this process.
    """
    config = load({"upstream": [f"tls://127.0.0.1:{port}#{sni}"], "ca_file": [str(ca_file)]}, {}).config
    return await ask(reactor, config, config.upstream[0], name, rtype, dnssec=True)


def waited_for(ca_file: Path, port: int) -> tuple[int, str]:
    """
    For a fixture.
    """
    return pytest_twisted.blockon(Deferred.fromCoroutine(probed_here(ca_file, port)))


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """
    What is said of each server.
    """
    return {label: (code, text) for label, code, text in everything(tmp_path_factory.mktemp("probed"), waited_for)}


@pytest.mark.parametrize("label", ["Unbound", "Nsd", "Bind", "KnotResolver", "Dnsdist"])
def test_probe_accepts_good_servers(label, said):
    """
    Each can be used, and a pin is shown.
    """
    code, text = said[label]
    assert code == 0, text
    for part in ("verified as dot.test", "TLSv1.", "?pin-sha256=", "answers       NOERROR", "first query", "days left"):
        assert part in text


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("expired", "the certificate has expired"),
        ("for another name", "the certificate is for other.test, not for dot.test"),
        ("self-signed", "the certificate is self-signed"),
        ("TLS 1.1 only", "tls: "),
        ("silent", "tls: the handshake took more than 2 s"),
    ],
)
def test_probe_refuses_bad_servers(label, why, said):
    """
    None is asked anything; it is said why it cannot be used.
    """
    code, text = said[label]
    assert code == 1
    assert why in text
    assert "answers  " not in text
    assert "verified as" not in text


def test_probe_names_the_old_tls_version(said):
    """
    What it speaks is shown.
    """
    assert "TLSv1.1" in said["TLS 1.1 only"][1]


def test_unverified_server_gets_no_query(serve, authority, ca_file):
    """
    The server of another name has no question in its log.
    """
    server = serve(Unbound, certificate=authority.issue(["other.test"]))
    assert probed(ca_file, server.port)[0] == 1
    assert server.questions == []


@pytest_twisted.ensureDeferred
async def test_probe_reports_json_and_idle_timeout(serve, ca_file):
    """
    For programs; and how long an idle connection lives.
    """
    server = serve(Unbound, idle_timeout=1)
    code, text = await probed_here(ca_file, server.port, as_json=True, idle=5.0)
    (report,) = json.loads(text)
    assert (code, report["is_good"], report["rcode"], report["is_resumed"]) == (0, True, "NOERROR", True)
    assert 0.5 < report["closed_after_s"] < 4
    assert "does not close when idle for 0.1 s" in (await probed_here(ca_file, serve(Unbound).port, idle=0.1))[1]
    with silent() as port:
        code, text = probed(ca_file, port, "--json")
    assert (code, json.loads(text)[0]["is_good"]) == (1, False)


def query(ca_file: Path, *words: str) -> tuple[int, str]:
    """
    dotproxy query.
    """
    command = [sys.executable, "-m", "dotproxy", "query", *words, "--ca-file", str(ca_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest_twisted.ensureDeferred
async def test_query_prints_a_response_or_one_error(serve, ca_file):
    """
    An answer, and who gave it; or one line that says why there is none.
    """
    server = serve(Unbound)
    at = f"@127.0.0.1:{server.port}#dot.test"
    code, text = query(ca_file, "www.lab.example", "AAAA", at)
    assert (code, "2001:db8::1" in text, "verified as dot.test" in text) == (0, True, True)
    assert "192.0.2.1" in query(ca_file, "www.lab.example", at)[1]
    assert query(ca_file, "www.lab.example", "NONSENSE", at)[0] == 1
    assert "is for" in query(ca_file, "www.lab.example", f"@127.0.0.1:{server.port}#other.test")[1]
    assert query(ca_file, "a", "A", "b", at)[0] == 2
    assert query(ca_file, "a", "@nonsense:")[0] == 2
    assert len(server.questions) == 2
    assert "192.0.2.1" in await asked_here(ca_file, server.port, "www.lab.example", "A")
    for wrong in (("www.lab.example", "NONSENSE", "dot.test"), ("www.lab.example", "A", "other.test")):
        with pytest.raises(CannotAsk):
            await asked_here(ca_file, server.port, *wrong[:2], sni=wrong[2])


def test_invalid_arguments_exit_with_2(capsys, ca_file):
    """
    What is not understood is said, with exit code 2.
    """
    assert diagnostic_commands.probe(["nonsense:"]) == 2
    assert diagnostic_commands.query(["a", "@nonsense:"]) == 2
    assert "is not an upstream" in capsys.readouterr().err
    for words in (["a", "b", "c"], []):
        with pytest.raises(SystemExit):
            diagnostic_commands.query(words)
    capsys.readouterr()
